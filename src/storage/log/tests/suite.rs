//! openraft's own suite, with the simplest state machine that passes it.

use std::sync::{Arc, Mutex};

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{BasicNode, RaftSnapshotBuilder, SnapshotMeta, StorageError, StoredMembership};

use super::*;

type Membership = StoredMembership<u64, BasicNode>;
type Meta = SnapshotMeta<u64, BasicNode>;

type State = (Option<LogId<u64>>, Membership, Option<Meta>);

#[derive(Clone, Default)]
struct Machine(Arc<Mutex<State>>);

impl RaftSnapshotBuilder<Config> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Config>, StorageError<u64>> {
        let mut s = self.0.lock().unwrap();
        let meta = Meta { last_log_id: s.0, last_membership: s.1.clone(), snapshot_id: format!("{:?}", s.0) };
        s.2 = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: Box::default() })
    }
}

impl RaftStateMachine<Config> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, Membership), StorageError<u64>> {
        let s = self.0.lock().unwrap();
        Ok((s.0, s.1.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Config>> + Send,
        I::IntoIter: Send,
    {
        let mut s = self.0.lock().unwrap();
        let mut replies = Vec::new();
        for e in entries {
            s.0 = Some(e.log_id);
            if let EntryPayload::Membership(m) = e.payload {
                s.1 = Membership::new(Some(e.log_id), m);
            }
            replies.push(());
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &Meta, _: Box<Cursor<Vec<u8>>>) -> Result<(), StorageError<u64>> {
        *self.0.lock().unwrap() = (meta.last_log_id, meta.last_membership.clone(), Some(meta.clone()));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Config>>, StorageError<u64>> {
        let meta = self.0.lock().unwrap().2.clone();
        Ok(meta.map(|meta| Snapshot { meta, snapshot: Box::default() }))
    }
}

struct Builder;

impl StoreBuilder<Config, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        Ok((dir, log, Machine::default()))
    }
}

#[test]
fn openraft_storage_suite() {
    Suite::test_all(Builder).unwrap();
}
