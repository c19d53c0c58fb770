//! Dates of the proleptic Gregorian calendar as plain numbers: no zone, no clock.
//!
//! A day is counted from 1970-01-01, a wall second from that day's midnight **as some clock on a wall shows it**. Both
//! are signed, since a wall west of Greenwich still shows 1969 at the epoch. The sums are those of
//! Howard Hinnant's paper "chrono-Compatible Low-Level Date Algorithms": years run from March, so that the leap day comes last.
//!
//! Called by [`fields`](super::fields) and [`zone`](super::zone) only.

/// Seconds in a day of a wall clock, which knows no leap seconds.
pub(super) const DAY_SECS: i64 = 86_400;

/// Schedules end where this year begins.
///
/// Some end is needed: an impossible date must stop the search, and a zone's rules, which go on for ever, must fit in a
/// table. The rarest date there is, 29 February on one given weekday, comes back within 40 years.
pub(super) const END_YEAR: i64 = 2200;

/// The end as UTC seconds since the epoch.
pub(super) const END_SECS: i64 = days_from_civil(END_YEAR, 1, 1) * DAY_SECS;

const DAYS_IN_ERA: i64 = 146_097;
/// From 0000-03-01, where the eras start, to 1970-01-01.
const EPOCH_DAY: i64 = 719_468;

/// A day of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: i64,
    /// 1–12.
    pub(super) month: u32,
    /// 1–31.
    pub(super) day: u32,
}

impl Date {
    /// The date `days` after 1970-01-01.
    pub(super) const fn from_days(days: i64) -> Date {
        let shifted = days + EPOCH_DAY;
        let era = shifted.div_euclid(DAYS_IN_ERA);
        let day_of_era = shifted.rem_euclid(DAYS_IN_ERA);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let january_or_february = (month <= 2) as i64;
        Date { year: year_of_era + era * 400 + january_or_february, month: month as u32, day: day as u32 }
    }
}

/// Days from 1970-01-01 to the given date.
pub(super) const fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = year - (month <= 2) as i64;
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month as i64 + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day as i64 - 1;
    era * DAYS_IN_ERA + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - EPOCH_DAY
}

/// How many days the month has.
pub(super) const fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Day of the week, 0 for Sunday.
pub(super) const fn weekday(days: i64) -> u32 {
    // 1970-01-01 was a Thursday.
    (days + 4).rem_euclid(7) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_five_centuries_follows_the_one_before() {
        let mut date = Date { year: 1800, month: 1, day: 1 };
        let first = days_from_civil(1800, 1, 1);
        for days in first..days_from_civil(2300, 1, 1) {
            assert_eq!(Date::from_days(days), date);
            assert_eq!(days_from_civil(date.year, date.month, date.day), days);
            date.day += 1;
            if date.day > days_in_month(date.year, date.month) {
                date = Date { year: date.year + date.month as i64 / 12, month: date.month % 12 + 1, day: 1 };
            }
        }
    }

    #[test]
    fn known_days_fall_where_the_almanac_has_them() {
        assert_eq!(days_from_civil(1970, 1, 1), 0);
        assert_eq!(days_from_civil(2000, 3, 1), 11_017);
        assert_eq!(weekday(days_from_civil(2024, 2, 29)), 4);
        assert_eq!(weekday(days_from_civil(1969, 12, 28)), 0);
        assert_eq!(END_SECS, 7_258_118_400);
    }

    #[test]
    fn a_leap_day_on_a_given_weekday_comes_back_within_forty_years() {
        for wanted in 0..7 {
            let years: Vec<i64> = (1900..2400)
                .filter(|y| days_in_month(*y, 2) == 29 && weekday(days_from_civil(*y, 2, 29)) == wanted)
                .collect();
            let longest = years.windows(2).map(|pair| pair[1] - pair[0]).max();
            assert!(longest <= Some(40), "weekday {wanted}: {longest:?} years apart");
        }
    }
}
