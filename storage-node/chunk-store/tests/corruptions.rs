//! Corruption of every structure (hazards 15): a zeroed sector, a zeroed block, two blocks
//! exchanged, an older block put back, a write that went to the wrong place. Each is refused when
//! the disk is opened, or what it hit is reported as bad, or it hit bytes that are not in use;
//! wrong or older content never comes back, not even after the store has gone on and destaged
//! (C12).
//!
//! What no store can see by itself:
//! - the last journal group: nothing after it says that it was durable, so that its loss looks like
//!   a write that the power cut short. The disk is then as it was just before that group, whole. (A
//!   test below pins that.)
//! - a whole older image: it is a consistent disk. Its journal's position tells
//!   (`Store::position`); the replica's promise and the nodes that remember it do the rest
//!   (`tests/tests/put_back.rs`).
// (Two threads of the test share what they find; the store has no lock.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_types)]

use crate::common::*;
use bytes::Bytes;
use hf_policy::*;
use hf_store::format::page::BlockState;
use hf_store::geometry::Geometry;
use hf_store::sim::{Rng, SimDisk};
use hf_store::*;
use std::collections::BTreeMap;
use std::sync::Mutex;

type Truth = BTreeMap<u64, BlockContent>;

/// A used disk, what it holds, and itself at earlier times.
struct Used {
    disk: SimDisk,
    geometry: Geometry,
    /// Blocks of the journal that are in force.
    live: Vec<u64>,
    truth: Truth,
    promised: Term,
    /// What it held before the last journal group.
    before: Truth,
    position: u64,
    older: Vec<SimDisk>,
}

/// Random work, checkpoints, and some single writes that are only in the journal.
fn used(seed: u64) -> Used {
    let mut w = World::new(seed, 24 << 20);
    let mut older = Vec::new();
    for round in 0..3 {
        for _ in 0..150 {
            w.random_step();
        }
        // The same places in every round, so that there are older versions of them.
        for i in 0..6 {
            w.quiesce();
            w.write(BlockRange::new(i * 256 + 7, 3));
        }
        w.write(BlockRange::new(512, 16));
        w.quiesce();
        w.submit(Op::Checkpoint, "checkpoint");
        w.quiesce();
        if round < 2 {
            older.push(w.disk.clone());
        }
    }
    let mut before = w.acked.clone();
    for i in 0..32 {
        before = w.acked.clone();
        let at = i % 8 * 256 + 8;
        match i / 8 {
            0 => w.write(BlockRange::new(at, 2)),
            1 => w.copy(BlockRange::new(at, 2)),
            2 => w.zero(BlockRange::new(at, 1)),
            _ => w.write(BlockRange::new(at + 1, 2)),
        }
        w.quiesce();
        if i == 13 {
            older.push(w.disk.clone());
        }
    }
    let geometry = w.store.superblock().geometry;
    let mut live = Vec::new();
    recovery::journal(&mut w.disk, |off, bytes, _| {
        live.extend((0..bytes / BLOCK_BYTES).map(|i| (hf_store::geometry::JOURNAL_OFF + off) / BLOCK_BYTES + i));
    })
    .unwrap();
    let position = w.store.position();
    Used { geometry, live, truth: w.acked, promised: Term(w.term), before, position, disk: w.disk, older }
}

const STRUCTURES: [&str; 5] = ["superblock", "journal", "index", "chunk page", "data"];

fn structure(g: &Geometry, block: u64) -> usize {
    let off = block * BLOCK_BYTES;
    match off {
        _ if off < hf_store::geometry::JOURNAL_OFF => 0,
        _ if off < g.index_off(0) => 1,
        _ if off < g.page_off(0, 0) => 2,
        _ if off < g.data_off() => 3,
        _ => 4,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ZeroedSector,
    ZeroedBlock,
    Swapped,
    Stale,
    Misdirected,
}

/// What became of one corruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// The disk is not opened.
    Refused,
    /// Blocks are reported as bad.
    Reported,
    /// Nothing in use was hit: everything reads right.
    Harmless,
    /// The last journal group is gone, as if the power had cut it short.
    LastGroup,
}

/// Does a store show this, apart from blocks that it reports as bad? How many are bad, then.
fn shows(disk: &mut SimDisk, store: &mut Store, truth: &Truth) -> Result<usize, String> {
    let mut bad = 0;
    for (b, (info, data)) in read_all(disk, store, RID) {
        let (ver, want) = truth.get(&b).cloned().unwrap_or((Ver::ZERO, None));
        let right = match want {
            _ if info.state.is_bad() => {
                bad += 1;
                true
            }
            Some(bytes) => info.ver == ver && data == bytes,
            None => info.state != BlockState::Data && data.iter().all(|x| *x == 0),
        };
        if !right {
            return Err(format!("block {b} holds {info:?} {:02x?}, not {ver}", &data[..16]));
        }
    }
    Ok(bad)
}

/// Opens a damaged disk, reads all of it, lets the store go on (writes beside what may be damaged,
/// a checkpoint), and reads again.
fn fate(mut disk: SimDisk, used: &Used) -> Result<Fate, String> {
    let mut store = match recovery::open(&mut disk, config()) {
        Ok(s) => s,
        Err(OpenError::Damaged(_)) => return Ok(Fate::Refused),
        Err(e) => return Err(e.to_string()),
    };
    let lost = store.position() < used.position;
    if lost && store.position() + 1 != used.position {
        return Err(format!("journal group {} of {} was the last", store.position(), used.position));
    }
    let mut truth = if lost { used.before.clone() } else { used.truth.clone() };
    if store.replica(RID).map(|r| r.promised_term) != Some(used.promised) {
        return Err(format!("promised {:?} instead of {:?}", store.replica(RID), used.promised));
    }
    let bad = shows(&mut disk, &mut store, &truth)?;
    if bad > 0 || lost || disk.fingerprint().is_multiple_of(4) {
        go_on(&mut disk, &mut store, used.promised, &mut truth)?;
        let mut again = recovery::open(&mut disk, config()).map_err(|e| format!("after a checkpoint: {e}"))?;
        let after = shows(&mut disk, &mut again, &truth).map_err(|e| format!("after a checkpoint: {e}"))?;
        // (The eight blocks that were written may have been bad.)
        if after + 8 < bad {
            return Err(format!("{bad} bad blocks became {after} by themselves"));
        }
    }
    Ok(match (bad > 0, lost) {
        (true, _) => Fate::Reported,
        (false, true) => Fate::LastGroup,
        (false, false) => Fate::Harmless,
    })
}

/// One new block in every chunk, then a checkpoint. A store that latches its failure meanwhile has
/// said so.
fn go_on(disk: &mut SimDisk, store: &mut Store, term: Term, truth: &mut Truth) -> Result<(), String> {
    let mut out = Vec::new();
    store.start(&mut out);
    for chunk in 0..BLOCKS / 256 {
        let (block, ver) = (chunk * 256 + 9, Ver::new(term.0 + 1, chunk + 1));
        let data = tagged(chunk | 1 << 60, block);
        let op = Op::Write { rid: RID, ver, start: BlockIx(block), crcs: crc::payloads(&data), data: data.clone() };
        truth.insert(block, (ver, Some(data)));
        store.step(Input::Op { id: chunk, op }, &mut out);
        store.check();
    }
    let mut checkpointed = false;
    loop {
        for o in std::mem::take(&mut out) {
            match o {
                Output::Disk { tag, op } => disk.submit(tag, op),
                Output::Done { result: Ok(_), .. } => {}
                other => return Err(format!("going on: {other:?}")),
            }
        }
        match disk.complete(0) {
            Some((tag, result)) => {
                store.step(Input::DiskDone { tag, result }, &mut out);
                store.check();
            }
            None if checkpointed => return Ok(()),
            None => {
                checkpointed = true;
                store.step(Input::Op { id: 99, op: Op::Checkpoint }, &mut out);
                store.check();
            }
        }
    }
}

/// A block at an earlier time, the latest that differs from now.
fn earlier(u: &Used, block: u64) -> Option<Bytes> {
    let now = u.disk.block(block);
    u.older.iter().rev().map(|d| d.block(block)).find(|b| *b != now)
}

/// Damages `block` (and another one, for some kinds); `None` if that would change nothing.
fn damage(u: &Used, kind: Kind, block: u64, other: u64, rng: &mut Rng) -> Option<SimDisk> {
    let mut disk = u.disk.clone();
    let now = u.disk.block(block);
    match kind {
        Kind::ZeroedSector => {
            let full: Vec<usize> = (0..8).filter(|s| now[s * 512..(s + 1) * 512].iter().any(|x| *x != 0)).collect();
            let at = 512 * *full.get(rng.below(full.len() as u64) as usize)?;
            let mut b = now.to_vec();
            b[at..at + 512].fill(0);
            disk.set_block(block, Bytes::from(b));
        }
        Kind::ZeroedBlock => disk.set_block(block, Bytes::from(vec![0; 4096])),
        Kind::Swapped => {
            disk.set_block(block, disk.block(other));
            disk.set_block(other, now);
        }
        Kind::Stale => disk.set_block(block, earlier(u, block)?),
        // What should have changed `block` changed `other`.
        Kind::Misdirected => {
            disk.set_block(block, earlier(u, block)?);
            disk.set_block(other, now);
        }
    }
    (disk.fingerprint() != u.disk.fingerprint()).then_some(disk)
}

/// At most so many blocks of each structure.
const EACH: usize = 40;

type Table = BTreeMap<(Kind, usize), BTreeMap<Fate, usize>>;

/// Blocks to damage: of each structure some, spread over it; of the journal those in force, and
/// some that are not.
fn targets(u: &Used) -> Vec<(usize, u64)> {
    let written = u.disk.written();
    let of = |s: usize| written.iter().copied().filter(move |b| structure(&u.geometry, *b) == s);
    let spread = |blocks: Vec<u64>, most: usize| {
        let step = blocks.len().div_ceil(most).max(1);
        blocks.into_iter().step_by(step).collect::<Vec<_>>()
    };
    let mut all: Vec<(usize, u64)> = Vec::new();
    for s in 0..STRUCTURES.len() {
        let (live, dead) = of(s).partition(|b| s != 1 || u.live.contains(b));
        all.extend(spread(live, EACH).into_iter().map(|b| (s, b)));
        all.extend(spread(dead, EACH / 4).into_iter().map(|b| (s, b)));
    }
    all
}

fn corrupt(seed: u64, table: &Mutex<Table>, wrong: &Mutex<Vec<String>>) {
    let u = used(300 + seed);
    let mut rng = Rng::new(seed);
    let written = u.disk.written();
    let targets = targets(&u);
    for (s, block) in &targets {
        let alike: Vec<u64> = targets.iter().filter(|(x, _)| x == s).map(|(_, b)| *b).collect();
        let alike = alike[rng.below(alike.len() as u64) as usize];
        let any = written[rng.below(written.len() as u64) as usize];
        let tries = [
            (Kind::ZeroedSector, 0),
            (Kind::ZeroedBlock, 0),
            (Kind::Swapped, alike),
            (Kind::Swapped, any),
            (Kind::Stale, 0),
            (Kind::Misdirected, alike),
            (Kind::Misdirected, any),
        ];
        for (kind, other) in tries {
            let Some(disk) = damage(&u, kind, *block, other, &mut rng) else { continue };
            match fate(disk, &u) {
                Ok(f) => *table.lock().unwrap().entry((kind, *s)).or_default().entry(f).or_default() += 1,
                Err(e) => {
                    let line = format!("seed {seed}, {kind:?} {} {block}, {other}: {e}", STRUCTURES[*s]);
                    wrong.lock().unwrap().push(line);
                }
            }
        }
    }
}

#[test]
fn no_corruption_of_any_structure_comes_back_as_content() {
    let seeds: u64 = std::env::var("HOLDFAST_CORRUPTION_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2);
    // SAFETY: sets two numbers of the allocator (as in `crash.rs`).
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 30);
    }
    let (table, wrong) = (Mutex::default(), Mutex::default());
    std::thread::scope(|s| {
        let part = |first: u64| (first..seeds).step_by(2).for_each(|seed| corrupt(seed, &table, &wrong));
        s.spawn(move || part(1));
        part(0);
    });
    let (table, wrong) = (table.into_inner().unwrap(), wrong.into_inner().unwrap());
    print(&table);
    assert!(wrong.is_empty(), "{} came through, for example\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
    let count = |f: Fate| -> usize { table.values().filter_map(|t| t.get(&f)).sum() };
    let injected: usize = table.values().flat_map(|t| t.values()).sum();
    let detected = count(Fate::Refused) + count(Fate::Reported);
    println!(
        "{injected} corruptions: {detected} detected, {} harmless, {} of the last journal group, 0 returned",
        count(Fate::Harmless),
        count(Fate::LastGroup)
    );
    assert!(injected >= 500 * seeds as usize && detected * 2 > injected, "{detected} of {injected}");
    // Every kind is seen in every structure but the superblock, which has copies.
    for ((kind, s), t) in &table {
        let seen = t.get(&Fate::Refused).unwrap_or(&0) + t.get(&Fate::Reported).unwrap_or(&0);
        assert!(*s == 0 || seen > 0, "{kind:?} of {} was never detected: {t:?}", STRUCTURES[*s]);
    }
}

fn print(table: &Table) {
    println!("{:13} {:11} injected  refused reported harmless last-group", "", "");
    for ((kind, s), t) in table {
        let n = |f| t.get(&f).copied().unwrap_or(0);
        let all: usize = t.values().sum();
        println!(
            "{:13} {:11} {all:8} {:8} {:8} {:8} {:10}",
            format!("{kind:?}"),
            STRUCTURES[*s],
            n(Fate::Refused),
            n(Fate::Reported),
            n(Fate::Harmless),
            n(Fate::LastGroup)
        );
    }
}

/// The one corruption of a journal in force that looks like a crash: it takes the disk back by
/// exactly one group, and nothing is mixed. What is older than that is refused.
#[test]
fn only_the_last_journal_group_can_be_lost_without_a_word() {
    let u = used(311);
    let mut groups = Vec::new();
    let mut disk = u.disk.clone();
    recovery::journal(&mut disk, |off, bytes, _| groups.push((off, bytes))).unwrap();
    assert!(groups.len() > 30, "{}", groups.len());
    for (i, (off, bytes)) in groups.iter().enumerate() {
        for b in 0..bytes / BLOCK_BYTES {
            let mut disk = u.disk.clone();
            disk.set_block((hf_store::geometry::JOURNAL_OFF + off) / BLOCK_BYTES + b, Bytes::from(vec![0; 4096]));
            let want = if i + 1 == groups.len() { Fate::LastGroup } else { Fate::Refused };
            assert_eq!(fate(disk, &u), Ok(want), "group {i} of {}, block {b}", groups.len());
        }
    }
}

/// A whole image of an earlier time is a disk like any other; only its position is behind.
#[test]
fn a_whole_older_image_is_told_by_its_position_alone() {
    let u = used(312);
    for older in &u.older {
        let mut disk = older.clone();
        let store = recovery::open(&mut disk, config()).unwrap();
        assert!(store.position() < u.position);
    }
}

/// A superblock write that was acknowledged and never reached the disk, both copies of it: what the
/// journal says since names a superblock that is not there.
#[test]
fn an_older_superblock_put_back_is_seen_by_what_was_written_since() {
    let u = used(313);
    for older in &u.older {
        let mut disk = u.disk.clone();
        (0..4).for_each(|b| disk.set_block(b, older.block(b)));
        if disk.fingerprint() != u.disk.fingerprint() {
            let fate = fate(disk, &u);
            assert!(matches!(fate, Ok(Fate::Refused)), "an older superblock was taken for the newest: {fate:?}");
        }
    }
    // Only the newest generation's two copies, back to the one that stood in their place.
    let generation = |b: u64| hf_store::format::superblock::Superblock::decode(&u.disk.block(b)).unwrap().generation;
    let first = if generation(0) > generation(2) { 0 } else { 2 };
    let mut disk = u.disk.clone();
    (first..first + 2).for_each(|b| disk.set_block(b, earlier(&u, b).unwrap()));
    let fate = fate(disk, &u);
    assert!(matches!(fate, Ok(Fate::Refused)), "{fate:?}");
}

/// The power goes while a superblock is written, after a group that was begun in the meantime
/// became durable: a torn superblock is what a crash leaves, not damage.
#[test]
fn a_superblock_torn_by_a_crash_does_not_condemn_the_disk() {
    for torn in 0..4u64 {
        let mut w = World::new(9, 24 << 20);
        w.write(BlockRange::new(0, 2));
        w.quiesce();
        w.submit(Op::Checkpoint, "checkpoint");
        // Until the checkpoint's superblock, and nothing else, is on its way.
        let before = w.store.superblock().generation;
        while w.store.superblock().generation == before {
            assert!(w.complete_one());
        }
        assert_eq!(w.disk.pending(), 1);
        w.write(BlockRange::new(4, 2));
        assert_eq!(w.disk.pending(), 2);
        let (tag, result) = w.disk.complete(1).unwrap();
        w.input(Input::DiskDone { tag, result });
        assert!(w.flights.is_empty(), "the write was answered");
        // Of the superblock's two copies one is torn, the other is as it was.
        let at = w.disk.volatile()[(torn % 2) as usize];
        let new = w.disk.block(at);
        w.disk.crash_keeping(|_| false);
        let old = w.disk.block(at);
        let cut = if torn < 2 { 512 } else { 64 };
        w.disk.set_block(at, Bytes::from([&new[..cut], &old[cut..]].concat()));
        let opened = recovery::open(&mut w.disk, config());
        let mut store = opened.unwrap_or_else(|e| panic!("torn {torn}: {e}"));
        let all = read_all(&mut w.disk, &mut store, RID);
        for (b, (ver, bytes)) in &w.acked {
            assert_eq!((all[b].0.ver, Some(&all[b].1)), (*ver, bytes.as_ref()), "torn {torn}: block {b}");
        }
    }
}
