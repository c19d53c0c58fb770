//! One fault under load: how often, what is checked afterwards, and the line that tells of it.

use tokio::sync::{Mutex, MutexGuard};

use crate::check::{agree, sample, CATCH_UP_MAX, SETTLE_MAX};
use crate::harness::{Cluster, READY_MAX};
use crate::load::{Load, Report, Shape, EARLY, LOST, UNWANTED};
use crate::sink::Sink;

/// A leader that is lost must be made up for within this; what is aimed at is 3 s, on a machine that is not busy.
const MENDED_MS_MAX: u64 = 10_000;

/// Callbacks that come twice for one fault: what the old leader had sent and could not record, at a load of about a hundred
/// callbacks a second; 33 were measured.
const DUPLICATES_MAX: usize = 100;

/// How many faults: `short` of them, `full` where `XCRON_ROUNDS` is "full", or as many as it says.
pub fn rounds(short: usize, full: usize) -> usize {
    match std::env::var("XCRON_ROUNDS").as_deref() {
        Ok("full") => full,
        Ok(number) => number.parse().expect("XCRON_ROUNDS is a number or \"full\""),
        Err(_) => short,
    }
}

/// Whether the faults come in their full numbers.
pub fn is_full() -> bool {
    std::env::var("XCRON_ROUNDS").is_ok_and(|text| text == "full")
}

/// Held while a cluster is broken: two at once on one machine would disturb each other's figures.
pub async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// A line of the table.
pub fn line(fault: &str, times: usize, report: &Report, note: &str) {
    println!(
        "\n| {fault} | {times} | {} | {} | {} | {} | {} | {} | {} | {} | {note} |",
        report.acknowledged,
        report.endings,
        report.count(LOST),
        report.count(EARLY),
        report.count(UNWANTED),
        report.duplicates,
        report.gap_ms,
        report.latest_ms
    );
}

/// A cluster under load.
pub struct Trial {
    pub cluster: Cluster,
    pub sink: Sink,
    pub load: Load,
}

impl Trial {
    /// Puts a load on a cluster that is ready.
    pub fn start(cluster: Cluster, sink: Sink) -> Trial {
        let load = Load::start(&cluster.api, &cluster.http_ports(), &sink, shape());
        Trial { cluster, sink, load }
    }

    /// As many nodes as that, under load.
    pub async fn of(nodes: usize, more: &str) -> Trial {
        Self::start(Cluster::start(nodes, more).await, Sink::start().await)
    }

    /// The next fault of the same cluster has a load and a report of its own.
    pub fn again(&mut self) {
        self.load = Load::start(&self.cluster.api, &self.cluster.http_ports(), &self.sink, shape());
    }

    /// All is mended: the cluster must recover, and the callbacks must agree with what was acknowledged.
    pub async fn check(&mut self, fault: &str, times: usize, note: &str) -> Report {
        assert!(self.cluster.all_ready(READY_MAX).await, "{fault}: not ready within {READY_MAX:?}");
        let report = self.load.settle(SETTLE_MAX).await;
        line(fault, times, &report, note);
        report.check(fault);
        assert!(report.duplicates <= DUPLICATES_MAX * times, "{fault}: {report}");
        if self.cluster.nodes.len() > 1 {
            self.cluster.caught_up(CATCH_UP_MAX).await;
        }
        agree(&self.cluster, &sample(self.load.standing(), 40)).await;
        report
    }

    /// As [`Trial::check`], for a fault that takes the leader away from a cluster.
    pub async fn check_failover(&mut self, fault: &str, times: usize, note: &str) {
        let report = self.check(fault, times, note).await;
        let worst = report.gap_ms.max(report.latest_ms);
        assert!(worst <= MENDED_MS_MAX, "{fault}: {worst} ms: {report}");
    }
}

fn shape() -> Shape {
    Shape { workers: 16, ahead_ms: (1000, 3000), ..Shape::default() }
}
