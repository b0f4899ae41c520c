//! The users of the simulated volume: what they ask for, and what every answer says about the history.
//!
//! A block is one register of the history, or seven of uneven sizes in seeds whose users ask for
//! parts of blocks.

use super::world::{Attached, Sim};
use bytes::Bytes;
use hf_policy::*;
use hf_repl_core::IoError;
use hf_repl_core::coordinator::{self as co, ClientOp, ClientReply, Phase};
use std::collections::BTreeSet;

/// Where the registers of a block begin, and its end. Each has room for its tag.
const WHOLE: [u64; 2] = [0, BLOCK_BYTES];
const PARTS: [u64; 8] = [0, 16, 512, 1000, 2048, 3001, 4080, BLOCK_BYTES];

/// A request in flight.
pub(super) struct Asked {
    pub(super) began: u64,
    pub(super) what: What,
    /// Too few members were in sync, so that a write had to wait.
    pub(super) short: bool,
    /// Replicas that were known to be in sync when it was asked, and ever since.
    pub(super) members: BTreeSet<Rid>,
}

/// What was asked for.
#[derive(PartialEq, Eq)]
pub(super) enum What {
    /// These registers are read.
    Read(Vec<u64>),
    /// These are written, or made zero.
    Write(Vec<u64>),
    Zero(Vec<u64>),
    Flush,
}

impl Sim {
    /// Where the registers of a block lie.
    fn cells(&self) -> &'static [u64] {
        if self.swarm.cells { &PARTS } else { &WHOLE }
    }

    fn per_block(&self) -> u64 {
        self.cells().len() as u64 - 1
    }

    /// All registers of some blocks.
    pub(super) fn registers(&self, blocks: std::ops::Range<u64>) -> Vec<u64> {
        (blocks.start * self.per_block()..blocks.end * self.per_block()).collect()
    }

    /// Where a register begins, in bytes.
    fn place(&self, register: u64) -> u64 {
        let n = self.per_block();
        register / n * BLOCK_BYTES + self.cells()[(register % n) as usize]
    }

    pub(super) fn answered(&mut self, node: u64, id: u64, result: Result<ClientReply, IoError>) -> Result<(), String> {
        let now = self.now.0;
        let a = self.hosts.get_mut(&node).unwrap().coordinator.as_mut().unwrap();
        let lineage = a.lineage;
        let Some(asked) = a.ops.remove(&id) else {
            return Err(format!("request {id} answered twice"));
        };
        // A coordinator that answers requests serves, and then a flush waits for nothing: what it
        // covers was durable when it was answered.
        let flush = a.ops.iter().find(|(_, o)| o.what == What::Flush).map(|(flush, _)| *flush);
        if let (Ok(_), true, Some(flush)) = (&result, asked.what != What::Flush, flush) {
            return Err(format!("request {id} was answered while flush {flush} waits"));
        }
        match (result, asked.what) {
            (Ok(ClientReply::Done), What::Write(_) | What::Zero(_)) => {
                let in_sync = a.c.status().in_sync;
                if in_sync < a.min_replicas {
                    return Err(format!("write {id} acknowledged by {in_sync} members of at least {}", a.min_replicas));
                }
                self.outcome.acked_writes += 1;
                self.outcome.resumed += u64::from(asked.short);
                self.histories.of(lineage).write_ended(id, now);
            }
            (Ok(ClientReply::Done), What::Flush) => self.outcome.flushes += 1,
            // The only storage left was put back from an older copy, within a term and before
            // anything could notice it.
            (Ok(ClientReply::Data(_)), What::Read(_)) if self.lost_all() => {}
            (Ok(ClientReply::Data(parts)), What::Read(registers)) => {
                self.was_read(lineage, &registers, &parts.concat(), asked.began)?
            }
            (Ok(r), _) => return Err(format!("request {id} answered by {r:?}")),
            (Err(e), what) => self.failed((node, lineage), id, e, (what, &asked.members))?,
        }
        Ok(())
    }

    fn was_read(&mut self, lineage: Lineage, registers: &[u64], data: &[u8], began: u64) -> Result<(), String> {
        let (now, n, mut at) = (self.now.0, self.per_block(), 0);
        for r in registers {
            let len = (self.place(r + 1) - self.place(*r)) as usize;
            let bytes = data.get(at..at + len).ok_or("a read was answered with too few bytes")?;
            self.histories.of(lineage).read(*r, tag_of(bytes, r / n)?, began, now);
            at += len;
        }
        if at == data.len() { Ok(()) } else { Err("a read was answered with too many bytes".into()) }
    }

    /// Which requests may fail, and what that says.
    fn failed(
        &mut self,
        (node, lineage): (u64, Lineage),
        id: u64,
        e: IoError,
        (what, members): (What, &BTreeSet<Rid>),
    ) -> Result<(), String> {
        // A replica that had just joined, and made up for all others that are lost, may not be
        // known here yet.
        let known = self.hosts[&node].coordinator.as_ref().map(|a| a.in_sync.clone()).unwrap_or_default();
        let lost = self.outcome.wipes + self.outcome.restores > 0 && !known.into_iter().any(|r| self.holds(r));
        let n = self.per_block();
        let gone = |r: &u64| !self.whole_somewhere(node, Some(members), r / n);
        let excused = lost
            || match &what {
                What::Read(r) | What::Write(r) | What::Zero(r) => r.iter().any(gone),
                What::Flush => false,
            };
        match (e, what) {
            // A fenced write has an unknown outcome: it stays open.
            (IoError::Fenced, _) => {}
            // Every replica in sync was wiped: an error is all that can be said.
            (IoError::Io, _) if self.lost_all() => {}
            // No member that can be asked has some block of it, because of rot or a failed disk: an
            // error, never wrong bytes.
            (IoError::Io, What::Read(_)) if excused => {}
            // The block into which a part had to be written could not be read.
            (IoError::Io, What::Write(_) | What::Zero(_)) if excused && self.swarm.cells => {
                self.histories.of(lineage).write_failed_cleanly(id);
            }
            (IoError::NoSpace, What::Write(r) | What::Zero(r)) if self.small_disks && r.contains(&(256 * n)) => {
                // One chunk of a request over two chunks may have been written.
                self.outcome.full += 1;
                if !r.contains(&(256 * n - 1)) {
                    self.histories.of(lineage).write_failed_cleanly(id);
                }
            }
            // The whole blocks of a zero may have been zeroed, and the parts at its ends not.
            (IoError::NoSpace, What::Zero(_)) if self.small_disks && self.swarm.cells => self.outcome.full += 1,
            // It was certainly applied nowhere: no user may ever read it.
            (IoError::NoSpace, What::Write(_) | What::Zero(_)) if self.small_disks => {
                self.outcome.full += 1;
                self.histories.of(lineage).write_failed_cleanly(id);
            }
            (e, _) => return Err(format!("request {id} failed: {e}")),
        }
        Ok(())
    }

    pub(super) fn client_op(&mut self, at: Option<u64>) -> Result<(), String> {
        let serving: Vec<u64> = self
            .hosts
            .iter()
            .filter(|(n, _)| at.is_none_or(|a| a == **n))
            .filter(|(_, h)| {
                let busy = |a: &Attached| a.ops.len() >= 12 || a.ending;
                h.up && h.coordinator.as_ref().is_some_and(|a| !busy(a) && a.c.status().phase != Phase::Fenced)
            })
            .map(|(n, _)| *n)
            .collect();
        if serving.is_empty() && at.is_some() {
            return Ok(());
        }
        // (Seldom another node takes it from one that is about to end.)
        if serving.is_empty() && self.is_ending() && !self.rng.one_in(10) {
            return Ok(());
        }
        if serving.is_empty() {
            return if self.rng.one_in(60) { self.attach(None) } else { Ok(()) };
        }
        let node = serving[self.rng.below(serving.len() as u64) as usize];
        // A few hot blocks around a chunk boundary, so that operations meet.
        let b = 256 - self.span / 2 + self.rng.below(self.span);
        let n = 1 + self.rng.below(4.min(self.span));
        let write = !self.only_read.contains(&node) && self.rng.one_in(2);
        let zero = write && self.rng.one_in(5);
        let mut registers = self.registers(b..b + n);
        if zero && self.swarm.chunks && self.swarm.rng.one_in(4) {
            // The hot blocks in the upper chunk, and all others there; with some of those below, sometimes.
            self.outcome.chunks += 1;
            let from = CHUNK_BLOCKS - if self.swarm.rng.one_in(2) { self.swarm.rng.below(4) } else { 0 };
            registers = self.registers(from..2 * CHUNK_BLOCKS);
        } else if self.swarm.cells {
            if self.swarm.rng.one_in(8) {
                return self.ask(node, What::Flush);
            }
            self.trim(&mut registers);
        }
        self.ask(
            node,
            if zero {
                What::Zero(registers)
            } else if write {
                What::Write(registers)
            } else {
                What::Read(registers)
            },
        )
    }

    /// Leaves some out at either end, sometimes.
    fn trim(&mut self, registers: &mut Vec<u64>) {
        if self.swarm.rng.one_in(3) {
            return;
        }
        let from = self.swarm.rng.below(self.per_block().min(registers.len() as u64));
        registers.drain(..from as usize);
        let less = self.swarm.rng.below(self.per_block().min(registers.len() as u64));
        registers.truncate(registers.len() - less as usize);
        self.outcome.unaligned += u64::from(from + less > 0);
    }

    fn began(&mut self, node: u64, id: u64, now: u64, registers: &[u64], value: u64) {
        let lineage = self.hosts[&node].coordinator.as_ref().unwrap().lineage;
        let values: Vec<(u64, u64)> = registers.iter().map(|r| (*r, value)).collect();
        self.histories.write_began(lineage, id, now, &values);
    }

    /// A client of this node asks.
    pub(super) fn ask(&mut self, node: u64, what: What) -> Result<(), String> {
        let (id, began, n) = (self.id(), self.now.0, self.per_block());
        let span = |r: &[u64]| (self.place(r[0]), self.place(r[r.len() - 1] + 1) - self.place(r[0]));
        let op = match &what {
            What::Read(r) => ClientOp::Read { off: span(r).0, len: span(r).1 as u32 },
            What::Zero(r) => ClientOp::Zero { off: span(r).0, len: span(r).1 },
            What::Write(r) => {
                let data: Vec<u8> =
                    r.iter().flat_map(|x| tagged(id, x / n, (self.place(x + 1) - self.place(*x)) as usize)).collect();
                ClientOp::Write { off: span(r).0, data: Bytes::from(data) }
            }
            What::Flush => ClientOp::Flush,
        };
        match &what {
            What::Zero(r) => self.began(node, id, began, r, 0),
            What::Write(r) => self.began(node, id, began, r, id),
            What::Read(_) | What::Flush => {}
        }
        let a = self.hosts.get_mut(&node).unwrap().coordinator.as_mut().unwrap();
        let s = a.c.status();
        let short = s.phase == Phase::Serving && s.in_sync < a.min_replicas;
        let members = a.in_sync.clone();
        a.ops.insert(id, Asked { began, what, short, members });
        self.coordinator_step(node, co::Input::Client { id, op })
    }
}

/// A register's bytes: the tag of its write and its block, again and again.
fn tagged(id: u64, block: u64, len: usize) -> impl Iterator<Item = u8> {
    let mut one = [0u8; 16];
    one[..8].copy_from_slice(&id.to_le_bytes());
    one[8..].copy_from_slice(&block.to_le_bytes());
    one.into_iter().cycle().take(len)
}

fn repeats(bytes: &[u8]) -> bool {
    bytes.chunks(16).all(|s| s == &bytes[..s.len()])
}

/// Does the block look as clients write it, in one piece or in parts?
pub(super) fn is_whole(block: &[u8]) -> bool {
    PARTS.windows(2).all(|p| repeats(&block[p[0] as usize..p[1] as usize]))
}

/// A register's tag; all of it must carry the same one.
fn tag_of(bytes: &[u8], block: u64) -> Result<u64, String> {
    if !repeats(bytes) {
        return Err("a torn block was read".into());
    }
    let one = &bytes[..16];
    let half = |h: &[u8]| h.try_into().map(u64::from_le_bytes).map_err(|_| "short");
    let (id, of) = (half(&one[..8])?, half(&one[8..])?);
    if id != 0 && of != block {
        return Err(format!("block {block} was read as what was written to block {of}"));
    }
    Ok(id)
}
