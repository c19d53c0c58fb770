//! A scan of the store as it was at one moment, while checkpoints go on changing it.
//!
//! ```text
//!  keys   ├── passed: written to the file ──┤──────── ahead ────────┤
//!                                           └ a checkpoint that changes one here has the scan keep the old record first
//! ```
//!
//! What is kept is what the scan finds in its place. So a snapshot holds up no checkpoint, however large it is, and costs
//! the memory of what is changed ahead of it.

use std::collections::btree_map::{BTreeMap, Entry};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::pace::Pace;
use super::snapshot::{Header, Writer};
use super::store::{Change, Sealed, Store, MARK_KEY};
use super::Error;
use crate::seam::bug::{self, Bug};

/// So much is read in one step, in which no checkpoint writes.
const STEP_BYTES: usize = if cfg!(feature = "sim") { 4 << 10 } else { 1 << 20 };

/// A scan on its way through the store and into a file.
pub(super) struct Scan {
    store: Arc<Store>,
    /// The last key that was passed.
    passed: Option<Sealed>,
    /// It has passed the last of all.
    whole: bool,
    /// What has changed ahead, as it was at the beginning; none: it was not there.
    kept: BTreeMap<Vec<u8>, Option<Sealed>>,
    kept_bytes: usize,
    /// None after an error: what was written then nobody knows.
    out: Option<Writer>,
    /// What failed while a checkpoint called.
    failed: Option<Error>,
    step_bytes: usize,
    /// A checkpoint waits for each step.
    pace: Pace,
}

impl Scan {
    /// Begins: what the store has now is what the file at `path` will have.
    pub fn begin(store: Arc<Store>, header: &Header, path: &Path, pace: Pace) -> Result<Scan, Error> {
        let out = Some(Writer::create(path, header)?);
        Ok(Scan {
            store,
            passed: None,
            whole: false,
            kept: BTreeMap::new(),
            kept_bytes: 0,
            out,
            failed: None,
            step_bytes: STEP_BYTES,
            pace,
        })
    }

    /// To be called before these changes, and the mark with them, are written to the store. Where more than about
    /// `bytes_max` is kept, the scan goes on first. What fails then ends the scan, and not the checkpoint that calls.
    pub fn keep(&mut self, changes: &[Change], bytes_max: usize) {
        if self.out.is_none() {
            return;
        }
        if let Err(error) = self.keep_before(changes, bytes_max) {
            self.out = None;
            self.failed = Some(error);
            self.kept.clear();
            self.kept_bytes = 0;
        }
    }

    fn keep_before(&mut self, changes: &[Change], bytes_max: usize) -> Result<(), Error> {
        while !self.whole && self.kept_bytes > bytes_max {
            self.step()?;
        }
        if bug::is_planted(Bug::SnapshotTorn) {
            return Ok(());
        }
        let keys = changes.iter().map(|(key, _)| key.as_slice()).chain([MARK_KEY]);
        for key in keys.filter(|key| !self.whole && self.passed.as_deref() < Some(key)) {
            if let Entry::Vacant(entry) = self.kept.entry(key.to_vec()) {
                let old = self.store.sealed(key)?;
                self.kept_bytes += weight(key, old.as_ref());
                entry.insert(old);
            }
        }
        Ok(())
    }

    /// About how large the file is by now.
    pub fn written(&self) -> u64 {
        self.out.as_ref().map_or(0, Writer::bytes)
    }

    /// Goes on by a step; when all is passed, gives the file that has it.
    pub fn advance(&mut self) -> Result<Option<Writer>, Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if !self.whole {
            self.step()?;
        }
        Ok(if self.whole { self.out.take() } else { None })
    }

    fn step(&mut self) -> Result<(), Error> {
        let Scan { store, passed, kept, kept_bytes, step_bytes, .. } = self;
        let mut out =
            self.out.take().ok_or_else(|| Error::damaged(Path::new("the snapshot"), "a step of it failed"))?;
        let mut bytes = 0;
        let after = passed.take();
        let flow = store.scan(after.as_deref(), |key, now| {
            let mut changed = false;
            while let Some(first) = kept.first_entry().filter(|first| first.key().as_slice() <= &*key) {
                changed = first.key().as_slice() == &*key;
                let (key, old) = first.remove_entry();
                *kept_bytes -= weight(&key, old.as_ref());
                if let Some(old) = old {
                    out.take(&key, &old)?;
                }
            }
            if !changed {
                out.take(&key, &now)?;
            }
            bytes += key.len() + now.len();
            *passed = Some(key);
            Ok(if bytes < *step_bytes { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if flow.is_continue() {
            for (key, old) in std::mem::take(kept) {
                if let Some(old) = old {
                    out.take(&key, &old)?;
                }
            }
            *kept_bytes = 0;
            self.whole = true;
        }
        self.out = Some(out);
        self.pace.went_on();
        Ok(())
    }
}

/// About what it costs to keep a record.
fn weight(key: &[u8], old: Option<&Sealed>) -> usize {
    key.len() + old.map_or(0, |old| old.len()) + 64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::snapshot;
    use super::super::store::{Mark, Sum};
    use super::*;

    /// What the store has, as a model of it.
    type Records = BTreeMap<Vec<u8>, Vec<u8>>;

    fn change(chance: &mut StdRng) -> Change {
        // Of a hundred keys, on both sides of the mark's.
        let key = format!("{}{:02}", if chance.random() { 'a' } else { 'z' }, chance.random_range(0..50));
        let value = chance.random_ratio(2, 3).then(|| vec![chance.random(); chance.random_range(0..200)]);
        (key.into_bytes(), value)
    }

    fn all(store: &Store) -> Records {
        let mut all = Records::new();
        let flow = store.scan(None, |key, value| {
            all.insert(key.to_vec(), value.to_vec());
            Ok(ControlFlow::Continue(()))
        });
        assert!(flow.unwrap().is_continue());
        all
    }

    fn sum_of(records: &Records) -> Sum {
        let mut sum = Sum::default();
        records.iter().for_each(|(key, value)| sum.add(key, value));
        sum
    }

    /// Changes that come between the steps of a scan, at any of them, are not in what it gives.
    #[test]
    fn a_scan_gives_what_was_there_when_it_began() {
        let (mut within, mut forced) = (0, 0);
        for seed in 0..60 {
            let chance = &mut StdRng::seed_from_u64(seed);
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(dir.path(), 1, 1 << 20).unwrap());
            let mut write = |store: &Store, changes| {
                let mark = Mark { digest: chance.random(), ..Mark::default() };
                store.write(changes, Some(&mark)).unwrap();
            };
            let chance = &mut StdRng::seed_from_u64(1000 + seed);
            write(&store, (0..chance.random_range(0..150)).map(|_| change(chance)).collect());
            let before = all(&store);

            let path = dir.path().join("a.snap");
            let header = Header { meta: openraft::SnapshotMeta::default() };
            let mut scan = Scan::begin(store.clone(), &header, &path, Pace::default()).unwrap();
            scan.step_bytes = chance.random_range(1..1000);
            let kept_max = chance.random_range(0..5_000);
            let writer = loop {
                if chance.random() {
                    let changes: Vec<Change> = (0..chance.random_range(0..20)).map(|_| change(chance)).collect();
                    let (full, passed) = (scan.kept_bytes > kept_max, scan.passed.clone());
                    scan.keep(&changes, kept_max);
                    assert!(scan.failed.is_none(), "seed {seed}");
                    forced += usize::from(full && passed != scan.passed);
                    write(&store, changes);
                    within += usize::from(!scan.whole && all(&store) != before);
                } else if let Some(writer) = scan.advance().unwrap() {
                    break writer;
                }
            };
            assert_eq!((scan.kept.len(), scan.kept_bytes), (0, 0), "seed {seed}: all of it was used");
            writer.finish(sum_of(&before)).unwrap();
            let given = snapshot::records(&path).unwrap();
            assert!(given.is_sorted_by(|(a, _), (b, _)| a < b), "seed {seed}");
            let given: Records = given.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
            assert_eq!(given, before, "seed {seed}");
        }
        assert!(within > 100 && forced > 10, "{within} changes came between, {forced} had it go on");
    }

    #[test]
    fn what_changed_behind_the_back_of_a_scan_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 1, 1 << 20).unwrap());
        let record = |n: u8, value: u8| (vec![n], Some(vec![value; 10]));
        store.write((0..9).map(|n| record(n, n)).collect(), Some(&Mark::default())).unwrap();
        let sum = sum_of(&all(&store));
        let header = Header { meta: openraft::SnapshotMeta::default() };
        let mut scan = Scan::begin(store.clone(), &header, &dir.path().join("a.snap"), Pace::default()).unwrap();
        scan.step_bytes = 50;
        assert!(scan.advance().unwrap().is_none());
        store.write(vec![record(8, 7)], Some(&Mark::default())).unwrap();
        let writer = (0..9).find_map(|_| scan.advance().unwrap()).unwrap();
        assert!(matches!(writer.finish(sum), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_scan_whose_file_cannot_be_written_gives_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 1, 1 << 20).unwrap());
        let big = |n: u8| (vec![n], Some(vec![n; 1 << 20]));
        store.write((0..4).map(big).collect(), Some(&Mark::default())).unwrap();
        // It opens, and it takes nothing.
        let full = Path::new("/dev/full");
        if !full.exists() {
            // On Linux, where alone a node runs in production, it is always there.
            if cfg!(target_os = "linux") {
                panic!("there is no /dev/full");
            }
            return;
        }
        let header = Header { meta: openraft::SnapshotMeta::default() };
        let mut scan = Scan::begin(store, &header, &dir.path().join("a.snap"), Pace::default()).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(full).unwrap();
        scan.out = Some(Writer::over(file, full, &header).unwrap());
        assert!((0..3).find_map(|_| scan.advance().err()).unwrap().is_full());
        assert!(scan.advance().is_err(), "a part of the records may be missing");
    }
}
