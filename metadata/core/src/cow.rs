//! Ordered collections whose clones share what is equal: a clone costs two machine words, and a change
//! afterwards copies only the path to what it changes, O(log n) nodes of bounded size (decisions/0034).
//!
//! The cluster's state is published after every commit and is read by many while the next commit changes it. With the
//! collections of the standard library each publication would copy the whole cluster.
//!
//! What they promise: iteration in key order, so that equal contents have equal encodings; the same encodings
//! in JSON as the standard collections they stand for. What they do not do: equal contents need not have
//! equal trees inside, so nothing may depend on the shape of a tree.

mod iter;
mod map;
mod node;
mod queue;

pub use iter::Iter;
pub use map::CowMap;
pub use queue::CowQueue;
