//! What a disk or a link gives back otherwise than it was given.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::Rng;

use super::{chance, disk};

/// How often a bit is flipped of what is read or written while bits are flipped.
const FLIPS: f64 = 0.4;

/// The files of this directory with this extension, in the order of their names.
fn files(dir: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    Ok(files)
}

/// What was last written to the files of this directory, so many bytes of it, are zeros: a disk that said of them that
/// they were durable, and had them in its cache. The node has ended by now.
///
/// # Errors
/// What the file system gives.
pub fn lose_end(dir: &Path, bytes: u64) -> io::Result<()> {
    for path in files(dir, "seg")?.into_iter().rev() {
        let content = std::fs::read(&path)?;
        // Behind what was written a segment is filled with zeros.
        let Some(last) = content.iter().rposition(|byte| *byte != 0) else { continue };
        let from = (last as u64 + 1).saturating_sub(bytes);
        let file = std::fs::OpenOptions::new().write(true).open(&path)?;
        return file.write_all_at(&vec![0; (last as u64 + 1 - from) as usize], from);
    }
    Ok(())
}

/// Flips a bit of what passes between a file and its node, now and then while bits are flipped there: of a snapshot on its
/// way, since nothing else is read and written piece by piece.
pub(super) fn passes(path: &Path, bytes: &mut [u8]) {
    if bytes.is_empty() || !disk::flips(path) {
        return;
    }
    if let Some(Some(bit)) = chance::draw(|c| c.random_bool(FLIPS).then(|| c.random_range(0..bytes.len() * 8))) {
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Flips a bit of the newest snapshot in the node's directory, where there is one, and chance will have it; whether it did.
///
/// # Errors
/// What the file system gives.
pub fn flip_snapshot(node: &Path) -> io::Result<bool> {
    let Some(path) = files(&node.join("snapshots"), "snap")?.pop() else { return Ok(false) };
    let mut content = std::fs::read(&path)?;
    let drawn = chance::draw(|c| c.random_bool(FLIPS).then(|| c.random_range(0..content.len().max(1) * 8)));
    let Some((Some(bit), false)) = drawn.map(|bit| (bit, content.is_empty())) else { return Ok(false) };
    content[bit / 8] ^= 1 << (bit % 8);
    let file = std::fs::OpenOptions::new().write(true).open(&path)?;
    file.write_all_at(&content[bit / 8..=bit / 8], bit as u64 / 8)?;
    Ok(true)
}

/// Where a copy of all that a node has is kept, to be put back later.
fn older(node: &Path) -> PathBuf {
    node.with_extension("older")
}

/// Copies all that the node in this directory has, which has ended by now.
///
/// # Errors
/// What the file system gives.
pub fn keep_older(node: &Path) -> io::Result<()> {
    disk::copy(node, &older(node))
}

/// Puts what was kept of these entries of the node's directory (`log`, say, or `log/meta`) in the place of what is there;
/// what has come into being since then goes. The node has ended by now.
///
/// # Errors
/// What the file system gives.
pub fn put_back(node: &Path, is_meant: impl Fn(&str) -> bool) -> io::Result<()> {
    let names = |dir: &Path| -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.push("log/meta".to_owned());
        names.retain(|name| is_meant(name));
        Ok(names)
    };
    for name in names(node)? {
        let path = node.join(name);
        match path.is_dir() {
            true => std::fs::remove_dir_all(path)?,
            false if path.exists() => std::fs::remove_file(path)?,
            false => {}
        }
    }
    for name in names(&older(node))? {
        let (from, to) = (older(node).join(&name), node.join(&name));
        match from.is_dir() {
            true => disk::copy(&from, &to)?,
            false if !to.exists() => drop(std::fs::copy(&from, &to)?),
            false => {}
        }
    }
    Ok(())
}
