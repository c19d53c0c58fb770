//! The writer's thread: takes all that is queued, and makes of many appends one write and one fdatasync.

use std::collections::VecDeque;
use std::sync::Arc;

use openraft::storage::LogFlushed;
use openraft::{Entry, LogId, RaftTypeConfig};

use super::appender::Appender;
use super::error::Error;
use super::index::Slot;
use super::record::Kind;
use super::space::Space;
use super::state::{Encoded, Op, Reply, Shared, Taken};
use crate::seam::bug::{self, Bug};

/// A write is not made larger than this by gathering; one append may be.
const BATCH_BYTES: u64 = 8 << 20;

pub(super) struct Writer<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> {
    shared: Arc<Shared<C>>,
    space: Arc<Space>,
    appender: Appender,
    /// Taken from the queue, not begun.
    ops: VecDeque<Op<C>>,
    /// Staged: where each entry will lie, and whom to tell.
    slots: Vec<(u64, Slot)>,
    done: Vec<LogFlushed<C>>,
    committed: Option<u64>,
}

impl<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> Writer<C> {
    pub(super) fn new(shared: Arc<Shared<C>>, space: Arc<Space>, appender: Appender) -> Self {
        let (ops, slots, done) = Default::default();
        Writer { shared, space, appender, ops, slots, done, committed: None }
    }

    /// What it shares with the handles.
    #[cfg(feature = "sim")]
    pub(super) fn shared(&self) -> &Arc<Shared<C>> {
        &self.shared
    }

    /// A file of the log.
    #[cfg(feature = "sim")]
    pub(super) fn path(&self) -> Arc<std::path::Path> {
        self.appender.active().path.clone()
    }

    /// The thread's body: until the log is closed, or stopped by an error.
    pub(super) fn run(mut self) {
        while let Some(taken) = self.shared.take() {
            if !self.handle(taken) {
                return;
            }
        }
        self.finish();
    }

    /// Does what was taken from the queue; whether the log goes on.
    pub(super) fn handle(&mut self, (ops, committed): Taken<C>) -> bool {
        self.ops = ops;
        self.committed = committed;
        let result = self.process();
        self.shared.gauges.end();
        if let Err(error) = &result {
            self.fail(error);
        }
        result.is_ok()
    }

    /// The end of a log that is closed.
    pub(super) fn finish(&mut self) {
        // Marks what is durable, so that a loss of the last records shows at the next start.
        let committed = self.shared.lock().committed;
        if let Err(error) = self.appender.save_meta(|m| m.committed = committed) {
            tracing::warn!(%error, "the Raft log could not be closed cleanly");
        }
    }

    fn fail(&mut self, error: &Error) {
        // Stopped first: whoever hears of a failure finds the log stopped.
        self.shared.stop(error.clone());
        for done in self.done.drain(..) {
            done.log_io_completed(Err(std::io::Error::other(error.clone())));
        }
        self.ops.drain(..).for_each(|op| op.fail(error));
    }

    fn process(&mut self) -> Result<(), Error> {
        if let Some(error) = self.space.fault() {
            return Err(error);
        }
        while let Some(op) = self.ops.pop_front() {
            self.shared.gauges.begin();
            if let Op::Append(entries, done) = op {
                self.append(entries, done)?;
                continue;
            }
            self.flush()?;
            let (result, reply) = match op {
                Op::Append(..) => continue,
                Op::Truncate(since, reply) => (self.truncate(since), reply),
                Op::Purge(upto, reply) => (self.purge(upto), reply),
                Op::Start(starts, reply) => (self.appender.save_meta(|m| m.starts = starts), reply),
                Op::Vote(vote, reply) => {
                    let result = match bug::is_planted(Bug::VoteNotSaved) {
                        true => Ok(()),
                        false => self.appender.save_meta(|m| m.vote = Some(vote)),
                    };
                    if result.is_ok() {
                        self.shared.lock().vote = Some(vote);
                    }
                    (result, reply)
                }
            };
            self.answer(result, reply)?;
        }
        self.flush()
    }

    /// Passes a result on; hands back the errors that the log must stop for.
    fn answer(&self, result: Result<(), Error>, reply: Reply) -> Result<(), Error> {
        let fatal = result.clone().err().filter(|e| !matches!(e, Error::Full { .. } | Error::OutOfOrder { .. }));
        if let Some(error) = &fatal {
            self.shared.stop(error.clone());
        }
        self.shared.gauges.end();
        // The caller may have gone away.
        drop(reply.send(result));
        fatal.map_or(Ok(()), Err)
    }

    fn append(&mut self, entries: Vec<Encoded>, done: LogFlushed<C>) -> Result<(), Error> {
        match self.stage(&entries) {
            Ok(()) => self.done.push(done),
            Err(error) if error.is_full() => {
                tracing::error!(%error, "an append is refused");
                // What follows in the queue would leave a hole.
                let since = entries.first().map_or(u64::MAX, |e| e.id.index);
                let refused = self.shared.lock().truncate(since);
                Op::Append(entries, done).fail(&error);
                self.refuse(refused, &error);
            }
            Err(error) => {
                self.shared.stop(error.clone());
                Op::Append(entries, done).fail(&error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Fails the appends that follow in the queue: `queued`, and those already taken from it.
    fn refuse(&mut self, queued: Vec<Op<C>>, error: &Error) {
        let (appends, others): (VecDeque<_>, _) = self.ops.drain(..).partition(|op| matches!(op, Op::Append(..)));
        self.ops = others;
        appends.into_iter().chain(queued).for_each(|op| op.fail(error));
    }

    /// Stages all entries of one append, or leaves none of them (`Full`).
    fn stage(&mut self, entries: &[Encoded]) -> Result<(), Error> {
        let mut rest = entries;
        while let Some(first) = rest.first() {
            // Each part goes into one segment; nearly always there is one part.
            let (mut n, mut bytes) = (1, first.framed_len());
            while n < rest.len() && bytes + rest[n].framed_len() <= self.appender.capacity() {
                bytes += rest[n].framed_len();
                n += 1;
            }
            if !self.appender.fits(bytes) || self.appender.staged() as u64 + bytes > BATCH_BYTES {
                self.flush()?;
            }
            if let Err(error) = self.appender.reserve(bytes, first.id.index) {
                if error.is_full() {
                    self.flush()?;
                    if rest.len() < entries.len() {
                        // Half an append must not stay: without room even for that, the log stops.
                        let voided = self.appender.control(Kind::Truncate, entries[0].id);
                        voided.map_err(|e| Error::Stopped(Box::new(e)))?;
                    }
                }
                return Err(error);
            }
            for e in &rest[..n] {
                let slot = self.appender.stage(Kind::Entry, e.id, &e.payload, self.committed);
                self.slots.push((e.id.index, slot));
            }
            rest = &rest[n..];
        }
        Ok(())
    }

    /// Makes durable what is staged, and says so.
    fn flush(&mut self) -> Result<(), Error> {
        self.appender.flush()?;
        {
            let mut s = self.shared.lock();
            self.publish_segment(&mut s.segments);
            s.place(&self.slots);
        }
        self.slots.clear();
        if !self.done.is_empty() {
            self.shared.gauges.end();
        }
        self.done.drain(..).for_each(|done| done.log_io_completed(Ok(())));
        Ok(())
    }

    fn publish_segment(&self, segments: &mut Vec<super::appender::Segment>) {
        let active = self.appender.active();
        if segments.last().is_none_or(|s| s.id != active.id) {
            segments.push(active.clone());
        }
    }

    fn truncate(&mut self, since: LogId<u64>) -> Result<(), Error> {
        {
            let s = self.shared.lock();
            if since.index >= s.index.end() {
                return Ok(());
            }
            if since.index < s.index.first() {
                return Err(s.out_of_order("truncate", since));
            }
        }
        self.appender.control(Kind::Truncate, since)?;
        let mut s = self.shared.lock();
        let refused = s.truncate(since.index);
        let error = s.out_of_order("append", since);
        drop(s);
        self.refuse(refused, &error);
        Ok(())
    }

    fn purge(&mut self, upto: LogId<u64>) -> Result<(), Error> {
        let (last, committed) = {
            let s = self.shared.lock();
            if s.index.purged().is_some_and(|p| p.index >= upto.index) {
                return Ok(());
            }
            (s.index.last(), s.committed)
        };
        // A snapshot of a later leader voids older entries behind it too: openraft's clean-up at start counts on it.
        let reset = last.is_none_or(|last| last.index < upto.index || last < upto);
        if reset {
            // The log goes on after a gap: reading it back must know.
            self.appender.control(Kind::Reset, upto)?;
        }
        let active = self.appender.active().id;
        let oldest = {
            let s = self.shared.lock();
            let next = s.index.slot(upto.index + 1).filter(|slot| slot.segment != 0 && !reset);
            next.map_or(active, |slot| slot.segment)
        };
        // From here on the older segments are garbage, whenever they go.
        self.appender.save_meta(|m| {
            m.purged = Some(upto);
            m.first_segment = oldest;
            m.committed = committed;
        })?;
        let mut refused = Vec::new();
        let mut s = self.shared.lock();
        self.publish_segment(&mut s.segments);
        if reset {
            let first = s.index.first();
            refused = s.truncate(first);
        }
        s.purge(upto);
        let keep = s.segments.partition_point(|segment| segment.id < oldest);
        let garbage: Vec<_> = s.segments.drain(..keep).map(|segment| segment.path.to_path_buf()).collect();
        let error = s.out_of_order("append", upto);
        drop(s);
        if reset {
            self.refuse(refused, &error);
        }
        if !garbage.is_empty() {
            self.space.unlink(garbage);
        }
        Ok(())
    }
}

impl<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> Drop for Writer<C> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fail(&Error::WriterDied);
        }
    }
}
