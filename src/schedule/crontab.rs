//! The five fields of a Linux crontab, and its `@` names.
//!
//! What is accepted, and what it means, is what cronie's code does (`entry.c`, `get_list` and `get_range`); where
//! `crontab(5)` is vaguer than the code, users rely on the code. In particular:
//!
//! - day-of-month and day-of-week: a day that matches either, unless one of the two *starts* with `*`: then both;
//! - Sunday is 0 and 7, and a range up to it may be written `fri-sun` or `5-0`;
//! - minute or hour *starting* with `*` makes a job follow the clock ([`Pace::FollowsClock`]).
//!
//! Not taken over: `@reboot`, as a cluster has no boot, and `~`, as replicas would draw different times.
//!
//! Called by [`Schedule::parse`](super::Schedule::parse).

use super::error::{each_item, excerpt, FieldName, ParseError, Refused};
use super::fields::{DayRule, Fields, Pace};

/// A crontab has no seconds: its times are at second 0.
pub(super) const SECONDS: u64 = 1;

struct Unit {
    name: FieldName,
    low: u32,
    high: u32,
    /// Three-letter names of the values from `low` on.
    value_names: &'static [&'static str],
}

const MINUTE: Unit = Unit { name: FieldName::Minute, low: 0, high: 59, value_names: &[] };
const HOUR: Unit = Unit { name: FieldName::Hour, low: 0, high: 23, value_names: &[] };
const DAY: Unit = Unit { name: FieldName::DayOfMonth, low: 1, high: 31, value_names: &[] };
const MONTH: Unit = Unit {
    name: FieldName::Month,
    low: 1,
    high: 12,
    value_names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAY: Unit = Unit {
    name: FieldName::DayOfWeek,
    low: 0,
    high: 7,
    value_names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

/// The `@` names without their sign, and what they stand for.
pub(super) const NICKNAMES: [(&str, [&str; 5]); 7] = [
    ("yearly", ["0", "0", "1", "1", "*"]),
    ("annually", ["0", "0", "1", "1", "*"]),
    ("monthly", ["0", "0", "1", "*", "*"]),
    ("weekly", ["0", "0", "*", "*", "0"]),
    ("daily", ["0", "0", "*", "*", "*"]),
    ("midnight", ["0", "0", "*", "*", "*"]),
    ("hourly", ["0", "*", "*", "*", "*"]),
];

/// Reads one of the `@` names; case matters, as it does to cronie.
pub(super) fn parse_nickname(text: &str) -> Result<Fields, ParseError> {
    let refused =
        |reason: &str| Err(ParseError::Foreign { text: excerpt(text), reason: reason.to_owned(), instead: None });
    match NICKNAMES.iter().find(|(name, _)| text.strip_prefix('@') == Some(name)) {
        Some((_, fields)) => parse(*fields),
        None if text == "@reboot" => refused("a cluster has no boot to run at; create a task that is due once, now"),
        None => refused(
            "not one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly (in lower case, alone) and \
             @every <duration>",
        ),
    }
}

/// Reads minute, hour, day-of-month, month and day-of-week.
pub(super) fn parse(fields: [&str; 5]) -> Result<Fields, ParseError> {
    let [minute, hour, day, month, weekday] = fields;
    let starred = |text: &str| text.starts_with('*');
    Ok(Fields {
        minutes: parse_field(&MINUTE, minute)?,
        hours: parse_field(&HOUR, hour)? as u32,
        days: parse_field(&DAY, day)? as u32,
        months: parse_field(&MONTH, month)? as u16,
        weekdays: parse_weekdays(weekday)?,
        day_rule: if starred(day) || starred(weekday) { DayRule::Both } else { DayRule::Either },
        pace: if starred(minute) || starred(hour) { Pace::FollowsClock } else { Pace::FixedTime },
    })
}

/// Sunday may have come in as 0 or 7; it goes on as 0.
fn parse_weekdays(text: &str) -> Result<u8, ParseError> {
    let mask = parse_field(&WEEKDAY, text)?;
    Ok((mask & 0x7f | mask >> 7) as u8)
}

fn parse_field(unit: &Unit, text: &str) -> Result<u64, ParseError> {
    let mut mask = 0;
    each_item(unit.name, text, |item| {
        mask |= parse_item(unit, item)?;
        Ok(())
    })?;
    Ok(mask)
}

/// One item of a list: `*`, a value or a range, the first and last with an optional step.
fn parse_item(unit: &Unit, item: &str) -> Result<u64, Refused> {
    let (base, step) = match item.split_once('/') {
        Some((base, step)) => (base, Some(parse_step(step)?)),
        None => (item, None),
    };
    let (first, last) = if base == "*" {
        (unit.low, unit.high)
    } else if let Some((first, last)) = base.split_once('-') {
        parse_range(unit, first, last, step)?
    } else {
        let value = parse_value(unit, base)?;
        if let Some(step) = step {
            let range = span(unit.once(value), unit.last());
            let instead = if range.contains('-') { format!("{range}/{step}") } else { range };
            return Err(Refused::with("a step needs a range", instead));
        }
        (value, value)
    };
    Ok((first..=last).step_by(step.unwrap_or(1) as usize).fold(0, |mask, value| mask | 1 << value))
}

fn parse_range(unit: &Unit, first: &str, last: &str, step: Option<u32>) -> Result<(u32, u32), Refused> {
    let (first, last) = (parse_value(unit, first)?, parse_value(unit, last)?);
    if first <= last {
        return Ok((first, last));
    }
    match (unit.name, last, step) {
        // cronie reads a range that ends on Sunday as ending the week, but not where a step follows.
        (FieldName::DayOfWeek, 0, None) => Ok((first, 7)),
        (FieldName::DayOfWeek, 0, Some(step)) => {
            Err(Refused::with("the range runs backwards", format!("{first}-7/{step}")))
        }
        _ => {
            let reason = format!("the range {first}-{last} runs backwards");
            Err(Refused::with(reason, forwards(unit, unit.once(first), unit.once(last), step.unwrap_or(1))))
        }
    }
}

/// A range that runs over the end of its unit, written so that it doesn't.
fn forwards(unit: &Unit, first: u32, last: u32, step: u32) -> String {
    let (low, end) = (unit.low, unit.last());
    match step {
        _ if first == last => first.to_string(),
        1 if first < last => span(first, last),
        step if first < last => format!("{}/{step}", span(first, last)),
        1 => format!("{},{}", span(first, end), span(low, last)),
        step => {
            let values = (first..=end).chain(low..=last).step_by(step as usize);
            values.map(|value| value.to_string()).collect::<Vec<_>>().join(",")
        }
    }
}

fn span(first: u32, last: u32) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

fn parse_step(text: &str) -> Result<u32, Refused> {
    match parse_number(text) {
        Some(0) => Err("a step of 0 leads nowhere; the least is 1".into()),
        Some(step) => Ok(step),
        None => Err(format!("the step {:?} is not a number, such as the 5 in */5", excerpt(text)).into()),
    }
}

fn parse_value(unit: &Unit, text: &str) -> Result<u32, Refused> {
    let Unit { low, high, value_names, .. } = unit;
    if let Some(number) = parse_number(text) {
        return match number {
            _ if (*low..=*high).contains(&number) => Ok(number),
            24 if unit.name == FieldName::Hour => Err("24 is outside 0-23; midnight is 0".into()),
            _ => Err(format!("{number} is outside {low}-{high}").into()),
        };
    }
    if let Some(index) = value_names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(low + index as u32);
    }
    Err(match (value_names, text) {
        (_, text) if text.contains('~') => {
            "random values (~) are not supported; give one value, and jitter_ms to spread tasks".into()
        }
        (_, "?") => Refused::with("? belongs to the form of six or seven fields", "*"),
        ([first, .., last], text) => {
            format!("{:?} is neither a number in {low}-{high} nor a name from {first} to {last}", excerpt(text)).into()
        }
        (_, text) => format!("{:?} is not a number in {low}-{high}", excerpt(text)).into(),
    })
}

fn parse_number(text: &str) -> Option<u32> {
    // `parse` alone would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl Unit {
    /// A value as a message proposes it: Sunday as 0, the first of the week.
    fn once(&self, value: u32) -> u32 {
        match self.name {
            FieldName::DayOfWeek => value % 7,
            _ => value,
        }
    }

    /// The last value of those.
    fn last(&self) -> u32 {
        match self.name {
            FieldName::DayOfWeek => 6,
            _ => self.high,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Result<Fields, ParseError> {
        parse(text.split(' ').collect::<Vec<_>>().try_into().expect("five fields"))
    }

    fn reason(text: &str) -> String {
        fields(text).expect_err(text).to_string()
    }

    #[test]
    fn lists_ranges_steps_and_names_become_masks() {
        let parsed = fields("1,5-7 */12 1-31/10 Jan-MAR,12 mon").unwrap();
        assert_eq!(parsed.minutes, 1 << 1 | 0b111 << 5);
        assert_eq!(parsed.hours, 1 | 1 << 12);
        assert_eq!(parsed.days, 1 << 1 | 1 << 11 | 1 << 21 | 1 << 31);
        assert_eq!(parsed.months, 0b1110 | 1 << 12);
        assert_eq!(parsed.weekdays, 0b10);
    }

    #[test]
    fn sunday_is_0_and_7_and_can_end_a_range() {
        let weekdays = |text: &str| fields(&format!("0 0 * * {text}")).unwrap().weekdays;
        assert_eq!(weekdays("0"), 1);
        assert_eq!(weekdays("7"), 1);
        assert_eq!(weekdays("fri-sun"), 0b110_0001);
        assert_eq!(weekdays("6-0"), 0b100_0001);
        assert_eq!(weekdays("*"), 0x7f);
        assert_eq!(weekdays("*/7"), 1);
    }

    #[test]
    fn a_leading_star_decides_the_day_rule_and_the_pace() {
        assert_eq!(fields("0 0 1 * 1").unwrap().day_rule, DayRule::Either);
        assert_eq!(fields("0 0 */2 * 1").unwrap().day_rule, DayRule::Both);
        assert_eq!(fields("0 0 1,* * 1").unwrap().day_rule, DayRule::Either);
        assert_eq!(fields("0 0 * * *").unwrap().pace, Pace::FixedTime);
        assert_eq!(fields("0 */2 * * *").unwrap().pace, Pace::FollowsClock);
        assert_eq!(fields("*,1 0 * * *").unwrap().pace, Pace::FollowsClock);
        assert_eq!(fields("0-59 0-23 * * *").unwrap().pace, Pace::FixedTime);
    }

    #[test]
    fn a_refusal_names_the_field_and_proposes_the_right_form() {
        assert_eq!(reason("61 * * * *"), "minute field \"61\": 61 is outside 0-59");
        assert_eq!(reason("0 5/2 * * *"), "hour field \"5/2\": a step needs a range; write 5-23/2");
        assert_eq!(reason("0 22-2 * * *"), "hour field \"22-2\": the range 22-2 runs backwards; write 22-23,0-2");
        assert_eq!(
            reason("0 0 * * fri-sun/2"),
            "day-of-week field \"fri-sun/2\": the range runs backwards; write 5-7/2"
        );
        assert_eq!(
            reason("0 0 * foo *"),
            "month field \"foo\": \"foo\" is neither a number in 1-12 nor a name from jan to dec"
        );
        assert_eq!(
            reason("0 0 ? * *"),
            "day-of-month field \"?\": ? belongs to the form of six or seven fields; write *"
        );
        assert!(reason("0~30 * * * *").contains("random"));
        assert!(reason("*/0 * * * *").contains("step of 0"));
        assert!(reason("1,,2 * * * *").contains("empty"));
        assert!(reason("99999999999 * * * *").contains("minute"));
    }

    #[test]
    fn the_boot_of_a_cluster_is_refused() {
        let error = parse_nickname("@reboot").expect_err("refused").to_string();
        assert!(error.contains("no boot"), "{error}");
    }
}
