//! Power cuts and sick disks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::api::{code, once};
use crate::cluster::SETTLE_MAX;
use crate::harness::{eventually, has_tool, now_ms, run, sleep_ms, sparse_file, Cluster, Node, READY_MAX};
use crate::load::{Load, Report, Shape};
use crate::sink::Sink;

const MIB: u64 = 1 << 20;

/// An ext4 file system of its own, in a file.
pub struct Disk {
    image: PathBuf,
    pub mount: PathBuf,
    mounted: bool,
}

impl Disk {
    /// One of `bytes`, mounted; none where this machine does not let us.
    pub fn new(base: &Path, name: &str, bytes: u64) -> Option<Disk> {
        let (image, mount) = (base.join(format!("{name}.img")), base.join(name));
        let tools = ["python3", "mkfs.ext4", "mount", "umount"];
        if let Some(tool) = tools.iter().find(|tool| !has_tool(tool)) {
            eprintln!("skipped: needs root and loop mounts ({tool} is missing)");
            return None;
        }
        sparse_file(&image, bytes);
        std::fs::create_dir(&mount).expect("make a mount point");
        let mut disk = Disk { image, mount, mounted: false };
        let made = run("mkfs.ext4", &["-q", "-F", &disk.image.display().to_string()]);
        match made.and_then(|()| disk.attach()) {
            Ok(()) => Some(disk),
            Err(error) => {
                eprintln!("skipped: needs root and loop mounts ({error})");
                None
            }
        }
    }

    fn attach(&mut self) -> Result<(), String> {
        run("mount", &["-o", "loop", &self.image.display().to_string(), &self.mount.display().to_string()])?;
        self.mounted = true;
        Ok(())
    }

    /// From now on nothing reaches the disk, and what has not yet reached it is gone: `EXT4_IOC_SHUTDOWN` without a
    /// flush of the journal.
    pub fn cut_power(&self) {
        let cut = "import fcntl, os, struct, sys\n\
                   fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
        run("python3", &["-c", cut, &self.mount.display().to_string()]).expect("cut the power");
    }

    /// Unmounts and mounts again, as a machine does that comes back.
    pub async fn again(&mut self) {
        let mount = self.mount.display().to_string();
        eventually("it can be unmounted", Duration::from_secs(10), async || run("umount", &[&mount]).is_ok()).await;
        self.mounted = false;
        self.attach().expect("mount again");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily, since a process that has not ended yet may hold it.
            let _ = run("umount", &["-l", &self.mount.display().to_string()]);
        }
    }
}

/// Each of these exists on this node.
async fn all_there(cluster: &Cluster, at: usize, tasks: &[String]) -> Vec<String> {
    let mut missing = Vec::new();
    for id in tasks {
        if code(&cluster.api.query(cluster.nodes[at].ports.http, id).await) != Some(0) {
            missing.push(id.clone());
        }
    }
    missing
}

/// Nodes whose disks lose power together, so many times, under load. None where this machine does not let us.
pub async fn power_cuts(nodes: usize, rounds: usize) -> Option<Report> {
    let dir = TempDir::new().expect("make a directory");
    let mut disks = Vec::new();
    for at in 1..=nodes {
        disks.push(Disk::new(dir.path(), &format!("disk{at}"), 512 * MIB)?);
    }
    let data: Vec<PathBuf> = disks.iter().map(|disk| disk.mount.join("data")).collect();
    let more = "[storage]\nlog_segment_bytes = 8388608\ncheckpoint_interval_ms = 200\n";
    let mut cluster = Cluster::with_data(dir, &data, more);
    let sink = Sink::start().await;
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let mut load = Load::start(&cluster.api, &cluster.http_ports(), &sink, Shape::default());
    for round in 0..rounds {
        sleep_ms(900 + 173 * (round as u64 % 7)).await;
        disks.iter().for_each(Disk::cut_power);
        cluster.nodes.iter_mut().for_each(Node::kill);
        for disk in &mut disks {
            disk.again().await;
        }
        cluster.nodes.iter_mut().for_each(Node::spawn);
        assert!(cluster.all_ready(READY_MAX).await, "round {round}");
    }
    sleep_ms(300).await;
    let report = load.settle(SETTLE_MAX).await;
    let missing = all_there(&cluster, 0, &load.standing()).await;
    // The nodes end before their disks go.
    cluster.nodes.iter_mut().for_each(Node::kill);
    drop(cluster);
    drop(disks);
    assert!(missing.is_empty(), "{} tasks are gone: {:?}", missing.len(), &missing[..missing.len().min(5)]);
    Some(report)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_power_cuts() {
    if let Some(report) = power_cuts(1, 3).await {
        report.check("three power cuts of one node");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let Some(disk) = Disk::new(dir.path(), "disk", 48 * MIB) else { return };
    let ballast = disk.mount.join("ballast");
    let more = "[storage]\nlog_segment_bytes = 1048576\n";
    let data = [disk.mount.join("data")];
    let mut cluster = Cluster::with_data(dir, &data, more);
    let sink = Sink::start().await;
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let http = cluster.nodes[0].ports.http;
    std::fs::write(&ballast, vec![1; 20 << 20]).unwrap();
    let filler = "x".repeat(50_000);
    let mut kept = Vec::new();
    let mut refusal = None;
    for n in 0..2000 {
        let id = format!("fill-{n}");
        let mut task = once(&id, now_ms() + 3_600_000, &sink.url);
        task["callback"]["body"] = json!({ "filler": filler });
        let answer = cluster.api.create(http, &task).await;
        match code(&answer) {
            Some(0) => kept.push(id),
            other => {
                refusal = Some((other, answer));
                break;
            }
        }
    }
    let (told, answer) = refusal.expect("the disk is full at some time");
    println!("{} tasks of 50 kB were taken, then: {:.300}", kept.len(), format!("{answer:?}"));
    match told {
        Some(1071) => {
            assert_eq!(answer.unwrap().0, 507);
        }
        Some(1050 | 1051) | None => {
            // It went away: then it says so, and ends.
            let status = cluster.nodes[0].exit(Duration::from_secs(20)).await;
            assert_eq!(status.code(), Some(1));
        }
        Some(_) => panic!("{answer:?}"),
    }
    let log = cluster.nodes[0].log_text();
    assert!(log.contains("full") || log.contains("No space left"), "the log does not tell: {log}");
    cluster.nodes[0].kill();
    std::fs::remove_file(&ballast).unwrap();
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let missing = all_there(&cluster, 0, &kept).await;
    assert!(missing.is_empty(), "{} of {} are gone: {missing:?}", missing.len(), kept.len());
    let after = cluster.api.create(http, &once("after", now_ms() + 300, &sink.url)).await;
    assert_eq!(code(&after), Some(0), "{after:?}");
    eventually("it fires", Duration::from_secs(10), async || !sink.of("after").is_empty()).await;
    cluster.nodes[0].kill();
    drop(cluster);
    drop(disk);
}

/// The library whose fsync fails; none where there is no compiler.
fn fault_library(dir: &Path) -> Option<PathBuf> {
    let library = dir.join("libfaultio.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/faultio.c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    if gcc.status().is_ok_and(|status| status.success()) {
        return Some(library);
    }
    eprintln!("skipped: needs gcc");
    None
}

async fn a_failing_sync(part: &str) {
    let mut cluster = Cluster::new(1, "");
    let Some(library) = fault_library(cluster.path()) else { return };
    let when = cluster.path().join("fail-now");
    let data = cluster.nodes[0].data.display().to_string();
    cluster.nodes[0].env = vec![
        ("LD_PRELOAD".to_owned(), library.display().to_string()),
        ("FAULTIO_PATH".to_owned(), format!("{data}/{part}")),
        ("FAULTIO_WHEN".to_owned(), when.display().to_string()),
    ];
    let sink = Sink::start().await;
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let mut load = Load::start(&cluster.api, &cluster.http_ports(), &sink, Shape::default());
    sleep_ms(1500).await;
    std::fs::write(&when, "").unwrap();
    let status = cluster.nodes[0].exit(Duration::from_secs(20)).await;
    let log = cluster.nodes[0].log_text();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("Input/output error") || log.contains("os error 5"), "the log does not tell: {log}");
    let last = log.lines().last().unwrap_or_default();
    println!("{part}: it ended with {last:?}");
    std::fs::remove_file(&when).unwrap();
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    sleep_ms(500).await;
    load.settle(SETTLE_MAX).await.check(part);
    let missing = all_there(&cluster, 0, &load.standing()).await;
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_sync_of_the_log_stops_the_node_and_loses_nothing() {
    a_failing_sync("log").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_sync_of_the_store_stops_the_node_and_loses_nothing() {
    a_failing_sync("state-").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_failing_disk_stops_and_the_others_go_on() {
    let mut cluster = Cluster::new(3, "");
    let Some(library) = fault_library(cluster.path()) else { return };
    let sink = Sink::start().await;
    let base = cluster.path().to_owned();
    let when = |node: &Node| base.join(format!("fail-{}", node.name));
    for node in &mut cluster.nodes {
        node.env = vec![
            ("LD_PRELOAD".to_owned(), library.display().to_string()),
            ("FAULTIO_PATH".to_owned(), node.data.display().to_string()),
            ("FAULTIO_WHEN".to_owned(), when(node).display().to_string()),
        ];
        node.spawn();
    }
    assert!(cluster.all_ready(READY_MAX).await);
    let mut load = Load::start(&cluster.api, &cluster.http_ports(), &sink, Shape::default());
    sleep_ms(2000).await;
    let (leader, term) = cluster.leader().await;
    let failed = now_ms();
    std::fs::write(when(&cluster.nodes[leader]), "").unwrap();
    let status = cluster.nodes[leader].exit(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(1), "{}", cluster.nodes[leader].log_text());
    let first = crate::cluster::first_fire_after(&sink, term).await;
    println!("the first fire of the new leader came {} ms after the disk failed", first.at_ms - failed);
    sleep_ms(1000).await;
    std::fs::remove_file(when(&cluster.nodes[leader])).unwrap();
    cluster.nodes[leader].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    load.settle(SETTLE_MAX).await.check("a failing disk of the leader");
    cluster.caught_up(Duration::from_secs(30)).await;
}
