//! Lists of tasks and of runs: their filters, their parts, and what changes meanwhile.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{json, Value};
use support::{assert_distinct, keys, named, node, now, once, periodic, until, with, Say, Sink, TestNode, PATIENCE};
use xcron::clock::{monotonic, Timestamp};
use xcron::command::{Command, Reply, Steering, Verdict};
use xcron::id::RunKey;
use xcron::run::{Attempt, RunState};
use xcron::view::{RunFilter, RunView, TaskFilter, TaskView};

const URL: &str = "http://127.0.0.1:9/never";
const FAR_MS: u64 = 3_600_000;

/// A place in a list says nothing in another one: with other filters things would be left out, or come twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_refused_with_other_filters_than_its_list_was_begun_with() {
    let (_dir, node) = node().await;
    let client = &node.client;
    for n in 0..6 {
        client.create(&with(named(once(URL, FAR_MS), &format!("t{n}")), json!({"tags": {"k": "v"}}))).await;
        client.trigger(&format!("t{n}")).await;
        client.trigger("t0").await;
    }
    let lists = [
        (
            "listTasks",
            "tag=k:v&state=active",
            &["tag=k:w&state=active", "state=active", "tag=k:v&state=active&type=2"][..],
        ),
        ("listRuns", "", &["task_id=t0", "state=running", "from=1"]),
        ("listRuns", "task_id=t0&from=1", &["task_id=t1&from=1", "task_id=t0", "task_id=t0&from=2"]),
        ("audit", "task_id=t0", &["task_id=t1", "task_id=t0&to=9000000000"]),
    ];
    for (list, filters, others) in lists {
        let page = client.get(&format!("/xcron/{list}?{filters}&limit=2")).await.ok();
        let cursor = page["next_cursor"].as_str().unwrap_or_else(|| panic!("{list}: {page}"));
        for other in others {
            let refused = client.get(&format!("/xcron/{list}?{other}&limit=2&cursor={cursor}")).await;
            refused.is(1000, 400, "cursor: it was given out for a list with other filters");
        }
        client.get(&format!("/xcron/{list}?limit=1&cursor={cursor}&consistency=local&{filters}")).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runs_of_a_task_that_is_deleted_between_two_parts_are_gone() {
    let (_dir, node) = node().await;
    let client = &node.client;
    client.create(&named(once(URL, FAR_MS), "t")).await;
    for _ in 0..3 {
        client.trigger("t").await;
    }
    for list in ["listRuns", "audit"] {
        let id = format!("for-{list}");
        client.create(&named(once(URL, FAR_MS), &id)).await;
        for _ in 0..3 {
            client.trigger(&id).await;
        }
        let page = client.get(&format!("/xcron/{list}?task_id={id}&limit=1")).await.ok();
        let cursor = page["next_cursor"].as_str().unwrap_or_else(|| panic!("{list}: {page}")).to_owned();
        client.delete(&id).await.ok();
        for more in [format!("&cursor={cursor}"), String::new()] {
            let gone = client.get(&format!("/xcron/{list}?task_id={id}&limit=1{more}")).await;
            gone.is(1040, 404, "no such task");
        }
    }
    // A list over all tasks goes on without it.
    let page = client.get("/xcron/listRuns?limit=1").await.ok();
    let cursor = page["next_cursor"].as_str().expect("there are more");
    client.delete("t").await.ok();
    let rest = client.get(&format!("/xcron/listRuns?limit=10&cursor={cursor}")).await.ok();
    assert_eq!(rest["runs"], json!([]), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_a_list_passes_its_filter() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let ids = client.create_all(&vec![once(URL, FAR_MS); 200]).await;
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut changers = Vec::new();
    for part in ids.chunks(25) {
        let (client, ids, ended) = (client.clone(), part.to_vec(), ended.clone());
        changers.push(tokio::spawn(async move {
            for call in ["pauseTask", "resumeTask"].iter().cycle() {
                for id in &ids {
                    client.post(&format!("/xcron/{call}"), &json!({"task_id": id})).await.ok();
                }
                if ended.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
        }));
    }
    let mut rows = 0;
    for state in ["active", "paused"].iter().cycle().take(200) {
        let found = client.get(&format!("/xcron/listTasks?limit=1000&state={state}&consistency=local")).await.ok();
        for task in found["tasks"].as_array().unwrap() {
            assert_eq!(task["state"], *state, "{task}");
            rows += 1;
        }
    }
    ended.store(true, std::sync::atomic::Ordering::Relaxed);
    for changer in changers {
        changer.await.unwrap();
    }
    assert!(rows > 1000, "{rows}");
}

/// Which of the numbered tasks a filter keeps.
type Keep = fn(usize) -> bool;

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_pages_and_filters_hold_together() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let tasks: Vec<Value> = (0..250)
        .map(|i| {
            let task = if i % 2 == 0 { once(URL, FAR_MS) } else { periodic(URL, "0 0 1 1 *") };
            let name = format!("{}-{i}", if i % 5 == 0 { "five" } else { "other" });
            with(task, json!({"task_id": format!("t{i:03}"), "name": name, "tags": {"mod": (i % 3).to_string(), "a": "b:c:d"}}))
        })
        .collect();
    client.create_all(&tasks).await;
    let ids = |tasks: &[Value]| tasks.iter().map(|t| t["task_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let expect = |keep: Keep| (0..250).filter(|i| keep(*i)).map(|i| format!("t{i:03}")).collect::<Vec<_>>();

    let first = client.get("/xcron/listTasks").await.ok();
    assert_eq!(keys(&first), BTreeSet::from(["tasks", "next_cursor"]));
    assert_eq!(first["tasks"].as_array().unwrap().len(), 100, "where no limit is named");
    assert_eq!(keys(&first["tasks"][0]), keys(&client.task("t000").await), "a list shows what a query shows");
    for limit in [1000, 250, 249, 100, 7] {
        let all = client.pages(&format!("/xcron/listTasks?limit={limit}"), "tasks").await;
        assert_eq!(ids(&all), expect(|_| true), "{limit}");
    }
    let whole = client.get("/xcron/listTasks?limit=250").await.ok();
    assert_eq!(whole["next_cursor"], Value::Null, "that was all");
    let filtered: [(&str, Keep); 8] = [
        ("type=1", |i| i % 2 == 1),
        ("type=2&limit=9", |i| i % 2 == 0),
        ("tag=mod:1&limit=10", |i| i % 3 == 1),
        ("name_prefix=five-&limit=11", |i| i % 5 == 0),
        ("type=1&tag=mod:2&name_prefix=five&limit=3", |i| i % 2 == 1 && i % 3 == 2 && i % 5 == 0),
        ("state=active", |_| true),
        ("state=finished", |_| false),
        ("tag=mod:9", |_| false),
    ];
    for (query, keep) in filtered {
        let all = client.pages(&format!("/xcron/listTasks?{query}"), "tasks").await;
        assert_eq!(ids(&all), expect(keep), "{query}");
    }
    // Parted at the first colon only: a value may have some.
    assert_eq!(ids(&client.pages("/xcron/listTasks?tag=a:b:c:d", "tasks").await), expect(|_| true));

    // What is deleted on the way is left out, and the rest still comes once.
    let page = client.get("/xcron/listTasks?limit=10").await.ok();
    let cursor = page["next_cursor"].as_str().unwrap().to_owned();
    client.delete("t010").await.ok();
    client.delete("t003").await.ok();
    let second = client.get(&format!("/xcron/listTasks?limit=2&cursor={cursor}")).await.ok();
    assert_eq!(ids(second["tasks"].as_array().unwrap()), ["t011", "t012"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_listed_newest_first_with_filters_and_pages() {
    let (_dir, node) = node().await;
    let (client, sink) = (&node.client, Sink::start().await);
    let id = client.create(&periodic(&sink.url("/"), "* * * * * *")).await;
    let bad = client.create(&once("http://127.0.0.1:1/", 0)).await;
    client.await_task(&id, "three runs", |t| t["run_count"].as_u64() >= Some(3)).await;
    client.await_task(&bad, "a failed run", |t| t["run_count"] == 1).await;
    let bad_run = client.runs(&bad).await;
    client.delete(&bad).await.ok();
    client
        .get(&format!("/xcron/queryRun?run_id={}", bad_run[0]["run_id"].as_str().unwrap()))
        .await
        .is(1040, 404, "run");

    let runs = client.runs(&id).await;
    let dues: Vec<u64> = runs.iter().map(|r| r["due_time_ms"].as_u64().unwrap()).collect();
    assert!(dues.windows(2).all(|pair| pair[0] == pair[1] + 1000), "{dues:?}");
    let from = dues[1] / 1000;
    let path = format!("/xcron/listRuns?task_id={id}&state=succeeded&from={from}&to={from}");
    let page = client.get(&path).await.ok();
    assert_eq!((page["runs"].as_array().unwrap().len(), &page["next_cursor"]), (1, &Value::Null));
    assert_eq!(page["runs"][0], runs[1]);
    let oldest = dues.last().unwrap() / 1000;
    let paged = client.pages(&format!("/xcron/listRuns?task_id={id}&to={from}&from={oldest}&limit=1"), "runs").await;
    assert_eq!(paged, runs[1..]);
    assert_eq!(client.get("/xcron/listRuns?state=failed").await.ok()["runs"], json!([]));
    let second = client.get(&format!("/xcron/listRuns?from={from}&to={from}")).await.ok();
    assert_eq!(second["runs"], json!([runs[1]]), "without a task, and both ends belong to it");
    let across = client.get(&format!("/xcron/listRuns?to={from}")).await.ok();
    assert_eq!(across["runs"].as_array().unwrap()[..], runs[1..], "without a task: of all tasks");
}

/// Ends runs of these one-shot tasks, as if their attempts had, in this order.
async fn end_runs(node: &TestNode, ids: &[String]) {
    let node = node.server().node();
    let commands = node.machine().with_state(|state| {
        let tasks = ids.iter().filter_map(|id| state.find(&id.parse().ok()?));
        let dues = tasks.filter_map(|seq| Some((seq, state.task(seq)?.next?)));
        dues.map(|(seq, due)| ended_run(seq, due)).collect::<Vec<_>>()
    });
    assert_eq!(commands.len(), ids.len());
    for reply in node.propose_all(commands, monotonic() + PATIENCE).await {
        assert_eq!(reply, Ok(Reply::Done));
    }
}

fn ended_run(seq: u64, due: Timestamp) -> Command {
    let attempt = Attempt { duration_ms: Some(1), status: Some(200), ..Attempt::begun(1, 1, due, 0) };
    let (key, steering) = (RunKey::scheduled(due), Steering::default());
    Command::RunEnded { seq, key, attempt, term: 1, verdict: Verdict::Succeeded, steering }
}

fn task_of(run: &Value) -> String {
    run["task_id"].as_str().expect("a task_id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_very_many_tasks_are_listed_once_each_while_others_end_and_tasks_go() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let hanging = Sink::saying(|_| Say::ok().after(60_000)).await;
    let far = |n: usize| named(once("http://127.0.0.1:9/never", 3_600_000), &format!("t{n:05}"));
    let ids = client.create_all(&(0..26_000).map(far).collect::<Vec<_>>()).await;
    let ended: Vec<&[String]> = ids[..25_500].chunks(1500).collect();
    for part in &ended {
        end_runs(&node, part).await;
    }
    let going = client
        .create_all(
            &(0..5)
                .map(|_| {
                    with(
                        once(&hanging.url("/"), 0),
                        json!({"callback": {"url": hanging.url("/"), "timeout_ms": 60_000}}),
                    )
                })
                .collect::<Vec<_>>(),
        )
        .await;
    until("runs that are going", || async {
        let runs = client.get("/xcron/listRuns?state=running").await.ok();
        assert_eq!(runs["next_cursor"], Value::Null);
        (runs["runs"].as_array()?.len() == going.len()).then_some(())
    })
    .await;

    let (mut seen, mut later, mut deleted) = (Vec::new(), ids[25_500..].chunks(10), BTreeSet::new());
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("/xcron/listRuns?limit=1000{cursor}")).await.ok();
        seen.extend(page["runs"].as_array().unwrap().iter().map(task_of));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
        // Further runs end, and neighbouring tasks go, so that whole records of the index do: what was listed and what
        // is yet to be.
        end_runs(&node, later.next().unwrap()).await;
        let first = (deleted.len() * 7919) % 25_000;
        for id in &ids[first..first + 150] {
            if deleted.insert(id.clone()) {
                client.delete(id).await.ok();
            }
        }
    }
    assert_distinct(seen.clone());
    let at_first: BTreeSet<&String> = seen[..5].iter().collect();
    assert_eq!(at_first, going.iter().collect(), "what is going comes first");
    let listed: BTreeSet<&String> = seen.iter().collect();
    let lost: Vec<_> = ids[..25_500].iter().filter(|id| !deleted.contains(*id) && !listed.contains(id)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(ids[25_500..].iter().all(|id| !listed.contains(id)), "what ended since comes before the cursor");
    let place: BTreeMap<&String, usize> =
        ended.iter().enumerate().flat_map(|(n, part)| part.iter().map(move |id| (id, n))).collect();
    let places: Vec<usize> = seen[5..].iter().map(|id| place[id]).collect();
    assert!(places.is_sorted_by(|a, b| a >= b), "the newest outcome first");

    // What has ended since is there at the next time, and first; what is deleted is not.
    let page = client.get("/xcron/listRuns?limit=30&state=succeeded").await.ok();
    assert!(page["runs"].as_array().unwrap().iter().all(|run| task_of(run) >= ids[25_500]), "{page}");
    let all = client.pages("/xcron/listRuns?limit=1000", "runs").await;
    assert!(all.iter().all(|run| !deleted.contains(&task_of(run))));
    assert_eq!(client.pages("/xcron/listRuns?limit=1000&state=failed", "runs").await, Vec::<Value>::new());
    let due = all[100]["due_time_ms"].as_u64().unwrap() / 1000;
    let some = client.pages(&format!("/xcron/listRuns?limit=500&from={due}&to={due}"), "runs").await;
    let within = |run: &&Value| run["due_time_ms"].as_u64().unwrap() / 1000 == due;
    let expected: Vec<Value> = all.iter().filter(within).cloned().collect();
    assert!(some == expected && some.len() > 100, "{} of {}", some.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_are_going_are_listed_once_each_also_where_they_end_meanwhile() {
    const RUNS: usize = 7;
    let (_dir, node) = node().await;
    let (client, hanging) = (&node.client, Sink::saying(|_| Say::nothing()).await);
    let due = now().as_secs() + 2;
    let callback = json!({"url": hanging.url("/"), "timeout_ms": 60_000});
    let task = json!({"type": 2, "format": due.to_string(), "callback": callback});
    client.create_all(&vec![task; RUNS]).await;
    until("runs that are going", || async {
        let runs = client.get("/xcron/listRuns?state=running").await.ok();
        (runs["runs"].as_array()?.len() == RUNS).then_some(())
    })
    .await;
    for filter in ["limit=2", "limit=2&state=running", "limit=3"] {
        let runs = client.pages(&format!("/xcron/listRuns?{filter}"), "runs").await;
        assert_eq!(runs.len(), RUNS, "{filter}");
        assert_distinct(runs.iter().map(|run| run["run_id"].to_string()).collect());
    }
    for (from, to, found) in [(due, due, RUNS), (due + 1, due + 1, 0), (due - 1, due - 1, 0)] {
        let runs = client.pages(&format!("/xcron/listRuns?state=running&from={from}&to={to}"), "runs").await;
        assert_eq!(runs.len(), found, "from {from} to {to}, and due at {due}");
    }
    // One of them ends between the look at what is going and the look at what has ended.
    let (of, mut seen) = (node.server().node(), Vec::new());
    let mut take = |run: &RunView| {
        if seen.is_empty() {
            let seq = of.machine().with_state(|state| state.find(&run.task)).expect("it is there");
            let end = of.propose(ended_run(seq, run.due), monotonic() + PATIENCE);
            let reply = xcron::seam::handed_over(|| tokio::runtime::Handle::current().block_on(end));
            assert_eq!(reply, Ok(Reply::Done));
        }
        seen.push(run.id);
        true
    };
    assert_eq!(of.list_runs(&RunFilter::default(), 100, None, &mut take), Ok(Some(None)));
    assert_eq!(seen.len(), RUNS);
    assert_distinct(seen);
}

/// The look for what passes and the look at each of them are two moments.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_between_two_rows_of_a_list_is_a_row_only_if_it_still_passes() {
    let (_dir, node) = node().await;
    let (client, hanging) = (&node.client, Sink::saying(|_| Say::nothing()).await);
    let due = now().as_secs() + 2;
    let callback = json!({"url": hanging.url("/"), "timeout_ms": 60_000});
    let alert = json!({"url": hanging.url("/alert"), "on": ["failed"]});
    let task = json!({"type": 2, "format": due.to_string(), "callback": callback, "alert": alert});
    client.create_all(&vec![task; 3]).await;
    let filter = RunFilter { state: Some(RunState::Running), ..RunFilter::default() };
    let of = node.server().node();
    let found = |take: &mut dyn FnMut(&RunView) -> bool| of.list_runs(&filter, 100, None, take).unwrap().unwrap();
    until("runs that are going", || {
        let mut count = 0;
        found(&mut |_| {
            count += 1;
            true
        });
        std::future::ready((count == 3).then_some(()))
    })
    .await;
    let mut all: Vec<RunView> = Vec::new();
    found(&mut |run| {
        all.push(run.clone());
        true
    });
    let end = |run: &RunView, verdict: Verdict, steering: Steering| {
        let seq = of.machine().with_state(|state| state.find(&run.task)).expect("it is there");
        let Command::RunEnded { seq, key, attempt, term, .. } = ended_run(seq, run.due) else { unreachable!() };
        let ended = Command::RunEnded { seq, key, attempt, term, verdict, steering };
        let ended = of.propose(ended, monotonic() + PATIENCE);
        let reply = xcron::seam::handed_over(|| tokio::runtime::Handle::current().block_on(ended));
        assert_eq!(reply, Ok(Reply::Done));
    };
    let mut rows = Vec::new();
    found(&mut |run| {
        if rows.is_empty() {
            end(&all[1], Verdict::Retry { at: run.due.plus_ms(FAR_MS) }, Steering::default());
        }
        rows.push(run.id);
        true
    });
    assert_eq!(rows, [all[0].id, all[2].id], "the second one waits by then");
    // One that an answer deletes is there for its alert alone.
    let mut rows = Vec::new();
    let mut take = |task: &TaskView| {
        if rows.is_empty() {
            let other = all.iter().rfind(|run| run.id != all[1].id && run.task != task.id).expect("another one");
            let steering = Steering { delete: true, ..Steering::default() };
            end(other, Verdict::Failed { reason: "no".into() }, steering);
        }
        rows.push(task.id.clone());
        true
    };
    assert_eq!(of.list_tasks(&TaskFilter::default(), 100, None, &mut take), Ok(None));
    assert_eq!(rows.len(), 2, "{rows:?}");
}
