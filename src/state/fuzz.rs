//! What holds of every state, whatever commands it has been given.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::Serialize;

use super::alarms::Alarm;
use super::record::{self, HotPage};
use super::zones::{key_of, TimetableKey};
use super::{Rhythm, State, Task};
use crate::clock::Timestamp;
use crate::command::{Command, Encoded};
use crate::schedule::ZoneData;
use crate::task::TaskState;

impl Task {
    /// The courses follow on each other, and on what has had a run.
    fn check_earlier(&self) {
        let mut from = self.next;
        for course in &self.past.earlier {
            assert!(from.is_some_and(|from| from <= course.upto), "{}: {from:?} and {course:?}", self.id);
            assert!(course.then.is_none_or(|then| then > course.upto), "{}: {course:?}", self.id);
            from = course.then;
        }
    }
}

impl State {
    /// Adds the rules of the zone that this command names, as a leader does before it writes the command.
    pub(crate) fn know_zone_of(&mut self, command: &Command) {
        let encoded = Encoded::of(command).unwrap_or_else(|e| panic!("{e}"));
        if let Some(rules) = encoded.zone().and_then(|name| ZoneData::bundled().rules(name)) {
            self.apply(Timestamp(0), Command::AddZones { rules: vec![rules] });
        }
    }

    /// What the log entry that was applied last has cost, in steps of any kind.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    /// Checks that all parts of the state agree.
    ///
    /// # Panics
    /// Where they do not.
    pub(crate) fn check(&self) {
        let tasks: Vec<_> = self.tasks_from(0).collect();
        assert_eq!(tasks.len(), self.len(), "tasks and ids");
        let (mut open, mut finished, mut namers) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut timetables: HashMap<TimetableKey, usize> = HashMap::new();
        let mut targets: HashMap<Arc<str>, usize> = HashMap::new();
        for &(seq, task) in &tasks {
            assert!(
                seq < self.next_seq && (self.find(&task.id) == Some(seq)) != task.past.deleted,
                "{} is not found",
                task.id
            );
            task.past.open.check();
            if !task.past.open.is_empty() {
                open.insert(seq);
            }
            if task.past.finished.is_some() {
                finished.insert((task.past.finished, seq));
            }
            let rhythms = std::iter::once(&task.rhythm).chain(task.past.earlier.iter().map(|course| &course.rhythm));
            for rhythm in rhythms {
                if let Rhythm::Periodic(table) = rhythm {
                    *timetables.entry(key_of(table)).or_default() += 1;
                }
            }
            task.check_earlier();
            *targets.entry(task.target.clone()).or_default() += 1;
            let options = task.options.iter().filter(|_| !task.past.deleted);
            namers.extend(options.flat_map(|o| o.on_success.iter().chain(&o.on_failure)).map(|id| (id.clone(), seq)));
            let keys: BTreeSet<_> = task.past.open.iter().map(|run| run.key).collect();
            assert_eq!(
                keys.len(),
                task.past.open.len(),
                "{}: two open runs have one key: {:?}",
                task.id,
                task.past.open
            );
            let next_is_open =
                task.past.open.iter().any(|run| run.key.is_scheduled() && Some(run.key.due) == task.next);
            assert!(!next_is_open, "{}: its next due time has a run already", task.id);
            let is_finished = task.state == TaskState::Finished;
            assert_eq!(is_finished, task.past.finished.is_some(), "{}", task.id);
            assert!(!is_finished || task.next.is_none(), "{} is finished and has a due time", task.id);
            let idle = task.next.is_none() && task.runs().next().is_none();
            assert!(is_finished || !idle, "{} has nothing to come and is not finished", task.id);
        }
        assert_eq!(open, self.open, "tasks with open runs");
        assert_eq!(finished, self.finished, "finished tasks");
        assert_eq!(targets, self.targets, "targets");
        assert_eq!(namers, self.namers, "tasks that name others");
        let known = self.timetables.iter().map(|(key, (_, tasks))| (key.clone(), *tasks)).collect();
        assert_eq!(timetables, known, "timetables");
        self.check_zones();
        self.check_alarms();
    }

    fn check_alarms(&self) {
        let (mut in_wheel, mut due) = (0, 0);
        for (_, task) in self.tasks_from(0) {
            let wake = match task.past.taken {
                None => task.wake(),
                Some(upto) => task.wake_after(Some(upto)),
            };
            let at = match task.alarm.get() {
                Alarm::Silent => None,
                Alarm::Wheel(_, at) => {
                    in_wheel += 1;
                    Some(at)
                }
                Alarm::Fresh(at) => {
                    due += 1;
                    Some(at)
                }
            };
            assert_eq!(at, wake, "{}: the alarm and what is to be done", task.id);
        }
        assert_eq!((in_wheel, due), (self.waiting_len(), self.due_len()), "alarms");
    }

    /// What a restart at `now` makes of it: the same state.
    pub(crate) fn reopened(&self, now: Timestamp) -> State {
        fn read<T: Serialize + DeserializeOwned>(value: &T) -> T {
            let bytes = record::encode(value).unwrap_or_else(|e| panic!("{e}"));
            record::decode(&bytes).unwrap_or_else(|e| panic!("{e}"))
        }
        let done = |restored: Result<(), String>| restored.unwrap_or_else(|e| panic!("{e}"));
        let (mut again, pages) = (State::new(now), self.hot_pages());
        // In the order of the records' keys, and the globals last.
        self.stored_zones().for_each(|(number, zone)| done(again.restore_zone(number, read(&zone))));
        pages.iter().flatten().for_each(|(seq, task)| done(again.restore(*seq, read(task))));
        self.write_blocks().iter().for_each(|(block, writes)| done(again.restore_writes(*block, read(writes))));
        done(again.restore_globals(read(&self.globals())));
        again.check();
        assert_eq!(again.hot_pages(), pages);
        assert_eq!(again.globals(), self.globals());
        assert_eq!(again.write_blocks(), self.write_blocks());
        assert!(again.stored_zones().eq(self.stored_zones()));
        again
    }

    /// The pages of hot states, as a checkpoint would write all of them.
    pub(crate) fn hot_pages(&self) -> Vec<HotPage> {
        let numbers: BTreeSet<u64> = self.tasks_from(0).map(|(seq, _)| seq / super::record::HOT_PER_PAGE).collect();
        numbers.into_iter().filter_map(|number| self.pages.record(number)).collect()
    }
}
