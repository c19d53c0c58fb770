//! The simulation of whole nodes, on some seeds; and that its checker sees the bugs that can be planted.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use xcron::seam::bug::Bug;
use xcron::seam::simulated::planted;
use xcron::sim::checker::{check, Bounds, Violation};
use xcron::sim::copies;
use xcron::sim::day::{self, DayOptions};
use xcron::sim::elections::{play, Outcome, Scene, ROUND_TRIP_MS_MAX};
use xcron::sim::history::History;
use xcron::sim::records;
use xcron::sim::{run, Options};

fn memory() -> &'static Path {
    [Path::new("/dev/shm"), Path::new("/tmp")].into_iter().find(|dir| dir.is_dir()).unwrap()
}

fn simulate(options: Options) -> (History, Vec<Violation>) {
    let dir = tempfile::tempdir_in(memory()).unwrap();
    let history = run(options, dir.path()).unwrap();
    let found = check(&history, &Bounds::default());
    (history, found)
}

/// Simulates these seeds in a process of its own, as `cargo sim` does, so that what is found here is found again there;
/// what it prints, a line for each seed.
fn simulated(arguments: &[&str]) -> (bool, String) {
    let dir = tempfile::tempdir_in(memory()).unwrap();
    let mut sim = std::process::Command::new(env!("CARGO_BIN_EXE_sim"));
    let ran = sim.arg("--dir").arg(dir.path()).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = text(&ran.stdout);
    let whole = format!("{printed}{}", text(&ran.stderr));
    assert!(printed.lines().any(|line| line.starts_with("seed ")), "{whole}");
    (ran.status.success(), if ran.status.success() { printed } else { whole })
}

/// The figures of a line, by their names.
fn figure(line: &str, name: &str) -> u64 {
    let mut words = line.split_whitespace().skip_while(|word| *word != name).skip(1);
    words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line:?}"))
}

/// Half of the seeds in one test and half in the other: tests run beside each other.
fn hold(first: u64, count: usize, more: &[&str]) {
    let (held, printed) = simulated(&[&["--seed", &first.to_string(), "--seeds", &count.to_string()], more].concat());
    assert!(held, "{printed}\ncargo sim --seed <the one above> --trace");
    let lines: Vec<&str> = printed.lines().filter(|line| line.starts_with("seed ")).collect();
    assert_eq!(lines.len(), count, "{printed}");
    for line in lines {
        assert!(figure(line, "hits") > 100 && figure(line, "tasks") > 20, "hardly anything happened: {line}");
        assert!(figure(line, "shown") > 20, "hardly anything was read: {line}");
    }
    let took_over = printed.lines().filter(|line| line.starts_with("seed ") && figure(line, "zones") > 1).count();
    assert!(3 * took_over >= count, "newer zone data took over in {took_over} seeds of {count}:\n{printed}");
}

/// What was due within these hours is neither lost nor early, while leaders die.
#[test]
fn hours_of_a_crontab_hold() {
    let dir = tempfile::tempdir_in(memory()).unwrap();
    let day = day::run(DayOptions { seed: 1, hours: 1, tasks: 100, nodes: 3 }, dir.path()).unwrap();
    assert_eq!((day.lost, day.wrong, day.killed), (0, 0, 1), "{day:?}");
    // Ten of every minute, thirty of every five, forty of every hour; and of those of every day.
    assert!(day.due >= 600 + 360 + 40, "{day:?}");
}

#[test]
fn odd_histories_hold() {
    hold(1, 25, &[]);
}

#[test]
fn more_histories_hold() {
    hold(26, 25, &[]);
}

#[test]
fn stops_in_order_lose_nothing_and_send_nothing_twice() {
    hold(1, 12, &["--stops"]);
}

#[test]
fn without_faults_nothing_is_early_or_missed() {
    let (history, found) = simulate(Options { seed: 7, seconds: 10, faults: false, ..Options::default() });
    assert!(history.faults == 0 && history.leaders.len() == 1, "{:?}", history.leaders);
    assert_eq!(found, []);
}

#[test]
fn a_seed_is_the_same_history_in_each_process() {
    let hash = |seed: &str| {
        let (_, printed) = simulated(&["--seed", seed, "--seconds", "10"]);
        let line = printed.lines().find(|line| line.starts_with("seed ")).unwrap().to_owned();
        line.split_whitespace().skip_while(|word| *word != "hash").nth(1).unwrap().to_owned()
    };
    let eleven = hash("11");
    assert_eq!(hash("11"), eleven);
    assert_ne!(hash("12"), eleven);
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
        Bug::LeaseNotChecked | Bug::LeaseAskedEarly => &["fence", "unwanted"],
        Bug::OutcomeDropped => &["gap", "outcome"],
        Bug::UnderWayForgotten => &["again"],
        Bug::OnceUnrecorded => &["twice"],
        Bug::DeleteKeepsRetry => &["unwanted"],
        Bug::StaleRead | Bug::RepeatsAsNew => &["order"],
        Bug::ApplyDiffers => &["doubt"],
        Bug::OwnZones => &["doubt", "replica"],
        // Scenes of their own show these.
        Bug::LeadsOn | Bug::NeverSilent | Bug::NoQuestions | Bug::TakesOthersMail => &[],
        Bug::SentUnrecorded | Bug::StartUnchecked => &[],
        // Its records are not what its mark says: the node finds it, says so and writes another, which breaks no rule.
        Bug::SnapshotTorn => &[],
        // Neither its store nor a snapshot reaches back to where its log begins; or the node ends as it installs one.
        Bug::PurgeBeforeKept | Bug::SnapshotUnverified => &["stopped"],
    }
}

fn is_found(name: &str, bug: Bug) {
    let found = |seed: u64| {
        let seed = seed.to_string();
        let mut arguments = vec!["--bug", name, "--seed", &seed, "--seconds", "15"];
        arguments.extend((bug == Bug::UnderWayForgotten).then_some("--stops"));
        let (_, printed) = simulated(&arguments);
        let mut broken = printed.lines().filter_map(|line| line.trim_start().split_once(": "));
        broken.any(|(rule, _)| rules(bug).contains(&rule))
    };
    assert!((1..=SEEDS_MAX).any(found), "{bug:?} was not found by {:?} in {SEEDS_MAX} seeds", rules(bug));
}

#[test]
fn each_planted_bug_is_found() {
    // Those of elections have scenes of their own.
    planted::NAMES.iter().filter(|(_, bug)| !rules(*bug).is_empty()).for_each(|(name, bug)| is_found(name, *bug));
}

fn scene(scene: Scene, bug: Option<Bug>) -> Outcome {
    let dir = tempfile::tempdir_in(memory()).unwrap();
    play(scene, 1, bug, dir.path()).unwrap()
}

#[test]
fn a_leader_whose_log_has_lost_its_end_does_not_lead_on() {
    let sound = scene(Scene::LogEndLost, None);
    assert!(sound.kept == sound.acknowledged && sound.terms.1 > sound.terms.0, "{sound:?}");
    let dir = tempfile::tempdir_in(memory()).unwrap();
    let bug = play(Scene::LogEndLost, 1, Some(Bug::LeadsOn), dir.path());
    // Writes are lost, or the cluster answers no more.
    let lost = bug.as_ref().map_or(true, |bug| bug.kept < bug.acknowledged);
    assert!(lost, "a leader that leads on was not found: {bug:?}");
}

#[test]
fn a_follower_whose_log_has_lost_its_end_is_sent_it_again_and_the_leader_leads_on() {
    let sound = scene(Scene::FollowersLogEndLost, None);
    assert_eq!((sound.terms.1, sound.kept), (sound.terms.0, sound.acknowledged), "{sound:?}");
}

#[test]
fn a_leader_without_a_majority_gives_way_to_one_that_has_it() {
    let sound = scene(Scene::LeaderWithoutMajority, None);
    assert!(sound.wrote_after_ms.is_some_and(|ms| ms < 5_000) && sound.terms.1 > sound.terms.0, "{sound:?}");
    let bug = scene(Scene::LeaderWithoutMajority, Some(Bug::NeverSilent));
    assert_eq!(bug.wrote_after_ms, None, "a leader that is never silent was not found: {bug:?}");
}

#[test]
fn a_node_that_comes_back_ends_no_term() {
    let sound = scene(Scene::NodeComesBack, None);
    assert_eq!((sound.terms.1, sound.kept), (sound.terms.0, sound.acknowledged), "{sound:?}");
    let bug = scene(Scene::NodeComesBack, Some(Bug::NoQuestions));
    assert!(bug.terms.1 > bug.terms.0, "a node that asks no questions was not found: {bug:?}");
}

#[test]
fn nodes_that_are_far_apart_elect_write_and_read() {
    for round_trip_ms in [2, 40, 90, 110, 150, ROUND_TRIP_MS_MAX, 300, 500] {
        let far = scene(Scene::FarApart(round_trip_ms), None);
        assert_eq!(far.kept, far.acknowledged, "{round_trip_ms} ms: {far:?}");
        // To the leader, from there to a majority, and once more where there is no connection yet.
        assert!(far.read_ms_max <= 4 * round_trip_ms + 200, "{round_trip_ms} ms: {far:?}");
        // Silence, questions and votes, a second time where the votes are split, and each takes longer over such a link.
        // Longer timeouts are a silence that is longer by as much.
        let silence_ms = if round_trip_ms > ROUND_TRIP_MS_MAX { 4 * round_trip_ms } else { 0 };
        let most_ms = 1_500 + 5 * round_trip_ms + silence_ms;
        assert!(far.wrote_after_ms.is_some_and(|ms| ms < most_ms), "{round_trip_ms} ms: {far:?}");
    }
}

#[test]
fn a_node_that_is_cut_off_knows_that_it_has_written_nothing() {
    let sound = scene(Scene::CutOff, None);
    assert_eq!((sound.kept, sound.refused.1), (sound.acknowledged, 0), "{sound:?}");
    assert!(sound.refused.0 > 0, "{sound:?}");
}

#[test]
fn messages_that_are_meant_for_others_make_no_majority() {
    let sound = scene(Scene::AddressesChangeHands, None);
    assert_eq!(sound.wrote_after_ms, None, "two nodes of five are no majority: {sound:?}");
    let bug = scene(Scene::AddressesChangeHands, Some(Bug::TakesOthersMail));
    assert!(bug.wrote_after_ms.is_some(), "a node that takes what is meant for others was not found: {bug:?}");
}

fn records(scene: records::Scene, seed: u64, bug: Option<Bug>) -> records::Outcome {
    let dir = tempfile::tempdir_in(memory()).unwrap();
    records::play(scene, seed, bug, dir.path()).unwrap()
}

const RECORDS_SEEDS: std::ops::RangeInclusive<u64> = 1..=4;

#[test]
fn what_is_in_flight_while_nothing_can_be_recorded_is_recorded_later() {
    use records::Scene;

    for scene in [Scene::MajorityAway, Scene::LeaderDies] {
        for seed in RECORDS_SEEDS {
            let sound = records(scene, seed, None);
            assert!(sound.answered > 0 && sound.succeeded == sound.answered, "{scene:?} {seed}: {sound:?}");
            assert_eq!(sound.again, 0, "{scene:?} {seed}: {sound:?}");
            assert_eq!((sound.once.1, sound.unrecorded), (sound.once.0, 0), "{scene:?} {seed}: {sound:?}");
            assert!(sound.once_sent_max <= 1, "{scene:?} {seed}: {sound:?}");
            // The majority is back after 7 s, and each of these tasks is due each 5 s.
            assert!(sound.next_ms_max < 11_000, "{scene:?} {seed}: {sound:?}");
        }
    }
    // A leader that writes nothing any more sends nothing of what must be recorded first.
    let bug = records(Scene::MajorityAway, 1, Some(Bug::SentUnrecorded));
    assert!(bug.unrecorded > 0, "what is sent unrecorded was not found: {bug:?}");
    let twice = |seed| records(Scene::LeaderDies, seed, Some(Bug::SentUnrecorded)).once_sent_max > 1;
    assert!(RECORDS_SEEDS.into_iter().any(twice), "what is sent twice was not found");
}

fn put_back(part: copies::Part, story: copies::Story, seed: u64, bug: Option<Bug>) -> copies::Outcome {
    let dir = tempfile::tempdir_in(memory()).unwrap();
    copies::play(part, story, seed, bug, dir.path())
        .unwrap_or_else(|error| panic!("{part:?} {story:?} {seed}: {error}"))
}

#[test]
fn an_older_copy_on_one_disk_takes_nothing_that_another_keeps() {
    use copies::{Part, Story};

    for (n, part) in Part::EACH.into_iter().enumerate() {
        // With what it has promised it must not come back but as a whole.
        let promised = [Part::AllButIdentity, Part::Log, Part::LogMeta].contains(&part);
        for (story, seed) in [(Story::Both, n as u64 + 1), (Story::One, n as u64 + 2)] {
            let sound = put_back(part, story, seed, None);
            let what = format!("{part:?} {story:?} {seed}: {sound:?}");
            assert_eq!(sound.refused.as_ref().is_some_and(|why| why.contains("older copy")), promised, "{what}");
            if (part, story) == (Part::All, Story::One) {
                // Only one node has kept it, which is told apart from nothing; but that one says so.
                assert!(sound.kept == sound.acknowledged || !sound.others.is_empty(), "{what}");
                continue;
            }
            assert_eq!((sound.kept, sound.others.len()), (sound.acknowledged, 0), "{what}");
            assert_eq!(sound.wrote, story == Story::Both || !promised, "{what}");
        }
    }
    let bug = put_back(Part::AllButIdentity, Story::One, 2, Some(Bug::StartUnchecked));
    assert!(bug.kept < bug.acknowledged, "a directory that is not looked at was not found: {bug:?}");
}
