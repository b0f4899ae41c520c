//! `nodes`: an explicit list of nodes that may hold replicas.

use super::*;
use crate::policy::valid_name;

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "nodes",
    values: "list of node names, comma-separated",
    default: "",
    online: Online::MovesData,
    since: "0.1",
    help: "only these nodes may hold replicas",
    check,
};

fn check(value: &str) -> Result<String, String> {
    let mut names: Vec<&str> = value.split(',').map(str::trim).filter(|s| !s.is_empty()).collect();
    if names.is_empty() {
        return Err("the list is empty; leave the attribute out to allow every node".into());
    }
    if let Some(bad) = names.iter().find(|n| valid_name(n).is_err()) {
        return Err(format!("\"{bad}\" is not a node name"));
    }
    names.sort_unstable();
    names.dedup();
    Ok(names.join(","))
}
