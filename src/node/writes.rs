//! The way of a write: by whichever node leads, once, and answered.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::proposer::{self, Share};
use super::{Error, Node};
use crate::clock::monotonic;
use crate::command::{Command, Encoded, Refusal, Reply, WriteId};

impl Node {
    /// The name of a write that is sent for the first time now.
    fn name_write(&self) -> WriteId {
        let number = self.0.named_writes.fetch_add(1, Ordering::Relaxed);
        WriteId { process: self.0.process, number, after: self.0.machine.with_state(|s| s.named_writes()) }
    }

    /// Whether the fate of each entry that this node writes is known to it: it leads, and of few voters.
    fn knows_its_entries(&self) -> bool {
        let metrics = self.0.raft_metrics.borrow();
        metrics.as_ref().is_some_and(|m| m.state == ServerState::Leader && proposer::knows_fate(proposer::voters(m)))
    }

    /// Has a command written, by whichever node leads, and waits for its reply. While there is no leader, it waits for
    /// one. Where its outcome is unknown it is sent again, under its name: it takes effect once.
    ///
    /// # Errors
    /// [`Error::NoLeader`], [`Error::Busy`], [`Error::Storage`]: it is not written. [`Error::Unknown`]: it may be.
    pub async fn propose(&self, command: Command, deadline: Instant) -> Result<Reply, Error> {
        // What a command is made from, and what is shown of its outcome, is read here.
        if let Some(reason) = self.in_doubt() {
            return Err(Error::Storage(reason));
        }
        let encoded = Encoded::of(&command).map_err(|e| Error::Damaged(e.to_string()))?;
        // It may wait for long, and once.
        drop(command);
        let mut command = encoded;
        // Until it is answered, through all tries: what waits for a leader takes as much memory as what is on its way.
        let share = self.0.submission_room.share(&command).map_err(|error| self.count_refused(error))?;
        let began = monotonic();
        let unknown = || self.count_failed(Error::Unknown(began.elapsed()), "unknown");
        let mut ambiguous = false;
        loop {
            if self.0.closed.load(Ordering::Relaxed) {
                return Err(if ambiguous { unknown() } else { Error::Stopping });
            }
            let mut group = self.watch();
            group.mark_unchanged();
            // Names cost memory on each node. A leader's own write needs none as long as it can be told what became of it.
            if command.wants_name() && !self.knows_its_entries() {
                command = command.named(Some(self.name_write()));
            }
            let error = match self.submit_with(share.clone(), command.clone(), deadline, None).await {
                Ok(Reply::Refused(Refusal::Forgotten { .. })) if ambiguous => return Err(unknown()),
                Ok(Reply::Refused(Refusal::Forgotten { before })) => {
                    // This node is far behind the leader, and the write is not written.
                    command = command.named(Some(WriteId { after: before, ..self.name_write() }));
                    Error::NoLeader
                }
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            match error {
                Error::Unknown(_) if !command.wants_name() => ambiguous = true,
                Error::NoLeader => {}
                // That this one was not written says nothing of the one before.
                _ if ambiguous => return Err(unknown()),
                Error::Unknown(waited) => return Err(self.count_failed(Error::Unknown(waited), "unknown")),
                other => return Err(self.count_refused(other)),
            }
            // A change of who leads ends the wait early; a short one tries again anyway.
            let pause = (monotonic() + Duration::from_millis(50)).min(deadline);
            let _ = tokio::time::timeout_at(pause, group.changed()).await;
            if monotonic() >= deadline {
                return Err(match ambiguous {
                    true => unknown(),
                    false => self.count_failed(Error::NoLeader, "no_leader"),
                });
            }
        }
    }

    fn count_failed(&self, error: Error, label: &str) -> Error {
        self.0.metrics.failed_writes.get_or_create(&vec![("error", label.to_owned())]).inc();
        error
    }

    fn count_refused(&self, error: Error) -> Error {
        match error {
            Error::Busy => self.count_failed(error, "busy"),
            other => other,
        }
    }

    /// Whether the task that this command creates is there already.
    pub(super) fn exists(&self, command: &Encoded) -> bool {
        command.created().is_some_and(|id| self.0.machine.with_state(|s| s.find(&id)).is_some())
    }

    pub(super) async fn submit(
        &self,
        command: Encoded,
        deadline: Instant,
        only_in: Option<u64>,
    ) -> Result<Reply, Error> {
        let share = self.0.submission_room.share(&command)?;
        self.submit_with(share, command, deadline, only_in).await
    }

    async fn submit_with(
        &self,
        share: Arc<Share>,
        command: Encoded,
        deadline: Instant,
        only_in: Option<u64>,
    ) -> Result<Reply, Error> {
        let (submission, waiting) = proposer::submission(command, share, deadline, only_in);
        match self.0.submissions.try_send(submission) {
            Ok(()) => waiting.reply().await,
            Err(mpsc::error::TrySendError::Full(_)) => Err(Error::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Error::Stopping),
        }
    }

    /// As [`Node::propose`], for each of these.
    pub async fn propose_all(&self, commands: Vec<Command>, deadline: Instant) -> Vec<Result<Reply, Error>> {
        futures::future::join_all(commands.into_iter().map(|command| self.propose(command, deadline))).await
    }
}

#[cfg(test)]
#[path = "writes_tests.rs"]
mod tests;
