//! Properties of the wire format and of unaligned client requests: for any message and any request,
//! not only for examples.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::{BOOT, config, record};
use bytes::Bytes;
use hf_policy::attributes::ReadFrom;
use hf_policy::crc::{self, PayloadCrc};
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, ClientOp, ClientReply, Coordinator, Input, Output};
use hf_repl_core::message::*;
use hf_repl_core::replica::LIST_PAGE;
use hf_repl_core::wire::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn ver() -> impl Strategy<Value = Ver> {
    (any::<u32>(), any::<u64>()).prop_map(|(t, s)| Ver::new(t, s))
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let wide = (any::<u128>(), any::<u128>(), any::<u128>(), any::<u128>(), any::<u128>());
    (wide, any::<(u64, u32, u64, u32, u64)>()).prop_map(|((c, s, l, x, b), (vol, index, rid, term, req))| Envelope {
        cluster: ClusterId(c),
        shard: ShardId { vol: VolumeId(vol), index },
        rid: Rid(rid),
        store_uuid: StoreUuid(s),
        lineage: Lineage(l),
        term: Term(term),
        session: SessionId(x),
        req,
        boot: BootId(b),
    })
}

/// Whole blocks of any content.
fn data(blocks: usize) -> impl Strategy<Value = Bytes> {
    any::<u64>().prop_map(move |seed| {
        let word = |i: u64| seed.wrapping_mul(i | 1).rotate_left(i as u32 % 63).to_le_bytes();
        Bytes::from((0..blocks as u64 * 512).flat_map(word).collect::<Vec<u8>>())
    })
}

fn info() -> impl Strategy<Value = BlockInfo> {
    use BlockState::*;
    let states = &[Absent, Data, Zero, Bad, Lost][..];
    (ver(), any::<u32>(), prop::sample::select(states)).prop_map(|(ver, crc, state)| BlockInfo {
        ver,
        crc: PayloadCrc(crc),
        state,
    })
}

fn item() -> impl Strategy<Value = CopyItem> {
    let content = prop_oneof![
        Just(Content::Zero),
        Just(Content::Bad),
        (any::<u32>(), data(1)).prop_map(|(c, d)| Content::Data(PayloadCrc(c), d)),
    ];
    (any::<u64>(), ver(), ver(), content, any::<bool>()).prop_map(|(block, seen, src, content, repair)| CopyItem {
        block: BlockIx(block),
        seen,
        src,
        content,
        repair,
    })
}

fn range() -> impl Strategy<Value = BlockRange> {
    any::<(u64, u32)>().prop_map(|(s, n)| BlockRange::new(s, n))
}

fn nack() -> impl Strategy<Value = Nack> {
    prop_oneof![
        any::<u32>().prop_map(|t| Nack::StaleTerm { promised: Term(t) }),
        Just(Nack::FutureTerm),
        Just(Nack::WrongStore),
        Just(Nack::WrongLineage),
        Just(Nack::NoReplica),
        Just(Nack::NoSpace),
        Just(Nack::BadCrc),
        Just(Nack::Failed),
        Just(Nack::Invalid),
    ]
}

fn write() -> impl Strategy<Value = Msg> {
    let bytes = (any::<u64>(), 1..6usize).prop_flat_map(|(start, n)| {
        data(n).prop_map(move |data| {
            (BlockRange::new(start, n as u32), WriteKind::Data { crcs: crc::payloads(&data), data })
        })
    });
    let zero = (range(), any::<bool>()).prop_map(|(r, keep)| (r, WriteKind::Zero { keep }));
    (any::<u64>(), ver(), prop_oneof![bytes, zero]).prop_map(|(seq, stable, (range, kind))| Msg::Write {
        seq,
        range,
        stable,
        kind,
    })
}

fn read_ack() -> impl Strategy<Value = Msg> {
    prop::collection::vec(info(), 0..6)
        .prop_flat_map(|infos| data(infos.len()).prop_map(move |data| Msg::ReadAck { infos: infos.clone(), data }))
}

/// How many kinds there are; `number` makes the compiler ask for a new one.
const KINDS: usize = 19;

fn number(m: &Msg) -> usize {
    match m {
        Msg::Seal { .. } => 0,
        Msg::SealAck { .. } => 1,
        Msg::SealWait { .. } => 2,
        Msg::Write { .. } => 3,
        Msg::WriteAck { .. } => 4,
        Msg::Read { .. } => 5,
        Msg::ReadAck { .. } => 6,
        Msg::Lease { .. } => 7,
        Msg::LeaseAck { .. } => 8,
        Msg::Reserve { .. } => 9,
        Msg::ReserveAck { .. } => 10,
        Msg::ChunkList { .. } => 11,
        Msg::ChunkListAck { .. } => 12,
        Msg::ChunkVersions { .. } => 13,
        Msg::ChunkVersionsAck { .. } => 14,
        Msg::Verify { .. } => 15,
        Msg::Copy { .. } => 16,
        Msg::CopyAck { .. } => 17,
        Msg::Nack(_) => 18,
    }
}

/// Any message of this kind.
fn of_kind(kind: usize) -> BoxedStrategy<Msg> {
    let n = any::<u64>;
    let chunk = any::<u32>().prop_map(ChunkIx);
    match kind {
        0 => (n(), ver(), n(), ver())
            .prop_map(|(e, held, position, stable)| Msg::Seal { epoch: Epoch(e), held, position, stable })
            .boxed(),
        1 => (ver(), ver(), n(), n())
            .prop_map(|(stable, max_ver, credit, position)| Msg::SealAck { stable, max_ver, credit, position })
            .boxed(),
        2 => n().prop_map(|us| Msg::SealWait { us }).boxed(),
        3 => write().boxed(),
        4 => (n(), n()).prop_map(|(position, credit)| Msg::WriteAck { position, credit }).boxed(),
        5 => range().prop_map(|range| Msg::Read { range }).boxed(),
        6 => read_ack().boxed(),
        7 => (n(), ver()).prop_map(|(sent_at, stable)| Msg::Lease { sent_at, stable }).boxed(),
        8 => (n(), n()).prop_map(|(sent_at, credit)| Msg::LeaseAck { sent_at, credit }).boxed(),
        9 => range().prop_map(|range| Msg::Reserve { range }).boxed(),
        10 => (n(), n()).prop_map(|(needs, credit)| Msg::ReserveAck { needs, credit }).boxed(),
        11 => (ver(), chunk).prop_map(|(since, from)| Msg::ChunkList { since, from }).boxed(),
        12 => (prop::collection::vec((chunk, ver()), 0..50), any::<bool>())
            .prop_map(|(chunks, more)| Msg::ChunkListAck { chunks, more })
            .boxed(),
        13 => (chunk, ver()).prop_map(|(chunk, since)| Msg::ChunkVersions { chunk, since }).boxed(),
        14 => prop::collection::btree_map(any::<u8>(), info(), 0..=256)
            .prop_map(|m| Msg::ChunkVersionsAck { infos: m.into_iter().collect() })
            .boxed(),
        15 => chunk.prop_map(|chunk| Msg::Verify { chunk }).boxed(),
        16 => prop::collection::vec(item(), 0..8).prop_map(|items| Msg::Copy { items }).boxed(),
        17 => prop::collection::vec(any::<bool>(), 0..=256).prop_map(|applied| Msg::CopyAck { applied }).boxed(),
        _ => nack().prop_map(Msg::Nack).boxed(),
    }
}

fn bytes_of(env: &Envelope, m: &Msg) -> Vec<u8> {
    let f = encode(env, m);
    [&f.head[..], &f.payload.concat()[..]].concat()
}

/// A reader that is given bytes in pieces: header, then what the header says, like the link of the daemon.
#[derive(Default)]
struct Reader {
    buf: Vec<u8>,
    got: Vec<(Envelope, Msg)>,
}

impl Reader {
    fn feed(&mut self, piece: &[u8]) -> Result<(), WireError> {
        self.buf.extend_from_slice(piece);
        while let Some(head) = self.buf.first_chunk::<HEADER_BYTES>().copied() {
            let h = parse_header(&head)?;
            let (body, end) = (HEADER_BYTES + h.body as usize, HEADER_BYTES + (h.body + h.payload) as usize);
            if self.buf.len() < end {
                break;
            }
            let payload = Bytes::copy_from_slice(&self.buf[body..end]);
            let msg = decode(&head, &h, &self.buf[HEADER_BYTES..body], payload)?;
            self.got.push((h.env, msg));
            self.buf.drain(..end);
        }
        Ok(())
    }
}

/// A failure prints its smallest example, which then becomes a test of its own: nothing is kept in files.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn every_message_comes_out_as_it_went_in_however_the_stream_is_cut(
        list in (0..KINDS).map(|k| (envelope(), of_kind(k))).collect::<Vec<_>>().prop_shuffle(),
        cuts in prop::collection::vec(1..9000usize, 1..40),
    ) {
        let mut kinds: Vec<usize> = list.iter().map(|(_, m)| number(m)).collect();
        kinds.sort_unstable();
        prop_assert_eq!(kinds, (0..KINDS).collect::<Vec<_>>());
        let stream: Vec<u8> = list.iter().flat_map(|(e, m)| bytes_of(e, m)).collect();
        let (mut r, mut rest) = (Reader::default(), &stream[..]);
        for n in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*n).min(rest.len()));
            prop_assert_eq!(r.feed(piece), Ok(()));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(r.buf.is_empty());
        prop_assert_eq!(r.got, list);
    }

    /// One wrong bit in header or body: the frame is refused. (Payload is verified by who uses it.)
    #[test]
    fn a_frame_with_a_wrong_bit_is_refused(env in envelope(), m in (0..KINDS).prop_flat_map(of_kind), at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let f = encode(&env, &m);
        let mut bytes = bytes_of(&env, &m);
        bytes[at.index(f.head.len())] ^= 1 << bit;
        // Wrong lengths may make it wait for more: that ends with the connection.
        let mut r = Reader::default();
        let result = r.feed(&bytes);
        prop_assert!(r.got.is_empty(), "{:?} was accepted as {:?}", m, r.got);
        prop_assert!(result.is_err() || !r.buf.is_empty());
    }

    /// The longest messages stay within the bounds that a reader enforces.
    #[test]
    fn the_longest_messages_are_within_the_bounds(env in envelope(), v in ver(), i in info(), block in item(), zero in any::<bool>()) {
        let content = if zero { Content::Zero } else { block.content.clone() };
        let longest = [
            Msg::ChunkListAck { chunks: vec![(ChunkIx(7), v); LIST_PAGE], more: true },
            Msg::ChunkVersionsAck { infos: (0..=255).map(|at| (at, i)).collect() },
            Msg::Copy { items: vec![CopyItem { content, ..block }; 256] },
            Msg::ReadAck { infos: vec![i; 256], data: Bytes::from(vec![1; 256 * BLOCK_SIZE]) },
        ];
        for m in longest {
            let mut r = Reader::default();
            prop_assert_eq!(r.feed(&bytes_of(&env, &m)), Ok(()));
            prop_assert_eq!(r.got, vec![(env, m)]);
        }
    }

    #[test]
    fn hellos_come_out_as_they_went_in(min in any::<u32>(), max in any::<u32>(), caps in any::<u64>(), id in any::<(u128, u64, u128, u64)>(), bit in 0..HELLO_BYTES * 8) {
        let (cluster, boot) = (id.0.to_be_bytes().to_vec(), id.2.to_be_bytes().to_vec());
        let hello = Hello { min_version: min, max_version: max, capabilities: caps, cluster, node: id.1, boot, disk: id.3 };
        let mut frame = hello.to_frame();
        prop_assert_eq!(Hello::from_frame(&frame), Some(hello.clone()));
        let common = hello.common_version();
        prop_assert_eq!(common.is_some(), (MIN_VERSION..=MAX_VERSION).any(|v| (min..=max).contains(&v)));
        prop_assert!(common.is_none_or(|v| (min..=max).contains(&v) && (MIN_VERSION..=MAX_VERSION).contains(&v)));
        frame[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(Hello::from_frame(&frame), None);
    }
}

const SIZE: u64 = 3 * CHUNK_BYTES;

/// A client's request, of any alignment: what it does to bytes.
#[derive(Clone, Debug)]
enum Request {
    Read,
    Write(u8),
    Zero,
}

fn requests() -> impl Strategy<Value = Vec<(Request, u64, u64)>> {
    let kind = prop_oneof![Just(Request::Read), (1..=255u8).prop_map(Request::Write), Just(Request::Zero)];
    // Near borders of blocks and chunks more often than elsewhere.
    let point = prop_oneof![
        0..SIZE,
        (0..=SIZE / 4096, -3..=3i64).prop_map(|(b, d)| (b * 4096).saturating_add_signed(d).min(SIZE)),
        (0..=3u64, -5000..=5000i64).prop_map(|(c, d)| (c * CHUNK_BYTES).saturating_add_signed(d).min(SIZE)),
    ];
    let short = prop_oneof![3 => 0..10_000u64, 1 => 0..2 * CHUNK_BYTES];
    prop::collection::vec((kind, point, short).prop_map(|(k, at, len)| (k, at, len.min(SIZE - at))), 1..25)
}

/// A member that does what it is told, at once.
#[derive(Default)]
struct Member {
    blocks: BTreeMap<u64, (BlockInfo, Bytes)>,
}

impl Member {
    fn answer(&mut self, env: &Envelope, msg: Msg) -> Msg {
        match msg {
            Msg::Seal { .. } => Msg::SealAck { stable: Ver::ZERO, max_ver: Ver::ZERO, credit: 1 << 40, position: 0 },
            Msg::Lease { sent_at, .. } => Msg::LeaseAck { sent_at, credit: 1 << 40 },
            Msg::Write { seq, range, kind, .. } => {
                let ver = Ver::new(env.term.0, seq);
                for (i, b) in range.iter().enumerate() {
                    let held = match &kind {
                        WriteKind::Zero { .. } => {
                            let info = BlockInfo { ver, crc: PayloadCrc(0), state: BlockState::Zero };
                            (info, Bytes::from(vec![0; BLOCK_SIZE]))
                        }
                        WriteKind::Data { crcs, data } => {
                            assert_eq!(
                                range.start.chunk().0,
                                range.end().0.div_ceil(CHUNK_BLOCKS) as u32 - 1,
                                "two chunks"
                            );
                            let info = BlockInfo { ver, crc: crcs[i], state: BlockState::Data };
                            (info, data.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE))
                        }
                    };
                    assert!(self.blocks.get(&b.0).is_none_or(|(old, _)| old.ver < ver), "block {} written twice", b.0);
                    self.blocks.insert(b.0, held);
                }
                Msg::WriteAck { position: 1, credit: 1 << 40 }
            }
            Msg::Read { range } => {
                let none = (BlockInfo::default(), Bytes::from(vec![0; BLOCK_SIZE]));
                let get = |b: BlockIx| self.blocks.get(&b.0).unwrap_or(&none).clone();
                let (infos, data): (Vec<_>, Vec<_>) = range.iter().map(get).unzip();
                Msg::ReadAck { infos, data: data.concat().into() }
            }
            other => panic!("{other:?}"),
        }
    }
}

fn coordinator(out: &mut Vec<Output>) -> Coordinator {
    let cfg = co::Config { blocks: SIZE / BLOCK_BYTES, read_from: ReadFrom::Spread, ..config() };
    let record = record(2);
    let mut c = Coordinator::new(Tick(1_000_000), cfg, record, out);
    (1..=2).for_each(|i| c.step(Tick(1_000_000), Input::PeerUp { rid: Rid(i), boot: BOOT }, out));
    c
}

proptest! {
    #![proptest_config(cases(60))]

    /// Requests of any alignment, all given at once and answered in an order of the members'
    /// choosing, do to the volume what they would do to plain bytes one after the other:
    /// overlapping ones in the order in which they came.
    #[test]
    fn unaligned_requests_do_what_they_would_do_to_plain_bytes(list in requests(), picks in prop::collection::vec(any::<u8>(), 64)) {
        let mut model = vec![0u8; SIZE as usize];
        let mut out = Vec::new();
        let mut c = coordinator(&mut out);
        let mut want = BTreeMap::new();
        let now = Tick(1_000_000);
        for (id, (what, off, len)) in list.iter().enumerate() {
            let span = *off as usize..(*off + *len) as usize;
            let op = match what {
                Request::Read => {
                    want.insert(id as u64, model[span].to_vec());
                    ClientOp::Read { off: *off, len: *len as u32 }
                }
                Request::Write(b) => {
                    model[span].fill(*b);
                    ClientOp::Write { off: *off, data: Bytes::from(vec![*b; *len as usize]) }
                }
                Request::Zero => {
                    model[span].fill(0);
                    ClientOp::Zero { off: *off, len: *len }
                }
            };
            c.step(now, Input::Client { id: id as u64, op }, &mut out);
        }
        let mut members: BTreeMap<Rid, Member> = (1..=2).map(|i| (Rid(i), Member::default())).collect();
        let (mut waiting, mut answered) = (Vec::new(), 0);
        for pick in picks.iter().cycle() {
            for o in out.drain(..) {
                match o {
                    Output::Send { rid, env, msg } => waiting.push((rid, env, msg)),
                    Output::Reply { id, result: Ok(ClientReply::Data(d)) } => {
                        prop_assert_eq!(&d.concat(), &want[&id], "request {}: {:?}", id, list[id as usize]);
                        answered += 1;
                    }
                    Output::Reply { id, result } => {
                        let empty = list[id as usize].2 == 0;
                        prop_assert!(result == Ok(ClientReply::Done) && (empty || !want.contains_key(&id)));
                        answered += 1;
                    }
                    _ => {}
                }
            }
            if waiting.is_empty() {
                break;
            }
            let (rid, env, msg) = waiting.swap_remove(*pick as usize % waiting.len());
            let msg = members.get_mut(&rid).unwrap().answer(&env, msg);
            c.step(now, Input::Message { rid, env: Envelope { boot: BootId(9), ..env }, msg }, &mut out);
            prop_assert_eq!(c.check(), Ok(()));
        }
        prop_assert_eq!(answered, list.len(), "somebody waits for ever");
        for m in members.values() {
            let mut held = vec![0u8; SIZE as usize];
            m.blocks.iter().for_each(|(b, (_, d))| held[*b as usize * BLOCK_SIZE..][..BLOCK_SIZE].copy_from_slice(d));
            prop_assert!(held == model, "the members do not hold what the client wrote");
        }
    }
}
