//! What applying commands costs, in a state of a million tasks: `cargo bench --bench apply`.
//!
//! A batch is made before and undone after the time that is measured, so that the state stays as large as it is. What
//! every command changes is handed over as to a checkpoint, outside of that time too.

use std::hint::black_box;
use std::time::Duration;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use xcron::clock::monotonic;
use xcron::command::{Command, Refusal, Reply, Seq};
use xcron::id::TaskId;
use xcron::schedule::{made_up, ZoneRules};
use xcron::state::{State, MOVED_MAX};
use xcron::task::Timing;

mod common;
use common::{batch, create, ended, once, periodic, T0};

const TASKS: u64 = 1_000_000;
const BATCH: u64 = 256;

fn one_shot(n: u64) -> Timing {
    once(n, T0)
}

/// At a minute of the day, of 1,440 schedules.
fn daily(n: u64) -> Timing {
    let format = format!("{} {} * * *", n % 60, n / 60 % 24);
    Timing::Periodic { format, timezone: "Europe/Berlin".to_owned() }
}

fn every_five_minutes(_: u64) -> Timing {
    periodic()
}

/// A state with [`TASKS`] tasks that a checkpoint has taken over.
fn filled(timing: fn(u64) -> Timing) -> State {
    let mut state = State::new(T0);
    state.apply(T0, common::zone());
    for n in 0..TASKS {
        state.apply(T0, create(n, timing(n)));
        if n % 65_536 == 0 {
            checkpoint(&mut state);
        }
    }
    checkpoint(&mut state);
    assert_eq!(state.len() as u64, TASKS);
    state
}

fn checkpoint(state: &mut State) {
    state.freeze_changes();
    while state.collect_frozen(1024).is_none() {}
}

/// Applies commands; how long it took. None may be refused.
fn applied(state: &mut State, commands: Vec<Command>) -> Duration {
    let batch = batch(commands);
    let began = monotonic();
    let replies = black_box(state.apply_batch(black_box(batch)));
    let spent = began.elapsed();
    let refused = replies.iter().find(|reply| matches!(reply, Reply::Refused(_)));
    assert_eq!(refused, None::<&Reply>);
    spent
}

/// New tasks, with the numbers that they will get, and the commands that delete them.
fn newcomers(state: &State, timing: fn(u64) -> Timing) -> (Vec<Command>, Vec<Seq>, Vec<Command>) {
    let seqs: Vec<Seq> = (state.next_seq()..state.next_seq() + BATCH).collect();
    let creates: Vec<Command> = seqs.iter().map(|&seq| create(seq, timing(seq))).collect();
    let delete = |create: &Command| match create {
        Command::Create { id, .. } => Command::Delete { id: id.clone() },
        other => unreachable!("{other:?} creates nothing"),
    };
    let deletes = creates.iter().map(delete).collect();
    (creates, seqs, deletes)
}

/// Which of the three commands of a task's life is measured.
#[derive(Clone, Copy)]
enum Timed {
    Create,
    End,
    Delete,
}

/// Lets a batch of tasks live: created, ended once, deleted.
fn lives(state: &mut State, timing: fn(u64) -> Timing, timed: Timed) -> Duration {
    let (creates, seqs, deletes) = newcomers(state, timing);
    let create = applied(state, creates);
    let due = |&seq: &Seq| ended(seq, state.task(seq).and_then(|task| task.next).expect("a task with a due time"));
    let ends = seqs.iter().map(due).collect();
    let end = applied(state, ends);
    let recorded = seqs.iter().filter(|&&seq| state.task(seq).is_some_and(|task| task.past.run_count == 1));
    assert_eq!(recorded.count() as u64, BATCH, "a run of each is recorded");
    let delete = applied(state, deletes);
    assert_eq!(state.len() as u64, TASKS, "what was created is deleted");
    checkpoint(state);
    match timed {
        Timed::Create => create,
        Timed::End => end,
        Timed::Delete => delete,
    }
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(BATCH)).sample_size(30);
    for (kind, timing) in [("one_shot", one_shot as fn(u64) -> Timing), ("periodic", every_five_minutes)] {
        let mut state = filled(timing);
        for (name, timed) in [("create", Timed::Create), ("end_a_run", Timed::End), ("delete", Timed::Delete)] {
            group.bench_function(BenchmarkId::new(name, kind), |bencher| {
                bencher.iter_custom(|rounds| (0..rounds).map(|_| lives(&mut state, timing, timed)).sum());
            });
        }
        // What is not there costs a look.
        group.bench_function(BenchmarkId::new("delete_nothing", kind), |bencher| {
            let nothing = || Command::Delete { id: TaskId::generate() };
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let batch = batch((0..BATCH).map(|_| nothing()).collect());
                    let began = monotonic();
                    let replies = black_box(state.apply_batch(black_box(batch)));
                    spent += began.elapsed();
                    assert!(replies.iter().all(|reply| *reply == Reply::Refused(Refusal::NoSuchTask)));
                }
                spent
            });
        });
    }
    group.finish();
}

/// What an entry costs that has tasks go by newer rules of their zone: the clocks jump by half an hour each time, so that
/// each task gets another next time.
fn move_tasks(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(MOVED_MAX as u64)).sample_size(10);
    let mut state = filled(daily);
    let mut version = 0;
    group.bench_function(BenchmarkId::new("move_tasks", "periodic"), |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let command = match state.moving() {
                    Some(from) => Command::MoveTasks { from },
                    None => {
                        version += 1;
                        let tzif = made_up(if version % 2 == 0 { 0 } else { 1800 }, &[]).into();
                        let (name, version) = ("Europe/Berlin".to_owned(), format!("3{version:05}"));
                        let rules = vec![ZoneRules { name, version: version.as_str().into(), tzif }];
                        Command::TakeOverZones { version, seen: u64::MAX, rules }
                    }
                };
                spent += applied(&mut state, vec![command]);
                checkpoint(&mut state);
            }
            spent
        });
    });
    group.finish();
}

/// Tasks that have missed something, as many as one entry has commands.
const MISSED: u64 = 1024;

/// Each in a cluster of its own: half an hour of seconds, once a month.
fn clustered(n: u64) -> Timing {
    let format = format!("* 0-29 {} {} * ?", n % 24, 1 + n / 24 % 28);
    Timing::Periodic { format, timezone: "Europe/Berlin".to_owned() }
}

fn secondly(_: u64) -> Timing {
    Timing::Periodic { format: "* * * * * ?".to_owned(), timezone: "UTC".to_owned() }
}

/// Four hours, and three years.
const GAPS_MS: [(&str, u64); 2] = [("hours", 4 * 3_600_000), ("years", 3 * 365 * 86_400_000)];

/// What one entry costs that has something recorded of tasks that missed a long time, and then all the entries that it
/// takes until something is recorded of each.
fn misfires(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    group.sample_size(10);
    for (kind, timing) in [("clustered", clustered as fn(u64) -> Timing), ("secondly", secondly)] {
        for (gap, gap_ms) in GAPS_MS {
            for (name, all) in [("misfires_of_one_entry", false), ("misfires_of_all", true)] {
                group.bench_function(BenchmarkId::new(name, format!("{kind}_{gap}")), |bencher| {
                    bencher.iter_custom(|rounds| (0..rounds).map(|_| missed(timing, gap_ms, all)).sum());
                });
            }
        }
    }
    group.finish();
}

fn missed(timing: fn(u64) -> Timing, gap_ms: u64, all: bool) -> Duration {
    let mut state = State::new(T0);
    state.apply(T0, common::zone());
    for n in 0..MISSED {
        state.apply(T0, create(n, timing(n)));
    }
    let mut spent = Duration::ZERO;
    loop {
        let misfires = (1..=MISSED).filter_map(|seq| {
            let from = state.task(seq).and_then(|task| task.next).filter(|next| *next <= T0.plus_ms(gap_ms))?;
            let (upto, reason) = (T0.plus_ms(gap_ms), "nothing could fire".to_owned());
            Some(Command::Misfire { seq, from, upto, reason, latest_fires: false })
        });
        let batch = batch(misfires.collect());
        let began = monotonic();
        let replies = black_box(state.apply_batch(black_box(batch)));
        spent += began.elapsed();
        checkpoint(&mut state);
        if !all || replies.iter().all(|reply| *reply == Reply::Done) {
            return spent;
        }
    }
}

criterion_group!(benches, misfires, move_tasks, apply);
criterion_main!(benches);
