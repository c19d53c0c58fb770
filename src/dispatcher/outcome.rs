//! What an attempt came to, and what the answer asks for beside: pure.

use http::{HeaderMap, StatusCode};

use super::transport::{Answer, Failure};
use crate::clock::Timestamp;
use crate::command::{Steering, Verdict};
use crate::schedule::Schedule;
use crate::task::Expect;

/// A next due time that is asked for may be past by this.
const PAST_MS_MAX: u64 = 86_400_000;
/// Of a value that is passed over, so many characters are shown.
const SHOWN_MAX: usize = 32;

/// What an attempt came to.
pub(super) struct Told {
    /// Why it was no success.
    pub error: Option<String>,
    /// What was answered.
    pub answer: Option<Answer>,
    /// How long the target asks to be left alone.
    pub wait_ms: Option<u64>,
    /// What else it asks for.
    pub steering: Steering,
    /// What it asks for and does not get, and why.
    pub passed_over: Option<String>,
    /// Whether it asks for no further attempt.
    no_retry: bool,
    /// Whether the request may have reached the target though there is no answer.
    may_have_arrived: bool,
}

impl Told {
    /// Judges an outcome.
    pub fn by(outcome: Result<Answer, Failure>, expect: &Expect) -> Told {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(failure) => {
                use Failure::{Broken, Stale, Timeout};
                let may_have_arrived = matches!(failure, Timeout(_) | Broken(_) | Stale(_));
                let error = Some(failure.to_string());
                let (steering, passed_over, no_retry) = Default::default();
                return Told { error, answer: None, wait_ms: None, steering, passed_over, no_retry, may_have_arrived };
            }
        };
        let error = judge(&answer, expect);
        let gone = answer.status == StatusCode::GONE && error.is_some();
        let Asked { mut steering, no_retry, passed_over } = answer.asked.clone();
        let no_retry = no_retry || gone;
        steering.end |= gone;
        let wait_ms = answer.retry_after.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        Told { error, answer: Some(answer), wait_ms, steering, passed_over, no_retry, may_have_arrived: false }
    }

    /// What follows, where it follows from the answer alone and not from how often it was tried.
    pub fn last_word(&self, at_most_once: bool) -> Option<Verdict> {
        let reason = self.error.clone()?;
        if self.steering.end {
            return Some(Verdict::Failed { reason: format!("{reason}: the task is ended") });
        }
        if self.steering.delete {
            return Some(Verdict::Failed { reason: format!("{reason} and asks for its task to be deleted") });
        }
        if self.no_retry {
            return Some(Verdict::Failed { reason: format!("{reason} and asks for no further attempt") });
        }
        match (at_most_once, self.may_have_arrived) {
            (true, true) => Some(Verdict::Unknown { reason }),
            (true, false) => Some(Verdict::Failed { reason }),
            (false, _) => None,
        }
    }
}

/// Why an answer is no success.
fn judge(answer: &Answer, expect: &Expect) -> Option<String> {
    let wanted = expect.body_contains.as_deref().unwrap_or_default().as_bytes();
    let contains = || wanted.is_empty() || answer.start.windows(wanted.len()).any(|window| window == wanted);
    let status = answer.status.as_u16();
    let cut = answer.cut.as_ref().map(|why| format!("; its body broke off: {why}")).unwrap_or_default();
    match expect.takes(status) {
        true if contains() => None,
        true => Some(format!("the answer does not contain the text of expect.body_contains{cut}")),
        false if answer.status.is_redirection() => {
            Some(format!("the target answered {status}; redirects are not followed"))
        }
        false => Some(format!("the target answered {status}{cut}")),
    }
}

/// What the headers of an answer ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// What becomes of its task.
    pub steering: Steering,
    /// Whether they ask for no further attempt.
    pub no_retry: bool,
    /// What is not done, and why.
    pub passed_over: Option<String>,
}

/// What the headers of an answer that came at `now` ask for. What cannot be meant is passed over: an answer that is a
/// success does not become a failure by it.
pub(super) fn asked(headers: &HeaderMap, now: Timestamp) -> Asked {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned());
    let says = |name: &str, word: &str| text(name).is_some_and(|text| text.eq_ignore_ascii_case(word));
    let (next_at, passed_over) = match text("xcron-next-at").map(|text| next_at(&text, now).ok_or(text)) {
        None => (None, None),
        Some(Ok(at)) => (Some(at), None),
        Some(Err(value)) => {
            let shown: String = value.chars().take(SHOWN_MAX).collect();
            tracing::warn!(value = shown, "the Xcron-Next-At of an answer is passed over");
            let why = format!(
                "Xcron-Next-At: {shown:?} is passed over: unix seconds or milliseconds are expected, \
                 no further back than a day and before the year 2200"
            );
            (None, Some(why))
        }
    };
    let (pause, delete) = (says("xcron-pause", "true"), says("xcron-delete", "true"));
    let steering = Steering { next_at, pause, delete, end: false };
    Asked { steering, no_retry: says("xcron-retry", "no"), passed_over }
}

/// The time that these digits stand for, as seconds or as milliseconds: whichever lies where a due time can.
fn next_at(text: &str, now: Timestamp) -> Option<Timestamp> {
    let number: u64 = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()?;
    let earliest = Timestamp(now.0.saturating_sub(PAST_MS_MAX));
    let can_be = |at: &Timestamp| (earliest..Schedule::END).contains(at);
    let seconds = number.checked_mul(1000).map(Timestamp).filter(can_be);
    seconds.or_else(|| Some(Timestamp(number)).filter(can_be))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Answer {
        let headers = headers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        let (asked, status) = (asked(&headers, NOW), StatusCode::from_u16(status).unwrap());
        Answer { status, retry_after: None, asked, start: bytes::Bytes::from_static(b"hello"), cut: None }
    }

    fn told(status: u16, headers: &[(&'static str, &'static str)]) -> Told {
        Told::by(Ok(answer(status, headers)), &Expect::default())
    }

    #[test]
    fn the_headers_of_an_answer_steer() {
        let next = |value: &str| {
            let asked = asked(&[("xcron-next-at".parse().unwrap(), value.parse().unwrap())].into_iter().collect(), NOW);
            assert_eq!(asked.steering.next_at.is_none(), asked.passed_over.is_some(), "{value:?}");
            asked.steering.next_at
        };
        assert_eq!(next("1790000000"), Some(NOW));
        assert_eq!(next("1790000000123"), Some(NOW.plus_ms(123)));
        assert_eq!(next("1789913600"), Some(Timestamp(NOW.0 - 86_400_000)), "a day ago: at once");
        assert_eq!(next("7258118399"), Some(Timestamp::from_secs(7_258_118_399)), "the end of schedules");
        let few_digits = ["1", "17", "17900", "179000000000"];
        let too_early = ["1789913599", "1789913599999", "0", "-1"];
        let too_late = ["7258118400", "7258118400000", "17900000001234", "99999999999", "99999999999999999999"];
        let no_number = ["", "tomorrow", "1e9", "1790000000.0"];
        for bad in few_digits.iter().chain(&too_early).chain(&too_late).chain(&no_number) {
            assert_eq!(next(bad), None, "{bad:?}");
        }
        let all = told(200, &[("xcron-pause", "TRUE"), ("xcron-delete", "true")]).steering;
        assert!(all.pause && all.delete && !all.end);
        assert_eq!(told(200, &[("xcron-pause", "1"), ("xcron-delete", "no")]).steering, Steering::default());
    }

    #[test]
    fn an_answer_can_end_the_retries_or_the_task() {
        assert_eq!(told(503, &[]).last_word(false), None);
        let no_retry = told(503, &[("xcron-retry", "no")]);
        assert!(matches!(no_retry.last_word(false), Some(Verdict::Failed { .. })) && !no_retry.steering.end);
        assert_eq!(told(200, &[("xcron-retry", "no")]).last_word(false), None);
        let deleted = told(503, &[("xcron-delete", "true")]);
        assert!(matches!(deleted.last_word(false), Some(Verdict::Failed { .. })), "no attempt can follow");
        assert_eq!(told(200, &[("xcron-delete", "true")]).last_word(false), None);
        let gone = told(410, &[]);
        assert!(matches!(gone.last_word(false), Some(Verdict::Failed { .. })) && gone.steering.end);
        let expected = Expect { status: vec![(410, 410)], body_contains: None };
        let taken = Told::by(Ok(answer(410, &[])), &expected);
        assert!(taken.error.is_none() && !taken.steering.end);
    }

    #[test]
    fn what_is_sent_at_most_once_is_unknown_only_where_it_may_have_arrived() {
        let by = |failure| Told::by(Err(failure), &Expect::default());
        let unknown = by(Failure::Timeout(std::time::Duration::from_secs(1)));
        assert!(matches!(unknown.last_word(true), Some(Verdict::Unknown { .. })));
        assert_eq!(unknown.last_word(false), None);
        let refused = by(Failure::Connect("refused".into()));
        assert!(matches!(refused.last_word(true), Some(Verdict::Failed { .. })));
        assert!(matches!(told(500, &[]).last_word(true), Some(Verdict::Failed { .. })));
        assert_eq!(told(200, &[]).last_word(true), None);
    }

    #[test]
    fn an_answer_must_be_what_is_expected() {
        let expect = |text: &str| Expect { status: vec![], body_contains: Some(text.into()) };
        assert_eq!(Told::by(Ok(answer(200, &[])), &expect("ell")).error, None);
        assert!(Told::by(Ok(answer(200, &[])), &expect("no")).error.is_some());
        assert!(told(302, &[]).error.unwrap().contains("redirects"));
    }

    #[test]
    fn an_answer_whose_body_broke_off_counts_by_what_has_come() {
        let cut = |status, headers: &[_]| Answer { cut: Some("reset".into()), ..answer(status, headers) };
        let by = |answer, expect: &Expect| Told::by(Ok(answer), expect);
        assert_eq!(by(cut(200, &[]), &Expect::default()).error, None);
        let expect = |text: &str| Expect { status: vec![], body_contains: Some(text.into()) };
        assert_eq!(by(cut(200, &[]), &expect("hell")).error, None);
        assert!(by(cut(200, &[]), &expect("world")).error.unwrap().contains("broke off: reset"));
        let gone = by(cut(410, &[("xcron-delete", "true")]), &Expect::default());
        assert!(gone.steering.end && gone.steering.delete && gone.answer.is_some());
        assert!(matches!(by(cut(500, &[]), &Expect::default()).last_word(true), Some(Verdict::Failed { .. })));
    }
}
