//! Placement: (policy, inventory, salt) → disks for a shard's replicas, or the reason why not.
//!
//! Pure and deterministic. Filters rule disks out, each by name; a scorer orders what is left; failure domains
//! are taken one replica each. Every disk that was ruled out is explained. `salt` spreads equal choices
//! (power of two choices over a hash), so that many volumes made at once do not herd onto one disk.

use crate::attributes::{FailureDomain, Media};
use crate::id::{DiskId, NodeId};
use crate::policy::Policy;
use crate::unit::format_size;
use std::collections::{BTreeMap, BTreeSet};

/// Logical bytes placed on a disk may exceed its capacity by this factor (thin provisioning).
pub const OVERCOMMIT: u64 = 20;

/// What placement knows of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskView {
    /// The number of the disk.
    pub disk: DiskId,
    /// The node that it belongs to.
    pub node: NodeId,
    /// Its node's name.
    pub node_name: String,
    /// Its node's labels (`rack`, `zone`, `region`, …).
    pub labels: BTreeMap<String, String>,
    /// The class of the disk.
    pub media: Media,
    /// Bytes it can hold.
    pub capacity: u64,
    /// Bytes in use, as last reported.
    pub used: u64,
    /// Logical bytes of the replicas placed on it.
    pub placed: u64,
    /// Replicas placed on it, and those that are to be deleted from it: each takes an entry of its replica table.
    pub replicas: u64,
    /// Replicas that its table can hold at most, as last reported; none if it was not.
    pub entries: Option<u64>,
    /// Does its node answer, and is it allowed to take replicas?
    pub node_up: bool,
    /// Is the disk healthy?
    pub disk_ok: bool,
}

/// Why a disk was ruled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The node's name.
    pub node: String,
    /// The disk that was ruled out.
    pub disk: DiskId,
    /// The rule's name.
    pub rule: &'static str,
    /// The rule's words for this disk.
    pub why: String,
}

/// Why a placement is not possible: what was needed, what was found, and each disk's reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// How many replicas were asked for.
    pub wanted: u32,
    /// Failure domains that could hold one.
    pub found: u32,
    /// The kind of failure domain that holds at most one replica.
    pub domain: FailureDomain,
    /// Every disk that was ruled out.
    pub rejections: Vec<Rejection>,
    /// Names in `nodes` that no node has.
    pub unknown_nodes: Vec<String>,
    /// Further failure domains that could hold one if their disks had room: only space or table entries are missing.
    pub full: u32,
}

impl Refusal {
    /// Is room all that is missing? Then a larger or emptier disk helps; else the rules or the nodes must change.
    pub fn lacks_room(&self) -> bool {
        self.found + self.full >= self.wanted
    }
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "cannot place {} replicas on different {}s: only {} can hold one",
            self.wanted,
            self.domain.word(),
            self.found
        )?;
        if !self.unknown_nodes.is_empty() {
            write!(f, "; no node is named {}", self.unknown_nodes.join(", "))?;
        }
        for r in self.rejections.iter().take(32) {
            write!(f, "; node {} disk {}: {} ({})", r.node, r.disk, r.why, r.rule)?;
        }
        if self.rejections.len() > 32 {
            write!(f, "; and {} more disks", self.rejections.len() - 32)?;
        }
        Ok(())
    }
}

type Filter = (&'static str, fn(&Policy, u64, &DiskView) -> Result<(), String>);

/// The rules that ask for room. They come last, so a disk that one of them rules out has passed all others.
const OF_ROOM: [&str; 2] = ["space", "entries"];

/// The filters, in the order they are asked; the first refusal is the one reported.
const FILTERS: &[Filter] = &[
    ("nodes", |p, _, d| {
        let allowed = p.nodes.is_empty() || p.nodes.contains(&d.node_name);
        allowed.then_some(()).ok_or_else(|| "not in the policy's list of nodes".into())
    }),
    ("node-up", |_, _, d| d.node_up.then_some(()).ok_or_else(|| "its node does not answer".into())),
    ("disk-ok", |_, _, d| {
        d.disk_ok.then_some(()).ok_or_else(|| "it has failed, is being drained, or its node is".into())
    }),
    ("media", |p, _, d| {
        let fits = p.media == Media::Any || p.media == d.media;
        fits.then_some(()).ok_or_else(|| format!("is {}, the policy asks for {}", d.media.word(), p.media.word()))
    }),
    ("domain-label", |p, _, d| match domain_of(p.failure_domain, d) {
        Some(_) => Ok(()),
        None => Err(format!("its node has no label \"{}\"", p.failure_domain.word())),
    }),
    ("space", |_, need, d| {
        let limit = d.capacity.saturating_mul(OVERCOMMIT);
        if d.placed.saturating_add(need) > limit {
            return Err(format!(
                "{} placed of at most {} (capacity {} × over-commit {OVERCOMMIT}), {} more do not fit",
                format_size(d.placed),
                format_size(limit),
                format_size(d.capacity),
                format_size(need)
            ));
        }
        if d.used >= d.capacity - d.capacity / 20 {
            return Err(format!("full: {} of {} in use", format_size(d.used), format_size(d.capacity)));
        }
        Ok(())
    }),
    ("entries", |_, _, d| match d.entries.filter(|e| d.replicas >= *e) {
        Some(e) => Err(format!("its replica table is full: {} replicas of at most {e}", d.replicas)),
        None => Ok(()),
    }),
];

/// The failure domain of a disk at a level, if its node has the label.
pub fn domain_of(level: FailureDomain, d: &DiskView) -> Option<String> {
    match level {
        FailureDomain::Node => Some(format!("node:{}", d.node.0)),
        _ => d.labels.get(level.word()).cloned(),
    }
}

/// A 64-bit mix (splitmix64) of the salt and a disk: the only "randomness" of placement.
fn mix(salt: u64, disk: DiskId) -> u64 {
    let mut z = salt.wrapping_add(disk.0.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Lower is better: disks whose table is known to have room before those of which nothing was told (a leader that has
/// just begun, or a disk that is not open); then the share of the over-commit limit already placed, in 1/16 steps so
/// that near-equal disks tie and the salt decides; then the salt.
fn score(d: &DiskView, salt: u64) -> (bool, u64, u64) {
    let limit = d.capacity.saturating_mul(OVERCOMMIT).max(1);
    let fill = (u128::from(d.placed) * 256 / u128::from(limit)) as u64
        + (u128::from(d.used) * 16 / u128::from(d.capacity.max(1))) as u64;
    (d.entries.is_none(), fill, mix(salt, d.disk))
}

/// Chooses `policy.replicas` disks for a shard of `need` logical bytes, no two in one failure domain.
pub fn place(policy: &Policy, need: u64, inventory: &[DiskView], salt: u64) -> Result<Vec<DiskId>, Refusal> {
    let mut rejections = Vec::new();
    let mut by_domain: BTreeMap<String, Vec<&DiskView>> = BTreeMap::new();
    let mut full = BTreeSet::new();
    'disks: for d in inventory {
        for (rule, filter) in FILTERS {
            if let Err(why) = filter(policy, need, d) {
                full.extend(domain_of(policy.failure_domain, d).filter(|_| OF_ROOM.contains(rule)));
                rejections.push(Rejection { node: d.node_name.clone(), disk: d.disk, rule, why });
                continue 'disks;
            }
        }
        if let Some(domain) = domain_of(policy.failure_domain, d) {
            by_domain.entry(domain).or_default().push(d);
        }
    }
    let mut best: Vec<&DiskView> =
        by_domain.values().filter_map(|ds| ds.iter().copied().min_by_key(|d| score(d, salt))).collect();
    best.sort_by_key(|d| score(d, salt));
    if best.len() < policy.replicas as usize {
        let known: BTreeSet<&str> = inventory.iter().map(|d| d.node_name.as_str()).collect();
        let unknown_nodes = policy.nodes.iter().filter(|n| !known.contains(n.as_str())).cloned().collect();
        let found = best.len() as u32;
        return Err(Refusal {
            wanted: policy.replicas,
            found,
            domain: policy.failure_domain,
            rejections,
            unknown_nodes,
            full: full.iter().filter(|d| !by_domain.contains_key(*d)).count() as u32,
        });
    }
    Ok(best.iter().take(policy.replicas as usize).map(|d| d.disk).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse_pairs;

    fn disk(id: u64, node: u64, rack: &str, media: Media) -> DiskView {
        DiskView {
            disk: DiskId(id),
            node: NodeId(node),
            node_name: format!("n{node}"),
            labels: BTreeMap::from([("rack".to_string(), rack.to_string())]),
            media,
            capacity: 1 << 40,
            used: 0,
            placed: 0,
            replicas: 0,
            entries: None,
            node_up: true,
            disk_ok: true,
        }
    }

    fn policy(s: &str) -> Policy {
        Policy::from_attrs(&parse_pairs(s.split_whitespace()).unwrap()).unwrap()
    }

    #[test]
    fn a_disk_whose_table_is_full_is_refused_with_the_number() {
        let mut inv: Vec<_> = (1..=3).map(|i| disk(i, i, "a", Media::Ssd)).collect();
        inv[0].entries = Some(64);
        inv[0].replicas = 63;
        let all = policy("size=1G replicas=3");
        assert!(place(&all, 1 << 30, &inv, 0).is_ok());
        inv[0].replicas = 64;
        assert!(place(&policy("size=1G replicas=2"), 1 << 30, &inv, 0).is_ok_and(|d| !d.contains(&DiskId(1))));
        let refused = place(&all, 1 << 30, &inv, 0).unwrap_err().to_string();
        assert!(refused.contains("its replica table is full: 64 replicas of at most 64 (entries)"), "{refused}");
    }

    #[test]
    fn a_refusal_tells_a_lack_of_room_from_rules_that_nothing_fits() {
        let mut inv: Vec<_> = (1..=3).map(|i| disk(i, i, "a", Media::Ssd)).collect();
        let lacks_room = |inv: &[DiskView], p: &str| place(&policy(p), 1 << 30, inv, 0).unwrap_err().lacks_room();
        assert!(!lacks_room(&inv, "size=1G replicas=4"), "there is no fourth node");
        (inv[0].entries, inv[0].replicas) = (Some(64), 64);
        inv[1].placed = inv[1].capacity * OVERCOMMIT;
        assert!(lacks_room(&inv, "size=1G replicas=3"));
        assert!(!lacks_room(&inv, "size=1G replicas=3 media=hdd"), "full disks of another class would not do");
        inv[2].disk_ok = false;
        assert!(!lacks_room(&inv, "size=1G replicas=3"), "room alone would not help");
        assert!(lacks_room(&inv, "size=1G replicas=2"));
        // A second disk of a node whose other disk has room is no further domain.
        let mut two = vec![disk(1, 1, "a", Media::Ssd), disk(2, 1, "a", Media::Ssd)];
        (two[0].entries, two[0].replicas) = (Some(64), 64);
        assert!(!lacks_room(&two, "size=1G replicas=2"));
    }

    #[test]
    fn a_disk_of_which_nothing_was_told_is_taken_when_no_other_will_do() {
        let mut inv: Vec<_> = (1..=3).map(|i| disk(i, i, "a", Media::Ssd)).collect();
        inv.iter_mut().take(2).for_each(|d| d.entries = Some(64));
        for salt in 0..50 {
            assert!(!place(&policy("size=1G replicas=2"), 1 << 30, &inv, salt).unwrap().contains(&DiskId(3)));
        }
        assert_eq!(place(&policy("size=1G replicas=3"), 1 << 30, &inv, 0).map(|d| d.len()), Ok(3));
    }

    #[test]
    fn no_two_replicas_share_a_domain() {
        let inv: Vec<_> = (1..=6).map(|i| disk(i, i.div_ceil(2), if i <= 4 { "a" } else { "b" }, Media::Ssd)).collect();
        for salt in 0..200 {
            let got = place(&policy("size=1G replicas=3"), 1 << 30, &inv, salt).unwrap();
            let nodes: BTreeSet<u64> = got.iter().map(|d| d.0.div_ceil(2)).collect();
            assert_eq!(nodes.len(), 3, "{got:?}");
            let got = place(&policy("size=1G replicas=2 failure_domain=rack"), 1 << 30, &inv, salt).unwrap();
            assert!(got.iter().any(|d| d.0 <= 4) && got.iter().any(|d| d.0 > 4), "{got:?}");
        }
        let err = place(&policy("size=1G replicas=3 failure_domain=rack"), 1 << 30, &inv, 0).unwrap_err();
        assert_eq!((err.wanted, err.found), (3, 2));
    }

    #[test]
    fn every_refusal_names_its_rule() {
        let mut inv = vec![
            disk(1, 1, "a", Media::Ssd),
            disk(2, 2, "a", Media::Hdd),
            disk(3, 3, "a", Media::Ssd),
            disk(4, 4, "a", Media::Ssd),
            disk(5, 5, "a", Media::Ssd),
        ];
        inv[0].node_up = false;
        inv[2].disk_ok = false;
        inv[3].placed = inv[3].capacity * OVERCOMMIT;
        inv[4].used = inv[4].capacity;
        let err =
            place(&policy("size=1G replicas=1 media=ssd nodes=n1,n2,n3,n4,n5,nope"), 1 << 30, &inv, 0).unwrap_err();
        let rules: Vec<_> = err.rejections.iter().map(|r| r.rule).collect();
        assert_eq!(rules, ["node-up", "media", "disk-ok", "space", "space"]);
        assert_eq!(err.unknown_nodes, ["nope"]);
        let text = err.to_string();
        for word in ["n1", "does not answer", "hdd", "failed", "over-commit", "full", "nope"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn equal_disks_are_used_evenly() {
        let inv: Vec<_> = (1..=8).map(|i| disk(i, i, "a", Media::Ssd)).collect();
        let mut count = BTreeMap::<u64, u32>::new();
        for salt in 0..800 {
            for d in place(&policy("size=1G replicas=2"), 1 << 30, &inv, salt).unwrap() {
                *count.entry(d.0).or_default() += 1;
            }
        }
        assert!(count.values().all(|n| (150..=250).contains(n)), "{count:?}");
    }
}
