//! The index of ended runs, and what is going.

use super::*;
use crate::state::record::{Indexed, INDEXED_PER_CHUNK};

fn end_next(state: &mut State, seq: Seq) {
    let due = state.task(seq).unwrap().next.unwrap();
    state.apply(due, ended(seq, due, 1, Verdict::Succeeded));
}

fn entries(state: &State) -> Vec<Indexed> {
    state.changes().index.added.clone()
}

#[test]
fn each_run_that_ends_gets_the_next_serial_number_whichever_way_it_ends() {
    let mut state = State::new(T0);
    create(&mut state, T0, "cron", minutely());
    create(&mut state, T0, "once", at(T0.0 + 10));
    end_next(&mut state, 1);
    let due = T0.plus_ms(10);
    state.apply(T0, ended(2, due, 1, Verdict::Retry { at: due }));
    state.apply(T0, ended(2, due, 2, Verdict::Failed { reason: "no".into() }));
    state.apply(T0, ended(2, due, 2, Verdict::Failed { reason: "no".into() }));
    let from = state.task(1).unwrap().next.unwrap();
    let upto = from.plus_ms(2 * 60_000);
    state.apply(upto, Command::Misfire { seq: 1, from, upto, reason: "no".into(), latest_fires: true });
    let seen: Vec<_> = entries(&state).iter().map(|e| (e.seq, e.number, e.state)).collect();
    let missed = RunState::Missed;
    let expected = [(1, 0, RunState::Succeeded), (2, 0, RunState::Failed), (1, 1, missed), (1, 2, missed)];
    assert_eq!((seen.as_slice(), state.runs_total()), (&expected[..], 4));
    assert_eq!(entries(&state)[1].due, due);

    // The numbers go on after a checkpoint, and on a node that begins with what is stored.
    state.freeze_changes();
    end_next(&mut state, 1);
    assert_eq!((state.changes().index.first, state.runs_total()), (4, 5));
    let mut other = State::new(T0);
    other.restore_globals(state.globals()).unwrap();
    assert_eq!(other.runs_total(), 5);
}

#[test]
fn an_alert_is_no_entry() {
    let mut state = State::new(T0);
    create(&mut state, T0, "a", at(T0.0 + 10));
    let key = RunKey::scheduled(T0.plus_ms(10)).alert(crate::task::AlertEvent::Failed);
    let (attempt, steering) = (attempt(1, 200), Steering::default());
    state.apply(T0, Command::RunEnded { seq: 1, key, attempt, term: 1, verdict: Verdict::Succeeded, steering });
    assert_eq!(state.runs_total(), 0);
}

#[test]
fn an_entry_is_kept_as_long_as_its_run() {
    let mut state = State::new(T0);
    create(&mut state, T0, "cron", minutely());
    create(&mut state, T0, "once", at(T0.0 + 10));
    end_next(&mut state, 2);
    for _ in 0..130 {
        end_next(&mut state, 1);
    }
    let kept = |state: &State| entries(state).iter().filter(|e| state.keeps(e)).map(|e| e.seq).collect::<Vec<_>>();
    assert_eq!(kept(&state).iter().filter(|seq| **seq == 1).count(), 100);
    assert!(entries(&state)[1..31].iter().all(|entry| !state.keeps(entry)), "the oldest thirty");
    assert_eq!(kept(&state)[0], 2);
    let before = state.forgotten();
    state.apply(T0, Command::Delete { id: id("once") });
    assert_ne!(state.forgotten(), before, "that runs may have gone can be told");
    // Another task of the same name is another one.
    create(&mut state, T0, "once", at(T0.0 + 20));
    assert!(!kept(&state).contains(&2));
}

#[test]
fn only_full_chunks_are_dropped_and_twice_is_once() {
    let mut state = State::new(T0);
    create(&mut state, T0, "cron", minutely());
    let drop_index = |state: &mut State, chunks: Vec<u64>| state.apply(T0, Command::DropIndex { chunks });
    for _ in 0..INDEXED_PER_CHUNK * 2 - 1 {
        end_next(&mut state, 1);
    }
    assert_eq!(drop_index(&mut state, vec![0, 1, 7, u64::MAX]), Reply::Done);
    drop_index(&mut state, vec![0]);
    assert_eq!(state.changes().index.dropped.iter().copied().collect::<Vec<_>>(), [0]);
    state.freeze_changes();
    assert!(state.collect_frozen(10).is_some() && state.changes().is_empty());
    drop_index(&mut state, vec![0]);
    assert!(!state.changes().is_empty(), "a checkpoint is due although no task has changed");
}

#[test]
fn what_is_going_is_found_from_the_newest_task_down() {
    let mut state = State::new(T0);
    for seq in 1..=10 {
        create(&mut state, T0, &format!("t{seq}"), at(T0.0 + 10 + seq));
    }
    for seq in [2, 5, 6, 9] {
        state.apply(T0, started(seq, T0.plus_ms(10 + seq), 1, 1, 1));
    }
    for _ in 0..3 {
        state.apply(T0, Command::Trigger { id: id("t5") });
    }
    assert_eq!(state.open_tasks_below(Seq::MAX, 2), Some(6));
    assert_eq!(state.open_tasks_below(6, 2), Some(5));
    assert_eq!(state.open_tasks_below(5, 2), Some(2), "there are no more");
    assert_eq!(state.open_tasks_below(2, 2), None);
    let of = |from, below| state.open_runs_of(from, below, |_| true).iter().map(|p| p.1).collect::<Vec<_>>();
    assert_eq!(of(6, Seq::MAX), [6, 9]);
    assert_eq!(of(5, 6), [5; 4]);
    let running = state.open_runs_of(5, 6, |run| matches!(run.phase, OpenPhase::Running { .. }));
    assert_eq!(
        running,
        [(RunId::new(&id("t5"), RunKey::scheduled(T0.plus_ms(15))), 5, RunKey::scheduled(T0.plus_ms(15)))]
    );
}
