//! The call that changes a task.
//!
//! The definition that the task has is written as a caller would send it, the fields that were sent are laid over it,
//! and the whole is read as if it were a new task: so a change is checked as a creation is. `null` takes a field away.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::answer::{answered, Data, Object};
use super::define::{known_type, Distinct, CALLBACK_FIELDS, TASK_FIELDS};
use super::error::Error;
use super::extract::json;
use super::tasks::unexpected;
use super::{show, Api, Shared};
use crate::clock::Timestamp;
use crate::command::{Command, Refusal, Reply};
use crate::id::TaskId;
use crate::task::TaskSpec;

/// Tries against others who change the same task.
const TRIES: usize = 5;
/// Of a task, those that say nothing of its definition: as `queryTask` answers them.
const OF_THE_SERVER: [&str; 6] = ["create_time", "run_count", "next_time", "state", "last_run", "secret_count"];

/// More fields than a task has.
const FIELDS_MAX: usize = 64;

/// What is sent, as it stands in the body.
pub(super) type Sent<'a> = BTreeMap<String, &'a RawValue>;
type Fields = BTreeMap<String, Box<RawValue>>;

/// `POST /xcron/updateTask`
pub(super) async fn update(State(api): Shared, request: Request) -> Response {
    answered(async {
        let body = api.body(request).await?;
        let Distinct(mut sent): Distinct<&RawValue> = json(&body)?;
        let id = sent.remove("task_id").ok_or_else(|| Error::malformed("task_id: missing"))?;
        let id: String =
            serde_json::from_str(id.get()).map_err(|_| Error::malformed("task_id: invalid type, expected a string"))?;
        let id: TaskId = id.parse().map_err(|e| Error::malformed(format!("task_id: {e}")))?;
        if let Some(field) = sent.keys().find(|field| OF_THE_SERVER.contains(&field.as_str())) {
            return Err(Error::malformed(format!("{field}: unknown field; it cannot be set")));
        }
        if sent.len() > FIELDS_MAX {
            return Err(Error::malformed(format!("the body: has {} fields, more than a task has", sent.len())));
        }
        // The body is kept: what is sent may wait for long, and is not held anywhere else. Of all tries together.
        let deadline = api.deadline();
        for _ in 0..TRIES {
            if let Some(next) = attempt(&api, &id, &sent, deadline).await? {
                return Ok(Data::object(|o| {
                    o.plain("task_id", &id);
                    show::next_time(o, next);
                }));
            }
        }
        Err(Refusal::Conflict.into())
    })
    .await
}

/// When the task is next due; none: somebody else has changed it meanwhile.
async fn attempt(
    api: &Api,
    id: &TaskId,
    sent: &Sent<'_>,
    deadline: Instant,
) -> Result<Option<Option<Timestamp>>, Error> {
    api.settle_write(deadline).await?;
    let (node, own) = (api.node.clone(), id.clone());
    let Some(task) = api.lanes.reads.run(deadline, move || Ok(node.task(&own)?)).await? else {
        return Err(Refusal::NoSuchTask.into());
    };
    // Of all that it is made from, nothing waits along with it.
    let command = change(api, id, &task.spec, sent)?;
    drop(task);
    match api.node.propose(command, deadline).await? {
        Reply::Created { next } => Ok(Some(next)),
        Reply::Refused(Refusal::Conflict) => Ok(None),
        Reply::Refused(refusal) => Err(refusal.into()),
        _ => Err(unexpected()),
    }
}

/// The change of a task that has the definition `old`.
fn change(api: &Api, id: &TaskId, old: &TaskSpec, sent: &Sent<'_>) -> Result<Command, Error> {
    if let Some(kind) = sent.get("type").filter(|kind| kind.get() != "null") {
        // Before the rest: a schedule of the other type would be found wrong for what it is not.
        let kind = serde_json::from_str(kind.get()).map_err(|_| Error::malformed("type: an integer is expected"))?;
        if known_type(kind)? != old.type_number() {
            return Err(Error::malformed("type: cannot be changed; make a new task"));
        }
    }
    let mut spec = api.rules.read(&merged(old, sent)?, api.node.now())?.spec;
    if !sent.contains_key("secrets") {
        // They are not among what is shown, so they are not among what was laid over.
        spec.secrets.clone_from(&old.secrets);
    }
    let base = old.digest();
    Ok(Command::Update { id: id.clone(), base, old: Box::new(old.clone()), spec: Box::new(spec) })
}

/// A definition with the sent fields in place of its own, as JSON.
pub(super) fn merged(old: &TaskSpec, sent: &Sent<'_>) -> Result<String, Error> {
    let mut text = Vec::new();
    Object::write(&mut text, |o| show::definition(o, old));
    let mut fields: Fields = json(&text)?;
    let given = |name: &str| sent.get(name).is_some_and(|value| value.get() != "null");
    // One of the two says when a one-shot is due.
    if given("format") {
        fields.remove("delay_ms");
    }
    if given("delay_ms") {
        fields.remove("format");
    }
    for (name, value) in sent {
        let replaced = match (name.as_str(), fields.get(name)) {
            ("callback", Some(own)) => overlaid(own, value)?,
            _ => (*value).to_owned(),
        };
        put(&mut fields, &TASK_FIELDS, name, replaced);
    }
    serde_json::to_string(&fields).map_err(|e| Error::internal(e.to_string()))
}

/// The fields of one object laid over another's.
fn overlaid(own: &RawValue, sent: &RawValue) -> Result<Box<RawValue>, Error> {
    let mut fields: Fields = json(own.get().as_bytes())?;
    let Distinct(over): Distinct<Box<RawValue>> = serde_json::from_str(sent.get()).map_err(|error| {
        let text = error.to_string();
        Error::malformed(format!("callback: {}", text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text)))
    })?;
    for (name, value) in over {
        put(&mut fields, &CALLBACK_FIELDS, &name, value);
    }
    serde_json::value::to_raw_value(&fields).map_err(|e| Error::internal(e.to_string()))
}

/// `null` takes the field away; only a body can be null itself. A field that is none of those that are known stays, to be
/// refused where all is read.
fn put(fields: &mut Fields, known: &[&str], name: &str, value: Box<RawValue>) {
    if value.get() == "null" && name != "body" && known.contains(&name) {
        fields.remove(name);
    } else {
        fields.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Callback, Timing};

    fn changed(sent: &str) -> Result<serde_json::Value, Error> {
        let timing = Timing::At { format: "1900000000".into(), due: Timestamp::from_secs(1_900_000_000) };
        let mut old = TaskSpec::new(timing, Callback::post("http://a/", "{\"n\":1.00}"));
        old.name = Some("x".into());
        let sent: Sent<'_> = serde_json::from_str(sent).unwrap();
        merged(&old, &sent).map(|text| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn what_is_sent_is_laid_over_what_is_there() {
        let all = changed("{}").unwrap();
        assert_eq!(
            (all["type"].as_u64(), all["format"].as_str(), all["name"].as_str()),
            (Some(2), Some("1900000000"), Some("x"))
        );
        let other = changed(r#"{"callback":{"method":"PUT"},"name":null,"tags":{"a":"b"}}"#).unwrap();
        assert_eq!(
            (other["callback"]["url"].as_str(), other["callback"]["method"].as_str()),
            (Some("http://a/"), Some("PUT"))
        );
        assert!(other.get("name").is_none() && other["tags"]["a"] == "b");
        let later = changed(r#"{"delay_ms":5}"#).unwrap();
        assert!(later.get("format").is_none() && later["delay_ms"] == 5);
        assert!(changed(r#"{"callback":{"body":null}}"#).unwrap()["callback"]["body"].is_null());
        assert_eq!(changed(r#"{"callback":[]}"#).unwrap_err().code().number(), 1000);
        let unknown = changed(r#"{"x":null,"callback":{"y":null,"method":null}}"#).unwrap();
        assert!(unknown.as_object().unwrap().contains_key("x"), "it is there to be refused");
        let callback = unknown["callback"].as_object().unwrap();
        assert!(callback.contains_key("y") && !callback.contains_key("method"));
    }
}
