//! The two stores that a simulated node can have: a model, fast enough for hundreds of thousands of
//! seeds, and the real chunk store on a simulated disk.

use super::model::ModelStore;
use super::real::RealStore;
use super::world::{BLOCKS, SHARD};
use bytes::Bytes;
use hf_policy::*;
use hf_repl_core::message::BlockInfo;
use hf_repl_core::replica::{Durable, StoreAnswer, StoreOp};

pub enum SimStore {
    Model(Box<ModelStore>),
    Real(Box<RealStore>),
}

use SimStore::{Model, Real};

impl SimStore {
    /// An empty replica, or none if `rid` is 0. `seed` makes it a real one; `units` is the room it
    /// has, 0 for plenty.
    pub fn new(seed: Option<u64>, rid: Rid, uuid: StoreUuid, units: usize, lineage: Lineage) -> SimStore {
        match seed {
            None => Model(Box::new(ModelStore::with_room(units, lineage))),
            Some(seed) => Real(Box::new(RealStore::new(seed, (SHARD, BLOCKS, lineage), rid, uuid, units))),
        }
    }

    /// Deletes its replica, durably. Its disk may have failed.
    pub fn delete(&mut self, rid: Rid) -> bool {
        match self {
            Model(s) => {
                s.clear();
                true
            }
            Real(s) => s.delete(rid).is_ok(),
        }
    }

    /// Makes a replica where there is none, durably. Its disk may have failed.
    pub fn make(&mut self, rid: Rid, uuid: StoreUuid, lineage: Lineage) -> bool {
        match self {
            Model(s) => {
                s.lineage = (lineage, 0);
                true
            }
            Real(s) => s.make((SHARD, BLOCKS, lineage), rid, uuid).is_ok(),
        }
    }

    /// Its replica takes another lineage, by a record of that epoch, unless it has one of a later
    /// record; durably. Its disk may have failed.
    pub fn adopt(&mut self, lineage: Lineage, epoch: u64) -> bool {
        match self {
            Model(s) => {
                let newer = epoch > s.lineage.1;
                s.lineage = if newer { (lineage, epoch) } else { s.lineage };
                newer
            }
            Real(s) => s.adopt(lineage, epoch),
        }
    }

    pub fn is_real(&self) -> bool {
        matches!(self, Real(_))
    }

    pub fn submit(&mut self, tag: u64, op: StoreOp) {
        match self {
            Model(s) => s.submit(tag, op),
            Real(s) => s.submit(tag, op),
        }
    }

    /// Completes one operation, if one is in flight.
    pub fn complete(&mut self) -> Option<(u64, StoreAnswer)> {
        match self {
            Model(s) => s.complete(),
            Real(s) => s.complete(),
        }
    }

    /// Power loss. Of the model's queue this many operations had become durable; the real disk
    /// decides for itself.
    pub fn crash(&mut self, survive: usize) -> Result<(), String> {
        match self {
            Model(s) => {
                s.crash(survive);
                Ok(())
            }
            Real(s) => s.crash(),
        }
    }

    /// The content that a copy of the disk would have now.
    pub fn image(&self) -> Result<SimStore, String> {
        Ok(match self {
            Model(s) => Model(Box::new(s.image())),
            Real(s) => Real(Box::new(s.image()?)),
        })
    }

    /// The replica's storage is another one from now on, durably.
    pub fn renew(&mut self, uuid: StoreUuid) -> Result<(), String> {
        match self {
            Model(_) => Ok(()),
            Real(s) => s.renew(uuid),
        }
    }

    /// No write of this disk succeeds any more, until the node begins anew. Only real ones know how.
    pub fn fail(&mut self) {
        if let Real(s) = self {
            s.fail();
        }
    }

    /// Its writes fail from now on.
    pub fn has_failed(&self) -> bool {
        matches!(self, Real(s) if s.has_failed())
    }

    pub fn credit(&self) -> u64 {
        match self {
            Model(s) => s.credit(),
            Real(s) => s.credit(),
        }
    }

    /// The position of the disk's journal.
    pub fn position(&self) -> u64 {
        match self {
            Model(s) => s.position,
            Real(s) => s.position(),
        }
    }

    pub fn max_ver(&self) -> Ver {
        match self {
            Model(s) => s.max_ver(),
            Real(s) => s.max_ver(),
        }
    }

    /// The durable state of a replica, as its node finds it at its start.
    pub fn durable(&self, rid: Rid, store_uuid: StoreUuid) -> Durable {
        match self {
            Model(s) => Durable {
                cluster: ClusterId(1),
                shard: SHARD,
                rid,
                store_uuid,
                lineage: s.lineage.0,
                promised_term: s.promised.0,
                promised_session: s.promised.1,
                stable: s.stable,
                position: s.position,
            },
            Real(s) => s.durable(),
        }
    }

    pub fn may_be_bad(&self, block: u64) -> bool {
        match self {
            Model(s) => s.info(block).0.state.is_bad(),
            Real(s) => s.may_be_bad(block),
        }
    }

    /// A block of data becomes unreadable, if it holds any.
    pub fn rot(&mut self, block: u64) -> bool {
        match self {
            Model(s) => s.rot(block),
            Real(s) => s.rot(block),
        }
    }

    /// A chunk's versions become unreadable, and so its blocks.
    pub fn rot_page(&mut self, chunk: ChunkIx) -> bool {
        match self {
            Model(s) => s.rot_page(chunk),
            Real(s) => s.rot_page(chunk),
        }
    }

    /// What a block holds, once nothing is in flight any more.
    pub fn look(&mut self, block: u64) -> (BlockInfo, Bytes) {
        match self {
            Model(s) => s.info(block),
            Real(s) => s.look(block),
        }
    }
}
