//! What the handles and the writer share: the index, the cache of the newest entries, and the queue.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use openraft::storage::LogFlushed;
use openraft::{Entry, LogId, RaftTypeConfig, Vote};
use tokio::sync::{oneshot, Notify};

use super::appender::Segment;
use super::error::Error;
use super::index::{Index, Slot};
use super::record::framed_len;
use super::status::Gauges;

pub(super) type Reply = oneshot::Sender<Result<(), Error>>;

/// An entry on its way to the disk.
pub(super) struct Encoded {
    pub id: LogId<u64>,
    pub payload: Vec<u8>,
}

impl Encoded {
    pub(super) fn framed_len(&self) -> u64 {
        framed_len(self.payload.len()) as u64
    }
}

/// What the writer is asked to do, in this order.
pub(super) enum Op<C: RaftTypeConfig> {
    Append(Vec<Encoded>, LogFlushed<C>),
    Truncate(LogId<u64>, Reply),
    Purge(LogId<u64>, Reply),
    Vote(Vote<u64>, Reply),
    Start(u64, Reply),
}

impl<C: RaftTypeConfig> Op<C> {
    pub(super) fn fail(self, error: &Error) {
        match self {
            Op::Append(_, done) => done.log_io_completed(Err(io::Error::other(error.clone()))),
            // Nobody may be waiting any more.
            Op::Truncate(_, reply) | Op::Purge(_, reply) | Op::Vote(_, reply) | Op::Start(_, reply) => {
                drop(reply.send(Err(error.clone())));
            }
        }
    }
}

/// The newest entries, decoded: those not yet written, and as many before them as the bound allows.
pub(super) struct Cache<C: RaftTypeConfig> {
    entries: VecDeque<(Entry<C>, u32)>,
    bytes: u64,
    max_bytes: u64,
}

impl<C: RaftTypeConfig> Cache<C> {
    fn pop_front(&mut self) {
        if let Some((_, len)) = self.entries.pop_front() {
            self.bytes -= u64::from(len);
        }
    }

    fn pop_back(&mut self) {
        if let Some((_, len)) = self.entries.pop_back() {
            self.bytes -= u64::from(len);
        }
    }
}

/// What the writer takes from the queue, and the last entry that is known as committed by then.
pub(super) type Taken<C> = (VecDeque<Op<C>>, Option<u64>);

pub(super) struct State<C: RaftTypeConfig> {
    pub index: Index,
    pub segments: Vec<Segment>,
    pub vote: Option<Vote<u64>>,
    pub committed: Option<LogId<u64>>,
    pub stopped: Option<Error>,
    pub closing: bool,
    cache: Cache<C>,
    queue: VecDeque<Op<C>>,
    queued_bytes: u64,
}

pub(super) struct Shared<C: RaftTypeConfig> {
    state: Mutex<State<C>>,
    work: Condvar,
    /// As `work`, for a writer that is a task.
    #[cfg(feature = "sim")]
    pub queued: Notify,
    /// Told when the queue was taken.
    room: Notify,
    pub gauges: Arc<Gauges>,
}

impl<C: RaftTypeConfig> State<C> {
    pub(super) fn new(index: Index, segments: Vec<Segment>, cache_bytes: u64) -> Self {
        State {
            index,
            segments,
            vote: None,
            committed: None,
            stopped: None,
            closing: false,
            cache: Cache { entries: VecDeque::new(), bytes: 0, max_bytes: cache_bytes },
            queue: VecDeque::new(),
            queued_bytes: 0,
        }
    }

    /// Index of the first cached entry; the cache reaches to the end of the log.
    pub(super) fn cache_first(&self) -> u64 {
        self.index.end() - self.cache.entries.len() as u64
    }

    pub(super) fn cached(&self, from: u64, to: u64) -> impl Iterator<Item = &Entry<C>> {
        let first = self.cache_first();
        let range = (from - first) as usize..(to - first) as usize;
        self.cache.entries.range(range).map(|(entry, _)| entry)
    }

    /// Whether calls are still taken.
    pub(super) fn check(&self) -> Result<(), Error> {
        match &self.stopped {
            Some(e) => Err(Error::Stopped(Box::new(e.clone()))),
            None if self.closing => Err(Error::Closed),
            None => Ok(()),
        }
    }

    pub(super) fn out_of_order(&self, what: &'static str, at: LogId<u64>) -> Error {
        Error::OutOfOrder { what, at, last: self.index.last(), purged: self.index.purged() }
    }

    /// Notes where entries were written, and lets the cache shrink to its bound.
    pub(super) fn place(&mut self, slots: &[(u64, Slot)]) {
        for (index, slot) in slots {
            self.index.place(*index, *slot);
        }
        while self.cache.bytes > self.cache.max_bytes {
            match self.index.slot(self.cache_first()) {
                Some(slot) if slot.segment != 0 => self.cache.pop_front(),
                _ => break,
            }
        }
    }

    /// Drops the entries from `since` on, and the appends that were to follow them.
    pub(super) fn truncate(&mut self, since: u64) -> Vec<Op<C>> {
        while self.index.end() > since && !self.cache.entries.is_empty() {
            self.cache.pop_back();
            self.index.truncate(self.index.end() - 1);
        }
        self.index.truncate(since);
        let (appends, others) = self.queue.drain(..).partition(|op| matches!(op, Op::Append(..)));
        self.queue = others;
        self.queued_bytes = 0;
        Vec::from(appends)
    }

    /// Drops the entries up to `upto`.
    pub(super) fn purge(&mut self, upto: LogId<u64>) {
        while !self.cache.entries.is_empty() && self.cache_first() <= upto.index {
            self.cache.pop_front();
        }
        self.index.purge(upto);
    }
}

impl<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> Shared<C> {
    pub(super) fn new(state: State<C>, gauges: Arc<Gauges>) -> Self {
        Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            #[cfg(feature = "sim")]
            queued: Notify::new(),
            room: Notify::new(),
            gauges,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the entries readable and queues them. Waits while the queue is full.
    pub(super) async fn append(
        &self,
        entries: Vec<Entry<C>>,
        encoded: Vec<Encoded>,
        done: LogFlushed<C>,
    ) -> Result<(), Error> {
        let bytes: u64 = encoded.iter().map(Encoded::framed_len).sum();
        let room = self.room.notified();
        tokio::pin!(room);
        loop {
            room.as_mut().enable();
            {
                let mut s = self.lock();
                s.check()?;
                if s.queued_bytes == 0 || s.queued_bytes + bytes <= s.cache.max_bytes {
                    return self.push_append(&mut s, entries, encoded, bytes, done);
                }
            }
            room.as_mut().await;
            room.set(self.room.notified());
        }
    }

    fn push_append(
        &self,
        s: &mut State<C>,
        mut entries: Vec<Entry<C>>,
        mut encoded: Vec<Encoded>,
        bytes: u64,
        done: LogFlushed<C>,
    ) -> Result<(), Error> {
        // What is purged is in a snapshot; openraft's suite appends such entries, and expects nothing of them.
        let purged = s.index.purged();
        let superseded = encoded.iter().take_while(|e| purged.is_some_and(|p| e.id.index <= p.index)).count();
        encoded.drain(..superseded);
        entries.drain(..superseded);
        let mut last = None::<LogId<u64>>;
        for e in &encoded {
            let follows = match last {
                None => s.index.accepts(e.id),
                Some(last) => e.id.index == last.index + 1 && e.id.leader_id.term >= last.leader_id.term,
            };
            if !follows {
                return Err(s.out_of_order("append", e.id));
            }
            last = Some(e.id);
        }
        for (entry, e) in entries.into_iter().zip(&encoded) {
            let len = e.framed_len() as u32;
            s.index.push(e.id, Slot { segment: 0, offset: 0, len });
            s.cache.entries.push_back((entry, len));
            s.cache.bytes += u64::from(len);
        }
        s.queued_bytes += bytes;
        s.queue.push_back(Op::Append(encoded, done));
        self.wake();
        Ok(())
    }

    /// Queues an operation and waits until it is durable.
    pub(super) async fn call(&self, op: impl FnOnce(Reply) -> Op<C>) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        {
            let mut s = self.lock();
            s.check()?;
            s.queue.push_back(op(reply));
            self.wake();
        }
        answer.await.unwrap_or(Err(Error::WriterDied))
    }

    /// All that is queued, for the writer; `None` when the log closes.
    pub(super) fn take(&self) -> Option<Taken<C>> {
        let mut s = self.lock();
        while s.queue.is_empty() {
            if s.closing {
                return None;
            }
            s = self.work.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        Some(self.take_from(s))
    }

    /// All that is queued, if anything is.
    #[cfg(feature = "sim")]
    pub(super) fn try_take(&self) -> Option<Taken<C>> {
        let s = self.lock();
        (!s.queue.is_empty()).then(|| self.take_from(s))
    }

    fn take_from(&self, mut s: MutexGuard<'_, State<C>>) -> Taken<C> {
        s.queued_bytes = 0;
        let taken = std::mem::take(&mut s.queue);
        let committed = s.committed.map(|id| id.index);
        drop(s);
        self.room.notify_waiters();
        (taken, committed)
    }

    /// There is something for the writer.
    fn wake(&self) {
        self.work.notify_one();
        #[cfg(feature = "sim")]
        self.queued.notify_one();
    }

    /// Stops the log for good: everything waiting and everything later fails.
    pub(super) fn stop(&self, error: Error) {
        tracing::error!(%error, "the Raft log stops");
        let mut s = self.lock();
        let queued = std::mem::take(&mut s.queue);
        s.stopped = Some(error.clone());
        drop(s);
        self.room.notify_waiters();
        queued.into_iter().for_each(|op| op.fail(&error));
    }

    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
        self.room.notify_waiters();
    }
}
