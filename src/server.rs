//! A node as a process: what is started in which order, and what stops in which.
//!
//! Start: every port is bound before anything slow, so that a clash is told at once; then the store is opened, the
//! ports are served, the node joins its cluster, and fires.
//!
//! Stop: first nothing new (`/readyz` says no, the scheduler takes no more, another node leads, to which calls are passed
//! on), then what is under way ends, within a bound, then calls that wait are refused and the ports close, then everything
//! is made durable.

mod descriptors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::descriptors::raise as raise_descriptors;
use self::descriptors::Shares;
use crate::clock::{Clock, Timestamp};
use crate::collector;
use crate::config::{Config, HostPort};
use crate::dispatcher::transport::{Http, SetupError, Transport};
use crate::dispatcher::Dispatcher;
use crate::guard::{Guard, OwnHost};
use crate::http;
use crate::node::{has_ended, rescue, JoinError, Node, Queues, StartError};
use crate::scheduler;
use crate::seam::{
    self,
    net::{listen, TcpListener},
};
use crate::storage::{
    self,
    fsutil::{self, DirLock},
};

/// Longest wait for callbacks that are under way when a node stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Connections that wait to be taken: what a burst of callers needs. The system's own bound, `net.core.somaxconn`, is 4096
/// in most places.
const BACKLOG: u32 = 16_384;
/// Peers send no head slower than this.
const PEER_IDLE: Duration = Duration::from_secs(120);

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port cannot be listened on.
    #[error("{key} = {port}: cannot listen on {address}: {source}")]
    Bind {
        /// The key of the configuration.
        key: &'static str,
        /// The port.
        port: u16,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The directory cannot be used.
    #[error("raft_dir = \"{dir}\": {source}")]
    Directory {
        /// The directory.
        dir: String,
        /// Why.
        source: std::io::Error,
    },
    /// `peer_hosts` or `advertise` does not tell which node this is.
    #[error("{0}: {1}")]
    Own(&'static str, String),
    /// The rules for targets cannot be read.
    #[error("{0}: {1}")]
    Targets(&'static str, String),
    /// What is stored cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The node cannot take part in its cluster.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Outgoing requests cannot be made.
    #[error(transparent)]
    Client(#[from] SetupError),
    /// The wall clock cannot be right.
    #[error("the wall clock is set to before 1970: set it right, and start the node again")]
    Clock,
    /// The node had to stop.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Whether it is the configuration that is wrong, so that another start would end in the same way. A disk that fails or
    /// is full, an address that the machine does not have yet, too few descriptors: those pass.
    pub fn is_configuration(&self) -> bool {
        match self {
            Error::Bind { source, .. } | Error::Directory { source, .. } => is_chosen_wrongly(source),
            Error::Own(..) | Error::Targets(..) => true,
            Error::Start(_) | Error::Join(_) | Error::Client(_) | Error::Clock | Error::Failed(_) => false,
        }
    }
}

/// Whether a port or a directory is one that this process cannot have.
fn is_chosen_wrongly(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{
        AddrInUse, AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound,
        PermissionDenied, WouldBlock,
    };
    matches!(
        error.kind(),
        // Another process has the port, or the directory.
        AddrInUse | WouldBlock
            | PermissionDenied
            // A file stands where a directory is wanted, or the name is none.
            | AlreadyExists | NotADirectory | IsADirectory | NotFound | InvalidFilename | InvalidInput
    )
}

/// The ports, bound.
struct Ports {
    api: TcpListener,
    peer: TcpListener,
    monitor: TcpListener,
}

/// A node that runs.
pub struct Server {
    node: Node,
    dispatcher: Dispatcher,
    api: SocketAddr,
    monitor: SocketAddr,
    /// Closes the ports.
    close: watch::Sender<bool>,
    ports: Vec<JoinHandle<()>>,
    work: JoinHandle<String>,
    scheduler: JoinHandle<()>,
    /// Until the node takes part.
    joining: Option<JoinHandle<Result<(), JoinError>>>,
    _lock: DirLock,
}

impl Server {
    /// Starts a node by its configuration.
    ///
    /// # Errors
    /// Each variant of [`Error`]. A node that waits for its peers has started.
    pub async fn start(config: Config) -> Result<Server, Error> {
        let clock = Clock::system();
        if clock.now() == Timestamp(0) {
            // What it is reckoned with stands still there, and the headers of answers have no name for such a time.
            return Err(Error::Clock);
        }
        let mut callback = config.callback.clone();
        Shares::of(&config, descriptors::limit()).lower(&mut callback);
        let transport = Http::new(&callback, guard(&config)?)?;
        Self::start_with(config, clock, transport).await
    }

    /// Starts a node with this clock and this way of sending callbacks.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_with(config: Config, clock: Clock, transport: Arc<dyn Transport>) -> Result<Server, Error> {
        let own = config.own_peer().map_err(|(key, detail)| Error::Own(key, detail))?;
        descriptors::raise();
        warnings(&config).iter().for_each(|warning| tracing::warn!("{warning}"));
        let ports = bind(&config).await?;
        let lock = lock_directory(&config)?;
        Self::run(config, own, ports, lock, clock, transport).await
    }

    async fn run(
        mut config: Config,
        own: HostPort,
        ports: Ports,
        lock: DirLock,
        clock: Clock,
        transport: Arc<dyn Transport>,
    ) -> Result<Server, Error> {
        let address = |listener: &TcpListener, port| listener.local_addr().unwrap_or(config.listen(port));
        let (api, monitor) = (address(&ports.api, config.http_port), address(&ports.monitor, config.monitor_port));
        let http_address = format!("{}:{}", own.host, api.port());
        let shares = Shares::of(&config, descriptors::limit());
        shares.lower(&mut config.callback);
        let (close, closing) = watch::channel(false);
        let closed = || {
            let mut closing = closing.clone();
            async move {
                // An error means that the server is gone, which closes the ports too.
                let _ = closing.wait_for(|closing| *closing).await;
            }
        };
        let limits = http::serve::ServeLimits::new(&config);
        let limits = http::serve::ServeLimits { connections_max: shares.api, ..limits };
        let monitor_limits = http::serve::ServeLimits { connections_max: shares.monitor, ..limits };
        let peer_limits = http::serve::ServeLimits { connections_max: shares.peers, idle_timeout: PEER_IDLE, ..limits };
        // Before anything that takes long: a process that opens its files, or waits for another node's, lives.
        let starting = http::Starting::default();
        let routes = http::monitor(starting.clone(), &config);
        let monitoring = tokio::spawn(http::serve::serve(ports.monitor, routes, monitor_limits, closed()));
        let (node, queues) = open(&config, &own, http_address, clock, &starting).await?;
        starting.done(node.clone());

        let guard = guard(&config)?;
        let (calls, creates) = (transport.clone(), guard.clone());
        node.tell_ports(move |host, port| {
            calls.learn(host, port);
            creates.learn(OwnHost::of(host), port);
        });
        transport.know(node.names(), node.metrics());
        let dispatcher = Dispatcher::new(node.clone(), transport);
        let serving = vec![
            monitoring,
            tokio::spawn(http::serve::serve(ports.peer, node.peer_routes(), peer_limits, closed())),
            tokio::spawn(http::serve::serve(ports.api, http::api(node.clone(), &config, guard), limits, closed())),
        ];
        let worker = node.clone();
        let work = tokio::spawn(async move { worker.work(queues).await });
        let (scheduling, collecting) = (scheduler::run(node.clone(), dispatcher.clone()), collector::run(node.clone()));
        let zones = node.clone();
        let scheduler = tokio::spawn(async move {
            tokio::select! {
                () = scheduling => {}
                () = collecting => {}
                () = zones.keep_zones() => {}
            }
        });
        let joiner = node.clone();
        let joining = Some(tokio::spawn(async move { joiner.join().await }));
        Ok(Server { node, dispatcher, api, monitor, close, ports: serving, work, scheduler, joining, _lock: lock })
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Where the public API is served.
    pub fn api_address(&self) -> SocketAddr {
        self.api
    }

    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub fn monitor_address(&self) -> SocketAddr {
        self.monitor
    }

    /// Runs until the node must stop; why.
    pub async fn failed(&mut self) -> Error {
        loop {
            tokio::select! {
                reason = &mut self.work => {
                    return Error::Failed(reason.unwrap_or_else(|panic| has_ended("the node", Err::<(), _>(panic))));
                }
                ended = &mut self.scheduler => return Error::Failed(has_ended("the scheduler", ended)),
                (ended, ..) = futures::future::select_all(&mut self.ports) => {
                    return Error::Failed(has_ended("the service of a port", ended));
                }
                joined = finished(&mut self.joining) => match joined {
                    Ok(Ok(())) => self.joining = None,
                    Ok(Err(error)) => return error.into(),
                    Err(panic) => return Error::Failed(has_ended("joining", Err::<(), _>(panic))),
                },
            }
        }
    }

    /// Stops in order; what is under way may end, within a bound.
    pub async fn stop(self) {
        self.node.stop().await;
        match tokio::time::timeout(DRAIN_MAX, self.dispatcher.idle()).await {
            Ok(()) => self.dispatcher.tell_end().await,
            Err(_) => tracing::warn!("some callbacks have not ended in time; they are sent again by the next leader"),
        }
        self.node.refuse_calls();
        self.close.send_replace(true);
        // One that has ended may be why it stops: its end was told then, and cannot be waited for again.
        for port in self.ports.into_iter().filter(|port| !port.is_finished()) {
            let _ = port.await;
        }
        self.joining.iter().for_each(JoinHandle::abort);
        self.scheduler.abort();
        self.node.close().await;
        self.work.abort();
    }
}

/// Opens what a node stores; where it has lost its state, waits for another node to give it one.
async fn open(
    config: &Config,
    own: &HostPort,
    http: String,
    clock: Clock,
    starting: &http::Starting,
) -> Result<(Node, Queues), Error> {
    let open = || {
        let (config, own, http, clock) = (config.clone(), own.clone(), http.clone(), clock.clone());
        let opened = seam::blocking(move || Node::open(config, own, http, clock));
        async { opened.await.map_err(|panic| Error::Failed(panic.to_string())) }
    };
    match open().await? {
        Ok(opened) => Ok(opened),
        Err(error) => {
            starting.wait_for("this node has lost its state and waits for another node to give it a snapshot");
            rescue::fetch(config, own, clock.clone(), error).await?;
            starting.wait_for("starting: the state that another node has given is read and verified");
            Ok(open().await??)
        }
    }
}

/// What is not wrong with a configuration and not likely to be meant.
pub fn warnings(config: &Config) -> Vec<String> {
    let limit = descriptors::limit();
    let shares = Shares::of(config, limit);
    config.warnings().into_iter().chain(shares.warnings(config, limit)).collect()
}

fn guard(config: &Config) -> Result<Arc<Guard>, Error> {
    config.guard().map(Arc::new).map_err(|(key, detail)| Error::Targets(key, detail))
}

/// Waits for a task, or for ever where there is none.
async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

async fn bind(config: &Config) -> Result<Ports, Error> {
    async fn one(config: &Config, key: &'static str, port: u16) -> Result<TcpListener, Error> {
        let address = config.listen(port);
        listen(address, BACKLOG).await.map_err(|source| Error::Bind { key, port, address, source })
    }
    Ok(Ports {
        api: one(config, "http_port", config.http_port).await?,
        peer: one(config, "peer_port", config.peer_port).await?,
        monitor: one(config, "monitor_port", config.monitor_port).await?,
    })
}

fn lock_directory(config: &Config) -> Result<DirLock, Error> {
    let dir = &config.raft_dir;
    let failed = |source| Error::Directory { dir: dir.display().to_string(), source };
    fsutil::create_dir_all_durable(dir).map_err(failed)?;
    let lock = DirLock::acquire(dir).map_err(failed)?;
    fsutil::close_to_others(dir, storage::is_part).map_err(failed)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_no_wrong_configuration() {
        for (error, is_wrong) in [
            (libc::EACCES, true),
            (libc::EADDRINUSE, true),
            (libc::EEXIST, true),
            (libc::ENAMETOOLONG, true),
            (libc::ENOTDIR, true),
            (libc::EADDRNOTAVAIL, false),
            (libc::EDQUOT, false),
            (libc::EIO, false),
            (libc::EMFILE, false),
            (libc::ENFILE, false),
            (libc::ENOMEM, false),
            (libc::ENOSPC, false),
            (libc::EROFS, false),
            (libc::ESTALE, false),
        ] {
            let source = || std::io::Error::from_raw_os_error(error);
            let directory = Error::Directory { dir: "data".to_owned(), source: source() };
            assert_eq!(directory.is_configuration(), is_wrong, "{directory}");
            let port =
                Error::Bind { key: "http_port", port: 80, address: ([127, 0, 0, 1], 80).into(), source: source() };
            assert_eq!(port.is_configuration(), is_wrong, "{port}");
        }
    }

    /// A process that lacks one of these serves a part of its work, and lives.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_task_of_the_process_that_ends_ends_the_process() {
        type Of = fn(&Server) -> tokio::task::AbortHandle;
        let tasks: [(&str, Of); 5] = [
            ("the node", |server| server.work.abort_handle()),
            ("the scheduler", |server| server.scheduler.abort_handle()),
            ("the service of a port", |server| server.ports[0].abort_handle()),
            ("the service of a port", |server| server.ports[1].abort_handle()),
            ("the service of a port", |server| server.ports[2].abort_handle()),
        ];
        for (what, task) in tasks {
            let dir = tempfile::tempdir().unwrap();
            let config = Config {
                raft_dir: dir.path().to_owned(),
                http_port: 0,
                monitor_port: 0,
                peer_port: 0,
                ..Config::default()
            };
            let mut server = Server::start(config).await.unwrap();
            task(&server).abort();
            let failed = tokio::time::timeout(Duration::from_secs(20), server.failed()).await;
            let said = failed.unwrap_or_else(|_| panic!("{what} has ended, and the process lives")).to_string();
            assert!(said.starts_with(&format!("{what} has ended")), "{said}");
            server.stop().await;
        }
    }
}
