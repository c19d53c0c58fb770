//! Snapshots that are cut off, damaged, or find no room: what the node has stays, and it goes on.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{BasicNode, CommittedLeaderId, Entry, EntryPayload, RaftSnapshotBuilder, SnapshotMeta};
use serde_json::json;
use support::{copy, eventually, once, pass, until, with, Cluster};
use tempfile::TempDir;
use xcron::clock::{Clock, Timestamp};
use xcron::command::{Batch, Command};
use xcron::raft::{LogId, Payload, TypeConfig};
use xcron::storage::machine::{Held, LogEnds, Options, Received};
use xcron::storage::{Error, Machine};
use xcron::task::{Callback, TaskSpec, Timing};

const NOW: u64 = 1_790_000_000_000;
const NOWHERE: &str = "http://127.0.0.1:9/never";
const FAR_MS: u64 = 3_600_000;

fn options() -> Options {
    Options {
        cache_bytes: 16 << 20,
        checkpoint_interval: Duration::from_millis(50),
        checkpoint_bytes: 1 << 20,
        unsaved_bytes_max: 64 << 20,
        zone_data: xcron::schedule::ZoneData::bundled(),
    }
}

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

/// A log that is purged up to an index (0: not at all) and ends at another.
fn ends(purged: u64, last: u64) -> LogEnds {
    LogEnds { purged: (purged > 0).then(|| id(purged)), last: Some(id(last)) }
}

fn open_with(dir: &Path, options: Options, log: LogEnds) -> Result<Machine, Error> {
    Machine::open(dir, options, Clock::manual(Timestamp(NOW)), log)
}

fn open(dir: &Path, log: LogEnds) -> Machine {
    open_with(dir, options(), log).expect("it opens")
}

/// A task with a body of so many bytes.
fn entry(index: u64, body: usize) -> Entry<TypeConfig> {
    let callback = Callback::post(NOWHERE, format!("{:?}", "x".repeat(body)));
    let spec = TaskSpec::new(Timing::After { delay_ms: 60_000 }, callback);
    let commands = vec![Command::Create { id: format!("t{index}").parse().expect("an id"), spec: Box::new(spec) }];
    let bytes = Batch::of(Timestamp(NOW + index), commands).encode().expect("it encodes");
    Entry { log_id: id(index), payload: EntryPayload::Normal(Payload(Bytes::from(bytes))) }
}

async fn apply(machine: &Machine, from: u64, to: u64, body: usize) {
    for index in from..=to {
        machine.clone().apply(vec![entry(index, body)]).await.expect("it applies");
    }
}

fn has(machine: &Machine, index: u64) -> bool {
    machine.task(&format!("t{index}").parse().expect("an id")).expect("it reads").is_some()
}

/// What a snapshot is of, and its bytes.
type Sent = (SnapshotMeta<u64, BasicNode>, Vec<u8>);

fn sent(snapshot: Snapshot<TypeConfig>) -> Sent {
    match *snapshot.snapshot {
        Held::File(kept) => (snapshot.meta, std::fs::read(kept.path()).expect("it can be read")),
        other => panic!("{other:?} is no file"),
    }
}

/// A snapshot of a machine with these many entries.
async fn snapshot_of(entries: u64) -> Sent {
    let dir = TempDir::new().expect("a directory");
    let mut machine = open(dir.path(), ends(0, entries));
    apply(&machine, 1, entries, 3_000).await;
    sent(machine.build_snapshot().await.expect("a snapshot"))
}

/// A machine with one entry, and a snapshot of its own.
async fn behind(dir: &Path) -> Machine {
    let mut machine = open(dir, ends(0, 1));
    apply(&machine, 1, 1, 10).await;
    machine.build_snapshot().await.expect("a snapshot");
    machine
}

async fn receive(machine: &Machine, (meta, bytes): &Sent) -> Result<Held, Error> {
    match machine.receive(meta, 0, bytes, true).await? {
        Received::Ready(held) => Ok(held),
        other => panic!("{other:?}"),
    }
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir.join("snapshots")).expect("a directory").map(|e| e.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

/// Flips a bit at this part of a file.
fn damage(path: &Path, part: f64) {
    let mut bytes = std::fs::read(path).expect("it can be read");
    let at = (bytes.len() as f64 * part) as usize;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).expect("it can be written");
}

/// openraft queues the installation and lets the log be purged before it begins: what is on disk from the moment on at
/// which it has the snapshot must do for both logs.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_the_purge_and_the_installation_of_a_snapshot_loses_nothing() {
    let sent = snapshot_of(60).await;
    let dir = TempDir::new().unwrap();
    let mut machine = behind(dir.path()).await;
    let half = sent.1.len() / 2;
    assert!(matches!(machine.receive(&sent.0, 0, &sent.1[..half], false).await.unwrap(), Received::More));
    let cut_off = TempDir::new().unwrap();
    copy(dir.path(), cut_off.path());
    let ready = machine.receive(&sent.0, half as u64, &sent.1[half..], true).await.unwrap();
    let killed = TempDir::new().unwrap();
    copy(dir.path(), killed.path());

    let machine_cut_off = open(cut_off.path(), ends(0, 1));
    assert!(has(&machine_cut_off, 1) && !has(&machine_cut_off, 60), "half a snapshot changes nothing");
    assert_eq!(files(cut_off.path(), "tmp"), [] as [PathBuf; 0]);
    for (purged, last) in [(60, 60), (0, 1)] {
        let again = TempDir::new().unwrap();
        copy(killed.path(), again.path());
        let machine = open(again.path(), ends(purged, last));
        assert_eq!(machine.applied(), Some(id(60)), "the log is purged up to {purged}");
        assert!(has(&machine, 60));
    }

    let Received::Ready(held) = ready else { panic!("{ready:?}") };
    machine.install_snapshot(&sent.0, Box::new(held)).await.unwrap();
    assert!(has(&machine, 60));
    assert_eq!(machine.get_current_snapshot().await.unwrap().unwrap().meta, sent.0);
    eventually("what it takes the place of goes", || files(dir.path(), "snap").len() == 1).await;
}

/// A new member has no log before its first snapshot, and must not be taken for one whose log was lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_that_is_killed_as_it_takes_its_first_snapshot_starts_again() {
    let sent = snapshot_of(30).await;
    let dir = TempDir::new().unwrap();
    let machine = open(dir.path(), LogEnds::default());
    let held = receive(&machine, &sent).await.unwrap();
    let killed = TempDir::new().unwrap();
    copy(dir.path(), killed.path());
    drop((held, machine));
    for start in 1..=2 {
        let machine = open(killed.path(), LogEnds::default());
        assert_eq!(machine.applied(), Some(id(30)), "start {start}");
    }
    // With a snapshot of its own it is another matter.
    let own = TempDir::new().unwrap();
    drop(behind(own.path()).await);
    assert!(matches!(open_with(own.path(), options(), LogEnds::default()), Err(Error::Unrecoverable { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_refused_before_anything_of_the_receiver_goes() {
    let (meta, whole) = snapshot_of(60).await;
    let dir = TempDir::new().unwrap();
    let mut machine = behind(dir.path()).await;
    let own = files(dir.path(), "snap");
    for part in [0.001, 0.3, 0.7, 0.999] {
        let mut broken = whole.clone();
        let at = (whole.len() as f64 * part) as usize;
        broken[at] ^= 1;
        let refused = receive(&machine, &(meta.clone(), broken)).await;
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{part}: {refused:?}");
        assert_eq!(files(dir.path(), "snap"), own);
        assert_eq!(files(dir.path(), "tmp"), [] as [PathBuf; 0]);
    }
    let other = SnapshotMeta { last_log_id: Some(id(61)), ..meta.clone() };
    assert!(receive(&machine, &(other, whole.clone())).await.is_err(), "it is not what was announced");
    // It goes on with what it has.
    apply(&machine, 2, 2, 10).await;
    machine.checkpoint().await.unwrap();
    let held = receive(&machine, &(meta.clone(), whole)).await.unwrap();
    machine.install_snapshot(&meta, Box::new(held)).await.unwrap();
    assert!(has(&machine, 60));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_was_broken_off_goes_with_its_file_and_does_not_mix_with_the_next() {
    let (first, second) = (snapshot_of(30).await, snapshot_of(60).await);
    let dir = TempDir::new().unwrap();
    let mut machine = behind(dir.path()).await;
    let half = first.1.len() / 2;
    assert!(matches!(machine.receive(&first.0, 0, &first.1[..half], false).await.unwrap(), Received::More));
    let of_second = machine.receive(&second.0, half as u64, &second.1[half..], true).await.unwrap();
    assert!(matches!(of_second, Received::Again), "{of_second:?}");
    assert!(matches!(machine.receive(&second.0, 0, &second.1[..half], false).await.unwrap(), Received::More));
    assert_eq!(files(dir.path(), "tmp").len(), 1, "the first one's file is gone");
    let of_first = machine.receive(&first.0, half as u64, &first.1[half..], true).await.unwrap();
    assert!(matches!(of_first, Received::Again), "{of_first:?}");
    // A piece that comes twice, and one before which another is missing.
    assert!(matches!(machine.receive(&second.0, 0, &second.1[..half], false).await.unwrap(), Received::More));
    let gap = machine.receive(&second.0, half as u64 + 1, &second.1[half + 1..], true).await.unwrap();
    assert!(matches!(gap, Received::Again), "{gap:?}");
    assert!(matches!(machine.receive(&second.0, 0, &second.1[..half], false).await.unwrap(), Received::More));
    let whole = machine.receive(&second.0, half as u64, &second.1[half..], true).await.unwrap();
    let Received::Ready(held) = whole else { panic!("{whole:?}") };
    machine.install_snapshot(&second.0, Box::new(held)).await.unwrap();
    assert!(has(&machine, 60));
}

/// openraft has one worker for all that it asks of the machine.
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_applied_while_a_checkpoint_or_an_installation_waits_for_the_disk() {
    let sent = snapshot_of(30).await;
    let dir = TempDir::new().unwrap();
    let mut machine = behind(dir.path()).await;
    // From here to its installation no checkpoint can be made.
    let held = receive(&machine, &sent).await.unwrap();
    let stored = tokio::spawn({
        let machine = machine.clone();
        async move { machine.checkpoint().await }
    });
    let worker = async {
        assert!(machine.get_current_snapshot().await.unwrap().is_some());
        machine.begin_receiving_snapshot().await.unwrap();
        apply(&machine, 2, 2, 10).await;
    };
    tokio::time::timeout(Duration::from_secs(5), worker).await.expect("the worker waits for a lock");
    assert!(!stored.is_finished(), "the checkpoint waits");
    drop(held);
    stored.await.unwrap().unwrap();
    assert!(has(&machine, 2));
}

/// Whoever asks for the newest snapshot must not look for its file: another one may have taken its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_whose_file_is_gone_or_damaged_is_replaced_and_ends_nothing() {
    let dir = TempDir::new().unwrap();
    let mut machine = behind(dir.path()).await;
    apply(&machine, 2, 40, 3_000).await;
    machine.build_snapshot().await.unwrap();
    for harm in [|path: &Path| std::fs::remove_file(path).unwrap(), |path: &Path| damage(path, 0.5)] {
        drop(machine);
        machine = open(dir.path(), ends(10, 40));
        harm(&files(dir.path(), "snap")[0]);
        let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
        let Held::File(kept) = *snapshot.snapshot else { panic!("{:?}", snapshot.snapshot) };
        assert!(!machine.needs_snapshot(), "nobody has read it yet");
        assert!(kept.verify().await.is_err());
        assert!(machine.needs_snapshot());
        tokio::time::timeout(Duration::from_secs(5), machine.snapshot_needed()).await.expect("it is told");
        machine.write_snapshot().await.unwrap();
        assert!(!machine.needs_snapshot());
        let (meta, bytes) = sent(machine.get_current_snapshot().await.unwrap().unwrap());
        assert_eq!(meta.last_log_id, Some(id(40)));
        let to = TempDir::new().unwrap();
        let held = receive(&behind(to.path()).await, &(meta, bytes)).await;
        assert!(held.is_ok(), "{held:?}");
        assert_eq!(files(dir.path(), "snap").len(), 1);
    }
}

/// What is at fault is the file, and not that the system refuses something for now.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_the_disk_cannot_read_is_replaced_and_one_that_cannot_be_opened_now_is_not() {
    let dir = TempDir::new().unwrap();
    let machine = behind(dir.path()).await;
    let io = |code| {
        let source = std::sync::Arc::new(std::io::Error::from_raw_os_error(code));
        Error::Io { path: dir.path().to_owned(), action: "read", source }
    };
    let refusals = [libc::EMFILE, libc::ENOSPC, libc::ENOMEM].map(io);
    for (index, error) in (2..).zip([io(libc::EIO), io(libc::ENOENT)]) {
        let kept = machine.newest_snapshot().unwrap();
        refusals.iter().for_each(|refusal| kept.doubt(refusal));
        assert!(!machine.needs_snapshot(), "it can be read later");
        kept.doubt(&error);
        assert!(machine.needs_snapshot(), "{error}");
        tokio::time::timeout(Duration::from_secs(5), machine.snapshot_needed()).await.expect("it is told");
        apply(&machine, index, index, 10).await;
        machine.write_snapshot().await.unwrap();
        assert!(!machine.needs_snapshot());
    }
    // A file of the kernel that gives what a disk gives that cannot read.
    let kept = machine.newest_snapshot().unwrap();
    let mut failing = xcron::seam::file::open(Path::new("/proc/self/mem")).await.unwrap();
    let error = kept.read(&mut failing, 0, 100).await.unwrap_err();
    assert!(error.to_string().contains("os error 5"), "{error}");
    assert!(machine.needs_snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_with_a_damaged_header_is_set_aside_at_the_start() {
    let dir = TempDir::new().unwrap();
    let machine = behind(dir.path()).await;
    apply(&machine, 2, 10, 10).await;
    machine.checkpoint().await.unwrap();
    drop(machine);
    damage(&files(dir.path(), "snap")[0], 0.01);
    let mut machine = open(dir.path(), ends(5, 10));
    assert!(has(&machine, 10));
    assert_eq!((files(dir.path(), "snap").len(), files(dir.path(), "damaged").len()), (0, 1));
    machine.build_snapshot().await.unwrap();
    assert_eq!((files(dir.path(), "snap").len(), files(dir.path(), "damaged").len()), (1, 0));
}

/// The newest one is damaged, or the log has lost its end and begins anew after what the state has.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_ends_before_the_log_begins_is_replaced_at_the_start() {
    for log in [ends(12, 20), ends(0, 15)] {
        let dir = TempDir::new().unwrap();
        let mut machine = open(dir.path(), ends(0, 20));
        apply(&machine, 1, 10, 10).await;
        machine.build_snapshot().await.unwrap();
        apply(&machine, 11, 20, 10).await;
        machine.checkpoint().await.unwrap();
        drop(machine);
        machine = open(dir.path(), log);
        assert!(machine.get_current_snapshot().await.unwrap().is_none(), "one of the entry 10: {log:?}");
        assert_eq!(machine.build_snapshot().await.unwrap().meta.last_log_id, Some(id(20)));
        assert_eq!(files(dir.path(), "snap").len(), 1);
        // One that ends within the log will do.
        drop(machine);
        machine = open(dir.path(), ends(12, 25));
        assert!(machine.get_current_snapshot().await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_written_ends_nothing_and_the_next_can() {
    let dir = TempDir::new().unwrap();
    let mut machine = open(dir.path(), ends(0, 1));
    apply(&machine, 1, 5, 10).await;
    // Root may write everywhere: so there is nowhere.
    let (place, away) = (dir.path().join("snapshots"), dir.path().join("away"));
    std::fs::rename(&place, &away).unwrap();
    assert!(machine.write_snapshot().await.is_err());
    assert_eq!((machine.figures().snapshots, machine.figures().snapshots_failed), (0, 1));
    // openraft takes an error for the end of the node, and none for one that it may not have.
    let missing = machine.build_snapshot().await.unwrap();
    assert_eq!(missing.meta.last_log_id, None);
    assert!(machine.get_current_snapshot().await.unwrap().is_some());
    assert!(machine.needs_snapshot());
    apply(&machine, 6, 6, 10).await;
    machine.checkpoint().await.unwrap();
    std::fs::rename(&away, &place).unwrap();
    machine.write_snapshot().await.unwrap();
    assert_eq!(machine.build_snapshot().await.unwrap().meta.last_log_id, Some(id(6)));
    assert!(!machine.needs_snapshot());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_that_a_snapshot_will_take_is_known_before() {
    let dir = TempDir::new().unwrap();
    let machine = open(dir.path(), ends(0, 1));
    apply(&machine, 1, 300, 20_000).await;
    machine.checkpoint().await.unwrap();
    let wanted = machine.snapshot_room_wanted();
    let kept = machine.write_snapshot().await.unwrap();
    assert!(kept.bytes() <= wanted && wanted < kept.bytes() * 11 / 10, "{} of {wanted}", kept.bytes());
    assert!(machine.snapshot_room_wanted() >= kept.bytes(), "the next one stands beside it");
}

/// Entries that a leader sends do not wait in its proposer: the follower's own store bounds what is unsaved.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_waits_for_its_checkpoints_and_not_for_ever() {
    let dir = TempDir::new().unwrap();
    let options = Options { checkpoint_bytes: 256 << 10, unsaved_bytes_max: 512 << 10, ..options() };
    let machine = open_with(dir.path(), options, ends(0, 1)).unwrap();
    // Nobody makes checkpoints.
    apply(&machine, 1, 12, 100_000).await;
    let began = xcron::clock::monotonic();
    apply(&machine, 13, 13, 100_000).await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert!(has(&machine, 13));
    let storing = tokio::spawn({
        let machine = machine.clone();
        async move { machine.run_checkpoints().await }
    });
    let began = xcron::clock::monotonic();
    let mut most = 0;
    for index in 14..=60 {
        apply(&machine, index, index, 100_000).await;
        most = most.max(machine.figures().unsaved_bytes);
    }
    assert!(most < 2 << 20, "{most} bytes are unsaved");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    storing.abort();
}

async fn fill(cluster: &Cluster, leader: usize, prefix: &str) {
    let body = "x".repeat(100_000);
    let purged = |dir: &Path| {
        let mut files = std::fs::read_dir(dir.join("log")).expect("a log");
        files.all(|file| !file.expect("an entry").file_name().to_string_lossy().starts_with("0000000001."))
    };
    for n in 0..400 {
        let task = json!({"task_id": format!("{prefix}{n}"), "callback": {"url": NOWHERE, "body": body}});
        cluster.client(leader).create(&with(once(NOWHERE, FAR_MS), task)).await;
        if n >= 30 && cluster.running().all(|(_, node)| purged(node.dir())) {
            return;
        }
        if n % 20 == 19 {
            pass(600).await;
        }
    }
    panic!("the log is never purged");
}

/// One byte of the snapshot that a follower needs is damaged, at the leader, as disks do it: without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_of_the_leader_costs_no_follower() {
    let mut cluster = Cluster::three_with(|c| c.raft.snapshot_log_bytes = 1 << 20).await;
    let away = cluster.followers().await[0];
    cluster.level().await;
    cluster.crash(away).await;
    let leader = cluster.leader().await;
    fill(&cluster, leader, "b").await;
    let running: Vec<PathBuf> = cluster.running().map(|(_, node)| node.dir().to_owned()).collect();
    let harmed: Vec<PathBuf> = running.iter().flat_map(|dir| files(dir, "snap")).collect();
    harmed.iter().for_each(|path| damage(path, 0.5));
    cluster.start(away).await;
    cluster.node(away).await_ready().await;
    cluster.level().await;
    assert!(has_all(&cluster, away).await);
    until("a sound snapshot at the leader", || async {
        let leader = cluster.leader().await;
        let machine = cluster.node(leader).server().node().machine().clone();
        machine.newest_snapshot().filter(|kept| !kept.is_unsound() && !harmed.contains(&kept.path().to_owned()))
    })
    .await;
}

async fn has_all(cluster: &Cluster, node: usize) -> bool {
    for n in 0..30 {
        cluster.client(node).task(&format!("b{n}")).await;
    }
    true
}

/// Removes what is in this directory of a node, or damages each file there.
fn harm(dir: &Path, remove: bool) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let of_state = name.starts_with("state-") || name == "snapshots";
        match (of_state, remove) {
            (true, true) => std::fs::remove_dir_all(&path).expect("it goes"),
            (true, false) if name == "snapshots" => files(dir, "snap").iter().for_each(|path| damage(path, 0.5)),
            (true, false) => std::fs::write(path.join("db"), vec![0x5a; 4096]).expect("it can be written"),
            (false, _) => {}
        }
    }
}

/// Its log does not reach back, and none of its files has what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_lost_its_state_gets_a_snapshot_of_another_one_and_starts() {
    let mut cluster = Cluster::three_with(|c| c.raft.snapshot_log_bytes = 1 << 20).await;
    let leader = cluster.leader().await;
    fill(&cluster, leader, "b").await;
    cluster.level().await;
    for remove in [true, false] {
        let victim = cluster.followers().await[0];
        cluster.crash(victim).await;
        let dir = cluster.path(victim);
        assert_eq!(files(&dir, "snap").len(), 1, "the log is purged behind a snapshot");
        harm(&dir, remove);
        cluster.start(victim).await;
        cluster.node(victim).await_ready().await;
        cluster.level().await;
        assert!(has_all(&cluster, victim).await, "removed: {remove}");
        for n in 0..30 {
            let id = format!("b{n}").parse().expect("an id");
            let own = cluster.node(victim).server().node().machine().task(&id).expect("it reads");
            assert!(own.is_some(), "b{n} is not in its own state, removed: {remove}");
        }
    }
}
