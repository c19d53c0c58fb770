//! Answers of peers that are withheld, and then lost or not: what was asked for is done, and the node that has asked does
//! not know it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng;

use super::chance;

thread_local! {
    /// By the directory of the node that has asked: for how many ms at most.
    static WITHHELD: RefCell<BTreeMap<PathBuf, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Has answers to this node be withheld for up to so many ms, and half of them lost; 0: no longer.
pub fn withhold(dir: &Path, ms: u64) {
    WITHHELD.with_borrow_mut(|withheld| match ms {
        0 => drop(withheld.remove(dir)),
        ms => drop(withheld.insert(dir.to_owned(), ms)),
    });
}

/// No answers are withheld any more.
pub fn end() {
    WITHHELD.with_borrow_mut(BTreeMap::clear);
}

/// Waits for as long as the next answer to this node is withheld; whether it is lost.
pub(crate) async fn is_lost(dir: &Path) -> bool {
    let Some(most) = WITHHELD.with_borrow(|withheld| withheld.get(dir).copied()) else { return false };
    let drawn = chance::draw(|chance| (chance.random_range(0..=most), chance.random_bool(0.5)));
    let Some((ms, lost)) = drawn else { return false };
    tokio::time::sleep(Duration::from_millis(ms)).await;
    lost
}
