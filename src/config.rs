//! The configuration: `xcron.toml`, its defaults, and what is wrong with it.
//!
//! Every key has one default, here. Nothing is repaired silently: what cannot be meant is an [`Error`] that names the
//! file, the key, and what is expected.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::schedule::{zone_hint, ZoneData};

mod callback;
mod explain;
mod security;
mod targets;

pub use callback::{Callback, Retry};
use explain::explain;
pub use security::Security;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what a configuration looks like: syntax, an unknown key, a wrong type.
    #[error("{}: {detail}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Which key, at which line, and what is expected.
        detail: String,
    },
    /// A value that cannot be meant.
    #[error("{}: key `{key}`: {detail}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The key, with its section.
        key: &'static str,
        /// What is wrong, and what is expected.
        detail: String,
    },
}

/// How talkative the logs are, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Env {
    /// Readable, at debug level.
    Debug,
    /// JSON, at info level.
    Prod,
}

/// The whole configuration of a node.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How talkative the logs are. Default: `"prod"`.
    pub env: Env,
    /// The port of the public HTTP API. Default: 8000.
    pub http_port: u16,
    /// The port for Raft between the nodes. Default: 8899.
    pub peer_port: u16,
    /// The port of `/metrics`, `/healthz` and `/readyz`. Default: 9910.
    pub monitor_port: u16,
    /// The directory of everything that the node stores. Default: `"./data/"`.
    pub raft_dir: PathBuf,
    /// The address that all three ports listen on. Default: `"127.0.0.1"`.
    pub bind: IpAddr,
    /// `host:peer_port` by which the others reach this node. Default: `""`, found in `peer_hosts`.
    pub advertise: String,
    /// The IANA zone of type 1 tasks that name none. Default: `"UTC"`.
    pub timezone: String,
    /// The other nodes.
    pub peer: Peer,
    /// Elections and the log.
    pub raft: Raft,
    /// The embedded store.
    pub storage: Storage,
    /// What a caller may ask for.
    pub limits: Limits,
    /// Outgoing requests.
    pub callback: Callback,
    /// Who may call.
    pub security: Security,
    /// The rules of the time zones that this program brings; no key of the file.
    #[serde(skip)]
    pub zone_data: ZoneData,
}

/// `[peer]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peer {
    /// `host:peer_port` of every node, this one included; fewer than two: a single node. Default: `[]`.
    pub peer_hosts: Vec<String>,
}

/// `[raft]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raft {
    /// How often the leader makes itself heard. Default: 50. Minimum: 10.
    pub heartbeat_ms: u64,
    /// A follower that has heard no leader for this long asks the others whether it should lead; until then it votes for
    /// no other. Default: 300. Minimum: two heartbeats.
    pub election_timeout_min_ms: u64,
    /// A leader that has had no majority for this long, or whose write of the log takes this long, gives up its lead.
    /// Default: 1000.
    pub election_timeout_max_ms: u64,
    /// A node whose wall clock is further than this from the majority's does not fire. Default: 5000.
    pub max_clock_skew_ms: u64,
    /// A snapshot is taken when the log has grown by this, or by the size of the last snapshot if that is more.
    /// Default: 268435456 (256 MiB). Minimum: 1048576.
    pub snapshot_log_bytes: u64,
}

/// `[storage]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Memory for the store's cache, in MiB. Default: 128. Minimum: 16.
    pub cache_mb: u64,
    /// Longest time between two checkpoints while there is something to write. Default: 1000.
    pub checkpoint_interval_ms: u64,
    /// A checkpoint is made as soon as about this much has changed. Default: 8388608 (8 MiB).
    pub checkpoint_bytes: usize,
    /// New writes wait while more than this has changed and is not yet stored. Default: 67108864 (64 MiB).
    pub unsaved_bytes_max: usize,
    /// New writes are refused while less than this is free on the disk, in MiB. Default: 32. Minimum: 1.
    pub reserve_mb: u64,
    /// How often the nodes compare what they hold, in seconds. Default: 300. Minimum: 1.
    pub check_interval_s: u64,
    /// Size of one file of the Raft log. Default: 67108864 (64 MiB). Minimum: 1048576.
    pub log_segment_bytes: u64,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest body of a request, in bytes. Default: 8388608 (8 MiB).
    pub request_bytes_max: usize,
    /// Largest definition of one task, in bytes of JSON. Default: 1048576 (1 MiB).
    pub task_bytes_max: usize,
    /// Most tasks that the cluster keeps. Default: 20000000.
    pub tasks_max: usize,
    /// How long a finished task and its runs are kept, where the task says nothing. Default: 604800 (7 days).
    pub retain_s: u64,
    /// Longest `delay_ms`, and how far ahead a one-shot task may be due. Default: 10 years.
    pub ahead_ms_max: u64,
    /// After this a call is answered with 1050 or 1051. Default: 5000.
    pub request_timeout_ms: u64,
    /// Most connections to the public port at once. Default: 10000.
    pub connections_max: usize,
    /// A connection whose request head does not arrive within this, or that stays idle for so long, is closed.
    /// Default: 30000.
    pub idle_timeout_ms: u64,
    /// A connection that takes next to nothing of its answer for so long is closed. Default: 5000.
    pub answer_timeout_ms: u64,
    /// Most bytes of bodies that are held at once, by all connections together, and as many of answers that wait to be
    /// taken; more are answered with 1070. Default: 268435456 (256 MiB). Minimum: `request_bytes_max`, and 16777216.
    pub buffered_bytes_max: usize,
    /// Most writes that wait on one node; more are answered with 1070. Default: 65536.
    pub queue_max: usize,
    /// Most bytes of writes that wait on one node or are on their way; more are answered with 1070. Default: 134217728
    /// (128 MiB). Minimum: 67108864.
    pub queue_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            env: Env::Prod,
            http_port: 8000,
            peer_port: 8899,
            monitor_port: 9910,
            raft_dir: PathBuf::from("./data/"),
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise: String::new(),
            timezone: "UTC".to_owned(),
            peer: Peer::default(),
            raft: Raft::default(),
            storage: Storage::default(),
            limits: Limits::default(),
            callback: Callback::default(),
            security: Security::default(),
            zone_data: ZoneData::bundled(),
        }
    }
}

impl Default for Raft {
    fn default() -> Self {
        Raft {
            heartbeat_ms: 50,
            election_timeout_min_ms: 300,
            election_timeout_max_ms: 1000,
            max_clock_skew_ms: 5000,
            snapshot_log_bytes: 256 << 20,
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Storage {
            cache_mb: 128,
            checkpoint_interval_ms: 1000,
            checkpoint_bytes: 8 << 20,
            unsaved_bytes_max: 64 << 20,
            reserve_mb: 32,
            check_interval_s: 300,
            log_segment_bytes: 64 << 20,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_bytes_max: 8 << 20,
            task_bytes_max: 1 << 20,
            tasks_max: 20_000_000,
            retain_s: 604_800,
            ahead_ms_max: 10 * 365 * 86_400_000,
            request_timeout_ms: 5000,
            connections_max: 10_000,
            idle_timeout_ms: 30_000,
            answer_timeout_ms: 5000,
            buffered_bytes_max: 256 << 20,
            queue_max: 65_536,
            queue_bytes_max: 128 << 20,
        }
    }
}

const DAY_MS: u64 = 86_400_000;

/// What is wrong with a value: the key, and what is expected of it.
type Complaint = (&'static str, String);

fn within(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), Complaint> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err((key, format!("is {value}; a number from {min} to {max} is expected")))
}

/// A `host:port`, as a peer is named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// A name or an address; an IPv6 address in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`.
    pub fn parse(text: &str) -> Option<HostPort> {
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = port.parse().ok().filter(|&p| p != 0)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let named = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
        (bracketed || named).then(|| HostPort { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// Each variant of [`Error`].
    pub fn load(file: &Path) -> Result<Config, Error> {
        let text =
            std::fs::read_to_string(file).map_err(|source| Error::Unreadable { file: file.to_owned(), source })?;
        let config = Config::from_toml(&text, file)?;
        config.validate(file)?;
        Ok(config)
    }

    /// Reads a configuration from text; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn from_toml(text: &str, file: &Path) -> Result<Config, Error> {
        let malformed = |detail| Error::Malformed { file: file.to_owned(), detail };
        let document = toml::Deserializer::parse(text).map_err(|e| malformed(explain("", text, &e)))?;
        serde_path_to_error::deserialize(document)
            .map_err(|e| malformed(explain(&e.path().to_string(), text, e.inner())))
    }

    /// Whether the values can be meant.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the first that cannot.
    pub fn validate(&self, file: &Path) -> Result<(), Error> {
        let fail = |key, detail: String| Err(Error::Invalid { file: file.to_owned(), key, detail });
        let ports = [("http_port", self.http_port), ("peer_port", self.peer_port), ("monitor_port", self.monitor_port)];
        for (i, (key, port)) in ports.into_iter().enumerate() {
            if port == 0 {
                return fail(key, "is 0; a port from 1 to 65535 is expected".into());
            }
            if let Some((other, _)) = ports[..i].iter().find(|(_, p)| *p == port) {
                return fail(key, format!("is {port}, the same as `{other}`; three different ports are expected"));
            }
        }
        if self.raft_dir.as_os_str().is_empty() {
            return fail("raft_dir", "is empty; a directory is expected, such as \"./data/\"".into());
        }
        if let Err(error) = self.zone_data.zone(&self.timezone) {
            let hint = zone_hint(&self.timezone).map(|hint| format!(": {hint}")).unwrap_or_default();
            return fail("timezone", format!("{error}{hint}"));
        }
        let whole = |key, value: u64, min: u64, max: u64| {
            within(key, value, min, max).or_else(|(key, detail)| fail(key, detail))
        };
        let (raft, store, limits, callback) = (&self.raft, &self.storage, &self.limits, &self.callback);
        whole("raft.heartbeat_ms", raft.heartbeat_ms, 10, 60_000)?;
        let min = raft.election_timeout_min_ms;
        if min < raft.heartbeat_ms.saturating_mul(2) {
            let least = raft.heartbeat_ms * 2;
            return fail(
                "raft.election_timeout_min_ms",
                format!("is {min}; at least two heartbeats, {least}, are expected"),
            );
        }
        whole("raft.election_timeout_max_ms", raft.election_timeout_max_ms, min + 1, 600_000)?;
        whole("raft.max_clock_skew_ms", raft.max_clock_skew_ms, 10, DAY_MS)?;
        whole("raft.snapshot_log_bytes", raft.snapshot_log_bytes, 1 << 20, 1 << 40)?;
        whole("storage.cache_mb", store.cache_mb, 16, 1 << 20)?;
        whole("storage.checkpoint_interval_ms", store.checkpoint_interval_ms, 10, 60_000)?;
        whole("storage.checkpoint_bytes", store.checkpoint_bytes as u64, 1 << 16, 1 << 30)?;
        whole("storage.unsaved_bytes_max", store.unsaved_bytes_max as u64, store.checkpoint_bytes as u64, 1 << 36)?;
        whole("storage.reserve_mb", store.reserve_mb, 1, 1 << 20)?;
        whole("storage.check_interval_s", store.check_interval_s, 1, 86_400)?;
        whole("storage.log_segment_bytes", store.log_segment_bytes, 1 << 20, 1 << 30)?;
        whole("limits.request_bytes_max", limits.request_bytes_max as u64, 1024, 64 << 20)?;
        let task_bytes_max = (limits.request_bytes_max as u64).min(16 << 20);
        whole("limits.task_bytes_max", limits.task_bytes_max as u64, 256, task_bytes_max)?;
        whole("limits.tasks_max", limits.tasks_max as u64, 1, 1 << 40)?;
        whole("limits.retain_s", limits.retain_s, 0, 10 * 365 * 86_400)?;
        whole("limits.ahead_ms_max", limits.ahead_ms_max, 1000, 200 * 365 * DAY_MS)?;
        whole("limits.request_timeout_ms", limits.request_timeout_ms, 100, 600_000)?;
        whole("limits.connections_max", limits.connections_max as u64, 1, 1 << 20)?;
        whole("limits.idle_timeout_ms", limits.idle_timeout_ms, 100, DAY_MS)?;
        whole("limits.answer_timeout_ms", limits.answer_timeout_ms, 100, DAY_MS)?;
        let least = limits.request_bytes_max.max(16 << 20) as u64;
        whole("limits.buffered_bytes_max", limits.buffered_bytes_max as u64, least, 1 << 40)?;
        whole("limits.queue_max", limits.queue_max as u64, 1, 1 << 24)?;
        whole("limits.queue_bytes_max", limits.queue_bytes_max as u64, 64 << 20, 1 << 40)?;
        callback.validate().or_else(|(key, detail)| fail(key, detail))?;
        self.security.validate().or_else(|(key, detail)| fail(key, detail))?;
        self.validate_peers(file)?;
        match self.guard() {
            Ok(_) => Ok(()),
            Err((key, detail)) => fail(key, detail),
        }
    }

    fn validate_peers(&self, file: &Path) -> Result<(), Error> {
        let fail = |key, detail: String| Err(Error::Invalid { file: file.to_owned(), key, detail });
        let mut seen = Vec::new();
        for text in &self.peer.peer_hosts {
            let Some(peer) = HostPort::parse(text) else {
                return fail("peer.peer_hosts", format!("{text:?} is not of the form \"host:port\""));
            };
            if seen.contains(&peer) {
                return fail("peer.peer_hosts", format!("names {text:?} twice"));
            }
            seen.push(peer);
        }
        if !self.advertise.is_empty() && HostPort::parse(&self.advertise).is_none() {
            return fail("advertise", format!("{:?} is not of the form \"host:port\"", self.advertise));
        }
        match self.own_peer() {
            Ok(_) => Ok(()),
            Err((key, detail)) => fail(key, detail),
        }
    }

    /// The nodes of the cluster in the order of their names, where there are at least two.
    pub fn peers(&self) -> Vec<HostPort> {
        let mut peers: Vec<_> = self.peer.peer_hosts.iter().filter_map(|p| HostPort::parse(p)).collect();
        peers.sort();
        if peers.len() < 2 {
            peers.clear();
        }
        peers
    }

    /// `host:peer_port` of this node, as the others know it.
    ///
    /// # Errors
    /// Where it cannot be told which entry of `peer_hosts` is this node: the key, and what is expected of it.
    pub fn own_peer(&self) -> Result<HostPort, (&'static str, String)> {
        let mut peers: Vec<_> = self.peer.peer_hosts.iter().filter_map(|p| HostPort::parse(p)).collect();
        peers.sort();
        if let Some(own) = HostPort::parse(&self.advertise) {
            return if peers.len() < 2 || peers.contains(&own) {
                Ok(own)
            } else {
                Err(("advertise", format!("{own} is not in `peer.peer_hosts`; one of its entries is expected")))
            };
        }
        let unlisted = || {
            let host = match self.bind {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            };
            HostPort { host, port: self.peer_port }
        };
        if peers.is_empty() {
            return Ok(unlisted());
        }
        // Nodes on one machine differ by port; nodes on machines of their own by the address they listen on.
        let by_port: Vec<_> = peers.iter().filter(|p| p.port == self.peer_port).collect();
        let own = |p: &HostPort| match p.host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => ip == self.bind,
            Err(_) => p.host == "localhost" && self.bind.is_loopback(),
        };
        let by_address: Vec<_> = by_port.iter().filter(|p| own(p)).collect();
        if let [one] = by_address.as_slice() {
            return Ok((**one).clone());
        }
        // A name may stand for any address; an address for this node only if it listens on every one.
        let named = |p: &HostPort| p.host.trim_matches(['[', ']']).parse::<IpAddr>().is_err();
        let possible: Vec<_> = by_port.iter().filter(|p| self.bind.is_unspecified() || named(p)).collect();
        match possible.as_slice() {
            [one] => Ok((**one).clone()),
            // Fewer than two: a single node, whatever the entry names.
            [] if peers.len() < 2 => Ok(unlisted()),
            [] => {
                let (bind, port) = (self.bind, self.peer_port);
                let detail = format!(
                    "does not name this node, which is {bind}:{port} by `bind` and `peer_port`; every node is expected in it \
                     (`bind` or `advertise` says which entry is this one)"
                );
                Err(("peer.peer_hosts", detail))
            }
            _ => {
                let detail = "is empty and more than one entry of `peer.peer_hosts` could be this node; \
                              the `host:port` of this node is expected";
                Err(("advertise", detail.to_owned()))
            }
        }
    }

    /// The address for one of the three ports.
    pub fn listen(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.bind, port)
    }

    /// How long a call may take.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.request_timeout_ms)
    }
}

#[cfg(test)]
mod tests;
