//! Rule R: one member reads, under a shared range lock, and its answer is delivered while every
//! other member's lease is valid.
//!
//! Blocks that do not verify are asked of another member, those that do are kept: an answer is put
//! together from as many members as it takes. A block that no member has whole is answered with
//! EIO: never with zeros, never with old data (I14), also where a member has older data because its
//! disk lost a write.

use crate::coordinator::pending::For;
use crate::coordinator::{Coordinator, Cx, IoError};
use crate::message::{BlockInfo, BlockState, Content, CopyItem, Msg};
use bytes::{Bytes, BytesMut};
use hf_policy::attributes::ReadFrom;
use hf_policy::{BLOCK_SIZE, BlockIx, BlockRange, Rid, Tick, Ver, broken, crc, invariant};
use std::collections::{BTreeMap, BTreeSet};

/// A block that a member does not have as it should.
pub(in crate::coordinator) struct Wrong {
    pub rid: Rid,
    pub block: BlockIx,
    /// The version that the block has there.
    pub ver: Ver,
    /// What the block is there: unreadable, or merely old.
    pub state: BlockState,
}

/// The answer to a read, put together from one or several members' answers.
pub(in crate::coordinator) struct Arrived {
    /// The member that answered last.
    pub from: Rid,
    /// Every member that supplied a part.
    sources: BTreeSet<Rid>,
    /// One entry per block.
    infos: Vec<BlockInfo>,
    /// The blocks' bytes; none if only their states were asked.
    data: Bytes,
    /// The newest question about leases when it arrived.
    pub after: u64,
}

/// A read of blocks of one chunk.
pub(in crate::coordinator) struct Read {
    /// The client's request, or the scrub's lock, that it is for.
    pub request: u64,
    /// Which part of the request it is.
    part: usize,
    range: BlockRange,
    /// Members that could not supply it.
    tried: BTreeSet<Rid>,
    /// Only what the blocks are is asked, not their bytes.
    status: bool,
    /// Blocks that members have wrong; they are replaced when the read has arrived.
    wrong: Vec<Wrong>,
    /// Blocks that were whole in answers that lack others, by place.
    kept: BTreeMap<usize, (Rid, BlockInfo, Bytes)>,
    /// The answer, which waits until it is known to be current.
    pub arrived: Option<Arrived>,
}

impl Read {
    fn new(request: u64, part: usize, range: BlockRange, status: bool) -> Read {
        let (tried, wrong, kept) = (BTreeSet::new(), Vec::new(), BTreeMap::new());
        Read { request, part, range, status, tried, wrong, kept, arrived: None }
    }

    /// A read whose only purpose is to replace what these members have wrong.
    pub fn to_repair(request: u64, part: usize, range: BlockRange, wrong: Vec<Wrong>) -> Read {
        invariant!(wrong.iter().all(|w| range.start <= w.block && w.block < range.end()), "repairs beyond {range:?}");
        let tried = wrong.iter().map(|w| w.rid).collect();
        Read { tried, wrong, ..Read::new(request, part, range, false) }
    }

    /// Puts a member's answer together with what others supplied before. Returns how many blocks
    /// are bad in this answer, and the whole if nothing is lacking any more.
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
        // Another member has, or has lost, something newer: this one has what was before.
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
                let Some((rid, info, bytes)) = self.kept.get(i) else {
                    broken!("block {i} of {:?} is kept and is not", self.range);
                    return (bad, None);
                };
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

    /// Is this of a version before the one that another member has, or knows that it has lost?
    /// Since no write is in flight to the block, it is then not what the block is.
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

/// The reads that are going on.
pub(in crate::coordinator) struct Reads {
    by_id: BTreeMap<u64, Read>,
    /// When the last one began: leases are renewed often while there are reads.
    pub last_read: Tick,
    /// Counts reads, so that they can be spread over the members.
    turn: u64,
}

impl Reads {
    /// No reads yet; leases are renewed as if there had been one at `now`.
    pub fn new(now: Tick) -> Reads {
        Reads { by_id: BTreeMap::new(), last_read: now, turn: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub fn values(&self) -> impl Iterator<Item = &Read> {
        self.by_id.values()
    }

    /// Forgets the reads of a request, or of the scrub under this lock, and returns their ids.
    pub fn forget_of(&mut self, request: u64) -> BTreeSet<u64> {
        let parts = self.by_id.iter().filter(|(_, r)| r.request == request).map(|(id, _)| *id).collect();
        self.by_id.retain(|_, r| r.request != request);
        parts
    }

    /// The attachment is over: no read is waited for any more.
    pub fn end(&mut self) {
        self.by_id.clear();
    }

    /// What must hold of it between steps. `asked` says for which reads a member's answer is
    /// pending, `question` is the newest question about leases.
    pub fn check(&self, asked: &BTreeSet<u64>, question: u64) -> Result<(), String> {
        for (id, r) in &self.by_id {
            if r.range.is_empty() || r.range.by_chunk().count() != 1 {
                return Err(format!("read {id} is of {:?}", r.range));
            }
            if r.arrived.is_some() == asked.contains(id) {
                return Err(format!("read {id} has arrived: {}, is asked: {0}", r.arrived.is_some()));
            }
            if r.arrived.as_ref().is_some_and(|a| a.after > question || a.infos.len() != r.range.len as usize) {
                return Err(format!("read {id} has arrived from the future, or in part"));
            }
            if r.kept.keys().any(|i| *i >= r.range.len as usize) {
                return Err(format!("read {id} keeps blocks that it is not of"));
            }
        }
        Ok(())
    }
}

impl Coordinator {
    /// Reads blocks of one chunk for a part of a client's request.
    pub(super) fn start_read(&mut self, request: u64, part: usize, range: BlockRange, cx: &mut Cx) {
        self.begin_read(Read::new(request, part, range, false), cx);
    }

    /// Asks what blocks of one chunk are, for a part of a client's request.
    pub(super) fn start_status(&mut self, request: u64, part: usize, range: BlockRange, cx: &mut Cx) {
        self.begin_read(Read::new(request, part, range, true), cx);
    }

    pub(in crate::coordinator) fn begin_read(&mut self, read: Read, cx: &mut Cx) {
        invariant!(read.range.by_chunk().count() == 1, "a read of {:?}", read.range);
        self.reads.last_read = cx.now;
        let id = self.id();
        let before = self.reads.by_id.insert(id, read);
        invariant!(before.is_none(), "two reads have the id {id}");
        self.send_read(id, cx);
    }

    fn send_read(&mut self, id: u64, cx: &mut Cx) {
        let Some(r) = self.reads.by_id.get(&id) else {
            return broken!("read {id} is to be sent and has ended");
        };
        invariant!(r.arrived.is_none(), "read {id} is to be sent and has arrived");
        let msg = r.msg();
        match self.choose(&r.tried.clone()) {
            Some(rid) => self.request(rid, For::Read(id), msg, cx),
            // No member is left that might have it.
            None => {
                if let Some(r) = self.reads.by_id.remove(&id) {
                    self.read_over(r.request, r.part, Err(IoError::Io), cx);
                }
            }
        }
    }

    /// The member that reads: by policy, among those not tried and preferably up and unsuspected.
    pub(in crate::coordinator) fn choose(&mut self, tried: &BTreeSet<Rid>) -> Option<Rid> {
        let all: Vec<Rid> = self.record.in_sync.keys().copied().filter(|r| !tried.contains(r)).collect();
        let good: Vec<Rid> = all.iter().copied().filter(|r| self.members.is_present(r)).collect();
        let pool = if good.is_empty() { &all } else { &good };
        match self.cfg.read_from {
            ReadFrom::Spread => {
                self.reads.turn = self.reads.turn.wrapping_add(1);
                pool.get(self.reads.turn as usize % pool.len().max(1)).copied()
            }
            ReadFrom::Local | ReadFrom::Nearest => {
                let near = self.cfg.nearest.iter().find(|r| pool.contains(r)).copied();
                near.or_else(|| pool.first().copied())
            }
        }
    }

    /// A member did not answer, or was dropped: another one is asked. If all were tried, those that
    /// were merely slow are tried again; those that answered "bad" are not.
    pub(in crate::coordinator) fn read_elsewhere(&mut self, id: u64, not: Rid, cx: &mut Cx) {
        // (The scrub that wanted it has ended.)
        let Some(r) = self.reads.by_id.get(&id) else { return };
        if r.arrived.is_some() {
            return broken!("read {id} has arrived, and its member's answer is late");
        }
        let mut tried = r.tried.clone();
        let bad = tried.clone();
        tried.insert(not);
        let msg = r.msg();
        match self.choose(&tried).or_else(|| self.choose(&bad)) {
            Some(rid) => self.request(rid, For::Read(id), msg, cx),
            None => self.send_read(id, cx),
        }
    }

    /// A member cannot serve the read and will not: it is not asked again, and if nobody is left
    /// the client gets EIO.
    pub(in crate::coordinator) fn read_refused(&mut self, id: u64, rid: Rid, cx: &mut Cx) {
        // (The scrub that wanted it has ended.)
        if let Some(r) = self.reads.by_id.get_mut(&id) {
            invariant!(r.arrived.is_none(), "read {id} has arrived, and replica {rid} refuses it");
            r.tried.insert(rid);
            self.send_read(id, cx);
        }
    }

    /// A member has answered a read.
    pub(in crate::coordinator) fn read_arrived(
        &mut self,
        id: u64,
        rid: Rid,
        infos: Vec<BlockInfo>,
        data: Bytes,
        cx: &mut Cx,
    ) {
        // (The scrub that wanted it has ended.)
        let Some(r) = self.reads.by_id.get_mut(&id) else { return };
        invariant!(r.arrived.is_none(), "read {id} has arrived twice");
        let n = r.range.len as usize;
        let first = r.range.start.in_chunk();
        let after = self.leases.asked;
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
        invariant!(arrived.infos.len() == n, "read {id} of {n} blocks is answered with {}", arrived.infos.len());
        invariant!(arrived.sources.contains(&rid), "replica {rid} supplied nothing to the answer that it completed");
        let (infos, data) = (arrived.infos.clone(), arrived.data.clone());
        let (wrong, range, request) = (std::mem::take(&mut r.wrong), r.range, r.request);
        r.arrived = Some(arrived);
        if !wrong.is_empty() {
            self.repair((request, range), wrong, &infos, &data, cx);
        }
        let arrived = self.reads.by_id.get(&id).and_then(|r| r.arrived.as_ref());
        if arrived.is_some_and(|a| !self.is_current(cx.now, a)) {
            self.stats.lease_waits += 1;
            match self.cfg.strict_reads {
                true => self.ask_to_confirm(cx),
                false => self.ask_leases(cx),
            }
        }
        self.deliver_reads(cx);
    }

    /// What one member had whole replaces what was bad on others. The range is locked, so that all
    /// of them mean the same version; the copy is compare-and-set, so that a later write wins over
    /// it.
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
            invariant!(range.start <= block && block < range.end(), "block {block:?} is mended by a read of {range:?}");
            let i = (block.0.saturating_sub(range.start.0)) as usize;
            // (A member that has left the set is not mended.)
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

    /// Hands on what has arrived and is known to be current at this moment, which is after the data
    /// arrived.
    pub(in crate::coordinator) fn deliver_reads(&mut self, cx: &mut Cx) {
        let current = |r: &Read| r.arrived.as_ref().is_some_and(|a| self.is_current(cx.now, a));
        let ready: Vec<u64> = self.reads.by_id.iter().filter(|(_, r)| current(r)).map(|(id, _)| *id).collect();
        for id in ready {
            match self.reads.by_id.remove(&id) {
                Some(Read { request, part, arrived: Some(a), .. }) => {
                    self.read_done(request, part, a.infos, a.data, cx)
                }
                _ => broken!("read {id} ended while others were delivered"),
            }
        }
    }

    /// Members left the set: what they supplied is good only if they are still relied upon, so
    /// those reads begin anew. (What only they were asked was asked of others already.)
    pub(in crate::coordinator) fn recheck_reads(&mut self, gone: &BTreeSet<Rid>, cx: &mut Cx) {
        let mut lost = Vec::new();
        for (id, r) in &mut self.reads.by_id {
            r.kept.retain(|_, (from, ..)| !gone.contains(from));
            if r.arrived.as_ref().is_some_and(|a| !a.sources.is_disjoint(gone)) {
                // (From the beginning: members that lacked something have been given it back by now.)
                (r.arrived, r.tried) = (None, BTreeSet::new());
                lost.push(*id);
            }
        }
        for id in lost {
            self.send_read(id, cx);
        }
        self.deliver_reads(cx);
    }
}

/// Is a block's content at `src` what such a block, at `seen`, has lost? (While no write is in
/// flight to it.)
pub(in crate::coordinator) fn mends(state: BlockState, seen: Ver, src: Ver) -> bool {
    match state {
        BlockState::Bad => src == seen,
        BlockState::Lost => src <= seen,
        BlockState::Absent | BlockState::Data | BlockState::Zero => false,
    }
}

/// Which of `n` blocks an answer does not have whole: missing, bad, or other bytes than their
/// checksums say.
pub(in crate::coordinator) fn lacks(n: usize, infos: &[BlockInfo], data: &Bytes) -> Vec<usize> {
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
