//! Members that answer, but take longer than the coordinator waits before it asks again: an attach
//! and a sync must get there all the same. (Regions apart, or a disk that takes a while for a
//! promise.) And a link that carries little: what is copied over it is no more at once than it
//! carries in time, or attempt after attempt would fail half way, and send the rest for nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::{BOOT, config, record};
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, Change, Coordinator, Input, Output, Phase};
use hf_repl_core::message::{BlockInfo, BlockState, Content, Envelope, Msg};
use hf_repl_core::timing;
use std::collections::BTreeMap;

/// The way to the member that is out, and back.
#[derive(Default)]
struct Narrow {
    /// Bytes a second; 0: as many as there are.
    rate: u64,
    there: Tick,
    back: Tick,
    sent: u64,
}

impl Narrow {
    fn takes(rate: u64, bytes: usize) -> u64 {
        (bytes as u64 * 1_000_000).checked_div(rate).unwrap_or(0)
    }

    /// When a message of so many bytes has arrived there, behind all before it, and its answer has
    /// come back.
    fn round(&mut self, now: Tick, bytes: usize, answer: usize) -> Tick {
        self.sent += bytes as u64;
        self.there = self.there.max(now).plus(Narrow::takes(self.rate, bytes));
        self.back = self.back.max(self.there).plus(Narrow::takes(self.rate, answer));
        self.back
    }
}

/// Chunks that the member lacks.
const CHUNKS: u32 = 16;

struct World {
    c: Coordinator,
    now: Tick,
    narrow: Narrow,
    /// Blocks that it has by now.
    copied: std::collections::BTreeSet<u64>,
    attempts: u32,
    /// From a question to its answer, in microseconds.
    delay: u64,
    /// Answers on their way.
    coming: Vec<(Tick, Rid, Envelope, Msg)>,
    record: co::Record,
    joined: bool,
}

impl World {
    fn new(delay: u64) -> World {
        World::with(delay, 0)
    }

    fn with(delay: u64, rate: u64) -> World {
        let cfg = co::Config { blocks: u64::from(CHUNKS) * CHUNK_BLOCKS, ..config() };
        let out = co::OutInfo {
            node: NodeId(3),
            store_uuid: Some(StoreUuid(3)),
            base: Ver::ZERO,
            position: 0,
            sync_id: None,
        };
        let record = co::Record { out: BTreeMap::from([(Rid(3), out)]), ..record(2) };
        let now = Tick(1_000_000_000);
        let mut out = Vec::new();
        let c = Coordinator::new(now, cfg, record.clone(), &mut out);
        let narrow = Narrow { rate, ..Narrow::default() };
        let (copied, coming) = (Default::default(), Vec::new());
        let mut w = World { c, now, narrow, copied, attempts: 0, delay, coming, record, joined: false };
        w.take(out);
        (1..=3).for_each(|i| w.step(Input::PeerUp { rid: Rid(i), boot: BOOT }));
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
                    let bytes = weight(&msg);
                    let reply = self.answer(rid, msg);
                    let due = match rid {
                        Rid(3) => self.narrow.round(self.now, bytes, weight(&reply)),
                        _ => self.now,
                    };
                    self.coming.push((due.plus(self.delay), rid, Envelope { boot: BOOT, ..env }, reply));
                }
                Output::WantSync { .. } => self.step(Input::SyncGo),
                Output::Propose { change, .. } => self.propose(change),
                _ => {}
            }
        }
    }

    /// What a member says. Members of the set hold every block; the one that is out holds what was
    /// copied to it.
    fn answer(&mut self, rid: Rid, msg: Msg) -> Msg {
        let full = rid != Rid(3) && self.narrow.rate > 0;
        let info = || BlockInfo { ver: Ver::new(1, 1), crc: crc::payload(&[7; 4096]), state: BlockState::Data };
        match msg {
            Msg::Seal { .. } => Msg::SealAck { stable: Ver::ZERO, max_ver: Ver::ZERO, credit: 1 << 40, position: 0 },
            Msg::Lease { sent_at, .. } => Msg::LeaseAck { sent_at, credit: 1 << 40 },
            Msg::ChunkList { .. } => {
                let all = (0..CHUNKS).map(|c| (ChunkIx(c), Ver::new(1, 1)));
                Msg::ChunkListAck { chunks: if full { all.collect() } else { Vec::new() }, more: false }
            }
            Msg::ChunkVersions { .. } => {
                Msg::ChunkVersionsAck { infos: (0..=255).filter(|_| full).map(|at| (at, info())).collect() }
            }
            Msg::Read { range } => {
                let infos = range.iter().map(|_| info()).collect();
                Msg::ReadAck { infos, data: vec![7; range.bytes() as usize].into() }
            }
            Msg::Copy { items } => {
                self.copied.extend(items.iter().map(|i| i.block.0));
                Msg::CopyAck { applied: vec![true; items.len()] }
            }
            other => panic!("{other:?}"),
        }
    }

    fn propose(&mut self, change: Change) {
        let r = &mut self.record;
        r.epoch = r.epoch.next();
        match change {
            Change::SyncStart { rid, sync_id } => {
                self.attempts += 1;
                r.out.get_mut(&rid).unwrap().sync_id = Some(sync_id);
            }
            Change::Add { rid, store_uuid } => {
                self.joined = true;
                let o = r.out.remove(&rid).unwrap();
                r.in_sync.insert(rid, co::MemberInfo { node: o.node, store_uuid });
            }
            other => panic!("{other:?}: nobody is silent"),
        }
        let r = self.record.clone();
        self.step(Input::Record(r));
    }

    fn live(&mut self, us: u64) {
        let end = self.now.plus(us);
        while self.now < end {
            self.now = self.now.plus(MS);
            while let Some(at) = self.coming.iter().position(|(due, ..)| *due <= self.now) {
                let (_, rid, env, msg) = self.coming.remove(at);
                self.step(Input::Message { rid, env, msg });
            }
            if self.c.next_deadline().is_some_and(|d| d <= self.now) {
                self.step(Input::Tick);
            }
        }
    }
}

#[test]
fn an_attach_gets_there_though_every_answer_takes_longer_than_the_seals_rhythm() {
    for delay in [0, timing::SEAL_EVERY / 2, timing::SEAL_EVERY, timing::SEAL_EVERY * 3 / 2, timing::SEAL_EVERY * 3] {
        let mut w = World::new(delay);
        // Two rounds: the promise, and that all is equal.
        w.live(2 * delay + 100 * MS);
        assert_eq!(w.c.status().phase, Phase::Serving, "answers after {delay} us");
        w.live(5_000 * MS);
        assert!(w.joined, "answers after {delay} us: the member that was out never got in");
    }
}

/// Bytes on the way, near enough.
fn weight(msg: &Msg) -> usize {
    let item = |c: &Content| if matches!(c, Content::Data(..)) { 4096 + 40 } else { 40 };
    match msg {
        Msg::Copy { items } => 100 + items.iter().map(|i| item(&i.content)).sum::<usize>(),
        _ => 100,
    }
}

#[test]
fn copying_over_a_narrow_link_takes_what_the_link_takes_and_no_second_attempt() {
    for rate in [100 << 10, 500 << 10, 2 << 20, 8 << 20, 100 << 20] {
        let mut w = World::with(2 * MS, rate);
        w.live(500 * MS);
        assert_eq!(w.c.status().phase, Phase::Serving);
        let bytes = u64::from(CHUNKS) * CHUNK_BYTES;
        // (Beside clients, of which there might be some, it begins at 8 MiB a second.)
        let fair = bytes * 1_000_000 / rate + bytes / 8;
        w.live(fair * 5 / 4 + 3_000 * MS);
        let blocks = w.copied.len() as u64;
        let (sent, resends) = (w.narrow.sent, w.c.status().stats.resends);
        println!(
            "{} KiB/s: {blocks} blocks, {} attempts, sent {:.3} of what they weigh, {resends} repeated",
            rate >> 10,
            w.attempts,
            sent as f64 / bytes as f64
        );
        assert!(w.joined, "{rate} bytes/s: {blocks} blocks copied in {} attempts, {sent} bytes sent", w.attempts);
        assert!(
            w.attempts == 1 && sent < bytes * 21 / 20,
            "{rate} bytes/s: {} attempts, {sent} bytes sent",
            w.attempts
        );
    }
}

#[test]
fn copying_over_a_long_way_is_not_slow_for_that() {
    for delay in [MS, 60 * MS, 120 * MS, 300 * MS, 400 * MS] {
        let mut w = World::with(delay, 1 << 30);
        w.live(2 * delay + 500 * MS);
        // Some twenty round trips to grow, to list and to join; and what the pace takes, which
        // begins at 8 MiB a second.
        w.live(20 * delay + 4_000 * MS);
        println!("{} ms: {} attempts, {} blocks", delay / MS, w.attempts, w.copied.len());
        assert!(w.joined && w.attempts == 1, "{delay} us: {} attempts, {} blocks", w.attempts, w.copied.len());
    }
}
