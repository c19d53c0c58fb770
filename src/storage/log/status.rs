//! How the log is doing: atomics that the node's health monitor and metrics read at any time, also while a disk hangs.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::monotonic;

/// A snapshot of the log's health.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Bytes that the log's segments take on disk, zeros filled ahead included.
    pub disk_bytes: u64,
    /// Bytes of the entries that are not purged.
    pub live_bytes: u64,
    /// Bytes that can be appended before more disk space is needed.
    pub room_bytes: u64,
    /// Why there is no more room ahead, if the last attempt to make some found the disk full. Appends go on until
    /// `room_bytes` is used up: the time to step aside is now.
    pub full: Option<String>,
    /// How long the last fdatasync took.
    pub last_sync: Duration,
    /// The longest that a write with its sync has taken since the log was opened.
    pub max_write: Duration,
    /// For how long the write that is under way has been so.
    pub in_flight: Option<Duration>,
    /// Writes, each with one fdatasync.
    pub writes_total: u64,
    /// Bytes of records written.
    pub appended_bytes_total: u64,
    /// Why the log stopped, if it did: the node must stop too.
    pub stopped: Option<String>,
}

/// The counters behind [`Status`]. Times are microseconds since `epoch`.
#[derive(Debug)]
pub(super) struct Gauges {
    epoch: Instant,
    /// 0: idle.
    started: AtomicU64,
    last_sync: AtomicU64,
    max_write: AtomicU64,
    writes: AtomicU64,
    appended: AtomicU64,
    /// Makes the next sync fail.
    #[cfg(test)]
    pub fail_sync: std::sync::atomic::AtomicBool,
}

impl Gauges {
    pub(super) fn new() -> Gauges {
        Gauges {
            epoch: monotonic(),
            started: AtomicU64::new(0),
            last_sync: AtomicU64::new(0),
            max_write: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            appended: AtomicU64::new(0),
            #[cfg(test)]
            fail_sync: Default::default(),
        }
    }

    fn now(&self) -> u64 {
        // Never 0, which says idle.
        1 + monotonic().saturating_duration_since(self.epoch).as_micros() as u64
    }

    /// The writer takes up work, if it had none. Only the writer calls this.
    pub(super) fn begin(&self) {
        if self.started.load(Relaxed) == 0 {
            self.started.store(self.now(), Relaxed);
        }
    }

    /// The work is done, and about to be reported.
    pub(super) fn end(&self) {
        let started = self.started.swap(0, Relaxed);
        if started != 0 {
            self.max_write.fetch_max(self.now().saturating_sub(started), Relaxed);
        }
    }

    pub(super) fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        #[cfg(test)]
        if self.fail_sync.load(Relaxed) {
            return Err(io::Error::other("made to fail"));
        }
        let from = self.now();
        let result = sync();
        self.last_sync.store(self.now().saturating_sub(from), Relaxed);
        result
    }

    pub(super) fn wrote(&self, bytes: u64) {
        self.writes.fetch_add(1, Relaxed);
        self.appended.fetch_add(bytes, Relaxed);
    }

    pub(super) fn in_flight(&self) -> Option<Duration> {
        match self.started.load(Relaxed) {
            0 => None,
            started => Some(Duration::from_micros(self.now().saturating_sub(started))),
        }
    }

    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended.load(Relaxed)
    }

    pub(super) fn fill(&self, status: &mut Status) {
        status.last_sync = Duration::from_micros(self.last_sync.load(Relaxed));
        status.max_write = Duration::from_micros(self.max_write.load(Relaxed));
        status.in_flight = self.in_flight();
        status.writes_total = self.writes.load(Relaxed);
        status.appended_bytes_total = self.appended_bytes();
    }
}
