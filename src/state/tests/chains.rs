//! Unit tests of the search for cycles, and of what a command may cost at most.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::command::{Batch, Encoded};
use crate::task::Options;

fn after(names: impl IntoIterator<Item = String>) -> Options {
    let mut names = names.into_iter().map(|name| id(&name));
    let on_success = names.by_ref().take(32).collect();
    Options { on_success, on_failure: names.collect(), ..Options::default() }
}

fn making(name: &str, options: Options) -> Command {
    Command::Create { id: id(name), spec: Box::new(TaskSpec { options, ..spec(minutely()) }) }
}

fn make(state: &mut State, name: &str, follow: impl IntoIterator<Item = String>) {
    let reply = state.apply(T0, making(name, after(follow)));
    assert!(matches!(reply, Reply::Created { .. }), "{name}: {reply:?}");
}

/// Numbers that look random.
fn numbers(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    }
}

#[test]
fn chains_that_are_built_from_either_end_cost_a_look_at_their_end() {
    let mut state = State::new(T0);
    // Many tasks with as many links as a definition takes, each to tasks that were there before it.
    for n in 0..3_000usize {
        make(&mut state, &format!("wide{n}"), (n.saturating_sub(64)..n).map(|to| format!("wide{to}")));
        assert!(state.links <= 2, "{n}: {} links", state.links);
    }
    let commands: Vec<_> =
        (0..1_000).map(|n| making(&format!("top{n}"), after((2_936..3_000).map(|to| format!("wide{to}"))))).collect();
    let replies = state.apply_batch(Batch::of(T0, commands));
    assert!(replies.iter().all(|reply| matches!(reply, Reply::Created { .. })), "{replies:?}");
    assert!(state.links == 0 && state.steps < 4_000, "{} links, {} steps", state.links, state.steps);
    // The other way round: each names the one that comes next.
    for n in 0..3_000 {
        make(&mut state, &format!("down{n}"), [format!("down{}", n + 1)]);
        assert!(state.links <= 2, "{n}: {} links", state.links);
    }
}

#[test]
fn a_link_between_two_large_parts_is_searched_up_to_a_bound() {
    let mut state = State::new(T0);
    for n in 0..7_000 {
        make(&mut state, &format!("above{n}"), [format!("above{}", n + 1)]);
    }
    for n in (0..7_000).rev() {
        make(&mut state, &format!("below{n}"), [format!("below{}", n + 1)]);
    }
    let middle = |n: usize| making(&format!("above{n}"), after(["below0".to_owned()]));
    assert_eq!(state.apply(T0, middle(7_000)), Reply::Refused(Refusal::ChainTooLong(LINKS_MAX)));
    assert!(state.links <= LINKS_MAX + 2, "{}", state.links);
    // One of the two is small.
    assert!(matches!(state.apply(T0, making("above7000", after(["below6000".to_owned()]))), Reply::Created { .. }));
    let delete = Command::Delete { id: id("above7000") };
    assert_eq!(state.apply(T0, delete.clone()), Reply::Done);
    // In one entry no more than a few of them are searched, and what has no links is not refused for it.
    let mut commands: Vec<_> = (0..100).map(|_| middle(7_000)).collect();
    commands.push(making("plain", Options::default()));
    let replies = state.apply_batch(Batch::of(T0, commands));
    assert!(state.links <= LINKS_PER_ENTRY_MAX + LINKS_MAX, "{}", state.links);
    assert_eq!(replies[99], Reply::Refused(Refusal::ChainsAtOnce));
    assert!(matches!(replies[100], Reply::Created { .. }), "{:?}", replies[100]);
    // The next entry has its own share.
    assert_eq!(state.apply(T0, middle(7_000)), Reply::Refused(Refusal::ChainTooLong(LINKS_MAX)));
}

/// Whether `to` is reached from `from`.
fn reaches(links: &BTreeMap<String, Vec<String>>, from: &str, to: &str) -> bool {
    let (mut ahead, mut seen) = (vec![from.to_owned()], BTreeSet::new());
    while let Some(next) = ahead.pop() {
        if next == to {
            return true;
        }
        if seen.insert(next.clone()) {
            ahead.extend(links.get(&next).into_iter().flatten().cloned());
        }
    }
    false
}

#[test]
fn a_cycle_is_refused_and_nothing_else_is_in_any_history_of_creates_updates_and_deletes() {
    for seed in 0..40 {
        let (mut state, mut draw) = (State::new(T0), numbers(seed));
        let mut links: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let (mut made, mut refused) = (0, 0);
        for _ in 0..400 {
            let name = format!("t{}", draw(24));
            let follow: Vec<String> = (0..draw(4)).map(|_| format!("t{}", draw(24))).collect();
            if draw(5) == 0 {
                state.apply(T0, Command::Delete { id: id(&name) });
                links.remove(&name);
                continue;
            }
            let new = TaskSpec { options: after(follow.clone()), ..spec(minutely()) };
            let cycle = follow.iter().any(|next| reaches(&links, next, &name));
            let command = match links.get(&name) {
                Some(old) => {
                    let old = TaskSpec { options: after(old.clone()), ..spec(minutely()) };
                    let base = old.digest();
                    Command::Update { id: id(&name), base, old: Box::new(old), spec: Box::new(new) }
                }
                None => Command::Create { id: id(&name), spec: Box::new(new) },
            };
            match state.apply(T0, command) {
                Reply::Created { .. } => {
                    assert!(!cycle, "{name} after {follow:?}, {links:?}");
                    links.insert(name, follow);
                    made += 1;
                }
                Reply::Refused(Refusal::Cycle(_)) => {
                    assert!(cycle, "{name} after {follow:?}, {links:?}");
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
            state.check();
        }
        assert!(made > 50 && refused > 20, "{made} made, {refused} refused");
    }
}

/// What a command of so many bytes may cost, whatever the state is: all of its bytes, the links of one change, and the
/// open runs of a task and of each that it triggers.
fn allowed(bytes: usize) -> usize {
    bytes + LINKS_MAX + 2 + 33 * (OPEN_RUNS_MAX + 200)
}

/// The steps of some commands that touch as much as they can, in a state with so many tasks.
fn steps_among(many: usize) -> Vec<usize> {
    let mut state = State::new(T0);
    make(&mut state, "child", []);
    for n in 0..many {
        make(&mut state, &format!("parent{n}"), ["child".to_owned()]);
        create(&mut state, T0, &format!("once{n}"), at(T0.0 + 10));
    }
    let next = state.task(2).unwrap().next.unwrap();
    let finished: Vec<Seq> = (0..20).map(|n| 3 + 2 * n).collect();
    for seq in &finished {
        state.apply(T0.plus_ms(10), ended(*seq, T0.plus_ms(10), 1, Verdict::Succeeded));
    }
    let commands = [
        ended(2, next, 1, Verdict::Succeeded),
        Command::Misfire {
            seq: 4,
            from: next,
            upto: next.plus_ms(1 << 40),
            reason: "late".into(),
            latest_fires: false,
        },
        Command::Trigger { id: id("child") },
        Command::Collect { seqs: finished, retain_s: 0 },
        Command::DropIndex { chunks: (0..50).collect() },
        Command::Delete { id: id("child") },
        making("child", after(["elsewhere".to_owned()])),
        Command::Delete { id: id("parent1") },
    ];
    let steps = commands.into_iter().map(|command| {
        let (bytes, told) = (Encoded::of(&command).unwrap().len(), format!("{command:?}"));
        state.apply(next, command);
        assert!(state.steps <= allowed(bytes), "{} steps: {told}", state.steps);
        state.steps
    });
    steps.collect()
}

#[test]
fn what_a_command_costs_does_not_grow_with_the_tasks_that_there_are() {
    assert_eq!(steps_among(50), steps_among(5_000));
}
