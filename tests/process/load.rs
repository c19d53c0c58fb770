//! A load of creates, deletes and pauses, what was acknowledged of it, and whether the callbacks agree with that.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::api::{code, once, Answer, Api};
use crate::harness::{holds_within, now_ms, sleep_ms};
use crate::sink::Sink;

/// What a load is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub workers: usize,
    /// Tasks are due this long after they are sent.
    pub ahead_ms: (u64, u64),
    /// One task in so many is deleted a moment after it was acknowledged; 0: none.
    pub delete_one_in: u64,
    /// The same of pauses, of those that are not deleted.
    pub pause_one_in: u64,
    /// Pause of a worker between two tasks.
    pub pause_ms: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { workers: 8, ahead_ms: (1000, 4000), delete_one_in: 4, pause_one_in: 8, pause_ms: 15 }
    }
}

/// No call of the load waits longer: another node may know more.
const PATIENCE: Duration = Duration::from_millis(1500);
/// A request that left before a delete was acknowledged may arrive this much later.
const UNDER_WAY_MS: u64 = 500;

/// What ends a task before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Delete,
    Pause,
}

/// What the caller knows of a task.
#[derive(Clone, Debug, Default)]
struct Known {
    due_ms: u64,
    /// The create was acknowledged.
    created: bool,
    /// A create was sent of which nothing was heard: one that lies with a node that stands still is taken when that goes
    /// on, and makes anew what was deleted meanwhile.
    unheard: bool,
    /// A delete or a pause was sent; nobody knows whether it was done.
    ending: Option<Ending>,
    /// When that was acknowledged.
    ended_ms: Option<u64>,
}

#[derive(Default)]
struct Book {
    tasks: HashMap<String, Known>,
    /// When each write was acknowledged.
    written_ms: Vec<u64>,
    /// Answers that contradict what was acknowledged.
    contradictions: Vec<String>,
}

/// A load that runs until [`Load::stop`].
pub struct Load {
    sink: Sink,
    book: Arc<Mutex<Book>>,
    stopping: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

/// How the callbacks agree with the book.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub acknowledged: usize,
    /// Deletes and pauses that were acknowledged.
    pub endings: usize,
    pub unknown: usize,
    pub calls: usize,
    /// Callbacks of a run that was seen before.
    pub duplicates: usize,
    /// The worst lateness of a task's first callback, in ms; faults included.
    pub latest_ms: u64,
    /// The longest time without an acknowledged write, in ms.
    pub gap_ms: u64,
    /// What must not be.
    pub wrong: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "acknowledged {}, deletes and pauses {}, unknown {}, callbacks {}, duplicates {}, write gap {} ms, \
             worst lateness {} ms, wrong {}",
            self.acknowledged,
            self.endings,
            self.unknown,
            self.calls,
            self.duplicates,
            self.gap_ms,
            self.latest_ms,
            self.wrong.len()
        )
    }
}

/// Ids that no other load of this process has.
fn fresh_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("load-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn between((from, to): (u64, u64)) -> u64 {
    rand::random_range(from..=to)
}

struct Worker {
    api: Api,
    ports: Vec<u16>,
    /// Which of the ports it uses.
    at: AtomicUsize,
    url: String,
    shape: Shape,
    book: Arc<Mutex<Book>>,
    stopping: Arc<AtomicBool>,
}

impl Worker {
    fn note(&self, id: &str, change: impl FnOnce(&mut Known)) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        change(book.tasks.entry(id.to_owned()).or_default());
    }

    fn contradict(&self, what: String) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).contradictions.push(what);
    }

    fn stops(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    async fn run(self) {
        let one_in = |share: u64| share > 0 && between((1, share)) == 1;
        while !self.stops() {
            let id = fresh_id();
            if self.create(&id).await {
                if one_in(self.shape.delete_one_in) {
                    sleep_ms(between((0, 800))).await;
                    self.end(&id, Ending::Delete).await;
                } else if one_in(self.shape.pause_one_in) {
                    sleep_ms(between((0, 800))).await;
                    self.end(&id, Ending::Pause).await;
                }
            }
            sleep_ms(self.shape.pause_ms).await;
        }
    }

    fn written(&self, id: &str, change: impl FnOnce(&mut Known)) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).written_ms.push(now_ms());
        self.note(id, change);
    }

    /// Mostly the node that answered before, and another one now and then: so not all workers wait for one that does
    /// not answer.
    fn port(&self) -> u16 {
        if between((1, 30)) == 1 {
            self.move_on();
        }
        self.ports[self.at.load(Ordering::Relaxed)]
    }

    fn move_on(&self) {
        self.at.store(between((0, self.ports.len() as u64 - 1)) as usize, Ordering::Relaxed);
    }

    /// The code of an answer; a node that does not answer is left alone.
    fn code(&self, answer: &Answer) -> Option<u64> {
        let code = code(answer);
        if code.is_none() {
            self.move_on();
        }
        code
    }

    /// Creates a task, by whichever node answers; whether it was acknowledged.
    async fn create(&self, id: &str) -> bool {
        let due_ms = now_ms() + between(self.shape.ahead_ms);
        self.note(id, |task| task.due_ms = due_ms);
        let task = once(id, due_ms, &self.url);
        loop {
            let answer = self.api.create(self.port(), &task).await;
            match self.code(&answer) {
                Some(0) => {
                    self.written(id, |task| task.created = true);
                    return true;
                }
                // Sent again after it was due: whether an earlier one was written stays unknown.
                Some(1002) => return false,
                None | Some(1051) => self.note(id, |task| task.unheard = true),
                Some(1050 | 1070 | 1071) => {}
                Some(_) => {
                    self.contradict(format!("create {id}: {answer:?}"));
                    return false;
                }
            }
            if self.stops() {
                return false;
            }
            sleep_ms(20).await;
        }
    }

    /// Deletes or pauses a task whose create was acknowledged.
    async fn end(&self, id: &str, ending: Ending) {
        self.note(id, |task| task.ending = Some(ending));
        let mut first = true;
        loop {
            let answer = match ending {
                Ending::Delete => self.api.delete(self.port(), id).await,
                Ending::Pause => self.api.pause(self.port(), id).await,
            };
            match self.code(&answer) {
                Some(0) => return self.written(id, |task| task.ended_ms = Some(now_ms())),
                // An earlier delete of which nothing was heard, or a task that is over.
                Some(1040) if !first && ending == Ending::Delete => {
                    return self.written(id, |task| task.ended_ms = Some(now_ms()));
                }
                Some(1041) if ending == Ending::Pause && self.is_past(id) => return,
                None | Some(1051) => first = false,
                Some(1050 | 1070 | 1071) => {}
                Some(_) => return self.contradict(format!("{ending:?} {id}: {answer:?}")),
            }
            if self.stops() {
                return;
            }
            sleep_ms(20).await;
        }
    }

    fn is_past(&self, id: &str) -> bool {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.tasks.get(id).is_some_and(|task| task.due_ms <= now_ms())
    }
}

impl Load {
    pub fn start(api: &Api, ports: &[u16], sink: &Sink, shape: Shape) -> Load {
        let (book, stopping) = (Arc::<Mutex<Book>>::default(), Arc::<AtomicBool>::default());
        let worker = |n: usize| Worker {
            at: AtomicUsize::new(n % ports.len()),
            api: api.waiting(PATIENCE),
            ports: ports.to_vec(),
            url: sink.url.clone(),
            shape,
            book: book.clone(),
            stopping: stopping.clone(),
        };
        let workers = (0..shape.workers).map(|n| tokio::spawn(worker(n).run())).collect();
        Load { sink: sink.clone(), book, stopping, workers }
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins no more; each call that is under way comes to its end.
    pub async fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.await.expect("a worker of the load");
        }
    }

    /// The tasks that exist by all that is acknowledged.
    pub fn standing(&self) -> Vec<String> {
        let book = self.book();
        let standing = book.tasks.iter().filter(|(_, task)| task.created && task.ending.is_none());
        standing.map(|(id, _)| id.clone()).collect()
    }

    /// Waits until every task that must fire has done so, or `bound` has passed, and compares.
    pub async fn settle(&mut self, bound: Duration) -> Report {
        self.stop().await;
        holds_within(bound, async || {
            let seen = self.sink.by_task();
            self.standing().iter().all(|id| seen.contains_key(id))
        })
        .await;
        // What must not fire has its time to do so.
        let last_due = self.book().tasks.values().map(|task| task.due_ms).max().unwrap_or(0);
        sleep_ms(last_due.saturating_sub(now_ms()) + 300).await;
        self.compare()
    }

    fn compare(&self) -> Report {
        let (book, seen) = (self.book(), self.sink.by_task());
        let mut report = Report { wrong: book.contradictions.clone(), ..Report::default() };
        report.gap_ms = book.written_ms.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(0);
        for (id, task) in &book.tasks {
            let calls = seen.get(id).map_or(&[][..], Vec::as_slice);
            report.acknowledged += usize::from(task.created);
            report.endings += usize::from(task.ended_ms.is_some());
            report.unknown += usize::from(!task.created || (task.ending.is_some() && task.ended_ms.is_none()));
            report.calls += calls.len();
            report.duplicates += calls.len().saturating_sub(1);
            if task.created && task.ending.is_none() && calls.is_empty() {
                report.wrong.push(format!("{LOST}: {id} {task:?}"));
            }
            if let Some(call) = calls.first() {
                report.latest_ms = report.latest_ms.max(call.at_ms.saturating_sub(task.due_ms));
            }
            for call in calls {
                if call.at_ms < task.due_ms {
                    report.wrong.push(format!("{EARLY}: {task:?} {call:?}"));
                }
                let after = |ended_ms: u64| ended_ms < task.due_ms || call.at_ms > ended_ms + UNDER_WAY_MS;
                let is_made_anew = task.unheard && task.ending == Some(Ending::Delete);
                if task.ended_ms.is_some_and(after) && !is_made_anew {
                    report.wrong.push(format!("{UNWANTED}: {task:?} {call:?}"));
                }
                if call.due_ms != task.due_ms || call.run != calls[0].run || call.key != call.run {
                    report.wrong.push(format!("not the same run: {task:?} {call:?} {:?}", calls[0]));
                }
            }
        }
        report
    }
}

/// A load of which less was acknowledged shows nothing.
const ACKNOWLEDGED_MIN: usize = 10;

/// With these words what is wrong begins.
pub const LOST: &str = "lost";
pub const EARLY: &str = "early";
pub const UNWANTED: &str = "fired after its delete or pause";

impl Report {
    /// How much of what is wrong begins with this word.
    pub fn count(&self, word: &str) -> usize {
        self.wrong.iter().filter(|wrong| wrong.starts_with(word)).count()
    }

    /// Panics where something is wrong, or where there was nothing that could be.
    #[track_caller]
    pub fn check(&self, name: &str) {
        self.check_what_there_was(name);
        assert!(self.acknowledged >= ACKNOWLEDGED_MIN, "{name}: hardly anything was acknowledged");
        assert!(self.endings > 0, "{name}: no delete and no pause was acknowledged");
    }

    /// Panics where something is wrong; a node that could take nothing has promised nothing.
    #[track_caller]
    pub fn check_what_there_was(&self, name: &str) {
        println!("{name}: {self}");
        let shown = &self.wrong[..self.wrong.len().min(10)];
        assert!(self.wrong.is_empty(), "{name}: {self}: {shown:#?}");
    }
}
