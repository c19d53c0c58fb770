//! The calls about tasks.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::answer::{answered, reserve, with_reserved, Data, Items, Object};
use super::define::{known_type, NewTask, Rules};
use super::error::Error;
use super::extract::{body, json, Int, Read, Received};
use super::query::Query;
use super::{show, Api, Shared};
use crate::budget::Hold;
use crate::clock::Timestamp;
use crate::command::{Command, Reply};
use crate::id::{RunId, TaskId};
use crate::node::Node;
use crate::task::TaskState;
use crate::view::{TaskFilter, TaskView};

/// Most tasks in one `createTasks`.
const BATCH_MAX: usize = 1000;

/// A batch up to this size is parsed where its call is: a larger one would hold up what shares its thread.
const PARSED_AT_ONCE: usize = 64 << 10;

/// `POST /xcron/createTask`
pub(super) async fn create(State(api): Shared, request: Request) -> Response {
    answered(async {
        let body = api.body(request).await?;
        let text = std::str::from_utf8(&body).map_err(|e| Error::malformed(format!("the body is not JSON: {e}")))?;
        let task = api.rules.read(text, api.node.now())?;
        drop(body);
        let (id, id_is_ours) = (task.id.clone(), task.id_is_ours);
        let result = api.node.propose(task.command(), api.deadline()).await;
        let next = created(&id, id_is_ours, result)?;
        Ok(Data::object(|o| {
            o.plain("task_id", &id);
            show::next_time(o, next);
        }))
    })
    .await
}

fn created(
    id: &TaskId,
    id_is_ours: bool,
    result: Result<Reply, crate::node::Error>,
) -> Result<Option<Timestamp>, Error> {
    match result {
        Ok(Reply::Created { next }) => Ok(next),
        Ok(Reply::Refused(refusal)) => Err(refusal.into()),
        Ok(_) => Err(unexpected()),
        // Whoever did not choose the id must be told it, or a retry would make a second task.
        Err(error) if id_is_ours => Err(Error::from(error).with_retry_id(id)),
        Err(error) => Err(error.into()),
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct SentTasks<'a> {
    #[serde(borrow)]
    tasks: Batch<'a>,
}

/// The first [`BATCH_MAX`] items of an array, and how many there are.
struct Batch<'a> {
    items: Vec<&'a RawValue>,
    count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Batch<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Batch<'de>, A::Error> {
                let mut items = Vec::new();
                while items.len() < BATCH_MAX {
                    match array.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(Batch { count: items.len(), items }),
                    }
                }
                let mut count = items.len();
                while array.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Batch { items, count })
            }
        }
        deserializer.deserialize_seq(Items)
    }
}

/// `POST /xcron/createTasks`
pub(super) async fn create_many(State(api): Shared, request: Request) -> Response {
    // Of its answer. After the write it would be too late to refuse it.
    let mut room = Hold::new(api.answers.clone());
    let response = answered(async {
        let body = api.body(request).await?;
        let (deadline, now) = (api.deadline(), api.node.now());
        let (mut results, commands) = if body.len() <= PARSED_AT_ONCE {
            prepare(&api.rules, now, &body)?
        } else {
            let (own, bytes) = (api.clone(), body.bytes());
            api.lanes.parsing.run(deadline, move || prepare(&own.rules, now, &bytes)).await?
        };
        reserve(&mut room, answer_bytes_max(&results))?;
        drop(body);
        if !commands.is_empty() {
            let replies = api.node.propose_all(commands, deadline).await;
            let mut replies = replies.into_iter();
            for result in &mut results {
                if let Ok((id, id_is_ours)) = result {
                    let lost = || Err(crate::node::Error::Damaged("a command of a batch has no reply".into()));
                    if let Err(error) = created(id, *id_is_ours, replies.next().unwrap_or_else(lost)) {
                        *result = Err(error);
                    }
                }
            }
        }
        log_internal(&results);
        Ok(Data::object(|o| o.array("results", &results, result_item)))
    })
    .await;
    with_reserved(response, room).await
}

/// More than what is told of one task that was proposed, whatever became of it.
const WRITTEN_BYTES_MAX: usize = 512;
/// More than what stands around all of them.
const ENVELOPE_BYTES_MAX: usize = 256;

/// How large the answer becomes at most.
fn answer_bytes_max(results: &[Prepared]) -> usize {
    let mut refused = Vec::new();
    let item = |result: &Prepared| match result {
        Ok(_) => WRITTEN_BYTES_MAX,
        Err(_) => {
            refused.clear();
            result_item(&mut refused, result);
            refused.len() + 1
        }
    };
    results.iter().map(item).sum::<usize>() + ENVELOPE_BYTES_MAX
}

pub(super) type Prepared = Result<(TaskId, bool), Error>;

pub(super) fn prepare(rules: &Rules, now: Timestamp, body: &[u8]) -> Result<(Vec<Prepared>, Vec<Command>), Error> {
    let SentTasks { tasks } = json(body)?;
    if tasks.count > BATCH_MAX {
        return Err(Error::over_limit(format!("tasks: are {}, over the limit of {BATCH_MAX}", tasks.count)));
    }
    let mut commands = Vec::with_capacity(tasks.items.len());
    let read = |item: &RawValue| {
        let task: NewTask = rules.read(item.get(), now)?;
        let kept = (task.id.clone(), task.id_is_ours);
        commands.push(task.command());
        Ok(kept)
    };
    let results = tasks.items.into_iter().map(read).collect();
    Ok((results, commands))
}

/// The call as a whole succeeds, so its envelope logs nothing.
fn log_internal(results: &[Prepared]) {
    let failed = |r: &&Prepared| r.as_ref().is_err_and(|e| e.status().is_server_error());
    if let Some(Err(first)) = results.iter().find(failed) {
        let (count, code) = (results.iter().filter(failed).count(), first.code().number());
        tracing::warn!(
            count,
            code,
            cause = first.cause().unwrap_or_default(),
            "tasks of a createTasks failed: {first}"
        );
    }
}

fn result_item(out: &mut Vec<u8>, result: &Prepared) {
    Object::write(out, |o| match result {
        Ok((id, _)) => {
            o.number("code", 0);
            o.plain("task_id", id);
        }
        Err(error) => {
            o.number("code", error.code().number());
            o.text("message", error.message());
        }
    });
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SentId {
    pub task_id: Read<TaskId>,
}

/// `POST /xcron/deleteTask`
pub(super) async fn delete(State(api): Shared, request: Request) -> Response {
    answered(async {
        let body = api.body(request).await?;
        let SentId { task_id: Read(id) } = json(&body)?;
        match api.node.propose(Command::Delete { id }, api.deadline()).await? {
            Reply::Done => Ok(Data::none()),
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(unexpected()),
        }
    })
    .await
}

/// A command was answered as if it were another.
pub(super) fn unexpected() -> Error {
    Error::internal("a command was answered as if it were another")
}

/// `POST /xcron/pauseTask`
pub(super) async fn pause(State(api): Shared, request: Request) -> Response {
    change_state(api, request, |id| Command::Pause { id }).await
}

/// `POST /xcron/resumeTask`
pub(super) async fn resume(State(api): Shared, request: Request) -> Response {
    change_state(api, request, |id| Command::Resume { id }).await
}

async fn change_state(api: Arc<Api>, request: Request, command: fn(TaskId) -> Command) -> Response {
    answered(async {
        let body = api.body(request).await?;
        let SentId { task_id: Read(id) } = json(&body)?;
        match api.node.propose(command(id.clone()), api.deadline()).await? {
            Reply::Task { state, next } => Ok(Data::object(|o| {
                o.plain("task_id", &id);
                o.plain("state", state.name());
                show::next_time(o, next);
            })),
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(unexpected()),
        }
    })
    .await
}

/// `POST /xcron/triggerTask`
pub(super) async fn trigger(State(api): Shared, request: Request) -> Response {
    answered(async {
        let body = api.body(request).await?;
        let SentId { task_id: Read(id) } = json(&body)?;
        match api.node.propose(Command::Trigger { id: id.clone() }, api.deadline()).await? {
            Reply::Triggered { key } => Ok(Data::object(|o| o.plain("run_id", RunId::new(&id, key)))),
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(unexpected()),
        }
    })
    .await
}

/// `GET /xcron/queryTask`
pub(super) async fn query(State(api): Shared, uri: Uri) -> Response {
    answered(async {
        let mut query = Query::parse(&uri, &["task_id", "consistency"])?;
        let id: TaskId = query.must("task_id")?;
        let deadline = api.deadline();
        api.settle(query.consistency()?, deadline).await?;
        let node = api.node.clone();
        match api.lanes.reads.run(deadline, move || Ok(node.task(&id)?)).await? {
            Some(task) => Ok(Data::object(|o| show::task_fields(o, &task))),
            None => Err(crate::command::Refusal::NoSuchTask.into()),
        }
    })
    .await
}

/// What `listTasks` takes.
pub(super) const LIST: [&str; 7] = ["type", "state", "tag", "name_prefix", "limit", "cursor", "consistency"];

/// `GET /xcron/listTasks`
pub(super) async fn list(State(api): Shared, uri: Uri) -> Response {
    answered(async {
        let mut query = Query::parse(&uri, &LIST)?;
        let filter = filter(&mut query)?;
        let (limit, cursor) = (query.limit()?, query.cursor()?);
        let fill = move |node: &Node, tasks: &mut Items<'_>| {
            let mut take = |task: &TaskView| tasks.take(|out| show::task(out, task));
            let next = node.list_tasks(&filter, limit, cursor.place(), &mut take)?;
            Ok::<_, Error>(cursor.next(next))
        };
        api.page(query.consistency()?, "tasks", |_| {}, fill).await
    })
    .await
}

pub(super) fn filter(query: &mut Query) -> Result<TaskFilter, Error> {
    let type_number = match query.text("type") {
        Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            Some(known_type(Int(text.parse().unwrap_or(i64::MAX)))?)
        }
        Some(text) => return Err(Error::malformed(format!("type: 1 or 2 is expected, not {text:?}"))),
        None => None,
    };
    let tag = query.text("tag").map(|text| match text.split_once(':') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Error::malformed("tag: the form key:value is expected")),
    });
    Ok(TaskFilter {
        type_number,
        state: query.read::<Named>("state")?.map(|Named(state)| state),
        tag: tag.transpose()?,
        name_prefix: query.text("name_prefix"),
    })
}

/// A task's state by its name.
struct Named(TaskState);

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Named, String> {
        let states = [TaskState::Active, TaskState::Paused, TaskState::Finished];
        let state = states.into_iter().find(|s| s.name() == text);
        state.map(Named).ok_or_else(|| format!("active, paused or finished is expected, not {text:?}"))
    }
}

impl Api {
    /// The body of a call that takes no query.
    pub(super) async fn body(&self, request: Request) -> Result<Received<'_>, Error> {
        Query::none(request.uri())?;
        body(request, self.request_bytes_max, self.timeout, &self.bodies).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::command::{Never, Refusal};
    use crate::node::Error as Failed;

    #[test]
    fn what_is_told_of_a_write_fits_into_the_room_that_is_kept_for_it() {
        let id: TaskId = "x".repeat(128).parse().unwrap();
        let far = Timestamp(u64::MAX / 2);
        let failed = [
            Failed::Unknown(Duration::from_nanos(u64::MAX)),
            Failed::TooLarge { bytes: usize::MAX, limit: usize::MAX },
            Failed::Storage("x".repeat(2000)),
            Failed::Damaged("x".repeat(2000)),
            Failed::Busy,
        ];
        let refused = [
            Refusal::Conflict,
            Refusal::Cycle(id.clone()),
            Refusal::ChainTooLong(usize::MAX),
            Refusal::ChainsAtOnce,
            Refusal::TooManyTasks(u64::MAX),
            Refusal::Past { due: far, now: far },
            Refusal::NeverFires(Never::Again),
            Refusal::NeverFires(Never::FromStart { start: far }),
            Refusal::NeverFires(Never::AfterEnd { first: far, end: far }),
            Refusal::UnknownZone("America/Argentina/ComodRivadavia".into()),
            Refusal::Unreadable("x".repeat(2000)),
        ];
        let replies = failed.into_iter().map(Err).chain(refused.into_iter().map(|refusal| Ok(Reply::Refused(refusal))));
        for reply in replies.chain([Ok(Reply::Created { next: Some(far) })]) {
            let mut told = Vec::new();
            result_item(&mut told, &created(&id, true, reply).map(|_| (id.clone(), true)));
            assert!(told.len() < WRITTEN_BYTES_MAX, "{} bytes: {}", told.len(), String::from_utf8_lossy(&told));
        }
    }
}
