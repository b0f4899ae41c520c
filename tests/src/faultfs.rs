//! A directory on a disk that fails on command: a FUSE pass-through that remembers, per file, what was written since its last
//! sync. Power loss takes that back, wholly or by random sectors; rules make calls fail. The daemon and its RocksDB run on it
//! unchanged, O_DIRECT and io_uring included.
//!
//! Not modelled: directory entries (create, rename, unlink) count as durable at once, and a file's own sync makes all of it durable.

use fuser::*;
use hf_store::sim::Rng;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECTOR: u64 = 512;
const TTL: Duration = Duration::from_secs(1);

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
    Sync,
}

/// One fault: this call, on files whose path contains `path`, fails with `errno` after `after` more of them, `count` times.
#[derive(Clone, Debug)]
pub struct Rule {
    pub call: Call,
    pub path: &'static str,
    pub errno: i32,
    pub after: u64,
    pub count: u64,
}

/// What power loss leaves of what was not synced.
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
    /// Written with O_DSYNC: it is there in any case, whatever becomes of what it lies on.
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

    /// Power loss; whoever used it must be gone. Returns how many writes were in danger.
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

struct Passing(Arc<Shared>);

fn errno(e: std::io::Error) -> Errno {
    Errno::from(e)
}

fn attr(ino: u64, m: &std::fs::Metadata) -> FileAttr {
    let time = |s: i64, ns: i64| UNIX_EPOCH + Duration::new(s.max(0) as u64, ns as u32);
    let kind = if m.is_dir() { FileType::Directory } else { FileType::RegularFile };
    FileAttr {
        ino: INodeNo(ino),
        size: m.len(),
        blocks: m.blocks(),
        atime: time(m.atime(), m.atime_nsec()),
        mtime: time(m.mtime(), m.mtime_nsec()),
        ctime: time(m.ctime(), m.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind,
        perm: (m.mode() & 0o7777) as u16,
        nlink: m.nlink() as u32,
        uid: m.uid(),
        gid: m.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Passing {
    /// Waits while frozen, then fails if a rule says so.
    fn gate(&self, call: Call, ino: u64) -> Result<(), Errno> {
        let mut s = self.0.state.lock().unwrap();
        while s.frozen {
            s = self.0.thawed.wait(s).unwrap();
        }
        let path = s.paths.get(&ino).map(|p| p.display().to_string()).unwrap_or_default();
        let Some(r) = s.rules.iter_mut().find(|r| r.call == call && r.count > 0 && path.contains(r.path)) else {
            return Ok(());
        };
        if r.after > 0 {
            r.after -= 1;
            return Ok(());
        }
        r.count -= 1;
        let e = r.errno;
        s.faults += 1;
        Err(errno(std::io::Error::from_raw_os_error(e)))
    }

    fn full(&self, ino: u64) -> Option<PathBuf> {
        self.0.state.lock().unwrap().paths.get(&ino).map(|p| self.0.root.join(p))
    }

    fn child(&self, parent: u64, name: &OsStr) -> Option<PathBuf> {
        self.0.state.lock().unwrap().paths.get(&parent).map(|p| p.join(name))
    }

    fn ino_of(&self, path: PathBuf) -> u64 {
        let mut s = self.0.state.lock().unwrap();
        if let Some(i) = s.inos.get(&path) {
            return *i;
        }
        let ino = s.next;
        s.next += 1;
        s.inos.insert(path.clone(), ino);
        s.paths.insert(ino, path);
        ino
    }

    fn entry(&self, path: PathBuf) -> Result<FileAttr, Errno> {
        let m = std::fs::symlink_metadata(self.0.root.join(&path)).map_err(errno)?;
        Ok(attr(self.ino_of(path), &m))
    }

    fn handle(&self, fh: FileHandle) -> Result<Arc<File>, Errno> {
        self.0.state.lock().unwrap().open.get(&fh.0).cloned().ok_or(Errno::EBADF)
    }

    fn opened(&self, f: File) -> FileHandle {
        let mut s = self.0.state.lock().unwrap();
        s.next += 1;
        let fh = s.next;
        s.open.insert(fh, Arc::new(f));
        FileHandle(fh)
    }

    /// Remembers what a change is about to overwrite.
    fn note(s: &mut State, ino: u64, f: &File, off: u64, new: &[u8], durable: bool) -> std::io::Result<()> {
        if durable && !s.changes.contains_key(&ino) {
            return Ok(());
        }
        let size = f.metadata()?.len();
        let mut old = vec![0; (size.saturating_sub(off) as usize).min(new.len())];
        f.read_exact_at(&mut old, off)?;
        s.changes.entry(ino).or_default().push(Change { off, old, new: new.to_vec(), size, durable });
        Ok(())
    }

    fn write_at(&self, ino: u64, fh: FileHandle, off: u64, data: &[u8], durable: bool) -> Result<(), Errno> {
        self.gate(Call::Write, ino)?;
        let f = self.handle(fh)?;
        let mut s = self.0.state.lock().unwrap();
        Self::note(&mut s, ino, &f, off, data, durable).and_then(|()| f.write_all_at(data, off)).map_err(errno)
    }

    fn resize(&self, ino: u64, size: u64) -> Result<(), Errno> {
        let path = self.full(ino).ok_or(Errno::ENOENT)?;
        let f = File::options().read(true).write(true).open(path).map_err(errno)?;
        let mut s = self.0.state.lock().unwrap();
        let before = f.metadata().map_err(errno)?.len();
        let mut old = vec![0; before.saturating_sub(size) as usize];
        f.read_exact_at(&mut old, size).or_else(|e| if old.is_empty() { Ok(()) } else { Err(e) }).map_err(errno)?;
        s.changes.entry(ino).or_default().push(Change {
            off: size,
            old,
            new: Vec::new(),
            size: before,
            durable: false,
        });
        f.set_len(size).map_err(errno)
    }
}

macro_rules! answer {
    ($reply:ident, $result:expr, $ok:expr) => {
        match $result {
            Ok(v) => $ok(v),
            Err(e) => $reply.error(e),
        }
    };
}

impl Filesystem for Passing {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.child(parent.0, name).ok_or(Errno::ENOENT).and_then(|p| self.entry(p));
        answer!(reply, found, |a| reply.entry(&TTL, &a, Generation(0)))
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let m = self.full(ino.0).ok_or(Errno::ENOENT).and_then(|p| std::fs::symlink_metadata(p).map_err(errno));
        answer!(reply, m, |m| reply.attr(&TTL, &attr(ino.0, &m)))
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = size.map_or(Ok(()), |n| self.resize(ino.0, n));
        let path = self.full(ino.0).ok_or(Errno::ENOENT);
        let m = done.and(path).and_then(|p| std::fs::symlink_metadata(p).map_err(errno));
        answer!(reply, m, |m| reply.attr(&TTL, &attr(ino.0, &m)))
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let made = self.child(parent.0, name).ok_or(Errno::ENOENT).and_then(|p| {
            std::fs::create_dir(self.0.root.join(&p)).map_err(errno)?;
            self.entry(p)
        });
        answer!(reply, made, |a| reply.entry(&TTL, &a, Generation(0)))
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let gone = self.child(parent.0, name).ok_or(Errno::ENOENT).and_then(|p| {
            std::fs::remove_file(self.0.root.join(&p)).map_err(errno)?;
            let mut s = self.0.state.lock().unwrap();
            if let Some(ino) = s.inos.remove(&p) {
                s.changes.remove(&ino);
                s.paths.remove(&ino);
            }
            Ok(())
        });
        answer!(reply, gone, |()| reply.ok())
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let gone = self.child(parent.0, name).ok_or(Errno::ENOENT);
        let gone = gone.and_then(|p| std::fs::remove_dir(self.0.root.join(p)).map_err(errno));
        answer!(reply, gone, |()| reply.ok())
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let both = self.child(parent.0, name).zip(self.child(to.0, new)).ok_or(Errno::ENOENT);
        let moved = both.and_then(|(from, to)| {
            std::fs::rename(self.0.root.join(&from), self.0.root.join(&to)).map_err(errno)?;
            let mut s = self.0.state.lock().unwrap();
            if let Some(over) = s.inos.remove(&to) {
                s.changes.remove(&over);
                s.paths.remove(&over);
            }
            if let Some(ino) = s.inos.remove(&from) {
                s.inos.insert(to.clone(), ino);
                s.paths.insert(ino, to);
            }
            Ok(())
        });
        answer!(reply, moved, |()| reply.ok())
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Always for reading too: what a write covers is read first. O_DIRECT and O_APPEND are the kernel's business.
        let f = self
            .full(ino.0)
            .ok_or(Errno::ENOENT)
            .and_then(|p| File::options().read(true).write(true).open(&p).or_else(|_| File::open(&p)).map_err(errno));
        answer!(reply, f, |f| reply.opened(self.opened(f), FopenFlags::FOPEN_DIRECT_IO))
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, flags: i32, reply: ReplyCreate) {
        let made = self.child(parent.0, name).ok_or(Errno::ENOENT).and_then(|p| {
            let mut how = File::options();
            how.read(true).write(true).create(true).truncate(flags & libc::O_TRUNC != 0);
            let f = how.open(self.0.root.join(&p)).map_err(errno)?;
            Ok((f, self.entry(p)?))
        });
        answer!(reply, made, |(f, a): (File, FileAttr)| {
            reply.created(&TTL, &a, Generation(0), self.opened(f), FopenFlags::FOPEN_DIRECT_IO)
        })
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        off: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.gate(Call::Read, ino.0).and_then(|()| self.handle(fh)).and_then(|f| {
            let mut buf = vec![0; size as usize];
            let mut n = 0;
            while n < buf.len() {
                match f.read_at(&mut buf[n..], off + n as u64).map_err(errno)? {
                    0 => break,
                    k => n += k,
                }
            }
            buf.truncate(n);
            Ok(buf)
        });
        answer!(reply, read, |b: Vec<u8>| reply.data(&b))
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        off: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let durable = flags.0 & libc::O_DSYNC != 0;
        answer!(reply, self.write_at(ino.0, fh, off, data, durable), |()| reply.written(data.len() as u32))
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok()
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.state.lock().unwrap().open.remove(&fh.0);
        reply.ok()
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = self.gate(Call::Sync, ino.0);
        if synced.is_ok() {
            self.0.state.lock().unwrap().changes.remove(&ino.0);
        }
        answer!(reply, synced, |()| reply.ok())
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok()
    }

    fn fallocate(&self, _: &Request, _: INodeNo, fh: FileHandle, off: u64, len: u64, mode: i32, reply: ReplyEmpty) {
        // Only to make room: what would change contents is refused, and the caller does without.
        let done = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => self.handle(fh).and_then(|f| {
                // SAFETY: a descriptor that is open.
                match unsafe { libc::fallocate(f.as_raw_fd(), mode, off as i64, len as i64) } {
                    0 => Ok(()),
                    _ => Err(errno(std::io::Error::last_os_error())),
                }
            }),
            _ => Err(Errno::EOPNOTSUPP),
        };
        answer!(reply, done, |()| reply.ok())
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, off: u64, mut reply: ReplyDirectory) {
        let Some(dir) = self.full(ino.0) else { return reply.error(Errno::ENOENT) };
        let mut names: Vec<(std::ffi::OsString, FileType)> =
            vec![(".".into(), FileType::Directory), ("..".into(), FileType::Directory)];
        for e in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let kind = if e.path().is_dir() { FileType::Directory } else { FileType::RegularFile };
            names.push((e.file_name(), kind));
        }
        names[2..].sort_by(|a, b| a.0.cmp(&b.0));
        for (i, (name, kind)) in names.into_iter().enumerate().skip(off as usize) {
            let child = if i < 2 { ino.0 } else { self.child(ino.0, &name).map_or(0, |p| self.ino_of(p)) };
            if reply.add(INodeNo(child), i as u64 + 1, kind, &name) {
                break;
            }
        }
        reply.ok()
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // Room enough: what does not fit is tested on a small file system of its own.
        reply.statfs(1 << 24, 1 << 24, 1 << 24, 1 << 20, 1 << 20, 4096, 255, 4096)
    }
}
