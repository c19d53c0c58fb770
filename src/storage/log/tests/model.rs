//! Random operations, against a vector.

use openraft::Vote;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append { count: u64, len: usize, term_up: bool },
    Truncate(u64),
    Purge(u64),
    PurgePast(u64),
    Vote(u64),
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..12, 0usize..2500, any::<bool>()).prop_map(|(count, len, term_up)| Step::Append { count, len, term_up }),
        2 => (0u64..12).prop_map(Step::Truncate),
        2 => (0u64..30).prop_map(Step::Purge),
        1 => (1u64..5).prop_map(Step::PurgePast),
        1 => (1u64..100).prop_map(Step::Vote),
        1 => Just(Step::Reopen),
        2 => Just(Step::Crash),
    ]
}

#[derive(Default)]
struct Model {
    entries: Vec<Entry<Config>>,
    purged: Option<LogId<u64>>,
    term: u64,
    vote: Option<Vote<u64>>,
}

impl Model {
    fn last(&self) -> Option<LogId<u64>> {
        self.entries.last().map(|e| e.log_id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }

    fn purge(&mut self, upto: LogId<u64>) {
        self.entries.retain(|e| e.log_id.index > upto.index);
        self.purged = Some(upto);
    }

    async fn check(&self, log: &Log) {
        let mut log = log.clone();
        let state = log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (self.purged, self.last()));
        assert_eq!(all(&log).await, self.entries);
        assert_eq!(log.read_vote().await.unwrap(), self.vote);
    }

    async fn run(&mut self, log: &mut Log, step: Step) {
        match step {
            Step::Append { count, len, term_up } => {
                self.term += u64::from(term_up);
                let next = self.next();
                let new: Vec<_> = (next..next + count).map(|i| entry(self.term, i, len)).collect();
                self.entries.extend(new.clone());
                append(log, new).await;
            }
            Step::Truncate(back) => {
                let at = self.entries.len().saturating_sub(back as usize);
                let Some(since) = self.entries.get(at).map(|e| e.log_id) else { return };
                self.entries.truncate(at);
                // Terms only go up in Raft: what replaces the entries is of a later one.
                self.term += 1;
                log.truncate(since).await.unwrap();
            }
            Step::Purge(count) => {
                let Some(upto) = self.entries.get(count as usize).map(|e| e.log_id) else { return };
                self.purge(upto);
                log.purge(upto).await.unwrap();
            }
            Step::PurgePast(by) => {
                let upto = id(self.term, self.next() + by);
                self.purge(upto);
                log.purge(upto).await.unwrap();
            }
            Step::Vote(term) => {
                self.vote = Some(Vote::new(term, 1));
                log.save_vote(&Vote::new(term, 1)).await.unwrap();
            }
            Step::Reopen | Step::Crash => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_a_vector_that_survives(
        steps in proptest::collection::vec(step(), 1..40),
        cache_bytes in prop_oneof![Just(0u64), Just(5000), Just(1 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options = Options { cache_bytes, ..small() };
            let mut dir = tempfile::tempdir().unwrap();
            let mut log = Log::open(dir.path(), options.clone()).unwrap();
            let mut model = Model::default();
            for step in steps {
                model.run(&mut log, step.clone()).await;
                match step {
                    Step::Reopen => {
                        log.close();
                        log = Log::open(dir.path(), options.clone()).unwrap();
                    }
                    Step::Crash => {
                        let crashed = image(dir.path());
                        log = Log::open(crashed.path(), options.clone()).unwrap();
                        dir = crashed;
                    }
                    _ => {}
                }
                model.check(&log).await;
            }
        });
    }
}
