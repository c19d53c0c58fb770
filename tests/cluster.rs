//! Three nodes: forming, agreeing, forwarding, and what remains when some of them go.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{json, Value};
use support::{assert_distinct, eventually, now, once, pass, periodic, until, with, Cluster, Hit, Sink, TestNode};
use xcron::clock::{monotonic, Clock};
use xcron::command::{Command, Encoded, Reply};
use xcron::node::JoinError;
use xcron::raft::wire::{ProposeAnswer, ProposeRequest, Refused};
use xcron::raft::Links;
use xcron::server::Error;
use xcron::view::RunFilter;

const NOWHERE: &str = "http://127.0.0.1:9/never";
const FAR_MS: u64 = 3_600_000;

fn named(task: Value, id: &str) -> Value {
    with(task, json!({"task_id": id}))
}

/// That each task has fired, as one run, never early.
async fn fired_as_one_run_each(sink: &Sink, ids: &[String]) {
    for id in ids {
        let hits = sink.await_of(id, 1).await;
        let runs: BTreeSet<&str> = hits.iter().map(Hit::run).collect();
        assert_eq!(runs.len(), 1, "{id}: one due time is one run");
        for hit in &hits {
            hit.lateness_ms();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_forms_in_any_order_and_with_two_of_three() {
    for order in [[0, 1, 2], [2, 0, 1]] {
        let mut cluster = Cluster::new(3, |_| {});
        cluster.start(order[0]).await;
        pass(300).await;
        assert_eq!(cluster.node(order[0]).monitor.plain("/readyz").await.0, 503, "one of three is no cluster");
        cluster.start(order[1]).await;
        let id = cluster.client(order[0]).create(&once(NOWHERE, FAR_MS)).await;
        cluster.start(order[2]).await;
        cluster.node(order[2]).await_ready().await;
        assert_eq!(cluster.client(order[2]).task(&id).await["task_id"], id.as_str());
        let ids: BTreeSet<u64> = cluster.running().map(|(_, node)| node.id()).collect();
        assert_eq!(ids, BTreeSet::from([1, 2, 3]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_writes_and_shows_what_was_written_through_another() {
    let cluster = Cluster::three().await;
    let sink = Sink::start().await;
    for round in 0..5 {
        for writer in 0..3 {
            let id = format!("t{round}-{writer}");
            cluster.client(writer).create(&named(once(NOWHERE, FAR_MS), &id)).await;
            for reader in 0..3 {
                assert_eq!(cluster.client(reader).task(&id).await["task_id"], id.as_str());
            }
            cluster.client((writer + 1) % 3).delete(&id).await.ok();
            let gone = cluster.client((writer + 2) % 3).get(&format!("/xcron/queryTask?task_id={id}")).await;
            gone.is(1040, 404, "task");
        }
    }
    // A task of each node fires once, and all agree on what became of it.
    for i in 0..3 {
        cluster.client(i).create(&named(once(&sink.url("/"), 200), &format!("f{i}"))).await;
    }
    for i in 0..3 {
        let id = format!("f{i}");
        sink.await_of(&id, 1).await;
        let task = cluster.client(0).await_task(&id, "its run", |t| t["run_count"] == 1).await;
        assert_eq!((&task["state"], &task["last_run"]["state"]), (&json!("finished"), &json!("succeeded")));
        for j in 1..3 {
            assert_eq!(cluster.client(j).task(&id).await, task);
            assert_eq!(cluster.client(j).runs(&id).await, cluster.client(0).runs(&id).await);
        }
    }
    pass(500).await;
    assert_eq!(sink.count(), 3);
    // Conflicts and limits are the same everywhere.
    for i in 0..3 {
        let other = named(once(NOWHERE, 5), "f0");
        cluster.client(i).post("/xcron/createTask", &other).await.is(1041, 409, "task_id");
        let past = json!({"type": 2, "format": "1000000000", "callback": {"url": NOWHERE}});
        cluster.client(i).post("/xcron/createTask", &past).await.is(1002, 400, "past");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_agree_on_who_is_who() {
    let cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let leader_id = cluster.node(leader).id();
    let mut cluster_ids = BTreeSet::new();
    for i in 0..3 {
        let view = until("a whole view", || async {
            let view = cluster.client(i).get("/xcron/cluster").await.ok();
            let whole = view["cluster_id"].is_string()
                && view["nodes"].as_array()?.iter().all(|n| n["lag"] == 0 && n["version"].is_string());
            whole.then_some(view)
        })
        .await;
        assert_eq!((&view["leader"], &view["node"]), (&json!(leader_id), &json!(cluster.node(i).id())));
        cluster_ids.insert(view["cluster_id"].as_str().unwrap().to_owned());
        let roles: Vec<&str> = view["nodes"].as_array().unwrap().iter().map(|n| n["role"].as_str().unwrap()).collect();
        assert_eq!(roles.iter().filter(|r| **r == "leader").count(), 1);
        assert_eq!(roles.iter().filter(|r| **r == "follower").count(), 2, "{roles:?}");
        for node in view["nodes"].as_array().unwrap() {
            assert!(node["voter"] == true && node["clock_offset_ms"].as_i64().unwrap().abs() < 1000, "{node}");
        }
    }
    assert_eq!(cluster_ids.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_dies_another_fires_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::three().await;
    let sink = Sink::start().await;
    let old = cluster.leader().await;
    let near: Vec<Value> = (0..100).map(|i| named(once(&sink.url("/"), 1000 + 10 * i), &format!("n{i}"))).collect();
    let ids = cluster.client(old).create_all(&near).await;
    cluster.client(old).create(&named(periodic(&sink.url("/"), "* * * * * *"), "p")).await;
    cluster.client(old).create(&named(once(&sink.url("/"), 1500), "deleted")).await;
    cluster.client(old).delete("deleted").await.ok();
    sink.await_count(10).await;
    cluster.crash(old).await;

    let leader = cluster.leader().await;
    assert_ne!(leader, old);
    fired_as_one_run_each(&sink, &ids).await;
    for id in &ids {
        cluster.client(leader).await_task(id, "an outcome", |t| t["run_count"] == 1).await;
    }
    assert!(sink.of("deleted").is_empty(), "a deleted task stays deleted");
    // The periodic one goes on, and no due time is left out.
    let so_far = sink.of("p").len();
    let hits = sink.await_of("p", so_far + 2).await;
    let dues: BTreeSet<u64> = hits.iter().map(Hit::due_ms).collect();
    let (first, last) = (dues.first().unwrap(), dues.last().unwrap());
    assert_eq!(dues.len() as u64, (last - first) / 1000 + 1, "{dues:?}");
    let runs: BTreeSet<&str> = hits.iter().map(Hit::run).collect();
    assert_eq!(runs.len(), dues.len(), "the same due time is the same run, whoever sends it");
    let terms: BTreeSet<u64> = hits.iter().map(|h| h.fence().0).collect();
    assert!(terms.len() >= 2, "the fence tells the leaders apart: {terms:?}");

    // The one that comes back catches up, and can lead.
    cluster.start(old).await;
    cluster.node(old).await_ready().await;
    for id in &ids {
        assert_eq!(cluster.client(old).task(id).await["run_count"], 1);
    }
    cluster.client(old).get("/xcron/queryTask?task_id=deleted").await.is(1040, 404, "task");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_in_order() {
    let mut cluster = Cluster::three().await;
    let sink = Sink::start().await;
    let old = cluster.leader().await;
    let tasks: Vec<Value> = (0..60).map(|i| named(once(&sink.url("/"), 500 + 50 * i), &format!("n{i}"))).collect();
    let ids = cluster.client(old).create_all(&tasks).await;
    sink.await_count(5).await;
    let began = monotonic();
    cluster.stop(old).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let leader = cluster.leader().await;
    assert_ne!(leader, old);
    fired_as_one_run_each(&sink, &ids).await;
    cluster.client(leader).create(&once(NOWHERE, FAR_MS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_all_at_once_loses_nothing() {
    let mut cluster = Cluster::three().await;
    let sink = Sink::start().await;
    let tasks: Vec<Value> = (0..50).map(|i| named(once(&sink.url("/"), 2500), &format!("n{i}"))).collect();
    let ids = cluster.client(0).create_all(&tasks).await;
    let (a, b, c) = (cluster.nodes[0].take(), cluster.nodes[1].take(), cluster.nodes[2].take());
    tokio::join!(a.unwrap().crash(), b.unwrap().crash(), c.unwrap().crash());
    for i in 0..3 {
        cluster.start(i).await;
    }
    fired_as_one_run_each(&sink, &ids).await;
    for i in 0..3 {
        let listed = cluster.client(i).pages("/xcron/listTasks?limit=20", "tasks").await;
        assert_eq!(listed.len(), ids.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_alone_first_does_not_know_and_then_refuses_and_fires_nothing() {
    let change = |c: &mut xcron::config::Config| {
        (c.raft.election_timeout_min_ms, c.raft.election_timeout_max_ms) = (1500, 3000);
        c.limits.request_timeout_ms = 1000;
    };
    let mut cluster = Cluster::three_with(change).await;
    let sink = Sink::start().await;
    let (mut n, mut refused) = (0, vec!["refused".to_owned()]);
    let (leader, followers, at, due, task) = loop {
        let leader = cluster.leader().await;
        let (at, due) = ((now().as_secs() + 8).to_string(), format!("due{n}"));
        let body = json!({"type": 2, "format": at, "task_id": due, "callback": {"url": sink.url("/")}});
        cluster.client(leader).create(&body).await;
        let followers = cluster.followers().await;
        let (a, b) = (cluster.nodes[followers[0]].take(), cluster.nodes[followers[1]].take());
        let crashes = tokio::spawn(async { tokio::join!(a.unwrap().crash(), b.unwrap().crash()) });

        // Its lease still runs: it writes, and nobody confirms.
        let (task, answer) = loop {
            let task = named(once(NOWHERE, FAR_MS), &format!("unknown{n}"));
            let answer = cluster.client(leader).post("/xcron/createTask", &task).await;
            n += 1;
            // They may not have ended yet.
            if answer.code != 0 {
                break (task, answer);
            }
        };
        crashes.await.unwrap();
        if answer.code == 1051 {
            answer.is(1051, 504, "unknown");
            break (leader, followers, at, due, task);
        }
        // The machine was so busy that the lease was over by then, and it does know: once more.
        answer.is(1050, 503, "no leader");
        refused.push(task["task_id"].as_str().unwrap().to_owned());
        for follower in followers {
            cluster.start(follower).await;
        }
        assert!(refused.len() < 10, "the lease is over each time");
    };
    let client = cluster.client(leader);
    let generated = client.post("/xcron/createTask", &once(NOWHERE, FAR_MS)).await;
    if generated.code == 1051 {
        generated.is(1051, 504, "retry with the task_id");
    }
    until("the end of the lease", || async { cluster.node(leader).server().node().may_fire().is_none().then_some(()) })
        .await;
    for _ in 0..2 {
        let began = monotonic();
        let answer = client.post("/xcron/createTask", &named(once(NOWHERE, FAR_MS), "refused")).await;
        answer.is(1050, 503, "no leader");
        client.get(&format!("/xcron/queryTask?task_id={due}")).await.is(1050, 503, "no leader");
        assert!(began.elapsed() < Duration::from_secs(4));
    }
    assert_eq!(cluster.node(leader).monitor.plain("/readyz").await.0, 503);
    let until_due = (at.parse::<u64>().unwrap() * 1000 + 700).saturating_sub(now().as_ms());
    pass(until_due).await;
    assert_eq!(sink.of(&due).len(), 0, "alone it fires nothing");

    // It recovers by itself, and what is sent again exists once.
    cluster.start(followers[0]).await;
    sink.await_of(&due, 1).await;
    cluster.client(leader).post("/xcron/createTask", &task).await.ok();
    let listed = cluster.client(leader).pages("/xcron/listTasks?limit=2", "tasks").await;
    let ids: Vec<&str> = listed.iter().map(|t| t["task_id"].as_str().unwrap()).collect();
    assert_eq!(ids.iter().filter(|id| task["task_id"] == **id).count(), 1, "{ids:?}");
    assert!(!refused.iter().any(|id| ids.contains(&id.as_str())), "1050: nothing was written: {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_missed_a_purge_gets_a_snapshot_and_can_lead() {
    let mut cluster = Cluster::three_with(|c| c.raft.snapshot_log_bytes = 1 << 20).await;
    let sink = Sink::start().await;
    let away = cluster.followers().await[0];
    cluster.client(away).create(&named(once(NOWHERE, FAR_MS), "before")).await;
    cluster.level().await;
    cluster.crash(away).await;
    let leader = cluster.leader().await;
    let body = "x".repeat(100_000);
    let mut ids = Vec::new();
    // One by one, since the log is purged by whole entries; on, until the first of them have gone.
    let purged = |node: &TestNode| {
        std::fs::read_dir(node.dir().join("log"))
            .unwrap()
            .all(|f| !f.unwrap().file_name().to_string_lossy().starts_with("0000000001."))
    };
    for i in 0.. {
        let task = with(
            once(NOWHERE, FAR_MS),
            json!({"task_id": format!("b{i}"), "callback": {"url": NOWHERE, "body": body}}),
        );
        ids.push(cluster.client(leader).create(&task).await);
        let of_others = cluster.running().all(|(_, node)| purged(node));
        if i >= 30 && of_others {
            break;
        }
        assert!(i < 400, "the log is never purged");
        if i % 20 == 19 {
            pass(600).await;
        }
    }
    cluster.client(leader).delete("before").await.ok();
    cluster.start(away).await;
    cluster.node(away).await_ready().await;
    cluster.level().await;
    let machine = cluster.node(away).server().node().machine().clone();
    eventually("a snapshot of the size of what it holds", || machine.snapshot_bytes() > 1_000_000).await;
    drop(machine);

    // Made to lead by taking the other that could, and with it what only it has.
    let other = (0..3).find(|i| *i != away && *i != leader).unwrap();
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    if next != away {
        assert_eq!(next, other);
        cluster.start(leader).await;
        cluster.node(leader).await_ready().await;
        cluster.level().await;
        cluster.crash(other).await;
    }
    let last = cluster.leader().await;
    for id in &ids {
        let task = cluster.client(away).task(id).await;
        assert_eq!(task["callback"]["body"].as_str().unwrap(), body);
    }
    cluster.client(away).get("/xcron/queryTask?task_id=before").await.is(1040, 404, "task");
    let id = cluster.client(away).create(&once(&sink.url("/"), 0)).await;
    sink.await_of(&id, 1).await;
    assert_ne!(last, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_comes_back_empty_is_refused_and_never_votes() {
    let mut cluster = Cluster::three().await;
    let id = cluster.client(0).create(&once(NOWHERE, FAR_MS)).await;
    until("every member's claim", || async {
        let of = |node: &TestNode| node.server().node().machine().with_state(|s| s.claims().len());
        cluster.running().all(|(_, node)| of(node) == 3).then_some(())
    })
    .await;
    let victim = cluster.followers().await[0];
    cluster.crash(victim).await;
    std::fs::remove_dir_all(cluster.path(victim)).unwrap();
    cluster.start(victim).await;
    let error = cluster.node_mut(victim).failed().await;
    assert!(matches!(error, Error::Join(JoinError::Taken { .. })), "{error}");
    assert!(error.to_string().contains("addNode"), "it tells what to do: {error}");
    assert_eq!(cluster.node(victim).monitor.plain("/readyz").await.0, 503);

    // With it there would be a majority. It must not count.
    let leader = cluster.leader().await;
    let third = (0..3).find(|i| *i != victim && *i != leader).unwrap();
    cluster.crash(leader).await;
    pass(1500).await;
    assert!(cluster.node(third).server().node().may_fire().is_none(), "an empty store has voted");
    cluster.start(leader).await;
    cluster.node(leader).await_ready().await;
    assert_eq!(cluster.client(leader).task(&id).await["task_id"], id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forwarded_under_load_is_written_once_each_while_leaders_change() {
    let mut cluster = Cluster::three().await;
    let leader = cluster.leader().await;
    let followers = cluster.followers().await;
    let clients: Vec<_> = followers.iter().map(|i| cluster.client(*i).clone()).collect();
    let load: Vec<_> = (0..16)
        .map(|worker| {
            let client = clients[worker % 2].clone();
            tokio::spawn(async move {
                let mut kept = Vec::new();
                for i in 0..25 {
                    let id = format!("w{worker}-{i}");
                    let task = named(once(NOWHERE, FAR_MS), &id);
                    let answer = until("an acknowledged write", || async {
                        let answer = client.post("/xcron/createTask", &task).await;
                        assert!([0, 1050, 1051].contains(&answer.code), "{}", answer.json);
                        (answer.code == 0).then_some(())
                    });
                    answer.await;
                    if i % 5 == 0 {
                        let answer = client.delete(&id).await;
                        assert!([0, 1040, 1050, 1051].contains(&answer.code), "{}", answer.json);
                        if answer.code == 0 {
                            client.get(&format!("/xcron/queryTask?task_id={id}")).await.is(1040, 404, "task");
                        }
                    } else {
                        kept.push(id);
                    }
                }
                kept
            })
        })
        .collect();
    pass(150).await;
    cluster.crash(leader).await;
    let mut kept = Vec::new();
    for worker in load {
        kept.extend(worker.await.unwrap());
    }
    cluster.start(leader).await;
    cluster.node(leader).await_ready().await;
    cluster.level().await;
    for i in 0..3 {
        let listed = cluster.client(i).pages("/xcron/listTasks?limit=150", "tasks").await;
        let ids: Vec<String> = listed.iter().map(|t| t["task_id"].as_str().unwrap().to_owned()).collect();
        assert_distinct(ids.clone());
        let ids: BTreeSet<String> = ids.into_iter().collect();
        assert!(kept.iter().all(|id| ids.contains(id)), "node {i} misses something acknowledged");
    }
}

/// A peer that has given up on a leader may have sent the same to the next one, and told its caller that it is done.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_forwarded_to_the_leader_of_another_term_is_not_written() {
    let cluster = Cluster::three().await;
    let leader = cluster.node(cluster.leader().await);
    let id = leader.client.create(&once(NOWHERE, FAR_MS)).await;
    let term = leader.server().node().watch().borrow().as_ref().unwrap().current_term;
    // As a node of its cluster.
    let links = Links::new(Clock::system(), Duration::from_secs(1));
    let cluster_id =
        until("a cluster", || async { leader.server().node().machine().with_state(|s| s.cluster()) }).await;
    let sender = cluster.node(cluster.followers().await[0]);
    let store = until("its claim", || async {
        sender.server().node().machine().with_state(|s| s.claims().get(&sender.id()).copied())
    })
    .await;
    links.settle(store, &[], Box::new(|_| None));
    links.introduce(sender.id(), Some(cluster_id));
    let address = format!("{}:{}", leader.config.bind, leader.config.peer_port);
    let delete = |term| {
        let command = Encoded::of(&Command::Delete { id: id.parse().unwrap() }).unwrap();
        let request = ProposeRequest { commands: vec![(None, command.into_bytes())], term, timeout_ms: 5000 };
        let (links, address) = (links.clone(), address.clone());
        async move {
            let answer = links.call::<_, ProposeAnswer>(&address, "propose", &request, Duration::from_secs(5)).await;
            answer.unwrap()
        }
    };
    for other in [term - 1, term + 1] {
        assert_eq!(delete(other).await, Err(Refused::NotLeader));
        assert_eq!(leader.client.task(&id).await["task_id"], id.as_str());
    }
    assert_eq!(delete(term).await, Ok(vec![Reply::Done]));
    leader.client.get(&format!("/xcron/queryTask?task_id={id}")).await.is(1040, 404, "task");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_is_far_off_fires_nothing_and_another_does() {
    let mut cluster = Cluster::new(3, |c| c.raft.max_clock_skew_ms = 2000);
    let clocks: Vec<Clock> = (0..3).map(|_| Clock::system()).collect();
    for (i, clock) in clocks.iter().enumerate() {
        cluster.start_at(i, clock.clone()).await;
    }
    let leader = cluster.leader().await;
    let sink = Sink::start().await;
    let id = cluster.client(leader).create(&once(&sink.url("/"), 60_000)).await;
    clocks[leader].shift(3_600_000);
    until("another leader", || async {
        cluster.running().any(|(i, n)| i != leader && n.server().node().may_fire().is_some()).then_some(())
    })
    .await;
    assert!(cluster.node(leader).server().node().may_fire().is_none());
    let quick = cluster.client(leader).create(&once(&sink.url("/"), 100)).await;
    assert!(sink.await_of(&quick, 1).await[0].lateness_ms() < 2000, "stamped by the clock of the one that leads");
    assert!(sink.of(&id).is_empty(), "nothing fires an hour early");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_runs_goes_on_at_another_node_after_the_leader_has_died() {
    let mut cluster = Cluster::three().await;
    let sink = Sink::start().await;
    let leader = cluster.leader().await;
    let tasks: Vec<Value> = (0..300).map(|i| named(once(&sink.url("/"), 0), &format!("n{i}"))).collect();
    let ids = cluster.client(leader).create_all(&tasks).await;
    let total = |node: &TestNode| node.server().node().machine().with_state(|state| state.runs_total());
    eventually("all outcomes", || total(cluster.node(leader)) >= 300).await;
    let read = |page: &Value, seen: &mut Vec<String>| {
        seen.extend(page["runs"].as_array().unwrap().iter().map(|run| run["run_id"].as_str().unwrap().to_owned()));
        page["next_cursor"].as_str().map(|next| format!("&cursor={next}"))
    };
    let whole = cluster.client(leader).pages("/xcron/listRuns?limit=1000", "runs").await;
    let mut seen = Vec::new();
    let page = cluster.client(leader).get("/xcron/listRuns?limit=70").await.ok();
    let mut cursor = read(&page, &mut seen);
    cluster.crash(leader).await;

    let next = cluster.leader().await;
    let more: Vec<Value> = (0..80).map(|i| named(once(&sink.url("/"), 0), &format!("m{i}"))).collect();
    cluster.client(next).create_all(&more).await;
    for i in 0.. {
        let Some(at) = cursor else { break };
        let nodes: Vec<usize> = cluster.running().map(|(i, _)| i).collect();
        let page = cluster.client(nodes[i % 2]).get(&format!("/xcron/listRuns?limit=70{at}")).await.ok();
        cursor = read(&page, &mut seen);
    }
    let whole: Vec<&str> = whole.iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    assert_eq!((seen.len(), &seen), (300, &whole.iter().map(|id| (*id).to_owned()).collect()));

    // What is over is forgotten by each node, the one that comes back too.
    cluster.start(leader).await;
    eventually("all outcomes", || total(cluster.node(next)) >= 380).await;
    let left = |node: &TestNode| {
        let (mut below, mut entries) = (total(node) / 64 * 64, 0);
        // What is in memory and what is stored are steps of their own.
        while below > 0 {
            let step = node.server().node().machine().index_below(below, &RunFilter::default()).expect("it reads");
            entries += step.looked_at;
            below = step.next;
        }
        entries
    };
    assert!(left(cluster.node(next)) >= 320, "there is one so far");
    let made = ids.iter().map(String::as_str).chain(more.iter().filter_map(|task| task["task_id"].as_str()));
    for id in made {
        cluster.client(next).delete(id).await.ok();
    }
    eventually("no index of what is gone", || cluster.running().all(|(_, node)| left(node) == 0)).await;
}
