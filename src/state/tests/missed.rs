//! The steps that the misfires of one log entry may take.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::command::Batch;
use crate::state::missed::MISFIRE_STEPS_MAX;

/// The most that one misfire takes: the search for the last due times, a record of each, and what follows.
const ONE_MAX: usize = 600;
/// Tasks, and so commands in one entry: as many as the leader puts into one.
const TASKS: u64 = 1024;

/// Schedules whose due times lie in clusters far apart, each a little different.
fn clustered(n: u64) -> Timing {
    let (second, minute, day) = (n % 60, n / 60 % 30, 1 + n % 28);
    let format = match n % 4 {
        0 => format!("{second}-59,0-{second} 0-{minute} 3 {day} * ?"),
        1 => format!("0-7,{second} {minute} 5 {day} */2 ?"),
        2 => format!("* {minute} 4 ? * {}", 1 + n % 7),
        _ => format!("{second} * 1,13 {day} 1,2,{} ?", 3 + n % 10),
    };
    Timing::Periodic { format, timezone: "UTC".into() }
}

/// A state with tasks that have missed up to three years, and the commands that record it.
fn behind(seed: u64) -> (State, Timestamp, Vec<Command>) {
    let chance = &mut StdRng::seed_from_u64(seed);
    let mut state = State::new(T0);
    for n in 0..TASKS {
        let made = create(&mut state, T0, &format!("t{n}"), clustered(n));
        assert!(matches!(made, Reply::Created { .. }), "{n}: {made:?}");
    }
    let now = T0.plus_ms(3 * 365 * 86_400_000);
    let misfires = (1..=TASKS).map(|seq| {
        let from = state.task(seq).unwrap().next.unwrap();
        let upto = Timestamp(chance.random_range(from.0..now.0));
        Command::Misfire { seq, from, upto, reason: "late".into(), latest_fires: chance.random_bool(0.5) }
    });
    let misfires = misfires.collect();
    (state, now, misfires)
}

#[test]
fn the_misfires_of_one_entry_are_bounded_in_steps_and_later_entries_record_the_rest() {
    let refused = Reply::Refused(Refusal::MisfiresAtOnce);
    for seed in 0..3 {
        let (mut alone, _, _) = behind(seed);
        let (mut state, now, mut left) = behind(seed);
        let mut dearest = 0;
        for command in left.clone() {
            assert_eq!(alone.apply(now, command), Reply::Done);
            dearest = dearest.max(alone.steps);
        }
        assert!(dearest <= ONE_MAX, "{dearest} steps");
        let mut entries = 0;
        while !left.is_empty() {
            entries += 1;
            let replies = state.apply_batch(Batch::of(now, left.clone()));
            assert!(state.steps <= MISFIRE_STEPS_MAX + ONE_MAX + left.len(), "{} steps", state.steps);
            let before = left.len();
            let mut replies = replies.into_iter();
            left.retain(|_| replies.next() == Some(refused.clone()));
            assert!(
                before - left.len() >= (MISFIRE_STEPS_MAX / ONE_MAX).min(before),
                "{} of {before} left",
                left.len()
            );
            state.check();
        }
        assert!((3..40).contains(&entries), "{entries} entries");
        // The entries make no difference to the tasks.
        let tasks = |state: &State| state.tasks_from(0).map(|(_, task)| task.record()).collect::<Vec<_>>();
        assert_eq!(tasks(&state), tasks(&alone));
    }
}

#[test]
fn a_misfire_that_does_nothing_any_more_is_never_put_off() {
    let (mut state, now, misfires) = behind(9);
    let twice: Vec<Command> = misfires[..20].iter().chain(&misfires[..20]).cloned().collect();
    assert!(state.apply_batch(Batch::of(now, twice)).iter().all(|reply| *reply == Reply::Done));
    let replies = state.apply_batch(Batch::of(now, [&misfires[20..], &misfires[..20]].concat()));
    assert!(replies.contains(&Reply::Refused(Refusal::MisfiresAtOnce)));
    assert!(replies[replies.len() - 20..].iter().all(|reply| *reply == Reply::Done));
}
