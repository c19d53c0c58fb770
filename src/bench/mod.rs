//! `xcron_server bench`: load, and what became of it, beside what the machine can do at best in the same run.
//!
//! ```text
//!  bench ──► nodes (processes, or given ones) ──► sink (a process)
//!    │ creates, kills                                │ lateness, runs, gaps
//!    └──────────────── figures, limits ◄─────────────┘
//! ```

mod client;
mod cluster;
mod failover;
mod figures;
mod limits;
mod scenarios;
mod sink;
mod trouble;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{signal, SignalKind};

use client::{Client, Tasks};
use cluster::Cluster;
use figures::Report;

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// Creates one-shot tasks that are due far ahead: creates per second and their latency.
    Create(Create),
    /// Creates one-shot tasks that are due within a short time: fires per second and their lateness.
    Fire(Fire),
    /// Fires at a steady rate while tasks are created: lateness, and latency of the creates.
    Mixed(Mixed),
    /// Kills the leader while tasks fire, or has it stop: how long nothing is fired and nothing created.
    Failover(Failover),
    /// Receives callbacks and measures them; started by the others.
    #[command(hide = true)]
    Sink,
}

/// What every load has.
#[derive(Args, Clone)]
pub struct Load {
    /// A running node to put the load on, as host:port; can be given several times. Without it nodes are started.
    #[arg(long)]
    node: Vec<String>,
    /// How many nodes are started; `failover` starts three at least.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Where they store; what they have stored is removed afterwards.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// How many tasks.
    #[arg(long, default_value_t = 100_000)]
    tasks: u64,
    /// Calls at once.
    #[arg(long, default_value_t = 64)]
    connections: u64,
    /// Tasks in one call; 1: createTask, else createTasks.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    batch: u64,
    /// Size of a task's body, in bytes.
    #[arg(long, default_value_t = 300)]
    body_bytes: usize,
    /// Prints one JSON object in place of the table.
    #[arg(long)]
    json: bool,
}

/// Tasks that are kept.
#[derive(Args)]
pub struct Create {
    #[command(flatten)]
    load: Load,
    /// Then kills the nodes, starts them again, and tells how long that takes.
    #[arg(long, conflicts_with = "node")]
    restart: bool,
}

/// Tasks that are due together.
#[derive(Args)]
pub struct Fire {
    #[command(flatten)]
    load: Load,
    /// From the start until the first task is due.
    #[arg(long, default_value_t = 10_000)]
    due_in_ms: u64,
    /// From the first due time to the last.
    #[arg(long, default_value_t = 1000)]
    spread_ms: u64,
}

/// A steady load.
#[derive(Args)]
pub struct Mixed {
    #[command(flatten)]
    load: Load,
    /// Fires per second.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// For how long.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The fires are those of tasks of every second, in place of one-shots.
    #[arg(long)]
    periodic: bool,
    /// Creates per second beside the fires.
    #[arg(long, default_value_t = 100)]
    creates: u64,
    /// Hosts beside that take callbacks and never answer; the first one takes all the places that a host may have.
    #[arg(long, default_value_t = 0)]
    hanging: usize,
    /// Names beside that do not resolve; whether the name server is silent about them or denies them is the machine's.
    #[arg(long, default_value_t = 0)]
    silent_dns: usize,
}

/// A leader that dies.
#[derive(Args)]
pub struct Failover {
    #[command(flatten)]
    load: Load,
    /// Fires per second.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// For how long, in each round; the leader is killed after half of it.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How many leaders are killed, one after the other; each is started again, and awaited.
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// The leader is told to stop (SIGTERM) in place of being killed.
    #[arg(long)]
    stop: bool,
}

/// Runs a bench; what went wrong, in words.
///
/// # Errors
/// A node that does not start, or that refuses what it is asked.
pub async fn run(bench: Bench) -> Result<(), String> {
    if let Bench::Sink = bench {
        return sink::serve().await;
    }
    if let Bench::Failover(failover) = &bench {
        if !failover.load.node.is_empty() {
            return Err("failover kills nodes, and starts its own for it: --node cannot be given".to_owned());
        }
    }
    // By a signal too everything that was started is ended, and what it has stored is removed: when it is dropped.
    let stopped = stopped()?;
    tokio::select! {
        done = Box::pin(measure(bench)) => done,
        () = stopped => Err("ended by a signal".to_owned()),
    }
}

/// Waits for a signal that ends the process.
fn stopped() -> Result<impl std::future::Future<Output = ()>, String> {
    let receive = |kind| signal(kind).map_err(|e| e.to_string());
    let (mut interrupt, mut terminate) = (receive(SignalKind::interrupt())?, receive(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

async fn measure(bench: Bench) -> Result<(), String> {
    match bench {
        Bench::Sink => Ok(()),
        Bench::Create(create) => scenarios::create(&create).await.map(|report| report.print(create.load.json)),
        Bench::Fire(fire) => scenarios::fire(&fire).await.map(|report| report.print(fire.load.json)),
        Bench::Mixed(mixed) => scenarios::mixed(&mixed).await.map(|report| report.print(mixed.load.json)),
        Bench::Failover(failover) => failover::failover(&failover).await.map(|r| r.print(failover.load.json)),
    }
}

impl Load {
    async fn cluster(&self, client: &Client) -> Result<Cluster, String> {
        match self.node.is_empty() {
            true => Cluster::start(client, &self.dir, self.nodes.max(1)).await,
            false => Ok(Cluster::given(&self.node)),
        }
    }

    /// One-shot tasks for these nodes and this target; the first is due at `due`.
    fn tasks(&self, cluster: Option<&Cluster>, target: String, due: u64) -> Tasks {
        Tasks {
            nodes: cluster.map(Cluster::addresses).unwrap_or_default(),
            count: self.tasks,
            connections: self.connections.max(1),
            batch: self.batch,
            body_bytes: self.body_bytes,
            target,
            due: (due, 0),
            periodic: false,
        }
    }
}

/// A bar on the terminal, if there is one.
fn progress() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg:24} {wide_bar} {human_pos}/{human_len} {eta}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// What the nodes have used, in a report.
async fn tell_usage(report: &mut Report, cluster: &Cluster, client: &Client, before: cluster::Usage, per: u64) {
    let Some(after) = cluster.usage(client).await else { return };
    let each = |value: f64| value / per.max(1) as f64;
    report.number("CPU of the nodes per task", each((after.cpu_s - before.cpu_s) * 1e6), "us");
    report.number("fsyncs per 1000 tasks", each((after.syncs - before.syncs) * 1000.0), "");
    report.number("RSS of the nodes", after.rss_bytes as f64 / 1e6, "MB");
    report.number("disk of the nodes", after.disk_bytes as f64 / 1e6, "MB");
}
