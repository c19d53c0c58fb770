//! Unit tests of what follows from an outcome.

use super::*;
use crate::id::RunId;
use crate::run::Run;
use crate::task::{Alert, AlertEvent, Delivery, Options, Overlap};

fn with(state: &mut State, name: &str, timing: Timing, options: Options) -> Reply {
    let spec = TaskSpec { options, ..spec(timing) };
    state.apply(T0, Command::Create { id: id(name), spec: Box::new(spec) })
}

fn end(state: &mut State, seq: Seq, key: RunKey, verdict: Verdict, steering: Steering) {
    let status = if verdict == Verdict::Succeeded { 200 } else { 500 };
    let command = Command::RunEnded { seq, key, attempt: attempt(1, status), term: 1, verdict, steering };
    state.apply(key.due, command);
}

/// The next due time has fired, with this end.
fn fire(state: &mut State, seq: Seq, verdict: Verdict, steering: Steering) -> Timestamp {
    let due = state.task(seq).unwrap().next.unwrap();
    end(state, seq, RunKey::scheduled(due), verdict, steering);
    due
}

fn failed() -> Verdict {
    Verdict::Failed { reason: "no".into() }
}

fn history(state: &State, seq: Seq) -> Vec<Run> {
    let runs = state.changes().runs.get(&seq).map(|history| history.added.clone());
    runs.unwrap_or_default().into_iter().map(|(_, run)| (*run).clone()).collect()
}

fn alert(on: &[AlertEvent]) -> Options {
    Options { alert: Some(Alert { url: "http://127.0.0.1:2/".into(), on: on.to_vec() }), ..Options::default() }
}

fn open_keys(state: &State, seq: Seq) -> Vec<RunKey> {
    state.task(seq).unwrap().past.open.iter().map(|run| run.key).collect()
}

#[test]
fn an_outcome_triggers_the_tasks_that_are_to_follow_it() {
    let mut state = State::new(T0);
    for child in ["good", "bad"] {
        create(&mut state, T0, child, at(T0.0 + 1_000_000));
    }
    let links = Options { on_success: vec![id("good"), id("gone")], on_failure: vec![id("bad")], ..Options::default() };
    with(&mut state, "parent", minutely(), links);
    let first = fire(&mut state, 3, Verdict::Succeeded, Steering::default());
    assert_eq!((open_keys(&state, 1).len(), open_keys(&state, 2).len()), (1, 0));
    let parent = RunId::new(&id("parent"), RunKey::scheduled(first));
    assert_eq!(state.task(1).unwrap().past.open[0].parent, Some(parent));
    assert_eq!(due_now(&mut state, first).iter().filter(|job| job.seq == 1).count(), 1, "at once");
    let child = open_keys(&state, 1)[0];
    end(&mut state, 1, child, Verdict::Succeeded, Steering::default());
    assert_eq!(history(&state, 1)[0].parent, Some(parent), "its record names its parent too");
    fire(&mut state, 3, failed(), Steering::default());
    assert_eq!((open_keys(&state, 1).len(), open_keys(&state, 2).len()), (0, 1));
    fire(&mut state, 3, Verdict::Unknown { reason: "who knows".into() }, Steering::default());
    assert_eq!((open_keys(&state, 1).len(), open_keys(&state, 2).len()), (0, 1), "neither");
}

#[test]
fn tasks_that_would_trigger_themselves_are_refused() {
    let mut state = State::new(T0);
    let after = |names: &[&str]| Options { on_success: names.iter().map(|n| id(n)).collect(), ..Options::default() };
    let refused = |via: &str| Reply::Refused(Refusal::Cycle(id(via)));
    assert_eq!(with(&mut state, "a", minutely(), after(&["a"])), refused("a"));
    assert!(matches!(with(&mut state, "a", minutely(), after(&["b", "c"])), Reply::Created { .. }), "b may come later");
    assert!(matches!(with(&mut state, "b", minutely(), after(&["c"])), Reply::Created { .. }), "two ways are no cycle");
    let failing = Options { on_failure: vec![id("a")], ..Options::default() };
    assert_eq!(with(&mut state, "c", minutely(), failing.clone()), refused("a"));
    assert!(matches!(create(&mut state, T0, "c", minutely()), Reply::Created { .. }));
    let old = spec(minutely());
    let new = TaskSpec { options: failing, ..old.clone() };
    let update = Command::Update { id: id("c"), base: old.digest(), old: Box::new(old), spec: Box::new(new) };
    assert_eq!(state.apply(T0, update), refused("a"), "by a change too");
}

#[test]
fn a_task_whose_runs_pile_up_is_not_triggered_for_ever() {
    let mut state = State::new(T0);
    create(&mut state, T0, "child", at(T0.0 + 1_000_000));
    with(&mut state, "parent", minutely(), Options { on_success: vec![id("child")], ..Options::default() });
    for _ in 0..OPEN_RUNS_MAX {
        assert!(matches!(state.apply(T0, Command::Trigger { id: id("child") }), Reply::Triggered { .. }));
    }
    let refusal = Refusal::TooManyRuns(OPEN_RUNS_MAX);
    assert_eq!(state.apply(T0, Command::Trigger { id: id("child") }), Reply::Refused(refusal));
    fire(&mut state, 2, Verdict::Succeeded, Steering::default());
    let skipped = &history(&state, 1)[0];
    assert!(skipped.state == RunState::Skipped && skipped.parent.is_some(), "{skipped:?}");
}

#[test]
fn what_is_sent_at_most_once_is_never_sent_again_and_ends_as_unknown() {
    let mut state = State::new(T0);
    let due = T0.plus_ms(10);
    let once = Options { delivery: Delivery::AtMostOnce, ..Options::default() };
    with(&mut state, "a", at(due.0), once);
    due_now(&mut state, due);
    let key = RunKey::scheduled(due);
    state.apply(due, started(1, due, 1, 7, 3));
    assert!(state.has_started(1, key, 1, 7, 3) && !state.has_started(1, key, 1, 7, 4));
    assert!(!state.wants(1, key, 2), "whatever becomes of the first");
    state.apply(due, started(1, due, 2, 8, 4));
    assert!(state.has_started(1, key, 1, 7, 3), "another leader cannot start it either");
    let lost = state.lost(1, key).expect("a run that nobody sends any more");
    state.apply(due.plus_ms(5), lost);
    let run = &history(&state, 1)[0];
    assert_eq!((run.state, run.attempts.len(), run.attempts[0].node), (RunState::Unknown, 1, 7));
    assert_eq!((state.task(1).unwrap().state, state.task(1).unwrap().past.run_count), (TaskState::Finished, 1));
    assert!(state.lost(1, key).is_none());

    create(&mut state, T0, "b", at(due.0));
    state.apply(due, started(2, due, 1, 7, 3));
    assert!(state.lost(2, key).is_none() && state.wants(2, key, 2), "others are sent again");
}

#[test]
fn alerts_tell_of_failures_misses_and_recovery_and_are_no_runs() {
    let mut state = State::new(T0);
    with(&mut state, "a", minutely(), alert(&AlertEvent::ALL));
    fire(&mut state, 1, Verdict::Succeeded, Steering::default());
    assert!(open_keys(&state, 1).is_empty(), "nothing to tell");
    let bad = fire(&mut state, 1, failed(), Steering::default());
    let told = RunKey::scheduled(bad).alert(AlertEvent::Failed);
    assert_eq!(open_keys(&state, 1), [told]);
    let jobs = due_now(&mut state, bad);
    assert_eq!((jobs[0].key, &*jobs[0].target), (told, "127.0.0.1:2"));
    assert_eq!((state.open_runs(), state.task(1).unwrap().runs().count()), (0, 0));

    let again = Verdict::Retry { at: bad.plus_ms(50) };
    end(&mut state, 1, told, again, Steering { delete: true, ..Steering::default() });
    assert_eq!(open_keys(&state, 1), [told], "it is sent again, and its receiver steers nothing");
    state.apply(bad, Command::Pause { id: id("a") });
    assert!(state.wants(1, told, 2), "while the task is paused too");
    state.apply(bad, Command::Resume { id: id("a") });
    let delivered = Command::RunEnded {
        seq: 1,
        key: told,
        attempt: attempt(2, 200),
        term: 1,
        verdict: Verdict::Succeeded,
        steering: Steering::default(),
    };
    state.apply(bad, delivered);
    assert!(open_keys(&state, 1).is_empty());
    assert_eq!((history(&state, 1).len(), state.task(1).unwrap().past.run_count), (2, 2), "it is in no history");

    let good = fire(&mut state, 1, Verdict::Succeeded, Steering::default());
    assert_eq!(open_keys(&state, 1), [RunKey::scheduled(good).alert(AlertEvent::Recovered)]);
    let next = state.task(1).unwrap().next.unwrap();
    let upto = next.plus_ms(120_000);
    let reason = "nobody was there".to_owned();
    state.apply(upto, Command::Misfire { seq: 1, from: next, upto, reason, latest_fires: true });
    let missed = RunKey::scheduled(next.plus_ms(60_000)).alert(AlertEvent::Missed);
    assert_eq!(open_keys(&state, 1)[1..], [missed], "one for all of them");
}

#[test]
fn alerts_whose_receiver_is_away_are_bounded_and_hold_up_nothing() {
    let mut state = State::new(T0);
    let options = Options { overlap: Overlap::Skip, max_runs: Some(150), ..alert(&[AlertEvent::Failed]) };
    with(&mut state, "a", minutely(), options);
    for _ in 0..150 {
        fire(&mut state, 1, failed(), Steering::default());
    }
    let task = state.task(1).unwrap();
    assert_eq!((task.past.open.len(), task.state), (100, TaskState::Finished));
    // Its receiver has some seconds; then the task goes as any other, with what nobody has taken.
    let finished = task.past.finished.unwrap();
    let collect = |state: &mut State, ms| {
        let expired = state.expired(finished.plus_ms(ms), 1, (None, 0), 10).0;
        state.apply(finished.plus_ms(ms), Command::Collect { seqs: vec![1], retain_s: 1 });
        (expired.len(), state.len())
    };
    assert_eq!(collect(&mut state, 9_999), (0, 1));
    state.apply(finished, Command::Trigger { id: id("a") });
    assert_eq!(collect(&mut state, 86_400_000), (0, 1), "not while a run of it is going");
    let key = state.task(1).unwrap().runs().next().unwrap().key;
    state.apply(finished, Command::Cancel { seq: 1, key });
    assert_eq!(collect(&mut state, 10_000), (1, 0));
    state.check();
}

#[test]
fn an_answer_sets_the_next_due_time_and_what_it_replaces_is_skipped() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let first = state.task(1).unwrap().next.unwrap();
    let at = first.plus_ms(150_000);
    let later = Steering { next_at: Some(at), ..Steering::default() };
    fire(&mut state, 1, Verdict::Succeeded, later);
    assert_eq!(state.task(1).unwrap().next, Some(at));
    let skipped = &history(&state, 1)[1];
    assert_eq!((skipped.key.due, skipped.upto), (first.plus_ms(60_000), Some(first.plus_ms(120_000))));
    assert_eq!(skipped.state, RunState::Skipped);
    fire(&mut state, 1, Verdict::Succeeded, Steering::default());
    assert_eq!(state.task(1).unwrap().next, Some(first.plus_ms(180_000)), "the schedule goes on");

    let sooner = Steering { next_at: Some(Timestamp(5)), ..Steering::default() };
    let due = fire(&mut state, 1, Verdict::Succeeded, sooner);
    assert_eq!(state.task(1).unwrap().next, Some(due.plus_ms(1)), "never a time that was there before");
    assert_eq!(history(&state, 1).len(), 4, "nothing was skipped");
}

#[test]
fn a_one_shot_can_be_given_a_next_time_by_its_answer() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", at(T0.0 + 10));
    let again = Steering { next_at: Some(T0.plus_ms(5000)), ..Steering::default() };
    fire(&mut state, 1, Verdict::Succeeded, again);
    assert_eq!((state.task(1).unwrap().state, state.task(1).unwrap().next), (TaskState::Active, again.next_at));
    fire(&mut state, 1, Verdict::Succeeded, Steering::default());
    assert_eq!(state.task(1).unwrap().state, TaskState::Finished);
    let Reply::Triggered { key } = state.apply(T0.plus_ms(6000), Command::Trigger { id: id("a") }) else { panic!() };
    let again = Steering { next_at: Some(T0.plus_ms(9000)), ..Steering::default() };
    end(&mut state, 1, key, Verdict::Succeeded, again);
    assert_eq!(state.task(1).unwrap().state, TaskState::Active, "even one that was finished");
}

#[test]
fn an_answer_pauses_ends_or_deletes_its_task_within_its_bounds() {
    let mut state = State::new(T0);
    for name in ["pauses", "ends", "deletes"] {
        create(&mut state, T0, name, minutely());
    }
    let due = fire(&mut state, 1, Verdict::Retry { at: T0 }, Steering { pause: true, ..Steering::default() });
    assert_eq!(state.task(1).unwrap().state, TaskState::Paused);
    assert!(!state.wants(1, RunKey::scheduled(due), 2), "its retries wait too");
    fire(&mut state, 2, failed(), Steering { end: true, ..Steering::default() });
    assert_eq!(state.task(2).unwrap().state, TaskState::Finished);
    fire(&mut state, 3, Verdict::Succeeded, Steering { delete: true, ..Steering::default() });
    assert!(state.task(3).is_none() && state.find(&id("deletes")).is_none());

    let bounded = Options { max_runs: Some(1), ..Options::default() };
    with(&mut state, "enough", minutely(), bounded);
    fire(&mut state, 4, Verdict::Succeeded, Steering { next_at: Some(T0.plus_ms(600_000)), ..Steering::default() });
    assert_eq!(state.task(4).unwrap().state, TaskState::Finished, "max_runs holds");
    let bounded = Options { end: Some(T0.plus_ms(300_000)), ..Options::default() };
    with(&mut state, "over", minutely(), bounded);
    fire(&mut state, 5, Verdict::Succeeded, Steering { next_at: Some(T0.plus_ms(600_000)), ..Steering::default() });
    assert_eq!(state.task(5).unwrap().state, TaskState::Finished, "end_time holds");
}

#[test]
fn a_due_time_that_has_come_is_fired_and_recorded_whatever_the_schedule_says_next() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let due = state.task(1).unwrap().next.unwrap();
    assert_eq!(due_now(&mut state, due).len(), 1, "its attempt is under way");
    let old = spec(minutely());
    let hourly = Timing::Periodic { format: "0 * * * *".into(), timezone: "UTC".into() };
    let new = TaskSpec { timing: hourly, ..old.clone() };
    let update = Command::Update { id: id("a"), base: old.digest(), old: Box::new(old), spec: Box::new(new) };
    assert!(matches!(state.apply(due.plus_ms(1), update), Reply::Created { .. }));
    assert!(state.wants(1, RunKey::scheduled(due), 1));
    state.apply(due.plus_ms(20), ended(1, due, 1, Verdict::Succeeded));
    assert_eq!((history(&state, 1).len(), state.task(1).unwrap().past.run_count), (1, 1));
}

#[test]
fn what_waits_in_the_leaders_hands_holds_up_nothing_that_comes_due_later() {
    let mut state = State::new(T0);
    with(&mut state, "a", minutely(), alert(&[AlertEvent::Failed]));
    let bad = fire(&mut state, 1, failed(), Steering::default());
    let told = RunKey::scheduled(bad).alert(AlertEvent::Failed);
    assert_eq!(due_now(&mut state, bad).len(), 1, "the alert, whose receiver has no place for it");
    let next = bad.plus_ms(60_000);
    let keys: Vec<_> = due_now(&mut state, next).into_iter().map(|job| job.key).collect();
    assert!(keys.contains(&RunKey::scheduled(next)), "{keys:?}");
    state.release_taken();
    let keys: Vec<_> = due_now(&mut state, next).into_iter().map(|job| job.key).collect();
    assert_eq!(keys, [told, RunKey::scheduled(next)], "a new leader finds both");
    assert!(due_now(&mut state, next).is_empty());
}

#[test]
fn a_run_of_which_no_further_attempt_is_made_has_failed_with_its_last_error() {
    let mut state = State::new(T0);
    create(&mut state, T0, "after", at(T0.0 + 9_000_000));
    with(&mut state, "a", minutely(), Options { on_failure: vec![id("after")], ..Options::default() });
    let due = fire(&mut state, 2, Verdict::Retry { at: T0.plus_ms(90_000) }, Steering::default());
    let give_up = |attempt| Command::GiveUp { seq: 2, key: RunKey::scheduled(due), attempt, reason: "too late".into() };
    state.apply(due, give_up(1));
    assert_eq!(open_keys(&state, 2).len(), 1, "it is not the one that waits");
    state.apply(due, give_up(2));
    let run = &history(&state, 2)[0];
    assert_eq!((run.state, run.attempts.len(), open_keys(&state, 1).len()), (RunState::Failed, 1, 1));
    assert_eq!(run.reason.as_deref(), Some("too late"), "the attempt had no error");
    state.apply(due, give_up(2));
    assert_eq!((history(&state, 2).len(), state.task(2).unwrap().past.run_count), (1, 1), "once");

    // Another leader has begun it, and is gone.
    let due = state.task(2).unwrap().next.unwrap();
    state.apply(due, started(2, due, 1, 7, 1));
    let key = RunKey::scheduled(due);
    state.apply(due, Command::GiveUp { seq: 2, key, attempt: 2, reason: "too late".into() });
    let run = &history(&state, 2)[1];
    assert!(run.attempts.len() == 1 && run.reason.as_ref().unwrap().contains("no longer leads"), "{run:?}");
}

#[test]
fn the_newest_run_is_the_one_that_was_due_last() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let newest = |state: &State| state.task(1).unwrap().past.newest.map(|(key, number)| (key.due, number));
    let first = state.task(1).unwrap().next.unwrap();
    state.apply(first, started(1, first, 1, 7, 1));
    let second = fire(&mut state, 1, Verdict::Succeeded, Steering::default());
    assert_eq!(newest(&state), Some((second, 0)));
    state.apply(second, ended(1, first, 1, Verdict::Succeeded));
    assert_eq!(newest(&state), Some((second, 0)), "it ended later and was due before");
    let old = state.task(1).unwrap().next.unwrap();
    state.apply(old, started(1, old, 1, 7, 1));
    let open: Vec<Timestamp> = (0..RUNS_KEPT_MAX)
        .map(|_| {
            let due = state.task(1).unwrap().next.unwrap();
            state.apply(due, started(1, due, 1, 7, 1));
            due
        })
        .collect();
    let last = fire(&mut state, 1, Verdict::Succeeded, Steering::default());
    assert_eq!(newest(&state), Some((last, 2)));
    for due in open {
        state.apply(last, ended(1, due, 1, Verdict::Succeeded));
    }
    let (due, number) = newest(&state).unwrap();
    assert!(due < last && number == 2 + RUNS_KEPT_MAX, "the history has lost the one that was: {due} {number}");
}

#[test]
fn a_task_that_its_answer_deletes_tells_of_the_failure_first() {
    let mut state = State::new(T0);
    create(&mut state, T0, "after", at(T0.0 + 9_000_000));
    with(&mut state, "a", minutely(), Options { on_failure: vec![id("after")], ..alert(&[AlertEvent::Failed]) });
    let delete = Steering { delete: true, ..Steering::default() };
    let due = fire(&mut state, 2, failed(), delete);
    assert_eq!(open_keys(&state, 1).len(), 1, "on_failure starts");
    assert_eq!((state.find(&id("a")), state.len()), (None, 2), "nobody finds it");
    let key = RunKey::scheduled(due).alert(AlertEvent::Failed);
    let run = RunId::new(&id("a"), RunKey::scheduled(due));
    assert_eq!((open_keys(&state, 2), state.find_by_run(run)), (vec![key], None));
    assert!(state.wants(2, key, 1) && due_now(&mut state, due).iter().any(|job| job.key == key), "it is told");
    state.check();

    // Another one with its id is another task, and both are stored.
    assert!(matches!(create(&mut state, due, "a", minutely()), Reply::Created { .. }));
    assert_eq!(state.find(&id("a")), Some(3));
    let mut other = State::new(T0);
    for seq in [3, 1, 2] {
        other.restore(seq, state.task(seq).unwrap().record()).unwrap();
    }
    assert_eq!((other.find(&id("a")), other.len()), (Some(3), 3));
    other.check();

    end(&mut state, 2, key, Verdict::Succeeded, Steering::default());
    assert!(state.task(2).is_none() && state.task(3).is_some(), "it is gone with its alert");
    state.check();

    with(&mut state, "b", minutely(), Options::default());
    fire(&mut state, 4, failed(), delete);
    assert!(state.task(4).is_none(), "without an alert at once");
    state.check();
}

#[test]
fn a_task_that_its_answer_has_deleted_is_no_link_of_a_chain() {
    let mut state = State::new(T0);
    with(&mut state, "a", minutely(), Options { on_success: vec![id("b")], ..alert(&[AlertEvent::Failed]) });
    fire(&mut state, 1, failed(), Steering { delete: true, ..Steering::default() });
    assert!(state.find(&id("a")).is_none() && state.task(1).is_some(), "it is there for its alert alone");
    let reopened = state.reopened(T0);
    for mut state in [state, reopened] {
        let reply = with(&mut state, "b", minutely(), Options { on_success: vec![id("a")], ..Options::default() });
        assert!(matches!(reply, Reply::Created { .. }), "{reply:?}");
        state.check();
    }
}

#[test]
fn after_the_end_what_was_triggered_before_is_not_tried_again_and_what_is_triggered_since_is() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let trigger = |state: &mut State, now| match state.apply(now, Command::Trigger { id: id("a") }) {
        Reply::Triggered { key } => key,
        other => panic!("{other:?}"),
    };
    let start = |key| Command::RunStarted { seq: 1, key, attempt: 1, node: 7, term: 1, started: T0, lateness_ms: 0 };
    let before = trigger(&mut state, T0);
    state.apply(T0, start(before));
    let due = fire(&mut state, 1, failed(), Steering { end: true, ..Steering::default() });
    let since = trigger(&mut state, due.plus_ms(1));
    state.apply(due, start(since));
    let retry = Verdict::Retry { at: due.plus_ms(9) };
    end(&mut state, 1, before, retry.clone(), Steering::default());
    end(&mut state, 1, since, retry, Steering::default());
    let ended = &history(&state, 1)[1];
    assert_eq!((ended.state, ended.reason.as_deref()), (RunState::Cancelled, Some("the task is ended")));
    assert_eq!(
        (open_keys(&state, 1), state.task(1).unwrap().past.run_count),
        (vec![since], 1),
        "it came to no outcome"
    );
}

#[test]
fn of_many_attempts_the_first_and_the_last_are_kept_and_the_rest_is_counted() {
    use crate::run::{ATTEMPTS_MAX, ATTEMPT_BYTES_MAX};
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let due = state.task(1).unwrap().next.unwrap();
    let fail = |state: &mut State, number, answer: usize| {
        let attempt = Attempt { answer: Some("x".repeat(answer)), ..attempt(number, 500) };
        let (key, verdict, steering) = (RunKey::scheduled(due), Verdict::Retry { at: due }, Steering::default());
        state.apply(due, Command::RunEnded { seq: 1, key, attempt, term: 1, verdict, steering });
        let open = &state.task(1).unwrap().past.open[0];
        let numbers: Vec<u32> = open.attempts.iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers.len() + open.left_out as usize, number as usize, "{numbers:?}");
        (numbers, open.attempts.iter().map(Attempt::text_bytes).sum::<usize>())
    };
    for number in 1..=1000 {
        let (numbers, bytes) = fail(&mut state, number, 600);
        assert!(numbers.len() <= ATTEMPTS_MAX && bytes <= ATTEMPT_BYTES_MAX);
        if number > 20 {
            assert_eq!(numbers[..6], [1, 2, 3, 4, 5, number - 14]);
        }
        assert_eq!(numbers.last(), Some(&number));
    }
    let (numbers, bytes) = fail(&mut state, 1001, 20_000);
    assert!(numbers.len() > 2 && bytes <= ATTEMPT_BYTES_MAX, "{numbers:?}");
    let (numbers, _) = fail(&mut state, 1002, 40_000);
    assert_eq!(numbers, [1, 1002], "the first and the last, whatever they have");
    state.apply(due, ended(1, due, 1003, Verdict::Succeeded));
    let run = &history(&state, 1)[0];
    assert_eq!((run.attempts.len(), run.left_out), (2, 1001));
}
