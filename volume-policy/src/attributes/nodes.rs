//! `nodes`: an explicit list of nodes that may hold replicas.

use super::*;
use crate::name::valid_name;
use std::collections::BTreeSet;

/// The row of `nodes` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "nodes",
    kind: Kind::Names,
    values: "any, or a list of node names, comma-separated",
    default: Fallback::Text("any"),
    online: Online::MovesData,
    since: "0.1",
    help: "only these nodes may hold replicas",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Only these; empty: all.
pub type Value = BTreeSet<String>;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    if v == "any" {
        return Ok(BTreeSet::new());
    }
    let names: BTreeSet<String> = v.split(',').map(str::trim).filter(|s| !s.is_empty()).map(String::from).collect();
    if names.is_empty() {
        return Err("the list is empty; any allows every node".into());
    }
    match names.iter().find(|n| valid_name(n).is_err()) {
        Some(bad) => Err(format!("\"{bad}\" is not a node name")),
        None => Ok(names),
    }
}

pub(super) fn text(v: &Value) -> String {
    if v.is_empty() {
        return "any".into();
    }
    let names: Vec<&str> = v.iter().map(String::as_str).collect();
    names.join(",")
}
