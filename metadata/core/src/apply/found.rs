//! The founding of a cluster: its first node makes the state with which the log begins.

use crate::command::{Command, Envelope};
use crate::outcome::Refusal;
use crate::record::*;
use crate::version::{COMMAND_VERSION, FIRST_VERSION};
use hf_policy::{ClusterId, RequestId};

impl ClusterState {
    /// The state of a new cluster with its first node, which `node` puts on record. No older release takes part, so its
    /// version is the newest that this code knows.
    ///
    /// # Errors
    /// A command was refused: the node's name is not valid.
    pub fn found(cluster: ClusterId, name: String, node: Command, at_ms: u64) -> Result<ClusterState, Refusal> {
        let mut state = ClusterState::default();
        let raises = (FIRST_VERSION + 1..=COMMAND_VERSION).map(|to| Command::RaiseVersion { to });
        for cmd in [Command::Init { cluster, name }, node].into_iter().chain(raises) {
            // Nobody repeats these requests: they are part of the founding, which is done as a whole or not at all.
            state.apply(&Envelope { v: state.version, request: RequestId::NONE, at_ms, cmd })?;
        }
        Ok(state)
    }
}
