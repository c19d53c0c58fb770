//! Small helpers about files whose loss matters: directory fsync, durable directories, a lock on a directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Makes the creations, renames and removals in `dir` durable.
///
/// A file's own fsync does not cover its name: after a power cut the name may be gone, and the data with it.
///
/// # Errors
/// What opening or syncing the directory gives.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates `dir` and the missing directories above it, each one durable in its parent. Existing ones are left alone.
///
/// # Errors
/// What creating or syncing gives.
pub fn create_dir_all_durable(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dir_all_durable(parent)?;
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    sync_dir(parent)
}

/// Writes zeros over `from..to` of `file`, growing it where needed. Not durable until the caller syncs.
///
/// # Errors
/// What the write gives; a part of the range may have been written then.
pub fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 256 << 10] = [0; 256 << 10];
    let mut at = from;
    while at < to {
        let n = (to - at).min(ZEROS.len() as u64) as usize;
        file.write_all_at(&ZEROS[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

/// Waits until nobody has this file locked, about `most` at most. A file that is not there is not locked.
///
/// # Errors
/// What the file system gives.
pub fn wait_unlocked(path: &Path, most: Duration) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    // Looks are counted, since simulated time stands still meanwhile.
    for _ in 0..=most.as_millis() / LOOK_EVERY.as_millis() {
        match file.try_lock() {
            Ok(()) => return file.unlock(),
            Err(TryLockError::Error(e)) => return Err(e),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_EVERY),
        }
    }
    Ok(())
}

/// How often a locked file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// An exclusive lock on a directory, held until dropped; the kernel drops it too when the process dies.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
    path: PathBuf,
}

impl DirLock {
    /// Locks `dir` by its file `LOCK`, which is made if it is missing.
    ///
    /// # Errors
    /// `WouldBlock` if another process (or another part of this one) holds it; else what the file system gives.
    pub fn acquire(dir: &Path) -> io::Result<DirLock> {
        let path = dir.join("LOCK");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: file, path }),
            Err(TryLockError::Error(e)) => Err(e),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "another process has it open; is the node running twice?",
            )),
        }
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_once_and_again_after_release() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path()).unwrap();
        assert_eq!(DirLock::acquire(dir.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(lock.path().exists());
        drop(lock);
        DirLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_lock_is_waited_for_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        wait_unlocked(&path, Duration::from_secs(60)).unwrap();
        let lock = DirLock::acquire(dir.path()).unwrap();
        wait_unlocked(&path, Duration::from_millis(20)).unwrap();
        assert!(DirLock::acquire(dir.path()).is_err(), "it is left to who has it");
        let (tell, told) = std::sync::mpsc::channel();
        let waits = std::thread::spawn(move || {
            wait_unlocked(&path, Duration::from_secs(60)).unwrap();
            tell.send(DirLock::acquire(dir.path()).is_ok()).unwrap();
        });
        assert!(told.recv_timeout(Duration::from_millis(50)).is_err(), "it waits while the lock is held");
        drop(lock);
        assert!(told.recv().unwrap(), "and no longer");
        waits.join().unwrap();
    }

    #[test]
    fn directories_are_made_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all_durable(&deep).unwrap();
        create_dir_all_durable(&deep).unwrap();
        assert!(deep.is_dir());
    }
}
