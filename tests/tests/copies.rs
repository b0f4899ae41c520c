//! A payload's bytes stay where the socket's reader put them: the very same memory is sent to other
//! replicas and written to the journal or the disk. Shown by address, through the real coordinator,
//! replica and store. (The reader itself puts them into a buffer that the disk can take,
//! `replication/src/link.rs` and `storage-node/reactor/src/export/driver.rs`: the one copy there
//! is.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../replication/core/tests/common/mod.rs"]
mod common;

use bytes::Bytes;
use common::{BOOT, config, record};
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, ClientOp, Coordinator};
use hf_repl_core::message::{Envelope, Msg};
use hf_repl_core::replica::{self as re, Replica};
use hf_repl_core::wire;
use hf_replica_host::{Asked, answer, ask, durable};
use hf_store::sim::SimDisk;
use hf_store::{self as st, DiskOp, FormatParams, Op, ReplicaRec, Store, recovery};
use std::collections::{BTreeMap, VecDeque};

const SHARD: ShardId = ShardId { vol: VolumeId(1), index: 0 };
const RID: Rid = Rid(1);
const NOW: Tick = Tick(1_000_000_000);

fn entry() -> ReplicaRec {
    ReplicaRec {
        shard: SHARD,
        rid: RID,
        store_uuid: StoreUuid(1),
        lineage: Lineage(1),
        promised_term: Term(0),
        promised_session: SessionId(0),
        stable_known: Ver::ZERO,
        blocks: 1024,
        deleting: false,
        hint_epoch: 1,
        hint_name: "v".into(),
        hint_size: 0,
    }
}

/// One coordinator, its one replica and that one's store, without sockets between them.
struct Path {
    c: Coordinator,
    r: Replica,
    store: Store,
    disk: SimDisk,
    tags: BTreeMap<u64, u64>,
    next: u64,
    /// Where every piece was that went to the wire or to the disk: address and length.
    sent: Vec<(usize, usize)>,
    written: Vec<(usize, usize)>,
    answered: usize,
    todo: VecDeque<Todo>,
}

enum Todo {
    Coordinator(co::Input),
    Replica(re::Input),
    Store(st::Input),
}

fn place(b: &Bytes) -> (usize, usize) {
    (b.as_ptr() as usize, b.len())
}

impl Path {
    fn new() -> Path {
        let mut disk = SimDisk::new(64 << 20);
        let p = FormatParams {
            cluster: ClusterId(1),
            node: NodeId(1),
            disk: DiskUuid(9),
            journal: None,
            salt: hf_store::format::Salt(9),
        };
        recovery::format(&mut disk, p).unwrap();
        let store = recovery::open(&mut disk, st::Config::default()).unwrap();
        let (mut out, mut begun) = (Vec::new(), Vec::new());
        let c = Coordinator::new(NOW, config(), record(1), &mut out);
        let r = Replica::new(NOW, BOOT, durable(ClusterId(1), &entry(), 0));
        let (tags, todo) = (BTreeMap::new(), VecDeque::new());
        let mut p = Path { c, r, store, disk, tags, next: 1, sent: vec![], written: vec![], answered: 0, todo };
        p.store.start(&mut begun);
        p.stored(begun);
        p.todo.push_back(Todo::Store(st::Input::Op { id: 0, op: Op::CreateReplica(entry()) }));
        p.run();
        p.coordinated(out);
        p.todo.push_back(Todo::Coordinator(co::Input::PeerUp { rid: RID, boot: BOOT }));
        p.run();
        assert_eq!(p.c.status().phase, co::Phase::Serving);
        p
    }

    fn run(&mut self) {
        loop {
            match self.todo.pop_front() {
                Some(Todo::Coordinator(i)) => {
                    let mut out = Vec::new();
                    self.c.step(NOW, i, &mut out);
                    self.coordinated(out);
                }
                Some(Todo::Replica(i)) => {
                    let mut out = Vec::new();
                    self.r.step(NOW, i, &mut out);
                    self.replicated(out);
                }
                Some(Todo::Store(i)) => {
                    let mut out = Vec::new();
                    self.store.step(i, &mut out);
                    self.stored(out);
                }
                None => match self.disk.complete(0) {
                    Some((tag, result)) => self.todo.push_back(Todo::Store(st::Input::DiskDone { tag, result })),
                    None => return,
                },
            }
        }
    }

    fn coordinated(&mut self, out: Vec<co::Output>) {
        for o in out {
            match o {
                co::Output::Send { env, msg, .. } => {
                    self.on_the_wire(&env, &msg);
                    self.todo.push_back(Todo::Replica(re::Input::Message { link: 1, env, msg }));
                }
                co::Output::Reply { result, .. } => {
                    result.unwrap();
                    self.answered += 1;
                }
                co::Output::Propose { .. } => {
                    self.todo.push_back(Todo::Coordinator(co::Input::Proposed(co::Proposed::Done)))
                }
                _ => {}
            }
        }
    }

    /// As a replica on another node would get it.
    fn on_the_wire(&mut self, env: &Envelope, msg: &Msg) {
        self.sent.extend(wire::encode(env, msg).payload.iter().map(place));
    }

    fn replicated(&mut self, out: Vec<re::Output>) {
        for o in out {
            match o {
                re::Output::Send { env, msg, .. } => {
                    self.todo.push_back(Todo::Coordinator(co::Input::Message { rid: RID, env, msg }));
                }
                re::Output::Store { tag, op } => match ask(&self.store, RID, op) {
                    Asked::Do(op) => {
                        self.next += 1;
                        self.tags.insert(self.next, tag);
                        self.todo.push_back(Todo::Store(st::Input::Op { id: self.next, op }));
                    }
                    Asked::Known(a) => self.told(tag, a),
                },
                re::Output::Renew => panic!("nothing was put back"),
            }
        }
    }

    fn told(&mut self, tag: u64, answer: re::StoreAnswer) {
        let (credit, max_ver, position) = (self.store.credit(), self.store.max_ver(RID), self.store.position());
        self.todo.push_back(Todo::Replica(re::Input::Store { tag, answer, credit, max_ver, position }));
    }

    fn stored(&mut self, out: Vec<st::Output>) {
        for o in out {
            match o {
                st::Output::Disk { tag, op } => {
                    if let DiskOp::Write { bufs, .. } = &op {
                        self.written.extend(bufs.iter().map(place));
                    }
                    self.disk.submit(tag, op);
                }
                st::Output::Done { id, result } => match self.tags.remove(&id) {
                    Some(tag) => self.told(tag, answer(result)),
                    None => drop(result.unwrap()),
                },
                st::Output::Failed(why) => panic!("{why}"),
            }
        }
    }

    /// Bytes of `data` that stand, themselves, among the pieces.
    fn shared(pieces: &[(usize, usize)], data: &Bytes) -> usize {
        let (start, end) = (data.as_ptr() as usize, data.as_ptr() as usize + data.len());
        pieces.iter().filter(|(at, len)| *at >= start && at + len <= end).map(|(_, len)| len).sum()
    }
}

#[test]
fn the_bytes_that_came_in_are_the_ones_that_are_sent_and_written() {
    let mut p = Path::new();
    // Through the journal, directly to fresh units, over chunk borders.
    for (n, (off, len)) in
        [(0, 4 << 10), (8 << 10, 60 << 10), (128 << 10, 512 << 10), (1000 << 10, 128 << 10)].into_iter().enumerate()
    {
        p.sent.clear();
        p.written.clear();
        let data = Bytes::from((0..len).map(|i: u32| (i / 7) as u8).collect::<Vec<u8>>());
        let op = ClientOp::Write { off: u64::from(off as u32), data: data.clone() };
        p.todo.push_back(Todo::Coordinator(co::Input::Client { id: n as u64, op }));
        p.run();
        assert_eq!(p.answered, n + 1, "write {n} is not answered");
        assert_eq!(Path::shared(&p.sent, &data), data.len(), "write {n}: copied on its way to the wire");
        assert_eq!(Path::shared(&p.written, &data), data.len(), "write {n}: copied on its way to the disk");
    }
}
