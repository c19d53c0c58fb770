//! The simulation of whole nodes, on some seeds; and that its checker sees the bugs that can be planted.

#![allow(clippy::unwrap_used, missing_docs)]

use xcron::seam::bug::Bug;
use xcron::seam::simulated::planted;
use xcron::sim::checker::{check, Bounds, Violation};
use xcron::sim::history::History;
use xcron::sim::linear::Answer;
use xcron::sim::{run, Options};

fn simulate(options: Options) -> (History, Vec<Violation>) {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let history = run(options, dir.path()).unwrap();
    let found = check(&history, &Bounds::default());
    (history, found)
}

/// Half of the seeds in one test and half in the other: tests run beside each other.
fn hold(seeds: std::ops::RangeInclusive<u64>) {
    for seed in seeds {
        let (history, found) = simulate(Options { seed, ..Options::default() });
        assert!(history.hits.len() > 100 && history.tasks.len() > 20, "seed {seed}: hardly anything happened");
        let read = history.operations.iter().filter(|operation| matches!(operation.answer, Answer::Shows(_))).count();
        assert!(read > 20, "seed {seed}: hardly anything was read");
        let again = format!("cargo sim --seed {seed} --trace");
        assert!(found.is_empty(), "seed {seed}: {found:#?}\n{again}");
    }
}

#[test]
fn odd_histories_hold() {
    hold(1..=25);
}

#[test]
fn more_histories_hold() {
    hold(26..=50);
}

#[test]
fn without_faults_nothing_is_early_or_missed() {
    let (history, found) = simulate(Options { seed: 7, seconds: 10, faults: false, ..Options::default() });
    assert!(history.faults == 0 && history.leaders.len() == 1, "{:?}", history.leaders);
    assert_eq!(found, []);
}

#[test]
fn a_seed_is_the_same_history_each_time() {
    let options = Options { seed: 11, seconds: 10, ..Options::default() };
    let (one, two) = (simulate(options).0, simulate(options).0);
    let differ = one.trace.iter().zip(&two.trace).find(|(one, two)| one != two);
    assert_eq!((differ, one.hash()), (None, two.hash()));
    assert_ne!(simulate(Options { seed: 12, ..options }).0.hash(), one.hash());
}

/// In how many seeds a planted bug is found at the latest.
const SEEDS_MAX: u64 = 20;

/// The rules that say what a planted bug does; another one that is broken besides may have other reasons.
fn rules(bug: Bug) -> &'static [&'static str] {
    match bug {
        // What was durable is not there: a log that ends too early, tasks that are lost, or a node that finds it out.
        Bug::LyingFsync => &["stopped", "finished", "lost", "order"],
        // Or openraft finds what is committed to be another thing than what it has, and stops the node.
        Bug::VoteNotSaved => &["stopped", "finished", "replica", "lost", "order"],
        Bug::LeaseNotChecked => &["fence", "unwanted"],
        Bug::OutcomeDropped => &["gap", "outcome"],
        Bug::DeleteKeepsRetry => &["unwanted"],
        Bug::StaleRead => &["order"],
    }
}

fn is_found(bug: Bug) {
    let found = |seed| {
        let found = simulate(Options { seed, seconds: 15, bug: Some(bug), ..Options::default() }).1;
        found.iter().any(|violation| rules(bug).contains(&violation.rule))
    };
    assert!((1..=SEEDS_MAX).any(found), "{bug:?} was not found by {:?} in {SEEDS_MAX} seeds", rules(bug));
}

#[test]
fn each_planted_bug_is_found() {
    planted::NAMES.iter().for_each(|(_, bug)| is_found(*bug));
}
