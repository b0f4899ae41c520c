//! A store with many operations in flight at once, beside a model of what C3 promises: every block
//! ends with the newest version that was submitted for it, whatever came first, whatever completed
//! first, and after a crash too.
#![allow(dead_code)]

use crate::common::{RID, config, params, read_chunks, rec, tagged};
use bytes::Bytes;
use hf_policy::{BLOCK_SIZE, BlockIx, BlockRange, Term, Ver, crc};
use hf_store::engine::{BlockInfo, CopyItem};
use hf_store::format::page::BlockState;
use hf_store::sim::{Rng, SimDisk};
use hf_store::{Answer, Content, FormatParams, Input, Op, OpId, Output, Store, recovery};
use std::collections::BTreeMap;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Write,
    /// A zero (or trim) that chunks without data need not note.
    Zero,
    /// A zero that every chunk notes.
    ZeroKept,
    /// A copy that is applied only where it is newer.
    Copy,
    /// A copy that goes back from the version that is there to an older one of its term or before
    /// (protocol §7 step 4).
    CopyBack,
    Read,
    Versions,
    Checkpoint,
}

/// An operation: its kind, its blocks and its version. A write of whole units is a direct one.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    pub kind: Kind,
    pub start: u64,
    pub len: u32,
    pub ver: Ver,
}

/// Chunks that operations meet in.
const CHUNKS: u64 = 3;

/// A block of the model: its version, and whose bytes it holds (`None`: zero).
type BlockContent = (Ver, Option<Bytes>);

/// The store, its disk, and the model.
pub struct Bench {
    pub disk: SimDisk,
    pub store: Store,
    pub blocks: BTreeMap<u64, BlockContent>,
    out: Vec<Output>,
    next: OpId,
    answers: BTreeMap<OpId, Answer>,
    reads: BTreeMap<OpId, BlockRange>,
    inputs: u64,
}

/// A version's bytes of a block: each version names itself.
fn content(ver: Ver, block: u64) -> Bytes {
    tagged(u64::from(ver.term.0) << 40 | ver.seq.0, block)
}

impl Bench {
    /// A store whose first chunks hold a first version in every third block.
    pub fn new() -> Bench {
        let mut disk = SimDisk::new(24 << 20);
        recovery::format(&mut disk, FormatParams { journal: Some(4 << 20), ..params() }).unwrap();
        let store = recovery::open(&mut disk, config()).unwrap();
        let (blocks, answers, reads) = Default::default();
        let mut b = Bench { disk, store, blocks, out: Vec::new(), next: 1, answers, reads, inputs: 0 };
        b.store.start(&mut b.out);
        b.drain();
        b.step(Op::CreateReplica(rec()));
        for block in (0..CHUNKS * 256).step_by(3) {
            let ver = Ver::new(1, 1 + block);
            b.submit(Act { kind: Kind::Write, start: block, len: 1, ver });
        }
        b.finish(|_| 0);
        b
    }

    fn step(&mut self, op: Op) -> OpId {
        let id = self.next;
        self.next += 1;
        self.store.step(Input::Op { id, op }, &mut self.out);
        self.verify();
        self.drain();
        id
    }

    /// Verifies the store's own state after every eighth input: there are very many of them.
    fn verify(&mut self) {
        self.inputs += 1;
        if self.inputs.is_multiple_of(8) {
            self.store.check();
        }
    }

    fn drain(&mut self) {
        for o in std::mem::take(&mut self.out) {
            match o {
                Output::Disk { tag, op } => self.disk.submit(tag, op),
                Output::Failed(why) => panic!("the store failed: {why}"),
                Output::Done { id, result } => {
                    let answer = result.unwrap_or_else(|e| panic!("operation {id}: {e}"));
                    if let (Some(range), Answer::Read { blocks, data }) = (self.reads.remove(&id), &answer) {
                        check_read(range, blocks, data);
                    }
                    assert!(self.answers.insert(id, answer).is_none(), "operation {id} was answered twice");
                }
            }
        }
    }

    /// Completes what is in flight, each time the one that `choose` names of so many; then
    /// everything must be answered.
    pub fn finish(&mut self, mut choose: impl FnMut(usize) -> usize) {
        let mut steps = 0;
        while self.disk.pending() > 0 {
            steps += 1;
            assert!(steps < 20_000, "no end: {:?}", self.store.stats());
            let i = choose(self.disk.pending());
            self.complete(i);
        }
        assert_eq!(self.answers.len() as u64 + 1, self.next, "operations are not answered");
    }

    /// Completes one operation of the disk.
    pub fn complete(&mut self, i: usize) {
        if let Some((tag, result)) = self.disk.complete(i) {
            self.store.step(Input::DiskDone { tag, result }, &mut self.out);
            self.verify();
            self.drain();
        }
    }

    /// Submits an operation, and lets the model know what it promises.
    pub fn submit(&mut self, act: Act) {
        let range = BlockRange::new(act.start, act.len);
        let ver = act.ver;
        let op = match act.kind {
            Kind::Write => {
                let data = Bytes::from(range.iter().map(|b| content(ver, b.0).to_vec()).collect::<Vec<_>>().concat());
                Op::Write { rid: RID, ver, start: range.start, crcs: crc::payloads(&data), data }
            }
            Kind::Zero => Op::Zero { rid: RID, ver, range, keep: false },
            Kind::ZeroKept => Op::Zero { rid: RID, ver, range, keep: true },
            Kind::Copy | Kind::CopyBack => self.copy(act),
            Kind::Read => Op::Read { rid: RID, range },
            Kind::Versions => Op::Versions { rid: RID, chunk: range.start.chunk() },
            Kind::Checkpoint => Op::Checkpoint,
        };
        if act.kind == Kind::Read {
            self.reads.insert(self.next, range);
        }
        self.model(act);
        self.step(op);
    }

    /// A copy's term is that of its version; one that goes back is of a term later, and has seen
    /// what the model holds.
    fn copy(&self, act: Act) -> Op {
        let range = BlockRange::new(act.start, act.len);
        let item = |block: BlockIx| {
            let data = content(act.ver, block.0);
            let seen = self.now(block.0).0;
            CopyItem { block, seen, src: act.ver, content: Content::Data(crc::payload(&data), data), repair: false }
        };
        let term = if act.kind == Kind::CopyBack { Term(2) } else { Term(1) };
        Op::Copy { rid: RID, term, items: range.iter().map(item).collect() }
    }

    fn now(&self, block: u64) -> BlockContent {
        self.blocks.get(&block).cloned().unwrap_or((Ver::ZERO, None))
    }

    fn model(&mut self, act: Act) {
        for block in act.start..act.start + u64::from(act.len) {
            let now = self.now(block).0;
            let applies = match act.kind {
                Kind::Read | Kind::Versions | Kind::Checkpoint => false,
                Kind::CopyBack => now.term < Term(2) || act.ver > now,
                _ => act.ver > now,
            };
            if applies {
                let zero = matches!(act.kind, Kind::Zero | Kind::ZeroKept);
                self.blocks.insert(block, (act.ver, (!zero).then(|| content(act.ver, block))));
            }
        }
    }

    /// Every block holds what the model says: now, after a power loss, and in place.
    pub fn check(&mut self, context: &str) {
        compare(&mut self.disk, &mut self.store, &self.blocks, &format!("{context}: at the end"));
        self.check_power_loss(context);
        self.step(Op::Checkpoint);
        self.finish(|_| 0);
        compare(&mut self.disk, &mut self.store, &self.blocks, &format!("{context}: in place"));
        self.check_power_loss(&format!("{context}, in place"));
    }

    /// The power would go now: everything would be there.
    fn check_power_loss(&self, context: &str) {
        let mut disk = self.disk.clone();
        disk.crash_keeping(|_| false);
        let mut store = recovery::open(&mut disk, config()).unwrap();
        compare(&mut disk, &mut store, &self.blocks, &format!("{context}: after a power loss"));
    }
}

fn compare(disk: &mut SimDisk, store: &mut Store, model: &BTreeMap<u64, BlockContent>, context: &str) {
    for (block, (info, data)) in read_chunks(disk, store, RID, CHUNKS) {
        let (ver, want) = model.get(&block).cloned().unwrap_or((Ver::ZERO, None));
        let right = match want {
            Some(bytes) => info.state == BlockState::Data && data == bytes,
            None => !info.state.is_bad() && info.state != BlockState::Data && data.iter().all(|x| *x == 0),
        };
        assert!(right && info.ver == ver, "{context}: block {block} holds {info:?}, it should have {ver:?}");
    }
}

/// Whatever version a read found, its bytes are that version's.
fn check_read(range: BlockRange, blocks: &[BlockInfo], data: &Bytes) {
    for (i, (block, info)) in range.iter().zip(blocks).enumerate() {
        let bytes = &data[i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE];
        match info.state {
            BlockState::Data => assert_eq!(bytes, content(info.ver, block.0), "block {block:?} at {:?}", info.ver),
            BlockState::Bad | BlockState::Lost => panic!("block {block:?} is healthy and was called {info:?}"),
            BlockState::Absent | BlockState::Zero => assert!(bytes.iter().all(|x| *x == 0), "block {block:?}"),
        }
    }
}

const ALL_KINDS: [Kind; 4] = [Kind::Write, Kind::Zero, Kind::ZeroKept, Kind::Copy];

/// Places in the first two chunks: within a unit, a unit, several units, over the chunks' border, a
/// chunk, both chunks.
const PLACES: [(u64, u32); 8] = [(3, 1), (0, 16), (14, 20), (256, 1), (256, 16), (250, 12), (0, 256), (0, 512)];

fn fits(kind: Kind, (start, len): (u64, u32)) -> bool {
    let one_chunk = start / 256 == (start + u64::from(len) - 1) / 256;
    one_chunk || matches!(kind, Kind::Zero | Kind::ZeroKept)
}

/// Every pair of operations that meet, in both orders of their versions, with what is under them in
/// place or on its way, and with the disk's answers in both orders.
pub fn every_pair_in_flight() {
    for i in 0..8 {
        pairs(i & 1 == 0, i & 2 == 0, i & 4 == 0);
    }
}

fn pairs(settled: bool, newer_first: bool, last_first: bool) {
    let acts = || ALL_KINDS.iter().flat_map(|k| PLACES.iter().filter(|p| fits(*k, **p)).map(|p| (*k, *p)));
    let meets = |(a, n): (u64, u32), (b, m): (u64, u32)| a < b + u64::from(m) && b < a + u64::from(n);
    let mut b = Bench::new();
    let mut seq = 1000;
    for ((kind, p), (kind2, q)) in acts().flat_map(|a| acts().map(move |b| (a, b))).filter(|(a, b)| meets(a.1, b.1)) {
        seq += 10;
        if settled {
            b.step(Op::Checkpoint);
            b.finish(|_| 0);
        }
        let (v, w) = if newer_first { (seq + 1, seq) } else { (seq, seq + 1) };
        let first = Act { kind, start: p.0, len: p.1, ver: Ver::new(1, v) };
        let second = Act { kind: kind2, start: q.0, len: q.1, ver: Ver::new(1, w) };
        b.submit(first);
        b.submit(second);
        b.finish(|n| if last_first { n - 1 } else { 0 });
        let context = format!("{first:?}, then {second:?}, settled {settled}, last first {last_first}");
        compare(&mut b.disk, &mut b.store, &b.blocks, &context);
        if seq % 400 == 0 {
            b.check_power_loss(&context);
        }
    }
    b.check("all pairs");
}

fn random_act(rng: &mut Rng, vers: &mut Vec<u64>, back: bool) -> Act {
    let kind = match rng.below(12) {
        0..=4 => Kind::Write,
        5 | 6 => Kind::Zero,
        7 if !back => Kind::ZeroKept,
        7 | 8 if back => Kind::CopyBack,
        7 | 8 => Kind::Copy,
        9 => Kind::Read,
        10 => Kind::Versions,
        _ => Kind::Checkpoint,
    };
    let whole_units = kind == Kind::Write && rng.one_in(2);
    let (start, len) = match kind {
        Kind::Zero | Kind::ZeroKept => (rng.below(500), 1 + rng.below(260)),
        _ if whole_units => (rng.below(2) * 256 + rng.below(3) * 16, (1 + rng.below(3)) * 16),
        _ => (rng.below(2) * 256 + rng.below(40), 1 + rng.below(20)),
    };
    let at = rng.below(vers.len() as u64) as usize;
    let seq = vers.swap_remove(at);
    // What goes back is older than everything; the writes beside it are the new term's, or late
    // ones of the old term.
    let ver = match kind {
        Kind::CopyBack => Ver::new(0, seq),
        Kind::Zero if back => Ver::new(2, seq),
        Kind::Write if back && rng.one_in(2) => Ver::new(2, seq),
        _ => Ver::new(1, seq),
    };
    Act { kind, start, len: len as u32, ver }
}

/// So many random operations in flight at once, over two chunks, with versions in any order and
/// completions in any order.
pub fn all_in_flight(seed: u64, acts: usize, back: bool) {
    let mut rng = Rng::new(seed);
    let mut b = Bench::new();
    if rng.one_in(2) {
        b.submit(Act { kind: Kind::Checkpoint, start: 0, len: 0, ver: Ver::ZERO });
        b.finish(|_| 0);
    }
    let mut vers: Vec<u64> = (9000..9000 + acts as u64).collect();
    let mut told = Vec::new();
    for _ in 0..acts {
        let act = random_act(&mut rng, &mut vers, back);
        told.push(act);
        b.submit(act);
        while rng.one_in(3) && b.disk.pending() > 0 {
            let i = rng.below(b.disk.pending() as u64) as usize;
            b.complete(i);
        }
    }
    b.finish(|n| rng.below(n as u64) as usize);
    b.check(&format!("seed {seed}: {told:?}"));
}
