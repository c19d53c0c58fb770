//! Lists of runs, in parts.
//!
//! Over all tasks, what is going comes first, then what has ended, the newest outcome first. An ended run keeps its place
//! in the index for ever, so that a cursor stays good while further runs end and others go.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use super::lists::{Take, SCAN_MAX};
use super::{Error, Node};
use crate::command::Seq;
use crate::id::RunId;
use crate::run::{OpenPhase, OpenRun, RunState};
use crate::view::{RunFilter, RunView};

/// Runs that are going and are sorted together. Where more are going, those of newer tasks come before.
const OPEN_STEP: usize = 4096;

/// Where a part of the list over all tasks begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// With what is going, of the tasks before this one.
    Open(Seq),
    /// Of the tasks from the first up to the second, with the runs that have lesser ids.
    Within(Seq, Seq, RunId),
    /// With what has ended, before this serial number.
    Ended(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Open(below) => write!(f, "o{below}"),
            Place::Within(from, below, id) => write!(f, "w{from}.{below}.{id}"),
            Place::Ended(below) => write!(f, "e{below}"),
        }
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Place, Error> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| Error::Cursor);
        let (kind, rest) = text.split_at_checked(1).ok_or(Error::Cursor)?;
        match (kind, rest.splitn(3, '.').collect::<Vec<_>>().as_slice()) {
            ("o", [below]) => Ok(Place::Open(number(below)?)),
            ("w", [from, below, id]) => {
                let (from, below) = (number(from)?, number(below)?);
                let id = id.parse().map_err(|_| Error::Cursor)?;
                if from < below {
                    Ok(Place::Within(from, below, id))
                } else {
                    Err(Error::Cursor)
                }
            }
            ("e", [below]) => Ok(Place::Ended(number(below)?)),
            _ => Err(Error::Cursor),
        }
    }
}

/// A part that is being filled.
struct Part<'a, 'b> {
    take: &'a mut Take<'b, RunView>,
    /// Those that are in it.
    taken: Vec<RunId>,
    limit: usize,
    looked_at: usize,
    /// Runs that had ended when it was begun. One that ended since may be in it already, as one that is going.
    ended: u64,
}

impl Part<'_, '_> {
    /// Whether the run is in it now.
    fn push(&mut self, run: &RunView) -> bool {
        let taken = self.taken.len() < self.limit && (self.take)(run);
        if taken {
            self.taken.push(run.id);
        }
        taken
    }

    fn has(&self, serial: u64, id: RunId) -> bool {
        serial >= self.ended && self.taken.contains(&id)
    }

    /// Whether no more is to be looked at for this part.
    fn is_over(&self) -> bool {
        self.taken.len() >= self.limit || self.looked_at >= SCAN_MAX
    }
}

/// What comes after some runs were looked at.
enum Next {
    /// What is at this place, for the same part.
    Look(Place),
    /// The next part, which begins here.
    Part(Place),
    /// Nothing.
    End,
}

impl Node {
    /// Gives runs, newest first, to `take`, `limit` at most; the cursor of the next part, if there is one. None: the filter
    /// names a task that is not there.
    ///
    /// # Errors
    /// A cursor that is none; a record that cannot be read.
    pub fn list_runs(
        &self,
        filter: &RunFilter,
        limit: usize,
        cursor: Option<&str>,
        take: &mut Take<'_, RunView>,
    ) -> Result<Option<Option<String>>, Error> {
        let Some(task) = &filter.task else { return self.list_all_runs(filter, limit, cursor, take).map(Some) };
        let after: Option<RunId> = match cursor {
            Some(text) => Some(text.strip_prefix('r').and_then(|id| id.parse().ok()).ok_or(Error::Cursor)?),
            None => None,
        };
        let machine = &self.0.machine;
        let Some(seq) = machine.with_state(|state| state.find(task)) else { return Ok(None) };
        // Run ids begin with the due time: their order is the order of the runs.
        let Some(mut runs) = self.read_result(machine.runs(seq))? else { return Ok(None) };
        runs.retain(|run| {
            filter.state.is_none_or(|s| s == run.state)
                && filter.from.is_none_or(|t| run.due >= t)
                && filter.to.is_none_or(|t| run.due <= t)
                && after.is_none_or(|id| run.id < id)
        });
        let taken = runs.iter().take(limit).take_while(|run| take(run)).count();
        let last = runs[..taken].last().filter(|_| taken < runs.len());
        Ok(Some(last.map(|run| format!("r{}", run.id))))
    }

    fn list_all_runs(
        &self,
        filter: &RunFilter,
        limit: usize,
        cursor: Option<&str>,
        take: &mut Take<'_, RunView>,
    ) -> Result<Option<String>, Error> {
        let only_open = matches!(filter.state, Some(RunState::Pending | RunState::Running));
        let mut place = match cursor {
            Some(text) => text.parse()?,
            None if filter.state.is_some() && !only_open => Place::Ended(u64::MAX),
            None => Place::Open(Seq::MAX),
        };
        let ended = self.0.machine.with_state(|state| state.runs_total());
        let mut part = Part { take, taken: Vec::new(), limit, looked_at: 0, ended };
        while !part.is_over() {
            let next = match place {
                Place::Ended(_) if only_open => Next::End,
                Place::Ended(below) => self.ended_part(filter, below, &mut part)?,
                Place::Open(below) => Next::Look(self.open_tasks(below)),
                Place::Within(from, below, id) => self.open_part(filter, (from, below), id, &mut part),
            };
            match next {
                Next::Look(at) => place = at,
                Next::Part(at) => return Ok(Some(at.to_string())),
                Next::End => return Ok(None),
            }
        }
        Ok(Some(place.to_string()))
    }

    /// The next tasks whose runs that are going are sorted together.
    fn open_tasks(&self, below: Seq) -> Place {
        self.0.machine.with_state(|state| match state.open_tasks_below(below, OPEN_STEP) {
            Some(from) => Place::Within(from, below, RunId::MAX),
            // From here on what has ended up to now: what is going was seen, at this moment or before.
            None => Place::Ended(state.runs_total()),
        })
    }

    fn open_part(&self, filter: &RunFilter, (from, below): (Seq, Seq), after: RunId, part: &mut Part<'_, '_>) -> Next {
        let passes = |run: &OpenRun| {
            let running = matches!(run.phase, OpenPhase::Running { .. });
            filter.state.is_none_or(|state| (state == RunState::Running) == running)
                && filter.from.is_none_or(|t| run.key.due >= t)
                && filter.to.is_none_or(|t| run.key.due <= t)
        };
        let machine = &self.0.machine;
        let mut places = machine.with_state(|state| state.open_runs_of(from, below, passes));
        part.looked_at += OPEN_STEP;
        places.retain(|(id, ..)| *id < after);
        places.sort_unstable_by_key(|(id, ..)| Reverse(*id));
        let mut last = after;
        for (id, seq, key) in places {
            // Asked again: it may have gone on since it was found.
            if let Some(run) = machine.open_run(seq, key, passes) {
                if !part.push(&run) {
                    return Next::Part(Place::Within(from, below, last));
                }
            }
            last = id;
        }
        Next::Look(Place::Open(from))
    }

    fn ended_part(&self, filter: &RunFilter, below: u64, part: &mut Part<'_, '_>) -> Result<Next, Error> {
        let machine = &self.0.machine;
        let found = self.read_result(machine.index_below(below, filter))?;
        part.looked_at += found.looked_at;
        for (serial, entry) in &found.entries {
            let run = self.read_result(machine.ended_run(entry))?;
            let Some(run) = run.filter(|run| !part.has(*serial, run.id)) else { continue };
            if !part.push(&run) {
                return Ok(Next::Part(Place::Ended(serial + 1)));
            }
        }
        Ok(if found.next > 0 { Next::Look(Place::Ended(found.next)) } else { Next::End })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_is_one() {
        let id = RunId::MAX;
        for place in [Place::Open(0), Place::Open(Seq::MAX), Place::Within(3, 9, id), Place::Ended(77)] {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for bad in [
            "",
            "o",
            "e",
            "e-1",
            "o1.2",
            "e1x",
            "w9.3.ffffffff-ffff-ffff-ffff-ffffffffffff",
            "w1.2.x",
            "w1.2",
            "r1",
            "ü",
        ] {
            assert_eq!(bad.parse::<Place>(), Err(Error::Cursor), "{bad:?}");
        }
    }
}
