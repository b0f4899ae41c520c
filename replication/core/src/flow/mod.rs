//! One end of a replication link: who sends next, how much may be in flight, and what is known of requests
//! that are not answered.
//!
//! A link is one TCP connection that many volumes share. Everything that is written into it arrives in order
//! and nothing can be taken back, so this decides *before* that: small messages (leases, seals,
//! acknowledgements) go first; payload takes turns between volumes ([`lanes`]) and is cut into pieces where
//! the link is slow, so that small messages fit between them; no more payload is in flight than keeps the
//! link busy ([`window`]), and no more than the other end has said it will hold ([`sender`]); no more answers
//! are asked for than the way back and the other end's disk keep up with ([`asked`]). At the serving end, a
//! request is begun when there is room for its answer, and never twice ([`served`]).
//!
//! It promises that a request which waits its turn is told apart from one that is lost ([`Flow::waits`]): the
//! coordinator repeats nothing that waits, and drops no member for it. It does not promise delivery: a link
//! that ends takes everything with it, and the coordinator sends again over the next one. Rules:
//! docs/protocol.md, "Links".

mod asked;
mod lanes;
mod sender;
mod served;
mod window;

use crate::message::{Envelope, Msg};
use crate::wire::{self, Frame, Header, LinkFields};
use asked::{Coming, LIST_ANSWER, Moved, Requests, read_answer};
use bytes::Bytes;
use hf_meta_core::mutant::{self, Mutant};
use hf_policy::{MS, Rid, SessionId, ShardId, Tick};
use lanes::Lanes;
use sender::{FIRST_LIMIT, Sender};
use served::{Begin, MOST_PARKED, Served};
use std::collections::VecDeque;

/// Names a request on a link: attachments of one volume that follow each other use the same request ids.
pub type Key = (ShardId, Rid, SessionId, u64);

/// Small messages that may wait at one end; the link is given up beyond that.
const MOST_SMALL: usize = 256 << 10;
/// Bytes of answers that the serving end makes at once however slow the link is; the last one may be larger.
const LEAST_ANSWERS: u64 = 256 << 10;

/// How often the other end is told of a frame that is still coming, in microseconds.
const TELL_EVERY: u64 = 100 * MS;

/// No answer has come for so long: those that are awaited are stuck, in microseconds.
const STUCK: u64 = 100 * MS;

/// Which end of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The coordinator's: sends requests. What it asks for has its memory already.
    Asking,
    /// The replica's disk: answers them. What it will hold is granted by credit.
    Serving,
}

/// The key of a message.
pub fn key(env: &Envelope) -> Key {
    (env.shard, env.rid, env.session, env.req)
}

/// A payload of which some pieces are not sent yet.
struct Cut {
    key: Key,
    pieces: VecDeque<Bytes>,
}

/// See the module.
pub struct Flow {
    end: End,
    small: VecDeque<(Envelope, Msg)>,
    /// Messages that count against the window.
    large: Lanes<(Key, Frame)>,
    /// Small requests with large answers.
    asking: Lanes<(Envelope, Msg)>,
    cut: Option<Cut>,
    out: Sender,
    requests: Requests,
    served: Served,
    /// Counted bytes received, and when the last came.
    received: Moved,
    /// Of them those of the frame that is coming in.
    early: u64,
    /// What the other end was told it may send in all.
    granted: u64,
    /// When the other end was last told anything.
    told_at: Tick,
    /// Bytes of requests that this end holds at most; at least the largest frame.
    hold: u64,
    /// Bytes of answers that this end makes or queues at most.
    answers: u64,
    /// The other end wants to be told what has been received.
    ack_due: bool,
    broken: bool,
}

/// A message's cost, as far as it is not small.
fn answer_cost(msg: &Msg) -> u64 {
    match msg {
        Msg::Read { range } => read_answer(u64::from(range.len)),
        Msg::ChunkVersions { .. } | Msg::Verify { .. } => LIST_ANSWER,
        Msg::ChunkList { .. } => 16 * crate::replica::LIST_PAGE as u64 + 164,
        _ => 0,
    }
}

/// Is it a request whose answer is awaited?
fn is_request(msg: &Msg) -> bool {
    answer_cost(msg) > 0 || matches!(msg, Msg::Write { .. } | Msg::Copy { .. } | Msg::Reserve { .. })
}

impl Flow {
    /// One end of a new link. `credited`: both ends have the capability; without it nothing is held back.
    pub fn new(now: Tick, end: End, credited: bool) -> Flow {
        Flow {
            end,
            small: VecDeque::new(),
            large: Lanes::default(),
            asking: Lanes::default(),
            cut: None,
            out: Sender::new(now, credited),
            requests: Requests::new(now),
            served: Served::default(),
            received: Moved { bytes: 0, at: now },
            early: 0,
            granted: FIRST_LIMIT,
            told_at: now,
            hold: FIRST_LIMIT,
            answers: LEAST_ANSWERS,
            ack_due: false,
            broken: false,
        }
    }

    /// Bytes that this end may hold for requests and for answers: its share of the node's memory.
    pub fn set_shares(&mut self, hold: u64, answers: u64) {
        self.hold = hold.max(FIRST_LIMIT);
        self.answers = answers.max(LEAST_ANSWERS);
    }

    /// The other end broke a bound: the link must be given up.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Queues a message.
    pub fn push(&mut self, env: Envelope, msg: Msg) {
        if self.end == End::Serving {
            self.served.over(&key(&env));
        }
        let back = answer_cost(&msg);
        let large = matches!(
            msg,
            Msg::Write { .. }
                | Msg::Copy { .. }
                | Msg::ReadAck { .. }
                | Msg::ChunkListAck { .. }
                | Msg::ChunkVersionsAck { .. }
        );
        let frame = large.then(|| wire::encode_unsealed(&env, &msg)).filter(|f| f.counted() > 0);
        let bytes = frame.as_ref().map_or(0, |f| f.len() as u64);
        let asks = self.end == End::Asking && env.req != 0 && is_request(&msg);
        let coming = if asks { self.requests.queued(key(&env), back, bytes) } else { Coming::Repeat };
        if coming == Coming::Waits {
            return;
        }
        match frame {
            Some(f) => self.large.push(env.shard, bytes, (key(&env), f)),
            None if coming == Coming::New && back > 0 => self.asking.push(env.shard, back, (env, msg)),
            None => {
                self.small.push_back((env, msg));
                self.broken |= self.small.len() > MOST_SMALL;
            }
        }
    }

    /// Is there anything that [`Flow::pop`] might let go?
    pub fn has_work(&self) -> bool {
        self.ack_due
            || !self.small.is_empty()
            || !self.asking.is_empty()
            || !self.large.is_empty()
            || self.cut.is_some()
            || self.grants_more()
    }

    /// The next bytes for the socket, if any may go.
    pub fn pop(&mut self, now: Tick) -> Option<Frame> {
        if let Some((env, msg)) = self.small.pop_front() {
            self.goes(now, key(&env));
            self.requests.left(&key(&env), self.out.sent());
            return Some(self.seal(now, wire::encode_unsealed(&env, &msg), false, 0));
        }
        if let Some((env, msg)) = self.next_question(now) {
            self.goes(now, key(&env));
            self.requests.left(&key(&env), self.out.sent());
            return Some(self.seal(now, wire::encode_unsealed(&env, &msg), false, 0));
        }
        if let Some(frame) = self.pop_large(now) {
            return Some(frame);
        }
        let ask = self.out.must_ask(now);
        (ask || self.ack_due || self.grants_more()).then(|| self.seal(now, wire::encode_link(None), ask, 0))
    }

    /// The next small request with a large answer. Beyond the window, and only when no answer has come for a
    /// while, a shard goes of which nothing is under way: whatever holds up the others' answers is not to
    /// hold up its.
    fn next_question(&mut self, now: Tick) -> Option<(Envelope, Msg)> {
        // A repeat of what has been answered meanwhile is wanted by nobody.
        while self.asking.peek().is_some_and(|(env, _)| !self.requests.is_open(&key(env))) {
            self.asking.pop();
        }
        if self.asking.is_empty() {
            return None;
        }
        if self.requests.may_ask() {
            return self.asking.pop();
        }
        if now.since(self.received.at) < STUCK {
            return None;
        }
        let requests = &self.requests;
        self.asking.pop_of(|shard| requests.is_idle(shard))
    }

    fn pop_large(&mut self, now: Tick) -> Option<Frame> {
        if self.cut.is_some() {
            return self.pop_piece(now);
        }
        // A repeat of what has been answered meanwhile is wanted by nobody.
        while self.end == End::Asking && self.large.peek().is_some_and(|(k, _)| !self.requests.is_open(k)) {
            self.large.pop();
        }
        let bytes = self.large.next_cost()?;
        let piece = self.out.piece();
        // (With the headers of the pieces it may be cut into.)
        let whole = bytes + (bytes / piece as u64 + 1) * wire::HEADER_BYTES as u64;
        if !self.out.may_begin(whole) {
            return None;
        }
        let (key, frame) = self.large.pop()?;
        self.goes(now, key);
        let payload: usize = frame.payload.iter().map(Bytes::len).sum();
        if payload <= piece {
            let ask = self.out.sends(now, frame.counted());
            self.requests.left(&key, self.out.sent());
            return Some(self.seal(now, frame, ask, 0));
        }
        self.cut = Some(Cut { key, pieces: frame.payload.into() });
        let head = Frame { head: frame.head, payload: Vec::new() };
        let ask = self.out.sends(now, head.len() as u64);
        Some(self.seal(now, head, ask, payload as u32))
    }

    fn pop_piece(&mut self, now: Tick) -> Option<Frame> {
        if !self.out.may_go_on() {
            return None;
        }
        let most = self.out.piece();
        let cut = self.cut.as_mut()?;
        let mut piece = Vec::new();
        let mut left = most;
        while left > 0
            && let Some(front) = cut.pieces.front_mut()
        {
            let n = left.min(front.len());
            piece.push(front.split_to(n));
            left -= n;
            if front.is_empty() {
                cut.pieces.pop_front();
            }
        }
        let key = cut.key;
        if cut.pieces.is_empty() {
            self.cut = None;
        }
        let mut frame = wire::encode_link(Some(Bytes::new()));
        frame.payload = piece;
        let ask = self.out.sends(now, frame.len() as u64);
        if self.cut.is_none() {
            self.requests.left(&key, self.out.sent());
        }
        Some(self.seal(now, frame, ask, 0))
    }

    /// A request leaves the queue.
    fn goes(&mut self, now: Tick, key: Key) {
        if self.end == End::Asking && key.3 != 0 {
            self.requests.sent(now, key, self.received);
        }
    }

    fn seal(&mut self, now: Tick, mut frame: Frame, ask: bool, parts: u32) -> Frame {
        self.ack_due = false;
        self.told_at = now;
        self.granted = self.granted.max(self.would_grant());
        frame.stamp(&LinkFields { received: self.received.bytes, limit: self.granted, ask, parts });
        frame
    }

    /// What the other end may send in all, by what is held for it now.
    fn would_grant(&self) -> u64 {
        match self.end {
            End::Asking => u64::MAX,
            End::Serving => self.received.bytes + self.hold.saturating_sub(self.served.holding()),
        }
    }

    /// The other end may be waiting for room, and there is room again.
    fn grants_more(&self) -> bool {
        let more = self.would_grant().saturating_sub(self.granted);
        // (Less than the largest message may be left of what was granted: then any more may matter.)
        let short = self.granted.saturating_sub(self.received.bytes) < FIRST_LIMIT;
        self.end == End::Serving && (more >= self.hold / 2 || (short && more > 0 && self.served.holding() == 0))
    }

    /// Bytes of a frame's payload have come, and more are coming. On a slow link a frame takes long: that it
    /// moves is a sign of life, and the other end is told now and then.
    pub fn on_bytes(&mut self, now: Tick, bytes: u64) {
        self.early += bytes;
        self.count(now, bytes);
        self.ack_due |= now.since(self.told_at) >= TELL_EVERY;
    }

    /// A whole frame has come, and with it what the other end says of the link. Called for every frame, in order.
    pub fn on_header(&mut self, now: Tick, h: &Header) {
        self.out.told(now, &h.link);
        self.ack_due |= h.link.ask;
        let bytes = h.counted().saturating_sub(std::mem::take(&mut self.early));
        if bytes > 0 {
            self.count(now, bytes);
        }
    }

    fn count(&mut self, now: Tick, bytes: u64) {
        self.received = Moved { bytes: self.received.bytes + bytes, at: now };
        if self.end == End::Serving {
            self.served.holds(bytes);
        }
    }

    /// A whole message has come, of `bytes` that counted. It comes back if it is to be looked at now. At the
    /// asking end it may be an answer: [`Flow::answered`] is to follow.
    pub fn on_message(&mut self, now: Tick, env: Envelope, msg: Msg, bytes: u64) -> Option<(Envelope, Msg)> {
        let key = key(&env);
        if self.end == End::Asking {
            return Some((env, msg));
        }
        let answer = answer_cost(&msg);
        let begin = match msg {
            Msg::Write { .. } | Msg::Copy { .. } if bytes > 0 => self.served.payload(key, bytes),
            _ if answer > 0 => {
                self.served.lets_go(bytes);
                let room = self.has_room(now) || mutant::is(Mutant::AnswersWithoutRoom);
                self.served.asks(now, key, answer, room)
            }
            _ => {
                self.served.lets_go(bytes);
                Begin::Now
            }
        };
        match begin {
            Begin::Now => Some((env, msg)),
            Begin::Already => None,
            Begin::Later => {
                self.served.park(env, msg);
                self.broken |= self.served.parked() > MOST_PARKED;
                None
            }
        }
    }

    /// The answer to a request has come and the coordinator has taken it. (Not before: while it has not, the
    /// request still waits.)
    pub fn answered(&mut self, now: Tick, key: &Key) {
        self.requests.over(now, key);
    }

    /// Is there room for another answer?
    fn has_room(&mut self, now: Tick) -> bool {
        let most = self.answers.min((2 * self.out.window()).max(LEAST_ANSWERS));
        self.served.moving(now, self.answers) + self.unsent() < most
    }

    /// Bytes of answers that are made or wait to be sent.
    pub fn answers_held(&self) -> u64 {
        self.served.making() + self.unsent()
    }

    /// Bytes of payload that wait to be sent.
    fn unsent(&self) -> u64 {
        let cut: usize = self.cut.iter().flat_map(|c| &c.pieces).map(Bytes::len).sum();
        self.large.bytes() + cut as u64
    }

    /// Requests that wait here for room.
    pub fn parked(&self) -> usize {
        self.served.parked()
    }

    /// A request that waited for room and may be begun now.
    pub fn next_parked(&mut self, now: Tick) -> Option<(Envelope, Msg)> {
        if self.served.parked() == 0 || !self.has_room(now) {
            return None;
        }
        self.served.unpark(now, key)
    }

    /// This request will not be answered at this end.
    pub fn ignored(&mut self, env: &Envelope) {
        self.served.over(&key(env));
    }

    /// These will never be answered at this end: the replica is gone or begins anew.
    pub fn forget_replica(&mut self, rid: Rid) {
        self.served.forget(|k| k.1 == rid, key);
    }

    /// Requests whose answers are wanted by nobody are forgotten; what has not been sent is not sent.
    pub fn keep_wanted(&mut self, wanted: impl Fn(&Key) -> bool) {
        self.requests.forget(|k| !wanted(k));
        let requests = &self.requests;
        self.asking.remove(|(env, _)| !requests.is_open(&key(env)));
        if self.end == End::Asking {
            self.large.remove(|(k, _)| !requests.is_open(k));
        }
    }

    /// Nobody waits for the answer to this request any more: if it has not been sent it is not.
    pub fn forget(&mut self, k: &Key) {
        if !self.requests.withdraw(k) {
            self.asking.remove(|(env, _)| key(env) == *k);
            self.large.remove(|(q, _)| q == k);
        }
    }

    /// Does a request wait its turn, on a link that moves? If not, and it is not answered, its answer is missing.
    pub fn waits(&self, now: Tick, key: &Key, patience: u64) -> bool {
        let out = Moved { bytes: self.out.acked(), at: self.out.moved_at };
        self.requests.waits(now, key, patience, out, self.received)
    }

    /// Bytes of requests that this end holds for the other.
    pub fn held(&self) -> u64 {
        self.served.holding()
    }

    /// Bytes of payload that wait to be sent, and of answers on their way here.
    pub fn queued(&self) -> (u64, u64) {
        (self.large.bytes(), self.requests.coming())
    }

    /// Bytes in flight, and how many may be.
    pub fn in_flight(&self) -> (u64, u64) {
        (self.out.in_flight(), self.out.window())
    }
}
