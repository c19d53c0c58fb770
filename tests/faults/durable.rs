//! What of a node's files is durable by the letter of POSIX: of a file what its own sync has followed, of a name what that of
//! its directory has. The file systems of today make more durable with each sync than was asked for, so that a power cut on
//! one of them hides most syncs that are missing.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::api::{code, large};
use crate::harness::{eventually, Cluster, Node, READY_MAX, SMALL};
use crate::machine::{Inner, Slot, EIO};
use crate::trial::turn;

/// What is durable of a node's files, as `tests/data/preload.c` keeps it.
pub struct Durable {
    pub kept: PathBuf,
    pub root: PathBuf,
}

/// The name of a file or directory among what is durable.
fn key(path: &Path) -> Option<String> {
    let found = std::fs::symlink_metadata(path).ok()?;
    let born = found.created().expect("the time of birth").duration_since(UNIX_EPOCH).expect("after 1970");
    let kind = if found.is_dir() { 'd' } else { 'f' };
    Some(format!("{kind}{}-{}.{:09}", found.ino(), born.as_secs(), born.subsec_nanos()))
}

/// Whether a node rests on it. It does not on locks, nor on what is half written. sled never syncs its files for large
/// records (`blobs`), which is the store's to find out at the start.
fn counts(name: &str) -> bool {
    !["LOCK", "blobs"].contains(&name) && !name.ends_with(".tmp")
}

impl Durable {
    /// The files that would be there after a power cut, by their paths, and what would be in them.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        if let Some(root) = key(&self.root) {
            self.files_of(&root, Path::new(""), &mut files);
        }
        files
    }

    fn files_of(&self, dir: &str, path: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
        // A directory that was never synced has no names.
        let names = std::fs::read_to_string(self.kept.join(dir)).unwrap_or_default();
        for (key, name) in names.lines().filter_map(|line| line.split_once(' ')).filter(|(_, name)| counts(name)) {
            match key.starts_with('d') {
                true => self.files_of(key, &path.join(name), files),
                // A file that was never synced is empty.
                false => {
                    files.insert(path.join(name), std::fs::read(self.kept.join(key)).unwrap_or_default());
                }
            }
        }
    }

    /// Files that a power cut would take away or change.
    fn differing(&self) -> Vec<String> {
        let mut present = BTreeMap::new();
        let mut dirs = vec![PathBuf::new()];
        while let Some(dir) = dirs.pop() {
            // What goes meanwhile is gone.
            for entry in std::fs::read_dir(self.root.join(&dir)).into_iter().flatten().flatten() {
                let path = dir.join(entry.file_name());
                if !counts(&entry.file_name().to_string_lossy()) {
                    continue;
                }
                if entry.path().is_dir() {
                    dirs.push(path);
                } else {
                    present.insert(path, std::fs::read(entry.path()).unwrap_or_default());
                }
            }
        }
        let durable = self.files();
        let lost = present.iter().filter_map(|(path, bytes)| match durable.get(path) {
            None => Some(format!("{}: its name is not durable", path.display())),
            Some(kept) if kept != bytes => {
                let at = kept.iter().zip(bytes).take_while(|(a, b)| a == b).count();
                let (kept, bytes) = (kept.len(), bytes.len());
                Some(format!("{}: from byte {at} on it is not durable ({kept} bytes of {bytes})", path.display()))
            }
            Some(_) => None,
        });
        lost.collect()
    }
}

/// That all that this node has stored is durable, once it has nothing to do.
async fn is_durable(node: &Node, durable: &Durable) {
    let mut differing = Vec::new();
    let held = crate::harness::holds_within(Duration::from_secs(10), async || {
        differing = durable.differing();
        differing.is_empty()
    });
    assert!(held.await, "{}: {differing:#?}", node.name);
}

/// Three nodes that are ready, what is durable of them, and which of them leads; none where there is no compiler.
async fn three() -> Option<(Cluster, Vec<(Inner, Durable)>, usize)> {
    let mut cluster = Cluster::new(3, SMALL);
    let base = cluster.path().to_owned();
    let inner: Option<Vec<_>> = cluster.nodes.iter_mut().map(|node| Inner::with_durable(node, &base, "log/")).collect();
    let inner = inner?;
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let (leader, _) = cluster.leader().await;
    Some((cluster, inner, leader))
}

/// Creates so many tasks of 40 kB: how many of them were taken.
async fn fill(cluster: &Cluster, node: usize, prefix: &str, count: usize) -> usize {
    let mut taken = 0;
    for n in 0..count {
        let task = large(&format!("{prefix}-{n}"), 40_000);
        taken += usize::from(code(&cluster.api.create(cluster.nodes[node].ports.http, &task).await) == Some(0));
    }
    taken
}

fn has_file(node: &Node, dir: &str, is: impl Fn(&str) -> bool) -> bool {
    let files = std::fs::read_dir(node.data.join(dir));
    files.is_ok_and(|mut files| files.any(|file| file.is_ok_and(|file| is(&file.file_name().to_string_lossy()))))
}

/// Segments that end, snapshots that are written and one that is received, a log that is purged, identities: the files that
/// all of this leaves are the same after a power cut.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_node_has_stored_is_durable() {
    let _turn = turn().await;
    let Some((mut cluster, inner, leader)) = three().await else { return };
    let away = (leader + 1) % 3;
    cluster.nodes[away].kill();
    let is_purged = |at: usize| !cluster.nodes[at].log_has_first();
    let mut taken = 0;
    for round in 0.. {
        assert!(round < 40, "the log is never purged");
        taken += fill(&cluster, leader, &format!("before-{round}"), 50).await;
        if (0..3).filter(|at| *at != away).all(is_purged) {
            break;
        }
    }
    cluster.nodes[away].spawn();
    assert!(cluster.all_ready(READY_MAX).await);
    assert_eq!((taken % 50, fill(&cluster, leader, "after", 5).await), (0, 5));
    cluster.caught_up(Duration::from_secs(60)).await;
    assert!(has_file(&cluster.nodes[away], "snapshots", |name| name.contains("-r")), "it was sent no snapshot");
    for (node, (_, durable)) in cluster.nodes.iter().zip(&inner) {
        is_durable(node, durable).await;
    }
}

/// A sync that failed leaves pages that look clean: the next one says of them that they are durable, and does nothing. A
/// node that starts with such an end of its log writes it again before anybody hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_log_whose_sync_failed_is_durable_before_it_counts() {
    let _turn = turn().await;
    let Some((mut cluster, inner, leader)) = three().await else { return };
    let sick = (leader + 1) % 3;
    assert_eq!(fill(&cluster, leader, "before", 3).await, 3);
    is_durable(&cluster.nodes[sick], &inner[sick].1).await;
    inner[sick].0.set(Slot::SyncErrno, EIO);
    assert_eq!(fill(&cluster, leader, "unsynced", 1).await, 1);
    assert_eq!(cluster.nodes[sick].exit(READY_MAX).await.code(), Some(1));
    let lost = inner[sick].1.differing();
    assert!(lost.iter().any(|file| file.contains(".seg")), "its log is durable: {lost:?}");
    cluster.nodes.iter_mut().for_each(Node::kill);
    inner[sick].0.set(Slot::SyncErrno, 0);
    // Alone it appends nothing, whose sync would cover what was written again.
    cluster.nodes[sick].spawn();
    let monitor = cluster.nodes[sick].ports.monitor;
    eventually("it serves", READY_MAX, async || cluster.api.status(monitor, "/healthz").await == Some(200)).await;
    is_durable(&cluster.nodes[sick], &inner[sick].1).await;
}
