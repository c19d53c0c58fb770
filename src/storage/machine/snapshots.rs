//! Snapshots of the state: written beside the checkpoints, and put in its place.
//!
//! A snapshot is written outside of openraft, which takes an error of its own attempts for the end of the node. It hears
//! of a snapshot once that is whole and durable.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::receive::Prepared;
use super::Machine;
use crate::raft::LogId;
use crate::seam;
use crate::storage::kept::Kept;
use crate::storage::scan::Scan;
use crate::storage::snapshot::Header;
use crate::storage::store::{Mark, Store};
use crate::storage::Error;

/// How often a store that is in use no more is asked whether it is still read.
const READ_LOOK_EVERY: Duration = Duration::from_millis(50);

impl Machine {
    fn newest_slot(&self) -> MutexGuard<'_, Option<Arc<Kept>>> {
        self.0.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest snapshot, if there is one.
    pub fn newest_snapshot(&self) -> Option<Arc<Kept>> {
        self.newest_slot().clone()
    }

    /// What the newest snapshot is of.
    pub fn snapshot_last(&self) -> Option<LogId> {
        self.newest_slot().as_ref().and_then(|kept| kept.last())
    }

    /// Size of the newest snapshot; 0: there is none.
    pub fn snapshot_bytes(&self) -> u64 {
        self.newest_slot().as_ref().map_or(0, |kept| kept.bytes())
    }

    /// Whether the newest snapshot cannot be sent, or is too old for who needs one, and another one must take its place.
    pub fn needs_snapshot(&self) -> bool {
        let asked = *self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked > self.snapshot_last() || self.newest_slot().as_ref().is_some_and(|kept| kept.is_unsound())
    }

    /// A snapshot that has this log entry, once the state has it; none: it is being written.
    pub fn snapshot_with(&self, entry: LogId) -> Option<Arc<Kept>> {
        let newest = self.newest_snapshot().filter(|kept| kept.last() >= Some(entry) && !kept.is_unsound());
        if newest.is_none() && self.applied() >= Some(entry) {
            let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
            *asked = (*asked).max(Some(entry));
            self.0.snapshots.wanted().notify_one();
        }
        newest
    }

    /// Waits until [`Machine::needs_snapshot`] has become true.
    pub async fn snapshot_needed(&self) {
        self.0.snapshots.wanted().notified().await;
    }

    /// Takes this snapshot for the newest one, unless there is a newer one.
    fn put_newest(&self, kept: &Arc<Kept>) {
        let mut newest = self.newest_slot();
        if newest.as_ref().is_none_or(|old| old.last() <= kept.last()) {
            *newest = Some(kept.clone());
        }
    }

    /// The newest snapshot is missing, and no attempt to write one has succeeded: openraft, which has to have one, gets
    /// the place of it.
    pub(super) fn put_missing(&self) -> Arc<Kept> {
        let missing = Arc::new(Kept::missing(&self.0.dir, self.0.snapshots.wanted().clone()));
        self.newest_slot().get_or_insert(missing).clone()
    }

    /// Writes all of the state, as of now, into a snapshot file, and keeps it as the newest.
    ///
    /// # Errors
    /// What the disk refuses, room for it above all. What was written of it is removed.
    pub async fn write_snapshot(&self) -> Result<Arc<Kept>, Error> {
        let _one = self.0.snapshotting.lock().await;
        let written = self.write_one().await;
        self.0.written_bytes.store(0, Ordering::Relaxed);
        self.count(|f| match &written {
            Ok(_) => f.snapshots += 1,
            Err(_) => f.snapshots_failed += 1,
        });
        written
    }

    async fn write_one(&self) -> Result<Arc<Kept>, Error> {
        let panicked = |panic| self.panicked(panic);
        let (scan, header, sum, temporary, generation) = {
            let mut keeper = self.0.keeper.lock().await;
            // The checkpoint makes the store the state of this moment. From here on those that follow keep it for the scan.
            self.checkpoint_with(&mut keeper, true).await?;
            self.has_room(&self.0.dir.join("snapshots"), "write a snapshot in", keeper.ledger.snapshot_bytes())?;
            let sum = keeper.mark.sum();
            let Mark { applied, membership, .. } = keeper.mark.clone();
            let id = seam::uuid().to_string();
            let meta = openraft::SnapshotMeta { last_log_id: applied, last_membership: membership, snapshot_id: id };
            let header = Header { meta };
            let temporary = self.0.snapshots.temporary();
            let (store, pace) = (self.store(), self.0.pace.clone());
            let begun = seam::blocking(move || {
                Scan::begin(store, &header, temporary.path(), pace).map(|scan| (scan, header, temporary))
            });
            let (scan, header, temporary) = begun.await.map_err(panicked)??;
            self.0.pace.went_on();
            let scan = Arc::new(tokio::sync::Mutex::new(scan));
            keeper.scan = Arc::downgrade(&scan);
            (scan, header, sum, temporary, keeper.generation)
        };
        let file = loop {
            // First come, first served: a checkpoint waits for a step at most.
            let mut scan = scan.clone().lock_owned().await;
            self.0.written_bytes.store(scan.written(), Ordering::Relaxed);
            if let Some(file) = seam::blocking(move || scan.advance()).await.map_err(panicked)?? {
                break file;
            }
            seam::pause().await;
        };
        drop(scan);
        let finished = seam::blocking(move || file.finish(sum)).await;
        let bytes = finished.map_err(panicked)??;
        let (snapshots, applied) = (self.0.snapshots.clone(), header.meta.last_log_id);
        let kept = seam::blocking(move || snapshots.keep(temporary, header, false)).await;
        let kept = Arc::new(kept.map_err(panicked)??);
        tracing::info!(bytes, applied = applied.map(|id| id.index), generation, "snapshot written");
        self.put_newest(&kept);
        self.remove_replaced().await;
        Ok(kept)
    }

    /// Removes the files that the newest snapshot takes the place of.
    async fn remove_replaced(&self) {
        let (snapshots, newest) = (self.0.snapshots.clone(), self.newest_snapshot());
        let removed = seam::blocking(move || newest.iter().for_each(|kept| snapshots.remove_replaced(kept)));
        // A panic in there is told by the panic's own line.
        drop(removed.await);
    }

    /// Puts a snapshot that was received in the place of the state.
    pub(super) async fn install(&self, mut prepared: Prepared) -> Result<(), Error> {
        let generation = prepared.generation;
        let taken = (prepared.filled.take(), prepared.keeper.take(), prepared.file.take());
        let (Some((store, loaded)), Some(mut keeper), Some(file)) = taken else {
            return Err(Error::damaged(&self.0.dir, "a snapshot is installed twice"));
        };
        let kept = self.kept(file).await?;
        self.note(&keeper, generation, &loaded.mark).await?;
        let replaced = std::mem::replace(&mut keeper.generation, generation);
        self.0.state_bytes.store(loaded.ledger.snapshot_bytes(), Ordering::Relaxed);
        let ledger = std::mem::replace(&mut keeper.ledger, loaded.ledger);
        let leaders = loaded.mark.leaders.clone();
        keeper.mark = loaded.mark;
        keeper.sound = true;
        // A snapshot that is being written goes on over the old store, which changes no more.
        keeper.scan = std::sync::Weak::new();
        let meta = kept.meta().clone();
        let (old, store) = {
            let mut core = self.core();
            let state = std::mem::replace(&mut core.state, loaded.state);
            core.applied = meta.last_log_id;
            core.leaders = leaders;
            core.membership = meta.last_membership.clone();
            let cut = core.cut.take();
            // Under the state's lock, so that no reader sees one with the other's store.
            let mut current = self.0.store.write().unwrap_or_else(PoisonError::into_inner);
            let store: Arc<Store> = std::mem::replace(&mut current, Arc::new(store));
            self.0.applied.send_replace(core.applied);
            ((state, cut, ledger), store)
        };
        // As large as the state was: whoever waits for the lock must not wait for that.
        seam::dispose(old);
        self.put_newest(&kept);
        drop(keeper);
        self.0.changed.notify_one();
        self.0.room.notify_waiters();
        self.count(|f| f.snapshots_installed += 1);
        tracing::info!(applied = meta.last_log_id.map(|id| id.index), "snapshot installed");
        self.clean_up(replaced, store);
        Ok(())
    }

    /// Removes the store of this generation, which another one has taken the place of, once nobody reads it any more: sled
    /// opens large records by their paths. Entries are applied meanwhile. Older stores are left alone: a snapshot may still
    /// be reading one of them, and each is removed by the call that replaced it.
    pub(super) fn clean_up(&self, replaced: u64, old: Arc<Store>) {
        let machine = self.clone();
        tokio::spawn(async move {
            while Arc::strong_count(&old) > 1 {
                tokio::time::sleep(READ_LOOK_EVERY).await;
            }
            seam::dispose(old);
            machine.remove_store(replaced).await;
            machine.remove_replaced().await;
        });
    }
}
