//! Opening: every record is checked, and a write that was cut off is told from damage.
//!
//! A write that was never acknowledged may be there whole, in part, or not at all, in any of its sectors. It is dropped
//! from its first hole on. Anything else that is not as it was written stops the node. The rules:
//!
//! 1. A header of zeros, a header in part with only zeros behind it, or a record of which a whole sector or the last byte
//!    is zeros that should not be, is where the log ends, if nothing shows that this place was durable already. Three things show it: a later record in the file whose
//!    `durable` reaches that far, the number in `meta`, and a later segment (one is begun only when all before it is
//!    durable). Then it is damage.
//! 2. Any other header that fails its CRC is damage: a disk writes a sector whole.
//! 3. A record that fails its CRC without such a hole is damage.
//! 4. A file that ends sooner behind an entry than it did when that was written has lost what followed.
//! 5. Sequence numbers, indexes and terms must follow on, also from one segment to the next.
//!
//! What stays has perhaps reached only the page cache of a process that died: the part that is not known durable is
//! written again and synced before anybody hears of it (a failed fsync leaves pages that look clean).

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::appender::{Segment, Tail, CONTROL_ROOM};
use super::error::Error;
use super::index::{Index, Slot};
use super::meta::Meta;
use super::record::{judge, Body, Header, Kind, ALIGN, HEADER, NUMBER_MAX};
use super::segment::{SegmentHeader, Window, FIRST_RECORD};
use crate::storage::{fsutil, place};

/// What the segments hold.
#[derive(Debug)]
pub(super) struct Recovered {
    pub index: Index,
    pub segments: Vec<Segment>,
    pub tail: Option<Tail>,
    pub next_seq: u64,
    /// The highest committed index that a record tells of.
    pub committed: Option<u64>,
}

/// Why a segment's records end where they do.
enum End {
    /// A header of zeros, or the end of the file.
    Clean,
    /// A record that was cut off.
    Torn,
}

struct Scan<'a> {
    meta: &'a Meta,
    index: Index,
    /// The next sequence number; `None` before the first segment.
    seq: Option<u64>,
    durable: u64,
    committed: Option<u64>,
    /// Where, in the segment being read, the records begin that may not be durable.
    unproven: Vec<(u64, u64)>,
}

/// Reads the segments from `meta.first_segment` on, which `files` lists in order, and mends the end.
pub(super) fn recover(files: &[(u32, std::path::PathBuf)], dir: &Path, meta: &Meta) -> Result<Recovered, Error> {
    let mut scan =
        Scan { meta, index: Index::default(), seq: None, durable: meta.durable, committed: None, unproven: Vec::new() };
    let mut segments = Vec::new();
    let mut tail = None;
    let last = files.last().map_or(0, |(id, _)| *id).max(meta.active_segment);
    for (at, id) in (meta.first_segment..=last).enumerate() {
        let Some((_, path)) = files.get(at).filter(|(found, _)| *found == id) else {
            let path = dir.join(super::segment::file_name(id));
            return Err(Error::corrupt(&path, 0, "the segment is missing"));
        };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::io(path, "open"))?;
        let segment = Segment { id, file: Arc::new(file), path: Arc::from(path.as_path()) };
        let mut window = Window::new(&segment.file).map_err(Error::io(path, "read"))?;
        let (end, why) = scan.segment(&segment, &mut window)?;
        if id < last {
            scan.expect_zeros(&segment, &mut window, end, why)?;
        } else {
            scan.finish(&segment, &mut window, end, why)?;
            tail = Some(Tail { segment: segment.clone(), offset: end, filled: window.len() });
        }
        segments.push(segment);
    }
    let next_seq = scan.seq.unwrap_or(1);
    if meta.durable >= next_seq {
        let path = tail.as_ref().map_or(dir, |t| &t.segment.path);
        let at = tail.as_ref().map_or(0, |t| t.offset);
        return Err(Error::corrupt(path, at, format!("records {next_seq} to {} are missing", meta.durable)));
    }
    let committed = scan.committed;
    let index = scan.purged_index(dir)?;
    Ok(Recovered { index, segments, tail, next_seq, committed })
}

fn zeros_from(window: &mut Window<'_>, from: u64) -> std::io::Result<bool> {
    let mut at = from;
    while at < window.len() {
        let chunk = window.get(at, 1 << 16)?;
        if chunk.iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += chunk.len() as u64;
    }
    Ok(true)
}

impl Scan<'_> {
    /// Reads one segment's records. Returns where they end.
    fn segment(&mut self, segment: &Segment, window: &mut Window<'_>) -> Result<(u64, End), Error> {
        let path = &segment.path;
        let read = |e| Error::io(path, "read")(e);
        let first = window.get(0, FIRST_RECORD as usize).map_err(read)?;
        let header = SegmentHeader::decode(path, first, self.meta.salt, segment.id)?;
        if let Some(seq) = self.seq.filter(|seq| *seq != header.first_seq) {
            let detail = format!("it begins at record {}, after record {}", header.first_seq, seq - 1);
            return Err(Error::corrupt(path, 32, detail));
        }
        let mut seq = header.first_seq;
        if !(1..=NUMBER_MAX).contains(&seq) {
            return Err(Error::corrupt(path, 32, format!("it begins at record {seq}, which no log has")));
        }
        // A segment is begun when all before it is durable.
        self.durable = self.durable.max(seq - 1);
        self.unproven.clear();
        // Before an entry is written the file is filled beyond it, durably.
        let mut least = 0;
        let mut at = FIRST_RECORD;
        let end = loop {
            let bytes = window.get(at, HEADER).map_err(read)?;
            if bytes.len() < HEADER || bytes.iter().all(|b| *b == 0) {
                break End::Clean;
            }
            let Some(header) = Header::decode(bytes, self.meta.salt) else {
                // A record has bytes that are not zero behind its header. Where there are none it was never whole.
                if zeros_from(window, at + HEADER as u64).map_err(read)? {
                    break End::Torn;
                }
                return Err(Error::corrupt(path, at, "a record's header fails its checksum"));
            };
            if header.seq != seq || header.durable >= seq {
                let detail = format!("record {} found where {seq} belongs", header.seq);
                return Err(Error::corrupt(path, at, detail));
            }
            let len = header.framed_len();
            let record = window.get(at, len).map_err(read)?;
            if record.len() < len {
                return Err(Error::corrupt(path, at, "the file ends within a record"));
            }
            match judge(&header, record, at) {
                Body::Whole => {}
                Body::Torn => break End::Torn,
                Body::Damaged => return Err(Error::corrupt(path, at, format!("record {seq} fails its checksum"))),
            }
            self.replay(&header, Slot { segment: segment.id, offset: at as u32, len: len as u32 })
                .map_err(|detail| Error::corrupt(path, at, detail))?;
            self.durable = self.durable.max(header.durable);
            self.unproven.push((seq, at));
            if self.unproven.len() > 1 << 16 {
                let durable = self.durable;
                self.unproven.retain(|(seq, _)| *seq > durable);
            }
            at += len as u64;
            seq += 1;
            if header.kind == Kind::Entry {
                least = at + CONTROL_ROOM;
            }
        };
        if window.len() < least {
            let detail = format!("the file ends here; when record {} was written it had {least} bytes", seq - 1);
            return Err(Error::corrupt(path, window.len(), detail));
        }
        self.seq = Some(seq);
        Ok((at, end))
    }

    fn replay(&mut self, header: &Header, slot: Slot) -> Result<(), String> {
        self.committed = self.committed.max(header.committed);
        match header.kind {
            Kind::Entry if self.index.accepts(header.id) => self.index.push(header.id, slot),
            Kind::Entry => {
                return Err(format!("entry {} does not follow {}", header.id, place(self.index.last())));
            }
            Kind::Truncate => self.index.truncate(header.id.index),
            Kind::Reset => self.index.reset(header.id),
        }
        Ok(())
    }

    /// After the records of a segment that has a successor there is nothing.
    fn expect_zeros(&self, segment: &Segment, window: &mut Window<'_>, from: u64, why: End) -> Result<(), Error> {
        if matches!(why, End::Torn) {
            return Err(Error::corrupt(&segment.path, from, "a part of a durable record is zeros"));
        }
        match self.remains(segment, window, from)? {
            None => Ok(()),
            Some((at, _)) => Err(Error::corrupt(&segment.path, at, "bytes behind the last record of the segment")),
        }
    }

    /// Mends the end of the last segment: cuts what was never acknowledged, makes durable what stays.
    fn finish(&self, segment: &Segment, window: &mut Window<'_>, end: u64, why: End) -> Result<(), Error> {
        let path = &segment.path;
        let seq = self.seq.unwrap_or(1);
        let remains = self.remains(segment, window, end)?;
        if matches!(why, End::Torn) && self.durable >= seq {
            return Err(Error::corrupt(path, end, format!("record {seq} was durable, and a part of it is zeros")));
        }
        if self.durable >= seq {
            return Err(Error::corrupt(path, end, format!("record {seq} was durable and is missing")));
        }
        if let Some((first, to)) = remains {
            let bytes = to - first;
            tracing::warn!(path = %path.display(), at = end, bytes, record = seq, "cutting off a write that was never acknowledged");
            fsutil::write_zeros(&segment.file, end, to).map_err(Error::io(path, "clear"))?;
        }
        let from = self.unproven.iter().find(|(seq, _)| *seq > self.durable).map_or(end, |(_, at)| *at);
        let mut at = from;
        while at < end {
            let bytes = window.get(at, (end - at).min(1 << 20) as usize).map_err(Error::io(path, "read"))?;
            segment.file.write_all_at(bytes, at).map_err(Error::io(path, "write"))?;
            at += bytes.len() as u64;
        }
        segment.file.sync_all().map_err(Error::io(path, "sync"))
    }

    /// The first byte from `from` on that is not zero, and the end of the last block that isn't.
    ///
    /// # Errors
    /// `Corrupt` if a record in there was written when the one missing at `from` was durable.
    fn remains(&self, segment: &Segment, window: &mut Window<'_>, from: u64) -> Result<Option<(u64, u64)>, Error> {
        let seq = self.seq.unwrap_or(1);
        let mut found = None;
        let mut at = from;
        while at < window.len() {
            let chunk = window.get(at, 1 << 16).map_err(Error::io(&segment.path, "read"))?;
            for (i, block) in chunk.chunks(ALIGN).enumerate() {
                if block.iter().all(|b| *b == 0) {
                    continue;
                }
                let start = at + (i * ALIGN) as u64;
                found = Some((found.map_or(start, |(first, _)| first), start + block.len() as u64));
                if Header::decode(block, self.meta.salt).is_some_and(|h| h.durable >= seq) {
                    let detail =
                        format!("record {seq} is missing, though a later one at byte {start} says it was durable");
                    return Err(Error::corrupt(&segment.path, from, detail));
                }
            }
            at += chunk.len() as u64;
        }
        Ok(found)
    }

    /// The index without what is purged.
    fn purged_index(mut self, dir: &Path) -> Result<Index, Error> {
        let Some(purged) = self.meta.purged else { return Ok(self.index) };
        let gap = !self.index.is_empty() && self.index.first() > purged.index + 1;
        let short = self.index.last().is_some_and(|last| last.index < purged.index);
        if (gap && self.index.purged().is_none_or(|p| p.index + 1 < self.index.first())) || short {
            let detail = format!(
                "the log is purged up to {purged}, and its entries are those from {} to {}",
                self.index.first(),
                place(self.index.last())
            );
            return Err(Error::corrupt(dir, 0, detail));
        }
        if self.index.purged().is_none_or(|p| p.index < purged.index) {
            self.index.purge(purged);
        }
        Ok(self.index)
    }
}
