//! The note beside the store: what its last checkpoint made durable.
//!
//! sled does not tell when it has lost the end of what was written to it. This note does: a store whose own mark is
//! behind the note has lost something. It also names the store's directory, so that a rebuilt store takes the place of
//! the old one in a single step.
//!
//! Two slots are written in turn, each with a checksum and a growing number, so that a torn write leaves the other.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{envelope, fsutil, Error};
use crate::raft::LogId;

const SLOT_BYTES: u64 = 4096;

/// What was made durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Grows with each note.
    pub number: u64,
    /// Which directory the store is in.
    pub generation: u64,
    /// The last log entry in the store.
    pub applied: Option<LogId>,
    /// How many records there are.
    pub records: u64,
    /// A checksum over all of them.
    pub digest: u64,
}

pub(super) struct NoteFile {
    path: PathBuf,
    file: File,
    last: Note,
}

impl NoteFile {
    /// Opens the note, or begins one; none: there was none.
    pub fn open(dir: &Path) -> Result<(NoteFile, Option<Note>), Error> {
        let path = dir.join("checkpoint");
        let existed = path.exists();
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = options.map_err(Error::io("open", &path))?;
        if !existed {
            fsutil::write_zeros(&file, 0, SLOT_BYTES * 2).map_err(Error::io("write", &path))?;
            file.sync_all().map_err(Error::io("sync", &path))?;
            fsutil::sync_dir(dir).map_err(Error::io("sync", dir))?;
        }
        let slots = [0, 1].map(|slot| read_slot(&file, slot));
        let newest = slots.into_iter().flatten().max_by_key(|note| note.number);
        let last = newest.clone().unwrap_or_default();
        Ok((NoteFile { path, file, last }, newest))
    }

    /// Makes a note durable. Its number is given here.
    pub fn write(&mut self, note: Note) -> Result<(), Error> {
        let note = Note { number: self.last.number + 1, ..note };
        let payload = postcard::to_stdvec(&note).map_err(|e| Error::damaged(&self.path, e))?;
        let mut slot = (payload.len() as u32).to_le_bytes().to_vec();
        slot.extend(envelope::seal(&payload));
        slot.resize(SLOT_BYTES as usize, 0);
        let at = note.number % 2 * SLOT_BYTES;
        self.file.write_all_at(&slot, at).map_err(Error::io("write", &self.path))?;
        self.file.sync_data().map_err(Error::io("sync", &self.path))?;
        self.last = note;
        Ok(())
    }
}

fn read_slot(file: &File, slot: u64) -> Option<Note> {
    let mut bytes = vec![0; SLOT_BYTES as usize];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES).ok()?;
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let sealed = rest.get(..u32::from_le_bytes(*len) as usize + 4)?;
    postcard::from_bytes(envelope::open(sealed)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_note_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, none) = NoteFile::open(dir.path()).unwrap();
        assert_eq!(none, None);
        for records in 1..=5 {
            file.write(Note { records, ..Note::default() }).unwrap();
        }
        let read = || NoteFile::open(dir.path()).unwrap().1.unwrap();
        assert_eq!((read().number, read().records), (5, 5));
        let path = dir.path().join("checkpoint");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[SLOT_BYTES as usize + 9] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read().records, 4, "the one before a torn write");
    }
}
