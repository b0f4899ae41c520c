//! One run of a seed: which faults it has, how it ended.

use super::world::Sim;

/// How a run ended.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    pub steps: u64,
    pub acked_writes: u64,
    pub reads: u64,
    pub attaches: u64,
    pub drops: u64,
    pub crashes: u64,
    pub reconciled: u64,
    pub full: u64,
    pub joins: u64,
    pub wipes: u64,
    pub dramas: u64,
    /// Runs that ended because the last replica in sync was wiped: a wipe met a drop on its way.
    pub lost: u64,
    pub synced: u64,
    pub scrubs: u64,
    /// Blocks that went bad on a disk, and those of them that scrubs replaced.
    pub rots: u64,
    pub healed: u64,
    /// Disks whose writes began to fail.
    pub failed_disks: u64,
    /// Disks that were put back from an older copy, and replicas that noticed.
    pub restores: u64,
    pub renewals: u64,
}

/// What the simulated nodes keep their replicas on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    /// A model of a store.
    Model,
    /// The real chunk store on a simulated disk.
    Real,
}

impl Outcome {
    /// Sums up.
    pub fn add(&mut self, o: &Outcome) {
        self.steps += o.steps;
        self.acked_writes += o.acked_writes;
        self.reads += o.reads;
        self.attaches += o.attaches;
        self.drops += o.drops;
        self.crashes += o.crashes;
        self.reconciled += o.reconciled;
        self.full += o.full;
        self.joins += o.joins;
        self.wipes += o.wipes;
        self.dramas += o.dramas;
        self.lost += o.lost;
        self.synced += o.synced;
        self.scrubs += o.scrubs;
        self.rots += o.rots;
        self.healed += o.healed;
        self.failed_disks += o.failed_disks;
        self.restores += o.restores;
        self.renewals += o.renewals;
    }
}

/// What can go wrong, by name: `HOLDFAST_SIM_OFF=crash,wipe` runs without it.
pub const FAULTS: [&str; 13] = [
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
];

/// One run, without some faults. If its verdict is an error it names what went wrong; the seed replays it.
pub fn run_without(seed: u64, steps: u64, stores: Stores, off: &[String]) -> Result<Outcome, String> {
    if let Some(unknown) = off.iter().find(|o| !FAULTS.contains(&o.as_str())) {
        return Err(format!("no fault is named {unknown}; there are {}", FAULTS.join(", ")));
    }
    let is_off = |name: &str| off.iter().any(|o| o == name);
    let mut s = Sim::new(seed, stores);
    for (w, name) in s.weights.iter_mut().zip(FAULTS) {
        *w = if is_off(name) { 0 } else { *w };
    }
    s.small_disks &= !is_off("full");
    s.slow = if is_off("slow") { 2_000 } else { s.slow };
    s.lasting = if is_off("last") { 1 } else { s.lasting };
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
    s.history.check()?;
    s.outcome.reads = s.history.reads;
    Ok(s.outcome)
}
