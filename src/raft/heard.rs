//! When this node last heard the leader, and how far the leader is.
//!
//! Any message that a leader sends as such is a sign of life: entries, a piece of a snapshot, a bare heartbeat. It counts
//! when it arrives, and not when it has been dealt with: a follower whose disk is slow has heard its leader all the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::raft::AppendEntriesRequest;
use openraft::Vote;
use tokio::time::Instant;

use super::{is_followed, Appended, Raft, TypeConfig};
use crate::clock::{monotonic, Clock, Timestamp};

/// When this node last heard its leader, by its own clocks; cheap to clone.
#[derive(Clone, Debug)]
pub struct Heard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// By the wall clock, unix ms; 0: never since the start.
    wall_ms: AtomicU64,
    /// By the monotonic clock; at first when this node began to listen.
    steady: Mutex<Instant>,
    progress: Mutex<Progress>,
}

/// A follower that is so many entries behind is far behind.
const BEHIND_MAX: u64 = 1000;
/// An entry that is missing for longer makes it that, too.
const MISSING_MAX: Duration = Duration::from_secs(2);
/// What a leader has told of itself is old after this.
const TOLD_MAX: Duration = Duration::from_secs(3);

/// How far leaders have said that they have applied the log, and how this node keeps up with that.
#[derive(Debug, Default)]
struct Progress {
    /// The greatest index of which a leader has told, and when the one was asked that has told last.
    told: Option<(u64, Instant)>,
    /// An entry that was missing, and since when.
    missing: Option<(u64, Instant)>,
    /// Whether this node has caught up. One that has just started has not: entries are few or many, and each can be large,
    /// so that only the time which they take says how far behind it is.
    keeps_up: bool,
}

impl Progress {
    fn hear(&mut self, index: u64, asked: Instant) {
        let (before, last) = self.told.unwrap_or((index, asked));
        self.told = Some((before.max(index), last.max(asked)));
    }

    /// Takes note of what this node has applied by now.
    fn look(&mut self, applied: u64, now: Instant) {
        let Some((leader, _)) = self.told else { return };
        if let Some((_, since)) = self.missing.take_if(|(index, _)| applied >= *index) {
            self.keeps_up |= now.saturating_duration_since(since) <= MISSING_MAX;
        }
        if applied >= leader {
            self.keeps_up = true;
            return;
        }
        let (_, since) = *self.missing.get_or_insert((leader, now));
        if now.saturating_duration_since(since) > MISSING_MAX || leader - applied > BEHIND_MAX {
            self.keeps_up = false;
        }
    }

    fn compare(&mut self, applied: u64, now: Instant) -> Result<(), String> {
        let told = self.told.filter(|(_, at)| now.saturating_duration_since(*at) <= TOLD_MAX);
        let (leader, _) = told.ok_or("the leader has not told how far it is")?;
        self.look(applied, now);
        match self.keeps_up {
            true => Ok(()),
            false => Err(format!("{} entries behind the leader", leader.saturating_sub(applied))),
        }
    }
}

impl Default for Heard {
    fn default() -> Self {
        Heard(Arc::new(Inner {
            wall_ms: AtomicU64::new(0),
            steady: Mutex::new(monotonic()),
            progress: Mutex::default(),
        }))
    }
}

impl Heard {
    /// This node takes part from now on: the silence before does not count.
    pub fn begin(&self) {
        *self.0.steady.lock().unwrap_or_else(PoisonError::into_inner) = monotonic();
    }

    /// Has Raft take this message, which is heard unless another leader is known.
    pub(super) async fn append(
        &self,
        raft: &Raft,
        clock: &Clock,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Appended {
        if request.vote >= raft.metrics().borrow().vote {
            self.begin();
        }
        let answer = raft.append_entries(request).await;
        if is_followed(&answer) {
            self.begin();
            self.0.wall_ms.store(clock.now().as_ms(), Ordering::Relaxed);
        }
        answer
    }

    /// The leader has answered that it has applied so much, when it was asked at `asked`, and this node has applied `own`
    /// by now. Its messages would not do: those that a process finds when it goes on after it stood still are old.
    pub fn told(&self, applied: u64, asked: Instant, own: u64) {
        let mut progress = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.hear(applied, asked);
        progress.look(own, monotonic());
    }

    /// Whether a follower that has applied so much is not far behind.
    ///
    /// # Errors
    /// How far it is behind, or that it does not know.
    pub fn keeps_up(&self, applied: u64) -> Result<(), String> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner).compare(applied, monotonic())
    }

    /// By the wall clock; none: never since the start.
    pub fn last(&self) -> Option<Timestamp> {
        Some(self.0.wall_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0).map(Timestamp)
    }

    /// For how long no leader has been heard.
    pub fn silence(&self) -> Duration {
        self.0.steady.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// What a leader that has nothing else to send, or has sent something else, sends to tell that it is there.
pub fn sign_of_life(vote: Vote<u64>) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_that_is_far_behind_or_does_not_know_does_not_keep_up() {
        let (mut progress, now) = (Progress::default(), monotonic());
        let after = |ms| now + Duration::from_millis(ms);
        assert!(progress.compare(7, now).unwrap_err().contains("has not told"));
        progress.hear(7, now);
        assert_eq!(progress.compare(7, now), Ok(()));
        // New entries come all the time, and each is applied soon.
        for n in 1..100 {
            progress.hear(7 + n, after(100 * n));
            assert_eq!(progress.compare(6 + n, after(100 * n)), Ok(()));
        }
        // One leader knows less than the one before.
        progress.hear(50, after(10_000));
        assert_eq!(progress.compare(105, after(10_000)), Ok(()));
        progress.hear(50, after(13_000));
        assert!(progress.compare(105, after(13_000)).unwrap_err().starts_with("1 entries behind"));
        assert_eq!(progress.compare(106, after(13_000)), Ok(()));
        progress.hear(106 + BEHIND_MAX + 1, after(13_000));
        assert!(progress.compare(106, after(13_000)).is_err());
        assert_eq!(progress.compare(106 + BEHIND_MAX + 1, after(13_500)), Ok(()));
        // The process stood still, say.
        assert!(progress.compare(5000, after(60_000)).unwrap_err().contains("has not told"));
    }

    #[test]
    fn a_follower_that_is_back_keeps_up_only_once_it_has_caught_up() {
        let (mut progress, now) = (Progress::default(), monotonic());
        let after = |ms| now + Duration::from_millis(ms);
        // Few entries, and large ones: they take 15 s, while the leader writes more.
        for second in 0..15 {
            progress.hear(100 + second, after(1000 * second));
            let behind = progress.compare(second * 100 / 15, after(1000 * second));
            assert!(behind.unwrap_err().ends_with("entries behind the leader"), "after {second} s");
        }
        // It has by now what was there at first, and not yet what came meanwhile.
        progress.hear(115, after(15_000));
        assert!(progress.compare(100, after(15_000)).is_err());
        progress.hear(116, after(15_500));
        assert_eq!(progress.compare(115, after(15_500)), Ok(()), "what it missed took half a second");
        // Away again, and back.
        for second in 20..30 {
            progress.hear(100 + second, after(1000 * second));
            let kept_up = progress.compare(116, after(1000 * second));
            assert_eq!(kept_up.is_ok(), second <= 22, "after {second} s");
        }
        progress.hear(130, after(30_000));
        assert!(progress.compare(121, after(30_000)).is_err(), "it has reached what it missed, too late");
        assert_eq!(progress.compare(130, after(31_000)), Ok(()));
    }
}
