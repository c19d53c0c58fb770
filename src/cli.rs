//! The command line.

mod signals;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};

use crate::bench::{self, Bench};
use crate::config::Config;
use crate::schedule::ZoneData;
use crate::seam;
use crate::server::{self, Server};
use crate::storage::fsutil;
use crate::telemetry;
use signals::{Asked, Signals};

/// All is well.
const EXIT_SUCCESS: u8 = 0;
/// The configuration is wrong.
const EXIT_CONFIGURATION: u8 = 2;
/// Anything else is.
const EXIT_FAILURE: u8 = 1;

/// This program's version, and that of the rules of time zones that it brings.
static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} (zone data {})", env!("CARGO_PKG_VERSION"), ZoneData::default().version()));

/// A distributed cron: calls back over HTTP at a time or on a crontab schedule.
#[derive(Parser)]
#[command(name = "xcron_server", version = VERSION.as_str(), about)]
struct Arguments {
    /// The configuration file.
    #[arg(short = 'c', long = "conf", value_name = "FILE", default_value = "./xcron.toml")]
    conf: PathBuf,
    /// Checks the configuration file and exits.
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Puts load on nodes and measures the result.
    #[command(subcommand)]
    Bench(Bench),
}

/// Threads that a node needs at once, beside one for each core: for the log and the log's files, for reads and writes of
/// the store, and for the look-up of names.
const THREADS_MIN: usize = 8;

/// Reads the arguments and runs; the process's exit code.
pub fn main() -> ExitCode {
    let code = act();
    telemetry::flush();
    code.into()
}

fn act() -> u8 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            telemetry::say(error.render().to_string().trim_end());
            return EXIT_CONFIGURATION;
        }
        Err(help) => {
            // Whoever asked has stopped reading.
            let _ = help.print();
            return EXIT_SUCCESS;
        }
    };
    if let Some(Command::Bench(what)) = arguments.command {
        return match runtime().and_then(|r| r.block_on(bench::run(what))) {
            Ok(()) => EXIT_SUCCESS,
            Err(error) => {
                telemetry::say(format_args!("xcron_server: {error}"));
                EXIT_FAILURE
            }
        };
    }
    let config = match Config::load(&arguments.conf) {
        Ok(config) => config,
        Err(error) => {
            telemetry::say(format_args!("xcron_server: {error}"));
            return EXIT_CONFIGURATION;
        }
    };
    if arguments.check {
        for warning in server::warnings(&config) {
            telemetry::say(format_args!("xcron_server: {}: warning: {warning}", arguments.conf.display()));
        }
        telemetry::print(format_args!("{}: ok", arguments.conf.display()));
        return EXIT_SUCCESS;
    }
    // Before there are other threads: what a node writes has secrets in it.
    fsutil::keep_to_owner();
    telemetry::init(config.env);
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error, "cannot start");
            telemetry::say(format_args!("xcron_server: {error}"));
            return EXIT_FAILURE;
        }
    };
    let code = runtime.block_on(run(config, &arguments.conf));
    // A task that hangs must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    has_threads()?;
    let built =
        tokio::runtime::Builder::new_multi_thread().max_blocking_threads(seam::BLOCKING_MAX).enable_all().build();
    built.map_err(|error| format!("the runtime cannot be started: {error}"))
}

/// Begins as many threads as a node needs, and ends them. The runtime panics where it cannot have one, and then waits for
/// ever for those that it has.
fn has_threads() -> Result<(), String> {
    let wanted = THREADS_MIN + std::thread::available_parallelism().map_or(1, usize::from);
    let gate = std::sync::RwLock::new(());
    std::thread::scope(|scope| {
        // Until all are there none may end, since it is all of them at once that count.
        let held = gate.write();
        for had in 0..wanted {
            let wait = || drop(gate.read());
            if let Err(error) = std::thread::Builder::new().spawn_scoped(scope, wait) {
                return Err(format!(
                    "{wanted} threads are needed, and the system gives {had}: {error} (ulimit -u, or TasksMax of systemd)"
                ));
            }
        }
        drop(held);
        Ok(())
    })
}

async fn run(config: Config, file: &Path) -> u8 {
    let mut signals = match Signals::receive() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals cannot be received");
            return EXIT_FAILURE;
        }
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), dir = %config.raft_dir.display(), "starting");
    let running = config.clone();
    // A start can take long: a large log, or a snapshot that another node is to give. Nothing has been acknowledged by then.
    let started = tokio::select! {
        started = Box::pin(Server::start(config)) => started,
        () = signals.stop() => {
            tracing::info!("stopped before the start had ended");
            telemetry::flush();
            std::process::exit(EXIT_SUCCESS.into())
        }
    };
    let mut server = match started {
        Ok(server) => server,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            telemetry::say(format_args!("xcron_server: {}: {error}", file.display()));
            return if error.is_configuration() { EXIT_CONFIGURATION } else { EXIT_FAILURE };
        }
    };
    telemetry::count_dropped(&server.node().metrics().log_lines_dropped);
    tracing::info!(http = %server.api_address(), monitor = %server.monitor_address(), "serving");
    let mut reloads = tokio::spawn(std::future::ready(()));
    loop {
        tokio::select! {
            error = server.failed() => {
                tracing::error!(%error, "this node stops");
                telemetry::say(format_args!("xcron_server: {error}"));
                end_at_once()
            }
            asked = signals.next() => match asked {
                Asked::Stop => break,
                // Reading it may block, as from a hung network drive: nothing else waits for it, and no second one begins.
                Asked::Reload if reloads.is_finished() => {
                    let (file, running) = (file.to_owned(), running.clone());
                    reloads = tokio::spawn(async move { signals::reload(&file, &running).await });
                }
                Asked::Reload => tracing::warn!("SIGHUP: the configuration is still being read for the one before"),
            },
        }
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = server.stop() => {
            tracing::info!("stopped");
            EXIT_SUCCESS
        }
        () = signals.stop() => {
            tracing::warn!("a second signal: exiting at once");
            end_at_once()
        }
    }
}

/// Ends the process as a crash would. Dropping what is open would have sled try a failed fsync again, and panic where it
/// fails again.
pub(crate) fn end_at_once() -> ! {
    telemetry::flush();
    std::process::exit(EXIT_FAILURE.into())
}
