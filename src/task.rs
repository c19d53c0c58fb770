//! What a task is: a schedule and a callback, as a caller defined it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// A task's definition. It does not change as the task runs; what changes is in [`crate::state`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// When it is due.
    pub timing: Timing,
    /// What is called.
    pub callback: Callback,
    /// For people and for lists; not unique.
    pub name: Option<String>,
    /// For people and for lists.
    pub tags: BTreeMap<String, String>,
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
    /// JSON text, sent as the body byte for byte.
    pub body: String,
}

impl Callback {
    /// `host:port` that it goes to: what requests in flight are counted by.
    pub fn target(&self) -> String {
        match url::Url::parse(&self.url) {
            Ok(url) => {
                let host = url.host_str().unwrap_or_default();
                format!("{host}:{}", url.port_or_known_default().unwrap_or_default())
            }
            Err(_) => String::new(),
        }
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
