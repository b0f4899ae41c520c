//! The snapshot encoding: one line with magic and version, then the state as JSON with sorted keys, so that equal
//! states have equal bytes.

use crate::record::ClusterState;

const MAGIC: &str = "holdfast-cluster-image ";

/// The image version this code writes, and the newest it can read.
pub const IMAGE_VERSION: u32 = 1;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The bytes do not begin as an image does.
    #[error("not a Holdfast cluster image")]
    Magic,
    /// The image was written by a later release.
    #[error("the cluster image has version {0}, this node knows up to {IMAGE_VERSION}: upgrade this node")]
    TooNew(u32),
    /// The JSON is damaged, has unknown fields, or is of a later version of the record.
    #[error("the cluster image is damaged: {0}")]
    Json(#[from] serde_json::Error),
}

/// Encodes a state; equal states have equal bytes.
pub fn encode(state: &ClusterState) -> Result<Vec<u8>, ImageError> {
    let mut out = format!("{MAGIC}{IMAGE_VERSION}\n").into_bytes();
    serde_json::to_writer(&mut out, state)?;
    Ok(out)
}

/// Decodes a state that [`encode`] has encoded.
pub fn decode(bytes: &[u8]) -> Result<ClusterState, ImageError> {
    let rest = bytes.strip_prefix(MAGIC.as_bytes()).ok_or(ImageError::Magic)?;
    let end = rest.iter().take(12).position(|b| *b == b'\n').ok_or(ImageError::Magic)?;
    let version: u32 = core::str::from_utf8(&rest[..end]).ok().and_then(|s| s.parse().ok()).ok_or(ImageError::Magic)?;
    if version > IMAGE_VERSION {
        return Err(ImageError::TooNew(version));
    }
    Ok(serde_json::from_slice(&rest[end + 1..])?)
}
