//! Lists of tasks, and of the due times of one, in parts.

use super::{Error, Node};
use crate::clock::Timestamp;
use crate::command::Seq;
use crate::id::{RunKey, TaskId};
use crate::state::audit::Period;
use crate::view::{DueView, TaskFilter, TaskView};

/// Tasks looked at while the state is held.
const SCAN_STEP: usize = 2048;
/// Tasks, or runs, looked at for one part of a list. A filter that few pass gets short parts, and a cursor to go on.
pub(super) const SCAN_MAX: usize = 200_000;
/// Is given what is found, one by one; whether it was taken. The first that was not begins the next part.
pub type Take<'a, T> = dyn FnMut(&T) -> bool + 'a;

/// What an audit tells beside its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Of the next part, if there is one.
    pub next_cursor: Option<String>,
    /// Triggered runs that the history no longer has, whenever they were.
    pub triggers_not_kept: u64,
}

impl Node {
    /// Gives the tasks in the order of their creation to `take`, `limit` at most; the cursor of the next part, if there is
    /// one.
    ///
    /// # Errors
    /// A cursor that is none; a record that cannot be read.
    pub fn list_tasks(
        &self,
        filter: &TaskFilter,
        limit: usize,
        cursor: Option<&str>,
        take: &mut Take<'_, TaskView>,
    ) -> Result<Option<String>, Error> {
        let mut from: Seq = match cursor {
            Some(text) => text.strip_prefix('t').and_then(|n| n.parse().ok()).ok_or(Error::Cursor)?,
            None => 0,
        };
        let machine = &self.0.machine;
        let (mut scanned, mut taken) = (0, 0);
        loop {
            let (candidates, looked_at) = machine.with_state(|state| {
                let mut candidates = Vec::new();
                let mut looked_at = 0;
                for (seq, task) in state.tasks_from(from).take(SCAN_STEP) {
                    looked_at += 1;
                    from = seq + 1;
                    if task.past.deleted {
                        continue;
                    }
                    let kind = filter.type_number.is_none_or(|n| (n == 2) == task.is_once());
                    if kind && filter.state.is_none_or(|s| s == task.state) {
                        candidates.push(seq);
                        if taken + candidates.len() == limit && filter.tag.is_none() && filter.name_prefix.is_none() {
                            break;
                        }
                    }
                }
                (candidates, looked_at)
            });
            for seq in candidates {
                let Some(view) = self.read_result(machine.task_view(seq))? else { continue };
                if !passes(filter, &view) {
                    continue;
                }
                if !take(&view) {
                    return Ok(Some(format!("t{seq}")));
                }
                taken += 1;
                if taken == limit {
                    return Ok(self.cursor_from(seq + 1));
                }
            }
            scanned += looked_at;
            if looked_at == 0 {
                return Ok(None);
            }
            if scanned >= SCAN_MAX {
                return Ok(self.cursor_from(from));
            }
        }
    }

    /// Gives what became of each due time of a task to `take`. None: there is no such task.
    ///
    /// # Errors
    /// A cursor that is none; a record that cannot be read.
    pub fn audit(
        &self,
        id: &TaskId,
        mut period: Period,
        cursor: Option<&str>,
        take: &mut Take<'_, DueView>,
    ) -> Result<Option<Audited>, Error> {
        if let Some(text) = cursor {
            let parts = text.strip_prefix('d').and_then(|text| text.split_once('.'));
            let key =
                parts.and_then(|(due, n)| Some(RunKey { due: Timestamp(due.parse().ok()?), nonce: n.parse().ok()? }));
            period.after = Some(key.ok_or(Error::Cursor)?);
        }
        let Some((course, runs)) = self.read_result(self.0.machine.course(id))? else { return Ok(None) };
        let page = course.audit(&runs, period, self.now());
        let taken = page.items.iter().take_while(|view| take(view)).count();
        let next_cursor = match taken == page.items.len() {
            true => page.next_cursor,
            false => {
                let last = page.items[..taken].last().map(|view| view.run.parts().0);
                last.map(|key| format!("d{}.{}", key.due.as_ms(), key.nonce))
            }
        };
        Ok(Some(Audited { next_cursor, triggers_not_kept: course.triggers_not_kept(&runs) }))
    }

    fn cursor_from(&self, from: Seq) -> Option<String> {
        let more = self.0.machine.with_state(|state| state.tasks_from(from).next().is_some());
        more.then(|| format!("t{from}"))
    }
}

/// Whether the task passes as it is read: it may have changed since it was found.
fn passes(filter: &TaskFilter, view: &TaskView) -> bool {
    if filter.state.is_some_and(|state| state != view.state) {
        return false;
    }
    let tag = filter.tag.as_ref().is_none_or(|(key, value)| view.spec.tags.get(key) == Some(value));
    let name = filter.name_prefix.as_ref();
    tag && name.is_none_or(|prefix| view.spec.name.as_ref().is_some_and(|name| name.starts_with(prefix.as_str())))
}
