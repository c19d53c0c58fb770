//! What must not be in a history.
//!
//! Each rule reads the history alone, so that it can be tried on one that was made up. Bounds are those that xcron
//! promises, not those that it happens to keep.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{History, Rhythm, Sent, Shown, ShownRun, Task, Wish};
use super::linear;

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: &'static str,
    /// What is wrong.
    pub detail: String,
}

/// How far off may be what depends on wall clocks and on the load.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A wall clock that is off by more keeps its node from firing.
    pub skew_ms: u64,
    /// After the last fault, what is due has ended within this.
    pub settle_ms: u64,
    /// What is late by less fires still.
    pub misfire_ms: u64,
    /// A node that has fired for so long has fired whatever was due before: it looks each 200 ms at the latest.
    pub firing_ms: u64,
    /// A leader that has led on for so long has recorded what it sent: the timeout of a callback, and a write.
    pub recorded_ms: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            skew_ms: super::cluster::SKEW_MS,
            settle_ms: 6_000,
            misfire_ms: super::cluster::MISFIRE_MS,
            firing_ms: 300,
            recorded_ms: 3_000,
        }
    }
}

/// States of a run that has ended.
const ENDED: [&str; 6] = ["succeeded", "failed", "skipped", "missed", "cancelled", "unknown"];

/// Everything that is wrong with a history.
pub fn check(history: &History, bounds: &Bounds) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut rule = |rule: &'static str, details: Vec<String>| {
        found.extend(details.into_iter().map(|detail| Violation { rule, detail }));
    };
    rule("finished", finished(history));
    rule("stopped", history.stopped.clone());
    rule("lost", lost(history));
    rule("unfired", unfired(history, bounds));
    rule("gap", gaps(history, bounds));
    rule("zoned", zoned(history, bounds));
    rule("early", early(history, bounds));
    rule("unwanted", unwanted(history));
    rule("run-id", run_ids(history));
    rule("fence", fences(history));
    rule("again", again(history));
    rule("twice", twice(history));
    rule("outcome", outcomes(history, bounds));
    rule("count", counts(history));
    rule("replica", replicas(history));
    rule("doubt", history.doubts.iter().map(|(node, reason)| format!("node {node}: {reason}")).collect());
    rule("stray", history.strays.clone());
    rule("order", linear::check(&history.operations));
    found
}

/// The history has an end: somebody answered the questions, and the replicas came to the same point.
fn finished(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    if history.shown.is_none() {
        wrong.push("nobody could say what has become of the tasks".to_owned());
    }
    if history.replicas.is_empty() {
        wrong.push("the replicas did not come to the same point of the log".to_owned());
    }
    wrong
}

fn asked(task: &Task, wish: Wish) -> bool {
    task.calls.iter().any(|call| call.wish == wish)
}

/// The tasks that were acknowledged, with what is shown of them.
fn acknowledged(history: &History) -> impl Iterator<Item = (&String, &Task, u64)> {
    let known = history.tasks.iter().filter(|_| history.shown.is_some());
    known.filter_map(|(id, task)| task.created.map(|created| (id, task, created)))
}

fn still_there(history: &History) -> impl Iterator<Item = (&String, &Task, &Shown)> {
    history.tasks.iter().filter_map(|(id, task)| task.shown.as_ref().map(|shown| (id, task, shown)))
}

/// An acknowledged task is there until it is deleted, and an acknowledged delete lasts.
fn lost(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, task, created) in acknowledged(history) {
        let deleted = task.calls.iter().find(|call| call.wish == Wish::Delete);
        match (deleted.map(|call| call.answered), &task.shown) {
            (None, None) => wrong.push(format!("{id}, acknowledged at {created}, is not there")),
            (Some(Some(at)), Some(_)) => wrong.push(format!("{id}, whose delete was acknowledged at {at}, is there")),
            _ => {}
        }
    }
    wrong
}

/// A one-shot task that is there, and was left alone, has reached its target. What is sent at most once may have been lost
/// on the way: then it is shown so.
fn unfired(history: &History, bounds: &Bounds) -> Vec<String> {
    let reached: BTreeSet<&str> = history.hits.iter().map(|hit| hit.task.as_str()).collect();
    let end = history.shown.unwrap_or(0).saturating_sub(bounds.settle_ms);
    let fits = |task: &Task| matches!(task.rhythm, Rhythm::Once(due) if due.is_none_or(|due| due < end));
    let once = acknowledged(history).filter(|(_, task, _)| fits(task) && task.calls.is_empty());
    let lost = |task: &Task| {
        let runs = task.shown.iter().flat_map(|shown| &shown.runs);
        task.once && runs.into_iter().any(|run| ["unknown", "failed"].contains(&run.state.as_str()))
    };
    once.filter(|(id, task, _)| !reached.contains(id.as_str()) && !lost(task))
        .map(|(id, ..)| format!("{id} never reached its target"))
        .collect()
}

/// When a schedule may rest, by true time: from each pause that was asked for until its end was answered.
fn rests(task: &Task, skew_ms: u64) -> Vec<(u64, u64)> {
    let mut rests: Vec<(u64, u64)> = Vec::new();
    for call in &task.calls {
        match (call.wish, rests.last_mut()) {
            (Wish::Pause, _) => rests.push((call.asked.saturating_sub(skew_ms), u64::MAX)),
            (Wish::Resume, Some(last)) => last.1 = call.answered.map_or(u64::MAX, |at| at + skew_ms),
            _ => {}
        }
    }
    rests
}

/// What speaks against a due time having been missed because nothing could fire. A node that has sent one thing and then
/// another in the same term led all the while, and was allowed to fire at the second. So there must be no node that did
///
/// - in the time in which this due time was to be fired, further apart than it takes to look at what is due;
/// - after having sent this very due time, so much later that it has recorded it.
fn fired_then(history: &History, bounds: &Bounds, id: &str, due: u64) -> Option<String> {
    if history.faults == 0 {
        return Some(format!("{id}: {due} was missed without a fault"));
    }
    let leader = |sent: &Sent| (sent.node, sent.fence.0);
    if let Some(of_it) = history.sent.iter().find(|sent| sent.task == id && sent.due == due) {
        let later = history.sent.iter().rfind(|sent| leader(sent) == leader(of_it))?;
        let kept = later.at > of_it.at + bounds.recorded_ms;
        return kept.then(|| format!("{id}: {due} was sent at {}, and is shown as missed", of_it.at));
    }
    if history.slow_reads {
        // Each due time of a task waits for the one before it, and each of them for a read: a task falls behind for long.
        return None;
    }
    let skew_ms = if history.clocks_off { bounds.skew_ms } else { 0 };
    let to_fire = due + skew_ms..due + bounds.misfire_ms - skew_ms;
    let mut firing: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
    for sent in history.sent.iter().filter(|sent| to_fire.contains(&sent.at)) {
        firing.entry(leader(sent)).or_insert((sent.at, sent.at)).1 = sent.at;
    }
    let ((node, _), (from, to)) = firing.into_iter().find(|(_, (from, to))| from + bounds.firing_ms < *to)?;
    Some(format!("{id}: {due} was missed, and node {node} fired from {from} to {to}"))
}

/// Each due time of a periodic task is in its audit, with something that has become of it.
fn gaps(history: &History, bounds: &Bounds) -> Vec<String> {
    let mut wrong = Vec::new();
    let end = history.shown.unwrap_or(0).saturating_sub(bounds.settle_ms);
    for (id, task, created) in acknowledged(history) {
        let (Rhythm::Every(period), Some(shown)) = (task.rhythm, &task.shown) else { continue };
        let audit: BTreeMap<u64, &ShownRun> = shown.audit.iter().map(|due| (due.due, due)).collect();
        let rests = rests(task, bounds.skew_ms);
        let first = (created + bounds.skew_ms) / period + 1;
        for due in (first..).map(|n| n * period).take_while(|due| *due < end) {
            if rests.iter().any(|(from, to)| (*from..=*to).contains(&due)) {
                continue;
            }
            match audit.get(&due).map(|due| due.state.as_str()) {
                None => wrong.push(format!("{id}: nothing is known of the due time {due}")),
                Some("missed") => wrong.extend(fired_then(history, bounds, id, due)),
                Some("not_kept" | "scheduled") => wrong.push(format!("{id}: {due} has left no trace")),
                // A run that always fails may be going, and keep those behind it waiting. One that was to be repeated when
                // its task was paused waits for the end of that.
                Some(state) if !ENDED.contains(&state) && !task.fails && !rests.iter().any(|(_, to)| *to > end) => {
                    wrong.push(format!("{id}: {due} is still {state}"));
                }
                Some(_) => {}
            }
        }
    }
    wrong
}

/// A periodic task in a zone whose rules change is due again and again, each time but at the changes after the same
/// while; at a change the next time comes earlier, or later by less than that while.
fn zoned(history: &History, bounds: &Bounds) -> Vec<String> {
    let mut wrong = Vec::new();
    let end = history.shown.unwrap_or(0).saturating_sub(bounds.settle_ms);
    let changes = history.zone_data.len().saturating_sub(1);
    for (id, task, created) in acknowledged(history) {
        let (Rhythm::Zoned(period), Some(shown)) = (task.rhythm, &task.shown) else { continue };
        if let Some(lost) = shown.audit.iter().find(|due| due.state == "not_kept") {
            wrong.push(format!("{id}: {} has left no trace", lost.due));
        }
        let come = || shown.audit.iter().filter(|due| due.state != "scheduled").map(|due| due.due);
        let due: BTreeSet<u64> = come().collect();
        if due.len() != come().count() {
            wrong.push(format!("{id}: a due time is there twice"));
        }
        if !task.calls.is_empty() {
            continue;
        }
        // From its creation to the end; the first and the last come within the same while.
        let (from, to) = (task.asked.saturating_sub(bounds.skew_ms), end);
        let due: Vec<u64> = due.into_iter().filter(|due| *due < to).collect();
        let begin = created + bounds.skew_ms;
        let first =
            due.first().is_some_and(|first| (from..=begin + 2 * period).contains(first)) || begin + 2 * period >= to;
        let last = due.last().is_some_and(|last| last + 2 * period >= to) || begin + 2 * period >= to;
        let steps: Vec<u64> = due.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let odd = steps.iter().filter(|step| **step != period).count();
        if !first || !last || odd > changes || steps.iter().any(|step| *step > 2 * period) {
            wrong.push(format!("{id}: each {period} ms it was due at {due:?}, from {created} to {to}"));
        }
    }
    wrong
}

/// No attempt is sent before its due time: by more than a clock may be off that is allowed to fire.
fn early(history: &History, bounds: &Bounds) -> Vec<String> {
    let allowed = if history.faults == 0 { 0 } else { bounds.skew_ms };
    let early = history.sent.iter().filter(|sent| sent.at + allowed < sent.due);
    early.map(|sent| format!("{} was sent {} ms early by node {}", sent.task, sent.due - sent.at, sent.node)).collect()
}

/// No attempt begins while its task is known to be deleted or paused.
fn unwanted(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for sent in &history.sent {
        let Some(task) = history.tasks.get(&sent.task) else {
            wrong.push(format!("{} was sent, and nobody has asked for it", sent.task));
            continue;
        };
        for (at, call) in task.calls.iter().enumerate() {
            let resumed = task.calls[at..].iter().find(|later| later.wish == Wish::Resume).map(|later| later.asked);
            let stopped = match (call.wish, call.answered) {
                (Wish::Delete, Some(answered)) => sent.at > answered,
                (Wish::Pause, Some(answered)) => sent.at > answered && resumed.is_none_or(|resumed| sent.at < resumed),
                _ => false,
            };
            if stopped {
                let (node, attempt, run) = (sent.node, sent.attempt, &sent.run);
                wrong.push(format!(
                    "attempt {attempt} of {run} of {} was sent by node {node} at {}, after {:?} was answered at {:?}",
                    sent.task, sent.at, call.wish, call.answered
                ));
            }
        }
    }
    wrong
}

/// Whatever is sent for a due time of a task carries one run id.
fn run_ids(history: &History) -> Vec<String> {
    let mut known: BTreeMap<(&str, u64), &str> = BTreeMap::new();
    let mut wrong = Vec::new();
    for sent in &history.sent {
        let run = *known.entry((&sent.task, sent.due)).or_insert(&sent.run);
        if run != sent.run {
            wrong.push(format!("{} due {} was sent as {run} and as {}", sent.task, sent.due, sent.run));
        }
    }
    wrong
}

/// Fences only go up: what an earlier leader sends comes before all that a later one does.
fn fences(history: &History) -> Vec<String> {
    let pairs = history.sent.windows(2).filter(|pair| pair[0].at < pair[1].at || pair[0].node == pair[1].node);
    let back = pairs.filter(|pair| pair[0].fence >= pair[1].fence);
    let told = |pair: &[Sent]| {
        let (one, two) = (&pair[0], &pair[1]);
        let (a, b, node) = (one.fence, two.fence, two.node);
        format!("at {} node {node} sent with fence {b:?}, after {a:?} of node {}", two.at, one.node)
    };
    back.map(told).collect()
}

/// Where nothing goes wrong but that nodes are stopped in order, no run is sent again that its target has answered with
/// success: whoever sent it has reported that before it ended.
fn again(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut good: BTreeMap<&str, u64> = BTreeMap::new();
    for hit in history.hits.iter().filter(|_| history.in_order) {
        if let Some(at) = good.get(hit.run.as_str()) {
            wrong.push(format!(
                "{} of {} arrived at {at}, was answered with success, and arrived again at {}",
                hit.run, hit.task, hit.at
            ));
        }
        if hit.status == 200 {
            good.insert(&hit.run, hit.at);
        }
    }
    wrong
}

/// What is sent at most once arrives at most once, whoever sends it.
fn twice(history: &History) -> Vec<String> {
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for hit in &history.hits {
        if !history.tasks.get(&hit.task).is_some_and(|task| task.once) {
            continue;
        }
        if let Some(at) = first.insert(&hit.run, hit.at) {
            wrong.push(format!("{} of {} arrived at {at}, and again at {}", hit.run, hit.task, hit.at));
        }
    }
    wrong
}

/// Where the target has answered with success, the run has succeeded; and what is due has ended.
fn outcomes(history: &History, bounds: &Bounds) -> Vec<String> {
    let mut wrong = Vec::new();
    let good: BTreeSet<&str> =
        history.hits.iter().filter(|hit| hit.status == 200).map(|hit| hit.run.as_str()).collect();
    let end = history.shown.unwrap_or(0).saturating_sub(bounds.settle_ms);
    for (id, task, shown) in still_there(history) {
        for run in &shown.runs {
            let (has_good, state) = (good.contains(run.id.as_str()), run.state.as_str());
            if state == "succeeded" && !has_good {
                wrong.push(format!("{id}: {} is shown as succeeded, and its target did not say so", run.id));
            }
            if state == "unknown" && !task.once {
                wrong.push(format!("{id}: {} is shown as unknown, and is repeated until it is known", run.id));
            }
            let left_alone = !asked(task, Wish::Pause) && !asked(task, Wish::Delete);
            if !ENDED.contains(&state) && run.due < end && !task.fails && left_alone {
                wrong.push(format!("{id}: {} is still {state}", run.id));
            }
        }
    }
    wrong
}

/// The counter of a task agrees with its history.
fn counts(history: &History) -> Vec<String> {
    let fired = |run: &&ShownRun| ["succeeded", "failed", "unknown"].contains(&run.state.as_str());
    let told = |(id, _, shown): (&String, &Task, &Shown)| {
        let fired = shown.runs.iter().filter(fired).count() as u64;
        let (from, to) = shown.run_count;
        (!(from..=to).contains(&fired)).then(|| format!("{id} counts {from} to {to} runs and shows {fired}"))
    };
    still_there(history).filter_map(told).collect()
}

/// Replicas that have applied the same are the same.
fn replicas(history: &History) -> Vec<String> {
    let same =
        |pair: &[super::history::Replica]| (pair[0].applied, pair[0].digest) == (pair[1].applied, pair[1].digest);
    let differ = history.replicas.windows(2).any(|pair| !same(pair));
    differ.then(|| format!("{:?}", history.replicas)).into_iter().collect()
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
