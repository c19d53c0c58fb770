//! The nodes under load: started for it as processes of their own, or running already.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::client::Client;
use crate::clock::monotonic;

const PATIENCE: Duration = Duration::from_secs(30);
const SETTINGS: &str = "xcron.toml";
/// Of the system's clock by which the CPU time of a process is told; the same on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

struct Node {
    child: Child,
    http: String,
    monitor: String,
    dir: PathBuf,
}

/// Starts the node of this directory.
fn start(dir: &Path) -> Result<Child, String> {
    let log = std::fs::File::create(dir.join("log")).map_err(|e| e.to_string())?;
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(program);
    command.arg("-c").arg(dir.join(SETTINGS)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().map_err(|e| format!("a node does not start: {e}"))
}

/// The nodes.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    given: Vec<String>,
    dir: Option<PathBuf>,
}

/// What the nodes have used; all of them together.
#[derive(Clone, Copy, Default)]
pub(super) struct Usage {
    pub cpu_s: f64,
    pub rss_bytes: u64,
    pub disk_bytes: u64,
    pub syncs: f64,
}

impl Cluster {
    /// Nodes that run already. What they use is not known.
    pub fn given(nodes: &[String]) -> Cluster {
        let given = nodes.iter().map(|node| format!("http://{node}")).collect();
        Cluster { nodes: Vec::new(), given, dir: None }
    }

    /// Starts so many nodes that store under `dir`, and waits until they serve.
    pub async fn start(client: &Client, dir: &Path, size: usize) -> Result<Cluster, String> {
        let held = (0..3 * size).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let held = held.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
        let ports = held.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<Vec<_>, _>>();
        let ports = ports.map_err(|e| e.to_string())?;
        drop(held);
        let peers: Vec<String> = ports.chunks(3).map(|p| format!("\"127.0.0.1:{}\"", p[1])).collect();
        let peers = if size > 1 { peers.join(", ") } else { String::new() };
        let root = dir.join(format!("xcron-bench-{}", std::process::id()));
        let mut cluster = Cluster { nodes: Vec::new(), given: Vec::new(), dir: Some(root.clone()) };
        for (n, ports) in ports.chunks(3).enumerate() {
            let dir = root.join(n.to_string());
            std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            let [http, peer, monitor] = [ports[0], ports[1], ports[2]];
            let settings = format!(
                "http_port = {http}\npeer_port = {peer}\nmonitor_port = {monitor}\nraft_dir = {:?}\n\
                 [peer]\npeer_hosts = [{peers}]\n",
                dir.join("data")
            );
            std::fs::write(dir.join(SETTINGS), settings).map_err(|e| e.to_string())?;
            let child = start(&dir)?;
            let (http, monitor) = (format!("http://127.0.0.1:{http}"), format!("http://127.0.0.1:{monitor}"));
            cluster.nodes.push(Node { child, http, monitor, dir });
        }
        cluster.ready(client).await?;
        Ok(cluster)
    }

    /// Waits until all serve.
    async fn ready(&self, client: &Client) -> Result<(), String> {
        let deadline = monotonic() + PATIENCE;
        for node in &self.nodes {
            while client.get(&format!("{}/readyz", node.monitor)).await.is_err() {
                if monotonic() > deadline {
                    return Err(format!("a node is not ready; its log is {}", node.dir.join("log").display()));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// Ends the nodes that were started here as a crash would, and starts them again; how long that takes.
    pub async fn restart(&mut self, client: &Client) -> Result<Duration, String> {
        for node in &mut self.nodes {
            node.child.kill().and_then(|()| node.child.wait()).map_err(|e| e.to_string())?;
        }
        let began = monotonic();
        for node in &mut self.nodes {
            node.child = start(&node.dir)?;
        }
        self.ready(client).await?;
        Ok(began.elapsed())
    }

    /// `http://host:port` of each node.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.http.clone()).chain(self.given.iter().cloned()).collect()
    }

    /// What the nodes have used so far; none: they were not started here.
    pub async fn usage(&self, client: &Client) -> Option<Usage> {
        let mut usage = Usage::default();
        for node in &self.nodes {
            let process = format!("/proc/{}", node.child.id());
            let stat = std::fs::read_to_string(format!("{process}/stat")).unwrap_or_default();
            // After the name, which may have blanks: the state is the first field, user and system time the 12th and 13th.
            let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
            let ticks = |at: usize| fields.get(at).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
            usage.cpu_s += (ticks(11) + ticks(12)) / TICKS_PER_SECOND;
            let status = std::fs::read_to_string(format!("{process}/status")).unwrap_or_default();
            let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
            usage.rss_bytes += kib.unwrap_or(0u64) * 1024;
            usage.disk_bytes += size_of(&node.dir.join("data"));
            let metrics = client.get(&format!("{}/metrics", node.monitor)).await.unwrap_or_default();
            let metrics = String::from_utf8_lossy(&metrics);
            let syncs =
                metrics.lines().find_map(|line| line.strip_prefix("xcron_log_syncs_total")?.split(' ').next_back());
            usage.syncs += syncs.and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        }
        (!self.nodes.is_empty()).then_some(usage)
    }

    /// The position of the node that leads, as another one or it itself knows.
    pub async fn leader(&self, client: &Client) -> Result<usize, String> {
        let deadline = monotonic() + PATIENCE;
        while monotonic() < deadline {
            for node in &self.nodes {
                let Ok(answer) = client.json(&format!("{}/xcron/cluster", node.http)).await else { continue };
                let data = &answer["data"];
                let nodes = data["nodes"].as_array().cloned().unwrap_or_default();
                let leader = nodes.iter().find(|n| !data["leader"].is_null() && n["id"] == data["leader"]);
                let address = leader.and_then(|n| n["http_address"].as_str()).map(|a| format!("http://{a}"));
                if let Some(at) = self.nodes.iter().position(|n| Some(&n.http) == address.as_ref()) {
                    return Ok(at);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err("no node leads".to_owned())
    }

    /// Ends a node as a crash would, or has it stop.
    pub fn end(&mut self, at: usize, stop: bool) -> Result<(), String> {
        let node = self.nodes.get_mut(at).ok_or("there is no such node")?;
        if !stop {
            return node.child.kill().map_err(|e| e.to_string());
        }
        let process = i32::try_from(node.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let process = process.ok_or("the node has no process")?;
        rustix::process::kill_process(process, rustix::process::Signal::TERM).map_err(|e| e.to_string())
    }

    /// Starts a node that was ended, once it is gone, and waits until all serve.
    pub async fn start_again(&mut self, client: &Client, at: usize) -> Result<(), String> {
        let node = self.nodes.get_mut(at).ok_or("there is no such node")?;
        let deadline = monotonic() + PATIENCE;
        while node.child.try_wait().map_err(|e| e.to_string())?.is_none() {
            if monotonic() > deadline {
                return Err("a node does not stop".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        node.child = start(&node.dir)?;
        self.ready(client).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // It may have ended by itself.
            let _ = node.child.kill();
            let _ = node.child.wait();
        }
        if let Some(dir) = &self.dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_of(&entry.path()),
        Ok(meta) => std::os::unix::fs::MetadataExt::blocks(&meta) * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
