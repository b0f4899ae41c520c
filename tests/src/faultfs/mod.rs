//! A directory on a disk that fails on command: a FUSE pass-through that remembers, per file, what
//! was written since its last sync. Power loss takes that back, wholly or by random sectors; rules
//! make calls fail. The daemon and its RocksDB run on it unchanged, O_DIRECT and io_uring included.
//!
//! Not modelled: directory entries (create, rename, unlink) count as durable at once, and a file's
//! own sync makes all of it durable.

mod passing;

use fuser::{BackgroundSession, Config, MountOption, spawn_mount};
use hf_store::sim::Rng;
use passing::Passing;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

const SECTOR: u64 = 512;

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
    Sync,
}

/// One fault: this call, on files whose path contains `path`, fails with `errno` after `after` more
/// of them, `count` times.
#[derive(Clone, Debug)]
pub struct Rule {
    pub call: Call,
    pub path: &'static str,
    pub errno: i32,
    pub after: u64,
    pub count: u64,
}

/// How much of the unsynced writes a power loss leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    /// Any sectors, in any order.
    Some,
}

/// One change of a file since its last sync.
struct Change {
    off: u64,
    old: Vec<u8>,
    new: Vec<u8>,
    size: u64,
    /// Written with O_DSYNC: power loss never undoes it, whatever lies under it.
    durable: bool,
}

#[derive(Default)]
struct State {
    paths: HashMap<u64, PathBuf>,
    inos: HashMap<PathBuf, u64>,
    next: u64,
    open: HashMap<u64, Arc<File>>,
    changes: BTreeMap<u64, Vec<Change>>,
    rules: Vec<Rule>,
    /// Sectors that cannot be read until they are written: part of the file's path, and where they begin.
    unreadable: Vec<(&'static str, u64)>,
    frozen: bool,
    faults: u64,
}

struct Shared {
    root: PathBuf,
    state: Mutex<State>,
    thawed: Condvar,
}

/// A mounted one; unmounted when dropped.
pub struct FaultFs {
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
    at: PathBuf,
}

impl FaultFs {
    /// `backing` shows up at `at`.
    pub fn mount(backing: &Path, at: &Path) -> FaultFs {
        std::fs::create_dir_all(backing).unwrap();
        std::fs::create_dir_all(at).unwrap();
        let mut state = State { next: 2, ..State::default() };
        state.paths.insert(1, PathBuf::new());
        state.inos.insert(PathBuf::new(), 1);
        let shared = Arc::new(Shared {
            root: backing.canonicalize().unwrap(),
            state: Mutex::new(state),
            thawed: Condvar::new(),
        });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("holdfast-faultfs".into())];
        config.n_threads = Some(2);
        let session = spawn_mount(Passing(shared.clone()), at, &config)
            .unwrap_or_else(|e| panic!("{} cannot be mounted ({e}); this test needs root and /dev/fuse", at.display()));
        FaultFs { shared, session: Some(session), at: at.to_path_buf() }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Adds a fault.
    pub fn rule(&self, r: Rule) {
        self.shared.state.lock().unwrap().rules.push(r);
    }

    /// These 4 KiB of a file cannot be read any more, EIO, until they are written again: the disk
    /// puts other sectors in their place.
    pub fn unreadable(&self, path: &'static str, off: u64) {
        self.shared.state.lock().unwrap().unreadable.push((path, off));
    }

    /// How many such places are left.
    pub fn left_unreadable(&self) -> usize {
        self.shared.state.lock().unwrap().unreadable.len()
    }

    /// Takes all faults back.
    pub fn clear(&self) {
        self.shared.state.lock().unwrap().rules.clear();
    }

    /// Faults made so far.
    pub fn faults(&self) -> u64 {
        self.shared.state.lock().unwrap().faults
    }

    /// Every call hangs, or goes on: a disk that does not answer.
    pub fn freeze(&self, on: bool) {
        self.shared.state.lock().unwrap().frozen = on;
        self.shared.thawed.notify_all();
    }

    /// The power goes. The processes that used the file system must have ended. Returns how many
    /// writes were unsynced.
    pub fn power_loss(&self, keep: Keep, rng: &mut Rng) -> usize {
        let mut s = self.shared.state.lock().unwrap();
        let mut lost = 0;
        for (ino, log) in std::mem::take(&mut s.changes) {
            let Some(path) = s.paths.get(&ino) else { continue };
            let Ok(f) = File::options().read(true).write(true).open(self.shared.root.join(path)) else { continue };
            lost += log.iter().filter(|c| !c.durable).count();
            for c in log.iter().rev() {
                f.write_all_at(&c.old, c.off).unwrap();
                f.set_len(c.size).unwrap();
            }
            for c in &log {
                match (c.durable, keep) {
                    (true, _) => f.write_all_at(&c.new, c.off).unwrap(),
                    (false, Keep::Some) => redo_some(&f, c, rng),
                    (false, Keep::Nothing) => {}
                }
            }
        }
        lost
    }
}

/// Some sectors of a write make it after all.
fn redo_some(f: &File, c: &Change, rng: &mut Rng) {
    let (mut at, end) = (c.off, c.off + c.new.len() as u64);
    // Mostly the whole of it or nothing, sometimes any part.
    let odds = [0, 2, 4, 4][rng.below(4) as usize];
    while at < end {
        let cut = end.min(at / SECTOR * SECTOR + SECTOR);
        if rng.below(4) < odds {
            f.write_all_at(&c.new[(at - c.off) as usize..(cut - c.off) as usize], at).unwrap();
        }
        at = cut;
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        self.freeze(false);
        if let Some(s) = self.session.take() {
            let _ = s.umount_and_join();
        }
    }
}
