//! The steps that the outcomes of one log entry may take, with all that follows from them.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::command::Batch;
use crate::state::follow::OUTCOME_STEPS_MAX;
use crate::task::Options;

/// The most that one outcome takes that triggers as many tasks as can be named.
const ONE_MAX: usize = 100;
/// Tasks that have an outcome, and so commands in one entry: as many as the leader puts into one.
const TASKS: u64 = 1024;
/// Tasks that follow.
const FOLLOWERS: u64 = 200;
/// As many as a definition may name for one outcome.
const NAMED: u64 = 32;

/// The outcomes of tasks that each name others, some of them full, some not there; and their state.
fn outcomes(seed: u64) -> (State, Timestamp, Vec<Command>) {
    let chance = &mut StdRng::seed_from_u64(seed);
    let mut state = State::new(T0);
    for n in 0..FOLLOWERS {
        let made = create(&mut state, T0, &format!("f{n}"), minutely());
        assert!(matches!(made, Reply::Created { .. }), "{n}: {made:?}");
        for _ in 0..if n % 50 == 0 { OPEN_RUNS_MAX } else { 0 } {
            state.apply(T0, Command::Trigger { id: id(&format!("f{n}")) });
        }
    }
    for n in 0..TASKS {
        let mut named = || (0..NAMED).map(|_| id(&format!("f{}", chance.random_range(0..FOLLOWERS + 20)))).collect();
        let (on_success, on_failure) = if n % 5 == 0 { (Vec::new(), named()) } else { (named(), named()) };
        let options = Options { on_success, on_failure, ..Options::default() };
        let spec = Box::new(TaskSpec { options, ..spec(at(T0.0 + 10)) });
        assert!(matches!(state.apply(T0, Command::Create { id: id(&format!("t{n}")), spec }), Reply::Created { .. }));
    }
    let now = T0.plus_ms(20);
    let outcomes = (FOLLOWERS + 1..=FOLLOWERS + TASKS).map(|seq| {
        let reason = String::new();
        match chance.random_range(0..10) {
            0 => ended(seq, T0.plus_ms(10), 1, Verdict::Failed { reason }),
            1 => ended(seq, T0.plus_ms(10), 1, Verdict::Unknown { reason }),
            2 => ended(seq, T0.plus_ms(10), 1, Verdict::Retry { at: now.plus_ms(50) }),
            _ => ended(seq, T0.plus_ms(10), 1, Verdict::Succeeded),
        }
    });
    let outcomes = outcomes.collect();
    (state, now, outcomes)
}

#[test]
fn what_follows_from_the_outcomes_of_one_entry_is_bounded_and_nothing_of_it_is_lost() {
    let refused = Reply::Refused(Refusal::OutcomesAtOnce);
    for seed in 0..3 {
        let (mut alone, _, _) = outcomes(seed);
        let (mut state, now, mut left) = outcomes(seed);
        let mut dearest = 0;
        for command in left.clone() {
            assert_eq!(alone.apply(now, command), Reply::Done);
            dearest = dearest.max(alone.steps);
        }
        assert!((NAMED as usize..=ONE_MAX).contains(&dearest), "{dearest} steps");
        let mut entries = 0;
        while !left.is_empty() {
            entries += 1;
            let replies = state.apply_batch(Batch::of(now, left.clone()));
            assert!(state.steps <= OUTCOME_STEPS_MAX + ONE_MAX + 4 * left.len(), "{} steps", state.steps);
            let before = left.len();
            let mut replies = replies.into_iter();
            left.retain(|_| replies.next() == Some(refused.clone()));
            assert!(
                before - left.len() >= (OUTCOME_STEPS_MAX / ONE_MAX).min(before),
                "{} of {before} left",
                left.len()
            );
            state.check();
        }
        assert!((3..10).contains(&entries), "{entries} entries");
        // The entries make no difference to the tasks.
        let tasks = |state: &State| state.tasks_from(0).map(|(_, task)| task.record()).collect::<Vec<_>>();
        assert_eq!(tasks(&state), tasks(&alone));
    }
}

/// A thousand tasks whose target is gone, each with as many runs as a task can have.
#[test]
fn the_runs_that_end_with_their_tasks_are_bounded_for_one_entry() {
    const ENDED: u64 = 30;
    let mut state = State::new(T0);
    for n in 1..=ENDED {
        create(&mut state, T0, &format!("t{n}"), at(T0.0 + 10));
        for _ in 0..OPEN_RUNS_MAX {
            state.apply(T0, Command::Trigger { id: id(&format!("t{n}")) });
        }
    }
    let gone = |seq| {
        let (key, steering) = (RunKey::triggered(T0, 1), Steering { end: true, ..Steering::default() });
        let verdict = Verdict::Failed { reason: "gone".into() };
        Command::RunEnded { seq, key, attempt: attempt(1, 410), term: 1, verdict, steering }
    };
    let replies = state.apply_batch(Batch::of(T0.plus_ms(5), (1..=ENDED).map(gone).collect()));
    assert!(state.steps <= OUTCOME_STEPS_MAX + OPEN_RUNS_MAX + 100, "{} steps", state.steps);
    assert_eq!(replies[0], Reply::Done);
    assert_eq!(replies.last(), Some(&Reply::Refused(Refusal::OutcomesAtOnce)));
    let open = |seq| state.task(seq).unwrap().past.open.len();
    assert_eq!((open(1), open(ENDED)), (0, OPEN_RUNS_MAX), "what was refused has changed nothing");
}

#[test]
fn outcomes_of_which_nothing_follows_are_never_put_off() {
    let (mut state, now, left) = outcomes(7);
    let many: Vec<Command> = left.iter().cycle().take(2 * left.len()).cloned().collect();
    let replies = state.apply_batch(Batch::of(now, many.clone()));
    let put_off = |reply: &Reply| *reply == Reply::Refused(Refusal::OutcomesAtOnce);
    assert!(replies.iter().any(put_off));
    for (command, reply) in many.iter().zip(&replies) {
        let Command::RunEnded { seq, verdict, .. } = command else { panic!("{command:?}") };
        let names = match verdict {
            Verdict::Succeeded => !(seq - FOLLOWERS - 1).is_multiple_of(5),
            Verdict::Failed { .. } => true,
            _ => false,
        };
        assert!(names || !put_off(reply), "{command:?}");
    }
}
