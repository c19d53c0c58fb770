//! How the rules of the time zones come into the replicated state: the leader adds those of a zone before a task first
//! names it, and has its own data take over where they are newer.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{proposer, Error, Node};
use crate::clock::monotonic;
use crate::command::{Command, Encoded};
use crate::schedule::{UnknownZone, Zone, ZoneRules};

/// Between two looks whether the leader's data are newer.
const LOOK: Duration = Duration::from_millis(500);
/// Between two entries that move tasks to other rules, so that other writes come in between.
const MOVE_PAUSE: Duration = Duration::from_millis(5);

/// Has the rules written that these commands need and the state does not have. What a zone is that the leader does not
/// know either is said where the command is applied.
pub(super) async fn add_missing(node: &Node, term: u64, commands: &[Encoded], deadline: Instant) -> Result<(), Error> {
    let named: BTreeSet<&str> = commands.iter().filter_map(Encoded::zone).collect();
    if named.is_empty() {
        return Ok(());
    }
    let missing: Vec<&str> =
        node.0.machine.with_state(|state| named.into_iter().filter(|name| state.zone(name).is_none()).collect());
    let rules: Vec<ZoneRules> = missing.into_iter().filter_map(|name| node.0.config.zone_data.rules(name)).collect();
    if rules.is_empty() {
        return Ok(());
    }
    let adds = Encoded::of(&Command::AddZones { rules }).map_err(|e| Error::Damaged(e.to_string()))?;
    match proposer::write(node, term, vec![adds], true, deadline).await {
        Ok(_) => Ok(()),
        // Of the commands themselves nothing was written, and that is known.
        Err(Error::Unknown(_)) => Err(Error::NoLeader),
        Err(error) => Err(error),
    }
}

impl Node {
    /// The zone with this name: by the rules of the replicated state, or where it has none by the data of this program, by
    /// which it would be added.
    ///
    /// # Errors
    /// [`UnknownZone`].
    pub fn zone(&self, name: &str) -> Result<Zone, UnknownZone> {
        let known = self.0.machine.with_state(|state| state.zone(name));
        known.map_or_else(|| self.0.config.zone_data.zone(name), Ok)
    }

    /// Has this node's zone data take over where it leads and they are newer than those of the state, and the tasks go by
    /// them. Never ends.
    pub async fn keep_zones(self) {
        loop {
            let term = self.may_write().filter(|_| self.is_founded());
            let Some((term, command)) = term.and_then(|term| Some((term, self.zone_step()?))) else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let Ok(encoded) = Encoded::of(&command) else { return std::future::pending().await };
            let written = self.submit(encoded, monotonic() + self.0.config.request_timeout(), Some(term)).await;
            if let (Ok(_), Command::TakeOverZones { version, rules, .. }) = (&written, &command) {
                let names: Vec<&str> = rules.iter().map(|rules| rules.name.as_str()).collect();
                let differ = names.join(", ");
                tracing::info!(version, differ, "newer time zone data take over");
            }
            tokio::time::sleep(if written.is_ok() { MOVE_PAUSE } else { LOOK }).await;
        }
    }

    /// What is to be written next.
    fn zone_step(&self) -> Option<Command> {
        let own = &self.0.config.zone_data;
        let version = own.version();
        self.0.machine.with_state(|state| {
            if let Some(from) = state.moving() {
                return Some(Command::MoveTasks { from });
            }
            let older = || state.zone_rules().map(|(_, rules)| rules).filter(|rules| *rules.version < *version);
            older().next()?;
            let changed = |rules: &ZoneRules| own.rules(&rules.name).filter(|own| own.tzif != rules.tzif);
            let rules = older().filter_map(changed).collect();
            Some(Command::TakeOverZones { version: version.to_owned(), seen: state.next_zone(), rules })
        })
    }
}
