//! Tasks that were taken from the state, to be given back however the work on them ends.

use std::time::Duration;

use crate::command::Seq;
use crate::node::Node;

/// Pause before a task is taken again that was taken for something that has panicked.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// A task that was taken. Dropped by a panic, it is due again a little later; else whoever has it says whether it is.
pub struct Taken {
    node: Node,
    seq: Seq,
}

impl Taken {
    /// A task that was taken from this node's state.
    pub fn new(node: Node, seq: Seq) -> Taken {
        Taken { node, seq }
    }

    /// The work on it has ended; it is due again, if there is something left to be done.
    pub fn end(self, again: bool) {
        if again {
            self.node.machine().release(self.seq);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (node, seq) = (self.node.clone(), self.seq);
            tokio::spawn(async move {
                tokio::time::sleep(PANIC_PAUSE).await;
                node.machine().release(seq);
            });
        }
    }
}
