//! Does this node lead, and may it act as the leader?
//!
//! One rule, asked by whatever acts on it: reads, writes, firing, readiness and the hand-over. It is asked right before
//! the act, since the answer can change at any time.

use std::fmt;

/// A Raft term.
pub type Term = u64;

/// What is known at one moment of this node as a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The term that it leads by what Raft says.
    pub led: Option<Term>,
    /// It has given this term up: no majority acknowledged it, or another node has been told to lead.
    pub given_up: bool,
    /// Its clock, its disk or its links are not sound.
    pub unfit: bool,
    /// Its wall clock has jumped since it was last looked at.
    pub clock_jumped: bool,
    /// A majority has acknowledged it within the time for which it votes for no other node.
    pub lease: bool,
    /// It has applied the entries of the leaders before it.
    pub inherited: bool,
    /// It is about to name its successor.
    pub handing_over: bool,
    /// The process is stopping.
    pub stopping: bool,
}

/// Why this node does not act as the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLeading {
    /// Raft has not made it the leader.
    NotElected,
    /// It has given its term up, or handed it over.
    GivenUp,
    /// Its clock, its disk or its links are not sound.
    Unfit,
    /// No majority has acknowledged it lately.
    NoLease,
    /// Its wall clock has jumped.
    ClockJumped,
    /// It has not applied yet what it took over.
    NotInherited,
    /// It leads this term, fires, and takes no more writes: another node is about to lead.
    HandingOver(Term),
    /// It leads this term with nobody to hand over to, and fires nothing more: what is under way is recorded.
    Stopping(Term),
}

impl fmt::Display for NotLeading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            NotLeading::NotElected => "this node does not lead",
            NotLeading::GivenUp => "this node has given up its lead",
            NotLeading::Unfit => "this node's clock, disk or links are not sound",
            NotLeading::NoLease => "this node leads and has lost the majority",
            NotLeading::ClockJumped => "this node's clock has jumped",
            NotLeading::NotInherited => "this node leads and has not applied yet the entries of the leader before it",
            NotLeading::HandingOver(_) => "this node hands over",
            NotLeading::Stopping(_) => "this node is stopping",
        };
        f.write_str(why)
    }
}

/// The term in which this node may act as the leader.
///
/// # Errors
/// Why it may not.
pub fn leadership(facts: &Facts) -> Result<Term, NotLeading> {
    let term = facts.led.ok_or(NotLeading::NotElected)?;
    let barred = [
        (facts.given_up, NotLeading::GivenUp),
        (facts.unfit, NotLeading::Unfit),
        (!facts.lease, NotLeading::NoLease),
        (facts.clock_jumped, NotLeading::ClockJumped),
        (!facts.inherited, NotLeading::NotInherited),
        (facts.handing_over, NotLeading::HandingOver(term)),
        (facts.stopping, NotLeading::Stopping(term)),
    ];
    match barred.into_iter().find(|(bars, _)| *bars) {
        Some((_, why)) => Err(why),
        None => Ok(term),
    }
}

/// The term in which this node may fire: until its successor has been told.
pub fn fires(leadership: Result<Term, NotLeading>) -> Option<Term> {
    match leadership {
        Ok(term) | Err(NotLeading::HandingOver(term)) => Some(term),
        Err(_) => None,
    }
}

/// The term in which this node may write, and answer reads: a single node that stops still records what it has fired.
pub fn writes(leadership: Result<Term, NotLeading>) -> Option<Term> {
    match leadership {
        Ok(term) | Err(NotLeading::Stopping(term)) => Some(term),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADS: Facts = Facts {
        led: Some(7),
        given_up: false,
        unfit: false,
        clock_jumped: false,
        lease: true,
        inherited: true,
        handing_over: false,
        stopping: false,
    };

    #[test]
    fn a_leader_acts_only_where_nothing_bars_it() {
        use NotLeading as N;
        // Facts, what they come to, whether it fires, whether it writes.
        let table: [(Facts, Result<Term, NotLeading>, bool, bool); 12] = [
            (LEADS, Ok(7), true, true),
            (Facts { led: None, ..LEADS }, Err(N::NotElected), false, false),
            (Facts { given_up: true, ..LEADS }, Err(N::GivenUp), false, false),
            (Facts { unfit: true, ..LEADS }, Err(N::Unfit), false, false),
            (Facts { lease: false, ..LEADS }, Err(N::NoLease), false, false),
            (Facts { clock_jumped: true, ..LEADS }, Err(N::ClockJumped), false, false),
            (Facts { inherited: false, ..LEADS }, Err(N::NotInherited), false, false),
            (Facts { handing_over: true, stopping: true, ..LEADS }, Err(N::HandingOver(7)), true, false),
            (Facts { given_up: true, handing_over: true, ..LEADS }, Err(N::GivenUp), false, false),
            (Facts { stopping: true, ..LEADS }, Err(N::Stopping(7)), false, true),
            (Facts { handing_over: true, lease: false, ..LEADS }, Err(N::NoLease), false, false),
            (Facts { stopping: true, unfit: true, ..LEADS }, Err(N::Unfit), false, false),
        ];
        for (facts, answer, fire, write) in table {
            assert_eq!(leadership(&facts), answer, "{facts:?}");
            assert_eq!(fires(answer), fire.then_some(7), "{facts:?}");
            assert_eq!(writes(answer), write.then_some(7), "{facts:?}");
        }
    }

    #[test]
    fn no_combination_of_facts_lets_a_barred_leader_act() {
        for bits in 0..256u32 {
            let bit = |n: u32| bits & (1 << n) != 0;
            let facts = Facts {
                led: bit(0).then_some(7),
                given_up: bit(1),
                unfit: bit(2),
                clock_jumped: bit(3),
                lease: bit(4),
                inherited: bit(5),
                handing_over: bit(6),
                stopping: bit(7),
            };
            let sound = facts.led.is_some() && facts.lease && facts.inherited;
            let acts = sound && !facts.given_up && !facts.unfit && !facts.clock_jumped;
            let answer = leadership(&facts);
            assert_eq!(fires(answer).is_some(), acts && (facts.handing_over || !facts.stopping), "{facts:?}");
            assert_eq!(writes(answer).is_some(), acts && !facts.handing_over, "{facts:?}");
        }
    }
}
