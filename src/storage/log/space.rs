//! Room on disk, made ahead of need by a thread of its own.
//!
//! Segments are filled with zeros and synced before records go in, so that an append changes no file size and its
//! fdatasync commits no metadata; and a full disk shows here, before an append is half done. The first segment grows in
//! steps, so that a new node starts at once and takes little disk; every later one is filled whole, as `next.tmp`, while
//! its predecessor is in use. The thread also removes purged segments: unlinking is slow on some file systems.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::appender::CONTROL_ROOM;
use super::error::Error;
use super::segment::{FIRST_RECORD, SPARE};
use crate::storage::fsutil;

const SLICE: u64 = 1 << 20;
const STEPS: [u64; 3] = [1 << 20, 4 << 20, 16 << 20];
/// How often a disk without room is tried again. That is the probe which tells that there is room again, also while
/// nobody appends.
const RETRY: Duration = Duration::from_secs(1);

/// A file being filled: bytes up to `filled` are zeros (or records) on disk.
#[derive(Clone, Debug)]
pub(super) struct Filled {
    /// The writer's and the readers' handle.
    pub file: Arc<File>,
    /// This thread's own. The kernel reports a failed write-back once to each open file: on a shared one this thread's
    /// sync could swallow an error that the writer's sync must see.
    filler: Arc<File>,
    pub path: PathBuf,
    pub filled: u64,
}

impl Filled {
    /// Opens a file of which the first `filled` bytes count.
    pub(super) fn open(path: PathBuf, filled: u64) -> std::io::Result<Filled> {
        let open = || OpenOptions::new().read(true).write(true).open(&path).map(Arc::new);
        Ok(Filled { file: open()?, filler: open()?, path, filled })
    }
}

#[derive(Debug, Default)]
struct State {
    active: Option<Filled>,
    tail: u64,
    need: u64,
    spare: Option<Filled>,
    spare_need: u64,
    /// Why the last attempt to make room failed; none as soon as one succeeds.
    full: Option<Error>,
    /// Attempts that failed.
    failures: u64,
    /// Why no room is made ahead of need: what is left of the disk is for others.
    held: Option<String>,
    /// Room is to be made now although the last attempt failed.
    try_now: bool,
    fault: Option<Error>,
    unlink: Vec<PathBuf>,
    disk_bytes: u64,
    closing: bool,
}

/// Shared by the writer and the thread that makes room.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    /// Open all the time: a process without descriptors must still be able to sync it.
    dir_file: File,
    segment_bytes: u64,
    limit_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

enum Job {
    Unlink(Vec<PathBuf>),
    Spare,
    Grow(Filled, u64),
}

impl Space {
    pub(super) fn new(dir: &Path, segment_bytes: u64, limit_bytes: u64, disk_bytes: u64) -> Result<Arc<Space>, Error> {
        let state = Mutex::new(State { disk_bytes, ..State::default() });
        let dir_file = File::open(dir).map_err(Error::io(dir, "open"))?;
        let (dir, changed) = (dir.to_owned(), Condvar::new());
        Ok(Arc::new(Space { dir, dir_file, segment_bytes, limit_bytes, state, changed }))
    }

    /// Makes what happened to the names in the log's directory durable.
    pub(super) fn sync_dir(&self) -> Result<(), Error> {
        self.dir_file.sync_all().map_err(Error::io(&self.dir, "sync"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares the segment that is written to.
    pub(super) fn set_active(&self, active: Filled, tail: u64) {
        let mut s = self.lock();
        s.active = Some(active);
        s.tail = tail;
        self.changed.notify_all();
    }

    /// Notes that records reach up to `tail`.
    pub(super) fn advance(&self, tail: u64) {
        let mut s = self.lock();
        s.tail = tail;
        if self.job(&s).is_some() {
            self.changed.notify_all();
        }
    }

    /// Waits until the active segment has zeros up to `end`.
    ///
    /// # Errors
    /// `Full` if a fresh attempt to grow the file found no space; another if the disk failed.
    pub(super) fn ensure(&self, end: u64) -> Result<(), Error> {
        self.wait(|s| s.need = end, |s| s.active.as_ref().filter(|a| a.filled >= end).map(|_| ()))
    }

    /// Takes the spare segment once it has zeros up to `end`. It becomes the active one when the caller says so.
    ///
    /// # Errors
    /// As [`Space::ensure`].
    pub(super) fn take_spare(&self, end: u64) -> Result<Filled, Error> {
        // It stays in place, so that a caller who fails before the rename loses nothing.
        self.wait(|s| s.spare_need = end, |s| s.spare.clone().filter(|f| f.filled >= end))
    }

    /// The spare was renamed to `path` and is the active segment now.
    pub(super) fn spare_is_active(&self, path: PathBuf, tail: u64) {
        let mut s = self.lock();
        s.active = s.spare.take().map(|f| Filled { path, ..f });
        s.tail = tail;
        s.spare_need = 0;
        s.need = 0;
        self.changed.notify_all();
    }

    fn wait<T>(&self, ask: impl FnOnce(&mut State), ready: impl Fn(&State) -> Option<T>) -> Result<T, Error> {
        let mut s = self.lock();
        if let (None, Some(done)) = (&s.fault, ready(&s)) {
            return Ok(done);
        }
        ask(&mut s);
        s.try_now = true;
        let failed_before = s.failures;
        self.changed.notify_all();
        loop {
            if let Some(e) = s.fault.clone() {
                return Err(e);
            }
            if let Some(done) = ready(&s) {
                return Ok(done);
            }
            if let Some(e) = s.full.clone().filter(|_| s.failures > failed_before) {
                // It is tried again and again, up to a segment of the usual size: when that succeeds there is room.
                s.need = s.need.min(self.segment_bytes);
                s.spare_need = s.spare_need.min(self.segment_bytes);
                return Err(e);
            }
            if s.closing {
                return Err(Error::Closed);
            }
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A failure of the thread that the writer must stop for.
    pub(super) fn fault(&self) -> Option<Error> {
        self.lock().fault.clone()
    }

    /// Hands over files to remove; they are out of use already.
    pub(super) fn unlink(&self, files: Vec<PathBuf>) {
        self.lock().unlink.extend(files);
        self.changed.notify_all();
    }

    /// Bytes on disk, bytes that can be appended without asking for more, and why there is no more.
    pub(super) fn usage(&self) -> (u64, u64, Option<Error>) {
        let s = self.lock();
        let active = s.active.as_ref().map_or(0, |a| a.filled.saturating_sub(s.tail));
        let spare = s.spare.as_ref().map_or(0, |a| a.filled);
        (s.disk_bytes, active + spare, s.full.clone())
    }

    /// Whether so many bytes of records can be appended for sure. While the disk has room it makes more ahead of need;
    /// afterwards there is what was made before.
    pub(super) fn takes(&self, bytes: u64) -> bool {
        let s = self.lock();
        let active = s.active.as_ref().map_or(0, |a| a.filled.saturating_sub(s.tail));
        let spare = s.spare.as_ref().map_or(0, |a| a.filled.saturating_sub(FIRST_RECORD));
        (s.full.is_none() && s.held.is_none()) || active.max(spare) >= bytes.saturating_add(CONTROL_ROOM)
    }

    /// Makes no more room ahead of need, for this reason, until it is called with none. Who asks before each append
    /// ([`Space::takes`]) then appends what there is room for, and an append that is on its way finds its room as before.
    pub(super) fn hold(&self, reason: Option<String>) {
        let mut s = self.lock();
        if s.held != reason {
            s.held = reason;
            self.changed.notify_all();
        }
    }

    /// Why nothing is made ahead of need, if so.
    pub(super) fn held(&self) -> Option<String> {
        self.lock().held.clone()
    }

    /// Lets the thread end, after the removals that are waiting.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_all();
    }

    fn job(&self, s: &State) -> Option<Job> {
        if !s.unlink.is_empty() {
            return Some(Job::Unlink(s.unlink.clone()));
        }
        if (s.full.is_some() && !s.try_now) || s.fault.is_some() || s.closing {
            return None;
        }
        let active = s.active.as_ref();
        if let Some(a) = active {
            let step = STEPS.into_iter().find(|step| s.tail <= step / 2).unwrap_or(u64::MAX);
            let ahead = if s.held.is_some() { 0 } else { step.min(self.segment_bytes) };
            let target = ahead.max(s.need);
            if a.filled < target {
                return Some(Job::Grow(a.clone(), target));
            }
        }
        let ahead = s.held.is_none()
            && active.is_some_and(|a| a.filled >= self.segment_bytes && s.tail >= self.segment_bytes / 4);
        let target = s.spare_need.max(if ahead { self.segment_bytes } else { 0 });
        match &s.spare {
            None if target > 0 => Some(Job::Spare),
            Some(f) if f.filled < target => Some(Job::Grow(f.clone(), target)),
            _ => None,
        }
    }

    /// The thread's body.
    pub(super) fn run(&self) {
        let _guard = PanicGuard(self);
        loop {
            let job = {
                let mut s = self.lock();
                loop {
                    if let Some(job) = self.job(&s) {
                        s.try_now = false;
                        break job;
                    }
                    if s.closing {
                        return;
                    }
                    if std::mem::take(&mut s.try_now) {
                        // No more room is needed than there is.
                        s.full = None;
                    } else if s.full.is_some() {
                        let (next, timeout) =
                            self.changed.wait_timeout(s, RETRY).unwrap_or_else(PoisonError::into_inner);
                        s = next;
                        s.try_now |= timeout.timed_out();
                    } else {
                        s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            let result = match job {
                Job::Unlink(files) => self.remove(&files),
                Job::Spare => self.create_spare(),
                Job::Grow(file, target) => self.grow(&file, target),
            };
            if let Err(e) = result {
                let mut s = self.lock();
                if e.is_full() {
                    if s.full.is_none() {
                        tracing::error!(error = %e, "the Raft log has no room ahead, and tries again");
                    }
                    s.full = Some(e);
                    s.failures += 1;
                } else {
                    s.fault = Some(e);
                }
                self.changed.notify_all();
            }
        }
    }

    fn remove(&self, files: &[PathBuf]) -> Result<(), Error> {
        let mut freed = 0;
        for path in files {
            let len = std::fs::metadata(path).map_or(0, |m| m.len());
            match std::fs::remove_file(path) {
                // It is out of use, and the next start removes it.
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "an old segment of the Raft log cannot be removed");
                }
                _ => freed += len,
            }
        }
        self.sync_dir()?;
        let mut s = self.lock();
        s.unlink.retain(|p| !files.contains(p));
        s.disk_bytes = s.disk_bytes.saturating_sub(freed);
        s.try_now = true;
        Ok(())
    }

    fn create_spare(&self) -> Result<(), Error> {
        let path = self.dir.join(SPARE);
        File::create(&path).map_err(|e| full_or_io(&path, "create", e))?;
        let spare = Filled::open(path.clone(), 0).map_err(|e| full_or_io(&path, "open", e))?;
        self.made_room(|s| s.spare = Some(spare));
        Ok(())
    }

    /// An attempt has succeeded.
    fn made_room(&self, note: impl FnOnce(&mut State)) {
        let mut s = self.lock();
        note(&mut s);
        s.full = None;
        self.changed.notify_all();
    }

    /// One slice of zeros, synced.
    fn grow(&self, f: &Filled, target: u64) -> Result<(), Error> {
        let to = target.min(f.filled + SLICE);
        if self.lock().disk_bytes + (to - f.filled) > self.limit_bytes {
            let detail = format!("the log may take {} bytes", self.limit_bytes);
            return Err(Error::Full { path: f.path.clone(), detail });
        }
        fsutil::write_zeros(&f.filler, f.filled, to).map_err(|e| full_or_io(&f.path, "fill", e))?;
        f.filler.sync_data().map_err(Error::io(&f.path, "sync"))?;
        self.made_room(|s| {
            s.disk_bytes += to - f.filled;
            for x in [&mut s.active, &mut s.spare].into_iter().flatten().filter(|x| Arc::ptr_eq(&x.file, &f.file)) {
                x.filled = to;
            }
        });
        Ok(())
    }
}

/// Keeps the writer from waiting for a thread that is gone.
struct PanicGuard<'a>(&'a Space);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().fault = Some(Error::WriterDied);
            self.0.changed.notify_all();
        }
    }
}

/// Tells what may pass, and can be tried again (no space, no inode, a quota, no descriptor, no memory), from what
/// cannot.
pub(super) fn full_or_io(path: &Path, action: &'static str, e: std::io::Error) -> Error {
    use rustix::io::Errno;
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
    if fsutil::is_full(&e) || e.raw_os_error().is_some_and(|code| passing.contains(&code)) {
        return Error::Full { path: path.to_owned(), detail: e.to_string() };
    }
    Error::io(path, action)(e)
}
