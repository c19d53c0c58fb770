//! Unit tests of what callers ask of tasks that exist.

use super::*;
use crate::task::Options;

fn create_spec(state: &mut State, name: &str, spec: TaskSpec) -> Reply {
    state.apply(T0, Command::Create { id: id(name), spec: Box::new(spec) })
}

fn bounded(state: &mut State, name: &str, options: Options) -> Reply {
    create_spec(state, name, TaskSpec { options, ..spec(minutely()) })
}

fn end_next(state: &mut State, seq: Seq) {
    let due = state.task(seq).unwrap().next.unwrap();
    state.apply(due, ended(seq, due, 1, Verdict::Succeeded));
}

#[test]
fn a_paused_task_starts_nothing_until_it_is_resumed() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let first = state.task(1).unwrap().next.unwrap();
    due_now(&mut state, first);
    state.apply(first, ended(1, first, 1, Verdict::Retry { at: first.plus_ms(10) }));
    let paused = Reply::Task { state: TaskState::Paused, next: None };
    assert_eq!(state.apply(first, Command::Pause { id: id("a") }), paused);
    assert_eq!(state.apply(first, Command::Pause { id: id("a") }), paused, "twice is once");
    let later = first.plus_ms(150_000);
    assert!(due_now(&mut state, later).is_empty(), "neither the next due time nor the retry");
    assert!(!state.wants(1, RunKey::scheduled(first), 2));
    let Reply::Triggered { key } = state.apply(later, Command::Trigger { id: id("a") }) else { panic!("no run") };
    assert_eq!(due_now(&mut state, later).iter().map(|j| j.key).collect::<Vec<_>>(), [key], "what is asked for runs");
    let next = Some(first.plus_ms(60_000));
    assert_eq!(
        state.apply(later, Command::Resume { id: id("a") }),
        Reply::Task { state: TaskState::Active, next },
        "what was due meanwhile is late"
    );
    let keys: Vec<_> = due_now(&mut state, later).into_iter().map(|j| (j.key.due, j.attempt)).collect();
    assert!(keys.contains(&(first, 2)) && keys.contains(&(first.plus_ms(60_000), 1)), "{keys:?}");
    assert_eq!(state.apply(T0, Command::Pause { id: id("b") }), Reply::Refused(Refusal::NoSuchTask));
}

#[test]
fn triggers_are_runs_of_their_own_and_leave_the_schedule_alone() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let next = state.task(1).unwrap().next;
    let keys: Vec<RunKey> = (0..3)
        .map(|_| match state.apply(T0, Command::Trigger { id: id("a") }) {
            Reply::Triggered { key } => key,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(keys.iter().map(|k| k.nonce).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(due_now(&mut state, T0).len(), 3);
    let ended = Command::RunEnded {
        seq: 1,
        key: keys[1],
        attempt: attempt(1, 200),
        term: 1,
        verdict: Verdict::Succeeded,
        steering: Steering::default(),
    };
    state.apply(T0, ended);
    let task = state.task(1).unwrap();
    assert_eq!((task.next, task.past.open.len(), task.past.run_count, task.past.fired), (next, 2, 1, 0));
}

#[test]
fn a_cancelled_run_is_over_whatever_comes_of_its_attempt() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let due = state.task(1).unwrap().next.unwrap();
    let key = RunKey::scheduled(due);
    let cancel = Command::Cancel { seq: 1, key };
    assert_eq!(state.apply(T0, cancel.clone()), Reply::Refused(Refusal::NoSuchRun), "it is not due yet");
    due_now(&mut state, due);
    assert_eq!(state.apply(due, cancel.clone()), Reply::Done);
    assert_eq!(state.apply(due, cancel), Reply::Refused(Refusal::NoSuchRun));
    state.apply(due, ended(1, due, 1, Verdict::Succeeded));
    let task = state.task(1).unwrap();
    assert_eq!((task.past.run_count, task.past.runs_recorded, task.next), (0, 1, Some(due.plus_ms(60_000))));
    assert_eq!(state.changes().runs[&1].added[0].1.state, RunState::Cancelled);
}

#[test]
fn start_end_and_number_of_runs_bound_a_schedule() {
    let mut state = State::new(T0);
    let (start, end) = (T0.plus_ms(3_600_000), T0.plus_ms(3_600_000 + 130_000));
    bounded(&mut state, "a", Options { start: Some(start), end: Some(end), ..Options::default() });
    assert!(state.task(1).unwrap().next.unwrap() >= start);
    let mut fired = 0;
    while state.task(1).unwrap().next.is_some() {
        assert!(state.task(1).unwrap().next.unwrap() <= end);
        end_next(&mut state, 1);
        fired += 1;
    }
    assert!((2..=3).contains(&fired));
    assert_eq!(state.task(1).unwrap().state, TaskState::Finished);

    bounded(&mut state, "b", Options { max_runs: Some(2), ..Options::default() });
    end_next(&mut state, 2);
    end_next(&mut state, 2);
    let task = state.task(2).unwrap();
    assert_eq!((task.next, task.state, task.past.run_count), (None, TaskState::Finished, 2));
}

#[test]
fn a_schedule_that_never_fires_is_refused_with_the_reason() {
    let mut state = State::new(T0);
    let never = |state: &mut State, format: &str, options: Options| {
        let timing = Timing::Periodic { format: format.into(), timezone: "UTC".into() };
        match create_spec(state, "a", TaskSpec { options, ..spec(timing) }) {
            Reply::Refused(Refusal::NeverFires(never)) => never,
            other => panic!("{format}: {other:?}"),
        }
    };
    let (none, year_2199) = (Options::default(), Timestamp::from_secs(7_258_118_399));
    assert_eq!(never(&mut state, "0 0 30 2 *", none.clone()), Never::AtAll);
    assert_eq!(never(&mut state, "0 0 0 30 2 ?", Options { end: Some(T0), ..none.clone() }), Never::AtAll);
    assert_eq!(never(&mut state, "0 0 0 1 1 ? 2020", none.clone()), Never::Again);
    let start = Some(year_2199);
    assert_eq!(
        never(&mut state, "0 0 * * *", Options { start, ..none.clone() }),
        Never::FromStart { start: year_2199 }
    );
    let (first, end) = (T0.plus_ms(600_000), T0.plus_ms(599_999));
    let ended = Never::AfterEnd { first, end };
    assert_eq!(never(&mut state, "@every 10m", Options { end: Some(end), ..none.clone() }), ended);
    assert!(ended.to_string().starts_with("end_time: the schedule never fires: its first due time, "), "{ended}");
    assert!(state.is_empty() && state.timetables.is_empty());
}

#[test]
fn an_interval_counts_from_the_start_and_is_due_at_it() {
    let mut state = State::new(T0);
    let every = |start: Option<Timestamp>| TaskSpec {
        options: Options { start, ..Options::default() },
        ..spec(Timing::Periodic { format: "@every 14d".into(), timezone: "UTC".into() })
    };
    let (fortnight, hour) = (14 * 86_400_000, 3_600_000);
    let next = |state: &State, seq| state.task(seq).unwrap().next;
    create_spec(&mut state, "from-creation", every(None));
    assert_eq!(next(&state, 1), Some(T0.plus_ms(fortnight)));
    create_spec(&mut state, "to-come", every(Some(T0.plus_ms(hour))));
    assert_eq!(next(&state, 2), Some(T0.plus_ms(hour)));
    end_next(&mut state, 2);
    assert_eq!(next(&state, 2), Some(T0.plus_ms(hour + fortnight)));
    // The first of them is past.
    let past = Timestamp(T0.0 - 3 * fortnight - hour);
    create_spec(&mut state, "past", every(Some(past)));
    assert_eq!(next(&state, 3), Some(Timestamp(past.0 + 4 * fortnight)));
    // At this very moment.
    create_spec(&mut state, "now", every(Some(T0)));
    assert_eq!(next(&state, 4), Some(T0.plus_ms(fortnight)));
}

#[test]
fn jitter_moves_the_fire_and_not_the_due_time() {
    let mut state = State::new(T0);
    bounded(&mut state, "a", Options { jitter_ms: 10_000, ..Options::default() });
    let task = state.task(1).unwrap();
    let (due, offset) = (task.next.unwrap(), task.jitter_ms());
    assert!(offset > 0 && offset < 10_000, "{offset}");
    assert!(due_now(&mut state, due.plus_ms(offset - 1)).is_empty());
    let jobs = due_now(&mut state, due.plus_ms(offset));
    assert_eq!((jobs[0].key, jobs[0].at), (RunKey::scheduled(due), due.plus_ms(offset)));
}

#[test]
fn run_now_is_one_run_beside_the_schedule() {
    let mut state = State::new(T0);
    bounded(&mut state, "a", Options { run_now: true, max_runs: Some(1), ..Options::default() });
    let jobs = due_now(&mut state, T0);
    assert_eq!((jobs.len(), jobs[0].key), (1, RunKey::triggered(T0, 1)));
    assert!(state.task(1).unwrap().next.is_some());
}

fn update(state: &mut State, now: Timestamp, name: &str, old: &TaskSpec, spec: &TaskSpec) -> Reply {
    let (old, spec) = (old.clone(), spec.clone());
    let base = old.digest();
    state.apply(now, Command::Update { id: id(name), base, old: Box::new(old), spec: Box::new(spec) })
}

#[test]
fn a_changed_task_keeps_its_next_due_time_unless_its_schedule_changed() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let (old, next) = (spec(minutely()), state.task(1).unwrap().next);
    let mut renamed = old.clone();
    renamed.callback.url = "http://127.0.0.1:2/".into();
    // A due time that is late stays due: the change is no excuse for missing it.
    let late = T0.plus_ms(90_000);
    assert_eq!(update(&mut state, late, "a", &old, &renamed), Reply::Created { next });
    assert_eq!(update(&mut state, late, "a", &old, &renamed), Reply::Created { next }, "twice is once");
    assert_eq!(&*state.task(1).unwrap().target, "127.0.0.1:2");
    assert_eq!(update(&mut state, late, "a", &old, &spec(at(late.0))), Reply::Refused(Refusal::Conflict));
    let hourly = Timing::Periodic { format: "0 * * * *".into(), timezone: "UTC".into() };
    let Reply::Created { next: Some(next) } = update(&mut state, late, "a", &renamed, &spec(hourly)) else {
        panic!("not changed")
    };
    assert!(next > late && next.0 % 3_600_000 == 0);
    assert_eq!(state.timetables.len(), 2, "of the old one a due time is left");
    end_next(&mut state, 1);
    assert_eq!(state.timetables.len(), 1, "the old timetable is gone");
}

#[test]
fn a_run_that_is_going_ends_under_the_definition_that_it_began_under() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let due = state.task(1).unwrap().next.unwrap();
    state.apply(due, started(1, due, 1, 1, 1));
    let old = spec(minutely());
    let mut new = old.clone();
    new.callback.body = "2".into();
    update(&mut state, due, "a", &old, &new);
    assert_eq!(state.task(1).unwrap().past.open[0].spec.as_deref(), Some(&old));
    let following = state.task(1).unwrap().next.unwrap();
    state.apply(following, started(1, following, 1, 1, 1));
    assert_eq!(state.task(1).unwrap().past.open[1].spec, None, "what begins now begins under the new one");
}

#[test]
fn a_finished_task_with_a_new_time_is_active_again() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", at(T0.0 + 10));
    end_next(&mut state, 1);
    assert_eq!(state.task(1).unwrap().state, TaskState::Finished);
    let (old, new) = (spec(at(T0.0 + 10)), spec(at(T0.0 + 5000)));
    update(&mut state, T0.plus_ms(20), "a", &old, &new);
    let task = state.task(1).unwrap();
    assert_eq!((task.state, task.next, task.past.finished), (TaskState::Active, Some(T0.plus_ms(5000)), None));
    let gone = spec(at(T0.0));
    assert!(matches!(update(&mut state, T0.plus_ms(20), "a", &new, &gone), Reply::Refused(Refusal::Past { .. })));
}

#[test]
fn finished_tasks_are_forgotten_when_their_time_is_over() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", at(T0.0 + 10));
    let short = TaskSpec { options: Options { retain_s: Some(1), ..Options::default() }, ..spec(at(T0.0 + 20)) };
    state.apply(T0, Command::Create { id: id("b"), spec: Box::new(short) });
    create(&mut state, T0, "c", minutely());
    let expired = |state: &State, s: u64| state.expired(T0.plus_ms(s * 1000), 60, (None, 0), 100).0;
    assert!(expired(&state, 1000).is_empty(), "none is finished");
    end_next(&mut state, 1);
    end_next(&mut state, 2);
    assert!(expired(&state, 0).is_empty());
    assert_eq!((expired(&state, 2), expired(&state, 62)), (vec![2], vec![1, 2]));
    state.apply(T0.plus_ms(2_000), Command::Collect { seqs: vec![1], retain_s: 60 });
    assert_eq!(
        state.len(),
        3,
        "a command that comes again, after the task was changed say, takes nothing before its time"
    );
    state.apply(T0.plus_ms(62_000), Command::Collect { seqs: vec![1, 2, 3], retain_s: 60 });
    assert_eq!((state.len(), state.find(&id("c"))), (1, Some(3)), "one that is not finished stays");
    assert!(state.finished.is_empty() && expired(&state, 62).is_empty());
}

#[test]
fn a_due_time_that_overlaps_waits_or_is_skipped() {
    let mut state = State::new(T0);
    bounded(&mut state, "a", Options { overlap: crate::task::Overlap::Queue, ..Options::default() });
    let due = |n: u64| state_due(T0, n);
    state.apply(due(0), started(1, due(0), 1, 1, 1));
    state.apply(due(1), Command::Overlap { seq: 1, due: due(1), queue: true });
    state.apply(due(2), Command::Overlap { seq: 1, due: due(2), queue: true });
    state.apply(due(3), Command::Overlap { seq: 1, due: due(3), queue: false });
    let task = state.task(1).unwrap();
    assert_eq!((task.past.open.len(), task.past.runs_recorded, task.next), (2, 2, Some(due(4))));
    assert!(state.changes().runs[&1].added.iter().all(|(_, run)| run.state == RunState::Skipped));
    assert!(due_now(&mut state, due(3)).is_empty(), "what waits is not due while the run is going");
    state.apply(due(3), ended(1, due(0), 1, Verdict::Succeeded));
    let jobs = due_now(&mut state, due(3));
    assert_eq!((jobs.len(), jobs[0].key, jobs[0].attempt), (1, RunKey::scheduled(due(1)), 1));
    state.apply(due(3), ended(1, due(1), 1, Verdict::Succeeded));
    state.apply(due(4), Command::Overlap { seq: 1, due: due(4), queue: false });
    assert_eq!(state.task(1).unwrap().next, Some(due(4)), "nothing is going any more: it fires");
}

/// The due time numbered `n` of a task that is due each minute and was made at `now`.
fn state_due(now: Timestamp, n: u64) -> Timestamp {
    Timestamp((now.0 / 60_000 + 1 + n) * 60_000)
}

#[test]
fn due_times_too_old_to_fire_can_all_be_missed() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let (from, upto) = (state_due(T0, 0), state_due(T0, 4));
    let misfire = Command::Misfire { seq: 1, from, upto, reason: "paused".into(), latest_fires: false };
    state.apply(upto, misfire);
    let task = state.task(1).unwrap();
    assert_eq!((task.next, task.past.runs_recorded), (Some(state_due(T0, 5)), 5));
}

#[test]
fn a_command_that_needs_no_name_answers_the_same_twice_and_changes_nothing_more() {
    let key = RunKey::scheduled(T0);
    let old = spec(minutely());
    let mut new = old.clone();
    new.callback.body = "2".into();
    let (base, id) = (old.digest(), id("a"));
    let create = Command::Create { id: id.clone(), spec: Box::new(old.clone()) };
    for command in [
        create.clone(),
        Command::Update { id: id.clone(), base, old: Box::new(old), spec: Box::new(new) },
        Command::Pause { id: id.clone() },
        Command::Resume { id: id.clone() },
        Command::Trigger { id: id.clone() },
        Command::Cancel { seq: 1, key: RunKey::triggered(T0, 1) },
        Command::Delete { id: id.clone() },
        Command::Collect { seqs: vec![1], retain_s: 0 },
        Command::Overlap { seq: 1, due: key.due, queue: true },
    ] {
        let mut state = State::new(T0);
        state.apply(T0, create.clone());
        state.apply(T0, Command::Trigger { id: id.clone() });
        let runs = |state: &State| state.task(1).map(|task| task.past.open.len());
        let first = (state.apply(T0, command.clone()), runs(&state));
        let second = (state.apply(T0, command.clone()), runs(&state));
        assert!(command.needs_name() || first == second, "{command:?}: {first:?}, {second:?}");
    }
}

#[test]
fn what_comes_up_in_the_same_millisecond_as_what_was_taken_is_taken_too() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let mut trigger = || match state.apply(T0, Command::Trigger { id: id("a") }) {
        Reply::Triggered { key } => (key, due_now(&mut state, T0).iter().map(|job| job.key).collect::<Vec<_>>()),
        other => panic!("{other:?}"),
    };
    let (first, taken) = trigger();
    assert_eq!(taken, [first]);
    let (second, taken) = trigger();
    assert!(taken.contains(&second), "{taken:?}");
}
