//! What differs, chunk by chunk: versions of both, a read of what the target lacks, one conditional copy.

use super::super::link::For;
use super::super::{Coordinator, Output};
use super::{Job, Listed, PARALLEL};
use crate::message::{BlockInfo, BlockState, Content, CopyItem, Msg};
use bytes::Bytes;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{BLOCK_SIZE, BlockIx, BlockRange, ChunkIx, Rid, Term, Tick, Ver};
use std::collections::BTreeSet;

/// What comparing a chunk's versions counts for: pages are read for the lists of both.
const COMPARE_BYTES: u64 = 16 << 10;

impl Coordinator {
    pub(super) fn drive_copying(&mut self, now: Tick, out: &mut Vec<Output>) {
        let Some(source) = self.choose(&BTreeSet::new()) else { return };
        while let Some(s) = self.sync.as_mut().filter(|s| s.active.len() < PARALLEL && !s.todo.is_empty()) {
            if !self.pace.ready(now, !s.active.is_empty()) {
                break;
            }
            self.pace.spend(COMPARE_BYTES);
            let Some(chunk) = s.todo.pop_first() else { break };
            let (rid, since) = (s.rid, s.since);
            let asked = s.theirs.contains(&chunk);
            let target = (!asked).then(Listed::new);
            s.active.insert(chunk, Job { from: source, target, ..Job::default() });
            for r in asked.then_some(rid).into_iter().chain([source]) {
                self.request(now, r, For::SyncVersions(chunk), Msg::ChunkVersions { chunk, since }, out);
            }
        }
        if self.sync.as_ref().is_some_and(|s| s.todo.is_empty() && s.active.is_empty()) {
            self.begin_joining(now, out);
        }
    }

    pub(in crate::coordinator) fn sync_versions(
        &mut self,
        now: Tick,
        rid: Rid,
        chunk: ChunkIx,
        infos: Vec<(u8, BlockInfo)>,
        out: &mut Vec<Output>,
    ) {
        let term = self.record.term;
        let Some(s) = self.sync.as_mut() else { return };
        let (target, since) = (s.rid, s.since);
        let Some(job) = s.active.get_mut(&chunk) else { return };
        let list = Some(infos.into_iter().collect());
        if rid == target {
            job.target = list
        } else {
            job.source = list
        }
        let (Some(z), Some(x)) = (&job.target, &job.source) else { return };
        let first = chunk.first_block().0;
        let places: BTreeSet<u8> = z.keys().chain(x.keys()).copied().collect();
        let wanted: Vec<u64> = places
            .into_iter()
            .filter(|at| differs(z.get(at), x.get(at), since, term))
            .map(|at| first + u64::from(at))
            .collect();
        let runs: Vec<BlockRange> = wanted
            .chunk_by(|a, b| a + 1 == *b)
            .map(|run| BlockRange { start: BlockIx(run[0]), len: run.len() as u32 })
            .collect();
        job.reading = runs.iter().map(|r| (r.start, (r.len, BTreeSet::new()))).collect();
        let from = job.from;
        if runs.is_empty() {
            return self.chunk_synced(now, chunk, out);
        }
        for range in runs {
            self.request(now, from, For::SyncRead(chunk, range.start), Msg::Read { range }, out);
        }
    }

    /// A run arrived from a member. What it does not have whole another one is asked for; what nobody has is marked lost on
    /// the target too, or it would serve an old version there.
    #[allow(clippy::too_many_arguments)]
    pub(in crate::coordinator) fn sync_read(
        &mut self,
        now: Tick,
        rid: Rid,
        chunk: ChunkIx,
        start: BlockIx,
        infos: Vec<BlockInfo>,
        data: Bytes,
        out: &mut Vec<Output>,
    ) {
        let sources = self.record.in_sync.keys().copied().collect::<Vec<_>>();
        let Some(s) = self.sync.as_mut() else { return };
        let since = s.since;
        let Some(job) = s.active.get_mut(&chunk) else { return };
        let Some((len, tried)) = job.reading.get_mut(&start) else { return };
        let bad = crate::coordinator::read::verify(*len as usize, &infos, &data);
        if bad > 0 {
            tried.insert(rid);
            let next = sources.iter().copied().find(|r| !tried.contains(r));
            if let Some(next) = next {
                let range = BlockRange { start, len: *len };
                return self.request(now, next, For::SyncRead(chunk, start), Msg::Read { range }, out);
            }
        }
        if infos.len() != *len as usize || data.len() != infos.len() * BLOCK_SIZE {
            return self.fail_sync("the source's answer is malformed");
        }
        for (i, info) in infos.iter().enumerate() {
            let block = BlockIx(start.0 + i as u64);
            let has = job.target.as_ref().and_then(|z| z.get(&(block.in_chunk() as u8)));
            let bytes = data.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE);
            let content = match info.state {
                BlockState::Data if hf_policy::crc::payload(&bytes) == info.crc => Content::Data(info.crc, bytes),
                BlockState::Absent | BlockState::Zero => Content::Zero,
                BlockState::Data | BlockState::Bad | BlockState::Lost => Content::Bad,
            };
            let repair = has.is_some_and(|h| h.state.is_bad() && info.ver == h.ver);
            let seen = has.map_or(since, |h| h.ver);
            job.items.push(CopyItem { block, seen, src: info.ver, content, repair });
        }
        job.reading.remove(&start);
        if job.reading.is_empty() {
            self.send_copy(now, chunk, out);
        }
    }

    fn send_copy(&mut self, now: Tick, chunk: ChunkIx, out: &mut Vec<Output>) {
        let Some(s) = self.sync.as_mut() else { return };
        let rid = s.rid;
        let Some(job) = s.active.get_mut(&chunk) else { return };
        let mut items = std::mem::take(&mut job.items);
        items.sort_by_key(|i| i.block);
        s.copied += items.len() as u64;
        self.pace.spend(items.len() as u64 * hf_policy::BLOCK_BYTES);
        self.request(now, rid, For::SyncCopy(chunk), Msg::Copy { items }, out);
    }

    /// The chunk is equal, or live writes have overtaken what was copied.
    pub(in crate::coordinator) fn chunk_synced(&mut self, now: Tick, chunk: ChunkIx, out: &mut Vec<Output>) {
        let Some(s) = self.sync.as_mut() else { return };
        if s.active.remove(&chunk).is_some() {
            s.done += 1;
            self.drive_copying(now, out);
        }
    }

    /// A member left the set: chunks it was the source of begin again with another one.
    pub(in crate::coordinator) fn sync_without(&mut self, gone: &BTreeSet<Rid>) {
        let Some(s) = self.sync.as_mut() else { return };
        let lost = |j: &Job| gone.contains(&j.from) || j.reading.values().any(|(_, tried)| !tried.is_disjoint(gone));
        let asked = self.pending.values().filter(|p| gone.contains(&p.rid)).filter_map(|p| match p.what {
            For::SyncVersions(c) | For::SyncRead(c, _) => Some(c),
            _ => None,
        });
        let of_gone = s.active.iter().filter(|(_, j)| lost(j)).map(|(c, _)| *c);
        let again: BTreeSet<ChunkIx> = of_gone.chain(asked).collect();
        for c in &again {
            s.active.remove(c);
            s.todo.insert(*c);
        }
        self.pending.retain(|_, p| {
            !matches!(p.what, For::SyncVersions(c) | For::SyncRead(c, _) | For::SyncCopy(c) if again.contains(&c))
        });
        if s.source_listing.is_some_and(|x| gone.contains(&x)) {
            s.source_listing = None;
        }
    }
}

/// Must the target's block be replaced? A live write that has won stays; what is bad on the
/// target is fetched if the source has anything. What is not listed is whole, and not newer than `since`, up to which both are alike.
fn differs(z: Option<&BlockInfo>, x: Option<&BlockInfo>, since: Ver, term: Term) -> bool {
    let alike = |other: Option<&BlockInfo>| BlockInfo {
        ver: other.map_or(since, |o| o.ver.min(since)),
        state: BlockState::Data,
        ..BlockInfo::default()
    };
    let (z, x) = (z.copied().unwrap_or_else(|| alike(x)), x.copied().unwrap_or_else(|| alike(z)));
    if z.state.is_bad() {
        // A live write that has won and then rotted stays as it is: the source, which may lag, must not undo it (seed 11891).
        let live = z.ver.term == term && z.ver > x.ver;
        return !live && (!x.state.is_bad() || z.ver != x.ver);
    }
    if mutant::is(Mutant::SyncCopiesNothing) || (mutant::is(Mutant::ForgetZeroes) && x.state.is_zero()) {
        return false;
    }
    // A newer zero is copied over an older one too: that it was zeroed must be known to whoever is synced from the target
    // later (seed 1757). An older one need not be.
    let same = z.ver == x.ver || (z.state.is_zero() && x.state.is_zero() && x.ver < z.ver);
    let won = z.ver.term == term && z.ver >= x.ver;
    !same && !won
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_block_is_fetched_unless_a_live_write_has_won_there() {
        let b = |term, seq, state| BlockInfo { ver: Ver::new(term, seq), state, ..BlockInfo::default() };
        let differs = |z: &BlockInfo, x: &BlockInfo, now| differs(Some(z), Some(x), Ver::new(3, 1), now);
        let now = Term(5);
        // Rotted: the very version, or an older term's write that only the target had.
        assert!(differs(&b(5, 3, BlockState::Bad), &b(5, 3, BlockState::Data), now));
        assert!(differs(&b(4, 9, BlockState::Bad), &b(4, 7, BlockState::Data), now));
        // A live write of this term won on the target, then rotted; the source, which lags, must not undo it (seed 11891).
        assert!(!differs(&b(5, 9, BlockState::Bad), &b(5, 3, BlockState::Data), now));
        // Nobody has it.
        assert!(!differs(&b(5, 3, BlockState::Bad), &b(5, 3, BlockState::Bad), now));
    }

    #[test]
    fn what_is_not_listed_is_alike_up_to_the_base() {
        let b = |term, seq, state| BlockInfo { ver: Ver::new(term, seq), state, ..BlockInfo::default() };
        let (since, now) = (Ver::new(4, 7), Term(5));
        let differs = |z: Option<BlockInfo>, x: Option<BlockInfo>| super::differs(z.as_ref(), x.as_ref(), since, now);
        let data = |term, seq| Some(b(term, seq, BlockState::Data));
        let bad = |term, seq| Some(b(term, seq, BlockState::Bad));
        // Written while the target was away; its own that nobody else has; a live write that won already.
        assert!(differs(None, data(4, 8)));
        assert!(differs(data(4, 8), None));
        assert!(!differs(data(5, 1), None));
        // What rotted below the base is fetched by the target, and not handed to it.
        assert!(differs(bad(4, 2), None));
        assert!(!differs(None, bad(4, 2)));
        assert!(differs(None, bad(4, 8)), "lost at the source: the target's is older");
    }
}
