//! Bounds that hold under any load: memory, and a journal that is full and drains all the same
//! (C13).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::*;
use bytes::Bytes;
use hf_store::*;

/// Submits many more writes than fit, in bursts, and looks at the store after every completion.
fn overrun(w: &mut World, writes: u64, mut look: impl FnMut(&mut World)) {
    let mut submitted = 0;
    while submitted < writes || w.disk.pending() > 0 {
        let burst = if submitted < writes { w.rng.below(64) } else { 0 };
        for _ in 0..burst {
            let r = w.range(15);
            if w.free(r) {
                w.write(r);
                submitted += 1;
            }
            let read = w.range(4);
            if w.free(read) && w.rng.one_in(8) {
                w.read(read);
            }
        }
        for _ in 0..1 + w.rng.below(40) {
            w.complete_one();
            look(w);
        }
    }
    w.quiesce();
}

#[test]
fn memory_keeps_its_bounds_whatever_comes() {
    for seed in 0..6 {
        let cfg = Config {
            overlay_bytes: 1 << 20,
            cached_pages: 16,
            groups_in_flight: 3,
            destage_jobs: 4,
            ..Config::default()
        };
        let mut w = World::with(seed, 96 << 20, 16 << 20, cfg);
        w.every = 50;
        let mut most = 0;
        overrun(&mut w, 3000, |w| {
            let s = w.store.stats();
            most = most.max(s.overlay_bytes);
            // One operation more, the one that found the last free byte: 15 blocks here.
            assert!(s.overlay_bytes <= (1 << 20) + 15 * 4096, "{s:?}");
            assert!(s.cached_pages <= 16, "{s:?}");
            assert!((1..=4).contains(&s.destage_allowed), "{s:?}");
        });
        let s = w.store.stats();
        assert!(most > 1 << 19 && s.stalls > 0, "it was never near its bound: {most} {s:?}");
    }
}

#[test]
fn a_full_journal_drains_and_trims_and_deletes_fit_into_it() {
    for seed in 0..6 {
        // The overlay is no limit here: only the journal is.
        let cfg = Config {
            overlay_bytes: 256 << 20,
            cached_pages: 16,
            groups_in_flight: 3,
            destage_jobs: 4,
            ..Config::default()
        };
        let mut w = World::with(seed, 64 << 20, 4 << 20, cfg);
        w.every = 50;
        let (mut fullest, mut while_full) = (0, 0);
        overrun(&mut w, 4000, |w| {
            let s = w.store.stats();
            fullest = fullest.max(s.journal_used);
            if s.journal_used * 10 > s.journal_bytes * 8 && w.rng.one_in(50) {
                while_full += 1;
                let r = w.range(256);
                if w.free(r) {
                    w.zero(r);
                }
                w.submit(Op::UpdateReplica(ReplicaRec { hint_epoch: 2, ..rec() }), "update");
            }
        });
        let s = w.store.stats();
        assert!(fullest * 10 > s.journal_bytes * 9 && while_full > 3, "the journal was never full: {fullest} of {s:?}");
        w.submit(Op::DeleteReplica { rid: RID }, "delete");
        w.quiesce();
        w.submit(Op::Checkpoint, "checkpoint");
        w.quiesce();
        let s = w.store.stats();
        assert!(w.store.is_clean() && s.units_free == s.units_total, "{s:?}");
        assert_eq!(w.failed, None);
    }
}

/// While groups take much longer beside destaging than without, one chunk at a time goes in place;
/// when they do not, many.
#[test]
fn destaging_gives_way_to_a_foreground_that_suffers() {
    let most_at_once = |beside: u64| {
        let cfg = Config {
            overlay_bytes: 64 << 20,
            cached_pages: 64,
            groups_in_flight: 1,
            destage_jobs: 8,
            ..Config::default()
        };
        let mut w = World::with(3, 96 << 20, 16 << 20, cfg);
        w.every = 50;
        w.took = Some(200);
        let (mut at_once, mut steady) = (0, 0);
        for i in 0..30_000u64 {
            let r = hf_policy::BlockRange::new((i * 37) % BLOCKS, 1);
            if w.free(r) {
                w.write(r);
            }
            while w.store.stats().waiting > 0 || w.flights.len() > 4 {
                w.complete_one();
            }
            let s = w.store.stats();
            w.took = Some(if s.destaging > 0 { beside } else { 200 });
            // From the third checkpoint on it has learned, and is not yet forced by how full it is.
            let part = |used: u64, of: u64| used * 1000 / of;
            let fill = part(s.overlay_bytes, 64 << 20).max(part(s.journal_used, s.journal_bytes));
            if s.checkpoints >= 3 && s.destaging > 0 && fill < 520 {
                at_once = at_once.max(s.destaging);
                steady += 1;
            }
        }
        assert!(steady > 20, "it was hardly ever looked at: {steady} {:?}", w.store.stats());
        at_once
    };
    let (suffers, does_not) = (most_at_once(5_000), most_at_once(200));
    assert!(suffers <= 3 && does_not >= 6, "{suffers} at once beside a foreground that suffers, {does_not} else");
}

/// With the default configuration, and as much dirty as the overlay takes, in pieces that no two of
/// can be written together.
#[test]
fn a_checkpoint_queues_no_more_at_once_than_a_ring_takes() {
    let mut w = World::with(1, 256 << 20, 16 << 20, Config::default());
    w.every = 50;
    let blocks = (0..BLOCKS).step_by(2);
    for block in blocks {
        w.write(hf_policy::BlockRange::new(block, 1));
    }
    w.quiesce();
    assert_eq!(w.store.stats().overlay_bytes, BLOCKS / 2 * 4096, "all of it waits to be destaged");
    w.submit(Op::Checkpoint, "checkpoint");
    let mut most = w.disk.pending();
    while w.complete_one() {
        most = most.max(w.disk.pending());
    }
    w.quiesce();
    assert!((64..=16 * 16 + 16).contains(&most), "{most} operations of the disk at once");
}

/// Reads of a disk, counted.
struct Counted<'a>(&'a mut hf_store::sim::SimDisk, usize);

impl RawDisk for Counted<'_> {
    fn size(&self) -> u64 {
        RawDisk::size(self.0)
    }
    fn read(&mut self, off: u64, len: usize) -> Result<Bytes, DiskError> {
        self.1 += 1;
        RawDisk::read(self.0, off, len)
    }
    fn write(&mut self, off: u64, data: &[u8]) -> Result<(), DiskError> {
        RawDisk::write(self.0, off, data)
    }
    fn sync(&mut self) -> Result<(), DiskError> {
        RawDisk::sync(self.0)
    }
}

/// A large disk: its index is read in large pieces, and the first checkpoint, which writes all of
/// the other half, never holds more than a few MiB of it.
#[test]
fn a_large_index_is_read_and_written_in_pieces() {
    let mut w = World::with(1, 1 << 40, 8 << 20, Config::default());
    let pages = w.store.superblock().geometry.index_pages() as usize;
    assert!(pages > 12_000, "{pages}");
    let mut counted = Counted(&mut w.disk, 0);
    let store = recovery::open(&mut counted, Config::default()).unwrap();
    assert!(counted.1 < pages / 256 + 32, "{} reads of {pages} pages", counted.1);
    drop(store);
    w.submit(Op::Checkpoint, "checkpoint");
    let (mut most, mut all) = (0, 0);
    while let Some((tag, result)) = w.disk.complete(0) {
        let mut out = Vec::new();
        w.store.step(Input::DiskDone { tag, result }, &mut out);
        let mut step = 0;
        for o in out {
            if let Output::Disk { tag, op } = o {
                if let DiskOp::Write { bufs, .. } = &op {
                    step += bufs.iter().map(Bytes::len).sum::<usize>();
                }
                w.disk.submit(tag, op);
            }
        }
        most = most.max(step);
        all += step;
    }
    w.store.check();
    assert!(all > 12_000 * 4096, "{all}");
    assert!(most <= 4 << 20, "{most} bytes in one step");
}
