//! Snapshots of the state: written beside the checkpoints, and put in its place.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::super::scan::Scan;
use super::super::snapshot::{self, Header};
use super::super::store::{Mark, Store};
use super::super::Error;
use super::{note_of, remove_other_generations, Machine};
use crate::seam;

impl Machine {
    /// Writes all of the state, as of now, into a snapshot file.
    pub(super) async fn write_snapshot(&self) -> Result<(PathBuf, Header), Error> {
        let panicked = |panic| Error::damaged(&self.0.dir, panic);
        let _one = self.0.snapshotting.lock().await;
        let (scan, header, sum, snapshots, temporary) = {
            let mut keeper = self.0.keeper.lock().await;
            // The checkpoint makes the store the state of this moment. From here on those that follow keep it for the scan.
            self.checkpoint_with(&mut keeper, true).await?;
            let sum = keeper.mark.sum();
            let Mark { applied, membership, .. } = keeper.mark.clone();
            let id = seam::uuid().to_string();
            let meta = openraft::SnapshotMeta { last_log_id: applied, last_membership: membership, snapshot_id: id };
            let (header, snapshots) = (Header { meta }, keeper.snapshots.clone());
            let temporary = snapshots.temporary();
            let store = self.store();
            let begun =
                seam::blocking(move || Scan::begin(store, &header, &temporary).map(|scan| (scan, header, temporary)));
            let (scan, header, temporary) = begun.await.map_err(panicked)??;
            let scan = Arc::new(tokio::sync::Mutex::new(scan));
            keeper.scan = Arc::downgrade(&scan);
            (scan, header, sum, snapshots, temporary)
        };
        let file = loop {
            // First come, first served: a checkpoint waits for a step at most.
            let mut scan = scan.clone().lock_owned().await;
            if let Some(file) = seam::blocking(move || scan.advance()).await.map_err(panicked)?? {
                break file;
            }
            seam::pause().await;
        };
        drop(scan);
        let written = seam::blocking(move || {
            let bytes = file.finish(sum)?;
            let path = snapshots.keep(&temporary, &header)?;
            tracing::info!(bytes, applied = header.meta.last_log_id.map(|id| id.index), "snapshot written");
            Ok((path, header, bytes))
        });
        let (path, header, bytes) = written.await.unwrap_or_else(|panic| Err(panicked(panic)))?;
        self.0.snapshot_bytes.store(bytes, Ordering::Relaxed);
        self.count(|f| f.snapshots += 1);
        Ok((path, header))
    }

    /// Puts a snapshot that was received in the place of the state.
    pub(super) async fn install(&self, received: PathBuf) -> Result<(), Error> {
        let _one = self.0.snapshotting.lock().await;
        let mut keeper = self.0.keeper.lock().await;
        let generation = keeper.generation + 1;
        let (dir, cache, now) = (self.0.dir.clone(), self.0.options.cache_bytes, self.0.clock.now());
        let snapshots = keeper.snapshots.clone();
        let restored = seam::blocking(move || {
            std::fs::File::open(&received).and_then(|f| f.sync_all()).map_err(Error::io("sync", &received))?;
            let header = snapshot::header(&received)?;
            let path = snapshots.keep(&received, &header)?;
            let bytes = path.metadata().map_err(Error::io("read", &path))?.len();
            let store = Store::open(&dir, generation, cache)?;
            snapshot::restore(&path, &store, now).map(|(loaded, header)| (store, loaded, header, bytes))
        });
        let (store, loaded, header, bytes) =
            restored.await.unwrap_or_else(|panic| Err(Error::damaged(&self.0.dir, panic)))?;
        self.0.snapshot_bytes.store(bytes, Ordering::Relaxed);
        keeper.note.write(note_of(generation, &loaded.mark))?;
        keeper.generation = generation;
        keeper.ledger = loaded.ledger;
        keeper.mark = loaded.mark;
        keeper.sound = true;
        {
            let mut core = self.core();
            core.state = loaded.state;
            core.applied = header.meta.last_log_id;
            core.membership = header.meta.last_membership.clone();
            core.cut = None;
            // Under the state's lock, so that no reader sees one with the other's store.
            *self.0.store.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(store);
            self.0.applied.send_replace(core.applied);
        }
        self.0.changed.notify_one();
        self.0.room.notify_waiters();
        self.count(|f| f.snapshots_installed += 1);
        tracing::info!(applied = header.meta.last_log_id.map(|id| id.index), "snapshot installed");
        remove_other_generations(&self.0.dir, generation)
    }
}
