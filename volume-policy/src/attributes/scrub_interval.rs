//! `scrub_interval`: how often every block of every replica is read and compared.

use super::*;
use crate::unit::{format_duration_us, parse_duration_us};

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "scrub_interval",
    values: "0 or 1m–365d",
    default: "7d",
    online: Online::Yes,
    since: "0.1",
    help: "how often all replicas are read whole, verified and compared; 0: only when asked for",
    check,
};

fn check(value: &str) -> Result<String, String> {
    let us = parse_duration_us(value)?;
    if us == 0 {
        return Ok("0".into());
    }
    if !(60_000_000..=365 * 86_400_000_000).contains(&us) {
        return Err(format!("{value} is neither 0 nor from 1m to 365d"));
    }
    Ok(format_duration_us(us))
}
