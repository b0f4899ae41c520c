//! What a request becomes, as plain functions: the numbered writes of its bytes, and the reply of
//! its parts.

use super::Request;
use crate::coordinator::{ClientOp, ClientReply};
use crate::message::WriteKind;
use bytes::{Bytes, BytesMut};
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BLOCK_BYTES, BLOCK_SIZE, BlockRange, broken, crc, invariant};

/// The writes that a request becomes, in the order of their blocks for data; a zero's whole blocks
/// come before its edges. Together they cover the request's blocks, each once.
pub(super) fn plan_writes(r: &Request) -> Vec<(BlockRange, WriteKind)> {
    let writes = planned(r);
    let blocks: u64 = writes.iter().map(|(range, _)| u64::from(range.len)).sum();
    invariant!(
        blocks == u64::from(r.range.len) || mutant::is(Mutant::EdgesForgotten),
        "writes of {blocks} blocks for a request of {:?}",
        r.range
    );
    writes
}

fn planned(r: &Request) -> Vec<(BlockRange, WriteKind)> {
    let (off, len) = r.span();
    let base = r.range.offset();
    let data_parts = |range: BlockRange, all: Bytes| -> Vec<(BlockRange, WriteKind)> {
        let cut = |(_, part): (_, BlockRange)| {
            let at = (part.offset() - range.offset()) as usize;
            let data = all.slice(at..at + part.bytes() as usize);
            (part, WriteKind::Data { crcs: crc::payloads(&data), data })
        };
        range.by_chunk().map(cut).collect()
    };
    match &r.op {
        ClientOp::Write { data, .. } if !r.merging && !mutant::is(Mutant::EdgesForgotten) => {
            data_parts(r.range, data.clone())
        }
        ClientOp::Write { data, .. } => {
            let mut all = BytesMut::zeroed(r.range.bytes() as usize);
            if !lay_edges(r, &mut all) {
                return Vec::new();
            }
            let at = (off - base) as usize;
            all[at..at + data.len()].copy_from_slice(data);
            data_parts(r.range, all.freeze())
        }
        ClientOp::Zero { .. } => {
            let mut writes = Vec::new();
            let first = off.div_ceil(BLOCK_BYTES);
            let end = (off + len) / BLOCK_BYTES;
            if end > first {
                writes.push((BlockRange::new(first, (end - first) as u32), WriteKind::Zero { keep: false }));
            }
            for (edge, part) in r.partial().into_iter().zip(&r.parts) {
                let Some((_, old)) = part else {
                    broken!("an edge of {:?} was not read", r.range);
                    return Vec::new();
                };
                invariant!(old.len() == BLOCK_SIZE, "an edge of {} bytes was read", old.len());
                let mut block = BytesMut::from(&old[..]);
                let from = off.max(edge.offset()) - edge.offset();
                let to = (off + len).min(edge.offset() + BLOCK_BYTES) - edge.offset();
                block[from as usize..to as usize].fill(0);
                writes.extend(data_parts(edge, block.freeze()));
            }
            writes
        }
        // Anything else writes nothing.
        ClientOp::Read { .. } | ClientOp::Status { .. } | ClientOp::Flush => {
            broken!("{:?} is to write", r.op);
            Vec::new()
        }
    }
}

/// Lays the old bytes of partly covered blocks under the request's own. False if some were not read.
fn lay_edges(r: &Request, all: &mut BytesMut) -> bool {
    for (edge, part) in r.partial().into_iter().zip(&r.parts) {
        let Some((_, old)) = part else {
            broken!("an edge of {:?} was not read", r.range);
            return false;
        };
        let at = (edge.offset() - r.range.offset()) as usize;
        all[at..at + BLOCK_SIZE].copy_from_slice(&old[..BLOCK_SIZE]);
    }
    true
}

/// The reply of a request whose parts have all ended well.
pub(super) fn reply(r: &Request) -> ClientReply {
    let (off, len) = r.span();
    match r.op {
        ClientOp::Read { .. } => {
            let mut skip = (off - r.range.offset()) as usize;
            let mut left = len as usize;
            let mut data = Vec::with_capacity(r.parts.len());
            for (_, bytes) in r.parts.iter().flatten() {
                let take = left.min(bytes.len() - skip);
                data.push(bytes.slice(skip..skip + take));
                left -= take;
                skip = 0;
            }
            invariant!(left == 0, "a read of {len} bytes is answered with {left} fewer");
            ClientReply::Data(data)
        }
        ClientOp::Status { .. } => {
            let mut extents: Vec<(u64, bool)> = Vec::new();
            let mut at = r.range.offset();
            for i in r.parts.iter().flatten().flat_map(|(infos, _)| infos) {
                let end = at + BLOCK_BYTES;
                let bytes = end.min(off + len).saturating_sub(at.max(off));
                match extents.last_mut() {
                    Some((n, hole)) if *hole == i.state.is_zero() => *n += bytes,
                    _ => extents.push((bytes, i.state.is_zero())),
                }
                at = end;
            }
            extents.retain(|(n, _)| *n > 0);
            let told: u64 = extents.iter().map(|(n, _)| n).sum();
            invariant!(told == len, "a status of {len} bytes is answered with {told}");
            ClientReply::Extents(extents)
        }
        _ => ClientReply::Done,
    }
}
