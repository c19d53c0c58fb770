//! Tests of the server as processes: the command line, kills, pauses, power cuts and sick disks.
//!
//! Each test starts nodes of its own, on free ports and in a directory of its own. Those that need more of the machine
//! than a process has (root, loop mounts, a C compiler) say `skipped: …` where it is not there.

#[path = "process/api.rs"]
mod api;
#[path = "process/harness.rs"]
mod harness;
#[path = "process/load.rs"]
mod load;
#[path = "process/sink.rs"]
mod sink;

#[path = "process/cli.rs"]
mod cli;
#[path = "process/cluster.rs"]
mod cluster;
#[path = "process/faults.rs"]
mod faults;
#[path = "process/single.rs"]
mod single;
#[path = "process/soak.rs"]
mod soak;
