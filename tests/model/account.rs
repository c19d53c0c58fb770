//! Each due time is accounted for, and each callback had a reason to come.

use serde_json::Value;

use crate::check::{Checker, ARRIVES_MS, LATE_MS};
use crate::life::{is_success, meet, misfire, Life, EVER};
use crate::script::SCRIPT_MS;
use crate::story::{Hit, Span};

/// The retries of a run as it is written in a definition.
pub fn retry(def: &Value, field: &str) -> Option<f64> {
    def["retry"][field].as_f64()
}

/// A due time as the audit shows it.
pub struct Entry<'a> {
    pub due: u64,
    pub upto: u64,
    pub state: &'a str,
    pub run: &'a str,
    pub parent: &'a str,
    pub attempts: u64,
    pub is_triggered: bool,
    pub lateness_ms: u64,
    pub reason: &'a str,
}

impl Entry<'_> {
    pub fn of(value: &Value) -> Entry<'_> {
        let due = value["due_time_ms"].as_u64().unwrap_or(0);
        Entry {
            due,
            upto: value["upto_ms"].as_u64().unwrap_or(due),
            state: value["state"].as_str().unwrap_or_default(),
            run: value["run_id"].as_str().unwrap_or_default(),
            parent: value["parent_run_id"].as_str().unwrap_or_default(),
            attempts: value["attempts"].as_u64().unwrap_or(0),
            is_triggered: value["triggered"] == true,
            lateness_ms: value["lateness_ms"].as_u64().unwrap_or(0),
            reason: value["reason"].as_str().unwrap_or_default(),
        }
    }

    pub fn has_fired(&self) -> bool {
        self.attempts > 0 || matches!(self.state, "succeeded" | "failed" | "unknown")
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, "pending" | "running" | "scheduled")
    }
}

impl Checker<'_> {
    /// From when to when something kept this due time from firing, as far as the model can tell: pauses, a target
    /// that could not be reached, a leader that was away.
    fn held(&self, life: &Life<'_>) -> Vec<Span> {
        let mut held: Vec<Span> = life.pauses.iter().map(|(from, to)| (from.0, to.1)).collect();
        held.extend(self.story.away);
        for version in &life.versions {
            let url = version.def["callback"]["url"].as_str().unwrap_or_default();
            if url.contains(":9/") {
                held.push((version.from.0, version.to.1));
            } else if url.contains(&format!(":{}/", self.story.door_port)) {
                held.push((version.from.0, self.story.door_ms));
            }
        }
        held
    }

    /// When a due time can have been fired for sure, for all that held it up.
    fn free_from(&self, life: &Life<'_>, due: u64) -> u64 {
        let mut held = self.held(life);
        held.sort();
        let mut at = due;
        for (from, to) in held {
            if from <= at.saturating_add(LATE_MS) && to.saturating_add(LATE_MS) > at {
                at = to.saturating_add(LATE_MS);
            }
        }
        at
    }

    /// Whether a run other than this one may have been going at that time; and whether one was for sure.
    fn is_going(&self, life: &Life<'_>, but: &str, at: u64) -> (bool, bool) {
        let (mut perhaps, mut surely) = (false, false);
        for (run, hits) in life.runs.iter().filter(|(run, _)| **run != but) {
            let (first, last) = (hits[0], hits[hits.len() - 1]);
            let from = first.due_ms.min(first.span.0);
            let has_ended = is_success(last) || hits.len() > 1 || self.is_last(life, hits);
            let until = if has_ended { last.span.1.saturating_add(LATE_MS) } else { EVER };
            perhaps |= from <= at.saturating_add(LATE_MS) && at <= until;
            let is_cancelled = life.cancelled.contains(run);
            let ends = last.span.1.min(EVER);
            surely |=
                !is_cancelled && first.span.0 + ARRIVES_MS < at && at + ARRIVES_MS < ends && self.story.away.is_none();
        }
        // One that has not reached its target cannot be seen there.
        perhaps |= self.held(life).iter().any(|span| meet((span.0, span.1.saturating_add(2 * LATE_MS)), (at, at)));
        perhaps |= life.triggered.iter().any(|trigger| trigger.span.0 <= at && at <= trigger.span.1 + LATE_MS);
        (perhaps, surely)
    }

    /// Whether the attempts of a run are all that it has.
    fn is_last(&self, life: &Life<'_>, hits: &[&Hit]) -> bool {
        let span = (hits[0].due_ms.min(hits[0].span.0), hits[0].span.0);
        life.some(span, |def| retry(def, "max_attempts").is_none_or(|max| hits[hits.len() - 1].attempt as f64 >= max))
    }

    /// The due times of each schedule that was in force, against the audit.
    pub fn account(&mut self, life: &Life<'_>) {
        let story = self.story;
        let Some(look) = life.look.filter(|look| look.code == 0) else { return };
        let id = &life.plan.id;
        let all: Vec<Entry<'_>> = look.audit.iter().map(Entry::of).collect();
        let entries: Vec<&Entry<'_>> = all.iter().filter(|entry| !entry.is_triggered).collect();
        let seen: Vec<u64> = entries.iter().map(|entry| entry.due).collect();
        let shown = || all.iter().map(|e| format!("{} {} {}", story.ms(e.due), e.state, e.run)).collect::<Vec<_>>();
        let shown = shown();
        let until = look.span.0;
        let mut possible = Vec::new();
        for rhythm in life.rhythms() {
            let due = rhythm.due(look.span.1 + 2000, &seen);
            let counts = |due: u64, open: bool| {
                entries.iter().any(|entry| entry.due == due && (entry.has_fired() || open && entry.is_open()))
            };
            let fired: Vec<(u64, bool)> = due.iter().copied().filter(|(due, _)| counts(*due, false)).collect();
            let to_fire: Vec<(u64, bool)> = due.iter().copied().filter(|(due, _)| counts(*due, true)).collect();
            let mut last = life.gone.0.min(life.ended.0);
            if let Some(max) = rhythm.def["max_runs"].as_u64() {
                let sure = fired.iter().filter(|(_, is_sure)| *is_sure).count() as u64;
                self.must(sure <= max, id, "max_runs", || format!("{sure} due times have fired, of {max}: {shown:?}"));
                if let Some((due, _)) = to_fire.get(max as usize - 1) {
                    last = last.min(*due);
                }
            }
            for (due, is_sure) in due {
                possible.push(due);
                let is_put_off = life.named.iter().any(|(given, to)| given.0 <= due && due <= *to);
                if is_sure && due + 200 <= until && due <= last && !is_put_off {
                    let is_there = entries.iter().any(|entry| entry.due <= due && due <= entry.upto);
                    self.must(is_there, id, "each due time is accounted for", || {
                        format!(
                            "{} of {}, in force from {:?} to {:?}, is not in {shown:?}",
                            story.ms(due),
                            rhythm.def["format"],
                            rhythm.from,
                            rhythm.to
                        )
                    });
                }
            }
        }
        possible.extend(life.named.iter().map(|(_, at)| *at));
        for (at, entry) in entries.iter().enumerate() {
            // A named time that is past means at once.
            let is_named = |(given, at): &(Span, u64)| *at <= given.1 && given.0 <= entry.due && entry.due <= given.1;
            let is_meant = possible.contains(&entry.due) || life.named.iter().any(is_named);
            self.must(is_meant, id, "no other due time is in the audit", || {
                format!("{}: {shown:?}", story.ms(entry.due))
            });
            let is_twice = entries[..at].iter().any(|other| other.due == entry.due);
            self.must(!is_twice, id, "a due time is in the audit once", || {
                format!("{}: {shown:?}", story.ms(entry.due))
            });
            if !look.is_early && entry.due <= self.story.start_ms + SCRIPT_MS {
                self.state(life, entry, &entries);
            }
        }
    }

    /// Whether a due time ended as it may.
    fn state(&mut self, life: &Life<'_>, entry: &Entry<'_>, entries: &[&Entry<'_>]) {
        let story = self.story;
        let id = &life.plan.id;
        let hits = life.runs.get(entry.run).map(Vec::as_slice).unwrap_or_default();
        let first = hits.first().map_or(EVER, |hit| hit.span.0);
        let until = first.min(self.free_from(life, entry.due).saturating_add(60_000)).max(entry.due);
        let in_force: Vec<&Value> =
            life.in_force((entry.due.saturating_sub(ARRIVES_MS), until)).map(|version| &version.def).collect();
        let jitter = in_force.iter().filter_map(|def| def["jitter_ms"].as_u64()).max().unwrap_or(0);
        let due = entry.due + jitter;
        let free = self.free_from(life, due);
        let what =
            format!("{} {} ({}) first sent at {}", story.ms(entry.due), entry.state, entry.reason, story.ms(first));
        let may = |says: &dyn Fn(&Value) -> bool| in_force.iter().any(|def| says(def));
        let has_overlap = |def: &Value| def["overlap"] == "skip" || def["overlap"] == "queue";
        match entry.state {
            "missed" => {
                let is_late = |def: &Value| {
                    let (policy, window_ms) = misfire(def);
                    policy != "all"
                        && free.saturating_add(LATE_MS) > entry.due + window_ms
                        && (free > due || self.was_going_before(life, entry, window_ms))
                };
                self.must(may(&is_late), id, "missed only where nothing could fire", || what.clone());
            }
            "skipped" => {
                let is_steered = !life.named.is_empty();
                let (perhaps, _) = self.is_going(life, entry.run, entry.due + jitter);
                self.must(is_steered || may(&has_overlap) && perhaps, id, "skipped only where a run was going", || {
                    what.clone()
                });
            }
            "cancelled" => {
                let is_asked = life.cancelled.contains(&entry.run) || life.ended.0 < EVER;
                self.must(is_asked, id, "cancelled only where that was asked", || what.clone());
            }
            "unknown" => {
                let is_allowed = may(&|def| def["delivery"] == "at_most_once") && self.story.away.is_some();
                self.must(is_allowed, id, "unknown only at most once", || what.clone());
            }
            _ => {}
        }
        if entry.has_fired() && self.story.away.is_none() && first < EVER {
            let is_free = free == due && !in_force.iter().any(|def| has_overlap(def)) && life.named.is_empty();
            if is_free {
                self.must(first <= due + LATE_MS, id, "fires when it is due", || what.clone());
            }
            // An attempt that could not connect does not show at the target.
            let late = entry.lateness_ms;
            let is_too_old = |def: &&Value| {
                let (policy, window_ms) = misfire(def);
                late > window_ms + LATE_MS
                    && (policy == "skip"
                        || policy == "latest"
                            && entries.iter().any(|other| {
                                other.state == "missed"
                                    && other.due > entry.due
                                    && first > other.upto + jitter + window_ms + LATE_MS
                            }))
            };
            let versions: Vec<&Value> = life.in_force((entry.due, first)).map(|version| &version.def).collect();
            if life.is_periodic() {
                self.must(!versions.iter().all(is_too_old), id, "too old to fire", || what.clone());
            }
            let all_overlap = !in_force.is_empty() && in_force.iter().all(|def| has_overlap(def));
            if all_overlap {
                let (_, surely) = self.is_going(life, entry.run, first);
                self.must(!surely, id, "fires only where no run is going", || what.clone());
            }
        }
        self.outcome(life, entry, hits, &what);
    }

    /// Whether an earlier due time can have held this one up for so long.
    fn was_going_before(&self, life: &Life<'_>, entry: &Entry<'_>, window_ms: u64) -> bool {
        self.is_going(life, entry.run, entry.due).0 && window_ms < 10_000
    }

    /// Whether what the target answered is what is said of the run.
    pub fn outcome(&mut self, life: &Life<'_>, entry: &Entry<'_>, hits: &[&Hit], what: &str) {
        let id = &life.plan.id;
        let Some(first) = hits.first() else {
            if entry.state == "succeeded" {
                self.must(false, id, "succeeded only where the target said so", || what.to_owned());
            }
            return;
        };
        let has_succeeded = hits.iter().any(|hit| is_success(hit) && hit.span.1 < u64::MAX);
        let span = (first.due_ms.min(first.span.0), first.span.0);
        match entry.state {
            "succeeded" => self.must(has_succeeded, id, "succeeded only where the target said so", || what.to_owned()),
            "failed" => {
                let is_told = hits.iter().any(|hit| is_success(hit) && !self.story.may_be_lost(hit));
                self.must(!is_told, id, "failed only where the target said so", || what.to_owned());
                let steers = hits.iter().any(|hit| hit.status == 410 || hit.header.is_some());
                let may_end = |def: &Value| {
                    let elapsed = retry(def, "max_elapsed_ms").unwrap_or(f64::MAX);
                    let last = hits[hits.len() - 1].span.1.saturating_add(LATE_MS);
                    def["delivery"] == "at_most_once"
                        || entry.attempts as f64 >= retry(def, "max_attempts").unwrap_or(5.0)
                        || (last - first.due_ms.min(last)) as f64 > elapsed
                };
                self.must(steers || life.some(span, may_end), id, "failed only after its last attempt", || {
                    what.to_owned()
                });
            }
            _ => {}
        }
    }

    /// What the target has seen of a task.
    pub fn callbacks(&mut self, life: &Life<'_>) {
        let story = self.story;
        let id = &life.plan.id;
        let away = self.story.away.is_some();
        for hit in &life.hits {
            let (at, run) = (hit.span.0, hit.run.as_str());
            let what =
                format!("run {run} due {} attempt {} came at {}", story.ms(hit.due_ms), hit.attempt, story.ms(at));
            self.must(at >= hit.due_ms, id, "nothing comes early", || what.clone());
            self.must(at <= life.gone.1.saturating_add(ARRIVES_MS), id, "nothing comes after a delete", || {
                what.clone()
            });
            let is_paused = |(from, to): &(Span, Span)| {
                let is_triggered_meanwhile = hit.due_ms >= from.0 && !self.is_of_schedule(life, hit);
                from.1 + ARRIVES_MS < at && at < to.0 && !is_triggered_meanwhile
            };
            self.must(!life.pauses.iter().any(is_paused), id, "nothing comes in a pause", || what.clone());
            let is_after_end = at > life.ended.1 && self.is_of_schedule(life, hit);
            self.must(!is_after_end, id, "nothing comes after the task has ended", || what.clone());
            // An attempt is made by the definition of its moment.
            let is_meant = |def: &Value| def["callback"]["body"]["v"] == hit.version && hit.body["v"] == hit.version;
            self.must(
                life.some((at.saturating_sub(ARRIVES_MS), at), is_meant),
                id,
                "goes where the task goes now",
                || format!("{what} with version {} and {}", hit.version, hit.body),
            );
        }
        for hits in life.runs.values() {
            let first = hits[0];
            let span = (first.due_ms.min(first.span.0), first.span.0);
            for pair in hits.windows(2) {
                let (one, two) = (pair[0], pair[1]);
                let what = || format!("run {}: {one:?}, then {two:?}", one.run);
                self.must(one.fence < two.fence || away, id, "fences grow", what);
                self.must(one.due_ms == two.due_ms, id, "a run has one due time", what);
                if away {
                    continue;
                }
                self.must(!is_success(one), id, "no attempt after a success", what);
                self.must(two.attempt == one.attempt + 1, id, "attempts are counted", what);
                self.must(two.span.0 >= one.span.1, id, "one attempt at a time", what);
                let backoff = |def: &Value| {
                    let times = retry(def, "multiplier").unwrap_or(2.0).powf(one.attempt as f64 - 1.0);
                    (retry(def, "min_backoff_ms").unwrap_or(0.0) * times)
                        .min(retry(def, "max_backoff_ms").unwrap_or(0.0))
                };
                let waited = two.span.0.saturating_sub(one.span.1.saturating_add(LATE_MS)) as f64;
                if self.held(life).iter().all(|span| !meet(*span, (one.span.0, two.span.0))) {
                    self.must(
                        life.some(span, |def| waited <= backoff(def)),
                        id,
                        "a retry waits no longer than it may",
                        what,
                    );
                }
            }
            let last = hits[hits.len() - 1];
            let what = || {
                format!(
                    "due {} began {} last {} attempts {}",
                    story.ms(first.due_ms),
                    story.ms(first.span.0),
                    story.ms(last.span.0),
                    last.attempt
                )
            };
            let (what, due) = (what(), first.due_ms);
            // One whose leader died has no outcome, and is made again.
            let again = if away { 1.0 } else { 0.0 };
            let is_within = |def: &Value| match def["delivery"] == "at_most_once" {
                // One that was recorded and did not leave has a number, too.
                true => hits.len() == 1,
                false => last.attempt as f64 <= retry(def, "max_attempts").unwrap_or(5.0) + again,
            };
            self.must(
                hits.len() == 1 && last.attempt == 1 || life.some(span, is_within),
                id,
                "no more attempts than allowed",
                || what.clone(),
            );
            if last.attempt > 1 {
                let late = last.span.0.saturating_sub(due + ARRIVES_MS) as f64;
                let in_time = |def: &Value| late <= retry(def, "max_elapsed_ms").unwrap_or(f64::MAX);
                self.must(life.some(span, in_time), id, "no retry after max_elapsed_ms", || what.clone());
            }
        }
        for trigger in &life.triggered {
            let run = trigger.data["run_id"].as_str().unwrap_or_default();
            let is_over = trigger.span.1 + LATE_MS > life.gone.0 || life.cancelled.contains(&run);
            if !is_over
                && self
                    .held(life)
                    .iter()
                    .all(|span| !meet(*span, (trigger.span.0, trigger.span.1 + LATE_MS)) || self.is_pause(life, *span))
            {
                let hit = life.runs.get(run).map(|hits| hits[0]);
                let is_right = hit.is_some_and(|hit| trigger.span.0 <= hit.due_ms && hit.due_ms <= trigger.span.1);
                self.must(is_right, id, "a trigger makes a run", || {
                    format!("{run} at {}: {hit:?}", story.ms(trigger.span.0))
                });
            }
        }
    }

    fn is_pause(&self, life: &Life<'_>, span: Span) -> bool {
        life.pauses.iter().any(|(from, to)| (from.0, to.1) == span)
    }

    /// Whether a run is of the schedule for sure: no trigger, no parent, nothing that is made at the creation.
    fn is_of_schedule(&self, life: &Life<'_>, hit: &Hit) -> bool {
        let is_triggered = life.triggered.iter().any(|trigger| trigger.data["run_id"] == hit.run)
            || life.calls.iter().any(|call| call.code == 1051 && call.span.0 <= hit.due_ms);
        let is_first =
            life.plan.task["run_now"] == true && life.versions.first().is_some_and(|first| hit.due_ms <= first.from.1);
        !is_triggered && hit.parent.is_none() && !is_first
    }
}
