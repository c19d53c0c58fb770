//! The Quartz form: seconds first, an optional year last, `?` in a day field, Sunday is 1, `0/5` is a start and a step.
//!
//! What is accepted, and what it means, is what `CronExpression` of Quartz 2.3.2 does: names, lists, ranges that run
//! backwards (`22-2`), a step of any size behind a range, and the days that differ from month to month (`L`, `LW`,
//! `L-3`, `15W`, `6L`, `6#3`), which [`days`](super::days) works out. Where Quartz passes over a part of what was
//! written, it is refused here: `2#1,4`, `1-5W`, `15W,20`.
//!
//! Where Quartz leaves a choice:
//!
//! - `*` in both day fields is accepted, and `?` in both. Restricting both is refused, as Quartz does: a crontab would
//!   take either, others both, and whoever wrote it meant one of the two.
//! - A step behind names (`MON-FRI/2`) counts.
//! - A job follows the clock if its minute or hour starts with `*`, `/` or `0/`, which here are ways to write `*/`.
//!   The second doesn't count: `* 30 1 * * ?` is a minute at half past one.
//!
//! Called by [`Schedule::parse`](super::Schedule::parse).

use super::days::MonthDay;
use super::error::{each_item, excerpt, FieldName, ParseError, Refused};
use super::fields::{DayRule, Fields, Pace};
use super::words;

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

    /// What was understood, in words.
    pub(super) fn in_words(&self) -> String {
        words::of_fields(&self.fields, self.seconds, self.years.as_deref())
    }

    pub(super) fn pace(&self) -> Pace {
        self.fields.pace
    }
}

struct Unit {
    name: FieldName,
    low: u32,
    high: u32,
    /// Names of the values from `low` on; three letters of one are enough.
    value_names: &'static [&'static str],
    /// How values of this field look.
    form: &'static str,
}

const MONTHS: &[&str] = &[
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: &[&str] = &["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

const fn unit(
    name: FieldName,
    (low, high): (u32, u32),
    value_names: &'static [&'static str],
    form: &'static str,
) -> Unit {
    Unit { name, low, high, value_names, form }
}

const SECOND: Unit = unit(FieldName::Second, (0, 59), &[], "5, 0,30, 10-20, */15 or 0/15");
const MINUTE: Unit = unit(FieldName::Minute, (0, 59), &[], "5, 0,30, 10-20, */15 or 0/15");
const HOUR: Unit = unit(FieldName::Hour, (0, 23), &[], "9, 9,17, 9-17, */2 or 0/2");
const DAY: Unit = unit(FieldName::DayOfMonth, (1, 31), &[], "?, 1, 1,15, 1-7, 1/5, L, LW, L-3 or 15W");
const MONTH: Unit = unit(FieldName::Month, (1, 12), MONTHS, "6, JAN, 1,7, JAN-MAR or 1/3");
const WEEKDAY: Unit = unit(FieldName::DayOfWeek, (1, 7), WEEKDAYS, "?, 1 or SUN for Sunday, 2-6, MON-FRI, 6L or 6#3");
const YEAR: Unit = unit(FieldName::Year, (1970, 2100), &[], "2030, 2030,2032 or 2030-2035");

/// Reads six or seven fields.
pub(super) fn parse(parts: &[&str]) -> Result<Quartz, ParseError> {
    let [second, minute, hour, day, month, weekday, rest @ ..] = parts else {
        return Err(ParseError::FieldCount { found: parts.len() });
    };
    let seconds = SECOND.mask(second)?;
    let (minutes, hours) = (MINUTE.mask(minute)?, HOUR.mask(hour)? as u32);
    let (days, by_day) = DAY.days(day)?;
    let months = MONTH.mask(month)? as u16;
    let (weekdays, by_weekday) = WEEKDAY.days(weekday)?;
    let years = match rest {
        [] | ["*"] => None,
        [years, ..] => Some(YEAR.years(years)?),
    };
    let open = |text: &str| text == "*" || text == "?";
    if !open(day) && !open(weekday) {
        let reason = format!("day-of-month is restricted too ({}); put ? in one of the two", excerpt(day));
        return Err(Refused::from(reason).of(FieldName::DayOfWeek, weekday));
    }
    let by_clock = |text: &str| text.starts_with('*') || text.starts_with('/') || text.starts_with("0/");
    Ok(Quartz {
        fields: Fields {
            minutes,
            hours,
            days: days as u32,
            months,
            weekdays: (weekdays >> 1) as u8,
            day_rule: by_day.or(by_weekday).map_or(DayRule::Both, DayRule::Only),
            pace: if by_clock(minute) || by_clock(hour) { Pace::FollowsClock } else { Pace::FixedTime },
        },
        seconds,
        years,
    })
}

impl Unit {
    /// The values of a field, as bits.
    fn mask(&self, text: &str) -> Result<u64, ParseError> {
        let mut mask = 0;
        each_item(self.name, text, |item| {
            self.values(item)?.for_each(|value| mask |= 1 << value);
            Ok(())
        })?;
        Ok(mask)
    }

    /// The years of the last field, ascending.
    fn years(&self, text: &str) -> Result<Box<[u16]>, ParseError> {
        let mut years = std::collections::BTreeSet::new();
        each_item(self.name, text, |item| {
            years.extend(self.values(item)?.map(|year| year as u16));
            Ok(())
        })?;
        Ok(years.into_iter().collect())
    }

    /// What a day field asks for: bits, or one day of each month.
    fn days(&self, text: &str) -> Result<(u64, Option<MonthDay>), ParseError> {
        let any = (2u64 << self.high) - 2;
        if text == "?" {
            return Ok((any, None));
        }
        let upper = text.to_ascii_uppercase();
        let is_month_day = |item: &str| match self.name {
            FieldName::DayOfMonth => item.contains(['L', 'W', '#']),
            // No name of a weekday ends so.
            _ => item.contains('#') || item.ends_with(['L', 'W']),
        };
        if !upper.split(',').any(is_month_day) {
            return match self.mask(text) {
                Ok(days) => Ok((days, None)),
                Err(ParseError::Field { field, text: shown, reason, instead: None }) if self.name == WEEKDAY.name => {
                    let instead = by_name(text).filter(|_| counts_from_0(text));
                    Err(ParseError::Field { field, text: shown, reason, instead })
                }
                Err(error) => Err(error),
            };
        }
        let day = match self.name {
            _ if upper.contains(',') => Err("L, W and # stand alone in their field; make a task for each".into()),
            FieldName::DayOfMonth => month_day(&upper),
            // The last day of the week, which is Saturday.
            _ if upper == "L" => return Ok((1 << self.high, None)),
            _ => self.weekday(&upper),
        };
        day.map(|day| (any, Some(day))).map_err(|refused: Refused| refused.of(self.name, text))
    }

    /// Reads `6L` and `6#3`.
    fn weekday(&self, text: &str) -> Result<MonthDay, Refused> {
        let from_0 = |day: u32| (day - 1) as u8;
        if let Some((day, n)) = text.split_once('#') {
            let weekday = from_0(self.value(day)?);
            return match number(n) {
                Some(n @ 1..=5) => Ok(MonthDay::NthWeekday(weekday, n as u8)),
                _ => Err("behind # stands a number in 1-5: which of them in the month".into()),
            };
        }
        match text.strip_suffix('L') {
            Some(day) => Ok(MonthDay::LastWeekday(from_0(self.value(day)?))),
            None => Err("W (the nearest working day) belongs to the day-of-month field".into()),
        }
    }

    /// The values of one item of a list: `*`, a value or a range, each with an optional step.
    fn values(&self, item: &str) -> Result<impl Iterator<Item = u32>, Refused> {
        let (low, high) = (self.low, self.high);
        let (base, step) = item.split_once('/').map_or((item, None), |(base, step)| (base, Some(step)));
        let range = base.split_once('-');
        let step = match step.map(|text| (text, number(text))) {
            None => None,
            Some((_, Some(step))) if step > 0 && (range.is_some() || step <= high) => Some(step),
            Some((text, _)) => return Err(format!("the step {:?} is not a number in 1-{high}", excerpt(text)).into()),
        };
        let (first, last) = match range {
            // Quartz takes no star for one.
            _ if base == "*" || base.is_empty() && step.is_some() => (low, high),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            None if step.is_some() && number(base).is_none() => {
                let (value, step) = (self.value(base)?, step.unwrap_or(1));
                // Quartz passes over the step.
                return Err(Refused::with("a step behind a name needs a range", format!("{value}-{high}/{step}")));
            }
            None if step.is_some() => (self.value(base)?, high),
            None => (self.value(base)?, self.value(base)?),
        };
        if self.name == FieldName::Year && first > last {
            let reason = format!("the range {first}-{last} runs backwards");
            return Err(match step {
                None => Refused::with(reason, format!("{last}-{first}")),
                Some(_) => reason.into(),
            });
        }
        // One that runs backwards goes on at the beginning of the unit.
        let size = high - low + 1;
        let count = if first <= last { last - first } else { last + size - first };
        let steps = (0..=count).step_by(step.unwrap_or(1) as usize);
        Ok(steps.map(move |n| low + (first - low + n) % size))
    }

    fn value(&self, text: &str) -> Result<u32, Refused> {
        let (low, high) = (self.low, self.high);
        let is_name = |name: &&str| {
            text.len() >= 3 && name.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text))
        };
        match number(text) {
            Some(number) if (low..=high).contains(&number) => Ok(number),
            Some(0) if self.name == FieldName::DayOfWeek => Err("0 is outside 1-7: here Sunday is 1, or SUN".into()),
            Some(24) if self.name == FieldName::Hour => Err("24 is outside 0-23; midnight is 0".into()),
            Some(number) => Err(format!("{number} is outside {low}-{high}").into()),
            None => match self.value_names.iter().position(is_name) {
                Some(index) => Ok(low + index as u32),
                None if text == "?" => Err(Refused::with("? stands alone, and only in a day field", "*")),
                None => Err(format!("{:?} is not a value, such as {}", excerpt(text), self.form).into()),
            },
        }
    }
}

/// Reads `L`, `LW`, `L-3`, `L-3W` and `15W`.
fn month_day(text: &str) -> Result<MonthDay, Refused> {
    const OFFSET_MAX: u32 = 30;
    let (day, is_near) = text.strip_suffix('W').map_or((text, false), |day| (day, true));
    let offset = match day.strip_prefix('L') {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix('-').and_then(number),
        None => None,
    };
    match (offset, is_near, number(day)) {
        (Some(offset), ..) if offset > OFFSET_MAX => {
            Err(format!("the last day less {offset} is in no month; {OFFSET_MAX} is the most").into())
        }
        (Some(offset), false, _) => Ok(MonthDay::Last(offset as u8)),
        (Some(offset), true, _) => Ok(MonthDay::WorkdayNearLast(offset as u8)),
        (None, true, Some(day)) if (DAY.low..=DAY.high).contains(&day) => Ok(MonthDay::WorkdayNear(day as u8)),
        (None, true, Some(day)) => Err(format!("{day} is outside {}-{}", DAY.low, DAY.high).into()),
        _ if text.contains('#') => Err("# (the n-th weekday) belongs to the day-of-week field".into()),
        _ => Err("L, LW, L-3, L-3W and 15W are known here, each for one day".into()),
    }
}

/// Weekdays of a field that counts Sunday as 0, or 7, with names in place of numbers.
pub(super) fn by_name(field: &str) -> Option<String> {
    const SHORT: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    let name = |text: &str| match number(text) {
        Some(day) => SHORT.get(day as usize % 7).filter(|_| day <= 7).copied(),
        None => SHORT.into_iter().find(|name| text.eq_ignore_ascii_case(name)),
    };
    let item = |item: &str| {
        let (base, step) = item.split_at(item.find('/').unwrap_or(item.len()));
        let base = match base.split_once('-') {
            _ if base == "*" => base.to_owned(),
            Some((first, last)) => format!("{}-{}", name(first)?, name(last)?),
            None if !step.is_empty() => format!("{}-SAT", name(base)?),
            None => name(base)?.to_owned(),
        };
        Some(base + step)
    };
    field.split(',').map(item).collect::<Option<Vec<_>>>().map(|items| items.join(","))
}

fn counts_from_0(field: &str) -> bool {
    let first =
        |item: &str| item.split('/').next().is_some_and(|base| base.split('-').any(|day| number(day) == Some(0)));
    field.split(',').any(first)
}

fn number(text: &str) -> Option<u32> {
    // `parse` alone would take a sign.
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
        assert_eq!(weekdays("Tues,THURS"), 0b001_0100);
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
        assert_eq!(
            reason("0 0 9 ? * 0-4"),
            "day-of-week field \"0-4\": 0 is outside 1-7: here Sunday is 1, or SUN; write SUN-THU"
        );
        assert!(reason("0 ? 0 * * ?").contains("minute field \"?\": ? stands alone"));
        assert!(reason("0 0/0 0 * * ?").contains("step"));
        assert!(reason("0 0 0 ? foo *").contains("month field \"foo\""));
        assert!(reason("0 0 0 1 1 ? 2500").contains("year field \"2500\": 2500 is outside 1970-2100"));
        assert!(reason("0 0 0 1 1 ? 2030-2026").contains("runs backwards; write 2026-2030"));
        assert!(reason("0 0 0 L-31 * ?").contains("30 is the most"));
        assert!(reason("0 0 0 ? * 2#6").contains("a number in 1-5"));
        for apart in ["0 0 0 L,15 * ?", "0 0 0 1,15W * ?", "0 0 0 ? * 2#1,4", "0 0 0 ? * 6L,2"] {
            assert!(reason(apart).contains("stand alone"), "{apart}");
        }
    }

    #[test]
    fn days_that_differ_from_month_to_month() {
        let day = |day: &str| quartz(&format!("0 0 0 {day} * ?")).map(|read| read.fields.day_rule);
        let weekday = |weekday: &str| quartz(&format!("0 0 0 ? * {weekday}")).map(|read| read.fields.day_rule);
        for (text, read) in [
            ("L", MonthDay::Last(0)),
            ("l-3", MonthDay::Last(3)),
            ("L-30", MonthDay::Last(30)),
            ("LW", MonthDay::WorkdayNearLast(0)),
            ("L-3W", MonthDay::WorkdayNearLast(3)),
            ("15w", MonthDay::WorkdayNear(15)),
        ] {
            assert_eq!(day(text), Ok(DayRule::Only(read)), "{text}");
        }
        for (text, read) in [
            ("6L", MonthDay::LastWeekday(5)),
            ("fril", MonthDay::LastWeekday(5)),
            ("1#5", MonthDay::NthWeekday(0, 5)),
            ("SAT#2", MonthDay::NthWeekday(6, 2)),
        ] {
            assert_eq!(weekday(text), Ok(DayRule::Only(read)), "{text}");
        }
        assert_eq!(quartz("0 0 0 ? * L"), quartz("0 0 0 ? * SAT"));
        for text in ["W", "WL", "LL", "L-", "L-x", "0W", "32W", "1-5W", "L-3-4", "2#1", "*L", "L/2"] {
            assert!(day(text).is_err(), "{text}");
        }
        for text in ["LW", "2W", "#2", "2#", "0#1", "8L", "2#1#2", "2-3#1", "MON-FRIL", "L-1"] {
            assert!(weekday(text).is_err(), "{text}");
        }
        for text in ["0 0 0 * L ?", "0 0 0 ? L MON", "0 0 L * * ?", "0 0 0 ? * ? L", "0 0 0 15W * MON"] {
            assert!(quartz(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_that_runs_backwards_goes_on_at_the_beginning() {
        assert_eq!(quartz("0 0 22-2 * * ?"), quartz("0 0 22,23,0,1,2 * * ?"));
        assert_eq!(quartz("0 50-10/15 0 * * ?"), quartz("0 50,5 0 * * ?"));
        assert_eq!(quartz("0 0 0 25-5/3 * ?"), quartz("0 0 0 25,28,31,3 * ?"));
        assert_eq!(quartz("0 0 0 1 NOV-FEB ?"), quartz("0 0 0 1 11,12,1,2 ?"));
        assert_eq!(quartz("0 0 0 ? * FRI-MON"), quartz("0 0 0 ? * 6,7,1,2"));
        assert_eq!(quartz("0 0 0 ? * 2-1"), quartz("0 0 0 ? * *"));
    }

    #[test]
    fn a_step_behind_a_range_may_be_larger_than_its_unit() {
        assert_eq!(quartz("0 0-59/70 0 * * ?"), quartz("0 0 0 * * ?"));
        assert_eq!(quartz("0 0 9-17/100 * * ?"), quartz("0 0 9 * * ?"));
        assert!(reason("0 */60 * * * ?").contains("step \"60\" is not a number in 1-59"));
        assert!(reason("0 0/60 * * * ?").contains("step \"60\" is not a number in 1-59"));
        assert_eq!(quartz("0 /15 * * * ?"), quartz("0 */15 * * * ?"));
    }

    #[test]
    fn what_could_be_read_as_two_fields_is_refused() {
        for text in [
            "** * * * * ?",
            "5* * * * * ?",
            "5MON * * * * ?",
            "0 0 0 ?? * *",
            "0 0 0 ? * MON/2",
            "1- * * * * ?",
            "0 0 0 / * ?",
        ] {
            assert!(quartz(text).is_err(), "{text}");
        }
    }
}
