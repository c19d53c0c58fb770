//! Unit tests of the state, by commands only.

mod account;
mod audit;
mod calls;
mod chains;
mod changes;
mod follow;
mod index;
mod missed;
mod odd;
mod outcomes;
mod steps;
mod writes;
mod zones;

use super::*;
use crate::command::{Command, Never, Refusal, Reply, Steering, Verdict};
use crate::id::RunKey;
use crate::run::{Attempt, OpenPhase, RunState};
use crate::task::{Callback, TaskSpec, TaskState, Timing};

const T0: Timestamp = Timestamp(1_800_000_000_000);

fn spec(timing: Timing) -> TaskSpec {
    TaskSpec::new(timing, Callback::post("http://127.0.0.1:1/", "{}"))
}

fn id(text: &str) -> TaskId {
    text.parse().unwrap()
}

fn create(state: &mut State, now: Timestamp, name: &str, timing: Timing) -> Reply {
    state.apply(now, Command::Create { id: id(name), spec: Box::new(spec(timing)) })
}

fn at(ms: u64) -> Timing {
    Timing::At { format: ms.to_string(), due: Timestamp(ms) }
}

fn minutely() -> Timing {
    Timing::Periodic { format: "* * * * *".into(), timezone: "UTC".into() }
}

fn attempt(number: u32, status: u16) -> Attempt {
    Attempt { duration_ms: Some(1), status: Some(status), ..Attempt::begun(number, 1, T0, 0) }
}

fn ended(seq: Seq, due: Timestamp, number: u32, verdict: Verdict) -> Command {
    let status = if verdict == Verdict::Succeeded { 200 } else { 500 };
    let (key, steering) = (RunKey::scheduled(due), Steering::default());
    Command::RunEnded { seq, key, attempt: attempt(number, status), term: 1, verdict, steering }
}

fn started(seq: Seq, due: Timestamp, number: u32, node: u64, term: u64) -> Command {
    let key = RunKey::scheduled(due);
    Command::RunStarted { seq, key, attempt: number, node, term, started: due, lateness_ms: 0 }
}

fn advance_all(state: &mut State, now: Timestamp) {
    while state.advance(now, 1000) == crate::wheel::Progress::Limited {}
}

fn due_now(state: &mut State, now: Timestamp) -> Vec<Job> {
    advance_all(state, now);
    std::iter::from_fn(|| state.take_due(now)).flat_map(|(_, jobs)| jobs).collect()
}

#[test]
fn a_create_sent_twice_is_one_task_and_one_answer() {
    let mut state = State::new(T0);
    let due = T0.plus_ms(5000);
    let first = create(&mut state, T0, "a", at(due.0));
    assert_eq!(first, Reply::Created { next: Some(due) });
    assert_eq!(create(&mut state, T0.plus_ms(9000), "a", at(due.0)), first, "even after its time is past");
    assert_eq!(create(&mut state, T0, "a", at(due.0 + 1)), Reply::Refused(Refusal::Conflict));
    assert_eq!(state.len(), 1);
}

#[test]
fn a_time_that_is_past_and_a_schedule_that_never_fires_are_refused() {
    let mut state = State::new(T0);
    let past = Timestamp(T0.0 - 1);
    assert_eq!(create(&mut state, T0, "a", at(past.0)), Reply::Refused(Refusal::Past { due: past, now: T0 }));
    let never = Timing::Periodic { format: "0 0 30 2 *".into(), timezone: "UTC".into() };
    assert_eq!(create(&mut state, T0, "b", never), Reply::Refused(Refusal::NeverFires(Never::AtAll)));
    assert!(state.is_empty());
    assert!(state.timetables.is_empty(), "what no task uses is not kept");
}

#[test]
fn a_one_shot_fires_once_and_is_finished() {
    let mut state = State::new(T0);
    let due = T0.plus_ms(5000);
    create(&mut state, T0, "a", at(due.0));
    assert!(due_now(&mut state, T0.plus_ms(4999)).is_empty());
    let jobs = due_now(&mut state, due);
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].key, jobs[0].attempt), (RunKey::scheduled(due), 1));
    assert!(due_now(&mut state, due.plus_ms(60_000)).is_empty(), "what is taken does not come due again");
    assert!(state.wants(1, jobs[0].key, 1));

    state.apply(due.plus_ms(1), ended(1, due, 1, Verdict::Succeeded));
    let task = state.task(1).unwrap();
    assert_eq!((task.state, task.past.run_count, task.next), (TaskState::Finished, 1, None));
    assert_eq!(task.past.open.capacity(), 0, "it is kept for days, and its open runs are not");
    assert!(!state.wants(1, jobs[0].key, 1));
    state.apply(due.plus_ms(2), ended(1, due, 1, Verdict::Succeeded));
    assert_eq!(state.task(1).unwrap().past.run_count, 1, "an outcome that is told twice counts once");
}

#[test]
fn an_attempt_that_was_given_up_stays_in_the_history() {
    let mut state = State::new(T0);
    let due = T0.plus_ms(10);
    create(&mut state, T0, "a", at(due.0));
    state.apply(due, started(1, due, 1, 7, 1));
    state.apply(due, ended(1, due, 2, Verdict::Succeeded));
    let history = &state.changes().runs[&1].added;
    let numbers: Vec<_> = history[0].1.attempts.iter().map(|a| (a.number, a.node, a.error.is_some())).collect();
    assert_eq!(numbers, [(1, 7, true), (2, 1, false)]);
}

#[test]
fn a_new_leader_finds_what_the_old_one_took() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", at(T0.0 + 10));
    assert_eq!(due_now(&mut state, T0.plus_ms(10)).len(), 1);
    state.release_taken();
    assert_eq!(due_now(&mut state, T0.plus_ms(10)).len(), 1);
}

#[test]
fn a_failed_attempt_is_due_again_at_the_time_that_the_leader_chose() {
    let mut state = State::new(T0);
    let due = T0.plus_ms(10);
    create(&mut state, T0, "a", at(due.0));
    due_now(&mut state, due);
    let retry = due.plus_ms(700);
    state.apply(due, ended(1, due, 1, Verdict::Retry { at: retry }));
    assert_eq!(state.task(1).unwrap().state, TaskState::Active);
    assert!(due_now(&mut state, due.plus_ms(699)).is_empty());
    let jobs = due_now(&mut state, retry);
    assert_eq!((jobs[0].attempt, jobs[0].at, jobs[0].key), (2, retry, RunKey::scheduled(due)));
    state.apply(retry, ended(1, due, 2, Verdict::Failed { reason: "no more attempts".into() }));
    let task = state.task(1).unwrap();
    assert_eq!((task.state, task.past.run_count), (TaskState::Finished, 1));
    let runs = &state.changes().runs[&1].added;
    assert_eq!((runs[0].1.state, runs[0].1.attempts.len()), (RunState::Failed, 2));
}

#[test]
fn a_run_that_is_still_going_does_not_hold_up_the_next_due_time() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let first = state.task(1).unwrap().next.unwrap();
    due_now(&mut state, first);
    state.apply(first, started(1, first, 1, 1, 1));
    let second = first.plus_ms(60_000);
    assert_eq!(state.task(1).unwrap().next, Some(second));
    assert_eq!(due_now(&mut state, second).len(), 1);
    assert_eq!(state.running(second)[0].attempt, 2, "should nobody be sending the first");
    state.apply(second, ended(1, first, 1, Verdict::Succeeded));
    assert!(due_now(&mut state, second).is_empty(), "the second is taken and stays so");
    assert_eq!(state.task(1).unwrap().past.run_count, 1);
}

#[test]
fn a_late_success_of_a_deposed_leader_counts_and_its_failure_does_not() {
    for (verdict, open) in [(Verdict::Succeeded, 0), (Verdict::Retry { at: T0.plus_ms(9000) }, 1)] {
        let mut state = State::new(T0);
        let due = T0.plus_ms(10);
        create(&mut state, T0, "a", at(due.0));
        state.apply(due, started(1, due, 1, 1, 1));
        state.apply(due, started(1, due, 2, 2, 2));
        state.apply(due, ended(1, due, 1, verdict));
        let task = state.task(1).unwrap();
        assert_eq!(task.past.open.len(), open);
        let first = task.past.open.iter().next().cloned();
        if let Some(run) = &first {
            assert!(matches!(run.phase, OpenPhase::Running { attempt: 2, node: 2, .. }));
            assert_eq!(run.attempts.len(), 1, "the first attempt is known, its outcome is not");
        }
    }
}

#[test]
fn a_deleted_task_is_wanted_no_more() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", at(T0.0 + 10));
    let jobs = due_now(&mut state, T0.plus_ms(10));
    assert_eq!(state.apply(T0, Command::Delete { id: id("a") }), Reply::Done);
    assert_eq!(state.apply(T0, Command::Delete { id: id("a") }), Reply::Refused(Refusal::NoSuchTask));
    assert!(!state.wants(1, jobs[0].key, 1));
    state.apply(T0, ended(1, jobs[0].key.due, 1, Verdict::Succeeded));
    assert!(state.is_empty() && state.next_wake().is_none());
    create(&mut state, T0, "a", at(T0.0 + 20));
    assert_eq!(state.find(&id("a")), Some(2), "the number is never given twice");
}

#[test]
fn due_times_too_old_to_fire_are_missed_but_for_the_latest() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let first = state.task(1).unwrap().next.unwrap();
    let upto = first.plus_ms(5 * 60_000);
    let misfire = Command::Misfire { seq: 1, from: first, upto, reason: "no leader".into(), latest_fires: true };
    state.apply(upto, misfire.clone());
    let task = state.task(1).unwrap();
    assert_eq!((task.next, task.past.runs_recorded, task.past.run_count), (Some(upto), 5, 0));
    assert!(state.changes().runs[&1].added.iter().all(|(_, run)| run.state == RunState::Missed));
    state.apply(upto, misfire);
    assert_eq!(state.task(1).unwrap().past.runs_recorded, 5, "a stale one does nothing");
}

#[test]
fn history_keeps_the_last_hundred_runs() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    for _ in 0..130 {
        let due = state.task(1).unwrap().next.unwrap();
        state.apply(due, ended(1, due, 1, Verdict::Succeeded));
    }
    let runs = &state.changes().runs[&1];
    assert_eq!(runs.added.len(), 100);
    assert_eq!((runs.added[0].0, runs.dropped), (30, Some((0, 30))));
}

#[test]
fn setting_the_clock_back_fires_nothing_early_and_loses_nothing() {
    let mut state = State::new(T0);
    create(&mut state, T0, "far", at(T0.0 + 100_000));
    due_now(&mut state, T0.plus_ms(50_000));
    state.rebuild_alarms(T0.plus_ms(1000));
    create(&mut state, T0.plus_ms(1000), "near", at(T0.0 + 2000));
    assert!(due_now(&mut state, T0.plus_ms(1999)).is_empty());
    assert_eq!(due_now(&mut state, T0.plus_ms(2000)).len(), 1);
    assert_eq!(due_now(&mut state, T0.plus_ms(100_000)).len(), 1);
}

#[test]
fn a_node_id_belongs_to_the_first_store_that_claims_it() {
    let mut state = State::new(T0);
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    assert_eq!(state.apply(T0, Command::ClaimNode { node: 3, store: one }), Reply::Done);
    assert_eq!(state.apply(T0, Command::ClaimNode { node: 3, store: one }), Reply::Done);
    let refused = Reply::Refused(Refusal::OtherStore { node: 3, bound: one });
    assert_eq!(state.apply(T0, Command::ClaimNode { node: 3, store: two }), refused);
}

#[test]
fn what_is_stored_restores_the_same_state() {
    let mut state = State::new(T0);
    create(&mut state, T0, "once", at(T0.0 + 10));
    create(&mut state, T0, "cron", minutely());
    create(&mut state, T0, "gone", minutely());
    state.apply(T0, Command::Delete { id: id("gone") });
    state.apply(T0, started(1, T0.plus_ms(10), 1, 1, 1));
    let page = frozen(&mut state);
    let bytes = record::encode(&page).unwrap();

    let mut other = State::new(T0);
    other.restore_globals(state.globals()).unwrap();
    for (seq, task) in record::decode::<record::HotPage>(&bytes).unwrap() {
        other.restore(seq, task).unwrap();
    }
    other.apply(T0, Command::ClaimNode { node: 1, store: Uuid::nil() });
    other.changes.touch(1);
    assert_eq!(frozen(&mut other), page);
    assert_eq!((other.len(), other.next_seq(), other.open_runs()), (2, 4, 1));
    assert_eq!(other.find(&id("cron")), Some(2));
    let later = T0.plus_ms(600_000);
    assert_eq!(due_now(&mut other, later), due_now(&mut state, later));
    let run = RunId::new(&id("cron"), RunKey::scheduled(T0));
    assert_eq!(other.find_by_run(run), Some(2));
}

fn frozen(state: &mut State) -> record::HotPage {
    state.freeze_changes();
    loop {
        if let Some(pages) = state.collect_frozen(1) {
            return pages.into_iter().find_map(|(number, page)| page.filter(|_| number == 0)).unwrap();
        }
    }
}

#[test]
fn a_checkpoint_is_a_cut_although_the_state_goes_on() {
    let mut state = State::new(T0);
    for n in 0..200 {
        create(&mut state, T0, &format!("t{n}"), at(T0.0 + 10));
    }
    state.freeze_changes();
    assert!(state.collect_frozen(1).is_none());
    state.apply(T0, Command::Delete { id: id("t199") });
    create(&mut state, T0, "late", at(T0.0 + 10));
    let pages = loop {
        if let Some(pages) = state.collect_frozen(1) {
            break pages;
        }
    };
    let tasks: usize = pages.iter().map(|(_, page)| page.as_ref().map_or(0, Vec::len)).sum();
    assert_eq!((pages.len(), tasks), (4, 200), "what came after the freeze is not in it");
    assert_eq!(state.changes().pages.len(), 1, "but waits for the next one");
}
