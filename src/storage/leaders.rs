//! Which leaders wrote the log: what tells one history from another once the log itself is purged.
//!
//! Two logs that have an entry of the same leader at the same place agree in all up to there. So it is enough to know
//! whose entry is at the last place that both have.

use serde::{Deserialize, Serialize};

use crate::raft::LogId;

/// So many leaders are remembered. A node that is further behind than that is not told from one of another history.
const REMEMBERED_MAX: usize = 1024;

/// The leaders whose entries were applied: of each the first entry, in the order of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Leaders(Vec<LogId>);

impl Leaders {
    /// What is known of a state that does not tell its leaders: who wrote the last entry that was applied.
    pub fn of_last(applied: Option<LogId>) -> Leaders {
        Leaders(applied.into_iter().collect())
    }

    /// Takes note of the entry that is applied next.
    pub fn take(&mut self, entry: LogId) {
        if self.0.last().is_some_and(|last| last.leader_id == entry.leader_id) {
            return;
        }
        if self.0.len() == REMEMBERED_MAX {
            self.0.remove(0);
        }
        self.0.push(entry);
    }

    /// The entry at this place, which is not after the last that was applied; none: it is not known any more.
    fn entry_at(&self, index: u64) -> Option<LogId> {
        let after = self.0.partition_point(|first| first.index <= index);
        let first = self.0.get(after.checked_sub(1)?)?;
        Some(LogId { index, ..*first })
    }

    /// The entry that was applied at the place of this one, which is not after the last, if it is another one.
    pub fn instead_of(&self, entry: LogId) -> Option<LogId> {
        self.entry_at(entry.index).filter(|ours| *ours != entry)
    }

    /// Where another history differs from this one, both up to an entry: the entry of this one and that of the other, at
    /// the last place that both have.
    pub fn differ(&self, applied: LogId, other: &Leaders, other_applied: LogId) -> Option<(LogId, LogId)> {
        let at = applied.index.min(other_applied.index);
        let (ours, theirs) = (self.entry_at(at)?, other.entry_at(at)?);
        (ours != theirs).then_some((ours, theirs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::record;
    use crate::storage::store::Mark;

    fn entry(term: u64, index: u64) -> LogId {
        LogId::new(openraft::CommittedLeaderId::new(term, 1), index)
    }

    /// The leaders of a log in which each term has so many entries.
    fn leaders(terms: &[(u64, u64)]) -> (Leaders, LogId) {
        let mut leaders = Leaders::default();
        let mut last = entry(0, 0);
        for &(term, entries) in terms {
            for _ in 0..entries {
                last = entry(term, last.index + 1);
                leaders.take(last);
            }
        }
        (leaders, last)
    }

    #[test]
    fn histories_differ_where_the_last_entry_that_both_have_is_of_another_leader() {
        let (own, last) = leaders(&[(1, 10), (3, 10), (5, 1)]);
        let differ = |terms: &[(u64, u64)]| {
            let (other, other_last) = leaders(terms);
            let found = own.differ(last, &other, other_last);
            let mirrored = other.differ(other_last, &own, last);
            assert_eq!(found.map(|(ours, theirs)| (theirs, ours)), mirrored);
            found
        };
        // The same, a beginning of it, and more of it.
        for same in [&[(1, 10), (3, 10), (5, 1)][..], &[(1, 10), (3, 4)], &[(1, 10), (3, 10), (5, 7), (9, 2)]] {
            assert_eq!(differ(same), None, "{same:?}");
        }
        // What another leader wrote instead: behind this history, as long, and further.
        assert_eq!(differ(&[(1, 10), (3, 4), (6, 1)]), Some((entry(3, 15), entry(6, 15))));
        assert_eq!(differ(&[(1, 10), (3, 4), (6, 7)]), Some((entry(5, 21), entry(6, 21))));
        assert_eq!(differ(&[(1, 10), (3, 10), (6, 90)]), Some((entry(5, 21), entry(6, 21))));
        assert_eq!(differ(&[(1, 9), (2, 90)]), Some((entry(5, 21), entry(2, 21))));
    }

    #[test]
    fn an_entry_is_compared_with_the_one_at_its_place() {
        let (own, _) = leaders(&[(1, 10), (3, 10)]);
        assert_eq!(own.instead_of(entry(1, 10)), None);
        assert_eq!(own.instead_of(entry(1, 11)), Some(entry(3, 11)));
        assert_eq!(own.instead_of(entry(2, 10)), Some(entry(1, 10)));
    }

    #[test]
    fn what_is_not_remembered_is_not_compared() {
        let terms: Vec<(u64, u64)> = (1..=REMEMBERED_MAX as u64 + 5).map(|term| (term, 2)).collect();
        let (own, _) = leaders(&terms);
        assert_eq!(own.0.len(), REMEMBERED_MAX);
        assert_eq!(own.instead_of(entry(9000, 10)), None, "of the first five terms nothing is known");
        assert_eq!(own.instead_of(entry(9000, 11)), Some(entry(6, 11)));
        // A state of an earlier version: known from its last entry on.
        let mut own = Leaders::of_last(Some(entry(4, 100)));
        own.take(entry(4, 101));
        own.take(entry(6, 102));
        assert_eq!((own.instead_of(entry(3, 99)), own.instead_of(entry(3, 101))), (None, Some(entry(4, 101))));
    }

    #[test]
    fn a_mark_of_a_version_that_kept_no_leaders_is_read() {
        let (leaders, applied) = leaders(&[(1, 3), (2, 4)]);
        let mark = Mark { applied: Some(applied), records: 5, digest: 7, leaders, ..Mark::default() };
        assert_eq!(Mark::decode(&record::encode(&mark).unwrap()).unwrap(), mark);
        let earlier = (mark.applied, &mark.membership, &mark.globals, mark.records, mark.digest);
        let read = Mark::decode(&record::encode(&earlier).unwrap()).unwrap();
        assert_eq!(read, Mark { leaders: Leaders::of_last(Some(applied)), ..mark });
        assert!(Mark::decode(&[]).is_err());
    }
}
