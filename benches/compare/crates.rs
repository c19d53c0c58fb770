//! Timer queues of other crates.

use crate::queue::Queue;
use hierarchical_hash_wheel_timer::wheels::{cancellable::QuadWheelWithOverflow, Skip};
use hierarchical_hash_wheel_timer::IdOnlyTimerEntry;
use std::mem::ManuallyDrop;
use std::sync::LazyLock;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::runtime::{EnterGuard, Runtime};

/// `nexus-timer`: a wheel that leaves entries where they are until they are due, or until a poll brings them closer.
pub struct Nexus {
    wheel: nexus_timer::Wheel<u64>,
    base: Instant,
}

impl Queue for Nexus {
    const NAME: &'static str = "nexus-timer";
    const ORDERED: bool = false;
    // Its handles must not be dropped while their timers wait.
    type Handle = ManuallyDrop<nexus_timer::TimerHandle<u64>>;

    fn new() -> Self {
        let base = Instant::now();
        Nexus { wheel: nexus_timer::Wheel::unbounded(4_096, base), base }
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> Self::Handle {
        ManuallyDrop::new(self.wheel.schedule(self.base + Duration::from_millis(deadline_ms), key))
    }

    fn cancel(&mut self, handle: Self::Handle) {
        assert!(self.wheel.cancel(ManuallyDrop::into_inner(handle)).is_some(), "a stale handle");
    }

    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool {
        self.wheel.poll_and_rebalance(self.base + Duration::from_millis(now_ms), out);
        true
    }

    fn next_wake(&mut self) -> Option<u64> {
        let deadline = self.wheel.next_deadline()?;
        Some(deadline.duration_since(self.base).as_nanos().div_ceil(1_000_000) as u64)
    }
}

/// `hierarchical_hash_wheel_timer`: four wheels of 256 slots, and a list beyond them; it is turned tick by tick.
pub struct Hashed {
    wheel: QuadWheelWithOverflow<IdOnlyTimerEntry<u64>>,
    now_ms: u64,
}

impl Queue for Hashed {
    const NAME: &'static str = "hashed-wheel";
    type Handle = u64;

    fn new() -> Self {
        Hashed { wheel: QuadWheelWithOverflow::new(), now_ms: 0 }
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> u64 {
        let delay = Duration::from_millis(deadline_ms - self.now_ms);
        assert!(self.wheel.insert(IdOnlyTimerEntry { id: key, delay }).is_ok(), "{key} in {delay:?} was refused");
        key
    }

    fn cancel(&mut self, handle: u64) {
        assert!(self.wheel.cancel(&handle).is_ok(), "{handle} is stale");
    }

    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool {
        while self.now_ms < now_ms {
            let left_ms = (now_ms - self.now_ms).min(u64::from(u32::MAX)) as u32;
            let idle_ms = match self.wheel.can_skip() {
                Skip::Empty => left_ms,
                Skip::Millis(idle_ms) => idle_ms.min(left_ms),
                Skip::None => 0,
            };
            if idle_ms > 0 {
                self.wheel.skip(idle_ms);
                self.now_ms += u64::from(idle_ms);
            } else {
                out.extend(self.wheel.tick().iter().map(|entry| entry.id));
                self.now_ms += 1;
            }
        }
        true
    }

    fn next_wake(&mut self) -> Option<u64> {
        match self.wheel.can_skip() {
            Skip::Empty => None,
            Skip::Millis(idle_ms) => Some(self.now_ms + u64::from(idle_ms) + 1),
            Skip::None => Some(self.now_ms + 1),
        }
    }
}

/// A clock that stands until it is turned.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
});

/// tokio-util's `DelayQueue`. It reads tokio's clock and sets a timer of tokio's for its next deadline, so each advance
/// has tokio's own timers turned too, as in a program that uses it.
pub struct DelayQueue {
    queue: tokio_util::time::DelayQueue<u64>,
    base: tokio::time::Instant,
    now_ms: u64,
    _entered: EnterGuard<'static>,
}

impl Queue for DelayQueue {
    const NAME: &'static str = "delay-queue";
    type Handle = tokio_util::time::delay_queue::Key;

    fn new() -> Self {
        let entered = RUNTIME.enter();
        let base = tokio::time::Instant::now();
        DelayQueue { queue: tokio_util::time::DelayQueue::new(), base, now_ms: 0, _entered: entered }
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> Self::Handle {
        self.queue.insert_at(key, self.base + Duration::from_millis(deadline_ms))
    }

    fn cancel(&mut self, handle: Self::Handle) {
        self.queue.remove(&handle);
    }

    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool {
        let by = Duration::from_millis(now_ms - self.now_ms);
        self.now_ms = now_ms;
        // Unconstrained: a task would be told to yield after 128 timers.
        RUNTIME.block_on(tokio::task::unconstrained(async {
            tokio::time::advance(by).await;
            std::future::poll_fn(|context| {
                while let Poll::Ready(Some(expired)) = self.queue.poll_expired(context) {
                    out.push(expired.into_inner());
                }
                Poll::Ready(())
            })
            .await;
        }));
        true
    }

    fn next_wake(&mut self) -> Option<u64> {
        let key = self.queue.peek()?;
        Some((self.queue.deadline(&key) - self.base).as_millis() as u64)
    }
}
