//! Files that are not as they were written: torn writes, flipped bits, garbled sectors. A node either comes back with
//! the right state, or refuses to start with code 1 and says what is damaged. It never serves anything else.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{json, Value};

use crate::api::{code, once, Api};
use crate::check::CATCH_UP_MAX;
use crate::harness::{eventually, holds_within, now_ms, sleep_ms, Cluster, Node, READY_MAX, SMALL};
use crate::machine::{Inner, Slot};
use crate::power::missing;
use crate::sink::Sink;
use crate::trial::{rounds, turn, Trial};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_torn_in_the_middle_loses_nothing_that_was_acknowledged() {
    let _turn = turn().await;
    let mut cluster = Cluster::new(1, SMALL);
    let base = cluster.path().to_owned();
    let Some(inner) = Inner::of(&mut cluster.nodes[0], &base, "log") else { return };
    cluster.nodes[0].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let mut trial = Trial::start(cluster, Sink::start().await);
    let times = rounds(6, 100);
    for round in 0..times {
        sleep_ms(100 + 61 * (round as u64 % 7)).await;
        inner.set(Slot::Torn, rand::random_range(1..1000));
        trial.cluster.nodes[0].exit(Duration::from_secs(20)).await;
        trial.cluster.nodes[0].spawn();
        assert!(trial.cluster.all_ready(READY_MAX).await, "round {round}");
    }
    let cut = trial.cluster.nodes[0].log_text().matches("cutting off a write that was never acknowledged").count();
    assert!(cut > 0, "no write of {times} was torn where the log could tell");
    trial.check("torn write of the log of a single node", times, &format!("{cut} times a tail was cut off")).await;
    let missing = missing(&trial.cluster, 0, &trial.load.standing()).await;
    assert!(missing.is_empty(), "{missing:?}");
}

/// All that a node says of its tasks: each of them, and its runs.
async fn content(api: &Api, port: u16) -> Result<BTreeMap<String, [Value; 3]>, String> {
    let get = async |path: String| match api.get(port, &path).await {
        Ok((200, body)) => Ok(body["data"].clone()),
        other => Err(format!("{path}: {other:?}")),
    };
    let (mut found, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = get(format!("/xcron/listTasks?limit=100&consistency=local{cursor}")).await?;
        for task in page["tasks"].as_array().ok_or("no tasks")? {
            let id = task["task_id"].as_str().ok_or("no id")?;
            let asked = get(format!("/xcron/queryTask?task_id={id}&consistency=local")).await?;
            let runs = get(format!("/xcron/listRuns?task_id={id}&limit=100&consistency=local")).await?;
            found.insert(id.to_owned(), [task.clone(), asked, runs]);
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(found),
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("list a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A copy of a directory's files.
struct Copy(Vec<(PathBuf, Vec<u8>)>);

impl Copy {
    fn of(dir: &Path) -> Copy {
        let read = |path: PathBuf| {
            let bytes = std::fs::read(&path).expect("read a file");
            (path, bytes)
        };
        Copy(files(dir).into_iter().map(read).collect())
    }

    /// Puts everything back as it was.
    fn restore(&self, dir: &Path) {
        std::fs::remove_dir_all(dir).expect("remove the directory");
        for (path, bytes) in &self.0 {
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("make a directory");
            std::fs::write(path, bytes).expect("write a file");
        }
    }
}

/// The files of a kind, by the first part of their path in the directory.
const KINDS: [&str; 6] = ["log/0", "log/meta", "identity", "checkpoint", "snapshots/", "state-"];

/// A byte of a file of this kind, up to the last one that is not zero.
fn place(copy: &Copy, dir: &Path, kind: &str) -> Option<(PathBuf, u64)> {
    let of_kind = |path: &Path| path.strip_prefix(dir).is_ok_and(|below| below.to_string_lossy().starts_with(kind));
    let used = |bytes: &[u8]| bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let candidates: Vec<(&PathBuf, usize)> = copy
        .0
        .iter()
        .filter(|(path, _)| of_kind(path))
        .map(|(path, bytes)| (path, used(bytes)))
        .filter(|(_, used)| *used > 0)
        .collect();
    let mut at = rand::random_range(0..candidates.iter().map(|(_, used)| used).sum::<usize>().max(1));
    for (path, used) in candidates {
        if at < used {
            return Some((path.clone(), at as u64));
        }
        at -= used;
    }
    None
}

/// A bit that was flipped.
#[derive(Debug)]
struct Flip {
    path: PathBuf,
    at: u64,
    bit: u8,
    /// The byte since.
    flipped: u8,
}

impl Flip {
    /// Flips one in a file of this kind, if there is any.
    fn make(copy: &Copy, dir: &Path, kind: &str) -> Option<Flip> {
        let (path, at) = place(copy, dir, kind)?;
        let bit = rand::random_range(0..8);
        let flipped = flip(&path, at, bit);
        Some(Flip { path, at, bit, flipped })
    }

    /// Flips it back where it still is: what was not read is not to be found by the next round.
    fn undo(&self) {
        if std::fs::read(&self.path).is_ok_and(|bytes| bytes.get(self.at as usize) == Some(&self.flipped)) {
            flip(&self.path, self.at, self.bit);
        }
    }
}

/// The byte that it becomes.
fn flip(path: &Path, at: u64, bit: u8) -> u8 {
    let file = File::options().read(true).write(true).open(path).expect("open the file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read a byte");
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at).expect("write a byte");
    byte[0]
}

/// The node has ended: with code 1 and a word of what is damaged, since its log was this long.
async fn refused(node: &mut Node, log_from: usize, what: &str) {
    let status = node.exit(Duration::from_secs(5)).await;
    let log = node.log_text();
    let said = &log[log_from.min(log.len())..];
    assert_eq!(status.code(), Some(1), "{what}: {said}");
    let told = ["is damaged", "cannot be rebuilt", "has format", "checksum"].iter().any(|word| said.contains(word));
    assert!(told, "{what}: the log does not tell: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_mended_or_refused_and_never_served() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(3, SMALL).await;
    let sink = Sink::start().await;
    let (leader, _) = cluster.leader().await;
    let (at, http) = ((leader + 1) % 3, cluster.nodes[leader].ports.http);
    let filler = "x".repeat(30_000);
    for n in 0..130 {
        let due_ms = now_ms() + if n % 3 == 0 { 500 } else { 36_000_000 };
        let mut task = once(&format!("t-{n}"), due_ms, &sink.url);
        if n % 2 == 0 {
            task["callback"]["body"] = json!({ "filler": filler, "n": n });
        }
        assert_eq!(code(&cluster.api.create(http, &task).await), Some(0));
    }
    eventually("what is due has fired and is recorded", CATCH_UP_MAX, async || {
        let page = cluster.api.get(http, "/xcron/listTasks?state=finished&limit=100").await;
        page.is_ok_and(|(_, body)| body["data"]["tasks"].as_array().is_some_and(|tasks| tasks.len() == 44))
    })
    .await;
    cluster.caught_up(CATCH_UP_MAX).await;
    let right = content(&cluster.api, http).await.expect("the leader answers");
    assert_eq!(right.len(), 130);
    let dir = cluster.nodes[at].data.clone();
    let snapshots = dir.join("snapshots");
    let taken = async || std::fs::read_dir(&snapshots).is_ok_and(|files| files.count() > 0);
    eventually("a snapshot is taken", CATCH_UP_MAX, taken).await;
    cluster.nodes[at].kill();

    let times = rounds(12, 200);
    let mut seen: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for round in 0..times {
        let kind = KINDS[round % KINDS.len()];
        let copy = Copy::of(&dir);
        let mut flips: Vec<Flip> = Flip::make(&copy, &dir, kind).into_iter().collect();
        if kind == "snapshots/" {
            // A snapshot is read where the store is in doubt.
            flips.extend(Flip::make(&copy, &dir, "state-"));
        }
        let what = format!("{flips:?}");
        let log_from = cluster.nodes[at].log_text().len();
        cluster.nodes[at].spawn();
        let mut served = Err("nothing yet".to_owned());
        let port = cluster.nodes[at].ports.http;
        let api = cluster.api.clone();
        let node = &mut cluster.nodes[at];
        let ended = holds_within(CATCH_UP_MAX, async || {
            if node.has_ended() {
                return true;
            }
            served = content(&api, port).await;
            served.as_ref() == Ok(&right)
        })
        .await;
        let counts = seen.entry(kind).or_default();
        if cluster.nodes[at].has_ended() {
            refused(&mut cluster.nodes[at], log_from, &what).await;
            counts[1] += 1;
            copy.restore(&dir);
            continue;
        }
        assert!(ended, "{what}: it serves something else: {:.3000}", format!("{served:?}"));
        counts[0] += 1;
        cluster.nodes[at].kill();
        flips.iter().for_each(Flip::undo);
    }
    cluster.nodes[at].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    let told: Vec<String> =
        seen.iter().map(|(kind, [back, no])| format!("{kind}: {back} back, {no} refused")).collect();
    println!("\n| a flipped bit of a stopped follower | {times} | | | | | | | | | {} |", told.join("; "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_garbled_where_it_was_durable_is_refused() {
    let _turn = turn().await;
    let mut trial = Trial::of(1, "[storage]\nlog_segment_bytes = 1048576\n").await;
    sleep_ms(3000).await;
    trial.load.settle(Duration::from_secs(10)).await.check("before the damage");
    let (dir, standing) = (trial.cluster.nodes[0].data.clone(), trial.load.standing());
    trial.cluster.nodes[0].kill();
    let copy = Copy::of(&dir);
    let (segment, bytes) = copy.0.iter().find(|(path, _)| path.extension().is_some_and(|e| e == "seg")).expect("a log");
    let used = bytes.iter().rposition(|b| *b != 0).expect("it is not empty");
    let times = rounds(5, 100);
    for round in 0..times {
        // The last records are left alone: nothing behind them says that they were durable.
        let from = rand::random_range(0..used * 9 / 10);
        let mut garbled = bytes.clone();
        let how = match round % 3 {
            0 => {
                let length = rand::random_range(1..512);
                garbled[from..from + length].iter_mut().for_each(|byte| *byte ^= rand::random_range(1..=255));
                "garbled bytes"
            }
            1 => {
                let sector = from / 512 * 512;
                garbled[sector..sector + 512].fill(0);
                "a sector of zeros"
            }
            _ => {
                // Not between two records, where nothing shows that there was more.
                garbled.truncate(from / 64 * 64 + 65);
                "a shorter file"
            }
        };
        if garbled == *bytes {
            continue;
        }
        std::fs::write(segment, &garbled).expect("write the segment");
        let what = format!("{how} at byte {from} of {used}");
        let log_from = trial.cluster.nodes[0].log_text().len();
        trial.cluster.nodes[0].spawn();
        let node = &mut trial.cluster.nodes[0];
        let ended = holds_within(READY_MAX, async || node.has_ended()).await;
        assert!(ended, "{what}: the node runs");
        refused(&mut trial.cluster.nodes[0], log_from, &what).await;
        copy.restore(&dir);
    }
    trial.cluster.nodes[0].spawn();
    assert!(trial.cluster.all_ready(READY_MAX).await);
    let missing = missing(&trial.cluster, 0, &standing).await;
    assert!(missing.is_empty(), "{missing:?}");
    println!(
        "\n| garbled durable part of the log of a single node | {times} | | | | | | | | | each refused with code 1 |"
    );
}
