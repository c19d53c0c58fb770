//! What a task's calls make of it: its definitions one after the other, its pauses, and its due times.

use std::collections::BTreeMap;

use serde_json::{json, Value};

use crate::script::{Call, Plan};
use crate::story::{Done, Hit, Look, Span, Story};

/// An answer that steers, or ends its task, has its effect this long after it was sent, on a busy machine.
const EFFECT_MS: u64 = 1500;
/// A change of one of these finds the next due time anew.
const SCHEDULE: [&str; 7] = ["format", "delay_ms", "timezone", "start_time", "end_time", "max_runs", "jitter_ms"];
pub const EVER: u64 = u64::MAX / 4;

/// A definition, from the call that made it until the next one did.
#[derive(Clone, Debug)]
pub struct Version {
    pub def: Value,
    /// When it came into force.
    pub from: Span,
    /// When the next one did.
    pub to: Span,
    /// It has other due times than the one before.
    pub is_rhythm: bool,
}

/// A task, as its calls say.
pub struct Life<'a> {
    pub plan: &'a Plan,
    pub calls: Vec<&'a Done>,
    pub versions: Vec<Version>,
    /// From when it was paused, and from when not any more.
    pub pauses: Vec<(Span, Span)>,
    /// When it was deleted, by a call or by an answer.
    pub gone: Span,
    /// When an answer has ended it.
    pub ended: Span,
    /// Times that an answer has named as the next one: when it was given, and the time.
    pub named: Vec<(Span, u64)>,
    /// Its callbacks in the order in which they came, and by run.
    pub hits: Vec<&'a Hit>,
    pub runs: BTreeMap<&'a str, Vec<&'a Hit>>,
    pub alerts: Vec<&'a Hit>,
    pub look: Option<&'a Look>,
    pub triggered: Vec<&'a Done>,
    pub cancelled: Vec<&'a str>,
}

/// Whether two spans can be at the same time.
pub fn meet(a: Span, b: Span) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

/// The change laid over a definition, as `updateTask` does.
pub fn laid_over(def: &Value, change: &Value) -> Value {
    let mut def = def.clone();
    for (field, value) in change.as_object().into_iter().flatten() {
        let fields = def.as_object_mut().expect("an object");
        match (field.as_str(), value) {
            (_, Value::Null) => drop(fields.remove(field)),
            ("callback", Value::Object(of_callback)) => {
                for (field, value) in of_callback {
                    fields["callback"][field] = value.clone();
                }
            }
            ("format", _) => {
                fields.remove("delay_ms");
                fields.insert(field.clone(), value.clone());
            }
            _ => drop(fields.insert(field.clone(), value.clone())),
        }
    }
    def
}

impl<'a> Life<'a> {
    pub fn of(plan: &'a Plan, story: &'a Story) -> Life<'a> {
        let calls: Vec<&Done> = story.calls.iter().filter(|call| call.task == plan.id).collect();
        let (mut hits, mut alerts, mut runs) = (Vec::new(), Vec::new(), BTreeMap::<&str, Vec<&Hit>>::new());
        for hit in story.hits.iter().filter(|hit| hit.task == plan.id) {
            match hit.alert {
                Some(_) => alerts.push(hit),
                None => {
                    hits.push(hit);
                    runs.entry(&hit.run).or_default().push(hit);
                }
            }
        }
        let look = story.looks.iter().rev().filter(|look| look.task == plan.id).max_by_key(|look| look.code == 0);
        let never = (EVER, EVER);
        let mut life = Life {
            plan,
            calls,
            versions: Vec::new(),
            pauses: Vec::new(),
            gone: never,
            ended: never,
            named: Vec::new(),
            hits,
            runs,
            alerts,
            look,
            triggered: Vec::new(),
            cancelled: Vec::new(),
        };
        life.read_calls();
        life.read_answers(story);
        life
    }

    fn read_calls(&mut self) {
        for call in self.calls.clone() {
            if call.code != 0 {
                // A delete whose answer was lost, sent again.
                if call.call == Call::Delete && call.code == 1040 && call.tries > 1 {
                    self.gone = call.span;
                }
                continue;
            }
            match &call.call {
                Call::Create if self.versions.is_empty() => self.begin(call.sent.clone(), call.span, true),
                Call::Update(_) => {
                    let mut change = call.sent.clone();
                    change.as_object_mut().expect("an object").remove("task_id");
                    let before = self.versions.last().expect("it was created").def.clone();
                    let def = laid_over(&before, &change);
                    let is_rhythm = SCHEDULE
                        .iter()
                        .any(|field| def[field] != before[field] && !is_zone_as_left_out(field, &def, &before));
                    self.begin(def, call.span, is_rhythm);
                }
                Call::Pause => self.pause(call.span),
                Call::Resume => {
                    self.pauses.iter_mut().filter(|pause| pause.1 .0 == EVER).for_each(|pause| pause.1 = call.span)
                }
                Call::Delete => self.gone = call.span,
                Call::Trigger => self.triggered.push(call),
                Call::Cancel => self.cancelled.extend(call.sent["run_id"].as_str()),
                Call::Create | Call::Again | Call::Other => {}
            }
        }
    }

    fn begin(&mut self, def: Value, from: Span, is_rhythm: bool) {
        if let Some(last) = self.versions.last_mut() {
            last.to = from;
        }
        self.versions.push(Version { def, from, to: (EVER, EVER), is_rhythm });
    }

    fn pause(&mut self, from: Span) {
        if self.pauses.last().is_none_or(|pause| pause.1 .0 < EVER) {
            self.pauses.push((from, (EVER, EVER)));
        }
    }

    fn read_answers(&mut self, story: &Story) {
        for hit in &self.hits {
            let by = if story.may_be_lost(hit) { EVER } else { hit.span.1.saturating_add(EFFECT_MS) };
            let span = (hit.span.0, by);
            match &hit.header {
                Some(("xcron-delete", _)) => self.gone = self.gone.min(span),
                Some(("xcron-next-at", at)) => self.named.push((span, at.parse().expect("a time"))),
                Some(("xcron-pause", _)) => {
                    let resumed = self.calls.iter().find(|call| call.call == Call::Resume && call.span.1 > span.0);
                    // Of a resume at the same time is not known whether it came before or after.
                    let by = |call: &Done| if meet(call.span, span) { EVER } else { call.span.1 };
                    let to = resumed.map_or((EVER, EVER), |call| (call.span.0, by(call)));
                    self.pauses.push((span, to));
                }
                _ if hit.status == 410 => self.ended = self.ended.min(span),
                _ => {}
            }
        }
    }

    pub fn is_periodic(&self) -> bool {
        self.plan.task["type"] == 1
    }

    /// The definitions that can have been in force at some moment of a span.
    pub fn in_force(&self, span: Span) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(move |version| meet((version.from.0, version.to.1), span))
    }

    /// Whether one that was in force then, all in all, says so.
    pub fn some(&self, span: Span, says: impl Fn(&Value) -> bool) -> bool {
        self.in_force(span).any(|version| says(&version.def))
    }

    /// Whether it can have been paused at a moment of the span.
    pub fn may_be_paused(&self, span: Span) -> bool {
        self.pauses.iter().any(|(from, to)| meet((from.0, to.1), span))
    }

    /// Whether the task was there, for sure, in all of the span; and may have been at a moment of it.
    pub fn is_there(&self, span: Span) -> bool {
        self.versions.first().is_some_and(|first| first.from.1 < span.0) && span.1 < self.gone.0
    }

    pub fn rhythms(&self) -> Vec<Rhythm<'_>> {
        let mut rhythms: Vec<Rhythm<'_>> = Vec::new();
        for version in &self.versions {
            match rhythms.last_mut() {
                Some(last) if !version.is_rhythm => last.to = version.to,
                _ => {
                    let created = self.versions[0].from;
                    rhythms.push(Rhythm { def: &version.def, from: version.from, to: version.to, created });
                }
            }
        }
        rhythms
    }
}

/// UTC is the zone of the configuration.
fn is_zone_as_left_out(field: &str, a: &Value, b: &Value) -> bool {
    let zone = |def: &Value| def["timezone"].as_str().unwrap_or("UTC").to_owned();
    field == "timezone" && zone(a) == zone(b)
}

/// A schedule, from the change that brought it to the one that brought another.
pub struct Rhythm<'a> {
    pub def: &'a Value,
    pub from: Span,
    pub to: Span,
    created: Span,
}

impl Rhythm<'_> {
    /// Its due times until then. Each either for sure, or perhaps, where it was changed at about that time.
    pub fn due(&self, until: u64, seen: &[u64]) -> Vec<(u64, bool)> {
        let (earliest, latest) = (self.from.0, self.to.1.min(until));
        let is_sure = |due: u64| self.from.1 < due && due <= self.to.0;
        let bound = |field: &str, default: u64| self.def[field].as_u64().map_or(default, |seconds| seconds * 1000);
        let (start, end) = (bound("start_time", 0), bound("end_time", EVER));
        let format = self.def["format"].as_str().unwrap_or_default();
        let mut all = Vec::new();
        if self.def["type"] == 2 {
            if let Some(delay_ms) = self.def["delay_ms"].as_u64() {
                let (from, to) = (self.from.0 + delay_ms, self.from.1 + delay_ms);
                // Of the moment at which it was taken is known only from when to when.
                let due = seen.iter().copied().find(|due| (from..=to).contains(due)).unwrap_or(to);
                all.push((due, due <= self.to.0));
            } else {
                let due = format.parse::<u64>().expect("unix ms");
                all.push((due, due <= self.to.0));
            }
        } else if let Some(every) = format.strip_prefix("@every ") {
            let every = (every.trim_end_matches('s').parse::<f64>().expect("seconds") * 1000.0) as u64;
            let base = match start {
                // Counted from the creation, whose moment the due times tell that were seen.
                0 => seen
                    .iter()
                    .map(|due| due - (due - self.created.0) / every * every)
                    .find(|base| *base <= self.created.1),
                start => Some(start),
            };
            if let Some(base) = base {
                let first = if start > 0 { 0 } else { 1 };
                let due = (first..).map(|n| base + n * every).take_while(|due| *due <= latest);
                all.extend(due.map(|due| (due, is_sure(due))));
            }
        } else {
            let seconds = seconds(format);
            let due = (earliest / 1000..=latest / 1000).filter(|second| seconds[(second % 60) as usize]);
            all.extend(due.map(|second| (second * 1000, is_sure(second * 1000))));
        }
        all.retain(|(due, _)| *due <= until && (self.def["type"] == 2 || (*due > earliest && *due <= latest)));
        all.retain(|(due, _)| (start..=end).contains(due));
        all
    }
}

/// Which seconds of a minute a format stands for that leaves all else open.
pub fn seconds(format: &str) -> [bool; 60] {
    let field = format.strip_suffix(" * * * * *").unwrap_or_else(|| panic!("{format} is none of the script's"));
    let mut due = [false; 60];
    for item in field.split(',') {
        let (from, step) = item.split_once('/').unwrap_or((item, "60"));
        let step = if item == "*" { 1 } else { step.parse().expect("a step") };
        let from = if from == "*" { 0 } else { from.parse().expect("a second") };
        (from..60).step_by(step).for_each(|second| due[second] = true);
    }
    due
}

/// The policy for misfires: its name and its window.
pub fn misfire(def: &Value) -> (String, u64) {
    let default = json!({ "policy": "latest", "window_ms": 60_000 });
    let misfire = if def["misfire"].is_object() { &def["misfire"] } else { &default };
    let policy = misfire["policy"].as_str().unwrap_or("latest").to_owned();
    (policy, misfire["window_ms"].as_u64().unwrap_or(60_000).max(100))
}

/// Whether an answer with this status is a success.
pub fn is_success(hit: &Hit) -> bool {
    (200..300).contains(&hit.status)
}
