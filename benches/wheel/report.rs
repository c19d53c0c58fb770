//! A run over all queues: check, measure, show criterion, print tables.

use crate::check::{check, Truth};
use crate::measure::{bytes_per_timer, measure, Figures, Operation, SAMPLES};
use crate::queue::Queue;
use crate::script::{Churn, Deadlines, Script};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use std::time::Duration;

/// Names a queue, a distribution and a size in the child process of [`bytes_in_fresh_process`].
const BYTES_OF: &str = "WHEEL_BENCH_BYTES_OF";

/// A queue that takes part.
pub struct Contender {
    name: &'static str,
    check: fn(&Script, &Churn, &Truth),
    measure: fn(&Script, &Churn) -> Figures,
    bytes: fn(&Script) -> f64,
}

impl Contender {
    pub fn of<Q: Queue>() -> Self {
        Contender { name: Q::NAME, check: check::<Q>, measure: measure::<Q>, bytes: bytes_per_timer::<Q> }
    }
}

/// The whole bench.
pub fn run(contenders: &[Contender]) {
    if let Ok(what) = std::env::var(BYTES_OF) {
        return print_bytes(contenders, &what);
    }
    // Without `--bench` this is a test run: that it works is all that is asked.
    let default_sizes = if std::env::args().any(|arg| arg == "--bench") { "100000,1000000" } else { "2000" };
    let sizes = std::env::var("WHEEL_BENCH_SIZES").unwrap_or_else(|_| default_sizes.into());
    let deadlines = match std::env::var("WHEEL_BENCH_DEADLINES") {
        Ok(all) if all == "all" => Deadlines::ALL.to_vec(),
        Ok(names) => names.split(',').filter_map(|name| Deadlines::named(name.trim())).collect(),
        Err(_) => vec![Deadlines::Hour, Deadlines::Second],
    };
    let mut criterion = Criterion::default().nresamples(1_001).without_plots().configure_from_args();
    let mut tables = String::new();
    for n in sizes.split(',').filter_map(|size| size.trim().parse::<usize>().ok()) {
        let churn = Churn::new(n);
        for &deadlines in &deadlines {
            let script = Script::new(deadlines, n);
            tables += &run_script(&mut criterion, contenders, &script, &churn);
        }
    }
    criterion.final_summary();
    println!("{tables}");
}

fn run_script(criterion: &mut Criterion, contenders: &[Contender], script: &Script, churn: &Churn) -> String {
    let truth = Truth::of(script, churn);
    // All are checked before the first is measured.
    contenders.iter().for_each(|contender| (contender.check)(script, churn, &truth));
    let heads = Operation::ALL.map(Operation::name).join(" | ");
    let mut table = format!(
        "\n{} timers over {}: ns per timer (median), longest single call in ms (least of three rounds), bytes per timer\n\n\
         | | {heads} | insert max | cancel max | step max | jump max | B/timer |\n\
         | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
        script.len(),
        script.deadlines.name(),
    );
    for contender in contenders {
        let figures = (contender.measure)(script, churn);
        show(criterion, contender.name, script, &figures);
        table += &row(contender.name, script, &figures);
    }
    table
}

fn row(name: &str, script: &Script, figures: &Figures) -> String {
    let mut row = format!("| {name} |");
    for operation in Operation::ALL {
        let mut times = figures.times[operation as usize].clone();
        times.sort_unstable();
        if times.is_empty() {
            row += " – |";
            continue;
        }
        let median = times[times.len() / 2].as_nanos() as f64 / operation.timers(script.len()) as f64;
        row += &format!(" {median:.1} |");
    }
    let longest = figures.longest;
    for call in [longest.insert, longest.cancel, longest.step, longest.jump] {
        row += &format!(" {:.3} |", call.as_secs_f64() * 1e3);
    }
    row + &format!(" {} |\n", bytes_in_fresh_process(name, script))
}

/// Hands criterion what was measured: a sample of each operation comes from one play, since to build the state before
/// each of them anew would take most of the time. A slow queue shows some samples more than once.
fn show(criterion: &mut Criterion, name: &str, script: &Script, figures: &Figures) {
    for operation in Operation::ALL {
        let times = &figures.times[operation as usize];
        if times.is_empty() {
            continue;
        }
        let what = format!("{}/{}/{}", operation.name(), script.deadlines.name(), script.len());
        let mut group = criterion.benchmark_group(what);
        group.sample_size(SAMPLES).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_nanos(1)).measurement_time(Duration::from_nanos(1));
        group.throughput(Throughput::Elements(operation.timers(script.len()) as u64));
        let mut turn = 0;
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|iterations| {
                let sum = (0..iterations as usize).map(|i| times[(turn + i) % times.len()]).sum();
                turn += iterations as usize;
                sum
            });
        });
        group.finish();
    }
}

fn bytes_in_fresh_process(name: &str, script: &Script) -> String {
    let what = format!("{name} {} {}", script.deadlines.name(), script.len());
    let child = std::env::current_exe().and_then(|exe| std::process::Command::new(exe).env(BYTES_OF, what).output());
    child.map_or_else(|err| err.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The child's part.
fn print_bytes(contenders: &[Contender], what: &str) {
    let mut words = what.split(' ');
    let (name, deadlines) = (words.next(), words.next().and_then(Deadlines::named));
    let size = words.next().and_then(|size| size.parse().ok());
    let contender = contenders.iter().find(|contender| Some(contender.name) == name);
    let (Some(contender), Some(deadlines), Some(size)) = (contender, deadlines, size) else { return };
    print!("{:.1}", (contender.bytes)(&Script::new(deadlines, size)));
}
