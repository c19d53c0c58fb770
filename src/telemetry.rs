//! Logs: JSON at level info, or readable ones at level debug. `RUST_LOG` overrides the level.
//!
//! They go to standard error, and so does what is said to people. Nothing waits for either, and nothing fails where they
//! cannot be written (`output`).

mod output;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::EnvFilter;

use self::output::Output;
use crate::config::Env;

/// How long the end of a process waits until its last lines are written.
const FLUSH_MAX: Duration = Duration::from_millis(500);

fn output() -> &'static Output {
    static OUTPUT: OnceLock<Output> = OnceLock::new();
    OUTPUT.get_or_init(|| Output::to(std::io::stderr()))
}

/// Begins logging to standard error. A second call changes nothing.
pub fn init(env: Env) {
    // Raft and the store are talkative about what is normal.
    let level = match env {
        Env::Debug => "debug,openraft=warn,sled=warn,hyper=info,h2=info,hyper_util=info,reqwest=info",
        Env::Prod => "info,openraft=off,sled=warn",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(output().clone());
    let logs = logs.log_internal_errors(false).with_ansi(std::io::stderr().is_terminal());
    // An error means that a logger is set already, as in tests.
    let _ = match env {
        Env::Debug => logs.try_init(),
        Env::Prod => logs.json().flatten_event(true).try_init(),
    };
    std::panic::set_hook(Box::new(|panic| {
        thread_local! {
            static TELLING: Cell<bool> = const { Cell::new(false) };
        }
        // A panic in the telling of a panic has nothing left that could tell of it.
        if TELLING.replace(true) {
            return;
        }
        match Backtrace::capture() {
            trace if trace.status() == BacktraceStatus::Captured => tracing::error!(%panic, %trace, "panic"),
            _ => tracing::error!(%panic, "panic"),
        }
        TELLING.set(false);
        // A runtime that unwinds waits for its threads, which wait for it.
        if std::thread::current().name() == Some("main") {
            crate::cli::end_at_once();
        }
    }));
}

/// Says something to whoever started this process.
pub fn say(text: impl Display) {
    output().put(format!("{text}\n").as_bytes());
}

/// Prints a line of what was asked for.
pub fn print(text: impl Display) {
    // Whoever asked has stopped reading.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Counts there the lines of the log that are dropped.
pub fn count_dropped(counter: &Counter) {
    output().count_in(counter.clone());
}

/// Waits a moment until what was logged and said is written.
pub fn flush() {
    output().flush(FLUSH_MAX);
}
