//! Work that a call waits for and that may read the disk or compute for long: so much of it at once, and no more.
//!
//! Each kind has a lane of its own, so that many lists hold up neither a look at one task nor, by taking all threads, the
//! node's own work: checkpoints, snapshots, reads of the log.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::error::{Code, Error};
use crate::budget::{Budget, Hold};

/// Places for one kind of work.
#[derive(Debug)]
pub(super) struct Lane {
    places: Arc<Semaphore>,
    /// Those who wait.
    waiting: Budget,
}

impl Lane {
    /// With so many places, for which so many may wait.
    pub fn new(places: usize, waiting_max: usize) -> Lane {
        Lane { places: Arc::new(Semaphore::new(places)), waiting: Budget::new(waiting_max) }
    }

    /// Does `work` where it holds up nothing else.
    ///
    /// # Errors
    /// 1070 where too many wait, or none of the places is free by the deadline; what `work` gives.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let place = self.place(deadline).await?;
        let done = crate::seam::blocking(move || {
            // Until it is done, even if its caller is gone.
            let _place = place;
            work()
        });
        done.await.unwrap_or_else(|error| Err(Error::internal(error.to_string())))
    }

    async fn place(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let busy = || Error::new(Code::TooMany, "too many calls of this kind are being answered");
        let mut waits = Hold::new(&self.waiting);
        if !waits.grow(1) {
            return Err(busy());
        }
        match tokio::time::timeout_at(deadline, self.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(busy()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::clock::monotonic;

    #[tokio::test]
    async fn so_many_work_so_many_wait_and_the_next_is_refused_at_once() {
        let lane = Arc::new(Lane::new(1, 1));
        let far = monotonic() + Duration::from_secs(60);
        let (go, wait) = mpsc::channel::<()>();
        let (began, begun) = tokio::sync::oneshot::channel();
        let own = lane.clone();
        let first = tokio::spawn(async move {
            let work = move || {
                let _ = began.send(());
                let _ = wait.recv();
                Ok(1)
            };
            own.run(far, work).await
        });
        begun.await.unwrap();
        // Its caller goes away, and the place is still taken.
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());

        let own = lane.clone();
        let second = tokio::spawn(async move { own.run(far, || Ok(2)).await });
        while lane.waiting.held() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(lane.run(far, || Ok(3)).await.unwrap_err().code(), Code::TooMany);
        go.send(()).unwrap();
        assert_eq!(second.await.unwrap(), Ok(2));
        assert_eq!((lane.run(far, || Ok(4)).await, lane.waiting.held()), (Ok(4), 0));
    }

    #[tokio::test]
    async fn whoever_waits_waits_no_longer_than_its_deadline() {
        let lane = Lane::new(0, 1);
        let error = lane.run(monotonic() + Duration::from_millis(20), || Ok(())).await.unwrap_err();
        assert_eq!((error.code(), lane.waiting.held()), (Code::TooMany, 0));
    }
}
