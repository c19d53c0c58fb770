//! The wheel against a map by deadline.

use std::collections::BTreeMap;

use super::Choices;
use crate::wheel::{Progress, Timer, Wheel};

struct Pair {
    wheel: Wheel<u64>,
    /// Live timers, by deadline and key.
    model: BTreeMap<(u64, u64), Timer>,
    /// Every timer ever made: its key is its position.
    made: Vec<(u64, Timer)>,
    now_ms: u64,
}

pub(super) fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let start_ms = match choices.below(3) {
        0 => 1_790_000_000_000,
        1 => u64::MAX - choices.magnitude(),
        _ => choices.magnitude(),
    };
    let mut pair = Pair { wheel: Wheel::new(start_ms), model: BTreeMap::new(), made: Vec::new(), now_ms: start_ms };
    while choices.more() && pair.made.len() < 5000 {
        pair.step(&mut choices);
        pair.check();
    }
    // Whatever is left comes out, in a bounded number of calls.
    let calls_max = 10 + 20 * pair.made.len();
    let reached = (0..calls_max).any(|_| pair.advance(u64::MAX, 7));
    assert!(reached && pair.wheel.is_empty(), "{} left after {calls_max} calls", pair.wheel.len());
}

impl Pair {
    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(8) {
            0 | 1 => self.insert(self.now_ms.saturating_add(choices.magnitude())),
            2 => self.insert(self.now_ms.saturating_sub(choices.magnitude())),
            3 => {
                // Many at about the same time: slots that are split.
                let at = self.now_ms.saturating_add(choices.magnitude());
                for _ in 0..choices.below(100) {
                    self.insert(at.saturating_add(choices.below(70)));
                }
            }
            4 | 5 => self.cancel(choices.number()),
            6 => {
                let limit = choices.magnitude() as usize & 0xfff;
                self.advance(self.now_ms.saturating_add(choices.magnitude()), limit);
            }
            _ => {
                let wake_ms = self.wheel.next_wake().unwrap_or(self.now_ms);
                self.advance(wake_ms.saturating_add_signed(choices.below(5) as i64 - 2), choices.below(40) as usize);
            }
        }
    }

    fn insert(&mut self, deadline_ms: u64) {
        let key = self.made.len() as u64;
        let timer = self.wheel.insert(deadline_ms, key);
        self.made.push((deadline_ms, timer));
        self.model.insert((deadline_ms, key), timer);
    }

    /// Cancels any timer ever made, dead or alive.
    fn cancel(&mut self, pick: u64) {
        let Some(key) = pick.checked_rem(self.made.len() as u64) else { return };
        let (deadline_ms, timer) = self.made[key as usize];
        let live = self.model.remove(&(deadline_ms, key)).is_some();
        assert_eq!(self.wheel.cancel(timer), live, "cancel of {key} due at {deadline_ms}");
    }

    fn advance(&mut self, now_ms: u64, limit: usize) -> bool {
        let mut out = Vec::new();
        self.now_ms = self.now_ms.max(now_ms);
        let progress = self.wheel.advance(now_ms, limit, &mut out);
        assert!(out.len() <= limit.max(1), "{} fired with limit {limit}", out.len());
        for (deadline_ms, key) in out {
            assert!(deadline_ms <= self.now_ms, "{key} due at {deadline_ms} fired at {}", self.now_ms);
            let first = self.model.first_key_value().map(|((first_ms, _), _)| *first_ms);
            assert_eq!(Some(deadline_ms), first, "{key} is not the earliest");
            assert!(self.model.remove(&(deadline_ms, key)).is_some(), "{key} due at {deadline_ms} is not live");
        }
        if progress == Progress::Reached {
            let first = self.model.first_key_value();
            assert!(first.is_none_or(|((first_ms, _), _)| *first_ms > now_ms), "lost {first:?} at {now_ms}");
        }
        progress == Progress::Reached
    }

    fn check(&self) {
        let first_ms = self.model.first_key_value().map(|((first_ms, _), _)| *first_ms);
        let wake_ms = self.wheel.next_wake();
        assert_eq!(self.wheel.len(), self.model.len());
        assert_eq!(wake_ms.is_some(), first_ms.is_some());
        assert!(wake_ms <= first_ms, "wake at {wake_ms:?} after the deadline {first_ms:?}");
        assert!(self.wheel.elapsed_ms() <= self.now_ms, "{} after {}", self.wheel.elapsed_ms(), self.now_ms);
    }
}
