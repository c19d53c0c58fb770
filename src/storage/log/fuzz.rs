//! Segments and `meta`, as a crash or damage leaves them: what is read was written, in its order, and nothing of it is
//! missing that was durable.

use openraft::{CommittedLeaderId, LogId};

use super::appender::CONTROL_ROOM;
use super::meta::{self, Meta, MetaFile};
use super::record::{crc, frame, framed_len, Header, Kind, HEADER};
use super::recovery::{recover, Recovered};
use super::segment::{file_name, list, SegmentHeader, FIRST_RECORD};
use super::Error;
use crate::choices::Choices;
use crate::storage::fuzz::Scratch;

const SALT: u64 = 0x5eed;
const SEGMENT: usize = 4096;

/// The ids of all entries, and the last one's where there are none.
type After = (Vec<LogId<u64>>, Option<LogId<u64>>);

/// What is written, record by record, and what the log is after each.
struct Written {
    segments: Vec<Vec<u8>>,
    /// After each record.
    states: Vec<After>,
    /// Records that were durable before the last write.
    durable: usize,
    /// Where the last write begins, in the last segment.
    last_write: usize,
}

fn id(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

/// Opens a log that was damaged in some way.
pub(crate) fn log(data: &[u8]) {
    let mut choices = Choices::new(data);
    let kind = choices.below(4);
    if kind == 3 {
        return any_bytes(choices);
    }
    let written = write(&mut choices);
    let mut segments = written.segments.clone();
    let mut meta = written.meta();
    let torn = kind == 1;
    match kind {
        0 => {}
        1 => tear(&mut choices, &written, &mut segments),
        _ => damage(&mut choices, &mut segments, &mut meta),
    }
    match open(&segments, &meta) {
        Ok(found) => written.has(&found, torn),
        Err(error) => assert!(kind == 2 && error.is_corrupt(), "{kind}: {error}"),
    }
}

fn open(segments: &[Vec<u8>], meta: &[u8]) -> Result<Recovered, Error> {
    let scratch = Scratch::new();
    for (at, bytes) in segments.iter().enumerate() {
        scratch.write(&file_name(at as u32 + 1), bytes);
    }
    scratch.write("meta", meta);
    let files = list(scratch.path())?;
    let meta = MetaFile::open(scratch.path(), true, None)?;
    let files: Vec<_> = files.into_iter().filter(|(id, _)| *id >= meta.get().first_segment).collect();
    let found = recover(&files, scratch.path(), meta.get())?;
    // What was mended is sound.
    let again = recover(&files, scratch.path(), meta.get())?;
    assert_eq!((again.index.first(), again.index.end()), (found.index.first(), found.index.end()));
    assert_eq!((again.index.last(), again.next_seq), (found.index.last(), found.next_seq));
    Ok(found)
}

fn begin(id: usize, first_seq: u64, next_index: u64) -> Vec<u8> {
    SegmentHeader { salt: SALT, id: id as u32, first_seq, next_index }.encode().to_vec()
}

/// Appends, truncates and resets, in writes of several records.
fn write(choices: &mut Choices<'_>) -> Written {
    let mut done = Written { segments: vec![begin(1, 1, 0)], states: Vec::new(), durable: 0, last_write: 512 };
    let (mut entries, mut reset, mut term): (Vec<LogId<u64>>, Option<LogId<u64>>, u64) = (Vec::new(), None, 1);
    let mut last: Option<LogId<u64>> = None;
    for _ in 0..1 + choices.below(8) {
        done.durable = done.states.len();
        let room = SEGMENT - done.segments.last().map_or(0, Vec::len);
        // A write leaves room for a control record behind it.
        if room < 1800 + CONTROL_ROOM as usize {
            let next = last.map_or(0, |id| id.index + 1);
            let number = done.segments.len() + 1;
            done.segments.last_mut().into_iter().for_each(|segment| segment.resize(SEGMENT, 0));
            done.segments.push(begin(number, done.durable as u64 + 1, next));
        }
        let durable = done.durable as u64;
        let Some(segment) = done.segments.last_mut() else { continue };
        done.last_write = segment.len();
        for _ in 0..1 + choices.below(4) {
            let seq = done.states.len() as u64 + 1;
            let next = last.map_or(0, |id| id.index + 1);
            let (kind, id, payload) = match choices.below(8) {
                0 if !entries.is_empty() => {
                    let since = entries[choices.below(entries.len() as u64) as usize];
                    entries.retain(|id| id.index < since.index);
                    last = entries.last().copied().or(reset);
                    term += 1;
                    (Kind::Truncate, since, Vec::new())
                }
                1 => {
                    let past = id(term, next + choices.below(5));
                    entries.clear();
                    (reset, last) = (Some(past), Some(past));
                    (Kind::Reset, past, Vec::new())
                }
                n => {
                    term += u64::from(n == 7);
                    let new = id(term, next);
                    entries.push(new);
                    last = Some(new);
                    let len = choices.below(350) as usize;
                    let fill = if choices.one_in(3) { 0 } else { seq as u8 };
                    (Kind::Entry, new, vec![fill; len])
                }
            };
            let header = Header { kind, near_zero: 0, len: 0, body_crc: 0, seq, durable, id, committed: None };
            let at = segment.len() as u64;
            frame(segment, at, SALT, header, &payload);
            done.states.push((entries.clone(), last));
        }
    }
    done.segments.last_mut().into_iter().for_each(|segment| segment.resize(SEGMENT, 0));
    done
}

impl Written {
    fn meta(&self) -> Vec<u8> {
        let active_segment = self.segments.len() as u32;
        let meta = Meta { version: 3, salt: SALT, first_segment: 1, active_segment, ..Meta::default() };
        let mut bytes = vec![0; 4096 + 512];
        for at in [0, 4096] {
            bytes[at..at + 512].copy_from_slice(&meta::encode(&meta));
        }
        bytes
    }

    /// Whether the log is as it was after some record, and after all that were durable.
    fn has(&self, found: &Recovered, torn: bool) {
        let records = found.next_seq as usize - 1;
        let least = if torn { self.durable } else { self.states.len() };
        assert!((least..=self.states.len()).contains(&records), "{records} of {}, {least}", self.states.len());
        let Some((entries, last)) = records.checked_sub(1).map(|at| &self.states[at]) else {
            return assert!(found.index.is_empty());
        };
        let index = &found.index;
        let ids: Vec<_> = (index.first()..index.end()).filter_map(|at| index.log_id_at(at)).collect();
        assert_eq!((&ids, index.last()), (entries, *last));
    }
}

/// Sectors of the last write that never reached the disk.
fn tear(choices: &mut Choices<'_>, written: &Written, segments: &mut [Vec<u8>]) {
    let Some(segment) = segments.last_mut() else { return };
    let first = written.last_write / 512;
    for sector in first..SEGMENT / 512 {
        if choices.flag() {
            let from = (sector * 512).max(written.last_write);
            segment[from..(sector + 1) * 512].fill(0);
        }
    }
}

/// Flips of a few bits that lie together, anywhere: what a checksum of 32 bits finds for sure.
fn damage(choices: &mut Choices<'_>, segments: &mut [Vec<u8>], meta: &mut [u8]) {
    let which = choices.below(segments.len() as u64 + 1) as usize;
    let bytes = match segments.get_mut(which) {
        Some(segment) => segment.as_mut_slice(),
        None => meta,
    };
    let at = choices.below(bytes.len() as u64) as usize;
    bytes[at] ^= 1 << choices.below(8);
}

/// Any bytes, and any bytes under checksums that hold, as another version might have written them.
fn any_bytes(mut choices: Choices<'_>) {
    let sealed = choices.flag();
    let mut meta = vec![0; 4096 + 512];
    let header = Meta {
        version: choices.magnitude(),
        salt: SALT,
        first_segment: choices.below(3) as u32,
        active_segment: choices.magnitude() as u32,
        durable: choices.magnitude(),
        purged: choices.flag().then(|| id(choices.magnitude(), choices.magnitude())),
        ..Meta::default()
    };
    meta[..512].copy_from_slice(&meta::encode(&header));
    let mut segment =
        SegmentHeader { salt: SALT, id: 1, first_seq: choices.magnitude(), next_index: 0 }.encode().to_vec();
    while sealed && choices.more() && segment.len() < SEGMENT {
        let kind = choices.pick(&[Kind::Entry, Kind::Truncate, Kind::Reset]);
        let id = id(choices.magnitude(), choices.magnitude());
        let seq = if choices.flag() { choices.below(4) } else { choices.magnitude() };
        let (durable, len) = (choices.below(2), choices.magnitude() as u32);
        let header = Header { kind, near_zero: 0, len, body_crc: 0, seq, durable, id, committed: None };
        let at = segment.len() as u64;
        if choices.one_in(4) {
            segment.extend(header.encode(SALT));
        } else {
            frame(&mut segment, at, SALT, header, choices.bytes(100));
        }
    }
    if !sealed {
        segment.truncate(if choices.flag() { FIRST_RECORD as usize } else { 0 });
        segment.extend(choices.rest());
    }
    drop(open(&[segment], &meta));
    assert_eq!(framed_len(0) % HEADER, 0);
    let _ = crc(SALT, &meta);
}
