//! The replica: guards identity and term, keeps its promise durable, grants leases, and translates
//! between messages and its store. Rules: docs/protocol.md §5–6.
//!
//! What it promises: nothing of an older term takes effect after a SealAck; a lease keeps foreign
//! seals away until it has run out; an acknowledgement is sent only after the store says durable.
//!
//! Whatever comes over a link is input and can be anything; what the store answers is this
//! program's own, and an answer of the wrong kind is a broken invariant.

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
    Tick, Ver, broken, invariant,
};
use numbered::Numbered;
use std::collections::BTreeMap;

/// The link a message came over; replies go back over it.
pub type Link = u64;

/// The most chunks that one answer lists.
pub const LIST_PAGE: usize = 4096;

/// What the replica asks of its store, in its own words; the driver translates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOp {
    /// Persist the promise and the watermark; done only when durable and no write submitted before
    /// can apply later.
    Promise {
        /// The term that is promised.
        term: Term,
        /// The session that it is promised to.
        session: SessionId,
        /// The watermark that is kept with it.
        stable: Ver,
        /// The record's epoch, as a hint.
        epoch: Epoch,
    },
    /// Write data; done when it is durable.
    Write {
        /// The version that the blocks get.
        ver: Ver,
        /// The first block.
        start: BlockIx,
        /// The bytes of whole blocks of one chunk.
        data: Bytes,
        /// One checksum per block.
        crcs: Vec<PayloadCrc>,
    },
    /// Make blocks zero; done when that is durable.
    Zero {
        /// The version that the blocks get.
        ver: Ver,
        /// The blocks, of one or many chunks.
        range: BlockRange,
        /// Note the zero also in chunks where nothing was ever written.
        keep: bool,
    },
    /// Read and verify blocks of one chunk.
    Read {
        /// The blocks that are asked about.
        range: BlockRange,
    },
    /// How much space would data in these blocks take?
    Needs {
        /// The blocks, of one chunk.
        range: BlockRange,
    },
    /// List newer chunks.
    Chunks {
        /// Only chunks with a newer version than this.
        since: Ver,
        /// Only from this chunk on, at most [`LIST_PAGE`].
        from: ChunkIx,
    },
    /// Tell what every block of a chunk holds.
    Versions {
        /// The chunk that is asked about.
        chunk: ChunkIx,
    },
    /// Apply conditional copies ([`crate::message::CopyItem`]) inside one chunk; done when they are
    /// durable.
    Copy {
        /// The term of the coordinator.
        term: Term,
        /// The copies, in the order of their blocks.
        items: Vec<CopyItem>,
    },
}

/// What the store answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAnswer {
    /// It is done and durable.
    Done,
    /// Per block what it holds, and the bytes of all.
    Read(Vec<BlockInfo>, Bytes),
    /// Chunks with their highest versions, and whether there are more behind them.
    Chunks(Vec<(ChunkIx, Ver)>, bool),
    /// The space, encoded by [`hf_policy::Space::to_needs`].
    Needs(u64),
    /// What each of the chunk's 256 blocks holds.
    Versions(Vec<BlockInfo>),
    /// Per item: it was applied.
    Copied(Vec<bool>),
    /// It could not be done.
    Error(Nack),
}

/// What a replica is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message has come over a link.
    Message {
        /// The link, over which the reply goes back.
        link: Link,
        /// The message's envelope.
        env: Envelope,
        /// The message's body.
        msg: Msg,
    },
    /// The store is done with an operation.
    Store {
        /// The position of the disk's journal: everything up to here is durable.
        position: u64,
        /// The tag of the operation.
        tag: u64,
        /// How it ended.
        answer: StoreAnswer,
        /// The room on the disk, encoded by [`hf_policy::Space::to_credit`].
        credit: u64,
        /// The highest version of a block in this store.
        max_ver: Ver,
    },
}

/// What a replica asks of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a message over a link.
    Send {
        /// The link that it goes over.
        link: Link,
        /// The message's envelope.
        env: Envelope,
        /// The message's body.
        msg: Msg,
    },
    /// This storage was put back from an older copy: give it a new uuid, durably, and begin the
    /// replica anew with it. Until then it answers everybody that it is not the storage that is
    /// meant.
    Renew,
    /// Ask the store; answered by [`Input::Store`].
    Store {
        /// The tag under which it is answered.
        tag: u64,
        /// What the store is to do.
        op: StoreOp,
    },
}

/// What is durable about a replica, as its store has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The cluster that the volume belongs to.
    pub cluster: ClusterId,
    /// The shard of the volume.
    pub shard: ShardId,
    /// The replica's id in the record.
    pub rid: Rid,
    /// The storage that holds it.
    pub store_uuid: StoreUuid,
    /// The history of the volume that it holds.
    pub lineage: Lineage,
    /// The newest term that it has promised; 0 before the first.
    pub promised_term: Term,
    /// The session that it has promised it to.
    pub promised_session: SessionId,
    /// The watermark: everything up to here is on this replica.
    pub stable: Ver,
    /// The position of the disk's journal when this process began.
    pub position: u64,
}

/// What an operation of the store is for.
enum Waiting {
    /// A promise, and with it the answers to the seals that wait for it.
    Promise,
    /// The watermark, now and then.
    Stable,
    /// A chunk's part of a message of copies, by the message's number and the place of its first item.
    Part(u64, usize),
    /// A request, which is answered when the store is done.
    Other { link: Link, env: Envelope, kind: Kind },
}

/// Which kind of answer a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write(Seq),
    Read,
    Needs,
    Chunks,
    /// Those that are newer than this.
    Versions(Ver),
    Verify,
}

/// One replica of one shard.
pub struct Replica {
    d: Durable,
    boot: BootId,
    /// The promise in `d` is durable.
    promise_durable: bool,
    /// The seals that are answered when it is, and what the record says of this replica (`held`).
    seals: Vec<(Link, Envelope, Ver)>,
    /// Its storage was put back from a copy: it is older than what the record knows of it.
    put_back: bool,
    /// No other session is let in before this moment.
    leased_until: Tick,
    /// The newest term that asked to be let in: older ones get no more leases, or it would wait for ever.
    knocking: Term,
    /// The last tag that was given.
    next_tag: u64,
    /// What the store was asked, by tag.
    waiting: BTreeMap<u64, Waiting>,
    numbered: Numbered,
    copies: copies::Copies,
    /// The record's epoch, as the last seal told it.
    epoch: Epoch,
    /// The newest watermark that the store was asked to keep, and when.
    stable_persisted: Ver,
    stable_at: Tick,
    /// The room on its disk as last told, encoded by [`hf_policy::Space::to_credit`].
    credit: u64,
    /// The position of its disk's journal as last told.
    position: u64,
    /// Its disk has failed: it serves nobody any more.
    failed: bool,
}

impl Replica {
    /// A replica at process start. If it may have granted a lease before, it waits a lease's time
    /// before it lets a new session in: the grant was not durable (protocol §5 step 2).
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

    /// Checks what must hold between steps; for the simulator and for tests.
    ///
    /// # Errors
    /// Says which invariant does not hold. That is always a fault of this code, whatever its inputs were.
    pub fn check(&self) -> Result<(), String> {
        let promising = self.waiting.values().any(|w| matches!(w, Waiting::Promise));
        if self.seals.is_empty() == promising {
            return Err(format!("{} seals wait, a promise is on its way: {promising}", self.seals.len()));
        }
        if self.stable_persisted > self.d.stable {
            return Err("a watermark was persisted that is not known".into());
        }
        if self.waiting.last_key_value().is_some_and(|(tag, _)| *tag > self.next_tag) {
            return Err("the store was asked under a tag that was not given".into());
        }
        let written = |w: &&Waiting| matches!(w, Waiting::Other { kind: Kind::Write(_), .. });
        self.numbered.check(self.waiting.values().filter(written).count())?;
        let part = |w: &Waiting| if let Waiting::Part(number, _) = w { Some(*number) } else { None };
        self.copies.check(self.waiting.values().filter_map(part))
    }

    /// Serves nobody any more because the process has seen an invariant of its own code broken
    /// ([`hf_policy::broken::take`]): from now on every message is answered as by a disk that has failed.
    pub fn abandon(&mut self) {
        self.failed = true;
    }

    /// The durable state that it stands for.
    pub fn durable(&self) -> &Durable {
        &self.d
    }

    /// It may have granted a lease that has not run out.
    pub fn leased(&self, now: Tick) -> bool {
        now < self.leased_until
    }

    /// Under this tag the store is asked for a promise. (Its answer carries the highest version;
    /// others need not.)
    pub fn awaits_promise(&self, tag: u64) -> bool {
        matches!(self.waiting.get(&tag), Some(Waiting::Promise))
    }

    /// The room on its disk has changed, encoded by [`hf_policy::Space::to_credit`]; told before a
    /// message is handled.
    pub fn set_credit(&mut self, bytes: u64) {
        self.credit = bytes;
    }

    /// Takes one input at `now`, on a clock that never goes back; everything that follows from it
    /// is appended to `out`.
    pub fn step(&mut self, now: Tick, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Message { link, env, msg } => {
                // It was for this process's predecessor, whose storage may have been another one
                // (seed 290 over real members).
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
                        // Bytes that are not what the coordinator sent are never let in.
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
            // Leases only ever get shorter by this, so it is safe; the old coordinator is fenced
            // when the seal is done.
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
            // A reply is not for a replica.
            _ => self.reply(link, env, Msg::Nack(Nack::Invalid), out),
        }
    }

    /// Asks the store, and notes what its answer is for.
    fn store(&mut self, what: Waiting, op: StoreOp, out: &mut Vec<Output>) {
        self.next_tag += 1;
        let before = self.waiting.insert(self.next_tag, what);
        invariant!(before.is_none(), "the store is asked twice under the tag {}", self.next_tag);
        out.push(Output::Store { tag: self.next_tag, op });
    }

    fn store_done(&mut self, tag: u64, answer: StoreAnswer, credit: u64, max_ver: Ver, out: &mut Vec<Output>) {
        // (The store was asked by this replica's predecessor in this process, whose storage was renewed.)
        let Some(what) = self.waiting.remove(&tag) else { return };
        if let StoreAnswer::Error(Nack::Failed) = answer {
            self.failed = true;
        }
        match what {
            Waiting::Stable => {}
            Waiting::Part(number, at) => self.copied(number, at, answer, out),
            Waiting::Promise => self.promised(answer, credit, max_ver, out),
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

    /// A promise is durable, or could not be made so: the seals that wait for it are answered.
    fn promised(&mut self, answer: StoreAnswer, credit: u64, max_ver: Ver, out: &mut Vec<Output>) {
        let done = answer == StoreAnswer::Done;
        // A newer promise may be on its way: only the last one makes this term durable.
        if self.waiting.values().any(|w| matches!(w, Waiting::Promise)) {
            return;
        }
        invariant!(!self.seals.is_empty(), "a promise is durable that no seal waits for");
        self.promise_durable = done;
        for (link, env, held) in std::mem::take(&mut self.seals) {
            invariant!(env.term <= self.d.promised_term, "a seal of term {} waits for an older promise", env.term.0);
            let lacks = held.seq.0 > 0 && max_ver < held && !mutant::is(Mutant::TrustsOldStorage);
            if done && (lacks || self.put_back) {
                self.is_put_back(link, env, out);
                continue;
            }
            let msg = match &answer {
                StoreAnswer::Done => Msg::SealAck { stable: self.d.stable, max_ver, credit, position: self.position },
                StoreAnswer::Error(n) => Msg::Nack(*n),
                other => {
                    broken!("a promise is answered by {other:?}");
                    Msg::Nack(Nack::Invalid)
                }
            };
            self.reply(link, env, msg, out);
        }
    }

    /// By answering, a replica proves that the term was still the promised one when the data was read (I6).
    fn refusal(&self, env: Envelope) -> Option<Nack> {
        let promised = self.d.promised_term;
        let stale = (env.term != promised).then_some(Nack::StaleTerm { promised });
        stale.or(self.put_back.then_some(Nack::WrongStore))
    }

    /// The message by which the store's answer is told.
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
            (kind, answer) => {
                broken!("the store answers {kind:?} with {answer:?}");
                Msg::Nack(Nack::Invalid)
            }
        }
    }

    fn reply(&self, link: Link, env: Envelope, msg: Msg, out: &mut Vec<Output>) {
        out.push(Output::Send { link, env: Envelope { boot: self.boot, ..env }, msg });
    }
}
