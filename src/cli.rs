//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{signal, SignalKind};

use crate::bench::{self, Bench};
use crate::config::Config;
use crate::server::Server;
use crate::telemetry;

/// The configuration is wrong.
const EXIT_CONFIGURATION: u8 = 2;
/// Anything else is.
const EXIT_FAILURE: u8 = 1;

/// A distributed cron: calls back over HTTP at a time or on a crontab schedule.
#[derive(Parser)]
#[command(name = "xcron_server", version, about)]
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
    /// Puts load on nodes and tells what became of it.
    #[command(subcommand)]
    Bench(Bench),
}

/// Reads the arguments and runs; the process's exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_CONFIGURATION } else { 0 };
            // Nowhere is left to say that printing has failed.
            let _ = error.print();
            return code.into();
        }
    };
    if let Some(Command::Bench(what)) = arguments.command {
        return match runtime().and_then(|r| r.block_on(bench::run(what))) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("xcron_server: {error}");
                EXIT_FAILURE.into()
            }
        };
    }
    let config = match Config::load(&arguments.conf) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("xcron_server: {error}");
            return EXIT_CONFIGURATION.into();
        }
    };
    if arguments.check {
        println!("{}: ok", arguments.conf.display());
        return ExitCode::SUCCESS;
    }
    telemetry::init(config.env);
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return EXIT_FAILURE.into();
        }
    };
    let code = runtime.block_on(run(config, &arguments.conf));
    // A task that hangs must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|error| format!("the runtime cannot be started: {error}"))
}

async fn run(config: Config, file: &std::path::Path) -> ExitCode {
    let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be received");
            return EXIT_FAILURE.into();
        }
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), dir = %config.raft_dir.display(), "starting");
    let mut server = match Server::start(config).await {
        Ok(server) => server,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            eprintln!("xcron_server: {}: {error}", file.display());
            return if error.is_configuration() { EXIT_CONFIGURATION } else { EXIT_FAILURE }.into();
        }
    };
    tracing::info!(http = %server.api_address(), monitor = %server.monitor_address(), "serving");
    tokio::select! {
        error = server.failed() => {
            tracing::error!(%error, "this node stops");
            eprintln!("xcron_server: {error}");
            end_at_once()
        }
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = server.stop() => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        _ = interrupt.recv() => end_at_once(),
        _ = terminate.recv() => end_at_once(),
    }
}

/// Ends the process as a crash would. Dropping what is open would have sled try a failed fsync again, and panic where it
/// fails again.
fn end_at_once() -> ! {
    std::process::exit(EXIT_FAILURE.into())
}
