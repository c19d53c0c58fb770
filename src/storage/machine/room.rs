//! Room on the disk, asked for before it is needed: sled that finds none while it writes has to be given up, and the node
//! with it, while a checkpoint that is not begun can be made later.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::Machine;
use crate::storage::Error;

/// What a checkpoint may take beside what it changes: sled grows its file by half a MiB at a time, in several threads.
const MARGIN: u64 = 4 << 20;
/// A leaf of sled's tree that holds small records.
const LEAF_BYTES: u64 = 16 << 10;

impl Machine {
    /// How much room the next snapshot takes beside all that is there, and has not taken yet, in bytes. Who fills the
    /// disk further than that keeps the log from ever being purged.
    pub fn snapshot_room_wanted(&self) -> u64 {
        self.snapshot_bytes_next().saturating_sub(self.0.written_bytes.load(Ordering::Relaxed))
    }

    /// About how large a snapshot of the state would be.
    pub fn snapshot_bytes_next(&self) -> u64 {
        self.0.state_bytes.load(Ordering::Relaxed) + self.unsaved_bytes() as u64
    }

    /// Why no checkpoint is made, if the last one found too little room to begin.
    pub fn no_room(&self) -> Option<String> {
        self.0.no_room.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Whether there is room for the checkpoint that would be made now, and takes note of it.
    pub(super) fn asks_for_room(&self) -> bool {
        let error = self.has_room(&self.0.dir, "write a checkpoint in", self.checkpoint_room_wanted()).err();
        let mut noted = self.0.no_room.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *noted = error.map(|error| error.to_string());
        noted.is_none()
    }

    /// sled writes a leaf again as a whole where a record in it changes or goes, and gives the old one's room back later.
    fn checkpoint_room_wanted(&self) -> u64 {
        let state = self.0.state_bytes.load(Ordering::Relaxed);
        let records = self.0.state_records.load(Ordering::Relaxed).max(1);
        let (changed, weight) = {
            let core = self.core();
            let cut = core.cut.as_ref().map(|cut| &cut.changes);
            let all = cut.into_iter().chain([core.state.changes()]);
            all.fold((0, 0), |(changed, weight), c| {
                (changed + c.pages.len() + c.specs.len() + c.runs.len(), weight + c.weight())
            })
        };
        let leaf = (4 * state / records).max(LEAF_BYTES);
        MARGIN + 2 * weight as u64 + (changed as u64).saturating_mul(leaf).min(state / 2)
    }

    /// Whether a snapshot would find room if it were begun now.
    ///
    /// # Errors
    /// The disk has too little, or cannot be asked.
    pub fn has_snapshot_room(&self) -> Result<(), Error> {
        self.has_room(&self.0.dir.join("snapshots"), "write a snapshot in", self.snapshot_bytes_next())
    }

    /// Whether so many bytes are free on the disk.
    pub(super) fn has_room(&self, path: &Path, action: &'static str, needed: u64) -> Result<(), Error> {
        let disk = rustix::fs::statvfs(path).map_err(|e| Error::io("look at the disk of", path)(e.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < needed {
            let detail = format!("about {} MiB are needed and {} MiB are free", needed >> 20, free >> 20);
            let full = std::io::Error::new(std::io::ErrorKind::StorageFull, detail);
            return Err(Error::io(action, path)(full));
        }
        Ok(())
    }
}
