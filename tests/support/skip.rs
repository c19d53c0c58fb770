//! Tests of which a part cannot run on every machine.

use std::fmt::Display;

/// What a machine may lack where CI runs, if its definition says so in `XCRON_MAY_SKIP` (doc/testing.md says why). All else
/// is there, or the run fails.
const MAY_BE_LACKING: [&str; 3] = ["mounts", "namespaces", "prlimit"];

/// Says that a test is skipped, what it needs, and why that is not there.
///
/// # Panics
/// Where `CI` is set, and what is needed is not among what may be lacking there: a test that never runs is green for ever.
#[track_caller]
pub fn skipped(needs: &str, why: impl Display) {
    eprintln!("skipped: needs {needs} ({why})");
    let text = |name| std::env::var(name).unwrap_or_default();
    let excused = text("XCRON_MAY_SKIP").split(',').any(|excused| excused.trim() == needs);
    let is_excused = excused && MAY_BE_LACKING.contains(&needs);
    assert!(text("CI").is_empty() || is_excused, "under CI a test may not be skipped that needs {needs}: {why}");
}
