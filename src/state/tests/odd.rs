//! What no leader of this version asks for, and clocks that were set back: nothing of it may stop or confuse a node.

use super::*;
use crate::task::{Delivery, Options};

fn update(state: &mut State, now: Timestamp, old: &TaskSpec, spec: TaskSpec) -> Reply {
    let (base, old) = (old.digest(), Box::new(old.clone()));
    state.apply(now, Command::Update { id: id("a"), base, old, spec: Box::new(spec) })
}

fn steered(seq: Seq, due: Timestamp, next_at: Timestamp) -> Command {
    let steering = Steering { next_at: Some(next_at), ..Steering::default() };
    let (key, verdict) = (RunKey::scheduled(due), Verdict::Succeeded);
    Command::RunEnded { seq, key, attempt: attempt(1, 200), term: 1, verdict, steering }
}

#[test]
fn a_due_time_that_had_its_run_does_not_come_again_when_the_clock_is_set_back() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let first = state.task(1).unwrap().next.unwrap();
    state.apply(first, ended(1, first, 1, Verdict::Succeeded));
    let (old, back) = (spec(minutely()), Timestamp(first.0 - 30_000));
    let other = Timing::Periodic { format: "*/2 * * * *".into(), timezone: "UTC".into() };
    let Reply::Created { next } = update(&mut state, back, &old, spec(other.clone())) else { panic!("refused") };
    assert!(next > Some(first), "{next:?}");
    // Nor by an answer. A one-shot task it cannot become: its runs would lie elsewhere.
    let second = next.unwrap();
    state.apply(second, ended(1, second, 1, Verdict::Retry { at: second }));
    state.apply(back, Command::Trigger { id: id("a") });
    let key = state.task(1).unwrap().past.open[1].key;
    let steering = Steering { next_at: Some(second), ..Steering::default() };
    let (attempt, verdict) = (attempt(1, 200), Verdict::Succeeded);
    state.apply(back, Command::RunEnded { seq: 1, key, attempt, term: 1, verdict, steering });
    assert!(state.task(1).unwrap().next > Some(second));
    let once = spec(at(second.0));
    assert!(matches!(update(&mut state, back, &spec(other), once), Reply::Refused(Refusal::Conflict)));
    state.check();
}

#[test]
fn a_one_shot_does_not_fire_again_for_being_written_otherwise() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", at(T0.0));
    state.apply(T0, ended(1, T0, 1, Verdict::Succeeded));
    let other = spec(Timing::At { format: "other".into(), due: T0 });
    assert!(matches!(update(&mut state, T0, &spec(at(T0.0)), other), Reply::Refused(Refusal::Past { .. })));
}

#[test]
fn a_task_that_is_updated_in_the_millisecond_of_its_due_time_has_one_run_of_it() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", Timing::After { delay_ms: 0 });
    let named = TaskSpec { name: Some("n".into()), ..spec(at(T0.0)) };
    assert!(matches!(
        update(&mut state, T0, &spec(Timing::After { delay_ms: 0 }), named),
        Reply::Refused(Refusal::Past { .. })
    ));
    let later = spec(Timing::After { delay_ms: 1 });
    update(&mut state, T0, &spec(Timing::After { delay_ms: 0 }), later);
    assert_eq!(state.task(1).unwrap().next, Some(T0), "it had come");
    assert_eq!(state.task(1).unwrap().shown_next(), Some(T0.plus_ms(1)));
    state.apply(T0, ended(1, T0, 1, Verdict::Succeeded));
    assert_eq!(state.task(1).unwrap().next, Some(T0.plus_ms(1)));
    state.check();
}

#[test]
fn a_next_time_beyond_the_end_of_the_schedule_is_answered_at_once() {
    // A hundred years of seconds lie between; each of them walked would take minutes.
    let mut state = State::new(T0);
    create(&mut state, T0, "a", Timing::Periodic { format: "@every 1s".into(), timezone: "UTC".into() });
    let first = state.task(1).unwrap().next.unwrap();
    state.apply(first, steered(1, first, Timestamp(9_999_999_999_999)));
    let skipped = &state.changes().runs[&1].added[0].1;
    assert_eq!((skipped.state, skipped.key.due), (RunState::Succeeded, first));
    let skipped = &state.changes().runs[&1].added[1].1;
    assert_eq!((skipped.state, skipped.upto), (RunState::Skipped, Some(Timestamp(7_258_118_399_000))));
    assert_eq!(state.task(1).unwrap().next, Some(Timestamp(9_999_999_999_999)));
}

#[test]
fn the_number_of_an_attempt_has_an_end_and_no_overflow() {
    let mut state = State::new(T0);
    for delivery in [Delivery::AtLeastOnce, Delivery::AtMostOnce] {
        let options = Options { delivery, ..Options::default() };
        let spec = Box::new(TaskSpec { options, ..spec(minutely()) });
        let name = delivery.name();
        state.apply(T0, Command::Create { id: id(name), spec });
        let seq = state.find(&id(name)).unwrap();
        let due = state.task(seq).unwrap().next.unwrap();
        state.apply(due, started(seq, due, u32::MAX, 1, 1));
        // Once more, from another node: of what is sent at most once it changes nothing.
        state.apply(due, started(seq, due, u32::MAX, 2, 2));
        assert!(state.has_started(seq, RunKey::scheduled(due), u32::MAX, 1, 1), "{name}");
        assert_eq!(state.running(due).iter().find(|job| job.seq == seq).map(|job| job.attempt), Some(u32::MAX));
        state.apply(due, ended(seq, due, u32::MAX, Verdict::Retry { at: due }));
        state.check();
    }
}

#[test]
fn a_target_is_forgotten_with_its_last_task_though_attempts_are_under_way() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", at(T0.0 + 1));
    create(&mut state, T0, "b", at(T0.0 + 1));
    let jobs = due_now(&mut state, T0.plus_ms(1));
    state.apply(T0, Command::Delete { id: id("a") });
    assert_eq!(state.targets.len(), 1);
    state.apply(T0, Command::Delete { id: id("b") });
    assert!(state.targets.is_empty(), "{} attempts have its name", jobs.len());
}

#[test]
fn a_task_that_is_stored_twice_is_refused() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let (seq, stored) = state.hot_pages().remove(0).remove(0);
    assert!(state.restore(seq, stored.clone()).is_err());
    assert!(state.restore(seq + 1, stored.clone()).is_err(), "another number, the same id");
    assert!(State::new(T0).restore(Seq::MAX, stored.clone()).is_err(), "no number would be left");
    let mut again = State::new(T0);
    again.restore(seq, stored).unwrap();
    again.check();
}

#[test]
fn the_end_of_an_attempt_that_nobody_makes_leaves_its_run_due() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let due = state.task(1).unwrap().next.unwrap();
    state.apply(due, ended(1, due, 0, Verdict::Failed { reason: "x".into() }));
    state.check();
    assert_eq!(due_now(&mut state, due).iter().map(|job| (job.key.due, job.attempt)).collect::<Vec<_>>(), [(due, 1)]);
}

#[test]
fn the_start_of_an_attempt_is_lacking_until_something_later_is_known_also_while_its_task_is_paused() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", minutely());
    let due = state.task(1).unwrap().next.unwrap();
    let key = RunKey::scheduled(due);
    assert!(state.lacks_start(1, key, 1) && !state.lacks_start(2, key, 1), "{due} is next");
    state.apply(due, Command::Pause { id: id("a") });
    assert!(state.lacks_start(1, key, 1) && !state.wants(1, key, 1), "what is under way is so though it is paused");
    state.apply(due, Command::Resume { id: id("a") });
    state.apply(due, started(1, due, 1, 1, 1));
    assert!(!state.lacks_start(1, key, 1) && state.lacks_start(1, key, 2));
    state.apply(due, ended(1, due, 1, Verdict::Retry { at: due }));
    assert!(!state.lacks_start(1, key, 1) && state.lacks_start(1, key, 2));
    state.apply(due, ended(1, due, 2, Verdict::Succeeded));
    assert!(!state.lacks_start(1, key, 2) && !state.lacks_start(1, key, 1));
}
