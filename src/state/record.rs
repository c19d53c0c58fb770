//! The state as records: keys and values, whatever stores them.
//!
//! ```text
//!  Z <n>             the rules of a zone; read before the tasks that go by them
//!  h <page>          hot states of 64 neighbouring tasks
//!  d <seq / 16>      definitions of 16 neighbouring tasks, the small ones
//!  D <seq>           one large definition
//!  r <seq / 16>      ended runs of 16 neighbouring one-shot tasks
//!  R <seq> <n / 16>  16 consecutive ended runs of one periodic task
//!  i <n / 64>        which runs came to their outcomes, 64 one after the other
//!  w <n / 1024>      named writes and their replies, 1024 one after the other
//! ```
//!
//! Neighbours share a record because what a store costs is paid per key. Keys are big-endian, so their order is the
//! order of creation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::earlier::{Earlier, Left};
use crate::clock::Timestamp;
use crate::command::Seq;
use crate::id::{RunKey, TaskId};
use crate::run::{Cancelled, OpenRun, Run, RunState};
use crate::schedule::ZoneRules;
use crate::task::{Options, TaskSpec, TaskState};

/// The format of record values; the first byte of each.
pub const RECORD_FORMAT: u8 = 6;
/// Hot states in one record.
pub const HOT_PER_PAGE: u64 = 64;
/// Definitions in one record.
pub const SPECS_PER_PAGE: u64 = 16;
/// Runs in one record of a periodic task; one-shot tasks whose runs share a record.
pub const RUNS_PER_CHUNK: u64 = 16;
/// Entries in one record of the index of ended runs. More would cost the store fewer keys, and keep more of what is dead:
/// a record goes when all of its runs have gone.
pub const INDEXED_PER_CHUNK: u64 = 64;
/// An encoded definition above this has a record of its own.
pub const SPEC_PAGED_BYTES_MAX: usize = 4096;

/// The key of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The rules of a zone.
    Zone(u64),
    /// Hot states.
    Hot(u64),
    /// Small definitions.
    SpecPage(u64),
    /// A large definition.
    Spec(Seq),
    /// Runs of one-shot tasks.
    OnceRuns(u64),
    /// Runs of a periodic task: its number, and the number of the chunk.
    Runs(Seq, u64),
    /// A part of the index of ended runs.
    Index(u64),
    /// A block of named writes.
    Writes(u64),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Zone(number) => write!(f, "rules {number} of the time zones"),
            Key::Hot(page) => write!(f, "page {page} of the tasks"),
            Key::SpecPage(page) => write!(f, "page {page} of the definitions"),
            Key::Spec(seq) => write!(f, "the definition of task {seq}"),
            Key::OnceRuns(page) => write!(f, "page {page} of the runs of one-shot tasks"),
            Key::Runs(seq, chunk) => write!(f, "part {chunk} of the runs of task {seq}"),
            Key::Index(chunk) => write!(f, "part {chunk} of the index of ended runs"),
            Key::Writes(block) => write!(f, "block {block} of the named writes"),
        }
    }
}

impl Key {
    /// The name of the record under these bytes.
    pub fn name_of(bytes: &[u8]) -> String {
        let unknown = || format!("the record under {}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>());
        Key::from_bytes(bytes).map_or_else(unknown, |key| key.to_string())
    }

    /// The record in which the run numbered `number` of the task `seq` is.
    pub fn of_run(seq: Seq, once: bool, number: u64) -> Key {
        if once {
            Key::OnceRuns(seq / RUNS_PER_CHUNK)
        } else {
            Key::Runs(seq, number / RUNS_PER_CHUNK)
        }
    }

    /// As bytes that sort as the key does.
    pub fn to_bytes(self) -> Vec<u8> {
        let (tag, first, second) = match self {
            Key::Zone(number) => (b'Z', number, None),
            Key::Hot(page) => (b'h', page, None),
            Key::SpecPage(page) => (b'd', page, None),
            Key::Spec(seq) => (b'D', seq, None),
            Key::OnceRuns(page) => (b'r', page, None),
            Key::Runs(seq, chunk) => (b'R', seq, Some(chunk)),
            Key::Index(chunk) => (b'i', chunk, None),
            Key::Writes(block) => (b'w', block, None),
        };
        let mut bytes = Vec::with_capacity(17);
        bytes.push(tag);
        bytes.extend(first.to_be_bytes());
        if let Some(second) = second {
            bytes.extend(second.to_be_bytes());
        }
        bytes
    }

    /// The key that `bytes` stand for.
    pub fn from_bytes(bytes: &[u8]) -> Option<Key> {
        let (&tag, rest) = bytes.split_first()?;
        let number = |r: &[u8]| r.try_into().ok().map(u64::from_be_bytes);
        match (tag, rest.len()) {
            (b'Z', 8) => number(rest).map(Key::Zone),
            (b'h', 8) => number(rest).map(Key::Hot),
            (b'd', 8) => number(rest).map(Key::SpecPage),
            (b'D', 8) => number(rest).map(Key::Spec),
            (b'r', 8) => number(rest).map(Key::OnceRuns),
            (b'i', 8) => number(rest).map(Key::Index),
            (b'w', 8) => number(rest).map(Key::Writes),
            (b'R', 16) => Some(Key::Runs(number(&rest[..8])?, number(&rest[8..])?)),
            _ => None,
        }
    }
}

/// The hot state of one task, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of state::Task")]
pub struct HotTask {
    pub id: TaskId,
    pub digest: u128,
    pub created: Timestamp,
    pub since: Timestamp,
    pub rhythm: HotRhythm,
    pub state: TaskState,
    pub next: Option<Timestamp>,
    pub run_count: u64,
    pub runs_recorded: u64,
    pub open: Vec<OpenRun>,
    /// Definitions of open runs that do not end under the present one, each with the places of its runs.
    pub specs: Vec<(Arc<TaskSpec>, Vec<u32>)>,
    pub earlier: Vec<HotEarlier>,
    pub newest: Option<(RunKey, u64)>,
    pub cancelled: Vec<Cancelled>,
    pub finished: Option<Timestamp>,
    pub target: String,
    pub options: Options,
    pub fired: u64,
    pub latest: Option<Timestamp>,
    pub ahead: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub deleted: bool,
    pub triggers: u64,
    pub paused: Option<Pause>,
    pub failing: bool,
}

/// The rest of an earlier course of a task, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of state::earlier::Earlier")]
pub struct HotEarlier {
    pub spec: Option<Arc<TaskSpec>>,
    pub rhythm: HotRhythm,
    pub upto: Timestamp,
    pub left: Left,
    pub then: Option<Timestamp>,
}

impl HotEarlier {
    pub(super) fn of(course: &Earlier) -> HotEarlier {
        let Earlier { spec, rhythm, upto, left, then } = course.clone();
        HotEarlier { spec, rhythm: rhythm.to_record(), upto, left, then }
    }
}

/// The last time that a task was paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when.
    pub from: Timestamp,
    /// Until when; none: it still is.
    pub to: Option<Timestamp>,
}

/// How a task's due times follow each other, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HotRhythm {
    /// There is one.
    Once,
    /// By a schedule in a zone.
    Periodic {
        /// The schedule's text.
        format: String,
        /// The zone's name.
        timezone: String,
        /// The number of the zone's rules; 0 of UTC.
        rules: u64,
    },
}

/// The value of [`Key::Zone`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredZone {
    /// The rules.
    pub rules: ZoneRules,
    /// Whether what is scheduled from now on goes by them. Else others have taken their place, and tasks are left that have
    /// due times under them.
    pub current: bool,
}

/// The value of [`Key::Hot`]: the tasks of the page, in order.
pub type HotPage = Vec<(Seq, HotTask)>;

/// The value of [`Key::SpecPage`]: encoded definitions, in the order of their tasks.
pub type SpecPage = Vec<(Seq, Bytes)>;

/// The value of [`Key::Writes`], oldest first.
pub type WriteBlock = Vec<super::writes::DoneWrite>;

/// The value of [`Key::OnceRuns`] and [`Key::Runs`]: in the order of task and run number.
pub type RunChunk = Vec<(Seq, u64, Run)>;

/// An entry of the index of ended runs: what tells whether a run is asked for without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexed {
    /// The task.
    pub seq: Seq,
    /// The run's number in its task's history.
    pub number: u64,
    /// Its due time.
    pub due: Timestamp,
    /// Its outcome.
    pub state: RunState,
}

/// The value of [`Key::Index`] begins with this: what a whole chunk can be passed over by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexHead {
    /// The earliest due time.
    pub first: Timestamp,
    /// The latest.
    pub last: Timestamp,
    /// A bit for each outcome that occurs.
    pub states: u16,
}

impl IndexHead {
    /// Whether a run with this outcome is in the chunk.
    pub fn has(&self, state: RunState) -> bool {
        self.states >> state as u16 & 1 == 1
    }
}

/// The value of [`Key::Index`]: after its head the entries, in the order of their serial numbers, due times as distances
/// from the earliest.
pub type IndexChunk = (IndexHead, Vec<(Seq, u64, u64, RunState)>);

/// A chunk of these entries, which are at least one.
pub fn index_chunk(entries: &[Indexed]) -> IndexChunk {
    let due = || entries.iter().map(|entry| entry.due);
    let (first, last) = (due().min().unwrap_or_default(), due().max().unwrap_or_default());
    let states = entries.iter().fold(0, |states, entry| states | 1 << entry.state as u16);
    let packed = entries.iter().map(|e| (e.seq, e.number, e.due.0 - first.0, e.state)).collect();
    (IndexHead { first, last, states }, packed)
}

/// The entries of an encoded chunk, oldest first; none of them where its head does not pass.
///
/// # Errors
/// As [`decode`].
pub fn indexed(bytes: &[u8], passes: impl FnOnce(&IndexHead) -> bool) -> Result<Vec<Indexed>, DecodeError> {
    let rest = match bytes.split_first() {
        None => return Err(DecodeError::Empty),
        Some((&RECORD_FORMAT, rest)) => rest,
        Some((&other, _)) => return Err(DecodeError::Format(other)),
    };
    let (head, rest): (IndexHead, &[u8]) = postcard::take_from_bytes(rest)?;
    if !passes(&head) {
        return Ok(Vec::new());
    }
    let packed: Vec<(Seq, u64, u64, RunState)> = postcard::from_bytes(rest)?;
    let entry = |(seq, number, after, state)| Indexed { seq, number, due: head.first.plus_ms(after), state };
    Ok(packed.into_iter().map(entry).collect())
}

/// What belongs to no task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Globals {
    /// The number that the next task will get.
    pub next_seq: Seq,
    /// The cluster's identity.
    pub cluster: Option<Uuid>,
    /// Which store may act under which node's id.
    pub claims: BTreeMap<u64, Uuid>,
    /// The serial number that the next run to end will get.
    pub runs_total: u64,
    /// The time of the last batch.
    pub last_written: Option<Timestamp>,
    /// How many named writes were ever applied.
    pub named_writes: u64,
    /// The number that the next rules of a zone will get.
    pub next_zone: u64,
    /// Tasks from this number on may go by rules that others have taken the place of; none: no task does.
    pub moving: Option<Seq>,
}

/// Why a value is not a record.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a version with another format.
    #[error("record format {0} is not known to this version")]
    Format(u8),
    /// Not what an encoder made.
    #[error("record is damaged: {0}")]
    Damaged(#[from] postcard::Error),
    /// No bytes at all.
    #[error("record is empty")]
    Empty,
}

/// A value as bytes, with the format's number in front.
///
/// # Errors
/// Where a field cannot be written, which no record of this version has.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(value, vec![RECORD_FORMAT])
}

/// From what [`encode`] made.
///
/// # Errors
/// Bytes of another format, or damaged ones.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&RECORD_FORMAT, rest)) => Ok(postcard::from_bytes(rest)?),
        Some((&other, _)) => Err(DecodeError::Format(other)),
    }
}

/// A definition as bytes.
///
/// # Errors
/// As [`encode`].
pub fn encode_spec(spec: &TaskSpec) -> Result<Bytes, postcard::Error> {
    encode(spec).map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_sort_by_number() {
        let keys = [
            Key::Spec(7),
            Key::Runs(1, 300),
            Key::Runs(2, 0),
            Key::Zone(4),
            Key::SpecPage(0),
            Key::Hot(1),
            Key::Hot(256),
            Key::Index(3),
            Key::OnceRuns(9),
            Key::Writes(2),
        ];
        let bytes: Vec<_> = keys.iter().map(|k| k.to_bytes()).collect();
        assert!(bytes.is_sorted(), "{bytes:?}");
        for (key, bytes) in keys.iter().zip(&bytes) {
            assert_eq!(Key::from_bytes(bytes), Some(*key));
        }
        assert_eq!(Key::from_bytes(b"h123"), None);
        assert_eq!(Key::from_bytes(b""), None);
    }

    #[test]
    fn a_chunk_of_the_index_reads_back_and_is_passed_over_by_its_head() {
        let entry = |seq, due, state| Indexed { seq, number: seq * 3, due: Timestamp(due), state };
        let entries = [
            entry(9, 1_800_000_000_500, RunState::Succeeded),
            entry(1, 1_800_000_000_100, RunState::Unknown),
            entry(70_000, 1_800_000_900_000, RunState::Succeeded),
        ];
        let bytes = encode(&index_chunk(&entries)).unwrap();
        let seen = |head: &IndexHead| {
            assert_eq!((head.first.0, head.last.0), (1_800_000_000_100, 1_800_000_900_000));
            assert!(head.has(RunState::Succeeded) && head.has(RunState::Unknown) && !head.has(RunState::Failed));
            true
        };
        assert_eq!(indexed(&bytes, seen).unwrap(), entries);
        assert_eq!(indexed(&bytes, |_| false).unwrap(), []);
        assert!(indexed(&bytes[..bytes.len() - 1], |_| true).is_err());
        assert!(matches!(indexed(&[], |_| true), Err(DecodeError::Empty)));
    }

    #[test]
    fn a_record_of_another_format_is_refused_by_name() {
        let mut bytes = encode(&Globals::default()).unwrap();
        assert_eq!(decode::<Globals>(&bytes).unwrap(), Globals::default());
        bytes[0] = 9;
        assert!(matches!(decode::<Globals>(&bytes), Err(DecodeError::Format(9))));
        assert!(matches!(decode::<Globals>(&[]), Err(DecodeError::Empty)));
    }
}
