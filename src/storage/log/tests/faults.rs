//! A full disk refuses; a failing one stops.

use openraft::Vote;

use super::*;

#[tokio::test]
async fn a_full_disk_refuses_whole_appends_and_purging_helps() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { disk_bytes_max: 64 << 10, ..small() };
    let log = Log::open(dir.path(), options.clone()).unwrap();
    let mut end = 0;
    // Each append needs parts of two segments.
    let refused = loop {
        let entries: Vec<_> = (end..end + 12).map(|i| entry(1, i, 800)).collect();
        match log.clone().blocking_append(entries).await {
            Ok(()) => end += 12,
            Err(e) => break e.to_string(),
        }
        assert!(end < 1000);
    };
    assert!(refused.contains("no room for the Raft log"), "{refused}");
    assert!(log.status().full.is_some() && log.status().stopped.is_none());
    assert_eq!(last(&log).await, Some(id(1, end - 1)), "nothing remains of it");
    let crashed = image(dir.path());
    assert_eq!(last(&open(crashed.path())).await, Some(id(1, end - 1)), "nor on disk");
    log.clone().save_vote(&Vote::new(9, 9)).await.unwrap();
    log.clone().truncate(id(1, end - 1)).await.unwrap();
    log.clone().purge(id(1, end - 3)).await.unwrap();
    // Files go in the background: one refusal more is possible, not many.
    let mut tries = 0;
    while let Err(e) = log.clone().blocking_append([entry(1, end - 1, 800)]).await {
        assert!(e.to_string().contains("no room for the Raft log"), "{e}");
        tries += 1;
        assert!(tries < 10_000);
    }
    drop(log);
    let log = Log::open(dir.path(), options).unwrap();
    assert_eq!(ids(&log).await, [(1, end - 2), (1, end - 1)]);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_works_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    fill(&log, 1, 0, 3, 10).await;
    log.shared().gauges.fail_sync.store(true, std::sync::atomic::Ordering::Relaxed);
    let failed = log.clone().blocking_append([entry(1, 3, 10)]).await.unwrap_err().to_string();
    assert!(failed.contains("cannot sync") && failed.contains(".seg"), "{failed}");
    log.shared().gauges.fail_sync.store(false, std::sync::atomic::Ordering::Relaxed);
    let later = log.clone().blocking_append([entry(1, 4, 10)]).await.unwrap_err().to_string();
    assert!(later.contains("this node must stop") && later.contains(".seg"), "{later}");
    assert!(log.save_vote(&Vote::new(2, 2)).await.is_err());
    assert!(log.read_vote().await.is_err());
    assert!(log.get_log_state().await.is_err());
    assert!(log.try_get_log_entries(0..1).await.is_err());
    assert!(log.purge(id(1, 1)).await.is_err());
    assert!(log.status().stopped.is_some());
    drop(log);
    let log = open(dir.path());
    assert!(ids(&log).await.len() >= 3);
}

#[tokio::test]
async fn damage_found_while_reading_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 1, 0, 4, 700).await;
    let path = segments(dir.path()).remove(0);
    damage::flip(&path, 512 + 900, 3);
    let error = log.clone().try_get_log_entries(0..4).await.unwrap_err().to_string();
    assert!(error.contains("is damaged at byte"), "{error}");
    assert_eq!(log.clone().try_get_log_entries(3..4).await.unwrap().len(), 1);
}

/// A peer that is away needs what is on disk alone. openraft takes an error for the end of the node.
#[tokio::test]
async fn entries_that_cannot_be_read_for_a_peer_are_read_later_or_end_the_node_after_ten_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 1, 0, 30, 900).await;
    let mut reader = log.clone();
    let first = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    let first = first.filter(|path| path.extension().is_some_and(|e| e == "seg")).min().unwrap();
    let whole = std::fs::read(&first).unwrap();
    let unread = || std::fs::OpenOptions::new().write(true).open(&first).unwrap().set_len(64).unwrap();
    // In place: the log has the file open.
    let read_again = || {
        let file = std::fs::OpenOptions::new().write(true).open(&first).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &whole, 0).unwrap();
    };
    let pass = |s| {
        let mut unread = log.0.unread.lock().unwrap();
        let (_, since) = unread.as_mut().expect("it has failed");
        *since = since.checked_sub(std::time::Duration::from_secs(s)).unwrap();
    };
    for _ in 0..2 {
        // The ten seconds begin anew each time.
        unread();
        assert!(reader.try_get_log_entries(0..3).await.is_err(), "it can be read, and the test shows nothing");
        assert_eq!(reader.limited_get_log_entries(0, 3).await.unwrap(), []);
        pass(9);
        assert_eq!(reader.limited_get_log_entries(0, 3).await.unwrap(), []);
        assert_eq!(reader.limited_get_log_entries(25, 26).await.unwrap().len(), 1, "another peer needs others");
        read_again();
        assert_eq!(reader.limited_get_log_entries(0, 3).await.unwrap().len(), 3);
    }
    unread();
    assert_eq!(reader.limited_get_log_entries(0, 3).await.unwrap(), []);
    pass(11);
    let error = reader.limited_get_log_entries(0, 3).await.unwrap_err().to_string();
    assert!(error.contains("read"), "{error}");
    assert!(log.status().stopped.is_none());
}
