//! What every queue is put through: deadlines, cancels, and the times at which it is asked.

use crate::queue::Queue;
use std::hint::black_box;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Timers that one step of the expiry is meant to fire.
const STEP: usize = 100;

/// Wakes per timer at which a play is given up.
const WAKES_MAX: usize = 20;

/// How deadlines are spread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Deadlines {
    Hour,
    Month,
    /// All within one second, half an hour ahead.
    Second,
    /// Nine of ten at :00 of a minute of the next day, most of them at a full hour; the others anywhere.
    Cron,
}

impl Deadlines {
    pub const ALL: [Deadlines; 4] = [Deadlines::Hour, Deadlines::Month, Deadlines::Second, Deadlines::Cron];

    pub fn name(self) -> &'static str {
        match self {
            Deadlines::Hour => "1h",
            Deadlines::Month => "30d",
            Deadlines::Second => "1s",
            Deadlines::Cron => "cron",
        }
    }

    pub fn named(name: &str) -> Option<Deadlines> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Start and length of the time in which all are due.
    fn window(self) -> (u64, u64) {
        match self {
            Deadlines::Hour => (0, HOUR_MS),
            Deadlines::Month => (0, 30 * DAY_MS),
            Deadlines::Second => (HOUR_MS / 2, 1_000),
            Deadlines::Cron => (0, DAY_MS),
        }
    }

    fn draw(self, numbers: &mut Numbers) -> u64 {
        let (start, length) = self.window();
        match self {
            Deadlines::Cron => match numbers.below(10) {
                0 => 1 + numbers.below(length),
                1..=3 => MINUTE_MS * (1 + numbers.below(length / MINUTE_MS)),
                _ => HOUR_MS * (1 + numbers.below(length / HOUR_MS)),
            },
            _ => start + 1 + numbers.below(length),
        }
    }
}

/// SplitMix64: the same numbers on every run.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// Inserts, cancels of half, inserts again, then all that is left fires.
pub struct Script {
    pub deadlines: Deadlines,
    /// Timer i of the first n has key i.
    pub first: Vec<u64>,
    /// Half of the first n, shuffled.
    cancelled: Vec<u32>,
    /// Inserted after the cancels, with keys from n on.
    second: Vec<u64>,
}

impl Script {
    pub fn new(deadlines: Deadlines, n: usize) -> Self {
        let mut numbers = Numbers(42);
        let first: Vec<u64> = (0..n).map(|_| deadlines.draw(&mut numbers)).collect();
        let mut cancelled: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            cancelled.swap(i, numbers.below(i as u64 + 1) as usize);
        }
        cancelled.truncate(n / 2);
        let second = (0..n / 2).map(|_| deadlines.draw(&mut numbers)).collect();
        Script { deadlines, first, cancelled, second }
    }

    /// Timers that wait at the same time, and that fire at the end.
    pub fn len(&self) -> usize {
        self.first.len()
    }

    pub fn deadline_ms(&self, key: u64) -> u64 {
        let key = key as usize;
        if key < self.first.len() {
            self.first[key]
        } else {
            self.second[key - self.first.len()]
        }
    }

    /// The times of the expiry in batches.
    pub fn steps(&self) -> impl Iterator<Item = u64> {
        let (start, length) = self.deadlines.window();
        let steps = (self.len() / STEP).min(length as usize) as u64;
        (1..=steps).map(move |step| start + (u128::from(length) * u128::from(step) / u128::from(steps)) as u64)
    }

    /// When the last is due, or a little later.
    pub fn end_ms(&self) -> u64 {
        let (start, length) = self.deadlines.window();
        start + length
    }

    pub fn insert<Q: Queue>(&self, queue: &mut Q, handles: &mut Vec<Q::Handle>) {
        for (key, &deadline_ms) in self.first.iter().enumerate() {
            handles.push(queue.insert(deadline_ms, key as u64));
        }
    }

    /// Brings the handles of the timers to cancel to the end, the first to be cancelled last, so that looking for them
    /// isn't part of cancelling.
    pub fn shuffle<H>(&self, handles: &mut Vec<H>) {
        let mut all: Vec<Option<H>> = handles.drain(..).map(Some).collect();
        let cancelled: Vec<H> = self.cancelled.iter().filter_map(|&key| all[key as usize].take()).collect();
        handles.extend(all.into_iter().flatten());
        handles.extend(cancelled);
    }

    /// Cancels what [`Script::shuffle`] has brought to the end.
    pub fn cancel<Q: Queue>(&self, queue: &mut Q, handles: &mut Vec<Q::Handle>) {
        for handle in handles.drain(self.len() - self.cancelled.len()..) {
            queue.cancel(handle);
        }
    }

    pub fn insert_again<Q: Queue>(&self, queue: &mut Q, handles: &mut Vec<Q::Handle>) {
        for (i, &deadline_ms) in self.second.iter().enumerate() {
            handles.push(queue.insert(deadline_ms, (self.len() + i) as u64));
        }
    }

    /// In batches: at fixed times, of which each fires about a hundred. How many fired.
    pub fn expire<Q: Queue>(&self, queue: &mut Q, out: &mut Vec<u64>) -> usize {
        let mut fired = 0;
        for now_ms in self.steps() {
            queue.advance(now_ms, out);
            fired += out.len();
            black_box(&out);
            out.clear();
        }
        fired
    }

    /// A wake per deadline: always at the time for which the queue asks, and no earlier than a millisecond after the last.
    /// How many fired; none: it asks for so many wakes that the play was given up.
    pub fn expire_by_wakes<Q: Queue>(&self, queue: &mut Q, out: &mut Vec<u64>) -> Option<usize> {
        let (mut fired, mut last_ms) = (0, 0);
        let mut wakes_left = WAKES_MAX * self.len();
        while let Some(wake_ms) = queue.next_wake() {
            wakes_left = wakes_left.checked_sub(1)?;
            last_ms = wake_ms.max(last_ms + 1);
            queue.advance(last_ms, out);
            fired += out.len();
            black_box(&out);
            out.clear();
        }
        Some(fired)
    }
}

/// Timeouts of requests, of which nearly all are cancelled: the load that is heaviest on cancels. Requests come evenly
/// over five minutes, each has a timeout of half a minute, and nine of ten are answered within a quarter of one.
pub struct Churn {
    /// After the insert of a key come the cancels of these.
    cancels: Vec<Vec<u32>>,
    pub fires: usize,
}

impl Churn {
    const LENGTH_MS: u64 = 5 * MINUTE_MS;
    const TIMEOUT_MS: u64 = 30_000;
    const ANSWER_MS_MAX: u64 = 15_000;

    pub fn new(n: usize) -> Self {
        let mut numbers = Numbers(7);
        let mut cancels = vec![Vec::new(); n];
        let mut fires = 0;
        for key in 0..n {
            let after = 1 + numbers.below(n as u64 * Self::ANSWER_MS_MAX / Self::LENGTH_MS) as usize;
            match cancels.get_mut(key + after) {
                Some(cancels) if numbers.below(10) != 0 => cancels.push(key as u32),
                _ => fires += 1,
            }
        }
        Churn { cancels, fires }
    }

    pub fn len(&self) -> usize {
        self.cancels.len()
    }

    /// Plays it to the end. How many fired, and a sum that depends on which they were.
    pub fn play<Q: Queue>(&self, queue: &mut Q, handles: &mut Vec<Option<Q::Handle>>) -> (usize, u64) {
        let n = self.cancels.len();
        let mut out = Vec::new();
        let (mut fired, mut sum) = (0, 0u64);
        let mut count = |out: &mut Vec<u64>| {
            fired += out.len();
            sum = out.drain(..).fold(sum, |sum, key| sum.wrapping_add(Numbers(key).next()));
        };
        for (key, cancels) in self.cancels.iter().enumerate() {
            let now_ms = Self::LENGTH_MS * key as u64 / n as u64;
            if key % STEP == 0 {
                queue.advance(now_ms, &mut out);
                count(&mut out);
            }
            handles.push(Some(queue.insert(now_ms + Self::TIMEOUT_MS, key as u64)));
            for &key in cancels {
                if let Some(handle) = handles[key as usize].take() {
                    queue.cancel(handle);
                }
            }
        }
        queue.advance(Self::LENGTH_MS + Self::TIMEOUT_MS, &mut out);
        count(&mut out);
        (fired, sum)
    }
}
