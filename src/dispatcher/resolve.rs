//! From a name to the addresses that may be connected to: what the guard refuses is never handed on, so that the
//! address that was checked is the one that is connected to.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::guard::{Guard, Refused};
use crate::names::{Lookup, Names};

/// What names stand for: those of targets, and those of the cluster's nodes.
#[derive(Clone)]
pub(super) struct Book {
    lookup: Lookup,
    targets: Names,
    own: Arc<OnceLock<Names>>,
}

impl Book {
    /// A target's name is waited for no longer than this.
    pub fn new(lookup: Lookup, wait_max: Duration) -> Book {
        Book { lookup: lookup.clone(), targets: Names::of_targets(lookup, wait_max), own: Arc::default() }
    }

    /// The nodes' names are known from the calls between them.
    pub fn know(&self, own: Names) {
        // The first one counts.
        let _ = self.own.set(own);
    }

    /// The addresses of the cluster's hosts that are known by name and have this port.
    ///
    /// # Errors
    /// A name server is silent that has not told yet what one of them is.
    pub async fn own_addresses(&self, guard: &Guard, port: u16) -> io::Result<Vec<IpAddr>> {
        let own = guard.own();
        let names = self.own.get_or_init(|| Names::of_peers(self.lookup.clone()));
        let mut all = Vec::new();
        for found in futures::future::join_all(own.names(port).map(|name| names.addresses(name))).await {
            match found {
                Ok(found) => all.extend(found.iter().map(IpAddr::to_canonical)),
                // It has never stood for anything: nobody is there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text =
                        format!("port {port} is one of the cluster's own, and a node's address is not known: {error}");
                    return Err(io::Error::new(error.kind(), text));
                }
            }
        }
        Ok(all)
    }
}

/// What the name of a target stands for, without what is refused, for a connection to this port.
pub(super) async fn addresses(
    book: &Book,
    guard: &Guard,
    name: &str,
    port: u16,
) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
    // Only a port of the cluster's own takes a look at where its nodes are.
    let port = if guard.own().has_port(port) { port } else { 0 };
    let found = book.targets.addresses(name).await?;
    let own = book.own_addresses(guard, port).await?;
    filter(guard, name, found, port, &own)
}

/// What is left of `found`.
fn filter(
    guard: &Guard,
    name: &str,
    found: Vec<IpAddr>,
    port: u16,
    own: &[IpAddr],
) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
    let mut refused = None;
    let judge = |ip: IpAddr| match own.contains(&ip.to_canonical()) {
        true => Err(Refused::Own(name.to_owned(), port)),
        false => guard.check_address(Some(name), ip, port),
    };
    let mut allowed = Vec::with_capacity(found.len());
    for ip in found {
        match judge(ip) {
            Ok(()) => allowed.push(ip),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    match (allowed.is_empty(), refused) {
        (false, _) => Ok(allowed),
        (true, Some(refused)) => Err(refused.into()),
        (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} has no address")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ips: &[&str]) -> Vec<IpAddr> {
        ips.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_refused_is_left_out_and_nothing_else() {
        let guard = Guard::default();
        let mixed = found(&["169.254.169.254", "192.0.2.7", "fe80::1", "2001:db8::7", "::ffff:169.254.0.1"]);
        let left = filter(&guard, "a", mixed, 0, &[]).unwrap();
        assert_eq!(left, found(&["192.0.2.7", "2001:db8::7"]));
        let error = filter(&guard, "a.example", found(&["169.254.169.254", "fe80::1"]), 0, &[]).unwrap_err();
        let message = error.downcast::<Refused>().unwrap().to_string();
        assert!(message.starts_with("169.254.169.254, for which a.example stands, is a cloud"), "{message}");
        assert!(filter(&guard, "a", vec![], 0, &[]).unwrap_err().downcast_ref::<Refused>().is_none());
    }

    #[test]
    fn a_name_for_a_peer_does_not_lead_to_its_port() {
        let (guard, peer) = (Guard::default(), ["10.0.0.7".parse().unwrap()]);
        let error = filter(&guard, "other", found(&["::ffff:10.0.0.7"]), 8899, &peer).unwrap_err();
        assert_eq!(*error.downcast::<Refused>().unwrap(), Refused::Own("other".to_owned(), 8899));
    }
}
