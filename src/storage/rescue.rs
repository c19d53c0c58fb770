//! A snapshot of another node, for a store that cannot be opened without it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::kept::{Kept, Snapshots, Temporary};
use super::{snapshot, Error};
use crate::raft::LogId;

/// A snapshot file that is being fetched. Once it is kept, [`super::Machine::open`] finds it.
pub struct Rescue {
    snapshots: Snapshots,
    temporary: Temporary,
    file: File,
}

impl Rescue {
    /// Begins a file for the store in `dir`, which nobody has open: blocks.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn begin(dir: &Path) -> Result<Rescue, Error> {
        let snapshots = Snapshots::open(dir)?;
        let temporary = snapshots.temporary();
        let file = File::create_new(temporary.path()).map_err(Error::io("create", temporary.path()))?;
        Ok(Rescue { snapshots, temporary, file })
    }

    /// Takes what comes next: blocks.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.file.write_all(data).map_err(Error::io("write", self.temporary.path()))
    }

    /// That was all. Verifies it, that the entry `committed` is in it too, and makes it durable: blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`] where it is not what a node has written, [`Error::OtherHistory`], and what the disk refuses.
    pub fn keep(self, committed: LogId) -> Result<Kept, Error> {
        let Rescue { snapshots, temporary, file } = self;
        file.sync_all().map_err(Error::io("sync", temporary.path()))?;
        let mark = snapshot::verify(temporary.path())?;
        if let Some(theirs) = mark.leaders.instead_of(committed) {
            return Err(Error::OtherHistory { ours: committed, theirs });
        }
        let header = snapshot::header(temporary.path())?;
        snapshots.keep(temporary, header, true)
    }
}
