//! When a snapshot is written.

use std::time::Duration;

use tokio::time::Instant;

use super::Node;
use crate::clock::monotonic;
use crate::raft::Raft;
use crate::seam;

/// Between two looks at how much the log has grown.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After an attempt that failed, and twice as long after each further one.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Between two snapshots that are written to make room, where they make too little; and of the store the same.
const MAKE_ROOM_EVERY: Duration = Duration::from_secs(5);
/// Entries that stay behind a snapshot, for nodes that were away for a moment.
const LOG_KEPT: u64 = 128;
/// Few: a node that was away for seconds needs a snapshot then.
const LOG_KEPT_SIMULATED: u64 = 16;

impl Node {
    /// Has a snapshot written whenever the log has grown by as much as the last one was large, so that what is written
    /// for snapshots stays in proportion to what is written at all; where the newest one cannot be sent; and where room is
    /// short and one makes some.
    ///
    /// An attempt that fails ends nothing: the log is kept, and the next attempt comes later: as soon as there is room for
    /// it, where that is what failed.
    pub(super) async fn snapshots(&self) -> String {
        let machine = &self.0.machine;
        let at_start = self.0.log.log_bytes_since_purge();
        let mut covered = 0;
        let mut retry_after = RETRY_MIN;
        let (mut made_room, mut no_room, mut anew) = (None, false, None);
        loop {
            // Whether it is needed is asked below.
            let _ = tokio::time::timeout(LOOK_EVERY, machine.snapshot_needed()).await;
            let Some(raft) = self.0.group.get().filter(|_| self.in_doubt().is_none()) else { continue };
            self.tell_of_snapshot(raft).await;
            self.store_makes_room(&mut anew).await;
            let written = at_start + self.0.log.appended_bytes_total();
            let due = written - covered >= self.0.config.raft.snapshot_log_bytes.max(machine.snapshot_bytes());
            let makes_room = self.snapshot_makes_room(made_room);
            if !due && !makes_room && !machine.needs_snapshot() {
                continue;
            }
            if let Err(error) = machine.has_snapshot_room() {
                if !no_room {
                    tracing::error!(%error, "a snapshot could not be written; until one is, the log grows");
                }
                no_room = true;
                continue;
            }
            (no_room, made_room) = (false, makes_room.then(monotonic).or(made_room));
            match machine.write_snapshot().await {
                Ok(_) => {
                    (covered, retry_after) = (written, RETRY_MIN);
                    self.tell_of_snapshot(raft).await;
                }
                // Another's file, or the checkpoint, has taken the room meanwhile.
                Err(error)
                    if error.is_full() && (machine.no_room().is_some() || machine.has_snapshot_room().is_err()) =>
                {
                    tracing::error!(%error, "a snapshot could not be written; until one is, the log grows");
                    no_room = true;
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

    /// Whether this node has little room, or leads others of which one has. That one takes part of the log at most, and
    /// what it can still take then is a snapshot: of the state as it is, and not as it was before deletes.
    fn room_is_short(&self) -> bool {
        self.faults().full.is_some() || (self.leads() && self.peers_room().lacks())
    }

    /// Whether room is short and much was deleted: then the newest snapshot and the log behind it hold more than the state.
    fn snapshot_makes_room(&self, last: Option<Instant>) -> bool {
        let machine = &self.0.machine;
        let held = machine.snapshot_bytes().saturating_add(self.0.log.log_bytes_since_purge());
        self.room_is_short()
            && held / 2 > machine.snapshot_bytes_next()
            && last.is_none_or(|last| last.elapsed() >= MAKE_ROOM_EVERY)
    }

    /// Has the store written anew before there is too little room for it, where it holds much of what is gone.
    async fn store_makes_room(&self, last: &mut Option<Instant>) {
        let machine = &self.0.machine;
        let wanted = machine.store_should_be_written_anew(self.room_kept());
        if !wanted.unwrap_or(false) || last.is_some_and(|last| last.elapsed() < MAKE_ROOM_EVERY) {
            return;
        }
        *last = Some(monotonic());
        if let Err(error) = machine.write_store_anew().await {
            tracing::warn!(%error, "the store could not be written anew");
        }
    }

    /// Has openraft know of the newest snapshot, and purge the log behind it. It refuses to hear of one while it hears of
    /// another; then the next look tells it.
    ///
    /// Some entries stay behind the snapshot, for followers that were away for a moment. They are counted, whatever their
    /// size: where room is short they go as well, since a few large tasks could hold all of it.
    async fn tell_of_snapshot(&self, raft: &Raft) {
        // An error: the group has ended, which is noticed elsewhere; or openraft has not heard of it yet.
        let (newest, known) = (self.0.machine.snapshot_last(), raft.metrics().borrow().snapshot);
        if newest > known && raft.trigger().snapshot().await.is_ok() {
            // At once and not at the next look: a follower that comes back between is sent entries which are to go.
            let heard = |metrics: &openraft::RaftMetrics<_, _>| metrics.snapshot >= newest;
            let _ = raft.wait(Some(LOOK_EVERY)).metrics(heard, "openraft knows the newest snapshot").await;
        }

        let (known, purged) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            (metrics.snapshot, metrics.purged)
        };
        let kept = if self.room_is_short() { 0 } else { seam::bound(LOG_KEPT, LOG_KEPT_SIMULATED) };
        let upto = known.and_then(|last| last.index.checked_sub(kept));
        if let Some(upto) = upto.filter(|upto| purged.is_none_or(|purged| *upto > purged.index)) {
            // One that is asked for again, while it waits for what is being sent, changes nothing.
            let _ = raft.trigger().purge_log(upto).await;
        }
    }
}
