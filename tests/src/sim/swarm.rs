//! Faults and habits that only some seeds have, beside those that every seed may have: each seed
//! stresses other things.
//!
//! They are drawn from a generator of their own, so that a seed without them is the run that it was
//! before they existed.

use super::detach::Detach;
use super::world::Sim;
use hf_policy::attributes::ReadFrom;
use hf_policy::*;
use hf_store::sim::Rng;
use std::collections::BTreeMap;

/// Half of the 5 % that clock rates may differ by, in parts of a million; rounded so that the
/// fastest clock is at most 5 % faster than the slowest (1.024 / 0.976 < 1.05).
const RHO: u64 = 24_000;
/// The rate of a clock that runs as it should, in parts of a million.
const EXACT: u64 = 1_000_000;

pub(super) struct Swarm {
    pub(super) rng: Rng,
    /// Nodes beside the first three, to which replicas may move; 0: the replica set does not change.
    pub(super) spares: u64,
    /// How often an operator wants a change of the replica set, in 3,000 steps.
    pub(super) wishes: u64,
    /// How often the leader looks for what should be done, in 3,000 steps.
    pub(super) leads: u64,
    /// A node that is away for 5 s is given up, not only after ten minutes.
    pub(super) hasty: bool,
    /// The policy changes: how many members writes need, and which one reads.
    pub(super) policy: bool,
    /// Rates of the nodes' clocks, in parts of a million; none: all exact.
    rates: BTreeMap<u64, u64>,
    /// Reads are strict, and clocks run as they like: up to four times as fast as they should, or as slow.
    pub(super) strict: bool,
    /// Pages of chunks go bad too, not only blocks.
    pub(super) pages: bool,
    /// Disks are copied in the middle of take-overs, and put back later.
    pub(super) copies: bool,
    /// Coordinators lose Raft as soon as they have begun.
    pub(super) unrecorded: bool,
    /// Operators hold what is being filled or moved, and let it go on.
    pub(super) holds: bool,
    /// Clients zero whole chunks too.
    pub(super) chunks: bool,
    /// Operators declare one replica the truth, when all others in sync seem lost.
    pub(super) forces: bool,
    /// An operator detaches the volume now and then.
    pub(super) detach: Option<Detach>,
    /// In every fifth second the leader allows no sync to begin because others go first.
    pub(super) busy: bool,
    /// Milliseconds by which the wall clock is off; none: no wall clock is simulated.
    pub(super) wall: Option<u64>,
    /// Clients ask for parts of blocks, and flush.
    pub(super) cells: bool,
    /// Since when nodes have not answered the leader.
    pub(super) away: BTreeMap<u64, Tick>,
}

impl Swarm {
    pub(super) fn new(seed: u64, is_off: &dyn Fn(&str) -> bool) -> Swarm {
        let mut rng = Rng::new(seed ^ 0x5bd1_e995_9d8a_3c61);
        let changes = rng.one_in(2);
        let (spares, wishes) = (1 + rng.below(2), [1, 4, 12][rng.below(3) as usize]);
        let leads = [0, 10, 40][rng.below(3) as usize];
        let hasty = rng.one_in(2);
        let policy = rng.one_in(2);
        let clocks = rng.one_in(2);
        let kinds = [2, 4][rng.below(2) as usize];
        let mut rate = || match rng.below(kinds) {
            0 => EXACT - RHO,
            1 => EXACT + RHO,
            _ => EXACT - RHO + rng.below(2 * RHO + 1),
        };
        let mut rates: BTreeMap<u64, u64> = (1..=5).map(|n| (n, rate())).collect();
        let wall = rng.one_in(2).then_some(1 << 40);
        let cells = rng.one_in(3);
        let changes = changes && !is_off("changes");
        let mut clocks = clocks && !is_off("clocks");
        // It is drawn from another generator, so that seeds without it are the runs that they were.
        let mut wild = Rng::new(seed ^ 0x9e37_79b9_7f4a_7c15);
        let strict = wild.one_in(6) && !is_off("strict");
        if strict {
            clocks = true;
            rates.values_mut().for_each(|r| *r = (EXACT / 4) << wild.below(5));
        }
        Swarm {
            rng,
            spares: if changes { spares } else { 0 },
            wishes: if changes { wishes } else { 0 },
            leads: if changes { leads } else { 0 },
            hasty,
            policy: policy && !is_off("policy"),
            rates: if clocks { rates } else { BTreeMap::new() },
            strict,
            pages: wild.one_in(3) && !is_off("pages"),
            copies: wild.one_in(2) && !is_off("copies"),
            unrecorded: wild.one_in(6) && !is_off("unrecorded"),
            holds: wild.one_in(2) && !is_off("holds"),
            chunks: wild.one_in(3) && !is_off("chunks"),
            forces: wild.one_in(4) && !is_off("forces"),
            detach: Detach::new(seed).filter(|_| !is_off("detach")),
            busy: !is_off("busy"),
            wall: wall.filter(|_| clocks),
            cells: cells && !is_off("unaligned"),
            away: BTreeMap::new(),
        }
    }

    /// The volume's policy at the beginning.
    pub(super) fn attributes(&mut self) -> Vec<String> {
        let mut attrs = vec!["size=4MiB".to_string(), "replicas=3".to_string()];
        if self.spares > 0 && self.hasty {
            attrs.push("rebuild_after=5s".into());
        }
        if self.strict {
            attrs.push("strict_reads=true".into());
        }
        attrs.extend(self.io_attributes(3));
        attrs
    }

    /// A policy for a number of replicas: how many of them writes need, and which one reads.
    pub(super) fn io_attributes(&mut self, replicas: u64) -> Vec<String> {
        if !self.policy {
            return vec!["min_replicas=1".into()];
        }
        let reads = ReadFrom::WORDS;
        let (min, reads) = (1 + self.rng.below(replicas), reads[self.rng.below(reads.len() as u64) as usize]);
        vec![format!("min_replicas={min}"), format!("read_from={reads}")]
    }

    /// Do the clocks differ?
    pub(super) fn clocks(&self) -> bool {
        !self.rates.is_empty()
    }
}

impl Sim {
    /// The time that a node's monotonic clock shows.
    pub(super) fn clock(&self, node: u64) -> Tick {
        Tick(self.now.0 * self.swarm.rates.get(&node).copied().unwrap_or(EXACT) / EXACT)
    }

    /// The time that the proposer's wall clock shows, in milliseconds.
    pub(super) fn wall_ms(&self) -> u64 {
        self.swarm.wall.map_or(0, |off| off + self.now.0 / 1000)
    }

    /// An operator sets the wall clock, by seconds or by years.
    pub(super) fn jump(&mut self) {
        if self.swarm.wall.is_some() {
            let far = [10_000, 100_000_000, 1 << 40][self.swarm.rng.below(3) as usize];
            self.swarm.wall = Some((1 << 40) + self.swarm.rng.below(far));
            self.outcome.jumps += 1;
        }
    }

    /// Does what happens in some seeds only, drawn from their own generator.
    pub(super) fn sometimes(&mut self) -> Result<(), String> {
        let s = &mut self.swarm;
        let at = s.rng.below(3_000);
        match at {
            0..12 if at < s.wishes => self.wish(),
            12..52 if at - 12 < s.leads => self.lead(),
            52..112 if s.spares > 0 => {
                let node = 1 + s.rng.below(3 + s.spares);
                self.agent(node)?;
            }
            112..114 if s.policy && s.spares == 0 => self.set_policy(3),
            114 => self.jump(),
            116 if s.unrecorded => self.unrecorded()?,
            117..120 if s.holds => self.hold(),
            120..122 if s.forces => self.last_resort()?,
            115 if s.clocks() && s.rng.one_in(2) => self.last_moment()?,
            _ => {}
        }
        self.sometimes_detach()
    }
}
