//! Commands per second through one node, from the proposer to the reply: `cargo bench --bench proposer`.
//!
//! The node is a server's, in this process, with its Raft log in a temporary directory (`TMPDIR` says on which disk) and
//! every entry durable before its reply; checkpoints go on beside, as they do in a server. Only HTTP is left out. Each
//! round proposes so many creates at once, and waits for all replies. What the disk allows is measured before, in the same
//! run: a write of as many bytes, and fdatasync.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};
use tokio::runtime::Runtime;
use xcron::clock::{monotonic, Clock};
use xcron::command::{Command, Reply};
use xcron::config::Config;
use xcron::node::Node;
use xcron::server::Server;

mod common;
use common::{batch, create, once};

const BATCHES: [u64; 3] = [1, 64, 1024];
const PATIENCE: Duration = Duration::from_secs(30);

/// A node that leads itself.
async fn started(dir: &std::path::Path) -> Server {
    let mut config = Config { raft_dir: dir.to_owned(), ..Config::default() };
    (config.http_port, config.peer_port, config.monitor_port) = (0, 0, 0);
    let server = Server::start(config).await.expect("the node starts");
    let mut group = server.node().watch();
    let leads = group.wait_for(|metrics| metrics.as_ref().is_some_and(|m| m.current_leader == Some(m.id)));
    tokio::time::timeout(PATIENCE, leads).await.expect("the node leads in time").expect("the node runs");
    server
}

/// Creates of one-shot tasks that are due in a day, so that none fires meanwhile.
fn creates(count: u64) -> Vec<Command> {
    let tomorrow = Clock::system().now().plus_ms(86_400_000);
    (0..count).map(|n| create(n, once(n, tomorrow))).collect()
}

/// Has them written; how long it took. Each must have been taken.
async fn propose(node: &Node, commands: Vec<Command>) -> Duration {
    let began = monotonic();
    let replies = node.propose_all(commands, began + PATIENCE).await;
    let spent = began.elapsed();
    let taken = |reply: &Result<Reply, _>| matches!(reply, Ok(Reply::Created { next: Some(_) }));
    assert!(replies.iter().all(taken), "{:?}", replies.iter().find(|reply| !taken(reply)));
    spent
}

/// What the disk allows: a write of as many bytes, and fdatasync.
fn limit(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut group = c.benchmark_group("limit");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1));
    for size in BATCHES {
        let bytes = batch(creates(size)).encode().expect("a batch can be encoded");
        let mut file = std::fs::File::create(dir.path().join("limit")).expect("a file");
        // Of its full length already, as the log's segments are.
        file.write_all(&vec![0; bytes.len()]).and_then(|()| file.sync_all()).expect("the file is written");
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new("write_and_fdatasync", size), |bencher| {
            bencher.iter(|| file.write_all_at(&bytes, 0).and_then(|()| file.sync_data()).expect("the file is written"));
        });
    }
    group.finish();
}

fn proposer(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let server = runtime.block_on(started(dir.path()));
    let node = server.node();
    let mut group = c.benchmark_group("proposer");
    group.sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    let mut proposed = 0;
    for size in BATCHES {
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new("create", size), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let commands = creates(size);
                    spent += runtime.block_on(propose(node, commands));
                    proposed += size;
                }
                spent
            });
        });
    }
    let tasks = node.machine().with_state(|state| state.len() as u64);
    assert_eq!(tasks, proposed, "each command that was replied to has made its task");
    runtime.block_on(server.stop());
    group.finish();
}

criterion_group!(benches, limit, proposer);
criterion_main!(benches);
