//! Formatting and opening a disk: what it holds after any crash.
//!
//! Opening writes nothing. Cases (each with a test in `tests/`):
//!
//! | superblock copies | decision |
//! | --- | --- |
//! | none has our magic | not ours: [`OpenError::NotOurs`] |
//! | magic, but no copy verifies | damaged: refuse |
//! | newest valid generation g, nothing says more | open g |
//! | a journal group names a durable superblock newer than g | that one was lost: refuse (its state is stale) |
//!
//! | journal at the expected group | decision |
//! | --- | --- |
//! | verifies and links | apply, go on behind it (or at 0, where it did not fit before the end) |
//! | does not | the end, if no group nearby claims that it was durable; else damaged: refuse |
//! | cannot be read | refuse: it may have been durable. (What lies behind the end and cannot be read claims nothing) |

use crate::disk::{DiskError, RawDisk};
use crate::engine::{Config, Store};
use crate::format::group::{Body, Group, MAX_GROUP_BYTES};
use crate::format::superblock::{Bad, JournalTail, Superblock};
use crate::format::{Salt, index};
use crate::geometry::{Geometry, JOURNAL_OFF, MIN_DISK};
use crate::mutant::{self, Mutant};
use bytes::Bytes;
use hf_policy::{BLOCK_SIZE, ClusterId, DiskUuid, LogAge, NodeId, crc};

mod load;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Largest number of unreadable sectors behind the journal's end. A disk with more is dying, and
/// each may take it seconds to report.
const MOST_UNREADABLE: usize = 16;

/// What a disk is formatted with.
#[derive(Clone, Copy, Debug)]
pub struct FormatParams {
    /// The cluster that the disk belongs to.
    pub cluster: ClusterId,
    /// The node that formats the disk.
    pub node: NodeId,
    /// The disk's identity, a random number.
    pub disk: DiskUuid,
    /// Size of the journal in bytes; by default 5 % of the disk, from 4 MiB to 1 GiB.
    pub journal: Option<u64>,
    /// The disk's salt, a random number. [`Salt::NONE`] makes a disk of format version 1, as older
    /// releases did.
    pub salt: Salt,
}

/// Why a disk cannot be opened or formatted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The device reported an error.
    #[error("the disk cannot be read: {0}")]
    Disk(#[from] DiskError),
    /// The disk holds no superblock of Holdfast.
    #[error("it holds no Holdfast store (no superblock)")]
    NotOurs,
    /// The disk has a format of a later release.
    #[error("it has format version {0}, this release knows up to {known}; upgrade this node", known = crate::format::FORMAT_VERSION)]
    TooNew(u32),
    /// The disk is damaged in a way that no crash explains.
    #[error("it is damaged: {0}; its replicas must be rebuilt from other nodes")]
    Damaged(String),
    /// The disk is too small; its size in bytes.
    #[error("it has {0} bytes; a disk needs at least {MIN_DISK}")]
    TooSmall(u64),
    /// The disk holds a store of this cluster already.
    #[error("it holds a store of cluster {0} already; remove that first if it is no longer needed")]
    InUse(ClusterId),
}

fn damaged<T>(why: impl Into<String>) -> Result<T, OpenError> {
    Err(OpenError::Damaged(why.into()))
}

/// The newest superblock of a disk. For formatting and for inspectors.
pub fn probe(disk: &mut dyn RawDisk) -> Result<Superblock, OpenError> {
    newest_superblock(disk).map(|(sb, _)| sb)
}

/// Writes an empty store. Refuses a disk that holds one.
pub fn format(disk: &mut dyn RawDisk, p: FormatParams) -> Result<Superblock, OpenError> {
    match probe(disk) {
        Err(OpenError::NotOurs) => {}
        Ok(sb) => return Err(OpenError::InUse(sb.cluster)),
        Err(e) => return Err(e),
    }
    let size = disk.size() / BLOCK * BLOCK;
    let geometry = Geometry::divide(size, p.journal).ok_or(OpenError::TooSmall(size))?;
    let zeros = vec![0u8; 1 << 20];
    let mut off = JOURNAL_OFF;
    let end = JOURNAL_OFF + geometry.journal_bytes;
    while off < end {
        let n = (end - off).min(zeros.len() as u64);
        disk.write(off, &zeros[..n as usize])?;
        off += n;
    }
    let mut crcs = Vec::new();
    for page in 0..geometry.index_pages() {
        let (block, c) = index::encode_page(p.disk, Salt::NONE, page, 1, &[]);
        crcs.push(c);
        disk.write(geometry.index_off(0) + u64::from(page) * BLOCK, &block)?;
    }
    disk.sync()?;
    let sb = Superblock {
        generation: 1,
        cluster: p.cluster,
        node: p.node,
        disk: p.disk,
        geometry,
        journal_gen: 1,
        tail: JournalTail { off: 0, seq: 1, prev_crc: 0 },
        half: 0,
        index_gen: 1,
        index_digest: index::digest(&crcs),
        log_age: LogAge::default(),
        salt: p.salt,
        salted_from: u64::from(!p.salt.is_none()),
        extensions: Vec::new(),
    };
    let block = sb.encode();
    disk.write(sb.offset(), &[block.clone(), block].concat())?;
    disk.sync()?;
    Ok(sb)
}

/// Reads twice: one error of a bus or a controller is no reason to give up a whole disk.
fn read(disk: &mut dyn RawDisk, off: u64, len: usize) -> Result<Bytes, DiskError> {
    disk.read(off, len).or_else(|_| disk.read(off, len))
}

/// The contents of the four places for copies of the superblock.
pub fn superblocks(disk: &mut dyn RawDisk) -> [Result<Superblock, Bad>; 4] {
    // (An unreadable copy counts as damaged; the other copies decide.)
    [0, 1, 2, 3].map(|i| read(disk, i * BLOCK, BLOCK_SIZE).map_or(Err(Bad::Damaged), |b| Superblock::decode(&b)))
}

/// The newest superblock that verifies, and whether any copy was damaged.
fn newest_superblock(disk: &mut dyn RawDisk) -> Result<(Superblock, bool), OpenError> {
    if disk.size() < MIN_DISK {
        return Err(OpenError::TooSmall(disk.size()));
    }
    let mut best: Option<Superblock> = None;
    let (mut any_damaged, mut too_new) = (false, None);
    for copy in superblocks(disk) {
        match copy {
            Ok(sb) if best.as_ref().is_none_or(|b| b.generation < sb.generation) => best = Some(sb),
            Ok(_) => {}
            Err(Bad::Damaged) => any_damaged = true,
            Err(Bad::TooNew(v)) => too_new = Some(v),
            Err(Bad::NotOurs) => {}
        }
    }
    match (best, too_new) {
        (_, Some(v)) => Err(OpenError::TooNew(v)),
        (Some(sb), None) if sb.geometry.disk_bytes > disk.size() => {
            damaged(format!("it was formatted with {} bytes and has {} now", sb.geometry.disk_bytes, disk.size()))
        }
        (Some(sb), None) => Ok((sb, any_damaged)),
        (None, None) if any_damaged => damaged("no superblock copy verifies"),
        (None, None) => Err(OpenError::NotOurs),
    }
}

/// Opens a disk and replays its journal. Writes nothing; [`Store::start`] must follow.
///
/// What was read must survive power loss before it counts, so the disk is synced first: a killed
/// process may have left writes in a cache (of the device or of the system) whose completion it
/// never saw.
pub fn open(disk: &mut dyn RawDisk, cfg: Config) -> Result<Store, OpenError> {
    if !mutant::is(Mutant::OpeningTrustsCaches) {
        disk.sync()?;
    }
    let (sb, any_damaged) = newest_superblock(disk)?;
    let mut store = load::index(disk, cfg, sb)?;
    let scan = replay(disk, &mut store, &mut |_, _, _| {})?;
    check_end(disk, &store, &scan, any_damaged)?;
    store.promise_after_replay();
    store.next_journal_gen(scan.journal_gen);
    Ok(store)
}

/// Walks the journal as opening does: calls `each` with every group in force, its offset in the
/// ring and its length in bytes. Returns why the walk ended early, if it did.
pub fn journal(disk: &mut dyn RawDisk, mut each: impl FnMut(u64, u64, &Group)) -> Result<Option<OpenError>, OpenError> {
    let (sb, any_damaged) = newest_superblock(disk)?;
    let mut store = load::index(disk, Config::default(), sb)?;
    let scan = replay(disk, &mut store, &mut each)?;
    Ok(check_end(disk, &store, &scan, any_damaged).err())
}

/// Where the scan of the journal stands.
struct Scan {
    tail: JournalTail,
    journal_gen: u64,
    newest_checkpoint: u64,
}

fn replay(
    disk: &mut dyn RawDisk,
    store: &mut Store,
    each: &mut dyn FnMut(u64, u64, &Group),
) -> Result<Scan, OpenError> {
    let mut scan = Scan { tail: store.superblock().tail, journal_gen: 0, newest_checkpoint: 0 };
    let ring = store.superblock().geometry.journal_bytes;
    loop {
        let next = read_group(disk, store, scan.tail.off, &scan)?.map(|x| (scan.tail.off, x));
        let found = match next {
            // (Only where a group of the largest size would not have fitted before the end.)
            None if scan.tail.off != 0 && scan.tail.off + MAX_GROUP_BYTES > ring => {
                read_group(disk, store, 0, &scan)?.map(|x| (0, x))
            }
            other => other,
        };
        let Some((off, (group, crc, payload, bytes))) = found else { return Ok(scan) };
        let mut at = 0;
        for rec in &group.records {
            let n = rec.payload_blocks() * BLOCK_SIZE;
            store.claim_for_replay(rec).map_err(OpenError::Damaged)?;
            store.apply(rec, payload.slice(at..at + n), group.seq).map_err(OpenError::Damaged)?;
            at += n;
        }
        each(off, bytes, &group);
        store.group_replayed(group.seq, off, bytes, crc);
        scan.newest_checkpoint = scan.newest_checkpoint.max(group.checkpoint);
        scan.journal_gen = group.journal_gen;
        scan.tail = JournalTail { off: off + bytes, seq: group.seq + 1, prev_crc: crc };
    }
}

type Found = (Group, u32, Bytes, u64);

/// The group at `off`, if it verifies and follows what was scanned so far.
fn read_group(disk: &mut dyn RawDisk, store: &Store, off: u64, scan: &Scan) -> Result<Option<Found>, OpenError> {
    let ring = store.superblock().geometry.journal_bytes;
    if off + BLOCK > ring {
        return Ok(None);
    }
    let first = read(disk, JOURNAL_OFF + off, BLOCK_SIZE)?;
    let salt = store.superblock().salt_of(scan.tail.seq);
    let Some(blocks) = Group::header_blocks(&first, salt) else { return Ok(None) };
    let header_bytes = blocks as u64 * BLOCK;
    if off + header_bytes > ring {
        return Ok(None);
    }
    let area = if blocks == 1 { first } else { read(disk, JOURNAL_OFF + off, header_bytes as usize)? };
    let Some((group, crc)) = Group::decode_header(&area, salt) else { return Ok(None) };
    let follows =
        group.seq == scan.tail.seq && group.prev_crc == scan.tail.prev_crc && group.journal_gen >= scan.journal_gen;
    let bytes = header_bytes + u64::from(group.payload_blocks) * BLOCK;
    if !follows || off + bytes > ring {
        return Ok(None);
    }
    let payload = if group.payload_blocks == 0 {
        Bytes::new()
    } else {
        let stored = read(disk, JOURNAL_OFF + off + header_bytes, group.payload_blocks as usize * BLOCK_SIZE)?;
        group.masked.unmask(&stored)
    };
    Ok(payload_verifies(&group, &payload, store).then_some((group, crc, payload, bytes)))
}

/// True if every payload block is the one its record means. Records of replicas that are gone are
/// not applied, so they are not verified.
fn payload_verifies(group: &Group, payload: &Bytes, store: &Store) -> bool {
    let mut blocks = payload.chunks_exact(BLOCK_SIZE);
    for rec in &group.records {
        let Body::Data { crcs } = &rec.body else { continue };
        let shard = store.replica(rec.rid).map(|r| r.shard);
        for (b, stored) in rec.range.iter().zip(crcs) {
            let Some(bytes) = blocks.next() else { return false };
            let Some(shard) = shard else { continue };
            let id = crc::Identity { shard, rid: rec.rid, block: b, ver: rec.ver };
            if id.seed(crc::payload(bytes)) != *stored {
                return false;
            }
        }
    }
    true
}

/// Verifies that the scan ended at the end of what was acknowledged.
fn check_end(disk: &mut dyn RawDisk, store: &Store, scan: &Scan, any_damaged: bool) -> Result<(), OpenError> {
    let sb = store.superblock();
    if scan.newest_checkpoint > sb.generation {
        return damaged("its newest superblock is lost");
    }
    // When the disk got its salt, every earlier group had been replayed. (So a disk that has a salt
    // never asks headers without one.)
    if scan.tail.seq < sb.salted_from {
        return damaged(format!("journal group {} was durable and cannot be read", scan.tail.seq));
    }
    let salt = sb.salt;
    let ring = sb.geometry.journal_bytes;
    // The groups that follow lie within a few group lengths behind the end, or at the ring's
    // beginning.
    let window = if any_damaged { ring } else { (3 * MAX_GROUP_BYTES).min(ring) };
    let mut unreadable = 0;
    let mut look = |from: u64, len: u64| -> Result<(), OpenError> {
        let mut off = from;
        while off < (from + len).min(ring) {
            let n = (1 << 20).min((from + len).min(ring) - off);
            let piece = read(disk, JOURNAL_OFF + off, n as usize);
            for i in 0..n / BLOCK {
                // (An unreadable sector there holds no group in force; the others decide.)
                let block = match &piece {
                    Ok(all) => Ok(all.slice((i * BLOCK) as usize..((i + 1) * BLOCK) as usize)),
                    Err(_) => read(disk, JOURNAL_OFF + off + i * BLOCK, BLOCK_SIZE),
                };
                let block = match block {
                    Err(e) if unreadable == MOST_UNREADABLE => return Err(e.into()),
                    Err(_) => {
                        unreadable += 1;
                        continue;
                    }
                    Ok(block) => block,
                };
                let Some(blocks) = Group::header_blocks(&block, salt) else { continue };
                let at = off + i * BLOCK;
                if at + blocks as u64 * BLOCK > ring {
                    continue;
                }
                let Ok(area) = read(disk, JOURNAL_OFF + at, blocks * BLOCK_SIZE) else { continue };
                let Some((g, _)) = Group::decode_header(&area, salt) else { continue };
                let newer = g.journal_gen >= scan.journal_gen && g.seq > scan.tail.seq;
                if newer && g.acked_through >= scan.tail.seq {
                    return damaged(format!("journal group {} was durable and cannot be read", scan.tail.seq));
                }
                if g.checkpoint > sb.generation {
                    return damaged("its newest superblock is lost");
                }
            }
            off += n;
        }
        Ok(())
    };
    look(scan.tail.off, window)?;
    if scan.tail.off + window > ring || any_damaged {
        look(0, window.min(scan.tail.off))?;
    }
    Ok(())
}
