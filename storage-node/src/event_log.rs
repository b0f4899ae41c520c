//! The events of the last 30 days, on each node: a file of JSON lines for each day in `data_dir/events`.
//!
//! The record keeps the last 2,048 events only, so that a flood would push out what caused it. Here a flood of one day
//! takes no room from other days; and once a day's file has [`DAY_BYTES`], it takes warnings and errors only, up to
//! twice that. A line that cannot be read (the node lost power while it was written) is passed over.

use hf_control::model::time;
use hf_meta_core::record::{Event, EventKind, Severity};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Bytes of a day's file up to which every event is written.
const DAY_BYTES: u64 = 8 << 20;
/// Days that are kept.
const DAYS: usize = 30;
/// How a file's name begins; the version of its format stands in it.
const PREFIX: &str = "v1-";

/// The files of a node's events.
pub struct EventLog {
    dir: PathBuf,
    /// Revision of the newest event that is written.
    newest: u64,
}

impl EventLog {
    /// Opens the files, or begins with none.
    pub fn open(data_dir: &Path) -> std::io::Result<EventLog> {
        let dir = data_dir.join("events");
        std::fs::create_dir_all(&dir)?;
        let mut log = EventLog { dir, newest: 0 };
        // The newest file may hold no whole line; then the one before it counts.
        for path in log.files().into_iter().rev() {
            let newest = lines(&path).map(|e| e.rev).max();
            if let Some(rev) = newest {
                log.newest = rev;
                break;
            }
        }
        Ok(log)
    }

    /// The files, the oldest first.
    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let ours = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(PREFIX));
        let mut files: Vec<PathBuf> = entries.map(|e| e.path()).filter(ours).collect();
        files.sort();
        files
    }

    /// Writes what is newer than what is written. Events of one revision are written together or not at all.
    pub fn write<'a>(&mut self, events: impl Iterator<Item = &'a Event>) -> std::io::Result<()> {
        let mut open: Option<(String, File, u64)> = None;
        for e in events.filter(|e| e.rev > self.newest).collect::<Vec<_>>() {
            let day = time(e.at_ms).unwrap_or_else(|| "1970-01-01".into())[..10].to_string();
            if open.as_ref().is_none_or(|(d, ..)| *d != day) {
                let path = self.dir.join(format!("{PREFIX}{day}.jsonl"));
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                let bytes = file.metadata()?.len();
                open = Some((day, file, bytes));
            }
            let Some((_, file, bytes)) = &mut open else { continue };
            let grave = EventKind::parse(&e.kind).is_some_and(|k| k.severity() != Severity::Info);
            if *bytes < DAY_BYTES || grave && *bytes < 2 * DAY_BYTES {
                let mut line = serde_json::to_vec(e)?;
                line.push(b'\n');
                file.write_all(&line)?;
                *bytes += line.len() as u64;
            }
            self.newest = self.newest.max(e.rev);
        }
        if open.is_some() {
            let files = self.files();
            for old in files.iter().take(files.len().saturating_sub(DAYS)) {
                std::fs::remove_file(old)?;
            }
        }
        Ok(())
    }

    /// At most `limit` events after a revision that `fits`, the oldest first.
    pub fn read(&self, after: u64, limit: usize, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut found = VecDeque::new();
        for path in self.files() {
            found.extend(lines(&path).filter(|e| e.rev > after && fits(e)).take(limit.saturating_sub(found.len())));
            if found.len() >= limit {
                break;
            }
        }
        found.into()
    }
}

/// The events of a file.
fn lines(path: &Path) -> impl Iterator<Item = Event> {
    let file = File::open(path).ok().map(BufReader::new);
    let lines = file.into_iter().flat_map(|f| f.lines().map_while(Result::ok));
    lines.filter_map(|l| serde_json::from_str(&l).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn event(rev: u64, at_ms: u64, kind: &str) -> Event {
        Event { rev, at_ms, kind: kind.into(), subject: "v".into(), text: "x".repeat(900) }
    }

    #[test]
    fn a_flood_erases_no_cause_and_thirty_days_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = EventLog::open(dir.path()).unwrap();
        let grave = EventKind::ALL.iter().find(|k| k.severity() != Severity::Info).unwrap().as_str();
        let light = EventKind::ALL.iter().find(|k| k.severity() == Severity::Info).unwrap().as_str();
        let cause = event(1, 100 * DAY_MS, grave);
        log.write([&cause].into_iter()).unwrap();
        let flood: Vec<Event> = (2..30_000).map(|rev| event(rev, 100 * DAY_MS + rev, light)).collect();
        log.write(flood.iter()).unwrap();
        log.write([&event(30_000, 101 * DAY_MS - 1, grave)].into_iter()).unwrap();
        let path = log.files().pop().unwrap();
        let bytes = std::fs::metadata(&path).unwrap().len();
        assert!((DAY_BYTES..DAY_BYTES + 4096).contains(&bytes), "{bytes}");
        let found = log.read(0, 100_000, |e| e.kind == grave);
        assert_eq!(found.iter().map(|e| e.rev).collect::<Vec<_>>(), [1, 30_000]);
        assert_eq!(log.read(0, 3, |_| true).iter().map(|e| e.rev).collect::<Vec<_>>(), [1, 2, 3]);
        for day in 1..40 {
            log.write([&event(30_000 + day, (100 + day) * DAY_MS, light)].into_iter()).unwrap();
        }
        assert_eq!(log.files().len(), DAYS);
        // It goes on where it was, over a torn line.
        OpenOptions::new().append(true).open(log.files().pop().unwrap()).unwrap().write_all(b"{\"rev\":99").unwrap();
        let mut again = EventLog::open(dir.path()).unwrap();
        assert_eq!(again.newest, 30_039);
        again.write([&event(30_039, 139 * DAY_MS, light), &event(30_040, 140 * DAY_MS, light)].into_iter()).unwrap();
        assert_eq!(again.read(30_038, 10, |_| true).iter().map(|e| e.rev).collect::<Vec<_>>(), [30_039, 30_040]);
    }
}
