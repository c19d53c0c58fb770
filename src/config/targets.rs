//! The rules for targets, out of `[callback]` and out of the node's own addresses.

use super::{Config, HostPort};
use crate::guard::{Guard, Own, OwnHost};

impl Config {
    /// Which targets callbacks may have.
    ///
    /// # Errors
    /// The key, and what is expected of it.
    pub fn guard(&self) -> Result<Guard, (&'static str, String)> {
        let callback = &self.callback;
        Guard::new(&callback.allow, &callback.deny, callback.public_only, self.own_ports())
            .map_err(|(key, error)| (key, error.to_string()))
    }

    /// The ports of this node and those of its peers, which are taken to serve clients and monitors where it does.
    fn own_ports(&self) -> Own {
        let mut own = Own::default();
        let here = OwnHost::of(&self.bind.to_string());
        let advertised = HostPort::parse(&self.advertise);
        let peers = self.peer.peer_hosts.iter().filter_map(|peer| HostPort::parse(peer));
        let others = advertised.into_iter().chain(peers).map(|peer| (OwnHost::of(&peer.host), peer.port));
        for (host, peer_port) in std::iter::once((here, self.peer_port)).chain(others) {
            for port in [peer_port, self.http_port, self.monitor_port] {
                own.add(host.clone(), port);
            }
        }
        own
    }
}
