//! The runtime that openraft sees: tokio's, without chance.
//!
//! openraft draws the election timeout once for a process. Two followers that happened to draw nearly the same stood for
//! election together, split the votes, and did so again after the same time, for seconds. Here each node's window begins
//! at a time of its own ([`election_timeout_ms`]), and what is drawn is its beginning.

use std::future::Future;
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend, TokioInstant, TokioRuntime};

/// Where the window of node `id` begins, among `nodes` with ids from 1 on: they are spread evenly over `min` to `max`.
///
/// The lowest id comes first: who comes later has the greater vote then, and need not wait for another term where the
/// first one cannot win.
pub fn election_timeout_ms(id: u64, nodes: u64, min: u64, max: u64) -> u64 {
    let nodes = nodes.max(1);
    min + (id.saturating_sub(1) % nodes) * (max - min) / nodes
}

/// The lowest value of whatever range is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Lowest;

impl rand_08::RngCore for Lowest {
    fn next_u32(&mut self) -> u32 {
        0
    }

    fn next_u64(&mut self) -> u64 {
        0
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_08::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

/// The runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runtime;

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = Lowest;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiver<T: OptionalSend> = tokio::sync::oneshot::Receiver<T>;
    type OneshotReceiverError = tokio::sync::oneshot::error::RecvError;

    fn spawn<T>(task: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        #[cfg(feature = "sim")]
        return simulated::spawn(task);
        #[cfg(not(feature = "sim"))]
        tokio::spawn(ending_the_process(task))
    }

    fn sleep(time: Duration) -> Self::Sleep {
        tokio::time::sleep(time)
    }

    fn sleep_until(at: Self::Instant) -> Self::Sleep {
        tokio::time::sleep_until(at)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(time: Duration, task: F) -> Self::Timeout<R, F> {
        tokio::time::timeout(time, task)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(at: Self::Instant, task: F) -> Self::Timeout<R, F> {
        tokio::time::timeout_at(at, task)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> Lowest {
        Lowest
    }

    fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}

/// What openraft takes for impossible, as a rule.
#[cfg(not(feature = "sim"))]
const PANIC_CAUSE: &str =
    "The likely cause is a member that answers with an older log than it had acknowledged: its directory, or its whole \
     machine, was put back from a copy. Stop that member, and keep the directory of this node: it may be the only one that \
     has what was acknowledged since. Where no member was put back it is a fault of this program";

/// A task whose panic ends the process. openraft's tasks do not watch over each other: without its core, or without what
/// sends to a peer, the node lived on, and took part in nothing.
#[cfg(not(feature = "sim"))]
async fn ending_the_process<T: Future>(task: T) -> T::Output {
    use futures::FutureExt;
    match std::panic::AssertUnwindSafe(task).catch_unwind().await {
        Ok(done) => done,
        Err(panic) => {
            // The hook has told where.
            let text = panic_text(panic.as_ref());
            crate::seam::end_process(&format!("a task of Raft has panicked: {text}. {PANIC_CAUSE}"))
        }
    }
}

#[cfg(feature = "sim")]
mod simulated {
    use std::future::Future;
    use std::panic::AssertUnwindSafe;

    use futures::FutureExt;
    use tokio::task::{AbortHandle, JoinHandle};

    /// Spawns a task whose panic ends it alone, and is told to the checker. Of turmoil's hosts it would end the
    /// simulation.
    pub fn spawn<T: Future<Output: Send> + Send + 'static>(task: T) -> JoinHandle<T::Output> {
        let (told, own) = tokio::sync::oneshot::channel::<AbortHandle>();
        let handle = tokio::spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(done) => done,
                Err(panic) => {
                    crate::seam::simulated::note_panic(super::panic_text(panic.as_ref()));
                    own.await.iter().for_each(AbortHandle::abort);
                    std::future::pending().await
                }
            }
        });
        // It may have ended by now.
        let _ = told.send(handle.abort_handle());
        handle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_stands_for_election_at_a_time_of_its_own() {
        let timeouts = |nodes: u64| (1..=nodes).map(|id| election_timeout_ms(id, nodes, 300, 600)).collect::<Vec<_>>();
        assert_eq!(timeouts(1), [300]);
        assert_eq!(timeouts(3), [300, 400, 500]);
        assert_eq!(timeouts(5), [300, 360, 420, 480, 540]);
        assert_eq!(election_timeout_ms(0, 0, 300, 600), 300);
        // What openraft makes of it.
        let config = openraft::Config { election_timeout_min: 400, election_timeout_max: 600, ..Default::default() };
        assert_eq!(config.new_rand_election_timeout::<Runtime>(), 400);
    }

    #[cfg(not(feature = "sim"))]
    #[test]
    fn a_panic_of_one_of_its_tasks_ends_the_process() {
        const PANICS: &str = "XCRON_TEST_PANICS";
        if std::env::var_os(PANICS).is_some() {
            // This is the process that the test starts below.
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                drop(Runtime::spawn(async { panic!("as openraft's core may") }));
                tokio::time::sleep(Duration::from_secs(20)).await;
            });
            return;
        }
        let name = "raft::runtime::tests::a_panic_of_one_of_its_tasks_ends_the_process";
        let mut process = std::process::Command::new(std::env::current_exe().unwrap());
        let output = process.args(["--exact", name, "--nocapture"]).env(PANICS, "1").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("as openraft's core may"), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("an older log than it had acknowledged"),
            "{output:?}"
        );
    }
}
