//! Conditional copies of several chunks in one message: each chunk's part is given to the store by
//! itself, and the message is answered when all are done. If one fails the message is refused,
//! whatever the others did: a repeat finds them applied already.

use super::{Link, Output, Replica, StoreAnswer, StoreOp, Waiting};
use crate::message::{Content, CopyItem, Envelope, Msg, Nack};
use hf_policy::{broken, crc, invariant};
use std::collections::BTreeMap;

/// The most items in one message.
pub(super) const MOST: usize = 256;

/// A message whose parts the store is asked for.
struct Message {
    link: Link,
    env: Envelope,
    /// Parts that are not done; never 0.
    left: usize,
    /// Per item: it was applied.
    applied: Vec<bool>,
    /// The first refusal of a part.
    error: Option<Nack>,
}

/// Messages of copies that are not answered, by number. There are no more than the link lets in.
#[derive(Default)]
pub(super) struct Copies {
    going: BTreeMap<u64, Message>,
    /// The number of the last message.
    last: u64,
}

impl Copies {
    /// What must hold of it between steps; `parts` names the message of each part that the store is
    /// asked for.
    pub fn check(&self, parts: impl Iterator<Item = u64>) -> Result<(), String> {
        let mut left: BTreeMap<u64, usize> = BTreeMap::new();
        parts.for_each(|number| *left.entry(number).or_default() += 1);
        let going: BTreeMap<u64, usize> = self.going.iter().map(|(number, m)| (*number, m.left)).collect();
        if left == going { Ok(()) } else { Err(format!("parts of copies are left: {going:?}, in the store: {left:?}")) }
    }
}

impl Replica {
    /// A message of copies has come.
    pub(super) fn copy(&mut self, link: Link, env: Envelope, items: Vec<CopyItem>, out: &mut Vec<Output>) {
        let intact = |i: &CopyItem| match &i.content {
            Content::Data(c, d) => d.len() == hf_policy::BLOCK_SIZE && crc::payload(d) == *c,
            Content::Zero | Content::Bad => true,
        };
        if items.is_empty() || items.len() > MOST {
            return self.reply(link, env, Msg::Nack(Nack::Invalid), out);
        }
        if !items.iter().all(intact) {
            return self.reply(link, env, Msg::Nack(Nack::BadCrc), out);
        }
        self.copies.last += 1;
        let number = self.copies.last;
        let parts: Vec<Vec<CopyItem>> =
            items.chunk_by(|a, b| a.block.chunk() == b.block.chunk()).map(<[CopyItem]>::to_vec).collect();
        let message = Message { link, env, left: parts.len(), applied: vec![false; items.len()], error: None };
        invariant!(!parts.is_empty(), "a message of copies has no parts");
        self.copies.going.insert(number, message);
        let mut at = 0;
        for items in parts {
            let (first, term) = (at, env.term);
            at += items.len();
            self.store(Waiting::Part(number, first), StoreOp::Copy { term, items }, out);
        }
    }

    /// The store is done with a part.
    pub(super) fn copied(&mut self, number: u64, at: usize, answer: StoreAnswer, out: &mut Vec<Output>) {
        let Some(m) = self.copies.going.get_mut(&number) else {
            return broken!("a part of message {number} of copies ends, which was answered");
        };
        match answer {
            StoreAnswer::Copied(applied) => {
                let fits = at + applied.len() <= m.applied.len();
                invariant!(fits, "{} items at {at} of {} were applied", applied.len(), m.applied.len());
                m.applied.iter_mut().skip(at).zip(applied).for_each(|(to, from)| *to = from);
            }
            StoreAnswer::Error(n) => drop(m.error.get_or_insert(n)),
            other => {
                broken!("the store answers copies with {other:?}");
                m.error.get_or_insert(Nack::Invalid);
            }
        }
        invariant!(m.left > 0, "more parts of message {number} end than it has");
        m.left = m.left.saturating_sub(1);
        if m.left > 0 {
            return;
        }
        let Some(m) = self.copies.going.remove(&number) else {
            return broken!("message {number} of copies is answered twice");
        };
        let refused = self.refusal(m.env).or(m.error);
        let msg = refused.map_or(Msg::CopyAck { applied: m.applied }, Msg::Nack);
        self.reply(m.link, m.env, msg, out);
    }
}
