//! The runtime that openraft sees in a simulation: tokio's, with chance from the seed.

use std::future::Future;
use std::time::Duration;

use openraft::{AsyncRuntime, OptionalSend, TokioInstant, TokioRuntime};

use crate::seam::simulated::chance::RaftChance;

/// The runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seeded;

impl AsyncRuntime for Seeded {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = RaftChance;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiver<T: OptionalSend> = tokio::sync::oneshot::Receiver<T>;
    type OneshotReceiverError = tokio::sync::oneshot::error::RecvError;

    fn spawn<T>(task: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        tokio::spawn(task)
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

    fn thread_rng() -> RaftChance {
        RaftChance
    }

    fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}
