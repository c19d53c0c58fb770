//! Schedules: when a periodic task is due next.
//!
//! ```text
//!  "0 9 * * 1-5"        crontab ─┐
//!  "0 0 9 ? * MON-FRI"  quartz  ─┴► fields (bit masks over a wall clock) ─► zone (gaps and overlaps) ─► due time
//!  "@every 90s"         every   ──────────────────────────────────────────────────────────────────────►
//! ```
//!
//! All of it is pure: the same text, zone and times give the same answer on every replica. The state machine, the
//! preview in the API and the simulation call it alike. A schedule is parsed once and then asked for its next time, in
//! well under a microsecond; so it keeps masks, not text.
//!
//! The semantics, for users, are in `doc/schedules.md`. Sources: `crontab(5)`, `cron(8)` and the code of cronie for five
//! fields; Quartz's `CronExpression` for six and seven; Go's `time.ParseDuration` for intervals.

mod calendar;
mod crontab;
mod days;
mod error;
mod every;
mod fields;
mod foreign;
mod local;
#[cfg(test)]
mod proposals;
mod quartz;
mod words;
mod zone;
mod zone_data;
mod zone_hint;

pub use error::{FieldName, ParseError};
pub use zone::{UnknownZone, Zone};
pub use zone_data::{made_up, ZoneData, ZoneRules};
pub use zone_hint::zone_hint;

use self::calendar::END_SECS;
use self::every::Every;
use self::fields::{Fields, Pace};
use self::quartz::Quartz;
use crate::clock::Timestamp;

/// The longest format that is looked at. A crontab that lists every value of every field takes a third of it.
pub const FORMAT_BYTES_MAX: usize = 1024;

/// When a periodic task is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Crontab(Fields),
    /// Boxed, as it is larger and rarer.
    Quartz(Box<Quartz>),
    Every(Every),
}

impl Schedule {
    /// Where schedules end: the first instant of the year 2200, UTC.
    pub const END: Timestamp = Timestamp::from_secs(END_SECS as u64);

    /// Reads a schedule: five fields or a name such as `@daily` (crontab), six or seven fields (Quartz), or
    /// `@every <duration>`. Blanks and tabs around and between fields don't matter.
    ///
    /// A schedule that never comes, such as 30 February, is read without complaint; [`Schedule::next_after`] tells.
    ///
    /// # Errors
    ///
    /// [`ParseError`], whose message names the field and says what to write instead.
    ///
    /// ```
    /// use xcron::schedule::Schedule;
    ///
    /// assert!(Schedule::parse("*/15 9-17 * * mon-fri").is_ok());
    /// let error = Schedule::parse("61 * * * *").unwrap_err();
    /// assert_eq!(error.to_string(), r#"minute field "61": 61 is outside 0-59"#);
    /// ```
    pub fn parse(format: &str) -> Result<Schedule, ParseError> {
        if format.len() > FORMAT_BYTES_MAX {
            return Err(ParseError::TooLong { bytes: format.len(), max: FORMAT_BYTES_MAX });
        }
        let allowed = |c: char| c.is_ascii_graphic() || c == ' ' || c == '\t';
        if let Some(refused) = format.chars().find(|c| !allowed(*c)) {
            return Err(ParseError::Character(refused));
        }
        let parts: Vec<&str> = format.split_ascii_whitespace().collect();
        Schedule::read(&parts).map_err(|error| foreign::recognise(&parts).unwrap_or(error))
    }

    fn read(parts: &[&str]) -> Result<Schedule, ParseError> {
        Ok(Schedule(match *parts {
            ["@every", ..] => Kind::Every(Every::parse(&parts[1..].join(" "))?),
            [name, ..] if name.starts_with('@') => Kind::Crontab(crontab::parse_nickname(&parts.join(" "))?),
            [minute, hour, day, month, weekday] => Kind::Crontab(crontab::parse([minute, hour, day, month, weekday])?),
            [_, _, _, _, _, _] | [_, _, _, _, _, _, _] => Kind::Quartz(Box::new(quartz::parse(parts)?)),
            _ => return Err(ParseError::FieldCount { found: parts.len() }),
        }))
    }

    /// What was understood, in English words.
    pub fn in_words(&self) -> String {
        match &self.0 {
            Kind::Crontab(fields) => words::of_crontab(fields),
            Kind::Quartz(quartz) => quartz.in_words(),
            Kind::Every(every) => words::of_every(every),
        }
    }

    /// The first due time strictly later than `after`; `None`: never again.
    ///
    /// Crontab and Quartz schedules are due at whole seconds of `zone`'s clock. `@every` ignores the zone and counts
    /// from `anchor`, the task's start or creation, which the others ignore; it is due at the anchor itself too, where
    /// that is later than `after`. The result never decreases as `after` grows.
    /// "Never" includes the year 2200 and later, where the tables of the zones end.
    ///
    /// ```
    /// use xcron::clock::Timestamp;
    /// use xcron::schedule::{Schedule, Zone};
    ///
    /// let at_nine = Schedule::parse("0 9 * * *").unwrap();
    /// let created = Timestamp::from_secs(1_700_000_000); // 2023-11-14T22:13:20Z
    /// let next = at_nine.next_after(&Zone::get("Asia/Shanghai").unwrap(), created, created);
    /// assert_eq!(next, Some(Timestamp::from_secs(1_700_010_000)));
    /// ```
    pub fn next_after(&self, zone: &Zone, anchor: Timestamp, after: Timestamp) -> Option<Timestamp> {
        let second = i64::try_from(after.as_secs()).ok().filter(|second| *second < END_SECS)?;
        let due = match &self.0 {
            Kind::Crontab(fields) => {
                next_second(zone, fields.pace, second, |wall| fields.next_after(crontab::SECONDS, None, wall))
            }
            Kind::Quartz(quartz) => next_second(zone, quartz.pace(), second, |wall| quartz.next_after(wall)),
            Kind::Every(every) => every.next_after(anchor, after),
        };
        due.filter(|due| *due < Schedule::END)
    }
}

fn next_second(zone: &Zone, pace: Pace, after: i64, next_wall: impl Fn(i64) -> Option<i64>) -> Option<Timestamp> {
    let due = match pace {
        Pace::FollowsClock => zone.next_by_clock(after, next_wall),
        Pace::FixedTime => zone.next_fixed(after, next_wall),
    }?;
    u64::try_from(due).ok().map(Timestamp::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(format: &str, after: Timestamp) -> Option<Timestamp> {
        Schedule::parse(format).unwrap().next_after(&Zone::utc(), Timestamp(0), after)
    }

    #[test]
    fn a_schedule_takes_no_more_than_32_bytes() {
        assert!(size_of::<Schedule>() <= 32, "{}", size_of::<Schedule>());
    }

    #[test]
    fn milliseconds_of_the_start_count() {
        assert_eq!(next("* * * * * *", Timestamp(1_000_500)), Some(Timestamp(1_001_000)));
        assert_eq!(next("* * * * * *", Timestamp(1_001_000)), Some(Timestamp(1_002_000)));
        assert_eq!(next("* * * * * *", Timestamp(1_000_999)), Some(Timestamp(1_001_000)));
    }

    #[test]
    fn nothing_is_due_at_the_end_of_time() {
        let end = Schedule::END;
        for format in ["* * * * *", "0 0 1 1 *", "* * * * * ?", "0 0 0 1 1 ?", "@every 1s"] {
            for after in
                [end, Timestamp(end.0 - 1), Timestamp(u64::MAX), Timestamp(u64::MAX / 2), Timestamp(i64::MAX as u64)]
            {
                assert_eq!(next(format, after), None, "{format} after {after}");
            }
        }
        assert_eq!(next("* * * * *", Timestamp(end.0 - 60_001)), Some(Timestamp(end.0 - 60_000)));
    }

    #[test]
    fn an_impossible_date_parses_and_never_comes() {
        for format in ["0 0 30 2 *", "0 0 31 4,6 *", "0 0 0 30 2 ?", "0 0 0 29 2 ? 2023", "0 0 0 1 1 ? 1970"] {
            assert_eq!(next(format, Timestamp(0)), None, "{format}");
        }
    }

    #[test]
    fn blanks_and_tabs_around_fields_do_not_matter() {
        assert_eq!(Schedule::parse(" \t0 0\t*  * 1 "), Schedule::parse("0 0 * * 1"));
        assert_eq!(Schedule::parse(" @daily\t"), Schedule::parse("0 0 * * *"));
        assert_eq!(Schedule::parse("@every   90s "), Schedule::parse("@every 1m30s"));
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        assert_eq!(Schedule::parse("  "), Err(ParseError::FieldCount { found: 0 }));
        assert_eq!(Schedule::parse("* * * * * * * *"), Err(ParseError::FieldCount { found: 8 }));
        assert_eq!(Schedule::parse("0 0 * * 1\n"), Err(ParseError::Character('\n')));
        assert_eq!(Schedule::parse("0 0 * * \u{ff11}"), Err(ParseError::Character('\u{ff11}')));
        assert!(matches!(Schedule::parse(&"1,".repeat(600)), Err(ParseError::TooLong { bytes: 1200, .. })));
        assert!(matches!(Schedule::parse("@every"), Err(ParseError::Interval { .. })));
        assert!(matches!(Schedule::parse("@everyday"), Err(ParseError::Foreign { .. })));
    }
}
