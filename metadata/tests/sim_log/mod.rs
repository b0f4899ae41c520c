//! Raft's storage on a simulated disk that changes by whole batches and whose power may go between any two of them.

use hf_meta::log::{Batch, Log, LogError};
use hf_meta_core::record::OwnLog;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What survives a crash: it changes by whole batches.
#[derive(Default, Clone)]
pub struct Disk {
    pub hard: HardState,
    pub snapshot: Snapshot,
    pub entries: BTreeMap<u64, Entry>,
    pub own: OwnLog,
    /// Starts that have drawn a number, over all lives and copies.
    pub drawn: Rc<Cell<u64>>,
    /// Batches until the power goes: the next one is done, or not, and nobody hears of it.
    pub fuse: Option<(u32, bool)>,
}

impl Disk {
    /// One write more: does the power go with it, and is it done all the same?
    fn burn(&mut self) -> Option<bool> {
        let (left, done) = self.fuse?;
        if left == 0 {
            return Some(done);
        }
        self.fuse = Some((left - 1, done));
        None
    }

    pub fn put(&mut self, b: Batch) {
        if let Some(s) = b.install {
            self.entries.clear();
            self.snapshot = s;
        }
        if let Some(e) = b.entries.first() {
            self.entries.split_off(&e.index);
        }
        self.entries.extend(b.entries.into_iter().map(|e| (e.index, e)));
        if let Some(s) = b.compact {
            self.entries = self.entries.split_off(&(s.get_metadata().index + 1));
            self.snapshot = s;
        }
        self.hard = b.hard.unwrap_or_else(|| self.hard.clone());
    }
}

pub struct SimLog {
    disk: Rc<RefCell<Disk>>,
    conf: ConfState,
    image: Snapshot,
    own: OwnLog,
}

impl SimLog {
    pub fn open(disk: Rc<RefCell<Disk>>) -> SimLog {
        let (image, own) = (disk.borrow().snapshot.clone(), disk.borrow().own.clone());
        SimLog { conf: image.get_metadata().get_conf_state().clone(), image, own, disk }
    }
}

impl Log for SimLog {
    fn commit(&mut self, b: Batch) -> Result<(), LogError> {
        let mut d = self.disk.borrow_mut();
        if let Some(done) = d.burn() {
            if done {
                d.put(b);
            }
            return Err(LogError::Damaged("power loss".into()));
        }
        if let Some(s) = &b.install {
            self.conf = s.get_metadata().get_conf_state().clone();
        }
        d.put(b);
        self.image = d.snapshot.clone();
        Ok(())
    }
    fn conf(&self) -> &ConfState {
        &self.conf
    }
    fn set_conf(&mut self, conf: ConfState) {
        self.conf = conf;
    }
    fn image(&self) -> &Snapshot {
        &self.image
    }
    fn entries_kept(&self) -> u64 {
        self.disk.borrow().entries.len() as u64
    }
    fn own(&self) -> &OwnLog {
        &self.own
    }
    fn set_own(&mut self, own: OwnLog) -> Result<(), LogError> {
        let mut d = self.disk.borrow_mut();
        let gone = d.burn();
        if gone != Some(false) {
            d.own = own.clone();
        }
        self.own = own;
        gone.map_or(Ok(()), |_| Err(LogError::Damaged("power loss".into())))
    }
    fn draw(&mut self) -> Result<u64, LogError> {
        let d = self.disk.borrow();
        d.drawn.set(d.drawn.get() + 1);
        Ok(d.drawn.get())
    }
}

impl Storage for SimLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.disk.borrow().hard.clone(), conf_state: self.conf.clone() })
    }
    fn entries(
        &self,
        low: u64,
        high: u64,
        max: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let (d, max) = (self.disk.borrow(), max.into().unwrap_or(u64::MAX));
        if low <= self.image.get_metadata().index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let (mut out, mut size) = (Vec::new(), 0);
        for i in low..high {
            let e = d.entries.get(&i).cloned().ok_or(raft::Error::Store(StorageError::Unavailable))?;
            size += e.data.len() as u64 + 20;
            if !out.is_empty() && size > max {
                break;
            }
            out.push(e);
        }
        Ok(out)
    }
    fn term(&self, index: u64) -> raft::Result<u64> {
        let m = self.image.get_metadata();
        match (index == m.index, self.disk.borrow().entries.get(&index)) {
            (true, _) => Ok(m.term),
            (_, Some(e)) => Ok(e.term),
            (_, None) if index < m.index => Err(raft::Error::Store(StorageError::Compacted)),
            _ => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }
    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.image.get_metadata().index + 1)
    }
    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.disk.borrow().entries.keys().last().copied().unwrap_or(self.image.get_metadata().index))
    }
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.image.get_metadata().index < request_index {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(self.image.clone())
    }
}
