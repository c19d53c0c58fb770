//! A leader that dies or stops, again and again: how long nothing is fired, and nothing created.

use std::time::Duration;

use super::client::{Client, Tasks};
use super::cluster::Usage;
use super::figures::{Report, Times};
use super::scenarios::{await_runs, now_ms, steady, tell_seen, Creator, DAY_MS, NOWHERE};
use super::sink::Sink;
use super::{progress, tell_usage, Failover, Load};

/// Before the leader goes: calls beside it are under way by then.
const AHEAD: Duration = Duration::from_millis(500);

pub(super) async fn failover(failover: &Failover) -> Result<Report, String> {
    let (client, load) = (Client::new(), &failover.load);
    let mut report = Report::default();
    let sink = Sink::start()?;
    let load = Load { nodes: load.nodes.max(3), node: Vec::new(), ..load.clone() };
    let mut cluster = load.cluster(&client).await?;
    let mut far = load.tasks(Some(&cluster), NOWHERE.to_owned(), now_ms() + DAY_MS);
    (far.batch, far.connections) = (load.batch.max(100), 16);
    let bar = progress();
    far.create(&client, &bar).await?;
    bar.finish_and_clear();
    let (fires, creates) = (Times::new()?, Times::new()?);
    let (mut wanted, mut failed) = (0, 0);
    let rounds = failover.rounds.max(1);
    for round in 1..=rounds {
        let (count, due) = steady(&client, &load, &cluster, &sink, failover.rate, failover.seconds).await?;
        wanted += count;
        let half = due + failover.seconds * 500;
        let ahead = Duration::from_millis(half.saturating_sub(now_ms()));
        tokio::time::sleep(ahead.saturating_sub(AHEAD)).await;
        let leader = cluster.leader(&client).await?;
        let mut nodes = cluster.addresses();
        nodes.remove(leader);
        let creator = Creator::start(&client, Tasks { nodes, batch: 1, ..far.clone() }, 100)?;
        tokio::time::sleep(Duration::from_millis(half.saturating_sub(now_ms()))).await;
        // What came before is of no interest here: the times between two rounds above all.
        sink.lately(&client).await?;
        cluster.end(leader, failover.stop)?;
        let seen = await_runs(&client, &sink, wanted, due + failover.seconds * 1000, None).await?;
        fires.add(sink.lately(&client).await?.gap_ms * 1000);
        let beside = creator.end().await?;
        creates.add((beside.longest_gap.max * 1000.0) as u64);
        failed += beside.failed;
        if round == rounds {
            tell_seen(&mut report, &seen, wanted);
        } else {
            cluster.start_again(&client, leader).await?;
        }
    }
    report.number("tasks pending beside", load.tasks as f64, "");
    report.number(if failover.stop { "leaders stopped" } else { "leaders killed" }, rounds as f64, "");
    report.times("longest time without a callback, by round", fires.quantiles());
    report.times("longest time without a create, by round", creates.quantiles());
    report.number("creates that failed", failed as f64, "");
    tell_usage(&mut report, &cluster, &client, Usage::default(), wanted).await;
    Ok(report)
}
