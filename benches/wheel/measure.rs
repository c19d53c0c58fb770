//! What is measured of one queue: time by operation, the longest single call, bytes per timer.

use crate::queue::Queue;
use crate::script::{Churn, Script};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The operations that criterion is shown.
#[derive(Clone, Copy)]
pub enum Operation {
    /// n timers into an empty queue.
    InsertCold,
    /// Half of n, in random order.
    Cancel,
    /// n/2 timers into the queue from which that half was cancelled.
    InsertSteady,
    /// All n after that, in steps of about 100 timers.
    ExpireSteps,
    /// The same, each time at the queue's next wake.
    ExpireWakes,
    /// See [`Churn`]: an insert with what it costs to cancel or fire it.
    Churn,
}

impl Operation {
    pub const ALL: [Operation; 6] = [
        Operation::InsertCold,
        Operation::InsertSteady,
        Operation::Cancel,
        Operation::ExpireSteps,
        Operation::ExpireWakes,
        Operation::Churn,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Operation::InsertCold => "insert_cold",
            Operation::InsertSteady => "insert_steady",
            Operation::Cancel => "cancel",
            Operation::ExpireSteps => "expire",
            Operation::ExpireWakes => "expire_by_wakes",
            Operation::Churn => "churn",
        }
    }

    /// Timers that it is about when a script has n.
    pub fn timers(self, n: usize) -> usize {
        match self {
            Operation::Cancel | Operation::InsertSteady => n / 2,
            _ => n,
        }
    }
}

/// The longest single calls.
#[derive(Clone, Copy)]
pub struct Longest {
    pub insert: Duration,
    pub cancel: Duration,
    /// Of an advance by one step.
    pub step: Duration,
    /// Of an advance over all deadlines at once.
    pub jump: Duration,
}

impl Longest {
    fn min(self, other: Longest) -> Longest {
        Longest {
            insert: self.insert.min(other.insert),
            cancel: self.cancel.min(other.cancel),
            step: self.step.min(other.step),
            jump: self.jump.min(other.jump),
        }
    }
}

/// What was measured.
pub struct Figures {
    /// Samples of each operation, by its number; none: it was given up.
    pub times: [Vec<Duration>; 6],
    pub longest: Longest,
}

/// Samples to take of each operation, unless it takes long.
pub const SAMPLES: usize = 10;

/// Samples that are taken however long it takes; above a million timers, one.
const SAMPLES_MIN: usize = 3;

/// No play begins later than this after the first.
const PLAYS_MAX: Duration = Duration::from_secs(5);

/// Rounds of which the longest call of the best counts: what else runs on the machine stops a call now and then.
const ROUNDS: usize = 3;

pub fn measure<Q: Queue>(script: &Script, churn: &Churn) -> Figures {
    let mut times: [Vec<Duration>; 6] = Default::default();
    let samples_min = if script.len() > 1_000_000 { 1 } else { SAMPLES_MIN };
    let began = Instant::now();
    for sample in 0..SAMPLES {
        if sample >= samples_min && began.elapsed() > PLAYS_MAX {
            break;
        }
        play::<Q>(script, false, &mut times);
        if sample == 0 || !times[Operation::ExpireWakes as usize].is_empty() {
            play::<Q>(script, true, &mut times);
        }
        let mut handles = Vec::with_capacity(churn.len());
        let mut queue = Q::new();
        let began = Instant::now();
        let (fired, _) = churn.play(&mut queue, &mut handles);
        times[Operation::Churn as usize].push(began.elapsed());
        assert_eq!(fired, churn.fires, "{}: the churn", Q::NAME);
    }
    let began = Instant::now();
    let mut longest = longest_of_a_round::<Q>(script);
    for _ in 1..ROUNDS {
        if script.len() <= 1_000_000 || began.elapsed() < PLAYS_MAX {
            longest = longest.min(longest_of_a_round::<Q>(script));
        }
    }
    Figures { times, longest }
}

/// Plays the script once, and notes how long each operation took.
fn play<Q: Queue>(script: &Script, by_wakes: bool, times: &mut [Vec<Duration>; 6]) {
    let mut note = |operation: Operation, began: Instant| times[operation as usize].push(began.elapsed());
    let mut handles = Vec::with_capacity(2 * script.len());
    let mut out = Vec::with_capacity(script.len());
    let began = Instant::now();
    let mut queue = Q::new();
    script.insert(&mut queue, &mut handles);
    note(Operation::InsertCold, began);
    script.shuffle(&mut handles);
    let began = Instant::now();
    script.cancel(&mut queue, &mut handles);
    note(Operation::Cancel, began);
    let began = Instant::now();
    script.insert_again(&mut queue, &mut handles);
    note(Operation::InsertSteady, began);
    let began = Instant::now();
    let fired = if by_wakes {
        let Some(fired) = script.expire_by_wakes(&mut queue, &mut out) else { return };
        note(Operation::ExpireWakes, began);
        fired
    } else {
        let fired = script.expire(&mut queue, &mut out);
        note(Operation::ExpireSteps, began);
        fired
    };
    assert_eq!(fired, script.len(), "{} over {}, by wakes: {by_wakes}", Q::NAME, script.deadlines.name());
}

fn longest_of_a_round<Q: Queue>(script: &Script) -> Longest {
    fn timed<T>(longest: &mut Duration, call: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = call();
        *longest = began.elapsed().max(*longest);
        result
    }
    let [mut insert, mut cancel, mut step, mut jump] = [Duration::ZERO; 4];
    let mut out = Vec::with_capacity(script.len());
    let mut handles = Vec::with_capacity(2 * script.len());
    let mut queue = Q::new();
    for (key, &deadline_ms) in script.first.iter().enumerate() {
        handles.push(timed(&mut insert, || queue.insert(deadline_ms, key as u64)));
    }
    script.shuffle(&mut handles);
    for handle in handles.drain(script.len() - script.len() / 2..) {
        timed(&mut cancel, || queue.cancel(handle));
    }
    script.insert_again(&mut queue, &mut handles);
    for now_ms in script.steps() {
        out.clear();
        while !timed(&mut step, || queue.advance_once(now_ms, &mut out)) {
            out.clear();
        }
    }
    drop(queue);
    handles.clear();
    let mut queue = Q::new();
    script.insert(&mut queue, &mut handles);
    out.clear();
    while !timed(&mut jump, || queue.advance_once(script.end_ms(), &mut out)) {
        out.clear();
    }
    black_box(&out);
    Longest { insert, cancel, step, jump }
}

/// Resident memory of this process in bytes; 0 where the system doesn't tell.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4_096
}

/// Bytes per timer of a queue that is filled in this process, which should be a new one: an allocator keeps what
/// earlier queues have freed.
pub fn bytes_per_timer<Q: Queue>(script: &Script) -> f64 {
    let mut queue = Q::new();
    // The room for handles is counted out by touching it first.
    let mut handles: Vec<Option<Q::Handle>> = Vec::with_capacity(script.len());
    handles.resize_with(script.len(), || None);
    let before = resident();
    for (key, &deadline_ms) in script.first.iter().enumerate() {
        handles[key] = Some(queue.insert(deadline_ms, key as u64));
    }
    resident().saturating_sub(before) as f64 / script.len() as f64
}
