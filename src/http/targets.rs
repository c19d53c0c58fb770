//! The call that shows the targets.

use std::str::FromStr;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::answer::{answered, Data, Object};
use super::error::{Code, Error};
use super::query::{Consistency, Query};
use super::Shared;
use crate::clock::Timestamp;
use crate::node;
use crate::task::OVER_TLS;
use crate::view::{TargetFilter, TargetState, TargetView};

/// `GET /xcron/targets`: what the leader knows; with `consistency=local` a node that takes itself for the leader asks no
/// other.
pub(super) async fn list(State(api): Shared, uri: Uri) -> Response {
    answered(async {
        let mut query = Query::parse(&uri, &["state", "limit", "cursor", "consistency"])?;
        let state = query.read::<Named>("state")?.map(|Named(state)| state);
        let (limit, cursor) = (query.limit()?, query.cursor()?);
        let filter = TargetFilter { state, limit, after: cursor.place().map(str::to_owned) };
        let page = match query.consistency()? {
            Consistency::Local if api.node.leads() => api.node.own_targets(&filter),
            // Another node than the leader knows of none.
            Consistency::Local | Consistency::Linearizable => {
                api.node.targets(&filter, api.deadline()).await.map_err(of_leader)?
            }
        };
        Data::page(
            "targets",
            |_| {},
            |items| {
                let taken = page.items.iter().take_while(|view| items.take(|out| target(out, view))).count();
                let last = || Some(page.items[..taken].last()?.target.clone());
                Ok(cursor.next(if taken < page.items.len() { last() } else { page.next_cursor }))
            },
        )
    })
    .await
}

/// There is no other way to read them: no node but the leader knows any.
fn of_leader(error: node::Error) -> Error {
    match error {
        node::Error::NoLeader => {
            Error::new(Code::NoLeader, "no leader was found in time, and the leader alone knows the targets")
        }
        other => other.into(),
    }
}

fn target(out: &mut Vec<u8>, target: &TargetView) {
    Object::write(out, |o| {
        let over_tls = target.target.strip_prefix(OVER_TLS);
        o.text("target", over_tls.unwrap_or(&target.target));
        o.plain("scheme", if over_tls.is_some() { "https" } else { "http" });
        o.plain("state", target.state.name());
        o.number("in_flight", target.in_flight);
        o.number("waiting", target.waiting);
        o.number("consecutive_failures", target.consecutive_failures);
        o.text_or_null("last_error", target.last_error.as_deref());
        o.number_or_null("held_since_ms", target.held_since.map(Timestamp::as_ms));
        o.number_or_null("next_probe_ms", target.next_probe.map(Timestamp::as_ms));
    });
}

/// A target's state by its name.
struct Named(TargetState);

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Named, String> {
        let state = TargetState::ALL.into_iter().find(|state| state.name() == text);
        state.map(Named).ok_or_else(|| format!("ok, held or probing is expected, not {text:?}"))
    }
}
