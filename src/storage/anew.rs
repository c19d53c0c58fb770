//! A store that is written anew: what another one has, with what has changed since, in a directory of its own.
//!
//! sled gives the room of what is gone back late, and that of large records later still. A new store has only what is
//! there. The old one is read and not written, so that nothing is lost where there turns out to be no room for the new one.

use std::ops::ControlFlow;

use super::checkpoint::Cut;
use super::pace::Pace;
use super::store::{Change, Ledger, Mark, Store, Sum, MARK_KEY};
use super::Error;

/// So much goes into a batch.
const BATCH_BYTES: usize = 256 << 10;
/// A new store takes so many times its records at most, while it is filled and afterwards.
const TIMES: u64 = 3;
/// What it takes beside that.
const MARGIN: u64 = 4 << 20;

/// How much room a new store may take, with so many bytes of records.
pub(super) fn room_wanted(state_bytes: u64) -> u64 {
    MARGIN.saturating_add(state_bytes.saturating_mul(TIMES))
}

/// Fills an empty store with what `old` has and a cut changes, verifies what was read, and makes it durable.
///
/// # Errors
/// What the disk refuses, and [`Error::Damaged`] where the old store does not have what its checkpoint wrote.
pub(super) fn fill(
    new: &Store,
    old: &Store,
    expected: Sum,
    mut changes: Vec<Change>,
    cut: &Cut,
    pace: &Pace,
) -> Result<(Ledger, Mark), Error> {
    // A key that comes twice counts as it comes last.
    changes.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut changes = changes.into_iter().peekable();
    let mut out = Filling { store: new, pace, ledger: Ledger::default(), batch: Vec::new(), bytes: 0 };
    let mut sum = Sum::default();
    let _all = old.scan(None, |key, sealed| {
        sum.add(&key, &sealed);
        pace.went_on();
        let mut changed = false;
        while let Some((changed_key, value)) = changes.next_if(|(k, _)| k.as_slice() <= &*key) {
            changed |= changed_key.as_slice() == &*key;
            out.take(changed_key, value)?;
        }
        if !changed && &*key != MARK_KEY {
            out.take(key.to_vec(), Some(sealed.to_vec()))?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    changes.try_for_each(|(key, value)| out.take(key, value))?;
    if sum != expected {
        return Err(old.is_not(sum, expected));
    }
    let Filling { ledger, batch, .. } = out;
    let mark = cut.mark(&ledger);
    new.write(batch, Some(&mark))?;
    pace.went_on();
    new.sync()?;
    pace.went_on();
    Ok((ledger, mark))
}

struct Filling<'a> {
    store: &'a Store,
    pace: &'a Pace,
    ledger: Ledger,
    batch: Vec<Change>,
    bytes: usize,
}

impl Filling<'_> {
    fn take(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), Error> {
        if value.is_none() && !self.ledger.has(&key) {
            return Ok(());
        }
        self.ledger.put(&key, value.as_deref());
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.batch.push((key, value));
        if self.bytes >= BATCH_BYTES {
            self.bytes = 0;
            self.store.write(std::mem::take(&mut self.batch), None)?;
            self.pace.went_on();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::room_wanted;
    use crate::clock::Timestamp;
    use crate::command::{Batch, Command};
    use crate::storage::belongs::alone;
    use crate::storage::Machine;
    use crate::task::{Callback, TaskSpec, Timing};

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn create(id: &str, bytes: usize) -> Command {
        let due = NOW.plus_ms(3_600_000);
        let timing = Timing::At { format: due.0.to_string(), due };
        let callback = Callback::post("http://127.0.0.1:9/", format!("\"{}\"", "x".repeat(bytes)));
        Command::Create { id: id.parse().unwrap(), spec: Box::new(TaskSpec::new(timing, callback)) }
    }

    /// A machine to which commands are applied, with a checkpoint after so many.
    struct Applied {
        machine: Machine,
        index: u64,
    }

    impl Applied {
        fn open(dir: &Path) -> Applied {
            Applied { machine: alone::open(dir, NOW), index: 0 }
        }

        async fn apply(&mut self, commands: Vec<Command>, every: usize) {
            for chunk in commands.chunks(every) {
                self.index += 1;
                alone::apply(&self.machine, self.index, &Batch::of(NOW, chunk.to_vec())).await;
                self.machine.checkpoint().await.unwrap();
            }
        }
    }

    fn creates(count: usize, bytes: usize) -> Vec<Command> {
        (0..count).map(|n| create(&format!("task-{n}"), bytes)).collect()
    }

    fn deletes(count: usize) -> Vec<Command> {
        (0..count).map(|n| Command::Delete { id: format!("task-{n}").parse().unwrap() }).collect()
    }

    async fn held(machine: &Machine) -> (u64, (u64, u64)) {
        machine.digest().await.unwrap()
    }

    /// As many bytes as are asked for before are enough, whatever the size of the records.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_is_written_anew_takes_no_more_than_was_asked_for() {
        for (count, bytes) in [(4000, 300), (400, 5_000), (200, 30_000), (80, 100_000), (8, 1_000_000)] {
            let dir = tempfile::tempdir().unwrap();
            let mut applied = Applied::open(dir.path());
            applied.apply(creates(count, bytes), count / 8).await;
            let (before, asked) = (held(&applied.machine).await, room_wanted(applied.machine.snapshot_bytes_next()));
            applied.machine.write_store_anew().await.unwrap();
            let takes = applied.machine.figures().disk_bytes;
            assert!(takes <= asked, "{count} tasks of {bytes} bytes: {takes}, and {asked} were asked for");
            assert_eq!(held(&applied.machine).await, before);
            assert_eq!(applied.machine.strays().unwrap(), Vec::<String>::new());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_is_written_anew_has_given_up_what_is_gone_and_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut applied = Applied::open(dir.path());
        applied.apply(creates(100, 100_000), 20).await;
        applied.apply(deletes(95), 10).await;
        let (before, bloated) = (held(&applied.machine).await, applied.machine.figures().disk_bytes);
        applied.machine.write_store_anew().await.unwrap();
        let after = applied.machine.figures().disk_bytes;
        assert!(after < bloated / 4, "{after} bytes of {bloated}");
        // It goes on in the new one.
        applied.apply(vec![create("another", 100_000)], 1).await;
        let more = held(&applied.machine).await;
        assert_eq!(more.1 .0, before.1 .0 + 1);
        drop(applied);
        let applied = Applied::open(dir.path());
        assert_eq!(held(&applied.machine).await, more);
        let named = |name: &str| dir.path().join(name).exists();
        assert!(!named("state-1") && named("state-2"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_store_that_is_damaged_is_not_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut applied = Applied::open(dir.path());
        applied.apply(creates(10, 100), 10).await;
        applied.machine.damage_index(7);
        let error = applied.machine.write_store_anew().await.unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("its last checkpoint wrote"), "{error}");
        assert!(dir.path().join("state-1").exists() && !dir.path().join("state-2").exists());
    }
}
