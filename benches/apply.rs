//! What applying commands costs: `cargo bench --bench apply`.

use std::hint::black_box;

use criterion::{criterion_group, criterion_main, BatchSize, Criterion, Throughput};
use xcron::clock::Timestamp;
use xcron::command::{Batch, Command, Steering, Verdict};
use xcron::id::{RunKey, TaskId};
use xcron::run::Attempt;
use xcron::state::State;
use xcron::task::{Callback, TaskSpec, Timing};

const T0: Timestamp = Timestamp(1_800_000_000_000);
const BATCH: usize = 256;

fn create(n: u64, timing: Timing) -> Command {
    let body = format!("{{\"order\":{n},\"reason\":\"{}\"}}", "x".repeat(280));
    let spec = TaskSpec::new(timing, Callback::post("http://127.0.0.1:9000/orders/cancel", body));
    Command::Create { id: TaskId::generate(), spec: Box::new(spec) }
}

fn at(n: u64) -> Timing {
    let due = T0.plus_ms(1000 + n * 7919 % 3_600_000);
    Timing::At { format: due.0.to_string(), due }
}

fn cron(_: u64) -> Timing {
    Timing::Periodic { format: "*/5 * * * *".to_owned(), timezone: "Europe/Berlin".to_owned() }
}

fn batch_of(timing: fn(u64) -> Timing) -> Batch {
    Batch { now: T0, commands: (0..BATCH as u64).map(|n| create(n, timing(n))).collect() }
}

/// A state with this many one-shot tasks.
fn filled(tasks: u64) -> State {
    let mut state = State::new(T0);
    for n in 0..tasks {
        state.apply(T0, create(n, at(n)));
    }
    state.freeze_changes();
    while state.collect_frozen(1024).is_none() {}
    state
}

fn ended(seq: u64, due: Timestamp) -> Command {
    let attempt = Attempt {
        number: 1,
        node: 1,
        started: due,
        lateness_ms: 1,
        duration_ms: Some(3),
        status: Some(200),
        error: None,
        answer: Some("ok".to_owned()),
        late: None,
    };
    let key = RunKey::scheduled(due);
    Command::RunEnded { seq, key, attempt, term: 1, verdict: Verdict::Succeeded, steering: Steering::default() }
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, timing) in [("create a one-shot", at as fn(u64) -> Timing), ("create a periodic", cron)] {
        let mut state = filled(100_000);
        group.bench_function(name, |b| {
            b.iter_batched(|| batch_of(timing), |batch| black_box(state.apply_batch(batch)), BatchSize::LargeInput);
        });
    }
    let mut state = filled(1_000_000);
    let mut next = 1;
    group.bench_function("end a run", |b| {
        let batches = |state: &State, next: &mut u64| {
            let mut commands = Vec::with_capacity(BATCH);
            while commands.len() < BATCH {
                match state.task(*next).and_then(|task| task.next) {
                    Some(due) => commands.push(ended(*next, due)),
                    // All have ended: what remains is applied to tasks that have finished.
                    None => commands.push(ended(*next, T0)),
                }
                *next += 1;
            }
            Batch { now: T0, commands }
        };
        b.iter_custom(|rounds| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..rounds {
                let batch = batches(&state, &mut next);
                let began = xcron::clock::monotonic();
                black_box(state.apply_batch(batch));
                spent += began.elapsed();
            }
            spent
        });
    });
    group.finish();
}

fn codec(c: &mut Criterion) {
    let batch = batch_of(at);
    let bytes = batch.encode().expect("a batch can be encoded");
    let mut group = c.benchmark_group("batch");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("encode", |b| b.iter(|| black_box(&batch).encode()));
    group.bench_function("decode", |b| b.iter(|| Batch::decode(black_box(&bytes))));
    group.finish();
}

criterion_group!(benches, apply, codec);
criterion_main!(benches);
