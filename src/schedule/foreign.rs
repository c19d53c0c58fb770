//! What other schedulers call a schedule, and what stands around one in their files: told apart from mere mistakes, so
//! that the refusal can say how it is written here.
//!
//! Asked only for a format that was refused. Called by [`Schedule::parse`].

use super::crontab::NICKNAMES;
use super::error::{excerpt, ParseError, INSTEAD_BYTES_MAX};
use super::{every, quartz, Schedule};

/// The better refusal for a format that was refused, if it is one of those that are known here. What it proposes can be
/// read.
pub(super) fn recognise(parts: &[&str]) -> Option<ParseError> {
    let whole = parts.join(" ");
    let refused = |text: &str, reason: &str, instead: Option<String>| {
        let instead = instead.filter(|format| format.len() <= INSTEAD_BYTES_MAX && reads(format));
        Some(ParseError::Foreign { text: excerpt(text), reason: reason.to_owned(), instead })
    };
    let (first, rest) = parts.split_first()?;
    if let Some(zone) = first.strip_prefix("CRON_TZ=").or_else(|| first.strip_prefix("TZ=")) {
        let reason = format!("the zone is no part of the schedule; it is given as timezone, here {:?}", excerpt(zone));
        return refused(first, &reason, Some(rest.join(" ")));
    }
    if let Some(inner) = within(&whole, "cron(") {
        let reason = "EventBridge's form without seconds; here the second comes first, and no brackets";
        return refused(&whole, reason, Some(format!("0 {inner}")));
    }
    if let Some(inner) = within(&whole, "rate(") {
        return refused(&whole, "EventBridge's form", every::in_short(inner).map(|short| format!("@every {short}")));
    }
    if within(&whole, "at(").is_some() {
        return refused(&whole, "a single time is a task of type 2", None);
    }
    if [10, 13].contains(&whole.len()) && whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return refused(&whole, "a single time is a task of type 2", None);
    }
    if let Some(nickname) = nickname(first) {
        let reason = "a name stands alone, in lower case, behind @";
        return refused(&whole, reason, Some(nickname));
    }
    // A question mark where Quartz has the hour or the month: the seconds are missing.
    if matches!(parts, [_, _, "?", _, _, _] | [_, _, _, _, "?", _]) && reads(&format!("0 {whole}")) {
        let reason = "EventBridge's form without seconds; here the second comes first";
        return refused(&whole, reason, Some(format!("0 {whole}")));
    }
    if let &[minute, hour, day, month, weekday] = parts {
        return with_seconds([minute, hour, day, month, weekday])
            .and_then(|format| refused(&whole, "L, W and # belong to the form of six or seven fields", Some(format)));
    }
    let has_words = |count: usize| {
        let behind = parts.get(count..).unwrap_or_default();
        let (first, is_long) = (behind.first().copied().unwrap_or_default(), behind.len() > 2);
        match count {
            5 => is_command(first) || is_long && behind.iter().any(|word| word.contains(is_letter)),
            _ => first.contains(is_letter) || first.starts_with('#'),
        }
    };
    let count = [7, 6, 5].into_iter().find(|&count| has_words(count) && reads(&parts[..count].join(" ")))?;
    let (fields, behind) = parts.split_at(count);
    let reason = "no command, user or comment stands behind the fields";
    refused(&behind.join(" "), reason, Some(fields.join(" ")))
}

fn reads(format: &str) -> bool {
    Schedule::read(&format.split_ascii_whitespace().collect::<Vec<_>>()).is_ok()
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic()
}

/// Whether this is how a command, a user or a comment begins, and no weekday with a slip.
fn is_command(word: &str) -> bool {
    let is_path = word.strip_prefix('/').is_some_and(|path| path.starts_with(is_letter));
    let is_no_field = |c: char| matches!(c, '.' | '~' | '$' | '"' | '\'' | ';' | '&' | '|' | '=' | '_' | '(');
    is_path || word == "root" || word.starts_with('#') || word.contains(is_no_field)
}

fn within<'a>(text: &'a str, open: &str) -> Option<&'a str> {
    let start = text.get(..open.len()).filter(|start| start.eq_ignore_ascii_case(open))?;
    text[start.len()..].strip_suffix(')')
}

/// `@daily` for `daily`, `@Daily` and the like.
fn nickname(word: &str) -> Option<String> {
    let name = word.strip_prefix('@').unwrap_or(word).to_ascii_lowercase();
    match name.as_str() {
        "minutely" | "every_minute" => Some("* * * * *".to_owned()),
        name => NICKNAMES.iter().find(|(known, _)| *known == name).map(|(known, _)| format!("@{known}")),
    }
}

/// Five fields with `L`, `W` or `#` in one of them, as six.
fn with_seconds([minute, hour, day, month, weekday]: [&str; 5]) -> Option<String> {
    let has = |text: &str, letters: &[char]| text.to_ascii_uppercase().contains(letters);
    let open = |text: &str| text == "*" || text == "?";
    let (day, weekday) = match (open(day), open(weekday)) {
        (false, true) if has(day, &['L', 'W']) => (day.to_owned(), "?".to_owned()),
        (true, false) => ("?".to_owned(), nth_by_name(weekday)?),
        _ => return None,
    };
    Some(format!("0 {minute} {hour} {day} {month} {weekday}"))
}

/// `FRIL` for `5L` and `FRI#3` for `5#3`, where Sunday is 0 or 7.
fn nth_by_name(weekday: &str) -> Option<String> {
    let end = weekday.find(['#', 'L', 'l'])?;
    let (day, rest) = weekday.split_at(end);
    quartz::by_name(day).map(|day| day + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instead(format: &str) -> Option<String> {
        match Schedule::parse(format) {
            Err(ParseError::Foreign { instead, .. }) => instead,
            other => panic!("{format}: {other:?}"),
        }
    }

    #[test]
    fn the_forms_of_others_are_told_as_they_are_written_here() {
        for (format, here) in [
            ("CRON_TZ=Asia/Tokyo 0 9 * * 1-5", "0 9 * * 1-5"),
            ("TZ=Europe/Berlin @daily", "@daily"),
            ("cron(0 10 * * ? *)", "0 0 10 * * ? *"),
            ("cron(0/15 8-17 ? * MON-FRI *)", "0 0/15 8-17 ? * MON-FRI *"),
            ("0 10 * * ? *", "0 0 10 * * ? *"),
            ("0 10 ? * MON-FRI *", "0 0 10 ? * MON-FRI *"),
            ("rate(5 minutes)", "@every 5m"),
            ("rate(1 hour)", "@every 1h"),
            ("0 0 L * *", "0 0 0 L * ?"),
            ("30 8 15W * *", "0 30 8 15W * ?"),
            ("0 0 * * 5L", "0 0 0 ? * FRIL"),
            ("0 0 * * fri#3", "0 0 0 ? * FRI#3"),
            ("0 0 * 6 7#1", "0 0 0 ? 6 SUN#1"),
            ("0 9 * * 1-5 /usr/bin/backup --all", "0 9 * * 1-5"),
            ("0 9 * * 1-5 root backup", "0 9 * * 1-5"),
            ("0 9 * * mon # each monday", "0 9 * * mon"),
            ("0 9 * * * /bin/true", "0 9 * * *"),
            ("0 9 * * * echo hello world, all of it", "0 9 * * *"),
            ("0 0 9 ? * MON backup all", "0 0 9 ? * MON"),
            ("0 0 9 ? * MON 2030 # once", "0 0 9 ? * MON 2030"),
            ("@daily root backup", "@daily"),
            ("@Daily", "@daily"),
            ("weekly", "@weekly"),
            ("@minutely", "* * * * *"),
        ] {
            assert_eq!(instead(format).as_deref(), Some(here), "{format}");
        }
        for format in ["1767225600", "1767225600500", "at(2026-11-20T13:00:00)", "rate(5 moons)", "cron(61 * * * ? *)"]
        {
            assert_eq!(instead(format), None, "{format}");
        }
    }

    #[test]
    fn a_zone_in_front_is_named() {
        let error = Schedule::parse("CRON_TZ=Asia/Tokyo 0 9 * * *").expect_err("refused").to_string();
        assert!(error.contains("as timezone, here \"Asia/Tokyo\"; write 0 9 * * *"), "{error}");
    }

    #[test]
    fn a_long_format_is_not_repeated_whole() {
        let list: Vec<String> = (0..300).map(|n| (n % 60).to_string()).collect();
        let error = Schedule::parse(&format!("TZ=UTC {} * * * *", list.join(","))).expect_err("refused").to_string();
        assert!(error.len() < 300 && error.contains("timezone"), "{error}");
    }

    #[test]
    fn a_mistake_in_six_fields_is_no_command() {
        for format in ["0 0 9 * * MONN", "0 0 1 1 * foo", "0 0 9 1 1 8"] {
            let error = Schedule::parse(format).expect_err(format);
            assert!(matches!(error, ParseError::Field { .. }), "{format}: {error}");
        }
    }
}
