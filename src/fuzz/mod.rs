//! What fuzzing asks: for each target a function that takes any bytes and panics where something is wrong.
//!
//! The binaries of `fuzz/` call these functions, and so do the tests below, which replay the kept inputs of
//! `fuzz/corpus` and add random ones: what a long run has found stays found. A target reads its input either as the
//! bytes that come from outside (a body, a message, a file) or as choices, from which it makes something that is nearly
//! right: most of what goes wrong lies a step beside what is right. `doc/testing.md` has the commands.

mod guard;
#[cfg(test)]
mod histories;
mod peer;
mod schedule;
mod schedule_slowly;
mod state;
#[cfg(test)]
mod store;
mod wheel;

use crate::choices::Choices;

/// A target: takes any bytes, panics where something is wrong.
pub type Target = fn(&[u8]);

/// Every target, by the name of its binary and of its corpus.
pub const TARGETS: [(&str, Target); 11] = [
    ("answer", crate::dispatcher::fuzz::answer),
    ("body", crate::http::fuzz::body),
    ("files", crate::storage::fuzz::files),
    ("guard", guard::run),
    ("log", crate::storage::fuzz::log),
    ("message", crate::raft::fuzz::message),
    ("peer", peer::run),
    ("query", crate::http::fuzz::query),
    ("schedule", schedule::run),
    ("state", state::run),
    ("wheel", wheel::run),
];

/// Runs one target.
///
/// # Panics
/// Where there is no target of this name, and where the target finds something wrong.
pub fn run(name: &str, data: &[u8]) {
    match TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, target)) => target(data),
        None => panic!("there is no target {name}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rand::rngs::StdRng;
    use rand::{Rng, RngCore, SeedableRng};

    use super::*;

    /// Inputs made for each target, beside those that are kept.
    const RANDOM: u64 = 300;

    /// Says which input it was: the message of a panic alone would not.
    fn try_one(name: &str, target: Target, what: &str, data: &[u8]) {
        let outcome = std::panic::catch_unwind(|| target(data));
        assert!(outcome.is_ok(), "{name} fails with {what}: {data:02x?}");
    }

    fn replay(name: &str) {
        let &(_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut kept: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
        kept.sort();
        assert!(!kept.is_empty(), "{} is empty", dir.display());
        let mut inputs = Vec::new();
        for path in kept {
            let data = std::fs::read(&path).unwrap();
            try_one(name, target, &path.display().to_string(), &data);
            inputs.push(data);
        }
        for seed in 0..RANDOM {
            let mut random = StdRng::seed_from_u64(seed);
            let mut data = match seed % 3 {
                // A kept input with a few bytes changed.
                0 => inputs[random.random_range(0..inputs.len())].clone(),
                _ => vec![0; random.random_range(0..1200)],
            };
            if seed % 3 == 0 {
                for _ in 0..random.random_range(1..8) {
                    let at = random.random_range(0..data.len().max(1));
                    data.get_mut(at).into_iter().for_each(|byte| *byte = random.random());
                }
            } else {
                random.fill_bytes(&mut data);
            }
            try_one(name, target, &format!("seed {seed}"), &data);
        }
    }

    #[test]
    fn answers() {
        replay("answer");
    }

    #[test]
    fn bodies() {
        replay("body");
    }

    #[test]
    fn files() {
        replay("files");
    }

    #[test]
    fn targets_of_callbacks() {
        replay("guard");
    }

    #[test]
    fn logs() {
        replay("log");
    }

    #[test]
    fn messages() {
        replay("message");
    }

    #[test]
    fn peers() {
        replay("peer");
    }

    #[test]
    fn queries() {
        replay("query");
    }

    #[test]
    fn schedules() {
        replay("schedule");
    }

    /// Nearly all of them can be read, where of random bytes few can.
    #[test]
    fn schedules_of_the_quartz_form() {
        for seed in 0..3000 {
            let mut data = [1; 200];
            StdRng::seed_from_u64(seed).fill_bytes(&mut data[1..]);
            try_one("schedule", schedule::run, &format!("seed {seed}"), &data);
        }
    }

    #[test]
    fn states() {
        replay("state");
    }

    #[test]
    fn wheels() {
        replay("wheel");
    }

    #[test]
    fn each_target_has_a_binary_and_the_kept_inputs_are_small() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let mut bytes = 0;
        for (name, _) in TARGETS {
            assert!(fuzz.join("fuzz_targets").join(name).with_extension("rs").exists(), "{name} has no binary");
            for file in std::fs::read_dir(fuzz.join("corpus").join(name)).unwrap() {
                bytes += file.unwrap().metadata().unwrap().len();
            }
        }
        assert!(bytes < 200_000, "{bytes} bytes");
    }
}
