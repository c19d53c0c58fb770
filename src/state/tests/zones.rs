//! Unit tests of the rules of zones, and of those that take over.

use super::*;
use crate::schedule::{made_up, ZoneRules};
use crate::task::Options;

/// 2027-01-15T08:00:00Z
const EIGHT: u64 = T0.0;
const HOUR: u64 = 3_600_000;
const NINE: Timestamp = Timestamp(EIGHT + HOUR);
const DAY: u64 = 24 * HOUR;

/// Rules of the zone `Test/Zone`, whose clocks are so many seconds ahead.
fn rules(version: &str, ahead: i32) -> ZoneRules {
    ZoneRules { name: "Test/Zone".into(), version: version.into(), tzif: made_up(ahead, &[]).into() }
}

fn zoned(version: &str, ahead: i32) -> State {
    let mut state = State::new(T0);
    state.apply(T0, Command::AddZones { rules: vec![rules(version, ahead)] });
    state
}

fn in_zone(format: &str) -> Timing {
    Timing::Periodic { format: format.into(), timezone: "test/ZONE".into() }
}

fn take_over(state: &mut State, now: Timestamp, rules: ZoneRules) {
    let version = rules.version.to_string();
    state.apply(now, Command::TakeOverZones { version, seen: state.next_zone(), rules: vec![rules] });
    state.check();
}

fn next(state: &State, seq: Seq) -> Option<Timestamp> {
    state.task(seq).unwrap().next
}

#[test]
fn a_task_goes_by_the_rules_of_the_state_and_of_no_program() {
    let mut state = State::new(T0);
    let refused = create(&mut state, T0, "a", in_zone("0 9 * * *"));
    assert!(matches!(refused, Reply::Refused(Refusal::UnknownZone(_))), "{refused:?}");
    // Tokyo is 9 h ahead to every program.
    let tokyo = ZoneRules { name: "Asia/Tokyo".into(), ..rules("2020a", 0) };
    state.apply(T0, Command::AddZones { rules: vec![tokyo] });
    let timing = Timing::Periodic { format: "0 9 * * *".into(), timezone: "Asia/Tokyo".into() };
    assert_eq!(create(&mut state, T0, "a", timing), Reply::Created { next: Some(NINE) });
    assert_eq!(state.zone_version(), Some("2020a"));
    assert_eq!(next(&state.reopened(T0), 1), Some(NINE));
}

#[test]
fn what_is_due_later_moves_with_the_clock() {
    let mut state = zoned("2020a", 0);
    create(&mut state, T0, "a", in_zone("0 9 * * *"));
    create(&mut state, T0, "utc", Timing::Periodic { format: "0 9 * * *".into(), timezone: "UTC".into() });
    take_over(&mut state, T0, rules("2020b", -1800));
    assert_eq!((next(&state, 1), next(&state, 2)), (Some(NINE.plus_ms(HOUR / 2)), Some(NINE)));
    assert_eq!((state.zone_version(), state.moving(), state.zone_rules().count()), (Some("2020b"), None, 1));
    assert_eq!(state.stored_zones().count(), 1, "nothing goes by the rules before");
    // Older ones change nothing, nor do others of the same version.
    for late in [rules("2020a", 0), rules("2020b", 7200)] {
        take_over(&mut state, T0, late);
        assert_eq!(next(&state, 1), Some(NINE.plus_ms(HOUR / 2)));
    }
    let mut again = state.reopened(T0);
    again.apply(T0, Command::AddZones { rules: vec![rules("2020c", 0)] });
    assert_eq!(next(&again, 1), Some(NINE.plus_ms(HOUR / 2)), "it has rules of this zone");
}

#[test]
fn a_fixed_time_that_the_jump_skips_is_due_at_once() {
    let mut state = zoned("2020a", 0);
    create(&mut state, T0, "a", in_zone("0 9 * * *"));
    create(&mut state, T0, "clock", in_zone("*/10 * * * *"));
    take_over(&mut state, T0, rules("2020b", 5400));
    // It shows 9:30.
    let jump = T0.plus_ms(6000);
    assert_eq!((next(&state, 1), next(&state, 2)), (Some(jump), Some(T0.plus_ms(600_000))));
    state.apply(jump, ended(1, jump, 1, Verdict::Succeeded));
    assert_eq!(next(&state, 1), Some(Timestamp(EIGHT + DAY - HOUR / 2)), "at nine of the next day");
}

#[test]
fn a_fixed_time_that_the_jump_repeats_is_not_due_again() {
    let mut state = zoned("2020a", 0);
    create(&mut state, T0, "a", in_zone("0 9 * * *"));
    state.apply(NINE, ended(1, NINE, 1, Verdict::Succeeded));
    // It shows 8:30 once more.
    take_over(&mut state, NINE.plus_ms(HOUR / 2), rules("2020b", -3600));
    assert_eq!(next(&state, 1), Some(NINE.plus_ms(DAY + HOUR)));
}

#[test]
fn due_times_that_have_come_or_come_shortly_stay() {
    let mut state = zoned("2020a", 0);
    create(&mut state, T0, "a", in_zone("0 0/1 * * * ?"));
    let minute = |n: u64| T0.plus_ms(n * 60_000);
    take_over(&mut state, minute(2).plus_ms(57_000), rules("2020b", 30));
    let mut fired = Vec::new();
    let mut state = state.reopened(T0);
    while fired.len() < 5 {
        let due = next(&state, 1).unwrap();
        state.apply(due, ended(1, due, 1, Verdict::Succeeded));
        state.check();
        fired.push(due);
    }
    // The third comes in three seconds, and may be on its way already.
    let (half, stay) = (30_000, [minute(1), minute(2), minute(3)]);
    assert_eq!(fired, [&stay[..], &[minute(3).plus_ms(half), minute(4).plus_ms(half)]].concat());
    assert_eq!(state.stored_zones().count(), 1, "the rules before are gone with what was due by them");
}

#[test]
fn what_an_answer_has_put_off_stays_put_off() {
    let mut state = zoned("2020a", 0);
    create(&mut state, T0, "a", in_zone("0 9 * * *"));
    let put_off = NINE.plus_ms(3 * DAY + HOUR / 6);
    let steering = Steering { next_at: Some(put_off), ..Steering::default() };
    let (key, verdict) = (RunKey::scheduled(NINE), Verdict::Succeeded);
    state.apply(NINE, Command::RunEnded { seq: 1, key, attempt: attempt(1, 200), term: 1, verdict, steering });
    take_over(&mut state, NINE.plus_ms(HOUR), rules("2020b", -1800));
    assert_eq!(next(&state, 1), Some(put_off));
    state.apply(put_off, ended(1, put_off, 1, Verdict::Succeeded));
    assert_eq!(next(&state, 1), Some(put_off.plus_ms(HOUR / 3)), "by the new clock it is not nine yet");
}

#[test]
fn many_tasks_are_moved_by_many_entries() {
    let mut state = zoned("2020a", 0);
    let many = 2 * MOVED_MAX + 10;
    for n in 0..many {
        create(&mut state, T0, &format!("t{n}"), in_zone("0 9 * * *"));
        create(&mut state, T0, &format!("once{n}"), at(T0.0 + DAY));
    }
    take_over(&mut state, T0, rules("2020b", -1800));
    let moved = |state: &State| {
        let late = |seq: &Seq| next(state, *seq) == Some(NINE.plus_ms(HOUR / 2));
        (1..state.next_seq()).filter(late).count()
    };
    assert_eq!(moved(&state), MOVED_MAX);
    // What is made, or changed, meanwhile goes by the new ones.
    create(&mut state, T0, "new", in_zone("0 9 * * *"));
    assert_eq!(moved(&state), MOVED_MAX + 1);
    let mut again = state.reopened(T0);
    let mut entries = 0;
    while let Some(from) = state.moving() {
        // One that comes late, or twice, does nothing.
        state.apply(T0, Command::MoveTasks { from: from + 1 });
        again.apply(T0, Command::MoveTasks { from: from + 1 });
        assert_eq!(state.moving(), Some(from));
        for state in [&mut state, &mut again] {
            state.apply(T0, Command::MoveTasks { from });
            assert!(state.steps() <= LOOKED_AT_MAX + 3 * MOVED_MAX, "{}", state.steps());
            state.check();
        }
        entries += 1;
    }
    assert_eq!((moved(&state), entries, state.stored_zones().count()), (many + 1, 2, 1));
    assert_eq!(again.hot_pages(), state.hot_pages());
    let sorted = |state: &State| state.stored_zones().collect::<Vec<_>>();
    assert_eq!(sorted(&again), sorted(&state));
}

#[test]
fn newer_data_that_are_the_same_take_nothing_over_but_their_name() {
    let mut state = zoned("2020a", 0);
    create(&mut state, T0, "a", in_zone("0 9 * * *"));
    let before = state.hot_pages();
    let seen = state.next_zone();
    let other = ZoneRules { name: "Test/Other".into(), ..rules("2020a", 60) };
    state.apply(T0, Command::AddZones { rules: vec![other] });
    // Of what the leader had not seen, it cannot say that it is the same.
    state.apply(T0, Command::TakeOverZones { version: "2020b".into(), seen, rules: Vec::new() });
    let versions: Vec<_> = state.zone_rules().map(|(_, rules)| rules.version.to_string()).collect();
    assert_eq!((versions, state.zone_version()), (vec!["2020b".to_owned(), "2020a".to_owned()], Some("2020a")));
    assert_eq!((state.hot_pages(), state.moving()), (before, None));
}

#[test]
fn the_account_of_what_was_due_stays_true_where_rules_of_the_past_change() {
    let mut state = zoned("2020a", 0);
    create(&mut state, T0, "a", in_zone("0 0/10 * * * ?"));
    let ten = |n: u64| T0.plus_ms(n * 600_000);
    for n in 1..=3 {
        state.apply(ten(n), ended(1, ten(n), 1, Verdict::Succeeded));
    }
    let now = ten(3).plus_ms(60_000);
    take_over(&mut state, now, rules("2020b", 240));
    let course = crate::state::audit::Course::of(state.task(1).unwrap());
    let period = crate::state::audit::Period { from: T0, to: ten(5), after: None, limit: 100 };
    let due: Vec<_> = course.audit(&[], period, now).items.iter().map(|item| item.due).collect();
    // The clock shows 4 min more: 8:35 and then 8:40.
    assert_eq!(due, [ten(3).plus_ms(360_000), ten(4).plus_ms(360_000)], "none of the past that never was");
}

#[test]
fn a_schedule_that_ends_under_the_new_rules_finishes_its_task() {
    let mut state = zoned("2020a", 0);
    let options = Options { end: Some(NINE), ..Options::default() };
    let spec = Box::new(TaskSpec { options, ..spec(in_zone("0 9 * * *")) });
    state.apply(T0, Command::Create { id: id("a"), spec });
    take_over(&mut state, T0, rules("2020b", -1800));
    assert_eq!((next(&state, 1), state.task(1).unwrap().state), (None, TaskState::Finished));
}
