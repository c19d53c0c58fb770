//! `[callback]`: how attempts are made.

use serde::Deserialize;

use super::{within, Complaint, DAY_MS};
use crate::signature::{Secret, SECRETS_MAX};

/// `[callback]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Callback {
    /// From connect to the last byte of the answer. Default: 30000. 100 to 600000.
    pub timeout_ms: u64,
    /// To connect alone. Default: 5000.
    pub connect_timeout_ms: u64,
    /// Most attempts in flight. Default: 512.
    pub in_flight_max: usize,
    /// Most attempts in flight to one host and port; more than `in_flight_max` are never. Default: 64.
    pub in_flight_per_host_max: usize,
    /// Most connections, to all targets together, that are kept open for the next attempt. Default: 3072. 16 to 1000000.
    pub idle_connections_max: usize,
    /// How much of an answer is read. Default: 65536.
    pub answer_bytes_max: usize,
    /// How much of an answer is kept in the history. Default: 256. Maximum: 4096.
    pub answer_kept_bytes: usize,
    /// Due times of a periodic task that were missed by more than this fire as one. Default: 60000.
    pub misfire_window_ms: u64,
    /// Addresses, CIDRs and host names (`*.` before one: those below it) that alone may be targets. Default: `[]`, all.
    pub allow: Vec<String>,
    /// The same that may not be targets, even if `allow` names them. Default: `[]`.
    pub deny: Vec<String>,
    /// Whether only global addresses may be targets. Default: false.
    pub public_only: bool,
    /// After so many runs in a row that could not connect to a target, its attempts wait until it can be connected to
    /// again; 0: never. Default: 3. Maximum: 100.
    pub hold_after: usize,
    /// The pause before the first probe of such a target. Default: 500. Minimum: 10.
    pub probe_min_ms: u64,
    /// The longest one; each is twice as long as the one before. Default: 30000.
    pub probe_max_ms: u64,
    /// What attempts are signed with, unless their task has secrets of its own; at most 4. Default: `[]`.
    pub secrets: Vec<Secret>,
    /// How failed attempts are repeated.
    pub retry: Retry,
}

/// `[callback.retry]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts of one run, the first included. Default: 5. 1 to 1000.
    pub max_attempts: u32,
    /// The first backoff is at most this. Default: 1000.
    pub min_backoff_ms: u64,
    /// No backoff is longer. Default: 60000.
    pub max_backoff_ms: u64,
    /// By how much each backoff may be longer than the one before. Default: 2.0. 1 to 100.
    pub multiplier: f64,
}

impl Default for Callback {
    fn default() -> Self {
        Callback {
            timeout_ms: 30_000,
            connect_timeout_ms: 5000,
            in_flight_max: 512,
            in_flight_per_host_max: 64,
            idle_connections_max: 3072,
            answer_bytes_max: 65_536,
            answer_kept_bytes: 256,
            misfire_window_ms: 60_000,
            allow: Vec::new(),
            deny: Vec::new(),
            public_only: false,
            hold_after: 3,
            probe_min_ms: 500,
            probe_max_ms: 30_000,
            secrets: Vec::new(),
            retry: Retry::default(),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Retry { max_attempts: 5, min_backoff_ms: 1000, max_backoff_ms: 60_000, multiplier: 2.0 }
    }
}

impl Callback {
    /// Whether the values can be meant.
    pub(super) fn validate(&self) -> Result<(), Complaint> {
        within("callback.timeout_ms", self.timeout_ms, 100, 600_000)?;
        within("callback.connect_timeout_ms", self.connect_timeout_ms, 10, 600_000)?;
        within("callback.in_flight_max", self.in_flight_max as u64, 1, 100_000)?;
        within("callback.in_flight_per_host_max", self.in_flight_per_host_max as u64, 1, 100_000)?;
        within("callback.idle_connections_max", self.idle_connections_max as u64, 16, 1_000_000)?;
        within("callback.answer_bytes_max", self.answer_bytes_max as u64, 1024, 16 << 20)?;
        within("callback.answer_kept_bytes", self.answer_kept_bytes as u64, 0, 4096)?;
        within("callback.misfire_window_ms", self.misfire_window_ms, 0, 365 * DAY_MS)?;
        within("callback.hold_after", self.hold_after as u64, 0, 100)?;
        within("callback.probe_min_ms", self.probe_min_ms, 10, DAY_MS)?;
        within("callback.probe_max_ms", self.probe_max_ms, self.probe_min_ms, DAY_MS)?;
        within("callback.retry.max_attempts", self.retry.max_attempts.into(), 1, 1000)?;
        within("callback.retry.min_backoff_ms", self.retry.min_backoff_ms, 1, DAY_MS)?;
        within("callback.retry.max_backoff_ms", self.retry.max_backoff_ms, self.retry.min_backoff_ms, 7 * DAY_MS)?;
        if !(1.0..=100.0).contains(&self.retry.multiplier) {
            let value = self.retry.multiplier;
            return Err(("callback.retry.multiplier", format!("is {value}; a number from 1.0 to 100.0 is expected")));
        }
        if self.secrets.len() > SECRETS_MAX {
            let many = self.secrets.len();
            return Err(("callback.secrets", format!("are {many}; at most {SECRETS_MAX} are expected")));
        }
        match self.secrets.iter().enumerate().find_map(|(i, secret)| Some((i, secret.check().err()?))) {
            Some((i, error)) => Err(("callback.secrets", format!("the one numbered {} {error}", i + 1))),
            None => Ok(()),
        }
    }
}
