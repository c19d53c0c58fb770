//! The answer to a write that has been sent several times: what is said of the last time must hold of all.

use std::time::Duration;

use super::super::{Config, Queues};
use super::*;
use crate::clock::{Clock, Timestamp};
use crate::config::HostPort;

const PATIENCE: Duration = Duration::from_secs(30);

/// What the test says in the place of a proposer.
type Word = Result<Reply, Error>;

/// What a caller is answered where the proposer says these, one to each time that the write is sent. Each time it must have
/// the same name.
async fn answered(node: &Node, queues: &mut Queues, words: Vec<Word>, patience: Duration) -> Word {
    let command = Command::Trigger { id: "a".parse().unwrap() };
    let says = async {
        let mut name = None;
        for word in words {
            let sent = queues.submissions.recv().await.unwrap();
            let again = sent.answer(word);
            assert!(again.is_some() && name.is_none_or(|name| Some(name) == again), "{again:?} after {name:?}");
            name = again;
        }
        std::future::pending().await
    };
    let write = node.propose(command, monotonic() + patience);
    tokio::select! {
        answer = write => answer,
        () = says => unreachable!(),
    }
}

fn unknown() -> Word {
    Err(Error::Unknown(Duration::from_millis(1)))
}

#[tokio::test]
async fn once_the_outcome_is_unknown_nobody_is_told_that_nothing_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { raft_dir: dir.path().to_owned(), ..Config::default() };
    let own = HostPort { host: "127.0.0.1".to_owned(), port: 9 };
    let (node, mut queues) = Node::open(config, own, String::new(), Clock::system()).unwrap();

    // By these the caller knows that nothing was written.
    let refusals =
        [Error::Busy, Error::Storage("full".to_owned()), Error::TooLarge { bytes: 2, limit: 1 }, Error::Stopping];
    for refusal in refusals {
        let first = answered(&node, &mut queues, vec![Err(refusal.clone())], PATIENCE).await;
        assert_eq!(first, Err(refusal.clone()));
        let later = vec![Err(Error::NoLeader), Err(refusal.clone())];
        assert_eq!(answered(&node, &mut queues, later, PATIENCE).await, Err(refusal.clone()));
        for between in [vec![], vec![Err(Error::NoLeader)], vec![unknown()]] {
            let words = [vec![unknown()], between, vec![Err(refusal.clone())]].concat();
            let answer = answered(&node, &mut queues, words.clone(), PATIENCE).await;
            assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?} after {words:?}");
        }
    }
    // Nor where there is no leader until the time is up.
    let short = Duration::from_millis(300);
    let no_leader = || vec![Err(Error::NoLeader); 100];
    assert_eq!(answered(&node, &mut queues, no_leader(), short).await, Err(Error::NoLeader));
    let answer = answered(&node, &mut queues, [vec![unknown()], no_leader()].concat(), short).await;
    assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");

    // What the state says holds of each time: it knows the name.
    let key = crate::id::RunKey::triggered(Timestamp(5), 1);
    let done = [Reply::Triggered { key }, Reply::Refused(Refusal::NoSuchTask), Reply::Refused(Refusal::NoRoom)];
    for reply in done {
        let words = vec![unknown(), Err(Error::NoLeader), Ok(reply.clone())];
        assert_eq!(answered(&node, &mut queues, words, PATIENCE).await, Ok(reply));
    }
    let forgotten = || Ok(Reply::Refused(Refusal::Forgotten { before: 7 }));
    let answer = answered(&node, &mut queues, vec![unknown(), forgotten()], PATIENCE).await;
    assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");
    node.0.closed.store(true, Ordering::Relaxed);
    assert_eq!(answered(&node, &mut queues, vec![], PATIENCE).await, Err(Error::Stopping));
}
