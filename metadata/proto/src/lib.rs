//! The control plane's gRPC code, and the client that finds the leader. No RocksDB, no Raft: usable by CLI and node.

/// Generated from `proto/holdfast.proto`.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    tonic::include_proto!("holdfast.v1");
}

mod leader;

pub use leader::{LeaderClient, ProposeError};

use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// A channel to a node's API that connects when first used.
pub fn channel(addr: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
    Ok(endpoint
        .connect_timeout(Duration::from_millis(1500))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .connect_lazy())
}

/// Largest message: an image of a large cluster.
pub const MAX_MESSAGE: usize = 256 << 20;
