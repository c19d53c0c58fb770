//! What a task may have beside its schedule and its URL: how the request is made, which due times count, how failures
//! are repeated. Read and checked here; every message names the field.

use std::collections::HashSet;

use serde_json::value::RawValue;
use serde_json::Value;

use super::define::{check_url, Distinct, Tags};
use super::error::Error;
use super::extract::{given, Int, Object, Read};
use super::query::SECONDS_MAX;
use crate::clock::Timestamp;
use crate::guard::Guard;
use crate::id::TaskId;
use crate::task::{
    Alert, AlertEvent, ContentType, Delivery, Expect, Method, Misfire, MisfirePolicy, Options, Overlap, Retry,
};

/// Levels of arrays and objects in a body. Five more are around it in a list, and there are readers (jq 1.6) that take 256
/// in all, and of a list with more nothing.
const BODY_LEVELS_MAX: usize = 240;
const HEADERS_MAX: usize = 64;
const HEADER_VALUE_BYTES_MAX: usize = 4096;
const RANGES_MAX: usize = 32;
/// Of each list.
const FOLLOWERS_MAX: usize = 32;
const CONTAINS_BYTES_MAX: usize = 1024;
const DAY_MS: u64 = 86_400_000;
const RETAIN_S_MAX: u64 = 10 * 365 * 86_400;
/// The largest integer that every JSON parser keeps.
const RUNS_MAX: u64 = (1 << 53) - 1;

/// Which answers are a success, as it is sent.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SentExpect {
    #[serde(default, deserialize_with = "given")]
    status: Option<Vec<(Int, Int)>>,
    #[serde(default, deserialize_with = "given")]
    body_contains: Option<String>,
}

/// How failed attempts are repeated, as it is sent.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SentRetry {
    #[serde(default, deserialize_with = "given")]
    max_attempts: Option<Int>,
    #[serde(default, deserialize_with = "given")]
    min_backoff_ms: Option<Int>,
    #[serde(default, deserialize_with = "given")]
    max_backoff_ms: Option<Int>,
    #[serde(default, deserialize_with = "given")]
    multiplier: Option<f64>,
    #[serde(default)]
    max_elapsed_ms: Option<Int>,
}

/// A number from `min` to `max`.
fn within(field: &str, Int(value): Int, min: u64, max: u64) -> Result<u64, Error> {
    match u64::try_from(value) {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        _ => Err(Error::malformed(format!("{field}: is {value}; a number from {min} to {max} is expected"))),
    }
}

/// One of these names.
fn one_of<T: Copy>(field: &str, text: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T, Error> {
    all.iter().copied().find(|one| name(*one) == text).ok_or_else(|| {
        let names = all.iter().map(|one| name(*one)).collect::<Vec<_>>().join(", ");
        Error::malformed(format!("{field}: one of {names} is expected, not {text:?}"))
    })
}

pub(super) fn method(text: Option<&str>) -> Result<Method, Error> {
    text.map_or(Ok(Method::default()), |text| one_of("callback.method", text, &Method::ALL, Method::name))
}

pub(super) fn content_type(text: Option<&str>) -> Result<ContentType, Error> {
    let field = "callback.content_type";
    // Names of media types have no case (RFC 9110, 8.3.1).
    let lower = text.map(str::to_ascii_lowercase);
    lower.map_or(Ok(ContentType::default()), |text| one_of(field, &text, &ContentType::ALL, ContentType::name))
}

pub(super) fn timeout_ms(sent: Option<Int>) -> Result<Option<u64>, Error> {
    sent.map(|ms| within("callback.timeout_ms", ms, 100, 600_000)).transpose()
}

/// How many levels of arrays and objects a text has that is JSON. The stack does not grow with them.
fn levels(json: &str) -> usize {
    let (mut level, mut deepest) = (0usize, 0);
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => {
                level += 1;
                deepest = deepest.max(level);
            }
            b']' | b'}' if !is_text => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Whether a body can be kept, shown, and sent as this type.
pub(super) fn check_body(kind: ContentType, body: Option<&RawValue>) -> Result<(), Error> {
    // Each level takes two bytes.
    if body.is_some_and(|body| body.get().len() > 2 * BODY_LEVELS_MAX && levels(body.get()) > BODY_LEVELS_MAX) {
        return Err(Error::malformed(format!("callback.body: nested deeper than {BODY_LEVELS_MAX} levels")));
    }
    let Some(body) = body.filter(|_| kind != ContentType::Json) else { return Ok(()) };
    let value: Value = serde_json::from_str(body.get()).unwrap_or_default();
    let fits = match kind {
        ContentType::Json => true,
        ContentType::Text => value.is_string(),
        ContentType::Form => value.as_object().is_some_and(|o| o.values().all(|v| !v.is_object() && !v.is_array())),
    };
    let wanted = if kind == ContentType::Text { "a string" } else { "an object of plain values" };
    let name = kind.name();
    fits.then_some(()).ok_or_else(|| Error::malformed(format!("callback.body: {wanted} is expected for {name}")))
}

/// Headers that are ours, or that would break the request.
fn is_reserved(name: &str) -> bool {
    let ours = ["host", "content-length", "transfer-encoding", "connection", "idempotency-key"];
    let prefixes = ["xcron-", "webhook-"];
    ours.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

pub(super) fn check_headers(Distinct(headers): &Tags) -> Result<(), Error> {
    if headers.len() > HEADERS_MAX {
        return Err(Error::over_limit(format!("callback.headers: over the limit of {HEADERS_MAX}")));
    }
    let mut seen = HashSet::new();
    for (name, value) in headers {
        let bad = |why: &str| Err(Error::malformed(format!("callback.headers.{name}: {why}")));
        // Of two that are the same to HTTP only one would be sent.
        if !seen.insert(name.to_ascii_lowercase()) {
            return bad("given twice, once in another case");
        }
        if http::HeaderName::try_from(name.as_str()).is_err() {
            return bad("is not the name of a header");
        }
        if is_reserved(&name.to_ascii_lowercase()) {
            return bad("is set by xcron and cannot be given");
        }
        if value.len() > HEADER_VALUE_BYTES_MAX {
            let limit = format!("callback.headers.{name}: over the limit of {HEADER_VALUE_BYTES_MAX} bytes");
            return Err(Error::over_limit(limit));
        }
        if http::HeaderValue::try_from(value.as_str()).is_err() {
            return bad("has a character that a header cannot have");
        }
    }
    Ok(())
}

pub(super) fn expect(sent: Option<Object<SentExpect>>) -> Result<Expect, Error> {
    let Some(Object(SentExpect { status, body_contains })) = sent else { return Ok(Expect::default()) };
    let status = status.unwrap_or_default();
    if status.len() > RANGES_MAX {
        return Err(Error::over_limit(format!("callback.expect.status: over the limit of {RANGES_MAX} ranges")));
    }
    if body_contains.as_ref().is_some_and(|text| text.len() > CONTAINS_BYTES_MAX) {
        let limit = format!("callback.expect.body_contains: over the limit of {CONTAINS_BYTES_MAX} bytes");
        return Err(Error::over_limit(limit));
    }
    let range = |(first, last)| {
        let field = "callback.expect.status";
        let (first, last) = (within(field, first, 100, 599)?, within(field, last, 100, 599)?);
        if first > last {
            return Err(Error::malformed(format!("{field}: {first} is after {last}")));
        }
        Ok((first as u16, last as u16))
    };
    Ok(Expect { status: status.into_iter().map(range).collect::<Result<_, _>>()?, body_contains })
}

/// What is not given is as `default` has it.
pub(super) fn retry(sent: Option<Object<SentRetry>>, default: &Retry) -> Result<Option<Retry>, Error> {
    let Some(Object(sent)) = sent else { return Ok(None) };
    let number = |field: &str, value: Option<Int>, default: u64, min: u64, max: u64| {
        value.map_or(Ok(default), |value| within(&format!("retry.{field}"), value, min, max))
    };
    let min_backoff_ms = number("min_backoff_ms", sent.min_backoff_ms, default.min_backoff_ms, 1, DAY_MS)?;
    let max_backoff_ms = number("max_backoff_ms", sent.max_backoff_ms, default.max_backoff_ms, 1, 7 * DAY_MS)?;
    if max_backoff_ms < min_backoff_ms {
        let message = format!("retry.max_backoff_ms: is {max_backoff_ms}, less than min_backoff_ms, {min_backoff_ms}");
        return Err(Error::malformed(message));
    }
    let multiplier = sent.multiplier.unwrap_or(default.multiplier);
    if !(1.0..=100.0).contains(&multiplier) {
        return Err(Error::malformed(format!("retry.multiplier: is {multiplier}; 1.0 to 100.0 is expected")));
    }
    let max_attempts = number("max_attempts", sent.max_attempts, default.max_attempts.into(), 1, 1000)? as u32;
    let elapsed = |ms| within("retry.max_elapsed_ms", ms, 1, 365 * DAY_MS);
    let max_elapsed_ms = sent.max_elapsed_ms.map(elapsed).transpose()?;
    Ok(Some(Retry { max_attempts, min_backoff_ms, max_backoff_ms, multiplier, max_elapsed_ms }))
}

/// The fields that say which due times count, as they are sent.
#[derive(Debug, Default)]
pub(super) struct SentOptions {
    pub start_time: Option<Int>,
    pub end_time: Option<Int>,
    pub max_runs: Option<Int>,
    pub jitter_ms: Option<Int>,
    pub run_now: Option<bool>,
    pub retain_s: Option<Int>,
    pub overlap: Option<String>,
    pub misfire: Option<Object<SentMisfire>>,
    pub delivery: Option<String>,
    pub on_success: Option<Vec<Read<TaskId>>>,
    pub on_failure: Option<Vec<Read<TaskId>>>,
    pub alert: Option<Object<SentAlert>>,
}

/// Who is told of runs that went wrong, as it is sent.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SentAlert {
    url: String,
    #[serde(default, deserialize_with = "given")]
    on: Option<Vec<String>>,
}

/// What is not said is `failed`: what nobody wants to miss.
fn alert(Object(sent): Object<SentAlert>, guard: &Guard) -> Result<Alert, Error> {
    check_url("alert.url", &sent.url, guard)?;
    let events = sent.on.unwrap_or_else(|| vec![AlertEvent::Failed.name().to_owned()]);
    if events.is_empty() {
        return Err(Error::malformed("alert.on: is empty"));
    }
    let events = events.iter().map(|text| one_of("alert.on", text, &AlertEvent::ALL, AlertEvent::name));
    let mut on = events.collect::<Result<Vec<_>, _>>()?;
    on.sort_unstable();
    on.dedup();
    Ok(Alert { url: sent.url, on })
}

/// Tasks to trigger: each once, in the order in which they are given.
fn followers(field: &str, sent: Option<Vec<Read<TaskId>>>) -> Result<Vec<TaskId>, Error> {
    let mut followers = Vec::new();
    for Read(id) in sent.unwrap_or_default() {
        if !followers.contains(&id) {
            followers.push(id);
        }
    }
    if followers.len() > FOLLOWERS_MAX {
        return Err(Error::over_limit(format!("{field}: over the limit of {FOLLOWERS_MAX} tasks")));
    }
    Ok(followers)
}

/// What becomes of due times that were missed, as it is sent.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SentMisfire {
    #[serde(default, deserialize_with = "given")]
    policy: Option<String>,
    #[serde(default, deserialize_with = "given")]
    window_ms: Option<Int>,
}

fn misfire(Object(sent): Object<SentMisfire>, default: &Misfire) -> Result<Misfire, Error> {
    let policy = sent.policy.as_deref();
    let policy = policy.map(|text| one_of("misfire.policy", text, &MisfirePolicy::ALL, MisfirePolicy::name));
    let window = sent.window_ms.map(|ms| within("misfire.window_ms", ms, 0, 365 * DAY_MS));
    let window_ms = window.transpose()?.unwrap_or(default.window_ms);
    Ok(Misfire { policy: policy.transpose()?.unwrap_or(default.policy), window_ms })
}

pub(super) fn of_task(sent: SentOptions, kind: u8, guard: &Guard, default_misfire: &Misfire) -> Result<Options, Error> {
    let only = [
        ("start_time", sent.start_time.is_some()),
        ("end_time", sent.end_time.is_some()),
        ("max_runs", sent.max_runs.is_some()),
    ];
    if let Some((field, _)) = only.into_iter().find(|(_, given)| *given && kind != 1) {
        return Err(Error::malformed(format!("{field}: only for type 1")));
    }
    let second = |field, value: Option<Int>| {
        value.map(|value| within(field, value, 0, SECONDS_MAX).map(Timestamp::from_secs)).transpose()
    };
    let (start, end) = (second("start_time", sent.start_time)?, second("end_time", sent.end_time)?);
    if start.is_some() && end.is_some() && start > end {
        return Err(Error::malformed("end_time: is before start_time"));
    }
    let max_runs = sent.max_runs.map(|n| within("max_runs", n, 1, RUNS_MAX)).transpose()?;
    let jitter_ms = sent.jitter_ms.map_or(Ok(0), |ms| within("jitter_ms", ms, 0, DAY_MS))?;
    let retain_s = sent.retain_s.map(|s| within("retain_s", s, 0, RETAIN_S_MAX)).transpose()?;
    let overlap = sent.overlap.as_deref().map(|text| one_of("overlap", text, &Overlap::ALL, Overlap::name));
    let delivery = sent.delivery.as_deref().map(|text| one_of("delivery", text, &Delivery::ALL, Delivery::name));
    Ok(Options {
        start,
        end,
        max_runs,
        jitter_ms,
        run_now: sent.run_now.unwrap_or(false),
        retain_s,
        overlap: overlap.transpose()?.unwrap_or_default(),
        misfire: sent.misfire.map(|sent| misfire(sent, default_misfire)).transpose()?,
        delivery: delivery.transpose()?.unwrap_or_default(),
        on_success: followers("on_success", sent.on_success)?,
        on_failure: followers("on_failure", sent.on_failure)?,
        alert: sent.alert.map(|sent| alert(sent, guard)).transpose()?,
    })
}
