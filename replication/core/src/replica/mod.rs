//! The replica: guards identity and term, keeps its promise durable, grants leases, and translates between messages and its
//! store. Rules: docs/protocol.md §5–6.
//!
//! What it promises: nothing of an older term takes effect after a SealAck; a lease keeps foreign seals away until it has
//! run out; an acknowledgement is sent only after the store says durable.

mod copies;
mod guard;
mod numbered;
mod promise;

use crate::message::{self, BlockInfo, CopyItem, Envelope, Msg, Nack, WriteKind};
use crate::timing::{LEASE_AT_REPLICA, lease_granted};
use bytes::Bytes;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::crc::{self, PayloadCrc};
use hf_policy::{
    BlockIx, BlockRange, BootId, ChunkIx, ClusterId, Epoch, Lineage, Rid, Seq, SessionId, ShardId, StoreUuid, Term,
    Tick, Ver,
};
use numbered::Numbered;
use std::collections::BTreeMap;

/// The link a message came over; replies go back over it.
pub type Link = u64;

/// Chunks listed in one answer.
pub const LIST_PAGE: usize = 4096;

/// What the replica asks of its store, in its own words; the driver translates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOp {
    /// Persist the promise and the watermark; done only when durable and no write submitted before can apply later.
    Promise {
        /// Term promised.
        term: Term,
        /// To whom.
        session: SessionId,
        /// Watermark.
        stable: Ver,
        /// The record's epoch, as a hint.
        epoch: Epoch,
    },
    /// Write blocks.
    Write {
        /// Version.
        ver: Ver,
        /// First block.
        start: BlockIx,
        /// Bytes.
        data: Bytes,
        /// Checksums.
        crcs: Vec<PayloadCrc>,
    },
    /// Zero blocks.
    Zero {
        /// Version.
        ver: Ver,
        /// Which.
        range: BlockRange,
        /// Also where nothing was ever written.
        keep: bool,
    },
    /// Read blocks.
    Read {
        /// Which.
        range: BlockRange,
    },
    /// What would data in these blocks take?
    Needs {
        /// Which.
        range: BlockRange,
    },
    /// List newer chunks.
    Chunks {
        /// Newer than this.
        since: Ver,
        /// From here on, at most [`LIST_PAGE`].
        from: ChunkIx,
    },
    /// A chunk's versions.
    Versions {
        /// Which.
        chunk: ChunkIx,
    },
    /// Conditional copies.
    Copy {
        /// The coordinator's term.
        term: Term,
        /// What.
        items: Vec<CopyItem>,
    },
}

/// What the store answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAnswer {
    /// Done, durable.
    Done,
    /// Blocks.
    Read(Vec<BlockInfo>, Bytes),
    /// Chunks; and whether there are more.
    Chunks(Vec<(ChunkIx, Ver)>, bool),
    /// Bytes.
    Needs(u64),
    /// 256 entries.
    Versions(Vec<BlockInfo>),
    /// Per item.
    Copied(Vec<bool>),
    /// It could not be done.
    Error(Nack),
}

/// An input.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message over a link.
    Message {
        /// Which link.
        link: Link,
        /// About whom.
        env: Envelope,
        /// What.
        msg: Msg,
    },
    /// The store is done with a tag. `credit`: bytes it can still allocate; `max_ver`: its highest version.
    Store {
        /// How far the disk's journal has got: everything up to here is durable.
        position: u64,
        /// Which.
        tag: u64,
        /// How.
        answer: StoreAnswer,
        /// Bytes.
        credit: u64,
        /// Highest version.
        max_ver: Ver,
    },
}

/// An output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send over a link.
    Send {
        /// Which.
        link: Link,
        /// About whom.
        env: Envelope,
        /// What.
        msg: Msg,
    },
    /// This storage was put back from an older copy: give it a new uuid, durably, and begin the replica anew with it. Until then
    /// it answers everybody that it is not the storage that is meant.
    Renew,
    /// Do this and come back.
    Store {
        /// Tag.
        tag: u64,
        /// What.
        op: StoreOp,
    },
}

/// What is durable about a replica, as its store has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The cluster.
    pub cluster: ClusterId,
    /// The shard.
    pub shard: ShardId,
    /// The replica.
    pub rid: Rid,
    /// Its storage.
    pub store_uuid: StoreUuid,
    /// Its history.
    pub lineage: Lineage,
    /// The promise.
    pub promised_term: Term,
    /// To whom.
    pub promised_session: SessionId,
    /// The watermark.
    pub stable: Ver,
    /// How far the disk's journal had got when this process began.
    pub position: u64,
}

enum Waiting {
    Promise,
    Stable,
    /// A chunk's part of a message of copies, by the message's number and the place of its first item.
    Part(u64, usize),
    Other {
        link: Link,
        env: Envelope,
        kind: Kind,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write(Seq),
    Read,
    Needs,
    Chunks,
    Versions(Ver),
    Verify,
}

/// One replica.
pub struct Replica {
    d: Durable,
    boot: BootId,
    /// The promise in `d` is durable.
    promise_durable: bool,
    /// Who is answered when it is, and what the record says of this replica.
    seals: Vec<(Link, Envelope, Ver)>,
    /// Its storage is older than what the record knows of it.
    put_back: bool,
    /// No other session is let in before this.
    leased_until: Tick,
    /// The newest term that asked to be let in: older ones get no more leases, or it would wait for ever.
    knocking: Term,
    next_tag: u64,
    waiting: BTreeMap<u64, Waiting>,
    numbered: Numbered,
    copies: copies::Copies,
    epoch: Epoch,
    stable_persisted: Ver,
    stable_at: Tick,
    /// Bytes its disk can still allocate, as last told.
    credit: u64,
    /// How far its disk's journal had got, as last told.
    position: u64,
    failed: bool,
}

impl Replica {
    /// A replica at process start. If it may have granted a lease before, it waits a lease's time before it lets a new
    /// session in: the grant was not durable (protocol §5 step 2).
    pub fn new(now: Tick, boot: BootId, d: Durable) -> Replica {
        let leased_until = if d.promised_term == Term(0) { now } else { now.plus(LEASE_AT_REPLICA) };
        Replica {
            position: d.position,
            d,
            boot,
            promise_durable: true,
            seals: Vec::new(),
            put_back: false,
            leased_until,
            knocking: Term(0),
            next_tag: 0,
            waiting: BTreeMap::new(),
            numbered: Numbered::default(),
            copies: copies::Copies::default(),
            epoch: Epoch(0),
            stable_persisted: d.stable,
            stable_at: now,
            credit: 0,
            failed: false,
        }
    }

    /// What it stands for.
    pub fn durable(&self) -> &Durable {
        &self.d
    }

    /// May it have granted a lease that has not run out?
    pub fn leased(&self, now: Tick) -> bool {
        now < self.leased_until
    }

    /// Is this tag the answer to a promise? (Its answer carries the highest version; others need not.)
    pub fn awaits_promise(&self, tag: u64) -> bool {
        matches!(self.waiting.get(&tag), Some(Waiting::Promise))
    }

    /// Its disk's room has changed; told before a message is handled.
    pub fn set_credit(&mut self, bytes: u64) {
        self.credit = bytes;
    }

    /// Takes one input.
    pub fn step(&mut self, now: Tick, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Message { link, env, msg } => {
                // It was for this process's predecessor, whose storage may have been another one (seed 290 over real members).
                if env.boot != BootId::NONE && env.boot != self.boot {
                    return;
                }
                if let Err(nack) = self.guard(&env, &msg) {
                    return self.reply(link, env, Msg::Nack(nack), out);
                }
                self.message(now, link, env, msg, out);
            }
            Input::Store { tag, answer, credit, max_ver, position } => {
                self.position = self.position.max(position);
                self.store_done(tag, answer, credit, max_ver, out);
            }
        }
    }

    fn message(&mut self, now: Tick, link: Link, env: Envelope, msg: Msg, out: &mut Vec<Output>) {
        match msg {
            Msg::Seal { epoch, held, position, stable } => {
                self.seal(now, (link, env), epoch, (held, position), stable, out);
            }
            Msg::Write { seq, range, stable, kind } => {
                self.learn_stable(stable);
                let ver = Ver { term: env.term, seq: Seq(seq) };
                let op = match kind {
                    WriteKind::Zero { keep } => StoreOp::Zero { ver, range, keep },
                    WriteKind::Data { crcs, data } => {
                        // Never let bytes in that are not what the coordinator sent.
                        if crc::payloads(&data) != crcs || crcs.len() != range.len as usize {
                            return self.reply(link, env, Msg::Nack(Nack::BadCrc), out);
                        }
                        StoreOp::Write { ver, start: range.start, data, crcs }
                    }
                };
                if mutant::is(Mutant::AckBeforeDurable) {
                    self.reply(link, env, Msg::WriteAck { credit: self.credit, position: self.position }, out);
                }
                self.write(link, env, ver, op, out);
            }
            Msg::Read { range } => {
                self.store(Waiting::Other { link, env, kind: Kind::Read }, StoreOp::Read { range }, out);
            }
            Msg::Reserve { range } => {
                self.store(Waiting::Other { link, env, kind: Kind::Needs }, StoreOp::Needs { range }, out);
            }
            // Leases only ever get shorter by this, so it is safe; the old coordinator is fenced when the seal is done.
            Msg::Lease { .. } if env.term < self.knocking => {}
            Msg::Lease { sent_at, stable } => {
                self.leased_until = now.plus(lease_granted());
                self.learn_stable(stable);
                self.persist_stable(now, out);
                self.reply(link, env, Msg::LeaseAck { sent_at, credit: self.credit }, out);
            }
            Msg::ChunkList { since, from } => {
                self.store(Waiting::Other { link, env, kind: Kind::Chunks }, StoreOp::Chunks { since, from }, out);
            }
            Msg::ChunkVersions { chunk, since } => {
                self.store(Waiting::Other { link, env, kind: Kind::Versions(since) }, StoreOp::Versions { chunk }, out);
            }
            Msg::Verify { chunk } => {
                let op = StoreOp::Read { range: chunk.blocks() };
                self.store(Waiting::Other { link, env, kind: Kind::Verify }, op, out);
            }
            Msg::Copy { items } => self.copy(link, env, items, out),
            // Replies are not for replicas.
            _ => self.reply(link, env, Msg::Nack(Nack::Invalid), out),
        }
    }

    fn store(&mut self, what: Waiting, op: StoreOp, out: &mut Vec<Output>) {
        self.next_tag += 1;
        self.waiting.insert(self.next_tag, what);
        out.push(Output::Store { tag: self.next_tag, op });
    }

    fn store_done(&mut self, tag: u64, answer: StoreAnswer, credit: u64, max_ver: Ver, out: &mut Vec<Output>) {
        let Some(what) = self.waiting.remove(&tag) else { return };
        if let StoreAnswer::Error(Nack::Failed) = answer {
            self.failed = true;
        }
        match what {
            Waiting::Stable => {}
            Waiting::Part(number, at) => self.copied(number, at, answer, out),
            Waiting::Promise => {
                let done = answer == StoreAnswer::Done;
                // A newer promise may be on its way: only the last one makes this term durable.
                let newer = self.waiting.values().any(|w| matches!(w, Waiting::Promise));
                if newer {
                    return;
                }
                self.promise_durable = done;
                for (link, env, held) in std::mem::take(&mut self.seals) {
                    let lacks = held.seq.0 > 0 && max_ver < held && !mutant::is(Mutant::TrustsOldStorage);
                    if done && (lacks || self.put_back) {
                        self.is_put_back(link, env, out);
                        continue;
                    }
                    let msg = match &answer {
                        StoreAnswer::Done => {
                            Msg::SealAck { stable: self.d.stable, max_ver, credit, position: self.position }
                        }
                        StoreAnswer::Error(n) => Msg::Nack(*n),
                        _ => Msg::Nack(Nack::Invalid),
                    };
                    self.reply(link, env, msg, out);
                }
            }
            Waiting::Other { link, env, kind } => {
                let refused = answer == StoreAnswer::Error(Nack::NoSpace);
                let msg = self.answer(env, kind, answer, credit);
                if let Kind::Write(seq) = kind {
                    let others = self.numbered.ended(Ver { term: env.term, seq }, refused);
                    others.into_iter().for_each(|(link, env)| self.reply(link, env, msg.clone(), out));
                }
                self.reply(link, env, msg, out);
            }
        }
    }

    /// By answering, a replica proves that the term was still the promised one when the data was read (I6).
    fn refusal(&self, env: Envelope) -> Option<Nack> {
        let promised = self.d.promised_term;
        let stale = (env.term != promised).then_some(Nack::StaleTerm { promised });
        stale.or(self.put_back.then_some(Nack::WrongStore))
    }

    fn answer(&self, env: Envelope, kind: Kind, answer: StoreAnswer, credit: u64) -> Msg {
        if let Some(n) = self.refusal(env) {
            return Msg::Nack(n);
        }
        match (kind, answer) {
            (_, StoreAnswer::Error(n)) => Msg::Nack(n),
            (Kind::Write(_), StoreAnswer::Done) => Msg::WriteAck { credit, position: self.position },
            (Kind::Read, StoreAnswer::Read(infos, data)) => Msg::ReadAck { infos, data },
            (Kind::Needs, StoreAnswer::Needs(needs)) => Msg::ReserveAck { needs, credit },
            (Kind::Chunks, StoreAnswer::Chunks(chunks, more)) => Msg::ChunkListAck { chunks, more },
            (Kind::Versions(since), StoreAnswer::Versions(infos)) => {
                Msg::ChunkVersionsAck { infos: message::listed(&infos, since) }
            }
            (Kind::Verify, StoreAnswer::Read(infos, _)) => {
                Msg::ChunkVersionsAck { infos: message::listed(&infos, Ver::ZERO) }
            }
            _ => Msg::Nack(Nack::Invalid),
        }
    }

    fn reply(&self, link: Link, env: Envelope, msg: Msg, out: &mut Vec<Output>) {
        out.push(Output::Send { link, env: Envelope { boot: self.boot, ..env }, msg });
    }
}
