//! Raft's storage in RocksDB.
//!
//! What is durable: the log, the hard state, the configuration, and an image of the cluster at some index. The
//! applied state itself is the image plus the log behind it, so a Ready's log entries, hard state and (at compaction)
//! image and truncation are one synced WriteBatch and nothing can come apart (I18, hazard 17).
//!
//! The WAL is opened with tolerate-corrupted-tail: an ordinary torn tail after a power loss is a write that was never
//! acknowledged; "absolute consistency" would refuse to start (hazards: Restate 85cbaf014). It is never switched off.

use crate::log::{Batch, FORMAT, Log, LogError};
use crate::reserve::Reserve;
use hf_meta_core::record::OwnLog;
use hf_policy::LogId;
use prost_old::Message;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use rocksdb::{BlockBasedOptions, Cache, DB, DBRecoveryMode, IteratorMode, Options, WriteBatch, WriteOptions};
use std::path::{Path, PathBuf};

/// RocksDB's memory unless set otherwise, in bytes.
const MEMORY: usize = 32 << 20;
const K_FORMAT: &[u8] = b"format";
const K_OWN: &[u8] = b"own";
const K_HARD: &[u8] = b"raft/hard";
const K_IMAGE: &[u8] = b"raft/image";
const LOG: &[u8] = b"raft/log/";

impl From<rocksdb::Error> for LogError {
    fn from(e: rocksdb::Error) -> Self {
        match e.kind() {
            rocksdb::ErrorKind::Corruption => LogError::Damaged(e.into_string()),
            _ => LogError::Db(e),
        }
    }
}

fn key(index: u64) -> Vec<u8> {
    [LOG, &index.to_be_bytes()].concat()
}

/// Raft's storage in RocksDB. What Raft asks for often is kept in memory too.
pub struct RaftLog {
    /// None only if the database could not be opened again after a failed write.
    db: Option<DB>,
    dir: PathBuf,
    reserve: Option<Reserve>,
    memory: usize,
    hard: HardState,
    conf: ConfState,
    snapshot: Snapshot,
    first: u64,
    last: u64,
    own: OwnLog,
}

impl RaftLog {
    /// Opens the storage of a directory, or creates it.
    pub fn open(dir: &Path) -> Result<RaftLog, LogError> {
        RaftLog::open_within(dir, MEMORY)
    }

    /// The same with a bound on RocksDB's memory, in bytes: half for memtables, half for the cache, which
    /// holds indices and filters of tables too.
    pub fn open_within(dir: &Path, memory: usize) -> Result<RaftLog, LogError> {
        let mut log = RaftLog::load(open_db(dir, memory)?, dir)?;
        if !log.own.log.is_some() {
            let id = (u128::from(random()?) << 64) | u128::from(random()?);
            Log::set_own(&mut log, OwnLog::new(LogId(id)))?;
        }
        Ok(RaftLog { memory, ..log })
    }

    /// Makes space by giving up this reserve when the file system is full.
    pub fn with_reserve(self, reserve: Reserve) -> RaftLog {
        RaftLog { reserve: Some(reserve), ..self }
    }

    /// Opens the storage of a stopped node for reading; writes nothing.
    pub fn open_read_only(dir: &Path) -> Result<RaftLog, LogError> {
        RaftLog::load(DB::open_for_read_only(&options(MEMORY)?, dir, false)?, dir)
    }

    fn load(db: DB, dir: &Path) -> Result<RaftLog, LogError> {
        match db.get(K_FORMAT)? {
            Some(f) if f == FORMAT.as_bytes() => {}
            Some(f) => return Err(LogError::TooNew(String::from_utf8_lossy(&f).into_owned())),
            None => return Err(LogError::Damaged("it has no format number".into())),
        }
        let read = |k: &[u8]| -> Result<Vec<u8>, LogError> { Ok(db.get(k)?.unwrap_or_default()) };
        let damaged = |what: &str| LogError::Damaged(what.into());
        let hard = HardState::decode(read(K_HARD)?.as_slice()).map_err(|_| damaged("hard state"))?;
        let snapshot = Snapshot::decode(read(K_IMAGE)?.as_slice()).map_err(|_| damaged("image"))?;
        let base = snapshot.get_metadata().index;
        let mut last = base;
        for item in db.iterator(IteratorMode::From(&key(base + 1), rocksdb::Direction::Forward)) {
            let (k, _) = item?;
            let Some(raw) = k.strip_prefix(LOG) else { break };
            let index = u64::from_be_bytes(raw.try_into().map_err(|_| damaged("log key"))?);
            if index != last + 1 {
                return Err(damaged(&format!("log entry {} is missing", last + 1)));
            }
            last = index;
        }
        let conf = snapshot.get_metadata().get_conf_state().clone();
        let own = match read(K_OWN)?.as_slice() {
            [] => OwnLog::default(),
            raw => serde_json::from_slice(raw).map_err(|_| damaged("what it says of itself"))?,
        };
        let (db, dir) = (Some(db), dir.to_path_buf());
        Ok(RaftLog { db, dir, reserve: None, memory: MEMORY, hard, conf, snapshot, first: base + 1, last, own })
    }

    /// Founds a cluster: this node is the only voter.
    pub fn found(&mut self, voter: u64, image: Vec<u8>) -> Result<(), LogError> {
        let mut s = Snapshot { data: image, ..Default::default() };
        s.mut_metadata().index = 1;
        s.mut_metadata().term = 1;
        s.mut_metadata().mut_conf_state().voters = vec![voter];
        let hard = HardState { term: 1, commit: 1, vote: 0 };
        self.commit(Batch { install: Some(s), hard: Some(hard), ..Batch::default() })
    }

    /// Founds a cluster anew from a rescued state. This node is the only voter; its log goes on behind
    /// everything that was known, in a later term.
    pub fn found_again(&mut self, voter: u64, image: Vec<u8>, index: u64, term: u64) -> Result<(), LogError> {
        let mut s = Snapshot { data: image, ..Default::default() };
        s.mut_metadata().index = index;
        s.mut_metadata().term = term;
        s.mut_metadata().mut_conf_state().voters = vec![voter];
        let hard = HardState { term, commit: index, vote: 0 };
        self.commit(Batch { install: Some(s), hard: Some(hard), ..Batch::default() })
    }

    /// Everything since the image, in order.
    pub fn log(&self) -> Result<Vec<Entry>, LogError> {
        (self.first..=self.last)
            .map(|i| self.entry(i).map_err(|e| LogError::Damaged(format!("log entry {i}: {e}"))))
            .collect()
    }

    /// The hard state.
    pub fn hard(&self) -> &HardState {
        &self.hard
    }

    /// The newest image.
    pub fn image(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The configuration of the newest image.
    pub fn conf(&self) -> &ConfState {
        &self.conf
    }

    /// Has this node ever been part of a group?
    pub fn is_empty(&self) -> bool {
        self.last == 0
    }

    /// One synced WriteBatch for everything.
    pub fn commit(&mut self, b: Batch) -> Result<(), LogError> {
        let mut w = WriteBatch::default();
        let (mut first, mut last, mut snapshot, mut conf) = (self.first, self.last, None, None);
        if let Some(s) = b.install {
            w.delete_range(key(0), key(u64::MAX));
            w.put(K_IMAGE, s.encode_to_vec());
            first = s.get_metadata().index + 1;
            last = first - 1;
            conf = Some(s.get_metadata().get_conf_state().clone());
            snapshot = Some(s);
        }
        if let Some(e) = b.entries.first() {
            if e.index <= last {
                w.delete_range(key(e.index), key(last + 1));
            }
            last = e.index - 1;
        }
        for e in &b.entries {
            w.put(key(e.index), e.encode_to_vec());
            last = e.index;
        }
        if let Some(s) = b.compact {
            w.put(K_IMAGE, s.encode_to_vec());
            w.delete_range(key(0), key(s.get_metadata().index + 1));
            first = s.get_metadata().index + 1;
            snapshot = Some(s);
        }
        if let Some(h) = &b.hard {
            w.put(K_HARD, h.encode_to_vec());
        }
        self.write(w)?;
        // Memory follows only what is durable.
        (self.first, self.last) = (first, last);
        self.hard = b.hard.unwrap_or_else(|| self.hard.clone());
        self.snapshot = snapshot.unwrap_or_else(|| self.snapshot.clone());
        self.conf = conf.unwrap_or_else(|| self.conf.clone());
        Ok(())
    }

    fn db(&self) -> Result<&DB, LogError> {
        self.db.as_ref().ok_or_else(|| LogError::Damaged("it was closed and could not be opened again".into()))
    }

    /// Writes a batch; it is durable on return. If the file system is full the reserve is given up, the
    /// database is opened anew (RocksDB takes no write after a failed one) and the batch is written once
    /// more: what the first attempt left in the write-ahead log is the same.
    fn write(&mut self, w: WriteBatch) -> Result<(), LogError> {
        let bytes = w.data().to_vec();
        let full = match self.db()?.write_opt(w, &synced()) {
            Err(e) if e.to_string().contains("No space left on device") => e,
            other => return Ok(other?),
        };
        let Some(reserve) = &self.reserve else { return Err(full.into()) };
        // If it is gone, who looks after it may have given it up a moment ago: there may be space now in any case.
        reserve.release();
        self.db = None;
        let db = self.db.insert(open_db(&self.dir, self.memory)?);
        Ok(db.write_opt(WriteBatch::from_data(&bytes), &synced())?)
    }

    fn entry(&self, index: u64) -> raft::Result<Entry> {
        let other = |e: LogError| raft::Error::Store(StorageError::Other(Box::new(e)));
        let raw = self
            .db()
            .map_err(other)?
            .get(key(index))
            .map_err(|e| raft::Error::Store(StorageError::Other(Box::new(e))))?;
        let raw = raw.ok_or(raft::Error::Store(StorageError::Unavailable))?;
        Entry::decode(raw.as_slice()).map_err(|e| raft::Error::Store(StorageError::Other(Box::new(e))))
    }
}

fn random() -> Result<u64, LogError> {
    let mut b = [0; 8];
    std::fs::File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut b))?;
    Ok(u64::from_be_bytes(b) | 1)
}

/// The same options for the daemon and for readers: by default RocksDB would read a write-ahead log that is
/// damaged in its middle as if it ended there.
fn options(memory: usize) -> Result<Options, LogError> {
    let mut o = Options::default();
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(memory / 2)?);
    tables.set_cache_index_and_filter_blocks(true);
    o.set_block_based_table_factory(&tables);
    o.create_if_missing(true);
    o.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    o.set_write_buffer_size(memory / 4);
    o.set_max_write_buffer_number(2);
    o.set_max_total_wal_size(32 << 20);
    o.set_keep_log_file_num(2);
    Ok(o)
}

fn open_db(dir: &Path, memory: usize) -> Result<DB, LogError> {
    let db = DB::open(&options(memory)?, dir)?;
    if db.get(K_FORMAT)?.is_none() {
        db.put_opt(K_FORMAT, FORMAT, &synced())?;
    }
    Ok(db)
}

fn synced() -> WriteOptions {
    let mut o = WriteOptions::default();
    o.set_sync(true);
    o
}

impl Log for RaftLog {
    fn commit(&mut self, b: Batch) -> Result<(), LogError> {
        RaftLog::commit(self, b)
    }
    fn conf(&self) -> &ConfState {
        &self.conf
    }
    /// The configuration is durable with the next image; until then the log holds its changes.
    fn set_conf(&mut self, conf: ConfState) {
        self.conf = conf;
    }
    fn image(&self) -> &Snapshot {
        &self.snapshot
    }
    fn entries_kept(&self) -> u64 {
        self.last + 1 - self.first
    }
    fn own(&self) -> &OwnLog {
        &self.own
    }
    fn set_own(&mut self, own: OwnLog) -> Result<(), LogError> {
        let mut w = WriteBatch::default();
        w.put(K_OWN, serde_json::to_vec(&own).map_err(|e| LogError::Damaged(e.to_string()))?);
        self.write(w)?;
        self.own = own;
        Ok(())
    }
    fn draw(&mut self) -> Result<u64, LogError> {
        random()
    }
}

impl Storage for RaftLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard.clone(), conf_state: self.conf.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let max = max.into().unwrap_or(u64::MAX);
        let (mut out, mut size) = (Vec::new(), 0u64);
        for index in low..high {
            let e = self.entry(index)?;
            size += e.encoded_len() as u64;
            if !out.is_empty() && size > max {
                break;
            }
            out.push(e);
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let base = self.snapshot.get_metadata();
        if index == base.index {
            return Ok(base.term);
        }
        if index < self.first {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        Ok(self.entry(index)?.term)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.snapshot.get_metadata().index < request_index {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(self.snapshot.clone())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![index as u8; 10], ..Default::default() }
    }

    #[test]
    fn log_survives_reopen_truncation_and_compaction() {
        let dir = std::env::temp_dir().join(format!("hf-raftlog-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        {
            let mut l = RaftLog::open(&dir).unwrap();
            assert!(l.is_empty());
            l.found(1, b"image".to_vec()).unwrap();
            let entries = (2..=10).map(|i| entry(i, 1)).collect();
            l.commit(Batch { entries, ..Batch::default() }).unwrap();
            // A new leader's entries replace ours from 7 on.
            let hard = HardState { term: 2, vote: 3, commit: 6 };
            l.commit(Batch { entries: vec![entry(7, 2), entry(8, 2)], hard: Some(hard), ..Batch::default() }).unwrap();
        }
        {
            let mut l = RaftLog::open(&dir).unwrap();
            assert_eq!((l.first_index().unwrap(), l.last_index().unwrap()), (2, 8));
            assert_eq!((l.term(6).unwrap(), l.term(7).unwrap(), l.term(1).unwrap()), (1, 2, 1));
            assert_eq!(l.initial_state().unwrap().hard_state.vote, 3);
            assert!(l.term(9).is_err());
            let mut s = l.image().clone();
            s.mut_metadata().index = 5;
            l.commit(Batch { compact: Some(s), ..Batch::default() }).unwrap();
        }
        let l = RaftLog::open(&dir).unwrap();
        assert_eq!((l.first_index().unwrap(), l.last_index().unwrap(), l.entries_kept()), (6, 8, 3));
        assert!(l.entries(5, 7, None, GetEntriesContext::empty(false)).is_err());
        assert_eq!(l.entries(6, 9, None, GetEntriesContext::empty(false)).unwrap().len(), 3);
        drop(l);
        let _ = std::fs::remove_dir_all(&dir);
    }

    #[test]
    fn memory_keeps_its_bound_under_load() {
        const BOUND: u64 = 4 << 20;
        let dir = std::env::temp_dir().join(format!("hf-raftlog-memory-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let mut l = RaftLog::open_within(&dir, BOUND as usize).unwrap();
        l.found(1, b"image".to_vec()).unwrap();
        let used = |l: &RaftLog, what: &str| l.db().unwrap().property_int_value(what).unwrap().unwrap();
        let (mut tables, mut cache) = (0, 0);
        for round in 0..400u64 {
            let data = |i: u64| (0..20_000u64).map(|k| (k.wrapping_mul(i + 7) >> 3) as u8).collect();
            let entries =
                (0..4).map(|k| 2 + round * 4 + k).map(|index| Entry { index, data: data(index), ..entry(index, 1) });
            l.commit(Batch { entries: entries.collect(), ..Batch::default() }).unwrap();
            tables = tables.max(used(&l, "rocksdb.cur-size-all-mem-tables"));
        }
        for index in 2..1602 {
            assert_eq!(l.entry(index).unwrap().index, index);
            cache = cache.max(used(&l, "rocksdb.block-cache-usage"));
        }
        // 32 MB went through. RocksDB notices a full memtable after the batch that filled it.
        assert!(tables > BOUND / 8 && tables <= BOUND / 2 + (512 << 10), "memtables held {tables}");
        assert!(cache > 0 && cache <= BOUND / 2 + (256 << 10), "the cache held {cache}");
        drop(l);
        let _ = std::fs::remove_dir_all(&dir);
    }
}
