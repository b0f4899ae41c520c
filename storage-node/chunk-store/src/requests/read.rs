//! Reads: resolve each block (overlay, then page), read the runs that are on disk, verify every
//! block against its seeded checksum, assemble. If a block does not verify, all blocks are resolved
//! once more (one may have been moved or rewritten meanwhile) and each is read by itself, so that
//! an unreadable sector takes no other block with it. A block that does not verify then is reported
//! as bad if it still resolves to the same place and version; otherwise its place was rewritten
//! during that read too, and the read is repeated. Old or wrong bytes are never returned (C5, I14).

use crate::disk::{DiskError, DiskOp};
use crate::engine::BlockInfo;
use crate::engine::{Answer, Op, OpId, Output, Purpose, Store, StoreError};
use crate::format::page::BlockState;
use crate::mutant::{self, Mutant};
use crate::table::Key;
use crate::table::pages::{Src, Waiter};
use bytes::{Bytes, BytesMut};
use hf_policy::{BLOCK_SIZE, BlockIx, BlockRange, broken, crc, invariant};
use std::collections::BTreeMap;

/// A run of blocks that are adjacent on disk.
struct Run {
    off: u64,
    first: usize,
    blocks: usize,
    data: Option<Bytes>,
}

pub(crate) struct Job {
    pub id: OpId,
    key: Key,
    range: BlockRange,
    parts: Vec<(BlockInfo, Src)>,
    runs: Vec<Run>,
    outstanding: usize,
    /// True if each block is read by itself.
    alone: bool,
    /// Blocks that did not verify although they were read by themselves. They are bad unless they
    /// have changed since they were resolved.
    suspects: Vec<usize>,
}

/// Reads that are not answered yet, by number; numbers rise.
#[derive(Default)]
pub(crate) struct Reads {
    pub jobs: BTreeMap<u64, Job>,
}

impl Reads {
    /// Verifies each read. `waits` says whether a read waits for its chunk's page.
    pub(crate) fn check(&self, waits: impl Fn(u64) -> bool) {
        for (number, job) in &self.jobs {
            let (runs, parts, len) = (job.runs.len(), job.parts.len(), job.range.len as usize);
            invariant!(job.outstanding <= runs, "read {number} waits for {} of {runs} runs", job.outstanding);
            invariant!(parts == 0 || parts == len, "read {number} of {len} blocks looked up {parts}");
            let goes_on = job.outstanding > 0 || waits(*number);
            invariant!(goes_on, "read {number} waits for nothing and has not ended");
            let blocks: usize = job.runs.iter().map(|r| r.blocks).sum();
            invariant!(blocks <= len, "read {number} of {len} blocks reads {blocks}");
            invariant!(job.suspects.iter().all(|i| *i < parts), "read {number} suspects a block it did not look up");
        }
    }

    /// Number of disk reads that this read waits for.
    pub(crate) fn outstanding(&self, number: u64) -> Option<usize> {
        self.jobs.get(&number).map(|j| j.outstanding)
    }
}

impl Store {
    pub(crate) fn read(&mut self, id: OpId, op: Op, out: &mut Vec<Output>) {
        let Op::Read { rid, range } = op else {
            broken!("operation {id} is read and is no read");
            return;
        };
        let r = match self.check_range(rid, range) {
            Ok(r) if range.start.chunk() == BlockIx(range.end().0 - 1).chunk() => r,
            Ok(_) => {
                let e = StoreError::Invalid(format!("a read of {range:?} crosses a chunk"));
                return out.push(Output::Done { id, result: Err(e) });
            }
            Err(e) => return out.push(Output::Done { id, result: Err(e) }),
        };
        let number = self.number();
        let key = (r, range.start.chunk().0);
        let (parts, runs, suspects) = Default::default();
        let job = Job { id, key, range, parts, runs, outstanding: 0, alone: false, suspects };
        self.reads.jobs.insert(number, job);
        self.read_go(number, out);
    }

    /// Resolves a read's blocks, or asks for the page they need, and submits its disk reads.
    pub(crate) fn read_go(&mut self, number: u64, out: &mut Vec<Output>) {
        let Some(job) = self.reads.jobs.get(&number) else {
            // (Something that waited for the same page may have failed the store just now.)
            invariant!(self.failed().is_some(), "read {number} goes on and is not known");
            return;
        };
        invariant!(job.outstanding == 0, "read {number} is looked up while it reads");
        let (key, range, alone) = (job.key, job.range, job.alone);
        let page = match self.page_of(key) {
            Ok(p) => p,
            Err(slot) => return self.load_page(slot, Waiter::Read(number), out),
        };
        let at = range.start.in_chunk() as u16;
        let resolved: Vec<_> = (at..at + range.len as u16)
            .map(|b| {
                let (meta, src) = self.effective(key, b, &page);
                (self.info(key, b, meta), src)
            })
            .collect();
        if self.verdict(number, &resolved, out) {
            return;
        }
        let mut runs: Vec<Run> = Vec::new();
        for (i, (_, src)) in resolved.iter().enumerate() {
            let Src::Disk(off) = src else { continue };
            match runs.last_mut() {
                Some(r) if !alone && r.first + r.blocks == i && r.off + (r.blocks * BLOCK_SIZE) as u64 == *off => {
                    r.blocks += 1;
                }
                _ => runs.push(Run { off: *off, first: i, blocks: 1, data: None }),
            }
        }
        let ops: Vec<_> =
            runs.iter().map(|r| DiskOp::Read { off: r.off, len: (r.blocks * BLOCK_SIZE) as u32 }).collect();
        let Some(job) = self.reads.jobs.get_mut(&number) else {
            broken!("read {number} has gone while it was looked up");
            return;
        };
        job.parts = resolved;
        job.outstanding = runs.len();
        job.runs = runs;
        for (run, op) in ops.into_iter().enumerate() {
            self.disk_op(Purpose::Data { read: number, run }, op, out);
        }
        self.read_finish_if_complete(number, out);
    }

    pub(crate) fn data_read(&mut self, read: u64, run: usize, result: Result<Bytes, DiskError>, out: &mut Vec<Output>) {
        let Some(job) = self.reads.jobs.get_mut(&read) else {
            broken!("run {run} of read {read} has ended, which is not known");
            return;
        };
        lower!(job.outstanding, 1, "runs of a read");
        invariant!(job.runs.get(run).is_some_and(|r| r.data.is_none()), "run {run} of read {read} was not on its way");
        if let (Ok(data), Some(r)) = (result, job.runs.get_mut(run)) {
            r.data = Some(data);
        }
        self.read_finish_if_complete(read, out);
    }

    fn read_finish_if_complete(&mut self, number: u64, out: &mut Vec<Output>) {
        // Other runs of the read are still on their way.
        let Some(job) = self.reads.jobs.get_mut(&number).filter(|j| j.outstanding == 0) else { return };
        let mut bad = Vec::new();
        for r in &job.runs {
            for b in 0..r.blocks {
                let i = r.first + b;
                let whole = r.data.as_ref().and_then(|d| d.get(b * BLOCK_SIZE..(b + 1) * BLOCK_SIZE));
                if whole.is_none_or(|bytes| crc::payload(bytes) != job.parts[i].0.crc) {
                    bad.push(i);
                }
            }
        }
        if !bad.is_empty() {
            if job.alone {
                job.suspects = bad;
            }
            job.alone = true;
            return self.read_go(number, out);
        }
        self.read_finished(number, out);
    }

    /// Ends a read whose suspects resolve as before: they are bad. If one has changed, its place
    /// was rewritten while it was read, and the read is repeated; each further round means that a
    /// checkpoint came in between. Returns true if the read has ended.
    fn verdict(&mut self, number: u64, now: &[(BlockInfo, Src)], out: &mut Vec<Output>) -> bool {
        let Some(job) = self.reads.jobs.get_mut(&number) else {
            broken!("read {number} is judged and not known");
            return true;
        };
        let suspects = std::mem::take(&mut job.suspects);
        let same = |i: &usize| matches!((job.parts.get(*i), now.get(*i)), (Some(a), Some(b)) if is_same(a, b));
        let all_same = suspects.iter().all(same) || mutant::is(Mutant::RewrittenIsBad);
        if suspects.is_empty() || !all_same {
            return false;
        }
        for i in suspects {
            self.stats.bad_blocks += 1;
            job.parts[i].0.state = BlockState::Bad;
            job.parts[i].1 = Src::Bad;
        }
        self.read_finished(number, out);
        true
    }

    fn read_finished(&mut self, number: u64, out: &mut Vec<Output>) {
        let Some(job) = self.reads.jobs.remove(&number) else {
            broken!("read {number} is answered and not known");
            return;
        };
        let data = assemble(&job);
        let len = job.range.len as usize;
        invariant!(data.len() == len * BLOCK_SIZE, "read {number} of {len} blocks answers {} bytes", data.len());
        invariant!(job.parts.len() == len, "read {number} of {len} blocks answers {}", job.parts.len());
        let blocks = job.parts.iter().map(|(i, _)| *i).collect();
        out.push(Output::Done { id: job.id, result: Ok(Answer::Read { blocks, data }) });
    }

    /// The number of the oldest read that runs; `u64::MAX` if none does.
    pub(crate) fn oldest_read(&self) -> u64 {
        self.reads.jobs.keys().next().copied().unwrap_or(u64::MAX)
    }
}

/// True if a block has the version that it had, in the same place on disk.
fn is_same(before: &(BlockInfo, Src), now: &(BlockInfo, Src)) -> bool {
    before.0 == now.0 && matches!((&before.1, &now.1), (Src::Disk(a), Src::Disk(b)) if a == b)
}

/// The bytes of a finished read, without a copy if they are one run or one block of memory.
fn assemble(job: &Job) -> Bytes {
    if let [run] = job.runs.as_slice()
        && run.blocks == job.parts.len()
        && job.parts.iter().all(|(_, s)| matches!(s, Src::Disk(_)))
        && let Some(data) = &run.data
    {
        return data.clone();
    }
    if let [(_, Src::Mem(b))] = job.parts.as_slice() {
        return b.clone();
    }
    let mut data = BytesMut::zeroed(job.parts.len() * BLOCK_SIZE);
    for (i, (_, src)) in job.parts.iter().enumerate() {
        if let Src::Mem(b) = src {
            data[i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE].copy_from_slice(b);
        }
    }
    for r in &job.runs {
        for b in 0..r.blocks {
            let i = r.first + b;
            if let (Some(d), Src::Disk(_)) = (&r.data, &job.parts[i].1) {
                data[i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE].copy_from_slice(&d[b * BLOCK_SIZE..(b + 1) * BLOCK_SIZE]);
            }
        }
    }
    data.freeze()
}
