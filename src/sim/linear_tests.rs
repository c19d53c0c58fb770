//! Made-up histories of registers, and whether they can be ordered.

use super::*;
use Answer::{Absent, Done, Exists, Refused, Shows, Unknown};
use Asked::{Create, Delete, Read, Update};

/// Operations on one register, each from its call to its answer.
fn ordered(operations: &[(u64, u64, Asked, Answer)]) -> bool {
    let operation = |&(from, to, asked, answer): &(u64, u64, Asked, Answer)| {
        let (key, told) = ("r1".to_owned(), format!("from {from} to {to}"));
        Operation { key, asked, answer, from, to, told }
    };
    check(&operations.iter().map(operation).collect::<Vec<_>>()).is_empty()
}

#[test]
fn one_after_the_other() {
    let all = [
        (1, 2, Read, Absent),
        (3, 4, Create(3), Done),
        (5, 6, Read, Shows(3)),
        (7, 8, Update(7), Done),
        (9, 10, Create(9), Exists),
        (11, 12, Read, Shows(7)),
        (13, 14, Delete, Done),
        (15, 16, Update(15), Absent),
        (17, 18, Delete, Absent),
        (19, 20, Create(19), Done),
        (21, 22, Read, Shows(19)),
    ];
    assert!(ordered(&all) && ordered(&[]));
    assert!((0..all.len()).filter(|at| [1, 3, 6, 9].contains(at)).all(|write| {
        let mut without = all.to_vec();
        without.remove(write);
        !ordered(&without)
    }));
}

#[test]
fn what_overlaps_may_come_in_either_order() {
    let begun = [(1, 2, Create(1), Done), (3, 8, Update(3), Done), (4, 7, Update(4), Done)];
    let read = |value| ordered(&[begun.as_slice(), &[(9, 10, Read, Shows(value))]].concat());
    assert!(read(3) && read(4) && !read(1), "one of the two is the last");
    let meanwhile = |value| ordered(&[begun.as_slice(), &[(5, 6, Read, Shows(value))]].concat());
    assert!(meanwhile(1) && meanwhile(3) && meanwhile(4));
}

#[test]
fn a_read_that_is_behind() {
    let written = [(1, 2, Create(1), Done), (3, 4, Update(3), Done)];
    let then = |read| ordered(&[written.as_slice(), &[read]].concat());
    assert!(then((5, 6, Read, Shows(3))) && !then((5, 6, Read, Shows(1))) && !then((5, 6, Read, Absent)));
}

#[test]
fn a_write_that_is_lost() {
    let both = [(1, 2, Create(1), Done), (3, 4, Update(3), Done), (5, 6, Update(5), Done), (7, 8, Read, Shows(3))];
    assert!(!ordered(&both));
    assert!(!ordered(&[(1, 2, Create(1), Done), (3, 4, Delete, Done), (5, 6, Read, Shows(1))]));
}

#[test]
fn a_write_that_was_refused_is_never_read() {
    let seen = |answer| ordered(&[(1, 2, Create(1), Done), (3, 4, Update(3), answer), (5, 6, Read, Shows(3))]);
    assert!(!seen(Refused) && seen(Unknown) && seen(Done));
    assert!(!ordered(&[(1, 2, Create(1), Exists), (3, 4, Read, Absent)]));
}

#[test]
fn nobody_knows_whether_and_when() {
    let begun = [(1, 2, Create(1), Done), (3, 4, Update(3), Unknown), (5, 6, Read, Shows(1))];
    let then = |reads: &[(u64, u64, Asked, Answer)]| ordered(&[begun.as_slice(), reads].concat());
    assert!(then(&[]) && then(&[(7, 8, Read, Shows(1))]), "never");
    assert!(then(&[(7, 8, Read, Shows(3))]), "later");
    assert!(!then(&[(7, 8, Read, Shows(3)), (9, 10, Read, Shows(1))]), "a value that flickers back");
    assert!(!ordered(&[(1, 2, Create(1), Done), (3, 4, Read, Shows(5)), (5, 6, Update(5), Unknown)]), "not before");
}

#[test]
fn each_unknown_write_happens_once() {
    let begun = [(1, 2, Create(1), Done), (3, 4, Update(3), Unknown), (5, 6, Update(5), Done)];
    assert!(ordered(&[begun.as_slice(), &[(7, 8, Read, Shows(3))]].concat()), "after the other");
    assert!(!ordered(&[begun.as_slice(), &[(7, 8, Read, Shows(3)), (9, 10, Read, Shows(5))]].concat()));
    let deleted = [(1, 2, Create(1), Done), (3, 4, Delete, Unknown), (5, 6, Read, Absent), (7, 8, Create(7), Done)];
    assert!(ordered(&deleted));
    assert!(!ordered(&[deleted.as_slice(), &[(9, 10, Read, Absent)]].concat()));
    let many = [deleted.as_slice(), &[(9, 10, Delete, Unknown), (11, 12, Read, Absent)]].concat();
    assert!(ordered(&many));
}

#[test]
fn many_of_unknown_outcome_are_decided_soon() {
    let mut all = vec![(1, 2, Create(1), Done)];
    for from in (3..200).step_by(6) {
        all.push((from, from + 1, Delete, Unknown));
        all.push((from + 2, from + 3, Create(from + 2), Unknown));
        all.push((from + 4, from + 5, Update(from + 4), Unknown));
    }
    all.push((300, 301, Read, Shows(1)));
    assert!(ordered(&all));
    all.push((302, 303, Read, Shows(2)));
    assert!(!ordered(&all));
}
