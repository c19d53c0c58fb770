//! What is done in which order, and what is told of it.

use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, Tasks, SHARE};
use super::cluster::{Cluster, Usage};
use super::figures::{Quantiles, Report, Times};
use super::sink::{Seen, Sink};
use super::trouble::Trouble;
use super::{limits, progress, tell_usage, Create, Failover, Fire, Load, Mixed};
use crate::clock::{monotonic, Clock};

/// Where nobody listens: those that are due far ahead do not come to it.
const NOWHERE: &str = "http://127.0.0.1:9/";
const DAY_MS: u64 = 86_400_000;
/// Beyond the last due time.
const PATIENCE: Duration = Duration::from_secs(120);

fn now_ms() -> u64 {
    Clock::system().now().as_ms()
}

pub(super) async fn create(create: &Create) -> Result<Report, String> {
    let (client, bar, load) = (Client::new(), progress(), &create.load);
    let mut report = Report::default();
    let syncs = limits::syncs(&load.dir)?;
    let sink = Sink::start()?;
    let echo = limits::echo(&client, &sink, &load.tasks(None, NOWHERE.to_owned(), now_ms() + DAY_MS)).await?;
    let began = monotonic();
    let mut cluster = load.cluster(&client).await?;
    let started = began.elapsed();
    let before = cluster.usage(&client).await.unwrap_or_default();
    let tasks = load.tasks(Some(&cluster), NOWHERE.to_owned(), now_ms() + DAY_MS);
    let created = tasks.create(&client, &bar).await?;
    bar.finish_and_clear();
    report.number("creates per second", created.per_second, "/s");
    report.number("limit: answers of a JSON echo", echo, "/s");
    report.ratio("creates / echo", created.per_second, echo);
    report.times("latency of a call", created.latency);
    report.number("limit: synced writes, one by one", syncs, "/s");
    if let Some((first, last)) = created.ends {
        report.number(&format!("creates per second, the first {SHARE}"), first, "/s");
        report.number(&format!("creates per second, the last {SHARE}"), last, "/s");
        report.ratio("last / first", last, first);
    }
    tell_usage(&mut report, &cluster, &client, before, load.tasks).await;
    if load.node.is_empty() {
        report.number("start of the empty nodes until they are ready", started.as_secs_f64() * 1000.0, "ms");
        report.number("RSS of the empty nodes", before.rss_bytes as f64 / 1e6, "MB");
    }
    if create.restart {
        let took = cluster.restart(&client).await?;
        report.number("restart after a kill until they are ready", took.as_secs_f64() * 1000.0, "ms");
        let after = cluster.usage(&client).await.unwrap_or_default();
        report.number("RSS after the restart", after.rss_bytes as f64 / 1e6, "MB");
    }
    Ok(report)
}

/// What each minute of a long load was like.
struct Minutes<'a> {
    cluster: &'a Cluster,
    next: tokio::time::Instant,
    rows: Vec<(Quantiles, Usage)>,
}

impl<'a> Minutes<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        Minutes { cluster, next: monotonic() + Duration::from_secs(60), rows: Vec::new() }
    }

    async fn look(&mut self, client: &Client, sink: &Sink) -> Result<(), String> {
        if monotonic() >= self.next {
            self.next += Duration::from_secs(60);
            let usage = self.cluster.usage(client).await.unwrap_or_default();
            self.rows.push((sink.lately(client).await?, usage));
        }
        Ok(())
    }

    fn tell(&self, report: &mut Report) {
        for (minute, (lateness, usage)) in (1..).zip(&self.rows) {
            report.times(&format!("lateness in minute {minute}"), *lateness);
            report.number(&format!("RSS after minute {minute}"), usage.rss_bytes as f64 / 1e6, "MB");
        }
    }
}

/// Waits until the sink has seen so many runs, or has waited for too long.
async fn await_runs(
    client: &Client,
    sink: &Sink,
    runs: u64,
    until_ms: u64,
    mut minutes: Option<&mut Minutes<'_>>,
) -> Result<Seen, String> {
    let bar = progress();
    bar.set_length(runs);
    bar.set_message("callbacks");
    let wait = Duration::from_millis(until_ms.saturating_sub(now_ms()));
    let deadline = monotonic() + wait + PATIENCE;
    loop {
        let seen = sink.seen(client).await?;
        bar.set_position(seen.runs);
        if let Some(minutes) = &mut minutes {
            minutes.look(client, sink).await?;
        }
        if seen.runs >= runs || monotonic() > deadline {
            bar.finish_and_clear();
            return Ok(seen);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn tell_seen(report: &mut Report, seen: &Seen, wanted: u64) {
    report.number("runs that were to arrive", wanted as f64, "");
    report.number("runs that arrived", seen.runs as f64, "");
    report.number("callbacks", seen.callbacks as f64, "");
    report.number("early", seen.early as f64, "");
    report.times("lateness", seen.lateness);
}

pub(super) async fn fire(fire: &Fire) -> Result<Report, String> {
    let (client, bar, load) = (Client::new(), progress(), &fire.load);
    let mut report = Report::default();
    let sink = Sink::start()?;
    let bare = limits::callbacks(&client, &sink, load.body_bytes).await?;
    let cluster = load.cluster(&client).await?;
    let due = now_ms() + fire.due_in_ms;
    let mut tasks = load.tasks(Some(&cluster), sink.url("/"), due);
    tasks.due.1 = fire.spread_ms * 1000 / load.tasks.max(1);
    tasks.create(&client, &bar).await?;
    bar.finish_and_clear();
    let ahead = due.saturating_sub(now_ms());
    tokio::time::sleep(Duration::from_millis(ahead.saturating_sub(50))).await;
    let before = cluster.usage(&client).await.unwrap_or_default();
    let seen = await_runs(&client, &sink, load.tasks, due + fire.spread_ms, None).await?;
    let rate = seen.runs as f64 / (seen.last_ms.saturating_sub(seen.first_ms)).max(1) as f64 * 1000.0;
    tell_seen(&mut report, &seen, load.tasks);
    report.number("created before the first was due by", ahead as f64, "ms");
    report.number("from the first callback to the last", (seen.last_ms - seen.first_ms) as f64, "ms");
    report.number("fires per second", rate, "/s");
    report.number("limit: a bare client to the same sink", bare, "/s");
    report.ratio("fires / bare client", rate, bare);
    tell_usage(&mut report, &cluster, &client, before, load.tasks).await;
    Ok(report)
}

/// Creates tasks at a steady rate until it is stopped, and measures each call. Where a call fails the next node is tried.
struct Creator {
    work: tokio::task::JoinHandle<Result<(), String>>,
    stop: tokio::sync::watch::Sender<bool>,
    latency: Arc<Times>,
    longest_gap: Arc<Times>,
}

impl Creator {
    fn start(client: &Client, tasks: Tasks, per_second: u64) -> Result<Creator, String> {
        let (latency, longest_gap) = (Arc::new(Times::new()?), Arc::new(Times::new()?));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (client, times, gaps) = (client.clone(), latency.clone(), longest_gap.clone());
        let work = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_nanos(1_000_000_000 / per_second.max(1)));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut last = monotonic();
            for n in 0.. {
                tick.tick().await;
                if *stopped.borrow() {
                    break;
                }
                let sent = monotonic();
                let url = format!("{}/xcron/createTask", tasks.nodes[n as usize % tasks.nodes.len()]);
                let wait = Duration::from_secs(1);
                if let Ok(Ok(_)) = tokio::time::timeout(wait, client.post(&url, tasks.one(n))).await {
                    times.add(sent.elapsed().as_micros() as u64);
                    gaps.add(last.elapsed().as_micros() as u64);
                    last = monotonic();
                }
            }
            Ok(())
        });
        Ok(Creator { work, stop, latency, longest_gap })
    }

    async fn end(self, report: &mut Report) -> Result<(), String> {
        self.stop.send_replace(true);
        self.work.await.map_err(|e| e.to_string())??;
        report.times("latency of a create beside", self.latency.quantiles());
        report.number("longest time between two creates", self.longest_gap.quantiles().max, "ms");
        Ok(())
    }
}

/// Tasks that fire at a steady rate for so long, created ahead; and when the first is due.
async fn steady(
    client: &Client,
    load: &Load,
    cluster: &Cluster,
    sink: &Sink,
    rate: u64,
    seconds: u64,
) -> Result<(u64, u64), String> {
    let bar = progress();
    let count = rate * seconds;
    // As fast as they can be created on a small machine, and something more.
    let due = now_ms() + 3000 + count / 20;
    let tasks = Tasks {
        count,
        batch: load.batch.max(100),
        connections: 16,
        due: (due, 1_000_000 / rate.max(1)),
        ..load.tasks(Some(cluster), sink.url("/"), due)
    };
    tasks.create(client, &bar).await?;
    bar.finish_and_clear();
    Ok((count, due))
}

pub(super) async fn mixed(mixed: &Mixed) -> Result<Report, String> {
    let (client, load) = (Client::new(), &mixed.load);
    let mut report = Report::default();
    let sink = Sink::start()?;
    let cluster = load.cluster(&client).await?;
    let _trouble = Trouble::begin(&client, &cluster, mixed.hanging, mixed.silent_dns).await?;
    let far = load.tasks(Some(&cluster), NOWHERE.to_owned(), now_ms() + DAY_MS);
    let (wanted, end_ms) = match mixed.periodic {
        false => {
            let (count, due) = steady(&client, load, &cluster, &sink, mixed.rate, mixed.seconds).await?;
            tokio::time::sleep(Duration::from_millis(due.saturating_sub(now_ms() + 100))).await;
            (count, due + mixed.seconds * 1000)
        }
        true => {
            let tasks = load.tasks(Some(&cluster), sink.url("/"), 0);
            let tasks = Tasks { count: mixed.rate, batch: load.batch.max(100), periodic: true, ..tasks };
            tasks.create(&client, &progress()).await?;
            (mixed.rate * mixed.seconds, now_ms() + mixed.seconds * 1000)
        }
    };
    let before = cluster.usage(&client).await.unwrap_or_default();
    let creator = Creator::start(&client, far, mixed.creates)?;
    let mut minutes = Minutes::new(&cluster);
    let seen = await_runs(&client, &sink, wanted, end_ms, Some(&mut minutes)).await?;
    creator.end(&mut report).await?;
    tell_seen(&mut report, &seen, wanted);
    minutes.tell(&mut report);
    report.number("longest time between two callbacks", seen.longest_gap_ms as f64, "ms");
    tell_usage(&mut report, &cluster, &client, before, wanted).await;
    Ok(report)
}

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
    let (wanted, due) = steady(&client, &load, &cluster, &sink, failover.rate, failover.seconds).await?;
    let end_ms = due + failover.seconds * 1000;
    let half = due + failover.seconds * 500;
    tokio::time::sleep(Duration::from_millis(half.saturating_sub(now_ms() + 1000))).await;
    let leader = cluster.leader(&client).await?;
    let mut nodes = cluster.addresses();
    nodes.remove(leader);
    let creator = Creator::start(&client, Tasks { nodes, batch: 1, ..far }, 100)?;
    tokio::time::sleep(Duration::from_millis(half.saturating_sub(now_ms()))).await;
    let killed = now_ms();
    cluster.kill(leader)?;
    let seen = await_runs(&client, &sink, wanted, end_ms, None).await?;
    creator.end(&mut report).await?;
    tell_seen(&mut report, &seen, wanted);
    report.number("tasks pending beside", load.tasks as f64, "");
    report.number("longest time without a callback", seen.longest_gap_ms as f64, "ms");
    let began = seen.gap_began_ms as f64 - killed as f64;
    report.number("it began after the kill by", began, "ms");
    tell_usage(&mut report, &cluster, &client, Usage::default(), wanted).await;
    Ok(report)
}
