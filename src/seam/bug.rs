//! Planted bugs: what shows that the simulation's checker can see something. In production there is none, and the
//! compiler knows it.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An fdatasync of the Raft log says done, and the data is lost at the next power cut.
    LyingFsync,
    /// A vote is answered and not kept.
    VoteNotSaved,
    /// A leader that no majority acknowledges goes on firing.
    LeaseNotChecked,
    /// Whether a leader may fire is asked before its disk is read, and not after.
    LeaseAskedEarly,
    /// A leader that hands over does not tell what it has under way.
    UnderWayForgotten,
    /// The outcome of an attempt is not recorded.
    OutcomeDropped,
    /// An attempt that may be made at most once is sent though it could not be recorded before.
    SentUnrecorded,
    /// A delete does not stop the attempts that are waiting.
    DeleteKeepsRetry,
    /// A node that leads answers a read without asking a majority whether it still does.
    StaleRead,
    /// One replica applies one entry otherwise than the others.
    ApplyDiffers,
    /// A write that is sent again is done again: its name is not looked at.
    RepeatsAsNew,
    /// A node that led when it ended leads on at once when it starts, in its old term.
    LeadsOn,
    /// A leader that no majority acknowledges goes on sending.
    NeverSilent,
    /// A node that hears no leader stands for election without asking whether it would win.
    NoQuestions,
    /// A node takes messages for which another is meant.
    TakesOthersMail,
    /// A checkpoint changes what a snapshot has not read yet.
    SnapshotTorn,
    /// A snapshot that was received is handed on before it is kept: the log may be purged, and the node be killed, in
    /// between.
    PurgeBeforeKept,
    /// A snapshot that was received is handed on before anybody has looked at it: the log is purged, and then it turns out
    /// to be damaged.
    SnapshotUnverified,
    /// Whether the parts of a directory are of one moment is not looked at.
    StartUnchecked,
    /// A node finds due times by the time zone data of its own program.
    OwnZones,
    /// What is sent at most once is sent before it is recorded.
    OnceUnrecorded,
}

/// Whether it is planted.
#[cfg(not(feature = "sim"))]
pub const fn is_planted(_: Bug) -> bool {
    false
}

/// Whether it is planted and strikes now: once in a simulation, at a moment that chance picks.
#[cfg(not(feature = "sim"))]
pub const fn strikes(_: Bug) -> bool {
    false
}

#[cfg(feature = "sim")]
pub use super::simulated::planted::{is_planted, strikes};
