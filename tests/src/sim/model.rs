//! A replica's store as the protocol needs it, in a hundred lines: operations become durable in
//! order, later; a crash loses a suffix of what was not durable yet. (`real.rs` is the other
//! choice: the real store on a simulated disk.)

use bytes::Bytes;
use hf_policy::crc::{self, PayloadCrc};
use hf_policy::*;
use hf_repl_core::message::{BlockInfo, BlockState, Content, Nack};
use hf_repl_core::replica::{LIST_PAGE, StoreAnswer, StoreOp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const UNIT: u64 = 16;

#[derive(Clone, Default)]
pub struct ModelStore {
    blocks: BTreeMap<u64, (Ver, Content)>,
    /// Bad blocks whose version is lost too: the version that they have is a bound.
    lost: BTreeSet<u64>,
    pub promised: (Term, SessionId),
    pub stable: Ver,
    /// The history it belongs to, and the epoch of the record that said so.
    pub lineage: (Lineage, u64),
    /// Operations that became durable.
    pub position: u64,
    queue: VecDeque<(u64, StoreOp)>,
    /// Room, in units of 16 blocks; 0: any amount.
    units: usize,
}

impl ModelStore {
    pub fn with_room(units: usize, lineage: Lineage) -> ModelStore {
        ModelStore { units, lineage: (lineage, 0), ..ModelStore::default() }
    }
    /// Its replica is deleted; the disk's journal goes on.
    pub fn clear(&mut self) {
        let (units, position, lineage) = (self.units, self.position + 1, self.lineage);
        *self = ModelStore { units, position, lineage, ..ModelStore::default() };
    }
    pub fn submit(&mut self, tag: u64, op: StoreOp) {
        self.queue.push_back((tag, op));
    }
    pub fn max_ver(&self) -> Ver {
        self.blocks.values().map(|b| b.0).max().unwrap_or(Ver::ZERO)
    }

    /// The content that a copy of the disk would have now.
    pub fn image(&self) -> ModelStore {
        ModelStore { queue: VecDeque::new(), ..self.clone() }
    }

    fn taken(&self) -> BTreeSet<u64> {
        self.blocks.iter().filter(|(_, b)| matches!(b.1, Content::Data(..))).map(|(b, _)| b / UNIT).collect()
    }

    /// Units that data in these blocks would add.
    fn wanted(&self, range: BlockRange) -> u64 {
        let taken = self.taken();
        let units: BTreeSet<u64> = range.iter().map(|b| b.0 / UNIT).filter(|u| !taken.contains(u)).collect();
        units.len() as u64
    }

    /// Bytes that can still be allocated.
    pub fn credit(&self) -> u64 {
        if self.units == 0 {
            1 << 40
        } else {
            self.units.saturating_sub(self.taken().len()) as u64 * UNIT * BLOCK_BYTES
        }
    }

    fn fits(&self, range: BlockRange) -> bool {
        self.wanted(range) * UNIT * BLOCK_BYTES <= self.credit()
    }

    /// The oldest operation takes effect, durably.
    pub fn complete(&mut self) -> Option<(u64, StoreAnswer)> {
        let (tag, op) = self.queue.pop_front()?;
        Some((tag, self.apply(op)))
    }

    /// Power loss: some prefix of what was queued had become durable, unanswered.
    pub fn crash(&mut self, survive: usize) {
        for _ in 0..survive {
            if let Some((_, op)) = self.queue.pop_front() {
                self.apply(op);
            }
        }
        self.queue.clear();
    }

    pub fn info(&self, b: u64) -> (BlockInfo, Bytes) {
        let zero = || Bytes::from_static(&[0; BLOCK_SIZE]);
        match self.blocks.get(&b) {
            None => (BlockInfo::default(), zero()),
            Some((ver, Content::Zero)) => {
                (BlockInfo { ver: *ver, crc: PayloadCrc(0), state: BlockState::Zero }, zero())
            }
            Some((ver, Content::Bad)) => {
                let state = if self.lost.contains(&b) { BlockState::Lost } else { BlockState::Bad };
                (BlockInfo { ver: *ver, crc: PayloadCrc(0), state }, zero())
            }
            Some((ver, Content::Data(crc, data))) => {
                (BlockInfo { ver: *ver, crc: *crc, state: BlockState::Data }, data.clone())
            }
        }
    }

    /// A block of data becomes unreadable; its version is known.
    pub fn rot(&mut self, b: u64) -> bool {
        let data = self.blocks.get_mut(&b).filter(|x| matches!(x.1, Content::Data(..)));
        data.map(|x| x.1 = Content::Bad).is_some()
    }

    /// The page of a chunk becomes unreadable: all its blocks are lost, whatever they were.
    pub fn rot_page(&mut self, chunk: ChunkIx) -> bool {
        let of = |b: BlockIx| self.blocks.get(&b.0).map(|x| x.0);
        let Some(newest) = chunk.blocks().iter().filter_map(of).max() else { return false };
        for b in chunk.blocks().iter() {
            self.blocks.insert(b.0, (newest, Content::Bad));
            self.lost.insert(b.0);
        }
        true
    }

    fn hold(&mut self, b: u64, ver: Ver, content: Content) {
        self.lost.remove(&b);
        self.blocks.insert(b, (ver, content));
    }

    fn put(&mut self, b: u64, ver: Ver, content: Content) {
        if self.blocks.get(&b).is_none_or(|old| old.0 < ver) {
            self.hold(b, ver, content);
        }
    }

    fn apply(&mut self, op: StoreOp) -> StoreAnswer {
        self.position += 1;
        match op {
            StoreOp::Promise { term, session, stable, .. } => {
                self.promised = (term, session);
                self.stable = stable;
                StoreAnswer::Done
            }
            StoreOp::Write { start, crcs, .. } if !self.fits(BlockRange { start, len: crcs.len() as u32 }) => {
                StoreAnswer::Error(Nack::NoSpace)
            }
            StoreOp::Write { ver, start, data, crcs } => {
                for (i, c) in crcs.iter().enumerate() {
                    let d = data.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE);
                    self.put(start.0 + i as u64, ver, Content::Data(*c, d));
                }
                StoreAnswer::Done
            }
            StoreOp::Zero { ver, range, keep } => {
                // Chunks that were never written stay so, as on the real store.
                let chunks: BTreeSet<u32> = self.blocks.keys().map(|b| BlockIx(*b).chunk().0).collect();
                let known = range.iter().filter(|b| keep || chunks.contains(&b.chunk().0));
                known.for_each(|b| self.put(b.0, ver, Content::Zero));
                StoreAnswer::Done
            }
            StoreOp::Read { range } => {
                let (infos, data): (Vec<_>, Vec<_>) = range.iter().map(|b| self.info(b.0)).unzip();
                StoreAnswer::Read(infos, Bytes::from(data.concat()))
            }
            StoreOp::Needs { range } => StoreAnswer::Needs(self.wanted(range) * UNIT * BLOCK_BYTES),
            StoreOp::Chunks { since, from } => {
                let mut chunks: BTreeMap<u32, Ver> = BTreeMap::new();
                for (b, (ver, _)) in self.blocks.iter().filter(|(_, x)| x.0 > since) {
                    let c = chunks.entry(BlockIx(*b).chunk().0).or_default();
                    *c = (*c).max(*ver);
                }
                let list: Vec<_> = chunks.range(from.0..).map(|(c, v)| (ChunkIx(*c), *v)).collect();
                assert!(list.len() <= LIST_PAGE);
                StoreAnswer::Chunks(list, false)
            }
            StoreOp::Versions { chunk } => {
                StoreAnswer::Versions(chunk.blocks().iter().map(|b| self.info(b.0).0).collect())
            }
            StoreOp::Copy { term, items } => {
                let mut applied = Vec::new();
                for i in items {
                    let has = self.info(i.block.0).0;
                    let undone = has.ver == i.seen && has.ver.term < term && i.src != has.ver;
                    let mends = match has.state {
                        BlockState::Lost => i.src <= has.ver,
                        state => state == BlockState::Bad && i.src == has.ver,
                    };
                    let yes = if i.repair { has.ver == i.seen && mends } else { i.src > has.ver || undone };
                    if yes {
                        if let Content::Data(c, d) = &i.content {
                            assert_eq!(crc::payload(d), *c);
                        }
                        self.hold(i.block.0, i.src, i.content);
                    }
                    applied.push(yes);
                }
                StoreAnswer::Copied(applied)
            }
        }
    }
}
