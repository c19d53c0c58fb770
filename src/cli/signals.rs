//! Signals: two end a node in order, one has it look at its configuration, and none ends it otherwise.

use std::io;
use std::path::Path;

use tokio::signal::unix::{signal, Signal, SignalKind};

use crate::config::Config;
use crate::seam;

/// Signals that would end the process, and that say nothing to a node. Of SIGPIPE, which Rust has the system ignore, and of
/// [`QUIET`] a line would be a fault: writing it could raise the next one.
const UNUSED: [(&str, i32); 7] = [
    ("SIGUSR1", libc::SIGUSR1),
    ("SIGUSR2", libc::SIGUSR2),
    ("SIGALRM", libc::SIGALRM),
    ("SIGVTALRM", libc::SIGVTALRM),
    ("SIGPROF", libc::SIGPROF),
    ("SIGIO", libc::SIGIO),
    ("SIGXCPU", libc::SIGXCPU),
];
/// A file, perhaps that of the log, has reached its limit of size: the call that fails tells of it.
const QUIET: i32 = libc::SIGXFSZ;

/// The signals that mean something.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGINT, SIGTERM.
    Stop,
    /// SIGHUP.
    Reload,
}

impl Signals {
    /// Receives signals from now on; those that mean nothing are logged and have no effect.
    ///
    /// # Errors
    /// Where the system refuses a handler.
    pub fn receive() -> io::Result<Signals> {
        for (name, number) in UNUSED {
            let mut unused = signal(SignalKind::from_raw(number))?;
            tokio::spawn(async move {
                while unused.recv().await.is_some() {
                    tracing::info!(signal = name, "a signal that has no meaning for this node; nothing is done");
                }
            });
        }
        // It stays without its default effect also once this is dropped.
        drop(signal(SignalKind::from_raw(QUIET))?);
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// The next one that asks for the end.
    pub async fn stop(&mut self) {
        while self.next().await != Asked::Stop {
            tracing::info!("SIGHUP has no effect: this node starts or stops");
        }
    }
}

/// Reads the configuration again, and says what of it would be another after a restart. This version takes over nothing
/// while it runs.
pub(super) async fn reload(file: &Path, running: &Config) {
    let path = file.to_owned();
    match seam::blocking(move || Config::load(&path)).await {
        Ok(Ok(new)) if new == *running => {
            tracing::info!(file = %file.display(), "SIGHUP: the configuration is the same")
        }
        Ok(Ok(new)) => tracing::warn!(
            file = %file.display(),
            sections = changed(running, &new).join(", "),
            "SIGHUP: the configuration has changed; it is taken over when this node is restarted"
        ),
        Ok(Err(error)) => {
            tracing::error!(%error, "SIGHUP: the configuration is wrong; this node goes on with the one that it has");
        }
        Err(panic) => tracing::error!(%panic, "SIGHUP: the configuration cannot be read"),
    }
}

/// Which parts differ, by the names that they have in the file.
fn changed(old: &Config, new: &Config) -> Vec<&'static str> {
    // Whoever adds a part is told by the compiler that it is to be listed; `zone_data` is no key of the file.
    macro_rules! differing {
        ($($part:ident),*) => {{
            let Config { $($part: _,)* zone_data: _ } = old;
            [$((stringify!($part), old.$part != new.$part)),*]
        }};
    }
    let parts = differing![
        env,
        http_port,
        peer_port,
        monitor_port,
        raft_dir,
        bind,
        advertise,
        timezone,
        peer,
        raft,
        storage,
        limits,
        callback,
        security
    ];
    parts.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_named_as_in_the_file() {
        let old = Config::default();
        let mut new = old.clone();
        assert_eq!(changed(&old, &new), [""; 0]);
        (new.http_port, new.limits.tasks_max) = (1, 7);
        assert_eq!(changed(&old, &new), ["http_port", "limits"]);
        new.security.hosts.push("xcron.example".to_owned());
        assert_eq!(changed(&old, &new), ["http_port", "limits", "security"]);
    }
}
