//! What the store holds: the index of the runs that have ended, and nothing of what was deleted.

mod support;

use openraft::Entry;
use openraft::RaftSnapshotBuilder;
use support::machine::{apply, create, ended, ends, entry, id, install, open, open_at, records, snapshot_bytes, NOW};
use xcron::clock::Timestamp;
use xcron::command::{Command, Verdict};
use xcron::raft::TypeConfig;
use xcron::run::RunState;
use xcron::storage::Machine;
use xcron::view::RunFilter;

/// The entries of the index, newest first: serial number, task, number in the task's history.
fn indexed(machine: &Machine, filter: &RunFilter) -> Vec<(u64, u64, u64)> {
    let (mut all, mut below) = (Vec::new(), u64::MAX);
    while below > 0 {
        let found = machine.index_below(below, filter).expect("it reads");
        all.extend(found.entries.iter().map(|(serial, entry)| (*serial, entry.seq, entry.number)));
        assert!(found.next < below, "it goes on");
        below = found.next;
    }
    all
}

/// Entries that make a hundred tasks and end runs of them, five to an entry: of the first and of one other after the
/// other. The first keeps its last hundred.
fn outcomes(machine: &Machine) -> Vec<Entry<TypeConfig>> {
    let dues: Vec<(u64, Timestamp)> =
        machine.with_state(|s| s.tasks_from(0).map(|(seq, task)| (seq, task.next.expect("it is active"))).collect());
    let mut of_first = dues[0].1;
    let entries = (0..80u64).map(|n| {
        let mut commands: Vec<Command> = (0..4)
            .map(|_| {
                let command = ended(dues[0].0, of_first);
                of_first = of_first.plus_ms(60_000);
                command
            })
            .collect();
        let (seq, due) = dues[1 + n as usize];
        commands.push(ended(seq, due));
        entry(200 + n, commands)
    });
    entries.collect()
}

async fn hundred(machine: &Machine) {
    let tasks = (0..100).map(|n| create(&if n == 0 { "ab".to_owned() } else { format!("{:03}", n) }, 1)).collect();
    apply(machine, vec![entry(1, tasks)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_of_ended_runs_is_the_same_however_it_is_cut_stored_and_sent() {
    let all = RunFilter::default();
    let mut seen = Vec::new();
    for step in [1, 7, 50, 1000] {
        let dir = tempfile::tempdir().unwrap();
        let machine = open(dir.path());
        hundred(&machine).await;
        let entries = outcomes(&machine);
        let mut lists = Vec::new();
        for part in entries.chunks(step) {
            apply(&machine, part.to_vec()).await;
            let before = indexed(&machine, &all);
            machine.checkpoint().await.unwrap();
            assert_eq!(indexed(&machine, &all), before, "in memory or in the store");
            lists.push(before);
        }
        // The first task's runs beyond the last hundred are passed over.
        let list = lists.pop().unwrap();
        let of_first: Vec<u64> = list.iter().filter(|(_, seq, _)| *seq == 1).map(|(.., number)| *number).collect();
        assert_eq!(of_first, (220..320).rev().collect::<Vec<_>>());
        assert_eq!(list.len(), 180);
        assert!(list.windows(2).all(|pair| pair[0].0 > pair[1].0), "newest first");
        assert_eq!(list[0], (399, 81, 0));
        for (serial, entry) in machine.index_below(400, &all).unwrap().entries {
            let run = machine.ended_run(&entry).unwrap().expect("it is kept");
            assert_eq!((run.due, run.state), (entry.due, entry.state), "{serial}");
        }

        // A part of it is dropped, whether it is stored by then or not.
        let last = entry(
            300,
            vec![Command::Delete { id: "001".parse().unwrap() }, Command::DropIndex { chunks: vec![0, 2, 6] }],
        );
        apply(&machine, vec![last]).await;
        let complete = records(&machine).await;
        let kept = indexed(&machine, &all);
        seen.push((complete.clone(), kept.clone()));

        let other = tempfile::tempdir().unwrap();
        let mut to = open(other.path());
        let snapshot = machine.clone().build_snapshot().await.unwrap();
        let meta = snapshot.meta.clone();
        install(&mut to, &meta, &snapshot_bytes(snapshot).await).await.unwrap();
        assert_eq!(indexed(&to, &all), kept, "at another node");
        drop((machine, to));
        for path in [dir.path(), other.path()] {
            let again = open_at(path, ends(300, 301)).unwrap();
            assert_eq!(indexed(&again, &all), kept, "after a restart");
            apply(&again, vec![entry(301, vec![ended(90, again.with_state(|s| s.task(90).unwrap().next.unwrap()))])])
                .await;
            assert_eq!(indexed(&again, &all)[0], (400, 90, 0), "the numbers go on");
        }
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_checkpoints_neither_loses_nor_doubles_entries_of_the_index() {
    let all = RunFilter::default();
    let dir = tempfile::tempdir().unwrap();
    let machine = open(dir.path());
    hundred(&machine).await;
    let entries = outcomes(&machine);
    apply(&machine, entries[..30].to_vec()).await;
    machine.checkpoint().await.unwrap();
    let note = std::fs::read(dir.path().join("checkpoint")).unwrap();
    apply(&machine, entries[30..50].to_vec()).await;
    machine.checkpoint().await.unwrap();
    apply(&machine, entries[50..].to_vec()).await;
    let whole = indexed(&machine, &all);
    drop(machine);
    // The store was written and its note was not; what was applied since, the log has.
    std::fs::write(dir.path().join("checkpoint"), note).unwrap();
    let machine = open_at(dir.path(), ends(0, 279)).unwrap();
    assert_eq!(machine.applied(), Some(id(249)));
    apply(&machine, entries[50..].to_vec()).await;
    assert_eq!(indexed(&machine, &all), whole);
    machine.checkpoint().await.unwrap();
    assert_eq!(indexed(&machine, &all), whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_filtered_and_what_is_dead_in_it_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let machine = open(dir.path());
    hundred(&machine).await;
    apply(&machine, outcomes(&machine)).await;
    let newest = machine.with_state(|s| s.task(1).unwrap().next.unwrap());
    let dues = [newest.0 - 10 * 60_000, newest.0 - 8 * 60_000].map(Timestamp);
    let filters = [
        (RunFilter { state: Some(RunState::Failed), ..RunFilter::default() }, 0),
        (RunFilter { state: Some(RunState::Succeeded), ..RunFilter::default() }, 180),
        (RunFilter { from: Some(dues[0]), to: Some(dues[1]), ..RunFilter::default() }, 3),
        (RunFilter { from: Some(newest), ..RunFilter::default() }, 0),
        // The last of all, and the first ones: those that were due once.
        (RunFilter { from: Some(Timestamp(newest.0 - 60_000)), ..RunFilter::default() }, 1),
        (RunFilter { to: Some(Timestamp(NOW + 60_001)), ..RunFilter::default() }, 80),
        (RunFilter { to: Some(Timestamp(NOW + 100_000)), ..RunFilter::default() }, 80),
    ];
    for stored in [false, true] {
        if stored {
            machine.checkpoint().await.unwrap();
        }
        for (filter, expected) in &filters {
            assert_eq!(indexed(&machine, filter).len(), *expected, "{filter:?}, stored: {stored}");
        }
    }
    assert_eq!(machine.dead_index(0).unwrap(), (vec![], None), "in each there is one that is kept");
    let deletes = (1..65).map(|n| Command::Delete { id: format!("{n:03}").parse().unwrap() }).collect();
    apply(&machine, vec![entry(300, deletes)]).await;
    // 64 of the others are gone: those of the first 320 outcomes. Of the first task the last 100 of 320 are kept, the
    // first of which is the 276th outcome.
    assert_eq!(machine.dead_index(0).unwrap(), (vec![0, 1, 2, 3], None));
    assert_eq!(machine.dead_index(2).unwrap(), (vec![2, 3], None));
    let left = indexed(&machine, &RunFilter::default());
    apply(&machine, vec![entry(301, vec![Command::DropIndex { chunks: vec![0, 1, 2, 3] }])]).await;
    machine.checkpoint().await.unwrap();
    assert_eq!(machine.dead_index(0).unwrap(), (vec![], None));
    assert_eq!(indexed(&machine, &RunFilter::default()), left);
    assert_eq!(machine.index_below(256, &RunFilter::default()).unwrap().looked_at, 0, "they are gone");
    apply(&machine, vec![entry(302, vec![Command::Delete { id: "ab".parse().unwrap() }])]).await;
    assert_eq!(machine.dead_index(0).unwrap().0, [4], "what is still being filled is not looked at");
}

/// What stands in the definition and in the runs of each task that is to go.
const HUSH: &str = "hush";

/// A task whose definition is as large as is asked for.
fn secret(name: &str, body: usize) -> Command {
    let mut command = create(name, 1);
    if let Command::Create { spec, .. } = &mut command {
        spec.name = Some(format!("{HUSH} {name}"));
        spec.callback.body = format!("{:?}", HUSH.repeat(body));
    }
    command
}

/// The end of a run, as its target has answered it.
fn told(seq: u64, due: Timestamp) -> Command {
    let mut command = ended(seq, due);
    if let Command::RunEnded { attempt, verdict, .. } = &mut command {
        attempt.answer = Some(HUSH.to_owned());
        *verdict = Verdict::Failed { reason: HUSH.to_owned() };
    }
    command
}

fn holds_hush(bytes: &[u8]) -> bool {
    bytes.windows(HUSH.len()).any(|part| part == HUSH.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_deleted_task_is_left_in_the_store() {
    // Whether its definition was stored before, and whether its runs were.
    for (made, ran) in [(false, false), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let machine = open(dir.path());
        let store = async |done: bool| {
            if done {
                machine.checkpoint().await.unwrap();
            }
        };
        // Names of even length are periodic, the others due once; each with a small and a large definition.
        let gone = ["pa", "once1", "pb", "once2"];
        let mut commands = vec![create("stays", 1), create("stayed", 1)];
        commands.extend(gone.iter().enumerate().map(|(n, name)| secret(name, if n < 2 { 1 } else { 20_000 })));
        apply(&machine, vec![entry(1, commands)]).await;
        store(made).await;
        let (mut index, mut runs) = (2, 0);
        for name in gone {
            let find =
                || machine.with_state(|s| s.find(&name.parse().unwrap()).map(|seq| (seq, s.task(seq).unwrap().next)));
            // More than fit into one record.
            for _ in 0..40 {
                let Some((seq, Some(due))) = find() else { break };
                apply(&machine, vec![entry(index, vec![told(seq, due)])]).await;
                (index, runs) = (index + 1, runs + 1);
            }
        }
        assert_eq!(runs, 2 * 40 + 2);
        store(ran).await;
        assert!(!ran || holds_hush(&records(&machine).await), "the test looks for what is never there");
        let delete = |name: &&str| Command::Delete { id: name.parse().unwrap() };
        apply(&machine, vec![entry(index, gone.iter().map(delete).collect())]).await;
        machine.checkpoint().await.unwrap();
        assert!(!holds_hush(&records(&machine).await), "stored before: definition {made}, runs {ran}");
        assert_eq!(machine.with_state(|s| s.len()), 2);
    }
}
