//! Plays a script to nodes that run as processes, and writes down what comes of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use serde_json::{json, Value};

use crate::api::{code, Answer, Api};
use crate::harness::{holds_within, now_ms, sleep_ms, Cluster};
use crate::script::{callback, Call, Plan, Script, When, AWAY_MS, SCRIPT_MS};
use crate::story::{Done, Limit, Look, Read, Span, Story};
use crate::target::Target;

/// What was due within the script has this long to come to its end.
const SETTLE_MS: u64 = 12_000;
/// A task that is finished, and has an alert that nobody takes, is kept 10 s; this long in all at most.
const REMOVED_MS: u64 = 25_000;
/// A call is sent again for this long.
const PATIENCE_MS: u64 = 15_000;
/// A leader that was lost may have been lost this long before a call was sent that tells of it.
const BEFORE_MS: u64 = 500;
/// A port at which nobody listens.
const DEAD: &str = "127.0.0.1:9";

/// What the parts of a round share.
struct Stage {
    api: Api,
    ports: Vec<u16>,
    target: Target,
    start_ms: u64,
    story: Mutex<Story>,
}

/// Plays the script; the story of it.
pub async fn play(script: &Script) -> Story {
    // The limit of tasks is met before the script begins, so that the script has room.
    let places = script.plans.len().max(8);
    let target = Target::start(&script.plans).await;
    let more = format!(
        "[limits]\ntasks_max = {places}\n[callback]\nprobe_max_ms = 800\n[callback.retry]\nmax_attempts = 500\nmax_backoff_ms = 2000\n"
    );
    let mut cluster = Cluster::start(script.nodes, &more).await;
    cluster.leader().await;
    let limit = at_the_limit(&cluster, places).await;

    let start_ms = (now_ms() / 1000 + 1) * 1000;
    let story = Story { start_ms, limit, door_port: target.door, ..Story::default() };
    let stage = Arc::new(Stage {
        api: cluster.api.waiting(Duration::from_secs(3)),
        ports: cluster.http_ports(),
        target,
        start_ms,
        story: Mutex::new(story),
    });
    stage.target.begin(start_ms);
    tokio::time::sleep(stage.left(0)).await;
    let mut actors = Vec::new();
    for (n, plan) in script.plans.iter().cloned().enumerate() {
        let stage = stage.clone();
        actors.push(tokio::spawn(async move { stage.act(n, &plan).await }));
    }
    let readers: Vec<_> = (0..stage.ports.len())
        .map(|n| {
            let (stage, script) = (stage.clone(), script.clone());
            tokio::spawn(async move { stage.read_on(n, &script).await })
        })
        .collect();
    let (door, door_ms) = (stage.clone(), script.door_ms);
    let opened = tokio::spawn(async move {
        tokio::time::sleep(door.left(door_ms)).await;
        door.target.open().await;
        door.write(|story| story.door_ms = now_ms());
    });
    if let Some(kill_ms) = script.kill_ms {
        tokio::time::sleep(stage.left(kill_ms)).await;
        let (leader, _) = cluster.leader().await;
        let from = now_ms();
        cluster.nodes[leader].kill();
        sleep_ms(AWAY_MS).await;
        cluster.nodes[leader].spawn();
        cluster.leader().await;
        assert!(cluster.all_ready(Duration::from_secs(30)).await, "the nodes are ready again");
        stage.write(|story| story.was_away((from, now_ms())));
    }
    for task in actors.into_iter().chain([opened]).chain(readers) {
        task.await.expect("a part of the round");
    }
    stage.settle(script).await;
    let mut story = std::mem::take(&mut *stage.story.lock().unwrap_or_else(PoisonError::into_inner));
    story.hits = stage.target.hits();
    story
}

/// Fills the cluster with tasks, and takes them away again.
async fn at_the_limit(cluster: &Cluster, places: usize) -> Limit {
    let ports = cluster.http_ports();
    let due = now_ms() + 3_600_000;
    let filler = |n: usize| {
        json!({ "type": 2, "task_id": format!("filler{n}"), "format": due.to_string(),
            "callback": { "url": "http://127.0.0.1:9/" } })
    };
    let insist = async |at: usize, path: &str, body: &Value| loop {
        match cluster.api.post(ports[at % ports.len()], path, body).await {
            Ok((_, answer)) if !matches!(answer["code"].as_u64(), None | Some(1050 | 1051)) => return answer,
            _ => sleep_ms(50).await,
        }
    };
    let insist = &insist;
    let code_of = |answer: &Value| answer["code"].as_u64().unwrap_or(0);
    let creates = (0..places + 12).map(|n| {
        let task = filler(n);
        async move { (n, insist(n, "/xcron/createTask", &task).await) }
    });
    let filled = join_all(creates).await;
    let mut limit = Limit { places, ..Limit::default() };
    limit.filled = filled.iter().map(|(_, answer)| code_of(answer)).collect();

    let there: Vec<(usize, Value)> = filled.into_iter().filter(|(_, answer)| answer["code"] == 0).collect();
    for (n, first) in there.iter().take(3) {
        let again = insist(0, "/xcron/createTask", &filler(*n)).await;
        let mut other = filler(*n);
        other["name"] = json!("another");
        let other = insist(0, "/xcron/createTask", &other).await;
        limit.again.push((first["data"].clone(), again["data"].clone(), code_of(&other)));
    }
    let delete = |n: usize| json!({ "task_id": format!("filler{n}") });
    limit.freed = there.len().min(3);
    for (n, _) in &there[..limit.freed] {
        insist(0, "/xcron/deleteTask", &delete(*n)).await;
    }
    let batch: Vec<Value> = (1000..1010).map(filler).collect();
    let answer = insist(0, "/xcron/createTasks", &json!({ "tasks": batch })).await;
    limit.batch = answer["data"]["results"].as_array().into_iter().flatten().map(code_of).collect();

    let rest = (there[limit.freed..].iter().map(|(n, _)| *n).chain(1000..1010)).map(delete);
    join_all(rest.map(|body| async move { insist(0, "/xcron/deleteTask", &body).await })).await;
    limit
}

impl Stage {
    fn write(&self, change: impl FnOnce(&mut Story)) {
        change(&mut self.story.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A machine that stood still has lost its leader for a while, whatever the script says.
    fn was_unanswered(&self, sent_ms: u64) {
        self.write(|story| story.was_away((sent_ms.saturating_sub(BEFORE_MS), now_ms())));
    }

    /// How long it is until this moment of the round.
    fn left(&self, ms: u64) -> Duration {
        Duration::from_millis((self.start_ms + ms).saturating_sub(now_ms()))
    }

    fn port(&self, n: usize) -> u16 {
        self.ports[n % self.ports.len()]
    }

    /// Puts what only the round knows into what is sent.
    fn resolved(&self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| (name.clone(), self.resolved(value)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Value::Array(items) => items.iter().map(|item| self.resolved(item)).collect(),
            Value::String(text) => resolve_text(text, self.start_ms).unwrap_or_else(|| {
                let hosts = [("good", self.target.good), ("door", self.target.door)];
                let text = hosts.iter().fold(text.clone(), |text, (host, port)| {
                    text.replace(&format!("http://{host}/"), &format!("http://127.0.0.1:{port}/"))
                });
                text.replace("http://dead/", &format!("http://{DEAD}/")).into()
            }),
            other => other.clone(),
        }
    }

    /// The calls about one task, one after the other.
    async fn act(&self, n: usize, plan: &Plan) {
        let mut triggered = None;
        for (at, step) in plan.steps.iter().enumerate() {
            match step.when {
                When::At(ms) => tokio::time::sleep(self.left(ms)).await,
                When::Hit(count) => {
                    let came = self.target.has_come(&plan.id, count);
                    if tokio::time::timeout(self.left(SCRIPT_MS), came).await.is_err() {
                        continue;
                    }
                }
            }
            let id = &plan.id;
            let alone = json!({ "task_id": id });
            let (path, body) = match &step.call {
                Call::Create | Call::Again => ("createTask", self.resolved(&plan.task)),
                Call::Other => {
                    let mut task = plan.task.clone();
                    task["callback"] = callback("good", id, 999);
                    ("createTask", self.resolved(&task))
                }
                Call::Update(change) => {
                    let mut body = self.resolved(change);
                    body["task_id"] = json!(id);
                    ("updateTask", body)
                }
                Call::Pause => ("pauseTask", alone),
                Call::Resume => ("resumeTask", alone),
                Call::Trigger => ("triggerTask", alone),
                Call::Cancel => match self.target.last_run(id).or_else(|| triggered.clone()) {
                    Some(run) => ("cancelRun", json!({ "run_id": run })),
                    None => continue,
                },
                Call::Delete => {
                    self.look(n, id, true).await;
                    ("deleteTask", alone)
                }
            };
            let done = self.call(n + at, plan, step.call.clone(), path, body).await;
            if done.code == 0 && step.call == Call::Trigger {
                triggered = done.data["run_id"].as_str().map(str::to_owned);
            }
            self.write(|story| story.calls.push(done));
        }
    }

    /// A call, sent again until its answer tells something; but a trigger, of which a second one is another run.
    async fn call(&self, n: usize, plan: &Plan, call: Call, path: &str, body: Value) -> Done {
        let from = now_ms();
        let mut tries = 0;
        loop {
            let sent_ms = now_ms();
            let answer = self.api.post(self.port(n + tries), &format!("/xcron/{path}"), &body).await;
            tries += 1;
            let known = code(&answer).filter(|code| !matches!(code, 1050 | 1051));
            if known.is_none() {
                self.was_unanswered(sent_ms);
            }
            let is_written_perhaps = call == Call::Trigger && code(&answer) != Some(1050);
            if known.is_none() && !is_written_perhaps && now_ms() < from + PATIENCE_MS {
                sleep_ms(30).await;
                continue;
            }
            let (data, message) = match answer {
                Ok((_, answer)) => (answer["data"].clone(), answer["message"].as_str().unwrap_or_default().to_owned()),
                Err(error) => (Value::Null, error),
            };
            let span = (from, now_ms());
            let (task, tries, code) = (plan.id.clone(), tries as u32, known.unwrap_or(1051));
            return Done { task, call, sent: body, span, tries, code, data, message };
        }
    }

    /// All pages of a list: the code of the last one, and its items.
    async fn pages(&self, n: usize, path: &str, items: &str) -> (u64, Vec<Value>, Value) {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        let end = now_ms() + PATIENCE_MS;
        loop {
            let sent_ms = now_ms();
            let answer: Answer = self.api.get(self.port(n), &format!("/xcron/{path}{cursor}")).await;
            let data = match (code(&answer), answer) {
                (Some(0), Ok((_, answer))) => answer["data"].clone(),
                (None | Some(1050), _) if now_ms() < end => {
                    self.was_unanswered(sent_ms);
                    sleep_ms(50).await;
                    continue;
                }
                (code, _) => return (code.unwrap_or(1050), all, Value::Null),
            };
            all.extend(data[items].as_array().cloned().unwrap_or_default());
            match data["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return (0, all, data),
            }
        }
    }

    async fn query(&self, n: usize, task: &str) -> (u64, Value) {
        let (code, items, data) = self.pages(n, &format!("queryTask?task_id={task}"), "").await;
        debug_assert!(items.is_empty());
        (code, data)
    }

    /// Reads on and on while the script lasts.
    async fn read_on(&self, n: usize, script: &Script) {
        let filters = |at: usize| match at % 9 {
            0 => ("state", "active"),
            1 => ("state", "paused"),
            2 => ("type", "1"),
            3 => ("state", "finished"),
            4 => ("tag", "team:sales"),
            5 => ("name_prefix", "red"),
            6 => ("", ""),
            _ => ("task_id", ""),
        };
        for at in n.. {
            if now_ms() > self.start_ms + SCRIPT_MS {
                return;
            }
            let (name, mut value) = filters(at);
            let from = now_ms();
            let (code, tasks) = if name == "task_id" {
                value = &script.plans[at * 7 % script.plans.len()].id;
                let (code, task) = self.query(n, value).await;
                (code, vec![task])
            } else {
                let filter = if name.is_empty() { String::new() } else { format!("&{name}={value}") };
                let (code, tasks, _) =
                    self.pages(n, &format!("listTasks?limit={}{filter}", 7 + at % 60), "tasks").await;
                (code, tasks)
            };
            let read = Read { span: (from, now_ms()), filter: (name.to_owned(), value.to_owned()), code, tasks };
            self.write(|story| story.reads.push(read));
            sleep_ms(20).await;
        }
    }

    /// Takes note of all that is shown of a task.
    async fn look(&self, n: usize, task: &str, is_early: bool) {
        let from = now_ms();
        let (code, before) = self.query(n, task).await;
        let (_, audit, last) = self.pages(n + 1, &format!("audit?task_id={task}&limit=50"), "due_times").await;
        let (_, runs, _) = self.pages(n + 2, &format!("listRuns?task_id={task}&limit=40"), "runs").await;
        let (_, after) = self.query(n, task).await;
        let span: Span = (from, now_ms());
        let triggers_not_kept = last["triggers_not_kept"].as_u64().unwrap_or(0);
        let task = task.to_owned();
        let query = (before, after);
        self.write(|story| {
            story.looks.push(Look { task, span, is_early, code, query, audit, triggers_not_kept, runs })
        });
    }

    /// Waits until what was due within the script has come to its end, and until tasks that are to go are gone; then
    /// looks at each task.
    async fn settle(&self, script: &Script) {
        let is_settled = async |plan: &Plan| {
            let (code, task) = self.query(0, &plan.id).await;
            if code != 0 || task["state"] == "paused" {
                return true;
            }
            let (_, audit, _) = self.pages(0, &format!("audit?task_id={}", plan.id), "due_times").await;
            let is_open = |due: &Value| {
                let state = due["state"].as_str().unwrap_or_default();
                let due_ms = due["due_time_ms"].as_u64().unwrap_or(0);
                matches!(state, "pending" | "running" | "scheduled") && due_ms <= self.start_ms + SCRIPT_MS
            };
            !audit.iter().any(is_open)
        };
        for plan in &script.plans {
            holds_within(self.left(SCRIPT_MS + SETTLE_MS), async || is_settled(plan).await).await;
        }
        for plan in script.plans.iter().filter(|plan| plan.task["retain_s"].is_u64()) {
            let is_gone = async || self.query(0, &plan.id).await.0 == 1040;
            holds_within(self.left(REMOVED_MS), is_gone).await;
        }
        let looks = script.plans.iter().enumerate().map(|(n, plan)| self.look(n, &plan.id, false));
        join_all(looks).await;
    }
}

/// `+1500ms` and `+3s`, as they are meant in a round that began then.
pub fn resolve_text(text: &str, start_ms: u64) -> Option<Value> {
    let text = text.strip_prefix('+')?;
    if let Some(ms) = text.strip_suffix("ms") {
        return Some((start_ms + ms.parse::<u64>().ok()?).to_string().into());
    }
    Some((start_ms / 1000 + text.strip_suffix('s')?.parse::<u64>().ok()?).into())
}
