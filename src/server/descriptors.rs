//! Descriptors: how many this process may have, and who gets them.
//!
//! Each connection takes one, and so does each file of the log. Connections come from outside, without end; so they are
//! bounded below the limit, and what the log, the store and the peers need is left for them.

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

use crate::config::{Callback, Config};

/// What the store, the snapshots, calls to the peers, the runtime and the standard streams need.
const FILES: usize = 128;
/// Most connections of peers.
const PEERS_MAX: usize = 4096;
/// Most connections of those who monitor.
const MONITOR_MAX: usize = 256;

/// How many descriptors each may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Connections to `http_port`.
    pub api: usize,
    /// Connections to `monitor_port`.
    pub monitor: usize,
    /// Connections to `peer_port`.
    pub peers: usize,
    /// Connections to targets: those of attempts, of probes, and those that are kept for the next attempt.
    pub targets: usize,
    /// Attempts in flight, each of which has one of these.
    pub callbacks: usize,
}

impl Shares {
    /// Divides a limit: first what the node itself needs, then the callbacks, then the connections.
    pub fn of(config: &Config, limit: usize) -> Shares {
        // The log is purged behind a snapshot, so that it has about twice what is between two of them.
        let segments = (2 * config.raft.snapshot_log_bytes / config.storage.log_segment_bytes.max(1)) as usize;
        let own = (FILES + segments).min(limit / 4);
        let rest = limit.saturating_sub(own);
        let wanted = config.callback.in_flight_max.saturating_add(config.callback.idle_connections_max);
        let targets = wanted.min(rest / 3).max(2);
        // The others are for probes, and for what is kept.
        let callbacks = config.callback.in_flight_max.min(targets * 3 / 4);
        let peers = PEERS_MAX.min(rest / 4);
        let monitor = MONITOR_MAX.min(rest / 16);
        let api = config.limits.connections_max.min(rest.saturating_sub(targets + peers + monitor));
        let [api, monitor, peers, callbacks] = [api, monitor, peers, callbacks].map(|share| share.max(1));
        Shares { api, monitor, peers, targets, callbacks }
    }

    /// Lowers what callbacks may have to this.
    pub fn lower(&self, callback: &mut Callback) {
        (callback.in_flight_max, callback.idle_connections_max) = (self.callbacks, self.targets - self.callbacks);
    }

    /// What is lowered, with both numbers.
    pub fn warnings(&self, config: &Config, limit: usize) -> Vec<String> {
        let lowered = |key: &str, wanted: usize, given: usize| {
            (given < wanted).then(|| {
                format!(
                    "key `{key}`: is {wanted}, and the limit of descriptors (ulimit -n, LimitNOFILE) of {limit} leaves room for \
                     {given}: that many are used"
                )
            })
        };
        let api = lowered("limits.connections_max", config.limits.connections_max, self.api);
        let callbacks = lowered("callback.in_flight_max", config.callback.in_flight_max, self.callbacks);
        let idle = self.targets - self.callbacks;
        let idle = lowered("callback.idle_connections_max", config.callback.idle_connections_max, idle);
        api.into_iter().chain(callbacks).chain(idle).collect()
    }
}

/// How many descriptors this process can have: its hard limit, since [`raise`] goes up to it.
pub fn limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.or(current).unwrap_or(u64::MAX);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Raises the soft limit to the hard one: the soft one is low for programs that use `select`, which this one does not.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        tracing::warn!(%error, soft = shown(current), hard = shown(maximum), "the limit of descriptors cannot be raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connections_get_leaves_enough_for_the_node_itself() {
        let config = Config::default();
        for limit in [64, 100, 256, 1024, 4096, 10_000, 20_000, 1 << 20] {
            let shares = Shares::of(&config, limit);
            let Shares { api, monitor, peers, targets, callbacks } = shares;
            let given = api + monitor + peers + targets;
            assert!(limit - given >= FILES.min(limit / 4), "{limit}: {shares:?}");
            assert!(api > 0 && monitor > 0 && peers > 0 && callbacks > 0, "{limit}: {shares:?}");
            assert!(callbacks < targets, "{limit}: {shares:?}");
        }
    }

    #[test]
    fn a_limit_that_is_high_enough_lowers_nothing_and_a_low_one_is_told() {
        let config = Config::default();
        let told = |limit| Shares::of(&config, limit).warnings(&config, limit);
        assert_eq!(told(20_000), Vec::<String>::new());
        let low = told(1024).join("\n");
        for part in [
            "limits.connections_max",
            "10000",
            "1024",
            "callback.in_flight_max",
            "512",
            "callback.idle_connections_max",
        ] {
            assert!(low.contains(part), "{part} is not in {low}");
        }
    }
}
