//! Small file systems that something else fills to the last byte, each with a node's metadata and
//! its disk. Clients notice nothing, the metadata goes on from its reserve, a restart works, and
//! the reserve returns when there is space. On one node, and on three at once.
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
        std::fs::create_dir_all(&at).unwrap();
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
    full_on_all(1);
}

/// The same on all three nodes at once: no voter has space, and none of a volume's replicas.
#[test]
fn three_full_file_systems_stop_neither_clients_nor_changes() {
    full_on_all(3);
}

fn full_on_all(nodes: usize) {
    let outside = tempfile::tempdir().unwrap();
    let all: Vec<SmallFs> = (0..nodes).map(|i| SmallFs::new(&outside.path().join(format!("{i}")), 400 << 20)).collect();
    let mut at = all.iter();
    let mut c = Cluster::prepared(nodes, |n| {
        let fs = at.next().unwrap();
        n.data_dir = fs.at.join("data");
        n.disk = fs.at.join("disk");
        std::fs::create_dir(&n.disk).unwrap();
        n.disk_size = "128MiB".into();
    });
    let reserves: Vec<PathBuf> = all.iter().map(|fs| fs.at.join("data/reserve")).collect();
    reserves.iter().for_each(|r| assert_eq!(std::fs::metadata(r).unwrap().len(), 64 << 20));
    let replicas = format!("replicas={nodes}");
    c.ok(&["volume", "create", "v", "size=32MiB", &replicas]);
    c.ok(&["volume", "attach", "v", "--node", "n1"]);
    let w = Witness::default();
    let connect = |c: &Cluster| until("the export", || Nbd::connect(&c.nodes[0].nbd, "v").map_err(|e| e.to_string()));
    let mut nbd = connect(&c);
    let stop = AtomicBool::new(false);
    let worked = std::thread::scope(|s| {
        let (flag, end) = (&stop, StopAtEnd(&stop));
        let user = s.spawn(|| w.work(&mut nbd, flag));
        all.iter().for_each(|fs| assert!(fs.fill() > 8 << 20));
        // Many changes: the log grows, RocksDB flushes and compacts.
        for round in 0..150 {
            let name = format!("t{round}");
            c.ok(&["volume", "create", &name, "size=16MiB", &replicas]);
            c.ok(&["volume", "delete", &name]);
        }
        // Whichever comes first: a write of the log that finds no space, or the daemon's own look.
        for (n, reserve) in c.nodes.iter().zip(&reserves) {
            until("the reserve to be given up", || {
                let log = n.log();
                let said = log.contains("the reserve of 64 MiB was given up; free space there now");
                if said && !reserve.exists() { Ok(()) } else { Err(log) }
            });
            assert!(health(&n.http).unwrap().contains("almost full"));
        }
        // Everything the volume may hold fits, whatever the file system says: its disk's space was
        // taken when it was made.
        let mut n = connect(&c);
        for i in 24..32 {
            n.write(i << 20, &vec![i as u8; 1 << 20]).unwrap();
        }
        drop(end);
        user.join().unwrap()
    });
    nothing_failed(&[worked], "the file system was full");
    // There is space again: so is the reserve.
    for (fs, (n, reserve)) in all.iter().zip(c.nodes.iter().zip(&reserves)) {
        fs.free();
        until("the reserve to be back", || if reserve.exists() { Ok(()) } else { Err(n.log()) });
        assert!(!health(&n.http).unwrap().contains("almost full"));
    }
    power_goes(&mut c, &all);
    let mut n = connect(&c);
    for i in 24..32u8 {
        assert!(n.read(u64::from(i) << 20, 1 << 20).unwrap() == vec![i; 1 << 20]);
    }
    assert!(reserves.iter().all(|r| !r.exists()));
    c.ok(&["volume", "create", "last", "size=16MiB", &replicas]);
    let whole = || {
        let v = c.volume("v");
        let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
        if all.values().all(|r| r["state"] == "in_sync") { Ok(()) } else { Err(v.to_string()) }
    };
    until("all replicas to be in sync", whole);
    c.nodes.iter_mut().for_each(|n| n.stop());
}

/// The power goes at the worst moment: full, the reserve still there. They come up by giving it up.
fn power_goes(c: &mut Cluster, all: &[SmallFs]) {
    for (n, fs) in c.nodes.iter().zip(all) {
        // SAFETY: a child of ours that has not been waited for.
        unsafe { libc::kill(n.pid().unwrap() as i32, libc::SIGSTOP) };
        fs.fill();
        assert!(fs.at.join("data/reserve").exists());
    }
    c.nodes.iter_mut().for_each(|n| n.kill());
    c.nodes.iter_mut().for_each(|n| n.start());
}
