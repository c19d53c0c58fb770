//! What a node keeps on disk, under `raft_dir`.
//!
//! ```text
//!  LOCK           held by the process that uses the directory
//!  identity       which node of which cluster this store is
//!  log/           the Raft log and the vote: what an acknowledgement rests on
//!  state-<n>/     the embedded store (sled): a checkpoint of the state, which can be rebuilt
//!  checkpoint     what was last made durable there, to tell a store that has lost something
//!  doubt          there while the state is not to be served
//!  snapshots/     the newest snapshot: durable before the log behind it is purged
//! ```
//!
//! Only this layer names sled.

mod anew;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod belongs;
mod checkpoint;
pub mod doubt;
mod envelope;
pub mod fsutil;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod identity;
mod kept;
mod leaders;
pub mod log;
pub mod machine;
mod note;
mod pace;
mod rescue;
mod scan;
mod snapshot;
mod spare;
#[cfg(test)]
mod still;
mod store;

pub use kept::Kept;
pub use machine::Machine;
pub use rescue::Rescue;
pub(crate) use spare::is_exhausted;

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whether something of this name, directly in `raft_dir`, is what a node keeps there.
pub fn is_part(name: &str) -> bool {
    const NAMES: [&str; 7] = ["LOCK", "identity", "identity.tmp", "log", "checkpoint", "snapshots", "doubt"];
    NAMES.contains(&name) || name.starts_with("state-")
}

/// A log entry in a message.
pub(crate) fn place(id: Option<crate::raft::LogId>) -> String {
    id.map_or_else(|| "no log entry".to_owned(), |id| format!("log entry {id}"))
}

/// What an operator can do about a directory of which a part is lost or damaged.
pub const REPLACE: &str =
    "put the whole directory back as it was when the node stopped, or replace the node: empty its \
    whole directory and have the cluster add it under a new id (POST /xcron/addNode with \"replace\": true, which this \
    version cannot do yet). A single node can only begin anew, with an empty directory and without its tasks. Do not \
    delete single files: a node with the rest is refused as well";

/// Why the store cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The file system, or sled on top of it, refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as a verb.
        action: &'static str,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// A file does not hold what was written to it.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A log entry that a version with other entries has written.
    #[error("{entry} in {} cannot be applied: {detail}", path.display())]
    Version {
        /// The directory.
        path: PathBuf,
        /// Which entry.
        entry: String,
        /// Which version.
        detail: String,
    },
    /// The parts of a directory are not of one moment: one of them was lost, or is an older copy.
    #[error("{}: {detail}. The node must not vote with it: {REPLACE}", path.display())]
    Mixed {
        /// The directory.
        path: PathBuf,
        /// Which part.
        detail: String,
    },
    /// Written by a version that this one does not know.
    #[error("{} has format {found}, which this version does not know", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The log is sound, and neither the store nor a snapshot of this node reaches back to its beginning. Another node
    /// may have what is missing.
    #[error(
        "the state in {} cannot be rebuilt from this node's own files: {detail}; where no other node has it, put back a \
         copy of the directory",
        path.display()
    )]
    StateLost {
        /// The directory.
        path: PathBuf,
        /// Why.
        detail: String,
        /// Up to where the log is purged.
        purged: crate::raft::LogId,
    },
    /// A snapshot of a history in which an entry that this node has applied was never written.
    #[error("a snapshot has the log entry {theirs} where this node has applied {ours}")]
    OtherHistory {
        /// What this node has applied.
        ours: crate::raft::LogId,
        /// What the snapshot has at its place.
        theirs: crate::raft::LogId,
    },
    /// Neither the store nor a snapshot nor the log holds the state.
    #[error("the state in {} cannot be rebuilt: {detail}; {REPLACE}", path.display())]
    Unrecoverable {
        /// The directory.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source: Arc::new(source) }
    }

    pub(crate) fn damaged(path: &Path, detail: impl ToString) -> Error {
        Error::Damaged { path: path.to_owned(), detail: detail.to_string() }
    }

    /// Whether it says that what is stored is not what was written, or not readable by this version; not, that the system
    /// has refused something for now.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Io { source, .. } => source.kind() == std::io::ErrorKind::UnexpectedEof,
            _ => true,
        }
    }

    /// Whether it says that there is no space left, or no descriptor.
    pub(crate) fn may_pass(&self) -> bool {
        self.is_full() || matches!(self, Error::Io { source, .. } if is_exhausted(source))
    }

    /// Whether it says that there is no space left.
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Io { source, .. } if fsutil::is_full(source))
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        std::io::Error::other(error)
    }
}
