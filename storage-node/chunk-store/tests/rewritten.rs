//! Reads that meet rewrites of their blocks: a healthy block is never called bad, a rotten one
//! always is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::rewritten;

#[test]
fn a_read_that_meets_rewrites_is_no_bad_block() {
    rewritten::a_read_that_meets_rewrites_is_no_bad_block();
}

#[test]
fn a_rotten_block_is_bad_whatever_its_neighbours_do() {
    rewritten::a_rotten_block_is_bad_whatever_its_neighbours_do();
}
