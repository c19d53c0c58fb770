//! The state machine of this node: the state in memory over the store on disk.
//!
//! openraft applies committed entries through it; the node reads from it; the scheduler asks it what is due. One mutex
//! guards the state, held for microseconds; what takes longer (checkpoints, snapshots) works on a cut of it.

mod check;
mod checkpoints;
mod held;
mod index;
mod open;
mod raft;
mod read;
mod receive;
mod room;
mod snapshots;

pub use held::Held;
pub use index::Found;
pub use read::Cause;
pub use receive::Received;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};
use std::time::Duration;

use tokio::sync::{watch, Notify};

use super::checkpoint::Cut;
use super::kept::{Kept, Snapshots};
use super::leaders::Leaders;
use super::note::NoteFile;
use super::pace::Pace;
use super::scan::Scan;
use super::store::{Ledger, Mark, Store};
#[cfg(any(test, feature = "sim"))]
use super::Error;
use crate::clock::Clock;
use crate::command::Seq;
use crate::raft::{LogId, Membership};
use crate::schedule::ZoneData;
use crate::seam;
use crate::state::State;

/// How the machine stores.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for the store's cache.
    pub cache_bytes: u64,
    /// Longest time between two checkpoints while there is something to write.
    pub checkpoint_interval: Duration,
    /// A checkpoint is made as soon as about this much has changed.
    pub checkpoint_bytes: usize,
    /// [`Machine::room`] waits while more than this has changed. What is kept for a snapshot that is being written is
    /// bounded by as much.
    pub unsaved_bytes_max: usize,
    /// The zone data of this program. The state goes by what it is given; only a planted bug reads them.
    pub zone_data: ZoneData,
}

/// How much the checkpoints do; counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Checkpoints made.
    pub checkpoints: u64,
    /// How long the last took, in ms.
    pub checkpoint_ms: u64,
    /// Snapshots written.
    pub snapshots: u64,
    /// Attempts at a snapshot that failed.
    pub snapshots_failed: u64,
    /// Snapshots of another node that took the place of the state.
    pub snapshots_installed: u64,
    /// About how many bytes have changed and are not stored.
    pub unsaved_bytes: usize,
    /// Size of the store.
    pub disk_bytes: u64,
}

/// The state machine; cheap to clone.
#[derive(Clone)]
pub struct Machine(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    options: Options,
    clock: Clock,
    core: Mutex<Core>,
    store: RwLock<Arc<Store>>,
    snapshots: Arc<Snapshots>,
    /// The newest snapshot. What openraft asks for is answered from here: nothing that waits for a disk may hold up the
    /// worker that applies entries.
    newest: Mutex<Option<Arc<Kept>>>,
    /// The last log entry of which a node that has lost its state needs a snapshot.
    asked: Mutex<Option<LogId>>,
    /// Held by the one snapshot that is being written. Taken before the keeper.
    snapshotting: tokio::sync::Mutex<()>,
    /// Held by the one checkpoint or installation that is going, over what it writes.
    keeper: Arc<tokio::sync::Mutex<Keeper>>,
    /// The snapshot that is being received. Taken before the keeper.
    incoming: Arc<tokio::sync::Mutex<Option<receive::Incoming>>>,
    /// Received snapshots that wait to be installed. Until then no checkpoint is made.
    installing: AtomicUsize,
    applied: watch::Sender<Option<LogId>>,
    /// Something was applied: there may be something due earlier.
    changed: Notify,
    /// A checkpoint has made room.
    room: Notify,
    /// So much has changed that a checkpoint should not wait.
    full: Notify,
    figures: Mutex<Figures>,
    /// The steps of the checkpoints.
    pace: Pace,
    checks: check::Checks,
    /// Nothing is to be applied for now.
    held: watch::Sender<bool>,
    /// Bytes of the entries that were taken into the log since then.
    held_bytes: AtomicU64,
    /// About how large a snapshot of what the store has is.
    state_bytes: AtomicU64,
    /// How many records the store has.
    state_records: AtomicU64,
    /// Why the last checkpoint was not begun, if it found too little room.
    no_room: Mutex<Option<String>>,
    /// How much of the snapshot that is being written is in its file.
    written_bytes: AtomicU64,
    /// So many bytes a quota leaves.
    #[cfg(test)]
    quota_bytes: AtomicU64,
}

struct Core {
    state: State,
    applied: Option<LogId>,
    /// Who wrote the log up to that entry.
    leaders: Leaders,
    membership: Membership,
    /// What a checkpoint is writing.
    cut: Option<Arc<Cut>>,
}

struct Keeper {
    generation: u64,
    /// The last generation of a store that was begun, whether it came to be used or not.
    begun: u64,
    ledger: Ledger,
    /// Where the store stands.
    mark: Mark,
    note: Arc<Mutex<NoteFile>>,
    /// A snapshot's way through the store, while there is one.
    scan: Weak<tokio::sync::Mutex<Scan>>,
    /// Whether the store has what the last checkpoint was to write. After an error nobody knows.
    sound: bool,
}

/// The ends of the Raft log, which decide what a store must have.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogEnds {
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry.
    pub last: Option<LogId>,
}

impl Machine {
    fn core(&self) -> MutexGuard<'_, Core> {
        match self.0.core.lock() {
            Ok(core) => core,
            Err(_) => {
                // Whoever panicked may have left the state half-changed. Nothing may be served from it.
                seam::end_process("a panic has left the state in doubt")
            }
        }
    }

    fn store(&self) -> Arc<Store> {
        self.0.store.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Looks at the state; for microseconds.
    pub fn with_state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.core().state)
    }

    /// Moves the alarms; nothing that is replicated may be changed.
    pub fn with_alarms<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.core().state)
    }

    /// A task was taken and nothing was done for it: it is due again.
    pub fn release(&self, seq: Seq) {
        self.core().state.release(seq);
        self.0.changed.notify_one();
    }

    /// The same, of several; for microseconds if they are few.
    pub fn release_all(&self, seqs: &[Seq]) {
        let mut core = self.core();
        seqs.iter().for_each(|seq| core.state.release(*seq));
        drop(core);
        self.0.changed.notify_one();
    }

    /// The last log entry that was applied.
    pub fn applied(&self) -> Option<LogId> {
        *self.0.applied.borrow()
    }

    /// The entry that this node has applied, and so is committed, at the place of this one, if it is another one.
    pub fn applied_instead_of(&self, theirs: LogId) -> Option<LogId> {
        let core = self.core();
        let applied = core.applied.filter(|applied| applied.index >= theirs.index);
        applied.and_then(|_| core.leaders.instead_of(theirs))
    }

    /// How many nodes the cluster had by the last entry that was applied.
    pub fn members(&self) -> usize {
        self.core().membership.nodes().count()
    }

    /// Tells of each change of [`Machine::applied`].
    pub fn watch_applied(&self) -> watch::Receiver<Option<LogId>> {
        self.0.applied.subscribe()
    }

    /// Waits until something was applied since the last call.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Waits while too much has changed that no checkpoint has stored yet.
    pub async fn room(&self) {
        loop {
            let notified = self.0.room.notified();
            if self.unsaved_bytes() <= self.0.options.unsaved_bytes_max {
                return;
            }
            self.0.full.notify_one();
            notified.await;
        }
    }

    /// No checkpoint is made while this is held.
    #[cfg(test)]
    pub(crate) async fn without_checkpoints(&self) -> impl Drop + '_ {
        self.0.keeper.lock().await
    }

    /// Damages a chunk of the index of ended runs, as a disk does.
    #[cfg(test)]
    pub(crate) fn damage_index(&self, number: u64) {
        let key = crate::state::record::Key::Index(number).to_bytes();
        self.store().write(vec![(key, Some(b"damaged".to_vec()))], None).unwrap();
    }

    fn unsaved_bytes(&self) -> usize {
        let core = self.core();
        core.state.changes().weight() + core.cut.as_ref().map_or(0, |cut| cut.changes.weight())
    }

    /// What the checkpoints do.
    pub fn figures(&self) -> Figures {
        let mut figures = *self.0.figures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        figures.unsaved_bytes = self.unsaved_bytes();
        figures.disk_bytes = self.store().disk_bytes();
        figures
    }

    /// Since when the checkpoint that is due has made no step, if one is, and about how many bytes are not stored. One for
    /// which there is no room is not due, nor is one that waits until a snapshot is installed.
    pub fn unstored(&self) -> (Option<tokio::time::Instant>, usize) {
        let installs = self.0.installing.load(Ordering::Relaxed) > 0;
        (self.0.pace.since().filter(|_| !installs), self.unsaved_bytes())
    }

    /// What has become of the store, where its path does not lead to it any more.
    pub fn lost(&self) -> Option<String> {
        let store = self.store();
        // One that a snapshot has taken the place of meanwhile is removed, and rightly.
        store.lost().filter(|_| Arc::ptr_eq(&store, &self.store()))
    }

    /// Snapshots written and installed since the start.
    #[cfg(feature = "sim")]
    pub fn snapshots(&self) -> (u64, u64) {
        let figures = *self.0.figures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (figures.snapshots, figures.snapshots_installed)
    }

    /// Whether a snapshot that was received is being verified or installed.
    #[cfg(feature = "sim")]
    pub fn is_installing(&self) -> bool {
        self.0.installing.load(Ordering::Relaxed) > 0
    }

    fn count(&self, act: impl FnOnce(&mut Figures)) {
        act(&mut self.0.figures.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// The last log entry, the number of records and a checksum over them, of a checkpoint made now; none: one is under
    /// way, or a step of a snapshot, or it fails.
    #[cfg(any(test, feature = "sim"))]
    pub async fn digest(&self) -> Option<(u64, (u64, u64))> {
        let mut keeper = self.0.keeper.try_lock().ok()?;
        if keeper.scan.upgrade().is_some_and(|scan| scan.try_lock().is_err()) {
            return None;
        }
        self.checkpoint_with(&mut keeper, true).await.ok()?;
        let mark = &keeper.mark;
        Some((mark.applied.map_or(0, |id| id.index), (mark.records, mark.digest)))
    }

    /// Records that the state does not imply, and what it implies and is not there, right after a checkpoint.
    ///
    /// # Errors
    /// A store that cannot be read.
    #[cfg(any(test, feature = "sim"))]
    pub fn strays(&self) -> Result<Vec<String>, Error> {
        super::belongs::check(&self.core().state, &self.store())
    }
}
