//! The wheel beside other timer queues.
//!
//! `cargo bench --bench wheel` measures 100 k and 1 M timers in a few minutes; `WHEEL_BENCH_SIZES=10000000` (a list) asks
//! for others, `WHEEL_BENCH_SIZES=` for none. Every queue first replays one script, whose outcome is compared with a
//! `BTreeMap`: a queue that loses, duplicates, delays or hastens a timer stops the bench. The pass also prints bytes per
//! timer and the longest single advance. Then criterion is given the operations one by one, timed in up to ten further plays:
//!
//! - `insert_cold`: n timers into an empty queue
//! - `cancel`: half of n, in random order
//! - `insert_steady`: n/2 timers into the queue from which that half was cancelled
//! - `expire`: all n after that, in steps of about 100 timers

// A bench measures real time.
#![allow(clippy::disallowed_methods, missing_docs)]

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use hierarchical_hash_wheel_timer::wheels::{cancellable::QuadWheelWithOverflow, Skip};
use hierarchical_hash_wheel_timer::IdOnlyTimerEntry;
use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hint::black_box;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};
use xcron::wheel::{Progress, Timer, Wheel, ADVANCE_LIMIT};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Timers that one step of the expiry is meant to fire.
const STEP: usize = 100;

#[derive(Clone, Copy)]
enum Deadlines {
    Hour,
    Month,
    /// All within one second, half an hour ahead.
    Second,
    /// Nine of ten at :00 of a minute of the next day, most of them at a full hour; the others anywhere.
    Cron,
}

impl Deadlines {
    const ALL: [Deadlines; 4] = [Deadlines::Hour, Deadlines::Month, Deadlines::Second, Deadlines::Cron];

    fn name(self) -> &'static str {
        match self {
            Deadlines::Hour => "1h",
            Deadlines::Month => "30d",
            Deadlines::Second => "1s",
            Deadlines::Cron => "cron",
        }
    }

    /// Start and length of the time in which all are due.
    fn window(self) -> (u64, u64) {
        match self {
            Deadlines::Hour => (0, HOUR_MS),
            Deadlines::Month => (0, 30 * DAY_MS),
            Deadlines::Second => (HOUR_MS / 2, 1_000),
            Deadlines::Cron => (0, DAY_MS),
        }
    }

    fn draw(self, numbers: &mut Numbers) -> u64 {
        let (start, length) = self.window();
        match self {
            Deadlines::Cron => match numbers.below(10) {
                0 => 1 + numbers.below(length),
                1..=3 => MINUTE_MS * (1 + numbers.below(length / MINUTE_MS)),
                _ => HOUR_MS * (1 + numbers.below(length / HOUR_MS)),
            },
            _ => start + 1 + numbers.below(length),
        }
    }
}

/// SplitMix64: the same numbers on every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// What every queue is put through.
struct Script {
    deadlines: Deadlines,
    /// Timer i of the first n has key i.
    first: Vec<u64>,
    /// Half of the first n, shuffled.
    cancelled: Vec<u32>,
    /// Inserted after the cancels, with keys from n on.
    second: Vec<u64>,
}

impl Script {
    fn new(deadlines: Deadlines, n: usize) -> Self {
        let mut numbers = Numbers(42);
        let first: Vec<u64> = (0..n).map(|_| deadlines.draw(&mut numbers)).collect();
        let mut cancelled: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            cancelled.swap(i, numbers.below(i as u64 + 1) as usize);
        }
        cancelled.truncate(n / 2);
        let second = (0..n / 2).map(|_| deadlines.draw(&mut numbers)).collect();
        Script { deadlines, first, cancelled, second }
    }

    fn len(&self) -> usize {
        self.first.len()
    }

    /// The times of the expiry.
    fn steps(&self) -> impl Iterator<Item = u64> {
        let (start, length) = self.deadlines.window();
        let steps = (self.len() / STEP).min(length as usize) as u64;
        (1..=steps).map(move |step| start + (u128::from(length) * u128::from(step) / u128::from(steps)) as u64)
    }

    fn insert<Q: Queue>(&self, queue: &mut Q, handles: &mut Vec<Q::Handle>) {
        for (key, &deadline_ms) in self.first.iter().enumerate() {
            handles.push(queue.insert(deadline_ms, key as u64));
        }
    }

    /// Brings the handles of the timers to cancel to the end, in the order in which they will be cancelled, so that
    /// looking for them isn't part of cancelling.
    fn shuffle<H>(&self, handles: &mut Vec<H>) {
        let mut all: Vec<Option<H>> = handles.drain(..).map(Some).collect();
        let cancelled: Vec<H> = self.cancelled.iter().filter_map(|&key| all[key as usize].take()).collect();
        handles.extend(all.into_iter().flatten());
        handles.extend(cancelled);
    }

    fn cancel<Q: Queue>(&self, queue: &mut Q, handles: &mut Vec<Q::Handle>) {
        for handle in handles.drain(self.len() - self.cancelled.len()..) {
            queue.cancel(handle);
        }
    }

    fn insert_again<Q: Queue>(&self, queue: &mut Q, handles: &mut Vec<Q::Handle>) {
        for (i, &deadline_ms) in self.second.iter().enumerate() {
            handles.push(queue.insert(deadline_ms, (self.len() + i) as u64));
        }
    }

    fn expire<Q: Queue>(&self, queue: &mut Q, out: &mut Vec<u64>) -> usize {
        let mut fired = 0;
        for now_ms in self.steps() {
            queue.advance(now_ms, out);
            fired += out.len();
            black_box(&out);
            out.clear();
        }
        fired
    }
}

/// What all queues can do. Times are milliseconds from the making of the queue.
trait Queue {
    const NAME: &'static str;
    /// Whether its time can be turned by hand.
    const TURNS: bool = true;
    type Handle;

    fn new() -> Self;
    fn insert(&mut self, deadline_ms: u64, key: u64) -> Self::Handle;
    fn cancel(&mut self, handle: Self::Handle);
    /// One call; false when it must be called again for the same time.
    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool;

    fn advance(&mut self, now_ms: u64, out: &mut Vec<u64>) {
        while !self.advance_once(now_ms, out) {}
    }
}

struct Ours {
    wheel: Wheel<u64>,
    due: Vec<(u64, u64)>,
}

impl Queue for Ours {
    const NAME: &'static str = "xcron";
    type Handle = Timer;

    fn new() -> Self {
        Ours { wheel: Wheel::new(0), due: Vec::with_capacity(ADVANCE_LIMIT) }
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> Timer {
        self.wheel.insert(deadline_ms, key)
    }

    fn cancel(&mut self, handle: Timer) {
        assert!(self.wheel.cancel(handle), "{handle:?} is stale");
    }

    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool {
        let progress = self.wheel.advance(now_ms, ADVANCE_LIMIT, &mut self.due);
        out.extend(self.due.drain(..).map(|(_, key)| key));
        progress == Progress::Reached
    }
}

struct Nexus {
    wheel: nexus_timer::Wheel<u64>,
    base: Instant,
}

impl Queue for Nexus {
    const NAME: &'static str = "nexus-timer";
    // Its handles must not be dropped while their timers wait.
    type Handle = ManuallyDrop<nexus_timer::TimerHandle<u64>>;

    fn new() -> Self {
        let base = Instant::now();
        Nexus { wheel: nexus_timer::Wheel::unbounded(4_096, base), base }
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> Self::Handle {
        ManuallyDrop::new(self.wheel.schedule(self.base + Duration::from_millis(deadline_ms), key))
    }

    fn cancel(&mut self, handle: Self::Handle) {
        assert!(self.wheel.cancel(ManuallyDrop::into_inner(handle)).is_some(), "a stale handle");
    }

    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool {
        self.wheel.poll_and_rebalance(self.base + Duration::from_millis(now_ms), out);
        true
    }
}

struct Hashed {
    wheel: QuadWheelWithOverflow<IdOnlyTimerEntry<u64>>,
    now_ms: u64,
}

impl Queue for Hashed {
    const NAME: &'static str = "hashed-wheel";
    type Handle = u64;

    fn new() -> Self {
        Hashed { wheel: QuadWheelWithOverflow::new(), now_ms: 0 }
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> u64 {
        let delay = Duration::from_millis(deadline_ms - self.now_ms);
        assert!(self.wheel.insert(IdOnlyTimerEntry { id: key, delay }).is_ok(), "{key} in {delay:?} was refused");
        key
    }

    fn cancel(&mut self, handle: u64) {
        assert!(self.wheel.cancel(&handle).is_ok(), "{handle} is stale");
    }

    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool {
        while self.now_ms < now_ms {
            let left_ms = (now_ms - self.now_ms).min(u64::from(u32::MAX)) as u32;
            let idle_ms = match self.wheel.can_skip() {
                Skip::Empty => left_ms,
                Skip::Millis(idle_ms) => idle_ms.min(left_ms),
                Skip::None => 0,
            };
            if idle_ms > 0 {
                self.wheel.skip(idle_ms);
                self.now_ms += u64::from(idle_ms);
            } else {
                out.extend(self.wheel.tick().iter().map(|entry| entry.id));
                self.now_ms += 1;
            }
        }
        true
    }
}

/// Takes part in inserts and cancels. It reads a clock that only tokio's `test-util` can turn, so its expiry is measured
/// apart, by [`expire_delay_queue`].
struct DelayQueue {
    queue: tokio_util::time::DelayQueue<u64>,
    base: tokio::time::Instant,
}

impl Queue for DelayQueue {
    const NAME: &'static str = "delay-queue";
    const TURNS: bool = false;
    type Handle = tokio_util::time::delay_queue::Key;

    fn new() -> Self {
        DelayQueue { queue: tokio_util::time::DelayQueue::new(), base: tokio::time::Instant::now() }
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> Self::Handle {
        self.queue.insert_at(key, self.base + Duration::from_millis(deadline_ms))
    }

    fn cancel(&mut self, handle: Self::Handle) {
        self.queue.remove(&handle);
    }

    fn advance_once(&mut self, _: u64, _: &mut Vec<u64>) -> bool {
        unreachable!("its clock can't be turned")
    }
}

struct Heap {
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    /// A bit for each key.
    cancelled: Vec<u64>,
}

impl Queue for Heap {
    const NAME: &'static str = "binary-heap";
    type Handle = u64;

    fn new() -> Self {
        Heap { heap: BinaryHeap::new(), cancelled: Vec::new() }
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> u64 {
        if key as usize / 64 >= self.cancelled.len() {
            self.cancelled.push(0);
        }
        self.heap.push(Reverse((deadline_ms, key)));
        key
    }

    fn cancel(&mut self, handle: u64) {
        self.cancelled[handle as usize / 64] |= 1 << (handle % 64);
    }

    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool {
        while let Some(&Reverse((deadline_ms, key))) = self.heap.peek() {
            if deadline_ms > now_ms {
                break;
            }
            self.heap.pop();
            if self.cancelled[key as usize / 64] >> (key % 64) & 1 == 0 {
                out.push(key);
            }
        }
        true
    }
}

/// The truth.
struct Tree(BTreeMap<(u64, u64), ()>);

impl Queue for Tree {
    const NAME: &'static str = "btree-map";
    type Handle = (u64, u64);

    fn new() -> Self {
        Tree(BTreeMap::new())
    }

    fn insert(&mut self, deadline_ms: u64, key: u64) -> Self::Handle {
        self.0.insert((deadline_ms, key), ());
        (deadline_ms, key)
    }

    fn cancel(&mut self, handle: Self::Handle) {
        assert!(self.0.remove(&handle).is_some(), "{handle:?} is stale");
    }

    fn advance_once(&mut self, now_ms: u64, out: &mut Vec<u64>) -> bool {
        while let Some(entry) = self.0.first_entry() {
            if entry.key().0 > now_ms {
                break;
            }
            out.push(entry.remove_entry().0 .1);
        }
        true
    }
}

/// Lets a [`DelayQueue`] expire in real time: the window of the script is pressed into one second, which passes before the
/// queue is polled. It then meets fewer levels than the others do.
fn expire_delay_queue(runtime: &tokio::runtime::Runtime, script: &Script) {
    let (start, length) = script.deadlines.window();
    let lead = Duration::from_micros(2 * script.len() as u64);
    let mut queue = tokio_util::time::DelayQueue::new();
    let base = tokio::time::Instant::now() + lead;
    for (key, &deadline_ms) in script.first.iter().enumerate() {
        queue.insert_at(key as u64, base + Duration::from_millis((deadline_ms - start) * 1_000 / length));
    }
    let wait = base + Duration::from_millis(1_010) - tokio::time::Instant::now();
    std::thread::sleep(wait);
    // Unconstrained: a task would be told to yield after 128 timers.
    let drain = tokio::task::unconstrained(async {
        // The first poll only arms the timer of the runtime.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let begin = Instant::now();
        let mut fired = 0;
        while let Some(expired) = std::future::poll_fn(|context| queue.poll_expired(context)).await {
            black_box(expired.into_inner());
            fired += 1;
        }
        (fired, begin.elapsed())
    });
    let (fired, elapsed) = runtime.block_on(drain);
    assert_eq!(fired, script.len(), "{} over {}", DelayQueue::NAME, script.deadlines.name());
    println!(
        "{:12} {:>9} {:5} {} B/timer, expires in one jump, {:.1} ns/timer",
        DelayQueue::NAME,
        fired,
        script.deadlines.name(),
        bytes_in_fresh_process(DelayQueue::NAME, script),
        elapsed.as_nanos() as f64 / fired as f64,
    );
}

/// How many timers come out at each step, and a sum that depends on which they are.
fn trace<Q: Queue>(script: &Script, queue: &mut Q) -> Vec<(usize, u64)> {
    let mut handles = Vec::with_capacity(script.len());
    script.insert(queue, &mut handles);
    script.shuffle(&mut handles);
    script.cancel(queue, &mut handles);
    script.insert_again(queue, &mut handles);
    let mut out = Vec::new();
    let trace = script.steps().map(|now_ms| {
        out.clear();
        queue.advance(now_ms, &mut out);
        (out.len(), out.iter().fold(0u64, |sum, &key| sum.wrapping_add(Numbers(key).next())))
    });
    trace.collect()
}

/// Resident memory of this process in bytes; 0 where the system doesn't tell.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4_096
}

/// Names a queue, a distribution and a size in the child process of [`bytes_in_fresh_process`].
const BYTES_OF: &str = "WHEEL_BENCH_BYTES_OF";

/// Bytes per timer, as a new process sees them: this one's allocator keeps what earlier queues have freed.
fn bytes_in_fresh_process(name: &str, script: &Script) -> String {
    let what = format!("{name} {} {}", script.deadlines.name(), script.len());
    let child = std::env::current_exe().and_then(|exe| std::process::Command::new(exe).env(BYTES_OF, what).output());
    child.map_or_else(|err| err.to_string(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The child's part.
fn print_bytes(what: &str) {
    fn measure<Q: Queue>(script: &Script) -> f64 {
        let mut queue = Q::new();
        // The room for handles is counted out by touching it first.
        let mut handles: Vec<Option<Q::Handle>> = Vec::with_capacity(script.len());
        handles.resize_with(script.len(), || None);
        let before = resident();
        for (key, &deadline_ms) in script.first.iter().enumerate() {
            handles[key] = Some(queue.insert(deadline_ms, key as u64));
        }
        resident().saturating_sub(before) as f64 / script.len() as f64
    }
    let mut words = what.split(' ');
    let (name, deadlines, size) = (words.next(), words.next(), words.next().and_then(|size| size.parse().ok()));
    let deadlines = Deadlines::ALL.into_iter().find(|known| Some(known.name()) == deadlines);
    let (Some(name), Some(deadlines), Some(size)) = (name, deadlines, size) else { return };
    let script = Script::new(deadlines, size);
    let bytes = match name {
        Ours::NAME => measure::<Ours>(&script),
        Nexus::NAME => measure::<Nexus>(&script),
        Hashed::NAME => measure::<Hashed>(&script),
        DelayQueue::NAME => measure::<DelayQueue>(&script),
        Heap::NAME => measure::<Heap>(&script),
        _ => measure::<Tree>(&script),
    };
    print!("{bytes:6.1}");
}

/// Checks a queue against the truth and prints what criterion doesn't measure.
fn check<Q: Queue>(script: &Script, truth: &[(usize, u64)]) {
    let found = trace(script, &mut Q::new());
    for (step, (found, expected)) in found.iter().zip(truth).enumerate() {
        assert_eq!(found, expected, "{} over {}: step {step} fires others", Q::NAME, script.deadlines.name());
    }

    let bytes = bytes_in_fresh_process(Q::NAME, script);
    let mut handles = Vec::with_capacity(script.len());
    let mut queue = Q::new();
    script.insert(&mut queue, &mut handles);

    // One advance over everything, and one to every step: the longest of both kinds.
    let mut out = Vec::with_capacity(script.len());
    let mut longest_step = Duration::ZERO;
    for now_ms in script.steps() {
        loop {
            out.clear();
            let begin = Instant::now();
            let done = queue.advance_once(now_ms, &mut out);
            longest_step = longest_step.max(begin.elapsed());
            if done {
                break;
            }
        }
    }
    drop(queue);
    handles.clear();

    let mut queue = Q::new();
    script.insert(&mut queue, &mut handles);
    let mut longest_jump = Duration::ZERO;
    let (start, length) = script.deadlines.window();
    loop {
        out.clear();
        let begin = Instant::now();
        let done = queue.advance_once(start + length, &mut out);
        longest_jump = longest_jump.max(begin.elapsed());
        if done {
            break;
        }
    }
    println!(
        "{:12} {:>9} {:5} {bytes} B/timer, longest advance {:9.3} ms in steps, {:9.3} ms in one jump",
        Q::NAME,
        script.len(),
        script.deadlines.name(),
        longest_step.as_secs_f64() * 1e3,
        longest_jump.as_secs_f64() * 1e3,
    );
}

/// Samples of each operation: the least that criterion takes.
const SAMPLES: usize = 10;

/// No play begins later than this after the first.
const PLAYS_MAX: Duration = Duration::from_secs(5);

const OPERATIONS: [&str; 4] = ["insert_cold", "cancel", "insert_steady", "expire"];

/// Plays the script once; how long each operation took.
fn play<Q: Queue>(script: &Script) -> [Duration; 4] {
    let mut handles = Vec::with_capacity(2 * script.len());
    let mut out = Vec::with_capacity(script.len());
    let begin = Instant::now();
    let mut queue = Q::new();
    script.insert(&mut queue, &mut handles);
    let insert_cold = begin.elapsed();
    script.shuffle(&mut handles);
    let begin = Instant::now();
    script.cancel(&mut queue, &mut handles);
    let cancel = begin.elapsed();
    let begin = Instant::now();
    script.insert_again(&mut queue, &mut handles);
    let insert_steady = begin.elapsed();
    if !Q::TURNS {
        return [insert_cold, cancel, insert_steady, Duration::ZERO];
    }
    let begin = Instant::now();
    let fired = script.expire(&mut queue, &mut out);
    let expire = begin.elapsed();
    assert_eq!(fired, script.len(), "{} over {}", Q::NAME, script.deadlines.name());
    [insert_cold, cancel, insert_steady, expire]
}

/// Plays for each sample, or fewer when that takes long: slow queues then show some plays more than once.
fn play_often<Q: Queue>(script: &Script) -> Vec<[Duration; 4]> {
    let begin = Instant::now();
    let mut rounds = vec![play::<Q>(script)];
    while rounds.len() < SAMPLES && begin.elapsed() < PLAYS_MAX {
        rounds.push(play::<Q>(script));
    }
    rounds
}

/// Hands criterion the operations of a few rounds. One round is a sample of each operation: to build the state before
/// each of them anew would take most of the time.
fn bench<Q: Queue>(criterion: &mut Criterion, script: &Script) {
    let rounds = OnceCell::new();
    for (operation, name) in OPERATIONS.into_iter().enumerate() {
        if name == "expire" && !Q::TURNS {
            continue;
        }
        let timers = if matches!(name, "cancel" | "insert_steady") { script.len() / 2 } else { script.len() };
        let mut group = criterion.benchmark_group(format!("{name}/{}/{}", script.deadlines.name(), script.len()));
        group.sample_size(SAMPLES).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_nanos(1)).measurement_time(Duration::from_nanos(1));
        group.throughput(Throughput::Elements(timers as u64));
        let mut turn = 0;
        group.bench_function(BenchmarkId::from_parameter(Q::NAME), |bencher| {
            let rounds = rounds.get_or_init(|| play_often::<Q>(script));
            bencher.iter_custom(|iterations| {
                let sum = (0..iterations as usize).map(|i| rounds[(turn + i) % rounds.len()][operation]).sum();
                turn += iterations as usize;
                sum
            });
        });
        group.finish();
    }
}

fn run_all(criterion: &mut Criterion, runtime: &tokio::runtime::Runtime, script: &Script) {
    let truth = trace(script, &mut Tree::new());
    assert_eq!(truth.iter().map(|step| step.0).sum::<usize>(), script.len(), "the model fires every live timer");
    check::<Ours>(script, &truth);
    check::<Nexus>(script, &truth);
    check::<Hashed>(script, &truth);
    check::<Heap>(script, &truth);
    check::<Tree>(script, &truth);
    expire_delay_queue(runtime, script);
    bench::<Ours>(criterion, script);
    bench::<Nexus>(criterion, script);
    bench::<Hashed>(criterion, script);
    bench::<DelayQueue>(criterion, script);
    bench::<Heap>(criterion, script);
    bench::<Tree>(criterion, script);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    // The delay queue asks for the runtime when it arms its timer.
    let _entered = runtime.enter();
    if let Ok(what) = std::env::var(BYTES_OF) {
        return print_bytes(&what);
    }
    // Without `--bench` this is a test run: that it works is all that is asked.
    let default_sizes = if std::env::args().any(|arg| arg == "--bench") { "100000,1000000" } else { "2000" };
    let sizes = std::env::var("WHEEL_BENCH_SIZES").unwrap_or_else(|_| default_sizes.into());
    let mut criterion = Criterion::default().configure_from_args();
    for size in sizes.split(',').filter_map(|size| size.trim().parse::<usize>().ok()) {
        for deadlines in Deadlines::ALL {
            run_all(&mut criterion, &runtime, &Script::new(deadlines, size));
        }
    }
    criterion.final_summary();
}
