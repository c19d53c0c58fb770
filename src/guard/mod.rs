//! Which targets callbacks may have.
//!
//! A target is looked at twice. When a task is created, what its URL says is: a literal address in whatever spelling,
//! and a name by the rules for names, without asking anyone what it stands for. When a connection is made, the very
//! address that is connected to is. So a name that comes to stand for another address later gains nothing by it.
//!
//! 1. Never: what is special ([`address::never`]), cloud metadata by name, and the cluster's own ports.
//! 2. `deny` wins over everything that could allow.
//! 3. `public_only` refuses what is not global.
//! 4. Where `allow` is not empty, only what it names is allowed.
//!
//! An address that carries another (IPv4 in IPv6: mapped, NAT64, 6to4, …) is refused where either of them is.

pub mod address;
mod own;
pub mod rule;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock};

use url::{Host, Url};

pub use self::own::{Own, OwnHost};
use self::rule::{Rule, RuleError};

/// Why a target is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is of a kind that no configuration allows.
    #[error("{0} is {1}, which is never allowed as a target")]
    Never(String, &'static str),
    /// It is the cluster itself.
    #[error("{0}:{1} is a port of the cluster itself, which is never allowed as a target")]
    Own(String, u16),
    /// A rule of `deny` names it.
    #[error("{0} is refused by {1:?} in `callback.deny`")]
    Denied(String, String),
    /// There are rules in `allow`, and none names it.
    #[error("{0} is not in `callback.allow`")]
    NotAllowed(String),
    /// It is not global, and only what is global is allowed.
    #[error("{0} is not a global address, and `callback.public_only` is set")]
    NotGlobal(String),
    /// The URL has no host.
    #[error("the URL has no host")]
    NoHost,
}

/// The rules of one node.
#[derive(Debug, Default)]
pub struct Guard {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    public_only: bool,
    own: RwLock<Arc<Own>>,
}

/// Names under which clouds serve metadata. What they stand for is refused too, where it is link-local.
const METADATA_NAMES: [&str; 6] = [
    "metadata.google.internal",
    "metadata.goog",
    "instance-data.ec2.internal",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "metadata.platformequinix.com",
];

impl Guard {
    /// Rules as the configuration writes them, and the cluster's own ports.
    ///
    /// # Errors
    /// The list (`callback.allow` or `callback.deny`) and what is wrong with its first bad rule.
    pub fn new(
        allow: &[String],
        deny: &[String],
        public_only: bool,
        own: Own,
    ) -> Result<Guard, (&'static str, RuleError)> {
        let rules = |key, texts: &[String]| -> Result<Vec<Rule>, (&'static str, RuleError)> {
            texts.iter().map(|text| Rule::parse(text).map_err(|error| (key, error))).collect()
        };
        let (allow, deny) = (rules("callback.allow", allow)?, rules("callback.deny", deny)?);
        Ok(Guard { allow, deny, public_only, own: RwLock::new(Arc::new(own)) })
    }

    /// The cluster's own ports, as far as they are known.
    pub fn own(&self) -> Arc<Own> {
        self.own.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another of them is known: a peer has told where it serves.
    pub fn learn(&self, host: OwnHost, port: u16) {
        if !self.own().has(&host, port) {
            Arc::make_mut(&mut self.own.write().unwrap_or_else(PoisonError::into_inner)).add(host, port);
        }
    }

    /// Judges what can be told from the URL alone: a literal address wholly, a name by the rules for names.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check_url(&self, url: &Url) -> Result<(), Refused> {
        let port = url.port_or_known_default().unwrap_or(0);
        match url.host() {
            None => Err(Refused::NoHost),
            Some(Host::Domain(name)) => self.check_name(name, port),
            Some(Host::Ipv4(ip)) => self.check_address(None, ip.into(), port),
            Some(Host::Ipv6(ip)) => self.check_address(None, ip.into(), port),
        }
    }

    /// Judges a name, without asking what it stands for.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check_name(&self, name: &str, port: u16) -> Result<(), Refused> {
        let name = rule::normal(name);
        if METADATA_NAMES.contains(&name.as_str()) {
            return Err(Refused::Never(name, "a cloud's metadata service"));
        }
        // These stand for loopback whatever a resolver says (RFC 6761, section 6.3).
        let local = name == "localhost" || name.ends_with(".localhost");
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let own = self.own();
        if own.is_name(&name, port) || local && loopback.iter().any(|ip| own.is_address(*ip, port)) {
            return Err(Refused::Own(name, port));
        }
        if let Some(rule) = self.deny.iter().find(|r| r.names(&name)) {
            return Err(Refused::Denied(name, rule.to_string()));
        }
        if self.public_only && local {
            return Err(Refused::NotGlobal(name));
        }
        // It could stand for an address that is allowed, unless none is.
        let by_address = self.allow.iter().any(Rule::is_network);
        if !self.allow.is_empty() && !by_address && !self.allow.iter().any(|r| r.names(&name)) {
            return Err(Refused::NotAllowed(name));
        }
        Ok(())
    }

    /// Judges an address that is about to be connected to; `name` is what it was found under. Port 0: any that is not
    /// the cluster's own.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check_address(&self, name: Option<&str>, ip: IpAddr, port: u16) -> Result<(), Refused> {
        let (canonical, own) = (ip.to_canonical(), self.own());
        let shown = || match name {
            Some(name) => format!("{canonical}, for which {name} stands,"),
            None if canonical != ip => format!("{ip} ({canonical})"),
            None => canonical.to_string(),
        };
        let views = || std::iter::once(canonical).chain(address::carried(canonical).into_iter().flatten());
        for view in views() {
            if let Some(kind) = address::never(view) {
                return Err(Refused::Never(shown(), kind));
            }
            if own.is_address(view, port) {
                return Err(Refused::Own(view.to_string(), port));
            }
        }
        if let Some(rule) = self.deny.iter().find(|rule| views().any(|view| rule.holds(view))) {
            return Err(Refused::Denied(shown(), rule.to_string()));
        }
        if self.public_only && !address::is_global(canonical) {
            return Err(Refused::NotGlobal(shown()));
        }
        let name = name.map(rule::normal);
        let allowed = |rule: &Rule| rule.holds(canonical) || name.as_ref().is_some_and(|name| rule.names(name));
        if !self.allow.is_empty() && !self.allow.iter().any(allowed) {
            return Err(Refused::NotAllowed(shown()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
