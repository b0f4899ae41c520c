//! Properties of the structures on disk: whatever a journal group, a chunk page, an index entry or
//! a replica entry holds comes out as it went in, and nothing else is accepted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use hf_policy::crc::SeededCrc;
use hf_policy::*;
use hf_store::format::group::{Body, Group, MAGIC, MAX_PAYLOAD_BLOCKS, MAX_RECORD_BYTES, Masked, Record};
use hf_store::format::index::{self, SlotEntry};
use hf_store::format::page::{BlockMeta, BlockState, NO_UNIT, Page, PageId};
use hf_store::format::{Salt, seal};
use hf_store::geometry::{Geometry, JOURNAL_OFF, MIN_DISK};
use hf_store::{CHUNK_UNITS, ReplicaRec, UNIT_BYTES};
use proptest::prelude::*;

fn ver() -> impl Strategy<Value = Ver> {
    (any::<u32>(), any::<u64>()).prop_map(|(t, s)| Ver::new(t, s))
}

fn crcs(n: usize) -> impl Strategy<Value = Vec<SeededCrc>> {
    prop::collection::vec(any::<u32>().prop_map(SeededCrc), n)
}

fn replica() -> impl Strategy<Value = ReplicaRec> {
    let ids = any::<(u64, u32, u64, u128, u128, u128)>();
    let rest = (any::<u32>(), ver(), any::<(u64, u64)>(), any::<bool>(), "[a-zA-Z0-9._-]{0,63}");
    (ids, rest).prop_map(
        |((vol, index, rid, store, lineage, session), (term, stable_known, (blocks, epoch), deleting, name))| {
            ReplicaRec {
                shard: ShardId { vol: VolumeId(vol), index },
                rid: Rid(rid),
                store_uuid: StoreUuid(store),
                lineage: Lineage(lineage),
                promised_term: Term(term),
                promised_session: SessionId(session),
                stable_known,
                blocks,
                deleting,
                hint_epoch: epoch,
                hint_name: name,
                hint_size: blocks.wrapping_mul(4096),
            }
        },
    )
}

/// A record: its range fits its body.
fn record() -> impl Strategy<Value = Record> {
    let data = (1..40usize).prop_flat_map(|n| crcs(n).prop_map(move |crcs| (n as u32, Body::Data { crcs })));
    let map = (1..=16usize).prop_flat_map(|units| {
        (prop::collection::vec(any::<u32>(), units), crcs(units * 16))
            .prop_map(move |(list, crcs)| (units as u32 * 16, Body::Map { units: list, crcs }))
    });
    let body = prop_oneof![
        data,
        map,
        any::<u32>().prop_map(|n| (n, Body::Zero)),
        (0..=256u32).prop_map(|n| (n, Body::ZeroKept)),
        (0..=256u32).prop_map(|n| (n, Body::Bad)),
        replica().prop_map(|r| (0, Body::Replica(Box::new(r)))),
        any::<u32>().prop_map(|unit| (0, Body::Extend { unit })),
    ];
    (any::<u32>(), any::<u64>(), any::<u64>(), ver(), body).prop_map(|(replica, rid, start, ver, (len, body))| Record {
        replica,
        rid: Rid(rid),
        range: BlockRange::new(start, len),
        ver,
        body,
    })
}

fn group() -> impl Strategy<Value = Group> {
    (any::<(u64, u64, u32, u64, u64)>(), prop::collection::vec(record(), 0..30)).prop_map(
        |((journal_gen, seq, prev_crc, acked_through, checkpoint), mut records)| {
            let payload = |l: &[Record]| l.iter().map(Record::payload_blocks).sum::<usize>();
            while payload(&records) > MAX_PAYLOAD_BLOCKS {
                records.pop();
            }
            let payload_blocks = payload(&records) as u32;
            let masked = Masked::default();
            Group { journal_gen, seq, prev_crc, acked_through, checkpoint, payload_blocks, masked, records }
        },
    )
}

/// A disk of either version.
fn salt() -> impl Strategy<Value = Salt> {
    prop_oneof![Just(Salt::NONE), any::<u128>().prop_map(Salt)]
}

fn meta() -> impl Strategy<Value = BlockMeta> {
    use BlockState::*;
    let states = &[Absent, Data, Zero, Bad, Lost][..];
    let term = prop_oneof![0..4u32, any::<u32>()];
    (term, 0..=Seq::MAX.0, any::<u32>(), prop::sample::select(states)).prop_map(|(term, seq, crc, state)| match state {
        // Nothing of its own is kept of these.
        Absent => BlockMeta::default(),
        Data => BlockMeta { ver: Ver::new(term, seq), crc: SeededCrc(crc), state },
        _ => BlockMeta { ver: Ver::new(term, seq), crc: SeededCrc(0), state },
    })
}

fn page() -> impl Strategy<Value = Page> {
    let unit = prop_oneof![Just(NO_UNIT), any::<u32>()];
    (ver(), prop::collection::vec(unit, CHUNK_UNITS), prop::collection::vec(meta(), 256)).prop_map(
        |(trim_ver, units, blocks)| Page {
            trim_ver,
            units: units.try_into().unwrap(),
            blocks: Box::new(blocks.try_into().unwrap()),
        },
    )
}

/// A failure prints its smallest example, which then becomes a test of its own: nothing is kept in
/// files.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_journal_group_comes_out_as_it_went_in(
        g in group(), salt in salt(), at in any::<prop::sample::Index>(), bit in 0..8u32,
    ) {
        let (bytes, crc) = g.encode_header(salt);
        let records: usize = g.records.iter().map(Record::header_bytes).sum();
        prop_assert!(records <= MAX_RECORD_BYTES, "a group beyond its bound");
        prop_assert_eq!(bytes.len(), (if salt.is_none() { 64 } else { 144 } + records).next_multiple_of(4096), "the space that was reckoned with");
        prop_assert_eq!(Group::header_blocks(&bytes[..4096], salt), Some(bytes.len() / 4096));
        prop_assert_eq!(Group::decode_header(&bytes, salt), Some((g, crc)));
        prop_assert_eq!(Group::decode_header(&bytes, Salt(salt.0 ^ 1)), None, "a group of another disk");
        prop_assert_eq!(Group::decode_header(&bytes, Salt(!salt.0)), None, "a group of another disk");
        let mut bad = bytes.to_vec();
        bad[at.index(bytes.len())] ^= 1 << bit;
        prop_assert_eq!(Group::decode_header(&bad, salt), None);
        prop_assert_eq!(Group::decode_header(&bytes[..bytes.len() - 4096], salt), None, "cut short");
    }

    /// Sealed rubbish (a bug of a later release, say) is refused or is a group; it is never a panic
    /// or a wild allocation.
    #[test]
    fn a_sealed_group_of_rubbish_is_refused_or_whole(
        g in group(), salt in salt(), damage in prop::collection::vec((64..4096usize, any::<u8>()), 1..6),
    ) {
        let mut bytes = g.encode_header(salt).0.to_vec();
        damage.iter().for_each(|(at, b)| bytes[*at] = *b);
        seal(&mut bytes, 4);
        if let Some((got, _)) = Group::decode_header(&bytes, salt) {
            prop_assert_eq!(got.payload_blocks as usize, got.records.iter().map(Record::payload_blocks).sum::<usize>());
        }
    }

    #[test]
    fn a_chunk_page_comes_out_as_it_went_in(p in page(), ids in any::<(u64, u32, u64, u32)>(), at in 0..4096usize, bit in 0..8u32) {
        let id = PageId { shard: ShardId { vol: VolumeId(ids.0), index: ids.1 }, rid: Rid(ids.2), chunk: ids.3 };
        let (bytes, crc) = p.encode(id);
        prop_assert_eq!(bytes.len(), 4096);
        let got = Page::decode(&bytes, id, crc);
        prop_assert_eq!(got.as_ref(), Some(&p));
        let others = [
            PageId { rid: Rid(ids.2 ^ 1), ..id },
            PageId { chunk: ids.3 ^ 1, ..id },
            PageId { shard: ShardId { vol: VolumeId(ids.0), index: ids.1 ^ 1 }, ..id },
            PageId { shard: ShardId { vol: VolumeId(ids.0 ^ 1), index: ids.1 }, ..id },
        ];
        for other in others {
            prop_assert_eq!(Page::decode(&bytes, other, crc), None, "somebody else's page");
        }
        let mut bad = bytes.clone();
        bad[at] ^= 1 << bit;
        prop_assert_eq!(Page::decode(&bad, id, crc), None);
        // An older page in the newer one's place is whole, and not the one that is meant.
        prop_assert_eq!(Page::decode(&bytes, id, crc ^ 1), None);
    }

    #[test]
    fn index_entries_come_out_as_they_went_in(
        r in replica(), disk in any::<u128>(), no in any::<u32>(), generation in any::<u64>(),
        slot in (any::<(u32, u32, u16, u32)>(), ver(), prop::option::of(0..2u8)), salt in salt(),
    ) {
        prop_assert_eq!(ReplicaRec::decode(&r.encode()), Some(Some(r)));
        let ((replica, chunk, units, page_crc), max_ver, copy) = slot;
        let e = SlotEntry { replica, chunk, max_ver, units, copy, page_crc };
        let mut payload = Vec::new();
        e.encode(&mut payload);
        prop_assert_eq!(SlotEntry::decode(&payload), Some(Some(e)));
        let (block, crc) = index::encode_page(DiskUuid(disk), salt, no, generation, &payload);
        let (got, got_crc) = index::decode_page(DiskUuid(disk), salt, no, &block).unwrap();
        prop_assert_eq!((&got[..payload.len()], got_crc), (&payload[..], crc));
        prop_assert_eq!(index::decode_page(DiskUuid(disk), salt, no ^ 1, &block), None);
        prop_assert_eq!(index::decode_page(DiskUuid(!disk), salt, no, &block), None);
        prop_assert_eq!(index::decode_page(DiskUuid(disk), Salt(!salt.0), no, &block), None);
    }

    /// Payload that begins like a header is masked, wherever it lies, and comes out of the journal
    /// as it went in.
    #[test]
    fn masked_payload_comes_out_as_it_went_in(bufs in prop::collection::vec(prop::collection::vec(0..4u8, 0..20), 1..5)) {
        let block = |kind: &u8| match kind {
            0 => [&MAGIC.to_le_bytes()[..], &[7; 4092]].concat(),
            1 => [&(!MAGIC).to_le_bytes()[..], &[8; 4092]].concat(),
            n => vec![*n; 4096],
        };
        let before: Vec<Bytes> =
            bufs.iter().map(|b| Bytes::from(b.iter().map(block).collect::<Vec<_>>().concat())).collect();
        let mut stored = before.clone();
        let masked = Masked::mask(&mut stored);
        let all = Bytes::from(stored.concat());
        prop_assert!(all.chunks_exact(4096).all(|b| b[..4] != MAGIC.to_le_bytes()));
        prop_assert_eq!(masked.is_empty(), !bufs.iter().flatten().any(|k| *k == 0));
        prop_assert_eq!(masked.unmask(&all), Bytes::from(before.concat()));
    }

    /// The regions of any disk lie one behind the other and inside it.
    #[test]
    fn regions_do_not_overlap(size in prop_oneof![MIN_DISK..1 << 31, (MIN_DISK..1 << 46)], journal in prop::option::of(0..1u64 << 31)) {
        let size = size / 4096 * 4096;
        let Some(g) = Geometry::divide(size, journal) else {
            prop_assert!(size < 1 << 33, "a disk of {size} bytes with a journal of {journal:?} cannot be divided");
            return Ok(());
        };
        let half = u64::from(g.index_pages()) * 4096;
        let ends = [
            JOURNAL_OFF,
            g.index_off(0),
            g.index_off(0) + half,
            g.index_off(1) + half,
            g.page_off(g.slots - 1, 1) + 4096,
            g.data_off(),
            g.unit_off(g.units - 1) + UNIT_BYTES,
            size,
        ];
        prop_assert!(ends.is_sorted(), "{:?}", ends);
        prop_assert!(g.index_off(0) - JOURNAL_OFF == g.journal_bytes && g.journal_bytes >= 4 << 20);
        prop_assert!(g.data_off() % UNIT_BYTES == 0);
    }
}
