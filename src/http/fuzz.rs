//! What callers send, whatever it is: bodies and queries, read by the functions that the calls read them with.

use std::sync::Arc;

use axum::http::Uri;
use serde_json::value::RawValue;

use super::answer::Object;
use super::define::{check_url, Distinct, Rules};
use super::error::Error;
use super::extract::json;
use super::query::Query;
use super::{runs, schedule, show, tasks, update};
use crate::choices::Choices;
use crate::clock::Timestamp;
use crate::command::Reply;
use crate::config::Config;
use crate::guard::Guard;
use crate::state::State;
use crate::task::TaskSpec;

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const MESSAGE_MAX: usize = 600;

/// Whether calls may go to this URL.
pub(crate) fn allows(text: &str, guard: &Guard) -> bool {
    check_url("url", text, guard).is_ok()
}

fn rules() -> Rules {
    Rules::new(&Config::default(), Arc::default())
}

fn refused(error: &Error) {
    assert!(error.status().is_client_error(), "{error}: {:?}", error.cause());
    assert!(!error.message().is_empty() && error.message().len() <= MESSAGE_MAX, "{error}");
}

/// Reads a body as one of the calls would, and where it is a task, makes it one.
pub(crate) fn body(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (call, made) = (choices.below(6), choices.one_in(3));
    let made = made.then(|| text(&mut choices).into_bytes());
    let body = made.as_deref().unwrap_or_else(|| choices.rest());
    let outcome = match call {
        0 | 1 => create(body),
        2 => tasks::prepare(&rules(), NOW, body).map(|(results, commands)| {
            results.iter().filter_map(|result| result.as_ref().err()).for_each(refused);
            let made = results.iter().filter(|result| result.is_ok()).count();
            assert_eq!(made, commands.len());
            let mut state = State::new(NOW);
            for command in commands {
                state.know_zone_of(&command);
                drop(state.apply(NOW, command));
            }
            state.check();
        }),
        3 => change(body),
        4 => json::<schedule::Sent>(body).and_then(preview),
        _ => json::<tasks::SentId>(body).map(drop).or_else(|_| json::<runs::SentRun>(body).map(drop)),
    };
    if let Err(error) = outcome {
        refused(&error);
    }
}

fn create(body: &[u8]) -> Result<(), Error> {
    let text = std::str::from_utf8(body).map_err(|e| Error::malformed(e.to_string()))?;
    let task = rules().read(text, NOW)?;
    shows_as_it_was_read(&task.spec);
    let mut state = State::new(NOW);
    let command = task.command();
    state.know_zone_of(&command);
    match state.apply(NOW, command) {
        Reply::Created { .. } => {}
        Reply::Refused(refusal) => refused(&refusal.into()),
        other => panic!("a create was answered with {other:?}"),
    }
    state.check();
    Ok(())
}

/// A definition as it is shown is read as the same: what `updateTask` relies on.
fn shows_as_it_was_read(spec: &TaskSpec) {
    let mut shown = Vec::new();
    Object::write(&mut shown, |o| show::definition(o, spec));
    let shown = String::from_utf8(shown).unwrap_or_else(|e| panic!("{e}"));
    let again = Rules { task_bytes_max: usize::MAX, ..rules() }.read(&shown, NOW);
    match again {
        // Secrets are never shown.
        Ok(again) => assert_eq!(again.spec, TaskSpec { secrets: Vec::new(), ..spec.clone() }, "{shown}"),
        Err(error) => panic!("{shown} cannot be read again: {error}"),
    }
}

fn change(body: &[u8]) -> Result<(), Error> {
    const OLD: [&str; 2] = [
        r#"{"type":1,"format":"*/5 * * * *","callback":{"url":"http://a/","headers":{"a":"b"}},"retry":{}}"#,
        r#"{"type":2,"delay_ms":5000,"callback":{"url":"http://a/","body":"x","content_type":"text/plain"}}"#,
    ];
    let Distinct(sent): Distinct<&RawValue> = json(body)?;
    for old in OLD {
        let old = rules().read(old, NOW)?.spec;
        let read = update::merged(&old, &sent).and_then(|merged| rules().read(&merged, NOW));
        match read {
            Ok(task) => shows_as_it_was_read(&task.spec),
            Err(error) => refused(&error),
        }
    }
    Ok(())
}

fn preview(sent: schedule::Sent) -> Result<(), Error> {
    let schedule::Preview { times, zone, description } = schedule::preview_of(&rules(), NOW, sent)?;
    assert!(times.iter().all(|time| zone.local_time(*time).len() < 40) && description.len() < 4000, "{description}");
    assert!(!times.is_empty() && times.len() <= 1000 && times.is_sorted(), "{times:?}");
    Ok(())
}

/// Reads a query as one of the calls would.
pub(crate) fn query(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (call, made) = (choices.below(4), choices.flag());
    let text = match made {
        true => parameters(&mut choices),
        false => String::from_utf8_lossy(choices.rest()).into_owned(),
    };
    let Ok(uri) = format!("/xcron/listTasks?{text}").parse::<Uri>() else { return };
    let outcome = match call {
        0 => Query::parse(&uri, &tasks::LIST).and_then(|mut query| {
            tasks::filter(&mut query)?;
            query.cursor()?;
            query.limit()?;
            query.consistency().map(drop)
        }),
        1 => Query::parse(&uri, &runs::LIST).and_then(|mut query| {
            runs::filter(&mut query)?;
            let limit = query.limit()?;
            assert!((1..=1000).contains(&limit), "{limit}");
            query.consistency().map(drop)
        }),
        2 => Query::parse(&uri, &["run_id", "consistency"]).and_then(|mut query| {
            query.must::<crate::id::RunId>("run_id")?;
            query.consistency().map(drop)
        }),
        _ => Query::none(&uri),
    };
    if let Err(error) = outcome {
        refused(&error);
    }
}

fn parameters(choices: &mut Choices<'_>) -> String {
    const NAMES: [&str; 10] =
        ["type", "state", "tag", "name_prefix", "limit", "cursor", "consistency", "task_id", "from", "to"];
    const VALUES: [&str; 12] =
        ["1", "active", "k:v", "%00", "%C3", "1000", "t9", "local", "succeeded", "253402300800", "", "a%26b"];
    let pair = |choices: &mut Choices<'_>| match choices.flag() {
        true => format!("{}={}", choices.pick(&NAMES), choices.pick(&VALUES)),
        false => format!("{}={}", choices.pick(&NAMES), choices.magnitude()),
    };
    (0..choices.below(5)).map(|_| pair(choices)).collect::<Vec<_>>().join("&")
}

/// JSON that is nearly a task.
fn text(choices: &mut Choices<'_>) -> String {
    const TIMES: [&str; 6] = [
        r#""type":1,"format":"*/5 * * * *""#,
        r#""type":1,"format":"0 0 12 ? * MON-FRI","timezone":"Asia/Tokyo""#,
        r#""type":1,"format":"@every 90s""#,
        r#""type":2,"format":"1790000005""#,
        r#""type":2,"format":"1790000005123""#,
        r#""type":2,"delay_ms":1000"#,
    ];
    const OF_CALLBACK: [&str; 12] = [
        r#""method":"GET""#,
        r#""body":[1.50,"\u00e4"]"#,
        r#""body":null"#,
        r#""body":{"a":"b"},"content_type":"application/x-www-form-urlencoded""#,
        r#""body":"é\n","content_type":"text/plain""#,
        r#""content_type":"text/plain""#,
        r#""headers":{"x-a":"\t b","X-b":"ü"}"#,
        r#""timeout_ms":1e3"#,
        r#""expect":{"status":[[100,200],[404,404.0]]}"#,
        r#""expect":{"body_contains":"\ud83d\ude00"}"#,
        r#""expect":{"status":[]}"#,
        r#""headers":{"host":"a"}"#,
    ];
    const BESIDE: [&str; 18] = [
        r#""secrets":["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]"#,
        r#""secrets":["whsec_1000",5]"#,
        r#""task_id":"a:1""#,
        r#""name":"\u0000\ud83d\ude00""#,
        r#""tags":{"":"","k":"v"}"#,
        r#""start_time":0,"end_time":253402300799"#,
        r#""max_runs":9007199254740991"#,
        r#""jitter_ms":86400000"#,
        r#""run_now":true"#,
        r#""retry":{}"#,
        r#""retry":{"multiplier":1.0000000000000002,"max_attempts":1000,"max_elapsed_ms":null}"#,
        r#""overlap":"queue""#,
        r#""misfire":{"policy":"all","window_ms":0}"#,
        r#""retain_s":0"#,
        r#""delivery":"at_most_once""#,
        r#""on_success":["b","b"],"on_failure":["a:1"]"#,
        r#""alert":{"url":"http://b/","on":["recovered","failed"]}"#,
        r#""alert":{"url":"http://169.254.169.254/"}"#,
    ];
    let mut some = |of: &[&str], most: u64| -> Vec<String> {
        let mut taken: Vec<String> = Vec::new();
        for _ in 0..choices.below(most) {
            let one = match choices.below(8) {
                // Another number in its place.
                1 => choices.pick(of).replace("1000", &choices.magnitude().to_string()),
                _ => choices.pick(of).to_owned(),
            };
            if choices.one_in(16) || !taken.contains(&one) {
                taken.push(one);
            }
        }
        taken
    };
    let callback = [vec![r#""url":"http://a:1/x?y""#.to_owned()], some(&OF_CALLBACK, 4)].concat().join(",");
    let beside = some(&BESIDE, 6);
    let task = [vec![choices.pick(&TIMES).to_owned(), format!(r#""callback":{{{callback}}}"#)], beside].concat();
    let task = format!("{{{}}}", task.join(","));
    match choices.below(4) {
        1 => format!(r#"{{"tasks":[{task},{task}]}}"#),
        _ => task,
    }
}
