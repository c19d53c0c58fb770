//! Schedules read and matched in the slowest and most obvious way, to compare with.
//!
//! Sets of values in place of masks, each day tried in turn, no time zone but UTC.

use jiff::civil::{Date, DateTime, Weekday};

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// No schedule goes beyond.
pub(super) const END: i64 = 7_258_118_400;

/// A day that differs from month to month. Weekdays count from 0 for Sunday.
#[derive(Debug)]
enum Odd {
    /// So many days before the last.
    FromEnd(i8),
    /// Of the days from Monday to Friday the nearest to that.
    NearEnd(i8),
    /// Of the days from Monday to Friday the nearest to this day.
    Near(i8),
    /// This weekday, a week before another month.
    LastOf(i8),
    /// This weekday for the n-th time.
    Nth(i8, i8),
}

/// The nearest of the days from Monday to Friday of the same month, if the month has the day.
fn nearest(wall: DateTime, day: i8) -> Option<i8> {
    let is_working = |date: &Date| !matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday);
    let month = || (1..=wall.days_in_month()).filter_map(|day| wall.date().with().day(day).build().ok());
    month().find(|date| date.day() == day)?;
    month().filter(is_working).map(|date| date.day()).min_by_key(|near| near.abs_diff(day))
}

impl Odd {
    fn read(day: &str, weekday: &str) -> Option<Odd> {
        let (day, weekday) = (day.to_ascii_lowercase(), weekday.to_ascii_lowercase());
        let number = |text: &str| text.parse::<u8>().ok().filter(|n| *n <= 31).map(|n| n as i8);
        let offset =
            |text: &str| if text == "l" { Some(0) } else { number(text.strip_prefix("l-")?).filter(|n| *n <= 30) };
        let of_week = |text: &str| match WEEKDAYS.iter().position(|name| *name == text) {
            Some(at) => Some(at as i8),
            None => number(text).filter(|n| (1..=7).contains(n)).map(|n| n - 1),
        };
        if let Some(from_end) = offset(&day) {
            return Some(Odd::FromEnd(from_end));
        }
        if let Some(near) = day.strip_suffix('w') {
            return offset(near).map(Odd::NearEnd).or_else(|| number(near).filter(|n| *n > 0).map(Odd::Near));
        }
        if let Some((of, n)) = weekday.split_once('#') {
            return Some(Odd::Nth(of_week(of)?, number(n).filter(|n| (1..=5).contains(n))?));
        }
        Some(Odd::LastOf(of_week(weekday.strip_suffix('l')?)?))
    }

    fn takes(&self, wall: DateTime) -> bool {
        let (day, last) = (wall.day(), wall.days_in_month());
        let weekday = wall.weekday().to_sunday_zero_offset();
        match *self {
            Odd::FromEnd(n) => day + n == last,
            Odd::NearEnd(n) => nearest(wall, last - n) == Some(day),
            Odd::Near(near) => nearest(wall, near) == Some(day),
            Odd::LastOf(of) => weekday == of && day + 7 > last,
            Odd::Nth(of, n) => weekday == of && (day - 1) / 7 + 1 == n,
        }
    }
}

/// What a schedule of fields asks for.
#[derive(Debug)]
pub(super) struct Slow {
    seconds: Vec<u32>,
    minutes: Vec<u32>,
    hours: Vec<u32>,
    days: Vec<u32>,
    months: Vec<u32>,
    /// 0: Sunday.
    weekdays: Vec<u32>,
    years: Option<Vec<u32>>,
    odd: Option<Odd>,
    both_days: bool,
    /// Whether it is due whenever the clock shows a match, and not once for each match.
    pub(super) follows_clock: bool,
}

/// The values of a field; none: not understood.
fn values(text: &str, low: u32, high: u32, names: &[&str], quartz: bool) -> Option<Vec<u32>> {
    let number = |text: &str| -> Option<u32> {
        let by_name = names.iter().position(|name| text.eq_ignore_ascii_case(name));
        let value = by_name.map(|at| low + at as u32).or_else(|| text.parse().ok())?;
        (low..=high).contains(&value).then_some(value)
    };
    let mut all = Vec::new();
    for item in text.split(',') {
        let (base, step) = item.split_once('/').map_or((item, None), |(base, step)| (base, Some(step)));
        let step: usize = step.map_or(Some(1), |text| text.parse().ok())?;
        let (first, last) = match base.split_once('-') {
            _ if base == "*" || base == "?" || quartz && base.is_empty() => (low, high),
            Some((first, last)) => (number(first)?, number(last)?),
            None if quartz && item.contains('/') => (number(base)?, high),
            None => (number(base)?, number(base)?),
        };
        // A crontab's week may end on its Sunday, `fri-sun`.
        let last = if !quartz && high == 7 && first > last && last == 0 { 7 } else { last };
        if quartz && first > last {
            all.extend((first..=high).chain(low..=last).step_by(step));
        } else {
            all.extend((first..=last).step_by(step));
        }
    }
    Some(all)
}

impl Slow {
    /// Reads a crontab of five fields or a Quartz expression of six or seven.
    pub(super) fn read(text: &str) -> Option<Slow> {
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let starred = |text: &str| text.starts_with('*');
        match parts[..] {
            [minute, hour, day, month, weekday] => Some(Slow {
                seconds: vec![0],
                minutes: values(minute, 0, 59, &[], false)?,
                hours: values(hour, 0, 23, &[], false)?,
                days: values(day, 1, 31, &[], false)?,
                months: values(month, 1, 12, MONTHS, false)?,
                weekdays: values(weekday, 0, 7, WEEKDAYS, false)?.into_iter().map(|day| day % 7).collect(),
                years: None,
                odd: None,
                both_days: starred(day) || starred(weekday),
                follows_clock: starred(minute) || starred(hour),
            }),
            [second, minute, hour, day, month, weekday, ref rest @ ..] if rest.len() < 2 => {
                let by_clock = |text: &str| ["*", "/", "0/"].iter().any(|start| text.starts_with(start));
                let odd = Odd::read(day, weekday);
                // `L` for a weekday is the last of the week.
                let saturday = if weekday.eq_ignore_ascii_case("l") { "7" } else { weekday };
                let (day, weekday) = if odd.is_some() { ("*", "*") } else { (day, saturday) };
                Some(Slow {
                    seconds: values(second, 0, 59, &[], true)?,
                    minutes: values(minute, 0, 59, &[], true)?,
                    hours: values(hour, 0, 23, &[], true)?,
                    days: values(day, 1, 31, &[], true)?,
                    months: values(month, 1, 12, MONTHS, true)?,
                    weekdays: values(weekday, 1, 7, WEEKDAYS, true)?.into_iter().map(|day| day - 1).collect(),
                    years: match rest {
                        [] | ["*"] => None,
                        [years, ..] => Some(values(years, 1970, 2100, &[], true)?),
                    },
                    odd,
                    both_days: true,
                    follows_clock: by_clock(minute) || by_clock(hour),
                })
            }
            _ => None,
        }
    }

    fn takes_day(&self, wall: DateTime) -> bool {
        let has = |values: &[u32], value: i64| values.iter().any(|v| i64::from(*v) == value);
        let by_day = has(&self.days, wall.day().into());
        let by_weekday = has(&self.weekdays, wall.weekday().to_sunday_zero_offset().into());
        let by_mask = if self.both_days { by_day && by_weekday } else { by_day || by_weekday };
        let day = self.odd.as_ref().map_or(by_mask, |odd| odd.takes(wall));
        let year = self.years.as_ref().is_none_or(|years| has(years, wall.year().into()));
        day && year && has(&self.months, wall.month().into())
    }

    /// Whether this is a time that it asks for.
    pub(super) fn takes(&self, wall: DateTime) -> bool {
        let has = |values: &[u32], value: i8| values.contains(&(value as u32));
        let time = has(&self.seconds, wall.second()) && has(&self.minutes, wall.minute());
        time && has(&self.hours, wall.hour()) && self.takes_day(wall)
    }

    /// The first second after `after` that it asks for, in UTC, if it is before `end`.
    pub(super) fn next(&self, after: i64, end: i64) -> Option<i64> {
        let mut day = (after + 1).div_euclid(86_400);
        let mut date = jiff::tz::TimeZone::UTC.to_datetime(jiff::Timestamp::from_second(day * 86_400).ok()?);
        while day * 86_400 < end {
            if self.takes_day(date) {
                let times = self.hours.iter().flat_map(|hour| self.minutes.iter().map(move |minute| (*hour, *minute)));
                let times = times.flat_map(|(hour, minute)| self.seconds.iter().map(move |s| (hour, minute, *s)));
                let at = |(hour, minute, second)| day * 86_400 + i64::from(hour * 3600 + minute * 60 + second);
                if let Some(found) = times.map(at).filter(|second| *second > after).min() {
                    return Some(found).filter(|second| *second < end);
                }
            }
            day += 1;
            date = date.tomorrow().ok()?;
        }
        None
    }
}
