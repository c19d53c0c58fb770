//! What a task is: a schedule and a callback, as a caller defined it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::signature::Secret;

/// A task's definition. It does not change as the task runs; what changes is in [`crate::state`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// When it is due.
    pub timing: Timing,
    /// What it says beside.
    pub options: Options,
    /// What is called.
    pub callback: Callback,
    /// How failed attempts are repeated; none: as the configuration says.
    pub retry: Option<Retry>,
    /// For people and for lists; not unique.
    pub name: Option<String>,
    /// For people and for lists.
    pub tags: BTreeMap<String, String>,
    /// What its attempts are signed with; none: with the configuration's.
    pub secrets: Vec<Secret>,
}

/// When a task is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Timing {
    /// Type 1: again and again.
    Periodic {
        /// A crontab expression, the Quartz form, or `@every …`: what [`crate::schedule`] reads.
        format: String,
        /// The IANA zone in which `format` is meant.
        timezone: String,
    },
    /// Type 2: once, at an instant that the caller names.
    At {
        /// The text that the caller sent: unix seconds or milliseconds.
        format: String,
        /// The instant it stands for.
        due: Timestamp,
    },
    /// Type 2: once, this long after the leader has taken the task.
    After {
        /// Milliseconds.
        delay_ms: u64,
    },
}

/// The request that a run sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// `http` or `https`.
    pub url: String,
    /// The HTTP method.
    pub method: Method,
    /// JSON text, or what is sent in its place: see `content_type`.
    pub body: String,
    /// How the body is sent.
    pub content_type: ContentType,
    /// Headers beside our own.
    pub headers: BTreeMap<String, String>,
    /// From connect to the last byte of the answer; none: as the configuration says.
    pub timeout_ms: Option<u64>,
    /// Which answers are a success.
    pub expect: Expect,
}

/// What a task may say beside its schedule and its callback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// None before.
    pub start: Option<Timestamp>,
    /// None after.
    pub end: Option<Timestamp>,
    /// The task is finished after so many.
    pub max_runs: Option<u64>,
    /// Each is moved later by a fixed offset below this, which follows from the task's id.
    pub jitter_ms: u64,
    /// One run at once, beside the schedule.
    pub run_now: bool,
    /// How long the task and its runs are kept once it is finished; none: as the configuration says.
    pub retain_s: Option<u64>,
    /// What becomes of a due time that comes while a run of the task is going.
    pub overlap: Overlap,
    /// What becomes of due times that were missed; none: the latest fires, after the configuration's window.
    pub misfire: Option<Misfire>,
    /// Whether an attempt may be made of which nobody knows if it was made before.
    pub delivery: Delivery,
    /// Tasks that are triggered when a run has succeeded.
    pub on_success: Vec<TaskId>,
    /// Tasks that are triggered when a run has failed.
    pub on_failure: Vec<TaskId>,
    /// Who is told of runs that went wrong.
    pub alert: Option<Alert>,
}

impl Options {
    /// What decides when the task is due. The rest can change without a change of its due times.
    pub fn times(&self) -> (Option<Timestamp>, Option<Timestamp>, Option<u64>, u64) {
        (self.start, self.end, self.max_runs, self.jitter_ms)
    }
}

/// Whether an attempt may be made of which nobody knows if it was made before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// It may: a target can see a run twice.
    #[default]
    AtLeastOnce,
    /// It may not: an attempt is recorded before it is sent, and never repeated.
    AtMostOnce,
}

impl Delivery {
    /// Every one.
    pub const ALL: [Delivery; 2] = [Delivery::AtLeastOnce, Delivery::AtMostOnce];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Delivery::AtLeastOnce => "at_least_once",
            Delivery::AtMostOnce => "at_most_once",
        }
    }
}

/// Who is told of runs that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// `http` or `https`: where the message is posted.
    pub url: String,
    /// Of what; each once, in the order of their names.
    pub on: Vec<AlertEvent>,
}

/// Something that an alert tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AlertEvent {
    /// A run has failed, or nobody knows what came of it.
    Failed,
    /// A due time was missed.
    Missed,
    /// A run has succeeded after one that had not.
    Recovered,
}

impl AlertEvent {
    /// Every one.
    pub const ALL: [AlertEvent; 3] = [AlertEvent::Failed, AlertEvent::Missed, AlertEvent::Recovered];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            AlertEvent::Failed => "failed",
            AlertEvent::Missed => "missed",
            AlertEvent::Recovered => "recovered",
        }
    }
}

/// What becomes of a due time that comes while a run of the task is going.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overlap {
    /// It fires.
    #[default]
    Allow,
    /// It is skipped.
    Skip,
    /// One waits until the run has ended; further ones are skipped.
    Queue,
}

impl Overlap {
    /// Every one.
    pub const ALL: [Overlap; 3] = [Overlap::Allow, Overlap::Skip, Overlap::Queue];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Overlap::Allow => "allow",
            Overlap::Skip => "skip",
            Overlap::Queue => "queue",
        }
    }
}

/// What becomes of due times that were missed while nothing could fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misfire {
    /// Of those that are older than the window.
    pub policy: MisfirePolicy,
    /// Those that are not older than this fire late, each of them.
    pub window_ms: u64,
}

/// What becomes of due times that are older than the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MisfirePolicy {
    /// One run for all of them, the latest.
    #[default]
    Latest,
    /// Each fires.
    All,
    /// None does.
    Skip,
}

impl MisfirePolicy {
    /// Every one.
    pub const ALL: [MisfirePolicy; 3] = [MisfirePolicy::Latest, MisfirePolicy::All, MisfirePolicy::Skip];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            MisfirePolicy::Latest => "latest",
            MisfirePolicy::All => "all",
            MisfirePolicy::Skip => "skip",
        }
    }
}

/// An HTTP method that a callback may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Method {
    #[default]
    Post,
    /// Sent without a body.
    Get,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// Every method.
    pub const ALL: [Method; 5] = [Method::Post, Method::Get, Method::Put, Method::Patch, Method::Delete];

    /// As HTTP writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Post => "POST",
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
}

/// How a callback's body is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentType {
    /// Byte for byte.
    #[default]
    Json,
    /// A flat object, as a form.
    Form,
    /// A string, as it is.
    Text,
}

impl ContentType {
    /// Every one.
    pub const ALL: [ContentType; 3] = [ContentType::Json, ContentType::Form, ContentType::Text];

    /// As HTTP writes it.
    pub const fn name(self) -> &'static str {
        match self {
            ContentType::Json => "application/json",
            ContentType::Form => "application/x-www-form-urlencoded",
            ContentType::Text => "text/plain",
        }
    }

    /// The body of a callback that is given none.
    pub const fn default_body(self) -> &'static str {
        match self {
            ContentType::Json | ContentType::Form => "{}",
            // A text is sent as itself, so no text at all is the empty one.
            ContentType::Text => "\"\"",
        }
    }
}

/// Which answers are a success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    /// Ranges of statuses, both ends included; none: 200 to 299.
    pub status: Vec<(u16, u16)>,
    /// What the first bytes of the answer must contain besides.
    pub body_contains: Option<String>,
}

impl Expect {
    /// Whether an answer with this status can be a success.
    pub fn takes(&self, status: u16) -> bool {
        if self.status.is_empty() {
            return (200..300).contains(&status);
        }
        self.status.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

/// How the failed attempts of one task's runs are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts of one run, the first included.
    pub max_attempts: u32,
    /// The first backoff is at most this.
    pub min_backoff_ms: u64,
    /// No backoff is longer.
    pub max_backoff_ms: u64,
    /// How much longer each may be than the one before.
    pub multiplier: f64,
    /// No attempt is made later than this after the run was due.
    pub max_elapsed_ms: Option<u64>,
}

impl Callback {
    /// A POST of this JSON, with nothing but what must be there.
    pub fn post(url: impl Into<String>, body: impl Into<String>) -> Self {
        Callback {
            url: url.into(),
            method: Method::default(),
            body: body.into(),
            content_type: ContentType::default(),
            headers: BTreeMap::new(),
            timeout_ms: None,
            expect: Expect::default(),
        }
    }

    /// Where it goes, as [`target_of`] its URL: what requests in flight are counted by.
    pub fn target(&self) -> String {
        target_of(&self.url)
    }
}

/// What a target's name begins with where it is called over TLS: whether it can be reached is another question then.
pub const OVER_TLS: &str = "https://";

/// `host:port` of a URL, and before it [`OVER_TLS`] where that is so.
pub fn target_of(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(url) => {
            let scheme = if url.scheme() == "https" { OVER_TLS } else { "" };
            let host = url.host_str().unwrap_or_default();
            format!("{scheme}{host}:{}", url.port_or_known_default().unwrap_or_default())
        }
        Err(_) => String::new(),
    }
}

/// Whether a task still has due times to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaskState {
    /// It has.
    Active,
    /// It has, but does not fire until it is resumed.
    Paused,
    /// It has none.
    Finished,
}

impl TaskState {
    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            TaskState::Active => "active",
            TaskState::Paused => "paused",
            TaskState::Finished => "finished",
        }
    }
}

impl TaskSpec {
    /// A definition with nothing but what must be there.
    pub fn new(timing: Timing, callback: Callback) -> Self {
        let options = Options::default();
        TaskSpec { timing, options, callback, retry: None, name: None, tags: BTreeMap::new(), secrets: Vec::new() }
    }

    /// About how many bytes its texts have, whichever they are: all that a caller can make large.
    pub fn text_bytes(&self) -> usize {
        let pairs = |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| k.len() + v.len() + 32).sum::<usize>();
        let callback = &self.callback;
        let alert = self.options.alert.as_ref().map_or(0, |alert| alert.url.len());
        let ids = self.options.on_success.len() + self.options.on_failure.len();
        let expected = callback.expect.body_contains.as_ref().map_or(0, String::len);
        let fixed = callback.body.len() + callback.url.len() + self.name.as_ref().map_or(0, String::len);
        fixed + expected + alert + pairs(&callback.headers) + pairs(&self.tags) + (ids + self.secrets.len()) * 128
    }

    /// A fingerprint: two definitions with the same one are the same definition.
    pub fn digest(&self) -> u128 {
        // A `TaskSpec` holds nothing that postcard cannot write: no maps of unknown length, no untagged values.
        let bytes = postcard::to_stdvec(self).unwrap_or_default();
        xxhash_rust::xxh3::xxh3_128(&bytes)
    }

    /// 1: periodic, 2: once.
    pub const fn type_number(&self) -> u8 {
        match self.timing {
            Timing::Periodic { .. } => 1,
            Timing::At { .. } | Timing::After { .. } => 2,
        }
    }
}
