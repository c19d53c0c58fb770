//! What a target answers, whatever it is: judged, decided on and applied.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::outcome::{asked, Told};
use super::retry::Policy;
use super::transport::{retry_after, Answer};
use crate::choices::Choices;
use crate::clock::Timestamp;
use crate::command::{Command, Verdict};
use crate::run::Attempt;
use crate::state::State;
use crate::task::{Callback, Expect, TaskSpec, Timing};

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const NAMES: [&str; 5] = ["retry-after", "xcron-next-at", "xcron-pause", "xcron-delete", "xcron-retry"];
const FORMATS: [&str; 5] = ["* * * * *", "@every 1s", "0 0 29 2 *", "* * * * * ? 2026-2027", "*/7 * * * * ?"];
/// Asked for by `Retry-After`, and no more than this granted, where the policy's own backoff is shorter.
const WAIT_MS_MAX: u64 = 3_600_000;

pub(crate) fn answer(data: &[u8]) {
    let mut choices = Choices::new(data);
    let format = choices.pick(&FORMATS).to_owned();
    let status = StatusCode::from_u16(100 + choices.below(500) as u16).unwrap_or_default();
    let policy = Policy {
        max_attempts: choices.magnitude() as u32,
        min_backoff_ms: choices.magnitude(),
        max_backoff_ms: choices.magnitude(),
        multiplier: f64::from_bits(choices.number()),
        max_elapsed_ms: choices.flag().then(|| choices.magnitude()),
    };
    let chance = choices.below(1000) as f64 / 1000.0;
    let expect = Expect {
        status: (0..choices.below(3)).map(|_| (choices.number() as u16, choices.number() as u16)).collect(),
        body_contains: choices.flag().then(|| String::from_utf8_lossy(choices.bytes(5)).into_owned()),
    };
    let mut headers = HeaderMap::new();
    for _ in 0..choices.below(4) {
        let name = HeaderName::from_static(choices.pick(&NAMES));
        let made = match choices.below(4) {
            0 => choices.magnitude().to_string().into_bytes(),
            1 => (NOW.0 / 1000).saturating_add(choices.magnitude()).to_string().into_bytes(),
            2 => choices.pick(&["true", "NO", "9999999999999", "Fri, 31 Dec 1999 23:59:59 GMT"]).into(),
            _ => choices.bytes(30).to_vec(),
        };
        if let Ok(value) = HeaderValue::from_bytes(&made) {
            headers.append(name, value);
        }
    }
    let answer = Answer {
        status,
        retry_after: retry_after(&headers, NOW),
        asked: asked(&headers, NOW),
        start: choices.bytes(40).to_vec().into(),
        cut: choices.flag().then(|| "cut".to_owned()),
    };
    let told = Told::by(Ok(answer), &expect);
    applied(told, policy, chance, &format);
}

/// Tells the state of it, for a task with this schedule.
fn applied(told: Told, policy: Policy, chance: f64, format: &str) {
    let mut state = State::new(NOW);
    let timing = Timing::Periodic { format: format.to_owned(), timezone: "UTC".to_owned() };
    let spec = Box::new(TaskSpec::new(timing, Callback::post("http://a/", "{}")));
    let id: crate::id::TaskId = "a".parse().unwrap_or_else(|e| panic!("{e}"));
    state.apply(NOW, Command::Create { id: id.clone(), spec });
    state.apply(NOW, Command::Trigger { id });
    let _ = state.advance(NOW.plus_ms(1), 10);
    let Some((seq, jobs)) = state.take_due(NOW.plus_ms(1)) else { panic!("a triggered run is not due") };
    let job = &jobs[0];
    let verdict = match told.last_word(false) {
        Some(verdict) => verdict,
        None => policy.verdict(job, told.error.as_deref(), NOW, chance, told.wait_ms),
    };
    if let Verdict::Retry { at } = &verdict {
        let longest = policy.max_backoff_ms.max(WAIT_MS_MAX);
        assert!(*at > NOW && at.ms_since(NOW) <= longest, "{at} with {policy:?}");
        let asked = told.wait_ms.unwrap_or(0).min(WAIT_MS_MAX);
        assert!(at.ms_since(NOW) >= asked, "{at}, though {asked} ms were asked for");
    }
    let attempt = Attempt {
        number: job.attempt,
        node: 1,
        started: NOW,
        lateness_ms: 0,
        duration_ms: Some(1),
        status: told.answer.as_ref().map(|answer| answer.status.as_u16()),
        error: told.error,
        answer: None,
        late: None,
        passed_over: told.passed_over,
    };
    let steering = told.steering;
    state.apply(NOW.plus_ms(2), Command::RunEnded { seq, key: job.key, attempt, term: 1, verdict, steering });
    state.check();
}
