//! The embedded store: sled, treated as something that can be rebuilt.
//!
//! One tree, records under prefixed keys, every value sealed with a checksum. Written only by checkpoints: each is one
//! atomic batch with its [`Mark`], so that the store always is a consistent cut at a known log entry. What sled 0.34
//! does not give is added here: a real fsync of its file, a panic at opening turned into an error, damage found by
//! checksums and by a digest over all records.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::{Bound, ControlFlow, RangeInclusive};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
pub(super) use sled::IVec as Sealed;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::leaders::Leaders;
use super::spare::Spare;
use super::{envelope, fsutil, Error};
use crate::clock::Timestamp;
use crate::raft::{LogId, Membership};
use crate::state::record::{self, Globals, HotPage, Key, WriteBlock};
use crate::state::State;

/// The key of the [`Mark`]; no record's key begins so.
pub(super) const MARK_KEY: &[u8] = b"m";

/// sled's threads end a little after the store is dropped, and hold its lock until then: this long it is waited for. Nobody
/// else can have it, since `raft_dir` is locked.
const LOCKED_MAX: Duration = Duration::from_secs(5);

/// What a checkpoint is: where in the log, and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub applied: Option<LogId>,
    pub membership: Membership,
    pub globals: Globals,
    /// How many records there are, this one not counted.
    pub records: u64,
    /// A checksum over all of them.
    pub digest: u64,
    /// Who wrote the log up to `applied`.
    pub leaders: Leaders,
}

/// A hash of each record, and the digest that follows from them: kept up to date by what is written, and compared with
/// what is read at the next opening.
#[derive(Default)]
pub(super) struct Ledger {
    /// With how many bytes key and value have.
    hashes: HashMap<u64, (u64, u32)>,
    digest: u64,
    bytes: u64,
}

/// What a record adds to the digest: a key's name, and the hash of what it has.
fn hash(key: &[u8], sealed: &[u8]) -> (u64, u64) {
    let name = xxh3_64(key);
    (name, xxh3_64_with_seed(sealed, name))
}

/// How many records there are, and the digest over them, of records that come one after the other and none twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub records: u64,
    pub digest: u64,
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} records with the digest {:016x}", self.records, self.digest)
    }
}

impl Sum {
    /// Takes the next; the mark does not count.
    pub fn add(&mut self, key: &[u8], sealed: &[u8]) {
        if key != MARK_KEY {
            self.records += 1;
            self.digest = self.digest.wrapping_add(hash(key, sealed).1);
        }
    }
}

impl Mark {
    /// From what a store or a snapshot has under [`MARK_KEY`]. One of an earlier version tells no leaders but the last.
    pub fn decode(payload: &[u8]) -> Result<Mark, record::DecodeError> {
        record::decode(payload).or_else(|error| {
            let Ok((applied, membership, globals, records, digest)) = record::decode(payload) else {
                return Err(error);
            };
            Ok(Mark { applied, membership, globals, records, digest, leaders: Leaders::of_last(applied) })
        })
    }

    pub fn sum(&self) -> Sum {
        Sum { records: self.records, digest: self.digest }
    }
}

impl Ledger {
    /// Takes note of a record's new value; none: it is gone.
    pub fn put(&mut self, key: &[u8], sealed: Option<&[u8]>) {
        let old = match sealed {
            Some(value) => {
                let (name, hash) = hash(key, value);
                let bytes = (key.len() + value.len()) as u32;
                self.digest = self.digest.wrapping_add(hash);
                self.bytes += u64::from(bytes);
                self.hashes.insert(name, (hash, bytes))
            }
            None => self.hashes.remove(&xxh3_64(key)),
        };
        let (hash, bytes) = old.unwrap_or((0, 0));
        self.digest = self.digest.wrapping_sub(hash);
        self.bytes -= u64::from(bytes);
    }

    /// How large a snapshot of these records is, to within some percent.
    pub fn snapshot_bytes(&self) -> u64 {
        // Each record has its lengths before it, and the mark is one more.
        self.bytes + self.sum().records * 8 + (64 << 10)
    }

    /// Whether there is a record with this key.
    pub fn has(&self, key: &[u8]) -> bool {
        self.hashes.contains_key(&xxh3_64(key))
    }

    /// How many bytes the record with this key has, with its key; 0: there is none.
    pub fn bytes_of(&self, key: &[u8]) -> u64 {
        self.hashes.get(&xxh3_64(key)).map_or(0, |(_, bytes)| u64::from(*bytes))
    }

    /// Of all records.
    pub fn sum(&self) -> Sum {
        Sum { records: self.hashes.len() as u64, digest: self.digest }
    }
}

/// A change to write: a key and its sealed value; none: to be removed.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

pub(super) struct Store {
    dir: PathBuf,
    db: sled::Db,
    file: File,
    spare: Spare,
    /// An operation has failed.
    failed: AtomicBool,
    #[cfg(test)]
    pub still: super::still::Still,
}

impl Drop for Store {
    fn drop(&mut self) {
        // sled flushes and syncs as it is dropped. After a failed write it waits for that for ever, and the process would
        // not end; where the sync fails it panics.
        let flush = || self.spare.lend(&self.file, || self.db.flush());
        if self.failed.load(Ordering::Relaxed) || flush().is_err() || self.file.sync_data().is_err() {
            std::mem::forget(self.db.clone());
        }
    }
}

/// What a store holds, read whole and verified.
pub(super) struct Loaded {
    pub state: State,
    pub ledger: Ledger,
    pub mark: Mark,
}

impl Store {
    pub fn dir_of(base: &Path, generation: u64) -> PathBuf {
        base.join(format!("state-{generation}"))
    }

    /// Opens the store of this generation, which is made if it is missing.
    pub fn open(base: &Path, generation: u64, cache_bytes: u64) -> Result<Store, Error> {
        let dir = Self::dir_of(base, generation);
        fsutil::create_dir_all_durable(&dir).map_err(Error::io("create", &dir))?;
        remove_unfinished(&dir).map_err(Error::io("clean", &dir))?;
        fsutil::wait_unlocked(&dir.join("db"), LOCKED_MAX).map_err(Error::io("open", &dir))?;
        let config = sled::Config::new().path(&dir).cache_capacity(cache_bytes).flush_every_ms(None);
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(error)) => return Err(of_sled(error, "open", &dir)),
            Err(_) => return Err(Error::damaged(&dir, "opening it panicked")),
        };
        let path = dir.join("db");
        let file = File::options().read(true).write(true).open(&path).map_err(Error::io("open", &path))?;
        for path in [dir.join("conf"), path] {
            File::open(&path).and_then(|f| f.sync_all()).map_err(Error::io("sync", &path))?;
        }
        fsutil::sync_dir(&dir).map_err(Error::io("sync", &dir))?;
        let spare = Spare::default();
        spare.fill(&file);
        Ok(Store {
            dir,
            db,
            file,
            spare,
            failed: AtomicBool::new(false),
            #[cfg(test)]
            still: super::still::Still::default(),
        })
    }

    /// Gives up a store that nothing was to be read from yet. Its directory is left to the caller.
    pub fn give_up(self) {
        if self.failed.load(Ordering::Relaxed) {
            // sled is left alone with its file then, which would take its room for as long as the process lives.
            let emptied = self.file.set_len(0);
            if let Err(error) = emptied {
                tracing::warn!(dir = %self.dir.display(), %error, "a store that is given up keeps its room");
            }
        }
    }

    /// It has something else than its checkpoint wrote.
    pub fn is_not(&self, found: Sum, expected: Sum) -> Error {
        Error::damaged(&self.dir, format!("it has {found}, and its last checkpoint wrote {expected}"))
    }

    fn sled_error(&self, action: &'static str) -> impl FnOnce(sled::Error) -> Error + '_ {
        move |error| {
            self.failed.store(true, Ordering::Relaxed);
            of_sled(error, action, &self.dir)
        }
    }

    /// A record as it is stored, and the mark under [`MARK_KEY`].
    pub fn sealed(&self, key: &[u8]) -> Result<Option<Sealed>, Error> {
        #[cfg(test)]
        self.still.wait(super::still::READS);
        let read = || self.db.get(key);
        let found = match read() {
            Err(sled::Error::Io(error)) if super::is_exhausted(&error) => self.spare.lend(&self.file, read),
            found => found,
        };
        found.map_err(self.sled_error("read"))
    }

    /// Whether there are descriptors for what a write may open.
    pub fn has_spare(&self) -> bool {
        self.spare.fill(&self.file)
    }

    /// The payload of a record.
    pub fn get(&self, key: Key) -> Result<Option<Vec<u8>>, Error> {
        self.read(key, <[u8]>::to_vec)
    }

    /// What `read` makes of the payload under this key, which is not copied for it.
    pub fn read<T>(&self, key: Key, read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, Error> {
        let Some(sealed) = self.sealed(&key.to_bytes())? else { return Ok(None) };
        match envelope::open(&sealed) {
            Some(payload) => Ok(Some(read(payload))),
            None => Err(Error::damaged(&self.dir, format!("the checksum of {key} does not hold"))),
        }
    }

    /// The payloads of chunks of the index with these numbers, as many as there are up to `limit`: the lowest numbers, or
    /// the highest, first.
    pub fn index(
        &self,
        numbers: RangeInclusive<u64>,
        highest: bool,
        limit: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let (first, last) = (Key::Index(*numbers.start()).to_bytes(), Key::Index(*numbers.end()).to_bytes());
        let mut range = self.db.range(first..=last);
        let mut found = Vec::new();
        while found.len() < limit {
            let next = if highest { range.next_back() } else { range.next() };
            let Some(next) = next else { break };
            let (key, sealed) = next.map_err(self.sled_error("read"))?;
            match (Key::from_bytes(&key), envelope::open(&sealed)) {
                (Some(Key::Index(number)), Some(payload)) => found.push((number, payload.to_vec())),
                _ => {
                    let detail = format!("the checksum of {} does not hold", Key::name_of(&key));
                    return Err(Error::damaged(&self.dir, detail));
                }
            }
        }
        Ok(found)
    }

    /// Writes changes in one atomic batch with the mark, if it is not a store that is still being filled. Durable once
    /// it is synced.
    pub fn write(&self, changes: Vec<Change>, mark: Option<&Mark>) -> Result<(), Error> {
        #[cfg(test)]
        self.still.wait(super::still::WRITES);
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                // One by one sled copies them: by the end there is one of each, and not two.
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        if let Some(mark) = mark {
            let payload = record::encode(mark).map_err(|e| Error::damaged(&self.dir, e))?;
            batch.insert(MARK_KEY, envelope::seal(&payload));
        }
        self.spare.lend(&self.file, || self.db.apply_batch(batch)).map_err(self.sled_error("write"))
    }

    /// Makes what was written durable: sled's flush, and the fsync that it leaves out.
    pub fn sync(&self) -> Result<(), Error> {
        #[cfg(test)]
        self.still.wait(super::still::SYNCS);
        self.spare.lend(&self.file, || self.db.flush()).map_err(self.sled_error("flush"))?;
        self.file.sync_data().map_err(Error::io("sync", &self.dir))?;
        #[cfg(feature = "sim")]
        crate::seam::simulated::disk::keep_copy(&self.dir).map_err(Error::io("copy", &self.dir))?;
        Ok(())
    }

    /// Gives each record after this key, the mark too, in the order of the keys, until `each` breaks off.
    pub fn scan(
        &self,
        after: Option<&[u8]>,
        mut each: impl FnMut(Sealed, Sealed) -> Result<ControlFlow<()>, Error>,
    ) -> Result<ControlFlow<()>, Error> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut iter = self.db.range::<&[u8], _>((from, Bound::Unbounded));
        loop {
            #[cfg(test)]
            self.still.wait(super::still::READS);
            // sled can panic on what it reads back from a damaged file.
            let next = catch_unwind(AssertUnwindSafe(|| iter.next()));
            match next {
                Ok(None) => return Ok(ControlFlow::Continue(())),
                Ok(Some(Ok((key, value)))) => {
                    if each(key, value)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(Some(Err(e))) => return Err(self.sled_error("read")(e)),
                Err(_) => return Err(Error::damaged(&self.dir, "reading it panicked")),
            }
        }
    }

    /// Reads all of it into a state whose alarms begin at `now`, and verifies each record and the digest over all.
    pub fn load(&self, now: Timestamp) -> Result<Loaded, Error> {
        let mut loading = Loading::new(&self.dir, now);
        let _all = self.scan(None, |key, value| loading.take(&key, &value).map(ControlFlow::Continue))?;
        loading.finish()
    }

    /// What has become of its file, where its path does not lead to it any more.
    pub fn lost(&self) -> Option<String> {
        fsutil::Anchor::of(&self.file, &self.dir.join("db")).ok()?.lost()
    }

    /// About how many bytes it takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
    }
}

/// Records on their way into a state.
pub(super) struct Loading<'a> {
    path: &'a Path,
    state: State,
    ledger: Ledger,
    mark: Option<Mark>,
}

impl<'a> Loading<'a> {
    pub fn new(path: &'a Path, now: Timestamp) -> Self {
        Loading { path, state: State::new(now), ledger: Ledger::default(), mark: None }
    }

    /// Takes one record, as it is stored.
    pub fn take(&mut self, key: &[u8], sealed: &[u8]) -> Result<(), Error> {
        let bad = |detail: String| Error::damaged(self.path, detail);
        let unsound = || bad(format!("the checksum of {} does not hold", Key::name_of(key)));
        let payload = envelope::open(sealed).ok_or_else(unsound)?;
        if key == MARK_KEY {
            self.mark = Some(Mark::decode(payload).map_err(|e| bad(e.to_string()))?);
            return Ok(());
        }
        self.ledger.put(key, Some(sealed));
        match Key::from_bytes(key) {
            Some(Key::Zone(number)) => {
                let zone = record::decode(payload).map_err(|e| bad(e.to_string()))?;
                self.state.restore_zone(number, zone).map_err(bad)
            }
            Some(Key::Hot(_)) => {
                let page: HotPage = record::decode(payload).map_err(|e| bad(e.to_string()))?;
                page.into_iter().try_for_each(|(seq, task)| self.state.restore(seq, task)).map_err(bad)
            }
            Some(Key::Writes(block)) => {
                let writes: WriteBlock = record::decode(payload).map_err(|e| bad(e.to_string()))?;
                self.state.restore_writes(block, writes).map_err(bad)
            }
            Some(_) => Ok(()),
            None => Err(bad(format!("{} is not known to this version", Key::name_of(key)))),
        }
    }

    /// All records are in: does the mark agree with them?
    pub fn finish(mut self) -> Result<Loaded, Error> {
        let found = self.ledger.sum();
        let mark = match self.mark {
            Some(mark) => mark,
            None if found.records == 0 => Mark::default(),
            None => return Err(Error::damaged(self.path, "it has records and no mark")),
        };
        if found != mark.sum() {
            return Err(Error::damaged(self.path, format!("it has {found}, and its mark says {}", mark.sum())));
        }
        let globals = self.state.restore_globals(mark.globals.clone());
        globals.map_err(|detail| Error::damaged(self.path, detail))?;
        Ok(Loaded { state: self.state, ledger: self.ledger, mark })
    }
}

/// What sled says of its files. Where one of them ends too early, or is not there, no disk has refused anything: they are
/// not what was written.
fn of_sled(error: sled::Error, action: &'static str, dir: &Path) -> Error {
    match error {
        sled::Error::Io(error) if ![ErrorKind::UnexpectedEof, ErrorKind::NotFound].contains(&error.kind()) => {
            Error::io(action, dir)(error)
        }
        damage => Error::damaged(dir, damage),
    }
}

/// Half-written files of sled's own, which make it refuse to open.
fn remove_unfinished(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_ends_too_early_is_damage_and_a_disk_that_fails_is_none() {
        let of = |kind: ErrorKind| of_sled(sled::Error::Io(kind.into()), "read", Path::new("x"));
        for kind in [ErrorKind::UnexpectedEof, ErrorKind::NotFound] {
            assert!(matches!(of(kind), Error::Damaged { .. }), "{kind}");
        }
        for kind in [ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::Other] {
            assert!(matches!(of(kind), Error::Io { .. }), "{kind}");
        }
    }
}
