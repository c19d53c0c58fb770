//! Made-up histories, and what the checker finds in them.

use super::*;
use crate::sim::history::{Call, Hit, Replica, Sent};

const CREATED: u64 = 1_000_500;
const END: u64 = 1_030_000;
const BOUNDS: Bounds = Bounds { skew_ms: 1000, settle_ms: 6000, misfire_ms: 4000, firing_ms: 300, recorded_ms: 3000 };

fn call(wish: Wish, asked: u64, answered: Option<u64>) -> Call {
    Call { wish, asked, answered }
}

fn run(due: u64, state: &str) -> ShownRun {
    ShownRun { id: format!("run-{due}"), due, state: state.to_owned() }
}

fn sent(at: u64, node: u64, fence: (u64, u64), due: u64) -> Sent {
    Sent { at, node, fence, task: "a".to_owned(), run: format!("run-{due}"), attempt: 1, due }
}

fn hit(run: &str, status: u16) -> Hit {
    Hit { at: 1_005_003, task: "a".to_owned(), run: run.to_owned(), status }
}

/// A task that is due once, and was fired as it should be.
fn sound() -> History {
    let rhythm = Rhythm::Once(Some(1_005_000));
    let shown =
        Shown { run_count: (1, 1), runs: vec![run(1_005_000, "succeeded")], audit: vec![run(1_005_000, "succeeded")] };
    let task = Task {
        rhythm,
        fails: false,
        once: false,
        asked: 1_000_000,
        created: Some(CREATED),
        calls: Vec::new(),
        shown: Some(shown),
    };
    let replica = |node| Replica { node, applied: 90, digest: (5, 77) };
    History {
        tasks: [("a".to_owned(), task)].into(),
        sent: vec![sent(1_005_001, 1, (3, 1), 1_005_000)],
        hits: vec![hit("run-1005000", 200)],
        leaders: [(3, [1].into())].into(),
        replicas: vec![replica(1), replica(2), replica(3)],
        healed: 1_020_000,
        shown: Some(END),
        faults: 2,
        ..History::default()
    }
}

/// A task of every two seconds.
fn periodic() -> History {
    let mut history = sound();
    let due = || (1_002_000..1_030_000).step_by(2000);
    history.sent = due().map(|due| sent(due + 1, 1, (3, due), due)).collect();
    history.hits = due().map(|due| hit(&format!("run-{due}"), 200)).collect();
    let runs: Vec<ShownRun> = due().map(|due| run(due, "succeeded")).collect();
    let task = history.tasks.get_mut("a").unwrap();
    task.rhythm = Rhythm::Every(2000);
    task.shown = Some(Shown { run_count: (runs.len() as u64, runs.len() as u64), runs: runs.clone(), audit: runs });
    history
}

#[test]
fn a_task_whose_clock_jumps_is_due_once_more_at_most_in_between() {
    let zoned = |due: &[u64]| {
        let mut history = periodic();
        history.zone_data = ["a".to_owned(), "b".to_owned()].into();
        let task = history.tasks.get_mut("a").unwrap();
        task.rhythm = Rhythm::Zoned(2000);
        let runs: Vec<ShownRun> = due.iter().map(|due| run(*due, "succeeded")).collect();
        task.shown = Some(Shown { run_count: (runs.len() as u64, runs.len() as u64), runs: Vec::new(), audit: runs });
        super::zoned(&history, &BOUNDS)
    };
    let even: Vec<u64> = (1_002_000..1_030_000).step_by(2000).collect();
    let jumps: Vec<u64> = (1_002_000..1_010_000).step_by(2000).chain((1_011_000..1_030_000).step_by(2000)).collect();
    assert_eq!((zoned(&even), zoned(&jumps)), (Vec::new(), Vec::new()));
    let without = |lost: u64| even.iter().copied().filter(|due| *due != lost).collect::<Vec<_>>();
    assert_eq!(zoned(&without(1_002_000)).len(), 0, "it may have been created late");
    let twice: Vec<u64> = jumps.iter().copied().chain([1_013_500]).collect();
    let more: Vec<u64> = [1_003_000].into_iter().chain(even.iter().copied().skip(1)).chain([1_015_000]).collect();
    let gone: Vec<u64> = even.iter().copied().filter(|due| !(1_010_000..=1_012_000).contains(due)).collect();
    for wrong in [twice, more, gone, even[..4].to_vec(), Vec::new()] {
        assert_eq!(zoned(&wrong).len(), 1, "{wrong:?}");
    }
}

fn rules(history: &History) -> Vec<&'static str> {
    let mut rules: Vec<_> = check(history, &BOUNDS).iter().map(|violation| violation.rule).collect();
    rules.dedup();
    rules
}

/// What is found in a history that was changed.
fn found(mut history: History, change: impl FnOnce(&mut History, &mut Task)) -> Vec<&'static str> {
    let mut task = history.tasks.remove("a").unwrap();
    change(&mut history, &mut task);
    history.tasks.insert("a".to_owned(), task);
    rules(&history)
}

fn shown(task: &mut Task) -> &mut Shown {
    task.shown.as_mut().unwrap()
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(check(&sound(), &BOUNDS), []);
    assert_eq!(check(&periodic(), &BOUNDS), []);
}

#[test]
fn an_acknowledged_task_may_not_be_lost_and_one_that_was_not_may() {
    assert_eq!(found(sound(), |_, task| task.shown = None), ["lost"]);
    let none = found(sound(), |history, task| {
        (task.shown, task.created) = (None, None);
        history.hits.clear();
    });
    assert_eq!(none, [""; 0]);
    let delete = |answered| {
        found(sound(), move |_, task| {
            task.shown = None;
            task.calls.push(call(Wish::Delete, 1_006_000, answered));
        })
    };
    assert_eq!(delete(Some(1_006_010)), [""; 0]);
    assert_eq!(delete(None), [""; 0], "nobody knows whether it was done");
}

#[test]
fn an_acknowledged_delete_lasts() {
    let again = found(sound(), |_, task| task.calls.push(call(Wish::Delete, 1_006_000, Some(1_006_010))));
    assert_eq!(again, ["lost"]);
}

#[test]
fn a_task_that_is_due_once_reaches_its_target() {
    assert!(found(sound(), |history, _| history.hits.clear()).contains(&"unfired"));
    let late = found(sound(), |history, task| {
        history.hits.clear();
        history.sent.clear();
        task.rhythm = Rhythm::Once(Some(END - 100));
        *shown(task) = Shown::default();
    });
    assert_eq!(late, [""; 0], "it is not to have been fired by the time of the questions");
}

#[test]
fn each_due_time_is_accounted_for() {
    assert_eq!(found(periodic(), |_, task| drop(shown(task).audit.remove(3))), ["gap"]);
    for state in ["running", "not_kept"] {
        assert_eq!(found(periodic(), |_, task| shown(task).audit[3].state = state.to_owned()), ["gap"]);
    }
}

#[test]
fn a_due_time_is_missed_only_where_nothing_could_fire() {
    // The one at 1,008,000, of which nothing was sent, nor anything else then.
    let missed = |change: &dyn Fn(&mut History)| {
        found(periodic(), |history, task| {
            shown(task).audit[3].state = "missed".to_owned();
            history.sent.retain(|sent| !(1_007_000..1_013_000).contains(&sent.at));
            change(history);
            history.sent.sort_by_key(|sent| sent.at);
        })
    };
    let also = |history: &mut History, at, node, due| history.sent.push(sent(at, node, (3, at), due));
    assert_eq!((missed(&|_| {}), missed(&|history| history.faults = 0)), (vec![], vec!["gap"]));
    let fired = |from, to, node, clocks_off| {
        missed(&|history| {
            history.clocks_off = clocks_off;
            also(history, from, 1, 1_006_000);
            also(history, to, node, 1_006_000);
        })
    };
    assert_eq!(fired(1_008_100, 1_008_500, 1, false), ["gap"]);
    assert_eq!(fired(1_008_100, 1_008_200, 1, false), [""; 0], "it may have lost the lead before it looked");
    assert_eq!(fired(1_008_100, 1_008_500, 2, false), [""; 0], "neither has led for long");
    assert_eq!(fired(1_008_100, 1_008_500, 1, true), [""; 0], "its clock may have been behind");
    assert_eq!(missed(&|history| also(history, 1_008_100, 2, 1_008_000)), [""; 0], "lost with its leader");
    assert_eq!(missed(&|history| also(history, 1_008_100, 1, 1_008_000)), ["gap"], "its leader led on");
}

#[test]
fn a_pause_excuses_what_is_due_in_it_and_nothing_else() {
    let paused = |upto| {
        found(periodic(), move |history, task| {
            task.calls.push(call(Wish::Pause, 1_008_500, Some(1_008_510)));
            task.calls.push(call(Wish::Resume, 1_013_500, Some(1_013_520)));
            shown(task).audit.retain(|due| !(1_009_000..upto).contains(&due.due));
            history.sent.retain(|sent| !(1_009_000..1_013_000).contains(&sent.at));
        })
    };
    assert_eq!(paused(1_013_000), [""; 0]);
    assert_eq!(paused(1_017_000), ["gap"]);
    let pending = |answered| {
        found(periodic(), move |history, task| {
            task.calls.push(call(Wish::Pause, 1_013_500, Some(1_013_510)));
            task.calls.extend(answered);
            history.sent.retain(|sent| sent.at < 1_013_500);
            shown(task).audit[3].state = "pending".to_owned();
        })
    };
    assert_eq!(pending(None), [""; 0], "it goes on when its task does");
    assert_eq!(pending(Some(call(Wish::Resume, 1_014_000, Some(1_014_010)))), ["gap"]);
}

#[test]
fn nothing_is_sent_early() {
    let sent_at = |at, faults| {
        found(sound(), move |history, _| {
            history.faults = faults;
            history.sent[0].at = at;
        })
    };
    assert_eq!((sent_at(1_004_001, 1), sent_at(1_003_999, 1)), (vec![], vec!["early"]));
    assert_eq!(sent_at(1_004_999, 0), ["early"], "no clock was off");
}

#[test]
fn nothing_is_sent_after_a_delete_or_in_a_pause() {
    let after = |call: Call| found(periodic(), move |_, task| task.calls.push(call));
    assert!(after(call(Wish::Delete, 1_009_000, Some(1_009_010))).contains(&"unwanted"));
    assert_eq!(after(call(Wish::Delete, 1_009_000, None)), [""; 0]);
    assert!(after(call(Wish::Pause, 1_009_000, Some(1_009_010))).contains(&"unwanted"));
    let resumed = found(periodic(), |_, task| {
        task.calls.push(call(Wish::Pause, 1_008_500, Some(1_008_510)));
        task.calls.push(call(Wish::Resume, 1_009_000, Some(1_009_010)));
    });
    assert_eq!(resumed, [""; 0]);
    assert_eq!(found(sound(), |history, _| history.sent[0].task = "b".to_owned()), ["unwanted"]);
}

#[test]
fn the_same_due_time_has_the_same_run_id() {
    let twice = |run: &'static str| {
        found(sound(), move |history, _| {
            let again = Sent { run: run.to_owned(), ..sent(1_005_900, 2, (4, 1), 1_005_000) };
            history.sent.push(again);
        })
    };
    assert_eq!((twice("run-1005000"), twice("run-x")), (vec![], vec!["run-id"]));
}

#[test]
fn a_stop_in_order_sends_nothing_again_that_has_succeeded() {
    let twice = |status, in_order| {
        found(sound(), move |history, _| {
            history.in_order = in_order;
            history.hits.insert(0, hit("run-1005000", status));
        })
    };
    assert_eq!(twice(200, true), ["again"]);
    assert_eq!(twice(503, true), [""; 0], "a retry");
    assert_eq!(twice(200, false), [""; 0], "where something else went wrong, it may be");
}

#[test]
fn a_fence_never_goes_back() {
    let then = |at, node, fence| found(sound(), move |history, _| history.sent.push(sent(at, node, fence, 1_005_000)));
    assert_eq!(then(1_005_002, 2, (4, 1)), [""; 0]);
    assert_eq!(then(1_005_002, 2, (2, 9)), ["fence"]);
    assert_eq!(then(1_005_002, 1, (3, 1)), ["fence"], "the same again");
    assert_eq!(then(1_005_001, 2, (2, 9)), [""; 0], "in the same millisecond nobody knows which was first");
}

#[test]
fn an_outcome_is_what_the_target_said() {
    assert_eq!(found(sound(), |history, _| history.hits[0].status = 503), ["outcome"]);
    let going = |fails| {
        found(sound(), move |_, task| {
            task.fails = fails;
            shown(task).runs[0].state = "running".to_owned();
            shown(task).run_count = (0, 0);
        })
    };
    assert_eq!((going(false), going(true)), (vec!["outcome"], vec![]));
}

#[test]
fn the_counter_agrees_with_the_history() {
    assert_eq!(found(sound(), |_, task| shown(task).run_count = (2, 2)), ["count"]);
    assert_eq!(found(sound(), |_, task| shown(task).run_count = (0, 1)), [""; 0], "a run has ended in between");
}

#[test]
fn replicas_are_the_same() {
    assert_eq!(found(sound(), |history, _| history.replicas[1].digest.1 = 78), ["replica"]);
}

#[test]
fn a_history_without_an_end_is_no_sound_one() {
    assert_eq!(found(sound(), |history, _| history.shown = None), ["finished"]);
    assert_eq!(found(sound(), |history, _| history.stopped.push("node 1: corrupt".to_owned())), ["stopped"]);
}

#[test]
fn what_is_sent_at_most_once_arrives_once_or_is_shown_as_lost() {
    let again = |history: &mut History| history.hits.push(hit("run-1005000", 503));
    assert_eq!(found(sound(), |history, _| again(history)), [] as [&str; 0]);
    let twice = |history: &mut History, task: &mut Task| {
        task.once = true;
        again(history);
    };
    assert_eq!(found(sound(), twice), ["twice"]);
    let lost = |state: &'static str| {
        move |history: &mut History, task: &mut Task| {
            history.hits.clear();
            task.once = true;
            shown(task).runs[0].state = state.to_owned();
        }
    };
    assert_eq!(found(sound(), lost("unknown")), [] as [&str; 0]);
    assert_eq!(found(sound(), lost("failed")), [] as [&str; 0]);
    assert_eq!(found(sound(), lost("skipped")), ["unfired", "count"]);
    // What is repeated comes to be known.
    let unknown = |_: &mut History, task: &mut Task| shown(task).runs[0].state = "unknown".to_owned();
    assert_eq!(found(sound(), unknown), ["outcome"]);
}

#[test]
fn what_nodes_found_themselves_counts() {
    assert_eq!(found(sound(), |history, _| drop(history.doubts.insert(2, "it differs".to_owned()))), ["doubt"]);
    assert_eq!(found(sound(), |history, _| history.strays.push("a record".to_owned())), ["stray"]);
}
