//! The machine, as openraft sees it.

use std::path::PathBuf;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageError,
    StorageIOError,
};

use super::super::{snapshot, Error};
use super::Machine;
use crate::command::Batch;
use crate::raft::{LogId, Membership, Replies, TypeConfig};
use crate::seam::file::{self, File};

type Entry = openraft::Entry<TypeConfig>;

fn failed(verb: ErrorVerb, error: &Error) -> StorageError<u64> {
    StorageIOError::new(ErrorSubject::StateMachine, verb, openraft::AnyError::new(error)).into()
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError<u64>> {
        let core = self.core();
        Ok((core.applied, core.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        enum Change {
            Nothing,
            Commands(Batch),
            Members(openraft::Membership<u64, openraft::BasicNode>),
        }
        let mut changes = Vec::new();
        for entry in entries {
            let change = match entry.payload {
                EntryPayload::Blank => Change::Nothing,
                EntryPayload::Membership(members) => Change::Members(members),
                EntryPayload::Normal(payload) => match Batch::decode(&payload.0) {
                    Ok(batch) => Change::Commands(batch),
                    Err(error) => {
                        let detail = format!("log entry {}: {error}", entry.log_id);
                        return Err(failed(ErrorVerb::Read, &Error::damaged(&self.0.dir, detail)));
                    }
                },
            };
            changes.push((entry.log_id, change));
        }
        let mut replies = Vec::with_capacity(changes.len());
        let full = {
            let mut core = self.core();
            for (id, change) in changes {
                replies.push(match change {
                    Change::Nothing => Replies::default(),
                    Change::Commands(batch) => Replies(core.state.apply_batch(batch)),
                    Change::Members(members) => {
                        core.membership = Membership::new(Some(id), members);
                        core.state.touch_globals();
                        Replies::default()
                    }
                });
                core.applied = Some(id);
            }
            self.0.applied.send_replace(core.applied);
            core.state.changes().weight() >= self.0.options.checkpoint_bytes
        };
        self.0.changed.notify_one();
        if full {
            self.0.full.notify_one();
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<File>, StorageError<u64>> {
        let path = self.0.keeper.lock().await.snapshots.temporary();
        let file = file::create_new(&path).await;
        match file {
            Ok(file) => {
                *self.0.receiving.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(path);
                Ok(Box::new(file))
            }
            Err(e) => Err(failed(ErrorVerb::Write, &Error::io("create", &path)(e))),
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta<u64, openraft::BasicNode>,
        mut snapshot: Box<File>,
    ) -> Result<(), StorageError<u64>> {
        use tokio::io::AsyncWriteExt;
        let path = self.0.receiving.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let path = path.unwrap_or_else(|| PathBuf::from("a snapshot that was never begun"));
        snapshot.flush().await.map_err(|e| failed(ErrorVerb::Write, &Error::io("write", &path)(e)))?;
        drop(snapshot);
        self.install(path).await.map_err(|e| failed(ErrorVerb::Write, &e))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        let newest = self.0.keeper.lock().await.snapshots.newest();
        let Some(path) = newest.map_err(|e| failed(ErrorVerb::Read, &e))? else { return Ok(None) };
        let header = snapshot::header(&path).map_err(|e| failed(ErrorVerb::Read, &e))?;
        opened(&path, header).await.map(Some)
    }
}

async fn opened(path: &std::path::Path, header: snapshot::Header) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
    let file = file::open(path).await.map_err(|e| failed(ErrorVerb::Read, &Error::io("open", path)(e)))?;
    Ok(Snapshot { meta: header.meta, snapshot: Box::new(file) })
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        let (path, header) = self.write_snapshot().await.map_err(|e| failed(ErrorVerb::Write, &e))?;
        opened(&path, header).await
    }
}
