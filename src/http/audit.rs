//! The call that tells what became of each due time.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;

use super::answer::{answered, Items, Object};
use super::error::Error;
use super::query::Query;
use super::Shared;
use crate::clock::Timestamp;
use crate::command::Refusal;
use crate::id::TaskId;
use crate::node::{Audited, Node};
use crate::state::audit::Period;
use crate::view::DueView;

/// `GET /xcron/audit`
pub(super) async fn audit(State(api): Shared, uri: Uri) -> Response {
    answered(async {
        let mut query = Query::parse(&uri, &["task_id", "from", "to", "limit", "cursor", "consistency"])?;
        let id: TaskId = query.must("task_id")?;
        let (from, to) = query.period()?;
        let (from, to) = (from.unwrap_or(Timestamp(0)), to.unwrap_or_else(|| api.node.now()));
        if to < from {
            return Err(Error::malformed("to: is before from"));
        }
        let period = Period { from, to, after: None, limit: query.limit()? };
        let cursor = query.cursor()?;
        let named = id.clone();
        let fill = move |node: &Node, items: &mut Items<'_>| {
            let mut take = |view: &DueView| items.take(|out| due(out, view));
            let audited = node.audit(&id, period, cursor.place(), &mut take)?;
            let Audited { next_cursor, triggers_not_kept } = audited.ok_or(Refusal::NoSuchTask)?;
            items.count("triggers_not_kept", triggers_not_kept);
            Ok::<_, Error>(cursor.next(next_cursor))
        };
        api.page(query.consistency()?, "due_times", move |o| o.plain("task_id", &named), fill).await
    })
    .await
}

fn due(out: &mut Vec<u8>, due: &DueView) {
    Object::write(out, |o| {
        o.number("due_time_ms", due.due.as_ms());
        o.plain("state", due.state.name());
        o.text_or_null("reason", due.reason.as_deref());
        o.plain("run_id", due.run);
        if let Some(upto) = due.upto {
            o.number("upto_ms", upto.as_ms());
        }
        o.number_or_null("lateness_ms", due.lateness_ms);
        o.number("attempts", due.attempts);
        o.number("triggered", due.triggered);
        match due.parent {
            Some(parent) => o.plain("parent_run_id", parent),
            None => o.raw("parent_run_id", "null"),
        }
    });
}
