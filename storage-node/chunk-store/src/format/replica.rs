//! A replica's durable state: its identity, its promise, and enough of the volume's record to
//! assemble it by hand if the cluster's metadata is lost for good (`meta_hint`).

use super::{Get, Put};
use hf_policy::{Lineage, Rid, SessionId, ShardId, StoreUuid, Term, Ver, VolumeId};

/// Size of one entry in bytes.
pub const REPLICA_BYTES: usize = 252;
const NAME_BYTES: usize = 64;
const SIZE_AT: usize = 168;

/// One entry of the replica table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRec {
    /// The shard that the replica belongs to.
    pub shard: ShardId,
    /// The id of the replica.
    pub rid: Rid,
    /// A random number made when this storage was created.
    pub store_uuid: StoreUuid,
    /// The lineage (history of the volume's data) it belongs to.
    pub lineage: Lineage,
    /// No message of an older term is served.
    pub promised_term: Term,
    /// The session that term belongs to.
    pub promised_session: SessionId,
    /// A watermark: every version up to it is on all in-sync replicas.
    pub stable_known: Ver,
    /// The replica's size in blocks.
    pub blocks: u64,
    /// True if it is being deleted: its chunks are freed in the background.
    pub deleting: bool,
    /// Hint: the volume's epoch when it was made, last promised a term, or took a lineage.
    pub hint_epoch: u64,
    /// Hint: the volume's name.
    pub hint_name: String,
    /// Hint: the volume's size in bytes at that time; 0 if it was not written down then.
    pub hint_size: u64,
}

impl ReplicaRec {
    /// Encodes the entry.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(REPLICA_BYTES);
        b.p32(if self.deleting { 2 } else { 1 });
        b.p32(self.shard.index);
        b.p64(self.shard.vol.0);
        b.p64(self.rid.0);
        b.p128(self.store_uuid.0);
        b.p128(self.lineage.0);
        b.p32(self.promised_term.0);
        b.p128(self.promised_session.0);
        b.pver(self.stable_known);
        b.p64(self.blocks);
        b.p64(self.hint_epoch);
        let name = self.hint_name.as_bytes();
        // Names of volumes have at most 63 characters, all ASCII.
        let n = name.len().min(NAME_BYTES - 1);
        b.push(n as u8);
        b.extend_from_slice(&name[..n]);
        b.resize(SIZE_AT, 0);
        b.p64(self.hint_size);
        b.resize(REPLICA_BYTES, 0);
        b
    }

    /// Decodes an entry. The outer `None` means damaged, the inner one a free entry.
    pub fn decode(bytes: &[u8]) -> Option<Option<ReplicaRec>> {
        let mut g = Get(bytes);
        let state = g.u32()?;
        if state == 0 {
            return Some(None);
        }
        let index = g.u32()?;
        let rec = ReplicaRec {
            shard: ShardId { index, vol: VolumeId(g.u64()?) },
            rid: Rid(g.u64()?),
            store_uuid: StoreUuid(g.u128()?),
            lineage: Lineage(g.u128()?),
            promised_term: Term(g.u32()?),
            promised_session: SessionId(g.u128()?),
            stable_known: g.ver()?,
            blocks: g.u64()?,
            hint_epoch: g.u64()?,
            hint_name: {
                let n = g.u8()? as usize;
                let name = if n < NAME_BYTES { g.bytes(n)? } else { return None };
                String::from_utf8(name.to_vec()).ok()?
            },
            hint_size: Get(bytes.get(SIZE_AT..)?).u64()?,
            deleting: state == 2,
        };
        Some(Some(rec))
    }
}
