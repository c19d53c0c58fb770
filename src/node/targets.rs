//! What the leader knows of the targets: whoever sends the callbacks tells it, since that is a layer above.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{proposer, Error, Node};
use crate::clock::monotonic;
use crate::names::Names;
use crate::raft::wire::{Refused, TargetsAnswer};
use crate::view::{Page, TargetFilter, TargetView};

/// Tells what is known of the targets.
pub(super) type Show = Box<dyn Fn(&TargetFilter) -> Page<TargetView> + Send + Sync>;

/// Is told a host of the cluster and one of its ports.
pub(super) type Learn = Box<dyn Fn(&str, u16) + Send + Sync>;

/// Between two questions while there is no leader.
const PAUSE: Duration = Duration::from_millis(50);

impl Node {
    /// Has `show` tell what is known of the targets on this node. The first one counts.
    pub fn show_targets(&self, show: impl Fn(&TargetFilter) -> Page<TargetView> + Send + Sync + 'static) {
        let _ = self.0.targets.set(Box::new(show));
    }

    /// Has `learn` told where the peers serve, which is no target. The first one counts.
    pub fn tell_ports(&self, learn: impl Fn(&str, u16) + Send + Sync + 'static) {
        let _ = self.0.ports.set(Box::new(learn));
    }

    /// What the peers' names stand for.
    pub fn names(&self) -> Names {
        self.0.links.names().clone()
    }

    /// A peer has told where it serves.
    pub(super) fn learn_ports(&self, http: &str, monitor: u16) {
        let (Some(learn), Some((host, port))) = (self.0.ports.get(), http.rsplit_once(':')) else { return };
        for port in port.parse().into_iter().chain([monitor]) {
            learn(host.trim_matches(['[', ']']), port);
        }
    }

    /// The targets that this node, if it leads, has something to do with.
    pub fn own_targets(&self, filter: &TargetFilter) -> Page<TargetView> {
        let none = Page { items: Vec::new(), next_cursor: None };
        self.0.targets.get().map_or(none, |show| show(filter))
    }

    /// The same of the leader.
    ///
    /// # Errors
    /// [`Error::NoLeader`] if there is none before the deadline.
    pub async fn targets(&self, filter: &TargetFilter, deadline: Instant) -> Result<Page<TargetView>, Error> {
        loop {
            if self.0.closed.load(Ordering::Relaxed) {
                return Err(Error::Stopping);
            }
            let mut group = self.watch();
            group.mark_unchanged();
            if let Ok(answer) = self.targets_of_leader(filter) {
                return Ok(answer);
            }
            let mut error = Error::NoLeader;
            if let Some(leader) = self.leader_address() {
                let wait = deadline.saturating_duration_since(monotonic());
                match self.0.links.call::<_, TargetsAnswer>(&leader, "targets", filter, wait).await {
                    Ok(Ok(page)) => return Ok(page),
                    Ok(Err(refused)) => error = proposer::from_refused(refused, wait),
                    Err(_) => {}
                }
            }
            let pause = (monotonic() + PAUSE).min(deadline);
            let _ = tokio::time::timeout_at(pause, group.changed()).await;
            if monotonic() >= deadline {
                return Err(error);
            }
        }
    }

    /// The answer to a peer that takes this node for the leader.
    pub(super) fn targets_of_leader(&self, filter: &TargetFilter) -> TargetsAnswer {
        match self.may_fire() {
            Some(_) => Ok(self.own_targets(filter)),
            None => Err(Refused::NotLeader),
        }
    }
}
