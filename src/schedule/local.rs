//! An instant as a clock on a wall shows it, for people.

use super::calendar::{weekday, Date, DAY_SECS};

/// `Mon 2026-09-21 09:00:00 +02:00`; seconds of the offset only where there are some.
pub(super) fn time(second: i64, offset: i64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    let wall = second + offset;
    let (days, rest) = (wall.div_euclid(DAY_SECS), wall.rem_euclid(DAY_SECS));
    let Date { year, month, day } = Date::from_days(days);
    let name = DAYS[weekday(days) as usize % 7];
    let (sign, size) = (if offset < 0 { '-' } else { '+' }, offset.abs());
    let seconds = match size % 60 {
        0 => String::new(),
        seconds => format!(":{seconds:02}"),
    };
    format!(
        "{name} {year}-{month:02}-{day:02} {:02}:{:02}:{:02} {sign}{:02}:{:02}{seconds}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60,
        size / 3600,
        size / 60 % 60,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weekday_date_time_and_offset() {
        assert_eq!(time(1_790_060_400, 7200), "Tue 2026-09-22 09:00:00 +02:00");
        assert_eq!(time(0, -5 * 3600), "Wed 1969-12-31 19:00:00 -05:00");
        assert_eq!(time(951_782_400, 19_800), "Tue 2000-02-29 05:30:00 +05:30");
        assert_eq!(time(0, -2670), "Wed 1969-12-31 23:15:30 -00:44:30");
    }
}
