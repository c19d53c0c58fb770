//! The file `meta`: the vote, and what must be known before the segments can be trusted.
//!
//! Two copies of one sector each, 4 KiB apart, written in place one after the other, each synced: a vote needs no disk
//! space, and an answer is given only when both copies hold it. So one damaged copy can be mended from the other without
//! going back in time, and two damaged ones, or a missing file beside segments, are an error; never "no vote".

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use openraft::{CommittedLeaderId, LogId, Vote};

use super::error::Error;
use super::record::{u32_at, u64_at, NUMBER_MAX};
use crate::seam::disk;
use crate::storage::fsutil;

const NAME: &str = "meta";
const TMP: &str = "meta.tmp";
const MAGIC: &[u8; 8] = b"XCRONVOT";
const VERSION: u32 = 2;
const LEN: usize = 512;
const COPIES: [u64; 2] = [0, 4096];

/// What the file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// Goes up by one with each save.
    pub version: u64,
    /// Random, made with the log; part of every checksum. It is also the log's number in the node's identity.
    pub salt: u64,
    /// How often a process has begun to act on this log.
    pub starts: u64,
    /// Segments before this one are garbage.
    pub first_segment: u32,
    /// This segment exists; 0 before the first one.
    pub active_segment: u32,
    /// Records up to this sequence number are on disk for sure.
    pub durable: u64,
    pub vote: Option<Vote<u64>>,
    pub purged: Option<LogId<u64>>,
    /// As of when the file was written for another reason; a hint, always true though maybe old.
    pub committed: Option<LogId<u64>>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct MetaFile {
    file: File,
    path: PathBuf,
    meta: Meta,
}

impl MetaFile {
    /// Opens the file in `dir`, of the log with the number `known` if one is known; makes it if the directory holds no log
    /// yet (`has_segments` false) and none is known.
    pub(super) fn open(dir: &Path, has_segments: bool, known: Option<u64>) -> Result<MetaFile, Error> {
        let path = dir.join(NAME);
        if !path.try_exists().map_err(Error::io(&path, "look for"))? {
            if known.is_some() && !has_segments {
                return Err(Error::NotOwn { path: dir.to_owned(), detail: "it is empty" });
            }
            if has_segments {
                return Err(Error::corrupt(&path, 0, "the file with the vote is missing, though there are segments"));
            }
            Self::create(dir, &path)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(Error::io(&path, "open"))?;
        let mut copies = [None, None];
        for (copy, at) in copies.iter_mut().zip(COPIES) {
            let mut b = [0; LEN];
            match file.read_exact_at(&mut b, at) {
                Ok(()) => *copy = decode(&path, &b)?,
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Err(Error::io(&path, "read")(e)),
            }
        }
        let newest = match copies {
            [Some(a), Some(b)] => Some(if a.version >= b.version { a } else { b }),
            [a, b] => a.or(b),
        };
        let Some(meta) = newest else {
            return Err(Error::corrupt(&path, 0, "both copies of the vote fail their checksums"));
        };
        if known.is_some_and(|known| known != meta.salt) {
            return Err(Error::NotOwn { path: dir.to_owned(), detail: "another one is there" });
        }
        if copies != [Some(meta), Some(meta)] {
            tracing::warn!(path = %path.display(), "one copy of the vote was damaged or older; writing both again");
        }
        // In any case: what a process read that died of a failed fsync may be in the page cache only.
        let mut this = MetaFile { file, path, meta };
        this.write(&meta)?;
        Ok(this)
    }

    fn create(dir: &Path, path: &Path) -> Result<(), Error> {
        let salt = RandomState::new().build_hasher().finish();
        let bytes = encode(&Meta { version: 1, salt, first_segment: 1, ..Meta::default() });
        let tmp = dir.join(TMP);
        let file = File::create(&tmp).map_err(Error::io(&tmp, "create"))?;
        for at in COPIES {
            file.write_all_at(&bytes, at).map_err(Error::io(&tmp, "write"))?;
        }
        file.sync_all().map_err(Error::io(&tmp, "sync"))?;
        std::fs::rename(&tmp, path).map_err(Error::io(path, "create"))?;
        fsutil::sync_dir(dir).map_err(Error::io(dir, "sync"))
    }

    /// By which it is known whether its path still leads to it.
    pub(super) fn anchor(&self) -> Result<fsutil::Anchor, Error> {
        fsutil::Anchor::of(&self.file, &self.path).map_err(Error::io(&self.path, "look at"))
    }

    pub(super) fn get(&self) -> &Meta {
        &self.meta
    }

    /// Changes the content durably. After an error the log must stop.
    pub(super) fn save(&mut self, change: impl FnOnce(&mut Meta)) -> Result<(), Error> {
        let mut next = self.meta;
        change(&mut next);
        next.version += 1;
        self.write(&next)?;
        self.meta = next;
        Ok(())
    }

    fn write(&mut self, meta: &Meta) -> Result<(), Error> {
        let bytes = encode(meta);
        for at in COPIES {
            disk::write_all_at(&self.path, &self.file, &bytes, at).map_err(Error::io(&self.path, "write"))?;
            disk::sync_data(&self.path, &self.file).map_err(Error::io(&self.path, "sync"))?;
        }
        Ok(())
    }
}

pub(super) fn encode(m: &Meta) -> [u8; LEN] {
    let mut b = [0; LEN];
    b[0..8].copy_from_slice(MAGIC);
    b[8..12].copy_from_slice(&VERSION.to_le_bytes());
    for (at, x) in [
        (16, m.version),
        (24, m.salt),
        (32, u64::from(m.first_segment)),
        (40, u64::from(m.active_segment)),
        (48, m.durable),
        (144, m.starts),
    ] {
        b[at..at + 8].copy_from_slice(&x.to_le_bytes());
    }
    if let Some(v) = m.vote {
        b[56] = 1 + u8::from(v.committed);
        b[64..72].copy_from_slice(&v.leader_id.term.to_le_bytes());
        b[72..80].copy_from_slice(&v.leader_id.node_id.to_le_bytes());
    }
    put_id(&mut b[80..112], m.purged);
    put_id(&mut b[112..144], m.committed);
    let crc = crc32fast::hash(&b[..LEN - 4]);
    b[LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    b
}

/// `None` if this copy is damaged.
fn decode(path: &Path, b: &[u8; LEN]) -> Result<Option<Meta>, Error> {
    if &b[..8] != MAGIC || u32_at(b, LEN - 4) != crc32fast::hash(&b[..LEN - 4]) {
        return Ok(None);
    }
    if u32_at(b, 8) != VERSION {
        return Err(Error::corrupt(path, 8, format!("format version {} is not known to this release", u32_at(b, 8))));
    }
    let segment = |at| u32::try_from(u64_at(b, at)).map_err(|_| Error::corrupt(path, at as u64, "bad segment id"));
    if [16, 48, 88, 120, 144].iter().any(|at| u64_at(b, *at) > NUMBER_MAX) {
        return Err(Error::corrupt(path, 16, "a number that no log gets to"));
    }
    let vote = (b[56] != 0).then(|| match b[56] {
        2 => Vote::new_committed(u64_at(b, 64), u64_at(b, 72)),
        _ => Vote::new(u64_at(b, 64), u64_at(b, 72)),
    });
    Ok(Some(Meta {
        version: u64_at(b, 16),
        salt: u64_at(b, 24),
        starts: u64_at(b, 144),
        first_segment: segment(32)?,
        active_segment: segment(40)?,
        durable: u64_at(b, 48),
        vote,
        purged: get_id(&b[80..112]),
        committed: get_id(&b[112..144]),
    }))
}

fn put_id(b: &mut [u8], id: Option<LogId<u64>>) {
    if let Some(id) = id {
        b[0] = 1;
        b[8..16].copy_from_slice(&id.index.to_le_bytes());
        b[16..24].copy_from_slice(&id.leader_id.term.to_le_bytes());
        b[24..32].copy_from_slice(&id.leader_id.node_id.to_le_bytes());
    }
}

fn get_id(b: &[u8]) -> Option<LogId<u64>> {
    (b[0] != 0).then(|| LogId::new(CommittedLeaderId::new(u64_at(b, 16), u64_at(b, 24)), u64_at(b, 8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(dir: &Path) -> Meta {
        let mut f = MetaFile::open(dir, false, None).unwrap();
        f.save(|m| {
            m.vote = Some(Vote::new_committed(7, 3));
            m.purged = Some(LogId::new(CommittedLeaderId::new(6, 1), 50));
            m.durable = 90;
            m.starts = 4;
        })
        .unwrap();
        *f.get()
    }

    #[test]
    fn what_was_saved_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let meta = saved(dir.path());
        assert_eq!(*MetaFile::open(dir.path(), true, None).unwrap().get(), meta);
    }

    #[test]
    fn a_flipped_bit_in_one_copy_is_mended_and_in_both_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let meta = saved(dir.path());
        let path = dir.path().join(NAME);
        let good = std::fs::read(&path).unwrap();
        for bit in (0..512 * 8).step_by(7) {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(*MetaFile::open(dir.path(), true, None).unwrap().get(), meta);
            assert_eq!(std::fs::read(&path).unwrap(), good, "mended");
            bytes[4096 + 60] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            assert!(MetaFile::open(dir.path(), true, None).unwrap_err().is_corrupt());
        }
    }

    #[test]
    fn a_missing_file_is_an_error_when_there_are_segments() {
        let dir = tempfile::tempdir().unwrap();
        assert!(MetaFile::open(dir.path(), true, None).unwrap_err().is_corrupt());
    }

    #[test]
    fn another_log_and_none_are_not_the_one_that_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let is_foreign = |opened: Result<MetaFile, Error>| matches!(opened, Err(Error::NotOwn { .. }));
        assert!(is_foreign(MetaFile::open(dir.path(), false, Some(7))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is begun in its place");
        let salt = saved(dir.path()).salt;
        MetaFile::open(dir.path(), false, Some(salt)).unwrap();
        assert!(is_foreign(MetaFile::open(dir.path(), false, Some(salt ^ 1))));
    }
}
