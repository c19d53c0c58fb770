//! The files of a node, whatever they hold: read without a panic, and never damage for what was written.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use super::identity::Identity;
use super::note::{Note, NoteFile};
use super::store::Mark;
use super::{envelope, snapshot};
use crate::choices::Choices;
use crate::clock::Timestamp;
use crate::state::record::{self, Globals, HotPage, RunChunk, SpecPage};
use crate::state::State;
use crate::task::TaskSpec;

pub(crate) use super::log::fuzz::log;

const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// A directory of this thread, empty at the beginning and gone at the end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = base.join(format!("xcron-fuzz-{}-{:?}", std::process::id(), std::thread::current().id()));
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        Scratch(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Reads a file, or a record, of one of the kinds.
pub(crate) fn files(data: &[u8]) {
    let mut choices = Choices::new(data);
    match choices.below(9) {
        0 => note(choices),
        1 => identity(choices),
        2 => {
            let _ = read_snapshot(&[b"xcronsn1".as_slice(), choices.rest()].concat());
        }
        3 => sealed_snapshot(choices),
        4 => seal(choices),
        5 => hot_page(choices.rest()),
        6 => again::<RunChunk>(choices.rest()),
        7 => {
            let data = choices.rest();
            again::<TaskSpec>(data);
            if let Ok(page) = record::decode::<SpecPage>(data) {
                page.iter().for_each(|(_, bytes)| again::<TaskSpec>(bytes));
            }
        }
        _ => {
            let data = choices.rest();
            again::<Globals>(data);
            again::<Mark>(data);
            if let Ok(entries) = record::indexed(data, |_| true) {
                let chunk = record::encode(&record::index_chunk(&entries)).unwrap_or_else(|e| panic!("{e}"));
                assert_eq!(record::indexed(&chunk, |_| true).ok(), Some(entries));
            }
            record::Key::from_bytes(data).into_iter().for_each(|key| assert_eq!(key.to_bytes(), data));
        }
    }
}

/// What is understood is written and read again as the same.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(data: &[u8]) {
    if let Ok(value) = record::decode::<T>(data) {
        let bytes = record::encode(&value).unwrap_or_else(|e| panic!("{e}"));
        let read: T = record::decode(&bytes).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(record::encode(&read).ok(), Some(bytes));
    }
}

/// What passes as a page of hot states makes a state that agrees with itself, or is refused.
fn hot_page(data: &[u8]) {
    again::<HotPage>(data);
    let Ok(page) = record::decode::<HotPage>(data) else { return };
    let mut state = State::new(NOW);
    for (seq, task) in page {
        if state.restore(seq, task).is_err() {
            return;
        }
    }
    let _ = state.advance(NOW, 100);
    while state.take_due(NOW).is_some() {}
    drop(state.running(NOW));
}

/// Damages a sealed payload: it is found out, or it is as it was.
fn seal(mut choices: Choices<'_>) {
    let payload = choices.bytes(300).to_vec();
    let mut sealed = envelope::seal(&payload);
    let at = choices.below(sealed.len() as u64) as usize;
    // CRC32 finds every change that lies within 32 bits.
    let change = (choices.number() as u32).to_le_bytes();
    let end = (at + 4).min(sealed.len());
    sealed[at..end].iter_mut().zip(change).for_each(|(byte, change)| *byte ^= change);
    let changed = change[..end - at] != [0; 4][..end - at];
    assert_eq!(envelope::open(&sealed).is_none(), changed, "{at}: {change:?}");
    if let Some(payload) = envelope::open(choices.rest()) {
        drop(envelope::seal(payload));
    }
}

fn note(mut choices: Choices<'_>) {
    let scratch = Scratch::new();
    let (mut file, _) = NoteFile::open(scratch.path()).unwrap_or_else(|e| panic!("{e}"));
    let written: Vec<Note> = (0..choices.below(4))
        .map(|n| Note { number: n + 1, records: choices.magnitude(), digest: choices.number(), ..Note::default() })
        .collect();
    for note in &written {
        file.write(note.clone()).unwrap_or_else(|e| panic!("{e}"));
    }
    drop(file);
    let path = scratch.path().join("checkpoint");
    let mut bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
    for _ in 0..choices.below(4) {
        let at = (choices.below(2) * 4096 + choices.magnitude() % 4096) as usize;
        bytes[at] ^= 1 << choices.below(8);
    }
    let whole = choices.flag();
    bytes.truncate(if whole { bytes.len() } else { choices.below(8193) as usize });
    std::fs::write(&path, &bytes).unwrap_or_else(|e| panic!("{e}"));
    let (_, found) = NoteFile::open(scratch.path()).unwrap_or_else(|e| panic!("{e}"));
    assert!(found.as_ref().is_none_or(|note| written.contains(note)), "{found:?} was never written");
    // Whatever bytes.
    scratch.write("checkpoint", choices.rest());
    drop(NoteFile::open(scratch.path()));
}

fn identity(mut choices: Choices<'_>) {
    let scratch = Scratch::new();
    let identity = Identity {
        store: Uuid::from_u128(u128::from(choices.number())),
        node: choices.number(),
        peer: String::from_utf8_lossy(choices.bytes(20)).into_owned(),
        cluster: choices.flag().then(|| Uuid::from_u128(1)),
        starts: choices.magnitude(),
        log: choices.number(),
    };
    identity.write(scratch.path()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(Identity::read(scratch.path()).ok().flatten().as_ref(), Some(&identity));
    let path = scratch.path().join("identity");
    let mut bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
    let (at, change) = (choices.below(bytes.len() as u64) as usize, choices.number() as u8);
    bytes[at] ^= change;
    std::fs::write(&path, &bytes).unwrap_or_else(|e| panic!("{e}"));
    // Never "no identity": the node would take another one.
    assert_eq!(Identity::read(scratch.path()).is_err(), change != 0);
    scratch.write("identity", choices.rest());
    assert!(!matches!(Identity::read(scratch.path()), Ok(None)));
}

fn read_snapshot(bytes: &[u8]) -> Option<u64> {
    let scratch = Scratch::new();
    let path = scratch.write("a.snap", bytes);
    drop(snapshot::header(&path));
    snapshot::fuzz_read(&path, NOW).ok()
}

/// A snapshot whose checksums hold, with blocks of any bytes.
fn sealed_snapshot(mut choices: Choices<'_>) {
    let mut bytes = b"xcronsn1".to_vec();
    let mut put = |payload: &[u8]| {
        let sealed = envelope::seal(payload);
        bytes.extend((sealed.len() as u32).to_le_bytes());
        bytes.extend(sealed);
    };
    let header = snapshot::Header { meta: openraft::SnapshotMeta::default() };
    put(&postcard::to_stdvec(&header).unwrap_or_else(|e| panic!("{e}")));
    for _ in 0..choices.below(4) {
        let records: Vec<(Bytes, Bytes)> = (0..choices.below(4))
            .map(|_| {
                let key = match choices.below(3) {
                    0 => choices.bytes(20).to_vec(),
                    1 => b"m".to_vec(),
                    _ => record::Key::Hot(choices.below(3)).to_bytes(),
                };
                let payload = choices.bytes(600);
                (key.into(), envelope::seal(&[&[1], payload].concat()).into())
            })
            .collect();
        match choices.one_in(4) {
            true => put(choices.bytes(100)),
            false => put(&postcard::to_stdvec(&records).unwrap_or_else(|e| panic!("{e}"))),
        }
    }
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(choices.rest());
    let _ = read_snapshot(&bytes);
}
