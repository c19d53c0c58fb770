//! When a snapshot is written.

use std::time::Duration;

use super::Node;
use crate::raft::Raft;

/// Between two looks at how much the log has grown.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After an attempt that failed, and twice as long after each further one.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(60);

impl Node {
    /// Has a snapshot written whenever the log has grown by as much as the last one was large, so that what is written
    /// for snapshots stays in proportion to what is written at all; and where the newest one cannot be sent.
    ///
    /// An attempt that fails ends nothing: the log is kept, and the next attempt comes later.
    pub(super) async fn snapshots(&self) -> String {
        let machine = &self.0.machine;
        let at_start = self.0.log.log_bytes_since_purge();
        let mut covered = 0;
        let mut retry_after = RETRY_MIN;
        loop {
            // Whether it is needed is asked below.
            let _ = tokio::time::timeout(LOOK_EVERY, machine.snapshot_needed()).await;
            let Some(raft) = self.0.group.get().filter(|_| self.in_doubt().is_none()) else { continue };
            self.tell_of_snapshot(raft).await;
            let written = at_start + self.0.log.appended_bytes_total();
            let due = written - covered >= self.0.config.raft.snapshot_log_bytes.max(machine.snapshot_bytes());
            if !due && !machine.needs_snapshot() {
                continue;
            }
            match machine.write_snapshot().await {
                Ok(_) => {
                    (covered, retry_after) = (written, RETRY_MIN);
                    self.tell_of_snapshot(raft).await;
                }
                Err(error) => {
                    let retry_after_s = retry_after.as_secs();
                    tracing::error!(%error, retry_after_s, "a snapshot could not be written; until one is, the log grows");
                    tokio::time::sleep(retry_after).await;
                    retry_after = (retry_after * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Has openraft know of the newest snapshot, and purge the log behind it. It refuses to hear of one while it hears of
    /// another; then the next look tells it.
    async fn tell_of_snapshot(&self, raft: &Raft) {
        let known = raft.metrics().borrow().snapshot;
        if self.0.machine.snapshot_last() > known {
            // An error: the group has ended, which is noticed elsewhere.
            let _ = raft.trigger().snapshot().await;
        }
    }
}
