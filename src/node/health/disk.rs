//! The disk, by what the work gets from it: how long a write of the log takes, whether the log finds room, whether the
//! store becomes durable, and whether a file can be opened at all.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::{note, Held, Node};
use crate::clock::monotonic;
use crate::storage::fsutil;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a fault holds after it was last seen. Longer than an election, so that a leader that gives way does not take
/// part in the one that follows.
const HOLD: Duration = Duration::from_secs(5);
/// As [`HOLD`], of room: whoever has made some waits for it.
const ROOM_HOLD: Duration = Duration::from_secs(1);
/// A store of which one step of a checkpoint (a read, a write, a sync) takes this many times the longest election timeout
/// stands still. A disk that is only busy syncs within a second or two.
const STEP_TIMEOUTS: u32 = 5;

pub(super) async fn watch(node: &Node) {
    let mut looks = Looks::new(node);
    loop {
        if let Some(lost) = node.lost() {
            // What is acknowledged from here on would be gone with the process.
            return node.fail(lost);
        }
        looks.look(node);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Node {
    /// What has become of the node's files, where their paths do not lead to them any more.
    fn lost(&self) -> Option<String> {
        let identity = || {
            // While it is written anew it is looked at the next time.
            let file = self.0.identity_file.try_lock().ok()?;
            file.as_ref().and_then(fsutil::Anchor::lost)
        };
        let dirs = || self.0.anchors.iter().find_map(fsutil::Anchor::lost);
        dirs().or_else(identity).or_else(|| self.0.log.lost()).or_else(|| self.0.machine.lost())
    }

    /// So much room is kept on the disk of the data: while there is less, no task is taken.
    pub(in crate::node) fn room_kept(&self) -> u64 {
        let machine = &self.0.machine;
        let dir = &self.0.config.raft_dir;
        let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
        // Snapshots can be on a disk of their own.
        let snapshot = if device(dir) == device(&dir.join("snapshots")) { machine.snapshot_room_wanted() } else { 0 };
        let reserve = self.0.config.storage.reserve_mb << 20;
        reserve.saturating_add(snapshot).saturating_add(machine.deletes_room_wanted())
    }
}

struct Looks {
    /// Where room is asked for: `log` and `snapshots` can be file systems of their own.
    dirs: [PathBuf; 3],
    /// A descriptor to be copied.
    descriptor: Option<File>,
    slow: Held,
    store: Held,
    room: Held,
    descriptors: Held,
    /// Attempts that had waited for a descriptor by the last look.
    waited: u64,
}

impl Looks {
    fn new(node: &Node) -> Looks {
        let dir = &node.0.config.raft_dir;
        Looks {
            dirs: [dir.clone(), dir.join("log"), dir.join("snapshots")],
            descriptor: File::open(dir).ok(),
            slow: Held::new(HOLD),
            store: Held::new(HOLD),
            room: Held::new(ROOM_HOLD),
            descriptors: Held::new(HOLD),
            waited: 0,
        }
    }

    fn look(&mut self, node: &Node) {
        let config = &node.0.config;
        let too_long = Duration::from_millis(config.raft.election_timeout_max_ms);
        let slow = node.0.log.in_flight_since().filter(|pending| *pending > too_long);
        let slow = slow.map(|pending| format!("a write of the Raft log has taken {} ms", pending.as_millis()));
        let store = unstored(node.0.machine.unstored(), config.storage.unsaved_bytes_max, too_long * STEP_TIMEOUTS);
        let reserve = config.storage.reserve_mb << 20;
        // A log that went on would take what the store needs to become durable, without which it is never purged.
        node.0.log.hold(node.0.machine.no_room());
        // With less, neither deletes nor a snapshot would find any, and the log would never be purged.
        let with_snapshot = reserve.saturating_add(node.0.machine.snapshot_room_wanted());
        let kept = [node.room_kept(), reserve, with_snapshot];
        let full = || self.dirs.iter().zip(kept).find_map(|(dir, kept)| nearly_full(dir, kept));
        let room = node.0.log.no_room().or_else(full);
        // The thing itself: asked for, and given back.
        let descriptors = self.descriptor.as_ref().and_then(|file| file.try_clone().err());
        let descriptors = descriptors.map(|error| format!("no file can be opened: {error}"));
        // Between two looks there may have been some, and not enough to fire.
        let waited = node.metrics().without_descriptor.get();
        let unsent = waited > std::mem::replace(&mut self.waited, waited);
        let descriptors = descriptors.or_else(|| unsent.then(|| "callbacks wait for a descriptor".to_owned()));

        let now = monotonic();
        let (slow, store) = (self.slow.look(slow, now), self.store.look(store, now));
        let (room, descriptors) = (self.room.look(room, now), self.descriptors.look(descriptors, now));
        note(node, |faults| {
            (faults.slow, faults.store) = (slow, store);
            (faults.full, faults.descriptors) = (room, descriptors);
        });
    }
}

/// Why the directory takes no more tasks, if so.
fn nearly_full(dir: &Path, reserve: u64) -> Option<String> {
    // A directory that cannot be asked says nothing about its room: the log finds out.
    let free = fsutil::free_bytes(dir).ok()?;
    (free < reserve).then(|| {
        format!("{} MiB are free for {}, and {} are kept in reserve", free >> 20, dir.display(), reserve >> 20)
    })
}

/// Why the store is in the way of the work, if it is: the checkpoint that is due stands still, and half of what may be
/// unsaved is.
fn unstored(
    (still_since, unsaved): (Option<Instant>, usize),
    unsaved_bytes_max: usize,
    too_long: Duration,
) -> Option<String> {
    let still = still_since?.elapsed();
    (still > too_long && unsaved >= unsaved_bytes_max / 2).then(|| {
        let (ms, kib) = (still.as_millis(), unsaved >> 10);
        format!("the store has stood still for {ms} ms, and {kib} KiB are not stored")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_in_the_way_when_it_stands_still_and_much_is_unsaved() {
        let hangs = |still_ms: Option<u64>, unsaved| {
            let since = still_ms.map(|ms| monotonic() - Duration::from_millis(ms));
            unstored((since, unsaved), 1000, Duration::from_secs(3)).is_some()
        };
        assert!(hangs(Some(3100), 500));
        assert!(!hangs(Some(3100), 499), "there is time");
        assert!(!hangs(Some(2000), 1000), "the disk is busy");
        assert!(!hangs(None, 1000), "no checkpoint is due");
    }

    #[test]
    fn a_directory_is_nearly_full_by_its_own_file_system() {
        let dir = tempfile::tempdir().unwrap();
        assert!(nearly_full(dir.path(), u64::MAX).is_some_and(|why| why.contains("in reserve")));
        assert_eq!(nearly_full(dir.path(), 0), None);
        assert_eq!(nearly_full(&dir.path().join("missing"), u64::MAX), None);
    }
}
