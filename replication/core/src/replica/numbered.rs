//! One outcome per numbered write (I15): a repeat of a write that is on its way is not given to the store a second time, and a write
//! that was refused for lack of space stays refused.
//!
//! The coordinator tells its client that nothing was applied when every member has refused. A repeat that is still on its way would
//! undo that: something else gives space back, and then it fits, here and perhaps not elsewhere (seed 5192 of the simulator).

use super::{Kind, Link, Output, Replica, StoreOp, Waiting};
use crate::message::{Envelope, Msg, Nack};
use hf_policy::Ver;
use std::collections::{BTreeMap, BTreeSet};

/// Refusals that are remembered. A repeat is sent within a second of its write; so many refusals take longer.
const REFUSED_KEPT: usize = 4096;

/// Writes by number, as far as their outcome is not settled by what the store holds.
#[derive(Default)]
pub(super) struct Numbered {
    /// On their way, and who else is answered: whoever repeated it over another link.
    going: BTreeMap<Ver, Vec<(Link, Envelope)>>,
    refused: BTreeSet<Ver>,
}

impl Numbered {
    /// The store is done with it. Who else is answered?
    pub fn ended(&mut self, ver: Ver, refused: bool) -> Vec<(Link, Envelope)> {
        if refused {
            self.refused.insert(ver);
            if self.refused.len() > REFUSED_KEPT {
                self.refused.pop_first();
            }
        }
        self.going.remove(&ver).unwrap_or_default()
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
        self.numbered.going.insert(ver, Vec::new());
        self.store(Waiting::Other { link, env, kind: Kind::Write(ver.seq) }, op, out);
    }
}
