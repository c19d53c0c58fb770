//! Makes a script small that shows something.

use futures::future::join_all;

use crate::check::{check, Found};
use crate::play::play;
use crate::script::{Call, Plan, Script};

/// Rounds that are played at the same time, and how often such a set at most.
const AT_ONCE: usize = 4;
const SETS_MAX: usize = 12;

/// Plays a script; what it shows.
pub async fn found(script: &Script) -> Vec<Found> {
    let story = play(script).await;
    check(script, &story).found
}

/// The smallest script that could be had which breaks the same rule.
pub async fn shrink(script: &Script, shown: &Found) -> Script {
    let (mut small, mut sets) = (script.clone(), 0);
    let alone = alone(script, shown);
    let mut tries = vec![Script { kill_ms: None, ..alone.clone() }, alone];
    while sets < SETS_MAX && !tries.is_empty() {
        sets += 1;
        let now: Vec<Script> = tries.drain(..tries.len().min(AT_ONCE)).collect();
        let shows = join_all(
            now.iter().map(|script| async { found(script).await.iter().any(|found| found.rule == shown.rule) }),
        );
        let first = shows.await.iter().position(|shows| *shows);
        if let Some(at) = first {
            small = now[at].clone();
            tries = smaller(&small);
        }
    }
    small
}

/// The script without the tasks that have nothing to do with what was found.
pub fn alone(script: &Script, shown: &Found) -> Script {
    // A task and those that it triggers have names that begin alike.
    let family = shown.task.trim_end_matches(['a', 'b', 'c']);
    let plans = script.plans.iter().filter(|plan| plan.id.starts_with(family)).cloned().collect();
    Script { plans, ..script.clone() }
}

/// The same script with one thing less, each.
fn smaller(script: &Script) -> Vec<Script> {
    let mut all = Vec::new();
    let with = |at: usize, change: &dyn Fn(&mut Plan)| {
        let mut script = script.clone();
        change(&mut script.plans[at]);
        script
    };
    for (at, plan) in script.plans.iter().enumerate() {
        if script.plans.len() > 1 {
            let mut script = script.clone();
            script.plans.remove(at);
            all.push(script);
        }
        for (n, step) in plan.steps.iter().enumerate() {
            if step.call != Call::Create {
                all.push(with(at, &|plan| drop(plan.steps.remove(n))));
            }
        }
        if plan.answers.len() > 1 {
            all.push(with(at, &|plan| plan.answers.truncate(1)));
            all.push(with(at, &|plan| drop(plan.answers.remove(0))));
        }
        let optional = plan.task.as_object().into_iter().flat_map(|fields| fields.keys());
        for field in
            optional.filter(|field| !["task_id", "type", "format", "delay_ms", "callback"].contains(&field.as_str()))
        {
            all.push(with(at, &|plan| drop(plan.task.as_object_mut().map(|fields| fields.remove(field)))));
        }
    }
    all
}
