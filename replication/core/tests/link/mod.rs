//! Two nodes and one link: real coordinators, real replicas and a real [`Flow`] at each end, over a
//! pipe with a rate and a delay.
//!
//! The pipe is a switch with a buffer without end: whatever is put into it waits its turn. Stores
//! answer after a fixed time. Time jumps from event to event.

use crate::common;
use bytes::{Bytes, BytesMut};
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, ClientOp, Coordinator, Phase};
use hf_repl_core::flow::{End, Flow};
use hf_repl_core::message::{BlockInfo, BlockState, Envelope, Msg};
use hf_repl_core::replica::{self as re, Replica, StoreAnswer, StoreOp};
use hf_repl_core::wire::{self, Frame, HEADER_BYTES};
use std::collections::{BTreeMap, VecDeque};

/// What the link is like.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Bytes a second.
    pub rate: u64,
    /// Microseconds, each way.
    pub delay: u64,
}

/// One direction of the link: what is in it.
#[derive(Default)]
struct Pipe {
    free: Tick,
    coming: VecDeque<(Tick, Frame)>,
}

impl Pipe {
    fn put(&mut self, now: Tick, way: Way, f: Frame) {
        let takes = f.len() as u64 * 1_000_000 * 1_000 / way.rate;
        self.free = Tick(self.free.0.max(now.0 * 1_000) + takes);
        self.coming.push_back((Tick(self.free.0 / 1_000 + way.delay), f));
    }
}

/// A payload that comes in parts.
struct Whole {
    head: Bytes,
    bytes: u64,
    payload: BytesMut,
    len: usize,
}

/// One end: what is put together of what has come.
struct Side {
    flow: Flow,
    whole: Option<Whole>,
}

impl Side {
    fn new(now: Tick, end: End, credited: bool) -> Side {
        Side { flow: Flow::new(now, end, credited), whole: None }
    }

    /// A frame has arrived; the message that is whole by it, with what it counted.
    fn arrives(&mut self, now: Tick, f: Frame) -> Option<(Envelope, Msg, u64)> {
        let raw: [u8; HEADER_BYTES] = f.head[..HEADER_BYTES].try_into().unwrap();
        let h = wire::parse_header(&raw).unwrap();
        self.flow.on_header(now, &h);
        if h.is_credit() {
            wire::verify_link(&raw, &h).unwrap();
            return None;
        }
        let payload = match &f.payload[..] {
            [one] => one.clone(),
            many => many.concat().into(),
        };
        assert_eq!(payload.len(), h.payload as usize);
        if !h.is_part() && h.link.parts == 0 {
            let msg = wire::decode(&raw, &h, &f.head[HEADER_BYTES..], payload).unwrap();
            return Some((h.env, msg, h.counted()));
        }
        if h.is_part() {
            wire::verify_link(&raw, &h).unwrap();
            let w = self.whole.as_mut().unwrap();
            w.payload.extend_from_slice(&payload);
            w.bytes += h.counted();
        } else {
            assert!(self.whole.is_none(), "one payload at a time");
            let payload = BytesMut::with_capacity(h.link.parts as usize);
            self.whole = Some(Whole { head: f.head.clone(), bytes: h.counted(), payload, len: h.link.parts as usize });
        }
        let w = self.whole.take_if(|w| w.payload.len() == w.len)?;
        let raw: [u8; HEADER_BYTES] = w.head[..HEADER_BYTES].try_into().unwrap();
        let h = wire::parse_header(&raw).unwrap();
        Some((h.env, wire::decode(&raw, &h, &w.head[HEADER_BYTES..], w.payload.freeze()).unwrap(), w.bytes))
    }
}

/// What the clients of one volume do: so many requests of so many bytes at a time, again and again.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub depth: usize,
    pub bytes: u64,
    pub writes: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Got {
    /// Client requests that were answered.
    pub requests: u64,
    /// Messages sent again.
    pub resends: u64,
    /// Members dropped, or that somebody wanted to drop.
    pub drops: u64,
    /// The most that the serving end held of requests, and of answers.
    pub held: u64,
    pub answers: u64,
    /// Store operations begun a second time.
    pub twice: u64,
    /// The longest a request took, in microseconds.
    pub longest: u64,
}

struct Volume {
    c: Coordinator,
    load: Load,
    next: u64,
    began: BTreeMap<u64, Tick>,
}

pub struct Net {
    pub now: Tick,
    pub way: Way,
    asking: Side,
    serving: Side,
    there: Pipe,
    back: Pipe,
    volumes: BTreeMap<u64, Volume>,
    replicas: BTreeMap<Rid, Replica>,
    /// Members on the coordinator's node: a replica each, no link.
    local: bool,
    /// Operations of stores: when they are done.
    disk: VecDeque<(Tick, Rid, u64, StoreAnswer)>,
    disk_us: u64,
    /// The serving node's disk does not come back.
    pub hung: bool,
    /// Its writes do not.
    pub hung_writes: bool,
    /// One replica's reads do not.
    pub hung_reads: Option<Rid>,
    /// When a volume's member was first asked to be dropped.
    pub dropped: BTreeMap<u64, Tick>,
    begun: std::collections::BTreeSet<(Rid, u64)>,
    zeroes: Bytes,
    pub got: Got,
    arrived: BTreeMap<u64, u64>,
}

const REMOTE: u64 = 1_000;

/// Takes the first of a queue if its time has come.
fn due<T>(queue: &mut VecDeque<T>, now: Tick, at: impl Fn(&T) -> Tick) -> Option<T> {
    if queue.front().is_some_and(|first| at(first) <= now) { queue.pop_front() } else { None }
}

fn payload(msg: &Msg) -> u64 {
    match msg {
        Msg::Write { range, .. } => range.bytes(),
        Msg::ReadAck { data, .. } => data.len() as u64,
        _ => 0,
    }
}

fn shard(vol: u64) -> ShardId {
    ShardId { vol: VolumeId(vol), index: 0 }
}

impl Net {
    /// Volumes with one replica over there, which also reads, and with `local` another one here.
    pub fn new(way: Way, loads: &[Load], local: bool, disk_us: u64) -> Net {
        let now = Tick(1_000_000_000);
        let mut n = Net {
            now,
            way,
            asking: Side::new(now, End::Asking, true),
            serving: Side::new(now, End::Serving, true),
            there: Pipe::default(),
            back: Pipe::default(),
            volumes: BTreeMap::new(),
            replicas: BTreeMap::new(),
            local,
            disk: VecDeque::new(),
            disk_us,
            hung: false,
            hung_writes: false,
            hung_reads: None,
            dropped: BTreeMap::new(),
            begun: Default::default(),
            zeroes: vec![0; 32 << 20].into(),
            got: Got::default(),
            arrived: BTreeMap::new(),
        };
        n.serving.flow.set_shares(64 << 20, 64 << 20);
        for (i, load) in loads.iter().enumerate() {
            n.add_volume(i as u64 + 1, *load);
        }
        n
    }

    fn add_volume(&mut self, vol: u64, load: Load) {
        let rids: Vec<u64> = if self.local { vec![vol, vol + REMOTE] } else { vec![vol + REMOTE] };
        let member = |i: &u64| (Rid(*i), co::MemberInfo { node: NodeId(*i), store_uuid: StoreUuid((*i).into()) });
        let record = co::Record { in_sync: rids.iter().map(member).collect(), ..common::record(0) };
        let blocks = 64 << 20 >> 12;
        let cfg = co::Config { shard: shard(vol), blocks, nearest: vec![Rid(vol + REMOTE)], ..common::config() };
        for rid in &rids {
            let d = re::Durable {
                shard: shard(vol),
                rid: Rid(*rid),
                store_uuid: StoreUuid((*rid).into()),
                promised_term: Term(0),
                ..common::durable(0, SessionId(0))
            };
            self.replicas.insert(Rid(*rid), Replica::new(self.now, common::BOOT, d));
        }
        let mut out = Vec::new();
        let c = Coordinator::new(self.now, cfg, record, &mut out);
        self.volumes.insert(vol, Volume { c, load, next: 0, began: BTreeMap::new() });
        self.outputs(vol, out);
        rids.iter().for_each(|r| self.step(vol, co::Input::PeerUp { rid: Rid(*r), boot: common::BOOT }));
    }

    fn step(&mut self, vol: u64, input: co::Input) {
        let mut out = Vec::new();
        let Some(v) = self.volumes.get_mut(&vol) else { return };
        // As the driver does: what is overdue and waits its turn is told first.
        let mut reqs = v.c.overdue(self.now);
        let key = |(rid, req): &(Rid, u64)| (shard(vol), *rid, common::SESSION, *req);
        reqs.retain(|r| r.0.0 > REMOTE && self.asking.flow.waits(self.now, &key(r), 375 * MS));
        if !reqs.is_empty() {
            v.c.step(self.now, co::Input::Waits { reqs }, &mut out);
        }
        v.c.step(self.now, input, &mut out);
        self.outputs(vol, out);
    }

    fn outputs(&mut self, vol: u64, out: Vec<co::Output>) {
        for o in out {
            match o {
                co::Output::Send { rid, env, msg } if rid.0 < REMOTE => self.replica(rid, 0, env, msg),
                co::Output::Send { env, msg, .. } => self.asking.flow.push(env, msg),
                co::Output::Reply { id, result } => {
                    result.unwrap();
                    let v = self.volumes.get_mut(&vol).unwrap();
                    self.got.longest = self.got.longest.max(self.now.since(v.began.remove(&id).unwrap()));
                    self.got.requests += 1;
                }
                co::Output::Propose { .. } => {
                    self.got.drops += 1;
                    self.dropped.entry(vol).or_insert(self.now);
                }
                _ => {}
            }
        }
    }

    fn replica(&mut self, rid: Rid, link: u64, env: Envelope, msg: Msg) {
        let mut out = Vec::new();
        let Some(r) = self.replicas.get_mut(&rid) else { return };
        if rid.0 > REMOTE && env.req > 0 && !matches!(msg, Msg::Seal { .. }) {
            self.got.twice += u64::from(!self.begun.insert((rid, env.req)));
        }
        r.step(self.now, re::Input::Message { link, env, msg }, &mut out);
        self.replica_outputs(rid, out);
    }

    fn replica_outputs(&mut self, rid: Rid, out: Vec<re::Output>) {
        for o in out {
            match o {
                re::Output::Send { env, msg, .. } if rid.0 < REMOTE => {
                    self.step(env.shard.vol.0, co::Input::Message { rid, env, msg })
                }
                re::Output::Send { env, msg, .. } => self.serving.flow.push(env, msg),
                re::Output::Store { tag, op } => {
                    let (writes, reads) = (matches!(op, StoreOp::Write { .. }), matches!(op, StoreOp::Read { .. }));
                    let answer = match op {
                        StoreOp::Read { range } => {
                            let zero = BlockInfo { state: BlockState::Zero, ver: Ver::new(1, 1), ..Default::default() };
                            StoreAnswer::Read(
                                vec![zero; range.len as usize],
                                self.zeroes.slice(..range.bytes() as usize),
                            )
                        }
                        StoreOp::Versions { .. } => StoreAnswer::Versions(vec![BlockInfo::default(); 256]),
                        StoreOp::Chunks { .. } => StoreAnswer::Chunks(vec![], false),
                        StoreOp::Needs { .. } => StoreAnswer::Needs(0),
                        _ => StoreAnswer::Done,
                    };
                    let hangs = self.hung || (self.hung_writes && writes) || (self.hung_reads == Some(rid) && reads);
                    let never = hangs && rid.0 > REMOTE;
                    if !never {
                        self.disk.push_back((self.now.plus(self.disk_us), rid, tag, answer));
                    }
                }
                re::Output::Renew => panic!("nothing was put back"),
            }
        }
    }

    /// Clients keep their requests in flight.
    fn load(&mut self) {
        let vols: Vec<u64> = self.volumes.keys().copied().collect();
        for vol in vols {
            while let Some(v) = self.volumes.get_mut(&vol).filter(|v| v.began.len() < v.load.depth) {
                v.next += 1;
                let (id, bytes) = (v.next, v.load.bytes);
                let off = (id * bytes) % (64 << 20);
                let op = match v.load.writes {
                    true => ClientOp::Write { off, data: self.zeroes.slice(..bytes as usize) },
                    false => ClientOp::Read { off, len: bytes as u32 },
                };
                v.began.insert(id, self.now);
                self.step(vol, co::Input::Client { id, op });
            }
        }
    }

    /// Everything that both ends may send goes into the pipes.
    fn pump(&mut self) {
        while let Some(f) = self.asking.flow.pop(self.now) {
            self.there.put(self.now, self.way, f);
        }
        while let Some((env, msg)) = self.serving.flow.next_parked(self.now) {
            self.replica(env.rid, 1, env, msg);
        }
        while let Some(f) = self.serving.flow.pop(self.now) {
            self.back.put(self.now, self.way, f);
        }
        assert!(!self.asking.flow.is_broken() && !self.serving.flow.is_broken());
        self.got.held = self.got.held.max(self.serving.flow.held());
        self.got.answers = self.got.answers.max(self.serving.flow.answers_held());
    }

    fn tick(&mut self) {
        let volumes = &self.volumes;
        self.asking.flow.keep_wanted(|k| volumes[&k.0.vol.0].c.wants(k.3));
        let due = |v: &&u64| self.volumes[v].c.next_deadline().is_some_and(|d| d <= self.now);
        let due: Vec<u64> = self.volumes.keys().filter(due).copied().collect();
        due.into_iter().for_each(|vol| self.step(vol, co::Input::Tick));
    }

    pub fn live(&mut self, us: u64) {
        let end = self.now.plus(us);
        let mut tick = self.now;
        while self.now < end {
            self.load();
            self.pump();
            let first = |p: &Pipe| p.coming.front().map(|(at, _)| *at);
            let soon =
                [first(&self.there), first(&self.back), self.disk.front().map(|(at, ..)| *at), Some(tick), Some(end)];
            self.now = self.now.max(soon.into_iter().flatten().min().unwrap());
            if self.now >= tick {
                tick = self.now.plus(20 * MS);
                self.tick();
            }
            if let Some((_, f)) = due(&mut self.there.coming, self.now, |(at, _)| *at)
                && let Some((env, msg, bytes)) = self.serving.arrives(self.now, f)
                && let Some((env, msg)) = self.serving.flow.on_message(self.now, env, msg, bytes)
            {
                *self.arrived.entry(env.shard.vol.0).or_default() += payload(&msg);
                self.replica(env.rid, 1, env, msg);
            }
            if let Some((_, f)) = due(&mut self.back.coming, self.now, |(at, _)| *at)
                && let Some((env, msg, bytes)) = self.asking.arrives(self.now, f)
                && let Some((env, msg)) = self.asking.flow.on_message(self.now, env, msg, bytes)
            {
                *self.arrived.entry(env.shard.vol.0).or_default() += payload(&msg);
                self.step(env.shard.vol.0, co::Input::Message { rid: env.rid, env, msg });
                self.asking.flow.answered(self.now, &hf_repl_core::flow::key(&env));
            }
            if let Some((_, rid, tag, answer)) = due(&mut self.disk, self.now, |(at, ..)| *at) {
                let (credit, max_ver, position) = (1 << 40, Ver::ZERO, 0);
                let mut out = Vec::new();
                let input = re::Input::Store { tag, answer, credit, max_ver, position };
                self.replicas.get_mut(&rid).unwrap().step(self.now, input, &mut out);
                self.replica_outputs(rid, out);
            }
        }
        let resends = |v: &Volume| v.c.status().stats.resends;
        // (Each seal of the beginning is repeated once the link is up.)
        self.got.resends = self
            .volumes
            .values()
            .map(resends)
            .sum::<u64>()
            .saturating_sub(self.volumes.len() as u64 * (1 + u64::from(self.local)));
    }

    pub fn serving(&self) -> bool {
        self.volumes.values().all(|v| v.c.status().phase == Phase::Serving)
    }

    /// A volume's clients ask for so much at a time from now on.
    pub fn set_depth(&mut self, vol: u64, depth: usize) {
        self.volumes.get_mut(&vol).unwrap().load.depth = depth;
    }

    /// The replica over there of a volume.
    pub fn remote(vol: u64) -> Rid {
        Rid(vol + REMOTE)
    }

    /// How long the oldest open request of a volume's clients has been waiting, in microseconds.
    pub fn oldest(&self, vol: u64) -> u64 {
        self.volumes[&vol].began.values().map(|t| self.now.since(*t)).max().unwrap_or(0)
    }

    pub fn set_shares(&mut self, hold: u64, answers: u64) {
        self.serving.flow.set_shares(hold, answers);
    }

    /// Bytes in the pipes, and of answers that wait to go into one.
    pub fn in_network(&self) -> u64 {
        let of = |p: &Pipe| p.coming.iter().map(|(_, f)| f.len() as u64).sum::<u64>();
        of(&self.there) + of(&self.back) + self.serving.flow.answers_held()
    }

    /// Bytes of payload that have arrived, by volume.
    pub fn carried_by_volume(&self) -> BTreeMap<u64, u64> {
        self.arrived.clone()
    }
}
