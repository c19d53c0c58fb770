//! Room on the disk, asked for before it is needed: sled that finds none while it writes has to be given up, and the node
//! with it, while a checkpoint that is not begun can be made later.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::PoisonError;

use super::{read, Keeper, Machine};
use crate::seam;
use crate::state::record::{Key, SPECS_PER_PAGE};
use crate::storage::{anew, fsutil, Error};

/// What a checkpoint may take beside what it changes: sled grows its file by half a MiB at a time, in several threads.
const MARGIN: u64 = 4 << 20;
/// A leaf of sled's tree that holds small records.
const LEAF_BYTES: u64 = 16 << 10;
/// sled keeps a leaf that is larger in a file of its own.
const FILE_BYTES: u64 = 512 << 10;
/// Files that a checkpoint or a snapshot may make beside those: a store has four, and the log goes on.
const FILES_MARGIN: u64 = 8;

/// How a checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Into the store.
    InPlace,
    /// Into a new store, which takes its place.
    Anew,
}

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

    /// How much room it takes to delete tasks until there is more, in bytes: the checkpoints of it change each leaf of
    /// the store, and the snapshot after them is smaller than what it takes the place of.
    pub fn deletes_room_wanted(&self) -> u64 {
        MARGIN + self.snapshot_bytes_next() / 2
    }

    /// What is free on the disk; 0 where it cannot be asked.
    pub fn disk_free_bytes(&self) -> u64 {
        free(&self.0.dir).unwrap_or_default()
    }

    /// Why no checkpoint is made, if the last one found too little room to begin.
    pub fn no_room(&self) -> Option<String> {
        self.0.no_room.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the checkpoint is to be written that would be made now. Takes note of it where there is no room for any.
    ///
    /// # Errors
    /// There is none, or the disk cannot be asked.
    pub(super) async fn way(&self, keeper: &Keeper) -> Result<Way, Error> {
        let way = match self.way_now(keeper) {
            Ok((way, bytes)) if self.has_changes() => self.may_take(bytes).await.map(|()| way),
            Ok((way, _)) => Ok(way),
            Err(error) => Err(error),
        };
        let mut noted = self.0.no_room.lock().unwrap_or_else(PoisonError::into_inner);
        *noted = way.as_ref().err().map(ToString::to_string);
        way
    }

    fn has_changes(&self) -> bool {
        let core = self.core();
        core.cut.is_some() || !core.state.changes().is_empty()
    }

    /// With how many bytes it may take.
    fn way_now(&self, keeper: &Keeper) -> Result<(Way, u64), Error> {
        self.has_files("write a checkpoint in", &self.0.dir, self.files_wanted())?;
        let free = free(&self.0.dir)?;
        let in_place = self.in_place_room_wanted();
        if free >= in_place.saturating_add(anew::room_wanted(self.snapshot_bytes_next())) {
            return Ok((Way::InPlace, in_place));
        }
        // What is written in place takes room that writing anew may need, which gives more back.
        let anew = anew::room_wanted(self.bytes_after(keeper));
        if free >= anew && (free < in_place || self.is_bloated(anew)) {
            return Ok((Way::Anew, anew));
        }
        if free >= in_place {
            return Ok((Way::InPlace, in_place));
        }
        Err(too_little("write a checkpoint in", &self.0.dir, in_place.min(anew), free))
    }

    /// Whether this user may take so many of the bytes that are free: a quota may leave fewer.
    async fn may_take(&self, bytes: u64) -> Result<(), Error> {
        let action = "set room for a checkpoint aside in";
        #[cfg(test)]
        if bytes > self.0.quota_bytes.load(Ordering::Relaxed) {
            return Err(Error::io(action, &self.0.dir)(rustix::io::Errno::DQUOT.into()));
        }
        // A simulation knows no quota.
        #[cfg(feature = "sim")]
        if seam::simulated::is_on() {
            return Ok(());
        }
        let dir = self.0.dir.clone();
        let tried = seam::blocking(move || fsutil::try_room(&dir, bytes)).await;
        self.0.pace.went_on();
        tried.map_err(|panic| self.panicked(panic))?.map_err(Error::io(action, &self.0.dir))
    }

    /// Whether the store takes much more than it would if it were written anew.
    fn is_bloated(&self, anew: u64) -> bool {
        self.store().disk_bytes() / 2 > anew
    }

    /// sled writes a leaf again as a whole where a record in it changes or goes, and gives the old one's room back later.
    fn in_place_room_wanted(&self) -> u64 {
        let state = self.0.state_bytes.load(Ordering::Relaxed);
        let records = self.0.state_records.load(Ordering::Relaxed).max(1);
        let (changed, weight) = {
            let core = self.core();
            read::layers(&core).fold((0, 0), |(changed, weight), c| {
                (changed + c.pages.len() + c.specs.len() + c.runs.len(), weight + c.weight())
            })
        };
        let leaf = (4 * state / records).max(LEAF_BYTES);
        MARGIN + 2 * weight as u64 + (changed as u64).saturating_mul(leaf).min(state / 2)
    }

    /// How many files a checkpoint may make, whichever way it is written: there are no more leaves that have one than there
    /// are bytes for.
    fn files_wanted(&self) -> u64 {
        FILES_MARGIN + 2 * self.snapshot_bytes_next() / FILE_BYTES
    }

    /// Whether so many files can be made.
    fn has_files(&self, action: &'static str, path: &Path, needed: u64) -> Result<(), Error> {
        let free = fsutil::free_files(path).map_err(Error::io("look at the disk of", path))?;
        match free {
            Some(free) if free < needed => {
                let detail = format!("about {needed} files are needed and {free} can be made");
                Err(Error::io(action, path)(std::io::Error::new(std::io::ErrorKind::StorageFull, detail)))
            }
            _ => Ok(()),
        }
    }

    /// About how large a snapshot would be after the next checkpoint: less than now where definitions go.
    fn bytes_after(&self, keeper: &Keeper) -> u64 {
        let (changed, weight) = {
            let core = self.core();
            let changed: Vec<u64> = read::layers(&core).flat_map(|c| c.specs.keys().copied()).collect();
            (changed, read::layers(&core).map(|c| c.weight() as u64).sum::<u64>())
        };
        let old = |seq: u64| match keeper.ledger.bytes_of(&Key::Spec(seq).to_bytes()) {
            0 => keeper.ledger.bytes_of(&Key::SpecPage(seq / SPECS_PER_PAGE).to_bytes()) / SPECS_PER_PAGE,
            own => own,
        };
        let gone: u64 = changed.into_iter().map(old).sum();
        (keeper.ledger.snapshot_bytes() + weight).saturating_sub(gone)
    }

    /// Whether the store holds much more than its records, and the disk has little more than so many bytes and what is
    /// needed to write it anew. Later there may be too little for that.
    ///
    /// # Errors
    /// The disk cannot be asked.
    pub fn store_should_be_written_anew(&self, wanted: u64) -> Result<bool, Error> {
        let (free, anew) = (free(&self.0.dir)?, anew::room_wanted(self.snapshot_bytes_next()));
        Ok(free >= anew && free < wanted.saturating_add(2 * anew) && self.is_bloated(anew))
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
        self.has_files(action, path, FILES_MARGIN)?;
        let free = free(path)?;
        if free < needed {
            return Err(too_little(action, path, needed, free));
        }
        Ok(())
    }
}

fn free(path: &Path) -> Result<u64, Error> {
    fsutil::free_bytes(path).map_err(Error::io("look at the disk of", path))
}

fn too_little(action: &'static str, path: &Path, needed: u64, free: u64) -> Error {
    let detail = format!("about {} MiB are needed and {} MiB are free", needed >> 20, free >> 20);
    Error::io(action, path)(std::io::Error::new(std::io::ErrorKind::StorageFull, detail))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::command::{Batch, Command};
    use crate::storage::belongs::alone;
    use crate::task::{Callback, TaskSpec, Timing};

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn create(id: &str) -> Batch {
        let timing = Timing::After { delay_ms: 60_000 };
        let spec = TaskSpec::new(timing, Callback::post("http://127.0.0.1:9/", "1".to_owned()));
        Batch::of(NOW, vec![Command::Create { id: id.parse().unwrap(), spec: Box::new(spec) }])
    }

    /// sled that meets a quota while it writes has to be given up, and the node with it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_checkpoint_for_which_a_quota_leaves_no_room_waits_for_some() {
        let dir = tempfile::tempdir().unwrap();
        let machine = alone::open(dir.path(), NOW);
        alone::apply(&machine, 1, &create("first")).await;
        machine.checkpoint().await.unwrap();
        machine.0.quota_bytes.store(MARGIN, Ordering::Relaxed);
        alone::apply(&machine, 2, &create("second")).await;
        let ends = tokio::spawn({
            let machine = machine.clone();
            async move { machine.run_checkpoints().await }
        });
        let until = async |holds: &dyn Fn() -> bool| {
            let polled = async {
                while !holds() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), polled).await.unwrap();
        };
        until(&|| machine.no_room().is_some()).await;
        assert!(machine.no_room().unwrap().contains("quota"), "{:?}", machine.no_room());
        assert_eq!(machine.figures().checkpoints, 1);
        let error = machine.checkpoint().await.unwrap_err();
        assert!(error.is_full() && !ends.is_finished(), "{error}");
        assert!(machine.task(&"first".parse().unwrap()).unwrap().is_some());

        machine.0.quota_bytes.store(u64::MAX, Ordering::Relaxed);
        until(&|| machine.unsaved_bytes() == 0).await;
        assert!(machine.no_room().is_none() && !ends.is_finished());
        ends.abort();
    }
}
