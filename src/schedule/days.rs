//! Days that differ from month to month: the last one, the working day nearest to the 15th, the third Friday.
//!
//! Sets of days and weekdays can't say them, so that they are worked out for one month at a time. The rules are those of
//! Quartz. Called by [`fields`](super::fields); read by [`quartz`](super::quartz).

/// One day of a month, or none. Weekdays count from 0 for Sunday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MonthDay {
    /// So many days before the last one (`L`, `L-3`). A month that is too short has none.
    Last(u8),
    /// The working day nearest to that (`LW`, `L-3W`).
    WorkdayNearLast(u8),
    /// The working day nearest to this day (`15W`). A month without the day has none.
    WorkdayNear(u8),
    /// The last such weekday (`6L`).
    LastWeekday(u8),
    /// The n-th such weekday (`6#3`). A month with fewer has none.
    NthWeekday(u8, u8),
}

impl MonthDay {
    /// The day, as one of the bits 1–31, in a month of `last` days whose first day is the weekday `first`.
    pub(super) fn in_month(self, first: u32, last: u32) -> u64 {
        let first_such = |weekday: u8| 1 + (u32::from(weekday) + 7 - first) % 7;
        let named = match self {
            MonthDay::Last(offset) | MonthDay::WorkdayNearLast(offset) => last.saturating_sub(offset.into()),
            MonthDay::WorkdayNear(day) => day.into(),
            MonthDay::LastWeekday(weekday) => {
                let day = first_such(weekday);
                day + (last - day) / 7 * 7
            }
            MonthDay::NthWeekday(weekday, n) => first_such(weekday) + 7 * (u32::from(n) - 1),
        };
        if !(1..=last).contains(&named) {
            return 0;
        }
        let day = match self {
            MonthDay::WorkdayNear(_) | MonthDay::WorkdayNearLast(_) => nearest_workday(named, first, last),
            _ => named,
        };
        1 << day
    }
}

/// The day from Monday to Friday that is nearest to `day`, in the same month.
fn nearest_workday(day: u32, first: u32, last: u32) -> u32 {
    const SUNDAY: u32 = 0;
    const SATURDAY: u32 = 6;
    match (first + day + 6) % 7 {
        SATURDAY if day == 1 => 3,
        SATURDAY => day - 1,
        SUNDAY if day == last => day - 2,
        SUNDAY => day + 1,
        _ => day,
    }
}

#[cfg(test)]
mod tests {
    use super::super::calendar::{days_from_civil, days_in_month, weekday};
    use super::*;

    fn day(of: MonthDay, year: i64, month: u32) -> Option<u32> {
        let mask = of.in_month(weekday(days_from_civil(year, month, 1)), days_in_month(year, month));
        (mask != 0).then(|| mask.trailing_zeros())
    }

    #[test]
    fn the_last_day_is_counted_from_the_end() {
        assert_eq!(day(MonthDay::Last(0), 2024, 2), Some(29));
        assert_eq!(day(MonthDay::Last(3), 2023, 2), Some(25));
        assert_eq!(day(MonthDay::Last(27), 2023, 2), Some(1));
        assert_eq!(day(MonthDay::Last(28), 2023, 2), None);
        assert_eq!(day(MonthDay::Last(30), 2023, 3), Some(1));
    }

    #[test]
    fn the_nearest_working_day_stays_in_its_month() {
        assert_eq!(day(MonthDay::WorkdayNear(15), 2024, 6), Some(14), "a Saturday");
        assert_eq!(day(MonthDay::WorkdayNear(15), 2024, 9), Some(16), "a Sunday");
        assert_eq!(day(MonthDay::WorkdayNear(1), 2024, 6), Some(3), "the first is a Saturday");
        assert_eq!(day(MonthDay::WorkdayNearLast(0), 2024, 6), Some(28), "the last is a Sunday");
        assert_eq!(day(MonthDay::WorkdayNearLast(0), 2024, 8), Some(30), "the last is a Saturday");
        assert_eq!(day(MonthDay::WorkdayNear(31), 2024, 6), None);
        assert_eq!(day(MonthDay::WorkdayNearLast(30), 2024, 6), None);
    }

    #[test]
    fn weekdays_are_counted_from_either_end() {
        assert_eq!(day(MonthDay::NthWeekday(5, 3), 2024, 5), Some(17));
        assert_eq!(day(MonthDay::NthWeekday(5, 5), 2024, 5), Some(31));
        assert_eq!(day(MonthDay::NthWeekday(5, 5), 2024, 6), None);
        assert_eq!(day(MonthDay::LastWeekday(5), 2024, 5), Some(31));
        assert_eq!(day(MonthDay::LastWeekday(0), 2024, 2), Some(25));
    }
}
