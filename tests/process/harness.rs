//! Nodes as processes: their directories, configurations, ports, signals and logs.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use xcron::clock::{monotonic, Clock};

use crate::api::Api;

/// Lines of each log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 60;
/// A node of an idle machine is ready within a fraction of this.
pub const READY_MAX: Duration = Duration::from_secs(30);
/// Small files, so that a snapshot is soon taken, and the log soon purged.
pub const SMALL: &str = "[raft]\nsnapshot_log_bytes = 1048576\n[storage]\nlog_segment_bytes = 1048576\n";

/// The server: the one that was built with these tests, or another one, a release build perhaps.
pub fn binary() -> PathBuf {
    std::env::var_os("XCRON_TEST_SERVER").map_or_else(|| env!("CARGO_BIN_EXE_xcron_server").into(), Into::into)
}

/// Puts a copy of a directory in the place of another one, with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).expect("it can be removed");
    }
    assert!(Command::new("cp").arg("-r").args([from, to]).status().expect("cp runs").success());
}

/// The wall clock, unix ms.
pub fn now_ms() -> u64 {
    Clock::system().now().0
}

pub async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Waits until `condition` holds; whether it did within `bound`.
pub async fn holds_within(bound: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let end = monotonic() + bound;
    loop {
        if condition().await {
            return true;
        }
        if monotonic() >= end {
            return false;
        }
        sleep_ms(20).await;
    }
}

/// As [`holds_within`], and panics where it does not.
#[track_caller]
pub fn eventually(
    what: &str,
    bound: Duration,
    condition: impl AsyncFnMut() -> bool,
) -> impl std::future::Future<Output = ()> {
    let (what, caller) = (what.to_owned(), std::panic::Location::caller());
    async move {
        assert!(holds_within(bound, condition).await, "{caller}: not within {bound:?}: {what}");
    }
}

/// A port that nobody listens on. Below the ports that the system gives to outgoing connections, so that none of those
/// takes it while its node is down.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).into()) % COUNT;
        let port = (FIRST + offset) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// The three ports of a node.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub http: u16,
    pub peer: u16,
    pub monitor: u16,
}

impl Ports {
    pub fn free() -> Ports {
        Ports { http: free_port(), peer: free_port(), monitor: free_port() }
    }
}

/// Where a node runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address that it listens on.
    pub host: String,
    /// The network namespace; none: that of the tests.
    pub namespace: Option<String>,
}

impl Place {
    /// Here, on loopback.
    pub fn here() -> Place {
        Place { host: "127.0.0.1".to_owned(), namespace: None }
    }
}

/// A node: its configuration file and, while it runs, its process.
pub struct Node {
    pub name: String,
    pub place: Place,
    pub ports: Ports,
    pub conf: PathBuf,
    pub data: PathBuf,
    pub log: PathBuf,
    /// For the process's environment.
    pub env: Vec<(String, String)>,
    /// What starts it, if not the shell of the tests: a program and its arguments, which becomes the server.
    pub under: Vec<String>,
    child: Option<Child>,
}

impl Node {
    /// A node whose files are under `base`, and which stores in `data`. `more` is added to its configuration.
    pub fn new(
        base: &Path,
        name: &str,
        data: &Path,
        (place, ports): (Place, Ports),
        peers: &[String],
        more: &str,
    ) -> Node {
        let conf = base.join(format!("{name}.toml"));
        let peers: Vec<String> = peers.iter().map(|peer| format!("{peer:?}")).collect();
        let text = format!(
            "bind = {:?}\nhttp_port = {}\npeer_port = {}\nmonitor_port = {}\nraft_dir = {:?}\n{}\n[peer]\npeer_hosts = [{}]\n{more}\n",
            place.host,
            ports.http,
            ports.peer,
            ports.monitor,
            data.display().to_string(),
            "env = \"prod\"",
            peers.join(", ")
        );
        std::fs::write(&conf, text).expect("write the configuration");
        let log = base.join(format!("{name}.log"));
        Node {
            name: name.to_owned(),
            place,
            ports,
            conf,
            data: data.to_owned(),
            log,
            env: Vec::new(),
            under: Vec::new(),
            child: None,
        }
    }

    /// Starts the process.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("open the log");
        let error = log.try_clone().expect("share the log");
        let mut command = Command::new(binary());
        if let Some(namespace) = &self.place.namespace {
            // It becomes the server: the process stays the same.
            command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{namespace}")).arg(binary());
        }
        if let [program, arguments @ ..] = self.under.as_slice() {
            command = Command::new(program);
            command.args(arguments).arg(binary());
        }
        command.arg("--conf").arg(&self.conf).stdin(Stdio::null()).stdout(log).stderr(error);
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        self.child = Some(command.spawn().expect("start the server"));
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        send(name, self.pid());
    }

    /// Whether it has come so far that it receives this signal; one that it has the system ignore it does not.
    pub fn receives(&self, signal: i32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
        caught & (1 << (signal - 1)) != 0
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended by itself.
            let _ = child.kill();
            child.wait().expect("wait for the process");
        }
    }

    /// Waits for the end of the process.
    pub async fn exit(&mut self, bound: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let mut status = None;
        let ended = holds_within(bound, async || {
            status = child.try_wait().expect("ask for the process");
            status.is_some()
        })
        .await;
        if !ended {
            self.child = Some(child);
            panic!("{} has not ended within {bound:?}", self.name);
        }
        status.expect("it has ended")
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("ask for the process").is_some())
    }

    /// SIGTERM, and the exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.exit(Duration::from_secs(30)).await.code()
    }

    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether `/readyz` says so.
    pub async fn is_ready(&self, api: &Api) -> bool {
        api.status(self.ports.monitor, "/readyz").await == Some(200)
    }

    /// Whether its log still begins with its first entry.
    pub fn log_has_first(&self) -> bool {
        let mut files = std::fs::read_dir(self.data.join("log")).expect("a log");
        files.any(|file| file.expect("an entry").file_name().to_string_lossy().starts_with("0000000001."))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let log = self.log_text();
        if std::thread::panicking() {
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
            eprintln!("---- the log of {} (the last {LOG_LINES_SHOWN} lines) ----", self.name);
            for line in &lines[from..] {
                eprintln!("{line}");
            }
        } else if let Some(line) = panic_line(&log) {
            panic!("{} has panicked: {line}", self.name);
        }
    }
}

/// The line of a panic in a node's log; none: there is none that counts. sled panics as it opens a store of which a power cut
/// has left a part: the store is rebuilt then, and the next line says so.
pub fn panic_line(log: &str) -> Option<&str> {
    let lines: Vec<&str> = log.lines().collect();
    let is_got_over = |line: &&str| line.contains("the store is in doubt and is rebuilt");
    let counts = |at: &usize| {
        let line = lines[*at];
        line.to_lowercase().contains("panic") && !is_got_over(&line) && !lines.get(at + 1).is_some_and(is_got_over)
    };
    (0..lines.len()).find(counts).map(|at| lines[at])
}

/// Sends a signal to a process by the system's `kill`.
pub fn send(signal: &str, pid: u32) {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().expect("run kill");
    assert!(status.success(), "kill -{signal} {pid}");
}

/// The nodes of a test, in a directory that goes with them.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub api: Api,
    dir: TempDir,
}

impl Cluster {
    /// `count` nodes that do not run yet.
    pub fn new(count: usize, more: &str) -> Cluster {
        let dir = TempDir::new().expect("make a directory");
        let data: Vec<PathBuf> = (1..=count).map(|n| dir.path().join(format!("n{n}"))).collect();
        Self::with_data(dir, &data, more)
    }

    /// Nodes that store in these directories.
    pub fn with_data(dir: TempDir, data: &[PathBuf], more: &str) -> Cluster {
        Self::in_places(dir, &data.iter().map(|data| (Place::here(), data.clone())).collect::<Vec<_>>(), more)
    }

    /// Nodes that run there and store in these directories.
    pub fn in_places(dir: TempDir, places: &[(Place, PathBuf)], more: &str) -> Cluster {
        let ports: Vec<Ports> = places.iter().map(|_| Ports::free()).collect();
        let mut peers: Vec<String> =
            places.iter().zip(&ports).map(|((place, _), ports)| format!("{}:{}", place.host, ports.peer)).collect();
        if peers.len() < 2 {
            peers.clear();
        }
        let node = |(at, ((place, data), ports)): (usize, (&(Place, PathBuf), &Ports))| {
            Node::new(dir.path(), &format!("n{}", at + 1), data, (place.clone(), *ports), &peers, more)
        };
        let nodes: Vec<Node> = places.iter().zip(&ports).enumerate().map(node).collect();
        let hosts = nodes.iter().flat_map(|node| {
            let Ports { http, monitor, .. } = node.ports;
            [http, monitor].map(|port| (port, node.place.host.clone()))
        });
        Cluster { api: Api::new(hosts.collect()), nodes, dir }
    }

    /// `count` nodes that are ready. Where another process takes one of their ports first, it tries others.
    pub async fn start(count: usize, more: &str) -> Cluster {
        for _ in 0..5 {
            let mut cluster = Self::new(count, more);
            cluster.nodes.iter_mut().for_each(Node::spawn);
            if cluster.all_ready(READY_MAX).await {
                return cluster;
            }
            assert!(
                cluster.nodes.iter().any(|node| node.log_text().contains("cannot listen on")),
                "the nodes are not ready within {READY_MAX:?}"
            );
        }
        panic!("five times in a row the ports were taken by others");
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until all nodes that run are ready; whether they were in time.
    pub async fn all_ready(&self, bound: Duration) -> bool {
        holds_within(bound, async || {
            let running = self.nodes.iter().filter(|node| node.runs());
            let ready = futures::future::join_all(running.map(|node| node.is_ready(&self.api))).await;
            ready.into_iter().all(|ready| ready)
        })
        .await
    }

    /// The HTTP ports of all nodes.
    pub fn http_ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.ports.http).collect()
    }

    /// What a node says of the cluster.
    pub async fn view(&self, at: usize) -> Option<Value> {
        Some(self.api.get(self.nodes[at].ports.http, "/xcron/cluster").await.ok()?.1["data"].clone())
    }

    /// The value of a metric of a node; none: it does not tell.
    pub async fn metric(&self, at: usize, name: &str) -> Option<f64> {
        let text = self.api.text(self.nodes[at].ports.monitor, "/metrics").await.ok()?.1;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Which node leads, and its term, once a node that runs says that a running one does.
    pub async fn leader(&self) -> (usize, u64) {
        let mut found = None;
        eventually("there is a leader", READY_MAX, async || {
            for at in (0..self.nodes.len()).filter(|at| self.nodes[*at].runs()) {
                let Some(view) = self.view(at).await else { continue };
                let Some(id) = view["leader"].as_u64() else { continue };
                let listed = view["nodes"].as_array().into_iter().flatten().find(|node| node["id"] == id);
                let Some(address) = listed.and_then(|node| node["peer_address"].as_str()) else { continue };
                let of = |node: &Node| address.ends_with(&format!(":{}", node.ports.peer));
                let leader = self.nodes.iter().position(of).expect("the leader is one of the nodes");
                if self.nodes[leader].runs() {
                    found = view["term"].as_u64().map(|term| (leader, term));
                    return found.is_some();
                }
            }
            false
        })
        .await;
        found.expect("it was found")
    }

    /// Which node leads, as this one knows it now.
    pub async fn leader_as_seen_by(&self, at: usize) -> Option<usize> {
        let view = self.view(at).await?;
        let leads = view["nodes"].as_array()?.iter().find(|node| node["role"] == "leader")?;
        let address = leads["peer_address"].as_str()?;
        self.nodes.iter().position(|node| address.ends_with(&format!(":{}", node.ports.peer)))
    }

    /// Waits until every node is reached and has applied all that the leader has.
    pub async fn caught_up(&self, bound: Duration) {
        eventually("every node has applied everything", bound, async || {
            let Some(view) = self.view(0).await else { return false };
            let nodes = view["nodes"].as_array().cloned().unwrap_or_default();
            nodes.len() == self.nodes.len() && nodes.iter().all(|node| node["lag"] == 0)
        })
        .await;
    }
}

/// A tool is there.
pub fn has_tool(name: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(name).exists())
}

/// Runs a command to its end; its output where it fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {arguments:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

/// An empty file of this size, no disk used.
pub fn sparse_file(path: &Path, bytes: u64) {
    File::create(path).and_then(|file| file.set_len(bytes)).expect("make a sparse file");
}
