//! What the API says and takes: resources, inputs, and what a change answers. REST, the command line and the page
//! use these types and no others.
//!
//! Numbers of bytes end in `_bytes`, times in seconds in `_seconds`; points in time are RFC 3339 in UTC with
//! milliseconds; identities of 128 bits are 32 hexadecimal digits. No integer reaches 2^53. Fields and words are only
//! ever added. What a node has no fresh evidence for is absent, or `unknown`, never guessed.

mod cluster;
mod common;
mod event;
mod health;
mod input;
mod job;
mod node;
mod spec;
mod volume;

pub use cluster::*;
pub use common::*;
pub use event::*;
pub use health::*;
pub use input::*;
pub use job::*;
pub use node::*;
pub use spec::*;
pub use volume::*;
