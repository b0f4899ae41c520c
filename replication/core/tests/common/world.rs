//! A coordinator among members that answer by themselves, and a record that follows what is
//! proposed. What is not to happen yet is held back by name: messages of a kind to a member,
//! commits, the places of syncs.
//!
//! Every member holds block 0 of chunk 0, written in term 1, and nothing else; a member that is
//! `rotten` cannot read it.

use super::{BOOT, config, record};
use bytes::Bytes;
use hf_policy::*;
use hf_repl_core::IoError;
use hf_repl_core::coordinator::{self as co, Change, ClientId, ClientOp, ClientReply, Coordinator, Input, Output};
use hf_repl_core::message::{BlockInfo, BlockState, Envelope, Msg};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A message's kind: the first word of how it is printed.
pub type Kind = &'static str;

pub struct World {
    pub c: Coordinator,
    pub now: Tick,
    pub record: co::Record,
    /// Messages of this kind to this member are lost.
    pub mute: BTreeSet<(Rid, Kind)>,
    /// Members whose link is down.
    pub down: BTreeSet<Rid>,
    /// What is proposed is committed, and its record comes.
    pub raft: bool,
    /// Whoever asks for the place of a sync gets it.
    pub grants: bool,
    /// The members' disks are full.
    pub full: bool,
    /// Members whose block 0 cannot be read.
    pub rotten: BTreeSet<Rid>,
    /// What each member knows itself to hold.
    pub stable: BTreeMap<Rid, Ver>,
    boots: BTreeMap<Rid, BootId>,
    inbox: VecDeque<Input>,
    /// What was proposed while no commits came, and whether the take-over wants to be recorded.
    proposed: Option<Change>,
    ready: bool,
    /// The place of a sync: asked for and not granted yet, held.
    pub asked: bool,
    pub held: bool,
    pub open: BTreeSet<ClientId>,
    pub replies: BTreeMap<ClientId, Result<ClientReply, IoError>>,
    pub drained: u32,
    pub fenced: bool,
    /// All changes that were proposed, and all questions to promise or to note, in order.
    pub changes: Vec<Change>,
    pub seals: Vec<(Rid, Ver, Ver)>,
}

impl World {
    pub fn new(record: co::Record, cfg: co::Config) -> World {
        World::begin(record, cfg, [], [])
    }

    /// From the first message on, some are held back.
    pub fn muted(record: co::Record, cfg: co::Config, mute: impl IntoIterator<Item = (Rid, Kind)>) -> World {
        World::begin(record, cfg, mute, [])
    }

    /// ... and members know themselves to hold something.
    pub fn begin(
        record: co::Record,
        cfg: co::Config,
        mute: impl IntoIterator<Item = (Rid, Kind)>,
        stable: impl IntoIterator<Item = (Rid, Ver)>,
    ) -> World {
        let (now, mut out) = (Tick(1_000_000_000), Vec::new());
        let c = Coordinator::new(now, cfg, record.clone(), &mut out);
        let mut w = World {
            c,
            now,
            record,
            mute: mute.into_iter().collect(),
            down: BTreeSet::new(),
            raft: true,
            grants: true,
            full: false,
            rotten: BTreeSet::new(),
            stable: stable.into_iter().collect(),
            boots: BTreeMap::new(),
            inbox: VecDeque::new(),
            proposed: None,
            ready: false,
            asked: false,
            held: false,
            open: BTreeSet::new(),
            replies: BTreeMap::new(),
            drained: 0,
            fenced: false,
            changes: Vec::new(),
            seals: Vec::new(),
        };
        w.take(out);
        for rid in w.everybody() {
            w.step(Input::PeerUp { rid, boot: BOOT });
        }
        w
    }

    /// So many members in sync of which writes need `min`, served for a while.
    pub fn serving(members: u64, min: u32) -> World {
        let mut w = World::new(record(members), co::Config { min_replicas: min, ..config() });
        w.live(200 * MS);
        w
    }

    /// One more replica that is out.
    pub fn with_out(mut record: co::Record, rid: u64, base: Ver) -> co::Record {
        let (node, store_uuid) = (NodeId(rid), Some(StoreUuid(rid.into())));
        record.out.insert(Rid(rid), co::OutInfo { node, store_uuid, base, position: 0, sync_id: None });
        record
    }

    fn everybody(&self) -> Vec<Rid> {
        self.record.in_sync.keys().chain(self.record.out.keys()).copied().collect()
    }

    pub fn mute(&mut self, rid: u64, kinds: &[Kind]) {
        self.mute.extend(kinds.iter().map(|k| (Rid(rid), *k)));
    }

    pub fn link(&mut self, rid: u64, up: bool) {
        let rid = Rid(rid);
        let boot = *self.boots.get(&rid).unwrap_or(&BOOT);
        let was_down = if up { self.down.remove(&rid) } else { !self.down.insert(rid) };
        if was_down == up {
            self.step(if up { Input::PeerUp { rid, boot } } else { Input::PeerDown { rid } });
        }
    }

    /// The member's process ends and begins anew.
    pub fn reborn(&mut self, rid: u64) {
        self.link(rid, false);
        let boot = self.boots.entry(Rid(rid)).or_insert(BOOT);
        *boot = BootId(boot.0 + 1);
        self.link(rid, true);
    }

    pub fn ask(&mut self, op: ClientOp) -> ClientId {
        let id = self.replies.len() as u64 + self.open.len() as u64 + 1;
        self.open.insert(id);
        self.step(Input::Client { id, op });
        id
    }

    pub fn write(&mut self) -> ClientId {
        self.ask(ClientOp::Write { off: 0, data: Bytes::from(vec![1; BLOCK_SIZE]) })
    }

    /// The record changes by somebody else's hand.
    pub fn change(&mut self, f: impl FnOnce(&mut co::Record)) {
        f(&mut self.record);
        self.record.epoch = self.record.epoch.next();
        let r = self.record.clone();
        self.step(Input::Record(r));
    }

    /// Everything that was held back is there again.
    pub fn lift(&mut self) {
        self.mute.clear();
        (self.raft, self.grants, self.full) = (true, true, false);
        self.rotten.clear();
        self.record.paused.clear();
        self.record.scrub_paused = false;
        self.change(|_| ());
        self.down.clone().into_iter().for_each(|r| self.link(r.0, true));
        self.go();
    }

    pub fn live(&mut self, us: u64) {
        let end = self.now.plus(us);
        while self.now < end {
            self.now = self.now.plus(1_000);
            self.go();
            if self.c.next_deadline().is_some_and(|d| d <= self.now) {
                self.step(Input::Tick);
            }
        }
    }

    /// What is on its way arrives.
    fn go(&mut self) {
        if self.raft {
            if std::mem::take(&mut self.ready) {
                self.record.served = true;
                self.record.activated = self.record.term;
                let r = self.record.clone();
                self.step(Input::Record(r));
            }
            if let Some(change) = self.proposed.take() {
                self.commit(change);
            }
        }
        if self.grants && std::mem::take(&mut self.asked) {
            self.held = true;
            self.step(Input::SyncGo);
        }
        for _ in 0..self.inbox.len() {
            let Some(i) = self.inbox.pop_front() else { return };
            self.step(i);
        }
    }

    pub fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.c.step(self.now, input, &mut out);
        self.c.check().unwrap();
        self.take(out);
    }

    fn take(&mut self, out: Vec<Output>) {
        for o in out {
            match o {
                Output::Send { rid, env, msg } => self.sent(rid, env, msg),
                Output::Propose { change, .. } => {
                    self.changes.push(change.clone());
                    self.proposed = Some(change);
                }
                Output::WantSync { .. } => self.asked = !self.held,
                Output::SyncOver => (self.asked, self.held) = (false, false),
                Output::Reply { id, result } => {
                    assert!(self.open.remove(&id), "{id} is answered twice");
                    self.replies.insert(id, result);
                }
                Output::Ready => self.ready = true,
                Output::Drained => {
                    assert!(self.open.is_empty(), "drained, and {:?} are not answered", self.open);
                    self.drained += 1;
                }
                Output::Fenced => self.fenced = true,
                Output::Forget { .. } => {}
            }
        }
    }

    fn commit(&mut self, change: Change) {
        let mut r = self.record.clone();
        match change {
            Change::SyncStart { rid, sync_id } => r.out.get_mut(&rid).unwrap().sync_id = Some(sync_id),
            Change::Add { rid, store_uuid } => {
                let o = r.out.remove(&rid).unwrap();
                r.in_sync.insert(rid, co::MemberInfo { node: o.node, store_uuid });
            }
            Change::Drop { rids, base, told, .. } => {
                for rid in rids {
                    match r.in_sync.remove(&rid) {
                        Some(m) => {
                            let (node, store_uuid) = (m.node, Some(m.store_uuid));
                            let position = told.get(&rid).copied().unwrap_or(0);
                            r.out.insert(rid, co::OutInfo { node, store_uuid, base, position, sync_id: None });
                        }
                        None => r.out.get_mut(&rid).unwrap().sync_id = None,
                    }
                }
                assert!(!r.in_sync.is_empty());
            }
            Change::Scrubbed { .. } => r.scrub = None,
        }
        self.change(|now| *now = r);
        self.step(Input::Proposed(co::Proposed::Done));
    }

    fn sent(&mut self, rid: Rid, env: Envelope, msg: Msg) {
        if let Msg::Seal { held, stable, .. } = &msg {
            self.seals.push((rid, *held, *stable));
        }
        let text = format!("{msg:?}");
        let lost = self.mute.iter().any(|(r, kind)| *r == rid && text.starts_with(kind));
        if lost || self.down.contains(&rid) {
            return;
        }
        let boot = *self.boots.get(&rid).unwrap_or(&BOOT);
        let msg = self.answer(rid, msg);
        self.inbox.push_back(Input::Message { rid, env: Envelope { boot, ..env }, msg });
    }

    fn answer(&mut self, rid: Rid, msg: Msg) -> Msg {
        let credit = if self.full { 0 } else { 1 << 40 };
        let position = 1;
        let data = || Bytes::from(vec![7; BLOCK_SIZE]);
        let rotten = self.rotten.contains(&rid);
        let first = || BlockInfo {
            ver: Ver::new(1, 1),
            crc: crc::payload(&data()),
            state: if rotten { BlockState::Bad } else { BlockState::Data },
        };
        match msg {
            Msg::Seal { stable, .. } => {
                let s = self.stable.entry(rid).or_insert(Ver::ZERO);
                *s = (*s).max(stable);
                Msg::SealAck { stable: *s, max_ver: Ver::new(1, 60), credit, position }
            }
            Msg::Lease { sent_at, .. } => Msg::LeaseAck { sent_at, credit },
            Msg::Write { .. } => Msg::WriteAck { position, credit },
            Msg::Reserve { range } => Msg::ReserveAck { needs: range.bytes(), credit },
            Msg::ChunkList { .. } => Msg::ChunkListAck { chunks: vec![(ChunkIx(0), Ver::new(1, 1))], more: false },
            Msg::ChunkVersions { .. } | Msg::Verify { .. } => Msg::ChunkVersionsAck { infos: vec![(0, first())] },
            Msg::Read { range } => {
                let info = |b: BlockIx| if b.0 == 0 { first() } else { BlockInfo::default() };
                let bytes = |b: BlockIx| if b.0 == 0 { data() } else { Bytes::from(vec![0; BLOCK_SIZE]) };
                let all: Vec<Bytes> = range.iter().map(bytes).collect();
                Msg::ReadAck { infos: range.iter().map(info).collect(), data: all.concat().into() }
            }
            Msg::Copy { items } => {
                self.rotten.remove(&rid);
                Msg::CopyAck { applied: vec![true; items.len()] }
            }
            other => panic!("{other:?}"),
        }
    }
}
