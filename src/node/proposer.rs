//! From many commands to few log entries.
//!
//! Commands wait in one queue. Whenever there is room for another entry, all that wait become one: a lone command
//! leaves at once, and while an entry is on its way the next one grows. On a node that does not lead, the same batches
//! go to the leader, whose proposer puts them together with its own, and passes them on to no one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot, Semaphore};
use tokio::time::Instant;

use super::{zones, Error, Node};
use crate::budget::{Budget, Hold};
use crate::clock::monotonic;
use crate::command::{Batch, Encoded, Limits, Reply};
use crate::raft::wire::{ProposeAnswer, ProposeRequest, Refused};
use crate::raft::{self, CallError, Payload, Sent};
use crate::seam;

/// Entries on their way at once. Two: where a disk or a peer is slow, the next one does not wait for the first.
const ENTRIES_IN_FLIGHT: usize = 2;
/// How long it does wait: an entry has its price, and where the first one is back by then, fewer of them carry more.
const ENTRY_PATIENCE: Duration = Duration::from_millis(1);
/// Batches on their way to the leader at once.
const FORWARDS_IN_FLIGHT: usize = 4;
const COMMANDS_PER_ENTRY: usize = 1024;
/// An entry has no more bytes of commands, unless it is one command alone; nor has a batch on its way to the leader. It
/// is what a link of 20 Mbit/s carries in 100 ms.
const BYTES_PER_ENTRY: usize = 256 << 10;
/// The largest command: an update carries two definitions, each as large as `limits.task_bytes_max` may be.
pub(super) const COMMAND_BYTES_MAX: usize = 40 << 20;
/// A log entry with more bytes of commands is never appended. The log takes more than this.
const ENTRY_BYTES_MAX: usize = COMMAND_BYTES_MAX + (1 << 10);
/// How long after its deadline a command that was taken waits for what became of it.
const LAST_WORD: Duration = Duration::from_millis(20);
/// What a command that waits takes beside its bytes.
const SUBMISSION_BYTES: usize = 256;

/// A command, and who waits for its reply.
pub(super) struct Submission {
    command: Encoded,
    /// Kept until it is replied to, even if whoever waited for that is gone.
    share: Arc<Share>,
    deadline: Instant,
    /// It came from a peer, and is for this node as the leader of this term alone.
    only_in: Option<u64>,
    reply: oneshot::Sender<Result<Reply, Error>>,
    /// Set by whoever is first: the proposer that sends it, or the waiter that gives up.
    decided: Arc<AtomicBool>,
}

/// The other end of a [`Submission`].
pub(super) struct Waiting {
    deadline: Instant,
    reply: oneshot::Receiver<Result<Reply, Error>>,
    decided: Arc<AtomicBool>,
}

/// How many writes may wait on this node or be on their way, and how many bytes of them.
pub(super) struct Room {
    places: Arc<Budget>,
    bytes: Arc<Budget>,
}

/// What one write has of the [`Room`]. It is held from when the write is encoded until it is answered: also between two
/// tries, while there is no leader that it could be sent to.
pub(super) struct Share {
    place: Hold<Arc<Budget>>,
    bytes: Hold<Arc<Budget>>,
}

impl Room {
    /// For so many writes, and so many bytes.
    pub fn new(writes_max: usize, bytes_max: usize) -> Room {
        Room { places: Arc::new(Budget::new(writes_max)), bytes: Arc::new(Budget::new(bytes_max)) }
    }

    /// The share of this command.
    ///
    /// # Errors
    /// [`Error::TooLarge`], and [`Error::Busy`] where there is no room for it.
    pub fn share(&self, command: &Encoded) -> Result<Arc<Share>, Error> {
        let bytes = command.len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(Error::TooLarge { bytes, limit: COMMAND_BYTES_MAX });
        }
        let mut share = Share { place: Hold::new(self.places.clone()), bytes: Hold::new(self.bytes.clone()) };
        // Its name is among what it takes beside its bytes.
        if share.place.grow(1) && share.bytes.grow(bytes + SUBMISSION_BYTES) {
            Ok(Arc::new(share))
        } else {
            Err(Error::Busy)
        }
    }
}

/// A command for the queue, and what to wait on.
pub(super) fn submission(
    command: Encoded,
    share: Arc<Share>,
    deadline: Instant,
    only_in: Option<u64>,
) -> (Submission, Waiting) {
    let (sender, reply) = oneshot::channel();
    let decided = Arc::new(AtomicBool::new(false));
    let submission = Submission { command, share, deadline, only_in, reply: sender, decided: decided.clone() };
    (submission, Waiting { deadline, reply, decided })
}

impl Submission {
    /// Whether it is to be sent: nobody has given up on it, and there is time left.
    fn take(&self, now: Instant) -> bool {
        self.deadline > now && !self.reply.is_closed() && !self.decided.swap(true, Ordering::AcqRel)
    }

    /// Takes and answers it; its name.
    #[cfg(test)]
    pub fn answer(self, result: Result<Reply, Error>) -> Option<crate::command::WriteId> {
        assert!(self.take(monotonic()));
        // A receiver that is gone has stopped waiting.
        drop(self.reply.send(result));
        self.command.name()
    }
}

impl Waiting {
    /// The reply. One that was never sent when the time is up is known not to be written.
    pub async fn reply(mut self) -> Result<Reply, Error> {
        let began = monotonic();
        let word = tokio::time::timeout_at(self.deadline, &mut self.reply).await;
        if let Ok(Ok(result)) = word {
            return result;
        }
        if !self.decided.swap(true, Ordering::AcqRel) {
            return Err(Error::NoLeader);
        }
        let unknown = || Err(Error::Unknown(began.elapsed()));
        if word.is_ok() {
            // Whoever had it let go of it without a word, and there will be none.
            return unknown();
        }
        // Its time is up for the proposer as well, which knows whether it has left this node.
        match tokio::time::timeout(LAST_WORD, self.reply).await {
            Ok(Ok(result)) => result,
            _ => unknown(),
        }
    }
}

/// Gathers and sends, until every sender of submissions is gone.
pub(super) async fn run(node: Node, mut queue: mpsc::Receiver<Submission>) {
    // The one that did not fit into the last batch.
    let mut left: Option<Submission> = None;
    let entries = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT));
    let forwards = Arc::new(Semaphore::new(FORWARDS_IN_FLIGHT));
    loop {
        // First the place, then the commands: what arrives while every place is taken travels together.
        let leads = node.leads();
        let places = if leads { &entries } else { &forwards };
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let first = match left.take() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        if leads {
            // The other place is free once no entry is on its way.
            let _ = tokio::time::timeout(ENTRY_PATIENCE, places.acquire()).await;
        }
        let mut bytes = first.command.len();
        let mut batch = Vec::with_capacity((1 + queue.len()).min(COMMANDS_PER_ENTRY));
        batch.push(first);
        while batch.len() < COMMANDS_PER_ENTRY {
            let Ok(next) = queue.try_recv() else { break };
            bytes += next.command.len();
            if bytes > BYTES_PER_ENTRY {
                left = Some(next);
                break;
            }
            batch.push(next);
        }
        let node = node.clone();
        tokio::spawn(async move {
            send(&node, batch).await;
            drop(place);
        });
    }
}

/// Those for which there is room while their callers wait; the others are refused. None of them counts as sent until
/// then, since what waits here is not written.
async fn with_room(node: &Node, mut batch: Vec<Submission>) -> Vec<Submission> {
    while let Some(first) = batch.iter().map(|submission| submission.deadline).min() {
        // A little earlier, so that the caller is told why.
        let until = first.checked_sub(Duration::from_millis(20)).unwrap_or(first);
        if tokio::time::timeout_at(until, node.0.machine.room()).await.is_ok() {
            break;
        }
        let (late, rest) = batch.into_iter().partition(|submission| submission.deadline <= first);
        batch = rest;
        // A receiver that is gone has stopped waiting.
        let error = node.0.machine.no_room().map_or(Error::Busy, Error::Storage);
        Vec::into_iter(late).for_each(|Submission { reply, .. }| drop(reply.send(Err(error.clone()))));
    }
    batch
}

async fn send(node: &Node, batch: Vec<Submission>) {
    let batch = if node.leads() { with_room(node, batch).await } else { batch };
    // Asked once from here on: what is left of the batch is for this node to write, or it is for the leader, and named.
    let (now, leads, term) = (monotonic(), node.leads(), node.may_write());
    // A peer that gives up on a leader sends its commands to the next one. Those that this node still has must not be
    // written after that, and so are not passed on: a delete would take away what was created since it was acknowledged.
    let (mut batch, outdated): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .filter(|submission| submission.take(now))
        .partition(|submission| submission.only_in.is_none_or(|only_in| term == Some(only_in)));
    // A receiver that is gone has stopped waiting.
    outdated.into_iter().for_each(|Submission { reply, .. }| drop(reply.send(Err(Error::NoLeader))));
    // One that could not be told from its repetition is not sent to where its answer may be lost. It comes again, named.
    if !leads {
        let (unnamed, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(|s| s.command.wants_name());
        batch = others;
        // A receiver that is gone has stopped waiting.
        unnamed.into_iter().for_each(|Submission { reply, .. }| drop(reply.send(Err(Error::NoLeader))));
    }
    let shortage = node.no_room_for_tasks().filter(|_| term.is_some());
    let has_room = shortage.is_none();
    if let Some(reason) = shortage {
        // Of a task that exists nothing is written, and what is to be answered the entry says.
        let is_new = |s: &Submission| s.command.creates() && !node.exists(&s.command);
        let (refused, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_new);
        batch = others;
        for Submission { reply, .. } in refused {
            // A receiver that is gone has stopped waiting.
            drop(reply.send(Err(Error::Storage(reason.clone()))));
        }
    }
    if term.is_some() && !node.is_founded() {
        // A member that came back empty now would be taken for one that has acknowledged nothing yet.
        let (claims, early): (Vec<_>, Vec<_>) = batch.into_iter().partition(|s| s.command.founds());
        batch = claims;
        // A receiver that is gone has stopped waiting.
        early.into_iter().for_each(|Submission { reply, .. }| drop(reply.send(Err(Error::NoLeader))));
    }
    let deadlines = || batch.iter().map(|s| s.deadline);
    let (Some(first), Some(deadline)) = (deadlines().min(), deadlines().max()) else { return };
    let mut commands = Vec::with_capacity(batch.len());
    let mut waiting = Vec::with_capacity(batch.len());
    let mut shares = Vec::with_capacity(batch.len());
    for Submission { command, share, reply, .. } in batch {
        commands.push(command);
        shares.push(share);
        waiting.push(reply);
    }
    let result = match node.leader() {
        // Without its lease, say, a leader may have been replaced: what it appends may never be committed.
        _ if leads => match term {
            Some(term) => match zones::add_missing(node, term, &commands, deadline).await {
                Ok(()) => write(node, term, commands, has_room, deadline).await,
                Err(error) => Err(error),
            },
            None => Err(Error::NoLeader),
        },
        Some((address, term)) => forward(node, &address, term, commands, (first, deadline)).await,
        // A leader whose disk has failed leads no more, which is not what its caller should hear.
        None => Err(node.storage_failure().map_or(Error::NoLeader, Error::Storage)),
    };
    match &result {
        Ok(_) => tracing::debug!(commands = waiting.len(), "writes recorded"),
        Err(error) => tracing::debug!(commands = waiting.len(), %error, "writes not recorded"),
    }
    // A receiver that is gone has stopped waiting.
    match result {
        Ok(replies) => waiting.into_iter().zip(replies).for_each(|(reply, result)| drop(reply.send(Ok(result)))),
        Err(error) => waiting.into_iter().for_each(|reply| drop(reply.send(Err(error.clone())))),
    }
    drop(shares);
}

/// Writes commands as one entry of the log of this node, the leader of this term.
pub(super) async fn write(
    node: &Node,
    term: u64,
    commands: Vec<Encoded>,
    has_room: bool,
    deadline: Instant,
) -> Result<Vec<Reply>, Error> {
    let inner = &node.0;
    let Some(raft) = inner.group.get() else { return Err(Error::NoLeader) };
    if let Some(reason) = node.storage_failure() {
        return Err(Error::Storage(reason));
    }
    let count = commands.len();
    let voters = inner.raft_metrics.borrow().as_ref().map_or(0, voters);
    // Asked again right before the write: by now another may lead, or this node in another term, in which the commands of
    // a peer that has given up on this one must not be written. And what a clock says that has just jumped would be in the
    // state for good: the schedule of a task that is created now would begin where the clock is.
    if node.may_write() != Some(term) {
        return Err(Error::NoLeader);
    }
    let limits = Limits { tasks_max: inner.config.limits.tasks_max as u64, has_room };
    let bytes = Batch::assemble(inner.clock.now(), limits, &commands).map_err(|e| Error::Damaged(e.to_string()))?;
    drop(commands);
    let limit = ENTRY_BYTES_MAX;
    if bytes.len() > limit {
        // The log would refuse it, and openraft takes that for the end of the log.
        return Err(Error::TooLarge { bytes: bytes.len(), limit });
    }
    // openraft ends where the log refuses an append. Twice: another entry may be on its way.
    if !inner.log.takes(2 * bytes.len() as u64) {
        return Err(Error::Storage(inner.log.no_room().unwrap_or_default()));
    }
    let began = monotonic();
    let write = raft.client_write(Payload(Bytes::from(bytes.into_boxed_slice())));
    match tokio::time::timeout_at(deadline, write).await {
        Ok(Ok(answer)) => {
            inner.metrics.commands.inc_by(count as u64);
            inner.metrics.batches.inc();
            Ok(answer.data.0)
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(replaced(voters, began.elapsed())),
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(e)))) => Err(Error::Damaged(e.to_string())),
        Ok(Err(RaftError::Fatal(error))) => {
            tracing::error!(%error, "a write has failed");
            Err(Error::Unknown(began.elapsed()))
        }
        Err(_) => Err(Error::Unknown(began.elapsed())),
    }
}

/// How many nodes have a vote.
pub(super) fn voters(metrics: &raft::Metrics) -> usize {
    metrics.membership_config.voter_ids().count()
}

/// Whether it is known what became of an entry where another leads by now. Either it was never appended, or a new leader
/// has cut it off this log. Of three nodes no other has it then. Of five one may, and be elected before the one that cut
/// it off here has made its own log the majority's.
pub(super) fn knows_fate(voters: usize) -> bool {
    voters <= 3
}

fn replaced(voters: usize, waited: Duration) -> Error {
    if knows_fate(voters) {
        Error::NoLeader
    } else {
        Error::Unknown(waited)
    }
}

/// Has the leader write commands. If they have not left this node by the first of their deadlines, they never do: that
/// caller is told that nothing was written, and the others try again.
async fn forward(
    node: &Node,
    address: &str,
    term: u64,
    commands: Vec<Encoded>,
    (first, deadline): (Instant, Instant),
) -> Result<Vec<Reply>, Error> {
    let wait = deadline.saturating_duration_since(monotonic());
    let count = commands.len();
    // The leader gives up a little earlier, so that its word on what became of it still arrives.
    let timeout_ms = wait.saturating_sub(Duration::from_millis(50)).as_millis() as u64;
    let commands = commands.into_iter().map(|command| (command.name(), command.into_bytes())).collect();
    let request = ProposeRequest { commands, term, timeout_ms };
    let (began, sent) = (monotonic(), Sent::default());
    let call = node.0.links.call_noting::<_, ProposeAnswer>(address, "propose", &request, wait, &sent);
    let unsent = async {
        tokio::time::sleep_until(first).await;
        if sent.may_have_left() {
            std::future::pending::<()>().await;
        }
    };
    let answer = tokio::select! {
        biased;
        // The few places for batches on their way must not wait for a leader that hangs when there is another.
        answer = node.while_it_leads(address, call) => answer,
        () = unsent => None,
    };
    let Some(answer) = answer else {
        return Err(if sent.may_have_left() { Error::Unknown(began.elapsed()) } else { Error::NoLeader });
    };
    if seam::loses_answer(&node.0.config.raft_dir).await {
        return Err(Error::Unknown(began.elapsed()));
    }
    match answer {
        Ok(Ok(replies)) if replies.len() == count => Ok(replies),
        Ok(Ok(_)) => Err(Error::Damaged("the leader's answer does not fit the question".to_owned())),
        Ok(Err(refused)) => Err(from_refused(refused, wait)),
        Err(CallError::NotSent(_)) => Err(Error::NoLeader),
        Err(CallError::Unknown(reason)) => {
            tracing::debug!(reason, "a forwarded write has no answer");
            Err(Error::Unknown(wait))
        }
    }
}

pub(super) fn from_refused(refused: Refused, waited: Duration) -> Error {
    match refused {
        Refused::NotLeader => Error::NoLeader,
        Refused::Unknown => Error::Unknown(waited),
        Refused::Busy => Error::Busy,
        Refused::TooLarge { bytes, limit } => Error::TooLarge { bytes, limit },
        Refused::Storage(reason) => Error::Storage(reason),
    }
}

pub(super) fn to_refused(error: &Error) -> Refused {
    match error {
        Error::NoLeader | Error::Stopping => Refused::NotLeader,
        Error::Busy => Refused::Busy,
        Error::TooLarge { bytes, limit } => Refused::TooLarge { bytes: *bytes, limit: *limit },
        Error::Storage(reason) => Refused::Storage(reason.clone()),
        _ => Refused::Unknown,
    }
}

#[cfg(test)]
#[path = "proposer_tests.rs"]
mod tests;
