//! Disks that tasks have filled: deletes alone make them usable again.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::api::{code, large, once};
use crate::check::agree;
use crate::harness::{eventually, now_ms, sleep_ms, Cluster, Node, READY_MAX};
use crate::machine::{Disk, MIB};
use crate::power::missing;
use crate::trial::{rounds, turn};

/// While a store or a snapshot is being written, tasks are refused for a moment. For so long: the disk is full.
const FULL_MS: u64 = 3000;

/// Creates tasks of `bytes` until the disk is full of them: which were taken.
async fn fill(cluster: &Cluster, node: usize, prefix: &str, bytes: usize) -> Vec<String> {
    let (mut taken, mut last) = (Vec::new(), now_ms());
    while now_ms() - last < FULL_MS {
        let id = format!("{prefix}-{}", taken.len());
        let task = large(&id, bytes);
        let answer = cluster.api.create(cluster.nodes[node].ports.http, &task).await;
        if code(&answer) == Some(0) {
            taken.push(id);
            last = now_ms();
        } else {
            assert_eq!(code(&answer), Some(1071), "{answer:?}");
            sleep_ms(50).await;
        }
    }
    taken
}

/// So many bytes are on the disk below this path.
fn used(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    let each = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => used(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    });
    each.sum()
}

/// What takes the room.
fn sizes(data: &Path, disk: &Disk) -> String {
    let mut parts: Vec<String> = std::fs::read_dir(data)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| format!("{} {} KiB", entry.file_name().to_string_lossy(), used(&entry.path()) >> 10))
        .collect();
    parts.sort();
    format!("free {} KiB; {}", disk.free_bytes() >> 10, parts.join(", "))
}

/// Tasks fill the disks of so many nodes, all of them but a few are deleted, and new ones are taken again: round after
/// round, about as many as in the first.
async fn deletes_make_room(nodes: usize, bytes: usize, keep: usize, more: &str) {
    let _turn = turn().await;
    let dir = TempDir::new().expect("make a directory");
    let Some((disks, data)) = Disk::several(dir.path(), nodes, 200 * MIB) else { return };
    let mut cluster = Cluster::with_data(dir, &data, more);
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let (leader, _) = cluster.leader().await;
    let http = cluster.nodes[leader].ports.http;
    let sizes = || sizes(&data[leader], &disks[leader]);
    let (mut kept, mut first) = (Vec::new(), 0);
    for round in 0..3 {
        let tasks = fill(&cluster, leader, &format!("round{round}"), bytes).await;
        println!("round {round}: {} tasks of {bytes} bytes were taken: {}", tasks.len(), sizes());
        if round == 0 {
            first = tasks.len();
        }
        assert!(tasks.len() >= first * 3 / 4, "{} tasks of {first}", tasks.len());
        let began = now_ms();
        for id in &tasks[keep..] {
            let deleted = cluster.api.delete(http, id).await;
            assert_eq!(code(&deleted), Some(0), "{deleted:?} {}", sizes());
        }
        println!("all were deleted after {} ms: {}", now_ms() - began, sizes());
        let began = now_ms();
        let again = format!("again{round}");
        eventually("tasks are taken again", Duration::from_secs(30), async || {
            let task = once(&again, now_ms() + 3_600_000, "http://127.0.0.1:9/");
            code(&cluster.api.create(http, &task).await) == Some(0)
        })
        .await;
        println!("taken again after {} ms: {}", now_ms() - began, sizes());
        kept.extend_from_slice(&tasks[..keep]);
        kept.push(again);
    }
    assert!(cluster.nodes.iter_mut().all(|node| !node.has_ended()));
    cluster.caught_up(Duration::from_secs(30)).await;
    agree(&cluster, &kept).await;
    drop((cluster, disks));
}

const SMALL: &str = "[raft]\nsnapshot_log_bytes = 4194304\n[storage]\nlog_segment_bytes = 2097152\nreserve_mb = 4\n";

#[tokio::test(flavor = "multi_thread")]
async fn large_tasks_that_filled_a_disk_can_be_deleted_and_others_created() {
    deletes_make_room(1, 100_000, 10, SMALL).await;
}

/// So large that the entries of the log that are kept for followers would take half of the disk.
#[tokio::test(flavor = "multi_thread")]
async fn very_large_tasks_that_filled_a_disk_can_be_deleted_and_others_created() {
    deletes_make_room(1, 800_000, 1, SMALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_tasks_that_filled_a_disk_can_be_deleted_and_others_created() {
    deletes_make_room(1, 20_000, 100, SMALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_filled_the_disks_of_three_nodes_can_be_deleted_and_others_created() {
    deletes_make_room(3, 100_000, 10, SMALL).await;
}

/// One node of three has a small disk: it falls behind when that is full of tasks, and is back once they are deleted,
/// without a restart and with one.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_disk_is_smaller_than_the_others_is_back_when_tasks_are_deleted() {
    let _turn = turn().await;
    let dir = TempDir::new().expect("make a directory");
    let Some(small) = Disk::new(dir.path(), "disk", 200 * MIB) else { return };
    let data = [small.mount.join("data"), dir.path().join("data1"), dir.path().join("data2")];
    let mut cluster = Cluster::with_data(dir, &data, SMALL);
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let http = cluster.nodes[1].ports.http;
    let mut tasks = Vec::new();
    // Twice what the small disk has.
    for n in 0..2200 {
        let id = format!("task-{n}");
        let task = large(&id, 150_000);
        eventually("a task is taken", Duration::from_secs(20), async || {
            code(&cluster.api.create(http, &task).await) == Some(0)
        })
        .await;
        tasks.push(id);
    }
    println!("all were created: {}", sizes(&data[0], &small));
    for id in &tasks[10..] {
        eventually("a task is deleted", Duration::from_secs(20), async || {
            code(&cluster.api.delete(http, id).await) == Some(0)
        })
        .await;
    }
    println!("all but ten were deleted: {}", sizes(&data[0], &small));
    cluster.caught_up(Duration::from_secs(60)).await;
    println!("caught up: {}", sizes(&data[0], &small));
    cluster.nodes[0].kill();
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await, "it starts again");
    agree(&cluster, &tasks[..10]).await;
    drop((cluster, small));
}

/// Waits until something is written to the disk, takes all of its room, and goes on taking for so long.
fn take_all(disk: &Path, ballast: &Path, ms: u64) {
    let free = || rustix::fs::statvfs(disk).map(|fs| fs.f_bavail * fs.f_frsize).expect("ask the file system");
    let (first, until) = (free(), now_ms() + ms);
    while first.saturating_sub(free()) < MIB && now_ms() < until {
        std::thread::yield_now();
    }
    let mut file = std::fs::File::create(ballast).expect("make the ballast");
    // What is not free any more by now is refused.
    let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, free());
    while now_ms() < until {
        while file.write_all(&[1; 262_144]).is_ok() {}
        while file.write_all(&[1; 4096]).is_ok() {}
    }
}

/// Another's file takes all the room while tasks are taken and checkpoints are made. The node may end then, and says why;
/// it starts when there is room, and has all that was acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn another_file_that_takes_all_room_at_once_loses_nothing() {
    let _turn = turn().await;
    let dir = TempDir::new().expect("make a directory");
    let Some(disk) = Disk::new(dir.path(), "disk", 200 * MIB) else { return };
    let mut cluster = Cluster::with_data(dir, &[disk.mount.join("data")], SMALL);
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let ballast = disk.mount.join("ballast");
    let (mut kept, mut ended, mut refused_start): (Vec<String>, usize, usize) = Default::default();
    for round in 0..rounds(4, 30) {
        let file = ballast.clone();
        let prefix = format!("round{round}");
        let creating = create_some(&cluster, &prefix);
        let mount = disk.mount.clone();
        let taking = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500 + 130 * round as u64 % 1000));
            take_all(&mount, &file, 1500);
        });
        kept.extend(creating.await);
        taking.join().expect("the disk is filled");
        if cluster.nodes[0].has_ended() {
            ended += 1;
            assert_eq!(cluster.nodes[0].exit(Duration::from_secs(1)).await.code(), Some(1));
            let log = cluster.nodes[0].log_text();
            assert!(log.contains("No space left on device"), "{log}");
            // While there is no room it ends again, and says why, or waits for room.
            cluster.nodes[0].spawn();
            sleep_ms(1500).await;
            if cluster.nodes[0].has_ended() {
                refused_start += 1;
                assert_eq!(cluster.nodes[0].exit(Duration::from_secs(1)).await.code(), Some(1));
            }
        }
        std::fs::remove_file(&ballast).expect("remove the ballast");
        if !cluster.nodes[0].runs() {
            cluster.nodes[0].spawn();
        }
        assert!(cluster.all_ready(READY_MAX).await, "there is room");
        let gone = missing(&cluster, 0, &kept).await;
        assert_eq!(gone, [] as [String; 0], "round {round}");
        // For the next round there is to be room.
        for id in kept.drain(..kept.len().saturating_sub(10)) {
            let deleted = cluster.api.delete(cluster.nodes[0].ports.http, &id).await;
            assert_eq!(code(&deleted), Some(0), "{deleted:?}");
        }
    }
    println!("it ended {ended} times, and {refused_start} times again for want of room");
    drop((cluster, disk));
}

/// Creates tasks until none is taken for a second: which were taken.
async fn create_some(cluster: &Cluster, prefix: &str) -> Vec<String> {
    let (mut taken, mut last) = (Vec::new(), now_ms());
    let until = last + 2500;
    for n in 0.. {
        if now_ms() - last > 1000 || now_ms() > until {
            break;
        }
        let id = format!("{prefix}-{n}");
        let task = large(&id, 100_000);
        if code(&cluster.api.create(cluster.nodes[0].ports.http, &task).await) == Some(0) {
            taken.push(id);
            last = now_ms();
        }
        sleep_ms(10).await;
    }
    taken
}
