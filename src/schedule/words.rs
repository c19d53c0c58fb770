//! A schedule in words, from the masks that the engine goes by and not from the text: it shows what was understood.

use super::crontab;
use super::days::MonthDay;
use super::every::Every;
use super::fields::{DayRule, Fields};

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const ALL_DAYS: u64 = (1 << 32) - 2;
const ALL_MONTHS: u64 = (1 << 13) - 2;
const ALL_WEEKDAYS: u64 = (1 << 7) - 1;
const ALL_HOURS: u64 = (1 << 24) - 1;
/// Of 60 seconds, and of 60 minutes.
const ALL_SIXTY: u64 = (1 << 60) - 1;
/// More times of day than this are told by their fields.
const TIMES_MAX: u32 = 6;

pub(super) fn of_every(every: &Every) -> String {
    let mut rest = every.period_ms();
    let mut text = "every ".to_owned();
    for (unit, ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest >= ms {
            text += &format!("{}{unit}", rest / ms);
            rest %= ms;
        }
    }
    text + ", counted from the start or the creation"
}

pub(super) fn of_crontab(fields: &Fields) -> String {
    of_fields(fields, crontab::SECONDS, None)
}

pub(super) fn of_fields(fields: &Fields, seconds: u64, years: Option<&[u16]>) -> String {
    let mut text = time(seconds, fields.minutes, fields.hours.into());
    for part in [days(fields), months(fields.months.into()), years.map(of_years)].into_iter().flatten() {
        text.push_str(", ");
        text.push_str(&part);
    }
    text
}

fn time(seconds: u64, minutes: u64, hours: u64) -> String {
    let times = seconds.count_ones() * minutes.count_ones() * hours.count_ones();
    if times <= TIMES_MAX {
        let of = |hour: u32, minute: u32, second: u32| match seconds {
            1 => format!("{hour:02}:{minute:02}"),
            _ => format!("{hour:02}:{minute:02}:{second:02}"),
        };
        let all = values(hours).into_iter().flat_map(|hour| {
            let minutes = values(minutes).into_iter();
            minutes.flat_map(move |minute| values(seconds).into_iter().map(move |second| of(hour, minute, second)))
        });
        return format!("at {}", listed(all.collect()));
    }
    let mut text = String::new();
    if seconds != 1 {
        text += &repeated(seconds, ALL_SIXTY, "second");
    }
    let each_minute = minutes == ALL_SIXTY;
    if !each_minute || seconds == 1 {
        let comma = if text.is_empty() { "" } else { ", " };
        text = format!("{text}{comma}{}", repeated(minutes, ALL_SIXTY, "minute"));
    }
    match (step(hours, ALL_HOURS), hours.count_ones()) {
        (Some(1), _) if step(minutes, ALL_SIXTY).is_some() => text,
        (Some(1), _) => text + " of every hour",
        (Some(step), _) => {
            format!("{text} of every {step}{} hour", ["nd", "rd"].get(step as usize - 2).unwrap_or(&"th"))
        }
        (None, 1) => format!("{text} in hour {}", hours.trailing_zeros()),
        (None, _) => format!("{text} in the hours {}", ranges(&values(hours), |hour| hour.to_string())),
    }
}

/// The step of which these are all multiples in the unit, where it goes evenly into it.
fn step(mask: u64, all: u64) -> Option<u32> {
    let (size, step) = (all.count_ones(), (mask & !1).trailing_zeros());
    let is_even = step < size && size.is_multiple_of(step);
    (is_even && (0..size).step_by(step as usize).fold(0, |mask, value| mask | 1 << value) == mask).then_some(step)
}

/// `every 5 minutes`, or at which ones.
fn repeated(mask: u64, all: u64, unit: &str) -> String {
    match (step(mask, all), mask.count_ones()) {
        (Some(1), _) => format!("every {unit}"),
        (Some(step), _) => format!("every {step} {unit}s"),
        (None, 1) => format!("at {unit} {}", mask.trailing_zeros()),
        (None, _) => format!("at {unit}s {}", ranges(&values(mask), |value| value.to_string())),
    }
}

fn days(fields: &Fields) -> Option<String> {
    let (days, weekdays) = (u64::from(fields.days) & ALL_DAYS, u64::from(fields.weekdays));
    let of_month = || match days.count_ones() {
        1 => format!("on day {} of the month", days.trailing_zeros()),
        _ => format!("on the days {} of the month", ranges(&values(days), |day| day.to_string())),
    };
    // The week begins on Monday here, so that a weekend is one range.
    let of_week = || {
        let week: Vec<u32> = (1..=7).filter(|day| weekdays >> (day % 7) & 1 == 1).collect();
        ranges(&week, |day| WEEKDAYS[day as usize % 7].to_owned())
    };
    match fields.day_rule {
        DayRule::Only(day) => Some(month_day(day)),
        DayRule::Either if days == ALL_DAYS || weekdays == ALL_WEEKDAYS => None,
        DayRule::Either => Some(format!("{}, or on {}", of_month(), of_week())),
        DayRule::Both => match (days == ALL_DAYS, weekdays == ALL_WEEKDAYS) {
            (true, true) => None,
            (false, true) => Some(of_month()),
            (true, false) => Some(format!("on {}", of_week())),
            (false, false) => Some(format!("{} that are {}", of_month(), of_week())),
        },
    }
}

fn month_day(day: MonthDay) -> String {
    let last = |offset: u8| match offset {
        0 => "the last day of the month".to_owned(),
        1 => "the day before the last of the month".to_owned(),
        _ => format!("the day that is {offset} days before the last of the month"),
    };
    match day {
        MonthDay::Last(offset) => format!("on {}", last(offset)),
        MonthDay::WorkdayNearLast(0) => "on the last working day of the month".to_owned(),
        MonthDay::WorkdayNearLast(offset) => format!("on the working day nearest to {}", last(offset)),
        MonthDay::WorkdayNear(day) => format!("on the working day nearest to day {day} of the month"),
        MonthDay::LastWeekday(weekday) => format!("on the last {} of the month", WEEKDAYS[weekday as usize % 7]),
        MonthDay::NthWeekday(weekday, n) => {
            let nth = ["first", "second", "third", "fourth", "fifth"][(n as usize + 4) % 5];
            format!("on the {nth} {} of the month", WEEKDAYS[weekday as usize % 7])
        }
    }
}

fn months(mask: u64) -> Option<String> {
    let name = |month: u32| MONTHS[(month as usize + 11) % 12].to_owned();
    (mask != ALL_MONTHS).then(|| format!("in {}", ranges(&values(mask), name)))
}

fn of_years(years: &[u16]) -> String {
    let years: Vec<u32> = years.iter().map(|year| u32::from(*year)).collect();
    format!("in {}", ranges(&years, |year| year.to_string()))
}

fn values(mask: u64) -> Vec<u32> {
    (0..64).filter(|value| mask >> value & 1 == 1).collect()
}

/// `1, 15 and 20 to 25`: three or more that follow each other are one.
fn ranges(values: &[u32], name: impl Fn(u32) -> String) -> String {
    let mut parts = Vec::new();
    for run in values.chunk_by(|a, b| a + 1 == *b) {
        match run {
            [first, _, .., last] => parts.push(format!("{} to {}", name(*first), name(*last))),
            run => parts.extend(run.iter().map(|value| name(*value))),
        }
    }
    listed(parts)
}

fn listed(mut parts: Vec<String>) -> String {
    match parts.pop() {
        Some(last) if !parts.is_empty() => format!("{} and {last}", parts.join(", ")),
        last => last.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Schedule;

    #[test]
    fn schedules_are_told_as_they_were_understood() {
        for (format, words) in [
            ("* * * * *", "every minute"),
            ("*/5 * * * *", "every 5 minutes"),
            ("*/40 * * * *", "at minutes 0 and 40 of every hour"),
            ("5 * * * *", "at minute 5 of every hour"),
            ("30 9 * * 1-5", "at 09:30, on Monday to Friday"),
            ("0 9,17 * * 6,0", "at 09:00 and 17:00, on Saturday and Sunday"),
            ("*/10 9-17 * * mon-fri", "every 10 minutes in the hours 9 to 17, on Monday to Friday"),
            ("0 */2 * * *", "at minute 0 of every 2nd hour"),
            ("0 0 13 * 5", "at 00:00, on day 13 of the month, or on Friday"),
            ("0 0 */10 * 1", "at 00:00, on the days 1, 11, 21 and 31 of the month that are Monday"),
            ("0 0 1 1-3,12 *", "at 00:00, on day 1 of the month, in January to March and December"),
            ("0 0 9 * * 1-5", "at 09:00, on Monday to Thursday and Sunday"),
            ("0 0 9 * * MON-FRI", "at 09:00, on Monday to Friday"),
            ("33 0/8 * * * ?", "at second 33, at minutes 0, 8, 16, 24, 32, 40, 48 and 56 of every hour"),
            ("*/10 * * * * ?", "every 10 seconds"),
            ("* * 9 * * ?", "every second in hour 9"),
            ("15 30 10 * * ? 2030-2032", "at 10:30:15, in 2030 to 2032"),
            ("0 0 18 LW * ?", "at 18:00, on the last working day of the month"),
            ("0 0 18 L-1 * ?", "at 18:00, on the day before the last of the month"),
            (
                "0 0 18 L-3W * ?",
                "at 18:00, on the working day nearest to the day that is 3 days before the last of the month",
            ),
            ("0 0 18 15W * ?", "at 18:00, on the working day nearest to day 15 of the month"),
            ("0 0 9 ? * 6#3", "at 09:00, on the third Friday of the month"),
            ("0 0 9 ? JUN FRIL", "at 09:00, on the last Friday of the month, in June"),
            ("@every 90s", "every 1m30s, counted from the start or the creation"),
            ("@every 14d", "every 14d, counted from the start or the creation"),
        ] {
            assert_eq!(Schedule::parse(format).expect(format).in_words(), words, "{format}");
        }
    }
}
