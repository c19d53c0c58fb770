//! The end of the log on disk: frames records, writes them, syncs, and goes on to the next segment.
//!
//! Owned by the writer's thread; knows nothing of entries or of openraft.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::LogId;

use super::error::Error;
use super::index::Slot;
use super::meta::{Meta, MetaFile};
use super::record::{frame, framed_len, Header, Kind};
use super::segment::{file_name, SegmentHeader, FIRST_RECORD};
use super::space::{full_or_io, Filled, Space};
use super::status::Gauges;
use crate::seam::disk;

/// Kept free at the end of a segment for truncations, so that a full disk does not stop them.
pub(super) const CONTROL_ROOM: u64 = 512;

/// A segment that can be read.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub id: u32,
    pub file: Arc<File>,
    pub path: Arc<Path>,
}

/// Where appending goes on.
#[derive(Debug)]
pub(super) struct Tail {
    pub segment: Segment,
    pub offset: u64,
    pub filled: u64,
}

#[derive(Debug)]
pub(super) struct Appender {
    dir: PathBuf,
    segment_bytes: u64,
    space: Arc<Space>,
    gauges: Arc<Gauges>,
    meta: MetaFile,
    tail: Tail,
    next_seq: u64,
    durable: u64,
    buf: Vec<u8>,
}

impl Appender {
    /// Goes on at `tail`; without one the first segment is made. The records before `next_seq` are durable.
    pub(super) fn open(
        dir: &Path,
        segment_bytes: u64,
        space: Arc<Space>,
        gauges: Arc<Gauges>,
        mut meta: MetaFile,
        tail: Option<Tail>,
        next_seq: u64,
    ) -> Result<Appender, Error> {
        let tail = match tail {
            Some(tail) => {
                let path = tail.segment.path.to_path_buf();
                let mut active = Filled::open(path.clone(), tail.filled).map_err(Error::io(&path, "open"))?;
                active.file = Arc::clone(&tail.segment.file);
                space.set_active(active, tail.offset);
                tail
            }
            None => {
                let id = meta.get().active_segment + 1;
                begin_segment(dir, &space, &mut meta, id, next_seq, 0, FIRST_RECORD + CONTROL_ROOM)?
            }
        };
        let dir = dir.to_owned();
        let durable = next_seq - 1;
        Ok(Appender { dir, segment_bytes, space, gauges, meta, tail, next_seq, durable, buf: Vec::new() })
    }

    /// The segment that is written to.
    pub(super) fn active(&self) -> &Segment {
        &self.tail.segment
    }

    /// Bytes staged and not yet written.
    pub(super) fn staged(&self) -> usize {
        self.buf.len()
    }

    /// The most bytes of records that one [`Appender::reserve`] takes without an outsized segment.
    pub(super) fn capacity(&self) -> u64 {
        self.segment_bytes - FIRST_RECORD - CONTROL_ROOM
    }

    /// Whether `bytes` more of records go into the active segment. If not, [`Appender::flush`] comes before
    /// [`Appender::reserve`].
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.end() + bytes + CONTROL_ROOM <= self.segment_bytes || (self.end() == FIRST_RECORD)
    }

    /// Makes sure of the room for `bytes` of records, in one segment, before any of them is staged.
    ///
    /// # Errors
    /// `Full` leaves everything as it was. `next_index` goes into the header of a new segment.
    pub(super) fn reserve(&mut self, bytes: u64, next_index: u64) -> Result<(), Error> {
        if !self.fits(bytes) {
            self.roll(FIRST_RECORD + bytes + CONTROL_ROOM, next_index)?;
        }
        let end = self.end() + bytes + CONTROL_ROOM;
        if end > self.tail.filled {
            self.space.ensure(end)?;
            self.tail.filled = end;
        }
        Ok(())
    }

    /// Adds a record to what [`Appender::flush`] will write. Its room is reserved.
    pub(super) fn stage(&mut self, kind: Kind, id: LogId<u64>, payload: &[u8], committed: Option<u64>) -> Slot {
        let offset = self.end();
        let header = Header {
            kind,
            near_zero: 0,
            len: 0,
            body_crc: 0,
            seq: self.next_seq,
            durable: self.durable,
            id,
            committed: committed.filter(|c| *c <= id.index),
        };
        frame(&mut self.buf, offset, self.meta.get().salt, header, payload);
        self.next_seq += 1;
        Slot { segment: self.tail.segment.id, offset: offset as u32, len: framed_len(payload.len()) as u32 }
    }

    /// One write, one fdatasync. After an error the log must stop.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if self.buf.is_empty() {
            return Ok(());
        }
        let Tail { segment, offset, .. } = &self.tail;
        disk::write_all_at(&segment.path, &segment.file, &self.buf, *offset)
            .map_err(Error::io(&segment.path, "write"))?;
        self.gauges.sync(|| disk::sync_data(&segment.path, &segment.file)).map_err(Error::io(&segment.path, "sync"))?;
        self.tail.offset += self.buf.len() as u64;
        self.gauges.wrote(self.buf.len() as u64);
        self.durable = self.next_seq - 1;
        self.buf.clear();
        // One huge batch must not hold its memory for ever.
        self.buf.shrink_to(4 << 20);
        self.space.advance(self.tail.offset);
        Ok(())
    }

    /// Writes and syncs a truncation or a reset. Everything staged was flushed before.
    ///
    /// # Errors
    /// `Full` leaves everything as it was; after another the log must stop.
    pub(super) fn control(&mut self, kind: Kind, id: LogId<u64>) -> Result<(), Error> {
        let bytes = framed_len(0) as u64;
        if self.end() + bytes > self.tail.filled {
            self.reserve(bytes, id.index)?;
        }
        self.stage(kind, id, &[], None);
        self.flush()
    }

    /// Changes `meta` durably, and notes there what is durable here.
    pub(super) fn save_meta(&mut self, change: impl FnOnce(&mut Meta)) -> Result<(), Error> {
        let durable = self.durable;
        self.meta.save(|m| {
            m.durable = durable;
            change(m);
        })
    }

    fn end(&self) -> u64 {
        self.tail.offset + self.buf.len() as u64
    }

    fn roll(&mut self, len: u64, next_index: u64) -> Result<(), Error> {
        debug_assert!(self.buf.is_empty(), "the old segment is durable before the new one exists");
        let id = self.tail.segment.id + 1;
        self.tail = begin_segment(&self.dir, &self.space, &mut self.meta, id, self.next_seq, next_index, len)?;
        Ok(())
    }
}

/// Turns the spare file into segment `id`, with room up to `len`.
///
/// The order is what recovery rests on: all earlier records are durable, then the header is, then the name, then `meta`
/// knows that the segment exists, and only then may records go in.
fn begin_segment(
    dir: &Path,
    space: &Space,
    meta: &mut MetaFile,
    id: u32,
    first_seq: u64,
    next_index: u64,
    len: u64,
) -> Result<Tail, Error> {
    let spare = space.take_spare(len)?;
    let header = SegmentHeader { salt: meta.get().salt, id, first_seq, next_index };
    // Up to the rename nothing counts: an error that can pass leaves the log as it was.
    spare.file.write_all_at(&header.encode(), 0).map_err(|e| full_or_io(&spare.path, "write", e))?;
    spare.file.sync_all().map_err(Error::io(&spare.path, "sync"))?;
    let path = dir.join(file_name(id));
    std::fs::rename(&spare.path, &path).map_err(|e| full_or_io(&path, "create", e))?;
    space.sync_dir()?;
    meta.save(|m| {
        m.active_segment = id;
        m.durable = first_seq - 1;
    })?;
    space.spare_is_active(path.clone(), FIRST_RECORD);
    let segment = Segment { id, file: spare.file, path: Arc::from(path) };
    Ok(Tail { segment, offset: FIRST_RECORD, filled: spare.filled })
}
