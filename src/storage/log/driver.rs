//! What drives the writer: a thread of its own, or in a simulation a task of the one thread that there is.

use std::path::Path;
use std::thread::JoinHandle;

use openraft::{Entry, RaftTypeConfig};

use super::error::Error;
use super::writer::Writer;

/// A writer that runs.
pub(super) enum Driver<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> {
    /// On its thread.
    Thread(JoinHandle<()>, std::marker::PhantomData<C>),
    #[cfg(feature = "sim")]
    Task(simulated::Task<C>),
}

impl<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> Driver<C> {
    pub(super) fn start(writer: Writer<C>, dir: &Path) -> Result<Self, Error> {
        #[cfg(feature = "sim")]
        if crate::seam::simulated::is_on() {
            return Ok(Driver::Task(simulated::Task::start(writer)));
        }
        super::spawn("raft-log", dir, Writer::run, writer)
            .map(|thread| Driver::Thread(thread, std::marker::PhantomData))
    }

    /// Waits until what is queued is written and the writer has ended. The log is closed by now. A simulated process
    /// that was not closed cleanly was killed: what it had queued is lost.
    #[cfg_attr(not(feature = "sim"), expect(unused_variables, reason = "only a simulation kills a node and lives on"))]
    pub(super) fn end(self, clean: bool) {
        match self {
            // A panic in there has stopped the log.
            Driver::Thread(thread, _) => drop(thread.join()),
            #[cfg(feature = "sim")]
            Driver::Task(task) => task.end(clean),
        }
    }
}

#[cfg(feature = "sim")]
mod simulated {
    use std::sync::{Arc, Mutex, PoisonError};

    use openraft::{Entry, RaftTypeConfig};

    use super::super::writer::Writer;
    use crate::seam::simulated::disk;

    type Held<C> = Arc<Mutex<Option<Writer<C>>>>;

    pub(in crate::storage::log) struct Task<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> {
        writer: Held<C>,
        task: tokio::task::JoinHandle<()>,
    }

    /// Does all that is queued; whether the log goes on.
    fn work<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>>(held: &Held<C>) -> bool {
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = held.as_mut() else { return false };
        while let Some(taken) = writer.shared().try_take() {
            if !writer.handle(taken) {
                *held = None;
                return false;
            }
        }
        true
    }

    impl<C: RaftTypeConfig<NodeId = u64, Entry = Entry<C>>> Task<C> {
        pub(super) fn start(writer: Writer<C>) -> Self {
            let (shared, path) = (Arc::clone(writer.shared()), writer.path());
            let writer = Arc::new(Mutex::new(Some(writer)));
            let held = Arc::clone(&writer);
            let task = tokio::spawn(async move {
                loop {
                    shared.queued.notified().await;
                    // What the write and the fdatasync take. A node that dies now has lost what is queued.
                    shared.gauges.begin();
                    tokio::time::sleep(disk::latency(&path)).await;
                    if !work(&held) {
                        return;
                    }
                    // Where another turn had taken it all before.
                    shared.gauges.end();
                }
            });
            Task { writer, task }
        }

        pub(super) fn end(self, clean: bool) {
            self.task.abort();
            if clean && work(&self.writer) {
                let mut held = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
                held.iter_mut().for_each(Writer::finish);
            }
        }
    }
}
