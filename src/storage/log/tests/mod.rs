//! Tests of the whole log.

mod basics;
mod damage;
mod faults;
mod model;
mod suite;

use std::io::Cursor;
use std::path::Path;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, RaftLogReader};
use tempfile::TempDir;

use super::{Error, Options, RaftLog};

openraft::declare_raft_types!(
    pub Config:
        D = Vec<u8>,
        R = (),
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<Config>,
        SnapshotData = Cursor<Vec<u8>>,
);

type Log = RaftLog<Config>;

/// Small segments, and no cache, so that what is read is what is on disk.
fn small() -> Options {
    Options { segment_bytes: 8 << 10, cache_bytes: 0, ..Options::default() }
}

fn open(dir: &Path) -> Log {
    Log::open(dir, small()).unwrap()
}

fn id(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn payload(term: u64, index: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u64 * 31 + index * 7 + term) as u8 | 1).collect()
}

fn entry(term: u64, index: u64, len: usize) -> Entry<Config> {
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(payload(term, index, len)) }
}

async fn append(log: &Log, entries: Vec<Entry<Config>>) {
    log.clone().blocking_append(entries).await.unwrap();
}

/// Appends `from..to`, each in a write of its own.
async fn fill(log: &Log, term: u64, from: u64, to: u64, len: usize) {
    for index in from..to {
        append(log, vec![entry(term, index, len)]).await;
    }
}

async fn all(log: &Log) -> Vec<Entry<Config>> {
    log.clone().try_get_log_entries(..).await.unwrap()
}

async fn ids(log: &Log) -> Vec<(u64, u64)> {
    all(log).await.iter().map(|e| (e.log_id.leader_id.term, e.log_id.index)).collect()
}

async fn last(log: &Log) -> Option<LogId<u64>> {
    log.clone().get_log_state().await.unwrap().last_log_id
}

/// The files as they are: what a crash would leave.
fn image(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    restore(dir, copy.path());
    copy
}

fn restore(from: &Path, to: &Path) {
    for old in std::fs::read_dir(to).unwrap() {
        std::fs::remove_file(old.unwrap().path()).unwrap();
    }
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        // The file being filled may be renamed at any time, and does not count.
        if path.extension().is_none_or(|e| e != "tmp") {
            match std::fs::copy(&path, to.join(path.file_name().unwrap())) {
                // Purged segments go in the background.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    super::segment::list(dir).unwrap().into_iter().map(|(_, path)| path).collect()
}

fn open_err(dir: &Path) -> Error {
    match Log::open(dir, small()) {
        Ok(_) => panic!("opened"),
        Err(e) => e,
    }
}
