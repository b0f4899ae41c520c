//! Golden bytes of every structure on disk, per version (`testdata/format_v1/*.hex`, `format_v2`):
//! what was written once must be read for ever, and is written the same way until the format gets a
//! new version.
//!
//! `UPDATE=1` writes only files that do not exist: the committed bytes of a version never change. A
//! new layout gets a new version, a directory of its own, and this release still decodes the old
//! one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use hf_policy::crc::SeededCrc;
use hf_policy::*;
use hf_store::ReplicaRec;
use hf_store::format::group::{Body, Group, MAGIC, Masked, Record};
use hf_store::format::index::{self, SlotEntry};
use hf_store::format::page::{self, BlockMeta, BlockState, Page, PageId};
use hf_store::format::replica::REPLICA_BYTES;
use hf_store::format::superblock::{Bad, JournalTail, Superblock};
use hf_store::format::{Salt, seal};
use hf_store::geometry::Geometry;
use std::path::{Path, PathBuf};

fn dir(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/format_v{version}"))
}

/// The salt of the disks of version 2 here.
const SALT: Salt = Salt(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

/// Lines of 32 bytes behind their offset; lines of zeroes are left out.
fn to_hex(bytes: &[u8]) -> String {
    let mut out = format!("{} bytes\n", bytes.len());
    for (i, line) in bytes.chunks(32).enumerate().filter(|(_, l)| l.iter().any(|b| *b != 0)) {
        let groups: Vec<String> = line.chunks(4).map(|g| g.iter().map(|b| format!("{b:02x}")).collect()).collect();
        out += &format!("{:04x}: {}\n", i * 32, groups.join(" "));
    }
    out
}

fn from_hex(text: &str) -> Vec<u8> {
    let mut lines = text.lines();
    let len = lines.next().unwrap().strip_suffix(" bytes").unwrap().parse().unwrap();
    let mut bytes = vec![0; len];
    for l in lines {
        let (at, hex) = l.split_once(": ").unwrap();
        let at = usize::from_str_radix(at, 16).unwrap();
        let hex: String = hex.split(' ').collect();
        for i in 0..hex.len() / 2 {
            bytes[at + i] = u8::from_str_radix(&hex[i * 2..i * 2 + 2], 16).unwrap();
        }
    }
    bytes
}

/// The committed bytes, after it was seen that this release still writes them.
fn golden(name: &str, encoded: &[u8]) -> Vec<u8> {
    golden_of(1, name, encoded)
}

fn golden_of(version: u32, name: &str, encoded: &[u8]) -> Vec<u8> {
    let path = dir(version).join(format!("{name}.hex"));
    if !path.exists() && std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(dir(version)).unwrap();
        std::fs::write(&path, to_hex(encoded)).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let committed = from_hex(&text);
    assert_eq!(to_hex(&committed), text, "{name}: not as it is printed");
    assert_eq!(to_hex(encoded), text, "{name} is written differently: a changed format needs a new version");
    committed
}

/// Not one bit of a sealed structure may differ.
fn every_bit_counts(name: &str, bytes: &[u8], accepts: impl Fn(&[u8]) -> bool) {
    assert!(accepts(bytes));
    let mut changed = bytes.to_vec();
    for i in 0..bytes.len() {
        changed[i] ^= 1 << (i % 8);
        assert!(!accepts(&changed), "{name}: byte {i} may be anything");
        changed[i] = bytes[i];
    }
}

fn replica() -> ReplicaRec {
    ReplicaRec {
        shard: ShardId { vol: VolumeId(0x0102_0304), index: 5 },
        rid: Rid(0x1112_1314),
        store_uuid: StoreUuid(0x2122_2324_2526_2728_292a_2b2c_2d2e_2f30),
        lineage: Lineage(0x3132_3334_3536_3738_393a_3b3c_3d3e_3f40),
        promised_term: Term(0x4142),
        promised_session: SessionId(0x5152_5354_5556_5758_595a_5b5c_5d5e_5f60),
        stable_known: Ver::new(0x61, 0x6263_6465),
        blocks: 1 << 24,
        deleting: false,
        hint_epoch: 0x71,
        hint_name: "db-1".into(),
        hint_size: 0,
    }
}

#[test]
fn superblock() {
    let sb = Superblock {
        generation: 0x0807_0605_0403_0201,
        cluster: ClusterId(0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20),
        disk: DiskUuid(0x2122_2324_2526_2728_292a_2b2c_2d2e_2f30),
        geometry: Geometry {
            disk_bytes: 0x3132_3334_3536,
            journal_bytes: 0x4142_4344,
            replicas: 0x5152,
            slots: 0x6162_6364,
            units: 0x7172_7374,
        },
        journal_gen: 0x8182,
        tail: JournalTail { off: 0x9192_9394, seq: 0xa1a2_a3a4, prev_crc: 0xb1b2_b3b4 },
        half: 1,
        index_gen: 0xc1c2,
        index_digest: 0xd1d2_d3d4,
        node: NodeId(0xe1e2_e3e4_e5e6_e7e8),
        log_age: LogAge::default(),
        salt: Salt::NONE,
        salted_from: 0,
        extensions: Vec::new(),
    };
    // The age of a log was added behind what there was: disks from before hold zeroes there, and
    // are read as never told.
    let aged = Superblock {
        log_age: LogAge { log: LogId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10), age: 0xf1f2, start: 0 },
        ..sb.clone()
    };
    let bytes = golden("superblock_log_age", &aged.encode());
    assert_eq!(Superblock::decode(&bytes), Ok(aged));
    every_bit_counts("superblock_log_age", &bytes, |b| Superblock::decode(b).is_ok());
    let bytes = golden("superblock", &sb.encode());
    assert_eq!(Superblock::decode(&bytes), Ok(sb.clone()));
    every_bit_counts("superblock", &bytes, |b| Superblock::decode(b).is_ok());
    let mut newer = bytes.clone();
    newer[8] += 2;
    seal(&mut newer, 12);
    assert_eq!(Superblock::decode(&newer), Err(Bad::TooNew(3)));
    // Disks that were formatted before the node was written down are read as belonging to none.
    let mut older = bytes;
    older[128..136].fill(0);
    seal(&mut older, 12);
    assert_eq!(Superblock::decode(&older), Ok(Superblock { node: NodeId(0), ..sb.clone() }));
    // Version 2: a salt, and a replica table that goes on in two units.
    let salted = Superblock { salt: SALT, salted_from: 0xa1a2, extensions: vec![0x1112_1314, 0x1516], ..sb };
    let bytes = golden_of(2, "superblock", &salted.encode());
    assert_eq!(Superblock::decode(&bytes), Ok(salted));
    every_bit_counts("superblock", &bytes, |b| Superblock::decode(b).is_ok());
    let with = |at: usize, n: usize, value: u8| {
        let mut b = bytes.clone();
        b[at..at + n].fill(value);
        seal(&mut b, 12);
        Superblock::decode(&b)
    };
    assert_eq!(with(160, 16, 0), Err(Bad::Damaged), "version 2 without a salt");
    assert_eq!(with(184, 4, 0xff), Err(Bad::Damaged), "more units than fit");
}

fn group(records: Vec<Record>) -> Group {
    Group {
        journal_gen: 0x11,
        seq: 0x2122_2324,
        prev_crc: 0x3132_3334,
        acked_through: 0x2122_2322,
        checkpoint: 0x41,
        payload_blocks: records.iter().map(|r| r.payload_blocks() as u32).sum(),
        masked: Masked::default(),
        records,
    }
}

#[test]
fn journal_groups_of_every_record_kind() {
    let crcs = |n: u32| (0..n).map(|i| SeededCrc(0xc0de_0000 + i)).collect::<Vec<_>>();
    let bodies = [
        ("group_data", 2, Body::Data { crcs: crcs(2) }),
        ("group_map", 32, Body::Map { units: vec![0x0a0b, 0x0c0d], crcs: crcs(32) }),
        ("group_zero", 700, Body::Zero),
        ("group_zero_kept", 3, Body::ZeroKept),
        ("group_bad", 1, Body::Bad),
        ("group_replica", 0, Body::Replica(Box::new(replica()))),
        ("group_replica_deleting", 0, Body::Replica(Box::new(ReplicaRec { deleting: true, ..replica() }))),
    ];
    let mut all = Vec::new();
    for (name, blocks, body) in bodies {
        let range = BlockRange::new(0x1_0203, blocks);
        let r = Record { replica: 7, rid: Rid(0x5152), range, ver: Ver::new(0x61, 0x7172_7374_7576), body };
        all.push(r.clone());
        one_group(name, &group(vec![r]));
    }
    // Several records, and more of them than one header block holds.
    one_group("group_several", &group(all.clone()));
    let many: Vec<Record> = (0..5).flat_map(|_| all.clone()).collect();
    one_group("group_two_header_blocks", &group(many));
    one_group_of(2, "group_several", SALT, &group(all.clone()));
    let mut masked = group(all);
    let mut payload = [Bytes::from([vec![9; 4096], [&MAGIC.to_le_bytes()[..], &[9; 4092]].concat()].concat())];
    masked.masked = Masked::mask(&mut payload);
    one_group_of(2, "group_masked", SALT, &masked);
    let extend = Record {
        replica: 64,
        rid: Rid(0),
        range: BlockRange::default(),
        ver: Ver::ZERO,
        body: Body::Extend { unit: 0x1112 },
    };
    one_group_of(2, "group_extend", SALT, &group(vec![extend]));
}

fn one_group(name: &str, g: &Group) {
    one_group_of(1, name, Salt::NONE, g);
}

fn one_group_of(version: u32, name: &str, salt: Salt, g: &Group) {
    let (encoded, crc) = g.encode_header(salt);
    let bytes = golden_of(version, name, &encoded);
    assert_eq!(Group::header_blocks(&bytes, salt), Some(bytes.len() / 4096), "{name}");
    assert_eq!(Group::decode_header(&bytes, salt), Some((g.clone(), crc)), "{name}");
    if bytes.len() == 4096 {
        every_bit_counts(name, &bytes, |b| Group::decode_header(b, salt).is_some());
    }
    assert_eq!(Group::decode_header(&bytes, Salt(SALT.0 + 1)), None, "{name} of another disk");
    let mut newer = bytes;
    newer[8] += 1;
    seal(&mut newer, 4);
    assert_eq!(Group::decode_header(&newer, salt), None, "{name} of another version");
}

#[test]
fn chunk_page() {
    let id = PageId { shard: ShardId { vol: VolumeId(0x0102), index: 3 }, rid: Rid(0x0405), chunk: 0x0607 };
    let mut p = Page { trim_ver: Ver::new(2, 0x1112), ..Page::default() };
    p.units[0] = 0x2122;
    p.units[15] = 0x2324;
    let meta = |term, seq, crc, state| BlockMeta { ver: Ver::new(term, seq), crc: SeededCrc(crc), state };
    p.blocks[0] = meta(3, (1 << 48) - 1, 0x3132_3334, BlockState::Data);
    p.blocks[1] = meta(2, 0x1113, 0x3536_3738, BlockState::Data);
    p.blocks[2] = meta(9, 0x41, 0, BlockState::Zero);
    p.blocks[255] = meta(3, 0x51, 0, BlockState::Bad);
    let mut lost = p.clone();
    lost.blocks[254] = meta(3, 0x52, 0, BlockState::Lost);
    let (encoded, crc) = lost.encode(id);
    assert_eq!(Page::decode(&golden("chunk_page_lost", &encoded), id, crc), Some(lost));
    let (encoded, crc) = p.encode(id);
    let bytes = golden("chunk_page", &encoded);
    assert_eq!(Page::decode(&bytes, id, crc), Some(p));
    every_bit_counts("chunk_page", &bytes, |b| Page::decode(b, id, crc).is_some());
    let mut newer = bytes;
    newer[4] += 1;
    let crc = seal(&mut newer, page::CRC_AT);
    assert_eq!(Page::decode(&newer, id, crc), None);
}

#[test]
fn replica_entries() {
    for (name, r) in [
        ("replica_entry", replica()),
        ("replica_entry_deleting", ReplicaRec { deleting: true, ..replica() }),
        ("replica_entry_size", ReplicaRec { hint_size: 0x8182_8384_8586_8788, ..replica() }),
        ("replica_entry_longest_name", ReplicaRec { hint_name: "n".repeat(63), ..replica() }),
    ] {
        let bytes = golden(name, &r.encode());
        assert_eq!(ReplicaRec::decode(&bytes), Some(Some(r)), "{name}");
    }
    assert_eq!(ReplicaRec::decode(&[0; REPLICA_BYTES]), Some(None), "an entry of zeroes is free");
}

#[test]
fn index_pages() {
    let disk = DiskUuid(0x0102_0304);
    let slots = [
        SlotEntry {
            replica: 1,
            chunk: 2,
            max_ver: Ver::new(3, 4),
            units: 0x8001,
            copy: Some(1),
            page_crc: 0x1112_1314,
        },
        SlotEntry { replica: 1, chunk: 3, max_ver: Ver::new(5, 6), units: 0, copy: Some(0), page_crc: 0x2122_2324 },
        SlotEntry { replica: 2, chunk: 0, max_ver: Ver::new(7, 8), units: 0, copy: None, page_crc: 0 },
    ];
    let mut payload = Vec::new();
    slots.iter().for_each(|s| s.encode(&mut payload));
    for (name, page, payload) in [
        ("index_replicas", 0, [replica().encode(), vec![0; REPLICA_BYTES], replica().encode()].concat()),
        ("index_slots", 4, payload),
        ("index_bitmap", 5, vec![0xff, 0x01, 0x80]),
    ] {
        let (encoded, crc) = index::encode_page(disk, Salt::NONE, page, 0x31, &payload);
        let bytes = golden(name, &encoded);
        let (got, got_crc) = index::decode_page(disk, Salt::NONE, page, &bytes).unwrap();
        assert_eq!((&got[..payload.len()], got_crc), (&payload[..], crc), "{name}");
        assert!(got[payload.len()..].iter().all(|b| *b == 0));
        assert_eq!(index::decode_page(disk, Salt::NONE, page + 1, &bytes), None, "{name} in another place");
        assert_eq!(index::decode_page(DiskUuid(1), Salt::NONE, page, &bytes), None, "{name} of another disk");
        every_bit_counts(name, &bytes, |b| index::decode_page(disk, Salt::NONE, page, b).is_some());
    }
    // In a unit: with the salt, so that no payload that was there, or was meant for another place,
    // is taken for it.
    let (encoded, _) = index::encode_page(disk, SALT, 77, 0x31, &replica().encode());
    let bytes = golden_of(2, "index_extension", &encoded);
    assert!(index::decode_page(disk, SALT, 77, &bytes).is_some());
    assert_eq!(index::decode_page(disk, Salt(1), 77, &bytes), None);
    assert_eq!(index::decode_page(disk, Salt::NONE, 77, &bytes), None);
    let bytes = from_hex(&std::fs::read_to_string(dir(1).join("index_slots.hex")).unwrap());
    let payload = index::decode_page(disk, Salt::NONE, 4, &bytes).unwrap().0;
    let read: Vec<_> = payload.chunks_exact(index::SLOT_BYTES).map(|e| SlotEntry::decode(e).unwrap()).collect();
    assert_eq!(read[..3], slots.map(Some));
    assert!(read[3..].iter().all(Option::is_none));
}

/// Nothing lies in the directory that no test reads.
#[test]
fn every_golden_file_is_tested() {
    let source = include_str!("golden_format.rs");
    let names = [1, 2].into_iter().flat_map(|v| std::fs::read_dir(dir(v)).unwrap()).map(|e| e.unwrap().path());
    let mut n = 0;
    for p in names {
        let stem = p.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(source.contains(&format!("\"{stem}\"")), "{} is read by nobody", p.display());
        n += 1;
    }
    assert!(n >= 15, "only {n}");
}
