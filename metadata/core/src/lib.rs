//! The cluster's records and commands as a pure, deterministic state machine.
//!
//! `ClusterState::apply(envelope) -> Outcome` is the only way a record changes; planning happens before a
//! command is proposed, so commands carry decisions. Every success raises the revision; every change of a
//! volume record raises its epoch (protocol §3). No clock, I/O or randomness: wall-clock time and fresh ids
//! travel in the command.
//!
//! | module | decides |
//! | --- | --- |
//! | [`record`] | what is stored |
//! | [`cow`] | nothing: ordered collections whose clones share what is equal |
//! | [`command`] | every mutation |
//! | [`outcome`] | what a command replies, and why it is refused |
//! | [`apply`] | what each command does, and when it is refused |
//! | [`plan`] | what the leader decides before it proposes: placement, repair, scrubs, rebalancing |
//! | [`version`] | the versions of commands |
//! | [`soft`] | nothing: what the leader hears of its nodes, typed |
//! | [`limits`] | how many replicas are filled at once |
//! | [`mutant`] | rules broken on purpose, for the mutation test |
//! | [`image`] | the snapshot encoding, versioned |
//! | [`view`] | queries, and watch deltas by revision |

pub mod apply;
pub mod command;
pub mod cow;
pub mod image;
pub mod limits;
pub mod mutant;
pub mod outcome;
pub mod plan;
pub mod record;
pub mod soft;
pub mod version;
pub mod view;

pub use command::{Command, Envelope, Logged};
pub use outcome::{Outcome, Refusal, Reply};
pub use record::*;
pub use view::Delta;
