//! Nodes that lack one of the things that their work needs, while the disk as such looks well: a leader that does gives
//! way to a peer that does not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::api::{code, large, once};
use crate::harness::{eventually, has_tool, holds_within, now_ms, run, sleep_ms, Cluster, Node, READY_MAX};
use crate::machine::{Disk, Inner, Slot, MIB};
use crate::skip::skipped;
use crate::trial::turn;

/// By when another node leads: a fault is seen, a peer is asked, and the others elect.
const GIVES_WAY_MAX: Duration = Duration::from_secs(10);

/// A file system in memory for so many files.
struct FewFiles(PathBuf);

impl FewFiles {
    /// None where it cannot be mounted.
    fn new(mount: &Path, files: u32) -> Option<FewFiles> {
        std::fs::create_dir_all(mount).expect("make a mount point");
        let options = format!("size=300m,nr_inodes={files}");
        let mounted = match has_tool("mount") {
            true => run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &mount.display().to_string()]),
            false => Err("there is no mount".to_owned()),
        };
        match mounted {
            Ok(()) => Some(FewFiles(mount.to_owned())),
            Err(error) => {
                skipped("mounts", error);
                None
            }
        }
    }

    /// Makes files until there can be no more.
    fn use_up(&self) {
        let made = (0..10_000).take_while(|n| std::fs::write(self.0.join(format!("other-{n}")), "").is_ok()).count();
        assert!(made > 0 && made < 10_000, "{made} files were made");
    }

    /// Removes what [`FewFiles::use_up`] made.
    fn give_back(&self) {
        for entry in std::fs::read_dir(&self.0).expect("list the files") {
            let path = entry.expect("list the files").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("other-")) {
                std::fs::remove_file(path).expect("remove a file");
            }
        }
    }
}

impl Drop for FewFiles {
    fn drop(&mut self) {
        // Lazily, since a process that has not ended yet may hold it.
        let _ = run("umount", &["-l", &self.0.display().to_string()]);
    }
}

/// Writes tasks of 100 kB through a node until another than `leader` leads, or the time is up; whether one does.
async fn another_leads(cluster: &Cluster, leader: usize, through: usize) -> bool {
    let mut n = 0;
    holds_within(GIVES_WAY_MAX, async || {
        n += 1;
        let task = large(&format!("fill-{leader}-{n}"), 100_000);
        // Some are refused meanwhile.
        let _ = cluster.api.create(cluster.nodes[through].ports.http, &task).await;
        cluster.leader_as_seen_by(through).await.is_some_and(|leads| leads != leader)
    })
    .await
}

/// Each of these nodes takes a write within the time that a call has.
async fn writes_go_on(cluster: &Cluster, name: &str, through: &[usize]) {
    for at in through {
        let task = once(&format!("{name}-{at}"), now_ms() + 3_600_000, "http://127.0.0.1:9/");
        let answer = cluster.api.create(cluster.nodes[*at].ports.http, &task).await;
        assert_eq!(code(&answer), Some(0), "{name} through node {at}: {answer:?}");
    }
}

async fn disk_fault(cluster: &Cluster, at: usize) -> bool {
    cluster.metric(at, "xcron_disk_fault").await == Some(1.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_log_can_make_no_file_gives_way_and_takes_part_again() {
    let _turn = turn().await;
    let dir = TempDir::new().expect("make a directory");
    let data: Vec<PathBuf> = (1..=3).map(|n| dir.path().join(format!("n{n}"))).collect();
    let disks: Option<Vec<FewFiles>> = data.iter().map(|data| FewFiles::new(&data.join("log"), 60)).collect();
    let Some(disks) = disks else { return };
    let mut cluster = Cluster::with_data(dir, &data, "[storage]\nlog_segment_bytes = 1048576\n");
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let (leader, _) = cluster.leader().await;
    disks[leader].use_up();
    assert!(another_leads(&cluster, leader, (leader + 1) % 3).await, "it leads on, and can write nothing");
    writes_go_on(&cluster, "without-room", &[0, 1, 2]).await;
    assert!(!cluster.nodes[leader].is_ready(&cluster.api).await, "/readyz says that it is well");
    assert!(disk_fault(&cluster, leader).await, "xcron_disk_fault says that it is well");
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    for other in others {
        assert!(cluster.nodes[other].is_ready(&cluster.api).await, "{other} is not ready");
    }
    // More than what its log has room for: it takes no more, and goes on living.
    for n in 0..10 {
        let task = large(&format!("more-{n}"), 500_000);
        assert_eq!(code(&cluster.api.create(cluster.nodes[others[0]].ports.http, &task).await), Some(0));
    }
    assert!(!cluster.nodes[leader].has_ended(), "it has ended");
    disks[leader].give_back();
    assert!(cluster.all_ready(READY_MAX).await, "it does not take part again");
    cluster.caught_up(Duration::from_secs(20)).await;
    assert!(!disk_fault(&cluster, leader).await);
    drop((cluster, disks));
}

/// Whatever the checkpoint is in: here it is a write that hangs, and no sync is begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_store_cannot_be_written_gives_way_and_takes_part_again() {
    let _turn = turn().await;
    let dir = TempDir::new().expect("make a directory");
    let Some((mut disks, data)) = Disk::several(dir.path(), 3, 128 * MIB) else { return };
    // The logs are on disks of their own, which are well.
    let logs: Option<Vec<FewFiles>> = data.iter().map(|data| FewFiles::new(&data.join("log"), 60)).collect();
    let Some(logs) = logs else { return };
    let more = "[storage]\nlog_segment_bytes = 1048576\nunsaved_bytes_max = 1048576\ncheckpoint_bytes = 65536\n";
    let mut cluster = Cluster::with_data(dir, &data, more);
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let (leader, _) = cluster.leader().await;
    disks[leader].freeze();
    assert!(another_leads(&cluster, leader, (leader + 1) % 3).await, "it leads on, and takes nothing any more");
    writes_go_on(&cluster, "unwritten", &[0, 1, 2]).await;
    assert!(!cluster.nodes[leader].is_ready(&cluster.api).await, "/readyz says that it is well");
    assert!(disk_fault(&cluster, leader).await, "xcron_disk_fault says that it is well");
    disks[leader].thaw();
    assert!(cluster.all_ready(READY_MAX).await, "it does not take part again");
    cluster.caught_up(Duration::from_secs(20)).await;
    drop((cluster, logs, disks));
}

/// The value of a metric of this node.
async fn metric(cluster: &Cluster, at: usize, name: &str) -> f64 {
    cluster.metric(at, name).await.unwrap_or_else(|| panic!("no {name}"))
}

/// Three nodes that are ready, the faults of their stores, of which little may be unsaved, and who leads; none where there is
/// no compiler.
async fn with_frail_stores() -> Option<(Cluster, Vec<Inner>, usize)> {
    let mut cluster = Cluster::new(3, "[storage]\nunsaved_bytes_max = 1048576\ncheckpoint_bytes = 65536\n");
    let inner = Inner::of_all(&mut cluster, "state-")?;
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let (leader, _) = cluster.leader().await;
    Some((cluster, inner, leader))
}

/// What it has not stored it has in memory, and what openraft has not applied as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_store_stands_still_takes_only_so_many_entries() {
    let _turn = turn().await;
    let Some((mut cluster, inner, leader)) = with_frail_stores().await else { return };
    let behind = (leader + 1) % 3;
    inner[behind].set(Slot::SyncUs, 600_000_000);
    let mut last = Vec::new();
    for n in 0..150 {
        let task = large(&format!("held-{n}"), 100_000);
        let answer = cluster.api.create(cluster.nodes[leader].ports.http, &task).await;
        assert_eq!(code(&answer), Some(0), "the others go on: {answer:?}");
        if n % 50 == 49 {
            // As long as a message waits before it is refused, and longer.
            sleep_ms(2500).await;
            last.push(metric(&cluster, behind, "xcron_raft_last_log_index").await);
        }
    }
    let (unsaved, of_leader) = (
        metric(&cluster, behind, "xcron_unsaved_bytes").await,
        metric(&cluster, leader, "xcron_raft_last_log_index").await,
    );
    println!("{last:?} of {of_leader} entries, {unsaved} bytes are not stored");
    // Twice the bound, and a message.
    assert!(unsaved < 3.0 * 1048576.0, "{unsaved} bytes are not stored");
    assert!(last[0] == last[2] && last[2] + 60.0 < of_leader, "{last:?} of {of_leader}: its log goes on");
    assert!(!cluster.nodes[behind].has_ended(), "it has ended");
    cluster.nodes[behind].kill();
    inner[behind].set(Slot::SyncUs, 0);
    cluster.nodes[behind].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    cluster.caught_up(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_store_does_not_sync_gives_way() {
    let _turn = turn().await;
    let Some((cluster, inner, leader)) = with_frail_stores().await else { return };
    inner[leader].set(Slot::SyncUs, 60_000_000);
    assert!(another_leads(&cluster, leader, (leader + 1) % 3).await, "it leads on, and takes nothing any more");
    writes_go_on(&cluster, "unsynced", &[0, 1, 2]).await;
    assert!(!cluster.nodes[leader].is_ready(&cluster.api).await, "/readyz says that it is well");
    assert!(disk_fault(&cluster, leader).await, "xcron_disk_fault says that it is well");
    assert!(cluster.nodes[leader].log_text().contains("the store has stood still for"), "the log does not tell");
    inner[leader].set(Slot::SyncUs, 0);
}

/// Connections that send nothing, as many as the node or the kernel takes up to `count`.
async fn idle_connections(port: u16, count: usize) -> Vec<TcpStream> {
    let connect = |_| tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(("127.0.0.1", port)));
    let connected = futures::future::join_all((0..count).map(connect)).await;
    connected.into_iter().filter_map(|stream| stream.ok()?.ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_to_every_port_leave_a_node_its_descriptors() {
    let _turn = turn().await;
    if !has_tool("prlimit") {
        skipped("prlimit", "it is missing");
        return;
    }
    let mut cluster = Cluster::new(3, "[storage]\nlog_segment_bytes = 1048576\n");
    for node in &mut cluster.nodes {
        node.under = vec!["prlimit".to_owned(), "--nofile=200:400".to_owned()];
        node.spawn();
    }
    assert!(cluster.all_ready(READY_MAX).await);
    let (leader, _) = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let log = cluster.nodes[leader].log_text();
    for part in ["limits.connections_max", "10000", "400"] {
        assert!(log.contains(part), "{part} is not in the log");
    }
    let ports = cluster.nodes[leader].ports;
    let mut held = idle_connections(ports.http, 500).await;
    held.extend(idle_connections(ports.monitor, 500).await);
    assert!(held.len() > 250, "only {} connections", held.len());
    // Enough for a dozen segments of the log.
    for n in 0..60 {
        let task = large(&format!("held-{n}"), 200_000);
        let answer = cluster.api.create(cluster.nodes[follower].ports.http, &task).await;
        assert_eq!(code(&answer), Some(0), "{n}: {answer:?}");
    }
    assert_eq!(cluster.leader_as_seen_by(follower).await, Some(leader), "it has not led all the time");
    let open =
        std::fs::read_dir(format!("/proc/{}/fd", cluster.nodes[leader].pid())).expect("list the descriptors").count();
    assert!(open < 400, "{open} descriptors are open");
    drop(held);
    assert!(cluster.all_ready(READY_MAX).await, "it takes connections again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_descriptors_gives_way_and_takes_part_again() {
    let _turn = turn().await;
    if !has_tool("prlimit") {
        skipped("prlimit", "it is missing");
        return;
    }
    let mut cluster = Cluster::start(3, "[storage]\nlog_segment_bytes = 1048576\n").await;
    // A node that has not written down which cluster it is of may end where it cannot.
    for at in 0..3 {
        let named = async || cluster.view(at).await.is_some_and(|view| view["cluster_id"].is_string());
        eventually("it knows its cluster", READY_MAX, named).await;
    }
    writes_go_on(&cluster, "before", &[0, 1, 2]).await;
    let (leader, _) = cluster.leader().await;
    let pid = cluster.nodes[leader].pid().to_string();
    // Fewer than it has open: it keeps those, and gets no more.
    run("prlimit", &["--pid", &pid, "--nofile=10:1024"]).expect("lower the limit");
    assert!(another_leads(&cluster, leader, (leader + 1) % 3).await, "it leads on, and can make no file");
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    writes_go_on(&cluster, "without-descriptors", &others).await;
    assert!(!cluster.nodes[leader].has_ended(), "it has ended");
    run("prlimit", &["--pid", &pid, "--nofile=1024:1024"]).expect("raise the limit");
    assert!(cluster.all_ready(READY_MAX).await, "it does not take part again");
    cluster.caught_up(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_disks_are_slow_writes_are_slow_and_go_on() {
    let _turn = turn().await;
    let mut cluster = Cluster::new(3, "");
    let Some(inner) = Inner::of_all(&mut cluster, "log") else { return };
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let (leader, _) = cluster.leader().await;
    inner.iter().for_each(|inner| inner.set(Slot::SyncUs, 700_000));
    let mut taken = 0;
    for n in 0..6 {
        let task = once(&format!("slow-{n}"), now_ms() + 3_600_000, "http://127.0.0.1:9/");
        let began = now_ms();
        let answer = cluster.api.create(cluster.nodes[(leader + n) % 3].ports.http, &task).await;
        println!("{n}: {} ms, {:?}", now_ms() - began, code(&answer));
        taken += usize::from(code(&answer) == Some(0));
    }
    inner.iter().for_each(|inner| inner.set(Slot::SyncUs, 0));
    assert!(taken >= 5, "{taken} of 6 writes were taken");
}

/// sled that can make no file while it writes has to be given up, and the node with it. So it is asked for first.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_for_which_no_file_can_be_made_waits_until_there_can() {
    let _turn = turn().await;
    let dir = TempDir::new().expect("make a directory");
    let data = [dir.path().join("n1")];
    let Some(disk) = FewFiles::new(&data[0], 100) else { return };
    let mut cluster = Cluster::with_data(dir, &data, "[storage]\nlog_segment_bytes = 67108864\n");
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let http = cluster.nodes[0].ports.http;
    assert_eq!(code(&cluster.api.create(http, &large("before", 900_000)).await), Some(0));
    eventually("it is stored", READY_MAX, async || metric(&cluster, 0, "xcron_unsaved_bytes").await == 0.0).await;
    disk.use_up();
    // Each is a file of the store.
    let mut kept = Vec::new();
    for n in 0..3 {
        let id = format!("without-{n}");
        if code(&cluster.api.create(http, &large(&id, 900_000)).await) == Some(0) {
            kept.push(id);
        }
    }
    assert!(!kept.is_empty(), "the log has room");
    eventually("it says so", READY_MAX, async || !cluster.nodes[0].is_ready(&cluster.api).await).await;
    // Some checkpoints later.
    sleep_ms(3000).await;
    assert!(!cluster.nodes[0].has_ended(), "{}", cluster.nodes[0].log_text());
    assert!(metric(&cluster, 0, "xcron_unsaved_bytes").await > 0.0);
    disk.give_back();
    assert!(cluster.all_ready(READY_MAX).await, "it does not take part again");
    eventually("it is stored", READY_MAX, async || metric(&cluster, 0, "xcron_unsaved_bytes").await == 0.0).await;
    for id in &kept {
        assert_eq!(code(&cluster.api.query(http, id).await), Some(0));
    }
    drop((cluster, disk));
}
