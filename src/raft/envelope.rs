//! Who sends a message, and who is meant: what stands in its headers, and who takes it.
//!
//! Names can lead to the wrong node: one of another cluster, one whose store was lost, the sender itself. A node that
//! took such a message would vote for, or acknowledge, what another was asked: doc/decisions/0024-a-message-names-who-is-meant.md

use std::str::FromStr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::StatusCode;
use uuid::Uuid;

use super::wire::{HEADER_CLUSTER, HEADER_FROM, HEADER_LIST, HEADER_STORE, HEADER_TO, HEADER_TO_STORE};
use crate::seam::bug::{self, Bug};

/// Who a node is, as its messages say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// 0: it has none yet.
    pub node: u64,
    pub store: Uuid,
    /// None while it knows of none.
    pub cluster: Option<Uuid>,
    /// A hash of its `peer_hosts`: what stands for the cluster while that is formed.
    pub list: u64,
}

/// What a message says of its sender and of who is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Envelope {
    pub from: Own,
    /// None: whoever is there.
    pub to: Option<u64>,
    /// The store that the sender's state has for the node that is meant; none: it has none.
    pub to_store: Option<Uuid>,
}

fn read<T: FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

impl Envelope {
    pub fn read(headers: &HeaderMap) -> Envelope {
        let from = Own {
            node: read(headers, HEADER_FROM).unwrap_or(0),
            store: read(headers, HEADER_STORE).unwrap_or_default(),
            cluster: read(headers, HEADER_CLUSTER),
            list: read(headers, HEADER_LIST).unwrap_or(0),
        };
        Envelope { from, to: read(headers, HEADER_TO), to_store: read(headers, HEADER_TO_STORE) }
    }

    pub fn write(&self, headers: &mut HeaderMap) {
        let mut put = |name: &'static str, value: HeaderValue| headers.insert(HeaderName::from_static(name), value);
        let uuid = |id: Uuid| HeaderValue::from_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        put(HEADER_FROM, self.from.node.into());
        put(HEADER_LIST, self.from.list.into());
        let ids = [
            (HEADER_STORE, Some(self.from.store)),
            (HEADER_CLUSTER, self.from.cluster),
            (HEADER_TO_STORE, self.to_store),
        ];
        for (name, id) in ids {
            // Digits and hyphens are a header's value.
            if let Some(Ok(value)) = id.map(uuid) {
                put(name, value);
            }
        }
        if let Some(to) = self.to {
            put(HEADER_TO, to.into());
        }
    }

    /// Whether `own` takes it. `claimed` is the store that `own` has for the sender's node. Who only asks (for a status,
    /// or for a place) need not belong to a cluster.
    ///
    /// # Errors
    /// The HTTP status and the reason for which it does not. The reason is the same for each message of this sender.
    pub fn judge(&self, own: &Own, claimed: Option<Uuid>, only_asks: bool) -> Result<(), (StatusCode, String)> {
        let from = &self.from;
        let misdirected = |why: String| Err((StatusCode::MISDIRECTED_REQUEST, why));
        let refused = |why: String| Err((StatusCode::FORBIDDEN, why));
        if bug::is_planted(Bug::TakesOthersMail) {
            return Ok(());
        }
        if let Some(to) = self.to.filter(|to| own.node != 0 && *to != own.node) {
            let itself = own.store == from.store;
            let back = if itself { ": the address leads back to the sender itself" } else { "" };
            return misdirected(format!("this is node {}, and node {to} is meant{back}", own.node));
        }
        // A status says itself whose it is.
        if let Some(store) = self.to_store.filter(|store| *store != own.store && !only_asks) {
            return misdirected(format!("this node has the store {}, and the store {store} is meant", own.store));
        }
        match (own.cluster, from.cluster) {
            (Some(own), Some(other)) if own != other => {
                return refused(format!("this node is of the cluster {own}, and the message of the cluster {other}"));
            }
            _ if only_asks => return Ok(()),
            _ => {}
        }
        if from.node == own.node && own.node != 0 && from.store != own.store {
            return refused(format!("the sender acts as node {}, which is this one", own.node));
        }
        if let Some(claimed) = claimed.filter(|claimed| *claimed != from.store) {
            let (node, store) = (from.node, from.store);
            return refused(format!("node {node} has the store {claimed}, and the message is of the store {store}"));
        }
        let same_list = own.list == from.list;
        match (own.cluster, from.cluster) {
            (Some(_), Some(_)) => Ok(()),
            // While a cluster is formed, one learns of its id before the other.
            (Some(_), None) if from.node != 0 && (claimed.is_some() || same_list) => Ok(()),
            (Some(own), None) => refused(format!("this node is of the cluster {own}, and the message of none")),
            (None, Some(_)) if self.to_store.is_some() || same_list => Ok(()),
            (None, Some(_)) => refused("this node belongs to no cluster yet".to_owned()),
            (None, None) if same_list => Ok(()),
            (None, None) => refused("the two nodes have different peer_hosts".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: u64 = 77;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    /// Node `n`, with a store of its own.
    fn node(n: u64, cluster: Option<u128>) -> Own {
        Own { node: n, store: id(100 + u128::from(n)), cluster: cluster.map(id), list: LIST }
    }

    fn message(from: Own, to: u64, to_store: Option<Uuid>) -> Envelope {
        Envelope { from, to: Some(to), to_store }
    }

    #[test]
    fn an_envelope_is_read_as_it_was_written() {
        let (from, from_new) = (node(1, Some(9)), Own { store: id(3), list: u64::MAX, ..Own::default() });
        let new = Envelope { from: from_new, to: None, to_store: None };
        for envelope in [message(from, 2, Some(id(102))), message(node(1, None), 2, None), new] {
            let mut headers = HeaderMap::new();
            envelope.write(&mut headers);
            assert_eq!(Envelope::read(&headers), envelope);
        }
        assert_eq!(Envelope::read(&HeaderMap::new()), Envelope::default());
    }

    #[test]
    fn who_is_not_meant_takes_nothing() {
        let (one, two) = (node(1, Some(9)), node(2, Some(9)));
        let known = Some(one.store);
        let judged =
            |message: Envelope, own: &Own| message.judge(own, known, false).map_err(|(status, _)| status.as_u16());
        assert_eq!(judged(message(one, 2, Some(two.store)), &two), Ok(()));
        assert_eq!(judged(message(one, 3, None), &two), Err(421));
        // The name of node 2 leads to node 1 itself.
        let back = message(one, 2, None).judge(&one, known, false).unwrap_err();
        assert!(back.0 == 421 && back.1.contains("leads back to the sender"), "{back:?}");
        // A store that was lost is not the one that is meant; nor are those of another cluster.
        let lost = Own { store: id(5), ..two };
        assert_eq!(judged(message(one, 2, Some(two.store)), &lost), Err(421));
        let other = node(2, Some(8));
        assert_eq!(judged(message(one, 2, None), &other), Err(403));
        // Two that call themselves the same.
        let twin = Own { store: id(6), ..two };
        assert_eq!(message(twin, 2, None).judge(&two, None, false).unwrap_err().0, 403);
        // A sender whose store is not the one that has claimed its node.
        assert_eq!(message(Own { store: id(7), ..one }, 2, None).judge(&two, known, false).unwrap_err().0, 403);
    }

    #[test]
    fn a_cluster_that_is_known_is_asked_for() {
        let (member, wiped) = (node(1, Some(9)), Own { store: id(5), ..node(2, None) });
        let judged = |message: Envelope, own: &Own, claimed: Option<Uuid>| {
            message.judge(own, claimed, false).map_err(|(status, _)| status.as_u16())
        };
        // One that came back empty does not act as its old self: neither is what it sends taken, nor does it take.
        let old = Some(node(2, None).store);
        assert_eq!(judged(message(wiped, 1, None), &member, old), Err(403));
        assert_eq!(judged(message(member, 2, old), &wiped, None), Err(421));
        // It may ask for a place.
        assert_eq!(message(wiped, 1, None).judge(&member, old, true), Ok(()));
        // Without any header.
        assert_eq!(judged(Envelope::default(), &member, None), Err(403));
        // While a cluster is formed, one learns of its id before the other.
        assert_eq!(judged(message(node(2, None), 1, None), &member, None), Ok(()));
        assert_eq!(judged(message(member, 2, None), &node(2, None), None), Ok(()));
        let elsewhere = |own: Own| Own { list: 78, ..own };
        assert_eq!(judged(message(elsewhere(node(2, None)), 1, None), &member, None), Err(403));
        assert_eq!(judged(message(elsewhere(member), 2, None), &node(2, None), None), Err(403));
    }

    #[test]
    fn nodes_with_different_lists_form_no_cluster() {
        let (one, two) = (node(1, None), Own { list: 78, ..node(2, None) });
        assert_eq!(message(one, 2, None).judge(&two, None, false).unwrap_err().0, 403);
        assert_eq!(message(one, 2, None).judge(&node(2, None), None, false), Ok(()));
    }
}
