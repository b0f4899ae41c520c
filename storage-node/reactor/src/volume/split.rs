//! Requests that cross shards: cut at their borders, and their answers joined again.

use bytes::Bytes;
use hf_policy::SHARD_BYTES;
use hf_repl_core::IoError;
use hf_repl_core::coordinator::{ClientOp, ClientReply};

/// The whole request's outcome: the worst part's, or all parts' bytes in order.
pub(super) fn joined(parts: Vec<Option<ClientReply>>, worst: Option<IoError>) -> Result<ClientReply, IoError> {
    if let Some(e) = worst {
        return Err(e);
    }
    let mut bytes: Vec<Bytes> = Vec::new();
    let mut extents = Vec::new();
    for p in parts.into_iter().flatten() {
        match p {
            ClientReply::Data(d) => bytes.extend(d),
            ClientReply::Extents(e) => extents.extend(e),
            ClientReply::Done => {}
        }
    }
    Ok(match (bytes.is_empty(), extents.is_empty()) {
        (false, _) => ClientReply::Data(bytes),
        (_, false) => ClientReply::Extents(extents),
        _ => ClientReply::Done,
    })
}

/// A request's parts per shard, with offsets inside the shard.
pub(super) fn split(op: ClientOp) -> Vec<(u32, ClientOp)> {
    let pieces = |off: u64, len: u64| {
        let mut at = off;
        let mut out = Vec::new();
        while at < off + len || (len == 0 && at == off && out.is_empty()) {
            let end = ((at / SHARD_BYTES + 1) * SHARD_BYTES).min(off + len);
            out.push(((at / SHARD_BYTES) as u32, at % SHARD_BYTES, at - off, end - at));
            if len == 0 {
                break;
            }
            at = end;
        }
        out
    };
    match op {
        // It waits for nothing in any shard, and a shard that is fenced fences the whole attachment.
        ClientOp::Flush => vec![(0, ClientOp::Flush)],
        ClientOp::Read { off, len } => pieces(off, u64::from(len))
            .into_iter()
            .map(|(i, o, _, n)| (i, ClientOp::Read { off: o, len: n as u32 }))
            .collect(),
        ClientOp::Write { off, data } => pieces(off, data.len() as u64)
            .into_iter()
            .map(|(i, o, at, n)| (i, ClientOp::Write { off: o, data: data.slice(at as usize..(at + n) as usize) }))
            .collect(),
        ClientOp::Zero { off, len } => {
            pieces(off, len).into_iter().map(|(i, o, _, n)| (i, ClientOp::Zero { off: o, len: n })).collect()
        }
        // The answer may cover less than was asked: the first shard's part is enough.
        ClientOp::Status { off, len } => {
            pieces(off, len).into_iter().take(1).map(|(i, o, _, n)| (i, ClientOp::Status { off: o, len: n })).collect()
        }
    }
}
