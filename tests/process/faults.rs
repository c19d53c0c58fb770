//! Power cuts and sick disks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::api::{code, once, Answer};
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

/// How much is free on the file system of `path`, in bytes.
fn free_bytes(path: &Path) -> u64 {
    let fs = rustix::fs::statvfs(path).expect("ask the file system");
    fs.f_bavail * fs.f_frsize
}

/// A node on a disk of which `room` bytes are free, and a file that takes the rest.
async fn nearly_full(reserve_mb: u64, room: u64) -> Option<(Disk, PathBuf, Cluster)> {
    let dir = TempDir::new().expect("make a directory");
    let disk = Disk::new(dir.path(), "disk", 160 * MIB)?;
    let more = format!("[storage]\nlog_segment_bytes = 1048576\nreserve_mb = {reserve_mb}\n");
    let data = [disk.mount.join("data")];
    let mut cluster = Cluster::with_data(dir, &data, &more);
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let ballast = disk.mount.join("ballast");
    let bytes = free_bytes(&disk.mount).checked_sub(room).expect("more is free than is to be left");
    std::fs::write(&ballast, vec![1; bytes as usize]).expect("write the ballast");
    Some((disk, ballast, cluster))
}

/// Creates large tasks until one is refused: those that were acknowledged, and the answer to the other.
async fn fill(cluster: &Cluster, sink: &Sink) -> (Vec<String>, Answer) {
    let filler = "x".repeat(50_000);
    let mut kept = Vec::new();
    for n in 0..4000 {
        let id = format!("fill-{n}");
        let mut task = once(&id, now_ms() + 3_600_000, &sink.url);
        task["callback"]["body"] = json!({ "filler": filler });
        let answer = cluster.api.create(cluster.nodes[0].ports.http, &task).await;
        if code(&answer) != Some(0) {
            println!("{n} tasks of 50 kB were taken, then: {:.200}", format!("{answer:?}"));
            return (kept, answer);
        }
        kept.push(id);
    }
    panic!("the disk is never full");
}

/// After space was freed and the node started again, what was acknowledged is there, and the node works.
async fn nothing_is_lost(cluster: &mut Cluster, sink: &Sink, kept: &[String]) {
    cluster.nodes[0].kill();
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let missing = all_there(cluster, 0, kept).await;
    assert!(missing.is_empty(), "{} of {} are gone: {missing:?}", missing.len(), kept.len());
    let http = cluster.nodes[0].ports.http;
    let after = cluster.api.create(http, &once("after", now_ms() + 300, &sink.url)).await;
    assert_eq!(code(&after), Some(0), "{after:?}");
    eventually("it fires", Duration::from_secs(10), async || !sink.of("after").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_nearly_full_refuses_tasks_and_still_fires() {
    let Some((disk, ballast, mut cluster)) = nearly_full(32, 48 * MIB).await else { return };
    let sink = Sink::start().await;
    let http = cluster.nodes[0].ports.http;
    let due = now_ms() + 10_000;
    assert_eq!(code(&cluster.api.create(http, &once("waits", due, &sink.url)).await), Some(0));
    let (kept, refusal) = fill(&cluster, &sink).await;
    assert!(!kept.is_empty());
    let (status, answer) = refusal.expect("an answer");
    assert_eq!((status, &answer["code"]), (507, &json!(1071)), "{answer}");
    assert!(!cluster.nodes[0].is_ready(&cluster.api).await);
    assert!(cluster.nodes[0].log_text().contains("in reserve"), "the log does not tell");
    assert!(now_ms() < due, "it took too long to fill the disk");
    eventually("what was taken fires", Duration::from_secs(15), async || !sink.of("waits").is_empty()).await;
    eventually("its outcome is recorded", Duration::from_secs(5), async || {
        let task = cluster.api.query_local(http, "waits").await;
        task.is_ok_and(|(_, body)| body["data"]["run_count"] == 1)
    })
    .await;
    let deleted = cluster.api.delete(http, &kept[0]).await;
    assert_eq!(code(&deleted), Some(0), "what frees space is taken: {deleted:?}");
    std::fs::remove_file(&ballast).unwrap();
    eventually("it takes tasks again by itself", Duration::from_secs(10), async || {
        code(&cluster.api.create(http, &once("again", now_ms() + 3_600_000, &sink.url)).await) == Some(0)
    })
    .await;
    assert_eq!(sink.of("waits").len(), 1, "it fired once");
    nothing_is_lost(&mut cluster, &sink, &kept[1..]).await;
    drop((cluster, disk));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_any_room_is_told_and_loses_nothing() {
    let Some((disk, ballast, mut cluster)) = nearly_full(1, 12 * MIB).await else { return };
    let sink = Sink::start().await;
    // The reserve is eaten up by another's file, before the node looks again.
    let (mut kept, _) = fill(&cluster, &sink).await;
    assert!(!kept.is_empty());
    std::fs::remove_file(&ballast).unwrap();
    std::fs::write(&ballast, vec![1; (free_bytes(&disk.mount) - 3 * MIB) as usize]).unwrap();
    sleep_ms(300).await;
    let mut load = Load::start(&cluster.api, &cluster.http_ports(), &sink, Shape::default());
    sleep_ms(500).await;
    let greedy = disk.mount.join("greedy");
    // As much as there is, until there is none.
    let _ = std::fs::write(&greedy, vec![1; 8 << 20]);
    sleep_ms(3000).await;
    std::fs::remove_file(&greedy).unwrap();
    std::fs::remove_file(&ballast).unwrap();
    if cluster.nodes[0].has_ended() {
        // It may end, if it says why.
        let status = cluster.nodes[0].exit(Duration::from_secs(1)).await;
        assert_eq!(status.code(), Some(1));
    }
    let log = cluster.nodes[0].log_text();
    let told = ["No space left", "full", "in reserve"].iter().any(|word| log.contains(word));
    assert!(told, "the log does not tell: {log}");
    load.stop().await;
    kept.extend(load.standing());
    nothing_is_lost(&mut cluster, &sink, &kept).await;
    // The first checkpoint that found no room may have ended the node before the load began.
    load.settle(SETTLE_MAX).await.check_what_there_was("a full disk");
    drop((cluster, disk));
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
    std::fs::write(&when, "").expect("begin to fail");
    let status = cluster.nodes[0].exit(Duration::from_secs(20)).await;
    let log = cluster.nodes[0].log_text();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("Input/output error") || log.contains("os error 5"), "the log does not tell: {log}");
    let last = log.lines().last().unwrap_or_default();
    println!("{part}: it ended with {last:?}");
    std::fs::remove_file(&when).expect("end failing");
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
