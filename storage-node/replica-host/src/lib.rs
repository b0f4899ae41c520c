//! Translates a replica's requests into the store's words, and the store's answers into the
//! replica's. The two cores do not know each other.
//!
//! This is a package of its own so that the daemon (`storage-node/reactor/src/disk/host.rs`) and
//! the simulator (`tests/src/sim/real.rs`) translate with the same lines. It is pure: no I/O, no
//! state.

use hf_policy::{ClusterId, Rid};
use hf_repl_core::message::{self, Nack};
use hf_repl_core::replica::{Durable, LIST_PAGE, StoreAnswer, StoreOp};
use hf_store::format::page::BlockState;
use hf_store::{Answer, Content, CopyItem, Op, ReplicaRec, Store, StoreError};

/// How a request is to be answered.
#[derive(Debug)]
pub enum Asked {
    /// The store must do this operation.
    Do(Op),
    /// The answer is known already, without the disk.
    Known(StoreAnswer),
}

/// Translates a request of replica `rid` to its store.
pub fn ask(store: &Store, rid: Rid, op: StoreOp) -> Asked {
    Asked::Do(match op {
        StoreOp::Promise { term, session, stable, epoch } => {
            let Some(rec) = store.replica(rid).cloned() else {
                return Asked::Known(StoreAnswer::Error(Nack::NoReplica));
            };
            let hint_epoch = epoch.0.max(rec.hint_epoch);
            let promise = ReplicaRec { promised_term: term, promised_session: session, ..rec };
            Op::UpdateReplica(ReplicaRec { stable_known: stable, hint_epoch, ..promise })
        }
        StoreOp::Write { ver, start, data, crcs } => Op::Write { rid, ver, start, data, crcs },
        StoreOp::Zero { ver, range, keep } => Op::Zero { rid, ver, range, keep },
        StoreOp::Read { range } => Op::Read { rid, range },
        StoreOp::Needs { range } => {
            let needs = store.needs(rid, range).map(|n| StoreAnswer::Needs(n.to_needs()));
            return Asked::Known(needs.unwrap_or_else(|e| answer(Err(e))));
        }
        StoreOp::Versions { chunk } => Op::Versions { rid, chunk },
        StoreOp::Chunks { since, from } => {
            let mut list = store.chunks_since(rid, since, from, LIST_PAGE + 1);
            let more = list.len() > LIST_PAGE;
            list.truncate(LIST_PAGE);
            return Asked::Known(StoreAnswer::Chunks(list, more));
        }
        StoreOp::Copy { term, items } => Op::Copy { rid, term, items: items.into_iter().map(item).collect() },
    })
}

fn item(i: message::CopyItem) -> CopyItem {
    let content = match i.content {
        message::Content::Zero => Content::Zero,
        message::Content::Bad => Content::Bad,
        message::Content::Data(crc, data) => Content::Data(crc, data),
    };
    CopyItem { block: i.block, seen: i.seen, src: i.src, content, repair: i.repair }
}

/// Translates the store's answer.
pub fn answer(result: Result<Answer, StoreError>) -> StoreAnswer {
    let info = |b: &hf_store::engine::BlockInfo| message::BlockInfo {
        ver: b.ver,
        crc: b.crc,
        state: match b.state {
            BlockState::Absent => message::BlockState::Absent,
            BlockState::Data => message::BlockState::Data,
            BlockState::Zero => message::BlockState::Zero,
            BlockState::Bad => message::BlockState::Bad,
            BlockState::Lost => message::BlockState::Lost,
        },
    };
    match result {
        Ok(Answer::Done) => StoreAnswer::Done,
        Ok(Answer::Read { blocks, data }) => StoreAnswer::Read(blocks.iter().map(info).collect(), data),
        Ok(Answer::Versions(v)) => StoreAnswer::Versions(v.iter().map(info).collect()),
        Ok(Answer::Copied(c)) => StoreAnswer::Copied(c),
        Err(StoreError::Failed(_)) => StoreAnswer::Error(Nack::Failed),
        Err(StoreError::NoSpace) => StoreAnswer::Error(Nack::NoSpace),
        Err(StoreError::NoReplica(_)) => StoreAnswer::Error(Nack::NoReplica),
        Err(StoreError::Invalid(_) | StoreError::Exists(_) | StoreError::NoEntry(_)) => {
            StoreAnswer::Error(Nack::Invalid)
        }
    }
}

/// A replica's identity and promise, from its entry on the disk. `position` is [`Store::position`]
/// at this moment.
pub fn durable(cluster: ClusterId, r: &ReplicaRec, position: u64) -> Durable {
    Durable {
        cluster,
        shard: r.shard,
        rid: r.rid,
        store_uuid: r.store_uuid,
        lineage: r.lineage,
        promised_term: r.promised_term,
        promised_session: r.promised_session,
        stable: r.stable_known,
        position,
    }
}
