//! Each proposal of a refusal can be read, and means what was meant.

use super::{ParseError, Schedule};

/// `format` with what its refusal proposes.
fn mended(format: &str) -> Option<String> {
    let error = Schedule::parse(format).expect_err(format);
    let told = error.to_string();
    let (instead, field) = match error {
        ParseError::Foreign { instead, .. } | ParseError::Interval { instead, .. } => (instead?, None),
        ParseError::Field { instead, text, .. } => (instead?, Some(text)),
        _ => return None,
    };
    assert!(told.ends_with(&format!("; write {instead}")), "{format}: {told}");
    Some(match field {
        None => instead,
        Some(wrong) => format.replacen(&wrong, &instead, 1),
    })
}

/// The values from `first` on in steps, over the end of the unit if need be, up to `last`.
fn around(first: u32, last: u32, step: u32, low: u32, high: u32) -> Vec<String> {
    let mut values = Vec::new();
    let (mut at, mut n) = (first, 0);
    loop {
        if n % step == 0 {
            values.push(at.to_string());
        }
        if at == last {
            return values;
        }
        at = if at == high { low } else { at + 1 };
        n += 1;
    }
}

/// The five fields, with `text` as the one of this index, a value that may stand alone.
fn crontab(index: usize, text: &str) -> String {
    let mut fields = ["0", "0", "*", "*", "*"];
    fields[index] = text;
    fields.join(" ")
}

#[test]
fn each_proposal_for_a_crontab_means_what_was_meant() {
    let mut proposals = 0;
    for (index, low, high) in [(0, 0, 59), (1, 0, 23), (2, 1, 31), (3, 1, 12), (4, 0, 7)] {
        // The week has Sunday twice; a range goes on as if it were its first day.
        let (week, end) = (index == 4, if index == 4 { 6 } else { high });
        let once = |value: u32| if week { value % 7 } else { value };
        for first in low..=high {
            for step in [1, 2, 3, 7, 60] {
                let alone = format!("{first}/{step}");
                let meant = around(once(first), end, step, low, end).join(",");
                check(&crontab(index, &alone), &crontab(index, &meant), &mut proposals);
                for last in low..first {
                    let text = format!("{first}-{last}/{step}");
                    let meant = around(once(first), once(last), step, low, end).join(",");
                    check(&crontab(index, &text), &crontab(index, &meant), &mut proposals);
                    let (text, meant) = (format!("1,{first}-{last},2"), around(once(first), once(last), 1, low, end));
                    if !(week && last == 0) {
                        let meant = format!("1,{},2", meant.join(","));
                        check(&crontab(index, &text), &crontab(index, &meant), &mut proposals);
                    }
                }
            }
        }
    }
    for (wrong, right) in [
        ("1,,2 0 * * *", "1,2 0 * * *"),
        ("0 0 ? * 1", "0 0 * * 1"),
        ("5/20,50-10 * * * *", "5,25,45,50-59,0-10 * * * *"),
        ("0 0 1 nov-feb *", "0 0 1 11,12,1,2 *"),
        ("0 0 * * sat-mon", "0 0 * * 6,0,1"),
    ] {
        check(wrong, right, &mut proposals);
    }
    assert!(proposals > 10_000, "{proposals}");
}

#[test]
fn each_proposal_for_the_quartz_form_means_what_was_meant() {
    let mut proposals = 0;
    for first in 0..=6 {
        check(&format!("0 0 9 ? * {first},0"), &format!("0 0 9 ? * {},1", first + 1), &mut proposals);
        check(&format!("0 0 9 ? * 0-{first}"), &format!("0 0 9 ? * 1-{}", first + 1), &mut proposals);
        check(&format!("0 0 9 ? * 0-{first}/2"), &format!("0 0 9 ? * 1-{}/2", first + 1), &mut proposals);
    }
    for (wrong, right) in [
        ("0 0 9 ? * 0/2", "0 0 9 ? * 1,3,5,7"),
        ("0 0 9 ? * TUE/2", "0 0 9 ? * 3,5,7"),
        ("0 0 9 1 FEB/4 ?", "0 0 9 1 2,6,10 ?"),
        ("0 0 9 1 1 ? 2035-2031", "0 0 9 1 1 ? 2031-2035"),
        ("0 ? 9 * * ?", "0 * 9 * * ?"),
        ("0 0 9 1,,2 * ?", "0 0 9 1,2 * ?"),
    ] {
        check(wrong, right, &mut proposals);
    }
    assert!(proposals > 20, "{proposals}");
}

#[test]
fn each_proposal_for_an_interval_or_a_form_of_others_can_be_read() {
    for (wrong, right) in [
        ("@every 5 minutes", "@every 300s"),
        ("@every 2 weeks", "@every 336h"),
        ("@every 1h 30m", "@every 90m"),
        ("rate(1 day)", "@every 24h"),
        ("0 0 * * 5L", "0 0 0 ? * 6L"),
        ("0 0 * * 1-7#2", "0 0 0 ? * 1#2"),
        ("cron(0 10 ? * 2-6 2030)", "0 0 10 ? * MON-FRI 2030"),
        ("@Weekly", "0 0 * * 0"),
    ] {
        match mended(wrong) {
            Some(format) => assert_eq!(Schedule::parse(&format), Schedule::parse(right), "{wrong}: {format}"),
            None => assert_eq!(wrong, "0 0 * * 1-7#2", "nothing else is left without a proposal"),
        }
    }
}

/// Where `wrong` is refused it is with a proposal, and that means the same as `right`.
fn check(wrong: &str, right: &str, proposals: &mut usize) {
    let right = Schedule::parse(right).expect(right);
    if Schedule::parse(wrong).is_ok() {
        return;
    }
    let format = mended(wrong).unwrap_or_else(|| panic!("{wrong}: nothing is proposed"));
    let read = Schedule::parse(&format).unwrap_or_else(|error| panic!("{wrong}: {format}: {error}"));
    assert_eq!(read, right, "{wrong}: {format}");
    *proposals += 1;
}
