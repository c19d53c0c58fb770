//! Segment files: a header of one sector, then records, then zeros written ahead of time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::record::{crc, u32_at, u64_at};

/// Where the first record of a segment lies.
pub(super) const FIRST_RECORD: u64 = 512;
/// The name under which the next segment is filled with zeros.
pub(super) const SPARE: &str = "next.tmp";
const MAGIC: &[u8; 8] = b"XCRONLOG";
const VERSION: u32 = 1;
const LEN: usize = FIRST_RECORD as usize;

/// The first sector of a segment.
///
/// | bytes | field |
/// | --- | --- |
/// | 0–7 | magic |
/// | 8–11 | format version |
/// | 16–23 | salt of the log |
/// | 24–31 | id of the segment |
/// | 32–39 | sequence number of its first record |
/// | 40–47 | index that the next entry was to have when the segment began, for people who look |
/// | 508–511 | CRC32 of bytes 0–507 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub salt: u64,
    pub id: u32,
    pub first_seq: u64,
    pub next_index: u64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; LEN] {
        let mut b = [0; LEN];
        b[0..8].copy_from_slice(MAGIC);
        b[8..12].copy_from_slice(&VERSION.to_le_bytes());
        b[16..24].copy_from_slice(&self.salt.to_le_bytes());
        b[24..32].copy_from_slice(&u64::from(self.id).to_le_bytes());
        b[32..40].copy_from_slice(&self.first_seq.to_le_bytes());
        b[40..48].copy_from_slice(&self.next_index.to_le_bytes());
        let crc = crc(self.salt, &b[..LEN - 4]);
        b[LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads the header of segment `id` of the log with this `salt`.
    pub(super) fn decode(path: &Path, b: &[u8], salt: u64, id: u32) -> Result<SegmentHeader, Error> {
        let bad = |at: u64, detail: String| Err(Error::corrupt(path, at, detail));
        if b.len() < LEN {
            return bad(b.len() as u64, "the file is shorter than a segment's header".into());
        }
        if &b[..8] != MAGIC {
            return bad(0, "this is not a segment of a Raft log".into());
        }
        let (version, own_salt) = (u32_at(b, 8), u64_at(b, 16));
        if u32_at(b, LEN - 4) != crc(own_salt, &b[..LEN - 4]) {
            return bad(0, "the segment's header fails its checksum".into());
        }
        if version != VERSION {
            return bad(8, format!("format version {version} is not known to this release"));
        }
        if own_salt != salt {
            return bad(16, "this segment belongs to another log".into());
        }
        if u64_at(b, 24) != u64::from(id) {
            return bad(24, format!("the file's name says segment {id}, its header {}", u64_at(b, 24)));
        }
        Ok(SegmentHeader { salt, id, first_seq: u64_at(b, 32), next_index: u64_at(b, 40) })
    }
}

/// The file name of segment `id`.
pub(super) fn file_name(id: u32) -> String {
    format!("{id:010}.seg")
}

/// The segments in `dir`, in order.
pub(super) fn list(dir: &Path) -> Result<Vec<(u32, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let path = entry.map_err(Error::io(dir, "list"))?.path();
        if path.extension().is_some_and(|e| e == "seg") {
            let id = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
            let id = id.ok_or_else(|| Error::corrupt(&path, 0, "the name is not that of a segment"))?;
            found.push((id, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a file forwards through a buffer that grows to the largest piece asked for.
pub(super) struct Window<'a> {
    file: &'a File,
    len: u64,
    base: u64,
    buf: Vec<u8>,
}

impl<'a> Window<'a> {
    const CHUNK: usize = 1 << 20;

    pub(super) fn new(file: &'a File) -> io::Result<Self> {
        Ok(Window { file, len: file.metadata()?.len(), base: 0, buf: Vec::new() })
    }

    /// Length of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// `len` bytes from `at`, or fewer at the end of the file.
    pub(super) fn get(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let len = (len as u64).min(self.len.saturating_sub(at)) as usize;
        if at < self.base || at + len as u64 > self.base + self.buf.len() as u64 {
            let load = (len.max(Self::CHUNK) as u64).min(self.len - at) as usize;
            self.buf.resize(load, 0);
            self.base = at;
            if let Err(e) = self.file.read_exact_at(&mut self.buf, at) {
                self.buf.clear();
                return Err(e);
            }
        }
        let start = (at - self.base) as usize;
        Ok(&self.buf[start..start + len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_seen() {
        let header = SegmentHeader { salt: 77, id: 3, first_seq: 12, next_index: 9 };
        let path = Path::new("x.seg");
        let mut bytes = header.encode();
        assert_eq!(SegmentHeader::decode(path, &bytes, 77, 3).unwrap(), header);
        assert!(SegmentHeader::decode(path, &bytes, 78, 3).is_err(), "another log");
        assert!(SegmentHeader::decode(path, &bytes, 77, 4).is_err(), "another name");
        for bit in 0..LEN * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(path, &bytes, 77, 3).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
