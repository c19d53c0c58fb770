//! What a node's directory tells of the node: which store it is, with which log it has voted, and who may read it.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use openraft::{EntryPayload, RaftLogReader};
use support::{config, copy, once, pass, until, Cluster, TestNode};
use xcron::clock::{monotonic, Clock};
use xcron::command::{Batch, Command, Reply};
use xcron::config::{Config, Storage};
use xcron::raft::TypeConfig;
use xcron::storage::identity::Identity;
use xcron::storage::log::{Options, RaftLog};

const NOWHERE: &str = "http://127.0.0.1:9/never";
const FAR_MS: u64 = 3_600_000;

fn remove(path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
}

/// Why a node with this configuration does not start.
async fn refusal(config: Config) -> String {
    TestNode::try_start(config, Clock::system()).await.map(|_| "it starts").unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_lost_its_log_does_not_vote_as_its_old_self() {
    // No checkpoint is made while it runs, so that of the state nothing tells that there was a log.
    let mut cluster = Cluster::three_with(|config| config.storage.checkpoint_interval_ms = FAR_MS).await;
    cluster.client(0).create(&once(NOWHERE, FAR_MS)).await;
    cluster.level().await;
    let victim = cluster.followers().await[0];
    cluster.crash(victim).await;
    let dir = cluster.path(victim);
    remove(&dir.join("log"));
    let refused = refusal(cluster.configs[victim].clone()).await;
    assert!(refused.contains("votes and entries are lost") && refused.contains("addNode"), "{refused}");

    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "identity" {
            remove(&path);
        }
    }
    let refused = refusal(cluster.configs[victim].clone()).await;
    assert!(refused.contains("votes and entries are lost"), "{refused}");
    // A log of another node is no better.
    let other = cluster.followers().await.into_iter().find(|i| *i != victim).unwrap();
    cluster.crash(other).await;
    remove(&dir.join("log"));
    copy(&cluster.path(other).join("log"), &dir.join("log"));
    let refused = refusal(cluster.configs[victim].clone()).await;
    assert!(refused.contains("another one is there"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_log_is_refused_and_one_of_the_identity_is_corrected() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(config(dir.path())).await.ready().await;
    let id = node.client.create(&once(NOWHERE, FAR_MS)).await;
    let settings = node.stop().await;
    let older = tempfile::tempdir().unwrap();
    copy(dir.path(), older.path());

    let node = TestNode::start(settings.clone()).await.ready().await;
    assert_eq!(node.server().node().starts(), 2);
    node.stop().await;
    let newer = tempfile::tempdir().unwrap();
    copy(dir.path(), newer.path());
    remove(&dir.path().join("log"));
    copy(&older.path().join("log"), &dir.path().join("log"));
    let refused = refusal(settings.clone()).await;
    assert!(refused.contains("its Raft log is an older copy"), "{refused}");

    remove(&dir.path().join("log"));
    copy(&newer.path().join("log"), &dir.path().join("log"));
    std::fs::copy(older.path().join("identity"), dir.path().join("identity")).unwrap();
    let node = TestNode::start(settings).await.ready().await;
    assert_eq!(node.server().node().starts(), 3, "a start that was counted is not counted again");
    node.client.task(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_before_its_first_vote_starts() {
    let dir = tempfile::tempdir().unwrap();
    let settings = config(dir.path());
    let log = RaftLog::<TypeConfig>::open(&dir.path().join("log"), Options::default()).unwrap();
    let number = log.facts().number;
    log.note_start(1).await.unwrap();
    log.close();
    let peer = "127.0.0.1:0".to_owned();
    let identity = Identity { store: xcron::seam::uuid(), node: 1, peer, cluster: None, starts: 1, log: number };
    identity.write(dir.path()).unwrap();
    let node = TestNode::start(settings).await.ready().await;
    node.client.create(&once(NOWHERE, FAR_MS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_heard_the_answer_to_its_claim_claims_as_the_same_store() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.start(0).await;
    cluster.start(1).await;
    cluster.node(0).await_ready().await;
    until("a cluster that knows two of its members", || async {
        cluster
            .running()
            .all(|(_, node)| node.server().node().machine().with_state(|s| s.claims().len() == 2))
            .then_some(())
    })
    .await;
    cluster.crash(1).await;

    // Nobody leads, so that its claim gets no answer.
    cluster.start(2).await;
    let dir = cluster.path(2);
    let claiming = until("a store that is durable before it claims", || async { Identity::read(&dir).unwrap() }).await;
    assert_eq!(claiming.node, 0, "it has no place yet");
    cluster.crash(2).await;

    // Now its claim is granted, and nobody tells it.
    cluster.start(1).await;
    cluster.leader().await;
    let place = place(&cluster, 2);
    let claim = Command::ClaimNode { node: place, store: claiming.store };
    let reply = cluster.node(0).server().node().propose(claim, monotonic() + Duration::from_secs(30)).await;
    assert_eq!(reply, Ok(Reply::Done));
    cluster.start(2).await;
    cluster.node(2).await_ready().await;
    let joined = Identity::read(&dir).unwrap().unwrap();
    assert_eq!((joined.node, joined.store), (place, claiming.store));
}

/// The id of this node of a cluster that is formed by its list.
fn place(cluster: &Cluster, node: usize) -> u64 {
    let config = &cluster.configs[node];
    config.peers().iter().position(|peer| peer.port == config.peer_port).unwrap() as u64 + 1
}

/// The identity of this node while it asks for a place.
fn asking(cluster: &Cluster, node: usize) -> Identity {
    let config = &cluster.configs[node];
    let peer = format!("{}:{}", config.bind, config.peer_port);
    let identity = Identity { store: xcron::seam::uuid(), node: 0, peer, cluster: None, starts: 0, log: 7 };
    std::fs::create_dir_all(cluster.path(node)).unwrap();
    identity.write(&cluster.path(node)).unwrap();
    identity
}

/// A member that comes back empty before its store is known is taken for a new one.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_before_the_stores_of_a_majority_are_known() {
    let mut cluster = Cluster::new(3, |_| {});
    for i in 0..3 {
        cluster.start(i).await;
    }
    // A call tries again every 50 ms until there is a leader: these, one each millisecond.
    let create = async |ms: u64| {
        pass(ms).await;
        let client = cluster.client(ms as usize % 3);
        until("a task", || async {
            let answer = client.post("/xcron/createTask", &once(NOWHERE, FAR_MS)).await;
            (answer.code == 0).then_some(())
        })
        .await;
    };
    futures::future::join_all((0..60).map(create)).await;
    for i in 0..3 {
        cluster.crash(i).await;
    }
    let mut log = RaftLog::<TypeConfig>::open(&cluster.path(0).join("log"), Options::default()).unwrap();
    let entries = log.try_get_log_entries(0..).await.unwrap();
    let payloads = entries.into_iter().filter_map(|entry| match entry.payload {
        EntryPayload::Normal(payload) => Some(payload.0),
        _ => None,
    });
    let commands: Vec<Command> = payloads.flat_map(|bytes| Batch::decode(&bytes).unwrap().commands).collect();
    let first = commands.iter().position(|command| matches!(command, Command::Create { .. })).unwrap();
    let claims = commands[..first].iter().filter_map(|command| match command {
        Command::ClaimNode { node, .. } => Some(node),
        _ => None,
    });
    assert!(claims.collect::<BTreeSet<_>>().len() >= 2, "{:?}", &commands[..=first]);
}

/// Of the members of that cluster one may have lost its store, and be as empty as this one.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_asked_a_cluster_for_a_place_forms_no_other_one() {
    let mut cluster = Cluster::new(3, |_| {});
    asking(&cluster, 1);
    // The second one has the first one ask too, which then counts as one that knows a cluster.
    for (node, why) in [(1, "a member of the cluster that this node has asked"), (0, "the leader of the cluster that")]
    {
        cluster.start(node).await;
        until("a node that waits", || async {
            cluster.node(node).monitor.plain("/readyz").await.2.contains(why).then_some(())
        })
        .await;
    }
    assert!(cluster.running().all(|(_, node)| node.id() == 0));
}

/// A majority may be there only with the node that asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_granted_is_answered_without_a_leader() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.start(0).await;
    cluster.start(1).await;
    cluster.node(0).await_ready().await;
    let third = asking(&cluster, 2);
    let claim = Command::ClaimNode { node: place(&cluster, 2), store: third.store };
    let reply = cluster.node(0).server().node().propose(claim, monotonic() + Duration::from_secs(30)).await;
    assert_eq!(reply, Ok(Reply::Done));
    cluster.level().await;
    cluster.crash(1).await;
    cluster.start(2).await;
    cluster.node(2).await_ready().await;
    assert_eq!(cluster.node(2).id(), place(&cluster, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_directory_or_a_file_that_it_starts_from_is_moved_away_stops() {
    for part in ["", "log", "log/meta", "log/*.seg", "snapshots", "identity", "state-1"] {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("data");
        // So that it is not a checkpoint that finds it.
        let settings =
            Config { storage: Storage { checkpoint_interval_ms: FAR_MS, ..Storage::default() }, ..config(&dir) };
        let mut node = TestNode::start(settings).await.ready().await;
        node.client.create(&once(NOWHERE, FAR_MS)).await;
        // Nor the note of the cluster.
        until("a node that knows its cluster", || async { Identity::read(&dir).unwrap()?.cluster }).await;
        let part = match part.strip_suffix("/*.seg") {
            Some(log) => {
                let names = std::fs::read_dir(dir.join(log)).unwrap().map(|entry| entry.unwrap().path());
                names.into_iter().find(|path| path.extension().is_some_and(|end| end == "seg")).unwrap()
            }
            None => dir.join(part),
        };
        std::fs::rename(&part, base.path().join("elsewhere")).unwrap();
        let error = node.failed().await.to_string();
        assert!(error.contains("was removed while this node was using it"), "{}: {error}", part.display());
    }
}

/// A node that is killed before it hears the answer to its claim must come back as the same store.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_that_cannot_write_who_it_is_asks_for_its_place_later() {
    let mut cluster = Cluster::new(3, |_| {});
    for i in 0..2 {
        cluster.start(i).await;
    }
    cluster.node(0).await_ready().await;
    let late = cluster.path(2);
    let in_the_way = late.join("identity.tmp");
    std::fs::create_dir_all(&in_the_way).unwrap();
    cluster.start(2).await;
    until("the reason", || async {
        let (.., reason) = cluster.node(2).monitor.plain("/readyz").await;
        reason.contains("identity.tmp").then_some(())
    })
    .await;
    let claimed = cluster.node(0).server().node().machine().with_state(|state| state.claims().len());
    assert_eq!(claimed, 2, "it asks for a place before its store is durable");
    std::fs::remove_dir(in_the_way).unwrap();
    cluster.node(2).await_ready().await;
}

/// What leads on depends on whether others know the node by the old address.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_address_stops_and_is_told_what_leads_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.advertise = "here.example:8899".to_owned();
    let config = TestNode::start(config).await.ready().await.stop().await;
    let moved = Config { advertise: "there.example:8899".to_owned(), ..config };
    let mut node = TestNode::start(moved).await;
    let reason = node.failed().await.to_string();
    for part in [
        "belongs to the node here.example:8899, and this one is there.example:8899",
        "A node of a cluster keeps its address: give it back the old one",
        "names in `peer_hosts` can move to another address",
        "For a single node, `advertise = \"here.example:8899\"` will do",
        "If the directory is a copy of another node's, start with an empty one",
    ] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
}
