//! What the tests of the machines begin with: one shard, one session, members on nodes of their own.
#![allow(dead_code, reason = "each test file uses what it needs")]

pub mod world;

use hf_policy::attributes::ReadFrom;
use hf_policy::*;
use hf_repl_core::coordinator::{Config, MemberInfo, Record};
use hf_repl_core::message::Envelope;
use hf_repl_core::replica::Durable;

/// The process that every member is.
pub const BOOT: BootId = BootId(9);
/// The coordinator's session.
pub const SESSION: SessionId = SessionId(5);

pub fn config() -> Config {
    Config {
        cluster: ClusterId(1),
        shard: ShardId { vol: VolumeId(1), index: 0 },
        session: SESSION,
        node: NodeId(1),
        blocks: 1024,
        min_replicas: 1,
        replica_timeout: 1_000 * MS,
        read_from: ReadFrom::Local,
        strict_reads: false,
        rebuild_impact: 20,
        nearest: vec![Rid(1)],
    }
}

/// A first term with so many members in sync.
pub fn record(members: u64) -> Record {
    let member = |i: u64| (Rid(i), MemberInfo { node: NodeId(i), store_uuid: StoreUuid(i.into()) });
    Record {
        activated: Term(0),
        served: true,
        term: Term(1),
        epoch: Epoch(3),
        session: Some(SESSION),
        lineage: Lineage(1),
        in_sync: (1..=members).map(member).collect(),
        out: Default::default(),
        leaving: Default::default(),
        paused: Default::default(),
        scrub: None,
        scrub_paused: false,
    }
}

/// The first member's storage, promised to this term and session.
pub fn durable(term: u32, session: SessionId) -> Durable {
    Durable {
        cluster: ClusterId(1),
        shard: ShardId { vol: VolumeId(1), index: 0 },
        rid: Rid(1),
        store_uuid: StoreUuid(1),
        lineage: Lineage(1),
        promised_term: Term(term),
        promised_session: session,
        stable: Ver::ZERO,
        position: 0,
    }
}

/// To the first member, in a term of this coordinator.
pub fn envelope(term: u32, req: u64) -> Envelope {
    Envelope {
        cluster: ClusterId(1),
        shard: ShardId { vol: VolumeId(1), index: 0 },
        rid: Rid(1),
        store_uuid: StoreUuid(1),
        lineage: Lineage(1),
        term: Term(term),
        session: SESSION,
        req,
        boot: BootId(0),
    }
}
