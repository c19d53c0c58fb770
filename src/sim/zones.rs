//! Builds with different time zone data: each process brings those of its build, and a node that is started again can be
//! one of a newer build.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::schedule::{made_up, ZoneData};

/// The zone whose rules differ.
pub(super) const ZONE: &str = "Test/Sim";
/// How far ahead its clocks are in each version, in seconds. Less than the shortest rhythm apart, or another way round.
const AHEAD: [i32; 4] = [0, 1, -2, 3];

/// The builds that one node runs, one after the other.
pub(super) struct Builds {
    chance: StdRng,
    version: usize,
    /// Whether newer ones come.
    grow: bool,
}

impl Builds {
    /// Of this node. In some seeds all nodes have the same for good.
    pub fn new(seed: u64, node: usize) -> Builds {
        let same = StdRng::seed_from_u64(seed ^ 0x0020_4e5a).random_bool(0.2);
        let mut chance = StdRng::seed_from_u64(seed ^ ((node as u64) << 40) ^ 0x0020_4e5a);
        let version = if same { 0 } else { chance.random_range(0..2) };
        Builds { chance, version, grow: !same }
    }

    /// The data of the process that starts now.
    pub fn next(&mut self) -> ZoneData {
        let version = self.version;
        if self.grow && version + 1 < AHEAD.len() && self.chance.random_bool(0.4) {
            self.version += 1;
        }
        let letter = char::from(b'a' + version as u8);
        ZoneData::new(&format!("2020{letter}"), [(ZONE, made_up(AHEAD[version], &[]))])
    }
}
