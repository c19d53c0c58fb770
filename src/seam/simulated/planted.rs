//! Which bug is planted.

use std::cell::Cell;
use std::str::FromStr;

use crate::seam::bug::Bug;

/// Each bug and its name on the command line.
pub const NAMES: [(&str, Bug); 8] = [
    ("lying-fsync", Bug::LyingFsync),
    ("vote-not-saved", Bug::VoteNotSaved),
    ("lease-not-checked", Bug::LeaseNotChecked),
    ("lease-asked-early", Bug::LeaseAskedEarly),
    ("outcome-dropped", Bug::OutcomeDropped),
    ("delete-keeps-retry", Bug::DeleteKeepsRetry),
    ("stale-read", Bug::StaleRead),
    ("snapshot-torn", Bug::SnapshotTorn),
];

impl FromStr for Bug {
    type Err = String;

    fn from_str(text: &str) -> Result<Bug, String> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, bug)| *bug).ok_or_else(|| format!("there is no bug {text:?}: {NAMES:?}"))
    }
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in this thread's simulation, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether it is planted.
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
