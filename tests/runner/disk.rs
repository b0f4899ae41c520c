//! How much disk the running tests have in use, looked at every second: the blocks of all files
//! below their directories. What is mounted there is not entered (its backing file is below too).
//! Files that are deleted and still open are not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The most that was in use at a moment, in bytes: of all tests together, and of each by the name
/// of its directory.
#[derive(Default)]
pub struct Peaks {
    pub all: u64,
    pub of: BTreeMap<String, u64>,
}

/// Looks at a directory, whose entries are the tests' directories, until the process ends.
pub fn watch(root: PathBuf) -> Arc<Mutex<Peaks>> {
    let peaks = Arc::new(Mutex::new(Peaks::default()));
    let told = peaks.clone();
    std::thread::spawn(move || {
        loop {
            let mounted = mounts();
            let now: Vec<(String, u64)> = entries(&root)
                .map(|p| (p.file_name().unwrap_or_default().to_string_lossy().into_owned(), in_use(&p, &mounted)))
                .collect();
            let mut p = told.lock().unwrap();
            p.all = p.all.max(now.iter().map(|(_, n)| n).sum());
            for (name, n) in now {
                let most = p.of.entry(name).or_default();
                *most = (*most).max(n);
            }
            drop(p);
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    peaks
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path())
}

/// Where something is mounted: a file system of a test's that has stopped answering would hold up
/// whoever looks at it.
fn mounts() -> BTreeSet<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    text.lines().filter_map(|l| l.split(' ').nth(1)).map(PathBuf::from).collect()
}

/// Bytes in use below a path.
fn in_use(path: &Path, mounted: &BTreeSet<PathBuf>) -> u64 {
    if mounted.contains(path) {
        return 0;
    }
    match std::fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => entries(path).map(|p| in_use(&p, mounted)).sum(),
        Ok(m) => m.blocks() * 512,
        Err(_) => 0,
    }
}
