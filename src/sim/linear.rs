//! Whether what was read and written can be put into one order.
//!
//! A register is a task that is never due: its value is its name, and it can be absent. Each operation on it must seem
//! to happen at one instant between its call and its answer, and what it was answered must be right at that instant
//! (Herlihy and Wing, 1990). One whose outcome nobody knows may happen at any time after its call, or never.
//!
//! The search is that of Wing and Gong with Lowe's memo: a state is the operations that have happened and the value
//! then, and none is looked at twice. Registers are independent of each other, so each is decided on its own.

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What is asked of a register. No two writes of a history have the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To be made, with this value.
    Create(u64),
    /// To get this value.
    Update(u64),
    /// To go.
    Delete,
    /// What its value is.
    Read,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// This is the value.
    Shows(u64),
    /// There is none.
    Absent,
    /// It cannot be made: it is there.
    Exists,
    /// It was not done, and will not be.
    Refused,
    /// Nothing, or that nobody knows.
    Unknown,
}

/// One operation. Its instants are numbers of events: of two things in the same millisecond one is the earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Which register.
    pub key: String,
    /// What was asked.
    pub asked: Asked,
    /// What was answered.
    pub answer: Answer,
    /// When it was called.
    pub from: u64,
    /// When it was answered.
    pub to: u64,
    /// Of whom, and when in ms: for people.
    pub told: String,
}

/// More states than this are not looked at: a history of the simulation has some thousands.
const STATES_MAX: usize = 1_000_000;

/// The registers whose operations cannot be ordered, and where an order ends that goes as far as any.
pub fn check(operations: &[Operation]) -> Vec<String> {
    let mut registers: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        registers.entry(&operation.key).or_default().push(operation);
    }
    let decided = registers.into_iter().map(|(key, operations)| decide(operations).map_err(|why| (key, why)));
    decided.filter_map(Result::err).map(|(key, why)| format!("{key}: {why}")).collect()
}

/// The value after an operation happened at this one, if it can happen there: it is answered as it was.
fn happens(value: Option<u64>, asked: Asked, answer: Answer) -> Option<Option<u64>> {
    let then = match (asked, answer) {
        (Asked::Read, Answer::Shows(shown)) if value == Some(shown) => value,
        (Asked::Read | Asked::Update(_) | Asked::Delete, Answer::Absent) if value.is_none() => None,
        (Asked::Create(_), Answer::Exists) if value.is_some() => value,
        (Asked::Create(new), Answer::Done | Answer::Unknown) if value.is_none() => Some(new),
        (Asked::Update(new), Answer::Done | Answer::Unknown) if value.is_some() => Some(new),
        // Deleted twice is deleted: whoever asks again, since nobody knew of the first time, is told that it is done.
        (Asked::Delete, Answer::Done) => None,
        (Asked::Delete, Answer::Unknown) if value.is_some() => None,
        _ => return None,
    };
    Some(then)
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    /// A bit for each operation: it has happened.
    done: Vec<u64>,
    value: Option<u64>,
}

impl State {
    fn has(&self, at: usize) -> bool {
        self.done[at / 64] & 1 << (at % 64) != 0
    }
}

/// Those that say something or can change something, in the order of their calls.
fn relevant(operations: Vec<&Operation>) -> Vec<&Operation> {
    let shown = |operation: &&Operation| match operation.answer {
        Answer::Shows(value) => Some(value),
        _ => None,
    };
    let shown: BTreeSet<u64> = operations.iter().filter_map(shown).collect();
    let counts = |operation: &&Operation| match (operation.asked, operation.answer) {
        (_, Answer::Refused) | (Asked::Read, Answer::Unknown) => false,
        // Whatever can happen after it can happen without it.
        (Asked::Update(value), Answer::Unknown) => shown.contains(&value),
        _ => true,
    };
    let mut relevant: Vec<&Operation> = operations.into_iter().filter(counts).collect();
    relevant.sort_by_key(|operation| operation.from);
    relevant
}

/// For each operation another of unknown outcome that does the same and was called before it: whichever order has the
/// later one alone has one with the earlier one alone. Creations do the same where nobody has read what they wrote.
fn alike(operations: &[&Operation]) -> Vec<Option<usize>> {
    let read = |value| operations.iter().any(|other| other.answer == Answer::Shows(value));
    let mut last: [Option<usize>; 2] = [None; 2];
    let before = |(at, operation): (usize, &&Operation)| {
        let kind = match (operation.asked, operation.answer) {
            (Asked::Delete, Answer::Unknown) => 0,
            (Asked::Create(value), Answer::Unknown) if !read(value) => 1,
            _ => return None,
        };
        last[kind].replace(at)
    };
    operations.iter().enumerate().map(before).collect()
}

fn decide(operations: Vec<&Operation>) -> Result<(), String> {
    let operations = relevant(operations);
    let alike = alike(&operations);
    let is_open = |at: usize| operations[at].answer == Answer::Unknown;
    let start = State { done: vec![0; operations.len().div_ceil(64)], value: None };
    let mut seen = HashSet::from([start.clone()]);
    let mut states = vec![start];
    let mut farthest: Option<(usize, String)> = None;
    while let Some(state) = states.pop() {
        let left = || (0..operations.len()).filter(|at| !state.has(*at));
        let Some(next) = left().filter(|at| !is_open(*at)).min_by_key(|at| operations[*at].to) else { return Ok(()) };
        if seen.len() > STATES_MAX {
            return Err(format!("not decided after {STATES_MAX} states"));
        }
        let far = operations.len() - left().filter(|at| !is_open(*at)).count();
        if farthest.as_ref().is_none_or(|(most, _)| far > *most) {
            let Operation { asked, answer, told, .. } = operations[next];
            farthest = Some((far, format!("at {:?} there is no place for {asked:?} {answer:?}, {told}", state.value)));
        }
        // What was called after `next` was answered comes after it. Those called last are tried last.
        for at in left().filter(|at| operations[*at].from < operations[next].to).collect::<Vec<_>>().into_iter().rev() {
            if alike[at].is_some_and(|other| !state.has(other)) {
                continue;
            }
            let Some(value) = happens(state.value, operations[at].asked, operations[at].answer) else { continue };
            let mut then = State { done: state.done.clone(), value };
            then.done[at / 64] |= 1 << (at % 64);
            if seen.insert(then.clone()) {
                states.push(then);
            }
        }
    }
    Err(farthest.map_or_else(String::new, |(_, why)| why))
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
