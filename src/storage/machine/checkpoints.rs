//! Checkpoints: what has changed in memory becomes durable in the store.
//!
//! ```text
//!  in place    the changes go into the store, in one batch
//!  anew        what the store has and the changes go into a new one, which takes its place: where room is short
//! ```

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinError;

use super::super::checkpoint::Cut;
use super::super::store::{Change, Ledger, Mark, Store};
use super::super::{anew, Error};
use super::open::note_of;
use super::room::Way;
use super::{Keeper, Machine};
use crate::clock::monotonic;
use crate::seam;

/// How often, and after which pause, a checkpoint looks again whether there are descriptors for it.
const SPARE_TRIES: u32 = 100;
/// As above.
const SPARE_PAUSE: Duration = Duration::from_millis(100);
/// Between two looks whether there is room for a checkpoint.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(200);

impl Machine {
    /// Makes checkpoints while there is something to write, and room to write it. Ends with the error of the first that
    /// fails: nothing more may be written to a store of which nobody knows what it has.
    pub async fn run_checkpoints(&self) -> Error {
        loop {
            let wait = tokio::time::timeout(self.0.options.checkpoint_interval, self.0.full.notified());
            let _ = wait.await;
            match self.checkpoint().await {
                Ok(()) => {}
                // The store is as it was. The log has what is not stored meanwhile.
                Err(error) if error.may_pass() && self.0.keeper.lock().await.sound => {
                    tokio::time::sleep(NO_ROOM_PAUSE).await;
                }
                Err(error) => return error,
            }
        }
    }

    /// Makes durable in the store what has been applied.
    ///
    /// # Errors
    /// What the disk refuses.
    pub async fn checkpoint(&self) -> Result<(), Error> {
        let mut told = false;
        for _ in 0..SPARE_TRIES {
            if self.store().has_spare() {
                break;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!("a checkpoint waits: this process has no descriptor left");
            }
            tokio::time::sleep(SPARE_PAUSE).await;
        }
        // From before it has its turn: whatever stands still, be it a snapshot that is being written, holds it up.
        let _due = self.0.pace.due();
        let mut keeper = self.0.keeper.lock().await;
        self.checkpoint_with(&mut keeper, false).await
    }

    /// Entries that change nothing are no reason for a checkpoint, unless it is to be `exact`: to stand at the very last.
    pub(super) async fn checkpoint_with(&self, keeper: &mut Keeper, exact: bool) -> Result<(), Error> {
        self.is_sound(keeper)?;
        loop {
            let way = self.way(keeper).await?;
            let (cut, last) = {
                let mut core = self.core();
                match core.cut.clone() {
                    // A check has made it, or the last attempt has. What has changed since is to follow.
                    Some(cut) => (cut, false),
                    None if core.state.changes().is_empty() && !(exact && core.applied != keeper.mark.applied) => {
                        return Ok(());
                    }
                    None => (core.cut_now(false), true),
                }
            };
            self.write_cut(keeper, cut, way).await?;
            if last {
                return Ok(());
            }
        }
    }

    /// Writes the store anew, without what it keeps of records that are gone.
    ///
    /// # Errors
    /// What the disk refuses: then the store is as it was.
    pub async fn write_store_anew(&self) -> Result<(), Error> {
        let mut keeper = self.0.keeper.lock().await;
        self.is_sound(&keeper)?;
        let cut = {
            let mut core = self.core();
            core.cut.clone().unwrap_or_else(|| core.cut_now(false))
        };
        self.write_cut(&mut keeper, cut, Way::Anew).await
    }

    /// Whether the store has what the last checkpoint was to write.
    fn is_sound(&self, keeper: &Keeper) -> Result<(), Error> {
        match keeper.sound {
            true => Ok(()),
            false => Err(Error::damaged(&self.0.dir, "an earlier checkpoint failed")),
        }
    }

    /// That work on the store has panicked.
    pub(super) fn panicked(&self, panic: JoinError) -> Error {
        Error::damaged(&self.0.dir, panic)
    }

    async fn write_cut(&self, keeper: &mut Keeper, cut: Arc<Cut>, way: Way) -> Result<(), Error> {
        let began = monotonic();
        self.collect_hot(&cut).await;
        match way {
            Way::InPlace => self.write_in_place(keeper, &cut).await?,
            Way::Anew => self.write_anew(keeper, &cut).await?,
        }
        self.0.state_bytes.store(keeper.ledger.snapshot_bytes(), Ordering::Relaxed);
        self.0.state_records.store(keeper.ledger.sum().records, Ordering::Relaxed);
        if cut.check {
            self.note_check(&keeper.mark)?;
        }
        self.core().cut = None;
        self.0.room.notify_waiters();
        self.count(|f| {
            f.checkpoints += 1;
            f.checkpoint_ms = began.elapsed().as_millis() as u64;
        });
        Ok(())
    }

    async fn collect_hot(&self, cut: &Cut) {
        // An earlier attempt to write it may have collected them.
        while cut.hot.get().is_none() {
            // Few at a time, so that whoever fires or applies waits for microseconds.
            let collected = self.core().state.collect_frozen(8);
            match collected {
                Some(hot) => drop(cut.hot.set(hot)),
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// Makes durable where the store stands.
    pub(super) async fn note(&self, keeper: &Keeper, generation: u64, mark: &Mark) -> Result<(), Error> {
        let (file, note) = (keeper.note.clone(), note_of(generation, mark));
        let write = move || file.lock().unwrap_or_else(PoisonError::into_inner).write(note);
        let written = seam::blocking(write).await.map_err(|panic| self.panicked(panic))?;
        self.0.pace.went_on();
        written
    }

    async fn write_in_place(&self, keeper: &mut Keeper, cut: &Arc<Cut>) -> Result<(), Error> {
        keeper.sound = false;
        let (store, mut ledger) = (self.store(), std::mem::take(&mut keeper.ledger));
        let (from, writing, pace) = (store.clone(), cut.clone(), self.0.pace.clone());
        let changed = seam::blocking(move || {
            let changes = writing.records(&from, &ledger, &pace)?;
            changes.iter().for_each(|(key, value)| ledger.put(key, value.as_deref()));
            let mark = writing.mark(&ledger);
            Ok((changes, mark, ledger))
        });
        let (changes, mark, ledger): (Vec<Change>, Mark, Ledger) =
            changed.await.map_err(|panic| self.panicked(panic))??;
        keeper.ledger = ledger;
        let mut scan = match keeper.scan.upgrade() {
            Some(scan) => Some(scan.lock_owned().await),
            None => None,
        };
        let (new, kept_max) = (mark.clone(), self.0.options.unsaved_bytes_max);
        let pace = self.0.pace.clone();
        pace.went_on();
        let written = seam::blocking(move || {
            if let Some(scan) = &mut scan {
                scan.keep(&changes, kept_max);
            }
            store.write(changes, Some(&new))?;
            // The scan may go on while this gets durable.
            drop(scan);
            pace.went_on();
            store.sync()?;
            pace.went_on();
            Ok(())
        });
        written.await.map_err(|panic| self.panicked(panic))??;
        self.note(keeper, keeper.generation, &mark).await?;
        keeper.mark = mark;
        keeper.sound = true;
        Ok(())
    }

    /// An error leaves the store, and all that is known of it, as it was.
    async fn write_anew(&self, keeper: &mut Keeper, cut: &Arc<Cut>) -> Result<(), Error> {
        keeper.begun += 1;
        let generation = keeper.begun;
        let (old, expected, ledger) = (self.store(), keeper.mark.sum(), std::mem::take(&mut keeper.ledger));
        let (from, writing, dir, pace) = (old.clone(), cut.clone(), self.0.dir.clone(), self.0.pace.clone());
        let cache_bytes = self.0.options.cache_bytes;
        keeper.sound = false;
        let filled = seam::blocking(move || {
            let fill = || {
                let changes = writing.records(&from, &ledger, &pace)?;
                let store = Store::open(&dir, generation, cache_bytes)?;
                match anew::fill(&store, &from, expected, changes, &writing, &pace) {
                    Ok((ledger, mark)) => Ok((store, ledger, mark)),
                    Err(error) => {
                        store.give_up();
                        Err(error)
                    }
                }
            };
            let filled = fill();
            (filled, ledger)
        });
        let (filled, ledger) = filled.await.map_err(|panic| self.panicked(panic))?;
        keeper.ledger = ledger;
        let (store, ledger, mark) = match filled {
            Ok(filled) => filled,
            Err(error) => {
                keeper.sound = true;
                self.remove_store(generation).await;
                return Err(error);
            }
        };
        // From here on the next start takes the new one.
        self.note(keeper, generation, &mark).await?;
        let replaced = std::mem::replace(&mut keeper.generation, generation);
        // A snapshot that is being written goes on over the old store, which changes no more.
        keeper.scan = Weak::new();
        let old_bytes = old.disk_bytes();
        let new_bytes = store.disk_bytes();
        drop(old);
        let old = {
            let mut current = self.0.store.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::new(store))
        };
        let ledger = std::mem::replace(&mut keeper.ledger, ledger);
        keeper.mark = mark;
        keeper.sound = true;
        seam::dispose(ledger);
        tracing::info!(generation, old_bytes, new_bytes, "store written anew, to make room");
        self.clean_up(replaced, old);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::command::{Batch, Command};
    use crate::storage::belongs::alone;
    use crate::storage::still;
    use crate::task::{Callback, TaskSpec, Timing};

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    /// As large as what sled keeps in files of their own, which it opens when they are read.
    fn large(n: usize) -> Command {
        let due = NOW.plus_ms(3_600_000);
        let callback = Callback::post("http://127.0.0.1:9/", format!("\"{}\"", "x".repeat(1 << 20)));
        let timing = Timing::At { format: due.0.to_string(), due };
        Command::Create { id: format!("task-{n}").parse().unwrap(), spec: Box::new(TaskSpec::new(timing, callback)) }
    }

    /// A snapshot can take longer than it takes until the store is written anew a second time.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_is_written_anew_twice_leaves_the_one_that_is_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let machine = alone::open(dir.path(), NOW);
        alone::apply(&machine, 1, &Batch::of(NOW, (0..4).map(large).collect())).await;
        machine.checkpoint().await.unwrap();
        let is_there = |generation: u64| Store::dir_of(dir.path(), generation).exists();
        let gone = async |generation: u64| {
            let look = async {
                while is_there(generation) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), look).await.expect("a store that nobody reads is removed");
        };

        let read = machine.store();
        for replaced in 1..=3 {
            machine.write_store_anew().await.unwrap();
            if replaced > 1 {
                gone(replaced).await;
            }
        }
        assert!(is_there(1), "it is still read");
        let mut bytes = 0;
        let all = read.scan(None, |_, value| {
            bytes += value.len();
            Ok(ControlFlow::Continue(()))
        });
        assert!(all.unwrap().is_continue());
        assert!(bytes > 4 << 20, "{bytes}");
        drop(read);
        gone(1).await;
        assert!(is_there(4));
    }

    fn small(n: usize) -> Command {
        let due = NOW.plus_ms(3_600_000);
        let timing = Timing::At { format: due.0.to_string(), due };
        let callback = Callback::post("http://127.0.0.1:9/", "1".to_owned());
        Command::Create { id: format!("small-{n}").parse().unwrap(), spec: Box::new(TaskSpec::new(timing, callback)) }
    }

    /// Waits until the checkpoint that is due has made no step for some time.
    async fn stands_still(machine: &Machine, what: &str) {
        let seen = async {
            while machine.unstored().0.is_none_or(|since| since.elapsed() < Duration::from_millis(300)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap_or_else(|_| panic!("not seen: {what}"));
        assert!(machine.unstored().1 > 0, "{what}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_stands_still_is_seen_wherever_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let machine = alone::open(dir.path(), NOW);
        let mut index = 0;
        let mut apply = async || {
            index += 1;
            alone::apply(&machine, index, &Batch::of(NOW, vec![small(index as usize)])).await;
        };
        let checkpoint = || {
            tokio::spawn({
                let machine = machine.clone();
                async move { machine.checkpoint().await.unwrap() }
            })
        };
        apply().await;
        checkpoint().await.unwrap();
        for (what, calls) in [("a read", still::READS), ("a write", still::WRITES), ("a sync", still::SYNCS)] {
            apply().await;
            assert_eq!(machine.unstored().0, None, "none is due");
            let store = machine.store();
            store.still.set(calls);
            let made = checkpoint();
            stands_still(&machine, what).await;
            store.still.set(0);
            made.await.unwrap();
            assert_eq!(machine.unstored().0, None, "{what}");
        }

        apply().await;
        let store = machine.store();
        store.still.set(still::READS);
        let anew = tokio::spawn({
            let machine = machine.clone();
            async move { machine.write_store_anew().await.unwrap() }
        });
        while machine.0.keeper.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
        let made = checkpoint();
        stands_still(&machine, "a store that is written anew").await;
        store.still.set(0);
        anew.await.unwrap();
        made.await.unwrap();

        let snapshot = tokio::spawn({
            let machine = machine.clone();
            async move { machine.write_snapshot().await.unwrap() }
        });
        machine.store().still.set(still::READS);
        apply().await;
        let made = checkpoint();
        stands_still(&machine, "a snapshot's step").await;
        let installing = machine.0.installing.fetch_add(1, Ordering::Relaxed);
        assert_eq!((installing, machine.unstored().0), (0, None), "it waits for a snapshot to be installed");
        machine.0.installing.fetch_sub(1, Ordering::Relaxed);
        machine.store().still.set(0);
        drop(snapshot.await.unwrap());
        made.await.unwrap();
        assert_eq!(machine.unstored().0, None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_is_only_slow_does_not_stand_still() {
        let dir = tempfile::tempdir().unwrap();
        let machine = alone::open(dir.path(), NOW);
        alone::apply(&machine, 1, &Batch::of(NOW, (0..4000).map(small).collect())).await;
        machine.checkpoint().await.unwrap();
        // One of each page, which is read.
        let one_of_each = (0..4000).step_by(64).map(|n| Command::Delete { id: format!("small-{n}").parse().unwrap() });
        alone::apply(&machine, 2, &Batch::of(NOW, one_of_each.collect())).await;
        let store = machine.store();
        store.still.set(still::SLOW_READS);
        let began = monotonic();
        let made = tokio::spawn({
            let machine = machine.clone();
            async move { machine.checkpoint().await.unwrap() }
        });
        let mut longest = Duration::ZERO;
        while !made.is_finished() {
            longest = longest.max(machine.unstored().0.map_or(Duration::ZERO, |since| since.elapsed()));
            tokio::task::yield_now().await;
        }
        assert!(began.elapsed() > Duration::from_millis(1200), "it is not slow: {:?}", began.elapsed());
        assert!(longest < Duration::from_millis(600), "{longest:?}");
    }
}
