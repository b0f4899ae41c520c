//! Conditional copies of several chunks in one message: each chunk's part is given to the store by itself, and the message is answered when
//! all are done. If one fails the message is refused, whatever the others did: a repeat finds them applied already.

use super::{Link, Output, Replica, StoreAnswer, StoreOp, Waiting};
use crate::message::{Content, CopyItem, Envelope, Msg, Nack};
use hf_policy::crc;
use std::collections::BTreeMap;

/// Items in one message.
pub(super) const MOST: usize = 256;

struct Message {
    link: Link,
    env: Envelope,
    left: usize,
    applied: Vec<bool>,
    error: Option<Nack>,
}

/// Messages of copies on their way, by number. There are no more than the link lets in.
#[derive(Default)]
pub(super) struct Copies {
    going: BTreeMap<u64, Message>,
    last: u64,
}

impl Replica {
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
        let Some(m) = self.copies.going.get_mut(&number) else { return };
        match answer {
            StoreAnswer::Copied(applied) => {
                m.applied.iter_mut().skip(at).zip(applied).for_each(|(to, from)| *to = from);
            }
            StoreAnswer::Error(n) => drop(m.error.get_or_insert(n)),
            _ => drop(m.error.get_or_insert(Nack::Invalid)),
        }
        m.left -= 1;
        if m.left > 0 {
            return;
        }
        let Some(m) = self.copies.going.remove(&number) else { return };
        let refused = self.refusal(m.env).or(m.error);
        let msg = refused.map_or(Msg::CopyAck { applied: m.applied }, Msg::Nack);
        self.reply(m.link, m.env, msg, out);
    }
}
