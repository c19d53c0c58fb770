//! From what has changed in memory to what is written: a consistent cut as a list of records.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::leaders::Leaders;
use super::pace::Pace;
use super::store::{Change, Ledger, Mark, Store, Sum};
use super::{envelope, Error};
use crate::command::Seq;
use crate::raft::{LogId, Membership};
use crate::run::Run;
use crate::state::record::{
    self, Globals, HotPage, IndexChunk, Key, RunChunk, SpecPage, WriteBlock, INDEXED_PER_CHUNK, RUNS_PER_CHUNK,
    SPECS_PER_PAGE, SPEC_PAGED_BYTES_MAX,
};
use crate::state::{Changes, WRITES_PER_BLOCK};
use crate::task::TaskSpec;

/// What changed up to a log entry. While it is being written, reads look here for what the store does not have yet.
pub(super) struct Cut {
    pub applied: Option<LogId>,
    pub leaders: Leaders,
    pub membership: Membership,
    pub globals: Globals,
    pub changes: Changes,
    /// The hot pages that belong to it, once they are collected.
    pub hot: OnceLock<HotPages>,
    /// Whether it stands at a check.
    pub check: bool,
}

/// The hot pages that belong to a cut; none in a pair: no task of the page is left.
pub(super) type HotPages = Vec<(u64, Option<HotPage>)>;

impl Cut {
    /// What it changes in a store whose ledger is this one.
    pub fn records(&self, store: &Store, ledger: &Ledger, pace: &Pace) -> Result<Vec<Change>, Error> {
        let hot = self.hot.get().map_or(&[][..], Vec::as_slice);
        let mut out = Records { store, ledger, pace, changes: Vec::with_capacity(hot.len()) };
        for (number, zone) in &self.changes.zones {
            out.put(Key::Zone(*number), zone.as_ref())?;
        }
        for (number, page) in hot {
            out.put(Key::Hot(*number), page.as_ref())?;
        }
        out.specs(self)?;
        out.runs(self)?;
        out.index(self)?;
        out.writes(self)?;
        Ok(out.changes)
    }

    /// The mark of a store that has it, and whose ledger is this one.
    pub fn mark(&self, ledger: &Ledger) -> Mark {
        let (membership, globals) = (self.membership.clone(), self.globals.clone());
        let Sum { records, digest } = ledger.sum();
        Mark { applied: self.applied, membership, globals, records, digest, leaders: self.leaders.clone() }
    }
}

/// A task's new definition; none: the task is gone.
type ChangedSpec<'a> = (Seq, Option<&'a Arc<TaskSpec>>);

struct Records<'a> {
    store: &'a Store,
    /// Of what the store has.
    ledger: &'a Ledger,
    pace: &'a Pace,
    changes: Vec<Change>,
}

impl Records<'_> {
    fn put<T: serde::Serialize>(&mut self, key: Key, value: Option<&T>) -> Result<(), Error> {
        let sealed = match value {
            Some(value) => {
                let payload = record::encode(value).map_err(|e| bad(key, e))?;
                Some(envelope::seal(&payload))
            }
            None => None,
        };
        self.changes.push((key.to_bytes(), sealed));
        self.pace.went_on();
        Ok(())
    }

    fn read<T: serde::de::DeserializeOwned + Default>(&self, key: Key) -> Result<T, Error> {
        let found = self.store.get(key)?;
        self.pace.went_on();
        match found {
            Some(payload) => record::decode(&payload).map_err(|e| bad(key, e)),
            None => Ok(T::default()),
        }
    }

    fn specs(&mut self, cut: &Cut) -> Result<(), Error> {
        let mut pages: BTreeMap<u64, Vec<ChangedSpec>> = BTreeMap::new();
        for (&seq, spec) in &cut.changes.specs {
            pages.entry(seq / SPECS_PER_PAGE).or_default().push((seq, spec.as_ref()));
        }
        for (number, changed) in pages {
            let key = Key::SpecPage(number);
            // A page of tasks that are all new, as most are, has nothing to be merged with.
            let whole = changed.len() as u64 == SPECS_PER_PAGE;
            let mut page = if whole { SpecPage::new() } else { self.read::<SpecPage>(key)? };
            for (seq, spec) in changed {
                page.retain(|(other, _)| *other != seq);
                let encoded = spec.map(|s| record::encode_spec(s)).transpose().map_err(|e| bad(key, e))?;
                let own = Key::Spec(seq).to_bytes();
                match encoded {
                    Some(bytes) if bytes.len() > SPEC_PAGED_BYTES_MAX => {
                        self.changes.push((own, Some(envelope::seal(&bytes))));
                        continue;
                    }
                    Some(bytes) => page.push((seq, bytes)),
                    None => {}
                }
                // It was large, and is small or gone.
                if self.ledger.has(&own) {
                    self.changes.push((own, None));
                }
            }
            page.sort_unstable_by_key(|(seq, _)| *seq);
            self.put(key, Some(page).filter(|p| !p.is_empty()).as_ref())?;
        }
        Ok(())
    }

    fn runs(&mut self, cut: &Cut) -> Result<(), Error> {
        let mut chunks: BTreeMap<Key, RunChunk> = BTreeMap::new();
        for (&seq, history) in &cut.changes.runs {
            let key_of = |number| Key::of_run(seq, history.once, number);
            if let Some((from, to)) = history.dropped {
                // Chunks that lie wholly before what is kept are removed without being read.
                for chunk in from / RUNS_PER_CHUNK..=(to - 1) / RUNS_PER_CHUNK {
                    let key = key_of(chunk * RUNS_PER_CHUNK);
                    let last = (chunk + 1) * RUNS_PER_CHUNK <= to;
                    if !history.once && last {
                        chunks.insert(key, RunChunk::new());
                    } else {
                        let chunk = self.chunk(&mut chunks, key)?;
                        chunk.retain(|(s, n, _)| *s != seq || *n < from || *n >= to);
                    }
                }
            }
            for (number, run) in &history.added {
                let chunk = self.chunk(&mut chunks, key_of(*number))?;
                chunk.retain(|(s, n, _)| (*s, *n) != (seq, *number));
                chunk.push((seq, *number, Run::clone(run)));
            }
        }
        for (key, mut chunk) in chunks {
            chunk.sort_unstable_by_key(|(seq, number, _)| (*seq, *number));
            self.put(key, Some(chunk).filter(|c| !c.is_empty()).as_ref())?;
        }
        Ok(())
    }

    fn index(&mut self, cut: &Cut) -> Result<(), Error> {
        for &number in &cut.changes.index.dropped {
            self.put::<IndexChunk>(Key::Index(number), None)?;
        }
        for (number, at, entries) in cut.changes.index.parts(INDEXED_PER_CHUNK) {
            let key = Key::Index(number);
            // Only the chunk that is being filled has a part in the store already.
            let mut chunk = match self.store.get(key)?.filter(|_| at > 0) {
                Some(payload) => record::indexed(&payload, |_| true).map_err(|e| bad(key, e))?,
                None => Vec::new(),
            };
            if chunk.len() as u64 != at {
                return Err(bad(key, format!("it has {} entries and should have {at}", chunk.len())));
            }
            chunk.extend(entries);
            self.put(key, Some(&record::index_chunk(&chunk)))?;
        }
        Ok(())
    }

    fn writes(&mut self, cut: &Cut) -> Result<(), Error> {
        for &block in &cut.changes.writes.dropped {
            self.put::<WriteBlock>(Key::Writes(block), None)?;
        }
        for (block, at, writes) in cut.changes.writes.parts(WRITES_PER_BLOCK) {
            let key = Key::Writes(block);
            // Only the block that is being filled has a part in the store already.
            let mut whole = if at > 0 { self.read::<WriteBlock>(key)? } else { WriteBlock::new() };
            if whole.len() as u64 != at {
                return Err(bad(key, format!("it has {} writes and should have {at}", whole.len())));
            }
            whole.extend_from_slice(writes);
            self.put(key, Some(&whole))?;
        }
        Ok(())
    }

    fn chunk<'c>(&self, chunks: &'c mut BTreeMap<Key, RunChunk>, key: Key) -> Result<&'c mut RunChunk, Error> {
        match chunks.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => Ok(entry.insert(self.read(key)?)),
        }
    }
}

pub(super) fn bad(key: Key, error: impl std::fmt::Display) -> Error {
    Error::damaged(std::path::Path::new("the store"), format!("{key}: {error}"))
}

/// One definition, from the store.
pub(super) fn read_spec(store: &Store, seq: Seq) -> Result<Option<TaskSpec>, Error> {
    let page = Key::SpecPage(seq / SPECS_PER_PAGE);
    // Each attempt asks for one: the others of its page are not copied.
    let small = store.read(page, |payload| {
        let page: Vec<(Seq, &[u8])> = record::decode(payload)?;
        page.into_iter().find(|(other, _)| *other == seq).map(|(_, bytes)| record::decode(bytes)).transpose()
    })?;
    if let Some(spec) = small.transpose().map_err(|e| bad(page, e))?.flatten() {
        return Ok(Some(spec));
    }
    let large = store.read(Key::Spec(seq), |payload| record::decode(payload))?;
    large.transpose().map_err(|e| bad(Key::Spec(seq), e))
}

/// The runs of a task from the number `from` on to, not including, `to`, from the store.
pub(super) fn read_runs(store: &Store, seq: Seq, once: bool, from: u64, to: u64) -> Result<Vec<(u64, Run)>, Error> {
    let mut keys: Vec<Key> = (from / RUNS_PER_CHUNK..to.div_ceil(RUNS_PER_CHUNK))
        .map(|c| Key::of_run(seq, once, c * RUNS_PER_CHUNK))
        .collect();
    keys.dedup();
    let mut runs = Vec::new();
    for key in keys {
        if let Some(payload) = store.get(key)? {
            let chunk: RunChunk = record::decode(&payload).map_err(|e| bad(key, e))?;
            runs.extend(
                chunk.into_iter().filter(|(s, n, _)| *s == seq && (from..to).contains(n)).map(|(_, n, r)| (n, r)),
            );
        }
    }
    Ok(runs)
}
