//! What a schedule asks of a wall clock, as bit masks, and the search for the next second that meets it.
//!
//! Both textual forms end up here: [`crontab`](super::crontab) and [`quartz`](super::quartz) differ in how they are
//! written, not in how the next time is found. One shift and one count of trailing zeros finds the next minute, hour or
//! day; months that can't match are skipped the same way. Nothing here knows a time zone: that is
//! [`zone`](super::zone)'s part.

use super::calendar::{days_from_civil, days_in_month, weekday, Date, DAY_SECS, END_YEAR};
use super::days::MonthDay;

/// How the two day fields combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DayRule {
    /// A day that matches one of them will do.
    Either,
    /// A day must match both.
    Both,
    /// This one day of each month; the masks don't count.
    Only(MonthDay),
}

/// How a schedule behaves where the clock on the wall jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Whenever the clock shows a matching time: not in a skipped hour, and again in a repeated one.
    FollowsClock,
    /// Each matching time once: at the end of the gap that skipped it, and in the first pass of a repeated hour.
    FixedTime,
}

/// The matching minutes, hours, days, months and weekdays; bit `n` stands for the value `n`.
///
/// 24 bytes, so that a million schedules are no burden. Seconds and years, which only the Quartz form has, come as
/// arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) minutes: u64,
    pub(super) hours: u32,
    /// Bits 1–31.
    pub(super) days: u32,
    /// Bits 1–12.
    pub(super) months: u16,
    /// Bits 0–6, Sunday first.
    pub(super) weekdays: u8,
    pub(super) day_rule: DayRule,
    pub(super) pace: Pace,
}

impl Fields {
    /// The first wall second later than `wall` that matches, among the `seconds` given (bits 0–59, at least one) and in
    /// the `years` given (ascending; `None`: every year). `None`: there is none before [`END_YEAR`].
    pub(super) fn next_after(&self, seconds: u64, years: Option<&[u16]>, wall: i64) -> Option<i64> {
        let from = wall + 1;
        let today = from.div_euclid(DAY_SECS);
        let date = Date::from_days(today);
        if self.matches_day(date, years) {
            if let Some(second) = self.time_at_or_after(seconds, from.rem_euclid(DAY_SECS) as u32) {
                return Some(today * DAY_SECS + i64::from(second));
            }
        }
        let day = self.day_after(date, years)?;
        Some(day * DAY_SECS + i64::from(self.first_time(seconds)))
    }

    fn matches_day(&self, date: Date, years: Option<&[u16]>) -> bool {
        self.months >> date.month & 1 == 1
            && year_matches(years, date.year)
            && self.days_of(date.year, date.month) >> date.day & 1 == 1
    }

    /// The matching days of a month, as bits 1–31.
    fn days_of(&self, year: i64, month: u32) -> u64 {
        // The week's pattern six times over covers a month from any first weekday.
        const EACH_WEEK: u64 = 1 | 1 << 7 | 1 << 14 | 1 << 21 | 1 << 28 | 1 << 35;
        let first = weekday(days_from_civil(year, month, 1));
        let by_weekday = ((u64::from(self.weekdays) * EACH_WEEK) >> first) << 1;
        let by_day = u64::from(self.days);
        let last = days_in_month(year, month);
        let matching = match self.day_rule {
            DayRule::Either => by_day | by_weekday,
            DayRule::Both => by_day & by_weekday,
            DayRule::Only(day) => day.in_month(first, last),
        };
        matching & ((2u64 << last) - 2)
    }

    /// The next matching day after `date`, counted from the epoch.
    fn day_after(&self, date: Date, years: Option<&[u16]>) -> Option<i64> {
        let Date { mut year, mut month, day } = date;
        let mut floor = day + 1;
        while year < END_YEAR {
            if year_matches(years, year) {
                while self.months >> month != 0 {
                    let skip = (self.months >> month).trailing_zeros();
                    if skip > 0 {
                        month += skip;
                        floor = 1;
                    }
                    let later = self.days_of(year, month) >> floor << floor;
                    if later != 0 {
                        return Some(days_from_civil(year, month, later.trailing_zeros()));
                    }
                    month += 1;
                    floor = 1;
                }
            }
            year += 1;
            month = 1;
            floor = 1;
        }
        None
    }

    /// The first matching second of the day that is not before `second_of_day`.
    fn time_at_or_after(&self, seconds: u64, second_of_day: u32) -> Option<u32> {
        let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        if self.hours >> hour & 1 == 1 {
            let this_minute = self.minutes >> minute & 1 == 1;
            let in_minute = seconds >> second;
            if this_minute && in_minute != 0 {
                return Some(second_of_day + in_minute.trailing_zeros());
            }
            let in_hour = self.minutes >> (minute + 1);
            if in_hour != 0 {
                let minute = minute + 1 + in_hour.trailing_zeros();
                return Some(hour * 3600 + minute * 60 + seconds.trailing_zeros());
            }
        }
        let in_day = self.hours >> (hour + 1);
        (in_day != 0).then(|| {
            let hour = hour + 1 + in_day.trailing_zeros();
            hour * 3600 + self.minutes.trailing_zeros() * 60 + seconds.trailing_zeros()
        })
    }

    fn first_time(&self, seconds: u64) -> u32 {
        self.hours.trailing_zeros() * 3600 + self.minutes.trailing_zeros() * 60 + seconds.trailing_zeros()
    }
}

fn year_matches(years: Option<&[u16]>, year: i64) -> bool {
    years.is_none_or(|years| u16::try_from(year).is_ok_and(|year| years.binary_search(&year).is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDNIGHT: u64 = 1;

    /// Midnight of every day.
    fn daily() -> Fields {
        Fields {
            minutes: 1,
            hours: 1,
            days: !1,
            months: 0x1ffe,
            weekdays: 0x7f,
            day_rule: DayRule::Both,
            pace: Pace::FixedTime,
        }
    }

    fn at(year: i64, month: u32, day: u32) -> i64 {
        days_from_civil(year, month, day) * DAY_SECS
    }

    #[test]
    fn the_result_is_later_than_the_start_even_on_a_match() {
        assert_eq!(daily().next_after(MIDNIGHT, None, at(2024, 2, 28)), Some(at(2024, 2, 29)));
        assert_eq!(daily().next_after(MIDNIGHT, None, at(2024, 2, 28) - 1), Some(at(2024, 2, 28)));
    }

    #[test]
    fn day_rules_join_or_intersect() {
        let friday_13 = Fields { days: 1 << 13, weekdays: 1 << 5, ..daily() };
        assert_eq!(friday_13.next_after(MIDNIGHT, None, at(2024, 1, 1)), Some(at(2024, 9, 13)));
        let friday_or_13 = Fields { day_rule: DayRule::Either, ..friday_13 };
        assert_eq!(friday_or_13.next_after(MIDNIGHT, None, at(2024, 1, 1)), Some(at(2024, 1, 5)));
    }

    #[test]
    fn an_impossible_date_ends_the_search() {
        let february_30 = Fields { days: 1 << 30, months: 1 << 2, ..daily() };
        assert_eq!(february_30.next_after(MIDNIGHT, None, 0), None);
    }

    #[test]
    fn the_leap_day_is_found_across_2100() {
        let leap_day = Fields { days: 1 << 29, months: 1 << 2, ..daily() };
        assert_eq!(leap_day.next_after(MIDNIGHT, None, at(2096, 3, 1)), Some(at(2104, 2, 29)));
    }

    #[test]
    fn only_the_years_given_match() {
        let years: &[u16] = &[2030, 2035];
        assert_eq!(daily().next_after(MIDNIGHT, Some(years), 0), Some(at(2030, 1, 1)));
        assert_eq!(daily().next_after(MIDNIGHT, Some(years), at(2030, 12, 31)), Some(at(2035, 1, 1)));
        assert_eq!(daily().next_after(MIDNIGHT, Some(years), at(2035, 12, 31)), None);
    }

    #[test]
    fn the_last_second_of_a_day_leads_to_the_next_day() {
        let fields = Fields { minutes: 1 << 59, hours: 1 << 23, ..daily() };
        let last = 1 << 59;
        assert_eq!(fields.next_after(last, None, 0), Some(DAY_SECS - 1));
        assert_eq!(fields.next_after(last, None, DAY_SECS - 1), Some(2 * DAY_SECS - 1));
    }

    #[test]
    fn a_clock_west_of_greenwich_can_show_1969() {
        assert_eq!(daily().next_after(MIDNIGHT, None, -5 * 3600), Some(0));
        assert_eq!(daily().next_after(MIDNIGHT, None, -30 * 3600), Some(-DAY_SECS));
    }
}
