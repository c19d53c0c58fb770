//! Changes of a task while due times of it have come, and while its runs are going.

use super::*;
use crate::task::{Alert, AlertEvent, Misfire, MisfirePolicy, Options, Overlap};

fn secondly() -> Timing {
    Timing::Periodic { format: "* * * * * *".into(), timezone: "UTC".into() }
}

fn with(options: Options) -> TaskSpec {
    TaskSpec { options, ..spec(secondly()) }
}

fn make(state: &mut State, spec: &TaskSpec) {
    state.apply(T0, Command::Create { id: id("a"), spec: Box::new(spec.clone()) });
}

fn update(state: &mut State, now: Timestamp, old: &TaskSpec, new: &TaskSpec) -> Reply {
    let (base, old, spec) = (old.digest(), Box::new(old.clone()), Box::new(new.clone()));
    let command = Command::Update { id: id("a"), base, old, spec };
    state.know_zone_of(&command);
    state.apply(now, command)
}

/// Each field that says when the task is due.
fn other_times(old: &TaskSpec) -> Vec<TaskSpec> {
    let options = |options: Options| TaskSpec { options, ..old.clone() };
    let own = || old.options.clone();
    let timing = |format: &str, timezone: &str| TaskSpec {
        timing: Timing::Periodic { format: format.into(), timezone: timezone.into() },
        ..old.clone()
    };
    vec![
        timing("*/2 * * * * *", "UTC"),
        timing("* * * * * *", "Asia/Kolkata"),
        options(Options { start: Some(T0.plus_ms(60_000)), ..own() }),
        options(Options { end: Some(T0.plus_ms(60_000)), ..own() }),
        options(Options { max_runs: Some(9), ..own() }),
        options(Options { jitter_ms: 400, ..own() }),
    ]
}

/// Has all that is due done until `upto`; the due times that had a run.
fn work_off(state: &mut State, from: Timestamp, upto: Timestamp) -> Vec<u64> {
    let mut fired = Vec::new();
    let mut now = from;
    let default = Misfire { policy: MisfirePolicy::Latest, window_ms: 60_000 };
    while now <= upto {
        for job in due_now(state, now) {
            match state.instead_of(&job, now, default) {
                Some(command) => drop(state.apply(now, command)),
                None => {
                    fired.push(job.key.due.ms_since(T0));
                    state.apply(now, ended(1, job.key.due, job.attempt, Verdict::Succeeded));
                }
            }
        }
        now = now.plus_ms(10);
    }
    fired
}

#[test]
fn a_paused_task_that_is_changed_keeps_the_due_times_that_have_come() {
    let old = with(Options::default());
    for new in other_times(&old) {
        let mut state = State::new(T0);
        make(&mut state, &old);
        state.apply(T0, Command::Pause { id: id("a") });
        let now = T0.plus_ms(6500);
        assert_eq!(update(&mut state, now, &old, &new), Reply::Created { next: None }, "it is paused");
        state.check();
        state.apply(now, Command::Resume { id: id("a") });
        let fired = work_off(&mut state, now, now.plus_ms(400));
        assert_eq!(fired, [1000, 2000, 3000, 4000, 5000, 6000], "{:?} {:?}", new.timing, new.options);
        assert!(state.task(1).unwrap().next.unwrap() > now && state.task(1).unwrap().past.earlier.is_empty());
    }
}

#[test]
fn a_due_time_that_waits_for_its_jitter_survives_each_change() {
    let old = with(Options { jitter_ms: 9000, ..Options::default() });
    for new in other_times(&old) {
        let mut state = State::new(T0);
        make(&mut state, &old);
        let (due, at) = (T0.plus_ms(1000), state.task(1).unwrap().next_fire().unwrap());
        assert!(at > due.plus_ms(500), "{at}");
        let Reply::Created { next } = update(&mut state, due.plus_ms(100), &old, &new) else { panic!("refused") };
        assert!(next > Some(due.plus_ms(100)), "the new schedule's is told");
        let jobs = due_now(&mut state, at);
        assert_eq!(jobs.iter().map(|job| (job.key.due, job.at)).collect::<Vec<_>>(), [(due, at)], "{:?}", new.options);
    }
}

#[test]
fn a_one_shot_that_has_come_while_paused_fires_as_it_was_and_as_it_is() {
    let mut state = State::new(T0);
    let (old, new) = (spec(at(T0.0 + 1000)), spec(at(T0.0 + 9000)));
    make(&mut state, &old);
    state.apply(T0, Command::Pause { id: id("a") });
    let now = T0.plus_ms(2000);
    update(&mut state, now, &old, &new);
    state.apply(now, Command::Resume { id: id("a") });
    assert_eq!(work_off(&mut state, now, T0.plus_ms(9000)), [1000, 9000]);
    assert_eq!(state.task(1).unwrap().state, TaskState::Finished);
}

#[test]
fn what_decides_about_a_run_stays_as_it_began_though_nothing_of_it_is_recorded_yet() {
    let mut state = State::new(T0);
    let old = with(Options { on_success: vec![id("old")], ..Options::default() });
    make(&mut state, &old);
    create(&mut state, T0, "old", at(T0.0 + 90_000));
    create(&mut state, T0, "new", at(T0.0 + 90_000));
    let due = state.task(1).unwrap().next.unwrap();
    let job = due_now(&mut state, due).remove(0);
    // Its first attempt is under way, and not recorded.
    let mut new = with(Options { on_success: vec![id("new")], ..Options::default() });
    new.callback.url = "http://127.0.0.1:2/".into();
    update(&mut state, due, &old, &new);
    assert_eq!(state.task(1).unwrap().own_spec(job.key).map(|own| &**own), Some(&old));
    state.apply(due, ended(1, due, 1, Verdict::Retry { at: due.plus_ms(5) }));
    let again = due_now(&mut state, due.plus_ms(5));
    assert_eq!((again[0].attempt, &*again[0].target), (2, "127.0.0.1:2"), "it goes where the task goes now");
    state.apply(due.plus_ms(5), ended(1, due, 2, Verdict::Succeeded));
    let triggered = |seq: Seq| state.task(seq).unwrap().past.triggers;
    assert_eq!((triggered(2), triggered(3)), (1, 0));
}

#[test]
fn a_run_that_waits_at_a_dead_url_takes_the_new_one() {
    for overlap in Overlap::ALL {
        let mut state = State::new(T0);
        let old = with(Options { overlap, ..Options::default() });
        make(&mut state, &old);
        let due = state.task(1).unwrap().next.unwrap();
        let waiting = due.plus_ms(100);
        state.apply(due, ended(1, due, 1, Verdict::Retry { at: waiting }));
        let held = due_now(&mut state, waiting).remove(0);
        assert!(state.still_wants(&held));
        let mut new = old.clone();
        new.callback.url = "http://127.0.0.1:2/".into();
        update(&mut state, waiting, &old, &new);
        assert!(!state.still_wants(&held), "it need not wait for the dead one");
        state.release(1);
        let job = due_now(&mut state, waiting).remove(0);
        assert_eq!((job.key, &*job.target), (held.key, "127.0.0.1:2"), "{overlap:?}");
    }
}

#[test]
fn what_is_answered_of_a_schedule_that_was_replaced_meanwhile_is_recorded() {
    let mut state = State::new(T0);
    let old = with(Options::default());
    make(&mut state, &old);
    let due = state.task(1).unwrap().next.unwrap();
    // The change was stamped before the due time, and applied after the attempt had left.
    update(&mut state, Timestamp(due.0 - 5), &old, &spec(minutely()));
    state.apply(due, ended(1, due, 1, Verdict::Succeeded));
    assert_eq!(state.task(1).unwrap().past.run_count, 1);
    state.apply(due, ended(1, due, 1, Verdict::Succeeded));
    assert_eq!(state.task(1).unwrap().past.run_count, 1, "once");
    state.check();
}

#[test]
fn a_task_that_is_changed_without_end_while_it_is_paused_stays_small() {
    let mut state = State::new(T0);
    let mut old = with(Options::default());
    make(&mut state, &old);
    state.apply(T0, Command::Pause { id: id("a") });
    for n in 1..60 {
        let new = TaskSpec { name: Some(n.to_string()), ..old.clone() };
        update(&mut state, T0.plus_ms(n * 1000 + 500), &old, &new);
        old = new;
    }
    assert!(state.task(1).unwrap().past.earlier.len() <= 16);
    let missed: Vec<_> = state.changes().runs[&1].added.iter().map(|(_, run)| run.key.due.ms_since(T0)).collect();
    assert_eq!(missed[..2], [1000, 2000], "accounted for all the same");
    state.check();
}

/// As any other due time that is missed: someone may be told, and the next success is a recovery.
#[test]
fn due_times_for_which_a_task_has_no_room_any_more_are_told_under_the_definition_they_were_of() {
    let alert = |n: u64| {
        let (url, on) = (format!("http://127.0.0.1:2/{n}"), vec![AlertEvent::Missed]);
        with(Options { alert: Some(Alert { url, on }), ..Options::default() })
    };
    let mut state = State::new(T0);
    let mut old = alert(0);
    make(&mut state, &old);
    state.apply(T0, Command::Pause { id: id("a") });
    let alerts = |state: &State| state.task(1).unwrap().past.open.alerts();
    for n in 1..=16 {
        let new = alert(n);
        update(&mut state, T0.plus_ms(n * 1000 + 500), &old, &new);
        old = new;
    }
    assert_eq!((alerts(&state), state.task(1).unwrap().past.failing), (0, false));
    update(&mut state, T0.plus_ms(17_500), &old, &alert(17));
    assert_eq!((alerts(&state), state.task(1).unwrap().past.failing), (1, true));
    let told = state.task(1).unwrap().past.open.iter().find(|run| run.key.is_alert()).unwrap();
    let of = told.spec.as_ref().and_then(|spec| spec.options.alert.as_ref());
    assert_eq!(of.map(|alert| alert.url.as_str()), Some("http://127.0.0.1:2/0"));
    assert_eq!(told.key.due, T0.plus_ms(1000), "the record that it is about");
    state.check();
}

#[test]
fn skipped_and_cancelled_due_times_do_not_count_for_max_runs() {
    let mut state = State::new(T0);
    let spec = with(Options { max_runs: Some(2), overlap: Overlap::Skip, ..Options::default() });
    make(&mut state, &spec);
    let due = |n: u64| T0.plus_ms(n * 1000);
    state.apply(due(1), started(1, due(1), 1, 1, 1));
    for n in 2..5 {
        state.apply(due(n), Command::Overlap { seq: 1, due: due(n), queue: false });
    }
    state.apply(due(4), ended(1, due(1), 1, Verdict::Succeeded));
    assert_eq!((state.task(1).unwrap().past.fired, state.task(1).unwrap().next), (1, Some(due(5))));
    // It is the last one, and ends before it was sent.
    assert_eq!(state.apply(due(5), Command::Cancel { seq: 1, key: RunKey::scheduled(due(5)) }), Reply::Done);
    assert_eq!(state.task(1).unwrap().next, Some(due(6)));
    state.apply(due(6), ended(1, due(6), 1, Verdict::Succeeded));
    assert_eq!(state.task(1).unwrap().state, TaskState::Finished);
}

#[test]
fn other_times_begin_the_count_of_max_runs_anew() {
    let bounded = Options { max_runs: Some(2), ..Options::default() };
    let old = with(bounded.clone());
    for new in other_times(&old).into_iter().filter(|new| new.options.max_runs == Some(2) && new.options.end.is_none())
    {
        let mut state = State::new(T0);
        make(&mut state, &old);
        let due = T0.plus_ms(1000);
        state.apply(due, ended(1, due, 1, Verdict::Succeeded));
        update(&mut state, due, &old, &new);
        for left in [1, 0] {
            let task = state.task(1).unwrap();
            assert_eq!(task.state, TaskState::Active, "{left} left: {new:?}");
            let next = task.next.unwrap();
            state.apply(next.plus_ms(500), ended(1, next, 1, Verdict::Succeeded));
        }
        assert_eq!(state.task(1).unwrap().state, TaskState::Finished, "{new:?}");
    }
}

/// A schedule that is given while the clock has been set back begins after what is accounted for already.
#[test]
fn a_due_time_that_was_missed_does_not_come_again_with_other_times() {
    let (old, mut state) = (with(Options::default()), State::new(T0));
    make(&mut state, &old);
    let (from, upto) = (T0.plus_ms(1000), T0.plus_ms(30_000));
    state.apply(upto, Command::Misfire { seq: 1, from, upto, reason: "paused".into(), latest_fires: false });
    let new = &other_times(&old)[0];
    update(&mut state, T0.plus_ms(5000), &old, new);
    let next = state.task(1).unwrap().next;
    assert!(next > Some(upto), "{next:?} was missed by {upto:?}");
}

#[test]
fn a_deposed_leaders_failure_says_nothing_of_the_attempt_that_the_next_one_makes() {
    let mut state = State::new(T0);
    make(&mut state, &with(Options::default()));
    let due = T0.plus_ms(1000);
    // The next leader makes the same attempt, of whose start by the first nothing was recorded.
    state.apply(due, started(1, due, 1, 2, 5));
    let failed = || Verdict::Failed { reason: "a timeout".into() };
    state.apply(due.plus_ms(10), ended(1, due, 1, failed()));
    let open = |state: &State| state.task(1).unwrap().runs().next().map(|run| run.phase);
    assert!(matches!(open(&state), Some(OpenPhase::Running { attempt: 1, term: 5, .. })), "{:?}", open(&state));
    // Its success is one, whoever made the attempt.
    state.apply(due.plus_ms(20), ended(1, due, 1, Verdict::Succeeded));
    assert_eq!((open(&state), state.changes().runs[&1].added[0].1.state), (None, RunState::Succeeded));
}

#[test]
fn what_is_triggered_in_the_millisecond_of_a_pause_goes_and_what_was_triggered_before_waits() {
    let mut state = State::new(T0);
    make(&mut state, &with(Options::default()));
    let pause = T0.plus_ms(100);
    state.apply(Timestamp(pause.0 - 1), Command::Trigger { id: id("a") });
    state.apply(pause, Command::Pause { id: id("a") });
    state.apply(pause, Command::Trigger { id: id("a") });
    let jobs = due_now(&mut state, pause.plus_ms(5000));
    assert_eq!(jobs.iter().map(|job| job.key.due).collect::<Vec<_>>(), [pause]);
}

#[test]
fn a_cancelled_run_keeps_the_attempt_that_was_under_way() {
    let mut state = State::new(T0);
    make(&mut state, &with(Options::default()));
    let due = T0.plus_ms(1000);
    state.apply(due, started(1, due, 1, 7, 1));
    state.apply(due, Command::Cancel { seq: 1, key: RunKey::scheduled(due) });
    let run = &state.changes().runs[&1].added[0].1;
    assert_eq!((run.state, run.attempts.len(), run.attempts[0].node), (RunState::Cancelled, 1, 7));
}

#[test]
fn after_the_end_of_a_task_nothing_more_of_it_is_sent() {
    let mut state = State::new(T0);
    make(&mut state, &with(Options { jitter_ms: 1, ..Options::default() }));
    let due = |n: u64| T0.plus_ms(n * 1000);
    state.apply(due(1), ended(1, due(1), 1, Verdict::Retry { at: due(60) }));
    state.apply(due(2), started(1, due(2), 1, 1, 1));
    let (key, verdict) = (RunKey::scheduled(due(3)), Verdict::Failed { reason: "410".into() });
    let steering = Steering { end: true, ..Steering::default() };
    // Two more have come and wait.
    state.apply(due(5), Command::RunEnded { seq: 1, key, attempt: attempt(1, 410), term: 1, verdict, steering });
    state.apply(due(6), ended(1, due(2), 1, Verdict::Retry { at: due(70) }));
    assert!(due_now(&mut state, due(100)).is_empty());
    assert_eq!(state.task(1).unwrap().state, TaskState::Finished);
    let runs: Vec<_> = state.changes().runs[&1].added.iter().map(|(_, run)| run.clone()).collect();
    let of: Vec<_> = runs.iter().map(|run| (run.key.due.ms_since(T0), run.state, run.upto.is_some())).collect();
    let cancelled = RunState::Cancelled;
    assert_eq!(of[1..], [(1000, cancelled, false), (4000, cancelled, true), (2000, cancelled, false)]);
    assert!(runs[1..].iter().all(|run| run.reason.as_deref() == Some("the task is ended")));
}

#[test]
fn open_runs_of_one_task_are_bounded_whatever_made_them() {
    let mut state = State::new(T0);
    make(&mut state, &with(Options::default()));
    for n in 1..=OPEN_RUNS_MAX as u64 {
        let due = T0.plus_ms(n * 1000);
        state.apply(due, ended(1, due, 1, Verdict::Retry { at: T0.plus_ms(9_999_999) }));
    }
    let due = T0.plus_ms((OPEN_RUNS_MAX as u64 + 1) * 1000);
    let job = due_now(&mut state, due).remove(0);
    let default = Misfire { policy: MisfirePolicy::Latest, window_ms: 60_000 };
    let command = state.instead_of(&job, due, default).unwrap();
    state.apply(due, command);
    let (_, run) = state.changes().runs[&1].added[0].clone();
    assert_eq!((run.state, run.key.due), (RunState::Skipped, due));
    assert!(run.reason.as_ref().unwrap().contains("1000 runs"), "{run:?}");
    assert_eq!(state.task(1).unwrap().past.open.len(), OPEN_RUNS_MAX);
}

#[test]
fn a_definition_that_many_runs_have_is_stored_once() {
    let mut state = State::new(T0);
    let old = TaskSpec { name: Some("x".repeat(10_000)), ..with(Options::default()) };
    make(&mut state, &old);
    for n in 1..=100 {
        let due = T0.plus_ms(n * 1000);
        state.apply(due, ended(1, due, 1, Verdict::Retry { at: T0.plus_ms(9_999_999) }));
    }
    update(&mut state, T0.plus_ms(100_500), &old, &spec(minutely()));
    let stored = state.task(1).unwrap().record();
    let bytes = record::encode(&stored).unwrap();
    assert!(bytes.len() < 40_000, "{}", bytes.len());
    let mut again = State::new(T0);
    again.restore(1, record::decode(&bytes).unwrap()).unwrap();
    assert_eq!(again.task(1).unwrap().record(), stored);
    assert!(again.task(1).unwrap().runs().all(|run| run.spec.as_deref() == Some(&old)));
}

#[test]
fn a_cancelled_run_gets_the_attempt_that_had_left_and_of_which_nothing_was_recorded() {
    let mut state = State::new(T0);
    let options = Options { max_runs: Some(2), ..Options::default() };
    state.apply(T0, Command::Create { id: id("a"), spec: Box::new(TaskSpec { options, ..spec(minutely()) }) });
    let due = state.task(1).unwrap().next.unwrap();
    let key = RunKey::scheduled(due);
    assert_eq!(state.apply(due, Command::Cancel { seq: 1, key }), Reply::Done);
    assert_eq!(state.task(1).unwrap().past.fired, 0, "as far as is known there was no attempt");
    state.apply(due, ended(1, due, 1, Verdict::Succeeded));
    let (number, run) = state.changes().runs[&1].added.last().cloned().unwrap();
    assert_eq!((number, run.state, run.attempts.len()), (0, RunState::Cancelled, 1));
    let past = &state.task(1).unwrap().past;
    assert_eq!((past.fired, past.run_count, past.runs_recorded, past.cancelled.len()), (1, 0, 1, 0));
    state.apply(due, ended(1, due, 1, Verdict::Succeeded));
    assert_eq!(state.changes().runs[&1].added.len(), 2, "once");
    state.check();
}

#[test]
fn a_run_that_was_cancelled_counts_for_no_schedule_that_was_given_to_its_task_since() {
    let mut state = State::new(T0);
    let old = TaskSpec { options: Options { max_runs: Some(1), ..Options::default() }, ..spec(minutely()) };
    make(&mut state, &old);
    let due = state.task(1).unwrap().next.unwrap();
    assert_eq!(state.apply(due, Command::Cancel { seq: 1, key: RunKey::scheduled(due) }), Reply::Done);
    update(&mut state, due.plus_ms(1), &old, &TaskSpec { timing: secondly(), ..old.clone() });
    let next = due.plus_ms(1000);
    assert_eq!(state.task(1).unwrap().next, Some(next));
    // Its attempt had left before it was cancelled.
    state.apply(due.plus_ms(2), ended(1, due, 1, Verdict::Succeeded));
    assert_eq!(state.changes().runs[&1].added.last().unwrap().1.attempts.len(), 1);
    let task = state.task(1).unwrap();
    assert_eq!((task.next, task.past.fired, task.state), (Some(next), 0, TaskState::Active));
    state.check();
}
