//! Golden traces of what the store does to its disk, in order, and where in that order it answers
//! (`testdata/trace_*.txt`): an answer never precedes the sync or the durable write it rests on
//! (C1), space is not used again before what frees it is durable (C7).
//!
//! `# …` is a remark, `> …` an input, everything else is made by the run and compared; `UPDATE=1`
//! writes it anew. Disk operations have numbers; `done` is when the disk has completed one. `begin`
//! stands for format, open and create (see `trace_format.txt`). Whatever an answer promises is
//! looked for at once on a copy of the disk that has lost everything that is not durable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::{RID, config, params, rec};
use bytes::Bytes;
use hf_policy::*;
use hf_store::format::group::{Body, Group};
use hf_store::format::page::BlockState;
use hf_store::geometry::{Geometry, JOURNAL_OFF};
use hf_store::sim::SimDisk;
use hf_store::*;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

const SIZE: u64 = 24 << 20;

/// What an operation's answer promises.
#[derive(Clone, Debug)]
enum Promise {
    Replica(ReplicaRec),
    Blocks(Vec<(BlockIx, Ver, BlockState)>),
    EmptyJournal,
    Nothing,
}

struct World {
    disk: SimDisk,
    geometry: Geometry,
    store: Option<Store>,
    /// Operations in flight in the order of submission: the disk's tag and our number.
    flight: VecDeque<(u64, u64)>,
    number: u64,
    next: OpId,
    promises: BTreeMap<OpId, Promise>,
    holding: bool,
    lines: Vec<String>,
}

/// A plain disk that says what is done to it.
struct Traced<'a> {
    disk: &'a mut SimDisk,
    geometry: Geometry,
    lines: Vec<String>,
}

impl RawDisk for Traced<'_> {
    fn size(&self) -> u64 {
        RawDisk::size(self.disk)
    }
    fn read(&mut self, off: u64, len: usize) -> Result<Bytes, DiskError> {
        self.lines.push(format!("   read  {} {len}", place(&self.geometry, off)));
        self.disk.read(off, len)
    }
    fn write(&mut self, off: u64, data: &[u8]) -> Result<(), DiskError> {
        let zero = if data.iter().all(|b| *b == 0) { " of zeroes" } else { "" };
        self.lines.push(format!("   write {} {}{zero}", place(&self.geometry, off), data.len()));
        self.disk.write(off, data)
    }
    fn sync(&mut self) -> Result<(), DiskError> {
        self.lines.push("   sync".into());
        self.disk.sync()
    }
}

/// Where an offset lies, in words.
fn place(g: &Geometry, off: u64) -> String {
    let block = |from: u64| (off - from) / 4096;
    if off < JOURNAL_OFF {
        format!("superblock slot {} copy {}", block(0) / 2, block(0) % 2)
    } else if off < g.index_off(0) {
        format!("journal+{}", off - JOURNAL_OFF)
    } else if off < g.index_off(1) {
        format!("index half 0 page {}", block(g.index_off(0)))
    } else if off < g.page_off(0, 0) {
        format!("index half 1 page {}", block(g.index_off(1)))
    } else if off < g.data_off() {
        format!("chunk page slot {} copy {}", block(g.page_off(0, 0)) / 2, block(g.page_off(0, 0)) % 2)
    } else {
        format!("unit {}+{}", (off - g.data_off()) / UNIT_BYTES, (off - g.data_off()) % UNIT_BYTES)
    }
}

fn ver_text(v: Ver) -> String {
    format!("{}.{}", v.term.0, v.seq.0)
}

/// What a journal group does.
fn group_text(bufs: &[Bytes]) -> String {
    let (g, _) = Group::decode_header(&bufs[0], params().salt).expect("a journal write without a group");
    let one = |r: &hf_store::format::group::Record| {
        let what = match &r.body {
            Body::Data { .. } => "data".into(),
            Body::Map { units, .. } => format!("map to units {units:?}"),
            Body::Zero => "zero".into(),
            Body::ZeroKept => "zero, kept".into(),
            Body::Bad => "bad".into(),
            Body::Extend { unit } => format!("replica table goes on in unit {unit}"),
            Body::Replica(e) if e.deleting => "replica, being deleted".into(),
            Body::Replica(e) => {
                format!("replica, promised term {} stable {}", e.promised_term.0, ver_text(e.stable_known))
            }
        };
        let at = if r.range.is_empty() { String::new() } else { format!("{} {:?} ", ver_text(r.ver), r.range) };
        format!("{at}{what}")
    };
    let records: Vec<String> = g.records.iter().map(one).collect();
    format!(": group {} ({})", g.seq, records.join("; "))
}

fn ver(t: &str) -> Ver {
    let (a, b) = t.split_once('.').unwrap_or_else(|| panic!("{t} is no version"));
    Ver::new(a.parse().unwrap(), b.parse().unwrap())
}

fn range(t: &str) -> BlockRange {
    let (a, b) = t.split_once('+').unwrap_or_else(|| panic!("{t} is no range"));
    BlockRange::new(a.parse().unwrap(), b.parse().unwrap())
}

fn filled(letter: &str, bytes: u64) -> Bytes {
    Bytes::from(vec![letter.as_bytes()[0]; bytes as usize])
}

/// `5:1.2->a@2.3`; also `zero@`, `bad@`.
fn copy_item(t: &str) -> CopyItem {
    let (block, rest) = t.split_once(':').unwrap_or_else(|| panic!("{t} is no copy"));
    let (seen, to) = rest.split_once("->").unwrap();
    let (what, src) = to.split_once('@').unwrap();
    let data = filled(what, 4096);
    let content = match what {
        "zero" => Content::Zero,
        "bad" => Content::Bad,
        _ => Content::Data(crc::payload(&data), data),
    };
    CopyItem { block: BlockIx(block.parse().unwrap()), seen: ver(seen), src: ver(src), content, repair: false }
}

impl World {
    fn new() -> World {
        World {
            disk: SimDisk::new(SIZE),
            geometry: Geometry::divide(SIZE, params().journal).unwrap(),
            store: None,
            flight: VecDeque::new(),
            number: 0,
            next: 1,
            promises: BTreeMap::new(),
            holding: false,
            lines: Vec::new(),
        }
    }

    fn input(&mut self, w: &[&str]) -> Vec<String> {
        match w[0] {
            "format" => {
                let mut t = Traced { disk: &mut self.disk, geometry: self.geometry, lines: Vec::new() };
                recovery::format(&mut t, params()).unwrap();
                self.lines.extend(t.lines);
            }
            "open" => self.open(),
            "begin" => {
                for w in ["format", "open", "create"] {
                    self.input(&[w]);
                }
            }
            "power-off" => {
                self.flight.clear();
                self.disk.crash_keeping(|_| false);
                self.store = None;
            }
            "hold" => self.holding = true,
            "complete" => self.complete(w[1].parse().unwrap()),
            "go" => self.holding = false,
            "housekeep" => self.step(Input::Housekeep),
            _ => self.op(w),
        }
        while !self.holding && !self.flight.is_empty() {
            let (_, number) = self.flight[0];
            self.complete(number);
        }
        std::mem::take(&mut self.lines)
    }

    fn open(&mut self) {
        let mut t = Traced { disk: &mut self.disk, geometry: self.geometry, lines: Vec::new() };
        let store = recovery::open(&mut t, config()).unwrap();
        self.lines.extend(t.lines);
        self.say(format!("open: {} groups replayed", store.stats().replayed_groups));
        self.store = Some(store);
        let mut out = Vec::new();
        self.store.as_mut().unwrap().start(&mut out);
        self.take(out);
    }

    fn op(&mut self, w: &[&str]) {
        let rid = RID;
        let replica = |w: &[&str]| {
            let mut r = rec();
            r.promised_term = Term(w[1].parse().unwrap());
            r.stable_known = w.get(2).map_or(Ver::ZERO, |t| ver(t));
            r
        };
        let held = |r: BlockRange, v: Ver, s| Promise::Blocks(r.iter().map(|b| (b, v, s)).collect());
        let (op, promise) = match w[0] {
            "create" => (Op::CreateReplica(rec()), Promise::Replica(rec())),
            "promise" => (Op::UpdateReplica(replica(w)), Promise::Replica(replica(w))),
            "delete" => (Op::DeleteReplica { rid }, Promise::Nothing),
            "write" => {
                let (ver, range) = (ver(w[1]), range(w[2]));
                let data = filled(w[3], range.bytes());
                let crcs = crc::payloads(&data);
                (Op::Write { rid, ver, start: range.start, data, crcs }, held(range, ver, BlockState::Data))
            }
            "zero" | "zero-kept" => {
                let (ver, range, keep) = (ver(w[1]), range(w[2]), w[0] == "zero-kept");
                (Op::Zero { rid, ver, range, keep }, held(range, ver, BlockState::Zero))
            }
            "copy" => {
                let items: Vec<CopyItem> = w[1..].iter().map(|t| copy_item(t)).collect();
                let state = |c: &Content| match c {
                    Content::Zero => BlockState::Zero,
                    Content::Bad => BlockState::Bad,
                    Content::Data(..) => BlockState::Data,
                };
                let list = items.iter().map(|i| (i.block, i.src, state(&i.content))).collect();
                (Op::Copy { rid, term: Term(9), items }, Promise::Blocks(list))
            }
            "read" => (Op::Read { rid, range: range(w[1]) }, Promise::Nothing),
            "checkpoint" => (Op::Checkpoint, Promise::EmptyJournal),
            other => panic!("{other} is no input"),
        };
        let id = self.next;
        self.next += 1;
        self.promises.insert(id, promise);
        self.step(Input::Op { id, op });
    }

    fn say(&mut self, what: String) {
        self.lines.push(format!("   {what}"));
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        let store = self.store.as_mut().expect("open first");
        store.step(input, &mut out);
        store.check();
        self.take(out);
    }

    fn take(&mut self, out: Vec<Output>) {
        for o in out {
            match o {
                Output::Disk { tag, op } => self.submit(tag, op),
                Output::Done { id, result } => self.answered(id, result.unwrap()),
                Output::Failed(why) => panic!("{why}"),
            }
        }
    }

    fn submit(&mut self, tag: u64, op: DiskOp) {
        self.number += 1;
        let n = self.number;
        let text = match &op {
            DiskOp::Read { off, len } => format!("read  {} {len}", place(&self.geometry, *off)),
            DiskOp::Sync => "sync".into(),
            DiskOp::Write { off, bufs, durable } => {
                let len: usize = bufs.iter().map(Bytes::len).sum();
                let at = place(&self.geometry, *off);
                let group = if at.starts_with("journal") { group_text(bufs) } else { String::new() };
                format!("write {at} {len}{}{group}", if *durable { " durable" } else { "" })
            }
        };
        self.say(format!("#{n} {text}"));
        self.disk.submit(tag, op);
        self.flight.push_back((tag, n));
    }

    /// The disk has done the operation of this number.
    fn complete(&mut self, number: u64) {
        let at = self.flight.iter().position(|(_, n)| *n == number);
        let at = at.unwrap_or_else(|| panic!("#{number} is not in flight"));
        self.flight.remove(at);
        let (tag, result) = self.disk.complete(at).unwrap();
        self.say(format!("#{number} done"));
        self.step(Input::DiskDone { tag, result });
    }

    fn answered(&mut self, id: OpId, answer: Answer) {
        let text = match &answer {
            Answer::Done => "done".into(),
            Answer::Copied(applied) => format!("copied {applied:?}"),
            Answer::Versions(_) => "versions".into(),
            Answer::Read { blocks, .. } => {
                let one = |b: &engine::BlockInfo| format!("{:?}@{}", b.state, ver_text(b.ver)).to_lowercase();
                format!("read {}", blocks.iter().map(one).collect::<Vec<_>>().join(" "))
            }
        };
        self.say(format!("answer {id}: {text}"));
        match (self.promises.remove(&id).expect("answered twice"), answer) {
            (Promise::Blocks(mut list), Answer::Copied(applied)) => {
                let mut yes = applied.into_iter();
                list.retain(|_| yes.next().unwrap());
                self.survives(Promise::Blocks(list));
            }
            (promise, _) => self.survives(promise),
        }
    }

    /// If the power goes at this moment and takes everything that is not durable, what was answered
    /// is there.
    fn survives(&self, promise: Promise) {
        let mut disk = self.disk.clone();
        disk.crash_keeping(|_| false);
        let mut store = recovery::open(&mut disk, config()).unwrap();
        match promise {
            Promise::Nothing => {}
            Promise::EmptyJournal => assert_eq!(store.stats().replayed_groups, 0, "the journal was not emptied"),
            Promise::Replica(want) => assert_eq!(store.replica(RID), Some(&want), "the promise was lost"),
            Promise::Blocks(list) => {
                let all = crate::common::read_all(&mut disk, &mut store, RID);
                for (b, ver, state) in list {
                    let got = all.get(&b.0).map(|(i, _)| *i).unwrap_or_default();
                    let zero = |s| matches!(s, BlockState::Zero | BlockState::Absent);
                    assert!(got.state == state || (zero(got.state) && zero(state)), "block {}: {got:?}", b.0);
                    assert!(got.ver == ver || (zero(state) && got.ver == Ver::ZERO), "block {}: {got:?}", b.0);
                }
            }
        }
    }
}

/// The file as it should be.
fn run(text: &str) -> String {
    let mut w = World::new();
    let mut out = String::new();
    for line in text.lines() {
        let input = line.strip_prefix("> ");
        if line.is_empty() || line.starts_with('#') || input.is_some() {
            out += &format!("{line}\n");
        }
        if let Some(input) = input {
            w.input(&input.split_whitespace().collect::<Vec<_>>()).iter().for_each(|l| out += &format!("{l}\n"));
        }
    }
    out
}

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let trace = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("trace_"));
    let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(trace).collect();
    all.sort();
    all
}

#[test]
fn the_store_does_to_its_disk_what_its_traces_say() {
    assert!(files().len() >= 8, "{:?}", files());
    for path in files() {
        let committed = std::fs::read_to_string(&path).unwrap();
        let now = run(&committed);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &now).unwrap();
            continue;
        }
        let first = committed.lines().zip(now.lines()).position(|(a, b)| a != b);
        let at = first.unwrap_or(committed.lines().count().min(now.lines().count()));
        let (was, is) = (committed.lines().nth(at), now.lines().nth(at));
        assert_eq!(committed, now, "{}, line {}: {was:?} became {is:?}", path.display(), at + 1);
    }
}

/// In every trace: an answer to a change comes after a completion, and between the answer and that
/// completion nothing is begun that the answer could still have to wait for.
#[test]
fn in_every_trace_an_answer_to_a_change_follows_a_durable_completion() {
    let mut answers = 0;
    for path in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let change = |l: &str| l.starts_with("answer") && (l.ends_with(" done") || l.contains("true"));
        for (i, _) in lines.iter().enumerate().filter(|(_, l)| change(l)) {
            let done = lines[..i].iter().rev().find(|l| !l.starts_with("answer")).unwrap();
            let number =
                done.strip_suffix(" done").unwrap_or_else(|| panic!("{}:{}: after {done}", path.display(), i + 1));
            let began =
                lines[..i].iter().find(|l| l.starts_with(&format!("{number} ")) && !l.ends_with("done")).unwrap();
            let lasting = began.contains(" durable") || began.ends_with("sync");
            assert!(lasting, "{}:{}: answered after {began}", path.display(), i + 1);
            answers += 1;
        }
    }
    assert!(answers > 20, "only {answers}");
}
