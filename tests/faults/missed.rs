//! Due times that pass while no node is up, for longer than the window of their task's misfire.

use serde_json::{json, Value};

use crate::api::code;
use crate::beside::{audit, is_open, time};
use crate::harness::{eventually, now_ms, sleep_ms, Cluster, Node, READY_MAX};
use crate::sink::Sink;
use crate::trial::turn;

const WINDOW_MS: u64 = 2000;
/// Between the decision about a due time and the arrival of its callback, on a machine that is busy.
const UNSURE_MS: u64 = 1000;

/// Whether all due times up to this one have come to an end, and it is among them.
fn is_settled(audit: &[Value], until_ms: u64) -> bool {
    let come: Vec<_> = audit.iter().filter(|due| time(due) <= until_ms).collect();
    come.last().is_some_and(|last| time(last) + 1000 > until_ms) && !come.iter().any(|due| is_open(due))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_due_time_of_an_outage_beyond_the_window_is_in_the_audit_as_its_rule_says() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(3, "").await;
    let sink = Sink::start().await;
    let policies = ["all", "latest", "skip"];
    for id in policies {
        let task = json!({
            "type": 1, "task_id": id, "format": "* * * * * *", "callback": { "url": sink.url, "body": {} },
            "misfire": { "policy": id, "window_ms": WINDOW_MS },
        });
        let answer = cluster.api.create(cluster.nodes[0].ports.http, &task).await;
        assert_eq!(code(&answer), Some(0), "{answer:?}");
    }
    for id in policies {
        eventually("it fires", READY_MAX, async || sink.of(id).len() >= 2).await;
    }
    let killed_ms = now_ms();
    cluster.nodes.iter().for_each(|node| node.signal("KILL"));
    cluster.nodes.iter_mut().for_each(Node::kill);
    sleep_ms(4 * WINDOW_MS).await;
    cluster.nodes.iter_mut().for_each(Node::spawn);
    let up_ms = now_ms();
    assert!(cluster.all_ready(READY_MAX).await);

    for id in policies {
        // It goes on, and all that came before is settled.
        eventually("it goes on", READY_MAX, async || sink.of(id).iter().any(|call| call.due_ms > up_ms + 2000)).await;
        let until_ms = now_ms() - 1000;
        eventually("all is settled", READY_MAX, async || is_settled(&audit(&cluster, id).await, until_ms)).await;
        let audit = audit(&cluster, id).await;
        let rows: Vec<&Value> = audit.iter().filter(|due| time(due) <= until_ms).collect();
        assert!(rows.windows(2).all(|pair| time(pair[1]) - time(pair[0]) == 1000), "{id}: one is not there: {rows:#?}");

        // When the first callback after the outage came, and which due times were too old by then.
        let first = sink.of(id).into_iter().find(|call| call.at_ms > up_ms).expect("it has gone on").at_ms;
        let in_outage = |due: &&&Value| (killed_ms + 1000..first).contains(&time(due));
        let lasted: Vec<&Value> = rows.iter().filter(in_outage).copied().collect();
        let (late, recent): (Vec<&Value>, Vec<&Value>) =
            lasted.into_iter().partition(|due| time(due) + WINDOW_MS < first);
        let (old, unsure): (Vec<&Value>, Vec<&Value>) =
            late.into_iter().partition(|due| time(due) + WINDOW_MS + UNSURE_MS < first);
        let has = |due: &&&Value, state: &str| due["state"] == state;
        let is = |dues: &[&Value], state: &str| dues.iter().all(|due| has(&due, state));
        let shown = || format!("{id}: {old:#?}, then {unsure:#?}, then {recent:#?}");
        assert!(old.len() >= 3, "{}", shown());
        assert!(is(&recent, "succeeded"), "{}", shown());
        match id {
            "all" => assert!(is(&old, "succeeded") && is(&unsure, "succeeded"), "{}", shown()),
            "skip" => assert!(is(&old, "missed"), "{}", shown()),
            _ => {
                let fired = old.iter().chain(&unsure).filter(|due| has(due, "succeeded")).count();
                assert!(is(&old[..old.len() - 1], "missed") && fired >= 1, "{}", shown());
            }
        }
        let missed = rows.iter().filter(|due| has(due, "missed"));
        assert!(missed.clone().all(|due| due["reason"].as_str().is_some_and(|why| !why.is_empty())), "{}", shown());
        assert!(missed.clone().all(|due| time(due) + WINDOW_MS < first), "{}", shown());
        println!("\n| all nodes are down for {} ms, policy {id} | 1 | {} missed |", first - killed_ms, missed.count());
    }
}
