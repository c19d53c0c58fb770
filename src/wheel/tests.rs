//! What the wheel does at its edges. The comparison with a model is in `tests/wheel.rs`.

use super::*;

const EPOCH: u64 = 1_790_000_000_000;

fn run_to(wheel: &mut Wheel<u64>, now_ms: u64, limit: usize) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    while wheel.advance(now_ms, limit, &mut out) == Progress::Limited {}
    out
}

fn entries(wheel: &Wheel<u64>) -> usize {
    wheel.len + wheel.tombstones
}

#[test]
fn timer_fires_at_its_millisecond_and_not_before() {
    for distance in (0..64).map(|bit| 1u64 << bit).chain([63, 65, 4_095, 4_097, (1 << 36) - 1, u64::MAX - EPOCH]) {
        let deadline = EPOCH.saturating_add(distance);
        let mut wheel = Wheel::new(EPOCH);
        wheel.insert(deadline, 7);
        assert_eq!(run_to(&mut wheel, deadline - 1, 100), [], "{distance} ms ahead");
        assert_eq!(run_to(&mut wheel, deadline, 100), [(deadline, 7)], "{distance} ms ahead");
        assert!(wheel.is_empty());
    }
}

#[test]
fn the_end_of_time_is_a_legal_deadline() {
    let mut wheel = Wheel::new(0);
    wheel.insert(u64::MAX, 1);
    wheel.insert(u64::MAX - 1, 2);
    assert_eq!(run_to(&mut wheel, u64::MAX, 1), [(u64::MAX - 1, 2), (u64::MAX, 1)]);
    wheel.insert(u64::MAX, 3);
    wheel.insert(0, 4);
    assert_eq!(run_to(&mut wheel, u64::MAX, 1), [(0, 4), (u64::MAX, 3)]);
    assert_eq!(wheel.next_wake(), None);
}

#[test]
fn overdue_timers_fire_on_the_next_advance_with_their_own_deadlines() {
    let mut wheel = Wheel::new(EPOCH);
    wheel.insert(EPOCH, 1);
    wheel.insert(EPOCH - 1, 2);
    wheel.insert(3, 3);
    assert_eq!(wheel.next_wake(), Some(3));
    assert_eq!(run_to(&mut wheel, EPOCH, 100), [(3, 3), (EPOCH - 1, 2), (EPOCH, 1)]);
}

#[test]
fn time_does_not_go_back() {
    let mut wheel = Wheel::<u64>::new(EPOCH);
    assert_eq!(run_to(&mut wheel, EPOCH - 1_000, 100), []);
    assert_eq!(wheel.elapsed_ms(), EPOCH);
}

#[test]
fn next_wake_is_the_earliest_deadline_however_far() {
    for distance in [0, 1, 63, 64, 5_000, 400 * 86_400_000, 1 << 36, 1 << 45] {
        let deadline = EPOCH + distance;
        let mut wheel = Wheel::new(EPOCH);
        for key in [90, 3, 0, 1, 70_000, 5_000_000_000] {
            wheel.insert(deadline + key, key);
        }
        let mut fired = Vec::new();
        while let Some(at) = wheel.next_wake() {
            let due = run_to(&mut wheel, at, 100);
            assert_eq!(due.first().map(|&(deadline, _)| deadline), Some(at), "{distance} ms ahead: woken for nothing");
            fired.extend(due.into_iter().map(|(_, key)| key));
        }
        assert_eq!(fired, [0, 1, 3, 90, 70_000, 5_000_000_000]);
    }
}

#[test]
fn next_wake_is_early_when_the_first_timer_was_cancelled() {
    let mut wheel = Wheel::new(0);
    let first = wheel.insert(70_000, 1);
    wheel.insert(80_000, 2);
    assert!(wheel.cancel(first));
    assert!(wheel.next_wake() <= Some(80_000), "{:?}", wheel.next_wake());
    assert_eq!(run_to(&mut wheel, 79_999, 100), []);
    assert_eq!(wheel.next_wake(), Some(80_000));
}

#[test]
fn timer_added_before_a_slot_that_time_has_jumped_into_fires_first() {
    let mut wheel = Wheel::new(0);
    let start = 1u64 << 24;
    for key in 0..500 {
        wheel.insert(start + 7_000 + key, key);
    }
    // Half of the slot is cascaded; time stands at its first deadline, or at what it was told.
    let mut out = Vec::new();
    assert_eq!(wheel.advance(start + 6_000, 250, &mut out), Progress::Limited);
    assert_eq!((out.len(), wheel.elapsed_ms()), (0, start + 6_000));
    wheel.insert(start + 5_999, 1_000);
    wheel.insert(start + 6_001, 1_001);
    out.extend(run_to(&mut wheel, start + 6_001, 250));
    assert_eq!(out, [(start + 5_999, 1_000), (start + 6_001, 1_001)]);
    assert_eq!(wheel.next_wake(), Some(start + 7_000));
    out.extend(run_to(&mut wheel, u64::MAX, 250));
    assert_eq!(out.len(), 502);
    assert!(out.is_sorted_by_key(|&(deadline, _)| deadline));
}

#[test]
fn cascade_drops_tombstones() {
    let mut wheel = Wheel::new(0);
    let timers: Vec<Timer> = (0..9_000).map(|key| wheel.insert((1 << 20) + key % 3_000, key)).collect();
    // Too few for a sweep.
    for timer in timers.iter().skip(1).step_by(3) {
        assert!(wheel.cancel(*timer));
    }
    assert_eq!(entries(&wheel), 9_000);
    assert_eq!(run_to(&mut wheel, 1 << 20, 100).len(), 3);
    assert_eq!(wheel.tombstones, 0);
    assert_eq!(run_to(&mut wheel, 1 << 21, 100).len(), 5_997);
}

#[test]
fn handle_of_a_fired_timer_does_not_cancel_the_next_one() {
    let mut wheel = Wheel::new(0);
    let old = wheel.insert(1, 1);
    run_to(&mut wheel, 1, 100);
    let new = wheel.insert(2, 2);
    assert_eq!(old.id, new.id, "the number is reused");
    assert!(!wheel.cancel(old));
    assert_eq!(wheel.len(), 1);
    assert!(wheel.cancel(new));
    assert!(!wheel.cancel(new));
    assert_eq!(run_to(&mut wheel, 2, 100), []);
}

#[test]
fn handle_and_option_of_it_are_eight_bytes() {
    assert_eq!(size_of::<Timer>(), 8);
    assert_eq!(size_of::<Option<Timer>>(), 8);
}

#[test]
fn crowded_slot_is_cascaded_in_portions_that_keep_the_limit() {
    let mut wheel = Wheel::new(0);
    for key in 0..50_000 {
        wheel.insert((1 << 24) + key % 50, key);
    }
    let mut out = Vec::new();
    let mut calls = 0;
    while wheel.advance(1 << 25, 1_000, &mut out) == Progress::Limited {
        calls += 1;
        assert!(out.len() <= calls * 1_000, "{} fired in {calls} calls", out.len());
    }
    assert!((90..400).contains(&calls), "{calls} calls");
    assert_eq!(out.len(), 50_000);
    assert!(out.is_sorted_by_key(|&(deadline, _)| deadline));
}

#[test]
fn timers_added_inside_a_half_cascaded_slot_fire_in_order() {
    let start = 1u64 << 18;
    let mut wheel = Wheel::new(0);
    for key in 0..1_000 {
        wheel.insert(start + key * 100, key);
    }
    let mut out = Vec::new();
    assert_eq!(wheel.advance(start + 50_000, 500, &mut out), Progress::Limited);
    assert_eq!(out, [], "half of the slot is still to be looked through");
    wheel.insert(start + 1, 2_001);
    wheel.insert(start, 2_000);
    wheel.insert(start - 1, 1_999);
    let cancelled = wheel.insert(start + 2, 2_002);
    assert!(wheel.cancel(cancelled));
    out.extend(run_to(&mut wheel, start + 50_000, 500));
    assert!(out.is_sorted_by_key(|&(deadline, _)| deadline));
    assert_eq!(out.len(), 501 + 3);
    // Within one millisecond any order will do.
    out.sort_unstable();
    assert_eq!(out[..4], [(start - 1, 1_999), (start, 0), (start, 2_000), (start + 1, 2_001)]);
}

#[test]
fn timers_added_before_sorted_ones_that_wait_come_out_first() {
    let mut wheel = Wheel::new(0);
    for key in 0..40 {
        wheel.insert(64 + key, key);
    }
    let mut out = Vec::new();
    assert_eq!(wheel.advance(1_000, 60, &mut out), Progress::Limited);
    assert_eq!(out.len(), 20, "40 sorted, 20 fired");
    assert_eq!(wheel.elapsed_ms(), 84);
    wheel.insert(90, 1_000);
    out.extend(run_to(&mut wheel, 1_000, 60));
    assert_eq!(out.len(), 41);
    assert!(out.is_sorted_by_key(|&(deadline, _)| deadline));
}

#[test]
fn horizon_rolls_over_in_the_middle_of_timers() {
    let edge = 27u64 << 36;
    let mut wheel = Wheel::new(edge - 10);
    let deadlines: Vec<u64> = (0..2_000).map(|i| edge - 5 + i * 40_000_000).collect();
    for &deadline in &deadlines {
        wheel.insert(deadline, deadline);
    }
    assert!(!wheel.far.is_empty());
    let mut fired = Vec::new();
    for step in 0..3_000 {
        fired.extend(run_to(&mut wheel, edge + step * 30_000_000, 50));
        // A newcomer in the span of a far chain that is now within the horizon.
        let newcomer = edge + step * 30_000_000 + (1 << 33);
        wheel.insert(newcomer, newcomer);
    }
    assert!(fired.is_sorted());
    assert!(fired.iter().all(|&(deadline, key)| deadline == key));
    assert_eq!(fired.len() + wheel.len(), 5_000);
}

#[test]
fn churn_of_cancels_does_not_grow_the_wheel() {
    for spread in [1u64, 1_000, 3_600_000, 1 << 40] {
        let mut wheel = Wheel::new(0);
        let mut timers: Vec<Timer> = (0..10_000).map(|i| wheel.insert(1 + i * 7_919 % spread, i)).collect();
        let mut most = 0;
        for i in 0..300_000u64 {
            let at = (i * 6_151 % 10_000) as usize;
            assert!(wheel.cancel(timers[at]), "round {i}");
            timers[at] = wheel.insert(1 + i * 7_919 % spread, i);
            most = most.max(entries(&wheel));
        }
        assert_eq!(wheel.len(), 10_000);
        assert!(most < 2 * 10_000 + 2 * sweep::TOMBSTONES_MIN, "{most} entries for 10000 timers over {spread} ms");
        assert!(wheel.chunks.blocks() < 16, "{} blocks", wheel.chunks.blocks());
        assert_eq!(run_to(&mut wheel, u64::MAX, 1_000).len(), 10_000);
        assert_eq!(entries(&wheel), 0);
    }
}

#[test]
fn churn_of_overdue_timers_does_not_grow_the_wheel() {
    let mut wheel = Wheel::new(EPOCH);
    for i in 0..100_000 {
        let timer = wheel.insert(i, i);
        assert!(wheel.cancel(timer));
    }
    assert!(wheel.overdue.len() <= 2_048, "{} overdue", wheel.overdue.len());
    assert_eq!(run_to(&mut wheel, EPOCH, 100), []);
    assert_eq!(entries(&wheel), 0);
}

#[test]
fn sweep_keeps_the_live_timers() {
    let mut wheel = Wheel::new(0);
    let timers: Vec<Timer> = (0..100_000).map(|i| wheel.insert(1 + i % 5_000_000_000, i)).collect();
    let far: Vec<Timer> = (0..20_000).map(|i| wheel.insert((1 << 50) + i, i)).collect();
    for timer in timers.iter().enumerate().filter(|(i, _)| i % 100 != 0).map(|(_, timer)| timer).chain(&far[1..]) {
        assert!(wheel.cancel(*timer));
    }
    assert_eq!(wheel.len(), 1_001);
    assert!(entries(&wheel) < 30_000, "{} entries for 1001 timers", entries(&wheel));
    let fired = run_to(&mut wheel, u64::MAX, 1_000);
    assert!(fired.iter().map(|&(_, key)| key).eq((0..100_000).step_by(100).chain([0])));
}

#[test]
fn empty_wheel_gives_its_memory_back_and_keeps_old_handles_stale() {
    let mut wheel = Wheel::new(0);
    let old: Vec<Timer> = (0..300_000).map(|i| wheel.insert(1 + i, i)).collect();
    assert!(wheel.chunks.blocks() > 70, "{} blocks", wheel.chunks.blocks());
    for now in 300_001..300_020 {
        run_to(&mut wheel, now, 10_000);
    }
    assert!(wheel.chunks.blocks() <= 16, "{} blocks", wheel.chunks.blocks());
    let new: Vec<Timer> = (0..300_000).map(|i| wheel.insert(1_000_000 + i, i)).collect();
    assert!(old.iter().all(|&timer| !wheel.cancel(timer)));
    assert!(new.iter().all(|&timer| wheel.cancel(timer)));
}
