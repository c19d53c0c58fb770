//! Writes that come again, and limits on tasks: what is asked where all replicas agree on the answer.

#![allow(clippy::unwrap_used, reason = "most of it is what tests have in common")]

mod support;

use std::time::Duration;

use futures::future::join_all;
use serde_json::{json, Value};
use support::{node_with, once, until, with, Client, Cluster, TestNode};
use xcron::clock::Clock;
use xcron::command::{Command, Encoded, Reply, WriteId};
use xcron::raft::wire::{ProposeAnswer, ProposeRequest};
use xcron::raft::Links;

const NOWHERE: &str = "http://127.0.0.1:9/never";
const FAR_MS: u64 = 3_600_000;

fn named(id: &str) -> Value {
    with(once(NOWHERE, FAR_MS), json!({"task_id": id}))
}

/// Forwards commands to a leader, as the follower that took the calls.
struct Forwarder {
    links: Links,
    address: String,
    term: u64,
}

impl Forwarder {
    async fn of(cluster: &Cluster) -> Forwarder {
        let leader = cluster.node(cluster.leader().await);
        let sender = cluster.node(cluster.followers().await[0]);
        let machine = |node: &TestNode| node.server().node().machine().clone();
        let cluster_id = until("a cluster", || async { machine(leader).with_state(|s| s.cluster()) }).await;
        let claim = || async { machine(sender).with_state(|s| s.claims().get(&sender.id()).copied()) };
        let store = until("its claim", claim).await;
        let links = Links::new(Clock::system(), Duration::from_secs(1));
        links.settle(store, &[], Box::new(|_| None));
        links.introduce(sender.id(), Some(cluster_id));
        let term = leader.server().node().watch().borrow().as_ref().unwrap().current_term;
        let address = format!("{}:{}", leader.config.bind, leader.config.peer_port);
        Forwarder { links, address, term }
    }

    async fn forward(&self, name: WriteId, command: &Command) -> Reply {
        let bytes = Encoded::of(command).unwrap().into_bytes();
        let request = ProposeRequest { commands: vec![(Some(name), bytes)], term: self.term, timeout_ms: 5000 };
        let call = self.links.call::<_, ProposeAnswer>(&self.address, "propose", &request, Duration::from_secs(5));
        call.await.unwrap().unwrap().pop().unwrap()
    }
}

/// A follower that gets no answer sends the write again. Meanwhile others have written.
#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_write_that_comes_again_undoes_nothing_that_others_wrote() {
    let mut cluster = Cluster::three().await;
    let (forwarder, leader) = (Forwarder::of(&cluster).await, cluster.leader().await);
    let name = |number| WriteId { process: 1, number, after: 0 };
    let id = |id: &str| id.parse().unwrap();
    let client = cluster.client(leader);
    client.create(&named("kept")).await;
    client.create(&named("stopped")).await;

    let delete = Command::Delete { id: id("kept") };
    assert_eq!(forwarder.forward(name(1), &delete).await, Reply::Done);
    client.create(&named("kept")).await;
    assert_eq!(forwarder.forward(name(1), &delete).await, Reply::Done);
    assert_eq!(client.task("kept").await["state"], "active");

    let pause = Command::Pause { id: id("stopped") };
    let paused = forwarder.forward(name(2), &pause).await;
    client.post("/xcron/resumeTask", &json!({"task_id": "stopped"})).await.ok();
    assert_eq!(forwarder.forward(name(2), &pause).await, paused);
    assert_eq!(client.task("stopped").await["state"], "active");

    let trigger = Command::Trigger { id: id("stopped") };
    let triggered = forwarder.forward(name(3), &trigger).await;
    assert!(matches!(triggered, Reply::Triggered { .. }), "{triggered:?}");
    assert_eq!(forwarder.forward(name(3), &trigger).await, triggered);
    assert_eq!(client.runs("stopped").await.len(), 1);

    // The next leader knows the names too, and so does a node that has begun again from what it stores.
    let restarted = cluster.followers().await[0];
    cluster.stop(restarted).await;
    cluster.start(restarted).await;
    cluster.node(restarted).await_ready().await;
    cluster.level().await;
    cluster.crash(leader).await;
    let next = until("another leader", || async {
        let firing = |(_, node): &(usize, &TestNode)| node.server().node().may_fire().is_some();
        cluster.running().find(firing).map(|(i, _)| i)
    });
    let next = next.await;
    let forwarder = Forwarder::of(&cluster).await;
    assert_eq!(forwarder.forward(name(1), &delete).await, Reply::Done);
    assert_eq!(forwarder.forward(name(3), &trigger).await, triggered);
    assert_eq!(cluster.client(next).task("kept").await["state"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leads_itself_keeps_no_names() {
    let (_dir, node) = node_with(|_| {}).await;
    node.client.create(&named("a")).await;
    node.client.delete("a").await.ok();
    assert_eq!(node.server().node().machine().with_state(|state| state.named_writes()), 0);
}

async fn codes(client: &Client, tasks: Vec<Value>) -> Vec<u64> {
    let data = client.post("/xcron/createTasks", &json!({"tasks": tasks})).await.ok();
    data["results"].as_array().unwrap().iter().map(|result| result["code"].as_u64().unwrap()).collect()
}

/// The limit is asked for each task as it is written.
#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_of_tasks_one_that_exists_is_answered_and_no_more_are_made() {
    let (_dir, node) = node_with(|c| c.limits.tasks_max = 3).await;
    let client = &node.client;
    let first = client.post("/xcron/createTask", &named("a")).await.ok();
    client.create(&named("b")).await;
    let many = (0..10).map(|n| named(&format!("many{n}"))).chain([named("a")]).collect();
    let mut taken = codes(client, many).await;
    assert_eq!(taken.pop(), Some(0), "it exists");
    assert_eq!((taken[0], &taken[1..]), (0, &[1070; 9][..]));
    assert_eq!(client.post("/xcron/createTask", &named("a")).await.ok(), first);
    let other = with(named("a"), json!({"name": "another"}));
    client.post("/xcron/createTask", &other).await.is(1041, 409, "another");
    let refused = client.post("/xcron/createTask", &once(NOWHERE, FAR_MS)).await;
    refused.is(1070, 429, "3");
    assert!(refused.headers.contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_at_the_same_time_on_each_node_do_not_exceed_the_limit_of_tasks() {
    let cluster = Cluster::three_with(|c| c.limits.tasks_max = 2).await;
    let creates = (0..30).map(|n| {
        let client = cluster.client(n % 3);
        async move { client.post("/xcron/createTask", &named(&format!("t{n}"))).await.code }
    });
    let codes = join_all(creates).await;
    let made = codes.iter().filter(|code| **code == 0).count();
    assert!(made == 2 && codes.iter().all(|code| [0, 1070].contains(code)), "{codes:?}");
    assert_eq!(cluster.client(0).pages("/xcron/listTasks?limit=100", "tasks").await.len(), 2);
}

/// The answer of the first time.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_created_again_is_answered_as_the_first_time() {
    let (_dir, node) = node_with(|_| {}).await;
    let client = &node.client;
    let soon = with(once(NOWHERE, 300), json!({"task_id": "soon", "retry": {"max_attempts": 1}}));
    let first = client.post("/xcron/createTask", &soon).await.ok();
    assert!(first["next_time"].is_u64(), "{first}");
    client.await_task("soon", "its end", |task| task["state"] == "finished").await;
    assert_eq!(client.post("/xcron/createTask", &soon).await.ok(), first);
    let paused = client.post("/xcron/createTask", &named("paused")).await.ok();
    client.post("/xcron/pauseTask", &json!({"task_id": "paused"})).await.ok();
    assert_eq!(client.post("/xcron/createTask", &named("paused")).await.ok(), paused);
}

/// A receiver of alerts that is dead keeps no task beyond its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_finished_task_goes_when_its_time_is_over_though_its_alert_was_not_taken() {
    let (_dir, node) = node_with(|c| c.callback.hold_after = 1).await;
    let more = json!({"task_id": "a", "retain_s": 1, "retry": {"max_attempts": 1}, "alert": {"url": NOWHERE}});
    node.client.create(&with(once(NOWHERE, 100), more)).await;
    let finished = || async {
        let state = node.server().node().machine().with_state(|s| s.task(1).map(|task| task.past.open.len()));
        (state == Some(1)).then_some(())
    };
    until("an alert that waits", finished).await;
    let gone = || async { (node.client.get("/xcron/queryTask?task_id=a").await.code == 1040).then_some(()) };
    until("its end", gone).await;
    let counted = || async {
        let (_, _, metrics) = node.monitor.plain("/metrics").await;
        metrics.contains("xcron_alerts_dropped_total 1").then_some(())
    };
    until("its count", counted).await;
}
