//! The call that shows when a schedule would fire, or a task will.

use axum::extract::{Request, State};
use axum::response::Response;
use serde::de::IgnoredAny;

use super::answer::{answered, write_text, Data};
use super::define::{instant, known_type, schedule, Rules};
use super::error::{Code, Error};
use super::extract::{given, json, Int, Read};
use super::query::SECONDS_MAX;
use super::Shared;
use crate::clock::Timestamp;
use crate::command::{Never, Refusal};
use crate::id::TaskId;
use crate::node::Node;
use crate::schedule::{Schedule, Zone};
use crate::state::audit::Course;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sent {
    #[serde(rename = "type")]
    kind: Int,
    format: String,
    #[serde(default, deserialize_with = "given")]
    timezone: Option<String>,
    #[serde(default, deserialize_with = "given")]
    after: Option<Int>,
    #[serde(default, deserialize_with = "given")]
    count: Option<Int>,
}

/// A task that exists, in place of a schedule.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct SentTask {
    task_id: Read<TaskId>,
    #[serde(default, deserialize_with = "given")]
    count: Option<Int>,
}

/// Whether it is one.
#[derive(serde::Deserialize)]
struct Named {
    task_id: Option<IgnoredAny>,
}

const COUNT: u64 = 10;
const COUNT_MAX: u64 = 1000;
const ONCE: &str = "once";

/// `POST /xcron/previewSchedule`
pub(super) async fn preview(State(api): Shared, request: Request) -> Response {
    answered(async {
        let body = api.body(request).await?;
        // A thousand due times of a rare schedule take a while to find.
        let deadline = api.deadline();
        let own = api.clone();
        let names_task = serde_json::from_slice::<Named>(&body).is_ok_and(|named| named.task_id.is_some());
        if names_task {
            let SentTask { task_id: Read(id), count } = json(&body)?;
            let count = count_of(count)?;
            api.settle_write(deadline).await?;
            let work = move || preview_of_task(&own.rules, &own.node, &id, count).map(Preview::answer);
            return api.lanes.lists.run(deadline, work).await;
        }
        let sent: Sent = json(&body)?;
        api.lanes.lists.run(deadline, move || preview_of(&own.rules, own.node.now(), sent).map(Preview::answer)).await
    })
    .await
}

/// What a schedule comes to.
#[derive(Debug)]
pub(super) struct Preview {
    /// Ascending.
    pub times: Vec<Timestamp>,
    /// Whose clock shows them.
    pub zone: Zone,
    /// The schedule in words.
    pub description: String,
}

impl Preview {
    fn answer(self) -> Data {
        Data::object(|o| {
            let local: Vec<String> = self.times.iter().map(|time| self.zone.local_time(*time)).collect();
            o.array("fire_times", self.times, |out, time| out.extend_from_slice(time.as_secs().to_string().as_bytes()));
            o.array("local_times", local, |out, time| write_text(out, &time));
            o.text("description", &self.description);
        })
    }
}

pub(super) fn preview_of(rules: &Rules, now: Timestamp, sent: Sent) -> Result<Preview, Error> {
    let kind = known_type(sent.kind)?;
    let after = within("after", sent.after, 0, SECONDS_MAX)?.map_or(now, Timestamp::from_secs);
    if kind == 1 && after >= Schedule::END {
        return Err(Error::malformed("after: schedules end with the year 2199"));
    }
    let count = count_of(sent.count)?;
    if kind == 2 {
        return match sent.timezone {
            Some(_) => Err(Error::malformed("timezone: only for type 1")),
            None => {
                let (times, description) = (vec![instant(&sent.format)?], ONCE.to_owned());
                Ok(Preview { times, zone: rules.zone(&rules.timezone)?, description })
            }
        };
    }
    let schedule = schedule(&sent.format)?;
    let zone = rules.zone(sent.timezone.as_deref().unwrap_or(&rules.timezone))?;
    let next = |from: &Timestamp| schedule.next_after(&zone, after, *from);
    let times: Vec<_> = std::iter::successors(next(&after), next).take(count).collect();
    match times.is_empty() {
        true => {
            let comes = schedule.next_after(&zone, after, Timestamp(0)).is_some();
            let never = if comes { Never::Again } else { Never::AtAll };
            Err(Error::new(Code::NeverFires, never.to_string()))
        }
        false => {
            let description = in_words(&schedule, &zone);
            Ok(Preview { times, zone, description })
        }
    }
}

/// When a task will be fired as it stands: its start, end and jitter, what it has left of its runs, and what an answer
/// has put off. Nothing, while it is paused or when it is finished.
fn preview_of_task(rules: &Rules, node: &Node, id: &TaskId, count: usize) -> Result<Preview, Error> {
    let course = node.machine().with_state(|state| Some(Course::of(state.task(state.find(id)?)?)));
    let course = course.ok_or(Refusal::NoSuchTask)?;
    let times = course.to_fire(count);
    Ok(match course.timetable() {
        Some(table) => Preview { times, zone: table.zone.clone(), description: in_words(&table.schedule, &table.zone) },
        None => Preview { times, zone: rules.zone(&rules.timezone)?, description: ONCE.to_owned() },
    })
}

fn in_words(schedule: &Schedule, zone: &Zone) -> String {
    format!("{}; {}", schedule.in_words(), zone.name())
}

fn count_of(sent: Option<Int>) -> Result<usize, Error> {
    Ok(within("count", sent, 1, COUNT_MAX)?.unwrap_or(COUNT) as usize)
}

fn within(field: &str, value: Option<Int>, min: u64, max: u64) -> Result<Option<u64>, Error> {
    let Some(Int(value)) = value else { return Ok(None) };
    match u64::try_from(value).ok().filter(|v| (min..=max).contains(v)) {
        Some(value) => Ok(Some(value)),
        None => Err(Error::malformed(format!("{field}: a number from {min} to {max} is expected, not {value}"))),
    }
}
