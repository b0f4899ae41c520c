//! Damage on several members at once, in different places: as long as each block is whole
//! somewhere, clients get all of it, a replica that is filled gets all of it, and what was damaged
//! is replaced. So does a scrub with what a disk silently lost, a write or all of the block. Every
//! pattern over a few blocks and members is tried.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::{BOOT, config, record};
use bytes::Bytes;
use hf_meta_core::record::ScrubReport;
use hf_policy::*;
use hf_repl_core::IoError;
use hf_repl_core::coordinator::{self as co, Change, ClientOp, ClientReply, Coordinator, Input, Output};
use hf_repl_core::message::{BlockInfo, BlockState, Content, CopyItem, Envelope, Msg};
use std::collections::{BTreeMap, BTreeSet};

/// Blocks that were written.
const BLOCKS: u64 = 4;
/// The member that is out.
const OUT: Rid = Rid(9);

/// What a member has of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    Whole,
    /// It knows what it should have, and cannot read it.
    Bad,
    /// Its disk lost the last write, and says nothing.
    Older,
    /// Its disk lost all of them.
    Nothing,
    /// It was told that no member has it.
    Told,
}

const STATES: [Has; 4] = [Has::Whole, Has::Bad, Has::Older, Has::Nothing];

fn ver() -> Ver {
    Ver::new(1, 2)
}

fn payload(block: u64) -> Bytes {
    vec![block as u8 + 1; BLOCK_SIZE].into()
}

fn older(block: u64) -> Bytes {
    vec![block as u8 + 101; BLOCK_SIZE].into()
}

struct World {
    c: Coordinator,
    now: Tick,
    record: co::Record,
    /// What each replica that was written has of each block.
    has: BTreeMap<Rid, Vec<Has>>,
    /// What the member that is out was told.
    copied: BTreeMap<u64, Content>,
    replies: Vec<Result<ClientReply, IoError>>,
    coming: Vec<(Rid, Envelope, Msg)>,
    scrubbed: Option<ScrubReport>,
}

impl World {
    /// Member `i` (from 1) has those blocks bad whose bits are set in `bad[i - 1]`. With `fill`
    /// another replica is out, which holds nothing, or all blocks but those.
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
        let one = |bits: u64, b: u64| if bits >> b & 1 == 1 { Has::Bad } else { Has::Whole };
        let of = |bits: &u64| (0..BLOCKS).map(|b| one(*bits, b)).collect();
        let of_members = (1..).map(Rid).zip(bad.iter().map(of));
        let has = of_members.chain(fill.flatten().map(|b| (OUT, of(&b)))).collect();
        World::of(record, has)
    }

    fn of(record: co::Record, has: BTreeMap<Rid, Vec<Has>>) -> World {
        let (now, mut first) = (Tick(1_000_000_000), Vec::new());
        let c = Coordinator::new(now, config(), record.clone(), &mut first);
        let (copied, replies, coming, scrubbed) = Default::default();
        let all: BTreeSet<Rid> = record.in_sync.keys().chain(record.out.keys()).copied().collect();
        let mut w = World { c, now, record, has, copied, replies, coming, scrubbed };
        w.take(first);
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
                Output::WantSync { .. } => self.step(Input::SyncGo),
                Output::Propose { change, .. } => self.propose(change),
                Output::Reply { result, .. } => self.replies.push(result),
                _ => {}
            }
        }
    }

    fn has(&self, rid: Rid, block: u64) -> Has {
        self.has.get(&rid).and_then(|has| has.get(block as usize)).copied().unwrap_or(Has::Nothing)
    }

    fn info(&self, rid: Rid, block: u64) -> BlockInfo {
        let data = |ver, bytes: Bytes| BlockInfo { ver, crc: crc::payload(&bytes), state: BlockState::Data };
        match self.has(rid, block) {
            Has::Whole => data(ver(), payload(block)),
            Has::Older => data(Ver::new(1, 1), older(block)),
            Has::Bad | Has::Told => BlockInfo { ver: ver(), state: BlockState::Bad, ..BlockInfo::default() },
            Has::Nothing => BlockInfo::default(),
        }
    }

    /// The whole chunk, or what is known of it.
    fn listed(&self, rid: Rid) -> Vec<(u8, BlockInfo)> {
        let all = (0..=255).map(|at| (at, self.info(rid, u64::from(at))));
        all.filter(|(_, i)| *i != BlockInfo::default()).collect()
    }

    fn answer(&mut self, rid: Rid, msg: Msg) -> Msg {
        let holds = self.has.contains_key(&rid);
        let chunks = || if holds { vec![(ChunkIx(0), ver())] } else { Vec::new() };
        match msg {
            Msg::Seal { .. } => Msg::SealAck { stable: ver(), max_ver: ver(), credit: 1 << 40, position: 0 },
            Msg::Lease { sent_at, .. } => Msg::LeaseAck { sent_at, credit: 1 << 40 },
            Msg::ChunkList { .. } => Msg::ChunkListAck { chunks: chunks(), more: false },
            Msg::ChunkVersions { .. } | Msg::Verify { .. } => Msg::ChunkVersionsAck { infos: self.listed(rid) },
            Msg::Read { range } => {
                let infos: Vec<BlockInfo> = range.iter().map(|b| self.info(rid, b.0)).collect();
                let bytes = |b: BlockIx| match self.has(rid, b.0) {
                    Has::Whole => payload(b.0),
                    Has::Older => older(b.0),
                    Has::Bad | Has::Told | Has::Nothing => vec![0; BLOCK_SIZE].into(),
                };
                let data: Vec<Bytes> = range.iter().map(bytes).collect();
                Msg::ReadAck { infos, data: data.concat().into() }
            }
            Msg::Copy { items } => {
                let applied = vec![true; items.len()];
                items.into_iter().for_each(|i| self.copied(rid, i));
                Msg::CopyAck { applied }
            }
            other => panic!("{other:?}"),
        }
    }

    /// A replica that is filled gets a block once; a member gets what it lacks, at the version that
    /// it has lost, or is told that no member has it.
    fn copied(&mut self, rid: Rid, i: CopyItem) {
        if rid == OUT {
            assert!(self.copied.insert(i.block.0, i.content).is_none(), "{:?} is copied twice", i.block);
            return;
        }
        let has = self.has(rid, i.block.0);
        let now = match &i.content {
            Content::Data(_, data) if *data == payload(i.block.0) => Has::Whole,
            Content::Data(_, data) if *data == older(i.block.0) => Has::Older,
            Content::Bad => Has::Told,
            other => panic!("{other:?}"),
        };
        let seen = self.info(rid, i.block.0).ver;
        let newer = if now == Has::Older { Ver::new(1, 1) } else { ver() };
        assert!(i.seen == seen && i.src == newer && i.src >= seen, "{i:?} for {has:?}");
        assert_eq!(i.repair, has == Has::Bad && now == Has::Whole, "{i:?}");
        self.has.get_mut(&rid).unwrap()[i.block.0 as usize] = now;
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
            Change::Scrubbed { report, .. } => {
                r.scrub = None;
                self.scrubbed = Some(report);
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
                let first = &w.has[&Rid(1)];
                assert!(first.iter().all(|h| *h == Has::Whole), "{bad:?}: the first member has {first:?}");
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

/// The member that is asked second may have what was there before its disk lost a write. That
/// cannot be told where only that one is asked; here the first one has the block, or knows that it
/// lost it.
#[test]
fn a_read_never_takes_what_was_before_from_whoever_still_has_it() {
    let mut answered = 0;
    for n in 0..4usize.pow(6) {
        let at = |i: usize| STATES[n >> (2 * i) & 3];
        if matches!(at(0), Has::Older | Has::Nothing) || matches!(at(1), Has::Older | Has::Nothing) {
            continue;
        }
        let of = |m: usize| vec![Has::Whole, at(2 * m), Has::Whole, at(2 * m + 1)];
        let first: BTreeMap<Rid, Vec<Has>> = (0..3).map(|m| (Rid(m as u64 + 1), of(m))).collect();
        let mut w = World::of(record(3), first.clone());
        w.until(|w| w.c.status().phase == co::Phase::Serving && w.coming.is_empty());
        w.step(Input::Client { id: 1, op: ClientOp::Read { off: 0, len: (BLOCKS * BLOCK_BYTES) as u32 } });
        w.until(|w| !w.replies.is_empty() && w.coming.is_empty());
        let has = |b: usize| first.values().any(|v| v[b] == Has::Whole);
        match w.replies.pop().unwrap() {
            Ok(ClientReply::Data(parts)) => {
                let want: Vec<Bytes> = (0..BLOCKS).map(payload).collect();
                assert!(parts.concat() == want.concat(), "{first:?}");
                answered += 1;
                // What was asked and had less has it again.
                assert!(w.has[&Rid(1)].iter().all(|h| *h == Has::Whole), "{first:?}: {:?}", w.has);
            }
            Err(IoError::Io) => assert!(!has(1) || !has(3), "{first:?}: every block is whole somewhere"),
            other => panic!("{first:?}: {other:?}"),
        }
    }
    println!("{answered} reads answered");
}

/// A scrub compares all members: a block that one lost is replaced from another one, and a block
/// that only a disk had which knows that it lost it is lost. What a block was before is never
/// passed off as what it is.
#[test]
fn a_scrub_mends_what_is_bad_and_what_a_disk_silently_lost() {
    let mut seen = ScrubReport::default();
    // Two of the blocks in every way in which three members can have them, and two that are whole.
    for n in 0..4usize.pow(6) {
        let at = |i: usize| STATES[n >> (2 * i) & 3];
        let of = |m: usize| vec![Has::Whole, at(2 * m), Has::Whole, at(2 * m + 1)];
        let first: BTreeMap<Rid, Vec<Has>> = (0..3).map(|m| (Rid(m as u64 + 1), of(m))).collect();
        let mut w = World::of(record(3), first.clone());
        w.until(|w| w.c.status().phase == co::Phase::Serving && w.coming.is_empty());
        (w.record.scrub, w.record.epoch) = (Some(7), w.record.epoch.next());
        let r = w.record.clone();
        w.step(Input::Record(r));
        w.until(|w| w.scrubbed.is_some() && w.coming.is_empty());
        let report = w.scrubbed.unwrap();
        let mut want = ScrubReport { chunks: 1, ..ScrubReport::default() };
        for block in 0..BLOCKS as usize {
            let had: Vec<Has> = first.values().map(|v| v[block]).collect();
            let has: Vec<Has> = w.has.values().map(|v| v[block]).collect();
            let count = |h: Has| had.iter().filter(|x| **x == h).count() as u64;
            let (whole, bad, old, none) = (count(Has::Whole), count(Has::Bad), count(Has::Older), count(Has::Nothing));
            let lost = whole == 0 && bad > 0;
            want.bad += bad;
            want.lost += u64::from(lost);
            let behind = if whole + bad > 0 {
                old + none
            } else if old > 0 {
                none
            } else {
                0
            };
            want.behind += behind;
            want.repaired += if lost { 0 } else { behind + bad };
            let all = |h: Has| has.iter().all(|x| *x == h);
            assert!(
                match (whole, bad, old) {
                    (1.., ..) => all(Has::Whole),
                    (0, 1.., _) => has.iter().all(|h| matches!(h, Has::Bad | Has::Told)),
                    (0, 0, 1..) => all(Has::Older),
                    (0, 0, 0) => all(Has::Nothing),
                },
                "block {block}: of {had:?} became {has:?}"
            );
        }
        assert_eq!(report, want, "{first:?}");
        seen = seen.plus(report);
    }
    println!("scrubs of {} chunks: {seen:?}", seen.chunks);
}
