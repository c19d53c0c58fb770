//! Snapshot files: all records of a checkpoint in one file, for a node that is far behind and for rebuilding.
//!
//! ```text
//!  magic "xcronsn1" · header length u32 · crc32 · header (postcard: log id, membership, name)
//!  block length u32 · crc32 · records (postcard: [(key, value)])       … repeated
//!  0 u32 · crc32 of the trailer · trailer (postcard: how many records)
//! ```
//!
//! A file is written under another name, synced, renamed, and the directory synced (`kept`): a file with a snapshot's
//! name is whole and durable.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use openraft::SnapshotMeta;
use serde::{Deserialize, Serialize};

use super::store::{Change, Loaded, Loading, Mark, Store, Sum, MARK_KEY};
use super::{envelope, place, Error};
use crate::clock::Timestamp;
use crate::state::record::Key;

const MAGIC: &[u8; 8] = b"xcronsn1";
const BLOCK_BYTES: usize = 256 << 10;
const BLOCK_BYTES_MAX: u32 = 256 << 20;

/// What a snapshot is of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub meta: SnapshotMeta<u64, openraft::BasicNode>,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    records: u64,
}

/// A snapshot file that is being written.
pub(super) struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    block: Vec<(Bytes, Bytes)>,
    block_bytes: usize,
    records: u64,
    sum: Sum,
    /// So much was given to the file.
    bytes: u64,
}

impl Writer {
    pub fn create(path: &Path, header: &Header) -> Result<Writer, Error> {
        File::create_new(path).map_err(Error::io("create", path)).and_then(|file| Self::over(file, path, header))
    }

    pub(super) fn over(file: File, path: &Path, header: &Header) -> Result<Writer, Error> {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(MAGIC).map_err(Error::io("write", path))?;
        put(&mut out, path, header)?;
        let (path, sum) = (path.to_owned(), Sum::default());
        Ok(Writer { path, out, block: Vec::new(), block_bytes: 0, records: 0, sum, bytes: 0 })
    }

    /// About how large the file is by now.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next record, as it is stored; they come in the order of their keys.
    pub fn take(&mut self, key: &[u8], sealed: &[u8]) -> Result<(), Error> {
        self.block.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(sealed)));
        self.block_bytes += key.len() + sealed.len();
        self.records += 1;
        self.sum.add(key, sealed);
        if self.block_bytes >= BLOCK_BYTES {
            put(&mut self.out, &self.path, &self.block)?;
            self.bytes += self.block_bytes as u64;
            self.block.clear();
            self.block_bytes = 0;
        }
        Ok(())
    }

    /// All records are in: how many bytes it has become. The file is durable, and it has what it should.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the records are not those of this sum: the log may not be purged up to it.
    pub fn finish(mut self, expected: Sum) -> Result<u64, Error> {
        let path = &self.path;
        if self.sum != expected {
            return Err(Error::damaged(path, format!("the store gave {} for it, and not {expected}", self.sum)));
        }
        if !self.block.is_empty() {
            put(&mut self.out, path, &self.block)?;
        }
        self.out.write_all(&0u32.to_le_bytes()).map_err(Error::io("write", path))?;
        put(&mut self.out, path, &Trailer { records: self.records })?;
        let file = self.out.into_inner().map_err(|e| Error::io("write", path)(e.into_error()))?;
        file.sync_all().map_err(Error::io("sync", path))?;
        file.metadata().map(|m| m.len()).map_err(Error::io("read", path))
    }
}

fn put<T: Serialize>(out: &mut impl Write, path: &Path, value: &T) -> Result<(), Error> {
    let payload = postcard::to_stdvec(value).map_err(|e| Error::damaged(path, e))?;
    let sealed = envelope::seal(&payload);
    out.write_all(&(sealed.len() as u32).to_le_bytes())
        .and_then(|()| out.write_all(&sealed))
        .map_err(Error::io("write", path))
}

/// A snapshot file, read from front to back.
struct Reader<'a> {
    path: &'a Path,
    input: BufReader<File>,
}

impl<'a> Reader<'a> {
    fn open(path: &'a Path) -> Result<(Reader<'a>, Header), Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let mut reader = Reader { path, input: BufReader::with_capacity(1 << 20, file) };
        let mut magic = [0; 8];
        reader.exactly(&mut magic)?;
        if &magic != MAGIC {
            return Err(Error::damaged(path, "it is no snapshot of this version"));
        }
        let header = match reader.sealed()? {
            Some(payload) => postcard::from_bytes(&payload).map_err(|e| Error::damaged(path, e))?,
            None => return Err(Error::damaged(path, "it has no header")),
        };
        Ok((reader, header))
    }

    fn exactly(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::damaged(self.path, "it ends too early"),
            _ => Error::io("read", self.path)(error),
        })
    }

    /// The next payload; none: the mark before the trailer.
    fn sealed(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut len = [0; 4];
        self.exactly(&mut len)?;
        let len = u32::from_le_bytes(len);
        if len == 0 {
            return Ok(None);
        }
        if len > BLOCK_BYTES_MAX {
            return Err(Error::damaged(self.path, format!("a block of {len} bytes")));
        }
        // Memory is taken as the bytes come: a length that is wrong must not cost what it says.
        let mut sealed = Vec::new();
        (&mut self.input).take(len.into()).read_to_end(&mut sealed).map_err(Error::io("read", self.path))?;
        if sealed.len() < len as usize {
            return Err(Error::damaged(self.path, "it ends within a block"));
        }
        match envelope::open(&sealed) {
            Some(payload) => Ok(Some(payload.to_vec())),
            None => Err(Error::damaged(self.path, "the checksum of a block does not hold")),
        }
    }

    fn records(mut self, mut each: impl FnMut(Vec<(Bytes, Bytes)>) -> Result<(), Error>) -> Result<(), Error> {
        let mut records = 0;
        while let Some(payload) = self.sealed()? {
            let block: Vec<(Bytes, Bytes)> =
                postcard::from_bytes(&payload).map_err(|e| Error::damaged(self.path, e))?;
            records += block.len() as u64;
            each(block)?;
        }
        let trailer = self.sealed()?.and_then(|payload| postcard::from_bytes::<Trailer>(&payload).ok());
        match trailer {
            Some(trailer) if trailer.records == records => Ok(()),
            _ => Err(Error::damaged(self.path, "its end is missing")),
        }
    }
}

/// What a snapshot is of, without reading the rest.
pub(super) fn header(path: &Path) -> Result<Header, Error> {
    Reader::open(path).map(|(_, header)| header)
}

/// Reads all of a snapshot without a store to fill: how many tasks it has.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz_read(path: &Path, now: Timestamp) -> Result<u64, Error> {
    let (reader, _) = Reader::open(path)?;
    let mut loading = Loading::new(path, now);
    reader.records(|block| block.iter().try_for_each(|(key, value)| loading.take(key, value)))?;
    Ok(loading.finish()?.state.len() as u64)
}

/// Reads all of a snapshot, and compares it with its checksums and its mark, without a state or a store to fill.
pub(super) fn verify(path: &Path) -> Result<Mark, Error> {
    let (reader, header) = Reader::open(path)?;
    let (mut sum, mut mark) = (Sum::default(), Mark::default());
    reader.records(|block| {
        for (key, sealed) in block {
            let bad = || Error::damaged(path, format!("the checksum of {} does not hold", Key::name_of(&key)));
            let payload = envelope::open(&sealed).ok_or_else(bad)?;
            if key == MARK_KEY {
                mark = Mark::decode(payload).map_err(|e| Error::damaged(path, e))?;
            }
            sum.add(&key, &sealed);
        }
        Ok(())
    })?;
    if sum != mark.sum() || mark.applied != header.meta.last_log_id {
        let (marked, noted) = (place(mark.applied), place(header.meta.last_log_id));
        let detail = format!("it has {sum}, its mark says {} at {marked}, and its header {noted}", mark.sum());
        return Err(Error::damaged(path, detail));
    }
    Ok(mark)
}

/// Fills an empty store from a snapshot, verifies all of it, and makes it durable.
pub(super) fn restore(path: &Path, store: &Store, now: Timestamp) -> Result<(Loaded, Header), Error> {
    let (reader, header) = Reader::open(path)?;
    let mut loading = Loading::new(path, now);
    reader.records(|block| {
        block.iter().try_for_each(|(key, value)| loading.take(key, value))?;
        let changes: Vec<Change> = block.into_iter().map(|(k, v)| (k.to_vec(), Some(v.to_vec()))).collect();
        store.write(changes, None)
    })?;
    let loaded = loading.finish()?;
    let Mark { applied, .. } = loaded.mark;
    if applied != header.meta.last_log_id {
        let (noted, applied) = (place(header.meta.last_log_id), place(applied));
        return Err(Error::damaged(path, format!("its header says {noted}, its records {applied}")));
    }
    store.sync()?;
    Ok((loaded, header))
}

/// All records of a snapshot, in their order.
#[cfg(test)]
pub(super) fn records(path: &Path) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let mut records = Vec::new();
    Reader::open(path)?.0.records(|block| {
        records.extend(block);
        Ok(())
    })?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::record;

    #[test]
    fn a_block_that_says_it_is_longer_than_the_file_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.snap");
        let claimed = BLOCK_BYTES_MAX.to_le_bytes();
        std::fs::write(&path, [MAGIC.as_slice(), &claimed, b"short"].concat()).unwrap();
        let error = header(&path).unwrap_err();
        assert!(error.to_string().ends_with("it ends within a block"), "{error}");
    }

    #[test]
    fn a_header_of_another_moment_than_the_records_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let id = |index| Some(openraft::LogId::new(openraft::CommittedLeaderId::new(1, 1), index));
        for (noted, applied) in [(7, 7), (8, 7), (6, 7)] {
            let path = dir.path().join(format!("{noted}.snap"));
            let mark = Mark { applied: id(applied), ..Mark::default() };
            let sealed = envelope::seal(&record::encode(&mark).unwrap());
            let meta = SnapshotMeta { last_log_id: id(noted), ..SnapshotMeta::default() };
            let mut writer = Writer::create(&path, &Header { meta }).unwrap();
            writer.take(MARK_KEY, &sealed).unwrap();
            writer.finish(mark.sum()).unwrap();
            let store = Store::open(dir.path(), noted, 1 << 20).unwrap();
            let (verified, restored) = (verify(&path), restore(&path, &store, Timestamp(0)));
            assert_eq!((verified.is_ok(), restored.is_ok()), (noted == applied, noted == applied), "{noted}");
        }
    }
}
