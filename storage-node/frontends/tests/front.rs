//! Tests of NBD's front end against a driver made for the test: requests of every kind, served in every order
//! that a driver may choose, with as little memory at a time as it may give. What the client reads back is
//! compared with a model of the volume.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use hf_frontends::door::{End, Fault, FrontEnd, In, Op, Out, PIECE, Shape, Task};
use hf_frontends::nbd::{Agreed, ExportInfo, Front};
use hf_policy::{BLOCK_BYTES, Tick};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

const SIZE: usize = 4 << 20;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const ZEROES: u16 = 6;
const STATUS: u16 = 7;
const NO_HOLE: u16 = 2;
const DF: u16 = 4;

fn header(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut b = 0x2560_9513u32.to_be_bytes().to_vec();
    b.extend(flags.to_be_bytes());
    b.extend(command.to_be_bytes());
    b.extend(cookie.to_be_bytes());
    b.extend(offset.to_be_bytes());
    b.extend(len.to_be_bytes());
    b
}

fn agreed(structured: bool, read_only: bool) -> Agreed {
    let export = ExportInfo { name: "v".into(), size: SIZE as u64, read_only, description: String::new() };
    Agreed { export, structured, base_allocation: structured }
}

/// The test's driver: the bytes that the client sends, the volume, and the outputs that wait.
struct Driver {
    front: Front,
    stream: VecDeque<u8>,
    shape: Shape,
    reads: VecDeque<Out>,
    waits: VecDeque<Out>,
    payload: BTreeMap<Task, Vec<u8>>,
    /// Tasks that were begun and have not ended, with the outcome they will have.
    begun: Vec<(Task, End)>,
    /// Every request fails.
    fails: bool,
    volume: Vec<u8>,
    sent: Vec<u8>,
    /// Bytes that a reservation which can be cut gets, at most.
    room: u64,
    /// The task that waits for the node when the connection ends.
    asleep: Option<Task>,
    over: Option<Result<(), String>>,
}

impl Driver {
    fn new(agreed: &Agreed, stream: Vec<u8>, room: u64) -> Driver {
        let mut d = Driver {
            front: Front::new(agreed),
            stream: stream.into(),
            shape: Shape { size: SIZE as u64, read_only: false },
            reads: VecDeque::new(),
            waits: VecDeque::new(),
            payload: BTreeMap::new(),
            begun: Vec::new(),
            fails: false,
            volume: vec![0; SIZE],
            sent: Vec::new(),
            room,
            asleep: None,
            over: None,
        };
        d.feed(In::Open);
        d
    }

    fn feed(&mut self, input: In) {
        let mut out = Vec::new();
        self.front.input(Tick(0), input, &mut out);
        for o in out {
            match o {
                Out::Read(_) | Out::Fill { .. } | Out::Skip(_) => self.reads.push_back(o),
                Out::Reserve { bytes, cut, .. } => {
                    assert!(bytes > 0 && (cut || bytes <= 32 << 20), "{o:?}");
                    self.waits.push_back(o);
                }
                Out::Place(_) => self.waits.push_back(o),
                Out::Begin(task, op) => self.begin(task, op),
                Out::Send(head, data) => {
                    self.sent.extend(head);
                    data.iter().for_each(|d| self.sent.extend(d));
                }
                Out::Drop(task) => drop(self.payload.remove(&task)),
                Out::Leave => self.over = Some(Ok(())),
                Out::Close(why) => self.over = Some(Err(why)),
            }
        }
    }

    fn begin(&mut self, task: Task, op: Op) {
        assert!(self.begun.iter().all(|(t, _)| *t != task), "a task is begun twice");
        let payload = self.payload.remove(&task);
        let range = |off: u64, len: u64| {
            assert!(off + len <= SIZE as u64, "{op:?} lies beyond the end");
            off as usize..(off + len) as usize
        };
        let end = match op {
            _ if self.fails => End::Failed(Fault::Io),
            Op::Read { off, len } => {
                let data = Bytes::copy_from_slice(&self.volume[range(off, len.into())]);
                // Several slices, as from a coordinator.
                let cut = data.len() / 3;
                End::Data(vec![data.slice(..cut), data.slice(cut..)])
            }
            Op::Write { off } => {
                let data = payload.expect("a write without payload");
                self.volume[range(off, data.len() as u64)].copy_from_slice(&data);
                End::Done
            }
            Op::Zero { off, len } | Op::Blank { off, len } => {
                self.volume[range(off, len)].fill(0);
                End::Done
            }
            Op::Flush => End::Done,
            Op::Status { len, .. } => End::Extents(vec![(len.next_multiple_of(BLOCK_BYTES), false)]),
        };
        self.begun.push((task, end));
    }

    fn take(&mut self, n: usize) -> Option<Vec<u8>> {
        (self.stream.len() >= n).then(|| self.stream.drain(..n).collect())
    }

    /// Does one of the waiting things, chosen by `choice`. False: nothing waits.
    fn turn(&mut self, choice: u8) -> bool {
        let n = self.begun.len();
        if choice.is_multiple_of(3) && n > 0 {
            let (task, end) = self.begun.remove(choice as usize / 3 % n);
            self.feed(In::Ended(task, end));
            return true;
        }
        if choice % 3 == 1 && self.wait() {
            return true;
        }
        self.read() || self.wait() || (n > 0 && self.turn(0))
    }

    fn wait(&mut self) -> bool {
        match self.waits.pop_front() {
            None => return false,
            Some(Out::Reserve { task, bytes, cut: true }) => {
                self.feed(In::Room(task, bytes.min(PIECE).min(self.room.max(BLOCK_BYTES))))
            }
            Some(Out::Reserve { task, bytes, .. }) => self.feed(In::Room(task, bytes)),
            Some(Out::Place(task)) => self.feed(In::Placed(task, self.shape)),
            other => panic!("{other:?}"),
        }
        true
    }

    fn read(&mut self) -> bool {
        if self.over.is_some() {
            return false;
        }
        let Some(next) = self.reads.pop_front() else { return false };
        match next {
            Out::Read(n) => match self.take(n) {
                Some(head) => self.feed(In::Head(&head, self.shape)),
                None => self.over = Some(Ok(())),
            },
            Out::Fill { task, size, at, len } => match self.take(len) {
                Some(data) => {
                    self.payload.entry(task).or_insert_with(|| vec![0; size])[at..at + len].copy_from_slice(&data);
                    self.feed(In::Filled(task));
                }
                None => self.over = Some(Ok(())),
            },
            Out::Skip(n) => match self.take(n) {
                Some(_) => self.feed(In::Skipped),
                None => self.over = Some(Ok(())),
            },
            other => panic!("{other:?}"),
        }
        true
    }

    /// Ends the connection; requests in flight still end.
    fn finish(&mut self) {
        self.feed(In::Closing(self.asleep));
        self.waits.clear();
        self.reads.clear();
        while let Some((task, end)) = self.begun.pop() {
            self.feed(In::Ended(task, end));
        }
    }
}

/// The answer that a client got for one request.
#[derive(Default, Debug, PartialEq)]
struct Answer {
    /// Number of chunks or replies that said that nothing more follows.
    last: u32,
    errors: u32,
    data: BTreeMap<u64, Vec<u8>>,
}

/// Parses replies as a client does. `reads`: offset and length of each read, by cookie.
fn parse(mut b: &[u8], structured: bool, reads: &BTreeMap<u64, (u64, u32)>) -> BTreeMap<u64, Answer> {
    let mut answers: BTreeMap<u64, Answer> = BTreeMap::new();
    let number = |b: &[u8]| b.iter().fold(0u64, |n, x| n << 8 | u64::from(*x));
    while !b.is_empty() {
        let (magic, rest) = (number(&b[..4]), &b[4..]);
        if magic == 0x6744_6698 {
            assert!(!structured);
            let (error, cookie) = (number(&rest[..4]), number(&rest[4..12]));
            b = &rest[12..];
            let a = answers.entry(cookie).or_default();
            (a.last, a.errors) = (a.last + 1, a.errors + u32::from(error != 0));
            if let Some((off, len)) = reads.get(&cookie).filter(|_| error == 0) {
                a.data.insert(*off, b[..*len as usize].to_vec());
                b = &b[*len as usize..];
            }
            continue;
        }
        assert_eq!(magic, 0x668e_33ef);
        assert!(structured);
        let (flags, kind) = (number(&rest[..2]), number(&rest[2..4]));
        let (cookie, len) = (number(&rest[4..12]), number(&rest[12..16]) as usize);
        let body = &rest[16..16 + len];
        b = &rest[16 + len..];
        let a = answers.entry(cookie).or_default();
        assert_eq!(a.last, 0, "more comes after the last chunk of {cookie}");
        a.last += (flags & 1) as u32;
        match kind {
            0 | 5 => {}
            1 => drop(a.data.insert(number(&body[..8]), body[8..].to_vec())),
            _ => a.errors += 1,
        }
    }
    answers
}

#[derive(Clone, Debug)]
struct Ask {
    command: u16,
    flags: u16,
    offset: u64,
    len: u32,
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let command =
        prop_oneof![Just(READ), Just(WRITE), Just(FLUSH), Just(TRIM), Just(CACHE), Just(ZEROES), Just(STATUS)];
    let flags = prop_oneof![4 => Just(0u16), 1 => Just(1u16), 1 => Just(NO_HOLE), 1 => Just(DF)];
    let len = prop_oneof![Just(0u32), 1u32..20_000, 900_000u32..2_600_000];
    let one = (command, flags, 0..SIZE as u64 + 9_000, len).prop_map(|(command, flags, offset, len)| Ask {
        command,
        flags,
        offset,
        len,
    });
    proptest::collection::vec(one, 1..14)
}

/// The payload of a write; its bytes differ from request to request.
fn payload(cookie: u64, len: u32) -> Vec<u8> {
    (0..len).map(|i| (u64::from(i / 7) + cookie * 31) as u8 | 1).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Every request that was sent whole is answered exactly once, with the bytes that a volume without
    /// failures would have.
    #[test]
    fn whatever_is_asked_is_answered_once_and_right(
        asks in asks(),
        structured: bool,
        goodbye: bool,
        room in prop_oneof![Just(4096u64), Just(65_536), Just(PIECE)],
        choices in proptest::collection::vec(any::<u8>(), 1..400),
    ) {
        let (mut stream, mut model, mut reads) = (Vec::new(), vec![0u8; SIZE], BTreeMap::new());
        let mut want: BTreeMap<u64, Option<Vec<u8>>> = BTreeMap::new();
        for (i, a) in asks.iter().enumerate() {
            let cookie = i as u64 + 1;
            stream.extend(header(a.flags, a.command, cookie, a.offset, a.len));
            let data = if a.command == WRITE { payload(cookie, a.len) } else { Vec::new() };
            stream.extend(&data);
            if a.command == READ {
                reads.insert(cookie, (a.offset, a.len));
            }
            let end = a.offset + u64::from(a.len);
            let range = a.offset as usize..end as usize;
            let allowed = match a.command {
                READ => 1 | if structured { DF } else { 0 },
                ZEROES => 1 | NO_HOLE | 16,
                STATUS => 1 | 8,
                _ => 1,
            };
            let status_fits = a.command != STATUS || (structured && a.len > 0);
            let inside = a.command == FLUSH || end <= SIZE as u64;
            if a.flags & !allowed != 0 || !inside || !status_fits {
                want.insert(cookie, None);
                continue;
            }
            match a.command {
                WRITE => model[range.clone()].copy_from_slice(&data),
                TRIM | ZEROES => model[range.clone()].fill(0),
                _ => {}
            }
            let data = if a.command == READ { model[range].to_vec() } else { Vec::new() };
            want.insert(cookie, Some(data));
        }
        if goodbye {
            stream.extend(header(0, DISCONNECT, 0, 0, 0));
        }
        let mut d = Driver::new(&agreed(structured, false), stream, room);
        let mut turn = choices.iter().cycle();
        while d.turn(*turn.next().unwrap()) {}
        prop_assert_eq!(d.over.clone(), Some(Ok(())));
        d.finish();
        prop_assert!(d.volume == model);
        let answers = parse(&d.sent, structured, &reads);
        prop_assert_eq!(answers.len(), want.len());
        for (cookie, want) in want {
            let a = &answers[&cookie];
            prop_assert_eq!(a.last, 1, "request {} was answered {} times", cookie, a.last);
            prop_assert_eq!(a.errors > 0, want.is_none());
            let got: Vec<u8> = a.data.values().flatten().copied().collect();
            prop_assert!(got == want.unwrap_or_default(), "request {} read other bytes", cookie);
        }
    }

    /// However a connection ends, no request is answered twice, and every request that was begun is answered.
    #[test]
    fn an_end_in_the_middle_answers_nothing_twice(
        asks in asks(),
        structured: bool,
        turns in 0usize..200,
        fails: bool,
        choices in proptest::collection::vec(any::<u8>(), 1..400),
    ) {
        let (mut stream, mut reads) = (Vec::new(), BTreeMap::new());
        for (i, a) in asks.iter().enumerate() {
            let cookie = i as u64 + 1;
            stream.extend(header(a.flags, a.command, cookie, a.offset, a.len));
            if a.command == WRITE {
                stream.extend(payload(cookie, a.len));
            } else if a.command == READ {
                reads.insert(cookie, (a.offset, a.len));
            }
        }
        let mut d = Driver::new(&agreed(structured, false), stream, 65_536);
        d.fails = fails;
        let mut turn = choices.iter().cycle();
        (0..turns).take_while(|_| d.turn(*turn.next().unwrap())).count();
        d.finish();
        let answers = parse(&d.sent, structured, &reads);
        for (cookie, a) in &answers {
            prop_assert!(a.last <= 1, "request {} was answered {} times", cookie, a.last);
            // A read that has got a chunk is told how it ended.
            prop_assert!(a.data.is_empty() || a.last == 1, "request {} never ends", cookie);
        }
    }

    /// Arbitrary bytes cause no panic, and a stream that is not NBD is closed.
    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut: bool) {
        let mut all = if cut { header(0, READ, 1, 0, 512) } else { Vec::new() };
        all.extend(bytes);
        let mut d = Driver::new(&agreed(true, true), all, PIECE);
        let mut turns = 0u8;
        while d.turn(turns) {
            turns = turns.wrapping_add(1);
        }
        prop_assert!(d.over.is_some());
    }
}

#[test]
fn what_became_read_only_while_a_write_came_is_refused_and_its_place_given_back() {
    let mut stream = header(0, WRITE, 7, 0, 8192);
    stream.extend(vec![1; 8192]);
    let mut d = Driver::new(&agreed(false, false), stream, PIECE);
    // Head, memory, payload.
    assert!(d.read() && d.wait() && d.read());
    d.shape.read_only = true;
    assert!(d.wait());
    assert!(d.begun.is_empty() && d.payload.is_empty() && d.volume.iter().all(|b| *b == 0));
    assert_eq!(d.sent, [&0x6744_6698u32.to_be_bytes()[..], &1u32.to_be_bytes(), &7u64.to_be_bytes()].concat());
}

#[test]
fn a_request_that_waits_for_the_node_hears_that_it_is_not_begun() {
    let mut d = Driver::new(&agreed(false, false), header(0, READ, 9, 0, 512), PIECE);
    assert!(d.read() && d.wait());
    let Some(Out::Place(task)) = d.waits.front() else { panic!("{:?}", d.waits) };
    d.asleep = Some(*task);
    d.finish();
    assert_eq!(d.sent, [&0x6744_6698u32.to_be_bytes()[..], &108u32.to_be_bytes(), &9u64.to_be_bytes()].concat());
    // Of one that waits for something else nothing is said: its client comes again, and sends it again.
    let mut d = Driver::new(&agreed(false, false), header(0, READ, 9, 0, 512), PIECE);
    assert!(d.read() && d.wait());
    d.finish();
    assert!(d.sent.is_empty());
    // Of a write whose payload is not whole nothing is said either.
    let mut stream = header(0, WRITE, 9, 0, 8192);
    stream.extend(vec![1; 100]);
    let mut d = Driver::new(&agreed(false, false), stream, PIECE);
    assert!(d.read() && d.wait());
    d.finish();
    assert!(d.sent.is_empty());
}
