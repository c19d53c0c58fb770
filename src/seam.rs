//! Where the outside world comes in: sockets, chance, work on other threads, and what a disk does with a write.
//!
//! In production each of these is the plain thing, inlined. Under the feature `sim` a simulation stands behind them
//! (`seam::simulated`): it decides from a seed, in one thread, so that a run can be repeated. Time is the business of
//! `clock`. What a simulation does not touch (a unit test that is compiled with the feature, say) stays the plain thing,
//! except for the sockets, which are of one kind in a build.

pub mod bug;
#[cfg(feature = "sim")]
pub mod simulated;

use std::io::Write;

use uuid::Uuid;

use crate::clock::{Clock, Timestamp};

/// A random value.
pub fn random<T>() -> T
where
    rand::distr::StandardUniform: rand::distr::Distribution<T>,
{
    #[cfg(feature = "sim")]
    if let Some(value) = simulated::chance::draw(rand::Rng::random) {
        return value;
    }
    rand::random()
}

/// A new UUID that sorts by the time of its making (version 7).
pub fn uuid() -> Uuid {
    #[cfg(feature = "sim")]
    if let Some(made) = simulated::chance::uuid() {
        return made;
    }
    // `now_v7` asks the kernel for each one's randomness; this thread's generator, which the kernel has seeded, will do.
    // A clock of before 1970 gives those of the first moment: `uuid`'s own reading of the clock would panic.
    let Timestamp(ms) = Clock::system().now();
    uuid::Builder::from_unix_timestamp_millis(ms, &rand::random()).into_uuid()
}

/// A bound that is another one in a simulation, so that it is reached within seconds.
#[must_use]
#[cfg_attr(not(feature = "sim"), expect(unused_variables, reason = "only a simulation has a bound of its own"))]
pub fn bound(usual: u64, simulated: u64) -> u64 {
    #[cfg(feature = "sim")]
    if simulated::is_on() {
        return simulated;
    }
    usual
}

/// Threads for what may block, over all of its kinds.
pub const BLOCKING_MAX: usize = 512;

/// Runs what may block where it holds up nothing else; an error: it panicked. In a simulation time passes before and
/// after it, in which the node can be killed.
///
/// # Errors
/// Where it panicked.
#[allow(clippy::disallowed_methods, reason = "this is where it is asked for")]
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    #[cfg(feature = "sim")]
    if simulated::is_on() {
        simulated::disk::some_time().await;
        let done = work();
        simulated::disk::some_time().await;
        return Ok(done);
    }
    tokio::task::spawn_blocking(work).await
}

/// As [`blocking`], of what reads files below `dir`, where a simulated disk may be slow: piece after piece for as long as
/// `read` has one. Each piece is given on at once.
///
/// # Errors
/// Where one of the two panicked.
#[cfg_attr(not(feature = "sim"), expect(unused_variables, reason = "only a simulation asks whose files they are"))]
pub async fn reading_on<T: Send + 'static>(
    dir: &std::path::Path,
    mut read: impl FnMut() -> Option<T> + Send + 'static,
    give: impl Fn(T) + Send + 'static,
) -> Result<(), tokio::task::JoinError> {
    #[cfg(feature = "sim")]
    if simulated::is_on() {
        while let Some(piece) = read() {
            tokio::time::sleep(simulated::disk::read_latency(dir)).await;
            give(piece);
        }
        return Ok(());
    }
    blocking(move || {
        while let Some(piece) = read() {
            give(piece);
        }
    })
    .await
}

/// Does what is expected to be quick and may block all the same: another thread of the runtime takes over the other tasks
/// meanwhile. Only on a runtime of several threads, which a simulation has not.
#[allow(clippy::disallowed_methods, reason = "this is where it is asked for")]
pub fn handed_over<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// Ends the process, since nothing may be trusted any more that it holds: says why, and waits until that is written.
pub fn end_process(why: &str) -> ! {
    tracing::error!("{why}; this node stops");
    if !tracing::enabled!(tracing::Level::ERROR) {
        // Nobody logs, as in tests, whose own output ends with the process. If it cannot be written either, that is that.
        let _ = writeln!(std::io::stderr(), "{why}; the process ends");
    }
    // The log is written by a thread of its own.
    std::thread::sleep(std::time::Duration::from_millis(200));
    std::process::exit(1)
}

/// Drops what takes long to drop, where that holds up nothing else.
#[allow(clippy::disallowed_methods, reason = "this is where it is asked for")]
pub fn dispose<T: Send + 'static>(value: T) {
    #[cfg(feature = "sim")]
    if simulated::is_on() {
        return drop(value);
    }
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
        Err(_) => drop(value),
    }
}

/// What it takes to apply entries beside the work itself, on the node with this directory: in a simulation, while it is slow.
#[cfg_attr(
    not(feature = "sim"),
    expect(unused_variables, clippy::unused_async, reason = "only a simulation is slower than the machine")
)]
pub async fn applying(dir: &std::path::Path) {
    #[cfg(feature = "sim")]
    if simulated::is_on() {
        tokio::time::sleep(simulated::disk::apply_latency(dir)).await;
    }
}

/// Whether an answer that a peer has given to the node with this directory is lost: in a simulation, after some time.
#[cfg_attr(
    not(feature = "sim"),
    expect(unused_variables, clippy::unused_async, reason = "only a simulation loses any")
)]
pub async fn loses_answer(dir: &std::path::Path) -> bool {
    #[cfg(feature = "sim")]
    return simulated::answers::is_lost(dir).await;
    #[cfg(not(feature = "sim"))]
    false
}

/// Between two steps of what takes long: lets others go on. In a simulation time passes, up to 100 ms.
pub async fn pause() {
    #[cfg(feature = "sim")]
    if let Some(ms) = simulated::chance::draw(|chance| rand::Rng::random_range(chance, 0..=100)) {
        return tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
    }
    tokio::task::yield_now().await;
}

/// Sockets.
pub mod net {
    #[cfg(feature = "sim")]
    pub use super::simulated::net::{connector, Connector};
    #[cfg(not(feature = "sim"))]
    pub use tokio::net::{TcpListener, TcpStream};
    #[cfg(feature = "sim")]
    pub use turmoil::net::{TcpListener, TcpStream};

    /// Listens on this address; so many connections may wait to be taken, as far as the system allows.
    ///
    /// # Errors
    /// What the system gives.
    #[cfg(not(feature = "sim"))]
    pub async fn listen(address: std::net::SocketAddr, backlog: u32) -> std::io::Result<TcpListener> {
        let socket = match address {
            std::net::SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            std::net::SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(backlog)
    }

    /// The same in a simulation, where none waits.
    ///
    /// # Errors
    /// What the simulation gives.
    #[cfg(feature = "sim")]
    pub async fn listen(address: std::net::SocketAddr, _backlog: u32) -> std::io::Result<TcpListener> {
        TcpListener::bind(address).await
    }

    /// How an HTTP client connects.
    #[cfg(not(feature = "sim"))]
    pub type Connector = hyper_util::client::legacy::connect::HttpConnector<crate::names::Names>;

    /// Connects within this time to where these names lead.
    #[cfg(not(feature = "sim"))]
    pub fn connector(timeout: std::time::Duration, names: crate::names::Names) -> Connector {
        let mut connector = Connector::new_with_resolver(names);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        // What is sent and not acknowledged for so long breaks the connection: a link that was cut is known by it long
        // before TCP would send again, and one that is only slow acknowledges all the time.
        connector.set_tcp_user_timeout(Some(timeout * 4));
        connector
    }
}

/// A file that is read and written piece by piece.
pub mod file {
    use std::io;
    use std::path::Path;

    #[cfg(feature = "sim")]
    pub use super::simulated::file::File;
    #[cfg(not(feature = "sim"))]
    pub use tokio::fs::File;

    /// Opens a file to be read.
    ///
    /// # Errors
    /// What the file system gives.
    pub async fn open(path: &Path) -> io::Result<File> {
        File::open(path).await
    }

    /// Makes a file that does not exist yet, to be written and read.
    ///
    /// # Errors
    /// What the file system gives.
    pub async fn create_new(path: &Path) -> io::Result<File> {
        #[cfg(feature = "sim")]
        return File::create_new(path);
        #[cfg(not(feature = "sim"))]
        tokio::fs::OpenOptions::new().read(true).write(true).create_new(true).open(path).await
    }
}

/// Writes in place that an acknowledgement rests on. The path tells a simulation whose disk it is.
pub mod disk {
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the file system gives; a part may have been written then.
    #[cfg_attr(not(feature = "sim"), expect(unused_variables, reason = "only a simulation asks whose file it is"))]
    pub fn write_all_at(path: &Path, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(feature = "sim")]
        super::simulated::disk::before_write(path, file, bytes, offset)?;
        file.write_all_at(bytes, offset)
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// What the file system gives.
    #[cfg_attr(not(feature = "sim"), expect(unused_variables, reason = "only a simulation asks whose file it is"))]
    pub fn sync_data(path: &Path, file: &File) -> io::Result<()> {
        #[cfg(feature = "sim")]
        if super::simulated::is_on() {
            return super::simulated::disk::sync(path, file);
        }
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::{self, ThreadId};

    /// It tells which thread drops it.
    struct Told(mpsc::Sender<ThreadId>);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(thread::current().id()).unwrap();
        }
    }

    #[tokio::test]
    async fn what_takes_long_to_drop_holds_up_no_thread_of_the_runtime() {
        let (tell, told) = mpsc::channel();
        super::dispose(Told(tell.clone()));
        assert_ne!(told.recv().unwrap(), thread::current().id());
        // Where there is no runtime there is nothing to be held up.
        let outside = thread::spawn(move || super::dispose(Told(tell)));
        let own = outside.thread().id();
        outside.join().unwrap();
        assert_eq!(told.recv().unwrap(), own);
    }
}
