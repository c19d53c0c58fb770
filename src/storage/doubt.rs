//! The mark of a state that must not be served: beside the store, so that it outlives the process.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{fsutil, Error};

fn path(dir: &Path) -> PathBuf {
    dir.join("doubt")
}

/// Why the state in `dir` must not be served; none: it may.
///
/// # Errors
/// What the file system gives.
pub fn read(dir: &Path) -> Result<Option<String>, Error> {
    let path = path(dir);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", &path)(e)),
    }
}

/// Marks the state, durably.
///
/// # Errors
/// What the file system gives.
pub fn mark(dir: &Path, reason: &str) -> Result<(), Error> {
    let path = path(dir);
    let mut file = File::create(&path).map_err(Error::io("create", &path))?;
    // That the file is there is what counts: also a part of its words is a mark.
    file.write_all(reason.as_bytes()).and_then(|()| file.sync_all()).map_err(Error::io("write", &path))?;
    fsutil::sync_dir(dir).map_err(Error::io("sync", dir))
}

/// Takes the mark away: another state has taken the place of that one, durably.
///
/// # Errors
/// What the file system gives.
pub fn clear(dir: &Path) -> Result<(), Error> {
    let path = path(dir);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
        _ => fsutil::sync_dir(dir).map_err(Error::io("sync", dir)),
    }
}
