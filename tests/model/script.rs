//! What a round does: tasks, the calls about each of them, and what their target answers, drawn from a seed.
//!
//! Values that only the round knows stand for themselves: `+1500ms` is the unix time in ms of the round's start and 1,500,
//! as a text; `+3s` is a whole number of seconds, likewise; the hosts `good`, `door` and `dead` are the target, the same
//! at a port that listens only from [`Script::door_ms`] on, and a port at which nobody ever listens.

use std::fmt;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{json, Value};

/// Calls are made within this time of a round.
pub const SCRIPT_MS: u64 = 9000;

/// A round.
#[derive(Clone, Debug)]
pub struct Script {
    pub seed: u64,
    pub nodes: usize,
    /// When the leader is killed; it starts again [`AWAY_MS`] later.
    pub kill_ms: Option<u64>,
    /// From when on something listens at the host `door`.
    pub door_ms: u64,
    pub plans: Vec<Plan>,
}

/// How long a node that was killed stays away.
pub const AWAY_MS: u64 = 700;

/// A task: how it is created, what is called about it, one call after the other, and how its target answers.
#[derive(Clone, Debug)]
pub struct Plan {
    pub id: String,
    pub task: Value,
    /// The answers to its first callbacks; the last one is the answer to all further ones.
    pub answers: Vec<Reply>,
    pub steps: Vec<Step>,
}

/// An answer of the target.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub after_ms: u64,
    pub header: Option<(&'static str, String)>,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub when: When,
    pub call: Call,
}

#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Not before this moment of the round.
    At(u64),
    /// As soon as so many callbacks of the task have arrived.
    Hit(usize),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// The definition of the plan.
    Create,
    /// The same once more.
    Again,
    /// The same id with another definition.
    Other,
    /// With these fields.
    Update(Value),
    Pause,
    Resume,
    Trigger,
    /// The last run that was triggered, or had a callback.
    Cancel,
    Delete,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Script { seed, nodes, kill_ms, door_ms, .. } = self;
        writeln!(
            f,
            "seed {seed}: {nodes} nodes, the leader is killed at {kill_ms:?} ms, `door` opens at {door_ms} ms"
        )?;
        for plan in &self.plans {
            writeln!(f, "  {}", plan.task)?;
            for Reply { status, after_ms, header } in &plan.answers {
                writeln!(f, "    is answered {status} after {after_ms} ms {header:?}")?;
            }
            for Step { when, call } in &plan.steps {
                writeln!(f, "    {when:?} {call:?}")?;
            }
        }
        Ok(())
    }
}

/// Chance, from a seed.
struct Dice(StdRng);

impl Dice {
    fn one_in(&mut self, n: u32) -> bool {
        self.0.random_ratio(1, n)
    }

    fn between(&mut self, from: u64, to: u64) -> u64 {
        self.0.random_range(from..=to)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.0).expect("there is something").clone()
    }

    /// A schedule by seconds, most often one that is due each second or two.
    fn format(&mut self) -> String {
        let seconds = ["*", "*/2", "1/2", "*/2", "1/2", "*/3", "1/3", "2/3", "0,3,4,9,13,20,21,30,31,40,47,51"];
        format!("{} * * * * *", self.pick(&seconds))
    }

    fn retry(&mut self) -> Value {
        let mut retry = json!({ "max_attempts": self.between(1, 4), "min_backoff_ms": self.pick(&[100, 400, 800]) });
        retry["max_backoff_ms"] = json!(self.pick(&[800, 1000]));
        retry["multiplier"] = json!(self.pick(&[1.0, 1.5, 2.0]));
        if self.one_in(3) {
            retry["max_elapsed_ms"] = json!(self.pick(&[1200, 2000, 2500]));
        }
        retry
    }

    /// Answers of which some are failures and some take their time.
    fn answers(&mut self, failures_in: u32) -> Vec<Reply> {
        let reply = |dice: &mut Dice| Reply {
            status: if dice.one_in(failures_in) { dice.pick(&[500, 503, 404, 302]) } else { dice.pick(&[200, 204]) },
            after_ms: if dice.one_in(3) { dice.between(20, 1500) } else { 0 },
            header: None,
        };
        let mut answers: Vec<Reply> = (0..6).map(|_| reply(self)).collect();
        answers.push(Reply { status: 200, ..Reply::default() });
        answers
    }

    /// A task with the options that every kind of task has.
    fn task(&mut self, id: &str) -> Value {
        let mut task = json!({ "task_id": id, "callback": callback("good", id, 0), "retry": self.retry() });
        if self.one_in(2) {
            task["name"] = json!(format!("{}-{id}", self.pick(&["red", "blue"])));
        }
        if self.one_in(2) {
            task["tags"] = json!({ "team": self.pick(&["sales", "ops"]), "at": id });
        }
        if self.one_in(8) {
            task["delivery"] = json!("at_most_once");
        }
        if self.one_in(3) {
            task["alert"] = json!({ "url": format!("http://good/alert/{id}"), "on": self.pick(&[
                vec!["failed"], vec!["failed", "recovered"], vec!["missed"], vec!["failed", "missed", "recovered"],
            ]) });
        }
        task
    }

    fn periodic(&mut self, id: &str) -> Value {
        let mut task = self.task(id);
        task["type"] = json!(1);
        let every = self.one_in(6);
        task["format"] =
            json!(if every { self.pick(&["@every 1s", "@every 1.5s", "@every 2s"]).to_owned() } else { self.format() });
        if self.one_in(2) {
            task["overlap"] = json!(self.pick(&["allow", "skip", "queue"]));
        }
        if self.one_in(3) {
            let window_ms = self.pick(&[0, 1000, 2000, 3000]);
            task["misfire"] = json!({ "policy": self.pick(&["latest", "all", "skip"]), "window_ms": window_ms });
        }
        let optional = [
            ("start_time", json!(format!("+{}s", self.between(0, 3)))),
            ("end_time", json!(format!("+{}s", self.between(5, 9)))),
            ("max_runs", json!(self.between(1, 6))),
            ("run_now", json!(true)),
            ("jitter_ms", json!(self.pick(&[300, 900, 1500]))),
            ("timezone", json!("Asia/Shanghai")),
        ];
        for (field, value) in optional {
            if self.one_in(6) {
                task[field] = value;
            }
        }
        task
    }

    fn once(&mut self, id: &str) -> Value {
        let mut task = self.task(id);
        task["type"] = json!(2);
        let ms = self.between(100, 4000);
        match self.one_in(2) {
            true => task["delay_ms"] = json!(ms),
            false => task["format"] = json!(format!("+{}ms", ms + 3000)),
        }
        task
    }

    /// Fields that a change may have.
    fn change(&mut self, id: &str, is_periodic: bool, version: u64) -> Value {
        let mut change = json!({});
        for _ in 0..self.between(1, 2) {
            let (field, value) = match self.between(0, if is_periodic { 13 } else { 5 }) {
                0 => ("name", self.pick(&[json!("green"), Value::Null])),
                1 => ("tags", json!({ "team": "new", "v": version.to_string() })),
                2 => ("retry", self.retry()),
                3 | 4 => ("callback", callback("good", id, version)),
                5 => ("alert", self.pick(&[Value::Null, json!({ "url": format!("http://good/alert/{id}") })])),
                6..=8 => ("format", json!(self.format())),
                9 => ("timezone", json!(self.pick(&["UTC", "Asia/Shanghai", "Europe/London"]))),
                10 => ("max_runs", self.pick(&[Value::Null, json!(2), json!(4)])),
                11 => ("jitter_ms", self.pick(&[Value::Null, json!(500), json!(1200)])),
                12 => ("overlap", json!(self.pick(&["allow", "skip", "queue"]))),
                _ => ("end_time", self.pick(&[Value::Null, json!("+12s"), json!("+14s")])),
            };
            change[field] = value;
        }
        change
    }
}

/// The callback of a task. Its URL and its body tell the version.
pub fn callback(host: &str, id: &str, version: u64) -> Value {
    json!({ "url": format!("http://{host}/t/{id}/{version}"), "body": { "v": version } })
}

fn at(ms: u64, call: Call) -> Step {
    Step { when: When::At(ms), call }
}

fn plan(id: &str, task: Value, answers: Vec<Reply>, mut steps: Vec<Step>) -> Plan {
    if !steps.iter().any(|step| step.call == Call::Create) {
        steps.insert(0, at(0, Call::Create));
    }
    Plan { id: id.to_owned(), task, answers, steps }
}

impl Script {
    /// The round of a seed. Even ones have three nodes, and of each four two have a kill.
    pub fn draw(seed: u64) -> Script {
        let (nodes, kill) = (if seed.is_multiple_of(2) { 3 } else { 1 }, seed % 4 >= 2);
        let mut dice = Dice(StdRng::seed_from_u64(seed));
        let mut plans = Vec::new();
        for n in 0..9 {
            plans.push(steady(&mut dice, &format!("steady{n}")));
        }
        for n in 0..8 {
            plans.push(paused(&mut dice, &format!("paused{n}")));
        }
        for n in 0..5 {
            plans.push(mended(&mut dice, &format!("mended{n}")));
        }
        for n in 0..8 {
            plans.push(single(&mut dice, &format!("single{n}")));
        }
        for n in 0..4 {
            chain(&mut dice, &format!("chain{n}"), &mut plans);
        }
        for n in 0..5 {
            plans.push(steered(&mut dice, &format!("steered{n}")));
        }
        let kill_ms = kill.then(|| dice.between(2500, 6000));
        Script { seed, nodes, kill_ms, door_ms: dice.between(3000, 5000), plans }
    }
}

/// A periodic task that calls of every kind are made about.
fn steady(dice: &mut Dice, id: &str) -> Plan {
    let task = dice.periodic(id);
    let mut steps = Vec::new();
    let (mut ms, mut version, mut is_gone) = (dice.between(300, 2000), 0, false);
    while ms < SCRIPT_MS {
        version += 1;
        let call = match dice.between(if is_gone { 4 } else { 0 }, 9) {
            0 | 1 => Call::Trigger,
            2 => Call::Again,
            3 => Call::Other,
            4 => Call::Cancel,
            5 => Call::Pause,
            6 => Call::Resume,
            7 if dice.one_in(3) => Call::Delete,
            _ => Call::Update(dice.change(id, true, version)),
        };
        is_gone |= call == Call::Delete;
        steps.push(at(ms, call));
        ms += dice.between(200, 3000);
    }
    plan(id, task, dice.answers(4), steps)
}

/// A task that is changed while it is paused, or has a run that waits for its next attempt.
fn paused(dice: &mut Dice, id: &str) -> Plan {
    let is_periodic = !dice.one_in(4);
    let task = if is_periodic { dice.periodic(id) } else { dice.once(id) };
    let pause = dice.between(500, 3000);
    let resume = pause + dice.between(1500, 4500);
    let mut steps = vec![at(pause, Call::Pause)];
    for version in 1..=dice.between(0, 2) {
        let change = dice.change(id, is_periodic, version);
        steps.push(at(dice.between(pause + 200, resume), Call::Update(change)));
    }
    if dice.one_in(3) {
        steps.push(at(dice.between(pause, resume), Call::Trigger));
    }
    steps.push(at(resume, Call::Resume));
    if dice.one_in(3) {
        steps.push(at(resume + 100, Call::Again));
    }
    plan(id, task, dice.answers(2), steps)
}

/// A task whose target cannot be reached until it gets another URL, or the target comes.
fn mended(dice: &mut Dice, id: &str) -> Plan {
    let mut task = dice.periodic(id);
    for field in ["end_time", "max_runs", "delivery"] {
        task.as_object_mut().expect("an object").remove(field);
    }
    let host = dice.pick(&["dead", "dead", "door"]);
    task["callback"] = callback(host, id, 0);
    // Each run's attempts last until the target is held.
    task["retry"] = json!({ "max_attempts": 50, "min_backoff_ms": 400, "max_backoff_ms": 800, "multiplier": 1.5 });
    let mut steps = Vec::new();
    if host == "door" && dice.one_in(2) {
        steps.push(at(dice.between(1500, 5000), Call::Update(json!({ "format": dice.format() }))));
    }
    if host == "dead" {
        let mut change = json!({ "callback": callback("good", id, 1) });
        if dice.one_in(3) {
            change["format"] = json!(dice.format());
        }
        steps.push(at(dice.between(2500, 6000), Call::Update(change)));
    }
    plan(id, task, dice.answers(6), steps)
}

/// A task that is due once.
fn single(dice: &mut Dice, id: &str) -> Plan {
    let mut task = dice.once(id);
    let mut answers = dice.answers(3);
    if dice.one_in(3) {
        task["retain_s"] = json!(dice.between(1, 2));
        task["retry"]["max_attempts"] = json!(1);
        task.as_object_mut().expect("an object").remove("delivery");
        answers[0].status = dice.pick(&[200, 500, 500]);
        let host = dice.pick(&["good", "dead", "dead"]);
        task["alert"] = json!({ "url": format!("http://{host}/alert/{id}") });
        return plan(id, task, answers, Vec::new());
    }
    let mut steps = Vec::new();
    let (mut ms, mut is_gone) = (dice.between(100, 2000), false);
    for version in 1..=dice.between(0, 4) {
        let call = match dice.between(if is_gone { 2 } else { 0 }, 7) {
            0 => Call::Again,
            1 => Call::Other,
            2 => Call::Trigger,
            3 => Call::Pause,
            4 => Call::Resume,
            5 => Call::Cancel,
            6 if dice.one_in(2) => Call::Delete,
            _ => Call::Update(dice.change(id, false, version)),
        };
        is_gone |= call == Call::Delete;
        steps.push(at(ms, call));
        ms += dice.between(100, 2500);
    }
    plan(id, task, answers, steps)
}

/// A task that triggers others, and is changed right when its first callback has come.
fn chain(dice: &mut Dice, id: &str, plans: &mut Vec<Plan>) {
    let children: Vec<String> = ["a", "b", "c"].iter().map(|child| format!("{id}{child}")).collect();
    let mut task = if dice.one_in(3) { dice.once(id) } else { dice.periodic(id) };
    task["on_success"] = json!([children[0]]);
    task["on_failure"] = json!([children[1]]);
    let mut steps = Vec::new();
    if !dice.one_in(4) {
        let mut change = json!({ "on_success": [children[2]], "callback": callback("good", id, 1) });
        if dice.one_in(2) {
            change["on_failure"] = json!([children[2]]);
            change["retry"] = dice.retry();
        }
        let when = if dice.one_in(4) { When::At(dice.between(1000, 5000)) } else { When::Hit(1) };
        steps.push(Step { when, call: Call::Update(change) });
    }
    if dice.one_in(3) {
        // A circle, which is refused.
        steps
            .push(Step { when: When::At(dice.between(6000, 7000)), call: Call::Update(json!({ "on_success": [id] })) });
    }
    let mut answers = dice.answers(2);
    if dice.one_in(2) {
        answers[0].status = 500;
    }
    plans.push(plan(id, task, answers, steps));
    for child in &children {
        let mut task = dice.task(child);
        task["type"] = json!(2);
        task["delay_ms"] = json!(3_600_000);
        // They are there before the first run of the task that triggers them has ended.
        plans.insert(0, plan(child, task, dice.answers(4), Vec::new()));
    }
}

/// A task whose target steers it.
fn steered(dice: &mut Dice, id: &str) -> Plan {
    let mut task = dice.periodic(id);
    for field in ["jitter_ms", "end_time", "max_runs"] {
        task.as_object_mut().expect("an object").remove(field);
    }
    let mut answers = dice.answers(3);
    let n = dice.between(0, 2) as usize;
    let (status, header) = match dice.between(0, 4) {
        0 => (410, None),
        1 => (dice.pick(&[200, 500]), Some(("xcron-delete", "true".to_owned()))),
        2 => (dice.pick(&[200, 500]), Some(("xcron-pause", "true".to_owned()))),
        3 => (500, Some(("xcron-retry", "no".to_owned()))),
        _ => (200, Some(("xcron-next-at", format!("+{}ms", dice.between(4000, 8000))))),
    };
    answers[n].status = status;
    answers[n].header = header;
    let steps = if dice.one_in(2) { vec![at(dice.between(6000, 9000), Call::Resume)] } else { Vec::new() };
    plan(id, task, answers, steps)
}
