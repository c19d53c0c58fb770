//! Due times of which something is recorded in place of an attempt: missed, skipped, or lost by their sender.
//!
//! After an outage there can be as many as there are tasks. Only their numbers wait here; what is recorded of them is made
//! when its turn comes, so many at once as the writes of callers leave room for. Where nothing can be recorded, the next
//! try comes after a pause.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::exception;
use crate::clock::monotonic;
use crate::command::{Command, Refusal, Reply, Seq};
use crate::dispatcher::{Dispatcher, Taken};
use crate::id::RunKey;
use crate::node::Node;
use crate::state::{Job, NOTHING_FIRED};

/// Most that are proposed at once.
const AT_ONCE_MAX: usize = 1024;
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after something could not be recorded.
const PAUSE: Duration = Duration::from_millis(200);
/// Tasks that are made due again in one hold of the state.
const RELEASE_STEP: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Due,
    Lost,
}

/// A due time of a task that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry(Seq, RunKey, Kind);

impl Entry {
    /// The due time is not fired.
    pub fn due(job: &Job) -> Entry {
        Entry(job.seq, job.key, Kind::Due)
    }

    /// The run's attempt was lost by the node that has sent it, and may not be repeated.
    pub fn lost(job: &Job) -> Entry {
        Entry(job.seq, job.key, Kind::Lost)
    }
}

/// The entries that wait, each once, and the last one that had its turn.
#[derive(Default)]
struct Turns {
    waiting: BTreeSet<Entry>,
    last: Option<Entry>,
}

impl Turns {
    /// The next ones, in a circle: one that comes again at once waits for all others.
    fn next(&mut self, many: usize) -> Vec<Entry> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut next: Vec<Entry> = self.waiting.range((after, Bound::Unbounded)).take(many).copied().collect();
        if next.len() < many {
            let rest = many - next.len();
            let upto = self.last.map_or(Bound::Unbounded, Bound::Included);
            if self.last.is_some() {
                next.extend(self.waiting.range((Bound::Unbounded, upto)).take(rest));
            }
        }
        for entry in &next {
            self.waiting.remove(entry);
        }
        self.last = next.last().copied().or(self.last);
        next
    }
}

struct Shared {
    node: Node,
    dispatcher: Dispatcher,
    turns: Mutex<Turns>,
    added: Notify,
}

/// Records them for as long as it is kept.
pub(super) struct Recorder {
    shared: Arc<Shared>,
    _work: JoinSet<()>,
}

impl Recorder {
    pub fn new(node: Node, dispatcher: Dispatcher) -> Recorder {
        let turns = Mutex::new(Turns::default());
        let shared = Arc::new(Shared { node, dispatcher, turns, added: Notify::new() });
        let mut work = JoinSet::new();
        work.spawn(run(shared.clone()));
        Recorder { shared, _work: work }
    }

    /// Takes over entries; those that it has already are the same.
    pub fn add(&self, entries: impl IntoIterator<Item = Entry>) {
        let mut entries = entries.into_iter().peekable();
        if entries.peek().is_some() {
            self.shared.turns().waiting.extend(entries);
            self.shared.added.notify_one();
        }
    }

    /// Lets go of what waits: all that was taken is due again.
    pub fn clear(&self) {
        self.shared.turns().waiting.clear();
    }
}

impl Shared {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be recorded; none: nothing any more.
    fn command(&self, Entry(seq, key, kind): Entry) -> Option<Command> {
        if kind == Kind::Lost {
            return self.node.machine().with_state(|state| state.lost(seq, key));
        }
        let job = self.node.machine().with_state(|state| state.next_job(seq, key))?;
        if self.dispatcher.holds(seq, key, job.attempt) {
            return None;
        }
        let mut command = exception(&self.node, &job, self.node.now())?;
        if let Command::Misfire { reason, .. } = &mut command {
            // This node can know better why nothing was fired.
            if reason == NOTHING_FIRED {
                *reason = self.dispatcher.missed_cause(&job).unwrap_or_else(|| std::mem::take(reason));
            }
        }
        Some(command)
    }
}

async fn run(shared: Arc<Shared>) {
    let mut at_once = AT_ONCE_MAX;
    loop {
        let entries = shared.turns().next(at_once);
        if entries.is_empty() {
            shared.added.notified().await;
            continue;
        }
        // By a task of its own: a panic ends that, and its tasks are due again by what it has dropped.
        let recorded = tokio::spawn(record(shared.clone(), entries)).await;
        match recorded {
            // Slowly: those for which an entry has no steps left have to come again.
            Ok(Recorded::All) => at_once = (at_once + at_once / 8 + 1).min(AT_ONCE_MAX),
            // One entry takes so many.
            Ok(Recorded::Some(many)) => at_once = many.max(1),
            Ok(Recorded::Failed) | Err(_) => {
                at_once = (at_once / 2).max(1);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The result of a try to record.
enum Recorded {
    /// All are recorded.
    All,
    /// So many are recorded, as an entry takes no more; the others come again.
    Some(usize),
    /// Something could not be written.
    Failed,
}

/// Records something of each, and has their tasks looked at again.
async fn record(shared: Arc<Shared>, entries: Vec<Entry>) -> Recorded {
    let node = &shared.node;
    let taken: Vec<Taken> = entries.iter().map(|entry| Taken::new(node.clone(), entry.0)).collect();
    let commands = entries.iter().filter_map(|entry| shared.command(*entry)).collect();
    let results = node.propose_all(commands, monotonic() + RECORD_TIMEOUT).await;
    let failure = results.iter().find_map(|result| result.as_ref().err());
    if let Some(error) = failure {
        tracing::debug!(%error, "what became of some due times is not recorded yet");
        tokio::time::sleep(PAUSE).await;
    }
    taken.into_iter().for_each(|taken| taken.end(false));
    let seqs: Vec<Seq> = entries.iter().map(|entry| entry.0).collect();
    seqs.chunks(RELEASE_STEP).for_each(|part| node.machine().release_all(part));
    let put_off = results.iter().filter(|result| matches!(result, Ok(Reply::Refused(Refusal::MisfiresAtOnce)))).count();
    match failure {
        Some(_) => Recorded::Failed,
        None if put_off > 0 => Recorded::Some(results.len() - put_off),
        None => Recorded::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn entry(seq: Seq) -> Entry {
        Entry(seq, RunKey::scheduled(Timestamp(1)), Kind::Due)
    }

    #[test]
    fn one_that_comes_again_at_once_waits_for_all_others() {
        let mut turns = Turns::default();
        turns.waiting.extend((1..=10).map(entry));
        let mut order = Vec::new();
        for _ in 0..8 {
            let next = turns.next(3);
            order.extend(next.iter().map(|entry| entry.0));
            turns.waiting.extend(next);
        }
        let twice: Vec<Seq> = (1..=10).chain(1..=10).collect();
        assert_eq!(order[..20], twice);
        turns.waiting.clear();
        assert!(turns.next(3).is_empty());
    }
}
