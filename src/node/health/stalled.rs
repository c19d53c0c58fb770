//! Does a leader get done what it writes? Where a majority acknowledges its signs of life and no entry is committed for
//! long, its callers hear 1051, whatever the reason is. It says so. It does not give way for that: the disks of a majority
//! may be slow, or an entry large and the links slow, and another leader would have the same.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::Node;
use crate::clock::monotonic;
use crate::node::log_ends;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long an entry may take. The callers of most of what is written have given up by then.
const STALLED: Duration = Duration::from_secs(10);

/// The entry that is waited for.
#[derive(Debug, Default)]
struct Waits(Option<(u64, u64, Instant)>);

impl Waits {
    /// For how long the oldest entry of this term that was seen in the log has not been applied.
    fn look(&mut self, led: Option<u64>, last: Option<u64>, applied: u64, now: Instant) -> Duration {
        let newest = led.zip(last.filter(|last| *last > applied));
        let going = self.0.filter(|(term, index, _)| led == Some(*term) && *index > applied);
        self.0 = going.or(newest.map(|(term, last)| (term, last, now)));
        self.0.map_or(Duration::ZERO, |(_, _, since)| now.saturating_duration_since(since))
    }
}

pub(super) async fn watch(node: &Node) {
    let mut waits = Waits::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let last = log_ends(&node.0.log).ok().and_then(|ends| ends.last).map(|id| id.index);
        let stalled = waits.look(node.may_write(), last, node.applied_index(), monotonic());
        let reason = (stalled > STALLED).then(|| {
            format!(
                "this node leads and is followed, and has got no entry committed and applied for {} s",
                stalled.as_secs()
            )
        });
        let mut told = node.0.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*told, &reason) {
            (None, Some(reason)) => tracing::warn!(reason, "writes do not get done"),
            (Some(_), None) => tracing::info!("writes get done again, or another node leads"),
            _ => {}
        }
        *told = reason;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_is_not_applied_is_waited_for_and_one_that_follows_it_begins_anew() {
        let start = monotonic();
        let mut waits = Waits::default();
        let mut look =
            |led, last, applied, second| waits.look(led, last, applied, start + Duration::from_secs(second)).as_secs();
        assert_eq!(look(Some(3), None, 0, 0), 0);
        assert_eq!(look(Some(3), Some(7), 7, 1), 0);
        assert_eq!(look(Some(3), Some(9), 7, 2), 0, "it is new");
        assert_eq!(look(Some(3), Some(20), 8, 12), 10, "9 is not applied, whatever follows it");
        assert_eq!(look(Some(3), Some(21), 9, 13), 0, "a busy leader always has some that are not");
        assert_eq!(look(Some(3), Some(30), 20, 20), 7);
        assert_eq!(look(None, Some(30), 20, 21), 0, "it leads no more");
        assert_eq!(look(Some(5), Some(30), 20, 40), 0);
    }
}
