//! xcron: a distributed cron. A service asks over HTTP to be called back at a time or on a crontab schedule, and the
//! callback comes, on time, even when machines die.
//!
//! # Layout
//!
//! A module imports from its own line or from those below it.
//!
//! ```text
//! sim (whole nodes, simulated)
//! cli · bench · server (wiring, ordered start and stop) · telemetry · fuzz (only in tests and for the targets of fuzz/)
//! http (the API; one map from errors to codes)
//! collector · scheduler (wheel → due, under the leader's lease) · dispatcher (attempts, retries, limits)
//! node (propose, read, forward, join)
//! raft (types, the peers' protocol) · storage (log, state machine: checkpoint, snapshot)
//! state (apply: pure) · wheel (pure)
//! command · view · config
//! task · run · schedule (crontab, quartz, zones)
//! id · metrics
//! told (lines of the log) · budget (bytes held) · clock · guard (of targets) · names (lookups) · choices (as fuzz) · seam (for simulation) · signature
//! ```

pub mod bench;
pub mod budget;
#[cfg(any(test, feature = "fuzzing"))]
pub mod choices;
pub mod cli;
pub mod clock;
pub mod collector;
pub mod command;
pub mod config;
pub mod dispatcher;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod guard;
pub mod http;
pub mod id;
pub mod metrics;
pub mod names;
pub mod node;
pub mod raft;
pub mod run;
pub mod schedule;
pub mod scheduler;
pub mod seam;
pub mod server;
pub mod signature;
#[cfg(feature = "sim")]
pub mod sim;
pub mod state;
pub mod storage;
pub mod task;
pub mod telemetry;
pub mod told;
pub mod view;
pub mod wheel;
