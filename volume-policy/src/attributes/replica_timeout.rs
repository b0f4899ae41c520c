//! `replica_timeout`: the silence after which a replica is dropped from the set (protocol T_op).

use super::*;
use crate::unit::{format_duration_us, parse_duration_us};

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "replica_timeout",
    values: "200ms–60s",
    default: "1s",
    online: Online::Yes,
    since: "0.1",
    help: "how long a replica may leave a write unanswered before it is dropped",
    check,
};

fn check(value: &str) -> Result<String, String> {
    let us = parse_duration_us(value)?;
    if !(200_000..=60_000_000).contains(&us) {
        return Err(format!("{value} is outside 200ms to 60s"));
    }
    Ok(format_duration_us(us))
}
