//! Which node of which cluster a directory belongs to.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{envelope, fsutil, Error};

const FORMAT: u8 = 1;

/// Who a store is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Made with the store; a store that was lost and begun again has another.
    pub store: Uuid,
    /// The node's id in the cluster.
    pub node: u64,
    /// `host:peer_port` by which the others know it.
    pub peer: String,
    /// The cluster, once it is known.
    pub cluster: Option<Uuid>,
    /// How often a process has begun to act as this node: what it sends is told from what an earlier one sent.
    pub starts: u64,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("identity")
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
        let payload = envelope::open(&bytes).ok_or_else(|| Error::damaged(&path, "the checksum does not hold"))?;
        match payload.split_first() {
            Some((&FORMAT, rest)) => postcard::from_bytes(rest).map(Some).map_err(|e| Error::damaged(&path, e)),
            Some((&found, _)) => Err(Error::Format { path, found: found.into() }),
            None => Err(Error::damaged(&path, "it is empty")),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_and_damage_to_it_is_no_absence() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), None);
        let identity = Identity { store: Uuid::from_u128(7), node: 2, peer: "a:1".into(), cluster: None, starts: 1 };
        identity.write(dir.path()).unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), Some(identity));
        let mut bytes = std::fs::read(path(dir.path())).unwrap();
        bytes[6] ^= 1;
        std::fs::write(path(dir.path()), bytes).unwrap();
        assert!(matches!(Identity::read(dir.path()), Err(Error::Damaged { .. })));
    }
}
