//! Opening the state: from the store, the newest snapshot, or the log.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock, Weak};

use tokio::sync::{watch, Notify};

use super::{Core, Figures, Keeper, LogEnds, Machine, Options, Shared};
use crate::clock::Clock;
use crate::storage::kept::{Kept, Snapshots};
use crate::storage::note::{Note, NoteFile};
use crate::storage::pace::Pace;
use crate::storage::snapshot;
use crate::storage::store::{Loaded, Mark, Store};
use crate::storage::{place, Error};

impl Machine {
    /// Opens the state under `dir`: the last checkpoint, or where there is any doubt about it, the newest snapshot. What
    /// is missing up to the end of the log, openraft applies again.
    ///
    /// # Errors
    /// [`Error::StateLost`] where neither reaches back to the beginning of the log, [`Error::Unrecoverable`] where the log
    /// is lost; and what the disk refuses.
    pub fn open(dir: &Path, options: Options, clock: Clock, log: LogEnds) -> Result<Machine, Error> {
        let snapshots = Snapshots::open(dir)?;
        let (mut note_file, note) = NoteFile::open(dir)?;
        let note = note.unwrap_or(Note { generation: 1, ..Note::default() });
        let opening = Opening { dir, options: &options, clock: &clock, log, note: &note, snapshots: &snapshots };
        let (store, loaded, generation, newest) = opening.open()?;
        // All that a new node has is a snapshot that it has received: openraft begins its log after that.
        let received = newest.as_ref().is_some_and(|kept| kept.is_received() && kept.last() == loaded.mark.applied);
        if let (None, Some(applied), false) = (log.last, loaded.mark.applied, received) {
            let detail = format!("the store has log entry {} and the Raft log is empty: it was lost", applied.index);
            return Err(Error::Unrecoverable { path: dir.to_owned(), detail });
        }
        // Where the log begins: openraft begins it anew where it ends before the state.
        let begins = if log.last < loaded.mark.applied { loaded.mark.applied } else { log.purged };
        // To a node that needs what the log no longer has, an older snapshot is of no use: another one is written.
        let newest = newest.filter(|kept| kept.last() >= begins);
        note_file.write(note_of(generation, &loaded.mark))?;
        remove_generations(dir, |other| other != generation)?;
        let Loaded { state, ledger, mark } = loaded;
        tracing::info!(tasks = state.len(), applied = mark.applied.map(|id| id.index), "state opened");
        let (applied, leaders, membership) = (mark.applied, mark.leaders.clone(), mark.membership.clone());
        let state_bytes = AtomicU64::new(ledger.snapshot_bytes());
        let state_records = AtomicU64::new(ledger.sum().records);
        let (scan, begun) = (Weak::new(), generation);
        let keeper =
            Keeper { generation, begun, ledger, mark, note: Arc::new(Mutex::new(note_file)), scan, sound: true };
        Ok(Machine(Arc::new(Shared {
            dir: dir.to_owned(),
            options,
            clock,
            core: Mutex::new(Core { state, applied, leaders, membership, cut: None }),
            store: RwLock::new(Arc::new(store)),
            snapshots: Arc::new(snapshots),
            newest: Mutex::new(newest.map(Arc::new)),
            asked: Mutex::default(),
            snapshotting: tokio::sync::Mutex::default(),
            keeper: Arc::new(tokio::sync::Mutex::new(keeper)),
            incoming: Arc::default(),
            installing: AtomicUsize::new(0),
            applied: watch::Sender::new(applied),
            changed: Notify::new(),
            room: Notify::new(),
            full: Notify::new(),
            figures: Mutex::new(Figures::default()),
            pace: Pace::default(),
            checks: super::check::Checks::default(),
            held: watch::Sender::new(false),
            held_bytes: AtomicU64::new(0),
            state_bytes,
            state_records,
            no_room: Mutex::default(),
            written_bytes: AtomicU64::new(0),
            #[cfg(test)]
            quota_bytes: AtomicU64::new(u64::MAX),
        })))
    }
}

pub(super) fn note_of(generation: u64, mark: &Mark) -> Note {
    Note { number: 0, generation, applied: mark.applied, records: mark.records, digest: mark.digest }
}

/// What a state is opened from.
struct Opening<'a> {
    dir: &'a Path,
    options: &'a Options,
    clock: &'a Clock,
    log: LogEnds,
    note: &'a Note,
    snapshots: &'a Snapshots,
}

type Opened = (Store, Loaded, u64, Option<Kept>);

impl Opening<'_> {
    fn open(&self) -> Result<Opened, Error> {
        let newest = self.snapshots.newest()?;
        let noted = self.noted();
        match noted {
            Ok((store, loaded)) if newest.as_ref().and_then(Kept::last) <= loaded.mark.applied => {
                Ok((store, loaded, self.note.generation, newest))
            }
            Ok((store, loaded)) => {
                // It was received, and the node ended before it was installed.
                tracing::info!("the newest snapshot is newer than the store, which is rebuilt from it");
                match self.restored(newest)? {
                    Ok(opened) => Ok(opened),
                    Err(_) => Ok((store, loaded, self.note.generation, None)),
                }
            }
            Err(Error::Io { path, action, source }) => Err(Error::Io { path, action, source }),
            Err(doubt) => {
                tracing::warn!(reason = %doubt, "the store is in doubt and is rebuilt");
                self.rebuild(newest)
            }
        }
    }

    /// The store that the note names, if it is all there.
    fn noted(&self) -> Result<(Store, Loaded), Error> {
        let Opening { dir, options, clock, log, note, .. } = self;
        let store = Store::open(dir, note.generation, options.cache_bytes)?;
        let loaded = store.load(clock.now())?;
        let applied = loaded.mark.applied;
        if applied < note.applied {
            // It has lost its end, as sled does without a word. The log may still have what is missing.
            tracing::warn!(
                store = place(applied),
                note = place(note.applied),
                "the store has lost its last checkpoints"
            );
        }
        if applied == note.applied && (loaded.mark.records, loaded.mark.digest) != (note.records, note.digest) {
            return Err(Error::damaged(
                &Store::dir_of(dir, note.generation),
                "its records or their digest are not those in the file `checkpoint`",
            ));
        }
        if applied < log.purged {
            let detail = format!("it ends at {}, and the log begins after {}", place(applied), place(log.purged));
            return Err(Error::damaged(&Store::dir_of(dir, note.generation), detail));
        }
        Ok((store, loaded))
    }

    /// A new store from the newest snapshot, or an empty one if the log has everything.
    fn rebuild(&self, newest: Option<Kept>) -> Result<Opened, Error> {
        let (opened, why) = match self.restored(newest)? {
            Ok(opened) => (opened, None),
            Err(damage) => {
                let (store, generation) = self.new_store(0)?;
                let loaded = store.load(self.clock.now())?;
                ((store, loaded, generation, None), damage)
            }
        };
        let (_, loaded, ..) = &opened;
        if let Some(purged) = self.log.purged.filter(|purged| loaded.mark.applied < Some(*purged)) {
            let ends = match loaded.mark.applied {
                Some(last) => format!("the newest snapshot ends at log entry {}", last.index),
                None => "there is no snapshot".to_owned(),
            };
            let ends = why.map_or(ends, |damage| damage.to_string());
            let detail = format!("{ends}, and the log begins after entry {}", purged.index);
            return Err(Error::StateLost { path: self.dir.to_owned(), detail, purged });
        }
        Ok(opened)
    }

    /// A new store from the newest snapshot that is sound; the others are set aside. Where there is none: what is wrong
    /// with the last that was tried.
    fn restored(&self, mut newest: Option<Kept>) -> Result<Result<Opened, Option<Error>>, Error> {
        let (mut attempts, mut damage) = (0, None);
        while let Some(kept) = newest {
            attempts += 1;
            let (store, generation) = self.new_store(attempts)?;
            match snapshot::restore(kept.path(), &store, self.clock.now()) {
                Ok((loaded, _)) => return Ok(Ok((store, loaded, generation, Some(kept)))),
                Err(error) => {
                    self.snapshots.set_aside(kept.path(), &error)?;
                    damage = Some(error);
                }
            }
            newest = self.snapshots.newest()?;
        }
        Ok(Err(damage))
    }

    fn new_store(&self, attempts: u64) -> Result<(Store, u64), Error> {
        // One that was given up may still be closing its files.
        let generation = self.note.generation + 1 + attempts;
        let target = Store::dir_of(self.dir, generation);
        if target.exists() {
            std::fs::remove_dir_all(&target).map_err(Error::io("remove", &target))?;
        }
        Store::open(self.dir, generation, self.options.cache_bytes).map(|store| (store, generation))
    }
}

/// Removes the stores of these generations.
fn remove_generations(dir: &Path, which: impl Fn(u64) -> bool) -> Result<(), Error> {
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        let name = path.file_name().and_then(|n| n.to_str());
        let generation = name.and_then(|n| n.strip_prefix("state-")?.parse::<u64>().ok());
        if generation.is_some_and(&which) {
            std::fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}
