//! Members that fall silent while nothing is written: reads need their leases, and an idle volume
//! should know its replicas. Found by many_disks.rs: reads waited for ever for the lease of a
//! member whose connection had gone between two leases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::{BOOT, config, record};
use bytes::Bytes;
use hf_policy::attributes::ReadFrom;
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, ClientOp, Coordinator, Input, Output};
use hf_repl_core::message::{BlockInfo, Envelope, Msg};
use hf_repl_core::timing;

const TIMEOUT: u64 = 1_000 * MS;

struct World {
    c: Coordinator,
    now: Tick,
    /// Members that answer.
    alive: Vec<Rid>,
    /// When a drop was proposed, and of whom.
    dropped: Option<(Tick, Vec<Rid>)>,
    replies: usize,
    /// Who was asked for each read.
    readers: Vec<Rid>,
}

impl World {
    /// Three members that serve, all leases granted; the first one reads.
    fn new() -> World {
        World::reading(ReadFrom::Local, &[1])
    }

    fn reading(read_from: ReadFrom, nearest: &[u64]) -> World {
        let cfg = co::Config { read_from, nearest: nearest.iter().map(|r| Rid(*r)).collect(), ..config() };
        let record = record(3);
        let now = Tick(1_000_000_000);
        let mut out = Vec::new();
        let c = Coordinator::new(now, cfg, record, &mut out);
        let alive = vec![Rid(1), Rid(2), Rid(3)];
        let mut w = World { c, now, alive, dropped: None, replies: 0, readers: Vec::new() };
        w.take(out);
        for i in 1..=3 {
            w.step(Input::PeerUp { rid: Rid(i), boot: BOOT });
        }
        w.live(500 * MS);
        assert_eq!(w.c.status().phase, co::Phase::Serving);
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
                Output::Send { rid, env, msg } if self.alive.contains(&rid) => {
                    if matches!(msg, Msg::Read { .. }) {
                        self.readers.push(rid);
                    }
                    let reply = match msg {
                        Msg::Seal { .. } => {
                            Msg::SealAck { stable: Ver::ZERO, max_ver: Ver::ZERO, credit: 1 << 40, position: 0 }
                        }
                        Msg::Lease { sent_at, .. } => Msg::LeaseAck { sent_at, credit: 1 << 40 },
                        Msg::Read { .. } => {
                            Msg::ReadAck { infos: vec![BlockInfo::default()], data: Bytes::from(vec![0; 4096]) }
                        }
                        _ => continue,
                    };
                    self.step(Input::Message { rid, env: Envelope { boot: BOOT, ..env }, msg: reply });
                }
                Output::Propose { change: co::Change::Drop { rids, .. }, .. } => {
                    self.dropped.get_or_insert((self.now, rids));
                }
                Output::Reply { result, .. } => {
                    result.unwrap();
                    self.replies += 1;
                }
                _ => {}
            }
        }
    }

    /// Time passes; the coordinator is called when it asked to be, as the daemon does.
    fn live(&mut self, us: u64) {
        let end = self.now.plus(us);
        while self.now < end {
            self.now = self.now.plus(20 * MS);
            if self.c.next_deadline().is_some_and(|d| d <= self.now) {
                self.step(Input::Tick);
            }
        }
    }

    fn read(&mut self) {
        self.step(Input::Client { id: 7, op: ClientOp::Read { off: 0, len: 4096 } });
    }

    /// The third member was dropped, so long after `since`.
    fn dropped_after(&self, since: Tick) -> u64 {
        let (at, rids) = self.dropped.as_ref().expect("nobody was dropped");
        assert_eq!(rids, &[Rid(3)]);
        at.since(since)
    }
}

#[test]
fn a_read_waits_only_a_moment_for_the_lease_of_a_member_whose_connection_is_gone() {
    let mut w = World::new();
    w.alive.pop();
    let since = w.now;
    w.step(Input::PeerDown { rid: Rid(3) });
    w.read();
    w.live(20_000 * MS);
    assert_eq!(w.replies, 0, "delivered without the lease of a member that is relied upon");
    let after = w.dropped_after(since);
    assert!((timing::RECONNECT..=2 * timing::RECONNECT).contains(&after), "{after} us");
}

#[test]
fn a_read_that_needs_the_lease_of_a_frozen_member_waits_no_longer_than_a_write() {
    let mut w = World::new();
    w.read();
    w.live(1_000 * MS);
    assert_eq!(w.replies, 1);
    w.alive.pop();
    let since = w.now;
    while w.dropped.is_none() && w.now.since(since) < 20_000 * MS {
        w.read();
        w.live(100 * MS);
    }
    let after = w.dropped_after(since);
    assert!(after <= timing::LEASE + TIMEOUT / 2, "{after} us");
}

#[test]
fn an_idle_volume_drops_who_is_gone_after_a_while() {
    let mut w = World::new();
    w.live(10_000 * MS);
    assert_eq!(w.dropped, None);
    for frozen in [false, true] {
        let mut w = World::new();
        w.live(7_130 * MS);
        w.alive.pop();
        let since = w.now;
        if !frozen {
            w.step(Input::PeerDown { rid: Rid(3) });
        }
        w.live(60_000 * MS);
        let after = w.dropped_after(since);
        let most = timing::DEAD + 2 * timing::IDLE_EVERY;
        assert!((timing::DEAD - timing::IDLE_EVERY..=most).contains(&after), "{after} us");
    }
}

/// The nearest member that is there reads; when it is gone, the next nearest does.
#[test]
fn reads_go_to_the_nearest_member_that_is_there() {
    for nearest in [[3, 1, 2], [2, 3, 1], [1, 3, 2]] {
        let mut w = World::reading(ReadFrom::Nearest, &nearest);
        for gone in 0..2 {
            w.readers.clear();
            for _ in 0..5 {
                w.read();
                w.live(40 * MS);
            }
            assert_eq!(w.readers, [Rid(nearest[gone]); 5], "{nearest:?}");
            // With a member gone nothing is delivered: its lease is missing.
            assert_eq!(w.replies, 5);
            w.step(Input::PeerDown { rid: Rid(nearest[0]) });
        }
    }
    let mut w = World::reading(ReadFrom::Spread, &[1]);
    for _ in 0..9 {
        w.read();
        w.live(40 * MS);
    }
    (1..=3).for_each(|i| assert_eq!(w.readers.iter().filter(|r| **r == Rid(i)).count(), 3, "{:?}", w.readers));
}
