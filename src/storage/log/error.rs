//! What can go wrong with the log, in words that an operator can act on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::LogId;

use crate::storage::{place, REPLACE};

/// An error of the Raft log.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as a verb.
        action: &'static str,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The stored log is damaged. Nothing was changed on disk.
    #[error(
        "{} is damaged at byte {offset}: {detail}. The Raft log must not be used, nor removed alone: {REPLACE}",
        path.display()
    )]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// It is not the log that this node has voted with.
    #[error(
        "{}: this node's Raft log belongs here, and {detail}. Its votes and entries are lost, and without them the node must \
         not vote: {REPLACE}",
        path.display()
    )]
    NotOwn {
        /// The directory of the log.
        path: PathBuf,
        /// What is there.
        detail: &'static str,
    },
    /// There is no room left to append to: no space, no inode, a quota, or no descriptor. Nothing of the refused append
    /// remains; the log stays usable.
    #[error("there is no room for the Raft log: cannot make some in {} ({detail})", path.display())]
    Full {
        /// The file that could not grow.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// An entry is larger than [`Options::max_record_bytes`](super::Options::max_record_bytes).
    #[error("log entry {index} has {bytes} bytes, and the limit is {limit_bytes}")]
    TooLarge {
        /// Its index.
        index: u64,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// An append, truncation or purge that does not fit what the log holds: a fault of the caller.
    #[error("{what} at {at} does not fit the log, which ends at {} and is purged up to {}", place(*.last), place(*.purged))]
    OutOfOrder {
        /// The operation.
        what: &'static str,
        /// Its log id.
        at: LogId<u64>,
        /// The last log id.
        last: Option<LogId<u64>>,
        /// The last purged log id.
        purged: Option<LogId<u64>>,
    },
    /// An entry cannot be encoded or decoded.
    #[error("log entry {index} cannot be encoded or decoded: {detail}")]
    Codec {
        /// Its index.
        index: u64,
        /// What the codec said.
        detail: String,
    },
    /// [`Options`](super::Options) that make no sense.
    #[error("raft log option {0}")]
    Options(&'static str),
    /// The log stopped earlier, for the reason given. A failed write or fsync is never retried.
    #[error("the Raft log stopped and this node must stop: {0}")]
    Stopped(Box<Error>),
    /// The log was closed.
    #[error("the Raft log is closed")]
    Closed,
    /// The log's thread died; a bug.
    #[error("the Raft log's writer thread died; this node must stop")]
    WriterDied,
}

impl Error {
    pub(super) fn io<'a>(path: &'a Path, action: &'static str) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| Error::Io { path: path.to_owned(), action, source: Arc::new(source) }
    }

    pub(super) fn corrupt(path: &Path, offset: u64, detail: impl Into<String>) -> Error {
        Error::Corrupt { path: path.to_owned(), offset, detail: detail.into() }
    }

    /// Whether there is no room: the one error after which the log goes on.
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Full { .. })
    }

    /// Whether what is stored is damaged.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Error::Corrupt { .. })
    }
}
