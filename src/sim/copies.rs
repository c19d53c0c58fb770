//! One disk of three comes back with an older copy of a part of its directory, or of all.
//!
//! ```text
//!  three nodes,      a copy of one     another term,       that node ends,       others die and come back
//!  all level    ──►  is made      ──►  and more tasks ──►  its copy is put  ──►  (the story tells which)
//!                                                          back, it starts
//! ```

use std::path::Path;
use std::sync::Arc;

use super::cluster::Cluster;
use super::elections::Stage;
use super::faults::Fault;
use super::{in_world, Options, World, TICK};
use crate::seam::bug::Bug;
use crate::seam::simulated::planted;

const NODES: usize = 3;
/// Tasks that are made after the copy.
const TASKS: usize = 40;
/// In which a node that starts has done what it does, and one that is cut off knows of it.
const SETTLE_MS: u64 = 4_000;

/// What is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    All,
    /// All but who the node is.
    AllButIdentity,
    /// The log, with the vote.
    Log,
    /// The vote, and how often the node has started.
    LogMeta,
    /// Who the node is.
    Identity,
    /// The store, and the note of what is in it.
    Store,
    /// The note of what is in the store.
    Note,
    /// The store alone: the note is of a later one.
    StoreWithoutNote,
    /// The snapshots.
    Snapshots,
}

impl Part {
    /// Each of them.
    pub const EACH: [Part; 9] = [
        Part::All,
        Part::AllButIdentity,
        Part::Log,
        Part::LogMeta,
        Part::Identity,
        Part::Store,
        Part::Note,
        Part::StoreWithoutNote,
        Part::Snapshots,
    ];

    /// Whether this entry of a node's directory belongs to it.
    fn has(self, name: &str) -> bool {
        let (meta, store) = (name == "log/meta", name.starts_with("state-"));
        match self {
            Part::All => !meta,
            Part::AllButIdentity => !meta && name != "identity",
            Part::Log => name == "log",
            Part::LogMeta => meta,
            Part::Identity => name == "identity",
            Part::Store => store || name == "checkpoint",
            Part::Note => name == "checkpoint",
            Part::StoreWithoutNote => store,
            Part::Snapshots => name == "snapshots",
        }
    }
}

/// Who else has what was made after the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    /// Both others. Once the node is back, the leader dies.
    Both,
    /// One other, which dies when the node comes back: whoever is left may not do without what it has.
    One,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Tasks that were acknowledged after the copy.
    pub acknowledged: usize,
    /// Those of them that a linearizable read shows in the end.
    pub kept: usize,
    /// Whether the cluster took a write after the node was back, and before the node that died was.
    pub wrote: bool,
    /// Why the node does not run.
    pub refused: Option<String>,
    /// Why others do not run.
    pub others: Vec<String>,
}

/// Plays a story with what is planted, with its files below `dir`, which is empty.
///
/// # Errors
/// Where the simulation itself fails, or waits in vain.
pub fn play(part: Part, story: Story, seed: u64, bug: Option<Bug>, dir: &Path) -> Result<Outcome, String> {
    planted::plant(bug);
    let played = in_world(seed, NODES, |world| simulate(part, story, seed, dir, world));
    planted::plant(None);
    played.map(|(outcome, _)| outcome)
}

fn simulate(part: Part, story: Story, seed: u64, dir: &Path, world: &Arc<World>) -> Result<Outcome, String> {
    let options = Options { seed, nodes: NODES, faults: false, ..Options::default() };
    let mut stage = Stage::new(Cluster::new(options, TICK, dir, world.clone()), NODES, world.clone());
    let io = |error: std::io::Error| error.to_string();
    let level = |stage: &mut Stage<'_>| stage.until("replicas that are level", |stage| stage.cluster.is_level());
    stage.make("before", TASKS)?.ok_or("the cluster took no task")?;
    level(&mut stage)?;
    let node = seed as usize % NODES + 1;
    let (one, two) = (node % NODES + 1, (node + 1) % NODES + 1);
    stage.cluster.inflict(&Fault::Crash(vec![node]));
    stage.cluster.keep_older(node).map_err(io)?;
    stage.cluster.heal(&Fault::Crash(vec![node]))?;
    level(&mut stage)?;
    // So that the vote of then is an older one.
    let leader = Fault::Crash(vec![stage.cluster.leader().ok_or("no leader")?]);
    stage.cluster.inflict(&leader);
    stage.pass(SETTLE_MS)?;
    stage.cluster.heal(&leader)?;
    level(&mut stage)?;
    let leads = stage.cluster.leader().ok_or("no leader")?;
    let (has, lacks) = if leads == two { (two, one) } else { (one, two) };
    if story == Story::One {
        stage.cluster.inflict(&Fault::NoPeers(lacks));
    }
    stage.make("after", TASKS)?.ok_or("the cluster took no task")?;
    match story {
        Story::Both => level(&mut stage)?,
        // What has been applied is in the store by then, so that it is known to have been committed.
        Story::One => stage.pass(SETTLE_MS)?,
    }
    stage.cluster.inflict(&Fault::Crash(vec![node]));
    if story == Story::One {
        stage.cluster.inflict(&Fault::Crash(vec![has]));
        stage.cluster.heal(&Fault::NoPeers(lacks))?;
    }
    stage.cluster.put_back(node, |name| part.has(name)).map_err(io)?;
    stage.cluster.heal(&Fault::Crash(vec![node]))?;
    stage.pass(SETTLE_MS)?;
    let dies = stage.cluster.leader().filter(|leads| *leads != node).unwrap_or(has);
    let away = match story {
        Story::One => Some(Fault::Crash(vec![has])),
        Story::Both => refusal(world, node).is_none().then(|| Fault::Crash(vec![dies])),
    };
    if let Some(away) = away.as_ref().filter(|_| story == Story::Both) {
        stage.cluster.inflict(away);
    }
    let wrote = stage.make("meanwhile", 1)?.is_some();
    away.map_or(Ok(()), |away| stage.cluster.heal(&away))?;
    stage.pass(SETTLE_MS)?;
    let (kept, _) = stage.count("after", TASKS)?;
    let refused = refusal(world, node);
    if refused.is_none() && world.history().stopped.is_empty() {
        level(&mut stage)?;
    }
    let own = format!("node {node}: ");
    let others = world.history().stopped.iter().filter(|line| !line.starts_with(&own)).cloned().collect();
    Ok(Outcome { acknowledged: TASKS, kept, wrote, refused, others })
}

/// Why this node has ended. That its state was lost is no reason: it asks the others for another.
fn refusal(world: &World, node: usize) -> Option<String> {
    let history = world.history();
    let own = format!("node {node}: ");
    let mut of_node = history.stopped.iter().filter_map(|line| line.strip_prefix(&own));
    of_node.rfind(|why| !why.contains("its state was lost")).map(str::to_owned)
}
