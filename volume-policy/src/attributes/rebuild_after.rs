//! `rebuild_after`: the absence after which a replica's place is taken by a new one (protocol T_gone).

use super::*;
use crate::unit::{format_duration_us, parse_duration_us};

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "rebuild_after",
    values: "5s–30d",
    default: "10m",
    online: Online::Yes,
    since: "0.1",
    help: "how long a node may stay away before its replicas are made anew elsewhere",
    check,
};

fn check(value: &str) -> Result<String, String> {
    let us = parse_duration_us(value)?;
    if !(5_000_000..=30 * 86_400_000_000).contains(&us) {
        return Err(format!("{value} is outside 5s to 30d"));
    }
    Ok(format_duration_us(us))
}
