//! What every parser must bear: bytes from anybody. One function per parser, for cargo-fuzz
//! (`tests/fuzz`, `make fuzz`) and for the committed corpus, which `tests/tests/corpus.rs` replays.
//! Checksums are put right first, or no fuzzer would ever get past them; what is accepted must
//! survive being written and read again.
//!
//! Not here: HTTP and HTTP/2 are read by hyper, paths and queries by axum;
//! `tests/tests/bad_input.rs` throws garbage at those ports of a real daemon. Raft's own handling of a well-formed
//! but false message is raft-rs's, and only members of the cluster are heard (`metadata/tests/raft_sim.rs`).

mod files;
mod messages;

use bytes::Bytes;
use hf_frontends::door::{End, Fault, FrontEnd, In, Op, Out, Shape};
use hf_frontends::nbd::{self, ExportInfo, Exports, Handshake, parse_request};
use hf_meta_core::{Envelope, image};
use hf_policy::{ClusterId, DiskUuid, NodeId, Policy, Rid, ShardId, Tick, VolumeId};
use hf_repl_core::wire;
use hf_store::format::{group::Group, index, page, replica::ReplicaRec, seal, superblock::Superblock};
use hf_store::sim::SimDisk;
use hf_store::{Config, FormatParams, Salt, recovery};
use std::collections::{BTreeMap, VecDeque};

/// A parser, by the name of its target and of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("wire_frame", wire_frame),
    ("wire_hello", wire_hello),
    ("nbd_handshake", nbd_handshake),
    ("nbd_request", nbd_request),
    ("journal_group", journal_group),
    ("chunk_page", chunk_page),
    ("superblock", superblock),
    ("index_page", index_page),
    ("disk_open", disk_open),
    ("command", command),
    ("cluster_image", cluster_image),
    ("policy", policy),
    ("node_identity", files::node_identity),
    ("node_config", files::node_config),
    ("cluster_view", files::cluster_view),
    ("watch_delta", messages::watch_delta),
    ("grpc_message", messages::grpc_message),
    ("raft_message", messages::raft_message),
];

/// Runs one target by name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(n, _)| *n == name).map(|(_, f)| f);
    target.unwrap_or_else(|| panic!("no target {name}"))(data);
}

fn wire_frame(data: &[u8]) {
    let Some((head, rest)) = data.split_at_checked(wire::HEADER_BYTES) else { return };
    let Ok(mut head) = <[u8; wire::HEADER_BYTES]>::try_from(head) else { return };
    let Ok(h) = wire::parse_header(&head) else { return };
    assert!(h.body <= wire::MAX_BODY && h.payload <= wire::MAX_PAYLOAD);
    let body = &rest[..rest.len().min(h.body as usize)];
    // The payload's bytes do not matter to the parser, its length does.
    let payload = Bytes::from(vec![0u8; h.payload as usize]);
    head[4..8].fill(0);
    let mut crc = crc32(&[&head, body]);
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    let Ok(h) = wire::parse_header(&head) else { return };
    let Ok(msg) = wire::decode(&head, &h, body, payload.clone()) else { return };
    let again = wire::encode(&h.env, &msg);
    let Ok(mut head) = <[u8; wire::HEADER_BYTES]>::try_from(&again.head[..wire::HEADER_BYTES]) else { return };
    head[4..8].fill(0);
    crc = crc32(&[&head, &again.head[wire::HEADER_BYTES..]]);
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    let h = wire::parse_header(&head).expect("what was encoded is a frame");
    let got = wire::decode(&head, &h, &again.head[wire::HEADER_BYTES..], payload).expect("and can be decoded");
    assert_eq!(got, msg);
}

fn crc32(parts: &[&[u8]]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    parts.iter().for_each(|p| h.update(p));
    h.finalize()
}

fn wire_hello(data: &[u8]) {
    let mut raw = [0u8; wire::HELLO_BYTES];
    let n = data.len().min(raw.len());
    raw[..n].copy_from_slice(&data[..n]);
    raw[12..16].fill(0);
    let crc = crc32(&[&raw]);
    raw[12..16].copy_from_slice(&crc.to_le_bytes());
    if let Some(h) = wire::Hello::from_frame(&raw) {
        let _ = h.common_version();
        let _ = h.to_frame();
    }
    if let Some(r) = wire::HelloReply::from_frame(&raw) {
        let _ = r.to_frame();
    }
}

struct One;
impl Exports for One {
    fn list(&self) -> Vec<String> {
        vec!["vol".into(), "other".into()]
    }
    fn find(&self, name: &str) -> Result<ExportInfo, String> {
        let info =
            ExportInfo { name: "vol".into(), size: 1 << 20, read_only: name == "other", description: "d".into() };
        if name == "vol" || name == "other" { Ok(info) } else { Err("no such volume".into()) }
    }
}

/// Whole, and again in two pieces: the outcome is the same.
fn nbd_handshake(data: &[u8]) {
    let (mut h, mut out) = (Handshake::default(), Vec::new());
    let (used, _) = h.feed(data, &One, &mut out);
    assert!(used <= data.len());
    let half = data.len() / 2;
    let (mut h, mut two) = (Handshake::default(), Vec::new());
    let (first, next) = h.feed(&data[..half], &One, &mut two);
    if matches!(next, nbd::Next::More) {
        h.feed(&data[first..], &One, &mut two);
        assert_eq!(out, two);
    }
}

fn nbd_request(data: &[u8]) {
    for raw in data.chunks_exact(nbd::HEADER_BYTES) {
        let Ok(raw) = <[u8; nbd::HEADER_BYTES]>::try_from(raw) else { continue };
        if let Some(r) = parse_request(&raw)
            && r.check(1 << 20, false, true, true).is_ok()
            && matches!(r.command, nbd::Command::Read | nbd::Command::Write)
        {
            assert!(r.offset + u64::from(r.len) <= 1 << 20);
        }
    }
    front_end(data);
}

/// The same bytes as a connection: a whole front end, with a driver that grants everything at once and
/// answers the newest request first. However the stream goes on, no request is outside of the volume and no
/// task is begun twice.
fn front_end(data: &[u8]) {
    const SIZE: u64 = 1 << 20;
    let export = ExportInfo { name: "v".into(), size: SIZE, read_only: false, description: String::new() };
    let mut front = nbd::Front::new(&nbd::Agreed { export, structured: true, base_allocation: true });
    let shape = Shape { size: SIZE, read_only: data.len().is_multiple_of(7) };
    let (mut rest, mut todo, mut begun) = (data, VecDeque::new(), BTreeMap::new());
    let mut out = Vec::new();
    front.input(Tick(0), In::Open, &mut out);
    todo.extend(out.drain(..));
    loop {
        let Some(next) = todo.pop_front() else {
            let Some((task, ())) = begun.pop_last() else { break };
            front.input(Tick(0), In::Ended(task, End::Failed(Fault::Io)), &mut out);
            todo.extend(out.drain(..));
            continue;
        };
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Some(head)
        };
        let input = match next {
            Out::Read(n) => take(n).map(|head| In::Head(head, shape)),
            Out::Fill { task, len, .. } => take(len).map(|_| In::Filled(task)),
            Out::Skip(n) => take(n).map(|_| In::Skipped),
            Out::Reserve { task, bytes, cut } => Some(In::Room(task, if cut { bytes.min(65_536) } else { bytes })),
            Out::Place(task) => Some(In::Placed(task, shape)),
            Out::Begin(task, op) => {
                if let Op::Read { off, len } = op {
                    assert!(off + u64::from(len) <= SIZE);
                }
                assert!(begun.insert(task, ()).is_none(), "a task is begun twice");
                None
            }
            Out::Drop(_) | Out::Send(..) => None,
            Out::Leave | Out::Close(_) => break,
        };
        if let Some(input) = input {
            front.input(Tick(0), input, &mut out);
            todo.extend(out.drain(..));
        }
    }
    front.input(Tick(0), In::Closing(None), &mut out);
}

/// Whole blocks with the checksum of each structure put right.
fn block(data: &[u8], crc_at: usize, blocks: usize) -> Vec<u8> {
    let mut b = data.to_vec();
    b.resize(blocks * 4096, 0);
    seal(&mut b, crc_at);
    b
}

fn journal_group(data: &[u8]) {
    // Of either format version; the salt is put right as the checksum is.
    for salt in [Salt::NONE, Salt(9)] {
        let mut data = data.to_vec();
        if !salt.is_none() && data.len() >= 80 {
            data[64..80].copy_from_slice(&salt.0.to_le_bytes());
        }
        let n = Group::header_blocks(&data, salt).unwrap_or(1);
        let b = block(&data, 4, n);
        if let Some((g, _)) = Group::decode_header(&b, salt) {
            let (again, _) = g.encode_header(salt);
            assert_eq!(Group::decode_header(&again, salt).map(|x| x.0), Some(g));
        }
    }
}

fn chunk_page(data: &[u8]) {
    // The identity is read off the bytes, so that it always is the right one.
    let le = |at: usize, n: usize| {
        data.get(at..at + n).map_or(0, |b| b.iter().rev().fold(0u64, |a, x| a << 8 | u64::from(*x)))
    };
    let id = page::PageId {
        shard: ShardId { vol: VolumeId(le(16, 8)), index: le(24, 4) as u32 },
        rid: Rid(le(28, 8)),
        chunk: le(12, 4) as u32,
    };
    let mut b = data.to_vec();
    b.resize(4096, 0);
    let crc = seal(&mut b, page::CRC_AT);
    if let Some(p) = page::Page::decode(&b, id, crc) {
        let (again, crc) = p.encode(id);
        assert_eq!(page::Page::decode(&again, id, crc), Some(p));
    }
}

fn superblock(data: &[u8]) {
    let b = block(data, 12, 1);
    if let Ok(s) = Superblock::decode(&b) {
        assert_eq!(Superblock::decode(&s.encode()).ok(), Some(s));
    }
}

fn index_page(data: &[u8]) {
    let _ = index::decode_page(DiskUuid(9), Salt::NONE, 0, data);
    for e in data.chunks_exact(hf_store::format::replica::REPLICA_BYTES) {
        if let Some(Some(r)) = ReplicaRec::decode(e) {
            let _ = r.encode();
        }
    }
    for e in data.chunks_exact(index::SLOT_BYTES) {
        let _ = index::SlotEntry::decode(e);
    }
}

/// A disk on which these bytes lie over a formatted one, in pieces: `(block, bytes)`, each with a
/// right checksum for a journal group.
fn disk_open(data: &[u8]) {
    let mut disk = SimDisk::new(16 << 20);
    let p = FormatParams {
        cluster: ClusterId(1),
        node: NodeId(1),
        disk: DiskUuid(9),
        journal: Some(1 << 20),
        salt: Salt(9),
    };
    if recovery::format(&mut disk, p).is_err() {
        return;
    }
    for piece in data.chunks(256) {
        let Some((at, body)) = piece.split_at_checked(2) else { continue };
        let at = u64::from(u16::from_le_bytes([at[0], at[1]])) % 4096;
        let mut b = disk.block(at).to_vec();
        b[..body.len()].copy_from_slice(body);
        if Group::header_blocks(&b, Salt(9)) == Some(1) {
            seal(&mut b, 4);
        }
        disk.set_block(at, Bytes::from(b));
    }
    // Whatever it says: words, not a panic; and looking writes nothing.
    if let Ok(store) = recovery::open(&mut disk, Config::default()) {
        let _ = store.stats();
    }
    let _ = recovery::journal(&mut disk, |_, _, _| {});
}

fn command(data: &[u8]) {
    if let Ok(e) = Envelope::decode(data) {
        let again = e.encode().expect("what was decoded can be encoded");
        assert_eq!(Envelope::decode(&again).ok(), Some(e.clone()));
        let mut state = hf_meta_core::ClusterState::default();
        let _ = state.apply(&e);
        state.check().expect("no command breaks the record");
    }
}

fn cluster_image(data: &[u8]) {
    if let Ok(s) = image::decode(data) {
        let again = image::encode(&s).expect("what was decoded can be encoded");
        assert_eq!(image::decode(&again).ok(), Some(s));
    }
}

fn policy(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    let _ = hf_policy::parse_size(text);
    let _ = hf_policy::parse_duration_us(text);
    if let Ok(attrs) = hf_policy::policy::parse_pairs(text.split_whitespace()) {
        // The normal form is its own normal form.
        let pairs: Vec<String> = attrs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(hf_policy::policy::parse_pairs(pairs.iter().map(String::as_str)).ok(), Some(attrs.clone()));
        let _ = Policy::from_attrs(&attrs);
    }
    messages::new_volume(text);
}
