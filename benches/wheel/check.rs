//! Whether a queue does the same as a `BTreeMap`: one that loses, duplicates, delays or hastens a timer ends the bench.

use crate::queue::{Queue, Tree};
use crate::script::{Churn, Numbers, Script};

/// What came out, by the truth.
pub struct Truth {
    /// How many timers at each step, and a sum that depends on which they are.
    steps: Vec<(usize, u64)>,
    churn: (usize, u64),
}

impl Truth {
    pub fn of(script: &Script, churn: &Churn) -> Self {
        let steps = trace::<Tree>(script);
        assert_eq!(steps.iter().map(|step| step.0).sum::<usize>(), script.len(), "the truth fires every live timer");
        let churned = churn.play(&mut Tree::new(), &mut Vec::new());
        assert_eq!(churned.0, churn.fires, "the truth fires what isn't cancelled");
        Truth { steps, churn: churned }
    }
}

fn trace<Q: Queue>(script: &Script) -> Vec<(usize, u64)> {
    let mut queue = Q::new();
    let mut handles = Vec::with_capacity(script.len());
    script.insert(&mut queue, &mut handles);
    script.shuffle(&mut handles);
    script.cancel(&mut queue, &mut handles);
    script.insert_again(&mut queue, &mut handles);
    let mut out = Vec::new();
    let trace = script.steps().map(|now_ms| {
        out.clear();
        queue.advance(now_ms, &mut out);
        let ordered = out.is_sorted_by_key(|&key| script.deadline_ms(key));
        assert!(ordered || !Q::ORDERED, "{} over {}: out of order at {now_ms}", Q::NAME, script.deadlines.name());
        (out.len(), out.iter().fold(0u64, |sum, &key| sum.wrapping_add(Numbers(key).next())))
    });
    trace.collect()
}

/// Compares with the truth: each step of the script, and the whole of the churn.
pub fn check<Q: Queue>(script: &Script, churn: &Churn, truth: &Truth) {
    let name = script.deadlines.name();
    for (step, (found, expected)) in trace::<Q>(script).iter().zip(&truth.steps).enumerate() {
        assert_eq!(found, expected, "{} over {name}: step {step} fires others", Q::NAME);
    }
    assert_eq!(churn.play(&mut Q::new(), &mut Vec::new()), truth.churn, "{}: the churn fires others", Q::NAME);
}
