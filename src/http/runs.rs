//! The calls about runs.

use std::str::FromStr;

use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;

use super::answer::{answered, Data, Items};
use super::error::{Code, Error};
use super::extract::{json, Read};
use super::query::Query;
use super::tasks::unexpected;
use super::{show, Shared};
use crate::command::{Command, Refusal, Reply};
use crate::id::{RunId, TaskId};
use crate::node::Node;
use crate::run::RunState;
use crate::view::{RunFilter, RunView, ShownRun};

/// What `listRuns` takes.
pub(super) const LIST: [&str; 7] = ["task_id", "state", "from", "to", "limit", "cursor", "consistency"];

/// `GET /xcron/listRuns`
pub(super) async fn list(State(api): Shared, uri: Uri) -> Response {
    answered(async {
        let mut query = Query::parse(&uri, &LIST)?;
        let filter = filter(&mut query)?;
        let (limit, cursor) = (query.limit()?, query.cursor()?);
        let fill = move |node: &Node, runs: &mut Items<'_>| {
            let mut take = |run: &RunView| runs.take(|out| show::run(out, run));
            let next = node.list_runs(&filter, limit, cursor.place(), &mut take)?;
            Ok::<_, Error>(cursor.next(next.ok_or(Refusal::NoSuchTask)?))
        };
        api.page(query.consistency()?, "runs", |_| {}, fill).await
    })
    .await
}

pub(super) fn filter(query: &mut Query) -> Result<RunFilter, Error> {
    let (from, to) = query.period()?;
    Ok(RunFilter {
        task: query.read::<TaskId>("task_id")?,
        state: query.read::<Named>("state")?.map(|Named(state)| state),
        from,
        to,
    })
}

/// `GET /xcron/queryRun`
pub(super) async fn query(State(api): Shared, uri: Uri) -> Response {
    answered(async {
        let mut query = Query::parse(&uri, &["run_id", "consistency"])?;
        let Hyphenated(id) = query.must("run_id")?;
        let deadline = api.deadline();
        api.settle(query.consistency()?, deadline).await?;
        let node = api.node.clone();
        match api.lanes.reads.run(deadline, move || Ok(node.run(id)?)).await? {
            Some(run) => Ok(Data::value(&ShownRun::from(&run))),
            None => Err(Error::new(Code::NotFound, "no such run")),
        }
    })
    .await
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SentRun {
    pub run_id: Read<Hyphenated>,
}

/// `POST /xcron/cancelRun`
pub(super) async fn cancel(State(api): Shared, request: Request) -> Response {
    answered(async {
        let body = api.body(request).await?;
        let SentRun { run_id: Read(Hyphenated(id)) } = json(&body)?;
        // The run's task is looked up here: what was acknowledged before this call must be seen.
        let deadline = api.deadline();
        api.settle_write(deadline).await?;
        let seq = api.node.machine().with_state(|state| state.find_by_run(id));
        let (key, _) = id.parts();
        let Some(seq) = seq else { return Err(Refusal::NoSuchRun.into()) };
        match api.node.propose(Command::Cancel { seq, key }, deadline).await? {
            Reply::Done => Ok(Data::none()),
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(unexpected()),
        }
    })
    .await
}

/// A run's id in the one form in which it is given out; a UUID has others.
pub(super) struct Hyphenated(RunId);

impl FromStr for Hyphenated {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Hyphenated, &'static str> {
        let id = Some(text).filter(|t| t.len() == 36).and_then(|t| t.parse().ok());
        id.map(Hyphenated).ok_or("is not a run's id, which is a UUID")
    }
}

/// A run's state by its name.
struct Named(RunState);

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Named, String> {
        RunState::from_name(text).map(Named).ok_or_else(|| {
            let names = RunState::ALL.map(RunState::name).join(", ");
            format!("one of {names} is expected, not {text:?}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_by_its_id_in_its_usual_form_and_a_state_by_its_name() {
        let text = "0190b3f0-7a1e-8000-8f00-0123456789ab";
        assert_eq!(text.parse::<Hyphenated>().map(|h| h.0.to_string()), Ok(text.to_owned()));
        assert!(text.replace('-', "").parse::<Hyphenated>().is_err());
        assert!("x".repeat(36).parse::<Hyphenated>().is_err());
        assert!(matches!("running".parse(), Ok(Named(RunState::Running))));
        assert!("Running".parse::<Named>().is_err());
    }
}
