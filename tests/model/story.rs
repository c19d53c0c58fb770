//! What came of a script: each call with its answer, each callback, and what reads have shown, with their times.

use serde_json::Value;

use crate::check::ARRIVES_MS;
use crate::life::EVER;
use crate::script::Call;

/// From when to when something took, unix ms: it was done at some moment in between, both included.
pub type Span = (u64, u64);

#[derive(Debug, Default)]
pub struct Story {
    /// When the round began, at a whole second, unix ms.
    pub start_ms: u64,
    /// From when on something listened at the host `door`.
    pub door_ms: u64,
    pub door_port: u16,
    /// While no leader need have been there.
    pub away: Option<Span>,
    /// In the order of each task's calls.
    pub calls: Vec<Done>,
    /// In the order of arrival.
    pub hits: Vec<Hit>,
    pub reads: Vec<Read>,
    /// The last look at each task, or the one before its delete.
    pub looks: Vec<Look>,
    /// What the limit of tasks let pass.
    pub limit: Limit,
}

impl Story {
    /// A moment of the round, to be shown.
    pub fn ms(&self, at: u64) -> String {
        if at >= EVER {
            return "never".to_owned();
        }
        format!("{}", at as i64 - self.start_ms as i64)
    }

    /// In this time, too, no leader need have been there.
    pub fn was_away(&mut self, span: Span) {
        self.away = Some(self.away.map_or(span, |away| (away.0.min(span.0), away.1.max(span.1))));
    }

    /// Whether the leader can have taken the answer to a callback with it.
    pub fn may_be_lost(&self, hit: &Hit) -> bool {
        self.away.is_some_and(|away| hit.span.1.saturating_add(ARRIVES_MS) > away.0 && hit.span.0 < away.1)
    }

    /// All that has happened to a task, a line each.
    pub fn of(&self, task: &str) -> Vec<String> {
        let calls = self.calls.iter().filter(|call| call.task == task).map(|done| {
            let Done { call, sent, span, code, data, .. } = done;
            let name = format!("{call:?}");
            let name = name.split('(').next().unwrap_or_default();
            (span.0, format!("{} to {} {name} {sent}: {code} {data}", self.ms(span.0), self.ms(span.1)))
        });
        let hits = self.hits.iter().filter(|hit| hit.task == task).map(|hit| {
            let Hit { version, span, run, due_ms, attempt, status, header, alert, .. } = hit;
            let times = format!("{} to {}", self.ms(span.0), self.ms(span.1));
            let due = self.ms(*due_ms);
            (
                span.0,
                format!(
                    "{times} run {run} due {due} attempt {attempt} {alert:?} version {version}: {status} {header:?}"
                ),
            )
        });
        let mut lines: Vec<(u64, String)> = calls.chain(hits).collect();
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

/// A call about a task, and its answer.
#[derive(Clone, Debug)]
pub struct Done {
    pub task: String,
    pub call: Call,
    /// What was sent.
    pub sent: Value,
    /// From the first try to the answer.
    pub span: Span,
    /// More than one where answers told nothing.
    pub tries: u32,
    pub code: u64,
    pub data: Value,
    pub message: String,
}

/// A request that has reached the target.
#[derive(Clone, Debug)]
pub struct Hit {
    pub task: String,
    /// The version of the definition that its URL tells; of an alert 0.
    pub version: u64,
    /// From its arrival to its answer.
    pub span: Span,
    pub run: String,
    pub due_ms: u64,
    pub attempt: u64,
    pub parent: Option<String>,
    /// The answer.
    pub status: u16,
    pub header: Option<(&'static str, String)>,
    /// The event of an alert.
    pub alert: Option<String>,
    pub key: String,
    pub fence: (u64, u64),
    pub body: Value,
}

/// A list, or a task alone.
#[derive(Clone, Debug)]
pub struct Read {
    pub span: Span,
    /// The filter and its value; `task_id` for a task alone; empty: all.
    pub filter: (String, String),
    pub code: u64,
    pub tasks: Vec<Value>,
}

#[derive(Clone, Debug)]
pub struct Look {
    pub task: String,
    pub span: Span,
    /// Before a delete: whatever waited may still wait.
    pub is_early: bool,
    /// The code of `queryTask`.
    pub code: u64,
    /// `queryTask` before and after the others.
    pub query: (Value, Value),
    pub audit: Vec<Value>,
    /// `triggers_not_kept` and whether all of `listRuns` was had.
    pub triggers_not_kept: u64,
    pub runs: Vec<Value>,
}

/// Creates at the limit of tasks.
#[derive(Clone, Debug, Default)]
pub struct Limit {
    pub places: usize,
    /// The codes of creates that were sent at the same time, more than there were places.
    pub filled: Vec<u64>,
    /// The first answer to a create and to the same again, and the code of another definition.
    pub again: Vec<(Value, Value, u64)>,
    /// How many places were made, and the codes of one `createTasks` afterwards.
    pub freed: usize,
    pub batch: Vec<u64>,
}
