//! One run of a seed: which faults it has, and how it ended.

use super::swarm::Swarm;
use super::world::Sim;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// How a run ended.
        #[derive(Debug, Default, Clone)]
        pub struct Outcome {
            $($(#[$doc])* pub $name: u64,)*
        }
        impl Outcome {
            /// Adds the counts of another run.
            pub fn add(&mut self, o: &Outcome) {
                $(self.$name += o.$name;)*
            }
        }
    };
}

counters! {
    steps,
    acked_writes,
    reads,
    attaches,
    drops,
    crashes,
    reconciled,
    full,
    joins,
    wipes,
    dramas,
    /// Runs that ended because the last replica in sync was wiped: a drop was committed after the
    /// wipe was decided.
    lost,
    synced,
    scrubs,
    /// Blocks that went bad on a disk, and those of them that scrubs replaced.
    rots,
    healed,
    /// Pages of chunks that went bad.
    lost_pages,
    /// Leaders that real members of the metadata group elected.
    elections,
    /// Disks whose writes began to fail.
    failed_disks,
    /// Disks that were put back from an older copy, and replicas that noticed.
    restores,
    renewals,
    /// Replicas added later, and how many of those came into the set.
    adds,
    newcomers,
    /// Members that left because they were marked as leaving.
    leaves,
    /// Replicas removed, those of them that were to move, and those whose data was deleted by their
    /// tombstone.
    removes,
    moves,
    deletions,
    /// Nodes in draining that lost their last replica.
    drains,
    /// Changes of the policy.
    policies,
    /// Writes that were asked for while too few members were in sync, and acknowledged later.
    resumed,
    /// Jumps of the wall clock.
    jumps,
    /// Requests that did not cover whole blocks, and flushes that were answered.
    unaligned,
    flushes,
    /// Whole chunks that were zeroed.
    chunks,
    /// Replicas whose content was declared the truth.
    forced,
    /// Detaches that were asked for, those of them that found writes waiting for replicas, and
    /// those that were recorded.
    stops,
    held_stops,
    detaches,
}

/// The stores that the simulated nodes keep their replicas on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    /// A model of a store.
    Model,
    /// The real chunk store on a simulated disk.
    Real,
}

/// The faults, by name: `HOLDFAST_SIM_OFF=crash,wipe` runs without these two. The first ten have
/// weights of their own.
pub const FAULTS: [&str; 26] = [
    "loss",
    "duplicate",
    "crash",
    "partition",
    "attach",
    "wipe",
    "drama",
    "scrub",
    "rot",
    "restore",
    "full",
    "slow",
    "last",
    "changes",
    "policy",
    "clocks",
    "unaligned",
    "strict",
    "busy",
    "pages",
    "copies",
    "unrecorded",
    "holds",
    "chunks",
    "forces",
    "detach",
];

/// Faults that were added after the oldest seeds that are kept because they once failed: without
/// these faults, they are the runs that they were.
pub const LATER: &[&str] = FAULTS.split_at(13).1;

/// Who keeps the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// A stand-in for Raft keeps one record, which every node is shown sooner or later.
    StandIn,
    /// Real raft-rs members on the simulated nodes keep it.
    Raft,
}

/// One run, without some faults. If its verdict is an error it names what went wrong; the seed replays it.
pub fn run_without(seed: u64, steps: u64, stores: Stores, off: &[String]) -> Result<Outcome, String> {
    run_on(Metadata::StandIn, seed, steps, stores, off)
}

/// One run over a stand-in or over real members. (A coordinator that is cut off from Raft there is
/// cut off together with its member, so none can be kept from noting that it serves: there is no
/// `unrecorded`.)
pub fn run_on(meta: Metadata, seed: u64, steps: u64, stores: Stores, off: &[String]) -> Result<Outcome, String> {
    if let Some(unknown) = off.iter().find(|o| !FAULTS.contains(&o.as_str())) {
        return Err(format!("no fault is named {unknown}; there are {}", FAULTS.join(", ")));
    }
    let is_off = |name: &str| (meta == Metadata::Raft && name == "unrecorded") || off.iter().any(|o| o == name);
    let mut s = Sim::new(seed, stores, Swarm::new(seed, &is_off));
    for (w, name) in s.weights.iter_mut().zip(FAULTS) {
        *w = if is_off(name) { 0 } else { *w };
    }
    s.dramas = !is_off("drama");
    s.small_disks &= !is_off("full");
    s.slow = if is_off("slow") { 2_000 } else { s.slow };
    s.lasting = if is_off("last") { 1 } else { s.lasting };
    if meta == Metadata::Raft {
        s.raft_begin();
    }
    for _ in 0..steps {
        if s.lost_all() {
            break;
        }
        s.random_step()?;
    }
    if s.lost_all() {
        s.outcome.lost = 1
    } else {
        s.heal()?
    }
    s.histories.check()?;
    s.outcome.reads = s.histories.reads();
    Ok(s.outcome)
}
