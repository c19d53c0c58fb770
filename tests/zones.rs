//! Builds with different time zone data in one cluster: whose rules count, and what becomes of the due times when newer
//! data take over.

mod support;

use serde_json::{json, Value};
use support::{named, now, periodic, until, with, Cluster, Sink};
use xcron::clock::Timestamp;
use xcron::schedule::{made_up, ZoneData};

const ZONES: [&str; 3] = ["Test/Odd", "Test/Ahead", "Test/Back"];
const DAY_S: u64 = 86_400;
/// By so much the newer clocks are ahead, or back.
const JUMP_S: u64 = 600;

/// Made-up data, in which the zones are so many seconds ahead.
fn data(version: &str, ahead: [i32; 3]) -> ZoneData {
    ZoneData::new(version, ZONES.into_iter().zip(ahead.map(|ahead| made_up(ahead, &[]))))
}

fn older() -> ZoneData {
    data("2020a", [0, 0, 0])
}

fn newer() -> ZoneData {
    data("2020b", [1, JUMP_S as i32, -(JUMP_S as i32)])
}

/// Daily, when a clock at UTC shows this time.
fn daily(at: Timestamp) -> String {
    let second = at.as_secs() % DAY_S;
    format!("{} {} {} * * ?", second % 60, second / 60 % 60, second / 3600)
}

/// The next time of a task on each node that runs, by its own state.
async fn next_times(cluster: &Cluster, id: &str) -> Vec<Option<u64>> {
    let mut times = Vec::new();
    for (_, node) in cluster.running() {
        let task = node.client.get(&format!("/xcron/queryTask?task_id={id}&consistency=local")).await.ok();
        times.push(task["next_time"].as_u64());
    }
    times
}

/// That all nodes that run say the same; what they say.
async fn agreed(cluster: &Cluster, id: &str) -> Option<u64> {
    let same = || async {
        cluster.level().await;
        let times = next_times(cluster, id).await;
        times.windows(2).all(|pair| pair[0] == pair[1]).then(|| times[0])
    };
    until("nodes that agree", same).await
}

/// The version that counts, and those that the nodes bring.
async fn versions(cluster: &Cluster, i: usize) -> (Value, Vec<Value>) {
    let shown = cluster.client(i).get("/xcron/cluster").await.ok();
    let nodes = shown["nodes"].as_array().expect("nodes").iter().map(|node| node["zone_data"].clone());
    (shown["zone_data"].clone(), nodes.collect())
}

async fn preview(cluster: &Cluster, i: usize, zone: &str, format: &str, after: Timestamp) -> u64 {
    let sent = json!({"type": 1, "format": format, "timezone": zone, "after": after.as_secs(), "count": 1});
    let shown = cluster.client(i).post("/xcron/previewSchedule", &sent).await.ok();
    shown["fire_times"][0].as_u64().expect("a time")
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_with_different_zone_data_agree_and_lose_or_double_nothing_when_the_newer_takes_over() {
    let mut cluster = Cluster::new(3, |config| config.zone_data = older());
    for i in 0..3 {
        cluster.start(i).await;
    }
    for i in 0..3 {
        cluster.node(i).await_ready().await;
    }
    let sink = Sink::start().await;
    assert_eq!(versions(&cluster, 0).await, (json!(null), vec![json!("2020a"); 3]), "no zone is in use");
    let (begin, client) = (now(), cluster.client(0));
    // What the newer clocks skip, what they repeat, and what is due at even seconds of the older ones and odd of the newer.
    let skipped = begin.plus_ms(400_000);
    let repeated = begin.plus_ms(4_000);
    for (id, format, zone) in [
        ("odd", "0/2 * * * * ?".to_owned(), "Test/Odd"),
        ("skipped", daily(skipped), "test/ahead"),
        ("repeated", daily(repeated), "Test/Back"),
    ] {
        client.create(&with(named(periodic(&sink.url("/"), &format), id), json!({"timezone": zone}))).await;
    }
    sink.await_of("repeated", 1).await;
    client.await_task("repeated", "its run", |task| task["run_count"] == 1).await;
    assert_eq!(agreed(&cluster, "skipped").await, Some(skipped.as_secs()));
    assert_eq!(agreed(&cluster, "repeated").await, Some(repeated.as_secs() + DAY_S));

    // One node after the other is replaced by a newer build; whichever leads, all agree.
    for i in 0..3 {
        assert_eq!(preview(&cluster, 0, "Test/Odd", "0/2 * * * * ?", Timestamp(1_800_000_000_000)).await % 2, 0);
        cluster.stop(i).await;
        cluster.configs[i].zone_data = newer();
        cluster.start(i).await;
        cluster.node(i).await_ready().await;
        agreed(&cluster, "skipped").await;
        agreed(&cluster, "repeated").await;
        if versions(&cluster, i).await.0 == "2020b" {
            break;
        }
    }
    until("newer data that have taken over", || async {
        let mut shown = Vec::new();
        for (i, _) in cluster.running() {
            shown.push(versions(&cluster, i).await.0);
        }
        shown.iter().all(|version| version == "2020b").then_some(())
    })
    .await;
    // Whatever a node brings, it shows what counts.
    for i in 0..3 {
        assert_eq!(preview(&cluster, i, "Test/Odd", "0/2 * * * * ?", Timestamp(1_800_000_000_000)).await % 2, 1);
    }

    sink.await_of("skipped", 1).await;
    assert_eq!(agreed(&cluster, "repeated").await, Some(repeated.as_secs() + DAY_S + JUMP_S));
    cluster.client(0).await_task("skipped", "its run", |task| task["run_count"] == 1).await;
    assert_eq!(agreed(&cluster, "skipped").await, Some(skipped.as_secs() + DAY_S - JUMP_S));
    let fired = sink.of("skipped")[0].due_ms();
    assert!(
        fired < skipped.as_ms() && sink.of("skipped")[0].at < skipped,
        "at once, and not at the time of the old clock"
    );

    // After a restart of all nodes too.
    let odd_runs = sink.of("odd").len();
    sink.await_of("odd", odd_runs + 3).await;
    for i in 0..3 {
        cluster.crash(i).await;
    }
    for i in 0..3 {
        cluster.start(i).await;
    }
    for i in 0..3 {
        cluster.node(i).await_ready().await;
    }
    assert_eq!(agreed(&cluster, "skipped").await, Some(skipped.as_secs() + DAY_S - JUMP_S));
    let odd_runs = sink.of("odd").len();
    sink.await_of("odd", odd_runs + 3).await;
    let audit = cluster.client(0).get("/xcron/audit?task_id=odd&limit=1000").await.ok();
    let due = audit["due_times"].as_array().expect("due times").iter();
    let due: Vec<u64> = due
        .filter(|due| due["state"] != "scheduled")
        .map(|due| due["due_time_ms"].as_u64().expect("a time") / 1000)
        .collect();
    assert!(due.first().is_some_and(|due| due % 2 == 0) && due.last().is_some_and(|due| due % 2 == 1), "{due:?}");
    let steps: Vec<u64> = due.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let jumps = steps.iter().filter(|step| **step != 2).count();
    assert!(jumps == 1 && steps.iter().all(|step| (1..=3).contains(step)), "{due:?}");
    // Each task has as many runs as it had due times.
    for id in ["skipped", "repeated"] {
        let runs: std::collections::BTreeSet<_> = sink.of(id).iter().map(|hit| hit.run().to_owned()).collect();
        assert_eq!((runs.len(), cluster.client(0).task(id).await["run_count"].as_u64()), (1, Some(1)), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_only_a_newer_leader_knows_is_known_to_all_once_a_task_names_it() {
    let with_new = || ZoneData::new("2020b", [("Test/New", made_up(3600, &[]))]);
    let mut cluster = Cluster::new(3, |config| config.zone_data = with_new());
    for i in 0..2 {
        cluster.start(i).await;
    }
    let task = |id: &str, zone: &str| {
        let task = periodic("http://127.0.0.1:9/", "0 12 * * *");
        with(named(task, id), json!({"timezone": zone}))
    };
    let leader = cluster.leader().await;
    cluster.client(leader).create(&task("a", "test/new")).await;
    cluster.configs[2].zone_data = older();
    cluster.start(2).await;
    cluster.node(2).await_ready().await;
    cluster.level().await;
    cluster.client(2).post("/xcron/createTask", &task("c", "Test/None")).await.is(1007, 400, "Test/None");
    cluster.client(2).create(&task("b", "Test/New")).await;
    let next = agreed(&cluster, "a").await;
    assert_eq!((agreed(&cluster, "b").await, next.map(|next| next % DAY_S)), (next, Some(11 * 3600)));
    assert_eq!(versions(&cluster, 2).await.0, "2020b");
}
