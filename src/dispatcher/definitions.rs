//! Definitions of tasks, read for the attempts that are about to be made.
//!
//! One that is in memory is there at once. The others are in the store, whose disk may be slow. While reads are quick, an
//! attempt reads its definition where it runs, one at a time (`in_place`): two changes of threads cost more than such a
//! read. The others are read on threads that may block, several in one go.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::in_place::InPlace;
use super::Dispatcher;
use crate::clock::monotonic;
use crate::command::Seq;
use crate::id::{RunId, RunKey, TaskId};
use crate::seam;
use crate::state::Job;
use crate::storage::machine::{Cause, Machine};
use crate::storage::Error;
use crate::view::RunView;

/// Most that are read in one go.
const BATCH: usize = 64;
/// Most reads at once, where one stalls.
const READERS_MAX: usize = 4;

/// What an attempt is made of.
#[derive(Debug)]
pub(super) struct Definition {
    pub cause: Cause,
    /// The run that an alert tells of, if its history is there.
    pub alerted: Option<RunView>,
}

type Found = Result<Option<Definition>, Error>;

struct Wanted {
    seq: Seq,
    key: RunKey,
    id: TaskId,
    found: oneshot::Sender<Found>,
}

#[derive(Default)]
struct Waiting {
    wanted: Vec<Wanted>,
    readers: usize,
}

/// Those that wait to be read, and the place of the one that need not wait.
#[derive(Default)]
pub(super) struct Definitions {
    waiting: Mutex<Waiting>,
    in_place: InPlace,
}

impl Definitions {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another reader is to begin, which is counted then.
    fn add(&self, wanted: Wanted) -> bool {
        let mut waiting = self.waiting();
        waiting.wanted.push(wanted);
        // A second one only where the first does not keep up: it stalls, or has as many as it takes.
        let begins = waiting.readers < READERS_MAX && waiting.wanted.len() > waiting.readers * BATCH;
        waiting.readers += usize::from(begins);
        begins
    }

    /// What a reader is to read next.
    fn next(&self) -> Option<Vec<Wanted>> {
        let mut waiting = self.waiting();
        let many = waiting.wanted.len().min(BATCH);
        (many > 0).then(|| waiting.wanted.drain(..many).collect())
    }

    /// Whether a reader that found nothing may end, which is counted then.
    fn ends(&self) -> bool {
        let mut waiting = self.waiting();
        let ends = waiting.wanted.is_empty();
        waiting.readers -= usize::from(ends);
        ends
    }
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum NoDefinition {
    /// This node may not fire: it does not read for nothing.
    NotLeading,
    /// What is stored cannot be read.
    Unreadable(Error),
}

impl Dispatcher {
    /// The definition under which the attempt is made, as it is when this returns; none: there is no such task any more.
    pub(super) async fn definition(&self, job: &Job) -> Result<Option<Definition>, NoDefinition> {
        let machine = self.0.node.machine();
        loop {
            if !job.key.is_alert() {
                if let Some(known) = machine.cause_in_memory(job.seq, job.key) {
                    return Ok(known.map(|cause| Definition { cause, alerted: None }));
                }
            }
            let digest = || machine.with_state(|state| state.task(job.seq).map(|task| task.digest));
            let before = digest();
            if let Some(place) = self.0.definitions.in_place.enter().await {
                let found =
                    place.read(|| read(machine, job.seq, job.key, &job.id)).map_err(NoDefinition::Unreadable)?;
                if digest() == before {
                    return Ok(found);
                }
                continue;
            }
            if self.0.node.may_fire().is_none() {
                return Err(NoDefinition::NotLeading);
            }
            let (found, reply) = oneshot::channel();
            if self.0.definitions.add(Wanted { seq: job.seq, key: job.key, id: job.id.clone(), found }) {
                let dispatcher = self.clone();
                tokio::spawn(async move { dispatcher.read_definitions().await });
            }
            // A read that panics leaves its askers without an answer.
            let panicked = |_| Err(Error::damaged(&self.0.node.config().raft_dir, "reading it has panicked"));
            let found = reply.await.unwrap_or_else(panicked).map_err(NoDefinition::Unreadable)?;
            // A read can take long: by its end the task can have another definition.
            if digest() == before {
                return Ok(found);
            }
        }
    }

    async fn read_definitions(&self) {
        loop {
            let (dispatcher, machine) = (self.clone(), self.0.node.machine().clone());
            let next = move || {
                let definitions = &dispatcher.0.definitions;
                let wanted = definitions.next()?;
                let read_one = |Wanted { seq, key, id, found }| {
                    let began = monotonic();
                    let read = read(&machine, seq, key, &id);
                    definitions.in_place.took(began.elapsed());
                    (read, found)
                };
                Some(wanted.into_iter().map(read_one).collect::<Vec<_>>())
            };
            let give = |read: Vec<(Found, oneshot::Sender<Found>)>| {
                for (found, asker) in read {
                    // An attempt that is gone has stopped waiting.
                    drop(asker.send(found));
                }
            };
            // Where it panicked, the askers learn of it by the end of their channels.
            let read = seam::reading_on(&self.0.node.config().raft_dir, next, give).await;
            if read.is_ok() && self.0.definitions.ends() {
                return;
            }
        }
    }
}

fn read(machine: &Machine, seq: Seq, key: RunKey, id: &TaskId) -> Found {
    let Some(cause) = machine.cause_of_run(seq, key)? else { return Ok(None) };
    let alerted = key.alerted().and_then(|(of, _)| {
        machine.run_of(seq, RunId::new(id, of)).unwrap_or_else(|error| {
            tracing::debug!(%error, "an alert goes without its run's attempts");
            None
        })
    });
    Ok(Some(Definition { cause, alerted }))
}
