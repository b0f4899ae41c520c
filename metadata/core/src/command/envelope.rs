//! A command as it stands in the Raft log, and the version by which it is encoded and applied.
//!
//! What it promises: members that run different releases apply one log to one state. The version that counts
//! is that of the replicated state ([`crate::ClusterState::version`]), never that of the binary: who proposes
//! encodes by it; a command of a higher version is refused by every member alike, from its header alone; what
//! a command of a version means never changes. A member that does not know the state's own version stops,
//! because it could only guess.

use super::Command;
use crate::record::ClusterState;
use crate::version::COMMAND_VERSION;
use hf_policy::RequestId;
use serde::{Deserialize, Serialize};

/// A command as it stands in the Raft log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The version by which the command is encoded, and is to be applied.
    pub v: u32,
    /// For exactly-once: the same id gets the same outcome, applied once.
    pub request: RequestId,
    /// The proposer's wall clock, Unix milliseconds: for people, and to forget mutes that have ended.
    pub at_ms: u64,
    /// What to do.
    pub cmd: Command,
}

/// What every version of an envelope has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The envelope's version.
    pub v: u32,
    /// The request id.
    pub request: RequestId,
}

/// An entry of the log, as a state of some version sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logged {
    /// A command of a version that the cluster uses.
    Command(Envelope),
    /// An envelope of a version that the cluster does not use yet. Its body is not looked at: some members
    /// could read it, others not.
    Above(Header),
}

/// A command that could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not the JSON of a command, or a field in them is unknown.
    #[error("a Raft command cannot be decoded: {0}")]
    Json(#[from] serde_json::Error),
    /// The command has a version, or raises the cluster to one, that this code does not know.
    #[error("a Raft command has version {0}, this node knows up to {COMMAND_VERSION}: upgrade this node")]
    TooNew(u32),
}

impl Envelope {
    /// Encodes it as JSON.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Decodes an envelope of any version that this code knows.
    pub fn decode(bytes: &[u8]) -> Result<Envelope, DecodeError> {
        let header: Header = serde_json::from_slice(bytes)?;
        if header.v > COMMAND_VERSION {
            return Err(DecodeError::TooNew(header.v));
        }
        let env: Envelope = serde_json::from_slice(bytes)?;
        match env.cmd {
            // Applied it would be a state that this code cannot go on with.
            Command::RaiseVersion { to } if to > COMMAND_VERSION => Err(DecodeError::TooNew(to)),
            _ => Ok(env),
        }
    }
}

impl Logged {
    /// Decodes an entry of the log behind a state.
    pub fn decode(bytes: &[u8], state: &ClusterState) -> Result<Logged, DecodeError> {
        let header: Header = serde_json::from_slice(bytes)?;
        match header.v > state.version {
            true => Ok(Logged::Above(header)),
            false => Envelope::decode(bytes).map(Logged::Command),
        }
    }

    /// The id of the request that it is.
    pub fn request(&self) -> RequestId {
        match self {
            Logged::Command(env) => env.request,
            Logged::Above(header) => header.request,
        }
    }
}
