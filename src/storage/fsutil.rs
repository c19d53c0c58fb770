//! Small helpers about files whose loss matters: directory fsync, durable directories, a lock on a directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FallocateFlags;

/// Makes the creations, renames and removals in `dir` durable.
///
/// A file's own fsync does not cover its name: after a power cut the name may be gone, and the data with it.
///
/// # Errors
/// What opening or syncing the directory gives.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// What a directory grants: all to its owner, nothing to others.
const OWNER_DIR: u32 = 0o700;
/// What the group and all others may do.
const OTHERS: u32 = 0o077;

/// Has all files and directories that this process makes from now on be its user's alone. To be called while the process
/// has one thread.
pub fn keep_to_owner() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(OTHERS));
}

/// Takes from the group and from all others what they may do with `dir` and with the parts of it that `is_part` names,
/// and says so. What somebody else has put into `dir` is left alone, and `dir` itself too then.
///
/// # Errors
/// What listing a directory gives. A mode that cannot be changed is told and is no error: the file may be another user's.
pub fn close_to_others(dir: &Path, is_part: impl Fn(&str) -> bool) -> io::Result<()> {
    let (mut closed, mut open, mut foreign) = (0, Vec::new(), false);
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Some(name) if is_part(name) => close_below(&entry.path(), &mut closed, &mut open)?,
            // What a file system puts into its root.
            Some("lost+found") => {}
            _ => foreign = true,
        }
    }
    if !foreign {
        close_one(dir, &mut closed, &mut open)?;
    } else if std::fs::metadata(dir)?.mode() & OTHERS != 0 {
        tracing::warn!(dir = %dir.display(), "other users can list this directory; it is left so, as it holds other files too");
    }
    if closed > 0 {
        tracing::warn!(dir = %dir.display(), files = closed, "other users could read the files of this node, secrets too; they no longer can");
    }
    if let Some((path, error)) = open.first() {
        let path = path.display();
        tracing::warn!(%path, %error, files = open.len(), "other users can read the files of this node, and their mode cannot be changed");
    }
    Ok(())
}

fn close_below(path: &Path, closed: &mut u64, open: &mut Vec<(PathBuf, io::Error)>) -> io::Result<()> {
    let kind = std::fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        return Ok(());
    }
    if kind.is_dir() {
        for entry in std::fs::read_dir(path)? {
            close_below(&entry?.path(), closed, open)?;
        }
    }
    close_one(path, closed, open)
}

fn close_one(path: &Path, closed: &mut u64, open: &mut Vec<(PathBuf, io::Error)>) -> io::Result<()> {
    let mut permissions = std::fs::metadata(path)?.permissions();
    if permissions.mode() & OTHERS != 0 {
        permissions.set_mode(permissions.mode() & !OTHERS);
        match std::fs::set_permissions(path, permissions) {
            Ok(()) => *closed += 1,
            Err(error) => open.push((path.to_owned(), error)),
        }
    }
    Ok(())
}

/// Creates `dir` and the missing directories above it, for this process's user alone, each one durable in its parent.
/// Existing ones are left alone.
///
/// # Errors
/// What creating or syncing gives.
pub fn create_dir_all_durable(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dir_all_durable(parent)?;
    match std::fs::DirBuilder::new().mode(OWNER_DIR).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    sync_dir(parent)
}

/// How many bytes are free for this user on the file system of `path`.
///
/// # Errors
/// Where it cannot be asked.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// How many files a process that is not root may make on the file system of `path`; none: it does not count them.
///
/// # Errors
/// Where it cannot be asked.
pub fn free_files(path: &Path) -> io::Result<Option<u64>> {
    let disk = rustix::fs::statvfs(path)?;
    Ok((disk.f_files > 0).then_some(disk.f_favail))
}

/// Has the file system set so many bytes aside for a file without a name in `dir`, and give them back: a quota stands in no
/// figure that it tells. So many must be free.
///
/// # Errors
/// There is no room for them. One that sets nothing aside, or makes no such file, says nothing.
pub fn try_room(dir: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(dir);
    let tried = file.and_then(|file| Ok(rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes)?));
    tried.or_else(|error| if is_full(&error) { Err(error) } else { Ok(()) })
}

/// Whether it says that there is no room left, for all or for this user.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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

/// A directory or file that is open, and the path by which the next process will look for it.
#[derive(Debug)]
pub struct Anchor {
    path: PathBuf,
    /// Device and inode.
    held: (u64, u64),
}

impl Anchor {
    /// Of what is at `path` now.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn at(path: &Path) -> io::Result<Anchor> {
        let found = std::fs::metadata(path)?;
        Ok(Anchor { path: path.to_owned(), held: (found.dev(), found.ino()) })
    }

    /// Of a file that is open, which was at `path`.
    ///
    /// # Errors
    /// What the file system gives.
    pub fn of(file: &File, path: &Path) -> io::Result<Anchor> {
        let found = file.metadata()?;
        Ok(Anchor { path: path.to_owned(), held: (found.dev(), found.ino()) })
    }

    /// What has become of it, where its path does not lead to it any more: whatever is written to it then is lost with the
    /// process. An error of the file system says nothing of it.
    pub fn lost(&self) -> Option<String> {
        let path = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.held => None,
            Ok(_) => Some(format!("{path} was replaced by another one while this node was using it")),
            Err(e) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) => {
                Some(format!("{path} was removed while this node was using it"))
            }
            Err(_) => None,
        }
    }
}

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
    fn room_that_is_tried_is_given_back_and_an_error_of_a_full_disk_is_told_from_others() {
        let dir = tempfile::tempdir().unwrap();
        try_room(dir.path(), 1 << 20).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        try_room(&dir.path().join("missing"), 1 << 20).unwrap();
        let of = |code| is_full(&io::Error::from_raw_os_error(code));
        assert_eq!([libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::EMFILE].map(of), [true, true, false, false]);
    }

    #[test]
    fn directories_are_made_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all_durable(&deep).unwrap();
        create_dir_all_durable(&deep).unwrap();
        assert!(deep.is_dir());
    }

    #[test]
    fn what_is_stored_is_closed_to_others_and_what_is_not_ours_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        let data = dir.path().join("a/data");
        create_dir_all_durable(&data).unwrap();
        assert_eq!((mode(&data), mode(&dir.path().join("a"))), (0o700, 0o700));
        let (log, segment, foreign) = (data.join("log"), data.join("log/1.seg"), data.join("notes.txt"));
        std::fs::create_dir(&log).unwrap();
        std::fs::write(&segment, "").unwrap();
        let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        [(&data, 0o755), (&log, 0o775), (&segment, 0o664)].iter().for_each(|(path, mode)| open(path, *mode));

        close_to_others(&data, |name| name == "log").unwrap();
        assert_eq!([&data, &log, &segment].map(|path| mode(path)), [0o700, 0o700, 0o600]);

        std::fs::write(&foreign, "").unwrap();
        [(&data, 0o755), (&segment, 0o644), (&foreign, 0o644)].iter().for_each(|(path, mode)| open(path, *mode));
        close_to_others(&data, |name| name == "log").unwrap();
        assert_eq!([&data, &segment, &foreign].map(|path| mode(path)), [0o755, 0o600, 0o644]);
    }

    #[test]
    fn what_was_removed_or_replaced_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_dir_all_durable(&path).unwrap();
        let anchor = Anchor::at(&path).unwrap();
        assert_eq!(anchor.lost(), None);
        std::fs::rename(dir.path().join("a"), dir.path().join("c")).unwrap();
        assert!(anchor.lost().unwrap().contains("was removed"));
        create_dir_all_durable(&path).unwrap();
        assert!(anchor.lost().unwrap().contains("was replaced"));
        let file = dir.path().join("f");
        let open = File::create(&file).unwrap();
        let anchor = Anchor::of(&open, &file).unwrap();
        assert_eq!(anchor.lost(), None);
        std::fs::remove_file(&file).unwrap();
        assert!(anchor.lost().is_some());
    }
}
