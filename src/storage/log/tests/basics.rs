//! What is appended, truncated, purged and voted is there again after reopening.

use openraft::Vote;

use super::*;

#[tokio::test]
async fn entries_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 1, 0, 40, 700).await;
    append(&log, (40..60).map(|i| entry(2, i, 300)).collect()).await;
    let before = all(&log).await;
    assert_eq!(before.len(), 60);
    assert!(segments(dir.path()).len() > 3);
    drop(log);
    let log = open(dir.path());
    assert_eq!(all(&log).await, before);
    assert_eq!(last(&log).await, Some(id(2, 59)));
    let some = log.clone().try_get_log_entries(38..=41).await.unwrap();
    assert_eq!(some, before[38..=41]);
}

#[tokio::test]
async fn entries_are_read_from_the_cache_and_the_disk_alike() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), Options { cache_bytes: 4 << 10, ..small() }).unwrap();
    fill(&log, 1, 0, 30, 500).await;
    let got = all(&log).await;
    assert_eq!(got, (0..30).map(|i| entry(1, i, 500)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_limited_read_is_bounded_and_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), Options { read_bytes_max: 3000, ..small() }).unwrap();
    fill(&log, 1, 0, 10, 900).await;
    append(&log, vec![entry(1, 10, 5000)]).await;
    let mut reader = log.clone();
    assert_eq!(reader.limited_get_log_entries(0, 11).await.unwrap().len(), 2);
    assert_eq!(reader.limited_get_log_entries(10, 11).await.unwrap().len(), 1);
    assert_eq!(reader.limited_get_log_entries(3, 3).await.unwrap().len(), 0);
    log.clone().purge(id(1, 4)).await.unwrap();
    assert_eq!(reader.limited_get_log_entries(4, 11).await.unwrap().len(), 0, "no gap");
    assert_eq!(reader.try_get_log_entries(4..11).await.unwrap().len(), 6);
}

#[tokio::test]
async fn what_is_truncated_stays_away_and_its_successors_win() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 1, 0, 20, 900).await;
    log.clone().truncate(id(1, 5)).await.unwrap();
    assert_eq!(last(&log).await, Some(id(1, 4)));
    let crashed = image(dir.path());
    assert_eq!(last(&open(crashed.path())).await, Some(id(1, 4)));
    fill(&log, 3, 5, 8, 900).await;
    let crashed = image(dir.path());
    for log in [log, open(crashed.path())] {
        let terms: Vec<_> = ids(&log).await.iter().map(|(term, _)| *term).collect();
        assert_eq!(terms, [1, 1, 1, 1, 1, 3, 3, 3]);
    }
}

/// It was taken while what it follows was still there, and the truncation waited for the writer.
#[tokio::test]
async fn an_append_that_waits_behind_the_truncation_of_what_it_follows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), Options { cache_bytes: 64 << 20, ..small() }).unwrap();
    fill(&log, 1, 0, 10, 100).await;
    // The writer is busy with the first one while the others are queued.
    let (mut one, mut two, mut three) = (log.clone(), log.clone(), log.clone());
    let (large, truncated, behind) = tokio::join!(
        one.blocking_append([entry(1, 10, 20 << 20)]),
        two.truncate(id(1, 5)),
        three.blocking_append([entry(1, 11, 100)]),
    );
    large.unwrap();
    truncated.unwrap();
    let refused = behind.unwrap_err().to_string();
    assert!(refused.contains("append"), "{refused}");
    assert_eq!(last(&log).await, Some(id(1, 4)));
    fill(&log, 2, 5, 8, 100).await;
    drop((log, one, two, three));
    let found = ids(&open(dir.path())).await;
    assert_eq!(found, [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 5), (2, 6), (2, 7)]);
}

#[tokio::test]
async fn purging_frees_files_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 1, 0, 100, 900).await;
    let files = segments(dir.path()).len();
    let bytes = log.log_bytes_since_purge();
    log.clone().purge(id(1, 89)).await.unwrap();
    assert!(log.log_bytes_since_purge() <= bytes / 10);
    let crashed = image(dir.path());
    drop(log);
    assert!(segments(dir.path()).len() * 4 < files);
    for dir in [dir.path(), crashed.path()] {
        let log = open(dir);
        let state = log.clone().get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(1, 89)), Some(id(1, 99))));
        assert_eq!(ids(&log).await.len(), 10);
        fill(&log, 1, 100, 103, 10).await;
        assert_eq!(ids(&log).await.last(), Some(&(1, 102)));
    }
}

#[tokio::test]
async fn a_log_purged_past_its_end_goes_on_behind_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 1, 0, 30, 900).await;
    log.clone().purge(id(4, 1000)).await.unwrap();
    assert_eq!(last(&log).await, Some(id(4, 1000)));
    let crashed = image(dir.path());
    assert_eq!(last(&open(crashed.path())).await, Some(id(4, 1000)));
    fill(&log, 4, 1001, 1003, 50).await;
    drop(log);
    let log = open(dir.path());
    assert_eq!(ids(&log).await, [(4, 1001), (4, 1002)]);
    assert_eq!(segments(dir.path()).len(), 1);
    log.clone().purge(id(4, 1002)).await.unwrap();
    fill(&log, 4, 1003, 1004, 50).await;
    drop(log);
    assert_eq!(ids(&open(dir.path())).await, [(4, 1003)]);
}

#[tokio::test]
async fn the_vote_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    assert_eq!(log.read_vote().await.unwrap(), None);
    for vote in [Vote::new(3, 2), Vote::new_committed(3, 2), Vote::new(u64::MAX, 9)] {
        log.save_vote(&vote).await.unwrap();
        let crashed = image(dir.path());
        assert_eq!(open(crashed.path()).read_vote().await.unwrap(), Some(vote));
    }
}

#[tokio::test]
async fn the_committed_index_travels_with_later_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    fill(&log, 1, 0, 5, 10).await;
    log.save_committed(Some(id(1, 3))).await.unwrap();
    fill(&log, 1, 5, 6, 10).await;
    let crashed = image(dir.path());
    assert_eq!(open(crashed.path()).read_committed().await.unwrap(), Some(id(1, 3)));
    log.save_committed(Some(id(1, 5))).await.unwrap();
    drop(log);
    assert_eq!(open(dir.path()).read_committed().await.unwrap(), Some(id(1, 5)));
}

#[tokio::test]
async fn entries_larger_than_a_segment_get_one_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 1, 0, 3, 100).await;
    fill(&log, 1, 3, 5, 3 << 20).await;
    append(&log, (5..40).map(|i| entry(1, i, 1000)).collect()).await;
    let before = all(&log).await;
    drop(log);
    assert_eq!(all(&open(dir.path())).await, before);
    assert_eq!(before[4], entry(1, 4, 3 << 20));
    let log = Log::open(dir.path(), Options { max_record_bytes: 1000, ..small() }).unwrap();
    let refused = log.clone().blocking_append([entry(1, 40, 1000)]).await.unwrap_err().to_string();
    assert!(refused.contains("the limit is 1000"), "{refused}");
    fill(&log, 1, 40, 41, 900).await;
}

#[tokio::test]
async fn many_appends_share_few_syncs_and_are_readable_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), Options::default()).unwrap();
    let mut tasks = Vec::new();
    for i in 0..2000 {
        let mut own = log.clone();
        let task = tokio::spawn(async move { own.blocking_append([entry(1, i, 100)]).await });
        tokio::task::yield_now().await;
        assert_eq!(log.clone().try_get_log_entries(i..=i).await.unwrap().len(), 1, "readable before it is durable");
        tasks.push(task);
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let status = log.status();
    assert!(status.writes_total < 2000, "{status:?}");
    assert!(status.disk_bytes > 0 && status.room_bytes > 0 && status.last_sync > std::time::Duration::ZERO);
    assert_eq!(status.live_bytes, status.appended_bytes_total);
    assert_eq!(log.in_flight_since(), None);
}

#[tokio::test]
async fn an_append_that_leaves_a_hole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    fill(&log, 2, 0, 3, 10).await;
    for bad in [vec![entry(2, 4, 1)], vec![entry(2, 2, 1)], vec![entry(1, 3, 1)], vec![entry(2, 3, 1), entry(2, 5, 1)]]
    {
        assert!(log.clone().blocking_append(bad).await.is_err());
    }
    fill(&log, 2, 3, 5, 10).await;
    assert_eq!(ids(&log).await.len(), 5);
}

#[tokio::test]
async fn a_log_is_opened_once_at_a_time_and_says_when_closed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    assert!(open_err(dir.path()).to_string().contains("running twice"));
    log.close();
    assert!(log.clone().get_log_state().await.is_err());
    assert!(log.clone().blocking_append([entry(1, 0, 1)]).await.is_err());
    open(dir.path());
}

#[test]
fn a_new_log_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), Options::default()).unwrap();
    assert!(log.status().disk_bytes <= 2 << 20, "{:?}", log.status());
}
