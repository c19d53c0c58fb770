//! `@every <duration>`: a fixed interval, counted from the task's `start_time`, or else its creation.
//!
//! The duration is written as Go's `time.ParseDuration` reads it (`1h30m`, `1.5h`), without its signs and without the
//! units below a millisecond, and with `d` for days of 24 hours. No zone and no clock change touches it.

use super::error::{excerpt, ParseError, INSTEAD_BYTES_MAX};
use crate::clock::Timestamp;

const PERIOD_MS_MIN: u64 = 1000;
const PERIOD_MS_MAX: u64 = 3650 * DAY_MS;
const DAY_MS: u64 = 86_400_000;

/// A fixed interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Every {
    /// From [`PERIOD_MS_MIN`] to [`PERIOD_MS_MAX`].
    period_ms: u64,
}

impl Every {
    /// Reads what follows `@every`.
    pub(super) fn parse(text: &str) -> Result<Every, ParseError> {
        let refused = |reason: String| {
            let is_period =
                |short: &str| duration_ms(short).is_ok_and(|ms| (PERIOD_MS_MIN..=PERIOD_MS_MAX).contains(&ms));
            let instead = in_short(text)
                .filter(|short| short.len() <= INSTEAD_BYTES_MAX && is_period(short))
                .map(|short| format!("@every {short}"));
            ParseError::Interval { text: excerpt(text), reason, instead }
        };
        let period_ms = duration_ms(text).map_err(refused)?;
        match period_ms {
            ..PERIOD_MS_MIN => Err(refused("shorter than 1s, the shortest interval".to_owned())),
            PERIOD_MS_MIN..=PERIOD_MS_MAX => Ok(Every { period_ms }),
            _ => Err(refused(TOO_LONG.to_owned())),
        }
    }

    pub(super) fn period_ms(&self) -> u64 {
        self.period_ms
    }

    /// The first `anchor + k * period`, `k` from 0, that is later than `after`.
    pub(super) fn next_after(&self, anchor: Timestamp, after: Timestamp) -> Option<Timestamp> {
        if after < anchor {
            return Some(anchor);
        }
        let periods = after.ms_since(anchor) / self.period_ms + 1;
        periods.checked_mul(self.period_ms)?.checked_add(anchor.as_ms()).map(Timestamp)
    }
}

const TOO_LONG: &str = "longer than 3650d, the longest interval";
const FORM: &str = "a duration is written as 90s, 1h30m or 2d; the units are d, h, m, s and ms";

/// A duration in words, `5 minutes` or `1 hour 30 min`, as it is written here.
pub(super) fn in_short(text: &str) -> Option<String> {
    let mut short = String::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let after = after.trim_start();
        let (word, after) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        rest = after.trim_start_matches([' ', ',']);
        let part = match word.to_ascii_lowercase().as_str() {
            // A month, to some.
            _ if word == "M" => return None,
            "ms" | "millisecond" | "milliseconds" => format!("{number}ms"),
            "s" | "sec" | "secs" | "second" | "seconds" => format!("{number}s"),
            "m" | "min" | "mins" | "minute" | "minutes" => format!("{number}m"),
            "h" | "hr" | "hrs" | "hour" | "hours" => format!("{number}h"),
            "d" | "day" | "days" => format!("{number}d"),
            "w" | "week" | "weeks" => format!("{}d", number.parse::<u64>().ok()?.checked_mul(7)?),
            _ => return None,
        };
        short += &part;
    }
    Some(short)
}

fn duration_ms(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Err(FORM.to_owned());
    }
    let mut total_ms: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        rest = after;
        if number.is_empty() {
            return Err(FORM.to_owned());
        }
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => DAY_MS,
            "" => return Err(format!("{number} has no unit; {FORM}")),
            _ => return Err(format!("unit {unit:?} is unknown; {FORM}")),
        };
        let part_ms = scaled(number, unit_ms)?;
        total_ms = total_ms.checked_add(part_ms).ok_or(TOO_LONG)?;
    }
    Ok(total_ms)
}

/// A decimal number times `unit_ms`, which must come to whole milliseconds.
fn scaled(number: &str, unit_ms: u64) -> Result<u64, String> {
    const FRACTION_DIGITS_MAX: usize = 9;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(format!("{number:?} is not a number; {FORM}"));
    }
    // An empty side is 0, as in "1.s" and ".5s"; all others are digits, so that only their size can be wrong.
    let digits = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u64>() };
    let whole_ms = digits(whole).ok().and_then(|n| n.checked_mul(unit_ms)).ok_or(TOO_LONG)?;
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > FRACTION_DIGITS_MAX {
        return Err("finer than 1ms".to_owned());
    }
    let scale = 10u64.pow(fraction.len() as u32);
    let fraction_ms = digits(fraction).unwrap_or(0) * unit_ms;
    if !fraction_ms.is_multiple_of(scale) {
        return Err("finer than 1ms".to_owned());
    }
    whole_ms.checked_add(fraction_ms / scale).ok_or_else(|| TOO_LONG.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, ms) in [
            ("90s", 90_000),
            ("1s", 1000),
            ("1500ms", 1500),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            (".5m", 30_000),
            ("2d", 2 * DAY_MS),
            ("1m1m", 120_000),
            ("3650d", PERIOD_MS_MAX),
        ] {
            assert_eq!(Every::parse(text), Ok(Every { period_ms: ms }), "{text}");
        }
    }

    #[test]
    fn others_are_refused_with_a_reason() {
        for text in [
            "",
            "5",
            "s",
            "1x",
            "1us",
            "100ns",
            "-5s",
            "+5s",
            "1 s",
            "0s",
            "999ms",
            "3651d",
            "1.2.3s",
            ".s",
            "1.0001s",
            "1S",
            "99999999999999999999s",
            "18446744073709551615d",
            "18446744073709551615ms1s",
            "1.0000000000001d",
        ] {
            let error = Every::parse(text).expect_err(text);
            assert!(error.to_string().len() > 20, "{text}: {error}");
        }
    }

    #[test]
    fn due_times_are_multiples_from_the_anchor() {
        let every = Every::parse("90s").unwrap();
        let next = |after| every.next_after(Timestamp(1000), Timestamp(after));
        assert_eq!(next(999), Some(Timestamp(1000)), "a start that is to come is due");
        assert_eq!(next(1000), Some(Timestamp(91_000)), "the moment of creation is not");
        assert_eq!(next(90_999), Some(Timestamp(91_000)));
        assert_eq!(next(91_000), Some(Timestamp(181_000)));
        assert_eq!(next(u64::MAX), None);
        assert_eq!(every.next_after(Timestamp(u64::MAX), Timestamp(u64::MAX)), None);
    }

    #[test]
    fn a_duration_in_words_is_told_as_it_is_written_here() {
        for (text, instead) in [
            ("5 minutes", Some("5m")),
            ("1 hour 30 min", Some("1h30m")),
            ("1h 30m", Some("1h30m")),
            ("2 weeks", Some("14d")),
            ("90 S", Some("90s")),
            ("1.5 Hours", Some("1.5h")),
            ("1 month", None),
            ("1M", None),
            ("100 ms", None),
            ("5", None),
        ] {
            let ParseError::Interval { instead: found, .. } = Every::parse(text).expect_err(text) else {
                panic!("{text}")
            };
            assert_eq!(found, instead.map(|short| format!("@every {short}")), "{text}");
        }
    }
}
