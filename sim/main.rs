//! Runs the simulation from the command line.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use xcron::seam::bug::Bug;
use xcron::sim::checker::{self, Bounds};
use xcron::sim::day::DayOptions;
use xcron::sim::linear::Answer;
use xcron::sim::Options;

/// Simulates whole nodes, from seeds. Exits with 1 if the checker finds something.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How long the clients work, in simulated seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Without faults.
    #[arg(long)]
    calm: bool,
    /// With no faults but that nodes are stopped in order, the leader as a rule, and started again.
    #[arg(long)]
    stops: bool,
    /// A bug to plant.
    #[arg(long)]
    bug: Option<Bug>,
    /// In place of all that: a day of the load of a crontab, of so many hours.
    #[arg(long)]
    day: Option<u64>,
    /// How many tasks the day has.
    #[arg(long, default_value_t = 1000)]
    tasks: usize,
    /// Stops at the first seed in which something is found.
    #[arg(long)]
    until_found: bool,
    /// Prints every event.
    #[arg(long)]
    trace: bool,
    /// Where the nodes' files are, below; what is there is removed.
    #[arg(long, default_value = "/dev/shm/xcron-sim")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().with_default_directive(LevelFilter::OFF.into()).from_env_lossy())
        .with_writer(std::io::stderr)
        .init();
    if !cfg!(tokio_unstable) {
        println!("built without tokio_unstable, a seed may give another history each time: see `cargo sim`");
    }
    if let Some(hours) = arguments.day {
        return day(&arguments, hours);
    }
    let mut found = false;
    if arguments.seeds == 1 {
        found = one(&arguments, arguments.seed);
    }
    for seed in (arguments.seed..).take(arguments.seeds as usize).filter(|_| arguments.seeds > 1) {
        found |= alone(seed);
        if found && arguments.until_found {
            break;
        }
    }
    if found {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Simulates a seed of several in a process of its own: what one leaves behind in a process (threads of the store that
/// end a little later) can change the order of what the next one does within a ms. Whether something was found.
fn alone(seed: u64) -> bool {
    let others = std::env::args().skip(1);
    let ran = std::env::current_exe()
        .and_then(|sim| Command::new(sim).args(others).args(["--seed", &seed.to_string(), "--seeds", "1"]).status());
    match ran {
        // Whatever it found it has printed, and where it panicked too.
        Ok(status) if status.code().is_some_and(|code| code <= 1) => !status.success(),
        ended => {
            println!("seed {seed}: the simulation broke off: {ended:?}");
            true
        }
    }
}

/// What a simulation gives, with its files in a directory of its own, and how long it takes; none: it fails, as is told.
fn timed<T>(arguments: &Arguments, seed: u64, run: impl FnOnce(&Path) -> Result<T, String>) -> Option<(T, Duration)> {
    let dir = arguments.dir.join(std::process::id().to_string());
    let began = xcron::clock::monotonic();
    let ran = run(&dir);
    let took = began.elapsed();
    // Best effort: they are in memory as a rule, and the next run has others.
    let _ = std::fs::remove_dir_all(&dir);
    ran.map(|result| (result, took)).map_err(|error| println!("seed {seed}: the simulation failed: {error}")).ok()
}

/// A day of the load of a crontab; fails where a due time was lost, or a callback was wrong.
fn day(arguments: &Arguments, hours: u64) -> ExitCode {
    let Arguments { seed, tasks, nodes, .. } = *arguments;
    let options = DayOptions { seed, hours, tasks, nodes };
    let Some((day, took)) = timed(arguments, seed, |dir| xcron::sim::day::run(options, dir)) else {
        return ExitCode::FAILURE;
    };
    for (hour, (median, most, worst)) in day.hourly.iter().enumerate() {
        println!("hour {hour}: lateness p50 {median} p99 {most} max {worst} ms");
    }
    let (median, most, worst) = day.lateness;
    println!(
        "{hours} hours, {tasks} tasks, {nodes} nodes: due {} lost {} wrong {} again {} killed {} lateness p50 {median} p99 {most} max {worst} ms in {:.0} s",
        day.due,
        day.lost,
        day.wrong,
        day.again,
        day.killed,
        took.as_secs_f64()
    );
    match (day.lost, day.wrong) {
        (0, 0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Whether something was found.
fn one(arguments: &Arguments, seed: u64) -> bool {
    let Arguments { seconds, nodes, calm, stops, bug, .. } = *arguments;
    let options = Options { seed, seconds, nodes, faults: !calm, stops, bug, ..Options::default() };
    let Some((history, took)) = timed(arguments, seed, |dir| xcron::sim::run(options, dir)) else { return true };
    if arguments.trace {
        history.trace.iter().for_each(|line| println!("{line}"));
    }
    let violations = checker::check(&history, &Bounds::default());
    println!(
        "seed {seed} hash {:016x} tasks {} sent {} hits {} operations {} shown {} terms {} snapshots {}+{} missed {} zones {} faults {} found {} in {:.2} s",
        history.hash(),
        history.tasks.len(),
        history.sent.len(),
        history.hits.len(),
        history.operations.len(),
        history.operations.iter().filter(|operation| matches!(operation.answer, Answer::Shows(_))).count(),
        history.leaders.len(),
        history.snapshots.0,
        history.snapshots.1,
        history.missed(),
        history.zone_data.len(),
        history.faults,
        violations.len(),
        took.as_secs_f64()
    );
    violations.iter().take(10).for_each(|violation| println!("  {}: {}", violation.rule, violation.detail));
    !violations.is_empty()
}
