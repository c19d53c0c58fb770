//! What holds of any history of commands, beside what the target `state` looks at.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::state;
use crate::clock::Timestamp;
use crate::command::Encoded;
use crate::state::{State, LINKS_MAX, OPEN_RUNS_MAX};

fn bytes(seed: u64) -> Vec<u8> {
    let mut data = vec![0; 3_000];
    StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

/// All of its bytes, the links that one change may have searched, and the open runs of a task and of each that it
/// triggers: whatever the state is, nothing costs more.
#[test]
fn no_command_costs_more_than_its_bytes_allow() {
    for seed in 0..40 {
        let mut state = State::new(Timestamp(1_790_000_000_000));
        for (now, command) in state::history(&bytes(seed)) {
            let bytes = Encoded::of(&command).unwrap().len();
            state.apply(now, command.clone());
            let (steps, allowed) = (state.steps(), bytes + LINKS_MAX + 2 + 33 * (OPEN_RUNS_MAX + 200));
            assert!(steps <= allowed, "{steps} steps for {bytes} bytes: {command:?}");
        }
    }
}
