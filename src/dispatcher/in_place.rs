//! When an attempt may read the store on the thread on which it runs, which serves all else of the node as well.
//!
//! A thread that a slow disk holds up must harm nothing: there is one place for such a read, and another thread is awake to
//! take over timers and sockets. tokio hands these over only to a thread that is awake, so the place is given only while
//! many attempts are made, to a runtime of two threads or more. After a read that was slow it is not given for a second.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::monotonic;

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
pub(super) struct Place<'a>(&'a InPlace, Instant);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.took(self.1.elapsed());
        self.0.taken.store(false, Ordering::Release);
    }
}

impl InPlace {
    /// The place, if a read may be made here now. Nothing may be awaited while it is held.
    pub async fn enter(&self) -> Option<Place<'_>> {
        let threads = || tokio::runtime::Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        if *self.threads.get_or_init(threads) < 2 || !self.may_enter(monotonic()) {
            return None;
        }
        if let Some(place) = self.take() {
            return Some(place);
        }
        // The read that has the place is over sooner than another thread would have begun with this one.
        tokio::task::yield_now().await;
        self.take()
    }

    fn take(&self) -> Option<Place<'_>> {
        let free = self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        free.then(|| Place(self, monotonic()))
    }

    fn ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_millis() as u64
    }

    /// Whether many ask, and no read was slow of late. Two that ask at once may be counted as one, which does no harm.
    fn may_enter(&self, now: Instant) -> bool {
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
        count >= MANY && now >= self.given_from.load(Ordering::Relaxed)
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

    /// In which so many ask in one millisecond that the next one may have the place.
    fn busy(place: &InPlace, now: Instant) -> bool {
        (0..=MANY).map(|_| place.may_enter(now)).last() == Some(true)
    }

    #[test]
    fn a_read_is_made_in_place_only_while_many_ask() {
        let place = InPlace::default();
        let now = place.began;
        for ms in 1..100 {
            assert!(!place.may_enter(now + Duration::from_millis(10 * ms)), "one every 10 ms at {ms}");
        }
        assert!(busy(&place, now + Duration::from_secs(2)));
        assert!(!place.may_enter(now + Duration::from_secs(3)));
        let steady = |ms: u64| now + Duration::from_secs(4) + Duration::from_micros(ms * 100);
        let entered = (0..1000).filter(|n| place.may_enter(steady(*n))).count();
        assert!(entered > 900, "{entered} of 1,000 at 10 a millisecond");
    }

    #[test]
    fn there_is_one_place() {
        let place = InPlace::default();
        let first = place.take();
        assert!(first.is_some() && place.take().is_none());
        drop(first);
        assert!(place.take().is_some());
    }

    #[test]
    fn after_a_slow_read_none_is_made_in_place_for_a_second() {
        let place = InPlace::default();
        place.took(SLOW);
        assert!(busy(&place, monotonic()), "quick enough");
        place.took(SLOW + Duration::from_millis(1));
        assert!(!busy(&place, monotonic()));
        assert!(busy(&place, monotonic() + Duration::from_millis(PAUSE_MS + 1)));
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_reads_nothing_in_place() {
        let place = InPlace::default();
        for _ in 0..100 {
            assert!(place.enter().await.is_none());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_runtime_of_two_threads_does_while_many_ask() {
        let place = InPlace::default();
        let mut entered = 0;
        for _ in 0..1000 {
            entered += usize::from(place.enter().await.is_some());
        }
        assert!(entered > 0, "{entered}");
    }
}
