//! The wheel against a model: a `BTreeMap` by deadline.

use proptest::prelude::*;
use std::collections::BTreeMap;
use xcron::wheel::{Progress, Timer, Wheel};

/// The wheel and its model, compared after every operation.
struct Pair {
    wheel: Wheel<u64>,
    /// Live timers, by deadline and key.
    model: BTreeMap<(u64, u64), Timer>,
    /// Every timer ever made, in order: its key is its position.
    made: Vec<(u64, Timer)>,
    /// The latest time that the wheel was told.
    now_ms: u64,
}

impl Pair {
    fn new(now_ms: u64) -> Self {
        Pair { wheel: Wheel::new(now_ms), model: BTreeMap::new(), made: Vec::new(), now_ms }
    }

    fn insert(&mut self, deadline_ms: u64) {
        let key = self.made.len() as u64;
        let timer = self.wheel.insert(deadline_ms, key);
        self.made.push((deadline_ms, timer));
        self.model.insert((deadline_ms, key), timer);
        self.check();
    }

    /// Cancels any timer ever made, dead or alive.
    fn cancel(&mut self, pick: usize) {
        if self.made.is_empty() {
            return;
        }
        let key = pick % self.made.len();
        let (deadline_ms, timer) = self.made[key];
        let live = self.model.remove(&(deadline_ms, key as u64)).is_some();
        assert_eq!(self.wheel.cancel(timer), live, "cancel of {key} due at {deadline_ms}");
        self.check();
    }

    /// One call; true when it reached its time.
    fn advance(&mut self, now_ms: u64, limit: usize) -> bool {
        let mut out = Vec::new();
        self.now_ms = self.now_ms.max(now_ms);
        let progress = self.wheel.advance(now_ms, limit, &mut out);
        assert!(out.len() <= limit.max(1), "{} fired with limit {limit}", out.len());
        for &(deadline_ms, key) in &out {
            assert!(deadline_ms <= self.now_ms, "{key} due at {deadline_ms} fired at {}", self.now_ms);
            // That each is the earliest of all live ones is the order that is promised, across calls too.
            let first = self.model.first_key_value().map(|(&(first_ms, _), _)| first_ms);
            assert_eq!(Some(deadline_ms), first, "{key} is not the earliest");
            assert!(self.model.remove(&(deadline_ms, key)).is_some(), "{key} due at {deadline_ms} is not live");
        }
        if progress == Progress::Reached {
            let first = self.model.first_key_value();
            assert!(first.is_none_or(|(&(first_ms, _), _)| first_ms > now_ms), "lost {first:?} at {now_ms}");
            assert!(self.wheel.elapsed_ms() >= now_ms, "{} before {now_ms}", self.wheel.elapsed_ms());
        }
        self.check();
        progress == Progress::Reached
    }

    /// Calls until the time is reached, which must take a bounded number of calls.
    fn advance_fully(&mut self, now_ms: u64, limit: usize) {
        // Each entry is fired once and handled at most once per level and once for a far chain, tombstones too.
        let calls_max = 10 + 20 * self.made.len();
        for _ in 0..calls_max {
            if self.advance(now_ms, limit) {
                return;
            }
        }
        panic!("{} not reached in {calls_max} calls", self.now_ms);
    }

    fn check(&self) {
        assert_eq!(self.wheel.len(), self.model.len());
        assert_eq!(self.wheel.is_empty(), self.model.is_empty());
        let first_ms = self.model.first_key_value().map(|(&(first_ms, _), _)| first_ms);
        let wake_ms = self.wheel.next_wake();
        assert_eq!(wake_ms.is_some(), first_ms.is_some());
        assert!(wake_ms <= first_ms, "wake at {wake_ms:?} after the deadline {first_ms:?}");
        assert!(self.wheel.elapsed_ms() <= self.now_ms, "{} after {}", self.wheel.elapsed_ms(), self.now_ms);
    }
}

#[derive(Debug, Clone)]
enum Op {
    InsertAhead(u64),
    InsertBehind(u64),
    InsertAt(u64),
    Cancel(usize),
    Advance {
        by_ms: u64,
        limit: usize,
    },
    AdvanceFully {
        by_ms: u64,
        limit: usize,
    },
    /// What a server does: to the next wake, or a little less or more.
    AdvanceToWake {
        off_ms: i64,
        limit: usize,
    },
}

/// A length of time whose magnitude is spread evenly over the levels.
fn span() -> impl Strategy<Value = u64> {
    (0..=40u32, any::<u64>()).prop_map(|(bits, random)| random & ((1 << bits) - 1))
}

/// Times near the edges of slots, turns and the horizon.
fn edge() -> impl Strategy<Value = u64> {
    (0..64u32, 1..64u64, -1..=1i64).prop_map(|(bit, times, off)| (times << bit).wrapping_add_signed(off))
}

fn op() -> impl Strategy<Value = Op> {
    let limit = || prop_oneof![0..4usize, 1..40usize, Just(10_000)];
    prop_oneof![
        6 => span().prop_map(Op::InsertAhead),
        2 => (0..200u64).prop_map(Op::InsertAhead),
        1 => span().prop_map(Op::InsertBehind),
        1 => edge().prop_map(Op::InsertAt),
        1 => any::<u64>().prop_map(Op::InsertAt),
        4 => any::<usize>().prop_map(Op::Cancel),
        3 => (span(), limit()).prop_map(|(by_ms, limit)| Op::Advance { by_ms, limit }),
        1 => (span(), limit()).prop_map(|(by_ms, limit)| Op::AdvanceFully { by_ms, limit }),
        2 => (-2..=2i64, limit()).prop_map(|(off_ms, limit)| Op::AdvanceToWake { off_ms, limit }),
    ]
}

fn start() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1_790_000_000_000),
        Just((27 << 36) - 1_000),
        Just((1 << 32) - 100),
        Just(u64::MAX - (1 << 37)),
        edge(),
    ]
}

fn run(pair: &mut Pair, op: &Op) {
    match *op {
        Op::InsertAhead(by_ms) => pair.insert(pair.now_ms.saturating_add(by_ms)),
        Op::InsertBehind(by_ms) => pair.insert(pair.now_ms.saturating_sub(by_ms)),
        Op::InsertAt(deadline_ms) => pair.insert(deadline_ms),
        Op::Cancel(pick) => pair.cancel(pick),
        Op::Advance { by_ms, limit } => _ = pair.advance(pair.now_ms.saturating_add(by_ms), limit),
        Op::AdvanceFully { by_ms, limit } => pair.advance_fully(pair.now_ms.saturating_add(by_ms), limit),
        Op::AdvanceToWake { off_ms, limit } => {
            let wake_ms = pair.wheel.next_wake().unwrap_or(pair.now_ms);
            pair.advance(wake_ms.saturating_add_signed(off_ms), limit);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn wheel_does_what_the_model_does(start_ms in start(), ops in prop::collection::vec(op(), 1..250)) {
        let mut pair = Pair::new(start_ms);
        for op in &ops {
            run(&mut pair, op);
        }
        pair.advance_fully(u64::MAX, 7);
        prop_assert!(pair.wheel.is_empty());
    }
}

/// SplitMix64: the same numbers on every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[test]
fn two_hundred_thousand_operations_agree_with_the_model() {
    let mut numbers = Numbers(1);
    let mut pair = Pair::new(1_790_000_000_000);
    for _ in 0..200_000 {
        let now_ms = pair.now_ms;
        match numbers.below(100) {
            0..=44 => {
                let bits = numbers.below(38);
                pair.insert(now_ms + numbers.below(1 << bits));
            }
            // Everybody's favourite: the next full minute.
            45..=54 => pair.insert((now_ms / 60_000 + 1) * 60_000),
            55..=56 => pair.insert(now_ms - numbers.below(1 << 40)),
            57 => pair.insert(numbers.next()),
            58..=84 => pair.cancel(numbers.next() as usize),
            85..=97 => {
                let bits = numbers.below(24);
                let limit = 1 + numbers.below(200) as usize;
                pair.advance(now_ms + numbers.below(1 << bits), limit);
            }
            _ => pair.advance_fully(now_ms + numbers.below(10_000), 64),
        }
    }
    assert!(pair.wheel.len() > 1_000, "{} live at the end", pair.wheel.len());
    pair.advance_fully(u64::MAX, 1_000);
    assert!(pair.wheel.is_empty());
}

#[test]
fn cancel_heavy_load_is_swept_while_portions_are_pending() {
    let mut numbers = Numbers(2);
    let mut pair = Pair::new(0);
    for round in 0..12 {
        let from = pair.made.len();
        for _ in 0..8_000 {
            let bits = 10 + numbers.below(27);
            pair.insert(pair.now_ms + numbers.below(1 << bits));
        }
        for i in from..pair.made.len() {
            if i % 10 != round % 10 {
                pair.cancel(i);
            }
            if i % 500 == 0 {
                pair.advance(pair.now_ms + numbers.below(1 << 30), 37);
            }
        }
    }
    pair.advance_fully(u64::MAX, 100);
    assert!(pair.wheel.is_empty());
}

#[test]
fn handles_stay_stale_however_often_their_number_is_reused() {
    let mut wheel = Wheel::new(0);
    let mut old: Vec<Timer> = Vec::new();
    let mut out = Vec::new();
    for round in 0..2_000u64 {
        let timer = wheel.insert(round + 1, round);
        assert!(!old.contains(&timer), "{timer:?} was given out before");
        for &stale in old.iter().rev().take(50) {
            assert!(!wheel.cancel(stale), "{stale:?} cancelled something in round {round}");
        }
        if round % 2 == 0 {
            assert!(wheel.cancel(timer));
        }
        assert_eq!(wheel.advance(round + 1, 100, &mut out), Progress::Reached);
        old.push(timer);
    }
    assert_eq!(out.len(), 1_000);
}

#[test]
fn any_copy_type_is_a_key() {
    let mut wheel = Wheel::new(0);
    wheel.insert(2, ());
    let mut out = Vec::new();
    assert_eq!(wheel.advance(2, 1, &mut out), Progress::Reached);
    assert_eq!(out, [(2, ())]);
    let mut wheel = Wheel::new(0);
    wheel.insert(2, ([7u8; 3], "text"));
    let mut out = Vec::new();
    assert_eq!(wheel.advance(2, 1, &mut out), Progress::Reached);
    assert_eq!(out, [(2, ([7u8; 3], "text"))]);
}
