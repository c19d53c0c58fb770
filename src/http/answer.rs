//! The envelope of every answer, and the JSON inside it.

use std::any::Any;
use std::fmt::Display;
use std::future::Future;
use std::io::Write;
use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::http::header::{HeaderValue, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::StatusCode;
use axum::response::Response;
use futures::FutureExt;
use uuid::Uuid;

use super::error::{Code, Error};
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

    fn finish(self, uuid: Uuid) -> Vec<u8> {
        let mut out = self.0;
        uuid.hyphenated().encode_lower(&mut out[UUID_AT..UUID_AT + 36]);
        out.push(b'}');
        out
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
    async fn a_panic_is_an_internal_error_that_tells_the_caller_nothing() {
        let answer = answered(async { panic!("secret") }).await;
        assert_eq!((answer.status().as_u16(), &answer.headers()[CONTENT_TYPE]), (500, &JSON));
        let answer = read(answer).await;
        assert_eq!(answer["code"], 1004);
        assert!(!answer["message"].as_str().unwrap().contains("secret"));
    }
}
