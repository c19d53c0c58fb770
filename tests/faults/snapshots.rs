//! Snapshots on disks that fail, are slow, or have no room for them.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::api::{code, large, once};
use crate::check::agree;
use crate::harness::{eventually, now_ms, Cluster, Node, READY_MAX};
use crate::machine::{Disk, Inner, Slot, EIO, MIB};
use crate::power::missing;
use crate::sink::Sink;
use crate::trial::turn;

const SMALL: &str = "[raft]\nsnapshot_log_bytes = 4194304\n[storage]\nlog_segment_bytes = 2097152\n";

/// Creates so many tasks of 100 kB: which of them were taken.
async fn fill(cluster: &Cluster, node: usize, prefix: &str, count: usize) -> Vec<String> {
    let mut taken = Vec::new();
    for n in 0..count {
        let id = format!("{prefix}-{n}");
        let task = large(&id, 100_000);
        if code(&cluster.api.create(cluster.nodes[node].ports.http, &task).await) == Some(0) {
            taken.push(id);
        }
    }
    taken
}

/// Three nodes, of which one is away and needs a snapshot: the others' logs no longer begin with the first entries.
struct OneAway {
    cluster: Cluster,
    /// Faults of the snapshots of each node.
    inner: Vec<Inner>,
    leader: usize,
    away: usize,
    /// What was taken meanwhile.
    tasks: Vec<String>,
}

async fn one_away() -> Option<OneAway> {
    let mut cluster = Cluster::new(3, SMALL);
    let inner = Inner::of_all(&mut cluster, "snapshots/")?;
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let (leader, _) = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster.nodes[away].kill();
    let mut tasks = Vec::new();
    for round in 0..40 {
        tasks.extend(fill(&cluster, leader, &format!("before-{round}"), 50).await);
        if !cluster.nodes[leader].log_has_first() {
            return Some(OneAway { cluster, inner, leader, away, tasks });
        }
    }
    panic!("the log is never purged");
}

fn snapshots(data: &Path, extension: &str) -> Vec<(String, u64)> {
    let Ok(entries) = std::fs::read_dir(data.join("snapshots")) else { return Vec::new() };
    let files = entries.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == extension));
    files.filter_map(|e| Some((e.file_name().to_string_lossy().into_owned(), e.metadata().ok()?.len()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_synced_ends_nothing_and_a_later_one_can() {
    let _turn = turn().await;
    let mut cluster = Cluster::new(1, SMALL);
    let base = cluster.path().to_owned();
    let Some(inner) = Inner::of(&mut cluster.nodes[0], &base, "snapshots/") else { return };
    inner.set(Slot::SyncErrno, EIO);
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let sink = Sink::start().await;
    let mut tasks = fill(&cluster, 0, "before", 60).await;
    assert_eq!(tasks.len(), 60);
    eventually("the failure is told", READY_MAX, async || {
        cluster.nodes[0].log_text().contains("a snapshot could not be written")
    })
    .await;
    // It goes on: it takes tasks and fires them.
    tasks.extend(fill(&cluster, 0, "after", 5).await);
    let http = cluster.nodes[0].ports.http;
    assert_eq!(code(&cluster.api.create(http, &once("fires", now_ms() + 300, &sink.url)).await), Some(0));
    eventually("it fires", Duration::from_secs(10), async || !sink.of("fires").is_empty()).await;
    assert!(!cluster.nodes[0].has_ended());
    assert_eq!(snapshots(&cluster.nodes[0].data, "snap"), []);
    inner.set(Slot::SyncErrno, 0);
    eventually("a snapshot is written", READY_MAX, async || !snapshots(&cluster.nodes[0].data, "snap").is_empty())
        .await;
    assert_eq!(snapshots(&cluster.nodes[0].data, "tmp"), [], "what failed is removed");
    assert!(missing(&cluster, 0, &tasks).await.is_empty());
}

/// Each open of a snapshot takes a second: snapshots are written one after the other all the same, and the log is purged.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_whose_files_open_slowly_keep_the_log_short() {
    const ROUNDS: usize = 5;
    let _turn = turn().await;
    let mut cluster = Cluster::new(1, SMALL);
    let base = cluster.path().to_owned();
    let Some(inner) = Inner::of(&mut cluster.nodes[0], &base, "snapshots/") else { return };
    inner.set(Slot::OpenUs, 1_000_000);
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let metric = async |name: &str| cluster.metric(0, name).await.unwrap_or(0.0);
    // 12 MB each, which take the place of those before them.
    let mut tasks = Vec::new();
    for round in 0..ROUNDS {
        delete(&cluster, &tasks).await;
        tasks = fill(&cluster, 0, &format!("round-{round}"), 120).await;
        assert_eq!(tasks.len(), 120);
        let least = (round + 1) as f64;
        eventually("another snapshot", READY_MAX, async || metric("xcron_snapshots_total").await >= least).await;
    }
    let half = (ROUNDS * 120 * 100_000 / 2) as f64;
    eventually("the log is purged", READY_MAX, async || metric("xcron_log_disk_bytes").await < half).await;
    assert!(missing(&cluster, 0, &tasks).await.is_empty());
}

/// A rename that fails leaves no snapshot, and a removal that fails leaves one too many.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_named_and_one_that_cannot_be_removed_end_nothing() {
    let _turn = turn().await;
    let mut cluster = Cluster::new(1, SMALL);
    let base = cluster.path().to_owned();
    let Some(inner) = Inner::of(&mut cluster.nodes[0], &base, "snapshots/") else { return };
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let data = cluster.nodes[0].data.clone();
    inner.set(Slot::RenameErrno, EIO);
    let mut tasks = fill(&cluster, 0, "unnamed", 60).await;
    let told = async |what: &str| {
        eventually("it is told", READY_MAX, async || cluster.nodes[0].log_text().contains(what)).await;
    };
    told("a snapshot could not be written").await;
    eventually("what failed is removed", READY_MAX, async || snapshots(&data, "tmp").is_empty()).await;
    assert_eq!(snapshots(&data, "snap"), []);
    inner.set(Slot::RenameErrno, 0);
    eventually("a snapshot is written", READY_MAX, async || !snapshots(&data, "snap").is_empty()).await;

    inner.set(Slot::UnlinkErrno, EIO);
    tasks.extend(fill(&cluster, 0, "kept", 80).await);
    eventually("a second one is written", READY_MAX, async || snapshots(&data, "snap").len() >= 2).await;
    told("a file that is needed no more cannot be removed").await;
    inner.set(Slot::UnlinkErrno, 0);
    tasks.extend(fill(&cluster, 0, "removed", 160).await);
    eventually("the older ones are removed", READY_MAX, async || snapshots(&data, "snap").len() == 1).await;
    assert!(cluster.nodes.iter_mut().all(|node| !node.has_ended()));
    assert_eq!(tasks.len(), 300);
    assert!(missing(&cluster, 0, &tasks).await.is_empty());
}

/// The leader cannot read the snapshot that a follower needs: it leads on, and writes another one in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_the_disk_cannot_read_is_written_again_and_ends_nothing() {
    let _turn = turn().await;
    let Some(OneAway { mut cluster, inner, leader, away, tasks }) = one_away().await else { return };
    let newest = || snapshots(&cluster.nodes[leader].data, "snap").into_iter().map(|(name, _)| name).max();
    eventually("a snapshot is taken", READY_MAX, async || newest().is_some()).await;
    inner[leader].set(Slot::ReadErrno, EIO);
    cluster.nodes[away].spawn();
    let log = || cluster.nodes[leader].log_text();
    let told = "a snapshot of this node cannot be read; another one is written in its place";
    eventually("it is told", READY_MAX, async || log().contains(told)).await;
    assert!(log().lines().any(|line| line.contains(told) && line.contains("os error 5")), "by another error");
    inner[leader].set(Slot::ReadErrno, 0);
    assert!(cluster.all_ready(READY_MAX).await);
    cluster.caught_up(Duration::from_secs(60)).await;
    assert!(cluster.nodes.iter_mut().all(|node| !node.has_ended()));
    agree(&cluster, &tasks).await;
}

/// The node is killed while the sync of the snapshot that it has received takes long: openraft has purged its log by then
/// if it was given the snapshot before.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_received_snapshot_is_synced_loses_nothing() {
    let _turn = turn().await;
    let Some(OneAway { mut cluster, inner, leader, away, mut tasks }) = one_away().await else { return };
    eventually("a snapshot is taken", READY_MAX, async || !snapshots(&cluster.nodes[leader].data, "snap").is_empty())
        .await;
    let whole = snapshots(&cluster.nodes[leader].data, "snap").iter().map(|(_, bytes)| *bytes).max();
    let whole = whole.expect("there is one");
    inner[away].set(Slot::SyncUs, 600_000_000);
    cluster.nodes[away].spawn();
    let data = cluster.nodes[away].data.clone();
    eventually("it is received", READY_MAX, async || snapshots(&data, "tmp").iter().any(|(_, bytes)| *bytes >= whole))
        .await;
    // The sync goes on for as long as it is let. A purge, where there is one, is done before others have written so much.
    tasks.extend(fill(&cluster, leader, "meanwhile", 30).await);
    assert_eq!(snapshots(&data, "snap"), [], "the snapshot has no name before it is synced");
    cluster.nodes[away].kill();
    inner[away].set(Slot::SyncUs, 0);
    cluster.nodes[away].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    tasks.extend(fill(&cluster, leader, "after", 3).await);
    cluster.caught_up(Duration::from_secs(60)).await;
    agree(&cluster, &tasks).await;
}

/// A node on a disk of 200 MiB, of which it keeps so many in reserve.
async fn on_a_small_disk(reserve_mb: u64) -> Option<(Cluster, Disk)> {
    let dir = TempDir::new().expect("make a directory");
    let disk = Disk::new(dir.path(), "disk", 200 * MIB)?;
    let mut cluster =
        Cluster::with_data(dir, &[disk.mount.join("data")], &format!("{SMALL}reserve_mb = {reserve_mb}\n"));
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    Some((cluster, disk))
}

/// How many checkpoints were made, and how many bytes are not stored yet.
async fn checkpoints(cluster: &Cluster) -> Option<(f64, f64)> {
    let metrics = cluster.api.text(cluster.nodes[0].ports.monitor, "/metrics").await.unwrap_or_default().1;
    let of = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    of("xcron_checkpoints_total ").zip(of("xcron_unsaved_bytes "))
}

/// Deletes these tasks: each delete is taken.
async fn delete(cluster: &Cluster, tasks: &[String]) {
    for id in tasks {
        let deleted = cluster.api.delete(cluster.nodes[0].ports.http, id).await;
        assert_eq!(code(&deleted), Some(0), "{deleted:?}");
    }
}

/// Waits until tasks are taken again.
async fn takes_tasks_again(cluster: &Cluster, disk: &Disk) {
    let began = now_ms();
    let http = cluster.nodes[0].ports.http;
    eventually("there is room again", Duration::from_secs(30), async || {
        code(&cluster.api.create(http, &once("again", now_ms() + 3_600_000, "http://127.0.0.1:9/")).await) == Some(0)
    })
    .await;
    println!("tasks were taken again after {} ms; {} MiB are free", now_ms() - began, disk.free_bytes() / MIB);
}

/// The state fits, and a snapshot beside it does not: the node says so, refuses tasks before, takes deletes, and lives
/// on; it takes tasks again where there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_whose_snapshot_does_not_fit_ends_nothing() {
    let _turn = turn().await;
    let Some((mut cluster, disk)) = on_a_small_disk(1).await else { return };
    // While another's file takes the room, only the start of a snapshot can tell.
    let tasks = fill(&cluster, 0, "before", 300).await;
    assert_eq!(tasks.len(), 300);
    // Not while a checkpoint is being written, from which the file would take its room.
    eventually("all is stored", READY_MAX, async || {
        checkpoints(&cluster).await.is_some_and(|(_, unsaved)| unsaved == 0.0)
    })
    .await;
    let ballast = disk.mount.join("ballast");
    std::fs::write(&ballast, vec![1; disk.free_bytes().saturating_sub(12 * MIB) as usize]).unwrap();
    let refused = fill(&cluster, 0, "refused", 3).await;
    assert_eq!(refused, [] as [String; 0], "there is room for the reserve, and none for the next snapshot");
    assert!(cluster.nodes[0].log_text().contains("in reserve"));
    delete(&cluster, &tasks[..250]).await;
    assert!(!cluster.nodes[0].has_ended());
    std::fs::remove_file(&ballast).unwrap();
    takes_tasks_again(&cluster, &disk).await;
    assert!(missing(&cluster, 0, &tasks[250..]).await.is_empty());
    drop((cluster, disk));
}

/// Another's file takes all the room there is, so that neither a checkpoint nor a snapshot finds any: the node says so,
/// refuses tasks, takes deletes, and lives on; it takes tasks again when the file goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_filled_by_others_ends_nothing() {
    let _turn = turn().await;
    let Some((mut cluster, disk)) = on_a_small_disk(4).await else { return };
    let tasks = fill(&cluster, 0, "before", 150).await;
    assert_eq!(tasks.len(), 150);
    eventually("all is stored", READY_MAX, async || {
        checkpoints(&cluster).await.is_some_and(|(_, unsaved)| unsaved == 0.0)
    })
    .await;
    let ballast = disk.mount.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    let refused = async || {
        // A snapshot that replaces another, and a purge of the log, make room once more.
        while file.write_all(&[1; 65_536]).is_ok() {}
        let answer = cluster.api.text(cluster.nodes[0].ports.monitor, "/readyz").await;
        answer.is_ok_and(|(status, body)| status == 503 && body.contains("in reserve")) && disk.free_bytes() < MIB
    };
    eventually("it says so", READY_MAX, refused).await;
    assert_eq!(fill(&cluster, 0, "refused", 3).await, [] as [String; 0]);
    // More than the log has made room for is refused, and does not end the node either.
    delete(&cluster, &tasks[..100]).await;
    let before = checkpoints(&cluster).await.expect("it answers");
    assert!(before.1 > 0.0, "the deletes wait for room: {before:?}");
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    takes_tasks_again(&cluster, &disk).await;
    eventually("the checkpoint is made", READY_MAX, async || {
        checkpoints(&cluster).await.is_some_and(|now| now.0 > before.0)
    })
    .await;
    assert!(!cluster.nodes[0].has_ended());
    assert!(missing(&cluster, 0, &tasks[100..]).await.is_empty());
    drop((cluster, disk));
}
