//! Links that lose, delay and part. The nodes are in network namespaces of their own, joined by a switch in a process
//! (`tests/data/machine.c`): TCP is the kernel's, and so is what it makes of a lost frame.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::api::{code, once};
use crate::check::first_fire_after;
use crate::harness::{has_tool, now_ms, run, sleep_ms, sparse_file, Cluster, Node, Place, READY_MAX};
use crate::machine::machine;
use crate::sink::Sink;
use crate::skip::skipped;
use crate::trial::{is_full, rounds, turn, Trial};

/// Ports of the switch; as in `machine.c`.
const PORTS: usize = 16;
/// The last part of this machine's address.
const OWN: usize = 100;

/// Network namespaces, one for each node, and the switch that joins them and this machine. Port 0 is this machine.
pub struct Net {
    spaces: Vec<String>,
    prefix: String,
    switch: Option<Child>,
    control: File,
}

impl Net {
    /// One for so many nodes; none where this machine does not let us.
    pub fn new(dir: &TempDir, nodes: usize) -> Option<Net> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let machine = machine()?;
        if let Some(tool) = ["ip", "nsenter"].iter().find(|tool| !has_tool(tool)) {
            skipped("namespaces", format!("{tool} is missing"));
            return None;
        }
        let own = std::process::id().wrapping_mul(7).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let path = dir.path().join("switch.ctl");
        sparse_file(&path, 8192);
        let control = File::options().read(true).write(true).open(&path).expect("open the control file");
        let prefix = format!("10.{}.{}", 64 + own / 250 % 128, own % 250);
        let mut net = Net { spaces: Vec::new(), prefix, switch: None, control };
        let tap = format!("xcron{}", own % 1_000_000);
        match net.build(machine, &path.display().to_string(), &tap, nodes) {
            Ok(()) => Some(net),
            Err(error) => {
                skipped("namespaces", error);
                None
            }
        }
    }

    fn build(&mut self, machine: &std::path::Path, control: &str, tap: &str, nodes: usize) -> Result<(), String> {
        for n in 1..=nodes {
            let space = format!("{tap}-{n}");
            run("ip", &["netns", "add", &space])?;
            self.spaces.push(space);
        }
        let mut switch = Command::new(machine);
        switch.args(["switch", control, tap]).args(&self.spaces).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut switch = switch.spawn().map_err(|e| e.to_string())?;
        let said = switch.stdout.take().expect("its output");
        self.switch = Some(switch);
        let mut word = String::new();
        BufReader::new(said).read_line(&mut word).map_err(|e| e.to_string())?;
        if word.trim() != "ready" {
            return Err("the switch does not start".to_owned());
        }
        up(&[], tap, 0, &format!("{}.{OWN}/24", self.prefix))?;
        for (at, space) in self.spaces.iter().enumerate() {
            let inside = ["-n", space];
            run("ip", &["-n", space, "link", "set", "lo", "up"])?;
            up(&inside, "eth0", at + 1, &format!("{}.{}/24", self.prefix, at + 1))?;
        }
        Ok(())
    }

    /// Where the nodes are.
    pub fn places(&self) -> Vec<Place> {
        let place = |(at, space): (usize, &String)| Place {
            host: format!("{}.{}", self.prefix, at + 1),
            namespace: Some(space.clone()),
        };
        self.spaces.iter().enumerate().map(place).collect()
    }

    /// From one node to another, one way: how many of a million frames are lost, and how long the others take.
    pub fn link(&self, from: usize, to: usize, lost: i64, delay_ms: i64) {
        let at = 8 * 2 * (PORTS * (from + 1) + to + 1) as u64;
        let bytes = [lost.to_le_bytes(), (delay_ms * 1000).to_le_bytes()].concat();
        self.control.write_all_at(&bytes, at).expect("write the control file");
    }

    /// How many bytes pass from one node to another in a second; 0: any number.
    pub fn link_rate(&self, from: usize, to: usize, bytes_per_s: i64) {
        let at = 8 * (512 + PORTS * (from + 1) + to + 1) as u64;
        self.control.write_all_at(&bytes_per_s.to_le_bytes(), at).expect("write the control file");
    }

    /// From one node to another no frame passes that is longer than so many bytes, or is for this TCP port; 0: all do.
    pub fn bar(&self, from: usize, to: usize, longest: u32, port: u16) {
        let at = 8 * (768 + PORTS * (from + 1) + to + 1) as u64;
        let barred = u64::from(port) << 32 | u64::from(longest);
        self.control.write_all_at(&barred.to_le_bytes(), at).expect("write the control file");
    }

    /// The same of every link between nodes.
    fn rate(&self, bytes_per_s: i64) {
        for from in 0..self.spaces.len() {
            for to in (0..self.spaces.len()).filter(|to| *to != from) {
                self.link_rate(from, to, bytes_per_s);
            }
        }
    }

    /// A target that every node reaches.
    pub async fn sink(&self) -> Sink {
        Sink::start_at(&format!("{}.{OWN}", self.prefix), 0).await
    }

    /// Every link between nodes.
    fn all(&self, lost: i64, delay_ms: i64) {
        for from in 0..self.spaces.len() {
            for to in (0..self.spaces.len()).filter(|to| *to != from) {
                self.link(from, to, lost, delay_ms);
            }
        }
    }

    /// A node hears the others, or not, and is heard or not. The tests and the target reach it all the time.
    pub fn part(&self, node: usize, hears: bool, is_heard: bool) {
        for other in (0..self.spaces.len()).filter(|other| *other != node) {
            self.link(node, other, if is_heard { 0 } else { 1_000_000 }, 0);
            self.link(other, node, if hears { 0 } else { 1_000_000 }, 0);
        }
    }
}

/// Gives an interface the hardware address by which the switch knows its port, and an address.
fn up(inside: &[&str], name: &str, port: usize, address: &str) -> Result<(), String> {
    let hardware = format!("02:00:00:00:00:{port:02x}");
    let ip = |words: &[&str]| run("ip", &[inside, words].concat());
    ip(&["link", "set", name, "address", &hardware])?;
    ip(&["addr", "add", address, "dev", name])?;
    ip(&["link", "set", name, "up"])
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(switch) = &mut self.switch {
            let _ = switch.kill();
            let _ = switch.wait();
        }
        for space in &self.spaces {
            let _ = run("ip", &["netns", "del", space]);
        }
    }
}

/// Three nodes in namespaces, which have not been started; the nodes go before their network.
pub fn apart(more: &str) -> Option<(Cluster, Net)> {
    let dir = TempDir::new().expect("make a directory");
    let net = Net::new(&dir, 3)?;
    let places: Vec<_> = (1..).zip(net.places()).map(|(n, place)| (place, dir.path().join(format!("n{n}")))).collect();
    Some((Cluster::in_places(dir, &places, more), net))
}

/// The same, under load.
async fn joined(more: &str) -> Option<(Trial, Net)> {
    let (mut cluster, net) = apart(more)?;
    cluster.nodes.iter_mut().for_each(Node::spawn);
    assert!(cluster.all_ready(READY_MAX).await);
    let sink = net.sink().await;
    Some((Trial::start(cluster, sink), net))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_parted_from_the_others_is_replaced_and_comes_back() {
    let _turn = turn().await;
    let Some((mut trial, net)) = joined("").await else { return };
    let parted = [
        ("the leader is isolated for 4 s", false, false),
        ("the leader is not heard for 4 s", true, false),
        ("the leader hears nobody for 4 s", false, true),
    ];
    for (name, hears, is_heard) in parted {
        let times = rounds(1, 10);
        for _ in 0..times {
            sleep_ms(1500).await;
            let (leader, term) = trial.cluster.leader().await;
            net.part(leader, hears, is_heard);
            sleep_ms(4000).await;
            first_fire_after(&trial.sink, term).await;
            net.part(leader, true, true);
            assert!(trial.cluster.all_ready(READY_MAX).await);
        }
        trial.check_failover(name, times, "").await;
        trial.again();
    }
    let times = rounds(1, 10);
    for _ in 0..times {
        sleep_ms(1500).await;
        let (leader, _) = trial.cluster.leader().await;
        for _ in 0..6 {
            net.part(leader, false, false);
            sleep_ms(600).await;
            net.part(leader, true, true);
            sleep_ms(400).await;
        }
        assert!(trial.cluster.all_ready(READY_MAX).await);
    }
    trial.check_failover("the leader's link flaps, 0.6 s down and 0.4 s up, six times", times, "").await;
}

/// Links that lose a fifth of all frames and take 25 ms each way.
async fn a_bad_network(name: &str, more: &str) {
    let _turn = turn().await;
    let Some((mut trial, net)) = joined(more).await else { return };
    let times = rounds(1, 4);
    let seconds = if is_full() { 8 } else { 5 };
    for _ in 0..times {
        sleep_ms(1000).await;
        net.all(200_000, 25);
        sleep_ms(seconds * 1000).await;
        net.all(0, 0);
        assert!(trial.cluster.all_ready(READY_MAX).await);
    }
    trial.check(&format!("{name}, for {seconds} s"), times, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_loses_a_fifth_loses_no_task() {
    a_bad_network("20 % loss and 50 ms round trip", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_loses_a_fifth_is_borne_with_longer_timeouts() {
    let more = "[raft]\nheartbeat_ms = 300\nelection_timeout_min_ms = 1500\nelection_timeout_max_ms = 3000\n";
    a_bad_network("20 % loss and 50 ms round trip, election timeouts of 1.5 to 3 s", more).await;
}

/// So many tasks of about 8 kB, for one call.
fn many(name: &str, count: usize, url: &str) -> serde_json::Value {
    let task = |n| {
        let mut task = once(&format!("{name}-{n}"), now_ms() + 3_600_000, url);
        task["callback"]["body"] = json!({ "filler": "x".repeat(8000) });
        task
    };
    json!({ "tasks": (0..count).map(task).collect::<Vec<_>>() })
}

/// Without a mending no entry passed that a link does not carry within a heartbeat, and none that followed it.
#[tokio::test(flavor = "multi_thread")]
async fn slow_links_carry_what_takes_them_long() {
    let _turn = turn().await;
    let Some((mut trial, net)) = joined("").await else { return };
    net.rate(50_000_000 / 8);
    let (leader, _) = trial.cluster.leader().await;
    let http = trial.cluster.nodes[leader].ports.http;
    let api = trial.cluster.api.waiting(Duration::from_secs(20));
    let began = now_ms();
    let answer = api.post(http, "/xcron/createTasks", &many("at-once", 900, &trial.sink.url)).await;
    let results = answer.as_ref().expect("an answer").1["data"]["results"].as_array().cloned().unwrap_or_default();
    let taken = results.iter().filter(|result| result["code"] == 0).count();
    assert_eq!(taken, 900, "of 900 tasks at once over 50 Mbit/s: {:?}", results.iter().find(|r| r["code"] != 0));
    let at_once_ms = now_ms() - began;

    // A follower catches up over less.
    let away = (0..3).find(|at| *at != leader).expect("there is another");
    net.rate(0);
    trial.cluster.nodes[away].kill();
    for n in 0..10 {
        let answer = api.post(http, "/xcron/createTasks", &many(&format!("missed-{n}"), 200, &trial.sink.url)).await;
        assert_eq!(code(&answer), Some(0), "{answer:?}");
    }
    net.rate(20_000_000 / 8);
    let began = now_ms();
    trial.cluster.nodes[away].spawn();
    trial.cluster.caught_up(Duration::from_secs(60)).await;
    let note = format!("7.2 MB at once: {at_once_ms} ms; 16 MB that were missed: {} ms", now_ms() - began);
    net.rate(0);
    trial.check("50 Mbit/s between the nodes, then 20 Mbit/s", 1, &note).await;
}
