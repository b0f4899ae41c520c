//! Members that answer, but take longer than the coordinator waits before it asks again: an attach and a sync must get there all the
//! same. (Regions apart, or a disk that takes a while for a promise.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{BOOT, config, record};
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, Change, Coordinator, Input, Output, Phase};
use hf_repl_core::message::{Envelope, Msg};
use hf_repl_core::timing;
use std::collections::BTreeMap;

struct World {
    c: Coordinator,
    now: Tick,
    /// From a question to its answer, in microseconds.
    delay: u64,
    /// Answers on their way.
    coming: Vec<(Tick, Rid, Envelope, Msg)>,
    record: co::Record,
    joined: bool,
}

impl World {
    fn new(delay: u64) -> World {
        let cfg = config();
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
        let mut w = World { c, now, delay, coming: Vec::new(), record, joined: false };
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
                    let reply = match msg {
                        Msg::Seal { .. } => {
                            Msg::SealAck { stable: Ver::ZERO, max_ver: Ver::ZERO, credit: 1 << 40, position: 0 }
                        }
                        Msg::Lease { sent_at, .. } => Msg::LeaseAck { sent_at, credit: 1 << 40 },
                        Msg::ChunkList { .. } => Msg::ChunkListAck { chunks: Vec::new(), more: false },
                        other => panic!("{other:?}"),
                    };
                    self.coming.push((self.now.plus(self.delay), rid, Envelope { boot: BOOT, ..env }, reply));
                }
                Output::WantSync => self.step(Input::SyncGo),
                Output::Propose { change, .. } => self.propose(change),
                _ => {}
            }
        }
    }

    fn propose(&mut self, change: Change) {
        let r = &mut self.record;
        r.epoch = r.epoch.next();
        match change {
            Change::SyncStart { rid, sync_id } => r.out.get_mut(&rid).unwrap().sync_id = Some(sync_id),
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
            self.now = self.now.plus(5 * MS);
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
