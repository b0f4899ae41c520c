//! The typed view of a volume's attributes.
//!
//! The stored form is a map of normal-form text (what [`crate::attribute::check`] returns); this module turns
//! it into types, fills defaults, checks what spans attributes, and judges changes.

use crate::attribute::{self, AttrError, LABEL_PREFIX, Online};
use crate::attributes::{FailureDomain, Media, ReadFrom};
use crate::unit::{parse_duration_us, parse_size};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Attributes as given and stored: key to normal-form text. Only what was set; defaults are not stored.
pub type AttrMap = BTreeMap<String, String>;

/// Every attribute with its type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Bytes; a multiple of 4 KiB.
    pub size: u64,
    /// Copies.
    pub replicas: u32,
    /// Fewest in-sync copies for writes to go on.
    pub min_replicas: u32,
    /// What no two replicas share.
    pub failure_domain: FailureDomain,
    /// If not empty: only these nodes.
    pub nodes: BTreeSet<String>,
    /// Disk class.
    pub media: Media,
    /// Microseconds.
    pub replica_timeout: u64,
    /// Microseconds a node may stay away before its replicas are made anew.
    pub rebuild_after: u64,
    /// Percent by which copying to replicas may lengthen the clients' p99.
    pub rebuild_impact: u32,
    /// Microseconds from one scrub to the next; 0: only when asked for.
    pub scrub_interval: u64,
    /// Requests in flight.
    pub queue_depth: u32,
    /// Bytes: 512 or 4096.
    pub block_size: u32,
    /// Which replica reads.
    pub read_from: ReadFrom,
    /// Refuse writes.
    pub read_only: bool,
    /// Refuse deletion.
    pub sticky: bool,
    /// Served over NBD?
    pub export_nbd: bool,
    /// Free labels, without the prefix.
    pub labels: BTreeMap<String, String>,
}

/// Parses `key=value` words into a checked map.
pub fn parse_pairs<'a>(pairs: impl IntoIterator<Item = &'a str>) -> Result<AttrMap, AttrError> {
    let mut map = AttrMap::new();
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(AttrError::Value { key: pair.into(), why: "write it as key=value".into() });
        };
        let key = key.trim();
        let value = attribute::check(key, value)?;
        if map.insert(key.to_string(), value).is_some() {
            return Err(AttrError::Twice(key.into()));
        }
    }
    Ok(map)
}

impl Policy {
    /// Checks and types a map of attributes. Unknown keys are refused.
    pub fn from_attrs(attrs: &AttrMap) -> Result<Policy, AttrError> {
        let mut norm = AttrMap::new();
        for (k, v) in attrs {
            norm.insert(k.clone(), attribute::check(k, v)?);
        }
        let get = |key: &'static str| -> Result<&str, AttrError> {
            match norm.get(key) {
                Some(v) => Ok(v.as_str()),
                None => match attribute::find(key).map(|a| a.default) {
                    Some(d) if !d.is_empty() => Ok(d),
                    _ => Err(AttrError::Missing(key)),
                },
            }
        };
        let bad = |key: &str| AttrError::Value { key: key.into(), why: "not in normal form".into() };
        let int = |key: &'static str| -> Result<u32, AttrError> { get(key)?.parse().map_err(|_| bad(key)) };
        let flag = |key: &'static str| -> Result<bool, AttrError> { Ok(get(key)? == "true") };
        let replicas = int("replicas")?;
        let min_replicas = match norm.get("min_replicas") {
            Some(v) => v.parse().map_err(|_| bad("min_replicas"))?,
            None if replicas >= 3 => 2,
            None => 1,
        };
        if min_replicas > replicas {
            let why = format!("{min_replicas} is more than replicas ({replicas})");
            return Err(AttrError::Value { key: "min_replicas".into(), why });
        }
        Ok(Policy {
            size: parse_size(get("size")?).map_err(|why| AttrError::Value { key: "size".into(), why })?,
            replicas,
            min_replicas,
            failure_domain: FailureDomain::parse(get("failure_domain")?).ok_or_else(|| bad("failure_domain"))?,
            nodes: norm.get("nodes").map(|v| v.split(',').map(String::from).collect()).unwrap_or_default(),
            media: Media::parse(get("media")?).ok_or_else(|| bad("media"))?,
            replica_timeout: parse_duration_us(get("replica_timeout")?).map_err(|_| bad("replica_timeout"))?,
            rebuild_after: parse_duration_us(get("rebuild_after")?).map_err(|_| bad("rebuild_after"))?,
            rebuild_impact: get("rebuild_impact")?.trim_end_matches('%').parse().map_err(|_| bad("rebuild_impact"))?,
            scrub_interval: parse_duration_us(get("scrub_interval")?).map_err(|_| bad("scrub_interval"))?,
            queue_depth: int("queue_depth")?,
            block_size: int("block_size")?,
            read_from: ReadFrom::parse(get("read_from")?).ok_or_else(|| bad("read_from"))?,
            read_only: flag("read_only")?,
            sticky: flag("sticky")?,
            export_nbd: get("exports")? == "nbd",
            labels: norm
                .iter()
                .filter_map(|(k, v)| Some((k.strip_prefix(LABEL_PREFIX)?.to_string(), v.clone())))
                .collect(),
        })
    }
}

/// May `old` become `old` with `change` laid over it, online? Returns the new map.
pub fn change_online(old: &AttrMap, change: &AttrMap) -> Result<AttrMap, AttrError> {
    let mut new = old.clone();
    for (k, v) in change {
        let v = attribute::check(k, v)?;
        new.insert(k.clone(), v);
    }
    let (before, after) = (Policy::from_attrs(old)?, Policy::from_attrs(&new)?);
    for (key, to) in change {
        let Some(attr) = attribute::find(key) else { continue };
        if old.get(key) == new.get(key) {
            continue;
        }
        let refuse = |why| Err(AttrError::NotOnline { key: key.clone(), to: to.clone(), why });
        match attr.online {
            Online::Yes | Online::MovesData => {}
            Online::Grow if after.size >= before.size => {}
            Online::Grow => return refuse("a volume can only grow"),
            Online::No => return refuse("it is fixed at creation"),
        }
    }
    Ok(new)
}

/// Checks a volume's or node's name: DNS-like, so that it fits URIs, file names and labels.
pub fn valid_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name cannot be empty".into());
    }
    if name.len() > 63 {
        return Err(format!("a name has at most 63 characters, this one has {}", name.len()));
    }
    if let Some(c) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_.".contains(*c))) {
        return Err(format!("{c:?} cannot stand in a name; use letters, digits, '-', '_' and '.'"));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("a name begins with a letter or a digit".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(s: &str) -> Result<Policy, AttrError> {
        Policy::from_attrs(&parse_pairs(s.split_whitespace())?)
    }

    /// Golden cases: `input -> result`, one a line; UPDATE=1 is not needed, they are few.
    #[test]
    fn golden_cases() {
        for line in include_str!("../testdata/policy.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (input, want) = line.split_once(" -> ").unwrap();
            let got = match p(input) {
                Ok(q) => format!(
                    "ok {}B r{} min{} {} {}",
                    q.size,
                    q.replicas,
                    q.min_replicas,
                    q.failure_domain.word(),
                    q.media.word()
                ),
                Err(e) => format!("error {e}"),
            };
            assert_eq!(got, want, "input: {input}");
        }
    }

    #[test]
    fn online_changes_follow_the_table() {
        let old = parse_pairs(["size=1GiB", "replicas=3"]).unwrap();
        let change = |s: &str| change_online(&old, &parse_pairs([s]).unwrap());
        assert!(change("size=2GiB").is_ok());
        assert!(change("size=512MiB").unwrap_err().to_string().contains("only grow"));
        assert!(change("block_size=512").unwrap_err().to_string().contains("fixed at creation"));
        assert!(change("read_only=true").is_ok());
        assert!(change("min_replicas=4").is_err());
        assert!(change("replicas=3").is_ok(), "no change is no refusal");
    }

    #[test]
    fn names() {
        for good in ["a", "db-1", "A_b.c", "0x"] {
            assert_eq!(valid_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", ".a", "a/b", "a b", "ü", "a\n", &"x".repeat(64)] {
            assert!(valid_name(bad).is_err(), "{bad:?}");
        }
    }
}
