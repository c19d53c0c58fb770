//! What callers do.

use super::Model;
use crate::choices::Choices;
use crate::clock::Timestamp;
use crate::command::{Command, Reply};
use crate::id::TaskId;
use crate::task::{
    Alert, AlertEvent, Callback, Delivery, Misfire, MisfirePolicy, Options, Overlap, TaskSpec, TaskState, Timing,
};

const FORMATS: [&str; 9] = [
    "* * * * *",
    "*/5 * * * * ?",
    "@every 1s",
    "@every 90s",
    "30 1 * * *",
    "0 0 30 2 *",
    "0 0 0 1 1 ? 2027-2029",
    "* * * * * ? 2026",
    "no schedule",
];

impl Model {
    fn id(&self, choices: &mut Choices<'_>) -> TaskId {
        let name = choices.pick(&["a", "b", "c", "d"]);
        name.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    pub(super) fn call(&mut self, choices: &mut Choices<'_>) {
        let id = self.id(choices);
        let seq = self.state.find(&id);
        match choices.below(12) {
            0..=3 => {
                let spec = Box::new(self.spec(choices));
                let exists = seq.is_some();
                let reply = self.apply(Command::Create { id: id.clone(), spec });
                let found = self.state.find(&id);
                assert!(found.is_some() || matches!(reply, Reply::Refused(_)), "{reply:?}");
                assert!(!exists || found == seq, "{id} was replaced");
            }
            4 | 5 => {
                let spec = Box::new(self.spec(choices));
                let old = seq.and_then(|seq| self.known.get(&seq)?.spec.clone()).unwrap_or_else(|| (*spec).clone());
                let base = if choices.one_in(8) { 1 } else { old.digest() };
                self.apply(Command::Update { id, base, old: Box::new(old), spec });
            }
            6 => {
                let reply = self.apply(Command::Pause { id });
                let paused = Reply::Task { state: TaskState::Paused, next: None };
                assert!(reply == paused || matches!(reply, Reply::Refused(_)), "{reply:?}");
                if let (Reply::Task { .. }, Some(seq)) = (reply, seq) {
                    assert!(self.state.task(seq).is_none_or(|task| task.next_fire().is_none()), "paused, and due");
                }
            }
            7 => drop(self.apply(Command::Resume { id })),
            8 => drop(self.apply(Command::Trigger { id })),
            9 => {
                let keys = seq.and_then(|seq| Some((seq, self.state.task(seq)?)));
                let Some((seq, task)) = keys else { return };
                let due = task.next.map(crate::id::RunKey::scheduled);
                // Of an alert there is no id to cancel it by.
                let keys: Vec<_> = task.runs().map(|run| run.key).chain(due).collect();
                if !keys.is_empty() {
                    let key = choices.pick(&keys);
                    self.apply(Command::Cancel { seq, key });
                }
            }
            10 if choices.one_in(2) => {
                assert_eq!(self.apply(Command::Delete { id: id.clone() }) == Reply::Done, seq.is_some());
                assert_eq!(self.state.find(&id), None);
            }
            _ => {
                let (seqs, _) = self.state.expired(self.now, 60, (None, 0), 10);
                self.apply(Command::Collect { seqs, retain_s: 60 });
            }
        }
    }

    fn spec(&self, choices: &mut Choices<'_>) -> TaskSpec {
        let now = self.now.0;
        let near = |choices: &mut Choices<'_>| match choices.below(4) {
            0 => Timestamp(choices.magnitude()),
            1 => Timestamp(now),
            _ => Timestamp(now.saturating_add(choices.below(200_000)).saturating_sub(50_000)),
        };
        let timing = match choices.below(6) {
            0 => {
                let due = near(choices);
                Timing::At { format: choices.pick(&["x", "y"]).to_owned(), due }
            }
            1 => Timing::After { delay_ms: choices.magnitude() & 0xfffff },
            _ => Timing::Periodic {
                format: choices.pick(&FORMATS).to_owned(),
                timezone: choices.pick(&["UTC", super::ZONE]).to_owned(),
            },
        };
        let url = choices.pick(&["http://a/", "http://b:1/x"]);
        let mut spec = TaskSpec::new(timing, Callback::post(url, "{}"));
        if choices.flag() {
            return spec;
        }
        let mut followers = |n: u64| -> Vec<TaskId> { (0..choices.below(n)).map(|_| self.id(choices)).collect() };
        let (on_success, on_failure) = (followers(3), followers(2));
        let alert = choices.flag().then(|| Alert { url: "http://c/".to_owned(), on: AlertEvent::ALL.to_vec() });
        spec.options = Options {
            start: choices.one_in(4).then(|| near(choices)),
            end: choices.one_in(4).then(|| near(choices)),
            max_runs: choices.one_in(3).then(|| 1 + choices.below(4)),
            jitter_ms: if choices.one_in(3) { choices.magnitude() & 0xffff } else { 0 },
            run_now: choices.one_in(4),
            retain_s: choices.one_in(4).then(|| choices.below(100)),
            overlap: choices.pick(&Overlap::ALL),
            misfire: choices
                .flag()
                .then(|| Misfire { policy: choices.pick(&MisfirePolicy::ALL), window_ms: choices.below(90_000) }),
            delivery: choices.pick(&Delivery::ALL),
            on_success,
            on_failure,
            alert,
        };
        spec
    }
}
