//! A log that nobody takes, and signals that mean nothing: neither ends a node nor holds it up.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::api::{code, once};
use crate::harness::{binary, eventually, has_tool, now_ms, send, Cluster, READY_MAX};
use crate::sink::Sink;
use crate::skip::skipped;

/// A node that is ready, as a process whose standard error is this.
async fn start(cluster: &Cluster, level: &str, error: Stdio) -> Child {
    let mut command = Command::new(binary());
    command.arg("--conf").arg(&cluster.nodes[0].conf).env("RUST_LOG", level);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(error).spawn().expect("start the server");
    let node = &cluster.nodes[0];
    eventually("it is ready", READY_MAX, async || node.is_ready(&cluster.api).await).await;
    child
}

/// Stops it; the exit code.
async fn stop(mut child: Child) -> Option<i32> {
    send("TERM", child.id());
    let mut status = None;
    eventually("it ends", Duration::from_secs(20), async || {
        status = child.try_wait().expect("ask for the process");
        status.is_some()
    })
    .await;
    status.and_then(|status| status.code())
}

async fn dropped(cluster: &Cluster) -> f64 {
    let text = cluster.api.text(cluster.nodes[0].ports.monitor, "/metrics").await.expect("metrics").1;
    let line = text.lines().find(|line| line.starts_with("xcron_log_lines_dropped_total ")).expect("the counter");
    line.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// It takes calls and fires.
async fn works(cluster: &Cluster, sink: &Sink, id: &str) {
    let answer = cluster.api.create(cluster.nodes[0].ports.http, &once(id, now_ms() + 100, &sink.url)).await;
    assert_eq!(code(&answer), Some(0), "{answer:?}");
    eventually("it fires", Duration::from_secs(10), async || !sink.of(id).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_on_whose_log_cannot_be_written() {
    let sink = Sink::start().await;
    for full in [true, false] {
        let cluster = Cluster::new(1, "");
        let error =
            if full { Stdio::from(File::options().write(true).open("/dev/full").unwrap()) } else { Stdio::piped() };
        let mut child = start(&cluster, "debug", error).await;
        // The reader of the pipe goes away.
        drop(child.stderr.take());
        works(&cluster, &sink, &format!("full-{full}")).await;
        send("HUP", child.id());
        eventually("lines are dropped", Duration::from_secs(10), async || dropped(&cluster).await > 0.0).await;
        assert_eq!(stop(child).await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_on_whose_log_nobody_reads() {
    let (cluster, sink) = (Cluster::new(1, ""), Sink::start().await);
    let child = start(&cluster, "trace", Stdio::piped()).await;
    // A pipe holds 64 KiB as a rule, and what waits behind it is bounded.
    eventually("the pipe is full and lines are dropped", Duration::from_secs(30), async || {
        works(&cluster, &sink, &format!("unread-{}", now_ms())).await;
        dropped(&cluster).await > 0.0
    })
    .await;
    works(&cluster, &sink, "after").await;
    assert_eq!(stop(child).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_mean_nothing_do_not_end_a_node() {
    let mut cluster = Cluster::start(1, "").await;
    let sink = Sink::start().await;
    // A line about one of these could raise the next, where the log is a pipe without a reader or a file at its limit.
    for (signal, number) in [("PIPE", libc::SIGPIPE), ("XFSZ", libc::SIGXFSZ)] {
        cluster.nodes[0].signal(signal);
        assert_eq!(cluster.nodes[0].receives(number), signal == "XFSZ", "SIG{signal}");
    }
    for signal in ["USR1", "USR2", "ALRM", "XCPU", "IO", "PROF", "VTALRM", "HUP"] {
        cluster.nodes[0].signal(signal);
        let told = format!("SIG{signal}");
        eventually(&told, Duration::from_secs(10), async || cluster.nodes[0].log_text().contains(&told)).await;
    }
    let log = cluster.nodes[0].log_text();
    assert!(log.contains("SIGHUP: the configuration is the same"));
    assert!(!log.contains("SIGPIPE") && !log.contains("SIGXFSZ"), "{log}");
    let conf = cluster.nodes[0].conf.clone();
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("{text}[limits]\ntasks_max = 5\n")).unwrap();
    cluster.nodes[0].signal("HUP");
    eventually("the change is told", Duration::from_secs(10), async || {
        let log = cluster.nodes[0].log_text();
        log.contains("SIGHUP: the configuration has changed") && log.contains("\"sections\":\"limits\"")
    })
    .await;
    std::fs::write(&conf, "http_port = \"x\"\n").unwrap();
    cluster.nodes[0].signal("HUP");
    let wrong = "SIGHUP: the configuration is wrong";
    eventually(wrong, Duration::from_secs(10), async || cluster.nodes[0].log_text().contains(wrong)).await;
    works(&cluster, &sink, "alive").await;
    assert_eq!(cluster.nodes[0].stop().await, Some(0));
    assert!(cluster.nodes[0].log_text().contains("\"stopped\""), "the last line is there");
}

fn code_of(shell: &str, dir: &Path) -> Option<i32> {
    let mut command = Command::new("bash");
    command.args(["-c", shell]).env("SERVER", binary()).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("run a shell").code()
}

#[test]
fn exit_codes_do_not_depend_on_who_reads() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("good.toml"), "").unwrap();
    std::fs::write(dir.path().join("bad.toml"), "http_port = 1.5\n").unwrap();
    let code = |shell: &str| code_of(shell, dir.path());
    assert_eq!(code("$SERVER --check -c good.toml | true; exit ${PIPESTATUS[0]}"), Some(0));
    assert_eq!(code("$SERVER --check -c good.toml >/dev/full"), Some(0));
    assert_eq!(code("$SERVER -c bad.toml 2>/dev/full"), Some(2));
    assert_eq!(code("$SERVER --check -c bad.toml 2>&1 | true; exit ${PIPESTATUS[0]}"), Some(2));
    assert_eq!(code("$SERVER --no-such-option 2>/dev/full"), Some(2));
    assert_eq!(code("$SERVER --version >/dev/full"), Some(0));
}

/// The limit is of threads of a user, and root has none: as root it is tried as another user.
#[test]
fn a_node_that_may_have_no_threads_says_so_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("good.toml"), "raft_dir = \"/nowhere\"\n").unwrap();
    if let Some(tool) = ["prlimit", "setpriv", "timeout"].into_iter().find(|tool| !has_tool(tool)) {
        skipped("prlimit", format!("{tool} is missing"));
        return;
    }
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let user = if root { "setpriv --reuid=60123 --clear-groups --inh-caps=-all " } else { "" };
    let shell = format!("timeout 20 {user}prlimit --nproc=2:2 $SERVER -c good.toml 2>said");
    let ended = code_of(&shell, dir.path());
    let said = std::fs::read_to_string(dir.path().join("said")).unwrap();
    assert_eq!(ended, Some(1), "{said}");
    assert!(said.contains("threads are needed") && !said.contains("panic"), "{said}");
}
