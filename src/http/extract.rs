//! Reading what a caller sends: the body, and the JSON in it.
//!
//! The content type is not looked at: `curl -d` announces a form and means JSON.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::EXPECT;
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;

use super::error::{Code, Error};
use crate::budget::{Budget, Hold};

/// A body that has arrived. Its bytes are held in the budget of all of them, unless it came in one piece: such a one is in
/// the buffer of its connection, which is small.
#[derive(Debug)]
pub(super) struct Received<'a> {
    bytes: Bytes,
    _hold: Option<Hold<&'a Budget>>,
}

impl Received<'_> {
    /// The bytes, which are held for as long as this is.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

impl Deref for Received<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a body was not read to its end.
enum Stopped {
    TooLarge,
    /// All bodies together hold too much.
    NoRoom,
    Broken(axum::Error),
}

/// Reads a whole body of at most `limit` bytes, which must arrive within `timeout`.
pub(super) async fn body(
    request: Request,
    limit: usize,
    timeout: Duration,
    budget: &Budget,
) -> Result<Received<'_>, Error> {
    let asks_first = request.headers().contains_key(EXPECT);
    let mut body = request.into_body();
    let late = || Error::too_slow("the body did not arrive in time").and_close();
    let error = match tokio::time::timeout(timeout, collect(&mut body, limit, budget)).await {
        Ok(Ok(received)) => return Ok(received),
        Ok(Err(Stopped::Broken(error))) => {
            return Err(Error::malformed(format!("the body cannot be read: {error}")).and_close())
        }
        Err(_) => return Err(late()),
        Ok(Err(Stopped::TooLarge)) => Error::too_large("the request's body", limit),
        Ok(Err(Stopped::NoRoom)) => {
            Error::new(Code::TooMany, "the bodies of all requests together are over limits.buffered_bytes_max")
        }
    };
    // A client that is still sending when the connection is closed may never see the answer. One that asks first does.
    let taken =
        !asks_first && tokio::time::timeout(timeout, discard(&mut body, limit * DISCARD_FACTOR)).await == Ok(true);
    Err(if taken { error } else { error.and_close() })
}

/// Reads all of `body`. What is announced is not believed: bytes are held as they arrive.
async fn collect<'a>(body: &mut Body, limit: usize, budget: &'a Budget) -> Result<Received<'a>, Stopped> {
    let mut hold = Hold::new(budget);
    let announced = HttpBody::size_hint(body).upper().map_or(limit, |most| most.min(limit as u64) as usize);
    if HttpBody::size_hint(body).lower() > limit as u64 {
        return Err(Stopped::TooLarge);
    }
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Stopped::Broken)?.into_data() else { continue };
        let len = whole.len() + data.len();
        if len > limit {
            return Err(Stopped::TooLarge);
        }
        if whole.is_empty() && body.is_end_stream() {
            return Ok(Received { bytes: data, _hold: None });
        }
        if len > whole.capacity() {
            let capacity = len.max((2 * whole.capacity()).min(announced));
            if !hold.grow(capacity - whole.capacity()) {
                return Err(Stopped::NoRoom);
            }
            whole.reserve_exact(capacity - whole.len());
        }
        whole.extend_from_slice(&data);
    }
    Ok(Received { bytes: whole.into(), _hold: Some(hold) })
}

/// How much more than its limit is read of a body that is too large, only to be thrown away.
const DISCARD_FACTOR: usize = 4;

/// Whether `body` ended within `most` bytes.
async fn discard(body: &mut Body, most: usize) -> bool {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.ok().and_then(|f| f.into_data().ok()).map_or(usize::MAX / 2, |data| data.len());
        if read > most {
            return false;
        }
    }
    true
}

/// Reads a JSON object; an error names the field.
pub(super) fn json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => json_text(text),
        Err(error) => Err(Error::malformed(format!("the body is not JSON: {error}"))),
    }
}

/// Like [`json`], of text.
pub(super) fn json_text<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Error> {
    // Keeping track of the path costs an allocation for each field, so it is done only where there is an error to tell.
    match serde_json::from_str::<Object<T>>(text) {
        Ok(Object(value)) => Ok(value),
        Err(error) => Err(Error::malformed(explain::<T>(text).unwrap_or_else(|| not_json(&error)))),
    }
}

fn not_json(error: &serde_json::Error) -> String {
    format!("the body is not JSON: {error}")
}

fn explain<'de, T: Deserialize<'de>>(text: &'de str) -> Option<String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let error = serde_path_to_error::deserialize::<_, Object<T>>(&mut deserializer).err()?;
    if error.inner().classify() != Category::Data {
        return Some(not_json(error.inner()));
    }
    let path = error.path().to_string();
    let path = if path == "." { "" } else { &path };
    let text = error.inner().to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    Some(field_error(path, text))
}

/// `path` is that of the field, or of the object that it should be in.
fn field_error(path: &str, text: &str) -> String {
    let quoted = |start: &str| text.strip_prefix(start)?.split_once('`');
    let within = |field: &str| match path {
        "" => field.to_owned(),
        path if path == field || path.strip_suffix(field).is_some_and(|p| p.ends_with('.')) => path.to_owned(),
        path => format!("{path}.{field}"),
    };
    if let Some((field, _)) = quoted("missing field `") {
        format!("{}: missing", within(field))
    } else if let Some((field, _)) = quoted("duplicate field `") {
        format!("{}: given twice", within(field))
    } else if let Some((field, known)) = quoted("unknown field `") {
        format!("{}: unknown field{known}", within(field))
    } else {
        let (field, text) = (if path.is_empty() { "the body" } else { path }, json_words(text));
        format!("{field}: {text}")
    }
}

/// The same in the words of JSON: serde has words of its own for what came and for what is expected. What the caller sent,
/// which is quoted between the two, stays.
fn json_words(text: &str) -> String {
    const CAME: [(&str, &str); 3] = [("sequence", "array"), ("map", "object"), ("floating point", "number")];
    const EXPECTED: [(&str, &str); 2] = [("a sequence", "an array"), ("a map", "an object")];
    let Some(rest) = text.strip_prefix("invalid type: ") else { return text.to_owned() };
    let came = CAME.iter().find_map(|(word, json)| Some(format!("{json}{}", rest.strip_prefix(word)?)));
    let text = format!("invalid type: {}", came.as_deref().unwrap_or(rest));
    let expected = |(word, json): &(&str, &str)| {
        Some(format!("{}, expected {json}", text.strip_suffix(&format!(", expected {word}"))?))
    };
    EXPECTED.iter().find_map(expected).unwrap_or(text)
}

/// A value that must be a JSON object: by itself, a derived struct also takes an array of its fields.
#[derive(Debug)]
pub(super) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Only<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Only<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Only(PhantomData))
    }
}

/// For an optional field: it may be absent, but where it is given, `null` is as wrong as any other wrong type.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A number without a fraction; one beyond 64 bits is held at the end of their range.
///
/// As in JSON Schema, `1.0` is such a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Int(pub i64);

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Int;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Int, E> {
                Ok(Int(n))
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Int, E> {
                Ok(Int(i64::try_from(n).unwrap_or(i64::MAX)))
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> Result<Int, E> {
                if n.fract() == 0.0 {
                    Ok(Int(n as i64))
                } else {
                    Err(E::invalid_type(de::Unexpected::Float(n), &self))
                }
            }
        }
        deserializer.deserialize_i64(Whole)
    }
}

/// A text field that is read as a `T`.
#[derive(Debug)]
pub(super) struct Read<T>(pub T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(PhantomData<T>);
        impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
            type Value = Read<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Read<T>, E> {
                text.parse().map(Read).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_is_what_json_schema_calls_one() {
        let int = |text: &str| serde_json::from_str::<Int>(text).map(|n| n.0).map_err(|e| e.to_string());
        assert_eq!((int("-3"), int("2.0"), int("1e3")), (Ok(-3), Ok(2), Ok(1000)));
        assert_eq!((int("1e30"), int("99999999999999999999")), (Ok(i64::MAX), Ok(i64::MAX)));
        assert_eq!(int("9007199254740991.0"), Ok((1 << 53) - 1), "its last digit counts too");
        for bad in ["1.5", "\"1\"", "null", "true", "[]"] {
            assert!(int(bad).unwrap_err().contains("expected an integer"), "{bad}");
        }
    }

    const SOON: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_and_one_at_it_is_not() {
        let budget = Budget::new(1 << 20);
        let read = |n: usize| body(Request::new(Body::from(vec![b'x'; n])), 10, SOON, &budget);
        assert_eq!(read(10).await.unwrap().len(), 10);
        let error = read(11).await.unwrap_err();
        assert_eq!((error.code().number(), error.status().as_u16(), error.ends_connection()), (1006, 413, false));
        assert!(read(1000).await.unwrap_err().ends_connection(), "too much to be thrown away");
        let pieces = futures::stream::iter([Ok::<_, std::io::Error>("123456"), Ok("123456")]);
        let pieces = Request::new(Body::from_stream(pieces));
        assert_eq!(body(pieces, 10, SOON, &budget).await.unwrap_err(), error);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_given_up() {
        let budget = Budget::new(10);
        let stalled = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let error = body(Request::new(stalled), 10, Duration::from_millis(20), &budget).await.unwrap_err();
        assert_eq!((error.code().number(), error.status().as_u16()), (1000, 408));
        assert_eq!(error.message(), "the body did not arrive in time");
    }

    #[tokio::test]
    async fn all_bodies_together_are_bounded_by_what_has_arrived_of_them() {
        let budget = Budget::new(30);
        let pieces = |n: usize| {
            let pieces = futures::stream::iter(vec![Ok::<_, std::convert::Infallible>("12345"); n]);
            body(Request::new(Body::from_stream(pieces)), 20, SOON, &budget)
        };
        let first = pieces(4).await.unwrap();
        assert_eq!((&first[..], budget.held()), (&b"12345123451234512345"[..], 20));
        let error = pieces(3).await.unwrap_err();
        assert_eq!((error.code().number(), error.status().as_u16(), error.ends_connection()), (1070, 429, false));
        assert_eq!(budget.held(), 20, "what is refused holds nothing");
        let second = pieces(2).await.unwrap();
        assert_eq!(budget.held(), 30);
        drop((first, second));
        assert_eq!(budget.held(), 0);
    }
}
