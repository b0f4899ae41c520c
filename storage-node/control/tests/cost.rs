//! What the hub and the tracker cost with 100,000 volumes. The times are printed; bounds are wide, because
//! other tests run beside these.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "it measures")]

use crate::health::Ward;
use crate::made::Made;
use crate::watch::Watched;
use hf_control::health::{HealthCode as Code, MOST_ALERTS};
use hf_control::view::Alerts;
use hf_policy::VolumeId;
use std::time::{Duration, Instant};

/// Time for which this thread has run, in steps of a few milliseconds: other tests do not count.
fn ran() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// 100,000 volumes: what a tick costs when they rest, when a node of all of them falls silent, and that alerts
/// are bounded.
#[test]
fn many_volumes_cost_little_and_alerts_are_bounded() {
    let mut w = Ward::new(Made::large(100_000));
    let time = |w: &mut Ward, what: &str, ticks: u32| {
        let begin = ran();
        let mut most = Duration::ZERO;
        for _ in 0..ticks {
            let one = ran();
            w.tick(100);
            most = most.max(ran() - one);
        }
        println!("{what}: {:?} a tick, {most:?} at most", (ran() - begin) / ticks);
    };
    time(&mut w, "the first round", 25);
    assert_eq!(w.t.states().unwrap()["ok"], 100_000);
    time(&mut w, "100,000 volumes that rest, hub and tracker with its slow round", 100);
    assert!(w.t.is_empty());
    w.m.silence(3);
    time(&mut w, "a node of all falls silent", 25);
    time(&mut w, "all are raised", 150);
    assert!(w.has(Code::NodeDown, "node/n3") && w.has(Code::MetadataDegraded, "cluster"), "they have their places");
    let (kept, shown) = (w.t.len(), w.t.health(1));
    assert!((90_000..=MOST_ALERTS).contains(&kept), "{kept}");
    assert_eq!((shown.items.len(), shown.items[0].code.as_str()), (1000, "NODE_DOWN"), "the gravest are shown");
    assert!(shown.total >= 90_000, "{}", shown.total);
    let begin = Instant::now();
    let degraded = w.t.all().filter(|a| a.code == Code::VolumeDegraded).count();
    println!("{degraded} alerts are read in {:?}", begin.elapsed());
    w.m.hear(3);
    time(&mut w, "the node is back", 25);
    w.pass(60_000);
    assert_eq!(w.raised(), vec![]);
    assert!(w.t.is_empty());
}

/// Ticks over 100,000 volumes that rest cost what nothing costs.
#[test]
fn volumes_that_rest_cost_nothing() {
    let time = |volumes: u64| {
        let mut w = Watched::new(Made::large(volumes));
        let begin = ran();
        for _ in 0..200_000 {
            assert_eq!(w.tick(), vec![]);
        }
        let idle = (ran() - begin) / 200_000;
        let vol = VolumeId(1);
        w.m.rename(vol, "other");
        let begin = Instant::now();
        let one = w.tick();
        let one_changed = begin.elapsed();
        assert!((2..20).contains(&one.len()), "{one:?}");
        w.m.silence(3);
        let begin = ran();
        let all = w.tick();
        println!(
            "{volumes} volumes: an idle tick takes {idle:?}, one with a change {one_changed:?}, one in which a node of all \
             falls silent {:?} for {} changes",
            ran() - begin,
            all.len()
        );
        idle
    };
    let (few, many) = (time(100), time(100_000));
    assert!(many.as_micros() < 50 + 20 * few.as_micros(), "{few:?} with 100 volumes, {many:?} with 100,000");
}
