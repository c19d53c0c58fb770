//! Unit tests of the audit: each due time, and what became of it.

use super::*;
use crate::state::audit::{Course, Period};
use crate::task::Options;
use crate::view::{DueView, Page, RunView};

/// A minute.
const M: u64 = 60_000;

fn runs(state: &State, seq: Seq) -> Vec<RunView> {
    let task = state.task(seq).unwrap();
    let ended = state.changes().runs.get(&seq).map(|history| history.added.as_slice()).unwrap_or_default();
    let ended = ended.iter().map(|(_, run)| RunView::of_ended(&task.id, run));
    task.runs().map(|open| RunView::of_open(&task.id, open)).chain(ended).collect()
}

fn page(state: &State, period: Period, now: Timestamp) -> Page<DueView> {
    Course::of(state.task(1).unwrap()).audit(&runs(state, 1), period, now)
}

/// Minutes after the first due time, and what became of them.
fn audit(state: &State, first: Timestamp, upto: u64, now: Timestamp) -> Vec<(u64, &'static str)> {
    let period = Period { from: Timestamp(0), to: first.plus_ms(upto * M), after: None, limit: 1000 };
    let items = page(state, period, now).items;
    items.iter().map(|item| (item.due.ms_since(first) / M, item.state.name())).collect()
}

/// A task of every minute, and its first due time.
fn task(options: Options) -> (State, Timestamp) {
    let mut state = State::new(T0);
    let spec = TaskSpec { options, ..spec(minutely()) };
    state.apply(T0, Command::Create { id: id("a"), spec: Box::new(spec) });
    let first = state.task(1).unwrap().next.unwrap();
    (state, first)
}

fn succeed(state: &mut State, due: Timestamp) {
    state.apply(due, ended(1, due, 1, Verdict::Succeeded));
}

#[test]
fn each_due_time_is_there_once_with_what_became_of_it() {
    let (mut state, first) = task(Options::default());
    succeed(&mut state, first);
    state.apply(first.plus_ms(M), started(1, first.plus_ms(M), 1, 1, 1));
    let now = first.plus_ms(2 * M + 1);
    let found = audit(&state, first, 4, now);
    assert_eq!(found, [(0, "succeeded"), (1, "running"), (2, "pending"), (3, "scheduled"), (4, "scheduled")]);
    state.apply(now, Command::Trigger { id: id("a") });
    let period = Period { from: now, to: now.plus_ms(M), after: None, limit: 10 };
    let items = page(&state, period, now).items;
    assert_eq!(items.iter().map(|item| item.triggered).collect::<Vec<_>>(), [true, false], "{items:?}");
}

#[test]
fn a_pause_shows_what_waits_for_it_and_then_what_was_missed() {
    let (mut state, first) = task(Options::default());
    state.apply(T0, Command::Pause { id: id("a") });
    let now = first.plus_ms(3 * M + 1);
    let period = Period { from: Timestamp(0), to: now, after: None, limit: 10 };
    let items = page(&state, period, now).items;
    assert!(items.iter().all(|item| item.reason.as_deref() == Some("paused")) && items.len() == 4, "{items:?}");
    state.apply(now, Command::Resume { id: id("a") });
    let (reason, upto) = ("paused".to_owned(), first.plus_ms(2 * M));
    state.apply(now, Command::Misfire { seq: 1, from: first, upto, reason, latest_fires: true });
    let found = audit(&state, first, 4, now);
    assert_eq!(found, [(0, "missed"), (1, "missed"), (2, "pending"), (3, "pending"), (4, "scheduled")]);
}

#[test]
fn a_gap_longer_than_the_history_is_accounted_for_all_the_same() {
    let (mut state, first) = task(Options::default());
    let upto = first.plus_ms(100_000 * M);
    let reason = "no leader for 100000 m".to_owned();
    state.apply(upto, Command::Misfire { seq: 1, from: first, upto, reason, latest_fires: true });
    assert_eq!(runs(&state, 1).len(), 51, "one for the older ones");
    succeed(&mut state, upto);
    let at = |minute: u64| {
        let due = first.plus_ms(minute * M);
        page(&state, Period { from: due, to: due, after: None, limit: 10 }, upto).items
    };
    for minute in [0, 1, 50_000, 99_949, 99_950, 99_999] {
        let items = at(minute);
        assert!(
            items.len() == 1 && items[0].state.name() == "missed" && items[0].reason.is_some(),
            "{minute}: {items:?}"
        );
    }
    assert_eq!(at(100_000)[0].state.name(), "succeeded");
}

#[test]
fn what_the_history_no_longer_has_is_not_kept_and_not_made_up() {
    let (mut state, first) = task(Options::default());
    for minute in 0..103 {
        succeed(&mut state, first.plus_ms(minute * M));
    }
    let found = audit(&state, first, 103, first.plus_ms(102 * M));
    assert_eq!(found[..4], [(0, "not_kept"), (1, "not_kept"), (2, "not_kept"), (3, "succeeded")]);
    assert_eq!(found[102..], [(102, "succeeded"), (103, "scheduled")]);
}

#[test]
fn triggers_that_the_history_no_longer_has_are_counted() {
    let (mut state, first) = task(Options::default());
    let not_kept = |state: &State| Course::of(state.task(1).unwrap()).triggers_not_kept(&runs(state, 1));
    for _ in 0..130 {
        let Reply::Triggered { key } = state.apply(T0, Command::Trigger { id: id("a") }) else { panic!("refused") };
        assert_eq!(not_kept(&state), state.task(1).unwrap().past.triggers.saturating_sub(101), "one is open");
        let (attempt, steering) = (attempt(1, 200), Steering::default());
        let verdict = Verdict::Succeeded;
        state.apply(T0, Command::RunEnded { seq: 1, key, attempt, term: 1, verdict, steering });
    }
    assert_eq!(not_kept(&state), 30);
    succeed(&mut state, first);
    assert_eq!(not_kept(&state), 31, "another run has taken the place of one");
}

#[test]
fn triggers_that_fill_the_history_hide_no_due_time() {
    let trigger = |state: &mut State| {
        for _ in 0..101 {
            let Reply::Triggered { key } = state.apply(T0, Command::Trigger { id: id("a") }) else { panic!("refused") };
            let (attempt, steering, verdict) = (attempt(1, 200), Steering::default(), Verdict::Succeeded);
            state.apply(T0, Command::RunEnded { seq: 1, key, attempt, term: 1, verdict, steering });
        }
    };
    let due_times = |state: &State, now: Timestamp| {
        let period = Period { from: Timestamp(0), to: now, after: None, limit: 1000 };
        let scheduled = page(state, period, now).items.into_iter().filter(|item| !item.triggered);
        scheduled.map(|item| (item.due, item.state.name())).collect::<Vec<_>>()
    };
    // One that has come to its end.
    let (mut state, first) = task(Options { max_runs: Some(3), ..Options::default() });
    let dues = [0, 1, 2].map(|minute| first.plus_ms(minute * M));
    dues.iter().for_each(|due| succeed(&mut state, *due));
    trigger(&mut state);
    assert_eq!(due_times(&state, first.plus_ms(9 * M)), dues.map(|due| (due, "not_kept")));
    // One that was due once.
    let mut state = State::new(T0);
    create(&mut state, T0, "a", at(T0.plus_ms(5000).0));
    let due = state.task(1).unwrap().next.unwrap();
    succeed(&mut state, due);
    assert_eq!(due_times(&state, due), [(due, "succeeded")]);
    trigger(&mut state);
    assert_eq!(due_times(&state, due), [(due, "not_kept")]);
}

#[test]
fn a_schedule_that_has_come_to_its_end_has_no_further_due_times() {
    let (mut state, first) = task(Options { max_runs: Some(3), ..Options::default() });
    assert_eq!(audit(&state, first, 9, T0).len(), 3, "as many as are left");
    for minute in 0..3 {
        succeed(&mut state, first.plus_ms(minute * M));
    }
    assert_eq!(state.task(1).unwrap().state, TaskState::Finished);
    assert_eq!(audit(&state, first, 9, first.plus_ms(9 * M)), [(0, "succeeded"), (1, "succeeded"), (2, "succeeded")]);
}

#[test]
fn another_schedule_counts_from_its_update_and_what_was_before_it_stays() {
    let (mut state, first) = task(Options::default());
    succeed(&mut state, first);
    let old = spec(minutely());
    let timing = Timing::Periodic { format: "*/5 * * * *".into(), timezone: "UTC".into() };
    let new = TaskSpec { timing, ..old.clone() };
    let update = Command::Update { id: id("a"), base: old.digest(), old: Box::new(old), spec: Box::new(new) };
    state.apply(first.plus_ms(1), update);
    let found = audit(&state, first, 9, first.plus_ms(2));
    let fives: Vec<u64> = (1..=9).filter(|minute| (first.0 / M + minute).is_multiple_of(5)).collect();
    assert_eq!(found[0], (0, "succeeded"));
    assert_eq!(found[1..].iter().map(|(minute, _)| *minute).collect::<Vec<_>>(), fives);
}

#[test]
fn what_an_answer_replaced_is_skipped_and_its_own_time_stands() {
    let (mut state, first) = task(Options::default());
    let at = first.plus_ms(3 * M + 7000);
    let steering = Steering { next_at: Some(at), ..Steering::default() };
    let (key, attempt) = (RunKey::scheduled(first), attempt(1, 200));
    let ended = Command::RunEnded { seq: 1, key, attempt, term: 1, verdict: Verdict::Succeeded, steering };
    state.apply(first, ended);
    let found = audit(&state, first, 4, first);
    assert_eq!(
        found,
        [(0, "succeeded"), (1, "skipped"), (2, "skipped"), (3, "skipped"), (3, "scheduled"), (4, "scheduled")]
    );
}

#[test]
fn pages_go_on_where_the_one_before_ended() {
    let (mut state, first) = task(Options::default());
    for minute in 0..30 {
        succeed(&mut state, first.plus_ms(minute * M));
    }
    state.apply(first.plus_ms(10 * M), Command::Trigger { id: id("a") });
    let now = first.plus_ms(29 * M);
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let period = Period { from: first, to: first.plus_ms(49 * M), after, limit: 7 };
        let part = page(&state, period, now);
        all.extend(part.items.iter().map(|item| item.run));
        assert!(part.items.len() == 7 || part.next_cursor.is_none());
        let Some(cursor) = part.next_cursor else { break };
        let (due, nonce) = cursor[1..].split_once('.').unwrap();
        after = Some(RunKey { due: Timestamp(due.parse().unwrap()), nonce: nonce.parse().unwrap() });
    }
    assert_eq!(all.len(), 51);
    assert!(all.is_sorted());
    all.dedup();
    assert_eq!(all.len(), 51, "each once");
}
