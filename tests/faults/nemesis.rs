//! Many faults at once, drawn from a seed: processes die, stop and start, disks fail, fill up, are slow and lose power,
//! clocks are wrong and links are cut, on some nodes or on all, while a load goes on and snapshots are written all the
//! time. Then all is mended, and what was acknowledged must be there.
//!
//! ```sh
//! cargo test --test faults nemesis -- --nocapture    # a round of three nodes, one of five
//! XCRON_NEMESIS_SECONDS=3600 cargo test --test faults nemesis -- --nocapture    # round after round, for an hour
//! XCRON_NEMESIS_SEED=17 cargo test --test faults nemesis -- --nocapture         # this round again
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use xcron::clock::monotonic;

use crate::beside::{Churn, Ticks};
use crate::check::agree;
use crate::harness::{panic_line, sleep_ms, Cluster, Node, READY_MAX};
use crate::havoc::Havoc;
use crate::plan::{nodes_of, Plan};
use crate::trial::{turn, Trial};

/// As small as they may be; and the nodes compare what they hold every second.
const MORE: &str = "[raft]\nsnapshot_log_bytes = 1048576\n\
    [storage]\nlog_segment_bytes = 1048576\nreserve_mb = 4\ncheck_interval_s = 1\n";
/// The faults of a round begin within this.
const WINDOW_MS: u64 = 12_000;
/// The load goes on for so long before and after.
const CALM_MS: u64 = 1500;
/// A node says so where its state is not that of the others.
const DIFFERS: &str = "another state than";

/// What rounds have shown.
#[derive(Debug, Default)]
struct Shown {
    rounds: usize,
    faults: BTreeMap<String, usize>,
    most_at_once: usize,
    acknowledged: usize,
    endings: usize,
    duplicates: usize,
    /// Runs of the tasks that are due every second.
    ticks: usize,
    restarts: usize,
    snapshots_written: usize,
    snapshots_installed: usize,
    ready_ms_max: u64,
}

/// Keeps the logs of a round that has failed.
struct Keep {
    logs: Vec<PathBuf>,
    to: PathBuf,
}

impl Keep {
    fn of(cluster: &Cluster, seed: u64) -> Keep {
        let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nemesis-{seed}"));
        Keep { logs: cluster.nodes.iter().map(|node| node.log.clone()).collect(), to }
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let made = std::fs::create_dir_all(&self.to);
            let kept =
                self.logs.iter().map(|log| std::fs::copy(log, self.to.join(log.file_name().unwrap_or_default())));
            eprintln!("the logs are kept in {}: {made:?}, {:?} bytes", self.to.display(), kept.collect::<Vec<_>>());
        }
    }
}

async fn round(seed: u64, shown: &mut Shown) {
    let _turn = turn().await;
    let (mut cluster, mut havoc) = Havoc::ready(nodes_of(seed), MORE);
    let plan = Plan::draw(seed, havoc.means(), WINDOW_MS);
    let name = format!("nemesis of {} nodes, XCRON_NEMESIS_SEED={seed}", plan.nodes);
    println!("\n{name}, with {:?}", havoc.means());
    plan.faults.iter().for_each(|fault| println!("  {fault}"));
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let sink = havoc.sink().await;
    let ticks = Ticks::start(&cluster, &sink, 3).await;
    let churn = Churn::start(&cluster);
    let mut trial = Trial::start(cluster, sink);
    let keep = Keep::of(&trial.cluster, seed);

    sleep_ms(CALM_MS).await;
    havoc.carry_out(&mut trial.cluster, &plan).await;
    let ready_ms = havoc.mended(&mut trial.cluster).await;
    assert!(ready_ms.is_some(), "{name}: not ready within {READY_MAX:?}");
    sleep_ms(CALM_MS).await;
    let standing = churn.stop().await;
    // A sync that has failed may end a node a little later.
    assert!(havoc.mended(&mut trial.cluster).await.is_some(), "{name}: not ready within {READY_MAX:?}");

    let note = format!("{} restarts, ready after {} ms", havoc.restarts, ready_ms.unwrap_or_default());
    let report = trial.check(&name, plan.faults.len(), &note).await;
    agree(&trial.cluster, &standing).await;
    shown.ticks += ticks.check(&trial.cluster, &trial.sink, &name).await;
    assert!(havoc.wrong.is_empty(), "{name}: {:#?}", havoc.wrong);
    let logs: Vec<String> = trial.cluster.nodes.iter().map(Node::log_text).collect();
    for log in &logs {
        assert_eq!(panic_line(log), None, "{name}");
        assert_eq!(log.lines().find(|line| line.contains(DIFFERS)), None, "{name}");
    }
    let lines = |words: &str| logs.iter().map(|log| log.matches(words).count()).sum::<usize>();
    shown.rounds += 1;
    havoc.counts.iter().for_each(|(kind, count)| *shown.faults.entry(kind.clone()).or_default() += count);
    shown.most_at_once = shown.most_at_once.max(plan.most_at_once());
    shown.acknowledged += report.acknowledged;
    shown.endings += report.endings;
    shown.duplicates += report.duplicates;
    shown.restarts += havoc.restarts;
    shown.snapshots_written += lines("snapshot written");
    shown.snapshots_installed += lines("snapshot installed");
    shown.ready_ms_max = shown.ready_ms_max.max(ready_ms.unwrap_or_default());
    // The nodes end before their disks and links go, and these before their directory.
    trial.cluster.nodes.iter_mut().for_each(Node::kill);
    drop(havoc);
    drop((keep, trial));
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number: {text}")))
}

/// Of a round of three nodes and one of five.
const SHORT_SEED: u64 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn rounds_of_faults_at_once_lose_nothing() {
    let (given, seconds) = (number("XCRON_NEMESIS_SEED"), number("XCRON_NEMESIS_SECONDS"));
    // A short round is the same each time that it is run: what is new is looked for in the long ones.
    let drawn = || seconds.map_or(SHORT_SEED, |_| u64::from(rand::random::<u32>()));
    let first = given.unwrap_or_else(drawn);
    let end = seconds.map(|seconds| monotonic() + Duration::from_secs(seconds));
    let mut shown = Shown::default();
    // Three nodes and five, in turns.
    for seed in first.. {
        round(seed, &mut shown).await;
        let is_over = match end {
            Some(end) => monotonic() >= end,
            None => shown.rounds == if given.is_some() { 1 } else { 2 },
        };
        if is_over {
            break;
        }
    }
    println!("\n{shown:#?}");
    assert!(shown.snapshots_written > 0, "no snapshot was written");
}
