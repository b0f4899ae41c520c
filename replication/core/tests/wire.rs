//! Frames round-trip, are pinned by golden bytes, and survive hostile input without a panic or a
//! large allocation.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use hf_policy::crc;
use hf_policy::*;
use hf_repl_core::message::*;
use hf_repl_core::wire::*;

fn env() -> Envelope {
    Envelope {
        cluster: ClusterId(1),
        shard: ShardId { vol: VolumeId(2), index: 3 },
        rid: Rid(4),
        store_uuid: StoreUuid(5),
        lineage: Lineage(6),
        term: Term(7),
        session: SessionId(8),
        req: 9,
        boot: BootId(10),
    }
}

fn all() -> Vec<Msg> {
    let data = Bytes::from(vec![5u8; 8192]);
    let crcs = crc::payloads(&data);
    let info = BlockInfo { ver: Ver::new(1, 2), crc: crcs[0], state: BlockState::Data };
    let item = |d: bool| CopyItem {
        block: BlockIx(7),
        seen: Ver::new(1, 1),
        src: Ver::new(2, 2),
        content: if d { Content::Data(crcs[0], data.slice(..4096)) } else { Content::Bad },
        repair: d,
    };
    let range = BlockRange::new(10, 2);
    vec![
        Msg::Seal { epoch: Epoch(5), held: Ver::new(3, 9), position: 77, stable: Ver::new(4, 0) },
        Msg::SealAck { stable: Ver::new(1, 5), max_ver: Ver::new(1, 6), credit: 99, position: 7 },
        Msg::SealWait { us: 5 },
        Msg::Write {
            seq: 4,
            range,
            stable: Ver::new(1, 1),
            kind: WriteKind::Data { crcs: crcs.clone(), data: data.clone() },
        },
        Msg::Write { seq: 4, range, stable: Ver::new(1, 1), kind: WriteKind::Zero { keep: false } },
        Msg::Write { seq: 4, range, stable: Ver::new(1, 1), kind: WriteKind::Zero { keep: true } },
        Msg::WriteAck { credit: 1, position: 2 },
        Msg::Read { range },
        Msg::ReadAck { infos: vec![info, BlockInfo::default()], data: data.clone() },
        Msg::Lease { sent_at: 1, stable: Ver::ZERO },
        Msg::LeaseAck { sent_at: 1, credit: 0 },
        Msg::Reserve { range },
        Msg::ReserveAck { needs: 65_536, credit: 7 },
        Msg::ChunkList { since: Ver::ZERO, from: ChunkIx(3) },
        Msg::ChunkListAck { chunks: vec![(ChunkIx(1), Ver::new(1, 1))], more: true },
        Msg::ChunkVersions { chunk: ChunkIx(9), since: Ver::new(3, 4) },
        Msg::Verify { chunk: ChunkIx(9) },
        Msg::ChunkVersionsAck { infos: (0..=255).map(|at| (at, info)).collect() },
        Msg::Copy { items: vec![item(true), item(false), item(true)] },
        Msg::CopyAck { applied: vec![true, false] },
        Msg::Nack(Nack::StaleTerm { promised: Term(9) }),
        Msg::Nack(Nack::NoSpace),
    ]
}

fn parts(m: &Msg) -> ([u8; HEADER_BYTES], Vec<u8>, Bytes) {
    let f = encode(&env(), m);
    let head: [u8; HEADER_BYTES] = f.head[..HEADER_BYTES].try_into().unwrap();
    (head, f.head[HEADER_BYTES..].to_vec(), Bytes::from(f.payload.concat()))
}

#[test]
fn every_message_round_trips() {
    for m in all() {
        let (head, body, payload) = parts(&m);
        let h = parse_header(&head).unwrap();
        assert_eq!((h.body as usize, h.payload as usize, h.env), (body.len(), payload.len(), env()));
        assert_eq!(decode(&head, &h, &body, payload), Ok(m));
    }
}

#[test]
fn golden_bytes_pin_version_1() {
    let (head, body, _) = parts(&Msg::Write {
        seq: 4,
        range: BlockRange::new(10, 2),
        stable: Ver::new(1, 1),
        kind: WriteKind::Zero { keep: false },
    });
    let hex = |b: &[u8]| b.iter().map(|x| format!("{x:02x}")).collect::<String>();
    assert_eq!(hex(&head[..4]), "48465231");
    assert_eq!(hex(&head[8..60]), "0104000000000000210000000000000001000000000000000000000000000000020000000000000003000000040000000000000005000000"[..104].to_string());
    assert_eq!(hex(&body), "04000000000000000a0000000000000002000000010000000100000000000000".to_string() + "00");
}

#[test]
fn damaged_and_hostile_frames_are_refused() {
    let rounds: u64 = std::env::var("HOLDFAST_FUZZ_ROUNDS").ok().and_then(|s| s.parse().ok()).unwrap_or(300_000);
    let msgs = all();
    let mut x = 0x1234_5678_9abc_def1u64;
    let mut rnd = move |n: u64| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x % n
    };
    let mut accepted = 0;
    for _ in 0..rounds {
        let m = &msgs[rnd(msgs.len() as u64) as usize];
        let (mut head, mut body, payload) = parts(m);
        for _ in 0..1 + rnd(3) {
            if rnd(2) == 0 || body.is_empty() {
                head[rnd(HEADER_BYTES as u64) as usize] ^= 1 << rnd(8);
            } else {
                let at = rnd(body.len() as u64) as usize;
                body[at] ^= 1 << rnd(8);
            }
        }
        let Ok(h) = parse_header(&head) else { continue };
        assert!(h.body <= MAX_BODY && h.payload <= MAX_PAYLOAD);
        // The same bit may have been flipped back.
        if let Ok(got) = decode(&head, &h, &body, payload) {
            assert_eq!((&got, h.env), (m, env()));
            accepted += 1;
        }
    }
    assert!(accepted < rounds / 20, "{accepted}");
    let mut raw = [0u8; HELLO_BYTES];
    assert_eq!(Hello::from_frame(&raw), None);
    raw = Hello { min_version: 1, max_version: 9, ..Default::default() }.to_frame();
    assert_eq!(Hello::from_frame(&raw).unwrap().common_version(), Some(MAX_VERSION));
    raw[20] ^= 1;
    assert_eq!(Hello::from_frame(&raw), None);
    assert_eq!(Hello { min_version: MAX_VERSION + 1, max_version: 9, ..Default::default() }.common_version(), None);
}
