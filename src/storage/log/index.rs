//! Where each entry lies: twelve bytes an entry, and the runs of leaders that wrote them.

use std::collections::VecDeque;

use openraft::{CommittedLeaderId, LogId};

/// Where a record lies. `segment` 0: not written yet, it is in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub segment: u32,
    pub offset: u32,
    pub len: u32,
}

/// The entries that the log holds. Pure bookkeeping.
#[derive(Debug, Default)]
pub(super) struct Index {
    first: u64,
    slots: VecDeque<Slot>,
    leaders: VecDeque<(u64, CommittedLeaderId<u64>)>,
    purged: Option<LogId<u64>>,
    live_bytes: u64,
}

impl Index {
    /// Index of the first entry, if there is one, else of the next.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// One more than the index of the last entry.
    pub(super) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn purged(&self) -> Option<LogId<u64>> {
        self.purged
    }

    /// Bytes that the entries take on disk.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The last entry's id, or the last purged one's.
    pub(super) fn last(&self) -> Option<LogId<u64>> {
        if self.slots.is_empty() {
            return self.purged;
        }
        self.log_id_at(self.end() - 1)
    }

    pub(super) fn log_id_at(&self, index: u64) -> Option<LogId<u64>> {
        if index < self.first || index >= self.end() {
            return self.purged.filter(|p| p.index == index);
        }
        let run = self.leaders.partition_point(|(from, _)| *from <= index);
        run.checked_sub(1).map(|r| LogId::new(self.leaders[r].1, index))
    }

    pub(super) fn slot(&self, index: u64) -> Option<Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?).copied()
    }

    /// Whether `id` may follow: the next index, and no older term. A log that never held anything starts anywhere.
    pub(super) fn accepts(&self, id: LogId<u64>) -> bool {
        match self.last() {
            Some(last) => id.index == last.index + 1 && id.leader_id.term >= last.leader_id.term,
            None => true,
        }
    }

    /// Adds the next entry; the caller has asked [`Index::accepts`].
    pub(super) fn push(&mut self, id: LogId<u64>, slot: Slot) {
        if self.slots.is_empty() {
            self.first = id.index;
            self.leaders.clear();
        }
        if self.leaders.back().is_none_or(|(_, leader)| *leader != id.leader_id) {
            self.leaders.push_back((id.index, id.leader_id));
        }
        self.slots.push_back(slot);
        self.live_bytes += u64::from(slot.len);
    }

    /// Notes where an entry was written.
    pub(super) fn place(&mut self, index: u64, slot: Slot) {
        if let Some(at) = index.checked_sub(self.first) {
            if let Some(s) = self.slots.get_mut(at as usize) {
                *s = slot;
            }
        }
    }

    /// Drops the entries from `since` on.
    pub(super) fn truncate(&mut self, since: u64) {
        while self.end() > since {
            match self.slots.pop_back() {
                Some(slot) => self.live_bytes -= u64::from(slot.len),
                None => break,
            }
        }
        while self.leaders.back().is_some_and(|(from, _)| *from >= since) {
            self.leaders.pop_back();
        }
    }

    /// Drops the entries up to `upto`; where that is past the end the log goes on after it.
    pub(super) fn purge(&mut self, upto: LogId<u64>) {
        while self.first <= upto.index {
            match self.slots.pop_front() {
                Some(slot) => self.live_bytes -= u64::from(slot.len),
                None => break,
            }
            self.first += 1;
        }
        while self.leaders.get(1).is_some_and(|(from, _)| *from <= self.first) {
            self.leaders.pop_front();
        }
        if self.slots.is_empty() {
            self.first = upto.index + 1;
            self.leaders.clear();
        }
        if self.purged.is_none_or(|p| p.index <= upto.index) {
            self.purged = Some(upto);
        }
    }

    /// Empties the log, which goes on after `upto`.
    pub(super) fn reset(&mut self, upto: LogId<u64>) {
        self.truncate(0);
        self.purge(upto);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    #[test]
    fn ids_follow_truncation_purge_and_reset() {
        let mut x = Index::default();
        for (term, index) in [(1, 0), (1, 1), (2, 2), (2, 3), (4, 4)] {
            assert!(x.accepts(id(term, index)));
            x.push(id(term, index), Slot { segment: 1, offset: 0, len: 64 });
        }
        assert!(!x.accepts(id(4, 6)) && !x.accepts(id(3, 5)));
        x.truncate(3);
        assert_eq!((x.last(), x.live_bytes()), (Some(id(2, 2)), 192));
        x.push(id(5, 3), Slot::default());
        x.purge(id(2, 2));
        assert_eq!((x.first(), x.end(), x.log_id_at(3), x.log_id_at(2)), (3, 4, Some(id(5, 3)), Some(id(2, 2))));
        x.truncate(3);
        assert_eq!((x.last(), x.end()), (Some(id(2, 2)), 3));
        x.reset(id(7, 90));
        assert_eq!((x.last(), x.first(), x.is_empty()), (Some(id(7, 90)), 91, true));
        assert!(x.accepts(id(7, 91)));
    }
}
