//! Holds a story against the model: the calls' answers and the reads. Due times and runs are in `account`, chains,
//! alerts and what is left in the end in `outcome`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::life::{seconds, Life, EVER};
use crate::script::{Call, Script};
use crate::story::{Done, Read, Story};

/// A request has arrived this long after it was allowed to leave, on a busy machine.
pub const ARRIVES_MS: u64 = 400;
/// What is to happen at once has happened by then, on a busy machine.
pub const LATE_MS: u64 = 2500;

/// Something that the documents do not allow.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub task: String,
    pub rule: &'static str,
    pub what: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.task, self.rule, self.what)
    }
}

/// What was found, and how often each rule had something to say.
pub struct Checker<'a> {
    pub story: &'a Story,
    pub found: Vec<Found>,
    pub counts: BTreeMap<&'static str, u64>,
}

impl Checker<'_> {
    /// Notes that a rule was asked, and that it does not hold where that is so.
    pub fn must(&mut self, holds: bool, task: &str, rule: &'static str, what: impl FnOnce() -> String) {
        *self.counts.entry(rule).or_default() += 1;
        if !holds {
            self.found.push(Found { task: task.to_owned(), rule, what: what() });
        }
    }
}

/// Checks a story.
pub fn check<'a>(script: &Script, story: &'a Story) -> Checker<'a> {
    let mut checker = Checker { story, found: Vec::new(), counts: BTreeMap::new() };
    let lives: Vec<Life<'_>> = script.plans.iter().map(|plan| Life::of(plan, story)).collect();
    checker.limit();
    for life in &lives {
        checker.answers(life);
        checker.callbacks(life);
        checker.account(life);
        checker.left(life);
        checker.alerts(life);
        checker.chains(life, &lives);
    }
    for read in &story.reads {
        checker.read(read, &lives);
    }
    checker
}

impl Checker<'_> {
    /// `limits.tasks_max` holds to the task, whoever asks at the same time.
    fn limit(&mut self) {
        let limit = self.story.limit.clone();
        let count = |codes: &[u64], code: u64| codes.iter().filter(|each| **each == code).count();
        let made = count(&limit.filled, 0);
        self.must(made == limit.places, "filler", "limit of tasks", || format!("{made} of {} were made", limit.places));
        let refused = count(&limit.filled, 1070);
        self.must(made + refused == limit.filled.len(), "filler", "limit of tasks", || format!("{:?}", limit.filled));
        for (first, again, other) in &limit.again {
            self.must(first == again, "filler", "the same create again at the limit", || {
                format!("{first}, then {again}")
            });
            self.must(*other == 1041, "filler", "another definition at the limit", || format!("code {other}"));
        }
        let made = count(&limit.batch, 0);
        self.must(made == limit.freed, "filler", "limit of tasks in a batch", || {
            format!("{made} were made where {} were free: {:?}", limit.freed, limit.batch)
        });
    }

    /// The code of each answer, and what comes with it.
    fn answers(&mut self, life: &Life<'_>) {
        for call in &life.calls {
            let allowed = self.codes(life, call);
            if allowed.is_empty() {
                continue;
            }
            self.must(allowed.contains(&call.code), &call.task, "code of an answer", || {
                let Done { call, sent, code, message, .. } = call;
                format!("{call:?} {sent} was answered {code} ({message}), not one of {allowed:?}")
            });
            if call.code == 0 {
                self.answered(life, call);
            }
        }
    }

    fn answered(&mut self, life: &Life<'_>, call: &Done) {
        let id = &call.task;
        let next = &call.data["next_time"];
        match &call.call {
            Call::Again
                if !life
                    .calls
                    .iter()
                    .any(|other| matches!(other.call, Call::Update(_)) && other.span.0 < call.span.1) =>
            {
                let first = life.calls.iter().find(|other| other.call == Call::Create);
                let first = first.map_or(&Value::Null, |first| &first.data);
                self.must(*first == call.data, id, "the same create again", || format!("{first}, then {}", call.data));
            }
            Call::Pause => {
                let data = &call.data;
                self.must(data["state"] == "paused" && next.is_null(), id, "answer to a pause", || data.to_string());
            }
            Call::Create | Call::Update(_) => {
                let paused = life.may_be_paused(call.span);
                let Some(version) = life.versions.iter().find(|version| version.from == call.span) else { return };
                let change_keeps_late_one = !version.is_rhythm;
                if let (Some(next), false, false) = (next.as_u64(), paused, change_keeps_late_one) {
                    let (def, floor) = (&version.def, call.span.0 / 1000);
                    let fits = fits(def, next) && next >= floor;
                    self.must(fits, id, "next time in an answer", || format!("{next} with {def}, at {}", call.span.0));
                }
            }
            _ => {}
        }
    }

    /// The codes that the documents allow; none: the model has no opinion.
    fn codes(&self, life: &Life<'_>, call: &Done) -> Vec<u64> {
        let is_there = life.is_there(call.span) && !life.plan.task["retain_s"].is_u64();
        let may_be_there =
            life.versions.first().is_some_and(|first| first.from.0 <= call.span.1) && call.span.0 <= life.gone.1;
        if call.code == 1051 && self.story.away.is_some() {
            return Vec::new();
        }
        if !may_be_there && call.call != Call::Create {
            return vec![1040];
        }
        let or_gone = |codes: &[u64]| -> Vec<u64> {
            let gone = (!is_there).then_some(1040);
            codes.iter().copied().chain(gone).collect()
        };
        match &call.call {
            Call::Create => {
                let has_end = !life.plan.task["end_time"].is_null();
                if has_end {
                    vec![0, 1008]
                } else {
                    vec![0]
                }
            }
            Call::Again if !is_there => Vec::new(),
            Call::Again => {
                let is_changed = life
                    .versions
                    .iter()
                    .any(|version| version.from.0 < call.span.1 && version.def["callback"] != call.sent["callback"]);
                let is_touched = life.versions.len() > 1;
                match (is_touched, is_changed) {
                    (false, _) => vec![0],
                    _ if life.in_force(call.span).all(|version| version.def["callback"] != call.sent["callback"]) => {
                        vec![1041]
                    }
                    _ => vec![0, 1041],
                }
            }
            Call::Other if !is_there => Vec::new(),
            Call::Other => vec![1041],
            Call::Update(change) => {
                let is_circle = change["on_success"] == serde_json::json!([call.task]);
                let has_end = change["end_time"].is_string()
                    || life.versions.iter().any(|version| !version.def["end_time"].is_null());
                let is_schedule = ["format", "end_time", "start_time", "timezone", "max_runs", "jitter_ms"]
                    .iter()
                    .any(|field| change.get(field).is_some());
                match () {
                    () if is_circle => or_gone(&[1041]),
                    () if has_end && is_schedule => or_gone(&[0, 1008]),
                    () => or_gone(&[0]),
                }
            }
            Call::Pause | Call::Resume => {
                if self.is_finished(life, call.span.0) {
                    return or_gone(&[1041]);
                }
                if self.may_be_finished(life, call.span.1) {
                    or_gone(&[0, 1041])
                } else {
                    or_gone(&[0])
                }
            }
            Call::Trigger | Call::Delete => or_gone(&[0]),
            Call::Cancel => {
                let run = call.sent["run_id"].as_str().unwrap_or_default();
                let hits = life.runs.get(run).map(Vec::as_slice).unwrap_or_default();
                let has_succeeded = hits
                    .iter()
                    .any(|hit| (200..300).contains(&hit.status) && hit.span.1.saturating_add(LATE_MS) < call.span.0);
                if has_succeeded {
                    vec![1040]
                } else {
                    vec![0, 1040]
                }
            }
        }
    }

    /// A task that is due once and has succeeded, well before then.
    fn is_finished(&self, life: &Life<'_>, at: u64) -> bool {
        let has_succeeded = |run: &str| {
            let hits = &life.runs[run];
            let is_due_once =
                life.triggered.iter().all(|trigger| trigger.data["run_id"] != run) && hits[0].parent.is_none();
            is_due_once
                && hits.iter().any(|hit| (200..300).contains(&hit.status) && hit.span.1.saturating_add(LATE_MS) < at)
        };
        !life.is_periodic()
            && life.rhythms().len() == 1
            && self.story.away.is_none()
            && life.runs.keys().any(|run| has_succeeded(run))
    }

    pub fn may_be_finished(&self, life: &Life<'_>, at: u64) -> bool {
        if life.ended.0 <= at {
            return true;
        }
        if !life.is_periodic() {
            return life.hits.iter().any(|hit| hit.span.0 <= at)
                || life.rhythms().iter().any(|rhythm| rhythm.due(at, &[]).iter().any(|(due, _)| *due <= at));
        }
        life.versions.iter().any(|version| version.def["max_runs"].is_u64() || version.def["end_time"].is_u64())
    }

    /// What a read shows is what the task was at a moment while it was read.
    fn read(&mut self, read: &Read, lives: &[Life<'_>]) {
        let story = self.story;
        let (name, value) = (read.filter.0.as_str(), read.filter.1.as_str());
        let mut listed = BTreeSet::new();
        if name == "task_id" {
            let life = lives.iter().find(|life| life.plan.id == value).expect("it has a plan");
            if life.is_there(read.span) && life.plan.task["retain_s"].is_null() {
                self.must(read.code == 0, value, "a read finds the task", || {
                    format!("code {} at {}", read.code, story.ms(read.span.0))
                });
            }
            if read.code != 0 {
                return;
            }
        } else if read.code != 0 {
            return;
        }
        let (story, span) = (self.story, read.span);
        let when = move || format!("at {}", span.0 as i64 - story.start_ms as i64);
        for row in &read.tasks {
            let id = row["task_id"].as_str().unwrap_or_default();
            let Some(life) = lives.iter().find(|life| life.plan.id == id) else {
                if !id.starts_with("filler") {
                    self.must(false, id, "a list has tasks that are there", || row.to_string());
                }
                continue;
            };
            let is_new = listed.insert(id);
            self.must(is_new || name == "task_id", id, "a list has a task once", when);
            let passes = match name {
                "state" => row["state"] == value,
                "type" => row["type"].as_u64() == value.parse().ok(),
                "tag" => row["tags"]["team"] == "sales",
                "name_prefix" => row["name"].as_str().is_some_and(|name| name.starts_with(value)),
                _ => true,
            };
            self.must(passes, id, "a list is filtered", || format!("{name}={value} shows {row} {}", when()));
            self.row(life, row, read.span);
        }
        if name.is_empty() || name == "type" {
            for life in lives.iter().filter(|life| life.is_there(read.span) && life.plan.task["retain_s"].is_null()) {
                let is_meant = name.is_empty() || life.plan.task["type"].as_u64() == value.parse().ok();
                if is_meant {
                    self.must(listed.contains(life.plan.id.as_str()), &life.plan.id, "a list is complete", when);
                }
            }
        }
    }

    /// A task as it is shown.
    pub fn row(&mut self, life: &Life<'_>, row: &Value, span: (u64, u64)) {
        let id = &life.plan.id;
        let when = || format!("{row} at {}", span.0 as i64 - self.story.start_ms as i64);
        let when = when();
        let shows = |def: &Value| {
            ["name", "tags", "format", "max_runs", "end_time", "jitter_ms", "on_success", "callback"].iter().all(
                |field| {
                    let (shown, meant) = (&row[*field], &def[*field]);
                    shown == meant || (*field == "format" && def["delay_ms"].is_u64())
                },
            )
        };
        self.must(life.some(span, shows), id, "a read shows the definition", || when.clone());

        let (state, next) = (row["state"].as_str().unwrap_or_default(), row["next_time"].as_u64());
        self.must(state == "active" || next.is_none(), id, "next time only of an active task", || when.clone());
        let is_paused = life.pauses.iter().any(|(from, to)| from.1 < span.0 && span.1 < to.0);
        if is_paused && !self.may_be_finished(life, span.1) {
            self.must(state == "paused", id, "a paused task is shown as paused", || when.clone());
        }
        if !life.may_be_paused(span) {
            self.must(state != "paused", id, "no other task is shown as paused", || when.clone());
        }
        if !self.may_be_finished(life, span.1) {
            self.must(state != "finished", id, "no other task is shown as finished", || when.clone());
        }
        if let (Some(next), true, true) = (next, life.is_periodic(), life.named.is_empty()) {
            let is_late = next < span.0 / 1000;
            let fits = if is_late && life.rhythms().len() > 1 { true } else { fits(row, next) };
            self.must(fits, id, "next time and format belong together", || when.clone());
        }
    }
}

/// Whether a due time in whole seconds is one of the definition's, as far as that shows.
pub fn fits(def: &Value, next: u64) -> bool {
    let format = def["format"].as_str().unwrap_or_default();
    if def["type"] != 1 || format.starts_with('@') {
        return true;
    }
    let bound = |field: &str, default: u64| def[field].as_u64().unwrap_or(default);
    seconds(format)[(next % 60) as usize] && (bound("start_time", 0)..=bound("end_time", EVER)).contains(&next)
}
