//! What befalls the machines: how each fault begins, and how it ends.

use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use super::{name, Behind, Cluster, BEHIND_KILLS, IDLE_WRITES_MS};
use crate::seam::simulated::{answers, damage, disk, net};
use crate::sim::faults::{Fault, BEHIND_AWAY_MS};

impl Cluster<'_> {
    pub fn inflict(&mut self, fault: &Fault) {
        match *fault {
            Fault::Crash(ref nodes) => nodes.iter().for_each(|number| self.kill(*number)),
            Fault::Stop(n) => {
                let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(process) = running.get(&n) {
                    process.stop.notify_one();
                    self.stopping.insert(n, self.sim.elapsed().as_millis() as u64);
                }
            }
            Fault::PowerCut(ref nodes, writes) => {
                let until = self.now_ms() + IDLE_WRITES_MS;
                for (_, machine) in self.machines.iter_mut().filter(|(n, _)| nodes.contains(n)) {
                    machine.power_until = Some(until);
                    disk::strike_after(&machine.dir, writes);
                }
            }
            Fault::Isolated(n) => self.all_but(n, true).iter().for_each(|o| self.sim.partition(name(n), o.as_str())),
            Fault::NoPeers(n) => self.all_but(n, false).iter().for_each(|o| self.sim.partition(name(n), o.as_str())),
            Fault::Dumb(n) => {
                self.all_but(n, false).iter().for_each(|o| self.sim.partition_oneway(name(n), o.as_str()));
            }
            Fault::Deaf(n) => {
                self.all_but(n, false).iter().for_each(|o| self.sim.partition_oneway(o.as_str(), name(n)));
            }
            Fault::Turned(n, old) => {
                self.inflict(&Fault::NoPeers(n));
                let others = self.machines.iter().filter(|(number, machine)| ![n, old].contains(number) && machine.up);
                let others: Vec<usize> = others.map(|(number, _)| *number).collect();
                for number in others {
                    self.kill(number);
                    self.start(number);
                }
            }
            Fault::Apart(n, other) => self.sim.partition(name(n), name(other)),
            Fault::SlowDisk(n, ms) => self.disk_of(n, |dir| disk::slow(dir, Duration::from_millis(ms))),
            Fault::FailingDisk(n) => self.disk_of(n, |dir| disk::fail(dir, true)),
            Fault::SlowReads(n, ms) => self.disk_of(n, |dir| disk::slow_reads(dir, Duration::from_millis(ms))),
            Fault::SlowApply(n, ms) => self.disk_of(n, |dir| disk::slow_apply(dir, Duration::from_millis(ms))),
            Fault::Unanswered(n, ms) => self.disk_of(n, |dir| answers::withhold(dir, ms)),
            Fault::Damaged(ref nodes) => nodes.iter().for_each(|n| self.disk_of(*n, |dir| disk::flip(dir, true))),
            Fault::Slow(n, ms) => self.latency(n, Duration::from_millis(ms)),
            Fault::Lossy(n) => self.loss(n, 0.02),
            Fault::Clock(n, ms) => self.machines.get(&n).into_iter().for_each(|machine| machine.clock.shift(ms)),
            Fault::Behind(n) => {
                let lacks = self.log_of_any(|metrics| metrics.last_log_index);
                self.kill(n);
                let starts = self.now_ms() + BEHIND_AWAY_MS;
                let behind = Some(Behind { starts, lacks, dies: None, kills: BEHIND_KILLS });
                self.machines.entry(n).and_modify(|machine| machine.behind = behind);
            }
        }
    }

    pub fn heal(&mut self, fault: &Fault) -> Result<(), String> {
        match *fault {
            Fault::Crash(ref nodes) => nodes.iter().for_each(|number| self.start(*number)),
            Fault::Stop(n) => {
                if self.stopping.contains_key(&n) {
                    if self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&n) {
                        self.world.history().stopped.push(format!("node {n} was asked to stop, and did not"));
                    }
                    self.kill(n);
                    self.start(n);
                }
            }
            Fault::PowerCut(ref nodes, _) => {
                for number in nodes {
                    if self.machines.get(number).is_some_and(|machine| machine.up) {
                        self.kill(*number);
                    }
                    if let Some(machine) = self.machines.get(number) {
                        disk::cut_power(&machine.dir).map_err(|e| format!("the disk of node {number}: {e}"))?;
                    }
                    self.start(*number);
                }
            }
            Fault::Isolated(n) => self.all_but(n, true).iter().for_each(|o| self.sim.repair(name(n), o.as_str())),
            Fault::NoPeers(n) => self.all_but(n, false).iter().for_each(|o| self.sim.repair(name(n), o.as_str())),
            Fault::Turned(n, _) => self.heal(&Fault::NoPeers(n))?,
            Fault::Dumb(n) => {
                self.all_but(n, false).iter().for_each(|o| self.sim.repair_oneway(name(n), o.as_str()));
            }
            Fault::Deaf(n) => {
                self.all_but(n, false).iter().for_each(|o| self.sim.repair_oneway(o.as_str(), name(n)));
            }
            Fault::Apart(n, other) => self.sim.repair(name(n), name(other)),
            Fault::SlowDisk(n, _) => self.disk_of(n, |dir| disk::slow(dir, Duration::ZERO)),
            Fault::SlowReads(n, _) => self.disk_of(n, |dir| disk::slow_reads(dir, Duration::ZERO)),
            Fault::SlowApply(n, _) => self.disk_of(n, |dir| disk::slow_apply(dir, Duration::ZERO)),
            Fault::Unanswered(n, _) => self.disk_of(n, |dir| answers::withhold(dir, 0)),
            Fault::Damaged(ref nodes) => nodes.iter().for_each(|n| self.disk_of(*n, |dir| disk::flip(dir, false))),
            Fault::FailingDisk(n) => {
                let failed = self.machines.get(&n).is_some_and(|machine| disk::has_failed(&machine.dir));
                self.disk_of(n, |dir| disk::fail(dir, false));
                if failed {
                    // It has stopped, or will: an operator starts it again.
                    self.kill(n);
                    self.start(n);
                }
            }
            Fault::Slow(n, _) => self.latency(n, Duration::from_millis(10)),
            Fault::Lossy(n) => {
                self.loss(n, 0.0);
                self.all_but(n, true).iter().for_each(|o| self.sim.repair(name(n), o.as_str()));
            }
            Fault::Clock(n, ms) => self.machines.get(&n).into_iter().for_each(|machine| machine.clock.shift(-ms)),
            Fault::Behind(n) => {
                self.machines.entry(n).and_modify(|machine| machine.behind = None);
                if self.machines.get(&n).is_some_and(|machine| !machine.up) {
                    self.start(n);
                }
            }
        }
        Ok(())
    }

    fn disk_of(&self, number: usize, act: impl Fn(&Path)) {
        self.machines.get(&number).iter().for_each(|machine| act(&machine.dir));
    }

    /// The disk of this node, which is not running, loses the end of its log: zeros are there in place of it.
    pub fn lose_log_end(&self, number: usize, bytes: u64) -> std::io::Result<()> {
        match self.machines.get(&number) {
            Some(machine) => damage::lose_end(&machine.dir.join("log"), bytes),
            None => Ok(()),
        }
    }

    /// Copies all that this node has, which is not running.
    pub fn keep_older(&self, number: usize) -> std::io::Result<()> {
        self.machines.get(&number).map_or(Ok(()), |machine| damage::keep_older(&machine.dir))
    }

    /// Puts what was kept of these parts of this node's directory back; it is not running.
    pub fn put_back(&self, number: usize, is_meant: impl Fn(&str) -> bool) -> std::io::Result<()> {
        self.machines.get(&number).map_or(Ok(()), |machine| damage::put_back(&machine.dir, is_meant))
    }

    /// The addresses of these nodes, which do not run, go to another one, and their names lead there.
    pub fn give_addresses(&self, of: &[usize], to: usize) {
        of.iter().for_each(|number| net::lead_astray(&name(*number), &name(to)));
    }

    /// Cuts the link between these two again, if this fault says so.
    pub fn keep_apart(&mut self, fault: &Fault, other: usize) {
        if let Fault::Turned(n, _) = *fault {
            self.sim.partition(name(n), name(other));
        }
    }

    pub(super) fn start(&mut self, number: usize) {
        self.sim.bounce(name(number));
        self.machines.entry(number).and_modify(|machine| machine.up = true);
    }

    /// Each message between two nodes takes so long from now on.
    pub fn part(&mut self, latency: Duration) {
        for number in self.machines.keys() {
            for other in self.all_but(*number, false) {
                self.sim.set_link_latency(name(*number), other.as_str(), latency);
            }
        }
    }

    fn latency(&mut self, number: usize, max: Duration) {
        for other in self.all_but(number, true) {
            self.sim.set_link_max_message_latency(name(number), other.as_str(), max);
        }
    }

    fn loss(&mut self, number: usize, rate: f64) {
        for other in self.all_but(number, true) {
            self.sim.set_link_fail_rate(name(number), other.as_str(), rate);
        }
    }
}
