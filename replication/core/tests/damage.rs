//! Damage on several members at once, in different places: as long as each block is whole somewhere, clients get all of it, a replica
//! that is filled gets all of it, and what was damaged is replaced. Every pattern over a few blocks and members is tried.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bytes::Bytes;
use common::{BOOT, config, record};
use hf_policy::*;
use hf_repl_core::IoError;
use hf_repl_core::coordinator::{self as co, Change, ClientOp, ClientReply, Coordinator, Input, Output};
use hf_repl_core::message::{BlockInfo, BlockState, Content, Envelope, Msg};
use std::collections::{BTreeMap, BTreeSet};

/// Blocks that were written.
const BLOCKS: u64 = 4;
/// The member that is out.
const OUT: Rid = Rid(9);

fn ver() -> Ver {
    Ver::new(1, 1)
}

fn payload(block: u64) -> Bytes {
    vec![block as u8 + 1; BLOCK_SIZE].into()
}

struct World {
    c: Coordinator,
    now: Tick,
    record: co::Record,
    /// Bad blocks of each replica that holds any.
    bad: BTreeMap<Rid, BTreeSet<u64>>,
    /// What the member that is out was told.
    copied: BTreeMap<u64, Content>,
    replies: Vec<Result<ClientReply, IoError>>,
    coming: Vec<(Rid, Envelope, Msg)>,
}

impl World {
    /// Member `i` (from 1) has those blocks bad whose bits are set in `bad[i - 1]`. With `fill` another one is out, with nothing, or with all
    /// blocks but those.
    fn new(bad: &[u64], fill: Option<Option<u64>>) -> World {
        let out = co::OutInfo {
            node: NodeId(OUT.0),
            store_uuid: Some(StoreUuid(OUT.0.into())),
            base: Ver::ZERO,
            position: 0,
            sync_id: None,
        };
        let out = if fill.is_some() { BTreeMap::from([(OUT, out)]) } else { BTreeMap::new() };
        let record = co::Record { out, ..record(bad.len() as u64) };
        let of = |bits: &u64| (0..BLOCKS).filter(|b| bits >> b & 1 == 1).collect();
        let of_members = (1..).map(Rid).zip(bad.iter().map(of));
        let bad: BTreeMap<_, _> = of_members.chain(fill.flatten().map(|b| (OUT, of(&b)))).collect();
        let (now, mut first) = (Tick(1_000_000_000), Vec::new());
        let c = Coordinator::new(now, config(), record.clone(), &mut first);
        let (copied, replies, coming) = Default::default();
        let mut w = World { c, now, record, bad, copied, replies, coming };
        w.take(first);
        let all: BTreeSet<Rid> = w.bad.keys().copied().chain(fill.map(|_| OUT)).collect();
        all.into_iter().for_each(|rid| w.step(Input::PeerUp { rid, boot: BOOT }));
        w
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.c.step(self.now, input, &mut out);
        self.c.check().unwrap();
        self.take(out);
    }

    fn take(&mut self, out: Vec<Output>) {
        for o in out {
            match o {
                Output::Send { rid, env, msg } => {
                    let reply = self.answer(rid, msg);
                    self.coming.push((rid, Envelope { boot: BOOT, ..env }, reply));
                }
                Output::WantSync => self.step(Input::SyncGo),
                Output::Propose { change, .. } => self.propose(change),
                Output::Reply { result, .. } => self.replies.push(result),
                _ => {}
            }
        }
    }

    fn info(&self, rid: Rid, block: u64) -> BlockInfo {
        let written = self.bad.contains_key(&rid) && block < BLOCKS;
        match self.bad.get(&rid).is_some_and(|b| b.contains(&block)) {
            true => BlockInfo { ver: ver(), state: BlockState::Bad, ..BlockInfo::default() },
            false if written => BlockInfo { ver: ver(), crc: crc::payload(&payload(block)), state: BlockState::Data },
            false => BlockInfo::default(),
        }
    }

    fn answer(&mut self, rid: Rid, msg: Msg) -> Msg {
        let holds = self.bad.contains_key(&rid);
        let chunks = || if holds { vec![(ChunkIx(0), ver())] } else { Vec::new() };
        match msg {
            Msg::Seal { .. } => Msg::SealAck { stable: ver(), max_ver: ver(), credit: 1 << 40, position: 0 },
            Msg::Lease { sent_at, .. } => Msg::LeaseAck { sent_at, credit: 1 << 40 },
            Msg::ChunkList { .. } => Msg::ChunkListAck { chunks: chunks(), more: false },
            Msg::ChunkVersions { .. } => {
                let known = (0..=255).filter(|_| holds).map(|at| (at, self.info(rid, u64::from(at))));
                Msg::ChunkVersionsAck { infos: known.filter(|(_, i)| *i != BlockInfo::default()).collect() }
            }
            Msg::Read { range } => {
                let infos: Vec<BlockInfo> = range.iter().map(|b| self.info(rid, b.0)).collect();
                let bytes = |(b, i): (BlockIx, &BlockInfo)| match i.state {
                    BlockState::Data => payload(b.0),
                    _ => vec![0; BLOCK_SIZE].into(),
                };
                let data: Vec<Bytes> = range.iter().zip(&infos).map(bytes).collect();
                Msg::ReadAck { infos, data: data.concat().into() }
            }
            Msg::Copy { items } => {
                let applied = vec![true; items.len()];
                for i in items {
                    if rid == OUT {
                        assert!(self.copied.insert(i.block.0, i.content).is_none(), "{:?} is copied twice", i.block);
                    } else if let Content::Data(_, data) = &i.content {
                        assert!(i.repair && *data == payload(i.block.0), "{:?}", i.block);
                        self.bad.get_mut(&rid).unwrap().remove(&i.block.0);
                    }
                }
                Msg::CopyAck { applied }
            }
            other => panic!("{other:?}"),
        }
    }

    fn propose(&mut self, change: Change) {
        let r = &mut self.record;
        r.epoch = r.epoch.next();
        match change {
            Change::SyncStart { rid, sync_id } => r.out.get_mut(&rid).unwrap().sync_id = Some(sync_id),
            Change::Add { rid, store_uuid } => {
                let o = r.out.remove(&rid).unwrap();
                r.in_sync.insert(rid, co::MemberInfo { node: o.node, store_uuid });
            }
            other => panic!("{other:?}"),
        }
        let r = self.record.clone();
        self.step(Input::Record(r));
    }

    /// Time goes on until it holds.
    fn until(&mut self, done: impl Fn(&World) -> bool) {
        for _ in 0..20_000 {
            if done(self) {
                return;
            }
            self.now = self.now.plus(MS);
            for (rid, env, msg) in std::mem::take(&mut self.coming) {
                self.step(Input::Message { rid, env, msg });
            }
            if self.c.next_deadline().is_some_and(|d| d <= self.now) {
                self.step(Input::Tick);
            }
        }
        panic!("it does not come to an end: {:?}", self.c.status());
    }
}

/// Every way in which three members can each have some of four blocks bad.
fn patterns() -> impl Iterator<Item = [u64; 3]> {
    (0..1u64 << (3 * BLOCKS)).map(|n| [n & 15, n >> 4 & 15, n >> 8])
}

#[test]
fn a_read_is_put_together_from_whoever_has_each_block() {
    for bad in patterns() {
        let mut w = World::new(&bad, None);
        w.until(|w| w.c.status().phase == co::Phase::Serving && w.coming.is_empty());
        let op = ClientOp::Read { off: 0, len: (BLOCKS * BLOCK_BYTES) as u32 };
        w.step(Input::Client { id: 1, op });
        w.until(|w| !w.replies.is_empty());
        let lost = bad[0] & bad[1] & bad[2];
        match w.replies.pop().unwrap() {
            Ok(ClientReply::Data(parts)) => {
                let want: Vec<Bytes> = (0..BLOCKS).map(payload).collect();
                assert!(lost == 0 && parts.concat() == want.concat(), "{bad:?}");
                // Whoever was asked and lacked something has it again.
                w.until(|w| w.coming.is_empty());
                let first = &w.bad[&Rid(1)];
                assert!(first.is_empty(), "{bad:?}: the first member still lacks {first:?}");
            }
            Err(IoError::Io) => assert!(lost != 0, "{bad:?}: every block is whole somewhere"),
            other => panic!("{bad:?}: {other:?}"),
        }
    }
}

#[test]
fn a_replica_is_filled_with_each_block_from_whoever_has_it() {
    for bad in patterns().step_by(7).chain(patterns().filter(|b| b[0] & b[1] & b[2] == 0 && b[0] | b[1] == 15)) {
        let mut w = World::new(&bad, Some(None));
        w.until(|w| w.record.in_sync.contains_key(&OUT));
        let lost = bad[0] & bad[1] & bad[2];
        for b in 0..BLOCKS {
            let told = w.copied.get(&b);
            match told {
                Some(Content::Data(_, data)) => assert!(lost >> b & 1 == 0 && *data == payload(b), "{bad:?}"),
                Some(Content::Bad) => assert!(lost >> b & 1 == 1, "{bad:?}: block {b} is told to be lost"),
                other => panic!("{bad:?}: block {b}: {other:?}"),
            }
        }
    }
}

/// One that comes back with damage of its own is given what any member has whole, and nothing else.
#[test]
fn a_replica_that_returns_with_damage_is_mended_from_whoever_has_it() {
    for (n, bad) in patterns().enumerate() {
        let own = n as u64 * 7 % 15 + 1;
        let mut w = World::new(&bad, Some(Some(own)));
        w.until(|w| w.record.in_sync.contains_key(&OUT));
        let lost = bad[0] & bad[1] & bad[2];
        let mended = (0..BLOCKS).filter(|b| (own & !lost) >> b & 1 == 1);
        assert!(w.copied.keys().copied().eq(mended), "{bad:?}, own {own}: {:?}", w.copied.keys());
        assert!(w.copied.iter().all(|(b, c)| matches!(c, Content::Data(_, d) if *d == payload(*b))), "{bad:?}");
    }
}
