//! `size`: bytes, a multiple of the 4 KiB block, thin.

use super::*;
use crate::unit::{BLOCK_BYTES, MAX_VOLUME_BYTES, format_size, parse_size};

/// The row of `size` in the attribute table.
pub const ATTR: Attribute = Attribute {
    key: "size",
    kind: Kind::Bytes,
    values: "bytes with units (10GiB, 500M), a multiple of 4 KiB",
    default: Fallback::Required,
    online: Online::Grow,
    since: "0.1",
    help: "the volume's size; space is taken when it is first written",
    check: |v| parse(v).map(|v| text(&v)),
};

/// Bytes; a multiple of 4 KiB.
pub type Value = u64;

pub(super) fn parse(v: &str) -> Result<Value, String> {
    let n = parse_size(v)?;
    if n == 0 {
        return Err("a volume cannot have size 0; give at least 4KiB".into());
    }
    if n % BLOCK_BYTES != 0 {
        return Err(format!("{v} is not a multiple of 4 KiB; the next one is {}", n.next_multiple_of(BLOCK_BYTES)));
    }
    if n > MAX_VOLUME_BYTES {
        return Err(format!("{v} is beyond the largest volume, {}", format_size(MAX_VOLUME_BYTES)));
    }
    Ok(n)
}

pub(super) fn text(v: &Value) -> String {
    v.to_string()
}
