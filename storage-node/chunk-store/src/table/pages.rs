//! Chunk pages in memory: a bounded cache, reads shared by everybody who waits for a page, and what
//! a block effectively holds.

use crate::disk::{DiskError, DiskOp};
use crate::engine::BlockInfo;
use crate::engine::{Output, Purpose, Store};
use crate::format::page::{BlockMeta, BlockState, Page};
use crate::overlay::{OverlayBlock, Place};
use crate::table::Key;
use crate::{UNIT_BLOCKS, UNIT_BYTES};
use bytes::Bytes;
use hf_policy::crc::{Identity, PayloadCrc, SeededCrc};
use hf_policy::{BLOCK_BYTES, BLOCK_SIZE, BlockIx, ChunkIx, Ver, broken, invariant};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What waits for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    Read(u64),
    Slow(Key),
    Destage(Key),
    Delete(Key),
}

/// A cache of decoded pages; the least recently used one is evicted.
pub(crate) struct Cache {
    pages: BTreeMap<u32, (Arc<Page>, u64)>,
    order: BTreeMap<u64, u32>,
    next: u64,
    capacity: usize,
}

impl Cache {
    pub(crate) fn new(capacity: usize) -> Cache {
        Cache { pages: BTreeMap::new(), order: BTreeMap::new(), next: 0, capacity: capacity.max(16) }
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    fn get(&mut self, slot: u32) -> Option<Arc<Page>> {
        let (page, stamp) = self.pages.get_mut(&slot)?;
        let was = self.order.remove(stamp);
        invariant!(was == Some(slot), "the page of slot {slot} has lost its place in the order");
        self.next += 1;
        *stamp = self.next;
        self.order.insert(self.next, slot);
        Some(page.clone())
    }

    /// A page, if it is in the cache; does not count as a use.
    pub(crate) fn peek(&self, slot: u32) -> Option<&Page> {
        self.pages.get(&slot).map(|(page, _)| page.as_ref())
    }

    /// The slots whose pages are in the cache.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &u32> {
        self.pages.keys()
    }

    fn check(&self) {
        let (pages, order) = (self.pages.len(), self.order.len());
        invariant!(pages == order, "{pages} pages are in the cache, {order} in the order of their use");
        invariant!(pages <= self.capacity, "{pages} pages are in a cache of {}", self.capacity);
        for (slot, (_, stamp)) in &self.pages {
            invariant!(self.order.get(stamp) == Some(slot), "the page of slot {slot} has lost its place in the order");
        }
        let last = self.order.last_key_value().map_or(0, |(stamp, _)| *stamp);
        invariant!(last <= self.next, "a page was used at {last}, which has not come");
    }

    pub(crate) fn put(&mut self, slot: u32, page: Arc<Page>) {
        self.remove(slot);
        self.next += 1;
        self.order.insert(self.next, slot);
        self.pages.insert(slot, (page, self.next));
        while self.pages.len() > self.capacity {
            let Some((_, oldest)) = self.order.pop_first() else {
                broken!("{} pages are in the cache and none was used", self.pages.len());
                break;
            };
            let known = self.pages.remove(&oldest);
            invariant!(known.is_some(), "the page of slot {oldest} was used last and is not in the cache");
        }
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        if let Some((_, stamp)) = self.pages.remove(&slot) {
            self.order.remove(&stamp);
        }
    }
}

/// The page cache, and the pages being read into it.
pub(crate) struct Pages {
    pub cache: Cache,
    /// What waits for each page that is being read, by slot.
    pub loading: BTreeMap<u32, Vec<Waiter>>,
}

impl Pages {
    pub(crate) fn new(capacity: usize) -> Pages {
        Pages { cache: Cache::new(capacity), loading: BTreeMap::new() }
    }

    /// Verifies the cache, and that something waits for each page that is being read.
    pub(crate) fn check(&self) {
        self.cache.check();
        let nobody = self.loading.iter().find(|(_, w)| w.is_empty());
        invariant!(nobody.is_none(), "the page of slot {:?} is read for nobody", nobody.map(|(slot, _)| slot));
    }

    /// Number of waiters of one kind.
    pub(crate) fn waiting(&self, which: impl Fn(&Waiter) -> bool) -> usize {
        self.loading.values().flatten().filter(|w| which(w)).count()
    }
}

/// Where the bytes of a block are.
#[derive(Clone, Debug)]
pub(crate) enum Src {
    Zero,
    Mem(Bytes),
    Disk(u64),
    Bad,
}

impl Store {
    /// The chunk's page if it is in memory (an empty one if the chunk has none); otherwise the slot
    /// to read it from.
    pub(crate) fn page_of(&mut self, key: Key) -> Result<Arc<Page>, u32> {
        if let Some(d) = self.overlay.chunks.get(&key).and_then(|c| c.destage.as_ref()) {
            return Ok(d.old.clone());
        }
        let Some(&slot) = self.table.map.get(&key) else { return Ok(Arc::default()) };
        match self.table.slots[slot as usize].as_ref().and_then(|s| s.copy) {
            None => Ok(Arc::default()),
            Some(_) => self.pages.cache.get(slot).ok_or(slot),
        }
    }

    pub(crate) fn load_page(&mut self, slot: u32, waiter: Waiter, out: &mut Vec<Output>) {
        let waiters = self.pages.loading.entry(slot).or_default();
        waiters.push(waiter);
        if waiters.len() == 1 {
            self.ask_page(slot, false, out);
        }
    }

    fn ask_page(&mut self, slot: u32, again: bool, out: &mut Vec<Output>) {
        let copy = self.table.slots[slot as usize].as_ref().and_then(|s| s.copy);
        invariant!(copy.is_some(), "the page of slot {slot} is asked for, and it has none");
        let copy = copy.unwrap_or(0);
        let op = DiskOp::Read { off: self.sb.geometry.page_off(slot, copy), len: BLOCK_SIZE as u32 };
        self.disk_op(Purpose::Page(slot, again), op, out);
    }

    pub(crate) fn page_loaded(
        &mut self,
        slot: u32,
        again: bool,
        result: Result<Bytes, DiskError>,
        out: &mut Vec<Output>,
    ) {
        // A page that counts as lost takes 256 blocks with it, and that may be written down: so a
        // failed read is tried once more.
        if result.is_err() && !again {
            return self.ask_page(slot, true, out);
        }
        let waiters = self.pages.loading.remove(&slot).unwrap_or_default();
        invariant!(!waiters.is_empty(), "the page of slot {slot} was read for nobody");
        if let Some(e) = self.table.slots[slot as usize] {
            let id = self.table.page_id((e.replica, e.chunk));
            let page = match (result, id) {
                (Ok(block), Some(id)) => Page::decode(&block, id, e.page_crc),
                _ => None,
            };
            let page = page.filter(|_| !self.reckoning.gave_up(slot));
            let page = page.unwrap_or_else(|| {
                self.stats.bad_pages += 1;
                Page::lost(e.max_ver)
            });
            self.pages.cache.put(slot, Arc::new(page));
        }
        for w in waiters {
            match w {
                Waiter::Read(number) => self.read_go(number, out),
                Waiter::Slow(key) => self.requests.slow_ready.push_back(key),
                Waiter::Destage(key) => self.destage_go(key, out),
                // (Deleting goes on when this input is settled.)
                Waiter::Delete(_) => {}
            }
        }
    }

    /// What a block effectively holds: the overlay's entry, else the chunk's trim, else the page's
    /// entry.
    pub(crate) fn effective(&self, key: Key, at: u16, page: &Page) -> (BlockMeta, Src) {
        if let Some(c) = self.overlay.chunks.get(&key) {
            if let Some(ov) = c.blocks.get(&at) {
                return self.overlay_block(ov, at);
            }
            if let Some((ver, _)) = c.trim {
                return (BlockMeta { ver, crc: SeededCrc(0), state: BlockState::Absent }, Src::Zero);
            }
        }
        let m = page.effective(at as usize);
        let src = match m.state {
            BlockState::Absent | BlockState::Zero => Src::Zero,
            BlockState::Bad | BlockState::Lost => Src::Bad,
            BlockState::Data => self.in_unit(page.units[at as usize / UNIT_BLOCKS], at),
        };
        (m, src)
    }

    fn overlay_block(&self, ov: &OverlayBlock, at: u16) -> (BlockMeta, Src) {
        let (state, src) = match &ov.place {
            Place::Mem(b) => (BlockState::Data, Src::Mem(b.clone())),
            Place::Unit(u) => (BlockState::Data, self.in_unit(*u, at)),
            Place::Zero => (BlockState::Zero, Src::Zero),
            Place::Bad => (BlockState::Bad, Src::Bad),
        };
        (BlockMeta { ver: ov.ver, crc: ov.crc, state }, src)
    }

    fn in_unit(&self, unit: u32, at: u16) -> Src {
        if unit >= self.sb.geometry.units {
            return Src::Bad;
        }
        let off = self.sb.geometry.unit_off(unit) + (u64::from(at) * BLOCK_BYTES) % UNIT_BYTES;
        Src::Disk(off)
    }

    /// A block's entry as reported to other nodes: with the checksum of its bytes instead of the
    /// seeded one.
    pub(crate) fn info(&self, key: Key, at: u16, m: BlockMeta) -> BlockInfo {
        let crc = match (m.state, self.table.page_id(key)) {
            (BlockState::Data, Some(p)) => {
                let block = BlockIx(ChunkIx(key.1).first_block().0 + u64::from(at));
                Identity { shard: p.shard, rid: p.rid, block, ver: m.ver }.unseed(m.crc)
            }
            _ => PayloadCrc(0),
        };
        let ver = if m.state == BlockState::Absent && m.ver == Ver::ZERO { Ver::ZERO } else { m.ver };
        BlockInfo { ver, crc, state: m.state }
    }
}
