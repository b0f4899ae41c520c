//! Reads the index half that a superblock names, by large reads one after the other, however large
//! the disk is.

use super::{BLOCK, OpenError, damaged, read};
use crate::disk::RawDisk;
use crate::engine::{Config, Store};
use crate::format::replica::{REPLICA_BYTES, ReplicaRec};
use crate::format::superblock::Superblock;
use crate::format::{Salt, index};
use crate::geometry::EXTENSION_PAGES;
use crate::space::Units;
use bytes::Bytes;
use hf_policy::BLOCK_SIZE;

/// Number of pages read at once: 1 MiB.
const AT_ONCE: u32 = 256;

#[derive(Default)]
struct Half {
    replicas: Vec<Option<ReplicaRec>>,
    extended: Vec<Option<ReplicaRec>>,
    slots: Vec<Option<index::SlotEntry>>,
    bitmap: Vec<u8>,
    crcs: Vec<u32>,
}

/// A store as of the last checkpoint.
pub(super) fn index(disk: &mut dyn RawDisk, cfg: Config, sb: Superblock) -> Result<Store, OpenError> {
    let g = sb.geometry;
    let mut half = Half::default();
    let pages = g.pages_with(sb.extensions.len());
    let mut page = 0;
    while page < pages {
        // Pages that lie in one piece: the fixed part of the half, or its part of an extension
        // unit.
        let end = match page.checked_sub(g.index_pages()) {
            None => g.index_pages(),
            Some(beyond) => page + EXTENSION_PAGES - beyond % EXTENSION_PAGES,
        };
        let n = (end - page).min(AT_ONCE);
        let off = g.index_page_off(sb.half, page, &sb.extensions);
        let off = off.ok_or_else(|| OpenError::Damaged("its replica table has no end".into()))?;
        let piece = read(disk, off, n as usize * BLOCK_SIZE);
        for i in 0..n {
            // (A read that fails as a whole is repeated page by page: one bad sector costs no other
            // page.)
            let block = match &piece {
                Ok(all) => all.slice(i as usize * BLOCK_SIZE..(i as usize + 1) * BLOCK_SIZE),
                Err(_) => read(disk, off + u64::from(i) * BLOCK, BLOCK_SIZE)?,
            };
            half.page(&sb, page + i, &block)?;
        }
        page += n;
    }
    if index::digest(&half.crcs) != sb.index_digest {
        return damaged("an index page is older than the checkpoint that names it (a write was lost)");
    }
    half.replicas.truncate(g.replicas as usize);
    half.replicas.append(&mut half.extended);
    half.slots.truncate(g.slots as usize);
    let units =
        Units::load(g.units, &half.bitmap).ok_or_else(|| OpenError::Damaged("the unit bitmap is short".into()))?;
    Store::loaded(cfg, sb, half.replicas, half.slots, units, half.crcs).map_err(OpenError::Damaged)
}

impl Half {
    fn page(&mut self, sb: &Superblock, page: u32, block: &Bytes) -> Result<(), OpenError> {
        let g = sb.geometry;
        let beyond = page >= g.index_pages();
        // (Pages of the fixed part share no space with payload; they have no salt, as in version
        // 1.)
        let salt = if beyond { sb.salt } else { Salt::NONE };
        let Some((payload, crc)) = index::decode_page(sb.disk, salt, page, block) else {
            return damaged(format!("index page {page} of half {} does not verify", sb.half));
        };
        self.crcs.push(crc);
        let bad = || OpenError::Damaged(format!("index page {page} holds an impossible entry"));
        if g.entries_of(page).is_some() {
            let to = if beyond { &mut self.extended } else { &mut self.replicas };
            for e in payload.chunks_exact(REPLICA_BYTES).take(index::PAGE_REPLICAS) {
                to.push(ReplicaRec::decode(e).ok_or_else(bad)?);
            }
        } else if page < g.replica_pages() + g.slot_pages() {
            for e in payload.chunks_exact(index::SLOT_BYTES).take(index::PAGE_SLOTS) {
                self.slots.push(index::SlotEntry::decode(e).ok_or_else(bad)?);
            }
        } else {
            self.bitmap.extend_from_slice(payload);
        }
        Ok(())
    }
}
