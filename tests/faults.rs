//! Real faults: nodes as processes, a load of creates, deletes and pauses, a target that takes note of every callback,
//! and something that breaks meanwhile. Afterwards nothing that was acknowledged may be lost, early, or fired after
//! its delete or pause, and what came twice must carry the same run id. Each fault prints a line of a table with the
//! longest time without an acknowledged write and the worst lateness.
//!
//! ```sh
//! cargo test --test faults                         # a short round, a few minutes
//! XCRON_ROUNDS=full cargo test --release --test faults -- --nocapture --test-threads=1
//! XCRON_ROUNDS=200 cargo test --release --test faults kills -- --nocapture --test-threads=1
//! ```
//!
//! `XCRON_TEST_SERVER` names another binary to test. What needs root, loop mounts, network namespaces or a C compiler
//! says `skipped: …` where it is not there. One cluster is broken at a time, whatever the number of test threads.

#[path = "process/api.rs"]
mod api;
#[path = "process/check.rs"]
mod check;
#[path = "process/harness.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs")]
mod harness;
#[path = "process/load.rs"]
mod load;
#[path = "process/sink.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs")]
mod sink;
#[path = "support/skip.rs"]
mod skip;

#[path = "faults/machine.rs"]
mod machine;
#[path = "faults/trial.rs"]
mod trial;

#[path = "faults/alone.rs"]
mod alone;
#[path = "faults/barred.rs"]
mod barred;
#[path = "faults/behind.rs"]
mod behind;
#[path = "faults/beside.rs"]
mod beside;
#[path = "faults/clock.rs"]
mod clock;
#[path = "faults/damage.rs"]
mod damage;
#[path = "faults/disks.rs"]
mod disks;
#[path = "faults/durable.rs"]
mod durable;
#[path = "faults/havoc.rs"]
mod havoc;
#[path = "faults/health.rs"]
mod health;
#[path = "faults/kills.rs"]
mod kills;
#[path = "faults/limits.rs"]
mod limits;
#[path = "faults/missed.rs"]
mod missed;
#[path = "faults/names.rs"]
mod names;
#[path = "faults/nemesis.rs"]
mod nemesis;
#[path = "faults/net.rs"]
mod net;
#[path = "faults/plan.rs"]
mod plan;
#[path = "faults/power.rs"]
mod power;
#[path = "faults/records.rs"]
mod records;
#[path = "faults/room.rs"]
mod room;
#[path = "faults/snapshots.rs"]
mod snapshots;
#[path = "faults/times.rs"]
mod times;
