//! The typed view of a volume's attributes.
//!
//! The stored form is a map of normal-form text (what [`crate::table::check`] returns); this module turns
//! it into types, fills defaults, checks what spans attributes, and judges changes.

pub use crate::attribute::AttrMap;
use crate::attribute::{AttrError, DEFAULT, LABEL_PREFIX, Online};
pub use crate::attributes::Policy;
pub use crate::name::valid_name;
use crate::table;

/// Parses `key=value` words into a checked map.
pub fn parse_pairs<'a>(pairs: impl IntoIterator<Item = &'a str>) -> Result<AttrMap, AttrError> {
    let mut map = AttrMap::new();
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(AttrError::Value { key: pair.into(), why: "write it as key=value".into() });
        };
        let key = key.trim();
        let value = table::check(key, value)?;
        if map.insert(key.to_string(), value).is_some() {
            return Err(AttrError::Twice(key.into()));
        }
    }
    Ok(map)
}

impl Policy {
    /// Checks and types a map of attributes. Unknown keys are refused.
    pub fn from_attrs(attrs: &AttrMap) -> Result<Policy, AttrError> {
        for (k, v) in attrs {
            table::check(k, v)?;
        }
        let p = Policy::typed(&settled(attrs))?;
        if p.min_replicas > p.replicas {
            let why = format!("{} is more than replicas ({})", p.min_replicas, p.replicas);
            return Err(AttrError::Value { key: "min_replicas".into(), why });
        }
        Ok(p)
    }
}

/// A map without the entries that say no more than their absence: `default`, and empty labels.
pub fn settled(attrs: &AttrMap) -> AttrMap {
    let says = |(k, v): &(&String, &String)| {
        if k.starts_with(LABEL_PREFIX) { !v.is_empty() } else { v.trim() != DEFAULT }
    };
    attrs.iter().filter(says).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The map `old` with `change` laid over it; refused if a volume cannot change so while it exists.
pub fn change_online(old: &AttrMap, change: &AttrMap) -> Result<AttrMap, AttrError> {
    let mut new = old.clone();
    for (k, v) in change {
        let v = table::check(k, v)?;
        new.insert(k.clone(), v);
    }
    let new = settled(&new);
    let (before, after) = (Policy::from_attrs(old)?, Policy::from_attrs(&new)?);
    for (key, to) in change {
        let Some(attr) = table::find(key) else { continue };
        // Compare what the values mean, not how they are written: the default may have been spelt out.
        let means = |attrs: &AttrMap| crate::attributes::given(attr, attrs).ok().map(|v| (attr.check)(&v));
        if means(old) == means(&new) {
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
    fn default_takes_back_what_was_set() {
        let old = parse_pairs(["size=1GiB", "replicas=2", "nodes=n1,n2", "label.a=b", "queue_depth=7"]).unwrap();
        let set = |words: &[&str]| change_online(&old, &parse_pairs(words.iter().copied()).unwrap());
        let new = set(&["nodes=default", "label.a=", "queue_depth=default"]).unwrap();
        assert_eq!(new, parse_pairs(["size=1GiB", "replicas=2"]).unwrap());
        let p = Policy::from_attrs(&new).unwrap();
        assert_eq!((p.nodes.len(), p.labels.len(), p.queue_depth, p.min_replicas), (0, 0, 128, 1));
        assert_eq!(Policy::from_attrs(&set(&["replicas=default"]).unwrap()).unwrap().min_replicas, 2);
        assert!(set(&["nodes=any"]).is_ok_and(|m| Policy::from_attrs(&m).unwrap().nodes.is_empty()));
        assert!(set(&["size=default"]).unwrap_err().to_string().contains("size is required"));
        assert!(set(&["block_size=default"]).is_ok(), "it has it already");
        assert!(parse_pairs(["blok_size=default"]).is_err());
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
