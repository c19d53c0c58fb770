//! A write that was cut off is dropped; damage is never taken for one.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::super::meta::MetaFile;
use super::super::recovery::{recover, Recovered};
use super::*;

pub(super) fn flip(path: &Path, at: u64, bit: u8) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut b = [0];
    file.read_exact_at(&mut b, at).unwrap();
    file.write_all_at(&[b[0] ^ (1 << bit)], at).unwrap();
}

/// Reads a log without the threads.
fn scan(dir: &Path) -> Result<Recovered, Error> {
    let files = super::super::segment::list(dir)?;
    let meta = MetaFile::open(dir, true, None)?;
    recover(&files, dir, meta.get())
}

fn block_on<T>(f: impl std::future::Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f)
}

#[tokio::test]
async fn a_tail_torn_at_any_length_opens_with_the_records_before() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 1, 0, 4, 200).await;
    let path = segments(dir.path()).remove(0);
    append(&log, vec![entry(1, 4, 1200)]).await;
    let slot = log.shared().lock().index.slot(4).unwrap();
    let crashed = image(dir.path());
    let path = crashed.path().join(path.file_name().unwrap());
    let good = std::fs::read(&path).unwrap();
    let (from, to) = (slot.offset as usize, (slot.offset + slot.len) as usize);
    for end in from..to {
        let mut torn = good.clone();
        torn[end..to].fill(0);
        std::fs::write(&path, &torn).unwrap();
        match scan(crashed.path()) {
            Ok(found) => {
                assert_eq!(found.index.last(), Some(id(1, 3)), "cut at {end}");
                assert!(std::fs::read(&path).unwrap()[from..].iter().all(|b| *b == 0), "cleared");
            }
            Err(e) => panic!("cut at {end}: {e}"),
        }
    }
    drop(log);
    let cut = slot.offset as usize / 512 * 512 + 1024;
    std::fs::write(&path, [&good[..cut], &vec![0; good.len() - cut]].concat()).unwrap();
    let log = open(crashed.path());
    fill(&log, 2, 4, 6, 1700).await;
    drop(log);
    assert_eq!(ids(&open(crashed.path())).await, [(1, 0), (1, 1), (1, 2), (1, 3), (2, 4), (2, 5)]);
}

#[tokio::test]
async fn a_lost_tail_after_a_clean_close_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 1, 0, 3, 200).await;
    let slot = log.shared().lock().index.slot(2).unwrap();
    drop(log);
    let path = segments(dir.path()).remove(0);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0; slot.len as usize], u64::from(slot.offset)).unwrap();
    assert!(open_err(dir.path()).is_corrupt());
}

#[tokio::test]
async fn a_file_that_has_become_shorter_is_damage_wherever_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 1, 0, 3, 200).await;
    log.clone().truncate(id(1, 2)).await.unwrap();
    fill(&log, 2, 2, 4, 100).await;
    let slot = log.shared().lock().index.slot(3).unwrap();
    let crashed = image(dir.path());
    let path = segments(crashed.path()).remove(0);
    let good = std::fs::read(&path).unwrap();
    for end in 0..(slot.offset + slot.len) as usize {
        std::fs::write(&path, &good[..end]).unwrap();
        match scan(crashed.path()) {
            // Nothing was ever in it, or the truncation is its last record.
            Ok(found) => assert!(end >= 512 && found.index.last() <= Some(id(1, 1)), "cut at {end}: {:?}", found.index),
            Err(e) => assert!(e.is_corrupt(), "cut at {end}: {e}"),
        }
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(scan(crashed.path()).unwrap().index.last(), Some(id(2, 3)));
}

#[tokio::test]
async fn a_flipped_bit_is_never_a_shorter_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let mut vote = openraft::Vote::new(7, 3);
    log.clone().save_vote(&vote).await.unwrap();
    fill(&log, 1, 0, 25, 300).await;
    log.clone().truncate(id(1, 20)).await.unwrap();
    append(&log, (20..24).map(|i| entry(2, i, 600)).collect()).await;
    // Zeros in a payload look like sectors that were never written.
    let zeros = Entry { log_id: id(2, 24), payload: EntryPayload::Normal(vec![0; 2000]) };
    append(&log, vec![zeros]).await;
    vote.commit();
    log.clone().save_vote(&vote).await.unwrap();
    append(&log, vec![entry(2, 25, 1500)]).await;
    let before = all(&log).await;
    let crashed = image(dir.path());
    let work = image(crashed.path());
    let mut corrupt = 0;
    let files: Vec<_> = segments(crashed.path()).into_iter().chain([crashed.path().join("meta")]).collect();
    assert!(files.len() > 2);
    for file in files {
        let path = work.path().join(file.file_name().unwrap());
        let good = std::fs::read(&file).unwrap();
        for at in (0..good.len() as u64).step_by(97) {
            std::fs::write(&path, &good).unwrap();
            flip(&path, at, (at % 8) as u8);
            match scan(work.path()) {
                Err(e) => {
                    assert!(e.is_corrupt(), "{e}");
                    corrupt += 1;
                }
                Ok(found) => {
                    assert_eq!((found.index.last(), found.index.end()), (Some(id(2, 25)), 26), "{path:?} at {at}");
                    assert_eq!(MetaFile::open(work.path(), true, None).unwrap().get().vote, Some(vote));
                }
            }
        }
        std::fs::write(&path, &good).unwrap();
    }
    assert!(corrupt > 200, "{corrupt}");
    assert_eq!(all(&open(work.path())).await, before);
}

#[tokio::test]
async fn a_missing_file_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 1, 0, 40, 900).await;
    let crashed = image(dir.path());
    let files: Vec<_> = segments(crashed.path()).into_iter().chain([crashed.path().join("meta")]).collect();
    assert!(files.len() > 4);
    for gone in files {
        let work = image(crashed.path());
        std::fs::remove_file(work.path().join(gone.file_name().unwrap())).unwrap();
        assert!(open_err(work.path()).is_corrupt(), "without {gone:?}");
    }
    let work = image(crashed.path());
    let other = image(crashed.path());
    let files = segments(work.path());
    std::fs::copy(&files[0], &files[1]).unwrap();
    assert!(open_err(work.path()).is_corrupt(), "another segment under its name");
    let foreign = tempfile::tempdir().unwrap();
    fill(&open(foreign.path()), 1, 0, 5, 900).await;
    std::fs::copy(segments(foreign.path()).remove(0), &segments(other.path())[0]).unwrap();
    assert!(open_err(other.path()).is_corrupt(), "a segment of another log");
}

/// Images after a first, a second and a third append, each of them one write.
fn three_images() -> (Vec<u8>, Vec<u8>, Vec<u8>, TempDir, std::path::PathBuf) {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), Options { segment_bytes: 32 << 10, ..small() }).unwrap();
        append(&log, (0..5).map(|i| entry(1, i, 150)).collect()).await;
        let path = segments(dir.path()).remove(0);
        let records = |path: &Path| std::fs::read(path).unwrap()[..16 << 10].to_vec();
        let one = records(&path);
        append(&log, (5..12).map(|i| entry(1, i, 90 + 60 * i as usize)).collect()).await;
        let two = records(&path);
        append(&log, vec![entry(1, 12, 10)]).await;
        let three = records(&path);
        let crashed = image(dir.path());
        let path = crashed.path().join(path.file_name().unwrap());
        (one, two, three, crashed, path)
    })
}

fn mix(old: &[u8], new: &[u8], take_new: impl Fn(usize) -> bool) -> Vec<u8> {
    let sectors = old.chunks(512).zip(new.chunks(512)).enumerate();
    sectors.flat_map(|(i, (old, new))| if take_new(i) { new } else { old }).copied().collect()
}

#[test]
fn a_batch_whose_sectors_came_in_any_order_is_cut_at_its_first_hole() {
    let (one, two, three, dir, path) = three_images();
    let changed: Vec<_> = (0..one.len() / 512).filter(|i| one[i * 512..][..512] != two[i * 512..][..512]).collect();
    assert!((8..16).contains(&changed.len()));
    for set in 0..1u32 << changed.len() {
        // Every hundredth, and the simple ones.
        if set % 101 != 0 && set.count_ones() > 1 && set.count_zeros() > 32 - changed.len() as u32 + 1 {
            continue;
        }
        let came = |i: usize| changed.iter().position(|c| *c == i).is_some_and(|bit| set >> bit & 1 == 1);
        std::fs::write(&path, mix(&one, &two, came)).unwrap();
        let found = scan(dir.path()).unwrap_or_else(|e| panic!("sectors {set:b}: {e}"));
        assert!((5..=12).contains(&found.index.end()));
        // The third append proves that the second was durable: then a hole is damage.
        if set != (1 << changed.len()) - 1 {
            let mut damaged = mix(&one, &two, came);
            let last = *changed.last().unwrap();
            damaged[last * 512..].copy_from_slice(&three[last * 512..]);
            let held = changed[..changed.len() - 1].iter().all(|i| came(*i));
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(scan(dir.path()).is_err_and(|e| e.is_corrupt()), !held, "sectors {set:b}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_cuts_in_a_row_lose_nothing_that_was_acknowledged(keep in proptest::collection::vec(any::<bool>(), 40)) {
        let (one, two, _, dir, path) = three_images();
        std::fs::write(&path, mix(&one, &two, |i| keep[i])).unwrap();
        block_on(async {
            let log = open(dir.path());
            let end = last(&log).await.unwrap().index + 1;
            fill(&log, 2, end, end + 3, 400).await;
            drop(log);
            let log = open(dir.path());
            let found = ids(&log).await;
            assert!(end >= 5);
            assert_eq!(found.len() as u64, end + 3);
            assert_eq!(found.last(), Some(&(2, end + 2)));
        });
    }
}
