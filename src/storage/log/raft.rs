//! openraft's storage traits on [`RaftLog`].

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::PoisonError;
use std::time::Duration;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, Entry, LogId, LogState, OptionalSend, RaftLogReader, RaftTypeConfig, StorageError, StorageIOError, Vote,
};

use super::error::Error;
use super::state::{Encoded, Op};
use super::{read, RaftLog};
use crate::clock::monotonic;

/// Entries that a peer needs are tried to be read for so long. Another node has them too, and may lead.
const UNREAD_MAX: Duration = Duration::from_secs(10);

fn writing(e: Error) -> StorageError<u64> {
    StorageIOError::write_logs(AnyError::new(&e)).into()
}

fn reading(e: Error) -> StorageError<u64> {
    StorageIOError::read_logs(AnyError::new(&e)).into()
}

impl<C> RaftLogReader<C> for RaftLog<C>
where
    C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>,
    C::D: Clone,
{
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<C>>, StorageError<u64>> {
        let from = match range.start_bound() {
            Bound::Included(x) => *x,
            Bound::Excluded(x) => x.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(x) => x.saturating_add(1),
            Bound::Excluded(x) => *x,
            Bound::Unbounded => u64::MAX,
        };
        read::read(self.shared(), self.salt(), from, to, u64::MAX).await.map_err(reading)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<C>>, StorageError<u64>> {
        let max_bytes = self.options().read_bytes_max;
        let read = read::read(self.shared(), self.salt(), start, end, max_bytes).await;
        let entries = self.for_peer(start, read).map_err(reading)?;
        // Where `start` is purged, later entries would reach a follower with a gap before them. Nothing at all makes
        // openraft send a heartbeat and plan anew.
        Ok(if entries.first().is_some_and(|e| e.log_id.index == start) { entries } else { Vec::new() })
    }
}

impl<C> RaftLogStorage<C> for RaftLog<C>
where
    C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>,
    C::D: Clone,
{
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, StorageError<u64>> {
        let s = self.shared().lock();
        s.check().map_err(reading)?;
        Ok(LogState { last_purged_log_id: s.index.purged(), last_log_id: s.index.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        let result = self.shared().call(|reply| Op::Vote(*vote, reply)).await;
        result.map_err(|e| StorageIOError::write_vote(AnyError::new(&e)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        let s = self.shared().lock();
        s.check().map_err(|e| StorageIOError::read_vote(AnyError::new(&e)))?;
        Ok(s.vote)
    }

    /// Costs nothing: it travels in the header of the next record, and in `meta` when that is written.
    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), StorageError<u64>> {
        let mut s = self.shared().lock();
        s.committed = s.committed.max(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError<u64>> {
        Ok(self.shared().lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<C>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<C>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let encoded = self.encode(&entries).map_err(writing)?;
        self.shared().append(entries, encoded, callback).await.map_err(writing)
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.shared().call(|reply| Op::Truncate(log_id, reply)).await.map_err(writing)
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.shared().call(|reply| Op::Purge(log_id, reply)).await.map_err(writing)
    }
}

impl<C> RaftLog<C>
where
    C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>,
    C::D: Clone,
{
    /// What a read for a peer gives. openraft takes an error for the end of the node; here nothing is sent for a while
    /// where the disk does not read. A record that is not what was written ends the node.
    fn for_peer(&self, start: u64, read: Result<Vec<Entry<C>>, Error>) -> Result<Vec<Entry<C>>, Error> {
        let mut unread = self.0.unread.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = unread.filter(|(from, _)| *from == start);
        match read {
            Err(error @ Error::Io { .. }) => {
                let (_, since) = failing.unwrap_or_else(|| {
                    tracing::error!(%error, "the log cannot be read for a peer; it is tried again");
                    (start, monotonic())
                });
                *unread = Some((start, since));
                if since.elapsed() < UNREAD_MAX {
                    return Ok(Vec::new());
                }
                Err(error)
            }
            other => {
                if failing.is_some() {
                    *unread = None;
                }
                other
            }
        }
    }

    fn encode(&self, entries: &[Entry<C>]) -> Result<Vec<Encoded>, Error> {
        let limit_bytes = self.options().max_record_bytes as usize;
        let encode = |entry: &Entry<C>| {
            let index = entry.log_id.index;
            let payload = postcard::to_stdvec(entry).map_err(|e| Error::Codec { index, detail: e.to_string() })?;
            if payload.len() > limit_bytes {
                return Err(Error::TooLarge { index, bytes: payload.len(), limit_bytes });
            }
            Ok(Encoded { id: entry.log_id, payload })
        };
        entries.iter().map(encode).collect()
    }
}
