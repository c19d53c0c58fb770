//! Whether a target can be reached: pure.
//!
//! ```text
//!            hold_after runs did not connect        a connection was made
//!   open ───────────────────────────────► waits ──► probing ──► trial: one job
//!    ▲                                      ▲  ◄─────── no ──────┘ │   │ did not connect
//!    │                                      └────────────────────────◄─┘
//!    └───────────────────── it connected ──────────────────────────┘
//! ```

use std::time::Duration;

use crate::clock::Timestamp;
use crate::command::Seq;
use crate::id::RunKey;
use crate::state::Job;

/// What an attempt tells of its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing: it was not sent.
    NotSent,
    /// Nothing for sure: no answer came in time, or the guard refused it.
    Unclear,
    /// It was connected to.
    Reached,
    /// It was not, and why.
    Unreached(String),
}

/// When a target is held, and how often it is then looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Runs in a row that could not connect; 0: it never is.
    pub hold_after: usize,
    /// The first pause before a probe.
    pub probe_min: Duration,
    /// The longest.
    pub probe_max: Duration,
}

/// A hold for which nothing waits is forgotten after this: longer than the pauses between most attempts, during which
/// nothing waits either.
const IDLE_MAX_MS: u64 = 600_000;

/// One run's attempt.
type Trial = (Seq, RunKey, u32);

#[derive(Debug)]
enum Phase {
    /// Until the next probe.
    Waits { next_probe: Timestamp },
    /// A probe is on its way.
    Probing,
    /// A probe has connected: one job may go, or has gone.
    Trial(Option<Trial>),
}

#[derive(Debug)]
struct Hold {
    /// Which of the holds of this process.
    id: u64,
    since: Timestamp,
    pause: Duration,
    phase: Phase,
    /// When something last waited.
    used: Timestamp,
}

/// What is known of one target.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: u64,
    /// The different runs among those failures, as many as matter. One run that fails again and again ends by its own
    /// policy and holds up nobody.
    runs: Vec<(Seq, RunKey)>,
    last_error: Option<String>,
    hold: Option<Hold>,
}

/// A target is to be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// Which hold this is for.
    pub id: u64,
    pub pause: Duration,
}

impl Health {
    pub fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    pub fn held_since(&self) -> Option<Timestamp> {
        self.hold.as_ref().map(|hold| hold.since)
    }

    pub fn next_probe(&self) -> Option<Timestamp> {
        match self.hold.as_ref()?.phase {
            Phase::Waits { next_probe } => Some(next_probe),
            Phase::Probing | Phase::Trial(_) => None,
        }
    }

    pub fn failures(&self) -> u64 {
        self.failures
    }

    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Whether a job may go now.
    pub fn lets_go(&self) -> bool {
        matches!(self.hold, None | Some(Hold { phase: Phase::Trial(None), .. }))
    }

    /// A job goes.
    pub fn goes(&mut self, job: &Job) {
        if let Some(Hold { phase: phase @ Phase::Trial(None), .. }) = &mut self.hold {
            *phase = Phase::Trial(Some((job.seq, job.key, job.attempt)));
        }
    }

    /// A job that went has ended. The probe, where one is to follow, belongs to the hold `id` if it is a new one.
    pub fn ended(&mut self, job: &Job, reach: Reach, now: Timestamp, patience: &Patience, id: u64) -> Option<Probe> {
        let trial = match &self.hold {
            Some(Hold { phase: Phase::Trial(Some(trial)), .. }) => *trial == (job.seq, job.key, job.attempt),
            _ => false,
        };
        match reach {
            Reach::Reached => *self = Health::default(),
            // The probe has connected, so it is not for want of a connection that nothing came.
            Reach::Unclear if trial => *self = Health::default(),
            Reach::Unclear => {}
            Reach::NotSent => {
                if let Some(hold) = self.hold.as_mut().filter(|_| trial) {
                    hold.phase = Phase::Trial(None);
                }
            }
            Reach::Unreached(error) => return self.failed(job, error, now, patience, id, trial),
        }
        None
    }

    fn failed(
        &mut self,
        job: &Job,
        error: String,
        now: Timestamp,
        patience: &Patience,
        id: u64,
        trial: bool,
    ) -> Option<Probe> {
        self.failures += 1;
        self.last_error = Some(error);
        if let Some(hold) = &mut self.hold {
            return trial.then(|| hold.wait(hold.longer(patience), now));
        }
        let run = (job.seq, job.key);
        if self.runs.len() < patience.hold_after && !self.runs.contains(&run) {
            self.runs.push(run);
        }
        if patience.hold_after == 0 || self.runs.len() < patience.hold_after {
            return None;
        }
        let mut hold = Hold { id, since: now, pause: patience.probe_min, phase: Phase::Probing, used: now };
        let probe = hold.wait(patience.probe_min, now);
        self.hold = Some(hold);
        Some(probe)
    }

    /// A probe leaves; whether there is still a hold that it is for.
    pub fn probes(&mut self, id: u64) -> bool {
        let Some(hold) = self.hold.as_mut().filter(|hold| hold.id == id) else { return false };
        hold.phase = Phase::Probing;
        true
    }

    /// A probe has connected: if something waits, one job goes first. Else nothing is left to hold.
    pub fn probed(&mut self, id: u64, something_waits: bool) {
        match &mut self.hold {
            Some(hold) if hold.id == id && something_waits => hold.phase = Phase::Trial(None),
            Some(hold) if hold.id == id => *self = Health::default(),
            _ => {}
        }
    }

    /// A probe has not connected: the next one, unless nothing has waited for it for long, or it must not stay without.
    pub fn unreachable(
        &mut self,
        id: u64,
        error: String,
        now: Timestamp,
        patience: &Patience,
        something_waits: bool,
        may_stay: bool,
    ) -> Option<Probe> {
        let hold = self.hold.as_mut().filter(|hold| hold.id == id)?;
        if something_waits {
            hold.used = now;
        } else if !may_stay || now.ms_since(hold.used) > IDLE_MAX_MS {
            *self = Health::default();
            return None;
        }
        self.last_error = Some(error);
        Some(hold.wait(hold.longer(patience), now))
    }
}

impl Hold {
    fn longer(&self, patience: &Patience) -> Duration {
        self.pause.saturating_mul(2).min(patience.probe_max)
    }

    fn wait(&mut self, pause: Duration, now: Timestamp) -> Probe {
        self.pause = pause;
        self.phase = Phase::Waits { next_probe: now.plus_ms(pause.as_millis() as u64) };
        Probe { id: self.id, pause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TaskId;

    const PATIENCE: Patience =
        Patience { hold_after: 2, probe_min: Duration::from_millis(500), probe_max: Duration::from_secs(2) };
    const NOW: Timestamp = Timestamp(1000);

    fn job(seq: Seq, attempt: u32) -> Job {
        let (id, key) = (TaskId::generate(), RunKey::scheduled(Timestamp(1)));
        Job { seq, id, target: "a:1".into(), key, attempt, at: Timestamp(1) }
    }

    fn no() -> Reach {
        Reach::Unreached("refused".into())
    }

    fn end(health: &mut Health, seq: Seq, attempt: u32, reach: Reach) -> Option<u64> {
        health.ended(&job(seq, attempt), reach, NOW, &PATIENCE, 7).map(|probe| probe.pause.as_millis() as u64)
    }

    fn held() -> Health {
        let mut health = Health::default();
        assert_eq!((end(&mut health, 1, 1, no()), end(&mut health, 2, 1, no())), (None, Some(500)));
        assert!(health.is_held() && !health.lets_go() && health.next_probe() == Some(Timestamp(1500)));
        health
    }

    #[test]
    fn different_runs_in_a_row_hold_a_target_and_one_run_alone_does_not() {
        let mut health = Health::default();
        for attempt in 1..10 {
            assert_eq!(end(&mut health, 1, attempt, no()), None);
        }
        assert_eq!((health.failures(), health.is_held()), (9, false));
        assert_eq!(end(&mut health, 2, 1, Reach::Reached), None);
        assert_eq!(health.failures(), 0);
        assert_eq!((end(&mut health, 1, 1, no()), end(&mut health, 3, 1, Reach::Unclear)), (None, None));
        assert_eq!(end(&mut health, 2, 1, no()), Some(500));
        let never = Patience { hold_after: 0, ..PATIENCE };
        let mut health = Health::default();
        for seq in 1..10 {
            assert_eq!(health.ended(&job(seq, 1), no(), NOW, &never, 1), None);
        }
    }

    #[test]
    fn probes_come_at_growing_pauses_and_one_job_goes_first() {
        let mut health = held();
        let mut pauses = Vec::new();
        for _ in 0..3 {
            assert!(health.probes(7) && !health.lets_go());
            let probe = health.unreachable(7, "no".into(), NOW, &PATIENCE, true, true).unwrap();
            pauses.push(probe.pause.as_millis());
        }
        assert_eq!(pauses, [1000, 2000, 2000]);
        assert!(health.probes(7));
        health.probed(7, true);
        assert!(health.lets_go() && health.is_held());
        health.goes(&job(5, 1));
        assert!(!health.lets_go(), "one at a time");
        assert_eq!(end(&mut health, 5, 1, no()), Some(2000), "the pauses go on where they were");
        health.probed(7, true);
        health.goes(&job(5, 2));
        assert_eq!(end(&mut health, 5, 2, Reach::NotSent), None);
        assert!(health.lets_go() && health.is_held(), "it was deleted: another one goes first");
        health.goes(&job(6, 1));
        assert_eq!(end(&mut health, 6, 1, Reach::Reached), None);
        assert!(health.lets_go() && !health.is_held() && health.failures() == 0);
    }

    #[test]
    fn what_left_before_the_hold_does_not_decide_for_the_trial() {
        let mut health = held();
        health.probed(7, true);
        health.goes(&job(5, 1));
        assert_eq!((end(&mut health, 3, 1, no()), end(&mut health, 4, 1, Reach::Unclear)), (None, None));
        assert!(health.is_held() && !health.lets_go());
        end(&mut health, 3, 1, Reach::Reached);
        assert!(!health.is_held(), "an answer is an answer");
    }

    #[test]
    fn a_hold_for_which_nothing_waits_is_forgotten() {
        let mut health = held();
        assert!(!health.probes(6), "the probe of another hold");
        let mut probe = |id, now, may_stay| health.unreachable(id, "no".into(), now, &PATIENCE, false, may_stay);
        assert_eq!(probe(6, NOW, true), None);
        assert!(probe(7, NOW.plus_ms(IDLE_MAX_MS), true).is_some(), "a retry may wait for its time");
        assert_eq!(probe(7, NOW.plus_ms(IDLE_MAX_MS + 1), true), None);
        assert!(!health.is_held() && health.failures() == 0);
        let mut health = held();
        assert_eq!(health.unreachable(7, "no".into(), NOW, &PATIENCE, false, false), None);
        assert!(!health.is_held() && health.failures() == 0);
        let mut health = held();
        health.probed(7, false);
        assert!(!health.is_held());
    }
}
