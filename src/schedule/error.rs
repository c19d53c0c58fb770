//! Why a format is refused: which part of it, the reason, and what to write instead.

use std::fmt;

use thiserror::Error;

/// A format that is no schedule. The message is meant for the person who wrote the format.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Longer than any sensible schedule; not looked at further.
    #[error("a schedule of {bytes} bytes is too long; {max} are accepted")]
    TooLong {
        /// Length of the format.
        bytes: usize,
        /// The longest that is accepted.
        max: usize,
    },
    /// A control character, such as a newline, or one outside ASCII.
    #[error(
        "character {0:?} can't stand in a schedule; use ASCII letters, digits and signs, with blanks between fields"
    )]
    Character(char),
    /// Neither five, six nor seven fields, nor an `@` form.
    #[error(
        "{found} field(s) found; write five (minute hour day-of-month month day-of-week), six or seven (second first, \
         year last), a name such as @daily, or @every 90s"
    )]
    FieldCount {
        /// How many there are.
        found: usize,
    },
    /// An `@` form that isn't one of ours.
    #[error("{text:?}: {reason}")]
    Nickname {
        /// What was written.
        text: String,
        /// Why it is refused and what to write.
        reason: String,
    },
    /// One field is wrong.
    #[error("{field} field {text:?}: {reason}")]
    Field {
        /// Which.
        field: FieldName,
        /// What was written there.
        text: String,
        /// Why it is refused and what to write.
        reason: String,
    },
    /// `@every` with something that is no usable duration.
    #[error("interval {text:?}: {reason}")]
    Interval {
        /// What was written after `@every`.
        text: String,
        /// Why it is refused and what to write.
        reason: String,
    },
}

/// A field of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldName {
    /// Quartz form only.
    Second,
    /// 0–59.
    Minute,
    /// 0–23.
    Hour,
    /// 1–31.
    DayOfMonth,
    /// 1–12.
    Month,
    /// 0–7 in a crontab, 1–7 in the Quartz form.
    DayOfWeek,
    /// Quartz form only.
    Year,
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FieldName::Second => "second",
            FieldName::Minute => "minute",
            FieldName::Hour => "hour",
            FieldName::DayOfMonth => "day-of-month",
            FieldName::Month => "month",
            FieldName::DayOfWeek => "day-of-week",
            FieldName::Year => "year",
        })
    }
}

/// Text from a format as a message shows it: long ones are cut, as the message must stay readable.
pub(super) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut shown: String = text.chars().take(CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
