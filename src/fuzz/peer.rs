//! Batches as a peer of any version could have written them, applied: what a log holds must never stop a node.

use super::Choices;
use crate::clock::Timestamp;
use crate::command::Batch;
use crate::state::State;
use crate::wheel::ADVANCE_LIMIT;

const START: Timestamp = Timestamp(1_790_000_000_000);

pub(super) fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    // A leader, whose alarms move, and a follower, whose alarms do not: both must hold the same.
    let (mut leader, mut follower) = (State::new(START), State::new(START));
    let mut now = START;
    while choices.more() {
        match choices.below(4) {
            0 | 1 => {
                let Ok(batch) = Batch::decode(choices.bytes(4000)) else { continue };
                now = now.max(batch.now);
                let told = leader.apply_batch(batch.clone());
                assert_eq!(told, follower.apply_batch(batch));
                follower.check();
            }
            2 => {
                now = now.plus_ms(choices.magnitude());
                let _ = leader.advance(now, ADVANCE_LIMIT);
                while let Some((seq, jobs)) = leader.take_due(now) {
                    for job in jobs {
                        leader.wants(seq, job.key, job.attempt);
                        leader.has_started(seq, job.key, job.attempt, 1, 1);
                        leader.lost(seq, job.key);
                    }
                }
            }
            _ => {
                leader.running(now);
                leader.expired(now, 1, (None, 0), 100);
                match choices.flag() {
                    true => leader.release_taken(),
                    false => leader.rebuild_alarms(Timestamp(now.0.saturating_sub(choices.magnitude()))),
                }
            }
        }
        leader.check();
    }
    assert_eq!(leader.hot_pages(), follower.hot_pages());
    assert_eq!(leader.globals(), follower.globals());
}
