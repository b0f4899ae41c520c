//! The bytes that one end of a link has sent and the other has not yet confirmed: how many there may be, and
//! when to ask.

use super::window::{Sample, Window};
use crate::wire::LinkFields;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{MS, Tick};
use std::collections::VecDeque;

/// The window of a new link, in bytes.
const FIRST: u64 = 64 << 10;
/// The least window: four of the smallest pieces, a quarter of a second of 1 Mbit/s.
const FLOOR: u64 = 32 << 10;
/// The smallest piece of a payload. With a header of 160 bytes, 98 % of it are payload.
const LEAST_PIECE: u64 = 8 << 10;
/// The queue in the network that is tolerated, in microseconds: enough to ride out how a busy machine schedules.
const SLACK: u64 = 40 * MS;
/// What a new link may be sent before the other end has said anything: its largest frame.
pub(super) const FIRST_LIMIT: u64 = 1_280 << 10;

/// A question for confirmation that is under way.
#[derive(Debug)]
struct Mark {
    /// Bytes sent when it was asked, itself included.
    pos: u64,
    at: Tick,
    /// Bytes confirmed by then.
    acked: u64,
    alone: bool,
}

#[derive(Debug)]
pub(super) struct Sender {
    /// The other end confirms and grants; otherwise nothing is held back.
    credited: bool,
    window: Window,
    sent: u64,
    acked: u64,
    limit: u64,
    marks: VecDeque<Mark>,
    /// Something has waited for the window since the last sample.
    blocked: bool,
    /// When bytes were last confirmed.
    pub moved_at: Tick,
}

impl Sender {
    pub fn new(now: Tick, credited: bool) -> Sender {
        Sender {
            credited,
            window: Window::new(now, FIRST, FLOOR, SLACK),
            sent: 0,
            acked: 0,
            limit: FIRST_LIMIT,
            marks: VecDeque::new(),
            blocked: false,
            moved_at: now,
        }
    }

    /// Bytes under way.
    pub fn in_flight(&self) -> u64 {
        self.sent - self.acked
    }

    /// Bytes given to the link since it came up.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes confirmed since the link came up.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Bytes that may be under way.
    pub fn window(&self) -> u64 {
        self.window.bytes()
    }

    /// Payload goes in pieces of so many bytes, so that small messages need not wait for a large one.
    pub fn piece(&self) -> usize {
        if !self.credited {
            return usize::MAX;
        }
        (self.window.bytes() / 4).max(LEAST_PIECE) as usize / 4096 * 4096
    }

    /// May the next piece go? If not, that is remembered.
    pub fn may_go_on(&mut self) -> bool {
        let may = !self.credited || self.in_flight() < self.window.bytes();
        self.blocked |= !may;
        may
    }

    /// May a message of so many bytes begin? The other end must have room for all of it.
    pub fn may_begin(&mut self, bytes: u64) -> bool {
        let room = self.sent + bytes <= self.limit || mutant::is(Mutant::CreditIgnored);
        (!self.credited || room) && self.may_go_on()
    }

    /// A frame that counts goes out now. Says whether it is to ask for confirmation.
    pub fn sends(&mut self, now: Tick, bytes: u64) -> bool {
        let alone = self.in_flight() <= FLOOR;
        self.sent += bytes;
        let asked = self.marks.back().map_or(self.acked, |m| m.pos);
        let ask = self.credited && self.sent - asked >= self.window.bytes() / 8;
        if ask {
            self.marks.push_back(Mark { pos: self.sent, at: now, acked: self.acked, alone });
        }
        ask
    }

    /// Nothing may go, and nothing that is under way asks for confirmation: that has to be asked for by
    /// itself. (The window has become smaller than what was under way.)
    pub fn must_ask(&mut self, now: Tick) -> bool {
        let must = self.credited && self.blocked && self.marks.is_empty() && self.in_flight() > 0;
        if must {
            let alone = self.in_flight() <= FLOOR;
            self.marks.push_back(Mark { pos: self.sent, at: now, acked: self.acked, alone });
        }
        must
    }

    /// The other end has told what it has received and what it will take. It cannot have received more than was sent.
    pub fn told(&mut self, now: Tick, link: &LinkFields) {
        self.limit = self.limit.max(link.limit);
        let received = link.received.min(self.sent);
        if received <= self.acked {
            return;
        }
        let newly = received - self.acked;
        self.acked = received;
        self.moved_at = now;
        let mut last = None;
        while self.marks.front().is_some_and(|m| m.pos <= received) {
            last = self.marks.pop_front();
        }
        if let Some(m) = last {
            let limited = std::mem::take(&mut self.blocked);
            let delivered = received - m.acked;
            self.window.sample(now, Sample { sent: m.at, acked: newly, delivered, limited, alone: m.alone });
        }
    }
}
