//! The pass-through itself: every call goes to the directory behind, past the rules and the memory
//! of what is not synced.

use super::{Call, Change, Shared, State};
use fuser::*;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TTL: Duration = Duration::from_secs(1);

pub(super) struct Passing(pub(super) Arc<Shared>);

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

    /// Fails if a sector there cannot be read; a write makes it readable.
    fn sectors(&self, write: bool, ino: u64, off: u64, len: u64) -> Result<(), Errno> {
        let mut s = self.0.state.lock().unwrap();
        if s.unreadable.is_empty() {
            return Ok(());
        }
        let path = s.paths.get(&ino).map(|p| p.display().to_string()).unwrap_or_default();
        let hit = |(of, at): &(&str, u64)| path.contains(of) && *at < off + len && off < *at + 4096;
        if write {
            s.unreadable.retain(|u| !hit(u));
        } else if s.unreadable.iter().any(hit) {
            s.faults += 1;
            return Err(Errno::EIO);
        }
        Ok(())
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

    /// Remembers the bytes that a change is about to overwrite.
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
        self.sectors(true, ino, off, data.len() as u64)?;
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
        let whole = self.gate(Call::Read, ino.0).and_then(|()| self.sectors(false, ino.0, off, size.into()));
        let read = whole.and_then(|()| self.handle(fh)).and_then(|f| {
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
