//! The machine, as openraft sees it.

use std::path::PathBuf;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageError,
    StorageIOError,
};

use super::super::{snapshot, Error};
use super::Machine;
use crate::command::{Batch, DecodeError};
use crate::raft::{LogId, Membership, Replies, TypeConfig};
use crate::seam::bug::{self, Bug};
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
                    Err(error) => return Err(failed(ErrorVerb::Read, &self.undecoded(&entry.log_id, error))),
                },
            };
            changes.push((entry.log_id, change));
        }
        let mut replies = Vec::with_capacity(changes.len());
        self.may_apply().await;
        let full = {
            let mut core = self.core();
            let mut checks = false;
            for (id, change) in changes {
                if Some(id) <= core.applied {
                    // A snapshot that was put in the place of a state in doubt has it.
                    replies.push(Replies::default());
                    continue;
                }
                replies.push(match change {
                    Change::Nothing => Replies::default(),
                    Change::Commands(mut batch) => {
                        if bug::strikes(Bug::ApplyDiffers) {
                            batch.now = batch.now.plus_ms(1);
                        }
                        Replies(core.state.apply_batch(batch))
                    }
                    Change::Members(members) => {
                        core.membership = Membership::new(Some(id), members);
                        core.state.touch_globals();
                        Replies::default()
                    }
                });
                core.applied = Some(id);
                if core.state.take_check() {
                    core.check();
                    checks = true;
                }
            }
            self.0.applied.send_replace(core.applied);
            checks || core.state.changes().weight() >= self.0.options.checkpoint_bytes
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

impl Machine {
    /// An entry of another version is not damaged, and whoever reads the log should not look for a broken disk.
    fn undecoded(&self, id: &LogId, error: DecodeError) -> Error {
        let entry = format!("log entry {id}");
        match error {
            DecodeError::Newer(_) => {
                let detail = format!("{error}; update this node to the version of the others");
                Error::Version { path: self.0.dir.clone(), entry, detail }
            }
            DecodeError::Older(_) => Error::Version { path: self.0.dir.clone(), entry, detail: error.to_string() },
            _ => Error::damaged(&self.0.dir, format!("{entry}: {error}")),
        }
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

#[cfg(test)]
mod tests {
    use super::super::{LogEnds, Options};
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::command::BATCH_FORMAT;
    use crate::raft::Payload;

    #[tokio::test]
    async fn an_entry_of_a_newer_version_is_not_called_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            cache_bytes: 16 << 20,
            checkpoint_interval: std::time::Duration::from_secs(1),
            checkpoint_bytes: 1 << 20,
            unsaved_bytes_max: 1 << 20,
        };
        let mut machine = Machine::open(dir.path(), options, Clock::system(), LogEnds::default()).unwrap();
        let mut applied = async |format: u8| {
            let mut bytes = Batch { now: Timestamp(1), commands: Vec::new() }.encode().unwrap();
            bytes[0] = format;
            let log_id = openraft::LogId::new(openraft::CommittedLeaderId::new(1, 1), 1);
            let entry = Entry { log_id, payload: EntryPayload::Normal(Payload(bytes.into())) };
            machine.apply([entry]).await.map_err(|error| error.to_string())
        };
        let newer = applied(BATCH_FORMAT + 1).await.unwrap_err();
        assert!(newer.contains("written by a newer version") && newer.contains("update this node"), "{newer}");
        assert!(!newer.contains("damaged"), "{newer}");
        let older = applied(BATCH_FORMAT - 1).await.unwrap_err();
        assert!(older.contains("written by an older version") && !older.contains("damaged"), "{older}");
        assert!(applied(BATCH_FORMAT).await.is_ok());
    }
}
