//! The real log and the real state machine: openraft's own suite, and what damage to the files leads to.

mod support;

use std::path::{Path, PathBuf};

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{Entry, EntryPayload, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageError, StoredMembership};
use support::copy;
use support::machine::{
    after_header, apply, clock, create, ends, entry, fill, history, id, install, open, open_at, options, records,
    snapshot_bytes,
};
use tempfile::TempDir;
use xcron::command::{Command, Reply};
use xcron::raft::{LogId, Replies, TypeConfig};
use xcron::storage::log::{self, RaftLog};
use xcron::storage::machine::{Held, LogEnds};
use xcron::storage::{Error, Machine};

/// The machine, but for one liberty of the suite: it installs another machine's snapshot without sending it.
#[derive(Clone)]
struct Under(Machine);

impl RaftStateMachine<TypeConfig> for Under {
    type SnapshotBuilder = Machine;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, StoredMembership<u64, openraft::BasicNode>), StorageError<u64>> {
        self.0.applied_state().await
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.0.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.0.get_snapshot_builder().await
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Held>, StorageError<u64>> {
        self.0.begin_receiving_snapshot().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, openraft::BasicNode>,
        snapshot: Box<Held>,
    ) -> Result<(), StorageError<u64>> {
        let bytes = snapshot_bytes(Snapshot { meta: meta.clone(), snapshot }).await;
        install(&mut self.0, meta, &bytes).await.expect("it is taken");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        self.0.get_current_snapshot().await
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, RaftLog<TypeConfig>, Under, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, RaftLog<TypeConfig>, Under), StorageError<u64>> {
        let dir = tempfile::tempdir().expect("a directory");
        let options = log::Options { segment_bytes: 64 << 10, ..log::Options::default() };
        let log = RaftLog::open(&dir.path().join("log"), options).expect("a log");
        let machine = Machine::open(dir.path(), self::options(), clock(), LogEnds::default()).expect("a machine");
        Ok((dir, log, Under(machine)))
    }
}

#[test]
fn log_and_machine_pass_the_suite_of_openraft() {
    Suite::test_all(Builder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_opened_again_has_all_of_its_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let machine = open(dir.path());
    let last = fill(&machine).await;
    let before = records(&machine).await;
    let applied = machine.applied();
    assert_eq!(applied, Some(id(last)));
    // What is applied after the checkpoint is not there: the log applies it again.
    let replies = apply(&machine, vec![entry(last + 1, vec![create("late", 1)])]).await;
    assert!(matches!(replies[0].0[0], Reply::Created { .. }));
    drop(machine);

    let machine = open(dir.path());
    assert_eq!(machine.applied(), applied);
    let (_, membership) = machine.clone().applied_state().await.unwrap();
    assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(records(&machine).await, before, "byte by byte");
    apply(&machine, vec![entry(last + 1, vec![create("late", 1)])]).await;
    assert!(machine.task(&"late".parse().unwrap()).unwrap().is_some());
    assert!(machine.task(&"task-4".parse().unwrap()).unwrap().is_none(), "deleted by the entry of task-7");
    let view = machine.task(&"task-20".parse().unwrap()).unwrap().unwrap();
    assert_eq!(view.spec.callback.body.len(), "task-20".len() * 20_000 + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_entries_give_the_same_records_however_they_are_cut() {
    let mut seen = Vec::new();
    for step in [1, 13, 1000] {
        let dir = tempfile::tempdir().unwrap();
        let machine = open(dir.path());
        for part in history().chunks(step) {
            apply(&machine, part.to_vec()).await;
            if step == 13 {
                machine.checkpoint().await.unwrap();
            }
        }
        seen.push(records(&machine).await);
    }
    assert!(seen[0] == seen[1] && seen[1] == seen[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_has_gone_is_rebuilt_from_the_log_or_a_snapshot_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let machine = open(dir.path());
    let last = fill(&machine).await;
    machine.checkpoint().await.unwrap();
    drop(machine);
    std::fs::remove_dir_all(dir.path().join("state-1")).unwrap();

    // No snapshot, and the log is purged: nobody has it.
    let error = open_at(dir.path(), ends(50, last)).map(drop).unwrap_err();
    assert!(matches!(error, Error::StateLost { .. }), "{error}");
    assert!(error.to_string().contains("put back a copy"), "it tells what to do: {error}");

    // The log has everything: the machine begins empty, and openraft applies all of it again.
    let machine = open_at(dir.path(), ends(0, last)).unwrap();
    assert_eq!(machine.applied(), None);
    fill(&machine).await;
    let complete = records(&machine).await;
    drop(machine);

    // A snapshot is there by now, which reaches as far as the log is purged.
    for state in states(dir.path()) {
        std::fs::remove_dir_all(state).unwrap();
    }
    let machine = open_at(dir.path(), ends(last - 1, last + 5)).unwrap();
    assert_eq!(machine.applied(), Some(id(last)));
    assert_eq!(records(&machine).await, complete);
}

fn states(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").path());
    paths.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("state-"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_flips_in_the_store_is_never_silently_served() {
    let dir = tempfile::tempdir().unwrap();
    let machine = open(dir.path());
    let last = fill(&machine).await;
    let complete = records(&machine).await;
    drop(machine);
    let size = std::fs::metadata(dir.path().join("state-1/db")).unwrap().len();
    let (mut rebuilt, mut whole) = (0, 0);
    for step in 0..24u64 {
        let broken = tempfile::tempdir().unwrap();
        copy(dir.path(), broken.path());
        let db = broken.path().join("state-1/db");
        let mut bytes = std::fs::read(&db).unwrap();
        let at = (size * (2 * step + 1) / 48) as usize;
        // Where nothing was ever written there is nothing to damage.
        let Some(at) = (at..bytes.len()).find(|&i| bytes[i] != 0) else { continue };
        bytes[at] ^= 0x40;
        std::fs::write(&db, bytes).unwrap();
        match open_at(broken.path(), ends(last - 1, last)) {
            Ok(machine) => {
                if states(broken.path()).iter().any(|p| p.ends_with("state-1")) {
                    whole += 1;
                } else {
                    rebuilt += 1;
                }
                assert_eq!(machine.applied(), Some(id(last)), "at byte {at}");
                assert!(records(&machine).await == complete, "another content, at byte {at}");
            }
            Err(error) => panic!("there is a snapshot to rebuild it from: {error}"),
        }
    }
    assert!(rebuilt > 0, "no flip has hit anything ({whole} opened as they were)");
}

/// Files of the store that end too early or are not there, as after a power cut on a disk that was full: sled says that it
/// cannot read them, as of a disk that fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_files_end_too_early_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let machine = open(dir.path());
    let last = fill(&machine).await;
    let large: Vec<Command> = (0..3).map(|n| create(&format!("large-{n}"), 100_000)).collect();
    apply(&machine, vec![entry(last + 1, large)]).await;
    let last = last + 1;
    // With a checkpoint of all of it.
    let complete = records(&machine).await;
    drop(machine);
    // sled takes note of what is where as it opens.
    drop(open_at(dir.path(), ends(0, last)).unwrap());
    let whole = dir.path().join("state-1");
    let listed = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let blobs = listed(&whole.join("blobs"));
    assert!(!blobs.is_empty(), "no record is large");
    let mut rebuilt = 0;
    for path in blobs.into_iter().chain([whole.join("db"), whole.join("conf")]) {
        let bytes = std::fs::metadata(&path).unwrap().len();
        let cuts = (0..8).map(|part| Some(bytes * part / 8));
        for cut in cuts.chain([None]) {
            let broken = tempfile::tempdir().unwrap();
            copy(dir.path(), broken.path());
            let path = broken.path().join(path.strip_prefix(dir.path()).unwrap());
            match cut {
                Some(bytes) => std::fs::File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            // The log has all of it, or what a snapshot has not.
            let told = || format!("{} cut to {cut:?} of {bytes} bytes", path.display());
            let machine = open_at(broken.path(), ends(0, last)).unwrap_or_else(|error| panic!("{}: {error}", told()));
            if machine.applied() == Some(id(last)) {
                assert!(records(&machine).await == complete, "{}", told());
            }
            rebuilt += usize::from(!broken.path().join("state-1").exists());
        }
    }
    assert!(rebuilt > 0, "no cut has hit anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_set_back_is_noticed_by_the_note() {
    let dir = tempfile::tempdir().unwrap();
    let machine = open(dir.path());
    apply(&machine, history()[..100].to_vec()).await;
    machine.checkpoint().await.unwrap();
    drop(machine);
    let old = tempfile::tempdir().unwrap();
    copy(&dir.path().join("state-1"), &old.path().join("state-1"));
    let machine = open(dir.path());
    apply(&machine, history()[100..].to_vec()).await;
    machine.checkpoint().await.unwrap();
    drop(machine);
    std::fs::remove_dir_all(dir.path().join("state-1")).unwrap();
    copy(&old.path().join("state-1"), &dir.path().join("state-1"));

    // Where the log still has what is missing it is applied again; where it has not, the store is refused.
    let machine = open_at(dir.path(), ends(0, 199)).unwrap();
    assert_eq!(machine.applied(), Some(id(100)));
    drop(machine);
    let error = open_at(dir.path(), ends(150, 199)).map(drop).unwrap_err();
    assert!(matches!(error, Error::StateLost { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_lost_under_a_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let machine = open(dir.path());
    fill(&machine).await;
    machine.checkpoint().await.unwrap();
    drop(machine);
    let error = open_at(dir.path(), LogEnds::default()).map(drop).unwrap_err();
    assert!(matches!(error, Error::Unrecoverable { .. }) && error.to_string().contains("log"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_note_gives_up_no_content() {
    let dir = tempfile::tempdir().unwrap();
    let machine = open(dir.path());
    let last = fill(&machine).await;
    let complete = records(&machine).await;
    drop(machine);
    let whole = std::fs::read(dir.path().join("checkpoint")).unwrap();
    let mut flipped = whole.clone();
    flipped[10] ^= 1;
    flipped[4096 + 10] ^= 1;
    for damaged in [Vec::new(), vec![0; whole.len()], whole[..4096].to_vec(), flipped] {
        let broken = tempfile::tempdir().unwrap();
        copy(dir.path(), broken.path());
        std::fs::write(broken.path().join("checkpoint"), damaged).unwrap();
        let machine = open_at(broken.path(), ends(last - 1, last)).unwrap();
        assert!(records(&machine).await == complete);
    }
    let broken = tempfile::tempdir().unwrap();
    copy(dir.path(), broken.path());
    std::fs::remove_file(broken.path().join("checkpoint")).unwrap();
    let machine = open_at(broken.path(), ends(last - 1, last)).unwrap();
    assert!(records(&machine).await == complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_makes_another_machine_the_same_byte_by_byte() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, mut to) = (open(a.path()), open(b.path()));
    let last = fill(&from).await;
    // What it had is gone afterwards.
    apply(&to, vec![entry(1, vec![create("its-own", 1)])]).await;
    let snapshot = from.clone().build_snapshot().await.unwrap();
    let meta = snapshot.meta.clone();
    let bytes = snapshot_bytes(snapshot).await;
    install(&mut to, &meta, &bytes).await.unwrap();
    assert_eq!(to.applied(), Some(id(last)));
    assert!(to.task(&"its-own".parse().unwrap()).unwrap().is_none());
    assert_eq!(to.clone().applied_state().await.unwrap(), from.clone().applied_state().await.unwrap());
    let complete = records(&from).await;
    assert!(records(&to).await == complete);
    // Both go on the same way, also after a restart.
    drop(to);
    let to = open_at(b.path(), ends(last, last + 1)).unwrap();
    assert!(records(&to).await == complete);
    for machine in [&from, &to] {
        apply(machine, vec![entry(last + 1, vec![create("next", 1), create("task-20", 1)])]).await;
    }
    assert!(records(&to).await == records(&from).await);
}

/// What is applied and stored while a snapshot is being written is not in it.
#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_go_on_while_a_snapshot_is_written() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (machine, still) = (open(a.path()), open(b.path()));
    let tasks = |index| (0..10).map(|n| create(&format!("task-{index}-{n}"), 10_000)).collect::<Vec<_>>();
    let mut within = 0;
    for round in 0..10 {
        // Twenty MB: twenty steps, and more each round.
        let first = 100 * round + 1;
        let history: Vec<_> = (first..first + 20).map(|index| entry(index, tasks(index))).collect();
        for machine in [&machine, &still] {
            apply(machine, history.clone()).await;
        }
        let later: Vec<_> = (first + 20..first + 23)
            .map(|index| {
                let gone = Command::Delete { id: format!("task-{}-3", index - 10).parse().unwrap() };
                entry(index, [tasks(index), vec![gone]].concat())
            })
            .collect();
        let before = machine.figures().checkpoints;
        let written = async {
            let snapshot = machine.clone().build_snapshot().await.unwrap();
            // The first is the snapshot's own.
            (snapshot, machine.figures().checkpoints - before - 1)
        };
        let stored = async {
            for entry in &later {
                apply(&machine, vec![entry.clone()]).await;
                machine.checkpoint().await.unwrap();
            }
        };
        let ((snapshot, meanwhile), ()) = tokio::join!(written, stored);
        // It is of one moment, which may be a little later than that at which it was asked for.
        let last = snapshot.meta.last_log_id.expect("it has entries").index;
        let (in_it, behind) = later.split_at((last - (first + 19)) as usize);
        apply(&still, in_it.to_vec()).await;
        assert!(after_header(&snapshot_bytes(snapshot).await) == records(&still).await);
        apply(&still, behind.to_vec()).await;
        within += meanwhile;
        if within > 2 {
            break;
        }
    }
    assert!(within > 2, "checkpoints were made while snapshots were written: {within}");
    let now = records(&machine).await;
    assert!(records(&still).await == now);
    let last = machine.applied().unwrap().index;
    drop(machine);
    assert!(records(&open_at(a.path(), ends(last, last)).unwrap()).await == now);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_stands_at_the_last_entry_although_it_changed_nothing() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut machine = open(from.path());
    apply(&machine, vec![entry(1, vec![create("one", 3)])]).await;
    machine.checkpoint().await.unwrap();
    // The same create again, and an entry without a command: the state stays as it was.
    apply(&machine, vec![entry(2, vec![create("one", 3)]), Entry { log_id: id(3), payload: EntryPayload::Blank }])
        .await;
    let snapshot = machine.build_snapshot().await.unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(id(3)));
    let mut other = open(to.path());
    let meta = snapshot.meta.clone();
    install(&mut other, &meta, &snapshot_bytes(snapshot).await).await.unwrap();
    assert_eq!((other.applied(), other.with_state(|s| s.len())), (Some(id(3)), 1));
    drop(machine);
    let again = open_at(from.path(), ends(3, 3)).unwrap();
    assert_eq!((again.applied(), again.with_state(|s| s.len())), (Some(id(3)), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_or_flipped_snapshot_is_refused_and_the_state_stays() {
    let dir = tempfile::tempdir().unwrap();
    let from = open(dir.path());
    fill(&from).await;
    let snapshot = from.clone().build_snapshot().await.unwrap();
    let meta = snapshot.meta.clone();
    let whole = snapshot_bytes(snapshot).await;
    let mut broken: Vec<Vec<u8>> =
        [0, 7, 12, whole.len() / 2, whole.len() - 1].into_iter().map(|len| whole[..len].to_vec()).collect();
    for step in 0..12 {
        let mut flipped = whole.clone();
        flipped[whole.len() * (2 * step + 1) / 24] ^= 4;
        broken.push(flipped);
    }
    let other = tempfile::tempdir().unwrap();
    let mut to = open(other.path());
    apply(&to, vec![entry(1, vec![create("its-own", 1)])]).await;
    to.checkpoint().await.unwrap();
    for (i, bytes) in broken.iter().enumerate() {
        assert!(install(&mut to, &meta, bytes).await.is_err(), "{i}");
        assert_eq!(to.applied(), Some(id(1)), "{i}");
        assert!(to.task(&"its-own".parse().unwrap()).unwrap().is_some());
    }
    drop(to);
    let mut to = open_at(other.path(), ends(0, 1)).unwrap();
    assert!(to.task(&"its-own".parse().unwrap()).unwrap().is_some(), "also after a restart");
    install(&mut to, &meta, &whole).await.unwrap();
    assert!(records(&to).await == records(&from).await, "and a whole one is still taken");
}

/// A machine whose store has gone must not be rebuilt from a snapshot that is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_not_rebuilt_from() {
    let dir = tempfile::tempdir().unwrap();
    let machine = open(dir.path());
    let last = fill(&machine).await;
    records(&machine).await;
    drop(machine);
    std::fs::remove_dir_all(dir.path().join("state-1")).unwrap();
    let snapshots: Vec<PathBuf> =
        std::fs::read_dir(dir.path().join("snapshots")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(snapshots.len(), 1, "the newest is kept, and it alone");
    let mut bytes = std::fs::read(&snapshots[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&snapshots[0], bytes).unwrap();
    let error = open_at(dir.path(), ends(last - 1, last)).map(drop).unwrap_err();
    assert!(matches!(error, Error::StateLost { .. }) && error.to_string().contains("checksum"), "{error}");
}
