//! Which requests a browser sends from a page of another origin: those are refused.
//!
//! A page of any site can have its reader's browser send requests to a port on loopback, and with a name of its own that
//! leads there (DNS rebinding) it can read the answers as well. A browser says where a request comes from, in `Origin`
//! and `Sec-Fetch-Site`, and under which name it looked the node up, in `Host`; a page can forge none of the three.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::HeaderValue;

use super::error::{Code, Error};
use crate::config::{Config, HostPort};

/// Tells a browser's foreign requests from the others.
#[derive(Clone, Debug)]
pub(super) struct Origins {
    /// Names under which this node is called, in lower case; one that begins with a dot stands for those below it.
    names: Vec<String>,
}

impl Origins {
    /// The names that the configuration gives: those in `security.hosts`, of the peers, and of the node itself.
    pub fn new(config: &Config) -> Origins {
        let peers = config.peer.peer_hosts.iter().chain([&config.advertise]);
        let peers = peers.filter_map(|peer| HostPort::parse(peer)).map(|peer| peer.host);
        let names = config.security.hosts.iter().map(|name| match name.strip_prefix('*') {
            Some(below) => below.to_ascii_lowercase(),
            None => name.to_ascii_lowercase(),
        });
        Origins { names: names.chain(peers).collect() }
    }

    /// Whether the request may be answered.
    ///
    /// # Errors
    /// 1031, with the header that is wrong.
    pub fn check(&self, request: &Request) -> Result<(), Error> {
        let headers = request.headers();
        for host in headers.get_all(HOST) {
            self.check_host(host.to_str().unwrap_or_default())?;
        }
        // A target in absolute form has a host of its own, which takes the place of the header.
        if let Some(authority) = request.uri().authority() {
            self.check_host(authority.as_str())?;
        }
        if headers.get("sec-fetch-site").is_some_and(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site")) {
            return Err(foreign("Sec-Fetch-Site: a browser sent this from a page of another site"));
        }
        if headers.contains_key(ORIGIN) {
            let host = request.uri().authority().map(Authority::as_str);
            let host = host.or_else(|| headers.get(HOST)?.to_str().ok()).unwrap_or_default();
            if !headers.get_all(ORIGIN).iter().all(|origin| self.is_own(origin, host)) {
                return Err(foreign("Origin: a browser sent this from a page of another origin"));
            }
        }
        Ok(())
    }

    fn check_host(&self, host: &str) -> Result<(), Error> {
        let name = split(host).0;
        if is_address(name) || self.knows(name) {
            return Ok(());
        }
        Err(foreign(format!(
            "Host: {name:?} is no name of this node; an address, localhost, or a name in `security.hosts`, \
             `peer.peer_hosts` or `advertise` is expected"
        )))
    }

    fn knows(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        name == "localhost"
            || self.names.iter().any(|known| match known.starts_with('.') {
                true => name.len() > known.len() && name.ends_with(known.as_str()),
                false => name == *known,
            })
    }

    /// Whether a page of this origin was served under the name and the port that are asked here, or under a configured
    /// name at its usual port: a proxy may have put another name into `Host`.
    fn is_own(&self, origin: &HeaderValue, host: &str) -> bool {
        let Some((scheme, origin)) = origin.to_str().ok().and_then(|origin| origin.split_once("://")) else {
            return false;
        };
        let usual = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return false,
        };
        let (of_page, of_node) = (split(origin), split(host));
        let port = of_page.1.map_or(Some(usual), |port| port.parse().ok());
        let same = of_page.0.eq_ignore_ascii_case(of_node.0)
            && port.is_some()
            && port == of_node.1.map_or(Some(usual), |port| port.parse().ok());
        same || port == Some(usual) && of_page.0 != "localhost" && self.knows(of_page.0)
    }
}

fn foreign(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Code::Forbidden, message).and_close()
}

/// A host, without its brackets, and the port behind it.
fn split(authority: &str) -> (&str, Option<&str>) {
    if let Some((address, rest)) = authority.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return (address, rest.strip_prefix(':'));
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn is_address(host: &str) -> bool {
    let without_zone = host.split_once('%').map_or(host, |(address, _)| address);
    host.parse::<IpAddr>().is_ok() || without_zone.parse::<Ipv6Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn check(headers: &[(&str, &str)]) -> Result<(), Error> {
        let mut config = Config::default();
        config.security.hosts = vec!["xcron.example.com".into(), "*.svc.example".into()];
        config.peer.peer_hosts = vec!["Node-1:8899".into()];
        let request = headers.iter().fold(Request::builder(), |r, (name, value)| r.header(*name, *value));
        Origins::new(&config).check(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn a_host_is_an_address_localhost_or_configured() {
        let own = ["127.0.0.1:8000", "10.0.0.7", "[::1]:8000", "[fe80::1%eth0]:8000", "localhost:8000", "LOCALHOST."];
        let configured =
            ["xcron.example.com", "XCRON.example.com:443", "node-1:8000", "a.svc.example", "a.b.svc.example:1"];
        for host in own.into_iter().chain(configured) {
            assert_eq!(check(&[("host", host)]), Ok(()), "{host}");
        }
        for host in ["rebind.evil.example", "127.0.0.1.evil.example:8000", "svc.example", "localhost.evil", "", "a:b:c"]
        {
            let error = check(&[("host", host)]).unwrap_err();
            assert_eq!((error.code().number(), error.status().as_u16()), (1031, 403), "{host}");
            assert!(error.message().starts_with("Host: "), "{host}");
        }
        assert_eq!(check(&[]), Ok(()), "no browser leaves it out");
        assert!(check(&[("host", "localhost"), ("host", "evil.example")]).is_err());
    }

    #[test]
    fn an_origin_is_that_of_the_node_itself() {
        let from = |origin: &str, host: &str| check(&[("host", host), ("origin", origin)]).is_ok();
        assert!(from("http://127.0.0.1:8000", "127.0.0.1:8000") && from("http://localhost:8000", "LocalHost:8000"));
        assert!(from("https://xcron.example.com", "xcron.example.com") && from("http://[::1]:8000", "[::1]:8000"));
        assert!(from("http://localhost", "localhost:80"));
        assert!(from("https://xcron.example.com", "127.0.0.1:8000"), "behind a proxy that puts its own name in Host");
        for origin in [
            "https://evil.example",
            "null",
            "",
            "http://localhost:3000",
            "http://localhost",
            "http://127.0.0.1",
            "http://node-1:3000",
            "ftp://127.0.0.1:8000",
            "http://127.0.0.1:8000x",
            "127.0.0.1:8000",
        ] {
            assert!(!from(origin, "127.0.0.1:8000"), "{origin}");
        }
    }

    #[test]
    fn what_another_site_sends_is_refused_and_what_a_person_types_is_not() {
        for (site, taken) in [("cross-site", false), ("Cross-Site", false), ("same-origin", true), ("none", true)] {
            assert_eq!(check(&[("host", "localhost"), ("sec-fetch-site", site)]).is_ok(), taken, "{site}");
        }
    }

    #[test]
    fn a_target_in_absolute_form_is_held_to_the_same() {
        let request = |uri: &str| Request::builder().uri(uri).header("host", "localhost").body(Body::empty()).unwrap();
        let origins = Origins::new(&Config::default());
        assert!(origins.check(&request("http://evil.example/xcron/listTasks")).is_err());
        assert!(origins.check(&request("http://127.0.0.1/xcron/listTasks")).is_ok());
    }
}
