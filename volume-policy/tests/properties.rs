//! Properties of the vocabulary: what is printed is read back as what it was; placement keeps its promises
//! for any inventory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_policy::attributes::{FailureDomain, Media};
use hf_policy::placement::{DiskView, OVERCOMMIT, domain_of, place};
use hf_policy::policy::{AttrMap, change_online, parse_pairs};
use hf_policy::table::{self, TABLE};
use hf_policy::unit::{format_duration_us, format_size, parse_duration_us, parse_size};
use hf_policy::{DiskId, NodeId, Policy};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SIZE_UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("G", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];
const TIME_UNITS: &[(&str, u64)] =
    &[("us", 1), ("ms", 1_000), ("s", 1_000_000), ("", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];

/// A failure prints its smallest example, which then becomes a test of its own: nothing is kept in files.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A decimal number as people write it, and what it is in units of `mult`, rounded down.
fn decimal(mult: u64) -> impl Strategy<Value = (String, u128)> {
    (0..2_000_000u64, 0..=6usize, 0..1_000_000u64).prop_map(move |(whole, digits, part)| {
        let scale = 10u64.pow(digits as u32);
        let part = part % scale;
        let text = if digits == 0 { format!("{whole}") } else { format!("{whole}.{part:0digits$}") };
        let value = u128::from(whole) * u128::from(mult) + u128::from(part) * u128::from(mult) / u128::from(scale);
        (text, value)
    })
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn a_size_is_what_its_digits_say((text, want) in prop::sample::select(SIZE_UNITS)
        .prop_flat_map(|(unit, mult)| decimal(mult).prop_map(move |(n, v)| (format!("{n}{unit}"), v))))
    {
        let want = u64::try_from(want);
        prop_assert_eq!(parse_size(&text).ok(), want.ok(), "{}", text);
    }

    #[test]
    fn a_duration_is_what_its_digits_say((text, want) in prop::sample::select(TIME_UNITS)
        .prop_flat_map(|(unit, mult)| decimal(mult).prop_map(move |(n, v)| (format!("{n}{unit}"), v))))
    {
        prop_assert_eq!(parse_duration_us(&text).map(u128::from), Ok(want), "{}", text);
    }

    #[test]
    fn a_printed_duration_is_read_back_as_what_it_was(us in prop_oneof![
        0..10_000_000u64,
        any::<u64>().prop_map(|x| x % 100_000_000_000_000),
        (0..400u64, prop::sample::select(TIME_UNITS)).prop_map(|(n, (_, m))| n * m),
    ]) {
        let text = format_duration_us(us);
        prop_assert_eq!(parse_duration_us(&text), Ok(us), "{}", text);
    }

    /// Sizes are printed for people: exactly where a unit divides them, else to two decimals of the largest unit.
    #[test]
    fn a_printed_size_is_read_back_as_nearly_what_it_was(bytes in prop_oneof![
        0..100_000u64,
        any::<u64>().prop_map(|x| x >> 10),
        (0..5000u64, 0..5u32).prop_map(|(n, k)| n << (10 * k)),
    ]) {
        let text = format_size(bytes);
        let back = parse_size(&text).unwrap();
        if text.contains('.') {
            prop_assert!(back.abs_diff(bytes) <= bytes / 150, "{} became {}", bytes, text);
        } else {
            prop_assert_eq!(back, bytes, "{}", text);
        }
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in "\\PC{0,24}", number in "[0-9.]{0,30}[a-zA-Z ]{0,4}") {
        for t in [&text, &number] {
            let _ = (parse_size(t), parse_duration_us(t), parse_pairs([t.as_str()]));
            for a in TABLE {
                let _ = table::check(a.key, t);
            }
        }
    }
}

/// A value of an attribute, spelled in some way that is allowed.
fn value(key: &'static str) -> BoxedStrategy<String> {
    let duration = |least: u64, most: u64| {
        (least..=most, prop::sample::select(&["us", "ms", "s"][..])).prop_map(|(us, unit)| match unit {
            "us" => format!("{us}us"),
            "ms" => format!("{}.{:03}ms", us / 1000, us % 1000),
            _ => format!("{}.{:06}s", us / 1_000_000, us % 1_000_000),
        })
    };
    let words = |list: &'static [&'static str]| prop::sample::select(list).prop_map(String::from);
    match key {
        "size" => prop_oneof![
            (1..1u64 << 30).prop_map(|n| format!("{}", n * 4096)),
            (1..1u64 << 20).prop_map(|n| format!("{n}MiB")),
            (1..1000u64).prop_map(|n| format!("{n}.5G")),
        ]
        .boxed(),
        "replicas" => (1..=5u32).prop_map(|n| n.to_string()).boxed(),
        "min_replicas" => (1..=5u32).prop_map(|n| format!(" {n} ")).boxed(),
        "failure_domain" => words(FailureDomain::WORDS).prop_map(|w| w.to_uppercase()).boxed(),
        "media" => words(Media::WORDS).boxed(),
        "nodes" => prop::collection::vec("[a-c][a-z0-9._-]{0,5}", 1..5).prop_map(|l| l.join(" , ")).boxed(),
        "rebuild_after" => duration(5_000_000, 30 * 86_400_000_000).boxed(),
        "scrub_interval" => prop_oneof![Just("0".into()), duration(60_000_000, 365 * 86_400_000_000)].boxed(),
        "replica_timeout" => duration(200_000, 60_000_000).boxed(),
        "rebuild_impact" => {
            (0..=100u32, any::<bool>()).prop_map(|(n, p)| format!("{n}{}", if p { " %" } else { "" })).boxed()
        }
        "queue_depth" => (1..=1024u32).prop_map(|n| n.to_string()).boxed(),
        "block_size" => words(&["512", "4096"]).boxed(),
        "read_from" => words(&["local", "Nearest", "SPREAD"]).boxed(),
        "read_only" | "sticky" => words(&["true", "no", "ON", "0", "yes"]).boxed(),
        "exports" => words(&["nbd", "none", "NBD"]).boxed(),
        // What its row lists, if that is a list.
        other => {
            let listed: Vec<String> = table::find(other).unwrap().values.split(", ").map(String::from).collect();
            let wrong = listed.iter().find(|v| table::check(other, v).is_err());
            assert_eq!(wrong, None, "the attribute {other} has no values here: add some");
            prop::sample::select(listed).boxed()
        }
    }
}

/// Any set of attributes, `key=value`, with the size.
fn words() -> impl Strategy<Value = Vec<String>> {
    let one = |key: &'static str| {
        let given = value(key).prop_map(move |v| Some(format!("{key}={v}")));
        if key == "size" { given.boxed() } else { prop_oneof![Just(None), given].boxed() }
    };
    let all: Vec<_> = TABLE.iter().map(|a| one(a.key)).collect();
    let labels = prop::collection::btree_map("[a-z./_-]{1,8}", "[^\\pC]{0,12}", 0..3);
    (all, labels).prop_map(|(words, labels)| {
        let labels = labels.into_iter().map(|(k, v)| format!("label.{k}={v}"));
        words.into_iter().flatten().chain(labels).collect()
    })
}

fn print(map: &AttrMap) -> Vec<String> {
    map.iter().map(|(k, v)| format!("{k}={v}")).collect()
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn attributes_are_printed_as_they_are_read(words in words()) {
        let map = parse_pairs(words.iter().map(String::as_str)).unwrap();
        let printed = print(&map);
        let again = parse_pairs(printed.iter().map(String::as_str)).unwrap();
        prop_assert_eq!(&again, &map, "the normal form is not its own normal form");
        let (a, b) = (Policy::from_attrs(&map), Policy::from_attrs(&again));
        prop_assert_eq!(&a, &b);
        // The normal form means what was written.
        let given: BTreeMap<&str, &str> = words.iter().filter_map(|w| w.split_once('=')).collect();
        if let Ok(p) = a {
            prop_assert_eq!(p.size, parse_size(given["size"]).unwrap());
            for (key, got) in [
                ("replica_timeout", p.replica_timeout),
                ("rebuild_after", p.rebuild_after),
                ("scrub_interval", p.scrub_interval),
            ] {
                let default = table::find(key).unwrap().default;
                let want = parse_duration_us(given.get(key).unwrap_or(&default.shown())).unwrap();
                prop_assert_eq!(got, want, "{}", key);
            }
            for (key, text) in &p.labels {
                prop_assert_eq!(given[format!("label.{key}").as_str()], text);
            }
        } else {
            // All values are allowed; only what they say together may be refused.
            prop_assert!(given.contains_key("min_replicas"), "{:?}", a);
        }
        let same = Policy::from_attrs(&map).ok().map(|_| hf_policy::policy::settled(&map));
        prop_assert_eq!(change_online(&map, &map).ok(), same);
    }
}

fn disk() -> impl Strategy<Value = DiskView> {
    let label = prop::option::of(prop::sample::select(&["a", "b", "c"][..]));
    let media = prop::sample::select(&[Media::Nvme, Media::Ssd, Media::Hdd][..]);
    let capacity = prop::sample::select(&[0u64, 1 << 20, 1 << 40, 1 << 55][..]);
    let share = 0..=22u64;
    let health = (prop::bool::weighted(0.9), prop::bool::weighted(0.9));
    let table = (0..4u64, prop::option::of(0..8u64));
    (1..=6u64, label.clone(), label, media, capacity, (share.clone(), share), (health, table)).prop_map(
        |(node, rack, zone, media, capacity, (used, placed), ((node_up, disk_ok), (replicas, entries)))| {
            let named = [("rack", rack), ("zone", zone)].into_iter();
            DiskView {
                disk: DiskId(0),
                node: NodeId(node),
                node_name: format!("n{node}"),
                labels: named.filter_map(|(k, v)| Some((k.to_string(), v?.to_string()))).collect(),
                media,
                capacity,
                used: (u128::from(capacity) * u128::from(used) / 20).min(u64::MAX.into()) as u64,
                placed: (u128::from(capacity) * u128::from(placed)).min(u64::MAX.into()) as u64,
                replicas,
                entries,
                node_up,
                disk_ok,
            }
        },
    )
}

fn inventory() -> impl Strategy<Value = Vec<DiskView>> {
    prop::collection::vec(disk(), 0..14)
        .prop_map(|l| l.into_iter().zip(1..).map(|(d, i)| DiskView { disk: DiskId(i), ..d }).collect())
}

fn policy() -> impl Strategy<Value = Policy> {
    let nodes = prop::option::of(prop::collection::btree_set(1..=7u64, 1..5));
    let (domain, media) = (prop::sample::select(FailureDomain::WORDS), prop::sample::select(Media::WORDS));
    (1..=5u32, domain, media, nodes).prop_map(|(replicas, domain, media, nodes)| Policy {
        failure_domain: FailureDomain::parse(domain).unwrap(),
        media: Media::parse(media).unwrap(),
        nodes: nodes.unwrap_or_default().into_iter().map(|n| format!("n{n}")).collect(),
        ..Policy::from_attrs(&parse_pairs(["size=1GiB", &format!("replicas={replicas}")]).unwrap()).unwrap()
    })
}

/// May this disk hold a replica? The rules once more, in the reader's words.
fn allowed(p: &Policy, need: u64, d: &DiskView) -> bool {
    let limit = u128::from(d.capacity) * u128::from(OVERCOMMIT);
    (p.nodes.is_empty() || p.nodes.contains(&d.node_name))
        && d.node_up
        && d.disk_ok
        && (p.media == Media::Any || p.media == d.media)
        && domain_of(p.failure_domain, d).is_some()
        && u128::from(d.placed) + u128::from(need) <= limit.min(u64::MAX.into())
        && u128::from(d.used) < u128::from(d.capacity) - u128::from(d.capacity / 20)
        && d.entries.is_none_or(|e| d.replicas < e)
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn placement_keeps_its_promises(p in policy(), inv in inventory(), need in 0..1u64 << 41, salt in any::<u64>(), turn in 0..14usize) {
        let result = place(&p, need, &inv, salt);
        prop_assert_eq!(&result, &place(&p, need, &inv, salt), "the same question has one answer");
        let mut turned = inv.clone();
        turned.rotate_left(turn.min(inv.len()));
        let good: BTreeSet<DiskId> = inv.iter().filter(|d| allowed(&p, need, d)).map(|d| d.disk).collect();
        let domain = |id: &DiskId| inv.iter().find(|d| d.disk == *id).and_then(|d| domain_of(p.failure_domain, d));
        let domains: BTreeSet<_> = good.iter().map(domain).collect();
        match result {
            Ok(disks) => {
                prop_assert_eq!(disks.len(), p.replicas as usize);
                prop_assert!(disks.iter().all(|d| good.contains(d)), "{:?} of {:?}", disks, good);
                let used: BTreeSet<_> = disks.iter().map(domain).collect();
                prop_assert_eq!(used.len(), disks.len(), "two replicas in one failure domain: {:?}", disks);
                prop_assert_eq!(place(&p, need, &turned, salt), Ok(disks), "the inventory's order matters");
            }
            Err(refusal) => {
                prop_assert!(domains.len() < p.replicas as usize, "refused, though {:?} would do", good);
                prop_assert_eq!((refusal.wanted, refusal.found as usize), (p.replicas, domains.len()));
                let told: Vec<DiskId> = refusal.rejections.iter().map(|r| r.disk).collect();
                let bad: Vec<DiskId> = inv.iter().map(|d| d.disk).filter(|d| !good.contains(d)).collect();
                prop_assert_eq!(told, bad, "every disk that was ruled out is explained, once");
                prop_assert!(refusal.rejections.iter().all(|r| !r.why.is_empty() && !r.rule.is_empty()));
                let unknown = p.nodes.iter().filter(|n| !inv.iter().any(|d| d.node_name == **n)).count();
                prop_assert_eq!(refusal.unknown_nodes.len(), unknown);
            }
        }
    }
}
