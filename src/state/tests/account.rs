//! Over random histories, the audit accounts for every due time of every definition that was in force when it came.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::choices::Choices;
use crate::state::audit::{Course, Period};
use crate::task::{Misfire, MisfirePolicy, Overlap};
use crate::view::{DueState, RunView};

const FORMATS: [&str; 6] =
    ["* * * * * *", "0/10 * * * * *", "*/7 * * * * ?", "@every 3s", "* * * * *", "0/20 30-45 * * * ?"];
const ZONES: [(&str, u64); 2] = [("UTC", 0), ("Asia/Kolkata", 5 * 3600 + 1800)];

/// Whether a schedule is due at a time in ms, by this file's own arithmetic. An interval counts from `anchor`.
fn is_due(format: &str, zone: &str, anchor: u64, ms: u64) -> bool {
    if format == "@every 3s" {
        return ms >= anchor && (ms - anchor).is_multiple_of(3000);
    }
    let (_, offset) = ZONES.into_iter().find(|(name, _)| *name == zone).unwrap();
    let local = ms / 1000 + offset;
    let (second, minute) = (local % 60, local / 60 % 60);
    let is_second = match format {
        "* * * * * *" => true,
        "0/10 * * * * *" => second % 10 == 0,
        "*/7 * * * * ?" => second % 7 == 0,
        "* * * * *" => second == 0,
        "0/20 30-45 * * * ?" => second % 20 == 0 && (30..=45).contains(&minute),
        _ => panic!("{format} is none of this file's"),
    };
    ms.is_multiple_of(1000) && is_second
}

struct History {
    state: State,
    now: Timestamp,
    spec: TaskSpec,
    /// Since when it says when the task is due.
    since: Timestamp,
    /// What the clock has shown at most.
    reached: Timestamp,
    /// The last time that an answer has named, or somewhat later.
    named: Timestamp,
    /// What has come, and under which definition.
    come: BTreeMap<Timestamp, String>,
    ended: Vec<RunView>,
    /// In the leader's hands.
    jobs: Vec<Job>,
    /// All that was done.
    told: Vec<String>,
}

impl History {
    fn new(choices: &mut Choices<'_>) -> History {
        let spec = definition(choices, T0);
        let (ended, jobs, told) = Default::default();
        let (state, come) = (State::new(T0), BTreeMap::new());
        let (since, reached, named) = (T0, T0, T0);
        let mut history = History { state, now: T0, spec, since, reached, named, come, ended, jobs, told };
        let spec = Box::new(history.spec.clone());
        history.apply(Command::Create { id: id("a"), spec });
        history
    }

    fn apply(&mut self, command: Command) -> Reply {
        let told = format!("{} {command:?}", self.now.ms_since(T0));
        self.state.know_zone_of(&command);
        let reply = self.state.apply(self.now, command);
        self.told.push(format!("{told} -> {reply:?}"));
        let changes = self.state.freeze_changes();
        while self.state.collect_frozen(8).is_none() {}
        let ended = changes.runs.values().flat_map(|runs| &runs.added);
        self.ended.extend(ended.map(|(_, run)| RunView::of_ended(&id("a"), run)));
        self.state.check();
        reply
    }

    /// The due times of the definition that is in force, later than `from`: nothing of the state, nor of the code that
    /// reads schedules, has a say in them.
    fn due_between(&self, from: Timestamp, upto: Timestamp) -> Vec<Timestamp> {
        let Timing::Periodic { format, timezone } = &self.spec.timing else { return Vec::new() };
        let (start, end) = (self.spec.options.start, self.spec.options.end);
        let anchor = start.unwrap_or(T0).0;
        let step = if format.starts_with('@') { 3000 } else { 1000 };
        let first = if format.starts_with('@') { anchor % step } else { 0 };
        let all = (from.0 / step..=upto.0 / step).map(|n| n * step + first).filter(|ms| from.0 < *ms && *ms <= upto.0);
        let bounded = all.filter(|ms| start.is_none_or(|start| start.0 <= *ms) && end.is_none_or(|end| *ms <= end.0));
        bounded.filter(|ms| is_due(format, timezone, anchor, *ms)).map(Timestamp).collect()
    }

    fn pass_time(&mut self, by: u64) {
        let to = self.now.plus_ms(by);
        let task = self.state.task(1).unwrap();
        let next = task.next;
        let begin = self.since.max(self.now);
        let bounded = self.spec.options.max_runs.is_some();
        let due = if bounded || begin >= to { Vec::new() } else { self.due_between(begin, to) };
        let under = format!("{:?} {:?}", self.spec.timing, self.spec.options);
        for due in due.into_iter().chain(next.filter(|next| *next <= to)) {
            self.come.entry(due).or_insert(under.clone());
        }
        self.now = to;
        self.reached = self.reached.max(to);
    }

    /// What a clock has said that was wrong has not come, and will come yet.
    fn set_back(&mut self, by: u64) {
        self.now = Timestamp(self.now.0 - by);
        self.come.retain(|due, _| *due <= self.now);
        self.state.rebuild_alarms(self.now);
    }

    /// What the leader does of what is due: in its turn, or in place of it.
    fn lead(&mut self, choices: &mut Choices<'_>) {
        let jobs = due_now(&mut self.state, self.now);
        self.jobs.extend(jobs);
        let default = Misfire { policy: MisfirePolicy::Latest, window_ms: 5000 };
        for job in std::mem::take(&mut self.jobs) {
            if !self.state.wants(job.seq, job.key, job.attempt) {
                continue;
            }
            if let Some(command) = self.state.instead_of(&job, self.now, default) {
                self.apply(command);
                self.state.release(1);
            } else if choices.one_in(4) {
                // Its target is held.
                self.jobs.push(job);
            } else {
                self.attempt(choices, job);
            }
        }
    }

    fn attempt(&mut self, choices: &mut Choices<'_>, job: Job) {
        let verdict = match choices.below(4) {
            0 => Verdict::Retry { at: self.now.plus_ms(choices.below(9000)) },
            1 => Verdict::Failed { reason: "no".into() },
            _ => Verdict::Succeeded,
        };
        let next_at = choices.one_in(6).then(|| Timestamp(self.now.0 + choices.below(40_000) - 5000));
        let steering = Steering { next_at, pause: choices.one_in(12), ..Steering::default() };
        let (attempt, key) = (attempt(job.attempt, 200), job.key);
        if let Some(at) = next_at {
            // It is later than all that has come, and than what was named before.
            self.named = at.max(self.reached.max(self.named).max(key.due).plus_ms(1));
        }
        self.apply(Command::RunEnded { seq: 1, key, attempt, term: 1, verdict, steering });
    }

    fn call(&mut self, choices: &mut Choices<'_>) {
        let name = id("a");
        match choices.below(8) {
            0..=3 => {
                let new = changed(choices, &self.spec, self.now);
                let (base, old) = (self.spec.digest(), Box::new(self.spec.clone()));
                let update = Command::Update { id: name, base, old, spec: Box::new(new.clone()) };
                if let Reply::Created { .. } = self.apply(update) {
                    let times = |spec: &TaskSpec| (spec.timing.clone(), spec.options.times());
                    if times(&new) != times(&self.spec) {
                        // Later than now where a clock was set back, or an answer has put due times off: it begins
                        // after what has come and what has a record.
                        self.since = self.reached.max(self.named);
                    }
                    self.spec = new;
                }
            }
            4 => drop(self.apply(Command::Pause { id: name })),
            5 => drop(self.apply(Command::Resume { id: name })),
            6 => drop(self.apply(Command::Trigger { id: name })),
            _ => {
                let task = self.state.task(1).unwrap();
                let keys: Vec<RunKey> =
                    task.runs().map(|run| run.key).chain(task.next.map(RunKey::scheduled)).collect();
                if !keys.is_empty() {
                    let key = choices.pick(&keys);
                    self.apply(Command::Cancel { seq: 1, key });
                }
            }
        }
    }

    /// Each due time that has come has its place.
    fn is_accounted_for(&self, over: bool) {
        let task = self.state.task(1).unwrap();
        let open = task.runs().map(|open| RunView::of_open(&task.id, open));
        let runs: Vec<RunView> = open.chain(self.ended.iter().cloned()).collect();
        let period = Period { from: Timestamp(0), to: self.now, after: None, limit: 100_000 };
        let rows = Course::of(task).audit(&runs, period, self.now).items;
        let waits = [DueState::Run(RunState::Pending), DueState::Run(RunState::Running), DueState::Scheduled];
        // Where `max_runs` has ended a schedule, nothing tells what else it would have had from what is not kept.
        let bounded = self.spec.options.max_runs.is_some();
        let gone: Vec<_> = rows.iter().filter(|row| row.state == DueState::NotKept).map(|row| row.due).collect();
        assert!(bounded || gone.is_empty(), "{gone:?}: the whole history is there\n{}", self.told.join("\n"));
        let found: BTreeSet<Timestamp> =
            rows.iter().filter(|row| !(over && waits.contains(&row.state))).map(|row| row.due).collect();
        let spans: Vec<_> = rows.iter().filter_map(|row| Some((row.due, row.upto?))).collect();
        for (due, under) in &self.come {
            let spanned = spans.iter().any(|(from, upto)| from <= due && due <= upto);
            let told = || self.told.join("\n");
            assert!(found.contains(due) || spanned, "{} of {under} is gone\n{}", due.ms_since(T0), told());
        }
    }
}

fn definition(choices: &mut Choices<'_>, now: Timestamp) -> TaskSpec {
    let format = choices.pick(&FORMATS).to_owned();
    changed(choices, &spec(Timing::Periodic { format, timezone: "UTC".into() }), now)
}

/// One field is another.
fn changed(choices: &mut Choices<'_>, old: &TaskSpec, now: Timestamp) -> TaskSpec {
    let mut new = old.clone();
    let some = choices.flag();
    match choices.below(9) {
        0 => {
            let (format, zone) = (choices.pick(&FORMATS), choices.pick(&ZONES).0);
            new.timing = Timing::Periodic { format: format.to_owned(), timezone: zone.to_owned() };
        }
        1 => new.options.start = some.then(|| Timestamp(now.0 + choices.below(40_000) - 20_000)),
        2 => new.options.end = some.then(|| Timestamp(now.0 + choices.below(90_000))),
        3 => new.options.max_runs = some.then(|| 1 + choices.below(5)),
        4 => new.options.jitter_ms = if some { choices.below(20_000) } else { 0 },
        5 => new.options.overlap = choices.pick(&Overlap::ALL),
        6 => {
            let policy = choices.pick(&MisfirePolicy::ALL);
            new.options.misfire = some.then(|| Misfire { policy, window_ms: choices.below(20_000) });
        }
        7 => new.name = Some(choices.below(1000).to_string()),
        _ => new.callback.url = format!("http://127.0.0.1:{}/", 1 + choices.below(3)),
    }
    new
}

fn history(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut history = History::new(&mut choices);
    if history.state.is_empty() {
        // Its definition never fires.
        return;
    }
    for _ in 0..60 {
        match choices.below(8) {
            0 | 1 => history.call(&mut choices),
            2 => {
                let by = choices.below(8000);
                history.set_back(by);
            }
            _ => {
                let by = if choices.one_in(10) { choices.below(200_000) } else { choices.below(4000) };
                history.pass_time(by);
                if choices.below(4) > 0 {
                    history.lead(&mut choices);
                }
            }
        }
        history.is_accounted_for(false);
    }
    // At last all is well, and each of them has come to an end.
    history.apply(Command::Resume { id: id("a") });
    let upto = history.now;
    for _ in 0..100_000 {
        history.state.release_taken();
        history.jobs.clear();
        let default = Misfire { policy: MisfirePolicy::Latest, window_ms: 5000 };
        history.now = history.now.plus_ms(500);
        let jobs = due_now(&mut history.state, history.now);
        let waits = history.state.task(1).unwrap().runs().next().is_some();
        let behind = history.state.task(1).unwrap().next.is_some_and(|next| next <= upto);
        if !waits && !behind {
            return history.is_accounted_for(true);
        }
        let next = history.state.task(1).unwrap().next;
        // What comes next is not waited for; what is open is.
        for job in jobs.into_iter().filter(|job| job.key.due <= upto || Some(job.key.due) != next) {
            let instead = history.state.instead_of(&job, history.now, default);
            let (key, verdict, steering) = (job.key, Verdict::Succeeded, Steering::default());
            let attempt = attempt(job.attempt, 200);
            history.apply(instead.unwrap_or(Command::RunEnded { seq: 1, key, attempt, term: 1, verdict, steering }));
        }
    }
    panic!("it never comes to its end:\n{}", history.told.join("\n"));
}

#[test]
fn no_due_time_vanishes_whatever_is_done_to_its_task() {
    let histories = std::env::var("HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(400u64);
    for seed in 0..histories {
        let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let bytes: Vec<u8> = (0..4000)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                (x >> 32) as u8
            })
            .collect();
        if std::panic::catch_unwind(|| history(&bytes)).is_err() {
            panic!("the history with the seed {seed}");
        }
    }
}
