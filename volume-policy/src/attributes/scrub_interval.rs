//! `scrub_interval`: how often every block of every replica is read and compared.

use super::*;
use crate::unit::{format_duration_us, parse_duration_us};

/// The row of `scrub_interval` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "scrub_interval",
    kind: Kind::Seconds,
    values: "0 or 1m–365d",
    default: Fallback::Text("7d"),
    online: Online::Yes,
    since: "0.1",
    help: "how often all replicas are read whole, verified and compared; 0: only when asked for",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Microseconds from one scrub to the next; 0: only when asked for.
pub type Value = u64;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    match parse_duration_us(v)? {
        0 => Ok(0),
        _ => duration(v, "1m", "365d").map_err(|e| e.replace("outside 1m", "neither 0 nor from 1m")),
    }
}

pub(super) fn text(v: &Value) -> String {
    match v {
        0 => "0".into(),
        us => format_duration_us(*us),
    }
}
