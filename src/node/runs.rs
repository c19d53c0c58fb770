//! Lists of runs, in parts.
//!
//! Over all tasks, what is going comes first, then what has ended, the newest outcome first. An ended run keeps its place
//! in the index for ever, so that a cursor stays good while further runs end and others go.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use super::lists::{BYTES_MAX, SCAN_MAX};
use super::{Error, Node};
use crate::command::Seq;
use crate::id::RunId;
use crate::run::{OpenPhase, OpenRun, RunState};
use crate::view::{Page, RunFilter, RunView};

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
struct Part {
    items: Vec<RunView>,
    limit: usize,
    bytes: usize,
    looked_at: usize,
    /// Runs that had ended when it was begun. One that ended since may be in it already, as one that is going.
    ended: u64,
}

impl Part {
    fn push(&mut self, run: RunView) {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.bytes += 256 + text(&run.reason);
        self.bytes += run.attempts.iter().map(|a| 160 + text(&a.error) + text(&a.answer)).sum::<usize>();
        self.items.push(run);
    }

    fn has(&self, serial: u64, id: RunId) -> bool {
        serial >= self.ended && self.items.iter().any(|run| run.id == id)
    }

    fn is_full(&self) -> bool {
        self.items.len() >= self.limit || self.bytes >= BYTES_MAX
    }

    /// Whether no more is to be looked at for this part.
    fn is_over(&self) -> bool {
        self.is_full() || self.looked_at >= SCAN_MAX
    }
}

impl Node {
    /// Runs, newest first; none: the filter names a task that is not there.
    ///
    /// # Errors
    /// A cursor that is none; a record that cannot be read.
    pub fn list_runs(
        &self,
        filter: &RunFilter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Option<Page<RunView>>, Error> {
        let Some(task) = &filter.task else { return self.list_all_runs(filter, limit, cursor).map(Some) };
        let after: Option<RunId> = match cursor {
            Some(text) => Some(text.strip_prefix('r').and_then(|id| id.parse().ok()).ok_or(Error::Cursor)?),
            None => None,
        };
        let machine = &self.0.machine;
        let Some(seq) = machine.with_state(|state| state.find(task)) else { return Ok(None) };
        // Run ids begin with the due time: their order is the order of the runs.
        let mut runs = self.read_result(machine.runs(seq))?.unwrap_or_default();
        runs.retain(|run| {
            filter.state.is_none_or(|s| s == run.state)
                && filter.from.is_none_or(|t| run.due >= t)
                && filter.to.is_none_or(|t| run.due <= t)
                && after.is_none_or(|id| run.id < id)
        });
        let more = runs.len() > limit;
        runs.truncate(limit);
        let next_cursor = runs.last().filter(|_| more).map(|run| format!("r{}", run.id));
        Ok(Some(Page { items: runs, next_cursor }))
    }

    fn list_all_runs(&self, filter: &RunFilter, limit: usize, cursor: Option<&str>) -> Result<Page<RunView>, Error> {
        let only_open = matches!(filter.state, Some(RunState::Pending | RunState::Running));
        let mut place = match cursor {
            Some(text) => Some(text.parse()?),
            None if filter.state.is_some() && !only_open => Some(Place::Ended(u64::MAX)),
            None => Some(Place::Open(Seq::MAX)),
        };
        let ended = self.0.machine.with_state(|state| state.runs_total());
        let mut part = Part { items: Vec::new(), limit, bytes: 0, looked_at: 0, ended };
        while let Some(at) = place.filter(|_| !part.is_over()) {
            place = match at {
                Place::Ended(_) if only_open => None,
                Place::Ended(below) => self.ended_part(filter, below, &mut part)?,
                Place::Open(below) => Some(self.open_tasks(below)),
                Place::Within(from, below, id) => Some(self.open_part(filter, (from, below), id, &mut part)),
            };
        }
        Ok(Page { items: part.items, next_cursor: place.map(|place| place.to_string()) })
    }

    /// The next tasks whose runs that are going are sorted together.
    fn open_tasks(&self, below: Seq) -> Place {
        self.0.machine.with_state(|state| match state.open_tasks_below(below, OPEN_STEP) {
            Some(from) => Place::Within(from, below, RunId::MAX),
            // From here on what has ended up to now: what is going was seen, at this moment or before.
            None => Place::Ended(state.runs_total()),
        })
    }

    fn open_part(&self, filter: &RunFilter, (from, below): (Seq, Seq), after: RunId, part: &mut Part) -> Place {
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
        for (id, seq, key) in places {
            if part.is_full() {
                let last = part.items.last().map_or(id, |run| run.id);
                return Place::Within(from, below, last);
            }
            if let Some(run) = machine.open_run(seq, key) {
                part.push(run);
            }
        }
        Place::Open(from)
    }

    fn ended_part(&self, filter: &RunFilter, below: u64, part: &mut Part) -> Result<Option<Place>, Error> {
        let machine = &self.0.machine;
        let found = self.read_result(machine.index_below(below, filter))?;
        part.looked_at += found.looked_at;
        for (serial, entry) in &found.entries {
            if part.is_full() {
                return Ok(Some(Place::Ended(serial + 1)));
            }
            let run = self.read_result(machine.ended_run(entry))?;
            if let Some(run) = run.filter(|run| !part.has(*serial, run.id)) {
                part.push(run);
            }
        }
        Ok((found.next > 0).then_some(Place::Ended(found.next)))
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
