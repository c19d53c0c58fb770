//! The Quartz form: seconds first, an optional year last, `?` in a day field, Sunday is 1, `0/5` is a start and a step.
//!
//! The `cron` crate reads the text, and no more than that: its own search for the next time is not monotonic in a
//! repeated hour, so that the sets it has read are moved into our masks. It also runs fields together when one is
//! malformed and reports little; so each field's form is checked here first, with a message that says what to write.
//!
//! Where Quartz leaves a choice:
//!
//! - `*` in both day fields is accepted, and `?` in both. Restricting both is refused, as Quartz does: a crontab would
//!   take either, the `cron` crate both, and whoever wrote it meant one of the two.
//! - `L`, `W` and `#` are refused, and so are ranges that run backwards.
//! - A job follows the clock if its minute or hour starts with `*` or `0/`, which here is just another way to write `*/`.
//!   The second doesn't count: `* 30 1 * * ?` is a minute at half past one.
//!
//! Called by [`Schedule::parse`](super::Schedule::parse).

use std::str::FromStr;

use cron::TimeUnitSpec;

use super::error::{excerpt, FieldName, ParseError};
use super::fields::{DayRule, Fields, Pace};

/// A schedule with seconds, and perhaps with years.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quartz {
    fields: Fields,
    /// Bits 0–59.
    seconds: u64,
    /// Ascending; `None`: every year.
    years: Option<Box<[u16]>>,
}

impl Quartz {
    /// The first matching wall second later than `wall`.
    pub(super) fn next_after(&self, wall: i64) -> Option<i64> {
        self.fields.next_after(self.seconds, self.years.as_deref(), wall)
    }

    pub(super) fn pace(&self) -> Pace {
        self.fields.pace
    }
}

struct Unit {
    name: FieldName,
    low: u32,
    high: u32,
    /// How to write values of this field.
    form: &'static str,
}

const UNITS: [Unit; 7] = [
    Unit { name: FieldName::Second, low: 0, high: 59, form: "5, 0,30, 10-20, */15 or 0/15" },
    Unit { name: FieldName::Minute, low: 0, high: 59, form: "5, 0,30, 10-20, */15 or 0/15" },
    Unit { name: FieldName::Hour, low: 0, high: 23, form: "9, 9,17, 9-17, */2 or 0/2" },
    Unit { name: FieldName::DayOfMonth, low: 1, high: 31, form: "?, 1, 1,15, 1-7 or 1/5" },
    Unit { name: FieldName::Month, low: 1, high: 12, form: "6, JAN, 1,7, JAN-MAR or 1/3" },
    Unit { name: FieldName::DayOfWeek, low: 1, high: 7, form: "?, 1 or SUN for Sunday, 2-6 or MON-FRI" },
    Unit { name: FieldName::Year, low: 1970, high: 2100, form: "2030, 2030,2032 or 2030-2035" },
];

/// Reads six or seven fields.
pub(super) fn parse(parts: &[&str]) -> Result<Quartz, ParseError> {
    for (unit, text) in UNITS.iter().zip(parts) {
        unit.check(text).map_err(|reason| unit.refused(text, reason))?;
    }
    let [_, minute, hour, day, _, weekday, rest @ ..] = parts else {
        return Err(ParseError::FieldCount { found: parts.len() });
    };
    let open = |text: &str| text == "*" || text == "?";
    if !open(day) && !open(weekday) {
        let reason = format!("day-of-month is restricted too ({}); put ? in one of the two", excerpt(day));
        return Err(UNITS[5].refused(weekday, reason));
    }
    let parsed = cron::Schedule::from_str(&parts.join(" ")).map_err(|_| blame(parts))?;
    let by_clock = |text: &str| text.starts_with('*') || text.starts_with("0/");
    let years = parsed.years().iter().map(|year| year as u16).collect();
    Ok(Quartz {
        fields: Fields {
            minutes: mask(parsed.minutes()),
            hours: mask(parsed.hours()) as u32,
            days: mask(parsed.days_of_month()) as u32,
            months: mask(parsed.months()) as u16,
            weekdays: (mask(parsed.days_of_week()) >> 1) as u8,
            day_rule: DayRule::Both,
            pace: if by_clock(minute) || by_clock(hour) { Pace::FollowsClock } else { Pace::FixedTime },
        },
        seconds: mask(parsed.seconds()),
        years: rest.first().is_some_and(|year| *year != "*").then_some(years),
    })
}

fn mask(unit: &impl TimeUnitSpec) -> u64 {
    unit.iter().fold(0, |mask, value| mask | 1 << value)
}

/// Which field the `cron` crate refuses: each is tried alone among stars.
fn blame(parts: &[&str]) -> ParseError {
    for (index, (unit, text)) in UNITS.iter().zip(parts).enumerate() {
        let mut alone = ["*"; 7];
        alone[index] = text;
        if cron::Schedule::from_str(&alone.join(" ")).is_err() {
            return unit.refused(text, format!("not understood; write {}", unit.form));
        }
    }
    // Not reached as long as the crate reads its fields one by one; still an answer and no panic.
    ParseError::FieldCount { found: parts.len() }
}

impl Unit {
    fn refused(&self, text: &str, reason: String) -> ParseError {
        ParseError::Field { field: self.name, text: excerpt(text), reason }
    }

    /// Refuses what the crate would refuse without saying why, and all that it could read as more than one field.
    fn check(&self, text: &str) -> Result<(), String> {
        let day_field = matches!(self.name, FieldName::DayOfMonth | FieldName::DayOfWeek);
        match text {
            "*" => return Ok(()),
            "?" if day_field => return Ok(()),
            _ if text.contains('?') => return Err("? stands alone, and only in a day field; write *".to_owned()),
            _ if day_field && has_extension(text) => {
                return Err(format!("L, W and # are not supported; write {}", self.form));
            }
            _ => {}
        }
        // The crate spells out the set of each item: a list of 500 stars would keep it busy for milliseconds.
        if text.split(',').count() > (self.high - self.low + 1) as usize {
            return Err("the list has more items than the field has values; write each once".to_owned());
        }
        text.split(',').try_for_each(|item| self.check_item(item))
    }

    fn check_item(&self, item: &str) -> Result<(), String> {
        let (base, step) = item.split_once('/').map_or((item, None), |(base, step)| (base, Some(step)));
        if let Some(step) = step {
            match number(step) {
                Some(step) if (1..=self.high).contains(&step) => {}
                _ => return Err(format!("the step {:?} is not a number in 1-{}", excerpt(step), self.high)),
            }
        }
        if base == "*" {
            return Ok(());
        }
        let (first, last) = base.split_once('-').map_or((base, None), |(first, last)| (first, Some(last)));
        for value in [Some(first), last].into_iter().flatten() {
            self.check_value(value)?;
        }
        match (number(first), last.and_then(number)) {
            (Some(first), Some(last)) if first > last => {
                let (end, start) = (self.high, self.low);
                Err(format!("the range {first}-{last} runs backwards; write {first}-{end},{start}-{last}"))
            }
            _ => Ok(()),
        }
    }

    fn check_value(&self, value: &str) -> Result<(), String> {
        let (low, high) = (self.low, self.high);
        match number(value) {
            Some(number) if (low..=high).contains(&number) => Ok(()),
            Some(number) => Err(format!("{number} is outside {low}-{high}")),
            // Whether it is the name of a month or day, the crate knows.
            None if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphabetic()) => Ok(()),
            None => Err(format!("{:?} is not a value; write {}", excerpt(value), self.form)),
        }
    }
}

/// Whether a day field uses what Quartz has beyond sets of values: `L`, `LW`, `L-3`, `15W`, `6L`, `FRIL`, `2#1`.
fn has_extension(text: &str) -> bool {
    let letters = |item: &str| item.trim_end_matches(['L', 'l', 'W', 'w']).len() < item.len();
    let is_name = |item: &str| item.len() == 3 && item.bytes().all(|byte| byte.is_ascii_alphabetic());
    text.contains('#')
        || text
            .split(',')
            .any(|item| (letters(item) && !is_name(item)) || item.starts_with("L-") || item.starts_with("l-"))
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quartz(text: &str) -> Result<Quartz, ParseError> {
        parse(&text.split(' ').collect::<Vec<_>>())
    }

    fn reason(text: &str) -> String {
        quartz(text).expect_err(text).to_string()
    }

    #[test]
    fn a_start_with_a_step_runs_to_the_end_of_the_unit() {
        let parsed = quartz("33 0/8 * * * ?").unwrap();
        assert_eq!(parsed.seconds, 1 << 33);
        assert_eq!(parsed.fields.minutes, (0..60).step_by(8).fold(0, |mask, minute| mask | 1 << minute));
        assert_eq!(parsed.fields.hours, (1 << 24) - 1);
        assert_eq!(quartz("0 5/20 * * * ?").unwrap().fields.minutes, 1 << 5 | 1 << 25 | 1 << 45);
    }

    #[test]
    fn sunday_is_1() {
        let weekdays = |text: &str| quartz(&format!("0 0 12 ? * {text}")).unwrap().fields.weekdays;
        assert_eq!(weekdays("1"), 0b1);
        assert_eq!(weekdays("2-6"), 0b011_1110);
        assert_eq!(weekdays("MON-FRI"), 0b011_1110);
        assert_eq!(weekdays("sun,Saturday"), 0b100_0001);
        assert_eq!(weekdays("?"), 0x7f);
    }

    #[test]
    fn minute_and_hour_decide_the_pace() {
        let pace = |text| quartz(text).unwrap().pace();
        assert_eq!(pace("0 */5 2 * * ?"), Pace::FollowsClock);
        assert_eq!(pace("0 0/5 2 * * ?"), Pace::FollowsClock);
        assert_eq!(pace("0 0 * * * ?"), Pace::FollowsClock);
        assert_eq!(pace("* 30 1 * * ?"), Pace::FixedTime);
        assert_eq!(pace("0 30 1/6 * * ?"), Pace::FixedTime);
    }

    #[test]
    fn a_year_restricts_and_a_star_for_a_year_does_not() {
        assert_eq!(quartz("0 0 0 1 1 ? 2030-2031").unwrap().years.as_deref(), Some(&[2030, 2031][..]));
        assert_eq!(quartz("0 0 0 1 1 ? *").unwrap().years, None);
        assert_eq!(quartz("0 0 0 1 1 ?").unwrap().years, None);
    }

    #[test]
    fn either_day_field_may_be_open_but_not_both_restricted() {
        for accepted in ["0 0 0 * * *", "0 0 0 ? * *", "0 0 0 * * ?", "0 0 0 ? * ?", "0 0 0 * * MON", "0 0 0 1 * *"] {
            assert!(quartz(accepted).is_ok(), "{accepted}");
        }
        let refused = reason("0 0 0 1 * MON");
        assert_eq!(refused, "day-of-week field \"MON\": day-of-month is restricted too (1); put ? in one of the two");
    }

    #[test]
    fn a_refusal_names_the_field_and_proposes_the_right_form() {
        assert_eq!(reason("0 61 * * * ?"), "minute field \"61\": 61 is outside 0-59");
        assert_eq!(reason("0 0 22-2 * * ?"), "hour field \"22-2\": the range 22-2 runs backwards; write 22-23,0-2");
        assert!(reason("0 0 0 ? * 0").contains("day-of-week field \"0\": 0 is outside 1-7"));
        assert!(reason("0 ? 0 * * ?").contains("minute field"));
        assert!(reason("0 0/0 0 * * ?").contains("step"));
        assert!(reason("0 0 0 ? * 1,2,3,4,5,6,7,1").contains("more items"));
        assert!(reason("0 0 0 ? * FRI-MON").contains("day-of-week field \"FRI-MON\": not understood"));
        assert!(reason("0 0 0 ? foo *").contains("month field \"foo\""));
        assert!(reason("0 0 0 1 1 ? 2500").contains("year field \"2500\": 2500 is outside 1970-2100"));
        for day in ["L", "LW", "L-3", "15W", "1,15W"] {
            assert!(reason(&format!("0 0 0 {day} * ?")).contains("L, W and # are not supported"), "{day}");
        }
        for weekday in ["6L", "FRIL", "2#1", "MON#2", "L"] {
            assert!(reason(&format!("0 0 0 ? * {weekday}")).contains("L, W and # are not supported"), "{weekday}");
        }
    }

    #[test]
    fn what_the_crate_could_read_as_two_fields_is_refused() {
        for text in
            ["** * * * * ?", "5* * * * * ?", "5MON * * * * ?", "0 0 0 ?? * *", "0 0 0 ? * MON/2", "1- * * * * ?"]
        {
            assert!(quartz(text).is_err(), "{text}");
        }
    }
}
