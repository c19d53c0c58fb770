//! A day of the load that a crontab makes: many tasks on the minute, few between, and leaders that die on the hour.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::client::call;
use super::cluster::Cluster;
use super::faults::Fault;
use super::history::History;
use super::{in_world, Options, World};
use crate::clock::SIMULATION_EPOCH;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;
/// How much of the day passes at once: its lateness is exact to this.
const TICK_MS: u64 = 10;
/// How long before the full hour a leader dies, and for how long it is away.
const AHEAD_MS: u64 = 300;
const AWAY_MS: u64 = 10_000;
/// What was due in the end has arrived by then.
const AFTER_MS: u64 = 30_000;
/// Tasks in one call.
const BATCH: usize = 100;

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct DayOptions {
    /// What everything is drawn from.
    pub seed: u64,
    /// How long the day is.
    pub hours: u64,
    /// How many tasks there are.
    pub tasks: usize,
    /// How many nodes; where there are three, the leader is killed before every other full hour.
    pub nodes: usize,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Due times of all tasks.
    pub due: usize,
    /// Those of which no callback came.
    pub lost: usize,
    /// Callbacks that came again for the same due time.
    pub again: usize,
    /// Callbacks before their due time, or for none.
    pub wrong: usize,
    /// Leaders killed.
    pub killed: usize,
    /// Lateness of the first callback of each due time, in ms: median, 99th percentile, and the worst.
    pub lateness: (u64, u64, u64),
    /// The same for each hour.
    pub hourly: Vec<(u64, u64, u64)>,
}

/// The period of a task and the minute within it, as most crontabs have them: some run every minute, more every five,
/// most once an hour or a day, and of those most on the hour.
fn rhythm(n: usize) -> (u64, u64) {
    let minute = if n.is_multiple_of(3) { (n as u64 * 7) % 60 } else { 0 };
    match n % 10 {
        0 => (1, 0),
        1..=3 => (5, 0),
        4..=7 => (60, minute),
        _ => (1440, (n as u64 * 11 % 24) * 60 + minute),
    }
}

fn crontab(n: usize) -> String {
    match rhythm(n) {
        (1, _) => "* * * * *".to_owned(),
        (5, _) => "*/5 * * * *".to_owned(),
        (60, minute) => format!("{minute} * * * *"),
        (_, minute) => format!("{} {} * * *", minute % 60, minute / 60),
    }
}

async fn create(world: Arc<World>, tasks: usize) -> turmoil::Result {
    for first in (0..tasks).step_by(BATCH) {
        let all: Vec<_> = (first..tasks.min(first + BATCH))
            .map(|n| {
                json!({
                    "task_id": format!("t{n}"), "type": 1, "format": crontab(n), "timezone": "UTC",
                    "callback": {"url": "http://target/steady", "body": {}},
                })
            })
            .collect();
        let body = json!({ "tasks": all });
        while call(1 + first % world.nodes, "POST", "/xcron/createTasks", Some(&body)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Runs a day, with its files below `dir`, which is empty.
///
/// # Errors
/// Where the simulation itself fails.
pub fn run(options: DayOptions, dir: &Path) -> Result<Day, String> {
    let (killed, history) = in_world(options.seed, options.nodes, |world| simulate(options, dir, world))?;
    Ok(Day { killed, ..judge(&history, options) })
}

fn simulate(day: DayOptions, dir: &Path, world: &Arc<World>) -> Result<usize, String> {
    let options = Options { seed: day.seed, nodes: day.nodes, faults: false, ..Options::default() };
    let mut cluster = Cluster::new(options, Duration::from_millis(TICK_MS), dir, world.clone());
    cluster.client("maker".to_owned(), create(world.clone(), day.tasks));
    let (from, to) = period(day);
    let end = to - SIMULATION_EPOCH.0 + AFTER_MS;
    let first_hour = from.next_multiple_of(HOUR_MS) - SIMULATION_EPOCH.0;
    let (mut next_kill, mut away, mut killed) = (first_hour.saturating_sub(AHEAD_MS), None, 0);
    while cluster.now_ms() < end {
        let now = cluster.now_ms();
        if let Some((fault, _)) = away.take_if(|(_, until)| now >= *until) {
            cluster.heal(&fault)?;
        }
        if day.nodes > 1 && now >= next_kill {
            next_kill += 2 * HOUR_MS;
            if let Some(leader) = cluster.leader() {
                let fault = Fault::Crash(vec![leader]);
                cluster.inflict(&fault);
                away = Some((fault, now + AWAY_MS));
                killed += 1;
            }
        }
        cluster.step()?;
    }
    Ok(killed)
}

/// From the first minute by which the tasks are there; to the last that counts.
fn period(day: DayOptions) -> (u64, u64) {
    let from = SIMULATION_EPOCH.0.next_multiple_of(MINUTE_MS) + MINUTE_MS;
    (from, from + day.hours * HOUR_MS)
}

/// Of a task by its id; one that is none of them has none of theirs.
fn number(id: &str) -> usize {
    id.strip_prefix('t').and_then(|n| n.parse().ok()).unwrap_or(usize::MAX)
}

fn judge(history: &History, day: DayOptions) -> Day {
    let (from, to) = period(day);
    let runs: BTreeMap<&str, u64> = history.sent.iter().map(|sent| (sent.run.as_str(), sent.due)).collect();
    let mut hits: BTreeMap<(usize, u64), (u64, usize)> = BTreeMap::new();
    let mut found = Day::default();
    for hit in &history.hits {
        let due = runs.get(hit.run.as_str()).copied();
        found.wrong += usize::from(due.is_none_or(|due| hit.at < due));
        let first = hits.entry((number(&hit.task), due.unwrap_or(0))).or_insert((hit.at, 0));
        first.1 += 1;
    }
    let mut late: Vec<Vec<u64>> = vec![Vec::new(); day.hours as usize];
    for n in 0..day.tasks {
        let (period, minute) = rhythm(n);
        let at_minute = |ms: &u64| (ms / MINUTE_MS) % period == minute;
        for due in (from..to).step_by(MINUTE_MS as usize).filter(at_minute) {
            found.due += 1;
            match hits.remove(&(n, due)) {
                Some((at, times)) => {
                    found.again += times - 1;
                    late[((due - from) / HOUR_MS) as usize].push(at.saturating_sub(due));
                }
                None => found.lost += 1,
            }
        }
    }
    // What is left is of before and after the day, or of no due time at all.
    found.wrong += hits.keys().filter(|(_, due)| (from..to).contains(due)).count();
    found.hourly = late.iter_mut().map(|hour| quantiles(hour)).collect();
    found.lateness = quantiles(&mut late.concat());
    found
}

fn quantiles(late: &mut [u64]) -> (u64, u64, u64) {
    late.sort_unstable();
    let at = |q: usize| late.get((late.len() * q / 1000).min(late.len().saturating_sub(1))).copied().unwrap_or(0);
    (at(500), at(990), at(1000))
}
