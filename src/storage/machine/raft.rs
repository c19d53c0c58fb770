//! The machine, as openraft sees it.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageError,
    StorageIOError,
};

use super::super::kept::Kept;
use super::super::Error;
use super::{Held, Machine};
use crate::clock::monotonic;
use crate::command::{Batch, Command, DecodeError};
use crate::raft::{LogId, Membership, Replies, TypeConfig};
use crate::schedule::ZoneData;
use crate::seam;
use crate::seam::bug::{self, Bug};

type Entry = openraft::Entry<TypeConfig>;

/// Entries wait at most this long for a checkpoint, each time that some are applied. Those that the log has must be applied
/// however the store is: this node may have to lead. So before more are taken into the log they wait as long, and are
/// refused then: openraft keeps in memory what waits to be applied.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);

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
        self.some_room().await;
        let mut replies = Vec::with_capacity(changes.len());
        seam::applying(&self.0.dir).await;
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
                        if bug::is_planted(Bug::RepeatsAsNew) {
                            batch.names.clear();
                        }
                        if bug::is_planted(Bug::OwnZones) {
                            batch
                                .commands
                                .iter_mut()
                                .for_each(|command| by_own_zones(command, &self.0.options.zone_data));
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
                core.leaders.take(id);
                // The cut of a check is written before what comes after it, which may be what makes room.
                if core.state.take_check() && self.no_room().is_none() {
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

    /// Not used: pieces come to [`Machine::receive`].
    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Held>, StorageError<u64>> {
        Ok(Box::new(Held::Nothing))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, openraft::BasicNode>,
        snapshot: Box<Held>,
    ) -> Result<(), StorageError<u64>> {
        let installed = match *snapshot {
            Held::Ready(prepared) => self.install(*prepared).await,
            Held::Unverified(unverified) => self.install_unverified(unverified, meta).await,
            _ => Err(Error::damaged(&self.0.dir, "openraft gave what is no snapshot of another node to be installed")),
        };
        installed.map_err(|e| failed(ErrorVerb::Write, &e))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        Ok(self.newest_snapshot().map(told))
    }
}

/// A planted bug: the rules are those of this program.
fn by_own_zones(command: &mut Command, own: &ZoneData) {
    let (Command::AddZones { rules } | Command::TakeOverZones { rules, .. }) = command else { return };
    for rules in rules {
        if let Some(own) = own.rules(&rules.name) {
            rules.tzif = own.tzif;
        }
    }
}

/// A snapshot of this node, of which openraft knows from now on.
fn told(kept: Arc<Kept>) -> Snapshot<TypeConfig> {
    kept.is_news();
    Snapshot { meta: kept.meta().clone(), snapshot: Box::new(Held::File(kept)) }
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

    /// Whether twice as much has changed as new writes would wait for. No checkpoint is made until a snapshot that waits
    /// behind the entries is installed, so that they must be applied then.
    pub fn is_behind(&self) -> bool {
        let max = self.0.options.unsaved_bytes_max.saturating_mul(2);
        self.unsaved_bytes() > max && self.0.installing.load(Ordering::Relaxed) == 0
    }

    /// Waits a little while entries of so many bytes must not be taken into the log: while [`Machine::is_behind`], and while
    /// nothing may be applied and as much as may be unsaved was taken since. Whether they may be taken by then.
    pub async fn takes(&self, bytes: u64) -> bool {
        if !self.some_room().await {
            return false;
        }
        // A message that is sent again counts again: it is a bound, and no measure.
        let is_enough = self.0.held_bytes.load(Ordering::Relaxed) >= self.0.options.unsaved_bytes_max as u64;
        if is_enough && tokio::time::timeout(ROOM_WAIT_MAX, self.may_apply()).await.is_err() {
            return false;
        }
        if self.is_held() {
            self.0.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        true
    }

    /// Waits a little while [`Machine::is_behind`]; whether it is not any more. Only the leader has new writes wait; what a
    /// follower is sent comes however slow its store is.
    pub async fn some_room(&self) -> bool {
        let until = monotonic() + ROOM_WAIT_MAX;
        while self.is_behind() {
            let notified = self.0.room.notified();
            self.0.full.notify_one();
            if !self.is_behind() {
                break;
            }
            if tokio::time::timeout_at(until, notified).await.is_err() {
                return false;
            }
        }
        true
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    /// Tells openraft of a snapshot that was written. It asks by itself only at its start, where there is none and the
    /// log is purged: then one is written. It takes an error for the end of the node.
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        if let Some(news) = self.newest_snapshot().filter(|kept| kept.is_news()) {
            return Ok(told(news));
        }
        match self.write_snapshot().await {
            Ok(kept) => Ok(told(kept)),
            Err(error) => {
                tracing::error!(%error, "a snapshot could not be written; it is tried again later");
                Ok(told(self.put_missing()))
            }
        }
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
            zone_data: crate::schedule::ZoneData::bundled(),
        };
        let mut machine = Machine::open(dir.path(), options, Clock::system(), LogEnds::default()).unwrap();
        let mut applied = async |format: u8| {
            let mut bytes = Batch::of(Timestamp(1), Vec::new()).encode().unwrap();
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
