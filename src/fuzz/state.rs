//! The state as a leader drives it: calls, attempts, changes of leaders, late and repeated commands, in any order and
//! with clocks that jump; against what must hold of all runs.

mod calls;
mod leader;

use std::collections::{BTreeMap, HashSet};

use super::Choices;
use crate::clock::Timestamp;
use crate::command::{Command, Reply, Seq};
use crate::id::RunKey;
use crate::run::RunState;
use crate::schedule::{made_up, ZoneData, ZoneRules};
use crate::state::audit::{Course, Period};
use crate::state::{Job, State};
use crate::task::TaskSpec;

/// Steps that are looked at; what comes after tells little more.
const STEPS: usize = 400;
/// The zone of some tasks.
const ZONE: &str = "Europe/London";

/// What is known of one task from its creation to its end.
#[derive(Default)]
struct Known {
    spec: Option<TaskSpec>,
    /// Runs that have come to an outcome.
    ended: HashSet<RunKey>,
    /// How many of them have a record. One that was cancelled may get another, with the attempt that was under way.
    recorded: u64,
    /// Those of them that were fired.
    fired: u64,
    /// The latest due time of which there was a run.
    latest: Option<Timestamp>,
    /// Runs that are sent at most once, and have been.
    sent: HashSet<RunKey>,
}

struct Model {
    state: State,
    /// Applies the same and does nothing else.
    follower: State,
    now: Timestamp,
    term: u64,
    known: BTreeMap<Seq, Known>,
    /// Taken, and not sent.
    jobs: Vec<Job>,
    /// Sent, by whom and in which term, and not ended.
    sent: Vec<(Job, u64, u64)>,
    /// Some of what was applied, to be applied again.
    earlier: Vec<Command>,
    /// All that was applied.
    applied: Vec<(Timestamp, Command)>,
}

/// What was applied in a history that these bytes choose.
#[cfg(test)]
pub(crate) fn history(data: &[u8]) -> Vec<(Timestamp, Command)> {
    run_model(data).applied
}

pub(super) fn run(data: &[u8]) {
    drop(run_model(data));
}

fn run_model(data: &[u8]) -> Model {
    let mut choices = Choices::new(data);
    let now = Timestamp(1_790_000_000_000);
    let (state, follower) = (State::new(now), State::new(now));
    let (known, jobs, sent, earlier, applied) = Default::default();
    let mut model = Model { state, follower, now, term: 1, known, jobs, sent, earlier, applied };
    let rules = ZoneData::bundled().rules(ZONE).into_iter().collect();
    model.apply(Command::AddZones { rules });
    for _ in 0..STEPS {
        if !choices.more() {
            break;
        }
        model.step(&mut choices);
    }
    assert_eq!(model.state.hot_pages(), model.follower.hot_pages());
    model.reopen();
    model
}

impl Model {
    fn step(&mut self, choices: &mut Choices<'_>) {
        self.pass_time(choices);
        match choices.below(16) {
            0..=4 => self.call(choices),
            5 | 6 => self.take(choices),
            7 | 8 => self.start(choices),
            9..=11 => self.end(choices),
            12 => self.record_exception(choices),
            13 => self.change_leader(choices),
            14 => {
                if let Some(at) = choices.number().checked_rem(self.earlier.len() as u64) {
                    let again = self.earlier[at as usize].clone();
                    self.apply(again);
                }
            }
            _ => match choices.below(3) {
                0 => self.audit(choices),
                1 => self.take_over(choices),
                _ => self.reopen(),
            },
        }
        self.state.check();
    }

    fn pass_time(&mut self, choices: &mut Choices<'_>) {
        let by = match choices.below(8) {
            0..=2 => 0,
            3 | 4 => choices.below(100),
            5 => choices.below(120_000),
            6 => choices.below(90_000_000),
            // Clocks go back: by hand, or as another node leads.
            _ => {
                self.now = Timestamp(self.now.0 - choices.below(70_000));
                if self.state.elapsed() > self.now {
                    self.state.rebuild_alarms(self.now);
                }
                0
            }
        };
        self.now = self.now.plus_ms(by);
    }

    /// Applies a command and looks at what has come of it.
    fn apply(&mut self, command: Command) -> Reply {
        let kept = command.clone();
        self.applied.push((self.now, command.clone()));
        let reply = self.state.apply(self.now, command.clone());
        // Its bytes, the links of one change, the due times that are looked at, and the open runs of a task and of each
        // that it triggers: nothing else makes a command cost more.
        let bytes = crate::command::Encoded::of(&command).map_or(0, |encoded| encoded.len());
        let most = bytes + crate::state::LINKS_MAX + 9_000 + 33 * (crate::state::OPEN_RUNS_MAX + 200);
        assert!(self.state.steps() <= most, "{} steps: {kept:?}", self.state.steps());
        assert_eq!(reply, self.follower.apply(self.now, command), "{kept:?}");
        if let (Command::Create { id, spec }, Reply::Created { .. }) = (&kept, &reply) {
            if let Some(seq) = self.state.find(id) {
                self.known.entry(seq).or_default().spec = Some((**spec).clone());
            }
        }
        if let (Command::Update { id, spec, .. }, Reply::Created { .. }) = (&kept, &reply) {
            let seq = self.state.find(id).unwrap_or_else(|| panic!("{id} was updated and is gone"));
            self.known.entry(seq).or_default().spec = Some((**spec).clone());
        }
        self.compare(&kept);
        if self.earlier.len() < 200 {
            self.earlier.push(kept);
        }
        reply
    }

    fn compare(&mut self, command: &Command) {
        let changes = self.state.freeze_changes();
        while self.state.collect_frozen(8).is_none() {}
        for (seq, history) in &changes.runs {
            let Some(task) = self.state.task(*seq) else { continue };
            let known = self.known.entry(*seq).or_default();
            for (number, run) in &history.added {
                assert!(*number < task.past.runs_recorded && !run.key.is_alert(), "{run:?} after {command:?}");
                if *number < known.recorded {
                    let again = run.state == RunState::Cancelled && known.ended.contains(&run.key);
                    assert!(again && !run.attempts.is_empty(), "{run:?} takes another one's place: {command:?}");
                    continue;
                }
                known.recorded = number + 1;
                assert!(known.ended.insert(run.key), "{:?} has ended twice: {command:?}", run.key);
                let fired = [RunState::Succeeded, RunState::Failed, RunState::Unknown].contains(&run.state);
                known.fired += u64::from(fired);
                if run.key.is_scheduled() {
                    known.latest = known.latest.max(Some(run.key.due)).max(run.upto);
                }
            }
        }
        self.known.retain(|seq, _| self.state.task(*seq).is_some());
        for (seq, known) in &mut self.known {
            let Some(task) = self.state.task(*seq) else { continue };
            assert_eq!(task.past.run_count, known.fired, "{} after {command:?}", task.id);
            for run in task.past.open.iter() {
                assert!(!known.ended.contains(&run.key), "{:?} goes on after its end: {command:?}", run.key);
                if run.key.is_scheduled() {
                    known.latest = known.latest.max(Some(run.key.due));
                }
            }
            // What has had a run never comes again.
            let (next, latest) = (task.next, known.latest);
            // What an answer has put off can have a record before what has come already.
            let free = |next| !known.ended.contains(&RunKey::scheduled(next));
            let later = next > latest || !task.past.earlier.is_empty() && next.is_none_or(free);
            assert!(next.is_none() || later, "{next:?}, {latest:?} after {command:?}");
        }
    }

    /// Whoever asks what becomes of a task's due times gets each once, in order.
    fn audit(&self, choices: &mut Choices<'_>) {
        for (_, task) in self.state.tasks_from(0) {
            let from = Timestamp(self.now.0.saturating_sub(choices.magnitude()));
            let to = self.now.plus_ms(choices.magnitude());
            let limit = 1 + choices.below(20) as usize;
            let page = Course::of(task).audit(&[], Period { from, to, after: None, limit }, self.now);
            let due: Vec<_> = page.items.iter().map(|item| item.due).collect();
            assert!(due.len() <= limit && due.windows(2).all(|pair| pair[0] < pair[1]), "{due:?}");
        }
    }

    /// Newer zone data take over, by which the clocks of the zone show something else.
    fn take_over(&mut self, choices: &mut Choices<'_>) {
        let mut ahead = || (choices.magnitude() & 0x3fff) as i32 - 0x2000;
        let (before, after) = (ahead(), ahead());
        let at = (self.now.as_secs() + choices.below(200)) as i64 - 100;
        let version = format!("3{:04}a", self.applied.len());
        let tzif = made_up(before, &[(at, after)]).into();
        let rules = vec![ZoneRules { name: ZONE.to_owned(), version: version.as_str().into(), tzif }];
        let next: Vec<_> = self.state.tasks_from(0).map(|(seq, task)| (seq, task.next)).collect();
        self.apply(Command::TakeOverZones { version, seen: self.state.next_zone(), rules });
        for (seq, next) in next {
            let now = self.state.task(seq).and_then(|task| task.next);
            assert!(
                next == now || next.is_some_and(|next| next > self.now),
                "{next:?} had come, and now there is {now:?}"
            );
        }
        assert_eq!(self.state.moving(), None, "there are few tasks");
    }

    /// What is stored is read as the same state.
    fn reopen(&mut self) {
        self.state = self.state.reopened(self.now);
        self.jobs.clear();
    }
}
