//! Golden transcripts: how a file is read, run and compared, and how messages and bytes are printed in it.
//!
//! A file is a conversation with one machine. `# …` is a remark, `> …` an input, everything else
//! what the machine said to it: one line per output, in order, with the time in milliseconds since
//! the beginning. Remarks and inputs are kept as they are; outputs are made anew and compared.
//! `UPDATE=1` writes them; the review reads the difference.

pub mod coordinator;
pub mod replica;

use bytes::Bytes;
use hf_policy::crc::{self, PayloadCrc};
use hf_policy::*;
use hf_repl_core::message::*;
use std::path::{Path, PathBuf};

/// Where every conversation begins.
pub const START: Tick = Tick(1_000_000_000);

/// A machine that can be talked to.
pub trait Machine {
    /// Does what an input line says; returns the lines of output.
    fn input(&mut self, words: &[&str]) -> Vec<String>;
}

/// What was said so far; printed if an input cannot be.
#[derive(Default)]
struct Said(String);

impl Drop for Said {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0);
        }
    }
}

/// The file as it should be: every input of `text` given to a machine.
pub fn run(text: &str, machine: &mut dyn Machine) -> String {
    let mut out = Said::default();
    for line in text.lines() {
        let input = line.strip_prefix("> ");
        if line.is_empty() || line.starts_with('#') || input.is_some() {
            out.0 += &format!("{line}\n");
        }
        if let Some(input) = input {
            let words: Vec<&str> = input.split_whitespace().collect();
            machine.input(&words).iter().for_each(|l| out.0 += &format!("{l}\n"));
        }
    }
    std::mem::take(&mut out.0)
}

/// Where two texts differ first, with what stands around it; nothing if they do not.
pub fn difference(name: &str, committed: &str, now: &str) -> Option<String> {
    if committed == now {
        return None;
    }
    let (a, b): (Vec<&str>, Vec<&str>) = (committed.lines().collect(), now.lines().collect());
    let at = (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i)).unwrap_or(0);
    let show =
        |l: &[&str]| l.iter().skip(at.saturating_sub(3)).take(8).map(|x| format!("    {x}\n")).collect::<String>();
    Some(format!("{name}, line {}:\n  committed:\n{}  now:\n{}", at + 1, show(&a), show(&b)))
}

/// Every transcript whose name begins with `prefix`, with its path.
pub fn files(prefix: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let named = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(named).collect();
    all.sort();
    all
}

/// `key=value` among the words.
pub fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
}

/// A number behind a key, or this one.
pub fn number(words: &[&str], key: &str, default: u64) -> u64 {
    value(words, key).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{key}={v} is no number")))
}

/// Reads a version, as `term.seq`.
pub fn ver(text: &str) -> Ver {
    let (t, s) = text.split_once('.').unwrap_or_else(|| panic!("{text} is no version"));
    Ver::new(t.parse().unwrap(), s.parse().unwrap())
}

/// A version behind a key, or this one.
pub fn ver_of(words: &[&str], key: &str, default: Ver) -> Ver {
    value(words, key).map_or(default, ver)
}

/// Reads a list of numbers, as `1,2,3`.
pub fn list(text: &str) -> Vec<u64> {
    text.split(',')
        .filter(|s| !s.is_empty())
        .map(|s| s.parse().unwrap_or_else(|_| panic!("{text} is no list")))
        .collect()
}

/// Reads a range of blocks, as `start+len`.
pub fn range(text: &str) -> BlockRange {
    let (s, n) = text.split_once('+').unwrap_or_else(|| panic!("{text} is no range"));
    BlockRange::new(s.parse().unwrap(), n.parse().unwrap())
}

/// A block of one letter.
pub fn filled(letter: &str, bytes: usize) -> Bytes {
    let b = letter.as_bytes();
    assert!(b.len() == 1, "{letter} is not one letter");
    Bytes::from(vec![if letter == "0" { 0 } else { b[0] }; bytes])
}

/// A block: `-` (never written), `zero@1.2`, `bad@1.2`, `lost@1.2`, or `a@1.2` (full of the letter).
pub fn block(text: &str) -> (BlockInfo, Bytes) {
    if text == "-" {
        return (BlockInfo::default(), filled("0", BLOCK_SIZE));
    }
    let (what, v) = text.split_once('@').unwrap_or_else(|| panic!("{text} is no block"));
    let (state, letter) = match what {
        "zero" => (BlockState::Zero, "0"),
        "bad" => (BlockState::Bad, "0"),
        "lost" => (BlockState::Lost, "0"),
        letter => (BlockState::Data, letter),
    };
    let data = filled(letter, BLOCK_SIZE);
    let crc = if state == BlockState::Data { crc::payload(&data) } else { PayloadCrc(0) };
    (BlockInfo { ver: ver(v), crc, state }, data)
}

/// A chunk's 256 blocks from `index=block` words.
pub fn chunk_infos(words: &[&str]) -> Vec<BlockInfo> {
    let mut infos = vec![BlockInfo::default(); CHUNK_BLOCKS as usize];
    for (at, b) in words.iter().filter_map(|w| w.split_once('=')) {
        infos[at.parse::<usize>().unwrap_or_else(|_| panic!("{at} is no block of a chunk"))] = block(b).0;
    }
    infos
}

/// Prints a version, as `term.seq`.
pub fn ver_text(v: Ver) -> String {
    format!("{}.{}", v.term.0, v.seq.0)
}

/// Bytes as runs of equal ones: `a*4096`, `a*100+b*3996`.
pub fn bytes_text(data: &[u8]) -> String {
    let letter = |b: u8| match b {
        0 => "0".to_string(),
        b if b.is_ascii_graphic() => char::from(b).to_string(),
        b => format!("x{b:02x}"),
    };
    let runs: Vec<String> = data.chunk_by(|a, b| a == b).map(|r| format!("{}*{}", letter(r[0]), r.len())).collect();
    if runs.is_empty() { "nothing".into() } else { runs.join("+") }
}

/// Prints a range of blocks, as `start+len`.
pub fn range_text(r: BlockRange) -> String {
    format!("{}+{}", r.start.0, r.len)
}

/// One item of a copy. Its checksum must be right.
fn item_text(i: &CopyItem) -> String {
    let what = match &i.content {
        Content::Zero => "zero".into(),
        Content::Bad => "bad".into(),
        Content::Data(crc, data) => {
            assert_eq!(*crc, crc::payload(data), "a copied block does not match its checksum");
            bytes_text(data)
        }
    };
    let repair = if i.repair { " (repair)" } else { "" };
    format!("{}: {} -> {} {what}{repair}", i.block.0, ver_text(i.seen), ver_text(i.src))
}

/// How block states are printed: runs of the same.
pub fn infos_text(infos: &[BlockInfo]) -> String {
    let one = |i: &BlockInfo| match i.state {
        BlockState::Absent if i.ver == Ver::ZERO => "-".to_string(),
        s => format!("{s:?}@{}", ver_text(i.ver)).to_lowercase(),
    };
    let runs = infos.chunk_by(|a, b| one(a) == one(b)).map(|r| match r.len() {
        1 => one(&r[0]),
        n => format!("{n}*{}", one(&r[0])),
    });
    runs.collect::<Vec<_>>().join(" ")
}

/// A list of a chunk's blocks: `3=data@1.2`, `4..=9=zero@1.2`.
fn listed_text(infos: &[(u8, BlockInfo)]) -> String {
    let one = |i: &BlockInfo| infos_text(std::slice::from_ref(i));
    let runs = infos.chunk_by(|a, b| a.0.checked_add(1) == Some(b.0) && one(&a.1) == one(&b.1));
    let runs = runs.map(|r| match r {
        [(at, i)] => format!("{at}={}", one(i)),
        r => format!("{}..={}={}", r[0].0, r[r.len() - 1].0, one(&r[0].1)),
    });
    runs.collect::<Vec<_>>().join(" ")
}

/// A message on one line. Times inside it are those of the conversation.
pub fn msg_text(m: &Msg) -> String {
    let v = |v: &Ver| ver_text(*v);
    match m {
        Msg::Seal { epoch, held, position, stable } => {
            let noted = if *stable == Ver::ZERO { String::new() } else { format!(" stable={}", v(stable)) };
            format!("Seal epoch={} held={} position={position}{noted}", epoch.0, v(held))
        }
        Msg::SealAck { stable, max_ver, credit, position } => {
            format!("SealAck stable={} max={} credit={credit} position={position}", v(stable), v(max_ver))
        }
        Msg::SealWait { us } => format!("SealWait {us}us"),
        Msg::Write { seq, range, stable, kind } => {
            let what = match kind {
                WriteKind::Data { crcs, data } => {
                    assert_eq!(*crcs, crc::payloads(data), "a write does not match its checksums");
                    assert_eq!(data.len() as u64, range.bytes());
                    bytes_text(data)
                }
                WriteKind::Zero { keep: true } => "zero, kept".into(),
                WriteKind::Zero { keep: false } => "zero".into(),
            };
            format!("Write seq={seq} {} {what} stable={}", range_text(*range), v(stable))
        }
        Msg::WriteAck { position, credit } => format!("WriteAck position={position} credit={credit}"),
        Msg::Read { range } => format!("Read {}", range_text(*range)),
        Msg::ReadAck { infos, data } => format!("ReadAck {} {}", infos_text(infos), bytes_text(data)),
        Msg::Lease { sent_at, stable } => {
            format!("Lease sent={} stable={}", Tick(*sent_at).since(START) as f64 / 1e3, v(stable))
        }
        Msg::LeaseAck { sent_at, credit } => {
            format!("LeaseAck sent={} credit={credit}", Tick(*sent_at).since(START) as f64 / 1e3)
        }
        Msg::Reserve { range } => format!("Reserve {}", range_text(*range)),
        Msg::ReserveAck { needs, credit } => format!("ReserveAck needs={needs} credit={credit}"),
        Msg::ChunkList { since, from } => format!("ChunkList since={} from={}", v(since), from.0),
        Msg::ChunkListAck { chunks, more } => {
            let l: Vec<String> = chunks.iter().map(|(c, x)| format!("{}@{}", c.0, v(x))).collect();
            format!("ChunkListAck {}{}", l.join(" "), if *more { " and more" } else { "" })
        }
        Msg::ChunkVersions { chunk, since } => format!("ChunkVersions {} since={}", chunk.0, v(since)),
        Msg::Verify { chunk } => format!("Verify {}", chunk.0),
        Msg::ChunkVersionsAck { infos } => format!("ChunkVersionsAck {}", listed_text(infos)),
        Msg::Copy { items } => format!("Copy {}", items.iter().map(item_text).collect::<Vec<_>>().join("; ")),
        Msg::CopyAck { applied } => format!("CopyAck {applied:?}"),
        Msg::Nack(n) => format!("Nack {n:?}: {n}"),
    }
}
