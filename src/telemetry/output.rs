//! Standard error, written by a thread of its own.
//!
//! A log that goes to a full disk, to a pipe whose reader has gone or to one that nobody reads must hold up nothing: lines
//! wait in a bounded queue, and those for which there is no room, or that cannot be written, are counted and dropped.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::fmt::MakeWriter;

/// What waits to be written, at most; as much again may be in the hands of the thread.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// Pause before a write is tried again that a non-blocking file refuses for now.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The thread has lines in its hands.
    writes: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something is in the queue.
    more: Condvar,
    /// Everything is written.
    idle: Condvar,
    dropped: AtomicU64,
    /// The same, where somebody shows it.
    counter: OnceLock<Counter>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_dropped(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
        if let Some(counter) = self.counter.get() {
            counter.inc_by(lines);
        }
    }

    /// Everything that waits, as soon as there is something.
    fn take(&self) -> VecDeque<Vec<u8>> {
        let mut queue = self.queue();
        queue.writes = false;
        while queue.lines.is_empty() {
            self.idle.notify_all();
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        (queue.bytes, queue.writes) = (0, true);
        std::mem::take(&mut queue.lines)
    }
}

/// The queue, and the thread behind it; cheap to clone.
#[derive(Clone)]
pub(super) struct Output(Arc<Shared>);

impl Output {
    /// Writes to `file` what is put into it, on a thread that ends with the process. Where no thread can be had, what
    /// is put into it is dropped.
    pub fn to(file: impl Write + Send + 'static) -> Output {
        let output = Output(Arc::default());
        let writer = output.clone();
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(file));
        drop(thread);
        output
    }

    fn run(&self, mut file: impl Write) {
        let mut told = 0;
        loop {
            let lines = self.0.take();
            let mut written = 0;
            for line in &lines {
                match write_all(&mut file, line) {
                    Ok(()) => written += 1,
                    Err(_) => self.0.count_dropped(1),
                }
            }
            let dropped = self.0.dropped.load(Ordering::Relaxed);
            // Not while nothing can be written: this line would be dropped as well, and call for another.
            if written > 0 && dropped > told && self.0.queue().lines.is_empty() {
                tracing::warn!(lines = dropped - told, "the log was not taken in time; lines were dropped");
                told = dropped;
            }
        }
    }

    /// Has a line written, or drops it.
    pub fn put(&self, line: &[u8]) {
        let mut queue = self.0.queue();
        if queue.bytes + line.len() > QUEUE_BYTES_MAX {
            drop(queue);
            return self.0.count_dropped(1);
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        drop(queue);
        self.0.more.notify_one();
    }

    /// Waits until everything is written, or for so long.
    pub fn flush(&self, bound: Duration) {
        let waits = |queue: &mut Queue| queue.writes || !queue.lines.is_empty();
        // Whether it is written or not: the process ends.
        drop(self.0.idle.wait_timeout_while(self.0.queue(), bound, waits));
    }

    /// From now on counts there what is dropped; and what was dropped before.
    pub fn count_in(&self, counter: Counter) {
        counter.inc_by(self.0.dropped.load(Ordering::Relaxed));
        let _ = self.0.counter.set(counter);
    }
}

fn write_all(file: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares the file has made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(AGAIN_AFTER),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes what one event writes, which comes in one piece.
pub(super) struct Line(Output);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Output {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A file that takes nothing before it is told to.
    struct Stuck(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error: it is never to be stuck again.
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted_and_the_rest_is_written() {
        let (go_on, waits) = mpsc::channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let output = Output::to(Stuck(waits, written.clone()));
        let line = [vec![b'x'; 1023], vec![b'\n']].concat();
        output.put(&line);
        while !output.0.queue().writes {
            std::thread::yield_now();
        }
        (1..5000).for_each(|_| output.put(&line));
        output.flush(Duration::from_millis(1));
        assert!(written.lock().unwrap().is_empty(), "it stands still, and nobody waits for it");
        let (early, counter) = (output.0.dropped.load(Ordering::Relaxed), Counter::default());
        assert_eq!(early, 5000 - 1 - (QUEUE_BYTES_MAX / line.len()) as u64);
        output.count_in(counter.clone());
        output.put(&line);
        drop(go_on);
        output.flush(Duration::from_secs(20));
        let written = written.lock().unwrap().len() / line.len();
        assert_eq!((counter.get(), written as u64), (early + 1, 5000 - early));
    }

    #[test]
    fn a_file_that_takes_nothing_ends_nothing() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Output::to(full);
        (0..3).for_each(|_| output.put(b"a line\n"));
        output.flush(Duration::from_secs(20));
        assert_eq!(output.0.dropped.load(Ordering::Relaxed), 3);
    }
}
