//! The envelope of every answer, and the JSON inside it.

use std::any::Any;
use std::fmt::Display;
use std::future::Future;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::http::header::{HeaderValue, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt;
use http_body_util::BodyExt;
use serde::Serialize;
use uuid::Uuid;

use super::error::{Code, Error};
use crate::budget::{Budget, Hold};
use crate::id;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HEAD: &[u8] = br#"{"uuid":"00000000-0000-0000-0000-000000000000","code":0"#;
const DATA: &[u8] = br#","data":"#;
/// Where in `HEAD` the uuid goes.
const UUID_AT: usize = 9;
/// What most answers fit into.
const CAPACITY: usize = 256;

/// The answer of a call that succeeded: its envelope, still without the uuid and the closing brace.
#[derive(Debug)]
pub(super) struct Data(Vec<u8>);

impl Data {
    /// Done, and there is nothing to say.
    pub fn none() -> Data {
        Data(HEAD.to_vec())
    }

    /// Done, with an object.
    pub fn object(fill: impl FnOnce(&mut Object<'_>)) -> Data {
        let mut out = Vec::with_capacity(CAPACITY);
        out.extend_from_slice(HEAD);
        out.extend_from_slice(DATA);
        Object::write(&mut out, fill);
        Data(out)
    }

    /// Done, with a value whose form serde knows.
    pub fn value(value: &impl Serialize) -> Data {
        let mut out = Vec::with_capacity(CAPACITY);
        out.extend_from_slice(HEAD);
        out.extend_from_slice(DATA);
        write_value(&mut out, value);
        Data(out)
    }

    /// Done, with a part of a list: `before` writes what stands before the list named `key`, and `fill` its items; it
    /// gives the cursor of the next part.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn page<E>(
        key: &str,
        before: impl FnOnce(&mut Object<'_>),
        fill: impl FnOnce(&mut Items<'_>) -> Result<Option<String>, E>,
    ) -> Result<Data, E> {
        let mut filled = Ok(());
        let data = Data::object(|o| {
            before(o);
            let out = o.key(key);
            out.push(b'[');
            let mut items = Items { out, empty: true, after: None };
            let cursor = fill(&mut items);
            let Items { out, after, .. } = items;
            out.push(b']');
            if let Some((key, number)) = after {
                o.number(key, number);
            }
            match cursor {
                Ok(cursor) => o.text_or_null("next_cursor", cursor.as_deref()),
                Err(error) => filled = Err(error),
            }
        });
        filled.map(|()| data)
    }

    fn finish(self, uuid: Uuid) -> Vec<u8> {
        let mut out = self.0;
        uuid.hyphenated().encode_lower(&mut out[UUID_AT..UUID_AT + 36]);
        out.push(b'}');
        if out.len() > SMALL {
            // What it has grown beyond is held for as long as the rest.
            out.shrink_to_fit();
        }
        out
    }
}

/// How large an answer with a part of a list becomes, in bytes as it is sent: it ends before the item that would make it
/// larger, unless that is its only one.
pub(super) const PAGE_BYTES_MAX: usize = 4 << 20;
/// What is left for the cursor and the closing braces.
const PAGE_END: usize = 1024;

/// The items of a part of a list, as they are written.
pub(super) struct Items<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
    after: Option<(&'static str, u64)>,
}

impl Items<'_> {
    /// A number that stands behind the list.
    pub fn count(&mut self, key: &'static str, number: u64) {
        self.after = Some((key, number));
    }

    /// Writes one more; whether it fits in.
    pub fn take(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let before = self.out.len();
        if !self.empty {
            self.out.push(b',');
        }
        write(self.out);
        if !self.empty && self.out.len() > PAGE_BYTES_MAX - PAGE_END {
            self.out.truncate(before);
            return false;
        }
        self.empty = false;
        true
    }
}

/// A JSON object that is being written.
///
/// Keys are written as they are: all of them are literals of this crate.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl Object<'_> {
    /// Writes one to the end of `out`.
    pub fn write(out: &mut Vec<u8>, fill: impl FnOnce(&mut Object<'_>)) {
        out.push(b'{');
        fill(&mut Object { out, empty: true });
        out.push(b'}');
    }

    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// A string.
    pub fn text(&mut self, key: &str, value: &str) {
        write_text(self.key(key), value);
    }

    /// A string or null.
    pub fn text_or_null(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.raw(key, "null"),
        }
    }

    /// A string of what shows itself in characters that need no escaping, as ids do.
    pub fn plain(&mut self, key: &str, value: impl Display) {
        // Writing to a vector cannot fail.
        let _ = write!(self.key(key), "\"{value}\"");
    }

    /// A number, or a boolean.
    pub fn number(&mut self, key: &str, value: impl Display) {
        let _ = write!(self.key(key), "{value}");
    }

    /// A number or null.
    pub fn number_or_null(&mut self, key: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.number(key, value),
            None => self.raw(key, "null"),
        }
    }

    /// JSON text, as it is.
    pub fn raw(&mut self, key: &str, json: &str) {
        self.key(key).extend_from_slice(json.as_bytes());
    }

    /// An object.
    pub fn object(&mut self, key: &str, fill: impl FnOnce(&mut Object<'_>)) {
        Object::write(self.key(key), fill);
    }

    /// An object of strings, whose keys are not ours.
    pub fn texts<'t>(&mut self, key: &str, pairs: impl IntoIterator<Item = (&'t String, &'t String)>) {
        let out = self.key(key);
        for (i, (name, value)) in pairs.into_iter().enumerate() {
            out.push(if i == 0 { b'{' } else { b',' });
            write_text(out, name);
            out.push(b':');
            write_text(out, value);
        }
        out.push(b'}');
    }

    /// A value whose form serde knows.
    pub fn value(&mut self, key: &str, value: &impl Serialize) {
        write_value(self.key(key), value);
    }

    /// An array, each item written by `each`.
    pub fn array<T>(&mut self, key: &str, items: impl IntoIterator<Item = T>, mut each: impl FnMut(&mut Vec<u8>, T)) {
        let out = self.key(key);
        out.push(b'[');
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            each(out, item);
        }
        out.push(b']');
    }
}

/// Writes a JSON string to the end of `out`.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    // Neither a string nor a write to a vector can fail.
    let _ = serde_json::to_writer(out, text);
}

/// Writes a value to the end of `out`.
pub(super) fn write_value(out: &mut Vec<u8>, value: &impl Serialize) {
    // What is shown has texts, numbers and lists alone, and a write to a vector cannot fail.
    let _ = serde_json::to_writer(out, value);
}

/// Answers up to this size are not counted: as many as there may be connections are no burden.
const SMALL: usize = 4 << 10;

/// That an answer is counted already.
#[derive(Clone, Copy)]
struct Counted;

/// Takes the room of an answer that becomes at most `bytes` large, before what it tells of is done: afterwards it could not
/// be refused any more.
///
/// # Errors
/// 1070, where there is no room for it.
pub(super) fn reserve(hold: &mut Hold<Arc<Budget>>, bytes: usize) -> Result<(), Error> {
    if bytes <= SMALL || hold.grow(bytes) {
        Ok(())
    } else {
        Err(Error::untaken())
    }
}

/// Has `response` count against `budget` until its peer has taken it, unless it does already; none: there is no room for
/// it, and whether it `must` be answered nevertheless was not said.
pub(super) async fn counted(response: Response, budget: &Arc<Budget>, must: bool) -> Option<Response> {
    let size = size(&response);
    if size <= SMALL || response.extensions().get::<Counted>().is_some() {
        return Some(response);
    }
    let mut hold = Hold::new(budget.clone());
    if must {
        hold.grow_anyway(size);
    } else if !hold.grow(size) {
        return None;
    }
    held(response, hold).await
}

/// The same with what was [reserved](reserve) for it.
pub(super) async fn with_reserved(response: Response, mut hold: Hold<Arc<Budget>>) -> Response {
    let size = size(&response);
    if size <= SMALL {
        return response;
    }
    hold.settle(size);
    match held(response, hold).await {
        Some(response) => response,
        None => answered(async { Err(Error::internal("an answer is not there as a whole")) }).await,
    }
}

fn size(response: &Response) -> usize {
    HttpBody::size_hint(response.body()).exact().unwrap_or(0) as usize
}

async fn held(response: Response, hold: Hold<Arc<Budget>>) -> Option<Response> {
    let (mut head, mut body) = response.into_parts();
    // It is there as a whole, in one piece.
    let bytes = body.frame().await?.ok()?.into_data().ok()?;
    head.extensions.insert(Counted);
    let bytes = Bytes::from_owner(Untaken { bytes, _hold: hold });
    Some(Response::from_parts(head, Body::from(bytes)))
}

/// An answer on its way, until the last byte of it is written.
struct Untaken {
    bytes: Bytes,
    _hold: Hold<Arc<Budget>>,
}

impl AsRef<[u8]> for Untaken {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The answer of a call: of its success, of its error, of its panic.
pub(super) async fn answered(call: impl Future<Output = Result<Data, Error>>) -> Response {
    let outcome = match AssertUnwindSafe(call).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => Err(Error::internal(format!("panic: {}", panic_text(panic.as_ref())))),
    };
    let uuid = id::request_id();
    match outcome {
        Ok(data) => response(StatusCode::OK, data.finish(uuid)),
        Err(error) => refused(uuid, &error),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "without a text",
    }
}

fn response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn refused(uuid: Uuid, error: &Error) -> Response {
    log(uuid, error);
    let mut body = Vec::with_capacity(CAPACITY);
    Object::write(&mut body, |o| {
        o.plain("uuid", uuid.hyphenated());
        o.number("code", error.code().number());
        o.text("message", error.message());
    });
    let mut response = response(error.status(), body);
    let headers = response.headers_mut();
    if matches!(error.code(), Code::NoLeader | Code::TooMany) {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if error.ends_connection() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn log(uuid: Uuid, error: &Error) {
    let (code, message) = (error.code().number(), error.message());
    // A field that is none is left out.
    let cause = error.cause();
    match error.code() {
        Code::Internal => tracing::error!(%uuid, code, cause, "{message}"),
        _ if error.status().is_server_error() => tracing::warn!(%uuid, code, cause, "{message}"),
        _ => tracing::debug!(%uuid, code, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;

    async fn read(response: Response) -> Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_success_has_no_message_and_an_error_no_data() {
        let answer = read(answered(async { Ok(Data::none()) }).await).await;
        assert_eq!(answer.as_object().unwrap().len(), 2);
        assert_eq!(answer["code"], 0);
        assert_eq!(answer["uuid"].as_str().unwrap().parse::<Uuid>().unwrap().get_version_num(), 7);

        let data = Data::object(|o| {
            o.text("a", "x\"\n");
            o.number_or_null("b", None::<u8>);
            o.array("c", [1, 2], |out, n| Object::write(out, |o| o.number("n", n)));
        });
        let answer = read(answered(async { Ok(data) }).await).await;
        assert_eq!(answer["data"], serde_json::json!({"a": "x\"\n", "b": null, "c": [{"n": 1}, {"n": 2}]}));

        let answer = answered(async { Err(Error::malformed("`x`: missing")) }).await;
        assert_eq!(answer.status(), 400);
        let answer = read(answer).await;
        assert_eq!(answer.as_object().unwrap().len(), 3);
        assert_eq!((&answer["code"], &answer["message"]), (&1000.into(), &"`x`: missing".into()));
    }

    #[tokio::test]
    async fn a_part_of_a_list_ends_by_its_bytes() {
        let item = |out: &mut Vec<u8>| write_text(out, &"x".repeat(1 << 20));
        let mut taken = 0;
        let page = Data::page(
            "items",
            |o| o.number("a", 1),
            |items| {
                while items.take(item) {
                    taken += 1;
                }
                Ok::<_, Error>(Some("c".into()))
            },
        );
        let answer = answered(async { page }).await;
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(bytes.len() <= PAGE_BYTES_MAX, "{}", bytes.len());
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((taken, answer["data"]["items"].as_array().unwrap().len()), (3, 3));
        assert_eq!((&answer["data"]["next_cursor"], &answer["data"]["a"]), (&"c".into(), &1.into()));

        let mut taken = Vec::new();
        let large = |items: &mut Items<'_>| {
            taken.push(items.take(|out| write_text(out, &"x".repeat(5 << 20))));
            taken.push(items.take(|out| write_text(out, "x")));
            Ok::<_, Error>(None)
        };
        assert!(Data::page("items", |_| {}, large).is_ok());
        assert_eq!(taken, [true, false], "one item that is larger is a part of its own");
    }

    #[tokio::test]
    async fn an_answer_is_held_until_it_is_taken() {
        let answer =
            |n: usize| async move { answered(async { Ok(Data::object(|o| o.text("a", &"x".repeat(n)))) }).await };
        let budget = Arc::new(Budget::new(50_000));
        let small = counted(answer(100).await, &budget, false).await.unwrap();
        assert_eq!(budget.held(), 0);
        let large = counted(answer(40_000).await, &budget, false).await.unwrap();
        let held = budget.held();
        assert_eq!(Some(held as u64), HttpBody::size_hint(large.body()).exact());
        assert!(counted(answer(40_000).await, &budget, false).await.is_none());
        assert_eq!(budget.held(), held);
        let must = counted(answer(40_000).await, &budget, true).await.unwrap();
        assert_eq!(budget.held(), 2 * held);
        let bytes = large.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(budget.held(), 2 * held, "the bytes are still there");
        drop((bytes, small, must));
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_that_tells_the_caller_nothing() {
        let answer = answered(async { panic!("secret") }).await;
        assert_eq!((answer.status().as_u16(), &answer.headers()[CONTENT_TYPE]), (500, &JSON));
        let answer = read(answer).await;
        assert_eq!(answer["code"], 1004);
        assert!(!answer["message"].as_str().unwrap().contains("secret"));
    }
}
