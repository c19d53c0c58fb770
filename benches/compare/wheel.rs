//! The bench of `benches/wheel`, see there, with the timer queues of other crates:
//! `cargo bench --manifest-path benches/compare/Cargo.toml`.

// A bench measures real time.
#![allow(clippy::disallowed_methods)]

// Read in rather than linked to: the wheel stands on nothing else of xcron, whose other parts take minutes to build.
#[path = "../../src/wheel/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod wheel;
extern crate self as xcron;

#[path = "../wheel/check.rs"]
mod check;
mod crates;
#[path = "../wheel/measure.rs"]
mod measure;
#[path = "../wheel/queue.rs"]
mod queue;
#[path = "../wheel/report.rs"]
mod report;
#[path = "../wheel/script.rs"]
mod script;

use report::Contender;

fn main() {
    report::run(&[
        Contender::of::<queue::Ours>(),
        Contender::of::<crates::Nexus>(),
        Contender::of::<crates::Hashed>(),
        Contender::of::<crates::DelayQueue>(),
        Contender::of::<queue::Heap>(),
        Contender::of::<queue::Tree>(),
    ]);
}
