//! A replica's store as it is in the daemon: the real chunk store on a simulated disk. A crash is a
//! power loss of that disk, a restart opens it anew; writes may fail for good; blocks rot on the
//! media.

use hf_policy::*;
use hf_repl_core::message::{BlockInfo, BlockState};
use hf_repl_core::replica::{Durable, StoreAnswer, StoreOp};
use hf_replica_host::Asked;
use hf_store::sim::{Rng, SimDisk};
use hf_store::{Config, FormatParams, Input, Op, Output, ReplicaRec, Salt, Store, recovery};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The replica of another volume, which fills small disks.
const BALLAST: Rid = Rid(99);
const UNIT_BLOCKS: u32 = 16;
/// The tag of operations that were in flight for a replica that is deleted.
const FORGOTTEN: u64 = u64::MAX - 2;

pub struct RealStore {
    rid: Rid,
    disk: SimDisk,
    store: Store,
    rng: Rng,
    owners: BTreeMap<u64, u64>,
    next: u64,
    out: Vec<Output>,
    done: VecDeque<(u64, StoreAnswer)>,
    /// The outcome of the last order.
    ordered: Result<(), String>,
    /// Blocks that went bad on this disk, found out or not.
    rotten: BTreeSet<u64>,
    /// Inputs of the store so far.
    inputs: u64,
}

fn config() -> Config {
    Config { overlay_bytes: 256 << 10, cached_pages: 2, groups_in_flight: 2, destage_jobs: 2, ..Config::default() }
}

/// The identity of the replica: which shard, of how many blocks, in which history.
pub type Of = (ShardId, u64, Lineage);

fn rec((shard, blocks, lineage): Of, rid: Rid, uuid: StoreUuid) -> ReplicaRec {
    ReplicaRec {
        shard,
        rid,
        store_uuid: uuid,
        lineage,
        promised_term: Term(0),
        promised_session: SessionId(0),
        stable_known: Ver::ZERO,
        blocks,
        deleting: false,
        hint_epoch: 0,
        hint_name: String::new(),
        hint_size: 0,
    }
}

impl RealStore {
    /// A formatted disk with an empty replica, or none if `rid` is 0. `units`: how many units of
    /// data still fit, 0 for plenty.
    pub fn new(seed: u64, of: Of, rid: Rid, uuid: StoreUuid, units: usize) -> RealStore {
        let mut disk = SimDisk::new(16 << 20);
        let p = FormatParams {
            cluster: ClusterId(1),
            node: NodeId(1),
            disk: DiskUuid(u128::from(seed)),
            journal: None,
            salt: Salt(1 + u128::from(seed)),
        };
        recovery::format(&mut disk, p).unwrap();
        let store = recovery::open(&mut disk, config()).unwrap();
        let mut s = RealStore {
            rid,
            disk,
            store,
            rng: Rng::new(seed),
            owners: BTreeMap::new(),
            next: 0,
            out: Vec::new(),
            done: VecDeque::new(),
            ordered: Ok(()),
            rotten: BTreeSet::new(),
            inputs: 0,
        };
        s.store.start(&mut s.out);
        if rid.0 > 0 {
            s.order(Op::CreateReplica(rec(of, rid, uuid)));
        }
        if units > 0 {
            s.fill(of.0, units as u64);
        }
        s
    }

    fn fill(&mut self, shard: ShardId, leave: u64) {
        let other = ShardId { vol: VolumeId(77), ..shard };
        self.order(Op::CreateReplica(rec((other, 1 << 20, Lineage(1)), BALLAST, StoreUuid(1))));
        let unit = u64::from(UNIT_BLOCKS) * BLOCK_BYTES;
        let data = bytes::Bytes::from(vec![7u8; unit as usize]);
        let crcs = crc::payloads(&data);
        let (mut at, mut ver) = (0, 0);
        while self.store.credit() >= (leave + 1) * unit {
            ver += 1;
            let (start, ver) = (BlockIx(at), Ver::new(1, ver));
            self.order(Op::Write { rid: BALLAST, ver, start, data: data.clone(), crcs: crcs.clone() });
            at += u64::from(UNIT_BLOCKS);
        }
    }

    /// Carries an order out now.
    fn order(&mut self, op: Op) {
        self.try_order(op).unwrap();
    }

    fn try_order(&mut self, op: Op) -> Result<(), String> {
        self.next += 1;
        let id = self.next;
        self.owners.insert(id, u64::MAX);
        self.store.step(Input::Op { id, op }, &mut self.out);
        self.check();
        while self.owners.contains_key(&id) {
            self.drain();
            assert!(self.owners.contains_key(&id) <= self.disk_step(), "an order without an answer");
        }
        std::mem::replace(&mut self.ordered, Ok(()))
    }

    /// Verifies the store's own state, after every 12th input: a check costs more than an input does.
    fn check(&mut self) {
        self.inputs += 1;
        if self.inputs.is_multiple_of(12) {
            self.store.check();
        }
    }

    fn drain(&mut self) {
        for o in std::mem::take(&mut self.out) {
            match o {
                Output::Disk { tag, op } => self.disk.submit(tag, op),
                Output::Done { id, result } => {
                    let tag = self.owners.remove(&id).expect("an answer to nothing, or the second one");
                    if tag == u64::MAX {
                        self.ordered = result.map(|_| ()).map_err(|e| e.to_string());
                    } else if tag != FORGOTTEN {
                        self.done.push_back((tag, hf_replica_host::answer(result)));
                    }
                }
                Output::Failed(_) => {}
            }
        }
    }

    fn disk_step(&mut self) -> bool {
        let i = self.rng.below(self.disk.pending() as u64) as usize;
        let Some((tag, result)) = self.disk.complete(i) else { return false };
        self.store.step(Input::DiskDone { tag, result }, &mut self.out);
        self.check();
        self.drain();
        true
    }

    pub fn submit(&mut self, tag: u64, op: StoreOp) {
        match hf_replica_host::ask(&self.store, self.rid, op) {
            Asked::Known(answer) => self.done.push_back((tag, answer)),
            Asked::Do(op) => {
                self.next += 1;
                self.owners.insert(self.next, tag);
                self.store.step(Input::Op { id: self.next, op }, &mut self.out);
                self.check();
                self.drain();
            }
        }
    }

    /// The disk goes on; the next answer, if there is one by then.
    pub fn complete(&mut self) -> Option<(u64, StoreAnswer)> {
        if self.rng.one_in(60) {
            self.store.step(Input::Housekeep, &mut self.out);
            self.check();
            self.drain();
        }
        for _ in 0..6 {
            if !self.done.is_empty() || !self.disk_step() {
                break;
            }
        }
        self.done.pop_front()
    }

    /// Power loss, and the disk opened anew.
    pub fn crash(&mut self) -> Result<(), String> {
        self.disk.crash(&mut self.rng);
        (self.owners, self.done, self.out) = (BTreeMap::new(), VecDeque::new(), Vec::new());
        self.store =
            recovery::open(&mut self.disk, config()).map_err(|e| format!("{} after a crash: {e}", self.rid))?;
        self.store.start(&mut self.out);
        self.store.check();
        self.drain();
        Ok(())
    }

    /// The content that a copy of the disk would have now: that after a power loss.
    pub fn image(&self) -> Result<RealStore, String> {
        let (mut disk, mut rng) = (self.disk.clone(), self.rng.clone());
        disk.crash(&mut rng);
        let mut s = RealStore {
            rid: self.rid,
            store: recovery::open(&mut disk, config()).map_err(|e| format!("a copy of {}: {e}", self.rid))?,
            disk,
            rng,
            owners: BTreeMap::new(),
            next: 0,
            out: Vec::new(),
            done: VecDeque::new(),
            ordered: Ok(()),
            rotten: self.rotten.clone(),
            inputs: 0,
        };
        s.store.start(&mut s.out);
        s.drain();
        Ok(s)
    }

    /// The replica's storage is another one from now on, if the disk still works.
    pub fn renew(&mut self, uuid: StoreUuid) -> Result<(), String> {
        let rec = self.store.replica(self.rid).cloned().expect("the replica is on its disk");
        self.try_order(Op::UpdateReplica(ReplicaRec { store_uuid: uuid, ..rec }))
    }

    /// The replica takes another lineage, as in the daemon (`disk_host.rs`).
    pub fn adopt(&mut self, lineage: Lineage, epoch: u64) -> bool {
        let known = self.store.replica(self.rid).filter(|r| r.lineage != lineage && r.hint_epoch < epoch);
        let Some(rec) = known.cloned() else { return false };
        self.try_order(Op::UpdateReplica(ReplicaRec { lineage, hint_epoch: epoch, ..rec })).is_ok()
    }

    /// Deletes its replica. What it was still asked for is not answered any more.
    pub fn delete(&mut self, rid: Rid) -> Result<(), String> {
        self.try_order(Op::DeleteReplica { rid })?;
        self.done.clear();
        self.owners.values_mut().for_each(|tag| *tag = FORGOTTEN);
        Ok(())
    }

    /// Makes a replica on the same disk.
    pub fn make(&mut self, of: Of, rid: Rid, uuid: StoreUuid) -> Result<(), String> {
        self.try_order(Op::CreateReplica(rec(of, rid, uuid)))?;
        self.rid = rid;
        Ok(())
    }

    /// From now on no write or sync of this disk succeeds.
    pub fn fail(&mut self) {
        self.disk.fail_writes = true;
    }

    pub fn has_failed(&self) -> bool {
        self.disk.fail_writes
    }

    pub fn credit(&self) -> u64 {
        self.store.credit()
    }

    pub fn position(&self) -> u64 {
        self.store.position()
    }

    pub fn max_ver(&self) -> Ver {
        self.store.max_ver(self.rid)
    }

    pub fn durable(&self) -> Durable {
        let rec = self.store.replica(self.rid).expect("the replica is on its disk");
        hf_replica_host::durable(ClusterId(1), rec, self.store.position())
    }

    pub fn may_be_bad(&self, block: u64) -> bool {
        self.rotten.contains(&block)
    }

    /// Every copy of the block's data on the media gets a flipped bit, or, of every third block,
    /// cannot be read any more. Copies in the journal are spared: what is damaged there was durable
    /// and cannot be told from what was not (docs/disk-format.md).
    pub fn rot(&mut self, block: u64) -> bool {
        let g = self.store.superblock().geometry;
        let first = g.data_off() / BLOCK_BYTES;
        let ours =
            |b: &bytes::Bytes| b[..8] != [0; 8] && b[8..16] == block.to_le_bytes() && super::clients::is_whole(b);
        let hit: Vec<u64> =
            (first..first + u64::from(g.units * UNIT_BLOCKS)).filter(|at| ours(&self.disk.block(*at))).collect();
        self.damage(&hit, block.is_multiple_of(3));
        if !hit.is_empty() {
            self.rotten.insert(block);
        }
        !hit.is_empty()
    }

    fn damage(&mut self, places: &[u64], unreadable: bool) {
        for at in places {
            let bit = 77 + self.rng.below(8000) as usize;
            if unreadable {
                self.disk.unreadable.insert(*at);
            } else {
                self.disk.flip(*at, bit);
            }
        }
    }

    /// Every copy of the chunk's page on the media gets a flipped bit, or, of every second chunk,
    /// cannot be read any more. That is noticed when the disk is opened next, or when the page was
    /// put out of the cache.
    pub fn rot_page(&mut self, chunk: ChunkIx) -> bool {
        let g = self.store.superblock().geometry;
        let first = g.page_off(0, 0) / BLOCK_BYTES;
        let ours = |b: &bytes::Bytes| b[..4] == *b"HFPG" && b[12..16] == chunk.0.to_le_bytes();
        let hit: Vec<u64> = (first..g.data_off() / BLOCK_BYTES).filter(|at| ours(&self.disk.block(*at))).collect();
        self.damage(&hit, chunk.0.is_multiple_of(2));
        if !hit.is_empty() {
            self.rotten.extend(chunk.blocks().iter().map(|b| b.0));
        }
        !hit.is_empty()
    }

    /// Completes everything that is in flight.
    pub fn quiesce(&mut self) {
        while self.disk_step() {}
    }

    /// What the block holds, when nothing is in flight.
    pub fn look(&mut self, block: u64) -> (BlockInfo, bytes::Bytes) {
        self.submit(u64::MAX - 1, StoreOp::Read { range: BlockRange::new(block, 1) });
        self.quiesce();
        let answers = std::mem::take(&mut self.done);
        let mine = answers.into_iter().find(|(tag, _)| *tag == u64::MAX - 1);
        match mine {
            Some((_, StoreAnswer::Read(infos, data))) => (infos[0], data),
            other => (BlockInfo { state: BlockState::Bad, ..BlockInfo::default() }, format!("{other:?}").into()),
        }
    }
}
