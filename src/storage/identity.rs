//! Which node of which cluster a directory belongs to.
//!
//! A node must vote with the log that it has voted with, or not at all. So the identity names its log, and the log knows
//! how often the node has started: a log that was lost, and an older copy of either, are told from what belongs there.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use openraft::Vote;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::log::Facts;
use super::{envelope, fsutil, Error, REPLACE};
use crate::seam::bug::{self, Bug};

const FORMAT: u8 = 2;

/// Who a store is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Made with the store; a store that was lost and begun again has another.
    pub store: Uuid,
    /// The node's id in the cluster; 0: the store asks for a place and has none yet.
    pub node: u64,
    /// `host:peer_port` by which the others know it.
    pub peer: String,
    /// The cluster, once it is known.
    pub cluster: Option<Uuid>,
    /// How often a process has begun to act as this node: what it sends is told from what an earlier one sent.
    pub starts: u64,
    /// The number of the Raft log that belongs to the store.
    pub log: u64,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("identity")
}

/// Without it nobody knows which node this is, and what it has promised.
fn unusable(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::damaged(path, format!("{why}. Without it the node must not vote: {REPLACE}"))
}

impl Identity {
    /// The identity of the store in `dir`; none: it has none yet.
    ///
    /// # Errors
    /// A file that cannot be read, or is damaged.
    pub fn read(dir: &Path) -> Result<Option<Identity>, Error> {
        let path = path(dir);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let payload = envelope::open(&bytes).ok_or_else(|| unusable(&path, &"the checksum does not hold"))?;
        match payload.split_first() {
            Some((&FORMAT, rest)) => postcard::from_bytes(rest).map(Some).map_err(|e| unusable(&path, &e)),
            Some((&found, _)) => Err(Error::Format { path, found: found.into() }),
            None => Err(unusable(&path, &"it is empty")),
        }
    }

    /// Makes the identity durable, whole or not at all.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = path(dir);
        let payload = postcard::to_extend(self, vec![FORMAT]).map_err(|e| Error::damaged(&path, e))?;
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
        file.write_all(&envelope::seal(&payload)).map_err(Error::io("write", &temporary))?;
        file.sync_all().map_err(Error::io("sync", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(Error::io("rename", &path))?;
        fsutil::sync_dir(dir).map_err(Error::io("sync", dir))
    }

    /// The file that is in `dir` now, by which it is known whether it stays; none: there is none, or it cannot be looked at.
    pub fn anchor(dir: &Path) -> Option<fsutil::Anchor> {
        fsutil::Anchor::at(&path(dir)).ok()
    }

    /// The log that must be there; none: the node has not voted yet, so that any empty log will do.
    pub fn known_log(&self) -> Option<u64> {
        (self.node != 0).then_some(self.log)
    }
}

/// Holds the identity and the log against each other, and against whether there is a state.
///
/// # Errors
/// [`Error::Mixed`] where the log is not what the node has voted with, or the identity is not that of the node whose log
/// this is.
pub fn check(dir: &Path, identity: Option<&Identity>, log: &Facts, has_state: bool) -> Result<(), Error> {
    if bug::is_planted(Bug::StartUnchecked) {
        return Ok(());
    }
    let mixed = |detail: String| Err(Error::Mixed { path: dir.to_owned(), detail });
    let used = log.vote.is_some() || log.last.is_some() || has_state;
    let last_term = log.last.map_or(0, |last| last.leader_id.term);
    let voted_term = log.vote.map_or(0, |vote: Vote<u64>| vote.leader_id.term);
    match identity {
        None if used => mixed("it has a Raft log or a state, and its file `identity` is missing".to_owned()),
        Some(identity) if identity.node == 0 && used => {
            mixed("its file `identity` is an older copy, of before the node had voted".to_owned())
        }
        Some(identity) if identity.node != 0 && log.starts < identity.starts => mixed(format!(
            "its Raft log is an older copy, of the node's start {}, and the node has started {} times",
            log.starts, identity.starts
        )),
        _ if voted_term < last_term => mixed(format!(
            "the vote in its Raft log is an older copy, of term {voted_term}, and there is an entry of term {last_term}"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_and_damage_to_it_is_no_absence() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), None);
        let identity =
            Identity { store: Uuid::from_u128(7), node: 2, peer: "a:1".into(), cluster: None, starts: 1, log: 3 };
        identity.write(dir.path()).unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), Some(identity));
        let mut bytes = std::fs::read(path(dir.path())).unwrap();
        bytes[6] ^= 1;
        std::fs::write(path(dir.path()), bytes).unwrap();
        let damaged = Identity::read(dir.path()).unwrap_err();
        assert!(
            matches!(damaged, Error::Damaged { .. }) && damaged.to_string().contains("replace the node"),
            "{damaged}"
        );
    }

    #[test]
    fn an_identity_and_a_log_that_are_not_of_one_moment_are_refused() {
        let identity = |node, starts| {
            Some(Identity { store: Uuid::from_u128(7), node, peer: "a:1".into(), cluster: None, starts, log: 3 })
        };
        let id = |term| Some(openraft::LogId::new(openraft::CommittedLeaderId::new(term, 1), 9));
        let log = |starts, vote: Option<u64>, last: Option<u64>| Facts {
            number: 3,
            starts,
            vote: vote.map(|term| Vote::new(term, 1)),
            last: last.and_then(id),
        };
        let refused = |identity: Option<Identity>, log: Facts, has_state| {
            let checked = check(Path::new("data"), identity.as_ref(), &log, has_state);
            checked.err().map(|error| error.to_string())
        };
        let fine = [
            (None, log(0, None, None)),
            (identity(0, 0), log(0, None, None)),
            // Killed between the log's note of the start and the identity's.
            (identity(0, 0), log(1, None, None)),
            (identity(2, 4), log(5, Some(3), Some(3))),
            // Killed before its first vote.
            (identity(2, 1), log(1, None, None)),
            // The first entry is there before the first vote.
            (identity(2, 1), log(1, None, Some(0))),
            (identity(2, 4), log(4, Some(7), Some(3))),
            // The identity is the older one: the log says by how much.
            (identity(2, 4), log(9, Some(3), Some(3))),
        ];
        for (identity, log) in fine {
            assert_eq!(refused(identity.clone(), log, false), None, "{identity:?} {log:?}");
        }
        let wrong = [
            (None, log(0, Some(1), None), false, "`identity` is missing"),
            (None, log(0, None, Some(1)), false, "`identity` is missing"),
            (None, log(0, None, None), true, "`identity` is missing"),
            (identity(0, 0), log(1, Some(1), None), false, "before the node had voted"),
            (identity(2, 4), log(3, Some(3), Some(3)), false, "its Raft log is an older copy, of the node's start 3"),
            (identity(2, 4), log(0, None, None), false, "its Raft log is an older copy"),
            (identity(2, 4), log(4, Some(2), Some(3)), false, "the vote in its Raft log is an older copy, of term 2"),
            (identity(2, 4), log(4, None, Some(1)), false, "the vote in its Raft log is an older copy, of term 0"),
        ];
        for (identity, log, has_state, why) in wrong {
            let refusal = refused(identity.clone(), log, has_state).unwrap_or_default();
            assert!(refusal.contains(why) && refusal.contains("addNode"), "{identity:?} {log:?}: {refusal}");
        }
    }
}
