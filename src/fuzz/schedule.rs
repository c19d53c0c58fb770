//! Schedules: what is read, and when it is next due.

use jiff::tz::TimeZoneDatabase;

use super::schedule_slowly::{Slow, END};
use super::Choices;
use crate::clock::Timestamp;
use crate::schedule::{Schedule, Zone};

/// Zones whose clocks jump, and some that have done so oddly.
const ZONES: [&str; 9] = [
    "UTC",
    "America/New_York",
    "Europe/London",
    "Australia/Lord_Howe",
    "America/Havana",
    "Asia/Beirut",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Antarctica/Troll",
];

/// Seconds at which one of these clocks jumps, or a table ends.
const EDGES: [u64; 10] = [
    0,
    951_782_400,
    1_325_239_200,
    1_710_046_800,
    1_710_054_000,
    1_712_415_600,
    1_729_990_800,
    1_730_613_600,
    4_107_542_400,
    END as u64,
];

/// How far a clock that jumps is watched second by second.
const WATCHED_S: i64 = 4000;

pub(super) fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let kind = choices.below(5);
    let zone_name = choices.pick(&ZONES);
    let after = match choices.below(3) {
        0 => Timestamp::from_secs(choices.pick(&EDGES).saturating_add(choices.below(100_000)).saturating_sub(50_000)),
        1 => Timestamp(choices.magnitude()),
        _ => Timestamp(choices.below(END as u64 * 1000)),
    };
    let anchor = if choices.flag() { Timestamp(after.0.saturating_sub(choices.magnitude())) } else { Timestamp(0) };
    let text = match kind {
        0 => crontab(&mut choices),
        1 => quartz(&mut choices),
        2 => every(&mut choices),
        _ => String::from_utf8_lossy(choices.rest()).into_owned(),
    };
    // No name of a zone may do more than be refused.
    drop(Zone::get(&text));
    match Schedule::parse(&text) {
        Ok(schedule) => check(&schedule, &text, zone_name, anchor, after),
        Err(error) => assert!(error.to_string().len() < 1000, "{text:?}: {error}"),
    }
}

fn item(choices: &mut Choices<'_>, low: u64, high: u64, names: &[&str], quartz: bool) -> String {
    let value = |choices: &mut Choices<'_>| match names.is_empty() || choices.flag() {
        true => (low + choices.below(high + 2 - low)).to_string(),
        false => choices.pick(names).to_owned(),
    };
    match choices.below(8) {
        0 => "*".to_owned(),
        1 => format!("*/{}", choices.below(high + 2)),
        2 | 3 => format!("{}-{}", value(choices), value(choices)),
        4 => format!("{}-{}/{}", value(choices), value(choices), choices.below(high + 1)),
        5 if quartz => format!("{}/{}", value(choices), choices.below(high + 1)),
        _ => value(choices),
    }
}

fn list(choices: &mut Choices<'_>, low: u64, high: u64, names: &[&str], quartz: bool) -> String {
    let items: Vec<_> = (0..=choices.below(3)).map(|_| item(choices, low, high, names, quartz)).collect();
    items.join(",")
}

const MONTHS: &[&str] = &["JAN", "feb", "Jun", "DEC"];
const WEEKDAYS: &[&str] = &["sun", "MON", "Fri", "SAT"];

fn crontab(choices: &mut Choices<'_>) -> String {
    let ranges: [(u64, u64, &[&str]); 5] =
        [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 7, WEEKDAYS)];
    ranges.map(|(low, high, names)| list(choices, low, high, names, false)).join(" ")
}

fn quartz(choices: &mut Choices<'_>) -> String {
    let open = choices.below(3);
    let ranges: [(u64, u64, &[&str]); 7] =
        [(0, 59, &[]), (0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (1, 7, WEEKDAYS), (1970, 2100, &[])];
    let mut fields = ranges.map(|(low, high, names)| list(choices, low, high, names, true)).to_vec();
    let odd = choices.flag();
    match open {
        0 => {
            fields[3] = "?".to_owned();
            let of = choices.below(8).to_string();
            let of = if choices.flag() { of } else { choices.pick(WEEKDAYS).to_owned() };
            let nth = if choices.flag() { "L".to_owned() } else { format!("#{}", choices.below(6)) };
            fields[5] = if odd { of + &nth } else { fields[5].clone() };
        }
        1 => {
            fields[5] = "?".to_owned();
            let from_end = format!("L-{}", choices.below(32));
            let day = [choices.below(33).to_string(), "L".to_owned(), from_end][choices.below(3) as usize].clone();
            let near = if choices.flag() || !day.starts_with('L') { "W" } else { "" };
            fields[3] = if odd { day + near } else { fields[3].clone() };
        }
        _ => (fields[3], fields[5]) = ("*".to_owned(), "*".to_owned()),
    }
    if choices.flag() {
        fields.pop();
    }
    fields.join(" ")
}

fn every(choices: &mut Choices<'_>) -> String {
    let part = |choices: &mut Choices<'_>| {
        let number = choices.magnitude() >> choices.below(64);
        let fraction = if choices.flag() { format!(".{}", choices.below(1_000_000)) } else { String::new() };
        format!("{number}{fraction}{}", choices.pick(&["s", "ms", "m", "h", "d", "x"]))
    };
    let parts: String = (0..=choices.below(3)).map(|_| part(choices)).collect();
    format!("@every {parts}")
}

fn check(schedule: &Schedule, text: &str, zone_name: &str, anchor: Timestamp, after: Timestamp) {
    for name in ["UTC", zone_name] {
        let zone = Zone::get(name).unwrap_or_else(|e| panic!("{e}"));
        let next = |from| schedule.next_after(&zone, anchor, from);
        let Some(due) = next(after) else { continue };
        let told = || format!("{text:?} in {name} from {anchor} after {after} is due at {due}");
        assert!(due > after && due.as_secs() < END as u64, "{}", told());
        // Whatever lies between leads to the same.
        let between = Timestamp(after.0 + (due.0 - after.0) / 2);
        assert_eq!((next(between), next(Timestamp(due.0 - 1))), (Some(due), Some(due)), "{}", told());
        assert!(next(due).is_none_or(|then| then > due), "{}", told());
        let is_interval = text.trim_start_matches([' ', '\t']).starts_with("@every");
        assert!(is_interval || due.0.is_multiple_of(1000), "{}", told());
        if let Some(then) = next(due).filter(|_| is_interval) {
            let period = then.0 - due.0;
            assert!((due.0 - anchor.0).is_multiple_of(period) && due.0 - after.max(anchor).0 <= period, "{}", told());
        }
    }
    let Some(slow) = Slow::read(text) else { return };
    let (start, utc) = (after.as_secs() as i64, Zone::utc());
    if start >= END {
        return;
    }
    let due = schedule.next_after(&utc, anchor, after).map(|due| due.as_secs() as i64);
    let end = due.map_or(END.min(start + 500 * 86_400), |due| due + 1);
    assert_eq!(due, slow.next(start, end), "{text:?} in UTC after {after}");
    watch(schedule, &slow, text, zone_name, start);
}

/// Looks at the zone's clock at each second.
fn watch(schedule: &Schedule, slow: &Slow, text: &str, zone_name: &str, start: i64) {
    let (Ok(clock), Ok(zone)) = (TimeZoneDatabase::bundled().get(zone_name), Zone::get(zone_name)) else { return };
    // The tables of the zones begin in 1970.
    if start < 200_000 || zone_name == "UTC" {
        return;
    }
    let due = schedule.next_after(&zone, Timestamp(0), Timestamp::from_secs(start as u64)).map(|d| d.as_secs() as i64);
    let shown = |at| jiff::Timestamp::from_second(at).map(|at| clock.to_datetime(at));
    // The latest that the clock has shown before: what a clock set back shows again is not due again.
    // Clocks are set at full quarters.
    let quarters = (0..=100).map(|n| start.div_euclid(900) * 900 - n * 900 - 1);
    let mut latest = quarters.chain([start]).filter_map(|at| shown(at).ok()).max();
    let found = (start + 1..=start + WATCHED_S).find(|&at| {
        let (Ok(wall), Some(passed)) = (shown(at), latest) else { return false };
        if slow.follows_clock {
            return slow.takes(wall);
        }
        let mut at = passed;
        let mut matches = false;
        while at < wall {
            at = at.saturating_add(jiff::SignedDuration::from_secs(1));
            matches |= slow.takes(at);
        }
        latest = Some(passed.max(wall));
        matches
    });
    assert_eq!(due.filter(|due| *due <= start + WATCHED_S), found, "{text:?} in {zone_name} after {start}");
}
