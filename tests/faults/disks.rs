//! Disks that are full, fail, are slow, or stand still.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::api::{code, large, once, Answer};
use crate::check::first_fire_after;
use crate::harness::{eventually, now_ms, sleep_ms, Cluster, Node, READY_MAX};
use crate::machine::{Disk, Inner, Slot, EIO, MIB};
use crate::power::missing;
use crate::sink::Sink;
use crate::trial::{rounds, turn, Trial};

/// A node on a disk of which `room` bytes are free, and a file that takes the rest.
async fn nearly_full(reserve_mb: u64, room: u64) -> Option<(Cluster, Disk, PathBuf)> {
    let dir = TempDir::new().expect("make a directory");
    let disk = Disk::new(dir.path(), "disk", 160 * MIB)?;
    let more = format!("[storage]\nlog_segment_bytes = 1048576\nreserve_mb = {reserve_mb}\n");
    let data = [disk.mount.join("data")];
    let mut cluster = Cluster::with_data(dir, &data, &more);
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let ballast = disk.mount.join("ballast");
    let bytes = disk.free_bytes().checked_sub(room).expect("more is free than is to be left");
    std::fs::write(&ballast, vec![1; bytes as usize]).expect("write the ballast");
    Some((cluster, disk, ballast))
}

/// Creates large tasks until one is refused: those that were acknowledged, and the answer to the other.
async fn fill(cluster: &Cluster) -> (Vec<String>, Answer) {
    let mut kept = Vec::new();
    for n in 0..4000 {
        let id = format!("fill-{n}");
        let task = large(&id, 50_000);
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
    let missing = missing(cluster, 0, kept).await;
    assert!(missing.is_empty(), "{} of {} are gone: {missing:?}", missing.len(), kept.len());
    let http = cluster.nodes[0].ports.http;
    let after = cluster.api.create(http, &once("after", now_ms() + 300, &sink.url)).await;
    assert_eq!(code(&after), Some(0), "{after:?}");
    eventually("it fires", Duration::from_secs(10), async || !sink.of("after").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_nearly_full_refuses_tasks_and_still_fires() {
    let _turn = turn().await;
    let Some((mut cluster, disk, ballast)) = nearly_full(32, 48 * MIB).await else { return };
    let sink = Sink::start().await;
    let http = cluster.nodes[0].ports.http;
    let due = now_ms() + 10_000;
    assert_eq!(code(&cluster.api.create(http, &once("waits", due, &sink.url)).await), Some(0));
    let (kept, refusal) = fill(&cluster).await;
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

/// A load goes on before another's file takes all the room, while there is none, and once there is room again; the node
/// may end for want of room, and is started again, as a supervisor does it.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_any_room_is_told_and_loses_nothing() {
    let _turn = turn().await;
    let dir = TempDir::new().expect("make a directory");
    let Some(disk) = Disk::new(dir.path(), "disk", 160 * MIB) else { return };
    let more = "[storage]\nlog_segment_bytes = 1048576\nreserve_mb = 1\n";
    let mut cluster = Cluster::with_data(dir, &[disk.mount.join("data")], more);
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let mut trial = Trial::start(cluster, Sink::start().await);
    let times = rounds(2, 10);
    let (mut kept, mut ended) = (Vec::new(), 0);
    for round in 0..times {
        let before = acknowledged(&trial, 20, 0).await;
        let http = trial.cluster.nodes[0].ports.http;
        for n in 0..20 {
            let id = format!("kept-{round}-{n}");
            assert_eq!(code(&trial.cluster.api.create(http, &large(&id, 50_000)).await), Some(0));
            kept.push(id);
        }
        let until = now_ms() + 4000;
        let mut is_told = false;
        while now_ms() < until {
            disk.fill();
            if trial.cluster.nodes[0].has_ended() {
                // It may end, if it says why.
                let status = trial.cluster.nodes[0].exit(Duration::from_secs(1)).await;
                assert_eq!(status.code(), Some(1));
                ended += 1;
            }
            if !trial.cluster.nodes[0].runs() {
                trial.cluster.nodes[0].spawn();
            }
            is_told |= !trial.cluster.nodes[0].is_ready(&trial.cluster.api).await;
            sleep_ms(50).await;
        }
        assert!(is_told, "it was ready all the while");
        disk.make_room();
        eventually("it is ready", READY_MAX, async || {
            if trial.cluster.nodes[0].has_ended() {
                trial.cluster.nodes[0].kill();
                trial.cluster.nodes[0].spawn();
            }
            trial.cluster.nodes[0].is_ready(&trial.cluster.api).await
        })
        .await;
        acknowledged(&trial, 20, before).await;
    }
    let log = trial.cluster.nodes[0].log_text();
    let words = ["No space left on device", "there is no room for the Raft log", "in reserve", "MiB are needed and"];
    assert!(words.iter().any(|words| log.contains(words)), "the log does not tell: {log}");
    trial.check("full disk of a single node for 4 s", times, &format!("it ended {ended} times")).await;
    kept.extend(trial.load.standing());
    nothing_is_lost(&mut trial.cluster, &trial.sink, &kept).await;
    drop((trial, disk));
}

/// Waits until so many more tasks of the load are acknowledged than there were: how many there are.
async fn acknowledged(trial: &Trial, more: usize, than: usize) -> usize {
    let mut standing = 0;
    eventually("the load goes on", READY_MAX, async || {
        standing = trial.load.standing().len();
        standing >= than + more
    })
    .await;
    standing
}

/// Nodes whose disks can be made to fail; what counts are their files below `part`.
async fn faulty(nodes: usize, part: &str) -> Option<(Trial, Vec<Inner>)> {
    let mut cluster = Cluster::new(nodes, "");
    let inner = Inner::of_all(&mut cluster, part)?;
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    Some((Trial::start(cluster, Sink::start().await), inner))
}

/// The node ends with code 1, and says that its disk has failed.
async fn ends_and_tells(node: &mut Node) {
    let status = node.exit(Duration::from_secs(20)).await;
    let log = node.log_text();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("Input/output error") || log.contains("os error 5"), "the log does not tell: {log}");
}

async fn a_failing_sync(part: &str) {
    let _turn = turn().await;
    let Some((mut trial, inner)) = faulty(1, part).await else { return };
    let times = rounds(1, 5);
    for _ in 0..times {
        sleep_ms(1500).await;
        inner[0].set(Slot::SyncErrno, EIO);
        ends_and_tells(&mut trial.cluster.nodes[0]).await;
        inner[0].set(Slot::SyncErrno, 0);
        trial.cluster.nodes[0].spawn();
        assert!(trial.cluster.all_ready(READY_MAX).await);
    }
    sleep_ms(500).await;
    trial.check(&format!("EIO from fsync of {part} on a single node"), times, "").await;
    let missing = missing(&trial.cluster, 0, &trial.load.standing()).await;
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

/// sled syncs once more as it is dropped, and panics where that fails.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_disks_fail_at_the_very_end_of_a_stop_do_not_panic() {
    let _turn = turn().await;
    let Some((mut trial, inner)) = faulty(3, "state-").await else { return };
    for (at, inner) in inner.iter().enumerate() {
        sleep_ms(1500).await;
        // Slow, so that the last sync is still going on when it begins to fail.
        inner.set(Slot::SyncUs, 300_000);
        let node = &mut trial.cluster.nodes[at];
        let stops = node.log_text().matches("\"stopped\"").count();
        node.signal("TERM");
        eventually("all but the store is closed", READY_MAX, async || {
            node.log_text().matches("\"stopped\"").count() > stops
        })
        .await;
        inner.set(Slot::SyncErrno, EIO);
        assert_eq!(node.exit(READY_MAX).await.code(), Some(0));
        assert!(!node.log_text().contains("\"panic\""), "{}", node.log_text());
        inner.set(Slot::SyncUs, 0);
        inner.set(Slot::SyncErrno, 0);
        node.spawn();
        assert!(trial.cluster.all_ready(READY_MAX).await);
    }
    trial.load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_with_a_failing_disk_stops_and_the_others_go_on() {
    let _turn = turn().await;
    let Some((mut trial, inner)) = faulty(3, "").await else { return };
    let times = rounds(1, 10);
    for _ in 0..times {
        sleep_ms(1500).await;
        let (leader, term) = trial.cluster.leader().await;
        inner[leader].set(Slot::SyncErrno, EIO);
        ends_and_tells(&mut trial.cluster.nodes[leader]).await;
        first_fire_after(&trial.sink, term).await;
        inner[leader].set(Slot::SyncErrno, 0);
        trial.cluster.nodes[leader].spawn();
        assert!(trial.cluster.all_ready(READY_MAX).await);
    }
    trial.check_failover("EIO from fsync of the leader", times, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_syncs_take_two_seconds_lets_another_lead() {
    let _turn = turn().await;
    let Some((mut trial, inner)) = faulty(3, "log").await else { return };
    let times = rounds(1, 5);
    for _ in 0..times {
        sleep_ms(1500).await;
        let (leader, term) = trial.cluster.leader().await;
        inner[leader].set(Slot::SyncUs, 2_000_000);
        first_fire_after(&trial.sink, term).await;
        sleep_ms(4000).await;
        inner[leader].set(Slot::SyncUs, 0);
        sleep_ms(2000).await;
    }
    trial.check_failover("fsync of 2 s on the leader", times, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_stands_still_lets_another_lead() {
    let _turn = turn().await;
    let dir = TempDir::new().expect("make a directory");
    let Some((mut disks, data)) = Disk::several(dir.path(), 3, 512 * MIB) else { return };
    let mut cluster = Cluster::with_data(dir, &data, "[storage]\nlog_segment_bytes = 8388608\n");
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let mut trial = Trial::start(cluster, Sink::start().await);
    let times = rounds(1, 5);
    for _ in 0..times {
        sleep_ms(1500).await;
        let (leader, term) = trial.cluster.leader().await;
        disks[leader].freeze();
        let began = now_ms();
        first_fire_after(&trial.sink, term).await;
        sleep_ms((began + 5000).saturating_sub(now_ms())).await;
        disks[leader].thaw();
        sleep_ms(2000).await;
    }
    trial.check_failover("frozen disk of the leader for 5 s", times, "").await;
    drop(trial);
    drop(disks);
}
