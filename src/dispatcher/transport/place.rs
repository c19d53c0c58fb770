//! What a URL says about the way to its target. Many tasks call the same URL, and parsing it is a twentieth of what an
//! attempt costs: the result is kept.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderValue, Uri};
use rustls::pki_types::ServerName;
use url::{Host, Position, Url};

/// Where a request goes.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    pub url: Url,
    /// Scheme, host and port: connections are kept by these.
    pub origin: Arc<str>,
    pub host: Host<String>,
    pub port: u16,
    /// The name that the certificate must have; none: plain HTTP.
    pub tls: Option<ServerName<'static>>,
    pub host_header: HeaderValue,
    /// Path and query, as the request line has them.
    pub path: Uri,
}

impl Place {
    fn of(url: Url) -> Result<Place, String> {
        let host = url.host().ok_or("the URL has no host")?.to_owned();
        let port = url.port_or_known_default().ok_or("the URL has no port")?;
        let tls = match (url.scheme(), &host) {
            ("http", _) => None,
            ("https", Host::Domain(name)) => Some(ServerName::try_from(name.clone()).map_err(|e| e.to_string())?),
            ("https", Host::Ipv4(ip)) => Some(ServerName::from(IpAddr::V4(*ip))),
            ("https", Host::Ipv6(ip)) => Some(ServerName::from(IpAddr::V6(*ip))),
            (scheme, _) => return Err(format!("{scheme} is neither http nor https")),
        };
        let text = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        let host_header = HeaderValue::try_from(text).map_err(|e| e.to_string())?;
        let path = url[Position::BeforePath..Position::AfterQuery].parse::<Uri>().map_err(|e| e.to_string())?;
        let origin = format!("{}://{host}:{port}", url.scheme()).into();
        Ok(Place { origin, host, port, tls, host_header, path, url })
    }

    /// The address, where the URL has one and not a name.
    pub fn literal(&self) -> Option<IpAddr> {
        match self.host {
            Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
            Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
            Host::Domain(_) => None,
        }
    }
}

/// URLs that were parsed before.
#[derive(Default)]
pub(super) struct Places(Mutex<HashMap<String, Arc<Place>>>);

/// So many are kept; then it begins anew.
const URLS_MAX: usize = 1024;
/// A longer one is parsed each time: this bounds the memory.
const URL_KEPT_BYTES_MAX: usize = 512;

impl Places {
    /// The place of this URL, or what is wrong with it.
    pub fn get(&self, text: &str) -> Result<Arc<Place>, String> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = known().get(text) {
            return Ok(place.clone());
        }
        let place = Arc::new(Place::of(Url::parse(text).map_err(|e| e.to_string())?)?);
        if text.len() <= URL_KEPT_BYTES_MAX {
            let mut known = known();
            if known.len() >= URLS_MAX {
                known.clear();
            }
            known.insert(text.to_owned(), place.clone());
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_the_same_however_often_it_is_parsed() {
        let places = Places::default();
        let long = format!("http://b.example/{}", "x".repeat(URL_KEPT_BYTES_MAX));
        let texts = (0..2 * URLS_MAX).map(|n| format!("http://a.example/{n}?q=ü")).chain([long]);
        for text in texts.flat_map(|text| [text.clone(), text]) {
            assert_eq!(*places.get(&text).unwrap(), Place::of(Url::parse(&text).unwrap()).unwrap());
            assert!(places.0.lock().unwrap().len() <= URLS_MAX);
        }
        assert!(places.get("http://").is_err());
    }

    #[test]
    fn a_url_is_taken_apart_as_the_request_has_it() {
        let place = |text: &str| Place::of(Url::parse(text).unwrap()).unwrap();
        let shown = |text: &str| {
            let place = place(text);
            (place.origin.to_string(), place.host_header.to_str().unwrap().to_owned(), place.path.to_string())
        };
        let texts = |origin: &str, host: &str, path: &str| (origin.to_owned(), host.to_owned(), path.to_owned());
        assert_eq!(shown("http://A.example"), texts("http://a.example:80", "a.example", "/"));
        assert_eq!(shown("https://a:80/b?c=d#e"), texts("https://a:80", "a:80", "/b?c=d"));
        assert_eq!(shown("http://[::1]:81/%20"), texts("http://[::1]:81", "[::1]:81", "/%20"));
        assert_eq!(place("http://2130706433/").literal(), Some("127.0.0.1".parse().unwrap()));
        assert!(place("http://a/").tls.is_none() && place("https://a/").tls.is_some());
        assert_eq!(place("https://[::1]/").tls, Some(ServerName::from(IpAddr::V6("::1".parse().unwrap()))));
    }
}
