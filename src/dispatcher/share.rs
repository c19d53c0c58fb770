//! How many places a target may have: pure.
//!
//! - The next free place goes to the target with the fewest in flight, and among equals to the one that has waited longest.
//! - Some places stay free for targets that have none yet: a *quick* target may have four times as many as are free then,
//!   another one as many as are free.
//! - Targets that are not quick (they have not answered yet, or the last answer took long) may have three quarters of all
//!   places together, however many they are; of these, the ones whose last attempt timed out may have half of all.
//! - A target whose attempts time out again and again loses half of its places each time, down to two. It gets them back
//!   one by one, each after as many answers as it has places.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// An answer that takes no longer is quick.
const QUICK: Duration = Duration::from_secs(1);
/// So many places as there are free ones may a quick target have, times this.
const QUICK_SHARE: usize = 4;
/// Timeouts in a row from which on a target loses places.
const TIMEOUTS: u32 = 3;
/// Places that any target may have.
const FEW: usize = 2;
/// Targets of which it is remembered that they are quick: at most twice as many.
const PROVEN_MAX: usize = 10_000;

/// What an attempt has shown of how long its target takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Nothing.
    Unknown,
    /// It has answered after so long.
    Answered(Duration),
    /// It has not answered in time.
    TimedOut,
    /// It could not be connected to.
    Unreached,
}

/// What is known of how long a target takes, and the number of its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// It has answered, quickly, the last time.
    Quick = 0,
    /// It has not answered yet, or its answer took long.
    New = 1,
    /// It has not answered in time.
    Troubled = 2,
}

/// How many classes there are.
pub(super) const CLASSES: usize = 3;

/// What one target may have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    /// It has answered, quickly, the last time.
    quick: bool,
    /// The places that were taken from it.
    lost: usize,
    timeouts: u32,
    /// Answers since it last got a place back.
    answers: usize,
}

impl Share {
    /// Of a target of which nothing else is known.
    pub fn of(quick: bool) -> Share {
        Share { quick, ..Share::default() }
    }

    /// Places that it may have, where any other may have `most`.
    pub fn places(&self, most: usize) -> usize {
        most.saturating_sub(self.lost).max(FEW.min(most))
    }

    pub fn class(&self) -> Class {
        match (self.quick, self.timeouts) {
            (true, _) => Class::Quick,
            (false, 0) => Class::New,
            (false, _) => Class::Troubled,
        }
    }

    /// Whether it may not be forgotten: it would be taken for a new target.
    pub fn is_remembered(&self) -> bool {
        self.lost > 0 || self.timeouts > 0
    }

    /// An attempt has ended.
    pub fn ended(&mut self, pace: Pace, most: usize) {
        let places = self.places(most);
        match pace {
            Pace::Unknown => {}
            Pace::Unreached => self.quick = false,
            Pace::TimedOut => {
                (self.quick, self.answers) = (false, 0);
                self.timeouts = self.timeouts.saturating_add(1);
                if self.timeouts >= TIMEOUTS {
                    self.lost = most - (places / 2).max(FEW.min(most));
                }
            }
            Pace::Answered(took) => {
                (self.quick, self.timeouts) = (took <= QUICK, 0);
                self.answers += 1;
                if self.answers >= places {
                    (self.lost, self.answers) = (self.lost.saturating_sub(1), 0);
                }
            }
        }
    }
}

/// Whether a target of this class with so many in flight may have one more of `all` places, where so many of each class
/// are taken.
pub(super) fn may_have(class: Class, in_flight: usize, taken: &[usize; CLASSES], all: usize) -> bool {
    let [quick, new, troubled] = *taken;
    let free = all.saturating_sub(quick + new + troubled);
    let others = new + troubled < all - all / 4;
    free > 0
        && match class {
            Class::Quick => in_flight < QUICK_SHARE * free,
            Class::New => others && in_flight <= free,
            Class::Troubled => others && troubled < all - all / 2 && in_flight <= free,
        }
}

/// Targets that were quick when they were last seen, so that one that comes again is not taken for a new one.
#[derive(Default)]
pub(super) struct Proven {
    new: HashSet<Arc<str>>,
    old: HashSet<Arc<str>>,
}

impl Proven {
    pub fn set(&mut self, target: &Arc<str>, quick: bool) {
        if !quick {
            self.new.remove(target);
            self.old.remove(target);
        } else if self.new.insert(target.clone()) && self.new.len() > PROVEN_MAX {
            self.old = std::mem::take(&mut self.new);
        }
    }

    pub fn has(&self, target: &Arc<str>) -> bool {
        self.new.contains(target) || self.old.contains(target)
    }

    pub fn clear(&mut self) {
        *self = Proven::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Pace = Pace::Answered(Duration::from_millis(5));

    #[test]
    fn timeouts_in_a_row_take_places_and_answers_give_them_back_slowly() {
        let mut share = Share::default();
        share.ended(SOON, 64);
        assert!(share.quick);
        (0..2).for_each(|_| share.ended(Pace::TimedOut, 64));
        assert_eq!((share.places(64), share.quick), (64, false));
        let cut: Vec<_> = (0..7).map(|_| (share.ended(Pace::TimedOut, 64), share.places(64)).1).collect();
        assert_eq!(cut, [32, 16, 8, 4, 2, 2, 2]);
        share.ended(SOON, 64);
        assert_eq!(share.places(64), 2);
        share.ended(SOON, 64);
        assert_eq!((share.places(64), share.quick), (3, true));
        let answers = (0..10_000).take_while(|_| (share.ended(SOON, 64), share.is_remembered()).1).count();
        assert!((1500..2500).contains(&answers), "{answers} answers");
        share.ended(Pace::Answered(Duration::from_secs(2)), 64);
        assert!(!share.quick && !share.is_remembered());
    }

    #[test]
    fn where_a_target_may_have_one_place_it_keeps_it() {
        let mut share = Share::default();
        (0..10).for_each(|_| share.ended(Pace::TimedOut, 1));
        assert_eq!(share.places(1), 1);
    }

    #[test]
    fn however_many_targets_take_all_that_they_may_some_places_stay_free() {
        for (class, least) in [(Class::Quick, 2), (Class::New, 128), (Class::Troubled, 256)] {
            for targets in [1, 8, 20, 60, 1000] {
                let mut in_flight = vec![0; targets];
                let mut taken = [0; CLASSES];
                loop {
                    let fewest = in_flight.iter_mut().min().expect("a target");
                    if !may_have(class, *fewest, &taken, 512) {
                        break;
                    }
                    *fewest += 1;
                    taken[class as usize] += 1;
                }
                let free = 512 - taken[class as usize];
                assert!(
                    free >= least || targets == 1000 && class == Class::Quick,
                    "{free} beside {targets}, {class:?}"
                );
                assert!(class == Class::Quick || may_have(Class::Quick, 0, &taken, 512), "{targets}, {class:?}");
                assert!(class != Class::Troubled || may_have(Class::New, 0, &taken, 512), "{targets}");
            }
        }
    }

    #[test]
    fn one_place_is_anyones_and_of_few_one_target_may_have_most() {
        for class in [Class::Quick, Class::New, Class::Troubled] {
            assert!(may_have(class, 0, &[0, 0, 0], 1) && !may_have(class, 0, &[1, 0, 0], 1), "{class:?}");
        }
        assert!(may_have(Class::New, 1, &[0, 1, 0], 2) && may_have(Class::Quick, 7, &[7, 0, 0], 10));
    }

    #[test]
    fn what_is_known_of_targets_is_bounded() {
        let mut proven = Proven::default();
        (0..3 * PROVEN_MAX).for_each(|n| proven.set(&n.to_string().into(), true));
        assert!(proven.new.len() + proven.old.len() <= 2 * PROVEN_MAX + 1);
        let last: Arc<str> = (3 * PROVEN_MAX - 1).to_string().into();
        assert!(proven.has(&last));
        proven.set(&last, false);
        assert!(!proven.has(&last));
    }
}
