//! What goes wrong, and when: a schedule from the seed, carried out between the steps of the simulation.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Cluster;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// These processes are killed, and started again in the end.
    Crash(Vec<usize>),
    /// This node is stopped in order, and started again in the end.
    Stop(usize),
    /// These machines lose power within one of their next writes, and have it again in the end.
    PowerCut(Vec<usize>, u32),
    /// Nothing reaches this node, and nothing leaves it.
    Isolated(usize),
    /// The other nodes are not reached by this one, nor it by them; clients and targets are.
    NoPeers(usize),
    /// What this node sends to the others is lost.
    Dumb(usize),
    /// What the others send to this node is lost.
    Deaf(usize),
    /// What goes to and from this node takes up to so many ms.
    Slow(usize, u64),
    /// Connections to and from this node break.
    Lossy(usize),
    /// The wall clock of this node is off by so many ms.
    Clock(usize, i64),
    /// Nothing passes between these two nodes; others reach both.
    Apart(usize, usize),
    /// Each sync of this node's disk takes so many ms more.
    SlowDisk(usize, u64),
    /// Each write and sync of this node's disk fails.
    FailingDisk(usize),
    /// Each read of a definition from this node's disk takes so many ms.
    SlowReads(usize, u64),
    /// Entries that come together take this node so many ms to apply.
    SlowApply(usize, u64),
    /// Answers to writes that this node has forwarded are withheld for up to so many ms, and half of them lost.
    Unanswered(usize, u64),
    /// This process is killed, and started when the others have purged what it lacks; and killed again, up to a few
    /// times, while it installs a snapshot.
    Behind(usize),
    /// Bits of the snapshots of these nodes are flipped: in the file once it is written, as it is read to be sent, and as
    /// it is received.
    Damaged(Vec<usize>),
    /// Nothing passes between this node and the others, of which all but the second are killed and start again at once.
    Turned(usize, usize),
}

/// A fault with its time, in ms of the simulation.
#[derive(Clone, Debug)]
pub struct Planned {
    /// When it begins.
    pub from: u64,
    /// When it ends.
    pub to: u64,
    /// What it is.
    pub fault: Fault,
    /// Whether it befalls the node that leads when it begins, and not the one that was drawn.
    pub of_leader: bool,
    /// Until when, after its end, the node that leads by then is cut off in its place, and whoever has voted for that one
    /// restarts: an old leader, back among those who may have forgotten that there is a newer one.
    pub turns_until: Option<u64>,
}

/// How many times are tried for slow reads at which their leader can be cut off.
const SLOW_READS_TRIES: usize = 20;

/// The faults of a seed: one after the other and some at once, all over by `end`.
pub fn plan(seed: u64, nodes: usize, end: u64) -> Vec<Planned> {
    let mut chance = StdRng::seed_from_u64(seed ^ 0x00fa_0175);
    let behind = behind(seed, nodes, end);
    let damaged = behind.as_ref().and_then(|behind| damaged(seed, nodes, behind));
    let mut plan: Vec<Planned> = behind
        .into_iter()
        .chain(damaged)
        .chain(unanswered(seed, nodes, end))
        .chain(slow_to_apply(seed, nodes, end))
        .collect();
    let mut at = 2_500;
    loop {
        at += chance.random_range(200..4_000);
        let to = (at + chance.random_range(300..5_000)).min(end);
        if at + 300 >= end {
            break;
        }
        let fault = draw(&mut chance, nodes);
        let turns = matches!(fault, Fault::NoPeers(_)) && chance.random_bool(0.6);
        let turns_until =
            turns.then(|| to + chance.random_range(1_000..2_500)).filter(|until| nodes > 2 && *until <= end);
        let of = if turns_until.is_some() { (1..=nodes).collect() } else { nodes_of(&fault) };
        if !plan.iter().any(|other| clash(other, &fault, &of, at, to)) {
            // Cut links harm most where they are the leader's: it may believe for a while that it leads.
            let of_leader = of_another(&fault, 1).is_some() && (turns_until.is_some() || chance.random_bool(0.7));
            plan.push(Planned { from: at, to, fault, of_leader, turns_until });
        }
    }
    // Disks and single links besides, where there is room for them.
    for _ in 0..chance.random_range(0..4) {
        let from = chance.random_range(2_500..end.max(2_501));
        let to = (from + chance.random_range(300..5_000)).min(end);
        let (node, next) = (chance.random_range(1..=nodes), chance.random_range(1..nodes.max(2)));
        let fault = match chance.random_range(0..3) {
            0 if nodes > 1 => Fault::Apart(node, (node + next - 1) % nodes + 1),
            1 => Fault::FailingDisk(node),
            _ => Fault::SlowDisk(node, chance.random_range(50..1_500)),
        };
        if !plan.iter().any(|other| clash(other, &fault, &nodes_of(&fault), from, to)) {
            plan.push(Planned { from, to, fault, of_leader: false, turns_until: None });
        }
    }
    if chance.random_bool(0.5) {
        let from = chance.random_range(2_500..end.max(2_501));
        let (to, fault) =
            ((from + chance.random_range(300..3_000)).min(end), Fault::Stop(chance.random_range(1..=nodes)));
        if !plan.iter().any(|other| clash(other, &fault, &nodes_of(&fault), from, to)) {
            plan.push(Planned { from, to, fault, of_leader: false, turns_until: None });
        }
    }
    // Beside whatever else there is: a leader reads, and meanwhile it leads no longer. Where it cannot be cut off then, for
    // what befalls it already, another time is tried.
    if chance.random_bool(0.4) {
        for tries_left in (0..SLOW_READS_TRIES).rev() {
            let from = chance.random_range(2_500..end.max(2_501));
            let to = (from + chance.random_range(2_000..8_000)).min(end);
            let slow = Fault::SlowReads(chance.random_range(1..=nodes), chance.random_range(200..900));
            let (cut, fault) = (from + chance.random_range(300..1_500), Fault::NoPeers(chance.random_range(1..=nodes)));
            let healed = (cut + chance.random_range(1_000..4_000)).min(end);
            let fits = cut < healed && !plan.iter().any(|other| clash(other, &fault, &nodes_of(&fault), cut, healed));
            if fits || tries_left == 0 {
                plan.push(Planned { from, to, fault: slow, of_leader: true, turns_until: None });
            }
            if fits {
                plan.push(Planned { from: cut, to: healed, fault, of_leader: true, turns_until: None });
                break;
            }
        }
    }
    plan
}

/// Stops in order, of the leader as a rule, one after the other.
pub fn stops(seed: u64, nodes: usize, end: u64) -> Vec<Planned> {
    let mut chance = StdRng::seed_from_u64(seed ^ 0x5709);
    let (mut at, mut plan) = (2_500, Vec::new());
    while at + 500 < end {
        let (from, to) = (at, at + chance.random_range(100..2_000));
        let (fault, of_leader) = (Fault::Stop(chance.random_range(1..=nodes)), chance.random_bool(0.8));
        plan.push(Planned { from, to, fault, of_leader, turns_until: None });
        at = to + chance.random_range(1_500..4_000);
    }
    plan
}

/// One node falls behind, in most seeds.
fn behind(seed: u64, nodes: usize, end: u64) -> Option<Planned> {
    let mut chance = StdRng::seed_from_u64(seed ^ 0x00be_417d);
    if nodes < 3 || end < BEHIND_MS + 3_000 || chance.random_bool(0.3) {
        return None;
    }
    let from = chance.random_range(2_500..end - BEHIND_MS);
    let fault = Fault::Behind(chance.random_range(1..=nodes));
    Some(Planned { from, to: from + BEHIND_MS, fault, of_leader: false, turns_until: None })
}

/// Snapshots that are damaged around the time at which a node is sent one, in most of the seeds in which one is.
fn damaged(seed: u64, nodes: usize, behind: &Planned) -> Option<Planned> {
    let mut chance = StdRng::seed_from_u64(seed ^ 0x00f1_1b17);
    if chance.random_bool(0.3) {
        return None;
    }
    let all: Vec<usize> = (1..=nodes).collect();
    let one = chance.random_range(1..=nodes);
    let of = if chance.random_bool(0.5) { all } else { vec![one] };
    // The node is sent one once it is back, and again after each that it refuses.
    let from = behind.from + chance.random_range(2_000..BEHIND_AWAY_MS);
    let to = behind.to - chance.random_range(0..1_000);
    Some(Planned { from, to, fault: Fault::Damaged(of), of_leader: false, turns_until: None })
}

/// Nodes whose forwarded writes are not answered for a while, in most seeds; beside whatever else there is.
fn unanswered(seed: u64, nodes: usize, end: u64) -> Vec<Planned> {
    let mut chance = StdRng::seed_from_u64(seed ^ 0x00a5_e4ed);
    let mut plan = Vec::new();
    if nodes > 1 && end > 3_000 {
        for _ in 0..chance.random_range(1..5) {
            let from = chance.random_range(2_500..end);
            let to = (from + chance.random_range(1_000..6_000)).min(end);
            let fault = Fault::Unanswered(chance.random_range(1..=nodes), chance.random_range(100..900));
            plan.push(Planned { from, to, fault, of_leader: false, turns_until: None });
        }
    }
    plan
}

/// A node that is slow to apply what is committed for a while, in half of the seeds; beside whatever else there is.
fn slow_to_apply(seed: u64, nodes: usize, end: u64) -> Option<Planned> {
    let mut chance = StdRng::seed_from_u64(seed ^ 0x0051_0a99);
    if end < 4_000 || chance.random_bool(0.5) {
        return None;
    }
    let from = chance.random_range(2_500..end);
    let to = (from + chance.random_range(1_000..6_000)).min(end);
    let fault = Fault::SlowApply(chance.random_range(1..=nodes), chance.random_range(5..150));
    Some(Planned { from, to, fault, of_leader: chance.random_bool(0.5), turns_until: None })
}

/// How long a node is behind, with the time to catch up; and how long it is away of that, or a little longer.
const BEHIND_MS: u64 = 9_500;
pub(super) const BEHIND_AWAY_MS: u64 = 4_500;

/// One fault at a time on a node, and one wall clock at a time that is off: most must be right.
fn clash(other: &Planned, fault: &Fault, of: &[usize], from: u64, to: u64) -> bool {
    let both_clocks = matches!((fault, &other.fault), (Fault::Clock(..), Fault::Clock(..)));
    let over = other.turns_until.unwrap_or(other.to);
    let beside = over + 500 > from && other.from < to + 500;
    let of_all = other.turns_until.is_some();
    beside && (of_all || both_clocks || nodes_of(&other.fault).iter().any(|node| of.contains(node)))
}

fn draw(chance: &mut StdRng, nodes: usize) -> Fault {
    let node = chance.random_range(1..=nodes);
    let all: Vec<usize> = (1..=nodes).collect();
    match chance.random_range(0..16) {
        0 | 1 => Fault::Crash(vec![node]),
        2 => Fault::Crash(all),
        3 | 4 => Fault::PowerCut(vec![node], chance.random_range(1..12)),
        5 => Fault::PowerCut(all, chance.random_range(1..12)),
        6 | 7 => Fault::Isolated(node),
        8 | 14 | 15 => Fault::NoPeers(node),
        9 => Fault::Dumb(node),
        10 => Fault::Deaf(node),
        11 => Fault::Slow(node, chance.random_range(20..400)),
        12 => Fault::Lossy(node),
        _ => {
            let far = if chance.random_bool(0.5) { 900 } else { 60_000 };
            Fault::Clock(node, chance.random_range(-far..=far))
        }
    }
}

fn nodes_of(fault: &Fault) -> Vec<usize> {
    match fault {
        Fault::Crash(nodes) | Fault::PowerCut(nodes, _) => nodes.clone(),
        Fault::Apart(n, other) => vec![*n, *other],
        // These go with any other one.
        Fault::SlowReads(..) | Fault::SlowApply(..) | Fault::Unanswered(..) | Fault::Damaged(_) => Vec::new(),
        Fault::Stop(n)
        | Fault::Isolated(n)
        | Fault::NoPeers(n)
        | Fault::Dumb(n)
        | Fault::Deaf(n)
        | Fault::Slow(n, _)
        | Fault::Lossy(n)
        | Fault::Turned(n, _)
        | Fault::SlowDisk(n, _)
        | Fault::FailingDisk(n)
        | Fault::Behind(n)
        | Fault::Clock(n, _) => vec![*n],
    }
}

/// The same fault of another node, where it can be the leader's.
fn of_another(fault: &Fault, node: usize) -> Option<Fault> {
    match fault {
        Fault::Stop(_) => Some(Fault::Stop(node)),
        Fault::Isolated(_) => Some(Fault::Isolated(node)),
        Fault::NoPeers(_) => Some(Fault::NoPeers(node)),
        Fault::Dumb(_) => Some(Fault::Dumb(node)),
        Fault::Deaf(_) => Some(Fault::Deaf(node)),
        Fault::SlowReads(_, ms) => Some(Fault::SlowReads(node, *ms)),
        Fault::SlowApply(_, ms) => Some(Fault::SlowApply(node, *ms)),
        _ => None,
    }
}

/// What is going on of a plan.
pub(super) struct Nemesis {
    plan: Vec<Planned>,
    going: Vec<Planned>,
}

impl Nemesis {
    pub fn new(mut plan: Vec<Planned>) -> Nemesis {
        plan.sort_by_key(|planned| std::cmp::Reverse(planned.from));
        Nemesis { plan, going: Vec::new() }
    }

    /// Begins and ends what is to begin and to end by now.
    pub fn step(&mut self, cluster: &mut Cluster<'_>, now: u64) -> Result<(), String> {
        let (over, going) =
            self.going.drain(..).partition::<Vec<_>, _>(|planned| planned.to <= now && cluster.may_end(&planned.fault));
        self.going = going;
        for planned in over {
            // What is cut off in its place is cut off before, so that nothing passes in between.
            if let (Some(to), Fault::NoPeers(old), Some(new)) = (planned.turns_until, &planned.fault, cluster.leader())
            {
                if new != *old {
                    let fault = Fault::Turned(new, *old);
                    self.begin(cluster, Planned { from: now, to, fault, of_leader: false, turns_until: None });
                }
            }
            cluster.note(format!("over: {:?}", planned.fault));
            cluster.heal(&planned.fault)?;
            if let Fault::NoPeers(old) = planned.fault {
                // The link between the two is not healed with it.
                self.going.iter().for_each(|other| cluster.keep_apart(&other.fault, old));
            }
        }
        while let Some(mut planned) = self.plan.pop_if(|planned| planned.from <= now) {
            let leader = cluster.leader().filter(|_| planned.of_leader);
            if let Some(fault) = leader.and_then(|leader| of_another(&planned.fault, leader)) {
                planned.fault = fault;
            }
            self.begin(cluster, planned);
        }
        Ok(())
    }

    fn begin(&mut self, cluster: &mut Cluster<'_>, planned: Planned) {
        cluster.note(format!("fault: {:?}", planned.fault));
        cluster.inflict(&planned.fault);
        self.going.push(planned);
    }
}
