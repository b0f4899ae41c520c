//! A store on a simulated disk beside a model: what was acknowledged must be there, what was not
//! may be, nothing else.
#![allow(dead_code)]

mod beside;
pub mod order;
pub mod rewritten;
pub mod room;

use bytes::Bytes;
use hf_policy::crc;
use hf_policy::*;
use hf_store::engine::{BlockInfo, CopyItem};
use hf_store::format::page::BlockState;
use hf_store::sim::{Rng, SimDisk};
use hf_store::*;
use std::collections::BTreeMap;

pub const RID: Rid = Rid(5);
pub const BLOCKS: u64 = 256 * 8;

/// A block's content: version and bytes (`None` is zero).
pub type BlockContent = (Ver, Option<Bytes>);

#[derive(Clone, Debug)]
pub struct Flight {
    pub range: BlockRange,
    pub effect: Vec<(u64, BlockContent)>,
}

pub struct World {
    pub disk: SimDisk,
    pub store: Store,
    pub rng: Rng,
    /// Acknowledged content per block.
    pub acked: BTreeMap<u64, BlockContent>,
    pub flights: BTreeMap<OpId, Flight>,
    pub reads: BTreeMap<OpId, BlockRange>,
    pub others: BTreeMap<OpId, &'static str>,
    pub seq: u64,
    pub term: u32,
    pub next: OpId,
    pub out: Vec<Output>,
    pub refused: u64,
    pub reads_checked: u64,
    pub failed: Option<String>,
    /// How long operations take; none: all over the place.
    pub took: Option<u64>,
    /// The last age of a log that was told, those on their way, and the newest that was answered:
    /// it must be on the disk.
    pub age: u64,
    pub ages: BTreeMap<OpId, u64>,
    pub aged: u64,
    pub inputs: u64,
    pub every: u64,
}

pub fn rec() -> ReplicaRec {
    ReplicaRec {
        shard: ShardId { vol: VolumeId(1), index: 0 },
        rid: RID,
        store_uuid: StoreUuid(77),
        lineage: Lineage(1),
        promised_term: Term(1),
        promised_session: SessionId(1),
        stable_known: Ver::ZERO,
        blocks: BLOCKS,
        deleting: false,
        hint_epoch: 1,
        hint_name: "v".into(),
        hint_size: 0,
    }
}

/// Another replica, of another volume.
pub fn other(rid: u64) -> ReplicaRec {
    let shard = ShardId { vol: VolumeId(rid + 100), index: 0 };
    ReplicaRec { rid: Rid(rid), store_uuid: StoreUuid(u128::from(rid) + 1000), shard, blocks: 256 * 4096, ..rec() }
}

pub fn config() -> Config {
    Config { overlay_bytes: 2 << 20, cached_pages: 16, groups_in_flight: 3, destage_jobs: 3, replicas: 1000 }
}

/// What the disk's structures are told from payload by.
pub const SALT: Salt = Salt(0x5a17_0000_0000_0000_0000_0000_0000_0001);

pub fn params() -> FormatParams {
    FormatParams { cluster: ClusterId(1), node: NodeId(1), disk: DiskUuid(9), journal: Some(4 << 20), salt: SALT }
}

pub fn tagged(tag: u64, block: u64) -> Bytes {
    let mut b = Vec::with_capacity(4096);
    while b.len() < 4096 {
        b.extend_from_slice(&tag.to_le_bytes());
        b.extend_from_slice(&block.to_le_bytes());
    }
    Bytes::from(b)
}

impl World {
    pub fn new(seed: u64, size: u64) -> World {
        World::with_journal(seed, size, 4 << 20)
    }

    pub fn with_journal(seed: u64, size: u64, journal: u64) -> World {
        World::with(seed, size, journal, config())
    }

    pub fn with(seed: u64, size: u64, journal: u64, cfg: Config) -> World {
        World::formatted(seed, size, FormatParams { journal: Some(journal), ..params() }, cfg)
    }

    /// On a disk of format version 1, which an older release made and goes on writing.
    pub fn version_1(seed: u64, size: u64) -> World {
        World::formatted(seed, size, FormatParams { salt: Salt::NONE, ..params() }, config())
    }

    pub fn formatted(seed: u64, size: u64, params: FormatParams, cfg: Config) -> World {
        let mut disk = SimDisk::new(size);
        recovery::format(&mut disk, params).unwrap();
        let mut store = recovery::open(&mut disk, cfg).unwrap();
        let mut out = Vec::new();
        store.start(&mut out);
        let mut w = World {
            disk,
            store,
            rng: Rng::new(seed),
            acked: BTreeMap::new(),
            flights: BTreeMap::new(),
            reads: BTreeMap::new(),
            others: BTreeMap::new(),
            seq: 0,
            term: 1,
            next: 1,
            out,
            refused: 0,
            reads_checked: 0,
            failed: None,
            took: None,
            age: 0,
            ages: BTreeMap::new(),
            aged: 0,
            inputs: 0,
            every: 1,
        };
        w.drain();
        w.submit(Op::CreateReplica(rec()), "create");
        w.quiesce();
        w
    }

    pub fn submit(&mut self, op: Op, what: &'static str) -> OpId {
        let id = self.next;
        self.next += 1;
        self.others.insert(id, what);
        self.input(Input::Op { id, op });
        id
    }

    /// Does one thing and returns its answer; whatever else goes on comes to its end too.
    pub fn ask(&mut self, op: Op) -> Result<Answer, StoreError> {
        let id = self.next;
        self.next += 1;
        self.store.step(Input::Op { id, op }, &mut self.out);
        self.check();
        let mut answer = None;
        loop {
            let mine = |o: &Output| matches!(o, Output::Done { id: of, .. } if *of == id);
            if let Some(at) = self.out.iter().position(mine)
                && let Output::Done { result, .. } = self.out.remove(at)
            {
                answer = Some(result);
            }
            self.drain();
            match self.disk.complete(0) {
                Some((tag, result)) => {
                    self.store.step(Input::DiskDone { tag, result }, &mut self.out);
                    self.check();
                }
                None if answer.is_some() || self.disk.pending() == 0 => return answer.expect("an answer"),
                None => {}
            }
        }
    }

    /// The node's log is older by one: noted on the disk.
    pub fn note_age(&mut self) {
        self.age += 1;
        let id = self.submit(Op::NoteLogAge(LogAge { log: LogId(3), age: self.age, start: 0 }), "age");
        self.ages.insert(id, self.age);
    }

    /// Verifies the store's own state, after each `every` inputs.
    fn check(&mut self) {
        self.inputs += 1;
        if self.inputs.is_multiple_of(self.every) {
            self.store.check();
        }
    }

    pub fn input(&mut self, input: Input) {
        self.store.step(input, &mut self.out);
        self.check();
        self.drain();
    }

    fn drain(&mut self) {
        for o in std::mem::take(&mut self.out) {
            match o {
                Output::Disk { tag, op } => self.disk.submit(tag, op),
                Output::Failed(why) => self.failed = Some(why),
                Output::Done { id, result } => self.done(id, result),
            }
        }
    }

    fn done(&mut self, id: OpId, result: Result<Answer, StoreError>) {
        if let Some(f) = self.flights.remove(&id) {
            match result {
                Ok(Answer::Copied(applied)) => {
                    for ((b, c), a) in f.effect.into_iter().zip(applied) {
                        if a {
                            self.acked.insert(b, c);
                        }
                    }
                }
                Ok(_) => self.acked.extend(f.effect),
                Err(StoreError::NoSpace) => self.refused += 1,
                Err(StoreError::Failed(_)) => {}
                Err(e) => panic!("{e}"),
            }
        } else if let Some(range) = self.reads.remove(&id) {
            match result {
                Ok(Answer::Read { blocks, data }) => self.check_read(range, &blocks, &data),
                Err(StoreError::Failed(_)) => {}
                other => panic!("{other:?}"),
            }
        } else {
            let what = self.others.remove(&id).expect("an answer to nothing, or the second one");
            if let Some(age) = self.ages.remove(&id).filter(|_| result.is_ok()) {
                self.aged = self.aged.max(age);
            }
            if let Err(e) = result {
                assert!(self.failed.is_some() || matches!(e, StoreError::Failed(_)), "{what}: {e}");
            }
        }
    }

    fn check_read(&mut self, range: BlockRange, blocks: &[BlockInfo], data: &Bytes) {
        for (i, b) in range.iter().enumerate() {
            let (ver, want) = self.acked.get(&b.0).cloned().unwrap_or((Ver::ZERO, None));
            let got = &data[i * 4096..(i + 1) * 4096];
            assert_ne!(blocks[i].state, BlockState::Bad, "block {} is bad", b.0);
            match want {
                Some(bytes) => {
                    assert_eq!(got, &bytes[..], "block {}", b.0);
                    assert_eq!(blocks[i].ver, ver, "block {}", b.0);
                    assert_eq!(blocks[i].crc, crc::payload(got));
                }
                None => assert!(got.iter().all(|x| *x == 0), "block {} is not zero", b.0),
            }
        }
        self.reads_checked += 1;
    }

    pub fn free(&self, range: BlockRange) -> bool {
        !self.flights.values().any(|f| f.range.overlaps(range)) && !self.reads.values().any(|r| r.overlaps(range))
    }

    pub fn next_ver(&mut self) -> Ver {
        self.seq += 1;
        Ver::new(self.term, self.seq)
    }

    pub fn write(&mut self, range: BlockRange) {
        let ver = self.next_ver();
        let tag = u64::from(ver.term.0) << 40 | ver.seq.0;
        let parts: Vec<Bytes> = range.iter().map(|b| tagged(tag, b.0)).collect();
        let data = Bytes::from(parts.concat());
        let crcs = crc::payloads(&data);
        let effect = range.iter().zip(parts).map(|(b, p)| (b.0, (ver, Some(p)))).collect();
        self.fly(range, effect, Op::Write { rid: RID, ver, start: range.start, data, crcs });
    }

    pub fn fly(&mut self, range: BlockRange, effect: Vec<(u64, BlockContent)>, op: Op) {
        let id = self.next;
        self.next += 1;
        self.flights.insert(id, Flight { range, effect });
        self.input(Input::Op { id, op });
    }

    pub fn zero(&mut self, range: BlockRange) {
        let ver = self.next_ver();
        let effect = range.iter().map(|b| (b.0, (ver, None))).collect();
        let keep = self.rng.one_in(3);
        self.fly(range, effect, Op::Zero { rid: RID, ver, range, keep });
    }

    pub fn read(&mut self, range: BlockRange) {
        let id = self.next;
        self.next += 1;
        self.reads.insert(id, range);
        self.input(Input::Op { id, op: Op::Read { rid: RID, range } });
    }

    pub fn copy(&mut self, range: BlockRange) {
        let ver = self.next_ver();
        let mut items = Vec::new();
        let mut effect = Vec::new();
        for b in range.iter() {
            let seen = self.acked.get(&b.0).map_or(Ver::ZERO, |c| c.0);
            let data = tagged(ver.seq.0 | 1 << 50, b.0);
            let zero = self.rng.one_in(3);
            let item = CopyItem {
                block: b,
                seen,
                src: ver,
                content: if zero {
                    hf_store::Content::Zero
                } else {
                    hf_store::Content::Data(crc::payload(&data), data.clone())
                },
                repair: false,
            };
            items.push(item);
            effect.push((b.0, (ver, (!zero).then_some(data))));
        }
        self.fly(range, effect, Op::Copy { rid: RID, term: Term(self.term), items });
    }

    pub fn complete_one(&mut self) -> bool {
        let n = self.disk.pending() as u64;
        let i = self.rng.below(n) as usize;
        self.complete(i)
    }

    /// Completes the `i`-th operation in flight.
    pub fn complete(&mut self, i: usize) -> bool {
        match self.disk.complete(i) {
            Some((tag, result)) => {
                // All over the place: destaging speeds up and slows down.
                let us = self.took.unwrap_or(tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52);
                self.input(Input::Took { tag, us });
                self.input(Input::DiskDone { tag, result });
                true
            }
            None => false,
        }
    }

    pub fn quiesce(&mut self) {
        while self.complete_one() {}
        assert!(
            self.failed.is_some() || (self.flights.is_empty() && self.reads.is_empty() && self.others.is_empty()),
            "stuck: {:?} {:?} {:?} {:?}",
            self.flights.keys(),
            self.reads,
            self.others,
            self.store.stats()
        );
    }

    pub fn range(&mut self, max: u64) -> BlockRange {
        let chunk = self.rng.below(BLOCKS / 256);
        let at = self.rng.below(256);
        let len = 1 + self.rng.below((256 - at).min(max));
        BlockRange::new(chunk * 256 + at, len as u32)
    }

    pub fn random_step(&mut self) {
        match self.rng.below(20) {
            0..=5 => {
                let r = self.range(8);
                if self.free(r) {
                    self.write(r);
                }
            }
            6 => {
                let (chunk, unit) = (self.rng.below(BLOCKS / 256), self.rng.below(16));
                let n = 1 + self.rng.below(16 - unit);
                let r = BlockRange::new(chunk * 256 + unit * 16, n as u32 * 16);
                if self.free(r) {
                    self.write(r);
                }
            }
            7 => {
                let start = self.rng.below(BLOCKS - 1);
                let len = 1 + self.rng.below((BLOCKS - start).min(700));
                let r = if self.rng.one_in(3) {
                    BlockRange::new(start / 256 * 256, 256)
                } else {
                    BlockRange::new(start, len as u32)
                };
                if self.free(r) {
                    self.zero(r);
                }
            }
            8 => {
                let r = self.range(6);
                if self.free(r) {
                    self.copy(r);
                }
            }
            9..=10 => {
                let r = self.range(64);
                if self.free(r) {
                    self.read(r);
                }
            }
            11 if self.rng.one_in(6) => {
                self.submit(Op::Checkpoint, "checkpoint");
            }
            12 if self.rng.one_in(4) => self.input(Input::Housekeep),
            14 if self.rng.one_in(6) => self.note_age(),
            13 if self.rng.one_in(5) => {
                self.term += 1;
                self.seq = 0;
                self.submit(Op::UpdateReplica(ReplicaRec { promised_term: Term(self.term), ..rec() }), "promise");
            }
            _ => {
                self.complete_one();
            }
        }
    }

    /// What each block may hold after a crash now: its acknowledged content, or that of a write in
    /// flight.
    pub fn allowed(&self) -> BTreeMap<u64, Vec<BlockContent>> {
        let mut m: BTreeMap<u64, Vec<BlockContent>> = BTreeMap::new();
        for b in 0..BLOCKS {
            m.insert(b, vec![self.acked.get(&b).cloned().unwrap_or((Ver::ZERO, None))]);
        }
        for f in self.flights.values() {
            for (b, c) in &f.effect {
                m.entry(*b).or_default().push(c.clone());
            }
        }
        m
    }
}

/// Reads every block of a store.
pub fn read_all(disk: &mut SimDisk, store: &mut Store, rid: Rid) -> BTreeMap<u64, (BlockInfo, Bytes)> {
    read_chunks(disk, store, rid, BLOCKS / 256)
}

/// Reads every block of a replica's first chunks.
pub fn read_chunks(disk: &mut SimDisk, store: &mut Store, rid: Rid, n: u64) -> BTreeMap<u64, (BlockInfo, Bytes)> {
    let mut all = BTreeMap::new();
    let mut out = Vec::new();
    for chunk in 0..n {
        store.step(Input::Op { id: chunk, op: Op::Read { rid, range: BlockRange::new(chunk * 256, 256) } }, &mut out);
    }
    loop {
        for o in std::mem::take(&mut out) {
            match o {
                Output::Disk { tag, op } => disk.submit(tag, op),
                Output::Done { id, result: Ok(Answer::Read { blocks, data }) } => {
                    for (i, info) in blocks.into_iter().enumerate() {
                        all.insert(id * 256 + i as u64, (info, data.slice(i * 4096..(i + 1) * 4096)));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        match disk.complete(0) {
            Some((tag, result)) => store.step(Input::DiskDone { tag, result }, &mut out),
            None => {
                store.check();
                return all;
            }
        }
    }
}
