//! Identifiers: of tasks, runs and requests.
//!
//! A task's id may be the caller's own text; one that looks like a UUID, as the generated ones do, is kept as its 16
//! bytes. A run's id is computed from its task's id and its due time, so that each attempt, on whichever node, carries
//! the same one without any of them having asked another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Timestamp;
use crate::seam;

/// A task's identifier: 1–128 characters of `A-Za-z0-9._:-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Form);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Form {
    /// Text that is exactly the lower-case hyphenated form of a UUID: a fifth of the memory.
    Uuid([u8; 16]),
    Text(Box<str>),
}

/// Why a text is not a task id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskIdError {
    /// Empty, or longer than [`TaskId::LEN_MAX`].
    #[error("is {0} characters long; 1 to 128 are allowed")]
    Length(usize),
    /// A character outside the allowed set.
    #[error("has the character {0:?}; allowed are A-Z a-z 0-9 . _ : -")]
    Character(char),
}

impl TaskId {
    /// The longest id, in characters.
    pub const LEN_MAX: usize = 128;

    /// A new id that sorts by the time of its making (UUIDv7).
    pub fn generate() -> Self {
        TaskId(Form::Uuid(*seam::uuid().as_bytes()))
    }

    /// A hash that is the same on every node, for ever: run ids are made of it.
    pub fn stable_hash(&self) -> u64 {
        match &self.0 {
            Form::Uuid(bytes) => xxh3_64(uuid_text(bytes, &mut [0; 36]).as_bytes()),
            Form::Text(text) => xxh3_64(text.as_bytes()),
        }
    }
}

fn uuid_text<'a>(bytes: &[u8; 16], buffer: &'a mut [u8; 36]) -> &'a str {
    Uuid::from_bytes(*bytes).hyphenated().encode_lower(buffer)
}

impl FromStr for TaskId {
    type Err = TaskIdError;

    fn from_str(text: &str) -> Result<Self, TaskIdError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
        if let Some(bad) = text.chars().find(|&c| !allowed(c)) {
            return Err(TaskIdError::Character(bad));
        }
        if text.is_empty() || text.len() > Self::LEN_MAX {
            return Err(TaskIdError::Length(text.len()));
        }
        if text.len() == 36 {
            if let Ok(uuid) = Uuid::try_parse(text) {
                if uuid_text(uuid.as_bytes(), &mut [0; 36]) == text {
                    return Ok(TaskId(Form::Uuid(*uuid.as_bytes())));
                }
            }
        }
        Ok(TaskId(Form::Text(text.into())))
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Uuid(bytes) => f.write_str(uuid_text(bytes, &mut [0; 36])),
            Form::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({self})")
    }
}

#[derive(Serialize, Deserialize)]
enum Wire<'a> {
    Uuid([u8; 16]),
    Text(&'a str),
}

impl Serialize for TaskId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Form::Uuid(bytes) => Wire::Uuid(*bytes).serialize(s),
            Form::Text(text) => Wire::Text(text).serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Wire::deserialize(d)? {
            Wire::Uuid(bytes) => Ok(TaskId(Form::Uuid(bytes))),
            Wire::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// Which of a task's runs: the due time it stands for, or the moment of a manual trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunKey {
    /// The due time, or the moment of the trigger.
    pub due: Timestamp,
    /// 0 for the schedule's own run; manual triggers count from 1 within one millisecond. The upper four bits are no
    /// part of a run's id; see [`RunKey::alert`].
    pub nonce: u16,
}

impl RunKey {
    /// The bits of `nonce` that a run's id has.
    pub const NONCE: u16 = 0x0fff;
    /// None sorts behind it.
    pub const MAX: RunKey = RunKey { due: Timestamp(u64::MAX), nonce: u16::MAX };
}

impl RunKey {
    /// The run that the schedule asks for at `due`.
    pub const fn scheduled(due: Timestamp) -> Self {
        RunKey { due, nonce: 0 }
    }

    /// The run of the trigger numbered `count` of its task, made at `now`.
    pub const fn triggered(now: Timestamp, count: u64) -> Self {
        RunKey { due: now, nonce: (count % 0x0fff) as u16 + 1 }
    }
}

/// A run's identifier: a UUID (version 8) derived from the task's id and the due time.
///
/// ```text
///  48 bits  due time, ms since the epoch      (so that run ids sort by due time)
///   4 bits  version 8
///  12 bits  nonce: 0 for the schedule's run, else which manual trigger
///   2 bits  variant
///  62 bits  hash of the task's id
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId(Uuid);

const HASH_BITS: u64 = (1 << 62) - 1;

impl RunId {
    /// No run has this id; every one sorts before it.
    pub const MAX: RunId = RunId(Uuid::max());

    /// The id of the run `key` of the task `task`.
    pub fn new(task: &TaskId, key: RunKey) -> Self {
        let high = (key.due.0 << 16) | 0x8000 | u64::from(key.nonce & RunKey::NONCE);
        let low = (0b10 << 62) | (task.stable_hash() & HASH_BITS);
        RunId(Uuid::from_u64_pair(high, low))
    }

    /// What this id tells of its run: the key, and the part of the task id's hash by which to look for the task.
    pub fn parts(self) -> (RunKey, u64) {
        let (high, low) = self.0.as_u64_pair();
        (RunKey { due: Timestamp(high >> 16), nonce: (high as u16) & RunKey::NONCE }, low & HASH_BITS)
    }

    /// Whether this is the id of a run of `task`.
    pub fn belongs_to(self, task: &TaskId) -> bool {
        self.parts().1 == task.stable_hash() & HASH_BITS
    }
}

impl FromStr for RunId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::try_parse(text).map(RunId)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.hyphenated(), f)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({self})")
    }
}

/// A fresh identifier for one HTTP request: the `uuid` of its answer.
pub fn request_id() -> Uuid {
    seam::uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_reads_back_as_it_was_written() {
        for text in
            ["a", "order:42", "A.b_c-D", "0190b3f0-7a1e-7c5d-8f00-0123456789ab", "0190B3F0-7A1E-7C5D-8F00-0123456789AB"]
        {
            let id: TaskId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            let bytes = postcard::to_stdvec(&id).unwrap();
            assert_eq!(postcard::from_bytes::<TaskId>(&bytes).unwrap(), id);
        }
    }

    #[test]
    fn a_task_id_refuses_other_characters_and_lengths() {
        assert_eq!("".parse::<TaskId>(), Err(TaskIdError::Length(0)));
        assert_eq!("x".repeat(129).parse::<TaskId>(), Err(TaskIdError::Length(129)));
        assert_eq!("a b".parse::<TaskId>(), Err(TaskIdError::Character(' ')));
        assert_eq!("ä".parse::<TaskId>(), Err(TaskIdError::Character('ä')));
    }

    #[test]
    fn a_run_id_is_a_function_of_task_and_due_time() {
        let task: TaskId = "order:42".parse().unwrap();
        let other: TaskId = "order:43".parse().unwrap();
        let key = RunKey::scheduled(Timestamp(1_790_000_000_123));
        let id = RunId::new(&task, key);
        assert_eq!(id, RunId::new(&task, key));
        assert_ne!(id, RunId::new(&other, key));
        assert_ne!(id, RunId::new(&task, RunKey { nonce: 1, ..key }));
        assert_eq!(id.parts().0, key);
        assert!(id.belongs_to(&task) && !id.belongs_to(&other));
        assert_eq!(id.to_string().parse::<RunId>().unwrap(), id);
        assert_eq!(id.to_string().as_bytes()[14], b'8', "the version nibble");
    }
}
