//! From a task as a caller sends it to the command that creates it.
//!
//! What depends on the moment or on what exists is not judged here but where the command is applied: whether a time is
//! past, whether a schedule fires again. For a create that is sent a second time must be answered as the first was, even
//! if the task has fired since.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use url::Url;

use super::error::{Code, Error};
use super::extract::{given, json_text, Int, Object, Read};
use super::options::{self, SentAlert, SentExpect, SentMisfire, SentOptions, SentRetry};
use super::secrets::SentSecrets;
use crate::clock::Timestamp;
use crate::command::Command;
use crate::config::Config;
use crate::guard::Guard;
use crate::id::TaskId;
use crate::schedule::{zone_hint, Schedule, UnknownZone, Zone};
use crate::signature::SECRETS_MAX;
use crate::task::{Callback, Misfire, MisfirePolicy, Retry, TaskSpec, Timing};

const URL_BYTES_MAX: usize = 2048;
const FORMAT_BYTES_MAX: usize = 1024;
/// Of a name, of a tag's key and of its value.
const NAME_CHARS_MAX: usize = 256;
const TAGS_MAX: usize = 64;

/// What a definition is held against.
pub(super) struct Rules {
    /// Largest definition, in bytes of JSON.
    pub task_bytes_max: usize,
    /// How far ahead a one-shot task may be due.
    pub ahead_ms_max: u64,
    /// The zone of a periodic task that names none.
    pub timezone: String,
    /// What is as the configuration says where a task does not say it.
    pub defaults: Defaults,
    /// Which targets are allowed.
    pub guard: Arc<Guard>,
    /// Which zones there are.
    pub zones: Zones,
}

/// What is as the configuration says where a task does not say it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub retry: Retry,
    pub timeout_ms: u64,
    pub retain_s: u64,
    pub misfire: Misfire,
}

impl Defaults {
    fn of(config: &Config) -> Defaults {
        let (callback, retry) = (&config.callback, &config.callback.retry);
        let retry = Retry {
            max_attempts: retry.max_attempts,
            min_backoff_ms: retry.min_backoff_ms,
            max_backoff_ms: retry.max_backoff_ms,
            multiplier: retry.multiplier,
            max_elapsed_ms: None,
        };
        let misfire = Misfire { policy: MisfirePolicy::default(), window_ms: callback.misfire_window_ms };
        Defaults { retry, timeout_ms: callback.timeout_ms, retain_s: config.limits.retain_s, misfire }
    }

    /// A value that is the default is as if it had not been sent: the task is the same, spelled out or not.
    fn leave_out(&self, spec: &mut TaskSpec) {
        fn leave<T: PartialEq>(field: &mut Option<T>, default: &T) {
            field.take_if(|value| value == default);
        }
        let (callback, options) = (&mut spec.callback, &mut spec.options);
        leave(&mut spec.name, &String::new());
        leave(&mut spec.retry, &self.retry);
        leave(&mut callback.timeout_ms, &self.timeout_ms);
        leave(&mut callback.expect.body_contains, &String::new());
        leave(&mut options.retain_s, &self.retain_s);
        leave(&mut options.misfire, &self.misfire);
        if callback.expect.status == [(200, 299)] {
            callback.expect.status.clear();
        }
        // An interval counts from its start, whenever that is; to all others the year 1970 is no bound.
        let interval =
            matches!(&spec.timing, Timing::Periodic { format, .. } if format.trim_start().starts_with("@every"));
        if !interval {
            leave(&mut options.start, &Timestamp(0));
        }
    }
}

/// The zone with a name.
pub(super) type Zones = Box<dyn Fn(&str) -> Result<Zone, UnknownZone> + Send + Sync>;

/// The fields of a task.
pub(super) const TASK_FIELDS: [&str; 22] = [
    "type",
    "format",
    "callback",
    "delay_ms",
    "task_id",
    "name",
    "tags",
    "timezone",
    "start_time",
    "end_time",
    "max_runs",
    "jitter_ms",
    "run_now",
    "retain_s",
    "overlap",
    "misfire",
    "delivery",
    "on_success",
    "on_failure",
    "alert",
    "retry",
    "secrets",
];
/// The fields of its callback.
pub(super) const CALLBACK_FIELDS: [&str; 7] =
    ["url", "body", "method", "headers", "content_type", "timeout_ms", "expect"];

/// A task as it is sent.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent<'a> {
    #[serde(rename = "type")]
    kind: Int,
    #[serde(default, deserialize_with = "given")]
    format: Option<String>,
    #[serde(borrow)]
    callback: Object<SentCallback<'a>>,
    #[serde(default, deserialize_with = "given")]
    delay_ms: Option<Int>,
    #[serde(default, deserialize_with = "given")]
    task_id: Option<Read<TaskId>>,
    #[serde(default, deserialize_with = "given")]
    name: Option<String>,
    #[serde(default)]
    tags: Tags,
    #[serde(default, deserialize_with = "given")]
    timezone: Option<String>,
    #[serde(default, deserialize_with = "given")]
    start_time: Option<Int>,
    #[serde(default, deserialize_with = "given")]
    end_time: Option<Int>,
    #[serde(default, deserialize_with = "given")]
    max_runs: Option<Int>,
    #[serde(default, deserialize_with = "given")]
    jitter_ms: Option<Int>,
    #[serde(default, deserialize_with = "given")]
    run_now: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    retain_s: Option<Int>,
    #[serde(default, deserialize_with = "given")]
    overlap: Option<String>,
    #[serde(default, deserialize_with = "given")]
    misfire: Option<Object<SentMisfire>>,
    #[serde(default, deserialize_with = "given")]
    delivery: Option<String>,
    #[serde(default, deserialize_with = "given")]
    on_success: Option<Vec<Read<TaskId>>>,
    #[serde(default, deserialize_with = "given")]
    on_failure: Option<Vec<Read<TaskId>>>,
    #[serde(default, deserialize_with = "given")]
    alert: Option<Object<SentAlert>>,
    #[serde(default, deserialize_with = "given")]
    retry: Option<Object<SentRetry>>,
    #[serde(default)]
    secrets: SentSecrets,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct SentCallback<'a> {
    url: String,
    #[serde(borrow, default, deserialize_with = "given")]
    body: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "given")]
    method: Option<String>,
    #[serde(default)]
    headers: Tags,
    #[serde(default, deserialize_with = "given")]
    content_type: Option<String>,
    #[serde(default, deserialize_with = "given")]
    timeout_ms: Option<Int>,
    #[serde(default, deserialize_with = "given")]
    expect: Option<Object<SentExpect>>,
}

/// An object in which no key stands twice.
#[derive(Debug, Default)]
pub(super) struct Distinct<V>(pub BTreeMap<String, V>);

pub(super) type Tags = Distinct<String>;

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Distinct<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Distinct<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Distinct<V>, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    if entries.insert(key, value).is_some() {
                        return Err(A::Error::custom("a key is given twice"));
                    }
                }
                Ok(Distinct(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// A new task, and whether its id is one that the caller chose.
#[derive(Debug)]
pub(super) struct NewTask {
    pub id: TaskId,
    pub id_is_ours: bool,
    pub spec: TaskSpec,
}

impl NewTask {
    pub fn command(self) -> Command {
        Command::Create { id: self.id, spec: Box::new(self.spec) }
    }
}

impl Rules {
    pub fn new(config: &Config, guard: Arc<Guard>) -> Rules {
        Rules {
            task_bytes_max: config.limits.task_bytes_max,
            ahead_ms_max: config.limits.ahead_ms_max,
            timezone: config.timezone.clone(),
            defaults: Defaults::of(config),
            guard,
            zones: {
                let data = config.zone_data.clone();
                Box::new(move |name| data.zone(name))
            },
        }
    }

    /// The zone with this name.
    pub fn zone(&self, name: &str) -> Result<Zone, Error> {
        (self.zones)(name).map_err(|error| {
            let hint = zone_hint(name).map(|hint| format!(": {hint}")).unwrap_or_default();
            Error::new(Code::UnknownZone, format!("timezone: {error}{hint}"))
        })
    }

    /// Reads a task as it is sent.
    pub fn read(&self, json: &str, now: Timestamp) -> Result<NewTask, Error> {
        if json.len() > self.task_bytes_max {
            return Err(Error::too_large("the task's definition", self.task_bytes_max));
        }
        let sent: Sent<'_> = json_text(json)?;
        let kind = known_type(sent.kind)?;
        let Object(callback) = sent.callback;
        check_url("callback.url", &callback.url, &self.guard)?;
        check_words(sent.name.as_deref(), &sent.tags.0)?;
        let timing = match kind {
            1 => self.periodic(sent.format, sent.timezone, sent.delay_ms)?,
            _ if sent.timezone.is_some() => return Err(Error::malformed("timezone: only for type 1")),
            _ => self.once(sent.format, sent.delay_ms, now)?,
        };
        let options = SentOptions {
            start_time: sent.start_time,
            end_time: sent.end_time,
            max_runs: sent.max_runs,
            jitter_ms: sent.jitter_ms,
            run_now: sent.run_now,
            retain_s: sent.retain_s,
            overlap: sent.overlap,
            misfire: sent.misfire,
            delivery: sent.delivery,
            on_success: sent.on_success,
            on_failure: sent.on_failure,
            alert: sent.alert,
        };
        let options = options::of_task(options, kind, &self.guard, &self.defaults.misfire)?;
        let retry = options::retry(sent.retry, &self.defaults.retry)?;
        let callback = read_callback(callback)?;
        let SentSecrets(secrets) = sent.secrets;
        if secrets.len() > SECRETS_MAX {
            return Err(Error::over_limit(format!("secrets: over the limit of {SECRETS_MAX}")));
        }
        let mut spec = TaskSpec { timing, options, callback, retry, name: sent.name, tags: sent.tags.0, secrets };
        self.defaults.leave_out(&mut spec);
        Ok(match sent.task_id {
            Some(Read(id)) => NewTask { id, id_is_ours: false, spec },
            None => NewTask { id: TaskId::generate(), id_is_ours: true, spec },
        })
    }

    fn periodic(
        &self,
        format: Option<String>,
        timezone: Option<String>,
        delay_ms: Option<Int>,
    ) -> Result<Timing, Error> {
        if delay_ms.is_some() {
            return Err(Error::malformed("delay_ms: only for type 2"));
        }
        let format = format.ok_or_else(|| Error::malformed("format: missing"))?;
        schedule(&format)?;
        let timezone = timezone.unwrap_or_else(|| self.timezone.clone());
        // In the spelling of the database: however it is written, it is the same definition.
        let timezone = self.zone(&timezone)?.name().to_owned();
        Ok(Timing::Periodic { format, timezone })
    }

    fn once(&self, format: Option<String>, delay_ms: Option<Int>, now: Timestamp) -> Result<Timing, Error> {
        match (format, delay_ms) {
            (Some(_), Some(_)) => Err(Error::malformed("format, delay_ms: only one of them can be given")),
            (None, None) => Err(Error::malformed("format: missing (or delay_ms instead)")),
            (Some(format), None) => {
                let due = instant(&format)?;
                self.check_ahead("format", due.ms_since(now))?;
                Ok(Timing::At { format, due })
            }
            (None, Some(Int(ms))) => {
                let delay_ms = u64::try_from(ms).map_err(|_| Error::malformed("delay_ms: is negative"))?;
                self.check_ahead("delay_ms", delay_ms)?;
                Ok(Timing::After { delay_ms })
            }
        }
    }

    fn check_ahead(&self, field: &str, ahead_ms: u64) -> Result<(), Error> {
        let max = self.ahead_ms_max;
        if ahead_ms <= max {
            return Ok(());
        }
        Err(Error::over_limit(format!("{field}: is further ahead than the limit of {max} ms")))
    }
}

/// 1 or 2.
pub(super) fn known_type(Int(kind): Int) -> Result<u8, Error> {
    match kind {
        1 => Ok(1),
        2 => Ok(2),
        other => Err(Error::new(Code::UnknownType, format!("type: is {other}; 1 (periodic) and 2 (once) are known"))),
    }
}

/// The schedule of a type 1 `format`.
pub(super) fn schedule(format: &str) -> Result<Schedule, Error> {
    if format.len() > FORMAT_BYTES_MAX {
        return Err(Error::over_limit(format!("format: is longer than the limit of {FORMAT_BYTES_MAX} bytes")));
    }
    Schedule::parse(format).map_err(|e| Error::new(Code::BadFormat, format!("format: {e}")))
}

/// The instant that a type 2 `format` stands for.
pub(super) fn instant(format: &str) -> Result<Timestamp, Error> {
    let number = match format.bytes().all(|b| b.is_ascii_digit()) {
        true => format.parse().ok(),
        false => None,
    };
    match (format.len(), number) {
        (10, Some(seconds)) => Ok(Timestamp::from_secs(seconds)),
        (13, Some(ms)) => Ok(Timestamp(ms)),
        _ => {
            const SHOWN_MAX: usize = 64;
            let instant = format.parse().map(jiff::Timestamp::as_second);
            let hint = match instant {
                Ok(second @ 1_000_000_000..10_000_000_000) => format!("; write {second}"),
                _ => String::new(),
            };
            let shown: String = format.chars().take(SHOWN_MAX).collect();
            let message =
                format!("format: 10 digits (unix seconds) or 13 (milliseconds) are expected, not {shown:?}{hint}");
            Err(Error::new(Code::NotATime, message))
        }
    }
}

fn read_callback(sent: SentCallback<'_>) -> Result<Callback, Error> {
    let method = options::method(sent.method.as_deref())?;
    let content_type = options::content_type(sent.content_type.as_deref())?;
    options::check_body(content_type, sent.body)?;
    options::check_headers(&sent.headers)?;
    Ok(Callback {
        url: sent.url,
        method,
        body: sent.body.map_or(content_type.default_body(), RawValue::get).to_owned(),
        content_type,
        headers: sent.headers.0,
        timeout_ms: options::timeout_ms(sent.timeout_ms)?,
        expect: options::expect(sent.expect)?,
    })
}

/// Whether calls may go to this URL.
pub(super) fn check_url(field: &str, text: &str, guard: &Guard) -> Result<(), Error> {
    if text.len() > URL_BYTES_MAX {
        return Err(Error::over_limit(format!("{field}: is longer than the limit of {URL_BYTES_MAX} bytes")));
    }
    let bad = |why: &str| Err(Error::new(Code::BadUrl, format!("{field}: {why}")));
    // A URL parser for browsers repairs more than one would want of a callback: blanks, a missing or a third slash.
    if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return bad("has a blank or a control character");
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return bad("is not of the form http://host/path");
    };
    if !["http", "https"].iter().any(|s| scheme.eq_ignore_ascii_case(s)) {
        return bad("is neither http nor https");
    }
    if rest.starts_with(['/', '\\']) {
        return bad("has no host");
    }
    match Url::parse(text) {
        Err(error) => bad(&error.to_string()),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => bad("has a user name or a password"),
        Ok(url) if url.port() == Some(0) => bad("has the port 0"),
        Ok(url) => match guard.check_url(&url) {
            Ok(()) => Ok(()),
            Err(refused) => bad(&refused.to_string()),
        },
    }
}

fn check_words(name: Option<&str>, tags: &BTreeMap<String, String>) -> Result<(), Error> {
    // Bytes first: they are at hand, and nearly always few.
    let long = |text: &str| text.len() > NAME_CHARS_MAX && text.chars().count() > NAME_CHARS_MAX;
    let over = |what: &str| Err(Error::over_limit(format!("{what}: over the limit of {NAME_CHARS_MAX} characters")));
    if name.is_some_and(long) {
        return over("name");
    }
    if tags.len() > TAGS_MAX {
        return Err(Error::over_limit(format!("tags: over the limit of {TAGS_MAX}")));
    }
    if tags.keys().any(|k| long(k)) {
        return over("tags: a key");
    }
    if let Some(key) = tags.keys().find(|key| key.contains(':')) {
        // `listTasks` takes what stands before the first one for the key.
        return Err(Error::malformed(format!("tags.{key}: a key must not have a colon")));
    }
    match tags.iter().find(|(_, value)| long(value)) {
        Some((key, _)) => over(&format!("tags.{key}")),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "define_tests.rs"]
mod tests;
