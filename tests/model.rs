//! The HTTP API against a model of it, which is written from `doc/` alone: random tasks, changes and answers of the
//! target, played to nodes that run as processes; then each due time is accounted for, and each answer.
//!
//! `XCRON_SEEDS=1-200 cargo test --test model -- --nocapture` plays many rounds, and makes a script small that fails.

#[path = "process/api.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs")]
mod api;
#[path = "process/harness.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs")]
mod harness;

#[path = "model/account.rs"]
mod account;
#[path = "model/check.rs"]
mod check;
#[path = "model/life.rs"]
mod life;
#[path = "model/outcome.rs"]
mod outcome;
#[path = "model/play.rs"]
mod play;
#[path = "model/script.rs"]
mod script;
#[path = "model/shrink.rs"]
mod shrink;
#[path = "model/story.rs"]
mod story;
#[path = "model/target.rs"]
mod target;

use std::collections::BTreeMap;

use futures::stream::{iter, StreamExt};

use crate::check::{check, Found};
use crate::script::Script;

/// The rounds of a plain `cargo test`: one node and three, with a kill of the leader and without.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=4;
/// Rounds that are played at the same time.
const AT_ONCE: usize = 4;

/// Tasks of a round whose story is shown where it breaks a rule.
const TASKS_SHOWN: usize = 3;

/// A round in which less was asked shows nothing.
const ASKED_MIN: [(&str, u64); 12] = [
    ("each due time is accounted for", 60),
    ("nothing comes early", 80),
    ("goes where the task goes now", 80),
    ("code of an answer", 80),
    ("a read shows the definition", 200),
    ("next time and format belong together", 80),
    ("a list is complete", 80),
    ("succeeded only where the target said so", 40),
    ("failed only after its last attempt", 2),
    ("an outcome triggers", 2),
    ("run_count", 20),
    ("limit of tasks", 2),
];

/// The seeds that `XCRON_SEEDS` names: `7`, or `1-200`.
fn seeds() -> Vec<u64> {
    let Ok(text) = std::env::var("XCRON_SEEDS") else { return SEEDS.collect() };
    let (from, to) = text.split_once('-').unwrap_or((&text, &text));
    let number = |text: &str| text.trim().parse::<u64>().expect("XCRON_SEEDS is a number, or two with - in between");
    (number(from)..=number(to)).collect()
}

/// Plays a round and checks it; what it shows, and how much was asked.
async fn round(script: &Script) -> (Vec<Found>, BTreeMap<&'static str, u64>) {
    let story = play::play(script).await;
    let mut checked = check(script, &story);
    if let (None, Some((from, to))) = (script.kill_ms, story.away) {
        println!("seed {}: a leader was not to be had from {} to {}", script.seed, story.ms(from), story.ms(to));
    }
    let mut tasks: Vec<&str> = checked.found.iter().map(|found| found.task.as_str()).collect();
    tasks.dedup();
    for task in tasks.into_iter().take(TASKS_SHOWN) {
        println!(
            "seed {}, {task}; away {:?}",
            script.seed,
            story.away.map(|(from, to)| (story.ms(from), story.ms(to)))
        );
        story.of(task).iter().for_each(|line| println!("    {line}"));
    }
    for (rule, min) in ASKED_MIN {
        let asked = checked.counts.get(rule).copied().unwrap_or(0);
        let what = || format!("`{rule}` was asked {asked} times only");
        checked.must(asked >= min, "round", "the model has something to say", what);
    }
    (checked.found, checked.counts)
}

#[tokio::test]
async fn what_is_promised_is_what_happens() {
    let rounds = iter(seeds()).map(|seed| async move {
        let script = Script::draw(seed);
        let (found, counts) = round(&script).await;
        let asked: u64 = counts.values().sum();
        println!("seed {seed} nodes {} kill {:?} asked {asked} found {}", script.nodes, script.kill_ms, found.len());
        found.iter().take(8).for_each(|found| println!("  {found}"));
        (script, found, counts)
    });
    let rounds: Vec<_> = rounds.buffer_unordered(AT_ONCE).collect().await;
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (rule, asked) in rounds.iter().flat_map(|(_, _, counts)| counts) {
        *counts.entry(rule).or_default() += asked;
    }
    println!("{counts:#?}");
    let failed: Vec<u64> =
        rounds.iter().filter(|(_, found, _)| !found.is_empty()).map(|(script, ..)| script.seed).collect();
    if let Some((script, found, _)) = rounds.iter().find(|(_, found, _)| !found.is_empty()) {
        let small = match std::env::var("XCRON_SHRINK") {
            Ok(no) if no == "0" => shrink::alone(script, &found[0]),
            _ => shrink::shrink(script, &found[0]).await,
        };
        panic!("seeds {failed:?} break rules, {} this one:\n{}\nas in\n{small}", script.seed, found[0]);
    }
}
