//! A snapshot on its way from another node to this one.
//!
//! ```text
//!  pieces ─→ file (.tmp) ─→ a new store, filled from it: all is verified ─→ kept (.snap) ─→ openraft ─→ installed
//!            └──── a failure or a kill here leaves all that the node has as it was ────┘
//! ```
//!
//! openraft queues the installation of what it is given, and lets the log be purged meanwhile. So it is given only what
//! is durable under its name: whenever the node is killed, it has its own state and the log after it, or the snapshot.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use openraft::{BasicNode, SnapshotMeta};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::sync::OwnedMutexGuard;

use super::{Keeper, Machine, Shared};
use crate::raft::LogId;
use crate::seam;
use crate::seam::bug::{self, Bug};
use crate::seam::file::{self, File};
use crate::storage::kept::{Kept, Temporary};
use crate::storage::snapshot::{self, Header};
use crate::storage::store::{Loaded, Mark, Store};
use crate::storage::Error;

/// What became of a piece.
#[derive(Debug)]
pub enum Received {
    /// There is more to come.
    More,
    /// It does not follow on what is there: the snapshot is to be sent from its beginning.
    Again,
    /// That was the last: openraft may install it.
    Ready(super::Held),
}

/// A snapshot of which a part is there.
pub(super) struct Incoming {
    id: String,
    temporary: Temporary,
    file: File,
    /// Where the file's next byte goes.
    at: u64,
    /// So many bytes are there, without a gap.
    len: u64,
}

impl Incoming {
    async fn write(&mut self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        if offset != self.at {
            self.file.seek(SeekFrom::Start(offset)).await?;
        }
        self.file.write_all(data).await?;
        self.file.flush().await?;
        self.at = offset + data.len() as u64;
        self.len = self.len.max(self.at);
        Ok(())
    }
}

/// Counts while a snapshot waits to be installed.
struct Installing(Arc<Shared>);

impl Drop for Installing {
    fn drop(&mut self) {
        self.0.installing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The file of a snapshot that was received.
pub(super) enum ReceivedFile {
    Kept(Arc<Kept>),
    /// Only where a bug is planted.
    Unkept(Temporary, Header),
}

/// A snapshot that was received. Only where a bug is planted: whoever has it may not know what it is.
pub struct Unverified(Temporary);

/// A snapshot that was received and verified, with the store and the state that were made of it.
pub struct Prepared {
    pub(super) generation: u64,
    /// Taken out when it is installed.
    pub(super) file: Option<ReceivedFile>,
    /// Taken out when it is installed.
    pub(super) filled: Option<(Store, Loaded)>,
    /// No checkpoint may change the store meanwhile.
    pub(super) keeper: Option<OwnedMutexGuard<Keeper>>,
    installing: Installing,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // openraft had something newer, or the file could not be kept. The state is large, and its store is nobody's.
        if let Some(filled) = self.filled.take() {
            let dir = Store::dir_of(&self.installing.0.dir, self.generation);
            seam::dispose((filled, Unused(dir)));
        }
    }
}

/// The directory of a store that is not used: removed when it is dropped.
struct Unused(PathBuf);

impl Drop for Unused {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, dir = %self.0.display(), "a store that is not used cannot be removed");
        }
    }
}

impl Machine {
    /// Takes a piece of a snapshot.
    ///
    /// # Errors
    /// What the disk refuses, and with the last piece [`Error::Damaged`] or [`Error::OtherHistory`]: what was received is
    /// removed, and what the node has is as it was.
    pub async fn receive(
        &self,
        meta: &SnapshotMeta<u64, BasicNode>,
        offset: u64,
        data: &[u8],
        last: bool,
    ) -> Result<Received, Error> {
        let mut incoming = self.0.incoming.clone().lock_owned().await;
        if incoming.as_ref().is_none_or(|i| i.id != meta.snapshot_id || offset > i.len) {
            if offset > 0 {
                return Ok(Received::Again);
            }
            // One that was broken off goes with its file.
            *incoming = None;
            let temporary = self.0.snapshots.temporary();
            let file = file::create_new(temporary.path()).await.map_err(Error::io("create", temporary.path()))?;
            *incoming = Some(Incoming { id: meta.snapshot_id.clone(), temporary, file, at: 0, len: 0 });
        }
        let Some(mut taken) = incoming.take() else { return Ok(Received::Again) };
        // On an error it is not put back.
        taken.write(offset, data).await.map_err(Error::io("write", taken.temporary.path()))?;
        if !last {
            *incoming = Some(taken);
            return Ok(Received::More);
        }
        let Incoming { temporary, file, .. } = taken;
        drop(file);
        if bug::is_planted(Bug::SnapshotUnverified) {
            return Ok(Received::Ready(super::Held::Unverified(Unverified(temporary))));
        }
        self.prepare(temporary, meta).await.map(|prepared| Received::Ready(super::Held::Ready(Box::new(prepared))))
    }

    /// Makes a store and a state of a snapshot that was received, and keeps the file if all of it is as it should be.
    async fn prepare(&self, temporary: Temporary, meta: &SnapshotMeta<u64, BasicNode>) -> Result<Prepared, Error> {
        let sync = move || {
            let path = temporary.path();
            std::fs::File::open(path).and_then(|f| f.sync_all()).map_err(Error::io("sync", path))?;
            Ok((path.to_owned(), temporary))
        };
        let (temporary, header, mut prepared) = self.fill(sync).await?;
        if header.meta != *meta {
            let detail = format!("it is the snapshot {}, and {meta} was announced", header.meta);
            return Err(Error::damaged(temporary.path(), detail));
        }
        if let Some((ours, theirs)) = prepared.filled.as_ref().and_then(|(_, loaded)| self.differs(&loaded.mark)) {
            return Err(Error::OtherHistory { ours, theirs });
        }
        prepared.file = Some(match bug::is_planted(Bug::PurgeBeforeKept) {
            false => ReceivedFile::Kept(self.keep_received(temporary, header).await?),
            true => ReceivedFile::Unkept(temporary, header),
        });
        Ok(prepared)
    }

    /// Looks at a snapshot once it is to be installed, which is too late.
    pub(super) async fn install_unverified(
        &self,
        unverified: Unverified,
        meta: &SnapshotMeta<u64, BasicNode>,
    ) -> Result<(), Error> {
        let prepared = self.prepare(unverified.0, meta).await?;
        self.install(prepared).await
    }

    /// What this node has applied, and another state has not at the same place.
    fn differs(&self, other: &Mark) -> Option<(LogId, LogId)> {
        let core = self.core();
        core.leaders.differ(core.applied?, &other.leaders, other.applied?)
    }

    /// Puts the newest snapshot in this node's directory in the place of the state, to which nothing is applied meanwhile.
    ///
    /// # Errors
    /// What the disk refuses, and [`Error::Damaged`] where it is no snapshot, or an older one: the state is as it was.
    pub async fn replace(&self) -> Result<(), Error> {
        let (snapshots, applied) = (self.0.snapshots.clone(), self.applied());
        let dir = self.0.dir.clone();
        let find = move || {
            let newest = snapshots.newest()?.filter(|kept| kept.last() >= applied);
            let kept = newest.ok_or_else(|| Error::damaged(&dir, "it has no snapshot that is as new as the state"))?;
            Ok((kept.path().to_owned(), kept))
        };
        let (kept, _, mut prepared) = self.fill(find).await?;
        prepared.file = Some(ReceivedFile::Kept(Arc::new(kept)));
        self.install(prepared).await
    }

    /// Makes the store of a new generation, and a state, of the snapshot that `find` gives with its path. No checkpoint is
    /// made from now on until what comes of it is installed or dropped.
    async fn fill<T: Send + 'static>(
        &self,
        find: impl FnOnce() -> Result<(PathBuf, T), Error> + Send + 'static,
    ) -> Result<(T, Header, Prepared), Error> {
        let mut keeper = self.0.keeper.clone().lock_owned().await;
        self.0.installing.fetch_add(1, Ordering::Relaxed);
        let installing = Installing(self.0.clone());
        keeper.begun += 1;
        let generation = keeper.begun;
        let (dir, cache, now) = (self.0.dir.clone(), self.0.options.cache_bytes, self.0.clock.now());
        let fill = move || {
            let (path, found) = find()?;
            let store = Store::open(&dir, generation, cache)?;
            match snapshot::restore(&path, &store, now) {
                Ok((loaded, header)) => Ok((found, header, (store, loaded))),
                Err(error) => {
                    store.give_up();
                    Err(error)
                }
            }
        };
        match seam::blocking(fill).await.unwrap_or_else(|panic| Err(self.panicked(panic))) {
            Ok((found, header, filled)) => {
                let (filled, keeper) = (Some(filled), Some(keeper));
                Ok((found, header, Prepared { generation, file: None, filled, keeper, installing }))
            }
            Err(error) => {
                self.remove_store(generation).await;
                Err(error)
            }
        }
    }

    /// Gives the received file its name, and makes that durable.
    async fn keep_received(&self, temporary: Temporary, header: Header) -> Result<Arc<Kept>, Error> {
        let snapshots = self.0.snapshots.clone();
        let kept = seam::blocking(move || snapshots.keep(temporary, header, true)).await;
        Ok(Arc::new(kept.map_err(|panic| self.panicked(panic))??))
    }

    /// The file of a snapshot that is installed.
    pub(super) async fn kept(&self, file: ReceivedFile) -> Result<Arc<Kept>, Error> {
        match file {
            ReceivedFile::Kept(kept) => Ok(kept),
            ReceivedFile::Unkept(temporary, header) => {
                // What the sync of the file takes.
                seam::pause().await;
                self.keep_received(temporary, header).await
            }
        }
    }

    /// Removes a store that is not used, or no more; what cannot be removed now is removed at the next start.
    pub(super) async fn remove_store(&self, generation: u64) {
        let dir = Store::dir_of(&self.0.dir, generation);
        let removed = seam::blocking(move || std::fs::remove_dir_all(&dir)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, generation, "a store that is used no more cannot be removed");
        }
    }
}
