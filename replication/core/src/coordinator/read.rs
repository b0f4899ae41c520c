//! Rule R: one member reads, under a shared range lock, and its answer is delivered while every other member's lease is
//! valid. Blocks that do not verify are asked of another member, those that do are kept: an answer is put together from as many
//! members as it takes. Of a block that none has whole the answer is EIO: never zeros, never old data (I14), also where a member
//! has older data because its disk lost a write.

use super::link::For;
use super::{Coordinator, Cx, IoError};
use crate::message::{BlockInfo, BlockState, Content, CopyItem, Msg};
use bytes::{Bytes, BytesMut};
use hf_policy::attributes::ReadFrom;
use hf_policy::{BLOCK_SIZE, BlockIx, BlockRange, Rid, Ver, crc};
use std::collections::{BTreeMap, BTreeSet};

/// A block that a member does not have as it should.
pub(super) struct Wrong {
    pub rid: Rid,
    pub block: BlockIx,
    /// The version it has there.
    pub ver: Ver,
    /// Unreadable there, or merely old.
    pub state: BlockState,
}

/// The answer, put together.
pub(super) struct Arrived {
    /// The member that answered last.
    pub from: Rid,
    /// Whoever supplied a part.
    sources: BTreeSet<Rid>,
    infos: Vec<BlockInfo>,
    data: Bytes,
    /// The newest question about leases at that moment.
    pub after: u64,
}

/// A read of blocks of one chunk.
pub(super) struct Read {
    pub request: u64,
    /// Which part of the request it is.
    pub part: usize,
    pub range: BlockRange,
    /// Members that could not supply it.
    pub tried: BTreeSet<Rid>,
    /// Only what the blocks are is asked, not their bytes.
    pub status: bool,
    /// What is replaced when it has arrived.
    pub wrong: Vec<Wrong>,
    /// Blocks that were whole in answers that lack others, by place.
    kept: BTreeMap<usize, (Rid, BlockInfo, Bytes)>,
    /// Arrived, waiting until it is known to be current.
    pub arrived: Option<Arrived>,
}

impl Read {
    fn new(request: u64, part: usize, range: BlockRange, status: bool) -> Read {
        let (tried, wrong, kept) = (BTreeSet::new(), Vec::new(), BTreeMap::new());
        Read { request, part, range, status, tried, wrong, kept, arrived: None }
    }

    /// A read for the sake of who has the block wrong.
    pub fn to_repair(request: u64, part: usize, range: BlockRange, wrong: Vec<Wrong>) -> Read {
        let tried = wrong.iter().map(|w| w.rid).collect();
        Read { tried, wrong, ..Read::new(request, part, range, false) }
    }

    /// A member's answer and what others supplied before, if that is all of it; and how many blocks are bad in this answer.
    fn put_together(
        &mut self,
        from: Rid,
        mut infos: Vec<BlockInfo>,
        data: Bytes,
        after: u64,
    ) -> (usize, Option<Arrived>) {
        let n = self.range.len as usize;
        let mut lacking = lacks(n, &infos, &data);
        let bad = lacking.len();
        let formed = infos.len() == n && data.len() == n * BLOCK_SIZE;
        // What somebody else has, or has lost, is newer: this one has what was before.
        let older = |i: &usize| formed && !infos[*i].state.is_bad() && self.is_older(*i, &infos[*i]);
        lacking.extend((0..n).filter(|i| older(i) && !lacking.contains(i)).collect::<Vec<_>>());
        if lacking.is_empty() {
            return (0, Some(Arrived { from, sources: [from].into(), infos, data, after }));
        }
        let block = |i: usize| BlockIx(self.range.start.0 + i as u64);
        let known = |(i, x): (usize, &BlockInfo)| {
            (x.state.is_bad() || older(&i)).then_some(Wrong { rid: from, block: block(i), ver: x.ver, state: x.state })
        };
        let list: Vec<_> = infos.iter().take(n).enumerate().filter_map(known).collect();
        self.wrong.extend(list);
        let lost: Vec<Ver> = (0..n).map(|i| self.lost(i)).collect();
        self.kept.retain(|i, (_, info, _)| info.ver >= lost[*i]);
        if formed && lacking.iter().all(|i| self.kept.contains_key(i)) {
            let mut all = BytesMut::from(&data[..]);
            let mut sources = BTreeSet::from([from]);
            for i in &lacking {
                let Some((rid, info, bytes)) = self.kept.get(i) else { continue };
                sources.insert(*rid);
                infos[*i] = *info;
                all[i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE].copy_from_slice(bytes);
            }
            return (bad, Some(Arrived { from, sources, infos, data: all.freeze(), after }));
        }
        if formed {
            for i in (0..n).filter(|i| !lacking.contains(i)) {
                let bytes = data.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE);
                self.kept.insert(i, (from, infos[i], bytes));
            }
        }
        (bad, None)
    }

    /// Is this of a version before the one that another member has, or knows that it has lost? Nothing is on its way to the block: then it
    /// is not what the block is.
    fn is_older(&self, i: usize, has: &BlockInfo) -> bool {
        let kept = self.kept.get(&i).map(|(_, k, _)| k).filter(|k| !(k.state.is_zero() && has.state.is_zero()));
        has.ver < kept.map_or(Ver::ZERO, |k| k.ver).max(self.lost(i))
    }

    /// The version that a member knows it had of the block at this place, and has lost.
    fn lost(&self, i: usize) -> Ver {
        let block = BlockIx(self.range.start.0 + i as u64);
        let known = self.wrong.iter().filter(|w| w.block == block && w.state == BlockState::Bad);
        known.map(|w| w.ver).max().unwrap_or(Ver::ZERO)
    }

    fn msg(&self) -> Msg {
        if self.status {
            Msg::ChunkVersions { chunk: self.range.start.chunk(), since: Ver::ZERO }
        } else {
            Msg::Read { range: self.range }
        }
    }
}

impl Coordinator {
    pub(super) fn start_read(&mut self, request: u64, part: usize, range: BlockRange, cx: &mut Cx) {
        self.begin_read(Read::new(request, part, range, false), cx);
    }

    pub(super) fn start_status(&mut self, request: u64, part: usize, range: BlockRange, cx: &mut Cx) {
        self.begin_read(Read::new(request, part, range, true), cx);
    }

    pub(super) fn begin_read(&mut self, read: Read, cx: &mut Cx) {
        self.last_read = cx.now;
        let id = self.id();
        self.reads.insert(id, read);
        self.send_read(id, cx);
    }

    fn send_read(&mut self, id: u64, cx: &mut Cx) {
        let Some(r) = self.reads.get(&id) else { return };
        let msg = r.msg();
        match self.choose(&r.tried.clone()) {
            Some(rid) => self.request(rid, For::Read(id), msg, cx),
            None => {
                if let Some(r) = self.reads.remove(&id) {
                    self.read_over(r.request, r.part, Err(IoError::Io), cx);
                }
            }
        }
    }

    /// The member that reads: by policy, among those not tried and preferably up and unsuspected.
    pub(super) fn choose(&mut self, tried: &BTreeSet<Rid>) -> Option<Rid> {
        let usable =
            |c: &Self, r: &Rid| c.members.get(r).is_some_and(|m| m.up && !m.unproven) && !c.suspects.contains(r);
        let all: Vec<Rid> = self.record.in_sync.keys().copied().filter(|r| !tried.contains(r)).collect();
        let good: Vec<Rid> = all.iter().copied().filter(|r| usable(self, r)).collect();
        let pool = if good.is_empty() { &all } else { &good };
        match self.cfg.read_from {
            ReadFrom::Spread => {
                self.turn = self.turn.wrapping_add(1);
                pool.get(self.turn as usize % pool.len().max(1)).copied()
            }
            ReadFrom::Local | ReadFrom::Nearest => {
                let near = self.cfg.nearest.iter().find(|r| pool.contains(r)).copied();
                near.or_else(|| pool.first().copied())
            }
        }
    }

    /// A member did not answer, or was dropped: another one is asked. If all were tried, those that were merely slow are
    /// tried again; those that answered "bad" are not.
    pub(super) fn read_elsewhere(&mut self, id: u64, not: Rid, cx: &mut Cx) {
        let Some(r) = self.reads.get_mut(&id) else { return };
        if r.arrived.is_some() {
            return;
        }
        let mut tried = r.tried.clone();
        tried.insert(not);
        let msg = r.msg();
        let rid = self.choose(&tried).or_else(|| {
            let bad = self.reads.get(&id).map(|r| r.tried.clone()).unwrap_or_default();
            self.choose(&bad)
        });
        match rid {
            Some(rid) => self.request(rid, For::Read(id), msg, cx),
            None => self.send_read(id, cx),
        }
    }

    /// A member cannot serve the read and will not: it is not asked again, and if nobody is left the client gets EIO.
    pub(super) fn read_refused(&mut self, id: u64, rid: Rid, cx: &mut Cx) {
        if let Some(r) = self.reads.get_mut(&id) {
            r.tried.insert(rid);
            self.send_read(id, cx);
        }
    }

    pub(super) fn read_arrived(&mut self, id: u64, rid: Rid, infos: Vec<BlockInfo>, data: Bytes, cx: &mut Cx) {
        let Some(r) = self.reads.get_mut(&id) else { return };
        let n = r.range.len as usize;
        let first = r.range.start.in_chunk();
        let after = self.asked;
        let (bad, arrived) = if r.status {
            // A version list is of the whole chunk.
            let part = infos.get(first..first + n).map(<[BlockInfo]>::to_vec);
            let arrived = part.map(|infos| Arrived { from: rid, sources: [rid].into(), infos, data, after });
            (usize::from(arrived.is_none()), arrived)
        } else {
            r.put_together(rid, infos, data, after)
        };
        self.stats.bad_blocks += bad as u64;
        let Some(arrived) = arrived else {
            r.tried.insert(rid);
            return self.send_read(id, cx);
        };
        let (infos, data) = (arrived.infos.clone(), arrived.data.clone());
        let (wrong, range, request) = (std::mem::take(&mut r.wrong), r.range, r.request);
        r.arrived = Some(arrived);
        if !wrong.is_empty() {
            self.repair((request, range), wrong, &infos, &data, cx);
        }
        let arrived = self.reads.get(&id).and_then(|r| r.arrived.as_ref());
        if arrived.is_some_and(|a| !self.is_current(cx.now, a)) {
            self.stats.lease_waits += 1;
            match self.cfg.strict_reads {
                true => self.ask_to_confirm(cx),
                false => self.ask_leases(cx),
            }
        }
        self.deliver_reads(cx);
    }

    /// What one member had whole replaces what was bad on others. The range is locked, so that all of them mean the same
    /// version; the copy is compare-and-set, so that a later write wins over it.
    fn repair(
        &mut self,
        (request, range): (u64, BlockRange),
        wrong: Vec<Wrong>,
        infos: &[BlockInfo],
        data: &Bytes,
        cx: &mut Cx,
    ) {
        let mut items: BTreeMap<Rid, Vec<CopyItem>> = BTreeMap::new();
        for Wrong { rid, block, ver: seen, state } in wrong {
            let i = (block.0 - range.start.0) as usize;
            let Some(info) = infos.get(i).filter(|_| self.record.in_sync.contains_key(&rid)) else { continue };
            let content = match info.state {
                BlockState::Data => Content::Data(info.crc, data.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE)),
                _ => Content::Zero,
            };
            items.entry(rid).or_default().push(CopyItem {
                block,
                seen,
                src: info.ver,
                content,
                repair: mends(state, seen, info.ver),
            });
        }
        for (rid, items) in items {
            self.request(rid, For::Repair(request), Msg::Copy { items }, cx);
        }
    }

    /// Hands on what has arrived and is covered by leases at this moment, which is after the data arrived.
    pub(super) fn deliver_reads(&mut self, cx: &mut Cx) {
        let ready: Vec<u64> = self
            .reads
            .iter()
            .filter(|(_, r)| r.arrived.as_ref().is_some_and(|a| self.is_current(cx.now, a)))
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            if let Some(Read { request, part, arrived: Some(a), .. }) = self.reads.remove(&id) {
                self.read_done(request, part, a.infos, a.data, cx);
            }
        }
    }

    /// Members left the set: what only they were asked is asked of others; what they supplied is good only if they are
    /// still relied upon.
    pub(super) fn recheck_reads(&mut self, gone: &BTreeSet<Rid>, cx: &mut Cx) {
        let lost: Vec<u64> = self
            .reads
            .iter_mut()
            .filter_map(|(id, r)| {
                r.kept.retain(|_, (from, ..)| !gone.contains(from));
                let from_gone = r.arrived.as_ref().is_some_and(|a| !a.sources.is_disjoint(gone));
                if from_gone {
                    // (From the beginning: who lacked something has been given it back by now.)
                    (r.arrived, r.tried) = (None, BTreeSet::new());
                }
                from_gone.then_some(*id)
            })
            .collect();
        for id in lost {
            self.send_read(id, cx);
        }
        self.deliver_reads(cx);
    }
}

/// Is a block's content at `src` what such a block, at `seen`, has lost? (While nothing is on its way to it.)
pub(super) fn mends(state: BlockState, seen: Ver, src: Ver) -> bool {
    match state {
        BlockState::Bad => src == seen,
        BlockState::Lost => src <= seen,
        BlockState::Absent | BlockState::Data | BlockState::Zero => false,
    }
}

/// Which of `n` blocks an answer does not have whole: missing, bad, or other bytes than their checksums say.
pub(super) fn lacks(n: usize, infos: &[BlockInfo], data: &Bytes) -> Vec<usize> {
    if infos.len() != n || data.len() != n * BLOCK_SIZE {
        return (0..n.max(1)).collect();
    }
    let good = |i: &BlockInfo, b: &[u8]| match i.state {
        BlockState::Data => crc::payload(b) == i.crc,
        BlockState::Absent | BlockState::Zero => crc::payload(b) == crc::zero_block(),
        BlockState::Bad | BlockState::Lost => false,
    };
    let blocks = infos.iter().zip(data.chunks_exact(BLOCK_SIZE)).enumerate();
    blocks.filter(|(_, (i, b))| !good(i, b)).map(|(at, _)| at).collect()
}
