//! Nodes under test, alone and in clusters.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use xcron::clock::{monotonic, Clock};
use xcron::config::Config;
use xcron::dispatcher::transport::{Http, Transport};
use xcron::server::{Error, Server};

use super::{pass, until, Client, PATIENCE};

/// A configuration with small timeouts; every port is chosen by the system.
pub fn config(dir: &Path) -> Config {
    let mut config = Config { raft_dir: dir.to_owned(), ..Config::default() };
    (config.http_port, config.peer_port, config.monitor_port) = (0, 0, 0);
    config.storage.cache_mb = 16;
    config.storage.log_segment_bytes = 1 << 20;
    config.storage.checkpoint_interval_ms = 100;
    config.limits.request_timeout_ms = 4000;
    config.callback.timeout_ms = 2000;
    config.callback.connect_timeout_ms = 1000;
    config.callback.retry.min_backoff_ms = 50;
    config.callback.retry.max_backoff_ms = 400;
    config
}

/// A node that is ready, and its directory.
pub async fn node() -> (TempDir, TestNode) {
    node_with(|_| {}).await
}

/// The same with another configuration.
pub async fn node_with(change: impl Fn(&mut Config)) -> (TempDir, TestNode) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    change(&mut config);
    let node = TestNode::start(config).await.ready().await;
    (dir, node)
}

/// A node that runs, on a runtime of its own.
pub struct TestNode {
    runtime: Option<Runtime>,
    server: Option<Server>,
    pub config: Config,
    pub clock: Clock,
    pub client: Client,
    pub api: SocketAddr,
    pub monitor: Client,
}

impl TestNode {
    pub async fn start(config: Config) -> TestNode {
        Self::start_at(config, Clock::system()).await
    }

    pub async fn start_at(config: Config, clock: Clock) -> TestNode {
        // A node that was crashed in this process may hold its files for a moment longer than a dead process would.
        let deadline = monotonic() + PATIENCE;
        loop {
            match Self::try_start(config.clone(), clock.clone()).await {
                Ok(node) => return node,
                Err(error) if is_open(&error) && monotonic() < deadline => pass(10).await,
                Err(error) => panic!("the node does not start: {error}"),
            }
        }
    }

    pub async fn try_start(config: Config, clock: Clock) -> Result<TestNode, Error> {
        Self::try_start_over(config, clock, |http| http).await
    }

    /// The same over another transport, which is given the usual one.
    pub async fn try_start_over(
        config: Config,
        clock: Clock,
        over: impl FnOnce(Arc<dyn Transport>) -> Arc<dyn Transport> + Send + 'static,
    ) -> Result<TestNode, Error> {
        tell_panics();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (settings, of_node) = (config.clone(), clock.clone());
        let starting = runtime.spawn(async move {
            let guard = settings.guard().map_err(|(key, detail)| Error::Targets(key, detail))?;
            let transport = Http::new(&settings.callback, guard.into())?;
            Server::start_with(settings, of_node, over(transport)).await
        });
        match starting.await.expect("no panic") {
            Ok(server) => {
                let (api, monitor) = (server.api_address(), Client::new(server.monitor_address()));
                let client = Client::new(api);
                let (runtime, server) = (Some(runtime), Some(server));
                Ok(TestNode { runtime, server, config, clock, client, api, monitor })
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Waits until it can serve.
    pub async fn ready(self) -> TestNode {
        self.await_ready().await;
        self
    }

    pub async fn await_ready(&self) {
        until("a ready node", || async { (self.monitor.plain("/readyz").await.0 == 200).then_some(()) }).await;
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs")
    }

    pub fn dir(&self) -> &Path {
        &self.config.raft_dir
    }

    pub fn id(&self) -> u64 {
        self.server().node().id()
    }

    /// The reason for which it stops by itself.
    pub async fn failed(&mut self) -> Error {
        let server = self.server.as_mut().expect("it runs");
        tokio::time::timeout(super::PATIENCE, server.failed()).await.expect("in vain waited for the node to fail")
    }

    /// Stops it in order; its configuration, to start it again.
    pub async fn stop(mut self) -> Config {
        let (server, runtime) = (self.server.take(), self.runtime.take().expect("it runs"));
        runtime.spawn(async move { server.expect("it runs").stop().await }).await.expect("no panic");
        end(runtime).await;
        self.config.clone()
    }

    /// Ends it where it stands; its configuration, to start it again.
    pub async fn crash(mut self) -> Config {
        let (server, runtime) = (self.server.take(), self.runtime.take().expect("it runs"));
        end(runtime).await;
        drop(server);
        self.config.clone()
    }
}

/// Has each panic told on standard error itself: one that ends the process would end before the harness shows
/// what it has captured.
fn tell_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let (thread, trace) = (std::thread::current(), std::backtrace::Backtrace::capture());
            // Nobody may read it.
            let _ = writeln!(std::io::stderr(), "the thread {:?} {panic}\n{trace}", thread.name());
            before(panic);
        }));
    });
}

/// Whether a node that has ended has not let go of its files yet, or of its ports: its own locks, or sled's, whose threads
/// end by themselves.
fn is_open(error: &Error) -> bool {
    let text = error.to_string();
    text.contains("is the node running twice?") || text.contains("could not acquire lock") || text.contains("in use")
}

async fn end(runtime: Runtime) {
    let ended = xcron::seam::blocking(move || runtime.shutdown_timeout(Duration::from_secs(10)));
    ended.await.expect("no panic");
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Configurations of nodes that form a cluster, and the nodes among them that run.
pub struct Cluster {
    pub dir: TempDir,
    pub configs: Vec<Config>,
    pub nodes: Vec<Option<TestNode>>,
}

/// A loopback address that no other test uses, so that no port on it is taken between its choice and its use.
pub fn own_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    Ipv4Addr::new(127, 1 + (pid >> 8) as u8 % 250, pid as u8, 1 + (n % 250) as u8).into()
}

impl Cluster {
    /// Of `size` nodes, none of which runs yet.
    pub fn new(size: usize, change: impl Fn(&mut Config)) -> Cluster {
        let dir = tempfile::tempdir().expect("a directory");
        let address = own_address();
        // All of them at once: a port that the system chose for one node could be what another one is to have.
        let held: Vec<TcpListener> = (0..3 * size).map(|_| TcpListener::bind((address, 0)).expect("a port")).collect();
        let ports: Vec<u16> = held.iter().map(|l| l.local_addr().expect("an address").port()).collect();
        drop(held);
        let peers: Vec<String> = ports.chunks(3).map(|ports| format!("{address}:{}", ports[1])).collect();
        let configs = ports.chunks(3).enumerate().map(|(i, ports)| {
            let mut config = config(&dir.path().join(i.to_string()));
            (config.bind, config.http_port, config.peer_port, config.monitor_port) =
                (address, ports[0], ports[1], ports[2]);
            config.peer.peer_hosts = peers.clone();
            change(&mut config);
            config
        });
        Cluster { configs: configs.collect(), nodes: (0..size).map(|_| None).collect(), dir }
    }

    /// Three nodes that all serve.
    pub async fn three() -> Cluster {
        Self::three_with(|_| {}).await
    }

    /// Three nodes that all serve.
    pub async fn three_with(change: impl Fn(&mut Config)) -> Cluster {
        let mut cluster = Cluster::new(3, change);
        for i in 0..3 {
            cluster.start(i).await;
        }
        for i in 0..3 {
            cluster.node(i).await_ready().await;
        }
        cluster
    }

    pub async fn start(&mut self, i: usize) {
        self.start_at(i, Clock::system()).await;
    }

    pub async fn start_at(&mut self, i: usize, clock: Clock) {
        assert!(self.nodes[i].is_none(), "it runs already");
        self.nodes[i] = Some(TestNode::start_at(self.configs[i].clone(), clock).await);
    }

    pub fn node(&self, i: usize) -> &TestNode {
        self.nodes[i].as_ref().expect("it runs")
    }

    pub fn node_mut(&mut self, i: usize) -> &mut TestNode {
        self.nodes[i].as_mut().expect("it runs")
    }

    pub fn client(&self, i: usize) -> &Client {
        &self.node(i).client
    }

    pub fn running(&self) -> impl Iterator<Item = (usize, &TestNode)> {
        self.nodes.iter().enumerate().filter_map(|(i, node)| Some((i, node.as_ref()?)))
    }

    /// The node that fires.
    pub async fn leader(&self) -> usize {
        until("a leader", || async {
            self.running().find(|(_, node)| node.server().node().may_fire().is_some()).map(|(i, _)| i)
        })
        .await
    }

    /// The nodes that run and do not lead.
    pub async fn followers(&self) -> Vec<usize> {
        let leader = self.leader().await;
        self.running().map(|(i, _)| i).filter(|i| *i != leader).collect()
    }

    pub async fn crash(&mut self, i: usize) {
        self.nodes[i].take().expect("it runs").crash().await;
    }

    pub async fn stop(&mut self, i: usize) {
        self.nodes[i].take().expect("it runs").stop().await;
    }

    /// Waits until every node that runs has applied all that any of them has.
    pub async fn level(&self) {
        until("nodes that are level", || async {
            let applied: Vec<_> = self.running().map(|(_, n)| n.server().node().machine().applied()).collect();
            applied.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        })
        .await;
    }

    pub fn path(&self, i: usize) -> PathBuf {
        self.configs[i].raft_dir.clone()
    }
}
