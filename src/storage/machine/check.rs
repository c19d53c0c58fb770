//! What this replica holds at a log entry, to be held against what the others hold.
//!
//! A check is a command in the log. Right behind the entry that has it, each replica cuts what has changed, as for a
//! checkpoint; the checkpoint that writes this cut knows how many records there are then, and a checksum over all of them.
//! Both follow from the state alone, whenever checkpoints were made before, so replicas that are alike tell the same. What
//! a check costs is a checkpoint.
//!
//! A replica that tells something else than the others is in doubt: it applies nothing more, and waits for a snapshot of
//! another node to take the place of its state.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use super::super::checkpoint::Cut;
use super::super::store::Mark;
use super::super::Error;
use super::{Core, Machine};
use crate::raft::wire::Checked;
use crate::state::record;

/// So many checks are remembered.
const REMEMBERED: usize = 8;

/// The newest checks, the last one last.
pub(super) type Checks = watch::Sender<VecDeque<Checked>>;

impl Core {
    /// What has changed up to the last entry that was applied, frozen.
    pub(super) fn cut_now(&mut self, check: bool) -> Arc<Cut> {
        let changes = self.state.freeze_changes();
        let globals = self.state.globals();
        let (applied, leaders, membership) = (self.applied, self.leaders.clone(), self.membership.clone());
        let cut = Cut { applied, leaders, membership, globals, changes, hot: OnceLock::new(), check };
        let cut = Arc::new(cut);
        self.cut = Some(cut.clone());
        cut
    }

    /// The entry that was applied last has a check in it. While a checkpoint is being written there can be no other cut:
    /// then this replica has nothing to tell of this check.
    pub(super) fn check(&mut self) {
        if self.cut.is_none() {
            self.cut_now(true);
        }
    }
}

impl Machine {
    /// The cut of a check has been written.
    pub(super) fn note_check(&self, mark: &Mark) -> Result<(), Error> {
        let held = (&mark.membership, &mark.globals, mark.records, mark.digest);
        let bytes = record::encode(&held).map_err(|e| Error::damaged(&self.0.dir, e))?;
        let at = mark.applied.map_or(0, |id| id.index);
        let checked = Checked { at, records: mark.records, digest: xxh3_64(&bytes) };
        self.0.checks.send_modify(|checks| {
            checks.push_back(checked);
            while checks.len() > REMEMBERED {
                checks.pop_front();
            }
        });
        Ok(())
    }

    /// Tells of each check.
    pub fn watch_checks(&self) -> watch::Receiver<VecDeque<Checked>> {
        self.0.checks.subscribe()
    }

    /// What this replica held at the check at the entry `at`; an error: whether it may be told later.
    ///
    /// # Errors
    /// True: it has not come so far.
    pub fn checked(&self, at: u64) -> Result<Checked, bool> {
        let core = self.core();
        let known = self.0.checks.borrow().iter().find(|checked| checked.at == at).copied();
        known.ok_or_else(|| {
            core.applied.is_none_or(|id| id.index < at) || core.cut.as_ref().is_some_and(|cut| cut.check)
        })
    }

    /// Has nothing more be applied until another state is installed, or whatever was held is to go on.
    pub fn hold(&self, held: bool) {
        if !self.0.held.send_replace(held) {
            self.0.held_bytes.store(0, Ordering::Relaxed);
        }
    }

    /// Whether nothing may be applied.
    pub fn is_held(&self) -> bool {
        *self.0.held.borrow()
    }

    /// Waits while nothing may be applied.
    pub(super) async fn may_apply(&self) {
        // An error: the machine is gone, and whoever waits with it.
        let _ = self.0.held.subscribe().wait_for(|held| !held).await;
    }
}
