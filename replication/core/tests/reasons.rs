//! A coordinator says why it drops a member: as it saw it, or as the member told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::{BOOT, config, record};
use bytes::Bytes;
use hf_meta_core::record::DropReason;
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, ClientOp, Coordinator, Input, Output};
use hf_repl_core::message::{Envelope, Msg, Nack};
use std::collections::BTreeMap;

const ROOM: u64 = u64::MAX;
/// The member that behaves in another way than the other two.
const ODD: Rid = Rid(2);

/// What a member does with a message.
enum Does {
    AsUsual,
    Nothing,
    Refuses(Nack),
}

struct World {
    c: Coordinator,
    now: Tick,
    sent: Vec<(Rid, Envelope, Msg)>,
    /// The reasons of the drops that were proposed.
    drops: Vec<BTreeMap<Rid, DropReason>>,
}

fn usual(msg: &Msg) -> Option<Msg> {
    Some(match msg {
        Msg::Seal { .. } => Msg::SealAck { stable: Ver::ZERO, max_ver: Ver::ZERO, credit: ROOM, position: 0 },
        Msg::Lease { sent_at, .. } => Msg::LeaseAck { sent_at: *sent_at, credit: ROOM },
        Msg::Write { .. } => Msg::WriteAck { credit: ROOM, position: 0 },
        _ => return None,
    })
}

impl World {
    fn new(record: co::Record, linked: &[u64]) -> World {
        let now = Tick(1_000_000_000);
        let mut out = Vec::new();
        let c = Coordinator::new(now, config(), record, &mut out);
        let mut w = World { c, now, sent: Vec::new(), drops: Vec::new() };
        w.take(out);
        linked.iter().for_each(|r| w.step(Input::PeerUp { rid: Rid(*r), boot: BOOT }));
        w
    }

    /// Three members that serve.
    fn serving() -> World {
        let mut w = World::new(record(3), &[1, 2, 3]);
        w.live(500, |_| Does::AsUsual);
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
                Output::Send { rid, env, msg } => self.sent.push((rid, env, msg)),
                Output::Propose { change: co::Change::Drop { rids, reasons, .. }, .. } => {
                    assert!(rids.iter().eq(reasons.keys()), "each has a reason: {rids:?} {reasons:?}");
                    self.drops.push(reasons);
                }
                _ => {}
            }
        }
    }

    /// For so many milliseconds the odd member does this, and the others what is usual.
    fn live(&mut self, ms: u64, odd: impl Fn(&Msg) -> Does) {
        for _ in 0..ms / 10 {
            while !self.sent.is_empty() {
                for (rid, env, msg) in std::mem::take(&mut self.sent) {
                    let reply = match if rid == ODD { odd(&msg) } else { Does::AsUsual } {
                        Does::AsUsual => usual(&msg),
                        Does::Nothing => None,
                        Does::Refuses(nack) => Some(Msg::Nack(nack)),
                    };
                    if let Some(msg) = reply {
                        self.step(Input::Message { rid, env: Envelope { boot: BOOT, ..env }, msg });
                    }
                }
            }
            self.now = self.now.plus(10 * MS);
            self.step(Input::Tick);
        }
    }

    fn write(&mut self) {
        let op = ClientOp::Write { off: 0, data: Bytes::from(vec![1; 4096]) };
        self.step(Input::Client { id: 7, op });
    }

    /// Every drop was of the odd member alone, for this reason.
    fn dropped_for(&self, why: DropReason) {
        assert!(!self.drops.is_empty(), "nobody is dropped");
        assert!(self.drops.iter().all(|d| *d == BTreeMap::from([(ODD, why)])), "{:?}, not {why:?}", self.drops);
    }
}

fn is_write(msg: &Msg) -> bool {
    matches!(msg, Msg::Write { .. })
}

#[test]
fn silence_over_a_link_that_is_up_is_a_timeout() {
    let mut w = World::serving();
    w.write();
    w.live(5_000, |_| Does::Nothing);
    w.dropped_for(DropReason::Timeout);
}

#[test]
fn a_link_that_went_is_told_as_such_with_and_without_writes() {
    for writes in [true, false] {
        let mut w = World::serving();
        w.step(Input::PeerDown { rid: ODD });
        if writes {
            w.write();
        }
        w.live(if writes { 500 } else { 10_000 }, |_| Does::Nothing);
        w.dropped_for(DropReason::Link);
    }
}

#[test]
fn what_a_member_says_of_itself_is_the_reason() {
    for (nack, why) in [
        (Nack::Failed, DropReason::Disk),
        (Nack::WrongStore, DropReason::Storage),
        (Nack::WrongLineage, DropReason::Storage),
        (Nack::NoReplica, DropReason::Storage),
        (Nack::Invalid, DropReason::Nack),
    ] {
        let mut w = World::serving();
        w.write();
        w.live(200, |_| Does::Refuses(nack));
        w.dropped_for(why);
        // In a take-over the same.
        let mut w = World::new(record(3), &[1, 2, 3]);
        w.live(3_000, |_| Does::Refuses(nack));
        w.dropped_for(why);
    }
}

/// It was silent first, which is what the coordinator saw; that its disk has failed tells more.
#[test]
fn a_word_of_the_member_counts_more_than_its_silence_before() {
    let mut w = World::serving();
    w.write();
    // The drop is proposed, and no commit comes: it goes on being asked.
    w.live(2_000, |_| Does::Nothing);
    w.dropped_for(DropReason::Timeout);
    w.drops.clear();
    w.live(8_000, |_| Does::Refuses(Nack::Failed));
    w.dropped_for(DropReason::Disk);
}

#[test]
fn data_that_never_arrives_whole_is_no_silence() {
    let mut w = World::serving();
    w.write();
    w.live(5_000, |m| if is_write(m) { Does::Refuses(Nack::BadCrc) } else { Does::Nothing });
    w.dropped_for(DropReason::BadCrc);
}

#[test]
fn a_full_disk_is_told_as_such() {
    let mut w = World::serving();
    w.write();
    w.live(500, |m| if is_write(m) { Does::Refuses(Nack::NoSpace) } else { Does::AsUsual });
    w.dropped_for(DropReason::NoSpace);
}

#[test]
fn who_was_asked_to_leave_has_left() {
    let leaves = co::Record { leaving: [ODD].into(), ..record(3) };
    let mut w = World::new(leaves, &[1, 2, 3]);
    w.live(500, |_| Does::AsUsual);
    w.dropped_for(DropReason::Left);
}

#[test]
fn who_does_not_promise_in_a_take_over_is_silent_or_not_linked() {
    let mut w = World::new(record(3), &[1, 2, 3]);
    w.live(3_000, |_| Does::Nothing);
    w.dropped_for(DropReason::Timeout);
    let mut w = World::new(record(3), &[1, 3]);
    w.live(3_000, |_| Does::Nothing);
    w.dropped_for(DropReason::Link);
}
