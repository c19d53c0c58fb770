//! The call that shows when a schedule would fire.

use axum::extract::{Request, State};
use axum::response::Response;

use super::answer::{answered, write_text, Data};
use super::define::{instant, known_type, schedule, zone, Rules};
use super::error::{Code, Error};
use super::extract::{given, json, Int};
use super::query::SECONDS_MAX;
use super::Shared;
use crate::clock::Timestamp;
use crate::command::Never;
use crate::schedule::{Schedule, Zone};

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

const COUNT: u64 = 10;
const COUNT_MAX: u64 = 1000;

/// `POST /xcron/previewSchedule`
pub(super) async fn preview(State(api): Shared, request: Request) -> Response {
    answered(async {
        let body = api.body(request).await?;
        let sent: Sent = json(&body)?;
        // A thousand due times of a rare schedule take a while to find.
        let deadline = api.deadline();
        let own = api.clone();
        let found = api.lists.run(deadline, move || preview_of(&own.rules, own.node.now(), sent)).await?;
        Ok(Data::object(|o| {
            let Preview { times, zone, description } = found;
            let local: Vec<String> = times.iter().map(|time| zone.local_time(*time)).collect();
            o.array("fire_times", times, |out, time| out.extend_from_slice(time.as_secs().to_string().as_bytes()));
            o.array("local_times", local, |out, time| write_text(out, &time));
            o.text("description", &description);
        }))
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

pub(super) fn preview_of(rules: &Rules, now: Timestamp, sent: Sent) -> Result<Preview, Error> {
    let kind = known_type(sent.kind)?;
    let after = within("after", sent.after, 0, SECONDS_MAX)?.map_or(now, Timestamp::from_secs);
    if kind == 1 && after >= Schedule::END {
        return Err(Error::malformed("after: schedules end with the year 2199"));
    }
    let count = within("count", sent.count, 1, COUNT_MAX)?.unwrap_or(COUNT);
    if kind == 2 {
        return match sent.timezone {
            Some(_) => Err(Error::malformed("timezone: only for type 1")),
            None => {
                let (times, description) = (vec![instant(&sent.format)?], "once".to_owned());
                Ok(Preview { times, zone: zone(&rules.timezone)?, description })
            }
        };
    }
    let schedule = schedule(&sent.format)?;
    let zone = zone(sent.timezone.as_deref().unwrap_or(&rules.timezone))?;
    let next = |from: &Timestamp| schedule.next_after(&zone, after, *from);
    let times: Vec<_> = std::iter::successors(next(&after), next).take(count as usize).collect();
    match times.is_empty() {
        true => {
            let comes = schedule.next_after(&zone, after, Timestamp(0)).is_some();
            let never = if comes { Never::Again } else { Never::AtAll };
            Err(Error::new(Code::NeverFires, never.to_string()))
        }
        false => {
            let description = format!("{}; {}", schedule.in_words(), zone.name());
            Ok(Preview { times, zone, description })
        }
    }
}

fn within(field: &str, value: Option<Int>, min: u64, max: u64) -> Result<Option<u64>, Error> {
    let Some(Int(value)) = value else { return Ok(None) };
    match u64::try_from(value).ok().filter(|v| (min..=max).contains(v)) {
        Some(value) => Ok(Some(value)),
        None => Err(Error::malformed(format!("{field}: a number from {min} to {max} is expected, not {value}"))),
    }
}
