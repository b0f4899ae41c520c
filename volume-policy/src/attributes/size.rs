//! `size`: bytes, a multiple of the 4 KiB block, thin.

use super::*;
use crate::unit::{BLOCK_BYTES, MAX_VOLUME_BYTES, format_size, parse_size};

/// The row.
pub const ATTR: Attribute = Attribute {
    key: "size",
    values: "bytes with units (10GiB, 500M), a multiple of 4 KiB",
    default: "",
    online: Online::Grow,
    since: "0.1",
    help: "the volume's size; space is taken when it is first written",
    check,
};

fn check(value: &str) -> Result<String, String> {
    let n = parse_size(value)?;
    if n == 0 {
        return Err("a volume cannot have size 0; give at least 4KiB".into());
    }
    if n % BLOCK_BYTES != 0 {
        return Err(format!("{value} is not a multiple of 4 KiB; the next one is {}", n.next_multiple_of(BLOCK_BYTES)));
    }
    if n > MAX_VOLUME_BYTES {
        return Err(format!("{value} is beyond the largest volume, {}", format_size(MAX_VOLUME_BYTES)));
    }
    Ok(n.to_string())
}
