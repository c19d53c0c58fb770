//! Unit tests of named writes: those that come again, and those that come too late.

use super::*;
use crate::command::{Batch, Limits, WriteId};
use crate::state::writes::WRITES_PER_BLOCK;

fn name(number: u64, after: u64) -> WriteId {
    WriteId { process: 7, number, after }
}

/// Has one command applied under a name.
fn write(state: &mut State, now: Timestamp, name: WriteId, command: Command) -> Reply {
    let mut replies = state.apply_batch(Batch { names: vec![(0, name)], ..Batch::of(now, vec![command]) });
    replies.pop().unwrap()
}

fn creating(name: &str) -> Command {
    Command::Create { id: id(name), spec: Box::new(spec(minutely())) }
}

fn changing(name: &str, from: &str, to: &str) -> Command {
    let called = |called: &str| TaskSpec { name: Some(called.into()), ..spec(minutely()) };
    let old = if from.is_empty() { spec(minutely()) } else { called(from) };
    Command::Update { id: id(name), base: old.digest(), old: Box::new(old), spec: Box::new(called(to)) }
}

fn runs(state: &State) -> Option<usize> {
    state.find(&id("a")).and_then(|seq| state.task(seq)).map(|task| task.past.open.len())
}

#[test]
fn what_comes_again_is_answered_as_the_first_time_and_undoes_nothing_of_others() {
    let delete = Command::Delete { id: id("a") };
    let (pause, resume) = (Command::Pause { id: id("a") }, Command::Resume { id: id("a") });
    let trigger = Command::Trigger { id: id("a") };
    // Whether the task is there, what is written, what another writes then.
    let table = [
        (false, creating("a"), delete.clone()),
        (true, delete.clone(), creating("a")),
        (false, delete.clone(), creating("a")),
        (true, changing("a", "", "x"), changing("a", "x", "y")),
        (true, changing("a", "", "x"), changing("a", "x", "")),
        (true, pause.clone(), resume.clone()),
        (true, resume, pause),
        (true, trigger.clone(), trigger),
        (true, Command::Cancel { seq: 1, key: RunKey::triggered(T0, 1) }, Command::Trigger { id: id("a") }),
    ];
    for (exists, command, other) in table {
        let mut state = State::new(T0);
        if exists {
            state.apply(T0, creating("a"));
            state.apply(T0, Command::Trigger { id: id("a") });
        }
        let first = write(&mut state, T0, name(1, 0), command.clone());
        write(&mut state, T0, name(2, 1), other);
        let before = (state.hot_pages(), runs(&state));
        // In an entry of its own, and twice in one.
        assert_eq!(write(&mut state, T0.plus_ms(900), name(1, 0), command.clone()), first, "{command:?}");
        let names = vec![(0, name(1, 0)), (1, name(1, 0))];
        let batch = Batch { names, ..Batch::of(T0.plus_ms(901), vec![command.clone(), command.clone()]) };
        assert_eq!(state.apply_batch(batch), [first.clone(), first], "{command:?}");
        assert_eq!((state.hot_pages(), runs(&state)), before, "{command:?}");
        // Under another name it is another write.
        let named = state.named_writes();
        write(&mut state, T0.plus_ms(902), name(3, 2), command);
        assert_eq!(state.named_writes(), named + 1);
    }
}

/// Fills blocks with writes that find nothing to do, from the serial number that is next.
fn fill(state: &mut State, now: Timestamp, many: u64) {
    for _ in 0..many {
        let next = state.named_writes();
        write(state, now, WriteId { process: 9, number: next, after: next }, Command::Pause { id: id("none") });
        assert!(state.steps <= 4, "{} steps", state.steps);
    }
}

#[test]
fn a_write_that_comes_again_after_its_name_was_forgotten_is_refused_and_not_done() {
    let mut state = State::new(T0);
    assert!(matches!(write(&mut state, T0, name(1, 0), creating("a")), Reply::Created { .. }));
    fill(&mut state, T0, WRITES_PER_BLOCK - 1);
    state.apply(T0, Command::Delete { id: id("a") });
    // Within the time it is known, and for as long as no other block is begun.
    let later = T0.plus_ms(3_600_000);
    assert!(matches!(write(&mut state, later, name(1, 0), creating("a")), Reply::Created { .. }));
    assert_eq!(state.find(&id("a")), None);
    fill(&mut state, later, 1);
    let forgotten = Reply::Refused(Refusal::Forgotten { before: WRITES_PER_BLOCK });
    assert_eq!(write(&mut state, later, name(1, 0), creating("a")), forgotten);
    assert_eq!(state.find(&id("a")), None);
    // The sender of one that is new and not known to be so is told from when on it would be.
    let fresh = creating("b");
    assert_eq!(write(&mut state, later, name(5, WRITES_PER_BLOCK - 1), fresh.clone()), forgotten);
    assert!(matches!(write(&mut state, later, name(6, WRITES_PER_BLOCK), fresh), Reply::Created { .. }));
}

#[test]
fn names_are_bounded_by_their_number_whatever_the_time() {
    let mut state = State::new(T0);
    write(&mut state, T0, name(1, 0), creating("a"));
    state.apply(T0, Command::Delete { id: id("a") });
    fill(&mut state, T0, 300 * WRITES_PER_BLOCK);
    let blocks = state.write_blocks();
    assert_eq!((blocks.len(), blocks[0].0, blocks.last().unwrap().0), (256, 45, 300));
    let forgotten = Reply::Refused(Refusal::Forgotten { before: 45 * WRITES_PER_BLOCK });
    assert_eq!(write(&mut state, T0, name(1, 0), creating("a")), forgotten);
    assert_eq!(state.find(&id("a")), None);
}

#[test]
fn names_are_kept_over_a_restart() {
    let mut state = State::new(T0);
    let first = write(&mut state, T0, name(1, 0), creating("a"));
    fill(&mut state, T0, WRITES_PER_BLOCK + 5);
    let mut again = State::new(T0);
    for (block, writes) in state.write_blocks() {
        again.restore_writes(block, record::decode(&record::encode(&writes).unwrap()).unwrap()).unwrap();
    }
    again.restore_globals(state.globals()).unwrap();
    assert_eq!(write(&mut again, T0.plus_ms(5), name(1, 0), creating("a")), first);
    assert!(again.is_empty() && again.named_writes() == WRITES_PER_BLOCK + 6);
    // Where some are missing, nothing may be answered from it.
    let mut lost = State::new(T0);
    lost.restore_writes(0, state.write_blocks().remove(0).1).unwrap();
    assert!(lost.restore_globals(state.globals()).is_err());
    assert!(State::new(T0).restore_writes(1, Vec::new()).is_err());
}

fn creates(state: &mut State, limits: Limits, names: &[&str]) -> Vec<Reply> {
    let commands = names.iter().map(|name| creating(name)).collect();
    state.apply_batch(Batch { limits, ..Batch::of(T0, commands) })
}

#[test]
fn a_limit_on_tasks_is_asked_of_each_new_task_and_of_no_other() {
    let mut state = State::new(T0);
    let limits = Limits { tasks_max: 2, ..Limits::default() };
    let replies = creates(&mut state, limits, &["a", "b", "c", "a", "d"]);
    let made = |reply: &Reply| matches!(reply, Reply::Created { .. });
    let full = Reply::Refused(Refusal::TooManyTasks(2));
    assert!(made(&replies[0]) && made(&replies[1]) && made(&replies[3]), "{replies:?}");
    assert_eq!((&replies[2], &replies[4], state.len()), (&full, &full, 2));
    let other = Command::Create { id: id("a"), spec: Box::new(spec(at(T0.0 + 5))) };
    let replies = state.apply_batch(Batch { limits, ..Batch::of(T0, vec![other]) });
    assert_eq!(replies, [Reply::Refused(Refusal::Conflict)], "what it is in conflict with comes first");
    state.apply(T0, Command::Delete { id: id("a") });
    assert!(made(&creates(&mut state, limits, &["c"])[0]), "a place that is free again");
}

#[test]
fn where_there_is_no_room_a_task_that_exists_is_answered_and_a_new_one_refused() {
    let mut state = State::new(T0);
    let first = creates(&mut state, Limits::default(), &["a"]);
    let full = Limits { has_room: false, ..Limits::default() };
    assert_eq!(creates(&mut state, full, &["a"]), first);
    assert_eq!(creates(&mut state, full, &["b"]), [Reply::Refused(Refusal::NoRoom)]);
}

#[test]
fn a_task_that_is_created_again_is_answered_as_the_first_time_whatever_has_become_of_it() {
    for timing in [at(T0.0 + 5_000), Timing::After { delay_ms: 7_000 }, minutely()] {
        let mut state = State::new(T0);
        let first = create(&mut state, T0, "a", timing.clone());
        let next = state.task(1).unwrap().next.unwrap();
        let again = |state: &mut State, now| create(state, now, "a", timing.clone());
        state.apply(T0, Command::Pause { id: id("a") });
        assert_eq!(again(&mut state, T0), first, "paused");
        state.apply(T0, Command::Resume { id: id("a") });
        state.apply(next, ended(1, next, 1, Verdict::Succeeded));
        assert_eq!(again(&mut state, next.plus_ms(1)), first, "it has fired");
        assert_eq!(again(&mut state, next.plus_ms(86_400_000)), first, "a day later");
    }
}
