//! The hands of the nemesis: does to a cluster what a plan says, and starts again what has ended.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{holds_within, now_ms, sleep_ms, Cluster, Node, READY_MAX};
use crate::machine::{Disk, Inner, Slot, EIO, ENOSPC, MIB};
use crate::net::Net;
use crate::plan::{Fault, Kind, Means, Plan, Whom};
use crate::sink::Sink;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
/// A process that has ended by itself is started again after this, as a supervisor does it.
const RESTART_MS: u64 = 500;
/// Room for the log, the store, and snapshots of a round.
const DISK_BYTES: u64 = 256 * MIB;

/// A fault that goes on, and the nodes that it has met.
struct Going {
    fault: Fault,
    nodes: Vec<usize>,
    begun: u64,
}

/// What is known of a node's process.
#[derive(Clone, Default)]
struct Life {
    /// It may end with an error: its disk has failed since it was started.
    may_fail: bool,
    /// How often SIGTERM was sent; a second one ends it at once.
    told: usize,
    /// SIGTERM was sent before the process had come so far as to receive it: it ends by it.
    is_early: bool,
    /// A write was to be torn.
    is_torn: bool,
    /// It has ended by itself, at this time.
    ended_ms: Option<u64>,
    /// Its disk has no power.
    is_dark: bool,
}

/// What the machine lends to break nodes with. Nodes go before it does.
pub struct Havoc {
    inner: Option<Vec<Inner>>,
    disks: Option<Vec<Disk>>,
    net: Option<Net>,
    lives: Vec<Life>,
    going: Vec<Going>,
    /// Faults that have begun, by name.
    pub counts: BTreeMap<String, usize>,
    /// How often a process was started again.
    pub restarts: usize,
    /// Processes that have ended and had no reason to.
    pub wrong: Vec<String>,
}

impl Havoc {
    /// Nodes that do not run yet, with all that this machine has to break them.
    pub fn ready(count: usize, more: &str) -> (Cluster, Havoc) {
        let dir = TempDir::new().expect("make a directory");
        let net = Net::new(&dir, count);
        let disks = Disk::several(dir.path(), count, DISK_BYTES);
        let base = dir.path().to_owned();
        let places = net.as_ref().map_or_else(|| vec![crate::harness::Place::here(); count], Net::places);
        let (disks, data) = disks.map_or_else(
            || (None, (1..=count).map(|n| base.join(format!("n{n}"))).collect()),
            |(disks, data)| (Some(disks), data),
        );
        let places: Vec<_> = places.into_iter().zip(data).collect();
        let mut cluster = Cluster::in_places(dir, &places, more);
        let inner = Inner::of_all(&mut cluster, "");
        let lives = vec![Life::default(); count];
        let (going, counts, wrong) = (Vec::new(), BTreeMap::new(), Vec::new());
        (cluster, Havoc { inner, disks, net, lives, going, counts, restarts: 0, wrong })
    }

    /// What it can do.
    pub fn means(&self) -> Means {
        Means { inner: self.inner.is_some(), disks: self.disks.is_some(), links: self.net.is_some() }
    }

    /// A target that every node reaches all the time.
    pub async fn sink(&self) -> Sink {
        match &self.net {
            Some(net) => net.sink().await,
            None => Sink::start().await,
        }
    }

    /// Does what the plan says, from its first fault to the end of its last.
    pub async fn carry_out(&mut self, cluster: &mut Cluster, plan: &Plan) {
        let began = now_ms();
        let mut to_come = plan.faults.iter().cloned();
        let mut next = to_come.next();
        while next.is_some() || !self.going.is_empty() {
            let now = now_ms() - began;
            let over = |going: &Going| now >= going.begun + going.fault.for_ms;
            let ended: Vec<Going> = self.going.extract_if(.., |going| over(going)).collect();
            let mut changed = !ended.is_empty();
            for going in &ended {
                self.end(cluster, going).await;
            }
            while let Some(fault) = next.take_if(|fault| fault.at_ms <= now) {
                self.begin(cluster, fault, now).await;
                next = to_come.next();
                changed = true;
            }
            if changed {
                self.set_levels();
            }
            self.tend(cluster).await;
            sleep_ms(20).await;
        }
    }

    /// Nothing is broken any more: waits until all nodes are ready; after how many ms they were, if in time.
    pub async fn mended(&mut self, cluster: &mut Cluster) -> Option<u64> {
        let began = now_ms();
        let ready = holds_within(READY_MAX, async || {
            self.tend(cluster).await;
            cluster.nodes.iter().all(Node::runs) && cluster.all_ready(Duration::ZERO).await
        });
        ready.await.then(|| now_ms() - began)
    }

    fn has(&self, node: usize, is: impl Fn(Kind) -> bool) -> bool {
        self.going.iter().any(|going| is(going.fault.kind) && going.nodes.contains(&node))
    }

    async fn begin(&mut self, cluster: &mut Cluster, fault: Fault, now: u64) {
        let nodes = match &fault.whom {
            Whom::These(nodes) => nodes.clone(),
            Whom::Leader(or) => vec![leads(cluster).await.unwrap_or(*or)],
        };
        println!("{now:6} ms: {:?} of {nodes:?}", fault.kind);
        *self.counts.entry(fault.kind.name()).or_default() += 1;
        // All at the same moment, before one is waited for.
        for (at, node) in nodes.iter().map(|at| (*at, &cluster.nodes[*at])).filter(|(_, node)| node.runs()) {
            match fault.kind {
                Kind::Kill => node.signal("KILL"),
                Kind::Term => {
                    self.lives[at].is_early = !node.receives(SIGTERM);
                    node.signal("TERM");
                }
                Kind::Stop => node.signal("STOP"),
                _ => {}
            }
        }
        for at in nodes.iter().copied() {
            let (node, life) = (&mut cluster.nodes[at], &mut self.lives[at]);
            match fault.kind {
                Kind::Kill => node.kill(),
                Kind::Term => life.told += 1,
                Kind::TornWrite { thousandths } => {
                    self.inner.as_ref().expect("it has them")[at].set(Slot::Torn, thousandths)
                }
                Kind::PowerCut => {
                    if !std::mem::replace(&mut life.is_dark, true) {
                        self.disks.as_ref().expect("it has them")[at].cut_power();
                    }
                    node.kill();
                }
                _ => {}
            }
        }
        self.going.push(Going { fault, nodes, begun: now });
    }

    async fn end(&mut self, cluster: &mut Cluster, ended: &Going) {
        for at in ended.nodes.iter().copied() {
            let still = self.has(at, |kind| kind.name() == ended.fault.kind.name());
            let fills = self.has(at, |kind| kind == Kind::FullDisk);
            let (node, life) = (&mut cluster.nodes[at], &mut self.lives[at]);
            let disk = self.disks.as_mut().map(|disks| &mut disks[at]);
            match (ended.fault.kind, disk) {
                // It has had its time.
                (Kind::Term, _) if life.told > 0 => node.kill(),
                (Kind::Stop, _) if !still && node.runs() => node.signal("CONT"),
                (Kind::TornWrite { .. }, _) => self.inner.as_ref().expect("it has them")[at].set(Slot::Torn, 0),
                (Kind::PowerCut, Some(disk)) if !still => {
                    disk.again().await;
                    life.is_dark = false;
                    if !fills {
                        disk.make_room();
                    }
                }
                (Kind::FullDisk, Some(disk)) if !still => disk.make_room(),
                _ => {}
            }
        }
    }

    /// Sets what is as it is for as long as a fault goes on: links, and what a process does to itself.
    fn set_levels(&self) {
        for (at, inner) in self.inner.iter().flatten().enumerate() {
            let (mut sync_errno, mut sync_us, mut write_errno, mut clock_s) = (0, 0, 0, 0);
            for going in self.going.iter().filter(|going| going.nodes.contains(&at)) {
                match going.fault.kind {
                    Kind::SyncFails => sync_errno = EIO,
                    Kind::SlowSync { ms } => sync_us = sync_us.max(1000 * ms),
                    Kind::WriteFails => write_errno = EIO,
                    Kind::WriteNoRoom => write_errno = ENOSPC,
                    Kind::Clock { seconds } => clock_s = seconds,
                    _ => {}
                }
            }
            inner.set(Slot::SyncErrno, sync_errno);
            inner.set(Slot::SyncUs, sync_us);
            inner.set(Slot::WriteErrno, write_errno);
            inner.set(Slot::ClockS, clock_s);
        }
        let Some(net) = &self.net else { return };
        for from in 0..self.lives.len() {
            for to in (0..self.lives.len()).filter(|to| *to != from) {
                let (mut lost, mut delay, mut rate) = (0, 0, 0);
                for Going { fault, nodes, .. } in &self.going {
                    let either = nodes.contains(&from) || nodes.contains(&to);
                    match fault.kind {
                        Kind::Cut { hears, is_heard } => {
                            let cut = (nodes.contains(&from) && !is_heard) || (nodes.contains(&to) && !hears);
                            lost = if cut { 1_000_000 } else { lost };
                        }
                        Kind::PairCut { both } if nodes[..] == [from, to] || (both && nodes[..] == [to, from]) => {
                            lost = 1_000_000;
                        }
                        Kind::BadLinks { lost: some, delay_ms } if either => {
                            (lost, delay) = (lost.max(some), delay.max(delay_ms));
                        }
                        Kind::SlowLinks { bytes_per_s } if either => rate = bytes_per_s,
                        _ => {}
                    }
                }
                net.link(from, to, lost, delay);
                net.link_rate(from, to, rate);
            }
        }
    }

    /// Starts what is to run and does not, and judges what has ended by itself.
    async fn tend(&mut self, cluster: &mut Cluster) {
        for at in 0..cluster.nodes.len() {
            let is_sick = self.has(at, Kind::is_of_disk);
            let is_held = self.has(at, Kind::holds_down);
            let fills = self.has(at, |kind| kind == Kind::FullDisk);
            let tears = self.has(at, |kind| matches!(kind, Kind::TornWrite { .. }));
            let (node, life) = (&mut cluster.nodes[at], &mut self.lives[at]);
            life.may_fail |= is_sick;
            life.is_torn |= tears;
            if let Some(disks) = self.disks.as_ref().filter(|_| fills && !life.is_dark) {
                disks[at].fill();
            }
            if node.runs() && node.has_ended() {
                let status = node.exit(Duration::from_secs(1)).await;
                if !may_end(life, status) {
                    self.wrong.push(format!("{} has ended by itself: {status}", node.name));
                }
                println!("           {} has ended: {status}", node.name);
                life.ended_ms = Some(now_ms());
            }
            let rests = life.ended_ms.is_some_and(|ended| now_ms() < ended + RESTART_MS);
            if !node.runs() && !is_held && !rests {
                *life = Life { may_fail: is_sick, is_torn: tears, ..Life::default() };
                node.spawn();
                self.restarts += 1;
            }
        }
    }
}

fn may_end(life: &Life, status: ExitStatus) -> bool {
    match (status.signal(), status.code()) {
        (Some(SIGKILL), _) => life.is_torn,
        (Some(SIGTERM), _) => life.is_early,
        (_, Some(0)) => life.told > 0,
        (_, Some(1)) => life.may_fail || life.told > 1,
        _ => false,
    }
}

/// Which node leads, as most of those know that answer at once.
async fn leads(cluster: &Cluster) -> Option<usize> {
    let running = (0..cluster.nodes.len()).filter(|at| cluster.nodes[*at].runs());
    let asked = running.map(|at| tokio::time::timeout(Duration::from_millis(300), cluster.leader_as_seen_by(at)));
    let mut votes: BTreeMap<usize, usize> = BTreeMap::new();
    for leader in futures::future::join_all(asked).await.into_iter().flatten().flatten() {
        *votes.entry(leader).or_default() += 1;
    }
    votes.into_iter().max_by_key(|(_, votes)| *votes).map(|(leader, _)| leader)
}
