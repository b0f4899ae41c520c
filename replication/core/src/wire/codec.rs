//! Messages to frames and back.
//!
//! It promises that every message comes back as it was, and that nothing but a message of the right
//! form is decoded: what comes over a connection can be anything. It does not verify payloads:
//! whoever uses them does.

use super::fields::{R, W};
use super::frame::{ASK, Frame, HEADER_BYTES, Header, LinkFields, MAGIC, WireError, checksum};
use crate::message::{Content, CopyItem, Envelope, Msg, Nack, WriteKind};
use bytes::Bytes;
use hf_policy::crc::PayloadCrc;
use hf_policy::{
    BLOCK_SIZE, BlockIx, BootId, CHUNK_BLOCKS, ChunkIx, ClusterId, Epoch, Lineage, Rid, SessionId, ShardId, StoreUuid,
    Term, VolumeId,
};

/// A bit in the kind of a copied block: the copy brings back bytes that the block has lost.
const REPAIR: u8 = 0x80;
/// The most bytes of a body: the longest is a page of the chunk list.
pub const MAX_BODY: u32 = 96 << 10;
/// The most bytes of a payload: one chunk.
pub const MAX_PAYLOAD: u32 = (CHUNK_BLOCKS as u32) * BLOCK_SIZE as u32;

/// Checks that header and body are those that were sealed. [`decode`] does the same; a reader that
/// acts on a header before has to check first.
///
/// # Errors
/// [`WireError::Checksum`].
pub fn verify_head(raw: &[u8; HEADER_BYTES], h: &Header, body: &[u8]) -> Result<(), WireError> {
    checksum(raw, h, body)
}

/// The type byte of a message.
fn kind(m: &Msg) -> u8 {
    match m {
        Msg::Seal { .. } => 1,
        Msg::SealAck { .. } => 2,
        Msg::SealWait { .. } => 3,
        Msg::Write { .. } => 4,
        Msg::WriteAck { .. } => 5,
        Msg::Read { .. } => 6,
        Msg::ReadAck { .. } => 7,
        Msg::Lease { .. } => 8,
        Msg::LeaseAck { .. } => 9,
        Msg::ChunkList { .. } => 10,
        Msg::ChunkListAck { .. } => 11,
        Msg::ChunkVersions { .. } => 12,
        Msg::ChunkVersionsAck { .. } => 13,
        Msg::Copy { .. } => 14,
        Msg::CopyAck { .. } => 15,
        Msg::Nack(_) => 16,
        Msg::Reserve { .. } => 17,
        Msg::Verify { .. } => 19,
        Msg::ReserveAck { .. } => 18,
    }
}

fn nack_code(n: Nack) -> (u8, u32) {
    match n {
        Nack::StaleTerm { promised } => (1, promised.0),
        Nack::FutureTerm => (2, 0),
        Nack::WrongStore => (3, 0),
        Nack::WrongLineage => (4, 0),
        Nack::NoReplica => (5, 0),
        Nack::NoSpace => (6, 0),
        Nack::BadCrc => (7, 0),
        Nack::Failed => (8, 0),
        Nack::Invalid => (9, 0),
    }
}

fn nack_from(code: u8, arg: u32) -> Option<Nack> {
    Some(match code {
        1 => Nack::StaleTerm { promised: Term(arg) },
        2 => Nack::FutureTerm,
        3 => Nack::WrongStore,
        4 => Nack::WrongLineage,
        5 => Nack::NoReplica,
        6 => Nack::NoSpace,
        7 => Nack::BadCrc,
        8 => Nack::Failed,
        9 => Nack::Invalid,
        _ => return None,
    })
}

/// Writes a message's body and returns its payload's pieces.
fn body(w: &mut W, m: &Msg) -> Vec<Bytes> {
    match m {
        Msg::Seal { epoch, held, position, stable } => {
            w.u64(epoch.0);
            w.ver(*held);
            w.u64(*position);
            w.ver(*stable);
        }
        Msg::SealAck { stable, max_ver, credit, position } => {
            w.ver(*stable);
            w.ver(*max_ver);
            w.u64(*credit);
            w.u64(*position);
        }
        Msg::SealWait { us } => w.u64(*us),
        Msg::Write { seq, range, stable, kind } => {
            w.u64(*seq);
            w.range(*range);
            w.ver(*stable);
            match kind {
                WriteKind::Zero { keep } => w.u8(if *keep { 2 } else { 0 }),
                WriteKind::Data { crcs, data } => {
                    w.u8(1);
                    w.u32(crcs.len() as u32);
                    crcs.iter().for_each(|c| w.u32(c.0));
                    return vec![data.clone()];
                }
            }
        }
        Msg::WriteAck { credit, position } => {
            w.u64(*credit);
            w.u64(*position);
        }
        Msg::Read { range } | Msg::Reserve { range } => w.range(*range),
        Msg::ReadAck { infos, data } => {
            w.infos(infos);
            return vec![data.clone()];
        }
        Msg::Lease { sent_at, stable } => {
            w.u64(*sent_at);
            w.ver(*stable);
        }
        Msg::LeaseAck { sent_at, credit } => {
            w.u64(*sent_at);
            w.u64(*credit);
        }
        Msg::ReserveAck { needs, credit } => {
            w.u64(*needs);
            w.u64(*credit);
        }
        Msg::ChunkList { since, from } => {
            w.ver(*since);
            w.u32(from.0);
        }
        Msg::ChunkListAck { chunks, more } => {
            w.u8(u8::from(*more));
            w.u32(chunks.len() as u32);
            for (c, v) in chunks {
                w.u32(c.0);
                w.ver(*v);
            }
        }
        Msg::ChunkVersions { chunk, since } => {
            w.u32(chunk.0);
            w.ver(*since);
        }
        Msg::Verify { chunk } => w.u32(chunk.0),
        Msg::ChunkVersionsAck { infos } => {
            w.u32(infos.len() as u32);
            for (at, i) in infos {
                w.u8(*at);
                w.info(i);
            }
        }
        Msg::Copy { items } => {
            w.u32(items.len() as u32);
            let mut payload = Vec::new();
            for i in items {
                w.u64(i.block.0);
                w.ver(i.seen);
                w.ver(i.src);
                let (what, crc) = match &i.content {
                    Content::Zero => (0, 0),
                    Content::Data(crc, d) => {
                        payload.push(d.clone());
                        (1, crc.0)
                    }
                    Content::Bad => (2, 0),
                };
                w.u8(what | if i.repair { REPAIR } else { 0 });
                w.u32(crc);
            }
            return payload;
        }
        Msg::CopyAck { applied } => {
            w.u32(applied.len() as u32);
            applied.iter().for_each(|a| w.u8(u8::from(*a)));
        }
        Msg::Nack(n) => {
            let (code, arg) = nack_code(*n);
            w.u8(code);
            w.u32(arg);
        }
    }
    Vec::new()
}

/// A frame for a message, sealed, over a link that says nothing of itself.
pub fn encode(env: &Envelope, m: &Msg) -> Frame {
    let mut frame = encode_unsealed(env, m);
    frame.stamp(&LinkFields::default());
    frame
}

/// A frame for a message, which [`Frame::stamp`] seals when it is sent.
pub fn encode_unsealed(env: &Envelope, m: &Msg) -> Frame {
    let mut w = W(Vec::with_capacity(HEADER_BYTES + 64));
    w.u32(MAGIC);
    w.u32(0); // checksum
    w.u8(1);
    w.u8(kind(m));
    w.0.resize(16, 0);
    w.u32(0); // body length
    w.u32(0); // payload length
    w.u128(env.cluster.0);
    w.u64(env.shard.vol.0);
    w.u32(env.shard.index);
    w.u64(env.rid.0);
    w.u128(env.store_uuid.0);
    w.u128(env.lineage.0);
    w.u32(env.term.0);
    w.u128(env.session.0);
    w.u64(env.req);
    w.u128(env.boot.0);
    debug_assert!(w.0.len() <= HEADER_BYTES);
    w.0.resize(HEADER_BYTES, 0);
    let payload = body(&mut w, m);
    let n = payload.iter().map(Bytes::len).sum::<usize>() as u32;
    let len = (w.0.len() - HEADER_BYTES) as u32;
    w.0[16..20].copy_from_slice(&len.to_le_bytes());
    w.0[20..24].copy_from_slice(&n.to_le_bytes());
    Frame { head: Bytes::from(w.0), payload }
}

/// Parses a header whose lengths are within bounds. Its checksum is verified with the body, by [`decode`].
///
/// # Errors
/// The bytes are no header of this version, or announce more than a frame may hold.
pub fn parse_header(raw: &[u8; HEADER_BYTES]) -> Result<Header, WireError> {
    header_fields(raw).ok_or(WireError::Magic)?
}

fn header_fields(raw: &[u8; HEADER_BYTES]) -> Option<Result<Header, WireError>> {
    let mut r = R(raw);
    if r.u32()? != MAGIC {
        return Some(Err(WireError::Magic));
    }
    let crc = r.u32()?;
    let (version, kind) = (r.u8()?, r.u8()?);
    if version != 1 {
        return Some(Err(WireError::Version(version)));
    }
    r.take::<6>()?;
    let (body, payload) = (r.u32()?, r.u32()?);
    if body > MAX_BODY || payload > MAX_PAYLOAD || !(payload as usize).is_multiple_of(BLOCK_SIZE) {
        return Some(Err(WireError::TooLong(body, payload)));
    }
    let cluster = ClusterId(r.u128()?);
    let shard = ShardId { vol: VolumeId(r.u64()?), index: r.u32()? };
    let env = Envelope {
        cluster,
        shard,
        rid: Rid(r.u64()?),
        store_uuid: StoreUuid(r.u128()?),
        lineage: Lineage(r.u128()?),
        term: Term(r.u32()?),
        session: SessionId(r.u128()?),
        req: r.u64()?,
        boot: BootId(r.u128()?),
    };
    let (received, limit, flags, parts) = (r.u64()?, r.u64()?, r.u32()?, r.u32()?);
    if parts > MAX_PAYLOAD || !(parts as usize).is_multiple_of(BLOCK_SIZE) || (parts > 0 && payload > 0) {
        return Some(Err(WireError::TooLong(body, parts)));
    }
    let link = LinkFields { received, limit, ask: flags & ASK != 0, parts };
    Some(Ok(Header { kind, crc, body, payload, link, env }))
}

/// The message of a frame whose parts have been read. Verifies header and body; whoever uses the
/// payload verifies its blocks, against the checksums in the body.
///
/// # Errors
/// The checksum does not match, or the fields make no message.
pub fn decode(raw: &[u8; HEADER_BYTES], h: &Header, body: &[u8], payload: Bytes) -> Result<Msg, WireError> {
    checksum(raw, h, body)?;
    let blocks = payload.len() / BLOCK_SIZE;
    let (msg, used) = message(h.kind, &mut R(body), &payload).ok_or(WireError::Malformed(h.kind))?;
    if used != blocks { Err(WireError::Malformed(h.kind)) } else { Ok(msg) }
}

/// The message, and how many payload blocks it uses.
fn message(kind: u8, r: &mut R<'_>, payload: &Bytes) -> Option<(Msg, usize)> {
    let mut used = 0;
    let m = match kind {
        1 => Msg::Seal { epoch: Epoch(r.u64()?), held: r.ver()?, position: r.u64()?, stable: r.ver()? },
        2 => Msg::SealAck { stable: r.ver()?, max_ver: r.ver()?, credit: r.u64()?, position: r.u64()? },
        3 => Msg::SealWait { us: r.u64()? },
        4 => {
            let (seq, range, stable) = (r.u64()?, r.range()?, r.ver()?);
            let kind = match r.u8()? {
                0 => WriteKind::Zero { keep: false },
                2 => WriteKind::Zero { keep: true },
                1 => {
                    let crcs = r.crcs()?;
                    used = crcs.len();
                    if used != range.len as usize || payload.len() != used * BLOCK_SIZE {
                        return None;
                    }
                    WriteKind::Data { crcs, data: payload.clone() }
                }
                _ => return None,
            };
            Msg::Write { seq, range, stable, kind }
        }
        5 => Msg::WriteAck { credit: r.u64()?, position: r.u64()? },
        6 => Msg::Read { range: r.range()? },
        7 => {
            let infos = r.infos()?;
            used = payload.len() / BLOCK_SIZE;
            if infos.len() != used {
                return None;
            }
            Msg::ReadAck { infos, data: payload.clone() }
        }
        8 => Msg::Lease { sent_at: r.u64()?, stable: r.ver()? },
        9 => Msg::LeaseAck { sent_at: r.u64()?, credit: r.u64()? },
        10 => Msg::ChunkList { since: r.ver()?, from: ChunkIx(r.u32()?) },
        11 => {
            let more = r.u8()? != 0;
            let n = r.count(16)?;
            let chunks: Option<Vec<_>> = (0..n).map(|_| Some((ChunkIx(r.u32()?), r.ver()?))).collect();
            Msg::ChunkListAck { chunks: chunks?, more }
        }
        12 => Msg::ChunkVersions { chunk: ChunkIx(r.u32()?), since: r.ver()? },
        13 => Msg::ChunkVersionsAck { infos: r.listed()? },
        14 => {
            let (items, n) = copy_items(r, payload)?;
            used = n;
            Msg::Copy { items }
        }
        15 => {
            let n = r.count(1)?;
            let applied: Option<Vec<bool>> = (0..n).map(|_| r.u8().map(|b| b != 0)).collect();
            Msg::CopyAck { applied: applied? }
        }
        16 => Msg::Nack(nack_from(r.u8()?, r.u32()?)?),
        17 => Msg::Reserve { range: r.range()? },
        19 => Msg::Verify { chunk: ChunkIx(r.u32()?) },
        18 => Msg::ReserveAck { needs: r.u64()?, credit: r.u64()? },
        _ => return None,
    };
    r.end()?;
    Some((m, used))
}

fn copy_items(r: &mut R<'_>, payload: &Bytes) -> Option<(Vec<CopyItem>, usize)> {
    let n = r.count(37)?;
    let mut at = 0;
    let mut items = Vec::with_capacity(n);
    for _ in 0..n {
        let (block, seen, src) = (BlockIx(r.u64()?), r.ver()?, r.ver()?);
        let (what, crc) = (r.u8()?, PayloadCrc(r.u32()?));
        let repair = what & REPAIR != 0;
        let what = what & !REPAIR;
        let content = if what == 1 {
            let end = at + BLOCK_SIZE;
            if end > payload.len() {
                return None;
            }
            let d = payload.slice(at..end);
            at = end;
            Content::Data(crc, d)
        } else {
            match what {
                0 => Content::Zero,
                2 => Content::Bad,
                _ => return None,
            }
        };
        items.push(CopyItem { block, seen, src, content, repair });
    }
    Some((items, at / BLOCK_SIZE))
}
