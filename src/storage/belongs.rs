//! Whether a store holds what a state implies: each record belongs to something that is there, and nothing is missing.
//!
//! The digests of two replicas agree also where both have left the same record behind. This looks at all records, and so
//! it is for tests and simulations.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::checkpoint::bad;
use super::store::{Store, MARK_KEY};
use super::{envelope, Error};
use crate::command::Seq;
use crate::state::record::{
    self, HotPage, Key, RunChunk, SpecPage, StoredZone, WriteBlock, HOT_PER_PAGE, INDEXED_PER_CHUNK,
};
use crate::state::{State, RUNS_KEPT_MAX};

/// What the records tell.
#[derive(Default)]
struct Found {
    zones: BTreeMap<u64, StoredZone>,
    pages: BTreeMap<u64, HotPage>,
    specs: BTreeMap<Seq, u64>,
    runs: BTreeSet<(Seq, u64)>,
    index: BTreeSet<u64>,
    writes: Vec<(u64, WriteBlock)>,
    wrong: Vec<String>,
}

/// What is wrong with a store that a checkpoint of this state has just been written to.
pub(super) fn check(state: &State, store: &Store) -> Result<Vec<String>, Error> {
    let mut found = Found::default();
    let _all = store.scan(None, |key, sealed| {
        if &*key != MARK_KEY {
            found.take(state, &key, &sealed)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found.finish(state))
}

impl Found {
    fn take(&mut self, state: &State, bytes: &[u8], sealed: &[u8]) -> Result<(), Error> {
        let Some(key) = Key::from_bytes(bytes) else {
            self.wrong.push(format!("{} is none that this version knows", Key::name_of(bytes)));
            return Ok(());
        };
        let payload = envelope::open(sealed).ok_or_else(|| bad(key, "the checksum does not hold"))?;
        let unread = |e: record::DecodeError| bad(key, e);
        let mut empty = false;
        match key {
            Key::Zone(number) => {
                self.zones.insert(number, record::decode(payload).map_err(unread)?);
            }
            Key::Hot(number) => {
                let page: HotPage = record::decode(payload).map_err(unread)?;
                empty = page.is_empty();
                self.pages.insert(number, page);
            }
            Key::SpecPage(_) => {
                let page: SpecPage = record::decode(payload).map_err(unread)?;
                empty = page.is_empty();
                page.iter().for_each(|(seq, _)| *self.specs.entry(*seq).or_default() += 1);
            }
            Key::Spec(seq) => *self.specs.entry(seq).or_default() += 1,
            Key::OnceRuns(_) | Key::Runs(..) => {
                let chunk: RunChunk = record::decode(payload).map_err(unread)?;
                empty = chunk.is_empty();
                for (seq, number, _) in chunk {
                    let once = state.task(seq).is_some_and(crate::state::Task::is_once);
                    if Key::of_run(seq, once, number) != key || !self.runs.insert((seq, number)) {
                        self.wrong
                            .push(format!("{key} has the run {number} of the task {seq}, which is not its place"));
                    }
                }
            }
            Key::Index(number) => {
                let entries = record::indexed(payload, |_| true).map_err(unread)?;
                empty = entries.is_empty();
                self.index.insert(number);
            }
            Key::Writes(block) => {
                let writes: WriteBlock = record::decode(payload).map_err(unread)?;
                empty = writes.is_empty();
                self.writes.push((block, writes));
            }
        }
        if empty {
            self.wrong.push(format!("{key} is empty"));
        }
        Ok(())
    }

    fn finish(mut self, state: &State) -> Vec<String> {
        let (mut specs, mut runs, mut pages) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::<u64, HotPage>::new());
        for (seq, task) in state.tasks_from(0) {
            specs.insert(seq, 1);
            let recorded = task.past.runs_recorded;
            runs.extend((recorded.saturating_sub(RUNS_KEPT_MAX)..recorded).map(|number| (seq, number)));
            pages.entry(seq / HOT_PER_PAGE).or_default().push((seq, task.record()));
        }
        let index = 0..state.runs_total().div_ceil(INDEXED_PER_CHUNK);
        let differ = |what: &str, has: String, implied: String| {
            (has != implied).then(|| format!("{what}: the store has {has}, and the state implies {implied}"))
        };
        let zones: BTreeMap<u64, StoredZone> = state.stored_zones().collect();
        self.wrong.extend(differ("zones", format!("{:?}", self.zones), format!("{zones:?}")));
        self.wrong.extend(differ("definitions", format!("{:?}", self.specs), format!("{specs:?}")));
        self.wrong.extend(differ("runs", format!("{:?}", self.runs), format!("{runs:?}")));
        let writes = state.write_blocks();
        self.wrong.extend(differ("named writes", format!("{:?}", self.writes), format!("{writes:?}")));
        self.wrong.extend(differ("hot states", format!("{:?}", self.pages), format!("{pages:?}")));
        self.wrong.extend(
            self.index
                .iter()
                .filter(|n| !index.contains(*n))
                .map(|n| format!("the index has the chunk {n}, beyond its end")),
        );
        self.wrong
    }
}

/// A machine that is driven without Raft.
#[cfg(test)]
pub(crate) mod alone {
    use std::path::Path;
    use std::time::Duration;

    use bytes::Bytes;
    use openraft::storage::RaftStateMachine;
    use openraft::{CommittedLeaderId, Entry, EntryPayload};

    use crate::clock::{Clock, Timestamp};
    use crate::command::Batch;
    use crate::raft::{LogId, Payload};
    use crate::schedule::ZoneData;
    use crate::storage::machine::{LogEnds, Options};
    use crate::storage::Machine;

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    /// Opens it over a log that has everything. It makes no checkpoints by itself.
    pub(crate) fn open(dir: &Path, now: Timestamp) -> Machine {
        let options = Options {
            cache_bytes: 16 << 20,
            checkpoint_interval: Duration::from_secs(1),
            checkpoint_bytes: 1 << 30,
            unsaved_bytes_max: 1 << 30,
            zone_data: ZoneData::bundled(),
        };
        let log = LogEnds { purged: None, last: Some(id(1 << 40)) };
        Machine::open(dir, options, Clock::manual(now), log).unwrap()
    }

    /// Applies the entry with this index.
    pub(crate) async fn apply(machine: &Machine, index: u64, batch: &Batch) {
        let payload = EntryPayload::Normal(Payload(Bytes::from(batch.encode().unwrap())));
        machine.clone().apply([Entry { log_id: id(index), payload }]).await.unwrap();
    }
}
