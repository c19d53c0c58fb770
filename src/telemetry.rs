//! Logs: JSON at level info, or readable ones at level debug. `RUST_LOG` overrides the level.

use tracing_subscriber::EnvFilter;

use crate::config::Env;

/// Begins logging to standard error. A second call changes nothing.
pub fn init(env: Env) {
    // Raft and the store are talkative about what is normal.
    let level = match env {
        Env::Debug => "debug,openraft=warn,sled=warn,hyper=info,h2=info,hyper_util=info,reqwest=info",
        Env::Prod => "info,openraft=off,sled=warn",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a logger is set already, as in tests.
    let _ = match env {
        Env::Debug => logs.try_init(),
        Env::Prod => logs.json().flatten_event(true).try_init(),
    };
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "panic");
        earlier(panic);
    }));
}
