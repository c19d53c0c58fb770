//! What was seen from outside in a run of the simulation. All times are true ones, in ms since the epoch.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::linear::{Answer, Asked, Operation};

/// When a task is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rhythm {
    /// Once; none: so long after the leader took it.
    Once(Option<u64>),
    /// At each multiple of this many ms.
    Every(u64),
    /// So many ms after each other, by the clock of a zone whose rules change.
    Zoned(u64),
}

/// What a client asks for a task that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That it goes.
    Delete,
    /// That it rests.
    Pause,
    /// That it goes on.
    Resume,
}

/// A call of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What for.
    pub wish: Wish,
    /// When it was sent.
    pub asked: u64,
    /// When it was answered with success; none: nobody knows whether it was done.
    pub answered: Option<u64>,
}

/// A run, as it is shown in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShownRun {
    /// Its id.
    pub id: String,
    /// Its due time.
    pub due: u64,
    /// What became of it.
    pub state: String,
}

/// A task, as it is shown in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// How many of its runs were fired and came to an outcome: before its runs were asked for, and after.
    pub run_count: (u64, u64),
    /// Its runs by listRuns.
    pub runs: Vec<ShownRun>,
    /// Its due times by audit.
    pub audit: Vec<ShownRun>,
}

/// What is known of a task.
#[derive(Clone, Debug)]
pub struct Task {
    /// When it is due.
    pub rhythm: Rhythm,
    /// Whether its target never answers with success.
    pub fails: bool,
    /// Whether its callbacks are sent at most once.
    pub once: bool,
    /// When it was first asked for.
    pub asked: u64,
    /// When that was acknowledged.
    pub created: Option<u64>,
    /// What else was asked.
    pub calls: Vec<Call>,
    /// What it is in the end; none: it is not there.
    pub shown: Option<Shown>,
}

/// An attempt, as a node began to send it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// When.
    pub at: u64,
    /// By which node.
    pub node: u64,
    /// The two halves of its fence: the term, and a number that only goes up within it.
    pub fence: (u64, u64),
    /// Of which task.
    pub task: String,
    /// Of which run.
    pub run: String,
    /// Its number.
    pub attempt: u32,
    /// The due time that it stands for.
    pub due: u64,
}

/// An attempt that has reached its target.
#[derive(Clone, Debug)]
pub struct Hit {
    /// When.
    pub at: u64,
    /// Of which task.
    pub task: String,
    /// Of which run.
    pub run: String,
    /// What is answered.
    pub status: u16,
}

/// What a replica holds at the end: its node, what it has applied, and a digest over its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The node.
    pub node: u64,
    /// The last entry of the log that it has applied.
    pub applied: u64,
    /// How many records it has, and a checksum over them.
    pub digest: (u64, u64),
}

/// All of it.
#[derive(Debug, Default)]
pub struct History {
    /// Versions of the time zone data that nodes have gone by.
    pub zone_data: BTreeSet<String>,
    /// By their ids.
    pub tasks: BTreeMap<String, Task>,
    /// What was read and written of registers, in the order of the calls.
    pub operations: Vec<Operation>,
    /// How often an operation has begun or ended.
    pub instants: u64,
    /// In their order.
    pub sent: Vec<Sent>,
    /// In their order.
    pub hits: Vec<Hit>,
    /// Who has led in which term.
    pub leaders: BTreeMap<u64, BTreeSet<u64>>,
    /// Nodes that stopped, or did not start, with nothing done to them.
    pub stopped: Vec<String>,
    /// Snapshots that nodes have written, and that they have installed.
    pub snapshots: (u64, u64),
    /// Nodes that took their own state for wrong, and why.
    pub doubts: BTreeMap<u64, String>,
    /// Records that a node's state does not imply in the end, and missing ones.
    pub strays: Vec<String>,
    /// All replicas, once they had applied the same.
    pub replicas: Vec<Replica>,
    /// When the last fault was over.
    pub healed: u64,
    /// When the tasks were asked for, in the end; none: that did not succeed.
    pub shown: Option<u64>,
    /// How many faults there were.
    pub faults: usize,
    /// Whether reads were slow for a time.
    pub slow_reads: bool,
    /// Whether all of them were stops in order.
    pub in_order: bool,
    /// Whether one of them was a wall clock that was off.
    pub clocks_off: bool,
    /// What happened, a line for each event.
    pub trace: Vec<String>,
}

impl History {
    /// Takes note of an event.
    pub fn note(&mut self, at: u64, event: impl std::fmt::Display) {
        self.trace.push(format!("{} {event}", at - crate::clock::SIMULATION_EPOCH.0));
    }

    /// A node takes its own state for wrong.
    pub fn doubt(&mut self, at: u64, node: u64, reason: String) {
        if !self.doubts.contains_key(&node) {
            self.note(at, format!("node {node} is in doubt: {reason}"));
            self.doubts.insert(node, reason);
        }
    }

    /// An operation begins, of which nobody knows yet what comes; what it writes is the number of its instant. Gives
    /// its position and what is asked.
    pub fn begin(&mut self, key: String, asked: impl FnOnce(u64) -> Asked, told: String) -> (usize, Asked) {
        self.instants += 1;
        let (from, asked) = (self.instants, asked(self.instants));
        self.operations.push(Operation { key, asked, answer: Answer::Unknown, from, to: u64::MAX, told });
        (self.operations.len() - 1, asked)
    }

    /// The operation at this position has ended.
    pub fn end(&mut self, position: usize, answer: Answer) {
        self.instants += 1;
        (self.operations[position].answer, self.operations[position].to) = (answer, self.instants);
    }

    /// How many due times are shown as missed in the end.
    pub fn missed(&self) -> usize {
        let audits = self.tasks.values().filter_map(|task| task.shown.as_ref()).flat_map(|shown| &shown.audit);
        audits.filter(|due| due.state == "missed").count()
    }

    /// A hash over all events and their times.
    pub fn hash(&self) -> u64 {
        self.trace.iter().fold(0, |hash, line| xxh3_64_with_seed(line.as_bytes(), hash))
    }
}
