//! Links of every rate and length: they are kept busy, nothing healthy is repeated or dropped, what
//! the serving end holds has a bound, volumes share fairly, and a dead disk does not hide behind a
//! queue.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::link::{Load, Net, Way};
use hf_policy::*;

const RATES: [u64; 3] = [125_000, 25_000_000, 1_250_000_000];
const DELAYS: [u64; 3] = [0, MS, 20 * MS];

/// Seconds that are measured: long enough on a slow link, short enough on a fast one.
fn seconds(rate: u64) -> u64 {
    match rate {
        0..1_000_000 => 120,
        1_000_000..100_000_000 => 5,
        _ => 1,
    }
}

/// The share of the link's rate that arrived as payload, measured after it has come up to speed.
fn goodput(way: Way, loads: &[Load], local: bool) -> (f64, Net) {
    let mut n = Net::new(way, loads, local, 200);
    n.live(2_000 * MS);
    assert!(n.serving());
    let before: u64 = n.carried_by_volume().values().sum();
    let secs = seconds(way.rate);
    n.live(secs * 1_000 * MS);
    let bytes = n.carried_by_volume().values().sum::<u64>() - before;
    (bytes as f64 / (way.rate * secs) as f64, n)
}

fn every_way(what: &str, loads: &[Load], local: bool) {
    for rate in RATES {
        for delay in DELAYS {
            let (share, n) = goodput(Way { rate, delay }, loads, local);
            let sent = n.got.requests + n.got.resends;
            println!(
                "{what}, {} Mbit/s, {} ms: {share:.3} of the link, {} of {sent} repeated, {} drops, longest {} ms, held {} KiB, answers {} KiB",
                rate * 8 / 1_000_000,
                delay / MS,
                n.got.resends,
                n.got.drops,
                n.got.longest / MS,
                n.got.held >> 10,
                n.got.answers >> 10
            );
            assert!(share >= 0.95 && share <= 1.0 + 1.0 / seconds(rate) as f64, "{what}: {share:.3} of the link");
            assert!(n.got.resends * 100 <= sent, "{what}: {} of {sent} repeated", n.got.resends);
            assert_eq!((n.got.drops, n.got.twice), (0, 0), "{what}: nobody is to be dropped, nothing done twice");
        }
    }
}

/// 64 MiB of reads at a time and more: what 4 connections with 64 requests of 256 KiB ask for, and
/// large single ones.
#[test]
fn reads_fill_any_link_and_nothing_is_repeated() {
    every_way("reads", &[Load { depth: 256, bytes: 256 << 10, writes: false }], false);
}

#[test]
fn large_reads_of_several_volumes_fill_any_link() {
    every_way("large reads", &[Load { depth: 32, bytes: 1 << 20, writes: false }; 4], false);
    every_way("16 reads of 32 MiB by 4 volumes", &[Load { depth: 16, bytes: 32 << 20, writes: false }; 4], false);
}

#[test]
fn writes_fill_any_link_and_nothing_is_repeated() {
    every_way("writes", &[Load { depth: 256, bytes: 256 << 10, writes: true }], false);
    every_way("writes, with a copy here", &[Load { depth: 64, bytes: 1 << 20, writes: true }; 2], true);
}

/// The bytes of each volume differ by no more than a turn or two of the scheduler, whatever they
/// ask for at a time.
#[test]
fn volumes_share_a_link_fairly() {
    for writes in [false, true] {
        let loads = [(256, 64 << 10), (16, 1 << 20), (1024, 4096), (16, 32 << 20)];
        let loads = loads.map(|(depth, bytes)| Load { depth, bytes, writes });
        let mut n = Net::new(Way { rate: 25_000_000, delay: MS }, &loads, false, 200);
        n.live(5_000 * MS);
        let before = n.carried_by_volume();
        n.live(20_000 * MS);
        let after = n.carried_by_volume();
        let bytes: Vec<u64> = after.iter().map(|(vol, b)| b - before.get(vol).copied().unwrap_or_default()).collect();
        println!("writes {writes}: {bytes:?} bytes in 20 s");
        let (least, most) = (bytes.iter().min().unwrap(), bytes.iter().max().unwrap());
        assert!(least * 10 >= most * 8, "writes {writes}: {bytes:?}");
    }
}

/// A disk that takes a second for everything is slow, not dead, and what is held for it has a
/// bound; one that hangs is dead, though the link moves for others.
#[test]
fn what_the_serving_end_holds_has_a_bound() {
    let most = 4 << 20;
    let loads = [Load { depth: 64, bytes: 1 << 20, writes: true }, Load { depth: 64, bytes: 1 << 20, writes: false }];
    let mut n = Net::new(Way { rate: 1_250_000_000, delay: MS }, &loads, false, 300 * MS);
    n.set_shares(most, most);
    n.live(20_000 * MS);
    println!("held {} KiB, answers {} KiB, {} requests", n.got.held >> 10, n.got.answers >> 10, n.got.requests);
    assert!(n.got.held <= most && n.got.answers <= most + (1 << 20) + 8192, "{:?}", n.got);
    assert!(n.got.requests > 100 && n.got.drops == 0 && n.got.twice == 0, "{:?}", n.got);
}

#[test]
fn the_dead_do_not_hide_behind_a_queue() {
    for rate in RATES {
        let patience = 2_000 * MS;
        for writes in [false, true] {
            let load = Load { depth: 64, bytes: 256 << 10, writes };
            let mut n = Net::new(Way { rate, delay: MS }, &[load; 2], true, 200);
            n.live(5_000 * MS);
            assert_eq!(n.got.drops, 0);
            n.hung = true;
            // What was on its way still arrives, and the next write of each volume must, before its
            // answer can be missing.
            let queue = (n.in_network() + 2 * load.bytes) * 1_000_000 / rate;
            n.live(patience + queue);
            println!(
                "{rate} B/s, writes {writes}: {} asked to be dropped {} ms after its disk hung",
                n.got.drops,
                (patience + queue) / MS
            );
            assert!(n.got.drops >= 2, "{rate} B/s, writes {writes}: a hung member was not noticed");
        }
    }
}

/// The disk's writes hang, its reads go on: a volume that writes for the first time then finds out,
/// though the link moves.
#[test]
fn a_write_that_cannot_be_sent_is_not_waited_for_for_ever() {
    let loads = [
        Load { depth: 64, bytes: 1 << 20, writes: true },
        Load { depth: 4, bytes: 64 << 10, writes: false },
        Load { depth: 0, bytes: 4096, writes: true },
    ];
    let mut n = Net::new(Way { rate: 125_000_000, delay: MS }, &loads, true, 5 * MS);
    n.set_shares(8 << 20, 8 << 20);
    n.live(3_000 * MS);
    n.hung_writes = true;
    n.live(500 * MS);
    n.set_depth(3, 1);
    let begin = n.now;
    n.live(5_000 * MS);
    let after = n.dropped.get(&3).map(|t| t.since(begin) / MS);
    println!("asked to be dropped after {after:?} ms");
    assert!(after.is_some_and(|ms| ms <= 3_000), "{after:?}");
}

/// One replica's reads hang: another one on the same disk reads on, though the first one's fill
/// what may be asked for.
#[test]
fn a_healthy_replica_reads_on_beside_one_whose_reads_hang() {
    let loads = [
        Load { depth: 8, bytes: 256 << 10, writes: false },
        Load { depth: 0, bytes: 64 << 10, writes: false },
        Load { depth: 1, bytes: 4096, writes: true },
    ];
    let mut n = Net::new(Way { rate: 125_000_000, delay: MS }, &loads, true, 5 * MS);
    n.live(3_000 * MS);
    n.hung_reads = Some(Net::remote(1));
    n.live(500 * MS);
    n.set_depth(2, 4);
    n.live(10_000 * MS);
    println!("the oldest read waits for {} ms", n.oldest(2) / MS);
    assert!(n.oldest(2) < 500 * MS && !n.dropped.contains_key(&2), "a read of a healthy replica hangs");
}

/// Each rule of links, broken on purpose, is noticed by what the tests above look at.
#[cfg(feature = "mutants")]
#[test]
fn a_broken_rule_of_links_is_noticed() {
    use hf_meta_core::mutant::{self, Mutant};
    let run = |m: Option<Mutant>| {
        mutant::set(m);
        let loads =
            [Load { depth: 64, bytes: 1 << 20, writes: true }, Load { depth: 64, bytes: 1 << 20, writes: false }];
        let mut n = Net::new(Way { rate: 1_250_000_000, delay: MS }, &loads, false, 300 * MS);
        n.set_shares(4 << 20, 4 << 20);
        n.live(4_000 * MS);
        let mut slow = Net::new(Way { rate: 125_000, delay: MS }, &[loads[1]], false, 200);
        slow.live(10_000 * MS);
        mutant::set(None);
        let bounded = n.got.held <= 4 << 20 && n.got.answers <= 6 << 20;
        (bounded, slow.got.resends == 0 && slow.got.drops == 0)
    };
    assert_eq!(run(None), (true, true));
    assert_eq!(run(Some(Mutant::CreditIgnored)), (false, true));
    assert_eq!(run(Some(Mutant::AnswersWithoutRoom)), (false, true));
    assert_eq!(run(Some(Mutant::QueueIsSilence)).1, false);
}
