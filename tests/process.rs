//! Tests of the server as processes: the command line, one node, three nodes. What the machine does to them is in
//! `tests/faults.rs`.
//!
//! Each test starts nodes of its own, on free ports and in a directory of its own.

#[path = "process/api.rs"]
#[allow(dead_code, reason = "shared with tests/faults.rs")]
mod api;
#[path = "process/check.rs"]
mod check;
#[path = "process/harness.rs"]
#[allow(dead_code, reason = "shared with tests/faults.rs")]
mod harness;
#[path = "process/load.rs"]
#[allow(dead_code, reason = "shared with tests/faults.rs")]
mod load;
#[path = "process/sink.rs"]
#[allow(dead_code, reason = "shared with tests/faults.rs")]
mod sink;
#[path = "support/skip.rs"]
mod skip;

#[path = "process/cli.rs"]
mod cli;
#[path = "process/cluster.rs"]
mod cluster;
#[path = "process/descriptors.rs"]
mod descriptors;
#[path = "process/output.rs"]
mod output;
#[path = "process/rollback.rs"]
mod rollback;
#[path = "process/single.rs"]
mod single;
#[path = "process/story.rs"]
mod story;
