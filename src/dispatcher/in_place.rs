//! When an attempt may read the store on the thread on which it runs, which serves all else of the node as well.
//!
//! A thread that a slow disk holds up must harm nothing: there is one place for such a read, and another thread takes over
//! timers and sockets. While many attempts are made all threads are awake, and one of them does so. While few are, the
//! runtime is told before the read, and wakes a thread for it, which costs a third of having that thread read. After a read
//! that was slow the place is not given for a second, and never to a runtime of one thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::monotonic;
use crate::seam;

/// A read that takes longer is slow: the disk was asked, and not the memory.
const SLOW: Duration = Duration::from_millis(2);
/// For how long no place is given after a slow read.
const PAUSE_MS: u64 = 1000;
/// So many attempts that ask within a millisecond are many: all threads are awake.
const MANY: u64 = 4;

pub(super) struct InPlace {
    began: Instant,
    taken: AtomicBool,
    /// From when on a place is given, in milliseconds since `began`.
    given_from: AtomicU64,
    /// The last millisecond in which somebody asked, in the upper 32 bits, and how often.
    asked: AtomicU64,
    threads: OnceLock<usize>,
}

impl Default for InPlace {
    fn default() -> Self {
        InPlace {
            began: monotonic(),
            taken: AtomicBool::new(false),
            given_from: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            threads: OnceLock::new(),
        }
    }
}

/// The place, until it is dropped; how long that took is noted.
pub(super) struct Place<'a> {
    of: &'a InPlace,
    began: Instant,
    others_sleep: bool,
}

impl Place<'_> {
    /// Reads here.
    pub fn read<T>(self, read: impl FnOnce() -> T) -> T {
        if self.others_sleep {
            seam::handed_over(read)
        } else {
            read()
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.of.took(self.began.elapsed());
        self.of.taken.store(false, Ordering::Release);
    }
}

impl InPlace {
    /// The place, if a read may be made here now. Nothing may be awaited while it is held.
    pub async fn enter(&self) -> Option<Place<'_>> {
        let threads = || tokio::runtime::Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        if *self.threads.get_or_init(threads) < 2 {
            return None;
        }
        let now = monotonic();
        let others_sleep = !self.is_one_of_many(now);
        if self.ms(now) < self.given_from.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(place) = self.take(others_sleep) {
            return Some(place);
        }
        // The read that has the place is over sooner than another thread would have begun with this one.
        tokio::task::yield_now().await;
        self.take(others_sleep)
    }

    fn take(&self, others_sleep: bool) -> Option<Place<'_>> {
        let free = self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        free.then(|| Place { of: self, began: monotonic(), others_sleep })
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }

    /// Whether many ask. Two that ask at once may be counted as one, which does no harm.
    fn is_one_of_many(&self, now: Instant) -> bool {
        let now = self.ms(now);
        let asked = self.asked.load(Ordering::Relaxed);
        let (last, count) = (asked >> 32, asked & u64::from(u32::MAX));
        let since = (now & u64::from(u32::MAX)).wrapping_sub(last);
        // Half of the last millisecond's are carried over: of a steady rate each is one of many.
        let count = match since {
            0 => (count + 1).min(1 << 20),
            1 => count / 2 + 1,
            _ => 1,
        };
        self.asked.store((now << 32) | count, Ordering::Relaxed);
        count >= MANY
    }

    /// A read has taken so long, here or on a thread that may block.
    pub fn took(&self, took: Duration) {
        if took > SLOW {
            self.given_from.fetch_max(self.ms(monotonic()) + PAUSE_MS, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_are_awake_while_many_ask() {
        let place = InPlace::default();
        let now = place.began;
        for ms in 1..100 {
            assert!(!place.is_one_of_many(now + Duration::from_millis(10 * ms)), "one every 10 ms at {ms}");
        }
        let busy = now + Duration::from_secs(2);
        assert!((0..=MANY).map(|_| place.is_one_of_many(busy)).last() == Some(true));
        assert!(!place.is_one_of_many(now + Duration::from_secs(3)));
        let steady = |ms: u64| now + Duration::from_secs(4) + Duration::from_micros(ms * 100);
        let many = (0..1000).filter(|n| place.is_one_of_many(steady(*n))).count();
        assert!(many > 900, "{many} of 1,000 at 10 a millisecond");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn there_is_one_place() {
        let place = InPlace::default();
        let first = place.enter().await;
        assert!(first.is_some() && place.enter().await.is_none());
        drop(first);
        assert!(place.enter().await.is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_a_slow_read_none_is_made_in_place_for_a_second() {
        let place = InPlace::default();
        place.took(SLOW);
        assert!(place.enter().await.is_some(), "quick enough");
        place.took(SLOW + Duration::from_millis(1));
        assert!(place.enter().await.is_none());
        assert!(place.given_from.load(Ordering::Relaxed) <= place.ms(monotonic()) + PAUSE_MS);
        place.given_from.store(place.ms(monotonic()), Ordering::Relaxed);
        assert!(place.enter().await.is_some());
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_reads_nothing_in_place() {
        let place = InPlace::default();
        for _ in 0..100 {
            assert!(place.enter().await.is_none());
        }
    }

    /// Both threads of the runtime are needed for the end: one reads, and the other one runs what the read waits for.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_read_in_place_that_stalls_holds_up_no_other_task() {
        let place = std::sync::Arc::new(InPlace::default());
        for _ in 0..20 {
            place.given_from.store(0, Ordering::Relaxed);
            let place = place.clone();
            let reads = tokio::spawn(async move {
                let (done, wait) = std::sync::mpsc::channel();
                // Its timer is the runtime's, which a thread that stalls must not keep.
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    done.send(()).unwrap();
                });
                tokio::time::sleep(Duration::from_millis(2)).await;
                let place = place.enter().await.unwrap();
                place.read(|| wait.recv_timeout(Duration::from_secs(10)))
            });
            reads.await.unwrap().unwrap();
        }
    }
}
