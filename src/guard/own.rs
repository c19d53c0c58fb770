//! The cluster's own ports.

use std::net::{IpAddr, UdpSocket};

use super::rule;

/// A host of which some ports are the cluster's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnHost {
    /// One address.
    Address(IpAddr),
    /// A name, as [`rule::normal`] gives it. What it stands for is found out where a connection is made.
    Name(String),
    /// Every address of this machine.
    Local,
}

impl OwnHost {
    /// From a host as it stands in a `host:port`.
    pub fn of(host: &str) -> OwnHost {
        match rule::literal(host) {
            Some(ip) if ip.is_unspecified() => OwnHost::Local,
            Some(ip) => OwnHost::Address(ip.to_canonical()),
            None => OwnHost::Name(rule::normal(host)),
        }
    }
}

/// The ports, each with its host.
#[derive(Clone, Debug, Default)]
pub struct Own(Vec<(OwnHost, u16)>);

impl Own {
    /// Adds a port; 0 stands for none.
    pub fn add(&mut self, host: OwnHost, port: u16) {
        if port != 0 && !self.has(&host, port) {
            self.0.push((host, port));
        }
    }

    pub(super) fn has(&self, host: &OwnHost, port: u16) -> bool {
        self.0.iter().any(|(known, own)| known == host && *own == port)
    }

    /// Whether it is one of the ports, on whichever host.
    pub fn has_port(&self, port: u16) -> bool {
        self.0.iter().any(|(_, own)| *own == port)
    }

    fn hosts(&self, port: u16) -> impl Iterator<Item = &OwnHost> {
        self.0.iter().filter(move |(_, own)| *own == port).map(|(host, _)| host)
    }

    /// The hosts that are known by name and have this port.
    pub fn names(&self, port: u16) -> impl Iterator<Item = &str> {
        self.hosts(port).filter_map(|host| match host {
            OwnHost::Name(name) => Some(name.as_str()),
            _ => None,
        })
    }

    pub(super) fn is_name(&self, name: &str, port: u16) -> bool {
        self.names(port).any(|own| own == name)
    }

    pub(super) fn is_address(&self, ip: IpAddr, port: u16) -> bool {
        self.hosts(port).any(|host| match host {
            OwnHost::Address(own) => *own == ip,
            OwnHost::Name(name) => name == "localhost" && ip.is_loopback(),
            OwnHost::Local => is_local(ip),
        })
    }
}

/// Whether this machine has the address: only then can it be bound to. Asked only of ports that are the cluster's.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}
