//! Who leads, and who does not: after a start, with a wrong clock, while others read, and when the leader stops.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{json, Value};
use support::{named, once, until, Client, Cluster, Sink};
use uuid::Uuid;
use xcron::clock::{monotonic, Clock};
use xcron::raft::wire::Status;
use xcron::raft::Links;

const NOWHERE: &str = "http://127.0.0.1:9/never";
const HOUR_MS: i64 = 3_600_000;

/// Clients that read through this node as fast as they are answered, until they are stopped.
struct Readers(Arc<AtomicBool>, Vec<tokio::task::JoinHandle<()>>);

impl Readers {
    fn start(client: &Client, id: &str) -> Readers {
        let stop: Arc<AtomicBool> = Arc::default();
        let readers = (0..2).map(|_| {
            let (client, stop, path) = (client.clone(), stop.clone(), format!("/xcron/queryTask?task_id={id}"));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.get(&path).await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        });
        let readers = readers.collect();
        Readers(stop, readers)
    }

    async fn stop(self) {
        self.0.store(true, Ordering::Relaxed);
        for reader in self.1 {
            reader.await.unwrap();
        }
    }
}

/// Finding: reads kept a leader in office that neither wrote nor fired, for as long as there were any.
#[tokio::test(flavor = "multi_thread")]
async fn reads_do_not_keep_an_unfit_leader_in_office() {
    let cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let follower = cluster.followers().await[0];
    let id = cluster.client(leader).create(&once(NOWHERE, HOUR_MS as u64)).await;
    let readers = Readers::start(cluster.client(follower), &id);
    let began = monotonic();
    cluster.node(leader).clock.shift(HOUR_MS);
    let next = until("another leader", || async {
        cluster
            .running()
            .map(|(i, _)| i)
            .find(|i| *i != leader && cluster.node(*i).server().node().may_fire().is_some())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    cluster.client(follower).create(&once(NOWHERE, HOUR_MS as u64)).await;
    assert_ne!(next, leader);
    readers.stop().await;
    // It says so itself.
    let (status, _, why) = cluster.node(leader).monitor.plain("/readyz").await;
    assert!(status == 503 && why.contains("clock"), "{status} {why}");
}

/// Finding: after a start of all nodes the leader fired an hour's runs at once, before its clock was compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_with_a_wrong_clock_fires_nothing() {
    let mut cluster = Cluster::three().await;
    let sink = Sink::start().await;
    let tasks: Vec<Value> = (0..50).map(|i| named(once(&sink.url("/"), 600_000), &format!("t{i}"))).collect();
    let old = cluster.leader().await;
    cluster.client(old).create_all(&tasks).await;
    cluster.level().await;
    for i in 0..3 {
        cluster.crash(i).await;
    }
    let ahead = Clock::system();
    ahead.shift(HOUR_MS);
    cluster.start_at(old, ahead).await;
    for i in (0..3).filter(|i| *i != old) {
        cluster.start(i).await;
    }
    let leader = cluster.leader().await;
    assert_ne!(leader, old, "its clock is wrong");
    cluster.client(leader).create(&named(once(&sink.url("/"), 500), "now")).await;
    sink.await_of("now", 1).await;
    assert_eq!(sink.count(), 1, "callbacks came early");
}

/// A leader that stops names its successor. Were it to fall silent alone, the others would miss it after five seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_is_followed_at_once_and_no_write_is_refused() {
    let mut cluster = Cluster::three_with(|config| {
        (config.raft.election_timeout_min_ms, config.raft.election_timeout_max_ms) = (5_000, 10_000);
    })
    .await;
    let old = cluster.leader().await;
    let follower = cluster.followers().await[0];
    let id = cluster.client(old).create(&once(NOWHERE, HOUR_MS as u64)).await;
    let readers = Readers::start(cluster.client(follower), &id);
    let stop: Arc<AtomicBool> = Arc::default();
    let writer = {
        let (client, stop) = (cluster.client(follower).clone(), stop.clone());
        tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let began = monotonic();
                client.create(&once(NOWHERE, HOUR_MS as u64)).await;
                slowest = slowest.max(began.elapsed());
            }
            slowest
        })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.stop(old).await;
    let leader = cluster.leader().await;
    stop.store(true, Ordering::Relaxed);
    let slowest = writer.await.unwrap();
    readers.stop().await;
    assert_ne!(leader, old);
    assert!(slowest < Duration::from_secs(3), "a write took {slowest:?}");
}

/// A node whose clock has not been compared with those of a majority does not say that it can serve.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_of_three_is_not_ready() {
    let mut cluster = Cluster::three().await;
    cluster.level().await;
    for i in 0..3 {
        cluster.crash(i).await;
    }
    cluster.start(0).await;
    let why = until("an answer", || async {
        let (status, _, why) = cluster.node(0).monitor.plain("/readyz").await;
        (status == 503).then_some(why)
    })
    .await;
    assert!(why.contains("compared"), "{why}");
    cluster.start(1).await;
    cluster.node(0).await_ready().await;
    cluster.client(0).post("/xcron/createTask", &json!(once(NOWHERE, 1000))).await.ok();
}

/// A leader that is not quite well gives way to a peer that is better off. One that stops is not: it will not lead, and the
/// cluster waited an election timeout for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_is_nobodys_better_leader() {
    let cluster = Cluster::three().await;
    let stops = cluster.followers().await[0];
    let config = &cluster.configs[stops];
    let address = format!("{}:{}", config.bind, config.peer_port);
    let links = Links::new(Clock::system(), Duration::from_secs(5));
    links.settle(Uuid::from_u128(7), &[], Box::new(|_| None));
    let fault = async || {
        let status = links.call::<_, Status>(&address, "status", &(), Duration::from_secs(5)).await;
        status.expect("an answer").fault
    };
    until("it is well", || async { (fault().await == 0).then_some(()) }).await;
    cluster.node(stops).server().node().stop().await;
    assert_eq!(fault().await, u8::MAX, "nothing that can be wrong with a leader is worse");
}
