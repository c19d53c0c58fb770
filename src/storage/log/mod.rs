//! The durable Raft log: segment files of our own, which every acknowledgement rests on.
//!
//! ```text
//! LOCK                  held while the log is open
//! meta                  vote, purge point, which segments count (two copies)
//! 0000000001.seg …      header sector, records, zeros filled ahead
//! next.tmp              the next segment being filled
//! ```
//!
//! - [`RaftLog`] is a cheap handle: it encodes, puts entries into the index and the cache (`state`), and queues.
//! - One thread (`writer`, over `appender`) turns what is queued into one write and one fdatasync, then tells openraft.
//! - Another (`space`) fills segments with zeros ahead of need and removes old ones.
//! - `recovery` reads everything when the log is opened, and tells a torn tail from damage.
//! - `record`, `segment`, `meta` are the formats; `index` is where each entry lies; `read` reads entries back.
//!
//! A truncation is a record too: what it voids stays void, whatever follows, in whatever order sectors reach the disk,
//! because records only count up to the first hole. Purging writes `meta`, then removes whole segments.
//!
//! A failed write or fsync stops the log for good. A disk without room, or a process without descriptors, does not: the
//! append is refused whole, and the thread that makes room tries again.
//!
//! What is not caught: a disk that loses acknowledged writes at the very end of the log, after a crash, and leaves zeros
//! there. That looks like a write that never happened, and is what replication is for.

mod appender;
mod driver;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod index;
mod meta;
mod raft;
mod read;
mod record;
mod recovery;
mod segment;
mod space;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::{Entry, LogId, RaftTypeConfig, Vote};
use tokio::time::Instant;

use self::appender::Appender;
use self::driver::Driver;
use self::meta::MetaFile;
use self::space::Space;
use self::state::{Op, Shared, State};
use self::status::Gauges;
use self::writer::Writer;
use super::fsutil::{self, DirLock};

pub use self::error::Error;
pub use self::status::Status;

/// How a log is kept. All sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of a segment file: what purging frees at a time, and what is filled ahead.
    /// Default: 64 MiB. Minimum: 8 KiB. Maximum: 1 GiB.
    pub segment_bytes: u64,
    /// Newest entries kept decoded in memory, by their size on disk; also the bound of what may wait to be written.
    /// Default: 64 MiB.
    pub cache_bytes: u64,
    /// The largest encoded entry. A larger one than a segment gets a segment of its size.
    /// Default: 64 MiB. Maximum: 1 GiB.
    pub max_record_bytes: u64,
    /// What one read for replication returns at most, though always one entry. Default: 8 MiB.
    pub read_bytes_max: u64,
    /// The number of the log that must be there, if one is known. Default: none; where there is no log, one is begun.
    pub known: Option<u64>,
    /// What the segments may take on disk; beyond it the log behaves as on a full disk. Default: no limit.
    pub disk_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: 64 << 20,
            cache_bytes: 16 << 20,
            max_record_bytes: 64 << 20,
            read_bytes_max: 8 << 20,
            known: None,
            disk_bytes_max: u64::MAX,
        }
    }
}

/// Whose log it is, and how far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Random, made with the log.
    pub number: u64,
    /// How often a process had begun to act on it when it was opened.
    pub starts: u64,
    /// The last vote.
    pub vote: Option<Vote<u64>>,
    /// The last entry, purged or not.
    pub last: Option<LogId<u64>>,
}

/// What entries may take on disk beside their payload, and what else may be on its way to the disk.
const APPEND_MARGIN: u64 = 64 << 10;

impl Options {
    fn validate(&self) -> Result<(), Error> {
        if !(8 << 10..=1 << 30).contains(&self.segment_bytes) {
            return Err(Error::Options("segment_bytes must be from 8 KiB to 1 GiB"));
        }
        if self.max_record_bytes == 0 || self.max_record_bytes > 1 << 30 {
            return Err(Error::Options("max_record_bytes must be from 1 to 1 GiB"));
        }
        Ok(())
    }
}

/// A handle on an open log. Clones share it; it closes when the last one is dropped, or by [`RaftLog::close`].
pub struct RaftLog<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>>(Arc<Opened<C>>);

impl<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> Clone for RaftLog<C> {
    fn clone(&self) -> Self {
        RaftLog(Arc::clone(&self.0))
    }
}

struct Opened<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> {
    shared: Arc<Shared<C>>,
    space: Arc<Space>,
    options: Options,
    salt: u64,
    starts: u64,
    dir: PathBuf,
    /// The file `meta`, as it was opened.
    meta: fsutil::Anchor,
    running: Mutex<Option<Running<C>>>,
    /// The first entry that a peer needs and that cannot be read, and since when.
    unread: Mutex<Option<(u64, Instant)>>,
}

/// What ends when the log is closed.
struct Running<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> {
    writer: Driver<C>,
    space: SpaceThread,
    _lock: DirLock,
}

/// The thread that makes room; ended when dropped, so that a failed open leaves none behind.
struct SpaceThread(Arc<Space>, Option<JoinHandle<()>>);

impl Drop for SpaceThread {
    fn drop(&mut self) {
        self.0.close();
        if let Some(thread) = self.1.take() {
            // A panic in there was reported as a fault.
            drop(thread.join());
        }
    }
}

impl<C> RaftLog<C>
where
    C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>,
    C::D: Clone,
{
    /// Opens the log in `dir`, or begins one in an empty or missing directory. Reads and checks all of it: blocks.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what is stored is not what was written; no record that was acknowledged is
    /// touched then. [`Error::Io`] if the
    /// directory is in use or the file system fails; [`Error::Full`] if there is no room to begin a log.
    pub fn open(dir: &Path, options: Options) -> Result<RaftLog<C>, Error> {
        options.validate()?;
        fsutil::create_dir_all_durable(dir).map_err(Error::io(dir, "create"))?;
        let lock = DirLock::acquire(dir).map_err(Error::io(dir, "lock"))?;
        let mut files = segment::list(dir)?;
        let meta = MetaFile::open(dir, !files.is_empty(), options.known)?;
        let anchor = meta.anchor()?;
        let first = meta.get().first_segment;
        let garbage = files.iter().filter(|(id, _)| *id < first).map(|(_, path)| path.clone());
        let garbage: Vec<_> = garbage.chain([dir.join(segment::SPARE)]).collect();
        files.retain(|(id, _)| *id >= first);

        let recovered = recovery::recover(&files, dir, meta.get())?;
        for path in garbage {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path, "remove")(e)),
                _ => {}
            }
        }
        fsutil::sync_dir(dir).map_err(Error::io(dir, "sync"))?;

        let disk_bytes = files.iter().filter_map(|(_, path)| path.metadata().ok()).map(|m| m.len()).sum();
        let space = Space::new(dir, options.segment_bytes, options.disk_bytes_max, disk_bytes)?;
        let thread = spawn("raft-log-space", dir, |space: Arc<Space>| space.run(), Arc::clone(&space))?;
        let thread = SpaceThread(Arc::clone(&space), Some(thread));

        let gauges = Arc::new(Gauges::new());
        let mut state = State::new(recovered.index, recovered.segments, options.cache_bytes);
        state.vote = meta.get().vote;
        let by_record = recovered.committed.and_then(|index| state.index.log_id_at(index));
        state.committed = meta.get().committed.max(by_record).filter(|c| Some(*c) <= state.index.last());
        let (salt, starts) = (meta.get().salt, meta.get().starts);
        let appender = Appender::open(
            dir,
            options.segment_bytes,
            Arc::clone(&space),
            Arc::clone(&gauges),
            meta,
            recovered.tail,
            recovered.next_seq,
        )?;
        let shared = Arc::new(Shared::new(state, gauges));
        let writer = Writer::new(Arc::clone(&shared), Arc::clone(&space), appender);
        let writer = Driver::start(writer, dir)?;
        let running = Mutex::new(Some(Running { writer, space: thread, _lock: lock }));
        Ok(RaftLog(Arc::new(Opened {
            shared,
            space,
            options,
            salt,
            starts,
            dir: dir.to_owned(),
            meta: anchor,
            running,
            unread: Mutex::default(),
        })))
    }

    fn shared(&self) -> &Shared<C> {
        &self.0.shared
    }

    fn salt(&self) -> u64 {
        self.0.salt
    }

    /// What the log tells about whose it is, to be held against the node's identity.
    pub fn facts(&self) -> Facts {
        let s = self.shared().lock();
        let last = s.index.last().or(s.index.purged());
        Facts { number: self.0.salt, starts: self.0.starts, vote: s.vote, last }
    }

    /// The log id of the entry at this index, if the log has it.
    pub fn id_at(&self, index: u64) -> Option<LogId<u64>> {
        self.shared().lock().index.log_id_at(index)
    }

    /// Notes durably that a process begins to act on this log, for the `starts`th time.
    ///
    /// # Errors
    /// What the disk refuses.
    pub async fn note_start(&self, starts: u64) -> Result<(), Error> {
        self.shared().call(|reply| Op::Start(starts, reply)).await
    }

    /// Has Raft begin without knowing what is committed: it applies nothing at its start, and waits for nothing. A leader
    /// tells it again.
    pub fn forget_committed(&self) {
        self.shared().lock().committed = None;
    }

    /// What has become of the log's files, where the path of one does not lead to it any more.
    pub fn lost(&self) -> Option<String> {
        if let Some(lost) = self.0.meta.lost() {
            return Some(lost);
        }
        let segments = || self.shared().lock().segments.clone();
        segments().into_iter().find_map(|looked_at| {
            let lost = fsutil::Anchor::of(&looked_at.file, &looked_at.path).ok()?.lost()?;
            // It may have been purged meanwhile, and be removed rightly.
            segments().iter().any(|segment| segment.id == looked_at.id).then_some(lost)
        })
    }

    /// How the log is kept.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Writes what is queued, marks the log as closed cleanly and ends its threads: blocks. Later calls fail.
    pub fn close(&self) {
        self.0.close(true);
    }

    /// How the log is doing. Never waits for the disk.
    pub fn status(&self) -> Status {
        let (disk_bytes, room_bytes, full) = self.0.space.usage();
        let mut status = Status { disk_bytes, room_bytes, full: full.map(|e| e.to_string()), ..Status::default() };
        self.shared().gauges.fill(&mut status);
        let fault = self.0.space.fault();
        let s = self.shared().lock();
        status.live_bytes = s.index.live_bytes();
        status.stopped = s.stopped.clone().or(fault).map(|e| e.to_string());
        status
    }

    /// Whether entries of so many bytes can be appended. Not, where they might find no room: openraft ends where an append
    /// is refused, so that whoever asks first keeps the node alive until there is room again.
    pub fn takes(&self, bytes: u64) -> bool {
        self.0.space.takes(bytes.saturating_add(APPEND_MARGIN))
    }

    /// Why there is no more room ahead of what is appended, if the last attempt to make some failed, or none is made.
    pub fn no_room(&self) -> Option<String> {
        self.0.space.usage().2.map(|e| e.to_string()).or_else(|| self.0.space.held())
    }

    /// Leaves what is free on the disk to others, for this reason, until it is called with none: what there is room for
    /// is still appended.
    pub fn hold(&self, reason: Option<String>) {
        self.0.space.hold(reason);
    }

    /// For how long the write that is under way has been so, if one is. Only atomics: fit for a watchdog.
    pub fn in_flight_since(&self) -> Option<Duration> {
        self.shared().gauges.in_flight()
    }

    /// Bytes that the entries since the last purge take: what a snapshot and a purge would make superfluous.
    pub fn log_bytes_since_purge(&self) -> u64 {
        self.shared().lock().index.live_bytes()
    }

    /// Bytes written to the log since it was opened; only goes up.
    pub fn appended_bytes_total(&self) -> u64 {
        self.shared().gauges.appended_bytes()
    }
}

impl<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> Opened<C> {
    fn close(&self, clean: bool) {
        self.shared.close();
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { writer, space, _lock }) = running {
            writer.end(clean);
            drop(space);
        }
    }
}

impl<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> Drop for Opened<C> {
    fn drop(&mut self) {
        self.close(false);
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    dir: &Path,
    body: impl FnOnce(T) + Send + 'static,
    with: T,
) -> Result<JoinHandle<()>, Error> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || body(with));
    thread.map_err(Error::io(dir, "start a thread for"))
}
