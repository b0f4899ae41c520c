//! One outcome per numbered write (I15): a repeat of a write that is in flight is not given to the
//! store a second time, and a write that was refused for lack of space stays refused.
//!
//! The coordinator tells its client that nothing was applied when every member has refused. A
//! repeat that is still in flight would undo that: something else gives space back, and then it
//! fits, here and perhaps not elsewhere (seed 5192 of the simulator).

use super::{Kind, Link, Output, Replica, StoreOp, Waiting};
use crate::message::{Envelope, Msg, Nack};
use hf_policy::{Ver, invariant};
use std::collections::{BTreeMap, BTreeSet};

/// Refusals that are remembered. A repeat is sent within a second of its write; so many refusals
/// take longer.
const REFUSED_KEPT: usize = 4096;

/// Writes by number, as far as their outcome is not settled by what the store holds.
#[derive(Default)]
pub(super) struct Numbered {
    /// Writes that the store is asked for, and the repeats over other links that are answered with them.
    going: BTreeMap<Ver, Vec<(Link, Envelope)>>,
    /// Writes that were refused for lack of space.
    refused: BTreeSet<Ver>,
}

impl Numbered {
    /// What must hold of it between steps; `written` is the number of writes that the store is asked for.
    pub fn check(&self, written: usize) -> Result<(), String> {
        if self.going.len() != written {
            return Err(format!("{} writes are going on, {written} of them in the store", self.going.len()));
        }
        if self.refused.len() > REFUSED_KEPT {
            return Err(format!("{} refusals are remembered", self.refused.len()));
        }
        Ok(())
    }

    /// The store is done with a write. Returns the repeats that are answered with it.
    pub fn ended(&mut self, ver: Ver, refused: bool) -> Vec<(Link, Envelope)> {
        if refused {
            self.refused.insert(ver);
            if self.refused.len() > REFUSED_KEPT {
                self.refused.pop_first();
            }
        }
        let others = self.going.remove(&ver);
        invariant!(others.is_some(), "write {ver:?} ends twice");
        others.unwrap_or_default()
    }
}

impl Replica {
    /// A numbered write has arrived, for the first time or again.
    pub(super) fn write(&mut self, link: Link, env: Envelope, ver: Ver, op: StoreOp, out: &mut Vec<Output>) {
        if self.numbered.refused.contains(&ver) {
            return self.reply(link, env, Msg::Nack(Nack::NoSpace), out);
        }
        if let Some(others) = self.numbered.going.get_mut(&ver) {
            others.retain(|(l, _)| *l != link);
            return others.push((link, env));
        }
        let before = self.numbered.going.insert(ver, Vec::new());
        invariant!(before.is_none(), "write {ver:?} is given to the store twice");
        self.store(Waiting::Other { link, env, kind: Kind::Write(ver.seq) }, op, out);
    }
}
