//! Bugs that were found by reading, each as the sequence that triggered it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::{BOOT, SESSION, config, durable, envelope, record};
use bytes::Bytes;
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, ClientOp, Coordinator, Input, Output};
use hf_repl_core::message::{Envelope, Msg, Nack};
use hf_repl_core::replica::{self as re, Replica};
use hf_repl_core::{IoError, timing};

struct World {
    c: Coordinator,
    now: Tick,
    sent: Vec<(Rid, Envelope, Msg)>,
    other: Vec<Output>,
    record: co::Record,
}

impl World {
    fn new(members: u64) -> World {
        let record = record(members);
        let now = Tick(1_000_000_000);
        let mut out = Vec::new();
        let c = Coordinator::new(now, config(), record.clone(), &mut out);
        let mut w = World { c, now, sent: Vec::new(), other: Vec::new(), record };
        w.take(out);
        for i in 1..=members {
            w.step(Input::PeerUp { rid: Rid(i), boot: BOOT });
        }
        w.answer(|m| match m {
            Msg::Seal { .. } => {
                Some(Msg::SealAck { stable: Ver::ZERO, max_ver: Ver::ZERO, credit: 1 << 40, position: 0 })
            }
            _ => None,
        });
        assert!(w.other.contains(&Output::Ready));
        w.leases();
        w.other.clear();
        w
    }

    fn take(&mut self, out: Vec<Output>) {
        for o in out {
            match o {
                Output::Send { rid, env, msg } => self.sent.push((rid, env, msg)),
                other => self.other.push(other),
            }
        }
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.c.step(self.now, input, &mut out);
        self.c.check().unwrap();
        self.take(out);
    }

    /// Answers what was sent; what is not answered is dropped. Bounded: a loop is a failure.
    fn answer(&mut self, mut f: impl FnMut(&Msg) -> Option<Msg>) {
        for _ in 0..50 {
            let sent = std::mem::take(&mut self.sent);
            if sent.is_empty() {
                return;
            }
            for (rid, env, msg) in sent {
                if let Some(reply) = f(&msg) {
                    self.step(Input::Message { rid, env: Envelope { boot: BOOT, ..env }, msg: reply });
                }
            }
        }
        panic!("the coordinator and its members talk for ever");
    }

    fn leases(&mut self) {
        self.answer(|m| match m {
            Msg::Lease { sent_at, .. } => Some(Msg::LeaseAck { sent_at: *sent_at, credit: 0 }),
            _ => None,
        });
    }

    fn drops(&self) -> Vec<Vec<Rid>> {
        let rids = |o: &Output| match o {
            Output::Propose { change: co::Change::Drop { rids, .. }, .. } => Some(rids.clone()),
            _ => None,
        };
        self.other.iter().filter_map(rids).collect()
    }
}

#[test]
fn a_read_that_the_last_replica_refuses_ends_with_eio() {
    let mut w = World::new(1);
    w.step(Input::Client { id: 7, op: ClientOp::Read { off: 0, len: 4096 } });
    w.answer(|m| matches!(m, Msg::Read { .. }).then_some(Msg::Nack(Nack::Failed)));
    assert!(w.other.contains(&Output::Reply { id: 7, result: Err(IoError::Io) }));
}

#[test]
fn a_pause_of_the_coordinator_drops_nobody() {
    let mut w = World::new(3);
    w.now = w.now.plus(60_000_000);
    w.step(Input::Tick);
    w.leases();
    for _ in 0..100 {
        w.now = w.now.plus(20_000);
        w.step(Input::Tick);
        w.leases();
    }
    assert_eq!(w.drops(), Vec::<Vec<Rid>>::new());
}

#[test]
fn a_member_that_refuses_its_lease_is_dropped_though_it_answers() {
    let mut w = World::new(3);
    for _ in 0..300 {
        w.now = w.now.plus(20_000);
        w.step(Input::Tick);
        for (rid, env, msg) in std::mem::take(&mut w.sent) {
            let Msg::Lease { sent_at, .. } = msg else { continue };
            let reply = if rid == Rid(2) { Msg::Nack(Nack::Failed) } else { Msg::LeaseAck { sent_at, credit: 0 } };
            w.step(Input::Message { rid, env: Envelope { boot: BOOT, ..env }, msg: reply });
        }
    }
    assert!(w.drops().iter().all(|d| d == &[Rid(2)]) && !w.drops().is_empty(), "{:?}", w.drops());
}

#[test]
fn a_healthy_member_is_never_dropped_for_a_broken_one() {
    let mut w = World::new(2);
    w.step(Input::Client { id: 1, op: ClientOp::Write { off: 0, data: Bytes::from(vec![1; 4096]) } });
    // Member 1 says its disk has failed, again and again; member 2 is silent for a while.
    for _ in 0..400 {
        w.now = w.now.plus(20_000);
        w.step(Input::Tick);
        for (rid, env, _) in std::mem::take(&mut w.sent) {
            if rid == Rid(1) {
                w.step(Input::Message { rid, env: Envelope { boot: BOOT, ..env }, msg: Msg::Nack(Nack::Failed) });
            }
        }
    }
    assert!(w.drops().iter().all(|d| d == &[Rid(1)]) && !w.drops().is_empty(), "{:?}", w.drops());
}

#[test]
fn a_renewing_old_coordinator_cannot_keep_a_newer_term_out() {
    let d = durable(1, SessionId(1));
    let mut now = Tick(10_000_000_000);
    let mut r = Replica::new(Tick(0), BOOT, d);
    let env = |term, session| Envelope { session: SessionId(session), ..envelope(term, 0) };
    let mut sealed = false;
    for _ in 0..30 {
        now = now.plus(200_000);
        let mut out = Vec::new();
        let lease = Msg::Lease { sent_at: now.0, stable: Ver::ZERO };
        r.step(now, re::Input::Message { link: 1, env: env(1, 1), msg: lease }, &mut out);
        r.step(
            now,
            re::Input::Message {
                link: 2,
                env: env(2, 2),
                msg: Msg::Seal { epoch: Epoch(1), held: Ver::ZERO, position: 0, stable: Ver::ZERO },
            },
            &mut out,
        );
        sealed |=
            out.iter().any(|o| matches!(o, re::Output::Store { op: re::StoreOp::Promise { term: Term(2), .. }, .. }));
    }
    assert!(sealed, "30 × 200 ms is far more than a lease of {} us", timing::LEASE_AT_REPLICA);
}

/// A lease counts from when it was asked for, not from when the answer came: the replica counts
/// from in between.
#[test]
fn a_lease_counts_from_when_it_was_asked_for() {
    let mut w = World::new(2);
    // Long idle: the leases have run out. A read asks for them, and the answer takes longer than a
    // lease lasts.
    w.now = w.now.plus(60_000_000);
    w.step(Input::Client { id: 1, op: ClientOp::Read { off: 0, len: 4096 } });
    let asked: Vec<_> = std::mem::take(&mut w.sent);
    for (rid, env, msg) in &asked {
        if let Msg::Read { .. } = msg {
            let infos = vec![Default::default()];
            let reply = Msg::ReadAck { infos, data: Bytes::from(vec![0; 4096]) };
            w.step(Input::Message { rid: *rid, env: Envelope { boot: BOOT, ..*env }, msg: reply });
        }
    }
    let leases: Vec<_> = asked.into_iter().chain(std::mem::take(&mut w.sent)).collect();
    w.now = w.now.plus(timing::LEASE + 1);
    for (rid, env, msg) in leases {
        if let Msg::Lease { sent_at, .. } = msg {
            let reply = Msg::LeaseAck { sent_at, credit: 0 };
            w.step(Input::Message { rid, env: Envelope { boot: BOOT, ..env }, msg: reply });
        }
    }
    let answered = |w: &World| w.other.iter().any(|o| matches!(o, Output::Reply { id: 1, .. }));
    assert!(!answered(&w), "delivered under a lease that had run out");
    w.step(Input::Tick);
    w.leases();
    assert!(answered(&w));
}

/// What a replica granted before it restarted is forgotten, so it lets nobody new in until that
/// must have run out.
#[test]
fn a_restarted_replica_lets_nobody_in_for_as_long_as_a_lease_lasts() {
    let now = Tick(1_000_000_000);
    let d = durable(4, SessionId(4));
    let mut r = Replica::new(now, BOOT, d);
    let env = envelope(5, 1);
    let seal = |r: &mut Replica, now: Tick, env: Envelope| {
        let mut out = Vec::new();
        r.step(
            now,
            re::Input::Message {
                link: 1,
                env,
                msg: Msg::Seal { epoch: Epoch(1), held: Ver::ZERO, position: 0, stable: Ver::ZERO },
            },
            &mut out,
        );
        out
    };
    let waits = |out: &[re::Output]| matches!(out, [re::Output::Send { msg: Msg::SealWait { .. }, .. }]);
    assert!(waits(&seal(&mut r, now, env)));
    assert!(waits(&seal(&mut r, now.plus(timing::LEASE_AT_REPLICA - 1), env)));
    // The session that holds the promise itself goes on at once.
    let mut same = Replica::new(now, BOOT, d);
    assert!(!waits(&seal(&mut same, now, Envelope { term: Term(4), session: SessionId(4), ..env })));
    let out = seal(&mut r, now.plus(timing::LEASE_AT_REPLICA), env);
    assert!(matches!(out[..], [re::Output::Store { op: re::StoreOp::Promise { term: Term(5), .. }, .. }]), "{out:?}");
}

/// A member that is marked as leaving and is out already would be synced and taken out again,
/// faster than the leader can remove it: each turn moves the record's epoch (the simulator, with
/// changes of the replica set).
#[test]
fn who_leaves_and_is_out_is_not_brought_back_in() {
    for leaving in [false, true] {
        let mut w = World::new(2);
        let mut r = w.record.clone();
        r.epoch = r.epoch.next();
        let (node, store_uuid, base) = (NodeId(3), Some(StoreUuid(3)), Ver::ZERO);
        r.out.insert(Rid(3), co::OutInfo { node, store_uuid, base, position: 0, sync_id: None });
        r.leaving.extend(leaving.then_some(Rid(3)));
        w.step(Input::Record(r));
        w.step(Input::PeerUp { rid: Rid(3), boot: BOOT });
        w.now = w.now.plus(timing::SYNC_RETRY_MAX);
        w.step(Input::Tick);
        assert_eq!(w.other.iter().any(|o| matches!(o, Output::WantSync { .. })), !leaving);
    }
}

/// A write that was refused was told to be applied nowhere. A repeat of it that arrives when there
/// is room again is refused too, and one that arrives while the store works is not done a second
/// time (seed 5192).
#[test]
fn a_refused_write_stays_refused() {
    let (now, mut out) = (Tick(1_000), Vec::new());
    let mut r = Replica::new(now, BOOT, durable(1, SESSION));
    let env = envelope(1, 7);
    let data = Bytes::from(vec![1u8; BLOCK_SIZE]);
    let kind = hf_repl_core::message::WriteKind::Data { crcs: crc::payloads(&data), data };
    let msg = Msg::Write { seq: 1, range: BlockRange::new(0, 1), stable: Ver::ZERO, kind };
    let message = |link| re::Input::Message { link, env, msg: msg.clone() };
    r.step(now, message(1), &mut out);
    r.step(now, message(2), &mut out);
    let tags: Vec<u64> =
        out.iter().filter_map(|o| if let re::Output::Store { tag, .. } = o { Some(*tag) } else { None }).collect();
    assert_eq!(tags.len(), 1, "the store is asked once: {out:?}");
    out.clear();
    let answer = re::StoreAnswer::Error(Nack::NoSpace);
    let done = re::Input::Store { tag: tags[0], answer, credit: 0, max_ver: Ver::ZERO, position: 1 };
    r.step(now, done, &mut out);
    r.step(now, message(2), &mut out);
    let refusals: Vec<u64> = out
        .iter()
        .filter_map(|o| match o {
            re::Output::Send { link, msg: Msg::Nack(Nack::NoSpace), .. } => Some(*link),
            _ => None,
        })
        .collect();
    assert_eq!((refusals.len(), out.len()), (3, 3), "both links are answered, then the repeat is refused: {out:?}");
}

/// Storage that is made anew between the decision to sync it and the commit of that: what counts,
/// and what Add records, is the storage that was sealed, from its own base (seed 3357).
#[test]
fn a_sync_takes_storage_and_base_from_the_record_it_began_with() {
    let mut w = World::new(2);
    let out = |uuid, base, sync_id| co::OutInfo {
        node: NodeId(3),
        store_uuid: Some(StoreUuid(uuid)),
        base,
        position: 0,
        sync_id,
    };
    let mut r = w.record.clone();
    r.epoch = r.epoch.next();
    r.out.insert(Rid(3), out(3, Ver::new(1, 0), None));
    w.step(Input::Record(r.clone()));
    w.step(Input::PeerUp { rid: Rid(3), boot: BOOT });
    w.step(Input::SyncGo);
    let change = |w: &World| {
        w.other.iter().rev().find_map(|o| match o {
            Output::Propose { change, .. } => Some(change.clone()),
            _ => None,
        })
    };
    let Some(co::Change::SyncStart { sync_id, .. }) = change(&w) else { panic!("no sync: {:?}", w.other) };
    r.epoch = r.epoch.next().next();
    r.out.insert(Rid(3), out(33, Ver::ZERO, Some(sync_id)));
    w.step(Input::Record(r));
    w.now = w.now.plus(timing::SEAL_EVERY);
    w.step(Input::Tick);
    let mut held = Vec::new();
    w.answer(|m| match m {
        Msg::Seal { held: h, .. } => {
            held.push(*h);
            Some(Msg::SealAck { stable: Ver::ZERO, max_ver: Ver::ZERO, credit: 1 << 40, position: 0 })
        }
        Msg::ChunkList { since, .. } => {
            held.push(*since);
            Some(Msg::ChunkListAck { chunks: Vec::new(), more: false })
        }
        _ => None,
    });
    assert!(held.len() >= 3 && held.iter().all(|h| *h == Ver::ZERO), "{held:?}");
    assert_eq!(change(&w), Some(co::Change::Add { rid: Rid(3), store_uuid: StoreUuid(33) }));
}
