//! The commands that change the replicated state, and what each answers.
//!
//! A command says all that [`crate::state::State::apply`] needs: times, random delays and decisions are made by the
//! leader and written into it, so that every replica computes the same from it. Many of them travel in one [`Batch`].

mod encoded;
mod stamp;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{RunKey, TaskId};
use crate::run::Attempt;
use crate::schedule::ZoneRules;
use crate::task::{TaskSpec, TaskState};

pub use encoded::Encoded;
pub use stamp::{Limits, WriteId, WRITE_ID_BYTES};

/// The number that a task gets when its creation is applied: 1, 2, …; never given twice.
pub type Seq = u64;

/// The format of an encoded [`Batch`]; the first byte of each.
pub const BATCH_FORMAT: u8 = 4;

/// What one entry of the Raft log carries: commands in order, under one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// The leader's clock as it made the batch.
    pub now: Timestamp,
    /// What the leader holds new tasks against.
    pub limits: Limits,
    /// Names of commands, each with the place of its command, in order.
    pub names: Vec<(u32, WriteId)>,
    /// Applied in this order.
    pub commands: Vec<Command>,
}

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Keeps a new task; with the id and the definition of one that exists, answers as its creation did.
    Create {
        /// The caller's id, or a generated one.
        id: TaskId,
        /// What to keep.
        spec: Box<TaskSpec>,
    },
    /// Forgets a task and its runs.
    Delete {
        /// Which.
        id: TaskId,
    },
    /// Gives a task another definition.
    Update {
        /// Which.
        id: TaskId,
        /// The fingerprint of the definition that the change was made from; where the task has another, it is refused.
        base: u128,
        /// That definition: runs that are going end under it.
        old: Box<TaskSpec>,
        /// The definition from now on.
        spec: Box<TaskSpec>,
    },
    /// Stops a task's schedule until it is resumed.
    Pause {
        /// Which.
        id: TaskId,
    },
    /// Lets a task's schedule go on. What was due meanwhile is late, or missed.
    Resume {
        /// Which.
        id: TaskId,
    },
    /// One run now, beside the schedule.
    Trigger {
        /// Which.
        id: TaskId,
    },
    /// Ends a run that is going or waits.
    Cancel {
        /// The task.
        seq: Seq,
        /// Which of its runs.
        key: RunKey,
    },
    /// Forgets finished tasks whose time is over, with their runs and the alerts that still wait. One that is not finished,
    /// or whose time is not over, is passed over.
    Collect {
        /// Which.
        seqs: Vec<Seq>,
        /// How long a task is kept that does not say so itself, in seconds.
        retain_s: u64,
    },
    /// An attempt has left and has not ended yet.
    RunStarted {
        /// The task.
        seq: Seq,
        /// Which of its runs.
        key: RunKey,
        /// The attempt's number.
        attempt: u32,
        /// Who sent it.
        node: u64,
        /// In which term.
        term: u64,
        /// When.
        started: Timestamp,
        /// How late.
        lateness_ms: u32,
    },
    /// An attempt has ended.
    RunEnded {
        /// The task.
        seq: Seq,
        /// Which of its runs.
        key: RunKey,
        /// The attempt, whole.
        attempt: Attempt,
        /// The term in which it was sent.
        term: u64,
        /// What follows from it.
        verdict: Verdict,
        /// What the target's answer asks for.
        steering: Steering,
    },
    /// The due times of a task from its next one up to `upto` will not fire, except the last of them.
    Misfire {
        /// The task.
        seq: Seq,
        /// The next due time that the leader saw; where it is another by now, the command does nothing.
        from: Timestamp,
        /// Due times up to and including this are too old to fire each.
        upto: Timestamp,
        /// Why they did not fire.
        reason: String,
        /// Whether the last of them fires; else none does.
        latest_fires: bool,
    },
    /// A due time has come while a run of the task is going.
    Overlap {
        /// The task.
        seq: Seq,
        /// The due time.
        due: Timestamp,
        /// Whether it waits until the run has ended, if none waits already; else it is skipped.
        queue: bool,
    },
    /// Gives the cluster its identity; the first one counts.
    FoundCluster {
        /// The identity.
        cluster: Uuid,
    },
    /// Binds a node's id to the one store that may act under it; the first one counts.
    ClaimNode {
        /// The node's id.
        node: u64,
        /// The identity of the store, made when the store was.
        store: Uuid,
    },
    /// Forgets parts of the index of ended runs of which no run is kept: the leader has looked, and what is not kept
    /// never is again.
    DropIndex {
        /// The numbers of the chunks.
        chunks: Vec<u64>,
    },
    /// Changes nothing. Each replica notes what it holds at the entry of this command, to be compared with the others.
    Check,
    /// No further attempt of a run is made: it has failed.
    GiveUp {
        /// The task.
        seq: Seq,
        /// Which of its runs.
        key: RunKey,
        /// The attempt that is not made.
        attempt: u32,
        /// Why.
        reason: String,
    },
    /// The rules of zones that tasks are about to name. Of a zone whose rules the state has, they change nothing.
    AddZones {
        /// The rules.
        rules: Vec<ZoneRules>,
    },
    /// Newer data take over: the rules of all zones are those of this version, and those that it has otherwise are these.
    /// Tasks go by them from now on: the first ones that had others at once, the rest by [`Command::MoveTasks`].
    TakeOverZones {
        /// The version. What is newer stays as it is.
        version: String,
        /// Rules with a number from this one on, which the leader has not seen, stay as they are.
        seen: u64,
        /// The rules that differ.
        rules: Vec<ZoneRules>,
    },
    /// More of the tasks go by the rules that have taken over.
    MoveTasks {
        /// The first of them; where it is another by now, the command does nothing.
        from: Seq,
    },
}

impl Command {
    /// Whether it needs a name to be sent again where nobody knows whether it was written. A second pause would stop a
    /// task that was resumed since, a second create bring a deleted one back. The others say under which circumstances
    /// they apply, which do not come again: a second one does nothing.
    pub fn needs_name(&self) -> bool {
        matches!(
            self,
            Command::Create { .. }
                | Command::Delete { .. }
                | Command::Update { .. }
                | Command::Pause { .. }
                | Command::Resume { .. }
                | Command::Trigger { .. }
                | Command::Cancel { .. }
        )
    }
}

/// What follows from the end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The run has succeeded.
    Succeeded,
    /// The run goes on with another attempt at this time.
    Retry {
        /// When.
        at: Timestamp,
    },
    /// The run has failed.
    Failed {
        /// Why no further attempt is made.
        reason: String,
    },
    /// Nobody will know what came of the run, and it is not repeated.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// What a target's answer asks for, beside saying how the attempt went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steering {
    /// The task's next due time, in place of the schedule's.
    pub next_at: Option<Timestamp>,
    /// The task is paused.
    pub pause: bool,
    /// The task has no due times any more.
    pub end: bool,
    /// The task is deleted.
    pub delete: bool,
}

/// What a command answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The task exists; when it is next due.
    Created {
        /// None: it never is again.
        next: Option<Timestamp>,
    },
    /// The task's state, and when it is next due.
    Task {
        /// Its state.
        state: TaskState,
        /// None while it does not fire.
        next: Option<Timestamp>,
    },
    /// The run that was triggered.
    Triggered {
        /// Which.
        key: RunKey,
    },
    /// Done; there is nothing to say.
    Done,
    /// Not done, and nothing has changed.
    Refused(Refusal),
}

/// Why a schedule has no due time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Never {
    /// No date meets it.
    #[error("format: the schedule never fires: there is no such date")]
    AtAll,
    /// It had due times.
    #[error("format: the schedule never fires again: its due times are past; the year 2199 is the last of schedules")]
    Again,
    /// The due times that it has are before the task's start.
    #[error("start_time: the schedule never fires: from {} on it has no due time; the year 2199 is the last of schedules", start.as_secs())]
    FromStart {
        /// The task's start.
        start: Timestamp,
    },
    /// The due times that it has are after the task's end.
    #[error("end_time: the schedule never fires: its first due time, {}, is after {}", first.as_secs(), end.as_secs())]
    AfterEnd {
        /// The first due time.
        first: Timestamp,
        /// The task's end.
        end: Timestamp,
    },
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No task has this id.
    #[error("no such task")]
    NoSuchTask,
    /// The run has ended, or never was.
    #[error("no such run is going or waits")]
    NoSuchRun,
    /// The task has no due times to come.
    #[error("the task is finished")]
    Finished,
    /// As many of the task's runs as it may have are going or wait.
    #[error("the task has {0} runs that are going or wait, as many as it may have")]
    TooManyRuns(usize),
    /// A task would trigger itself.
    #[error("on_success, on_failure: by way of {0} the task would trigger itself")]
    Cycle(TaskId),
    /// The change connects chains of tasks that are both too large to be searched for a cycle.
    #[error(
        "on_success, on_failure: more than {0} links lead to and from the task, the limit of the search for a cycle"
    )]
    ChainTooLong(usize),
    /// The changes of one log entry connect so many chains that this one was not searched.
    #[error("on_success, on_failure: too many changes connect large chains at the same time; nothing was written; try again")]
    ChainsAtOnce,
    /// A task has this id and another definition.
    #[error("a task with this task_id exists, with another definition")]
    Conflict,
    /// The due time of a one-shot task is before the leader's clock.
    #[error("format: the time {due} is past: the leader's clock says {now}")]
    Past {
        /// The time asked for.
        due: Timestamp,
        /// The leader's clock.
        now: Timestamp,
    },
    /// The schedule has no due time.
    #[error("{0}")]
    NeverFires(Never),
    /// There are as many tasks as there may be.
    #[error("the limit of {0} tasks is reached; nothing was written")]
    TooManyTasks(u64),
    /// The leader's disk has no room for new tasks.
    #[error("the storage is full or failing; nothing was written")]
    NoRoom,
    /// The write may have been written once, and nobody knows any more: its name is older than those that are kept.
    #[error("the outcome is unknown: the write came again after too long")]
    Forgotten {
        /// Of those named writes that were applied, so many are no longer kept.
        before: u64,
    },
    /// The leader has no rules of this zone (a node of a newer version proposed it).
    #[error("timezone: the leader knows no time zone {0:?}: its time zone data are older")]
    UnknownZone(String),
    /// The schedule cannot be read (a node of another version proposed it).
    #[error("the schedule cannot be read: {0}")]
    Unreadable(String),
    /// The node's id is bound to another store.
    #[error("node {node} is bound to the store {bound}")]
    OtherStore {
        /// The node.
        node: u64,
        /// The store that may act under its id.
        bound: Uuid,
    },
    /// The misfires before this one have taken all the steps that one log entry has for misfires.
    #[error("too many due times were missed at once: a later entry records this one")]
    MisfiresAtOnce,
    /// The outcomes before this one have taken all the steps that one log entry has for what follows from outcomes.
    #[error("too much follows from outcomes at once: a later entry records this one")]
    OutcomesAtOnce,
}

/// Why bytes are not a batch.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Made by a version with a later format.
    #[error("it was written by a newer version: batch format {0}, and this version knows up to {BATCH_FORMAT}")]
    Newer(u8),
    /// Made by a version with an earlier format.
    #[error("it was written by an older version: batch format {0}, and this version knows {BATCH_FORMAT} alone")]
    Older(u8),
    /// Not what an encoder made.
    #[error("batch is damaged: {0}")]
    Damaged(#[from] postcard::Error),
    /// No bytes at all.
    #[error("batch is empty")]
    Empty,
}

impl Batch {
    /// Commands without names, under no limits.
    pub fn of(now: Timestamp, commands: Vec<Command>) -> Batch {
        Batch { now, limits: Limits::default(), names: Vec::new(), commands }
    }

    /// As bytes, with the format's number in front.
    ///
    /// # Errors
    /// Where a field cannot be written, which no command of this version has.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_extend(self, vec![BATCH_FORMAT])
    }

    /// The bytes of the batch that has these commands, without encoding any of them again.
    ///
    /// # Errors
    /// As [`Batch::encode`].
    pub fn assemble(now: Timestamp, limits: Limits, commands: &[Encoded]) -> Result<Vec<u8>, postcard::Error> {
        let mut bytes = Vec::with_capacity(64 + commands.iter().map(Encoded::len).sum::<usize>());
        bytes.push(BATCH_FORMAT);
        let names: Vec<_> = (0u32..).zip(commands).filter_map(|(at, command)| Some((at, command.name()?))).collect();
        // As the fields of a batch, the last of which is a sequence and begins with its length.
        let mut bytes = postcard::to_extend(&(now, limits, names, commands.len()), bytes)?;
        commands.iter().for_each(|command| bytes.extend_from_slice(command.bytes()));
        Ok(bytes)
    }

    /// From what [`Batch::encode`] made.
    ///
    /// # Errors
    /// Bytes of another format, or damaged ones.
    pub fn decode(bytes: &[u8]) -> Result<Batch, DecodeError> {
        match bytes.split_first() {
            None => Err(DecodeError::Empty),
            Some((&BATCH_FORMAT, rest)) => Ok(postcard::from_bytes(rest)?),
            Some((&other, _)) if other > BATCH_FORMAT => Err(DecodeError::Newer(other)),
            Some((&other, _)) => Err(DecodeError::Older(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_encoded_commands_is_the_encoded_batch() {
        let id = TaskId::generate();
        for many in [0, 1, 2, 127, 128, 400] {
            let commands: Vec<Command> = (0..many)
                .map(|n| match n % 3 {
                    0 => Command::Delete { id: id.clone() },
                    1 => Command::Collect { seqs: vec![n, 1 << 40], retain_s: n },
                    _ => Command::ClaimNode { node: n, store: Uuid::from_u128(7) },
                })
                .collect();
            let names: Vec<_> = (0..many as u32)
                .filter(|at| at % 5 == 1)
                .map(|at| (at, WriteId { process: u64::MAX, number: u64::from(at), after: 1 << 40 }))
                .collect();
            let name_of = |at: usize| names.iter().find(|(of, _)| *of as usize == at).map(|(_, name)| *name);
            let encoded = |(at, command)| Encoded::of(command).unwrap().named(name_of(at));
            let encoded: Vec<Encoded> = commands.iter().enumerate().map(encoded).collect();
            let (now, limits) = (Timestamp(1_700_000_000_000), Limits { tasks_max: 7, has_room: false });
            let bytes = Batch::assemble(now, limits, &encoded).unwrap();
            assert!(bytes.len() <= 64 + encoded.iter().map(Encoded::len).sum::<usize>(), "what is counted is enough");
            assert_eq!(bytes, Batch { now, limits, names, commands }.encode().unwrap());
            for command in encoded {
                let name = command.name();
                assert_eq!(Encoded::read(command.clone().into_bytes()).unwrap().named(name), command);
            }
        }
    }

    #[test]
    fn what_is_not_exactly_one_command_is_not_taken_over() {
        let one = Encoded::of(&Command::Delete { id: TaskId::generate() }).unwrap().into_bytes();
        assert!(Encoded::read([&one[..], &one[..]].concat().into()).is_err(), "two commands");
        assert!(Encoded::read(one.slice(..one.len() - 1)).is_err(), "a part of one");
        assert!(Encoded::read(vec![250; 40].into()).is_err(), "none that this version knows");
    }
}
