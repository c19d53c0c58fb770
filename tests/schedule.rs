//! Schedules against cronie's own answers, against slow and obvious matchers, and for what must always hold.
//!
//! `tests/data/cron/fires.jsonl` has, for each row, the five times that follow `start`, as cronie's and Debian's cron
//! compute them; `invalid.jsonl` has what both refuse. `quartz.jsonl` and `quartz_invalid.jsonl` have the same of Quartz
//! 2.3.2, and `reports.jsonl` what users of other schedulers have reported.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::Value;
use xcron::clock::Timestamp;
use xcron::schedule::{Schedule, Zone};

const FIRES: &str = include_str!("data/cron/fires.jsonl");
const INVALID: &str = include_str!("data/cron/invalid.jsonl");
const QUARTZ: &str = include_str!("data/cron/quartz.jsonl");
const QUARTZ_INVALID: &str = include_str!("data/cron/quartz_invalid.jsonl");
const REPORTS: &str = include_str!("data/cron/reports.jsonl");

/// Zones whose clocks jump: by an hour in either hemisphere, by half an hour, at midnight, and by a whole day.
const JUMPING: [(&str, i64); 7] = [
    ("America/New_York", 1_710_054_000),    // 2024-03-10, forward
    ("America/New_York", 1_730_613_600),    // 2024-11-03, back
    ("Europe/London", 1_729_990_800),       // 2024-10-27, back
    ("Australia/Lord_Howe", 1_712_415_600), // 2024-04-06, back by 30 minutes
    ("America/Havana", 1_710_046_800),      // 2024-03-10, midnight is skipped
    ("Asia/Beirut", 1_729_976_400),         // 2024-10-26, midnight comes twice
    ("Pacific/Apia", 1_325_239_200),        // 2011-12-30 is skipped
];

fn schedule(format: &str) -> Schedule {
    Schedule::parse(format).unwrap_or_else(|error| panic!("{format}: {error}"))
}

fn zone(name: &str) -> Zone {
    Zone::get(name).expect("a zone of the database")
}

fn instant(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(second).expect("within jiff's range")
}

/// The next due second.
fn next(schedule: &Schedule, zone: &Zone, after: i64) -> Option<i64> {
    let due = schedule.next_after(zone, Timestamp(0), Timestamp::from_secs(after as u64))?;
    assert_eq!(due.as_ms() % 1000, 0);
    Some(due.as_secs() as i64)
}

fn following(format: &str, zone_name: &str, after: &str, count: usize) -> Vec<String> {
    let (schedule, zone) = (schedule(format), zone(zone_name));
    let mut at = after.parse::<jiff::Timestamp>().expect("an RFC 3339 time").as_second();
    std::iter::from_fn(|| {
        at = next(&schedule, &zone, at)?;
        Some(instant(at).to_string())
    })
    .take(count)
    .collect()
}

/// How many rows of a file have due times, and those that come out otherwise.
fn differing(rows: &str) -> (usize, Vec<String>) {
    let (mut count, mut wrong) = (0, Vec::new());
    for line in rows.lines() {
        let row: Value = serde_json::from_str(line).expect("a row");
        count += 1;
        let (expression, name) = (row["expr"].as_str().expect("a text"), row["tz"].as_str().expect("a name"));
        let Ok(schedule) = Schedule::parse(expression) else {
            wrong.push(format!("{expression} is refused"));
            continue;
        };
        let zone = zone(name);
        let mut at = row["start"].as_i64().expect("a time");
        for expected in row["next"].as_array().expect("times") {
            let due = next(&schedule, &zone, at);
            if due != expected.as_i64() {
                wrong.push(format!("{expression} in {name} after {at}: {due:?} and not {expected}"));
                break;
            }
            at = due.unwrap_or(at);
        }
    }
    (count, wrong)
}

#[test]
fn every_recorded_crontab_is_due_when_cronie_says() {
    let (rows, wrong) = differing(FIRES);
    assert!(rows > 2000 && wrong.is_empty(), "{rows}: {wrong:#?}");
}

#[test]
fn every_recorded_expression_is_due_when_quartz_says() {
    let (rows, wrong) = differing(QUARTZ);
    assert!(rows > 290 && wrong.is_empty(), "{rows}: {wrong:#?}");
}

#[test]
fn every_report_of_other_schedulers_is_due_when_it_should_be() {
    let (rows, wrong) = differing(REPORTS);
    assert!(rows > 60 && wrong.is_empty(), "{rows}: {wrong:#?}");
}

#[test]
fn every_recorded_mistake_is_refused_with_a_reason() {
    let mut rows = 0;
    for line in INVALID.lines().chain(QUARTZ_INVALID.lines()) {
        let row: Value = serde_json::from_str(line).unwrap();
        let expression = row["expr"].as_str().unwrap();
        let error = Schedule::parse(expression).expect_err(expression);
        assert!(error.to_string().len() > 20, "{expression}: {error}");
        rows += 1;
    }
    assert!(rows > 60, "{rows}");
}

#[test]
fn quartz_seconds_come_first() {
    assert_eq!(
        following("33 0/8 * * * ?", "UTC", "2024-05-01T10:50:00Z", 4),
        ["2024-05-01T10:56:33Z", "2024-05-01T11:00:33Z", "2024-05-01T11:08:33Z", "2024-05-01T11:16:33Z"]
    );
}

#[test]
fn quartz_weekdays_2_to_6_are_monday_to_friday() {
    // 2024-05-03 is a Friday.
    for format in ["0 0 12 ? * 2-6", "0 0 12 ? * MON-FRI", "0 0 12 * * MON-FRI *"] {
        assert_eq!(
            following(format, "UTC", "2024-05-02T12:00:00Z", 3),
            ["2024-05-03T12:00:00Z", "2024-05-06T12:00:00Z", "2024-05-07T12:00:00Z"]
        );
    }
}

#[test]
fn quartz_at_a_fixed_time_is_due_once_in_a_gap_and_once_in_an_overlap() {
    assert_eq!(
        following("15 30 2 * * ?", "America/New_York", "2024-03-09T12:00:00Z", 2),
        ["2024-03-10T07:00:00Z", "2024-03-11T06:30:15Z"]
    );
    assert_eq!(
        following("15 30 1 * * ?", "America/New_York", "2024-11-02T12:00:00Z", 2),
        ["2024-11-03T05:30:15Z", "2024-11-04T06:30:15Z"]
    );
}

#[test]
fn a_repeated_hour_never_leads_back() {
    for format in ["*/20 * * * *", "0 */20 * * * *", "0 0/20 * * * ?"] {
        assert_eq!(
            following(format, "America/New_York", "2024-11-03T05:30:00Z", 5),
            [
                "2024-11-03T05:40:00Z",
                "2024-11-03T06:00:00Z",
                "2024-11-03T06:20:00Z",
                "2024-11-03T06:40:00Z",
                "2024-11-03T07:00:00Z"
            ]
        );
    }
}

/// The candidate found before the jump lies a year ahead, but the second pass of the hour comes first.
#[test]
fn a_rare_job_by_the_clock_is_due_in_both_passes() {
    for format in ["*/59 1 3 11 *", "0 */59 1 3 11 ? 2024"] {
        assert_eq!(
            following(format, "America/New_York", "2024-11-03T00:00:00Z", 4),
            ["2024-11-03T05:00:00Z", "2024-11-03T05:59:00Z", "2024-11-03T06:00:00Z", "2024-11-03T06:59:00Z"]
        );
    }
}

#[test]
fn intervals_take_no_notice_of_zones() {
    let every = schedule("@every 1h30m");
    let anchor = Timestamp(1_730_600_000_123);
    let mut at = anchor;
    for k in 1..20 {
        at = every.next_after(&zone("America/New_York"), anchor, at).unwrap();
        assert_eq!(at, anchor.plus_ms(k * 5_400_000));
    }
}

/// A crontab field as text, and the values that it stands for.
#[derive(Clone, Debug)]
struct Field {
    text: String,
    values: Vec<i8>,
}

fn field(low: i8, high: i8) -> impl Strategy<Value = Field> {
    let item = prop_oneof![
        2 => Just(("*".to_owned(), (low..=high).collect::<Vec<_>>())),
        2 => (1..=high).prop_map(move |step| (format!("*/{step}"), (low..=high).step_by(step as usize).collect())),
        4 => (low..=high).prop_map(|value| (value.to_string(), vec![value])),
        2 => (low..=high, low..=high, 1..=5i8).prop_map(|(a, b, step)| {
            let (first, last) = (a.min(b), a.max(b));
            (format!("{first}-{last}/{step}"), (first..=last).step_by(step as usize).collect())
        }),
    ];
    prop::collection::vec(item, 1..3).prop_map(|items| {
        let (texts, values): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        Field { text: texts.join(","), values: values.concat() }
    })
}

/// Minute, hour, day, month, weekday; half of them with dates that come often, so that a short search finds them.
fn crontab() -> impl Strategy<Value = [Field; 5]> {
    let star = || Field { text: "*".to_owned(), values: (0..=31).collect() };
    (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7), any::<bool>()).prop_map(
        move |(minute, hour, day, month, weekday, frequent)| {
            if frequent {
                [minute, hour, star(), star(), star()]
            } else {
                [minute, hour, day, month, weekday]
            }
        },
    )
}

fn text_of(fields: &[Field; 5]) -> String {
    fields.each_ref().map(|field| field.text.as_str()).join(" ")
}

fn day_matches(fields: &[Field; 5], wall: DateTime) -> bool {
    let [_, _, days, months, weekdays] = fields;
    let sunday_based = wall.weekday().to_sunday_zero_offset();
    let by_day = days.values.contains(&wall.day());
    let by_weekday = weekdays.values.contains(&sunday_based) || (sunday_based == 0 && weekdays.values.contains(&7));
    let both = days.text.starts_with('*') || weekdays.text.starts_with('*');
    months.values.contains(&wall.month()) && if both { by_day && by_weekday } else { by_day || by_weekday }
}

fn minute_matches(fields: &[Field; 5], wall: DateTime) -> bool {
    fields[0].values.contains(&wall.minute()) && fields[1].values.contains(&wall.hour()) && day_matches(fields, wall)
}

fn utc(second: i64) -> DateTime {
    TimeZone::UTC.to_datetime(instant(second))
}

/// The first due minute after `after` and before `end` by trying each, in UTC.
fn next_by_trying(fields: &[Field; 5], after: i64, end: i64) -> Option<i64> {
    let mut at = (after / 60 + 1) * 60;
    while at < end {
        let wall = utc(at);
        if minute_matches(fields, wall) {
            return Some(at);
        }
        at = if day_matches(fields, wall) { at + 60 } else { (at / 86_400 + 1) * 86_400 };
    }
    None
}

/// All due minutes in `start..end` by looking at the zone's clock at each minute.
fn due_by_watching(fields: &[Field; 5], zone: &TimeZone, start: i64, end: i64) -> Vec<i64> {
    let follows_clock = fields[0].text.starts_with('*') || fields[1].text.starts_with('*');
    let shown = |at: i64| zone.to_datetime(instant(at));
    let minute_later = |wall: DateTime| wall.saturating_add(jiff::SignedDuration::from_mins(1));
    // A day ahead of the start, so that what was shown before an overlap is known.
    let mut latest = shown(start - 86_400);
    let mut due = Vec::new();
    for at in (start - 86_400 + 60..end).step_by(60) {
        let wall = shown(at);
        let matches = if follows_clock {
            minute_matches(fields, wall)
        } else {
            let mut matches = false;
            while latest < wall {
                latest = minute_later(latest);
                matches |= minute_matches(fields, latest);
            }
            matches
        };
        if matches && at >= start {
            due.push(at);
        }
    }
    due
}

/// Six fields, with at most one of the day fields restricted.
fn quartz() -> impl Strategy<Value = String> {
    (field(0, 59), field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(1, 7), 0..3u8).prop_map(
        |(second, minute, hour, day, month, weekday, open)| {
            let (day, weekday) = match open {
                0 => (day.text, "?".to_owned()),
                1 => ("?".to_owned(), weekday.text),
                _ => ("*".to_owned(), "*".to_owned()),
            };
            format!("{} {} {} {day} {} {weekday}", second.text, minute.text, hour.text, month.text)
        },
    )
}

fn any_format() -> impl Strategy<Value = String> {
    let every = (1..100_000u32).prop_map(|seconds| format!("@every {seconds}s"));
    prop_oneof![4 => crontab().prop_map(|fields| text_of(&fields)), 4 => quartz(), 1 => every]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crontab_agrees_with_trying_each_minute(fields in crontab(), after in 0i64..4_000_000_000) {
        let found = next(&schedule(&text_of(&fields)), &Zone::utc(), after);
        let end = after + 500 * 86_400;
        let tried = next_by_trying(&fields, after, end);
        prop_assert_eq!(found.filter(|due| *due < end), tried, "{}", text_of(&fields));
    }

    #[test]
    fn a_crontab_agrees_with_watching_a_jumping_clock(
        fields in crontab(),
        (name, jump) in prop::sample::select(&JUMPING[..]),
        before in 0i64..100_000,
    ) {
        let (start, end) = ((jump - before) / 60 * 60, jump + 100_000);
        let watched = due_by_watching(&fields, &TimeZone::get(name).unwrap(), start, end);
        let (schedule, zone) = (schedule(&text_of(&fields)), zone(name));
        let mut found = Vec::new();
        let mut at = start - 1;
        while let Some(due) = next(&schedule, &zone, at).filter(|due| *due < end) {
            found.push(due);
            at = due;
        }
        prop_assert_eq!(found, watched, "{} in {}", text_of(&fields), name);
    }

    #[test]
    fn the_next_time_is_later_and_never_decreases(
        format in any_format(),
        (name, jump) in prop::sample::select(&JUMPING[..]),
        mut offsets_ms in prop::collection::vec(-10_000_000i64..10_000_000, 8),
    ) {
        let (schedule, zone) = (schedule(&format), zone(name));
        offsets_ms.sort_unstable();
        let mut last = None;
        for offset_ms in offsets_ms {
            let after = Timestamp((jump * 1000 + offset_ms) as u64);
            let due = schedule.next_after(&zone, Timestamp(1_000_000_000_000), after);
            // Never again counts as later than any time.
            let due = due.unwrap_or(Timestamp(u64::MAX));
            prop_assert!(due > after, "{} in {} after {}: {}", format, name, after, due);
            prop_assert!(Some(due) >= last, "{} in {} after {}: {} < {:?}", format, name, after, due, last);
            last = Some(due);
        }
    }

    #[test]
    fn quartz_in_utc_agrees_with_the_cron_crate(format in quartz(), after in 1_000_000_000i64..3_000_000_000) {
        let theirs = format.parse::<cron::Schedule>().unwrap();
        let start = chrono::DateTime::from_timestamp(after, 0).unwrap();
        let expected = theirs.after(&start).next().map(|due| due.timestamp());
        prop_assert_eq!(next(&schedule(&format), &Zone::utc(), after), expected, "{}", format);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,40}", start in any::<u64>()) {
        if let Ok(schedule) = Schedule::parse(&text) {
            schedule.next_after(&Zone::utc(), Timestamp(0), Timestamp(start));
        }
    }

    #[test]
    fn no_nearly_right_text_makes_the_parser_panic(
        text in "(@every |@)?([0-9]{1,3}|[*?/,LW#~-]|MON|jan|[a-z.]| ){0,30}",
        start in any::<u64>(),
    ) {
        if let Ok(schedule) = Schedule::parse(&text) {
            schedule.next_after(&zone("Europe/London"), Timestamp(start / 2), Timestamp(start));
        }
    }

    #[test]
    fn six_nearly_right_fields_do_not_make_the_parser_panic(
        parts in prop::collection::vec("([0-9]{1,2}|[*?]|MON|L|1-9)([/,-]([0-9]{1,4}|FRI|W|[*]))?", 5..8),
    ) {
        if let Ok(schedule) = Schedule::parse(&parts.join(" ")) {
            schedule.next_after(&zone("Europe/London"), Timestamp(0), Timestamp(1_700_000_000_000));
        }
    }
}
