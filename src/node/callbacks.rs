//! What those who send the callbacks ask of the node.

use super::Node;

impl Node {
    /// The last log entry that this node has applied; none: it has applied none yet of those that were written since it
    /// was started.
    pub fn applied_since_start(&self) -> Option<u64> {
        let applied = self.0.machine.applied().map(|id| id.index)?;
        self.0.opened.is_none_or(|opened| applied > opened).then_some(applied)
    }
}
