//! The doors of this node for people and their tools.

pub mod metrics;
