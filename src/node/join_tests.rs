//! Who takes part, and as whom.

use super::*;
use crate::clock::Clock;
use crate::command::Batch;
use crate::config::{Config, HostPort};
use crate::node::{elections, Queues};
use crate::raft::Payload;

const PATIENCE: Duration = Duration::from_secs(30);

/// A node that takes no part yet, and its directory.
fn open() -> (tempfile::TempDir, Node, Queues) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { raft_dir: dir.path().to_owned(), ..Config::default() };
    let own = HostPort { host: "127.0.0.1".to_owned(), port: 1 };
    let (node, queues) = Node::open(config, own, "127.0.0.1:2".to_owned(), Clock::system()).unwrap();
    (dir, node, queues)
}

#[tokio::test]
async fn a_node_that_starts_waits_for_no_peers_in_what_it_says() {
    let (_dir, node, _queues) = open();
    let reason = node.ready().unwrap_err();
    assert!(reason.starts_with("starting") && !reason.contains("peers"), "{reason}");
    node.join().await.unwrap();
    let reason = node.ready().err();
    assert!(reason.as_ref().is_none_or(|reason| !reason.contains("peers")), "{reason:?}");
    node.close().await;
}

#[tokio::test]
async fn a_raft_that_ends_without_a_word_ends_the_node() {
    let (_dir, node, queues) = open();
    let (raft, metrics) = watch::channel(raft::Metrics::new_initial(1));
    tokio::spawn(pass_on(metrics, node.clone()));
    let worker = node.clone();
    let work = tokio::spawn(async move { worker.work(queues).await });
    raft.send_replace(raft::Metrics { current_term: 7, ..raft::Metrics::new_initial(1) });
    node.watch().wait_for(|metrics| metrics.as_ref().is_some_and(|m| m.current_term == 7)).await.unwrap();
    assert!(!work.is_finished());
    drop(raft);
    let reason = tokio::time::timeout(Duration::from_secs(20), work).await.unwrap().unwrap();
    assert_eq!(reason, "Raft has ended");
    node.close().await;
}

#[tokio::test]
async fn an_identity_that_cannot_be_written_now_is_written_later() {
    let (dir, node, queues) = open();
    let in_the_way = dir.path().join("identity.tmp");
    std::fs::create_dir(&in_the_way).unwrap();
    let joining = node.clone();
    let joined = tokio::spawn(async move { joining.join().await });
    let waits = async {
        while !node.waits_for().contains("identity.tmp") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waits).await.unwrap();
    assert!(node.0.group.get().is_none(), "it takes no part before");
    std::fs::remove_dir(&in_the_way).unwrap();
    joined.await.unwrap().unwrap();
    std::fs::create_dir(&in_the_way).unwrap();
    let worker = node.clone();
    let work = tokio::spawn(async move { worker.work(queues).await });
    let until = async |holds: &dyn Fn() -> bool| {
        let polled = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), polled).await.unwrap();
    };
    until(&|| node.0.machine.with_state(|state| state.cluster().is_some())).await;
    let kept = || Identity::read(dir.path()).unwrap().unwrap().cluster.is_some();
    assert!(!kept() && node.0.machine.with_state(|state| state.claims().is_empty()));
    std::fs::remove_dir(in_the_way).unwrap();
    until(&|| node.is_founded()).await;
    assert!(kept() && !work.is_finished());
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_id_another_store_has_claimed_stops_and_says_whose_it_is() {
    let (_dir, node, queues) = open();
    // It leads before it can claim its id itself.
    let elections = tokio::spawn(elections::run(node.clone()));
    tokio::time::timeout(PATIENCE, node.join()).await.unwrap().unwrap();
    let mut group = node.watch();
    let leads = group.wait_for(|metrics| metrics.as_ref().is_some_and(|m| m.current_leader == Some(m.id)));
    drop(tokio::time::timeout(PATIENCE, leads).await.unwrap().unwrap());
    let (cluster, store) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let commands = vec![Command::FoundCluster { cluster }, Command::ClaimNode { node: node.id(), store }];
    let entry = Payload(Batch::of(node.now(), commands).encode().unwrap().into());
    let written = node.0.group.get().unwrap().client_write(entry);
    tokio::time::timeout(PATIENCE, written).await.unwrap().unwrap();
    elections.abort();

    let reason = tokio::time::timeout(PATIENCE, node.work(queues)).await.unwrap();
    assert_eq!(reason, format!("node 1 belongs to the store {store}, and this one is {}", node.0.store));
}
