//! The wheel beside a binary heap and a `BTreeMap`: `cargo bench --bench wheel`.
//!
//! `benches/compare` is the same bench with the timer queues of other crates, in a package of its own: they ask for a
//! newer compiler than a build of the server does, and one of them for a clock that can be turned, which tokio has only
//! for tests. `cargo bench --manifest-path benches/compare/Cargo.toml` builds and runs it.
//!
//! Each queue first replays one script, step by step compared with a `BTreeMap`: one that loses, duplicates, delays or
//! hastens a timer, or breaks the order that it promises, ends the bench. Then it plays the script up to ten times:
//!
//! - `insert_cold`: n timers into an empty queue
//! - `cancel`: half of n, in random order
//! - `insert_steady`: n/2 timers into the queue from which that half was cancelled
//! - `expire`: all n after that, in steps of about 100 timers
//! - `expire_by_wakes`: the same, but each time at the next time for which the queue asks
//! - `churn`: n timeouts of which nine in ten are cancelled soon; an insert and its end
//!
//! A table at the end has the medians, the longest single calls and the bytes per timer.
//!
//! By default 100 k and 1 M timers are due within an hour, and within one second. The environment asks for others:
//! `WHEEL_BENCH_SIZES=10000000` (a list), `WHEEL_BENCH_DEADLINES=1h,30d,1s,cron` (or `all`).

// A bench measures real time.
#![allow(clippy::disallowed_methods, missing_docs)]

mod check;
mod measure;
mod queue;
mod report;
mod script;

use report::Contender;

fn main() {
    report::run(&[Contender::of::<queue::Ours>(), Contender::of::<queue::Heap>(), Contender::of::<queue::Tree>()]);
}
