//! Time: the one file that reads the system's clocks.
//!
//! Everything else receives a [`Timestamp`], or a [`Clock`] to ask. The state machine never asks: the leader stamps
//! the time into each command, so that every replica computes the same.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// An instant as milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// From whole seconds since the epoch.
    pub const fn from_secs(secs: u64) -> Self {
        Timestamp(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This instant moved later by `ms` milliseconds; stays at the end of time rather than wrap.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Timestamp(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this instant; 0 where `earlier` is later.
    pub const fn ms_since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// A source of wall-clock time, and of the monotonic time that timers run on.
///
/// Cheap to clone. [`Clock::system`] is the machine's; [`Clock::manual`] is one that a test moves by hand.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System {
        offset_ms: Arc<AtomicI64>,
    },
    Manual {
        now_ms: Arc<AtomicI64>,
    },
    #[cfg(feature = "sim")]
    Simulated {
        offset_ms: Arc<AtomicI64>,
    },
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Clock(Source::System { offset_ms: Arc::default() })
    }

    /// A clock that stands still at `start` until [`Clock::shift`] moves it.
    pub fn manual(start: Timestamp) -> Self {
        Clock(Source::Manual { now_ms: Arc::new(AtomicI64::new(start.0 as i64)) })
    }

    /// A clock that goes with the simulated time.
    #[cfg(feature = "sim")]
    pub fn simulated() -> Self {
        Clock(Source::Simulated { offset_ms: Arc::default() })
    }

    /// The wall clock now.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads it")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { offset_ms } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                let ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
                Timestamp(ms.saturating_add(offset_ms.load(Ordering::Relaxed)).max(0) as u64)
            }
            Source::Manual { now_ms } => Timestamp(now_ms.load(Ordering::Relaxed).max(0) as u64),
            #[cfg(feature = "sim")]
            Source::Simulated { offset_ms } => {
                Timestamp((simulated_ms() as i64 + offset_ms.load(Ordering::Relaxed)).max(0) as u64)
            }
        }
    }

    /// Moves this clock by `ms`: what tests use to make a wall clock jump.
    pub fn shift(&self, ms: i64) {
        match &self.0 {
            Source::System { offset_ms: at } | Source::Manual { now_ms: at } => at.fetch_add(ms, Ordering::Relaxed),
            #[cfg(feature = "sim")]
            Source::Simulated { offset_ms: at } => at.fetch_add(ms, Ordering::Relaxed),
        };
    }
}

/// The monotonic clock now: never goes back, unrelated to the wall clock.
///
/// It is tokio's, so that a simulation which owns the runtime's time owns this too.
pub fn monotonic() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// When a simulation begins.
#[cfg(feature = "sim")]
pub const SIMULATION_EPOCH: Timestamp = Timestamp(1_900_000_000_000);

/// The true time of a simulation, in ms.
#[cfg(feature = "sim")]
pub fn simulated_ms() -> u64 {
    SIMULATION_EPOCH.0 + turmoil::sim_elapsed().unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp(1000));
        assert_eq!(clock.now(), clock.now());
        clock.shift(-400);
        assert_eq!(clock.now(), Timestamp(600));
    }

    #[test]
    fn a_shift_reaches_every_clone_of_a_system_clock() {
        let clock = Clock::system();
        let other = clock.clone();
        clock.shift(3_600_000);
        assert!(other.now().ms_since(Clock::system().now()) > 3_500_000);
    }
}
