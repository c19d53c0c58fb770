//! What is done in which order, and what is told of it.

use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, Tasks, SHARE};
use super::cluster::{Cluster, Usage};
use super::figures::{Quantiles, Report, Times};
use super::sink::{Seen, Sink};
use super::trouble::Trouble;
use super::{limits, progress, tell_usage, Create, Fire, Load, Mixed};
use crate::clock::{monotonic, Clock};

/// Where nobody listens: those that are due far ahead do not come to it.
pub(super) const NOWHERE: &str = "http://127.0.0.1:9/";
pub(super) const DAY_MS: u64 = 86_400_000;
/// Beyond the last due time.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn now_ms() -> u64 {
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
pub(super) struct Minutes<'a> {
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
            self.rows.push((sink.lately(client).await?.lateness, usage));
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
pub(super) async fn await_runs(
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

pub(super) fn tell_seen(report: &mut Report, seen: &Seen, wanted: u64) {
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
pub(super) struct Creator {
    work: tokio::task::JoinHandle<Result<u64, String>>,
    stop: tokio::sync::watch::Sender<bool>,
    latency: Arc<Times>,
    longest_gap: Arc<Times>,
}

/// What a [`Creator`] has measured.
pub(super) struct CreatedBeside {
    pub latency: Quantiles,
    pub longest_gap: Quantiles,
    /// Refused, or without an answer in time.
    pub failed: u64,
}

impl Creator {
    pub fn start(client: &Client, tasks: Tasks, per_second: u64) -> Result<Creator, String> {
        let (latency, longest_gap) = (Arc::new(Times::new()?), Arc::new(Times::new()?));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (client, times, gaps) = (client.clone(), latency.clone(), longest_gap.clone());
        let work = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_nanos(1_000_000_000 / per_second.max(1)));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let (mut last, mut failed) = (monotonic(), 0);
            for n in 0.. {
                tick.tick().await;
                if *stopped.borrow() {
                    break;
                }
                let sent = monotonic();
                let url = format!("{}/xcron/createTask", tasks.nodes[n as usize % tasks.nodes.len()]);
                let wait = Duration::from_secs(1);
                match tokio::time::timeout(wait, client.post(&url, tasks.one(n))).await {
                    Ok(Ok(_)) => {
                        times.add(sent.elapsed().as_micros() as u64);
                        gaps.add(last.elapsed().as_micros() as u64);
                        last = monotonic();
                    }
                    Ok(Err(_)) | Err(_) => failed += 1,
                }
            }
            Ok(failed)
        });
        Ok(Creator { work, stop, latency, longest_gap })
    }

    pub async fn end(self) -> Result<CreatedBeside, String> {
        self.stop.send_replace(true);
        let failed = self.work.await.map_err(|e| e.to_string())??;
        Ok(CreatedBeside { failed, latency: self.latency.quantiles(), longest_gap: self.longest_gap.quantiles() })
    }
}

/// Tasks that fire at a steady rate for so long, created ahead; and when the first is due.
pub(super) async fn steady(
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
    let beside = creator.end().await?;
    report.times("latency of a create beside", beside.latency);
    report.number("longest time between two creates", beside.longest_gap.max, "ms");
    tell_seen(&mut report, &seen, wanted);
    minutes.tell(&mut report);
    report.number("longest time between two callbacks", seen.longest_gap_ms as f64, "ms");
    tell_usage(&mut report, &cluster, &client, before, wanted).await;
    Ok(report)
}
