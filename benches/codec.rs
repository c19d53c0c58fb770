//! What turning commands, records and the peers' messages into bytes costs, and back: `cargo bench --bench codec`.

use std::hint::black_box;

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use openraft::raft::AppendEntriesRequest;
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, Vote};
use serde::de::DeserializeOwned;
use serde::Serialize;
use xcron::command::{Batch, Command, Encoded};
use xcron::id::RunKey;
use xcron::raft::wire::ProposeRequest;
use xcron::raft::{Payload, TypeConfig};
use xcron::run::{Run, RunState};
use xcron::state::record::{self, HotPage, RunChunk, SpecPage, HOT_PER_PAGE, RUNS_PER_CHUNK, SPECS_PER_PAGE};
use xcron::state::State;

mod common;
use common::{attempt, batch, create, ended, once, periodic, spec, T0};

const BATCH: u64 = 256;

fn creates() -> Vec<Command> {
    (0..BATCH).map(|n| create(n, once(n, T0))).collect()
}

fn outcomes() -> Vec<Command> {
    (0..BATCH).map(|n| ended(n, T0.plus_ms(n))).collect()
}

/// Both ways, in figures for each of so many.
fn measure<B, V>(c: &mut Criterion, name: &str, many: u64, encode: impl Fn() -> B, decode: impl Fn() -> V) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(many));
    group.bench_function("encode", |b| b.iter(&encode));
    group.bench_function("decode", |b| b.iter(&decode));
    group.finish();
}

/// Commands as an entry of the Raft log carries them; the figures are for all of a batch.
fn commands(c: &mut Criterion) {
    for (name, commands) in [("creates", creates()), ("outcomes", outcomes())] {
        let batch = batch(commands);
        let bytes = batch.encode().expect("a batch can be encoded");
        assert_eq!(Batch::decode(&bytes).expect("a batch reads back"), batch);
        println!("{BATCH} {name}: {} bytes", bytes.len());
        let decode = || Batch::decode(black_box(&bytes));
        measure(c, &format!("commands/{name}"), BATCH, || black_box(&batch).encode(), decode);
    }
}

/// A record as the store has it; the figures are for all tasks, or runs, in it.
fn record<T: Serialize + DeserializeOwned + PartialEq>(c: &mut Criterion, name: &str, entries: u64, value: &T) {
    let bytes = record::encode(value).expect("a record can be encoded");
    assert!(record::decode::<T>(&bytes).expect("a record reads back") == *value, "{name} reads back as another");
    println!("{name}, {entries} to a record: {} bytes", bytes.len());
    let decode = || record::decode::<T>(black_box(&bytes));
    measure(c, &format!("records/{name}"), entries, || record::encode(black_box(value)), decode);
}

fn records(c: &mut Criterion) {
    let hot: HotPage = {
        let mut state = State::new(T0);
        state.apply(T0, common::zone());
        // Number 0 is never given: the first page that is full is the second.
        for n in 0..2 * HOT_PER_PAGE {
            state.apply(T0, create(n, if n % 2 == 0 { once(n, T0) } else { periodic() }));
        }
        state.freeze_changes();
        let pages = std::iter::from_fn(|| Some(state.collect_frozen(1024))).flatten().next().unwrap_or_default();
        pages
            .into_iter()
            .filter_map(|(_, page)| page)
            .find(|page| page.len() as u64 == HOT_PER_PAGE)
            .expect("a full page")
    };
    record(c, "hot_states", HOT_PER_PAGE, &hot);
    let encoded = |n| record::encode_spec(&spec(n, once(n, T0))).expect("a definition can be encoded");
    let specs: SpecPage = (0..SPECS_PER_PAGE).map(|n| (n, encoded(n))).collect();
    record(c, "definitions", SPECS_PER_PAGE, &specs);
    let run = |n| Run {
        key: RunKey::scheduled(T0.plus_ms(n)),
        state: RunState::Succeeded,
        reason: None,
        ended: T0.plus_ms(n + 5),
        attempts: vec![attempt(T0.plus_ms(n))],
        left_out: 0,
        parent: None,
        upto: None,
    };
    let runs: RunChunk = (0..RUNS_PER_CHUNK).map(|n| (7, n, run(n))).collect();
    record(c, "runs", RUNS_PER_CHUNK, &runs);
}

/// A message as its body: what a follower forwards, and what a leader replicates.
fn message<T: Serialize + DeserializeOwned>(c: &mut Criterion, name: &str, commands: u64, message: &T) {
    let bytes = postcard::to_stdvec(message).expect("a message can be encoded");
    let read: T = postcard::from_bytes(&bytes).expect("a message reads back");
    assert_eq!(postcard::to_stdvec(&read).ok().as_ref(), Some(&bytes), "{name} reads back as another");
    println!("{name}, {commands} commands: {} bytes", bytes.len());
    let decode = || postcard::from_bytes::<T>(black_box(&bytes));
    measure(c, &format!("messages/{name}"), commands, || postcard::to_stdvec(black_box(message)), decode);
}

fn messages(c: &mut Criterion) {
    let encoded = |command| (None, Encoded::of(command).expect("a command can be encoded").into_bytes());
    let commands = creates().iter().map(encoded).collect();
    message(c, "propose", BATCH, &ProposeRequest { commands, term: 7, timeout_ms: 1_000 });
    let id = |index| LogId::new(CommittedLeaderId::new(3, 1), index);
    let entry = |n| {
        let bytes = batch(creates()).encode().expect("a batch can be encoded");
        Entry { log_id: id(n), payload: EntryPayload::Normal(Payload(bytes.into())) }
    };
    let append: AppendEntriesRequest<TypeConfig> = AppendEntriesRequest {
        vote: Vote::new_committed(3, 1),
        prev_log_id: Some(id(99)),
        entries: (100..104).map(entry).collect(),
        leader_commit: Some(id(98)),
    };
    message(c, "append_entries", 4 * BATCH, &append);
}

criterion_group!(benches, commands, records, messages);
criterion_main!(benches);
