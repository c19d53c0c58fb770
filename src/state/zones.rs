//! The rules of the zones that tasks go by, and how newer ones take over.
//!
//! The rules stand in the state, so that each replica finds the same due times, whatever data its program brings. Each has
//! a number, and a task says by which it goes. Where newer rules take the place of others, the older stay for as long as a
//! task has due times under them.
//!
//! A take-over is for each task a jump of its clock, from the one that its zone had shown to the one that it shows from
//! then on: a fixed time that the jump skips is due at once, and one that it repeats is not due again. What comes due
//! shortly stays as it is, since the leader may be sending it already. There can be millions of tasks, so that the entry
//! which takes over moves a bounded number of them, and further entries the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::earlier::Left;
use super::record::{HotRhythm, StoredZone};
use super::task::{Rhythm, Timetable};
use super::State;
use crate::clock::Timestamp;
use crate::command::{Refusal, Seq};
use crate::schedule::{Schedule, Zone, ZoneRules};

/// Tasks that one entry moves to other rules.
pub const MOVED_MAX: usize = 512;
/// Tasks that one entry looks at for it.
pub const LOOKED_AT_MAX: usize = 8192;
/// What comes due within this time from a take-over on stays as it was: the entry may have been under way for so long, and
/// the leader have sent meanwhile what was due. A leader whose entries take longer has lost its lease.
const KEPT_MS: u64 = 5000;

/// A schedule's text, its zone's, and the number of the rules.
pub(super) type TimetableKey = (String, String, u64);

/// Rules that the state has.
struct Held {
    rules: ZoneRules,
    zone: Zone,
    current: bool,
    /// How many timetables go by them.
    timetables: usize,
}

impl Held {
    fn to_record(&self) -> StoredZone {
        StoredZone { rules: self.rules.clone(), current: self.current }
    }
}

/// All rules, by their numbers.
#[derive(Default)]
pub(super) struct Zones {
    held: BTreeMap<u64, Held>,
    /// Those that hold, by [`ZoneRules::key`].
    current: BTreeMap<String, u64>,
    /// The last number that was given.
    last: u64,
    moving: Option<Seq>,
}

impl Zones {
    /// The number that the next rules will get.
    pub fn next(&self) -> u64 {
        self.last + 1
    }

    /// The first task that may go by rules that others have taken the place of.
    pub fn moving(&self) -> Option<Seq> {
        self.moving
    }

    pub fn restore(&mut self, next: u64, moving: Option<Seq>) {
        self.last = self.last.max(next.saturating_sub(1));
        self.moving = moving;
    }

    fn insert(&mut self, rules: ZoneRules) -> Option<u64> {
        let zone = rules.zone()?;
        self.last += 1;
        self.current.insert(ZoneRules::key(&rules.name), self.last);
        self.held.insert(self.last, Held { rules, zone, current: true, timetables: 0 });
        Some(self.last)
    }

    fn find(&self, name: &str) -> Option<(u64, &Held)> {
        let number = *self.current.get(&ZoneRules::key(name))?;
        Some((number, self.held.get(&number)?))
    }
}

impl State {
    /// The zone with this name by the rules that hold; none: the state has none of it.
    pub fn zone(&self, name: &str) -> Option<Zone> {
        if name.eq_ignore_ascii_case("UTC") {
            return Some(Zone::utc());
        }
        self.zones.find(name).map(|(_, held)| held.zone.clone())
    }

    /// The rules that hold, by their numbers.
    pub fn zone_rules(&self) -> impl Iterator<Item = (u64, &ZoneRules)> {
        self.zones.held.iter().filter(|(_, held)| held.current).map(|(number, held)| (*number, &held.rules))
    }

    /// The version of the rules that hold; none: no zone but UTC is in use. Of several versions the oldest, which newer data
    /// are about to take over from.
    pub fn zone_version(&self) -> Option<&str> {
        self.zone_rules().map(|(_, rules)| &*rules.version).min()
    }

    /// The number that the next rules will get.
    pub fn next_zone(&self) -> u64 {
        self.zones.next()
    }

    /// The first task that may go by rules that others have taken the place of; none: no task does.
    pub fn moving(&self) -> Option<Seq> {
        self.zones.moving
    }

    /// All rules as they are stored.
    #[cfg(any(test, feature = "fuzzing", feature = "sim"))]
    pub(crate) fn stored_zones(&self) -> impl Iterator<Item = (u64, StoredZone)> + use<'_> {
        self.zones.held.iter().map(|(number, held)| (*number, held.to_record()))
    }

    /// Puts rules back that were read from storage, before the tasks that go by them.
    ///
    /// # Errors
    /// Rules that this version cannot read.
    pub fn restore_zone(&mut self, number: u64, stored: StoredZone) -> Result<(), String> {
        let StoredZone { rules, current } = stored;
        let zone = rules.zone().ok_or_else(|| format!("the rules {rules:?} cannot be read"))?;
        if current {
            self.zones.current.insert(ZoneRules::key(&rules.name), number);
        }
        self.zones.last = self.zones.last.max(number);
        self.zones.held.insert(number, Held { rules, zone, current, timetables: 0 });
        Ok(())
    }

    /// Takes rules of zones that it has none of.
    pub(super) fn add_zones(&mut self, rules: Vec<ZoneRules>) {
        for rules in rules {
            self.steps += 1;
            if self.zones.find(&rules.name).is_none() {
                let added = self.zones.insert(rules);
                self.note_zone(added);
            }
        }
    }

    /// Newer data take over.
    pub(super) fn take_over(&mut self, now: Timestamp, version: &str, seen: u64, rules: Vec<ZoneRules>) {
        for rules in rules {
            self.steps += 1;
            let Some((number, held)) = self.zones.find(&rules.name) else { continue };
            if number >= seen || *held.rules.version >= *rules.version {
                continue;
            }
            let replacing = self.zones.insert(rules);
            if replacing.is_none() {
                continue;
            }
            self.note_zone(replacing);
            if let Some(held) = self.zones.held.get_mut(&number) {
                held.current = false;
                if held.timetables > 0 {
                    self.zones.moving = Some(0);
                }
            }
            self.note_zone(Some(number));
            self.drop_rules(number);
        }
        let older = |(number, held): &(&u64, &Held)| **number < seen && held.current && *held.rules.version < *version;
        let same: Vec<u64> = self.zones.held.iter().filter(older).map(|(number, _)| *number).collect();
        for number in same {
            self.steps += 1;
            if let Some(held) = self.zones.held.get_mut(&number) {
                held.rules.version = version.into();
            }
            self.note_zone(Some(number));
        }
        if let Some(from) = self.zones.moving {
            self.move_tasks(now, from);
        }
    }

    /// Has the next tasks from this one on go by the rules that hold.
    pub(super) fn move_tasks(&mut self, now: Timestamp, from: Seq) {
        if self.zones.moving != Some(from) {
            return;
        }
        self.changes.globals = true;
        let (mut looked_at, mut next, mut moved) = (0, None, Vec::new());
        for (seq, task) in self.pages.iter_from(from) {
            if looked_at == LOOKED_AT_MAX || moved.len() == MOVED_MAX {
                next = Some(seq);
                break;
            }
            looked_at += 1;
            let Rhythm::Periodic(table) = &task.rhythm else { continue };
            if self.zones.held.get(&table.rules).is_some_and(|held| !held.current) {
                moved.push(seq);
            }
        }
        self.steps += looked_at;
        self.zones.moving = next;
        let mut clocks = BTreeMap::new();
        for seq in moved {
            self.move_task(now, seq, &mut clocks);
        }
    }

    /// Has one task go by the rules that hold. `clocks` has what the zones' clocks show that jump shortly, by the numbers of
    /// the rules before.
    fn move_task(&mut self, now: Timestamp, seq: Seq, clocks: &mut BTreeMap<u64, Zone>) {
        let Some(Rhythm::Periodic(old)) = self.pages.get(seq).map(|task| task.rhythm.clone()) else { return };
        let Ok(new) = self.timetable(&old.format, &old.timezone) else { return };
        let kept_upto = now.plus_ms(KEPT_MS);
        self.make_room(now, seq);
        let Some(task) = self.pages.get_mut(seq) else { return };
        let come = task.come_upto(kept_upto);
        let after = kept_upto.max(task.past.floor().unwrap_or_default()).max(come.unwrap_or_default());
        // The first whole second after what stays as it is.
        let jump = after.plus_ms(1000 - after.as_ms() % 1000);
        let clock = match after == kept_upto {
            true => clocks.entry(old.rules).or_insert_with(|| old.zone.until(jump, &new.zone)).clone(),
            false => old.zone.until(jump, &new.zone),
        };
        let (options, created) = (task.options.as_deref(), task.created);
        let coming = come.map_or(task.next, |upto| task.due_after(upto));
        let then = match coming {
            // Else an answer of the target has set it, and not the schedule.
            Some(due) if old.due_after(options, created, after) == Some(due) => {
                old.due_in(&clock, options, created, after)
            }
            coming => coming,
        };
        let differs = !old.zone.agrees(&new.zone, task.since(), after);
        let changes = then != coming;
        let kept = task.go_on_at(kept_upto, then, None, Left::Shared);
        task.rhythm = Rhythm::Periodic(new);
        if differs {
            // The due times before were not those of the rules that hold now.
            task.past.since = Some(after);
        }
        if !kept {
            self.drop_timetable(&Rhythm::Periodic(old));
        }
        self.changes.touch(seq);
        self.steps += 1;
        if changes || kept {
            if let Some(task) = self.pages.get_mut(seq) {
                task.came_up = true;
            }
            self.settle(now, seq);
        }
    }

    /// These rules are to be stored as they are now.
    fn note_zone(&mut self, number: Option<u64>) {
        if let Some((number, held)) = number.and_then(|number| Some((number, self.zones.held.get(&number)?))) {
            self.changes.put_zone(number, Some(held.to_record()));
        }
    }

    /// Forgets rules by which nothing goes.
    fn drop_rules(&mut self, number: u64) {
        if self.zones.held.get(&number).is_some_and(|held| !held.current && held.timetables == 0) {
            self.zones.held.remove(&number);
            self.changes.put_zone(number, None);
        }
    }

    /// The timetable by the rules that hold, for one more task.
    pub(super) fn timetable(&mut self, format: &str, timezone: &str) -> Result<Arc<Timetable>, Refusal> {
        let rules = match timezone.eq_ignore_ascii_case("UTC") {
            true => 0,
            false => self.zones.find(timezone).ok_or_else(|| Refusal::UnknownZone(timezone.to_owned()))?.0,
        };
        self.timetable_by(format, timezone, rules).map_err(Refusal::Unreadable)
    }

    /// The timetable by the rules with this number, for one more task.
    fn timetable_by(&mut self, format: &str, timezone: &str, rules: u64) -> Result<Arc<Timetable>, String> {
        let key = (format.to_owned(), timezone.to_owned(), rules);
        if let Some((known, tasks)) = self.timetables.get_mut(&key) {
            *tasks += 1;
            return Ok(known.clone());
        }
        let schedule = Schedule::parse(format).map_err(|e| e.to_string())?;
        let zone = match rules {
            0 => Zone::utc(),
            _ => {
                let held = self.zones.held.get_mut(&rules);
                let held = held.ok_or_else(|| format!("there are no rules {rules} of the zone {timezone:?}"))?;
                held.timetables += 1;
                held.zone.clone()
            }
        };
        let (format, timezone) = (format.to_owned(), timezone.to_owned());
        let table = Arc::new(Timetable { format, timezone, schedule, zone, rules });
        self.timetables.insert(key, (table.clone(), 1));
        Ok(table)
    }

    pub(super) fn rhythm(&mut self, stored: &HotRhythm) -> Result<Rhythm, String> {
        Ok(match stored {
            HotRhythm::Once => Rhythm::Once,
            HotRhythm::Periodic { format, timezone, rules } => {
                Rhythm::Periodic(self.timetable_by(format, timezone, *rules)?)
            }
        })
    }

    /// One more course has it.
    pub(super) fn hold_timetable(&mut self, rhythm: &Rhythm) {
        let Rhythm::Periodic(table) = rhythm else { return };
        if let Some((_, tasks)) = self.timetables.get_mut(&key_of(table)) {
            *tasks += 1;
        }
    }

    /// One task less has it.
    pub(super) fn drop_timetable(&mut self, rhythm: &Rhythm) {
        let Rhythm::Periodic(table) = rhythm else { return };
        let key = key_of(table);
        let Some((_, tasks)) = self.timetables.get_mut(&key) else { return };
        *tasks -= 1;
        if *tasks == 0 {
            self.timetables.remove(&key);
            if let Some(held) = self.zones.held.get_mut(&table.rules) {
                held.timetables -= 1;
            }
            self.drop_rules(table.rules);
        }
    }

    /// Checks that the rules agree with the timetables that go by them.
    ///
    /// # Panics
    /// Where they do not.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn check_zones(&self) {
        let mut timetables: BTreeMap<u64, usize> = BTreeMap::new();
        for (_, _, rules) in self.timetables.keys().filter(|(_, _, rules)| *rules > 0) {
            *timetables.entry(*rules).or_default() += 1;
        }
        for (number, held) in &self.zones.held {
            assert_eq!(timetables.remove(number).unwrap_or(0), held.timetables, "{:?}", held.rules);
            assert!(held.current || held.timetables > 0, "nothing goes by {:?}", held.rules);
            assert!(held.current == (self.zones.find(&held.rules.name).map(|(n, _)| n) == Some(*number)));
            assert!(*number <= self.zones.last);
        }
        assert!(timetables.is_empty(), "there are no rules {timetables:?}");
        let replaced = |rhythm: &Rhythm| match rhythm {
            Rhythm::Periodic(table) => self.zones.held.get(&table.rules).is_some_and(|held| !held.current),
            Rhythm::Once => false,
        };
        for (seq, task) in self.tasks_from(0).filter(|(_, task)| replaced(&task.rhythm)) {
            assert!(self.zones.moving.is_some_and(|from| seq >= from), "{} goes by rules of old", task.id);
        }
    }
}

pub(super) fn key_of(table: &Timetable) -> TimetableKey {
    (table.format.clone(), table.timezone.clone(), table.rules)
}
