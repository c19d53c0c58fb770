//! Lists of tasks, and of the due times of one, in parts.

use super::{Error, Node};
use crate::clock::Timestamp;
use crate::command::Seq;
use crate::id::{RunKey, TaskId};
use crate::state::audit::Period;
use crate::view::{DueView, Page, TaskFilter, TaskView};

/// Tasks looked at while the state is held.
const SCAN_STEP: usize = 2048;
/// Tasks, or runs, looked at for one part of a list. A filter that few pass gets short parts, and a cursor to go on.
pub(super) const SCAN_MAX: usize = 200_000;
/// About how large one part of a list becomes.
pub(super) const BYTES_MAX: usize = 4 << 20;

impl Node {
    /// Tasks in the order of their creation.
    ///
    /// # Errors
    /// A cursor that is none; a record that cannot be read.
    pub fn list_tasks(&self, filter: &TaskFilter, limit: usize, cursor: Option<&str>) -> Result<Page<TaskView>, Error> {
        let mut from: Seq = match cursor {
            Some(text) => text.strip_prefix('t').and_then(|n| n.parse().ok()).ok_or(Error::Cursor)?,
            None => 0,
        };
        let machine = &self.0.machine;
        let mut items = Vec::new();
        let (mut scanned, mut bytes) = (0, 0);
        loop {
            let (candidates, looked_at) = machine.with_state(|state| {
                let mut candidates = Vec::new();
                let mut looked_at = 0;
                for (seq, task) in state.tasks_from(from).take(SCAN_STEP) {
                    looked_at += 1;
                    from = seq + 1;
                    let kind = filter.type_number.is_none_or(|n| (n == 2) == task.is_once());
                    if kind && filter.state.is_none_or(|s| s == task.state) {
                        candidates.push(seq);
                        if items.len() + candidates.len() == limit
                            && filter.tag.is_none()
                            && filter.name_prefix.is_none()
                        {
                            break;
                        }
                    }
                }
                (candidates, looked_at)
            });
            for seq in candidates {
                let Some(view) = self.read_result(machine.task_view(seq))? else { continue };
                if passes(filter, &view) {
                    bytes += view.spec.callback.body.len() + view.spec.callback.url.len();
                    items.push(view);
                    if items.len() == limit || bytes >= BYTES_MAX {
                        return Ok(self.part(items, seq + 1));
                    }
                }
            }
            scanned += looked_at;
            if looked_at == 0 {
                return Ok(Page { items, next_cursor: None });
            }
            if scanned >= SCAN_MAX {
                return Ok(self.part(items, from));
            }
        }
    }

    /// What became of each due time of a task; none: there is no such task.
    ///
    /// # Errors
    /// A cursor that is none; a record that cannot be read.
    pub fn audit(&self, id: &TaskId, mut period: Period, cursor: Option<&str>) -> Result<Option<Page<DueView>>, Error> {
        if let Some(text) = cursor {
            let parts = text.strip_prefix('d').and_then(|text| text.split_once('.'));
            let key =
                parts.and_then(|(due, n)| Some(RunKey { due: Timestamp(due.parse().ok()?), nonce: n.parse().ok()? }));
            period.after = Some(key.ok_or(Error::Cursor)?);
        }
        let found = self.read_result(self.0.machine.course(id))?;
        Ok(found.map(|(course, runs)| course.audit(&runs, period, self.now())))
    }

    fn part(&self, items: Vec<TaskView>, from: Seq) -> Page<TaskView> {
        let more = self.0.machine.with_state(|state| state.tasks_from(from).next().is_some());
        Page { items, next_cursor: more.then(|| format!("t{from}")) }
    }
}

fn passes(filter: &TaskFilter, view: &TaskView) -> bool {
    let tag = filter.tag.as_ref().is_none_or(|(key, value)| view.spec.tags.get(key) == Some(value));
    let name = filter.name_prefix.as_ref();
    tag && name.is_none_or(|prefix| view.spec.name.as_ref().is_some_and(|name| name.starts_with(prefix.as_str())))
}
