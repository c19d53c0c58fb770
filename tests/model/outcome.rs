//! Chains, alerts, and what is left in the end.

use std::collections::BTreeSet;

use serde_json::{json, Value};

use crate::account::Entry;
use crate::check::{Checker, LATE_MS};
use crate::life::{Life, EVER};
use crate::script::SCRIPT_MS;
use crate::story::Span;

/// A schedule that ends later has not ended.
const FAR_MS: u64 = 120_000;
/// What an alert that nobody takes may keep a finished task.
const ALERT_WAITS_MS: u64 = 10_000;

impl Checker<'_> {
    /// The definitions under which a run can have begun, where the target has seen it.
    fn began<'l>(&self, life: &'l Life<'_>, run: &str) -> Vec<&'l Value> {
        let Some(hits) = life.runs.get(run) else { return Vec::new() };
        let span: Span = (hits[0].due_ms.min(hits[0].span.0), hits[0].span.0);
        life.in_force(span).map(|version| &version.def).collect()
    }

    /// The runs that a run has triggered are those that it had to.
    pub fn chains(&mut self, life: &Life<'_>, lives: &[Life<'_>]) {
        let links = |def: &Value, field: &str| -> BTreeSet<String> {
            def[field].as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect()
        };
        let children: BTreeSet<String> = life
            .versions
            .iter()
            .flat_map(|version| links(&version.def, "on_success").into_iter().chain(links(&version.def, "on_failure")))
            .collect();
        let Some(look) = life.look.filter(|look| look.code == 0) else { return };
        for entry in look.audit.iter().map(Entry::of).filter(|entry| entry.due <= self.story.start_ms + SCRIPT_MS) {
            let field = match entry.state {
                "succeeded" => "on_success",
                "failed" => "on_failure",
                "cancelled" | "skipped" | "missed" | "unknown" => "none",
                _ => continue,
            };
            let began = self.began(life, entry.run);
            for child in lives.iter().filter(|other| children.contains(&other.plan.id)) {
                let shown = child.look.into_iter().flat_map(|look| look.audit.iter().map(Entry::of));
                let shown = shown.filter(|made| made.parent == entry.run).count();
                let sent = child.runs.values().filter(|hits| hits[0].parent.as_deref() == Some(entry.run)).count();
                // A run that is sent at most once can be lost with its leader: it is shown, and was never sent.
                let may_be_lost = self.story.away.is_some() && child.plan.task["delivery"] == "at_most_once";
                let one = shown == 1 && (sent == 1 || may_be_lost && sent == 0);
                let (all, some) = (
                    began.iter().all(|def| links(def, field).contains(&child.plan.id)),
                    began.iter().any(|def| links(def, field).contains(&child.plan.id)),
                );
                let Entry { run, due, state, .. } = entry;
                let child_id = &child.plan.id;
                let what = || format!("run {run} due {due} has {state}: {shown} runs of {child_id}, {sent} sent");
                if all && !began.is_empty() && child.gone.0 == EVER {
                    self.must(one, &life.plan.id, "an outcome triggers", what);
                } else if !some {
                    self.must(shown + sent == 0, &life.plan.id, "nothing else is triggered", what);
                }
            }
        }
    }

    /// Each alert is about what it says, and each that must be sent came.
    pub fn alerts(&mut self, life: &Life<'_>) {
        let id = &life.plan.id;
        let look = life.look.filter(|look| look.code == 0);
        let entries: Vec<Entry<'_>> = look.into_iter().flat_map(|look| look.audit.iter().map(Entry::of)).collect();
        let is_old = |entry: &&Entry<'_>| entry.due <= self.story.start_ms + SCRIPT_MS;
        for alert in &life.alerts {
            let (event, body) = (alert.alert.as_deref().unwrap_or_default(), &alert.body);
            let run = &body["run"];
            let is_right = body["event"] == event
                && body["task_id"] == json!(id)
                && alert.key == format!("{}-{event}", alert.run)
                && run["run_id"] == json!(alert.run)
                && run["task_id"] == json!(id)
                && run["due_time_ms"].is_u64()
                && life.some((0, EVER), |def| {
                    def["name"] == body["name"] || def["name"].is_null() && body.get("name").is_none()
                });
            self.must(is_right, id, "an alert is as it should be", || {
                format!("{event} {} {}: {body}", alert.run, alert.key)
            });
            let state = match event {
                "failed" => ["failed", "unknown"],
                "missed" => ["missed", "missed"],
                _ => ["succeeded", "succeeded"],
            };
            let is_of = run["state"].as_str().is_none_or(|shown| state.contains(&shown));
            self.must(is_of, id, "an alert is about what it says", || body.to_string());
            if let (Some(shown), Some(entry)) =
                (run["attempts"].as_array(), entries.iter().filter(is_old).find(|entry| entry.run == alert.run))
            {
                let same = shown.len() as u64 == entry.attempts && run["state"] == entry.state;
                self.must(same, id, "an alert shows the run", || format!("{body}, {} {}", entry.state, entry.attempts));
            }
        }
        for entry in entries.iter().filter(|entry| entry.due <= self.story.start_ms + SCRIPT_MS) {
            let began = self.began(life, entry.run);
            let asks = |def: &&Value| {
                let on = def["alert"]["on"].as_array();
                let is_failed = on.map_or(def["alert"].is_object(), |on| on.contains(&json!("failed")));
                is_failed && !def["alert"]["url"].as_str().unwrap_or_default().contains(":9/")
            };
            let sent = life
                .alerts
                .iter()
                .filter(|alert| alert.run == entry.run && alert.alert.as_deref() == Some("failed"))
                .count();
            let is_failed = matches!(entry.state, "failed" | "unknown");
            let what = || format!("{sent} alerts of {} run {} due {}", entry.state, entry.run, entry.due);
            if is_failed && !began.is_empty() && began.iter().all(asks) {
                self.must(sent == 1 || sent > 1 && self.story.away.is_some(), id, "a failed run alerts", what);
            } else if !is_failed || !began.iter().any(asks) && !began.is_empty() {
                self.must(sent == 0, id, "nothing else alerts", what);
            }
        }
    }

    /// What is left of a task.
    pub fn left(&mut self, life: &Life<'_>) {
        let story = self.story;
        let Some(look) = life.look else { return };
        let id = &life.plan.id;
        self.kept(life);
        if look.code != 0 || look.is_early {
            return;
        }
        let (before, task) = (&look.query.0, &look.query.1);
        self.row(life, task, look.span);
        let entries: Vec<Entry<'_>> = look.audit.iter().map(Entry::of).collect();
        let state = task["state"].as_str().unwrap_or_default();
        let url = task["callback"]["url"].as_str().unwrap_or_default();
        let is_old = |entry: &&Entry<'_>| entry.due <= self.story.start_ms + SCRIPT_MS;
        let open: Vec<String> = entries
            .iter()
            .filter(is_old)
            .filter(|entry| entry.is_open())
            .map(|entry| format!("{} {} {}", story.ms(entry.due), entry.state, entry.reason))
            .collect();
        if state != "paused" && !url.contains(":9/") {
            self.must(open.is_empty(), id, "what is due comes to an end", || format!("{open:?}"));
        }
        if before == task && entries.iter().all(|entry| entry.state != "not_kept") && look.triggers_not_kept == 0 {
            let ended =
                entries.iter().filter(|entry| matches!(entry.state, "succeeded" | "failed" | "unknown")).count();
            self.must(task["run_count"] == json!(ended), id, "run_count", || {
                format!("{} and {ended}", task["run_count"])
            });
            let newest = look.runs.first().map_or(&Value::Null, |run| &run["run_id"]);
            let newest_due = look.runs.first().map_or(&Value::Null, |run| &run["due_time_ms"]);
            let last = &task["last_run"];
            let is_newest = last["run_id"] == *newest || last["due_time_ms"] == *newest_due;
            self.must(is_newest, id, "last_run is the newest", || format!("{last} and {newest}"));
        }
        let is_sorted =
            look.runs.windows(2).all(|pair| pair[0]["due_time_ms"].as_u64() >= pair[1]["due_time_ms"].as_u64());
        self.must(is_sorted, id, "runs are listed newest first", || format!("{:?}", look.runs));
        // What changed in between belongs to no one moment.
        if before == task {
            self.finished(life, task, &entries);
        }
    }

    /// A task is finished when it has come to its end, and not before.
    fn finished(&mut self, life: &Life<'_>, task: &Value, entries: &[Entry<'_>]) {
        let id = &life.plan.id;
        let look = life.look.expect("it was looked at");
        let Some(last) = life.rhythms().pop() else { return };
        // After its last due time, which can be before `end_time`.
        let end = task["end_time"].as_u64().map_or(EVER, |end| end * 1000);
        let is_once = !life.is_periodic();
        let of_schedule = entries.iter().filter(|entry| !entry.is_triggered);
        let seen: Vec<u64> = of_schedule.map(|entry| entry.due).collect();
        let due: Vec<u64> = last.due(end.min(look.span.1 + FAR_MS), &seen).into_iter().map(|(due, _)| due).collect();
        let has_ended = end < look.span.1 + FAR_MS && due.last().is_none_or(|due| *due < look.span.0);
        let fired =
            entries.iter().filter(|entry| !entry.is_triggered && due.contains(&entry.due) && entry.has_fired()).count()
                as u64;
        let has_run = task["max_runs"].as_u64().is_some_and(|max| fired >= max);
        let by_schedule = has_ended || has_run || is_once && due.iter().any(|due| *due < look.span.1);
        let (state, none_open) =
            (task["state"].as_str().unwrap_or_default(), entries.iter().all(|entry| !entry.is_open()));
        let what = || format!("{task}: {fired} fired, ended {has_ended}");
        if state == "finished" {
            self.must(by_schedule || life.ended.0 < EVER, id, "finished only at its end", what);
        } else if (by_schedule || life.ended.1 < EVER)
            && due.last().is_none_or(|due| due + LATE_MS < look.span.0)
            && none_open
            && life.named.is_empty()
        {
            self.must(state != "active", id, "finished at its end", what);
        }
    }

    /// A finished task is kept for its `retain_s`, and then it goes.
    fn kept(&mut self, life: &Life<'_>) {
        let story = self.story;
        let Some(retain_s) = life.plan.task["retain_s"].as_u64() else { return };
        let (Some(look), Some(last)) = (life.look, life.hits.last()) else { return };
        let id = &life.plan.id;
        let goes = last.span.1.saturating_add(retain_s * 1000).max(last.span.1.saturating_add(ALERT_WAITS_MS));
        if goes.saturating_add(2 * LATE_MS) < look.span.0 {
            self.must(look.code == 1040, id, "a finished task goes", || {
                format!(
                    "still there at {}, last called at {}, kept {retain_s} s: {}",
                    story.ms(look.span.0),
                    story.ms(last.span.0),
                    look.query.0
                )
            });
        }
        let early = self.story.reads.iter().find(|read| {
            read.filter.1 == *id
                && read.code == 1040
                && read.span.0 > life.versions[0].from.1
                && read.span.1 < last.span.0.saturating_add(retain_s * 1000)
        });
        self.must(early.is_none(), id, "a finished task is kept", || {
            format!("gone at {}", story.ms(early.map_or(0, |read| read.span.1)))
        });
    }
}
