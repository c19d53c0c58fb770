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
        "{found} field(s) found; expected are five (minute hour day-of-month month day-of-week), six or seven (second \
         first, year last), a name such as @daily, or @every 90s"
    )]
    FieldCount {
        /// How many there are.
        found: usize,
    },
    /// A form of another scheduler, or something beside the schedule.
    #[error("{text:?}: {reason}{}", written(.instead))]
    Foreign {
        /// What was written.
        text: String,
        /// Why it is refused.
        reason: String,
        /// The whole format to write instead.
        instead: Option<String>,
    },
    /// One field is wrong.
    #[error("{field} field {text:?}: {reason}{}", written(.instead))]
    Field {
        /// Which.
        field: FieldName,
        /// What was written there.
        text: String,
        /// Why it is refused.
        reason: String,
        /// The whole field to write instead.
        instead: Option<String>,
    },
    /// `@every` with something that is no usable duration.
    #[error("interval {text:?}: {reason}{}", written(.instead))]
    Interval {
        /// What was written after `@every`.
        text: String,
        /// Why it is refused.
        reason: String,
        /// The whole format to write instead.
        instead: Option<String>,
    },
}

fn written(instead: &Option<String>) -> String {
    instead.as_ref().map(|text| format!("; write {text}")).unwrap_or_default()
}

/// Why one item of a field is refused, and what to write in its place.
#[derive(Debug)]
pub(super) struct Refused {
    reason: String,
    instead: Option<String>,
}

impl Refused {
    pub(super) fn with(reason: impl Into<String>, instead: impl Into<String>) -> Refused {
        Refused { reason: reason.into(), instead: Some(instead.into()) }
    }

    /// For a field as a whole.
    pub(super) fn of(self, field: FieldName, text: &str) -> ParseError {
        let instead = self.instead.filter(|text| !text.is_empty() && text.len() <= INSTEAD_BYTES_MAX);
        ParseError::Field { field, text: excerpt(text), reason: self.reason, instead }
    }
}

/// Nothing longer is proposed, as the message must stay readable.
pub(super) const INSTEAD_BYTES_MAX: usize = 200;

impl From<String> for Refused {
    fn from(reason: String) -> Refused {
        Refused { reason, instead: None }
    }
}

impl From<&str> for Refused {
    fn from(reason: &str) -> Refused {
        reason.to_owned().into()
    }
}

/// Reads each item of a field that is a list. Where one is refused, the whole field is proposed, with every wrong item
/// mended; nothing is, where one of them can't be.
pub(super) fn each_item(
    field: FieldName,
    text: &str,
    mut read: impl FnMut(&str) -> Result<(), Refused>,
) -> Result<(), ParseError> {
    let mut item = |item: &str| match item {
        "" => Err(Refused::with("an item of the list is empty", "")),
        item => read(item),
    };
    let Some(refused) = text.split(',').find_map(|text| item(text).err()) else { return Ok(()) };
    let mended = text.split(',').map(|text| match item(text) {
        Ok(()) => Some(text.to_owned()),
        Err(refused) => refused.instead,
    });
    let mended: Option<Vec<String>> = mended.collect();
    let instead = mended.map(|items| items.into_iter().filter(|item| !item.is_empty()).collect::<Vec<_>>().join(","));
    Err(Refused { instead, ..refused }.of(field, text))
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
