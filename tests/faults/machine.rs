//! What the machine lends: C helpers, file systems of their own, faults within a process.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::durable::Durable;
use crate::harness::{eventually, has_tool, run, sparse_file, Cluster, Node};
use crate::skip::skipped;

pub const MIB: u64 = 1 << 20;
/// errno: the disk has failed.
pub const EIO: i64 = 5;
/// errno: no room is left.
pub const ENOSPC: i64 = 28;

/// A file of `tests/data`, compiled; none where there is no compiler.
fn compiled(source: &str, output: &str, arguments: &[&str]) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(output);
    // Under a name of its own first: other tests may use the one that is there.
    let fresh = path.with_extension(std::process::id().to_string());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(source);
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-o"]).arg(&fresh).arg(source).args(arguments);
    if !gcc.status().is_ok_and(|status| status.success()) {
        skipped("gcc", "it compiles nothing");
        return None;
    }
    std::fs::rename(&fresh, &path).expect("keep what was compiled");
    Some(path)
}

/// The program `machine`.
pub fn machine() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| compiled("machine.c", "machine", &[])).as_deref()
}

/// Faults that a process does to itself.
#[derive(Clone, Copy, Debug)]
pub enum Slot {
    /// Each sync fails with this errno.
    SyncErrno = 0,
    /// Each sync takes so many µs longer.
    SyncUs = 1,
    /// The next write stops after so many thousandths, and the process dies.
    Torn = 2,
    /// The wall clock is so many seconds ahead.
    ClockS = 3,
    /// Names that end in `.test` are not answered for, where this is 1.
    NamesSilent = 4,
    /// Each write fails with this errno.
    WriteErrno = 5,
    /// Each read fails with this errno.
    ReadErrno = 6,
    /// Each rename fails with this errno.
    RenameErrno = 7,
    /// Each removal of a file fails with this errno.
    UnlinkErrno = 8,
    /// Each open takes so many µs longer.
    OpenUs = 9,
}

/// The faults of one node.
pub struct Inner(File);

impl Inner {
    /// Readies a node that does not run yet. Its files that count are those below `part` of its directory, which may
    /// end within a name. None where there is no compiler.
    pub fn of(node: &mut Node, base: &Path, part: &str) -> Option<Inner> {
        static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
        let library = BUILT.get_or_init(|| compiled("preload.c", "libpreload.so", &["-shared", "-fPIC", "-ldl"]));
        let control = base.join(format!("{}.ctl", node.name));
        sparse_file(&control, 4096);
        node.env = vec![
            ("LD_PRELOAD".to_owned(), library.as_ref()?.display().to_string()),
            ("FAULT_CTL".to_owned(), control.display().to_string()),
            ("FAULT_PATH".to_owned(), format!("{}/{part}", node.data.display())),
        ];
        let file = File::options().read(true).write(true).open(&control).expect("open the control file");
        Some(Inner(file))
    }

    /// The same of all nodes of a cluster.
    pub fn of_all(cluster: &mut Cluster, part: &str) -> Option<Vec<Inner>> {
        let base = cluster.path().to_owned();
        cluster.nodes.iter_mut().map(|node| Inner::of(node, &base, part)).collect()
    }

    /// The same; besides, what is durable of all that the node stores is kept apart.
    pub fn with_durable(node: &mut Node, base: &Path, part: &str) -> Option<(Inner, Durable)> {
        let inner = Inner::of(node, base, part)?;
        let durable = Durable { kept: base.join(format!("{}.durable", node.name)), root: node.data.clone() };
        std::fs::create_dir(&durable.kept).expect("make a directory");
        // The directory itself is there before the node is.
        std::fs::create_dir_all(&durable.root).expect("make a directory");
        node.env.push(("FAULT_ROOT".to_owned(), format!("{}/", durable.root.display())));
        node.env.push(("FAULT_DURABLE".to_owned(), durable.kept.display().to_string()));
        Some((inner, durable))
    }

    pub fn set(&self, slot: Slot, value: i64) {
        self.0.write_all_at(&value.to_le_bytes(), 8 * slot as u64).expect("write the control file");
    }
}

/// An ext4 file system of its own, in a file.
pub struct Disk {
    image: PathBuf,
    pub mount: PathBuf,
    mounted: bool,
    frozen: bool,
}

impl Disk {
    /// One of `bytes`, mounted; none where this machine does not let us.
    pub fn new(base: &Path, name: &str, bytes: u64) -> Option<Disk> {
        let (image, mount) = (base.join(format!("{name}.img")), base.join(name));
        machine()?;
        let tools = ["mkfs.ext4", "mount", "umount", "fsfreeze"];
        if let Some(tool) = tools.iter().find(|tool| !has_tool(tool)) {
            skipped("mounts", format!("{tool} is missing"));
            return None;
        }
        sparse_file(&image, bytes);
        std::fs::create_dir(&mount).expect("make a mount point");
        let mut disk = Disk { image, mount, mounted: false, frozen: false };
        let made = run("mkfs.ext4", &["-q", "-F", &disk.image.display().to_string()]);
        match made.and_then(|()| disk.attach()) {
            Ok(()) => Some(disk),
            Err(error) => {
                skipped("mounts", error);
                None
            }
        }
    }

    /// So many of `bytes`, and where nodes on them store.
    pub fn several(base: &Path, count: usize, bytes: u64) -> Option<(Vec<Disk>, Vec<PathBuf>)> {
        let disks: Option<Vec<Disk>> = (1..=count).map(|at| Disk::new(base, &format!("disk{at}"), bytes)).collect();
        let disks = disks?;
        let data = disks.iter().map(|disk| disk.mount.join("data")).collect();
        Some((disks, data))
    }

    fn attach(&mut self) -> Result<(), String> {
        run("mount", &["-o", "loop", &self.image.display().to_string(), &self.mount.display().to_string()])?;
        self.mounted = true;
        Ok(())
    }

    /// From now on nothing reaches the disk, and what has not yet reached it is gone: `EXT4_IOC_SHUTDOWN` without a
    /// flush of the journal.
    pub fn cut_power(&self) {
        let machine = machine().expect("it was compiled").display().to_string();
        run(&machine, &["cut-power", &self.mount.display().to_string()]).expect("cut the power");
    }

    /// Unmounts and mounts again, as a machine does that comes back.
    pub async fn again(&mut self) {
        let mount = self.mount.display().to_string();
        eventually("it can be unmounted", Duration::from_secs(10), async || run("umount", &[&mount]).is_ok()).await;
        self.mounted = false;
        self.attach().expect("mount again");
    }

    /// Every write waits from now on.
    pub fn freeze(&mut self) {
        run("fsfreeze", &["-f", &self.mount.display().to_string()]).expect("freeze the disk");
        self.frozen = true;
    }

    /// What waited goes on.
    pub fn thaw(&mut self) {
        run("fsfreeze", &["-u", &self.mount.display().to_string()]).expect("thaw the disk");
        self.frozen = false;
    }

    /// Takes all the room that is left for a file of another's: again and again, since what was taken may be freed.
    pub fn fill(&self) {
        let Ok(file) = File::options().create(true).append(true).open(self.ballast()) else { return };
        let (from, room) = (file.metadata().map_or(0, |found| found.len()), self.free_bytes());
        let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), from, room.max(1));
        // What only root may take, and what a file of one piece leaves.
        while (&file).write_all(&[1; 65_536]).is_ok() {}
    }

    /// Gives back what [`Disk::fill`] has taken.
    pub fn make_room(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// How much is free, in bytes.
    pub fn free_bytes(&self) -> u64 {
        let fs = rustix::fs::statvfs(&self.mount).expect("ask the file system");
        fs.f_bavail * fs.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.frozen {
            let _ = run("fsfreeze", &["-u", &self.mount.display().to_string()]);
        }
        if self.mounted {
            // Lazily, since a process that has not ended yet may hold it.
            let _ = run("umount", &["-l", &self.mount.display().to_string()]);
        }
        // The directory around it cannot be removed while it is mounted, and is left with what is in it then.
        let _ = std::fs::remove_file(&self.image);
    }
}
