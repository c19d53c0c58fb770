//! Disks that can lose power, be slow, and fail.
//!
//! The files are real, in a directory for each node. What is written in place and not yet synced is remembered with what
//! it replaced, so that a power cut can take it back. A cut can also be set to strike within a write: some of its
//! sectors are written then, and from there on the disk takes nothing more.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng;

use super::chance;
use crate::seam::bug::{self, Bug};

const SECTOR: usize = 512;
/// How often a directory is copied that changes meanwhile.
const COPIES_MAX: usize = 10;

/// What lay where something was written since the last sync.
struct Replaced {
    file: File,
    inode: u64,
    offset: u64,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Disk {
    unsynced: Vec<Replaced>,
    /// After so many writes the power goes.
    strikes_after: Option<u32>,
    /// It has gone.
    off: bool,
    /// What a sync takes besides.
    slow: Duration,
    /// What a read takes.
    slow_reads: Duration,
    /// What it takes to apply entries that come together.
    slow_apply: Duration,
    /// Writes and syncs fail.
    fails: bool,
    /// One has failed.
    failed: bool,
    /// Bits of snapshots are flipped.
    flips: bool,
    /// Its node has found its state to be lost.
    state_lost: bool,
    syncs: u64,
}

impl Disk {
    fn refusal(&mut self) -> io::Result<()> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        self.failed |= self.fails;
        if self.fails {
            return Err(io::Error::from(rustix::io::Errno::IO));
        }
        Ok(())
    }
}

thread_local! {
    /// By the directory of the node.
    static DISKS: RefCell<BTreeMap<PathBuf, Disk>> = const { RefCell::new(BTreeMap::new()) };
}

fn on<T>(path: &Path, act: impl FnOnce(&mut Disk) -> T) -> Option<T> {
    DISKS.with_borrow_mut(|disks| disks.iter_mut().find(|(dir, _)| path.starts_with(dir)).map(|(_, disk)| act(disk)))
}

/// Gives the node in `dir` a disk; all the disks of an earlier simulation go with [`remove_all`].
pub fn add(dir: &Path) {
    DISKS.with_borrow_mut(|disks| disks.insert(dir.to_owned(), Disk::default()));
}

/// Takes all disks away.
pub fn remove_all() {
    DISKS.with_borrow_mut(BTreeMap::clear);
}

/// Has the power go within one of the next writes.
pub fn strike_after(dir: &Path, writes: u32) {
    on(dir, |disk| disk.strikes_after = Some(writes));
}

/// Whether the power has gone.
pub fn is_off(dir: &Path) -> bool {
    on(dir, |disk| disk.off).unwrap_or(false)
}

/// Has each sync take so much longer.
pub fn slow(dir: &Path, more: Duration) {
    on(dir, |disk| disk.slow = more);
}

/// Has each read that may block take so long.
pub fn slow_reads(dir: &Path, time: Duration) {
    on(dir, |disk| disk.slow_reads = time);
}

/// Has the node in `dir` take so long to apply entries that come together.
pub fn slow_apply(dir: &Path, time: Duration) {
    on(dir, |disk| disk.slow_apply = time);
}

/// A node has found its state to be lost, which no fault of these disks may lead to.
pub(crate) fn lose_state(dir: &Path) {
    on(dir, |disk| disk.state_lost = true);
}

/// Whether a node has found its state to be lost since this was asked last.
pub fn has_lost_state(dir: &Path) -> bool {
    on(dir, |disk| std::mem::take(&mut disk.state_lost)).unwrap_or(false)
}

/// How long a read takes now.
pub(crate) fn read_latency(dir: &Path) -> Duration {
    on(dir, |disk| disk.slow_reads).unwrap_or_default()
}

/// How long it takes to apply entries now.
pub(crate) fn apply_latency(dir: &Path) -> Duration {
    on(dir, |disk| disk.slow_apply).unwrap_or_default()
}

/// Has each write and sync fail, or succeed again.
pub fn fail(dir: &Path, fails: bool) {
    on(dir, |disk| (disk.fails, disk.failed) = (fails, false));
}

/// Has bits of this node's snapshots be flipped where they are read or written piece by piece, or no longer.
pub fn flip(dir: &Path, flips: bool) {
    on(dir, |disk| disk.flips = flips);
}

/// Whether bits of this node's snapshots are flipped.
pub fn flips(path: &Path) -> bool {
    on(path, |disk| disk.flips).unwrap_or(false)
}

/// Whether one has failed since then.
pub fn has_failed(dir: &Path) -> bool {
    on(dir, |disk| disk.failed).unwrap_or(false)
}

/// Syncs so far.
pub fn syncs(dir: &Path) -> u64 {
    on(dir, |disk| disk.syncs).unwrap_or(0)
}

/// The power goes, and comes back: what was not synced is what it was before. The node has ended by now.
///
/// # Errors
/// What the file system gives.
pub fn cut_power(dir: &Path) -> io::Result<()> {
    let lost = on(dir, |disk| {
        *disk = Disk { unsynced: std::mem::take(&mut disk.unsynced), syncs: disk.syncs, ..Disk::default() };
        std::mem::take(&mut disk.unsynced)
    });
    for Replaced { file, offset, bytes, .. } in lost.unwrap_or_default().into_iter().rev() {
        file.write_all_at(&bytes, offset)?;
    }
    put_back(dir)
}

/// Where the copy of a directory is kept that was made when it was last durable.
fn copy_of(node: &Path) -> PathBuf {
    node.with_extension("durable")
}

/// Copies a directory of a node as it is now, all of it durable: what a power cut goes back to.
pub(crate) fn keep_copy(dir: &Path) -> io::Result<()> {
    let node = DISKS.with_borrow(|disks| disks.keys().find(|node| dir.starts_with(node)).cloned());
    let (Some(node), Some(name)) = (node, dir.file_name()) else { return Ok(()) };
    let to = copy_of(&node).join(name);
    // sled renames files on threads of its own: one that was listed may have another name by now.
    for _ in 0..COPIES_MAX {
        match copy(dir, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    copy(dir, &to)
}

/// Puts the copies of directories back, over what they are now.
fn put_back(node: &Path) -> io::Result<()> {
    let Ok(copies) = std::fs::read_dir(copy_of(node)) else { return Ok(()) };
    for entry in copies {
        let entry = entry?;
        let dir = node.join(entry.file_name());
        if dir.exists() {
            copy(&entry.path(), &dir)?;
        }
    }
    Ok(())
}

pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// What blocking work takes before it does anything, and after it: a few ms, and now and then much longer.
pub(crate) async fn some_time() {
    let ms = chance::draw(|c| if c.random_bool(0.05) { c.random_range(0..200) } else { c.random_range(0..4) });
    // The replicas are compared outside of all nodes, where no time passes.
    if let (Some(ms), Ok(_)) = (ms, tokio::runtime::Handle::try_current()) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// How long the next sync of this file takes.
pub(crate) fn latency(path: &Path) -> Duration {
    let usual = Duration::from_micros(chance::draw(|c| c.random_range(100..4_000)).unwrap_or(0));
    usual + on(path, |disk| disk.slow).unwrap_or_default()
}

pub(crate) fn before_write(path: &Path, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let strikes = on(path, |disk| -> io::Result<bool> {
        disk.refusal()?;
        let mut old = vec![0; bytes.len()];
        let mut read = 0;
        // Beyond the end of the file there is nothing to be replaced.
        while let n @ 1.. = file.read_at(&mut old[read..], offset + read as u64)? {
            read += n;
        }
        old.truncate(read);
        disk.unsynced.push(Replaced { file: file.try_clone()?, inode: file.metadata()?.ino(), offset, bytes: old });
        let left = disk.strikes_after.map(|n| n.saturating_sub(1));
        disk.strikes_after = left;
        disk.off = left == Some(0);
        Ok(disk.off)
    });
    if !strikes.unwrap_or(Ok(false))? {
        return Ok(());
    }
    for (n, sector) in bytes.chunks(SECTOR).enumerate() {
        if chance::draw(|c| c.random_bool(0.5)).unwrap_or(false) {
            file.write_all_at(sector, offset + (n * SECTOR) as u64)?;
        }
    }
    // These sectors have reached the medium: a torn write.
    on(path, |disk| disk.unsynced.pop());
    on(path, Disk::refusal).unwrap_or(Ok(()))
}

pub(crate) fn sync(path: &Path, file: &File) -> io::Result<()> {
    let inode = file.metadata()?.ino();
    on(path, |disk| {
        disk.refusal()?;
        disk.syncs += 1;
        if !bug::is_planted(Bug::LyingFsync) {
            disk.unsynced.retain(|replaced| replaced.inode != inode);
        }
        Ok(())
    })
    .unwrap_or(Ok(()))
}
