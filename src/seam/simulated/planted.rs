//! Which bug is planted.

use std::cell::Cell;
use std::str::FromStr;

use rand::Rng;

use super::chance;
use crate::seam::bug::Bug;

/// Each bug and its name on the command line.
pub const NAMES: &[(&str, Bug)] = &[
    ("takes-others-mail", Bug::TakesOthersMail),
    ("lying-fsync", Bug::LyingFsync),
    ("vote-not-saved", Bug::VoteNotSaved),
    ("lease-not-checked", Bug::LeaseNotChecked),
    ("lease-asked-early", Bug::LeaseAskedEarly),
    ("under-way-forgotten", Bug::UnderWayForgotten),
    ("outcome-dropped", Bug::OutcomeDropped),
    ("sent-unrecorded", Bug::SentUnrecorded),
    ("delete-keeps-retry", Bug::DeleteKeepsRetry),
    ("stale-read", Bug::StaleRead),
    ("apply-differs", Bug::ApplyDiffers),
    ("repeats-as-new", Bug::RepeatsAsNew),
    ("leads-on", Bug::LeadsOn),
    ("never-silent", Bug::NeverSilent),
    ("no-questions", Bug::NoQuestions),
    ("snapshot-torn", Bug::SnapshotTorn),
    ("purge-before-kept", Bug::PurgeBeforeKept),
    ("snapshot-unverified", Bug::SnapshotUnverified),
    ("start-unchecked", Bug::StartUnchecked),
    ("own-zones", Bug::OwnZones),
    ("once-unrecorded", Bug::OnceUnrecorded),
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
    /// Whether it has struck, where it strikes once.
    static STRUCK: Cell<bool> = const { Cell::new(false) };
}

/// Plants a bug in this thread's simulation, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
    STRUCK.set(false);
}

/// Whether it is planted.
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether it is planted and strikes now: once, at one of the next hundred times or so.
pub fn strikes(bug: Bug) -> bool {
    let now = is_planted(bug) && !STRUCK.get() && chance::draw(|chance| chance.random_ratio(1, 100)) == Some(true);
    STRUCK.set(STRUCK.get() || now);
    now
}
