//! The call that shows the cluster.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::answer::{answered, Data, Object};
use super::query::Query;
use super::Shared;
use crate::view::NodeView;

/// `GET /xcron/cluster`: what this node knows, so that it is answered without a leader too.
pub(super) async fn cluster(State(api): Shared, uri: Uri) -> Response {
    answered(async {
        // As any other GET it may be asked for the node's own state; it never answers anything else.
        Query::parse(&uri, &["consistency"])?.consistency()?;
        let cluster = api.node.cluster().await;
        Ok(Data::object(|o| {
            o.text_or_null("cluster_id", cluster.cluster_id.as_deref());
            o.number("node", cluster.answered_by);
            o.number_or_null("leader", cluster.leader);
            o.number("term", cluster.term);
            o.text_or_null("zone_data", cluster.zone_data.as_deref());
            o.array("nodes", &cluster.nodes, node);
        }))
    })
    .await
}

fn node(out: &mut Vec<u8>, node: &NodeView) {
    Object::write(out, |o| {
        o.number("id", node.id);
        o.text("peer_address", &node.peer_address);
        o.text_or_null("http_address", node.http_address.as_deref());
        o.text("role", node.role);
        o.number("voter", node.voter);
        o.number_or_null("applied_index", node.applied);
        o.number_or_null("lag", node.lag);
        o.text_or_null("version", node.version.as_deref());
        o.text_or_null("zone_data", node.zone_data.as_deref());
        o.number_or_null("last_contact_ms", node.last_contact_ms);
        o.number_or_null("clock_offset_ms", node.clock_offset_ms);
    });
}
