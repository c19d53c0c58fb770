//! One entry of `callback.allow` or `callback.deny`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use url::Host;

/// What an entry names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The addresses whose first bits are those of this one.
    Network(IpAddr, u8),
    /// This name; in lower case, without a dot at its end.
    Name(String),
    /// The names below this one, not this one itself.
    Below(String),
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The length of the prefix is not one.
    #[error("{0:?}: a prefix length from 0 to {1} is expected after the slash")]
    Prefix(String, u8),
    /// The address has bits outside of the prefix.
    #[error("{0:?}: the address goes on beyond its prefix; \"{1}\" is expected")]
    Beyond(String, Box<Rule>),
    /// Nothing that is known.
    #[error(
        "{0:?}: an address, a CIDR such as \"10.0.0.0/8\", or a host name such as \"a.example\" or \"*.example\" \
         is expected"
    )]
    Unknown(String),
}

/// A name as names are compared.
pub fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

impl Rule {
    /// Reads an entry.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn parse(text: &str) -> Result<Rule, RuleError> {
        if let Some((address, length)) = text.split_once('/') {
            return Self::network(text, address, length);
        }
        if let Some(ip) = literal(text) {
            let ip = ip.to_canonical();
            return Ok(Rule::Network(ip, bits(ip)));
        }
        let (below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let known = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        let whole = !normal(name).split('.').any(str::is_empty);
        // The URL's own reading, so that a name in any script is compared as it will stand there. It takes "10.0" for
        // an address; here that is a slip.
        match Host::parse(name) {
            Ok(Host::Domain(host)) if whole && name.chars().all(known) => {
                let host = normal(&host);
                Ok(if below { Rule::Below(host) } else { Rule::Name(host) })
            }
            _ => Err(RuleError::Unknown(text.to_owned())),
        }
    }

    fn network(text: &str, address: &str, length: &str) -> Result<Rule, RuleError> {
        let Some(ip) = literal(address) else { return Err(RuleError::Unknown(text.to_owned())) };
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length = length.parse().ok().filter(|n| digits && *n <= bits(ip));
        let Some(length) = length else { return Err(RuleError::Prefix(text.to_owned(), bits(ip))) };
        let first = masked(ip, length);
        if first != ip {
            return Err(RuleError::Beyond(text.to_owned(), Box::new(Rule::Network(first, length))));
        }
        // A network of mapped addresses is one of IPv4: addresses are compared in that form.
        Ok(match ip.to_canonical() {
            v4 @ IpAddr::V4(_) if ip.is_ipv6() && length >= 96 => Rule::Network(v4, length - 96),
            _ => Rule::Network(ip, length),
        })
    }

    /// Whether it speaks of addresses.
    pub fn is_network(&self) -> bool {
        matches!(self, Rule::Network(..))
    }

    /// Whether it names this address, which is in canonical form.
    pub fn holds(&self, ip: IpAddr) -> bool {
        match self {
            Rule::Network(first, length) => first.is_ipv4() == ip.is_ipv4() && masked(ip, *length) == *first,
            _ => false,
        }
    }

    /// Whether it names this name, which is [`normal`].
    pub fn names(&self, name: &str) -> bool {
        match self {
            Rule::Network(..) => false,
            Rule::Name(own) => own == name,
            Rule::Below(top) => name.strip_suffix(top.as_str()).is_some_and(|rest| rest.ends_with('.')),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Network(ip, length) if *length == bits(*ip) => write!(f, "{ip}"),
            Rule::Network(ip, length) => write!(f, "{ip}/{length}"),
            Rule::Name(name) => f.write_str(name),
            Rule::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// An address, an IPv6 one also in brackets.
pub(super) fn literal(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).filter(|t| t.contains(':'));
    IpAddr::from_str(bare.unwrap_or(text)).ok()
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() {
        32
    } else {
        128
    }
}

fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & v4_mask(length)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & v6_mask(length)).into(),
    }
}

fn v4_mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0)
}

fn v6_mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0)
}
