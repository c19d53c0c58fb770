//! Targets that are in trouble, beside the one that is measured: hosts that take a request and never answer, and names for
//! which no name server answers.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use serde_json::json;

use super::client::Client;
use super::cluster::Cluster;

/// Callbacks to each of them follow each other by this many seconds: less than one that hangs is waited for.
const EVERY_S: u64 = 10;
/// Tasks of every second at the first host that hangs: by the time of an attempt they have all the places that one host may
/// have.
const CROWD: usize = 4;
/// Tasks in one call.
const BATCH: usize = 500;

/// Targets in trouble, for as long as this is kept.
pub(super) struct Trouble {
    /// Nothing is accepted from them: the system takes connections and requests, and nobody answers.
    _hanging: Vec<TcpListener>,
}

impl Trouble {
    /// Begins it: so many hosts that hang, on loopback addresses of their own, and so many names.
    pub async fn begin(client: &Client, cluster: &Cluster, hanging: usize, silent: usize) -> Result<Trouble, String> {
        crate::server::raise_descriptors();
        let first = u32::from(Ipv4Addr::new(127, 0, 64, 1));
        let listen = |n: usize| TcpListener::bind((Ipv4Addr::from(first + n as u32), 0)).map_err(|e| e.to_string());
        let listeners = (0..hanging).map(listen).collect::<Result<Vec<_>, _>>()?;
        let addresses = listeners.iter().map(|l| l.local_addr().map_err(|e| e.to_string()));
        let addresses = addresses.collect::<Result<Vec<SocketAddr>, _>>()?;
        let every = |host: String, every_s: u64| json!({"type": 1, "format": format!("@every {every_s}s"), "callback": {"url": format!("http://{host}/")}});
        let crowd = addresses.iter().take(1).flat_map(|host| std::iter::repeat_n(host, CROWD));
        let crowd = crowd.map(|host| every(host.to_string(), 1));
        let hosts = addresses.iter().map(|host| every(host.to_string(), EVERY_S));
        let names = (0..silent).map(|n| every(format!("silent-{n}.xcron.invalid:81"), EVERY_S));
        let tasks: Vec<_> = crowd.chain(hosts).chain(names).collect();
        let nodes = cluster.addresses();
        for (node, part) in nodes.iter().cycle().zip(tasks.chunks(BATCH)) {
            let body = client.post(&format!("{node}/xcron/createTasks"), json!({ "tasks": part }).to_string()).await?;
            if body.windows(8).any(|w| w == b"\"code\":1") {
                return Err(String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned());
            }
        }
        Ok(Trouble { _hanging: listeners })
    }
}
