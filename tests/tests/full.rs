//! A small file system that something else fills to the last byte, with a node's metadata and its disk on it: clients notice
//! nothing, the metadata goes on from its reserve, a restart works, and what was given up comes back when there is space.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, LoopDevice, http_get, tool, tool_ok, until};
use hf_tests::nbd::Nbd;
use hf_tests::user::{StopAtEnd, Witness, nothing_failed};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// An ext4 of its own on a loop device of ours.
struct SmallFs {
    device: LoopDevice,
    at: PathBuf,
}

impl SmallFs {
    fn new(dir: &Path, bytes: u64) -> SmallFs {
        let (file, at) = (dir.join("small.img"), dir.join("small"));
        std::fs::create_dir(&at).unwrap();
        let fs = SmallFs { device: LoopDevice::new(&file, bytes), at };
        tool_ok("mkfs.ext4", &["-q", "-F", "-m", "0", &fs.device.0]);
        tool_ok("mount", &[&fs.device.0, fs.at.to_str().unwrap()]);
        fs
    }

    /// Somebody else's file takes all that is left; returns how much that was.
    fn fill(&self) -> usize {
        let mut f = std::fs::OpenOptions::new().create(true).append(true).open(self.at.join("somebody-elses")).unwrap();
        let mut taken = 0;
        for size in [1 << 20, 4096, 1] {
            let block = vec![0x5a; size];
            while let Ok(n) = f.write(&block) {
                taken += n;
            }
        }
        let _ = f.sync_all();
        taken
    }

    fn free(&self) {
        std::fs::remove_file(self.at.join("somebody-elses")).unwrap();
    }
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        let _ = tool("umount", &["-l", self.at.to_str().unwrap()]);
    }
}

fn health(addr: &str) -> Result<String, String> {
    http_get(addr, "/healthz")
}

#[test]
fn a_full_file_system_stops_neither_clients_nor_changes() {
    let outside = tempfile::tempdir().unwrap();
    let fs = SmallFs::new(outside.path(), 400 << 20);
    let mut c = Cluster::prepared(1, |n| {
        n.data_dir = fs.at.join("data");
        n.disk = fs.at.join("disk");
        std::fs::create_dir(&n.disk).unwrap();
        n.disk_size = "128MiB".into();
    });
    let reserve = fs.at.join("data/reserve");
    assert_eq!(std::fs::metadata(&reserve).unwrap().len(), 64 << 20);
    c.ok(&["volume", "create", "v", "size=32MiB", "replicas=1"]);
    c.ok(&["volume", "attach", "v"]);
    let w = Witness::default();
    let connect = |c: &Cluster| until("the export", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
    let mut nbd = connect(&c);
    let stop = AtomicBool::new(false);
    let worked = std::thread::scope(|s| {
        let (flag, end) = (&stop, StopAtEnd(&stop));
        let user = s.spawn(|| w.work(&mut nbd, flag));
        assert!(fs.fill() > 8 << 20);
        // Many changes: the log grows, RocksDB flushes and compacts.
        for round in 0..150 {
            let name = format!("t{round}");
            c.ok(&["volume", "create", &name, "size=16MiB", "replicas=1"]);
            c.ok(&["volume", "delete", &name]);
        }
        // Whichever comes first: a write of the log that finds no space, or the daemon's own look.
        until("the reserve to be given up", || {
            let log = c.nodes[0].log();
            let said = log.contains("the reserve of 64 MiB was given up; free space there now");
            if said && !reserve.exists() { Ok(()) } else { Err(log) }
        });
        assert!(health(&c.nodes[0].http).unwrap().contains("almost full"));
        // Everything the volume may hold fits, whatever the file system says: its disk's space was taken when it was made.
        let mut n = connect(&c);
        for i in 24..32 {
            n.write(i << 20, &vec![i as u8; 1 << 20]).unwrap();
        }
        drop(end);
        user.join().unwrap()
    });
    nothing_failed(&[worked], "the file system was full");
    // There is space again: so is the reserve.
    fs.free();
    until("the reserve to be back", || if reserve.exists() { Ok(()) } else { Err(c.nodes[0].log()) });
    assert!(!health(&c.nodes[0].http).unwrap().contains("almost full"));
    // The power goes at the worst moment: full, the reserve still there. It comes up by giving it up.
    // SAFETY: a child of ours that has not been waited for.
    unsafe { libc::kill(c.nodes[0].pid().unwrap() as i32, libc::SIGSTOP) };
    fs.fill();
    assert!(reserve.exists());
    c.nodes[0].kill();
    c.nodes[0].start();
    let mut n = connect(&c);
    for i in 24..32u8 {
        assert!(n.read(u64::from(i) << 20, 1 << 20).unwrap() == vec![i; 1 << 20]);
    }
    assert!(!reserve.exists());
    c.ok(&["volume", "create", "last", "size=16MiB", "replicas=1"]);
    c.nodes[0].stop();
}
