//! The directory of snapshots, and the files in it that are whole.
//!
//! ```text
//!  <uuid>.tmp                     being written or received; removed when that is given up, and at each start
//!  <log index>-<uuid>.snap        whole and durable; the newest counts, and the older ones are removed
//!  <log index>-r<uuid>.snap       the same, received from another node
//!  <log index>-<uuid>.damaged     a snapshot that cannot be read, set aside until the next one is written
//! ```

use std::cmp::Reverse;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use openraft::{BasicNode, SnapshotMeta};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::Notify;

use super::snapshot::{self, Header};
use super::{fsutil, Error};
use crate::raft::LogId;
use crate::seam;
use crate::seam::file::{self, File};

/// What is known of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Nobody has read it since this process runs.
    Unread,
    /// All of it was read, or written, and is as it should be.
    Sound,
    /// It is damaged, or gone.
    Unsound,
}

/// A snapshot that this node has; without a file, the place of one that it should have.
#[derive(Debug)]
pub struct Kept {
    header: Header,
    path: PathBuf,
    bytes: u64,
    trust: Mutex<Trust>,
    /// openraft knows of it.
    told: AtomicBool,
    /// Told when it turns out that another one is needed in its place.
    wanted: Arc<Notify>,
}

impl Kept {
    fn new(header: Header, path: PathBuf, bytes: u64, trust: Trust, wanted: Arc<Notify>) -> Kept {
        Kept { header, path, bytes, trust: Mutex::new(trust), told: AtomicBool::new(false), wanted }
    }

    /// The place of a snapshot that is not there.
    pub(super) fn missing(dir: &Path, wanted: Arc<Notify>) -> Kept {
        let header = Header { meta: SnapshotMeta::default() };
        Kept::new(header, dir.join("snapshots"), 0, Trust::Unsound, wanted)
    }

    /// What it is of.
    pub fn meta(&self) -> &SnapshotMeta<u64, BasicNode> {
        &self.header.meta
    }

    /// The last log entry in it.
    pub fn last(&self) -> Option<LogId> {
        self.header.meta.last_log_id
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another node has written it.
    pub(super) fn is_received(&self) -> bool {
        self.path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains("-r"))
    }

    /// How large it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn trust(&self) -> Trust {
        *self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_trust(&self, trust: Trust) {
        *self.trust.lock().unwrap_or_else(PoisonError::into_inner) = trust;
    }

    /// Whether another one must be written in its place.
    pub fn is_unsound(&self) -> bool {
        self.trust() == Trust::Unsound
    }

    /// Whether this is the first time that openraft hears of it.
    pub(super) fn is_news(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }

    /// Reads all of it, unless that was done before, and compares it with its checksums and its digest.
    ///
    /// # Errors
    /// [`Error::Damaged`], which is said in the log too: another one is written in its place. And what the disk refuses.
    pub async fn verify(self: &Arc<Self>) -> Result<(), Error> {
        match self.trust() {
            Trust::Sound => return Ok(()),
            Trust::Unsound => return Err(Error::damaged(&self.path, "another snapshot takes its place")),
            Trust::Unread => {}
        }
        let path = self.path.clone();
        let read = seam::blocking(move || snapshot::verify(&path).map(drop)).await;
        let read = read.unwrap_or_else(|panic| Err(Error::damaged(&self.path, panic)));
        match &read {
            Ok(()) => self.set_trust(Trust::Sound),
            Err(error) => self.doubt(error),
        }
        read
    }

    /// Reading it gave this error: where the file is at fault, another one is written in its place.
    pub fn doubt(&self, error: &Error) {
        let gone = matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
        let failing = matches!(error, Error::Io { source, .. } if source.raw_os_error() == Some(EIO));
        if (gone || failing || matches!(error, Error::Damaged { .. })) && !self.is_unsound() {
            tracing::error!(%error, "a snapshot of this node cannot be read; another one is written in its place");
            self.set_trust(Trust::Unsound);
            self.wanted.notify_one();
        }
    }

    /// The part that begins at this offset, of so many bytes at most; the last ends where the file does.
    ///
    /// # Errors
    /// What the disk refuses. Where the file is at fault, another one is written in its place.
    pub async fn read(&self, file: &mut File, offset: u64, most: usize) -> Result<Vec<u8>, Error> {
        let read = async {
            file.seek(SeekFrom::Start(offset)).await?;
            let len = self.bytes.saturating_sub(offset).min(most as u64);
            let mut data = vec![0; len as usize];
            file.read_exact(&mut data).await.map(|_| data)
        };
        let read = read.await.map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::damaged(&self.path, "it ends too early"),
            _ => Error::io("read", &self.path)(error),
        });
        read.inspect_err(|error| self.doubt(error))
    }

    /// Opens its file.
    ///
    /// # Errors
    /// What the disk refuses. Where the file is at fault, another one is written in its place.
    pub async fn open(&self) -> Result<File, Error> {
        let opened = file::open(&self.path).await.map_err(Error::io("open", &self.path));
        opened.inspect_err(|error| self.doubt(error))
    }

    /// A node that received it says that it is damaged: it is read again before it is sent again.
    pub fn recheck(&self) {
        if !self.is_unsound() {
            self.set_trust(Trust::Unread);
        }
    }
}

/// What a disk says that cannot read.
const EIO: i32 = 5;

/// A file that is removed unless it becomes a snapshot.
#[derive(Debug)]
pub(super) struct Temporary(PathBuf);

impl Temporary {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It has another name by now, or the next start removes it.
        drop(std::fs::remove_file(&self.0));
    }
}

/// The directory.
pub(super) struct Snapshots {
    dir: PathBuf,
    wanted: Arc<Notify>,
}

impl Snapshots {
    pub fn open(base: &Path) -> Result<Snapshots, Error> {
        let dir = base.join("snapshots");
        fsutil::create_dir_all_durable(&dir).map_err(Error::io("create", &dir))?;
        for path in files(&dir, "tmp")? {
            remove(&path);
        }
        Ok(Snapshots { dir, wanted: Arc::default() })
    }

    /// Told when another snapshot is needed than the newest.
    pub fn wanted(&self) -> &Arc<Notify> {
        &self.wanted
    }

    /// A path for a snapshot that is being written or received.
    pub fn temporary(&self) -> Temporary {
        Temporary(self.dir.join(format!("{}.tmp", seam::uuid())))
    }

    /// The newest snapshot whose header can be read. Those before it that cannot are set aside.
    pub fn newest(&self) -> Result<Option<Kept>, Error> {
        let mut paths = files(&self.dir, "snap")?;
        paths.sort_unstable_by_key(|path| Reverse(path.clone()));
        for path in paths {
            match snapshot::header(&path) {
                Ok(header) => {
                    let bytes = path.metadata().map_err(Error::io("read", &path))?.len();
                    return Ok(Some(Kept::new(header, path, bytes, Trust::Unread, self.wanted.clone())));
                }
                Err(error) => self.set_aside(&path, &error)?,
            }
        }
        Ok(None)
    }

    /// Renames a snapshot that this error says is damaged.
    ///
    /// # Errors
    /// The error itself, where it is another one; and what the rename gives.
    pub fn set_aside(&self, path: &Path, error: &Error) -> Result<(), Error> {
        if !matches!(error, Error::Damaged { .. }) {
            return Err(error.clone());
        }
        let aside = path.with_extension("damaged");
        tracing::error!(%error, to = %aside.display(), "a snapshot is damaged and is renamed");
        std::fs::rename(path, &aside).map_err(Error::io("rename", path))?;
        fsutil::sync_dir(&self.dir).map_err(Error::io("sync", &self.dir))
    }

    /// Gives a whole and synced temporary file its name, and makes that durable. It was verified.
    pub fn keep(&self, temporary: Temporary, header: Header, received: bool) -> Result<Kept, Error> {
        let index = header.meta.last_log_id.map_or(0, |id| id.index);
        let mark = if received { "r" } else { "" };
        let path = self.dir.join(format!("{index:020}-{mark}{}.snap", seam::uuid()));
        let bytes = temporary.path().metadata().map_err(Error::io("read", temporary.path()))?.len();
        std::fs::rename(temporary.path(), &path).map_err(Error::io("rename", temporary.path()))?;
        let named = fsutil::sync_dir(&self.dir).map_err(Error::io("sync", &self.dir));
        if named.is_err() {
            remove(&path);
        }
        named.map(|()| Kept::new(header, path, bytes, Trust::Sound, self.wanted.clone()))
    }

    /// Removes what this snapshot takes the place of, as far as that is possible.
    pub fn remove_replaced(&self, by: &Kept) {
        let index = |path: &Path| path.file_name().and_then(|n| n.to_str()?.get(..20)?.parse::<u64>().ok());
        let last = by.last().map_or(0, |id| id.index);
        let found = files(&self.dir, "snap").and_then(|mut all| {
            all.extend(files(&self.dir, "damaged")?);
            Ok(all)
        });
        match found {
            Ok(all) => {
                let replaced = all.iter().filter(|path| **path != by.path && index(path).is_none_or(|i| i <= last));
                replaced.for_each(|path| remove(path));
            }
            Err(error) => tracing::warn!(%error, "older snapshots are not removed"),
        }
    }
}

/// Removes a file that is needed no more; where that fails, it takes room until it succeeds.
fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a file that is needed no more cannot be removed");
        }
        _ => {}
    }
}

fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(dir).and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect());
    let mut paths: Vec<PathBuf> = entries.map_err(Error::io("list", dir))?;
    paths.retain(|path| path.extension().is_some_and(|e| e == extension));
    Ok(paths)
}
