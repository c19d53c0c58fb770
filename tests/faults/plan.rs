//! What goes wrong in a round of the nemesis, drawn from a seed.

use std::fmt;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

/// Which faults this machine can make, besides signals.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// By the preloaded library.
    pub inner: bool,
    /// By disks of their own.
    pub disks: bool,
    /// By links that can be cut.
    pub links: bool,
}

/// One way to break a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `kill -9`; it is started again at the end of the fault.
    Kill,
    /// SIGTERM; it is started again at the end of the fault.
    Term,
    /// SIGSTOP until the end.
    Stop,
    /// The next write is cut short, and the process dies with it. It is started again at once.
    TornWrite { thousandths: i64 },
    /// `fsync` fails.
    SyncFails,
    /// `fsync` takes longer.
    SlowSync { ms: i64 },
    /// Every write fails with EIO.
    WriteFails,
    /// Every write fails with ENOSPC, though there is room.
    WriteNoRoom,
    /// The wall clock is off.
    Clock { seconds: i64 },
    /// Another's file takes all of the disk.
    FullDisk,
    /// What was not synced is gone; the machine is back at the end of the fault.
    PowerCut,
    /// The node does not hear the others, or is not heard, or both.
    Cut { hears: bool, is_heard: bool },
    /// The first of the two nodes is not heard by the second, or neither by the other.
    PairCut { both: bool },
    /// Its links lose so many of a million frames and hold up the others.
    BadLinks { lost: i64, delay_ms: i64 },
    /// Its links pass so many bytes in a second.
    SlowLinks { bytes_per_s: i64 },
}

impl Kind {
    /// Whether a process may end by itself because of it.
    pub fn is_of_disk(self) -> bool {
        use Kind::{FullDisk, PowerCut, SyncFails, WriteFails, WriteNoRoom};
        matches!(self, SyncFails | WriteFails | WriteNoRoom | FullDisk | PowerCut)
    }

    /// Whether there is no process until the end of the fault.
    pub fn holds_down(self) -> bool {
        matches!(self, Kind::Kill | Kind::Term | Kind::PowerCut)
    }

    /// Its name, without figures.
    pub fn name(self) -> String {
        format!("{self:?}").split(' ').next().unwrap_or_default().to_owned()
    }

    fn draw(rng: &mut StdRng, means: Means) -> Kind {
        let mut kinds = vec![Kind::Kill, Kind::Kill, Kind::Term, Kind::Stop, Kind::Stop];
        let (hears, is_heard) = *[(false, false), (true, false), (false, true)].choose(rng).expect("there are some");
        if means.links {
            let cut = Kind::Cut { hears, is_heard };
            let bad = Kind::BadLinks { lost: rng.random_range(0..400_000), delay_ms: rng.random_range(0..60) };
            let slow = Kind::SlowLinks { bytes_per_s: 1000 * rng.random_range(50..2000) };
            kinds.extend([cut, cut, Kind::PairCut { both: rng.random_bool(0.5) }, bad, slow]);
        }
        if means.inner {
            let seconds = rng.random_range(60..7200) * if rng.random_bool(0.5) { 1 } else { -1 };
            let torn = Kind::TornWrite { thousandths: rng.random_range(1..1000) };
            let slow = Kind::SlowSync { ms: rng.random_range(20..3000) };
            let clock = Kind::Clock { seconds };
            kinds.extend([torn, slow, clock, Kind::SyncFails, Kind::WriteFails, Kind::WriteNoRoom]);
        }
        if means.disks {
            kinds.extend([Kind::FullDisk, Kind::PowerCut, Kind::PowerCut]);
        }
        *kinds.choose(rng).expect("there are some")
    }
}

/// Which nodes a fault is for.
#[derive(Clone, Debug)]
pub enum Whom {
    /// The node that leads when the fault begins; this one where none is known.
    Leader(usize),
    These(Vec<usize>),
}

/// Something that goes wrong for a while.
#[derive(Clone, Debug)]
pub struct Fault {
    pub at_ms: u64,
    pub for_ms: u64,
    pub whom: Whom,
    pub kind: Kind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |nodes: &[usize]| nodes.iter().map(|at| format!("n{}", at + 1)).collect::<Vec<_>>().join(" ");
        let whom = match &self.whom {
            Whom::Leader(or) => format!("the leader (or n{})", or + 1),
            Whom::These(nodes) => names(nodes),
        };
        write!(f, "{:5} to {:5} ms: {:?} of {whom}", self.at_ms, self.at_ms + self.for_ms, self.kind)
    }
}

/// What goes wrong in a round, by its begin.
#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: usize,
    pub faults: Vec<Fault>,
}

/// Nodes of a round: three, or five where the seed is odd.
pub fn nodes_of(seed: u64) -> usize {
    if seed % 2 == 1 {
        5
    } else {
        3
    }
}

impl Plan {
    /// The faults of a seed, which are over after `window_ms` or a little later.
    pub fn draw(seed: u64, means: Means, window_ms: u64) -> Plan {
        let (nodes, mut rng) = (nodes_of(seed), StdRng::seed_from_u64(seed));
        // Of clocks a minority may be wrong; a majority would be right.
        let mut wrong_clocks: Vec<usize> = (0..nodes).collect();
        wrong_clocks.shuffle(&mut rng);
        wrong_clocks.truncate((nodes - 1) / 2);
        let mut faults = Vec::new();
        for _ in 0..rng.random_range(3..=6) {
            let kind = Kind::draw(&mut rng, means);
            let for_ms = rng.random_range(200..window_ms / 2);
            let at_ms = rng.random_range(0..window_ms - for_ms);
            faults.push(Fault { at_ms, for_ms, whom: whom(&mut rng, kind, nodes, &wrong_clocks), kind });
        }
        // A node that is away until the others have purged what it lacks.
        if rng.random_bool(0.5) {
            let (at_ms, for_ms) =
                (rng.random_range(0..window_ms / 4), rng.random_range(window_ms / 2..window_ms * 3 / 4));
            faults.push(Fault { at_ms, for_ms, whom: Whom::These(vec![rng.random_range(0..nodes)]), kind: Kind::Kill });
        }
        // Another fault while a node is being started.
        for restarted in faults.clone() {
            if restarted.kind.holds_down() && rng.random_bool(0.6) {
                let kind = Kind::draw(&mut rng, means);
                let at_ms = restarted.at_ms + restarted.for_ms + rng.random_range(0..400);
                let whom = whom(&mut rng, kind, nodes, &wrong_clocks);
                faults.push(Fault { at_ms, for_ms: rng.random_range(200..3000), whom, kind });
            }
        }
        faults.sort_by_key(|fault| fault.at_ms);
        Plan { nodes, faults }
    }

    /// The most faults that go on at the same time.
    pub fn most_at_once(&self) -> usize {
        let at = |ms: u64| self.faults.iter().filter(|f| (f.at_ms..f.at_ms + f.for_ms).contains(&ms)).count();
        self.faults.iter().map(|fault| at(fault.at_ms)).max().unwrap_or(0)
    }
}

/// The leader, one node, a majority, or all.
fn whom(rng: &mut StdRng, kind: Kind, nodes: usize, wrong_clocks: &[usize]) -> Whom {
    let mut all: Vec<usize> = (0..nodes).collect();
    all.shuffle(rng);
    let count = match kind {
        Kind::Clock { .. } => {
            return Whom::These(wrong_clocks[..rng.random_range(1..=wrong_clocks.len())].to_vec());
        }
        Kind::PairCut { .. } => 2,
        _ => match rng.random_range(0..100) {
            0..30 => return Whom::Leader(all[0]),
            30..65 => 1,
            65..90 => nodes / 2 + 1,
            _ => nodes,
        },
    };
    Whom::These(all[..count].to_vec())
}
