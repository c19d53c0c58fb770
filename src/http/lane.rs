//! Work that a call waits for and that may read the disk or compute for long: so much of it at once, and no more.
//!
//! Each kind has a lane of its own, so that many lists hold up neither a look at one task nor, by taking all threads, the
//! node's own work: checkpoints, snapshots, reads of the log.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::error::{Code, Error};
use crate::budget::{Budget, Hold};
use crate::seam::BLOCKING_MAX;

/// Lists, audits and previews that are made at once, and large bodies that are parsed: two for each core, up to this.
const COMPUTED_MAX: usize = 64;
/// Lists and the like, or bodies, that wait for a place.
const COMPUTED_WAITING_MAX: usize = 256;
/// Tasks and runs that are read at once. They wait for the disk, if for anything.
const READS_MAX: usize = 32;
/// Those that wait for it.
const READS_WAITING_MAX: usize = 4096;
/// What stays free for the node's own work, where all lanes are full: checkpoints, snapshots, reads of the log for each
/// peer, and threads of the runtime for those that sync a file.
const OWN_MIN: usize = 256;
const _: () = assert!(2 * COMPUTED_MAX + READS_MAX + OWN_MIN <= BLOCKING_MAX, "calls could take all threads");

/// Each kind of work that calls wait for.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Where lists, audits and previews are made.
    pub lists: Lane,
    /// Where one task or run is read.
    pub reads: Lane,
    /// Where large bodies are parsed.
    pub parsing: Lane,
}

impl Lanes {
    /// Those of a machine with so many cores.
    pub fn of(cores: usize) -> Lanes {
        let computed = cores.saturating_mul(2).clamp(1, COMPUTED_MAX);
        Lanes {
            lists: Lane::new(computed, COMPUTED_WAITING_MAX),
            reads: Lane::new(READS_MAX, READS_WAITING_MAX),
            parsing: Lane::new(computed, COMPUTED_WAITING_MAX),
        }
    }
}

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

    /// On a machine with any number of cores, with the threads that a node has.
    #[test]
    fn full_lanes_hold_up_neither_each_other_nor_the_nodes_own_work() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).max_blocking_threads(BLOCKING_MAX).enable_all();
        let runtime = runtime.build().unwrap();
        runtime.block_on(async {
            let lanes = Arc::new(Lanes::of(1024));
            let far = monotonic() + Duration::from_secs(60);
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let wait = Arc::new(std::sync::Mutex::new(wait));
            // All of the lists and of the bodies stand still, and so do those behind them.
            let full: [fn(&Lanes) -> &Lane; 2] = [|lanes| &lanes.lists, |lanes| &lanes.parsing];
            for lane in full {
                for _ in 0..COMPUTED_MAX + COMPUTED_WAITING_MAX {
                    let (lanes, wait) = (lanes.clone(), wait.clone());
                    let work = move || {
                        drop(wait.lock().map(|wait| wait.recv()));
                        Ok(())
                    };
                    tokio::spawn(async move { lane(&lanes).run(far, work).await });
                }
                let began = monotonic();
                while lane(&lanes).waiting.held() < COMPUTED_WAITING_MAX {
                    assert!(began.elapsed() < Duration::from_secs(20), "it has more places than it may");
                    tokio::task::yield_now().await;
                }
                assert_eq!(lane(&lanes).run(far, || Ok(())).await.unwrap_err().code(), Code::TooMany);
            }
            assert_eq!(lanes.reads.run(far, || Ok(1)).await, Ok(1), "a look at one task");
            let store = tempfile::tempdir().unwrap();
            // As many as are left do their work at the same time.
            let all = Arc::new(std::sync::Barrier::new(OWN_MIN));
            let own = (0..OWN_MIN).map(|n| {
                let (all, path) = (all.clone(), store.path().join(n.to_string()));
                crate::seam::blocking(move || {
                    all.wait();
                    std::fs::write(path, "written").map(drop)
                })
            });
            let own = tokio::time::timeout(Duration::from_secs(30), futures::future::join_all(own)).await;
            assert!(own.unwrap().into_iter().all(|done| done.unwrap().is_ok()));
            drop(go);
        });
    }

    #[tokio::test]
    async fn whoever_waits_waits_no_longer_than_its_deadline() {
        let lane = Lane::new(0, 1);
        let error = lane.run(monotonic() + Duration::from_millis(20), || Ok(())).await.unwrap_err();
        assert_eq!((error.code(), lane.waiting.held()), (Code::TooMany, 0));
    }
}
