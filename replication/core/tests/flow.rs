//! Two ends of a link and nothing between them: a lost request does not hide behind answered ones,
//! memory that is given back is granted again, and what is not wanted any more is not sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::{Bytes, BytesMut};
use hf_policy::*;
use hf_repl_core::flow::{End, Flow, key};
use hf_repl_core::message::*;
use hf_repl_core::wire::{self, Frame, HEADER_BYTES};

/// A payload that comes in parts: the frame that announced them, what has come of it, and what that
/// counted.
type Partial = Option<(Frame, BytesMut, u64)>;

struct Pair {
    asking: Flow,
    serving: Flow,
    now: Tick,
    partial: [Partial; 2],
}

fn env(vol: u64, req: u64) -> Envelope {
    Envelope {
        shard: ShardId { vol: VolumeId(vol), index: 0 },
        rid: Rid(vol),
        session: SessionId(5),
        req,
        ..Envelope::default()
    }
}

fn write(blocks: usize) -> Msg {
    let data = Bytes::from(vec![0u8; blocks * BLOCK_SIZE]);
    let kind = WriteKind::Data { crcs: crc::payloads(&data), data };
    Msg::Write { seq: 1, range: BlockRange::new(0, blocks as u32), stable: Ver::ZERO, kind }
}

fn zero() -> Msg {
    let kind = WriteKind::Zero { keep: false };
    Msg::Write { seq: 1, range: BlockRange::new(0, 1), stable: Ver::ZERO, kind }
}

fn read(blocks: u32) -> Msg {
    Msg::Read { range: BlockRange::new(0, blocks) }
}

/// What a replica answers.
fn answer(m: &Msg) -> Msg {
    match m {
        Msg::Read { range } => Msg::ReadAck {
            infos: vec![BlockInfo::default(); range.len as usize],
            data: vec![0; range.bytes() as usize].into(),
        },
        _ => Msg::WriteAck { credit: 0, position: 0 },
    }
}

impl Pair {
    fn new(share: u64) -> Pair {
        let now = Tick(1_000_000_000);
        let (asking, mut serving) = (Flow::new(now, End::Asking, true), Flow::new(now, End::Serving, true));
        serving.set_shares(share, share);
        Pair { asking, serving, now, partial: [None, None] }
    }

    fn arrives(&mut self, back: usize, f: Frame) -> Option<(Envelope, Msg)> {
        let raw: [u8; HEADER_BYTES] = f.head[..HEADER_BYTES].try_into().unwrap();
        let h = wire::parse_header(&raw).unwrap();
        let to = if back == 0 { &mut self.serving } else { &mut self.asking };
        to.on_header(self.now, &h);
        let payload = BytesMut::from(&f.payload.concat()[..]);
        let whole = match &mut self.partial[back] {
            _ if h.is_credit() => return None,
            Some((_, so_far, counted)) if h.is_part() => {
                so_far.extend_from_slice(&payload);
                *counted += h.counted();
                None
            }
            partial if h.link.parts > 0 => {
                *partial = Some((f, payload, h.counted()));
                None
            }
            _ => Some((f, payload, h.counted())),
        };
        let parts = |p: &mut (Frame, BytesMut, u64)| {
            let raw: [u8; HEADER_BYTES] = p.0.head[..HEADER_BYTES].try_into().unwrap();
            p.1.len() == wire::parse_header(&raw).unwrap().link.parts as usize
        };
        let (f, payload, counted) = whole.or_else(|| self.partial[back].take_if(parts))?;
        let raw: [u8; HEADER_BYTES] = f.head[..HEADER_BYTES].try_into().unwrap();
        let h = wire::parse_header(&raw).unwrap();
        let msg = wire::decode(&raw, &h, &f.head[HEADER_BYTES..], payload.freeze()).unwrap();
        let got = to.on_message(self.now, h.env, msg, counted);
        if back == 1 {
            to.answered(self.now, &key(&h.env));
        }
        got.filter(|_| back == 0)
    }

    /// Moves everything; what arrived at the serving end and is to be begun.
    fn pump(&mut self) -> Vec<(Envelope, Msg)> {
        let mut got = Vec::new();
        loop {
            let there = self.asking.pop(self.now);
            let back = self.serving.pop(self.now);
            let parked = self.serving.next_parked(self.now);
            if there.is_none() && back.is_none() && parked.is_none() {
                return got;
            }
            got.extend(there.and_then(|f| self.arrives(0, f)));
            back.and_then(|f| self.arrives(1, f));
            got.extend(parked);
        }
    }

    /// Asks for something else that is answered at once, so often, `every` microseconds apart; for
    /// how long the first request of volume 1 or 2 seems to wait, in milliseconds.
    fn hidden(&mut self, victim: u64, every: u64, other: impl Fn() -> Msg) -> u64 {
        let (begin, mut hidden) = (self.now, 0);
        for i in 1..=600 {
            self.now = self.now.plus(every);
            self.asking.push(env(3, i), other());
            for (e, m) in self.pump().into_iter().filter(|(e, _)| e.shard.vol.0 == 3) {
                self.serving.push(e, answer(&m));
            }
            self.pump();
            if self.asking.waits(self.now, &key(&env(victim, 1)), 375 * MS) {
                hidden = self.now.since(begin) / MS;
            }
        }
        hidden
    }
}

#[test]
fn what_is_lost_does_not_hide_behind_what_is_answered() {
    for every in [10 * MS, 100 * MS, 300 * MS] {
        let cases: [(Msg, fn() -> Msg); 4] =
            [(write(1), zero), (write(1), || write(1)), (zero(), zero), (read(1), || read(1))];
        for (lost, other) in cases {
            let mut p = Pair::new(4 << 20);
            p.asking.push(env(1, 1), lost.clone());
            assert_eq!(p.pump().len(), 1);
            let hidden = p.hidden(1, every, other);
            println!("a request lost beside others every {} ms: hidden for {hidden} ms", every / MS);
            assert!(hidden <= 8_000, "{lost:?}: hidden for {hidden} ms");
        }
    }
}

#[test]
fn a_write_for_which_nothing_is_granted_does_not_wait_for_reads() {
    let mut p = Pair::new(4 << 20);
    (1..=8).for_each(|i| p.asking.push(env(1, i), write(255)));
    assert!(p.pump().len() < 8, "more was sent than is held");
    p.asking.push(env(2, 1), write(1));
    assert!(p.pump().is_empty());
    let hidden = p.hidden(2, 100 * MS, || read(1));
    assert!(hidden <= 1_000, "hidden for {hidden} ms");
}

#[test]
fn a_shard_of_which_nothing_is_under_way_asks_beyond_the_window() {
    let mut p = Pair::new(4 << 20);
    (1..=8).for_each(|i| p.asking.push(env(1, i), read(256)));
    p.pump();
    p.asking.push(env(2, 1), read(1));
    // Not at once: as long as answers come it has its turn soon.
    p.now = p.now.plus(1_100 * MS);
    let got = p.pump();
    assert_eq!(got.iter().filter(|(e, _)| e.shard.vol.0 == 2).count(), 1, "{got:?}");
}

#[test]
fn what_a_replica_that_is_gone_held_is_granted_again() {
    let mut p = Pair::new(1_280 << 10);
    p.asking.push(env(1, 1), write(128));
    assert_eq!(p.pump().len(), 1);
    p.asking.push(env(2, 1), write(256));
    assert!(p.pump().is_empty(), "there is no room for it");
    p.serving.forget_replica(Rid(1));
    assert_eq!(p.serving.held(), 0);
    assert_eq!(p.pump().len(), 1, "room that came back without an answer is not told");
    // The same request again is begun: nobody does it.
    p.serving.forget_replica(Rid(2));
    p.asking.push(env(2, 1), write(256));
    assert_eq!(p.pump().len(), 1);
}

#[test]
fn what_nobody_wants_is_not_sent() {
    let mut p = Pair::new(1_280 << 10);
    (1..=40).for_each(|i| p.asking.push(env(1, i), write(256)));
    (41..=80).for_each(|i| p.asking.push(env(1, i), read(256)));
    let begun = p.pump().len();
    assert!(p.asking.queued().0 > 30 << 20);
    p.asking.keep_wanted(|_| false);
    assert_eq!(p.asking.queued(), (0, 0));
    assert!(p.pump().is_empty(), "{begun} were begun before");
    // One that is wanted goes on as if nothing had been.
    p.serving.forget_replica(Rid(1));
    p.asking.push(env(1, 100), read(1));
    assert_eq!(p.pump().len(), 1);
}
