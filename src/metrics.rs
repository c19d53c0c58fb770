//! What a node counts, in Prometheus' terms. One set per node: there are no globals.

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{exponential_buckets, Histogram};
use prometheus_client::registry::{Registry, Unit};

/// The labels of one counter.
pub type Labels = Vec<(&'static str, String)>;

/// How an attempt ended, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `succeeded` or `failed`.
    pub outcome: &'static str,
}

/// What a node counts; clones share it.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// 1, with the version of the program and that of its zone data.
    pub build: Family<Labels, Gauge>,
    /// Attempts that ended, by `outcome`.
    pub attempts: Family<Outcome, Counter>,
    /// Attempts to deliver an alert that ended, by `outcome`.
    pub alerts: Family<Outcome, Counter>,
    /// Alerts that were dropped with their task, whose time was over.
    pub alerts_dropped: Counter,
    /// How long after it was due an attempt was sent.
    pub lateness: Histogram,
    /// From connect to the last byte of the answer.
    pub duration: Histogram,
    /// Attempts in flight.
    pub in_flight: Gauge,
    /// Attempts that are due and wait for a place.
    pub queued: Gauge,
    /// Attempts that waited since this process had no descriptor for a connection.
    pub without_descriptor: Counter,
    /// Connections to targets, idle ones among them.
    pub target_connections: Gauge,
    /// Targets whose attempts wait until they can be reached.
    pub targets_held: Gauge,
    /// Commands that this node, as the leader, proposed.
    pub commands: Counter,
    /// Entries of the Raft log that they went into.
    pub batches: Counter,
    /// Writes that ended without a result, by `error`.
    pub failed_writes: Family<Labels, Counter>,
    /// Calls of the public API, by `call` and HTTP `status`.
    pub calls: Family<Labels, Counter>,
    /// Lines of the log that were dropped.
    pub log_lines_dropped: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.0005, 2.0, 20));
        Metrics {
            build: Family::default(),
            attempts: Family::default(),
            alerts: Family::default(),
            alerts_dropped: Counter::default(),
            lateness: seconds(),
            duration: seconds(),
            in_flight: Gauge::default(),
            queued: Gauge::default(),
            without_descriptor: Counter::default(),
            target_connections: Gauge::default(),
            targets_held: Gauge::default(),
            commands: Counter::default(),
            batches: Counter::default(),
            failed_writes: Family::default(),
            calls: Family::default(),
            log_lines_dropped: Counter::default(),
        }
    }
}

impl Metrics {
    /// Registers everything that is counted here.
    pub fn register(&self, registry: &mut Registry) {
        let build = "The version of this program, and that of the rules of time zones that it brings";
        registry.register("build_info", build, self.build.clone());
        registry.register("attempts", "Attempts that ended", self.attempts.clone());
        registry.register("alert_attempts", "Attempts to deliver an alert that ended", self.alerts.clone());
        let dropped = "Alerts that no receiver took, dropped with their task when its retention ended";
        registry.register("alerts_dropped", dropped, self.alerts_dropped.clone());
        let lateness = "Time from when an attempt was due until it was sent";
        registry.register_with_unit("lateness", lateness, Unit::Seconds, self.lateness.clone());
        let duration = "Time from connect to the last byte of the answer";
        registry.register_with_unit("attempt_duration", duration, Unit::Seconds, self.duration.clone());
        registry.register("attempts_in_flight", "Attempts in flight", self.in_flight.clone());
        let queued = "Attempts that are due and wait for a place, those of held targets among them";
        registry.register("attempts_queued", queued, self.queued.clone());
        let without = "Attempts that waited, for want of a descriptor for a connection";
        registry.register("attempts_without_descriptor", without, self.without_descriptor.clone());
        let open = "Connections to targets, idle ones among them";
        registry.register("target_connections", open, self.target_connections.clone());
        let held = "Targets that cannot be reached, so that their attempts wait";
        registry.register("targets_held", held, self.targets_held.clone());
        registry.register("commands", "Commands proposed by this node as the leader", self.commands.clone());
        registry.register("batches", "Log entries that the commands went into", self.batches.clone());
        registry.register("failed_writes", "Writes without a result", self.failed_writes.clone());
        registry.register("calls", "Calls of the public API", self.calls.clone());
        let dropped = "Lines of the log that could not be written, or not in time";
        registry.register("log_lines_dropped", dropped, self.log_lines_dropped.clone());
    }
}

/// All that is registered, in Prometheus' text format. The encoder writes OpenMetrics, where a counter is described by its
/// name without `_total`: a reader of the text format would take its samples for those of a metric that nobody describes.
pub fn registry_lines(registry: &Registry) -> String {
    let mut encoded = String::new();
    // Writing into a string does not fail.
    let _ = encode(&mut encoded, registry);
    let (mut text, mut help) = (String::new(), None);
    for line in encoded.lines() {
        match line.strip_prefix("# ").map(|comment| comment.splitn(3, ' ').collect::<Vec<_>>()).as_deref() {
            Some(["HELP", _, words]) => help = Some(*words),
            Some(["TYPE", name, kind]) => {
                let total = if *kind == "counter" { "_total" } else { "" };
                describe(&mut text, &format!("{name}{total}"), help.take().unwrap_or_default(), kind);
            }
            // The unit is a part of the name, and the text ends with its last line.
            Some(_) => {}
            None => text.push_str(&format!("{line}\n")),
        }
    }
    text
}

/// Values that are read at the moment they are asked for, as lines of Prometheus' text format. Those whose name ends in
/// `_total` are counters, and the others gauges.
pub fn value_lines(values: &[(&str, &str, f64)]) -> String {
    let mut text = String::new();
    for (name, help, value) in values {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let name = format!("xcron_{name}");
        describe(&mut text, &name, &format!("{help}."), kind);
        text.push_str(&format!("{name} {value}\n"));
    }
    text
}

fn describe(text: &mut String, name: &str, help: &str, kind: &str) {
    text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}
