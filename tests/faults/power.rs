//! Power cuts: what a process has written and not synced is gone.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::api::code;
use crate::check::first_fire_after;
use crate::harness::{sleep_ms, Cluster, Node, READY_MAX};
use crate::machine::{Disk, MIB};
use crate::sink::Sink;
use crate::trial::{rounds, turn, Trial};

/// Each of these that does not exist on this node.
pub async fn missing(cluster: &Cluster, at: usize, tasks: &[String]) -> Vec<String> {
    let mut missing = Vec::new();
    for id in tasks {
        if code(&cluster.api.query(cluster.nodes[at].ports.http, id).await) != Some(0) {
            missing.push(id.clone());
        }
    }
    missing
}

/// Nodes whose disks lose power under load, so many times: all together, or the leader's alone.
async fn power_cuts(name: &str, nodes: usize, times: usize, all: bool) {
    let _turn = turn().await;
    let dir = TempDir::new().expect("make a directory");
    let Some((mut disks, data)): Option<(Vec<Disk>, Vec<PathBuf>)> = Disk::several(dir.path(), nodes, 512 * MIB) else {
        return;
    };
    let more = "[storage]\nlog_segment_bytes = 8388608\ncheckpoint_interval_ms = 200\n";
    let mut cluster = Cluster::with_data(dir, &data, more);
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let mut trial = Trial::start(cluster, Sink::start().await);
    for round in 0..times {
        sleep_ms(900 + 173 * (round as u64 % 7)).await;
        let (leader, term) = trial.cluster.leader().await;
        let cut: Vec<usize> = (0..nodes).filter(|at| all || *at == leader).collect();
        cut.iter().for_each(|at| disks[*at].cut_power());
        cut.iter().for_each(|at| trial.cluster.nodes[*at].kill());
        for at in &cut {
            disks[*at].again().await;
        }
        if !all {
            first_fire_after(&trial.sink, term).await;
        }
        for at in &cut {
            trial.cluster.nodes[*at].spawn();
        }
        assert!(trial.cluster.all_ready(READY_MAX).await, "round {round}");
    }
    sleep_ms(300).await;
    trial.check(name, times, "").await;
    let missing = missing(&trial.cluster, 0, &trial.load.standing()).await;
    // The nodes end before their disks go.
    drop(trial);
    drop(disks);
    assert!(missing.is_empty(), "{} tasks are gone: {:?}", missing.len(), &missing[..missing.len().min(5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_of_a_single_node() {
    power_cuts("power cut of a single node", 1, rounds(3, 20), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_of_the_leader() {
    power_cuts("power cut of the leader of three", 3, rounds(1, 20), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_of_all() {
    power_cuts("power cut of all three", 3, rounds(1, 20), true).await;
}
