//! What the clients of each attached volume did in the last quarter of an hour, a point every five seconds: operations
//! and bytes a second, and how long they took. It is for the page and the REST door; who wants more has Prometheus.
//!
//! The history is this process's own: it is neither stored nor handed on when a volume moves. It holds at most
//! [`MOST_VOLUMES`] volumes; where more are attached, those with the fewest requests are left out, and counted.
//! [`History`] has no clock: it gets a copy of the reactors' counts and makes a point of what changed since the one
//! before.

use hf_host_config::clock::now;
use hf_policy::{SessionId, Tick, VolumeId};
use hf_reactor::latency::{Histogram, Op};
use hf_reactor::{Handle, VolumeLoad};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// From one point to the next.
pub const STEP: Duration = Duration::from_secs(5);
/// Points that are kept: fifteen minutes.
const POINTS: usize = 180;
/// Volumes that are kept at most.
const MOST_VOLUMES: usize = 1_024;

/// What clients did on a volume between the point before and this one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// When it was taken, by the wall clock: milliseconds since 1970.
    pub at_ms: u64,
    /// Reads answered, per second.
    pub reads_per_s: f64,
    /// Writes answered, per second.
    pub writes_per_s: f64,
    /// Bytes that reads delivered, per second.
    pub read_bytes_per_s: u64,
    /// Bytes that writes and zeroes covered, per second.
    pub written_bytes_per_s: u64,
    /// Microseconds that half of the reads did not exceed; none if there were none.
    pub read_p50_us: Option<u64>,
    /// Microseconds that 99 of 100 reads did not exceed; none if there were none.
    pub read_p99_us: Option<u64>,
    /// Microseconds that half of the writes did not exceed; none if there were none.
    pub write_p50_us: Option<u64>,
    /// Microseconds that 99 of 100 writes did not exceed; none if there were none.
    pub write_p99_us: Option<u64>,
}

/// A point as it is kept, in 36 bytes. Times are at least 1 µs, 0 says that there is none.
#[derive(Clone, Copy)]
struct Kept {
    round: u32,
    ops: [f32; 2],
    bytes: [f32; 2],
    p50: [u32; 2],
    p99: [u32; 2],
}

/// One volume's ring, and the counts from which its next point is made.
struct Ring {
    session: SessionId,
    base: Base,
    /// The round in which it was seen last.
    seen: u32,
    points: VecDeque<Kept>,
}

/// Counts of reads and writes.
#[derive(Clone, Default)]
struct Base {
    latency: [Histogram; 2],
    bytes: [u64; 2],
}

impl Base {
    fn of(load: &VolumeLoad) -> Base {
        let latency = [Op::Read, Op::Write].map(|op| load.latency.of(op).clone());
        Base { latency, bytes: [load.read_bytes, load.written_bytes] }
    }

    fn point(&self, before: &Base, round: u32, seconds: f64) -> Kept {
        let mut p = Kept { round, ops: [0.0; 2], bytes: [0.0; 2], p50: [0; 2], p99: [0; 2] };
        for i in 0..2 {
            let d = self.latency[i].since(&before.latency[i]);
            let time = |percent| d.percentile(percent).map_or(0, |us| us.clamp(1, u64::from(u32::MAX)) as u32);
            p.ops[i] = (d.total() as f64 / seconds) as f32;
            p.bytes[i] = (self.bytes[i].saturating_sub(before.bytes[i]) as f64 / seconds) as f32;
            (p.p50[i], p.p99[i]) = (time(50), time(99));
        }
        p
    }
}

/// The rings of all volumes.
#[derive(Default)]
pub struct History {
    rings: BTreeMap<VolumeId, Ring>,
    /// When the last rounds were, the newest last; by the wall clock.
    times: VecDeque<u64>,
    round: u32,
    last: Option<Tick>,
    left_out: usize,
}

impl History {
    /// One more round: what the volumes' clients have done until `now` (`at_ms` by the wall clock). A volume has its
    /// first point in the round after the one in which it was first seen.
    pub fn note(&mut self, now: Tick, at_ms: u64, loads: &[VolumeLoad]) {
        let seconds = self.last.map_or(0.0, |t| now.since(t) as f64 / 1e6);
        self.last = Some(now);
        self.round = self.round.wrapping_add(1);
        self.times.push_back(at_ms);
        if self.times.len() > POINTS {
            self.times.pop_front();
        }
        let chosen = chosen(loads);
        self.left_out = loads.len() - chosen.len();
        for load in &chosen {
            self.note_one(load, seconds);
        }
        self.forget(&chosen.iter().map(|l| l.vol).collect());
    }

    fn note_one(&mut self, load: &VolumeLoad, seconds: f64) {
        let (base, round) = (Base::of(load), self.round);
        let Some(ring) = self.rings.get_mut(&load.vol) else {
            let points = VecDeque::with_capacity(POINTS);
            self.rings.insert(load.vol, Ring { session: load.session, base, seen: round, points });
            return;
        };
        // Another attachment counts from zero, and one that was not seen in the round before has a gap.
        if ring.session == load.session && ring.seen == round.wrapping_sub(1) && seconds > 0.0 {
            while ring.points.len() >= POINTS {
                ring.points.pop_front();
            }
            ring.points.push_back(base.point(&ring.base, round, seconds));
        }
        (ring.session, ring.base, ring.seen) = (load.session, base, round);
    }

    /// What is old goes, and of volumes that are not seen now the whole ring if there is no room for it.
    fn forget(&mut self, now: &BTreeSet<VolumeId>) {
        let (round, kept) = (self.round, self.times.len() as u32);
        self.rings.retain(|_, r| {
            while r.points.front().is_some_and(|p| round.wrapping_sub(p.round) >= kept) {
                r.points.pop_front();
            }
            r.seen == round || !r.points.is_empty()
        });
        let spare: Vec<VolumeId> = self.rings.keys().filter(|v| !now.contains(v)).copied().collect();
        let over = self.rings.len().saturating_sub(MOST_VOLUMES);
        spare.iter().take(over).for_each(|v| drop(self.rings.remove(v)));
    }

    /// The points of a volume, the oldest first; none if it is not known here.
    pub fn of(&self, vol: VolumeId) -> Vec<Point> {
        let points = self.rings.get(&vol).map(|r| r.points.iter()).into_iter().flatten();
        points.filter_map(|p| self.point(p)).collect()
    }

    /// Volumes that were attached and left out in the last round.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn point(&self, p: &Kept) -> Option<Point> {
        let age = self.round.wrapping_sub(p.round) as usize;
        let at_ms = *self.times.get(self.times.len().checked_sub(age + 1)?)?;
        let time = |us: u32| (us > 0).then_some(u64::from(us));
        Some(Point {
            at_ms,
            reads_per_s: p.ops[0].into(),
            writes_per_s: p.ops[1].into(),
            read_bytes_per_s: p.bytes[0] as u64,
            written_bytes_per_s: p.bytes[1] as u64,
            read_p50_us: time(p.p50[0]),
            read_p99_us: time(p.p99[0]),
            write_p50_us: time(p.p50[1]),
            write_p99_us: time(p.p99[1]),
        })
    }
}

/// The volumes that are kept: all, or those with the most requests.
fn chosen(loads: &[VolumeLoad]) -> Vec<&VolumeLoad> {
    let mut all: Vec<&VolumeLoad> = loads.iter().collect();
    if all.len() > MOST_VOLUMES {
        all.sort_by_cached_key(|l| (std::cmp::Reverse(l.latency.total()), l.vol));
        all.truncate(MOST_VOLUMES);
    }
    all
}

/// The history of a node, for its doors.
#[derive(Default)]
pub struct Shared(Mutex<History>);

impl Shared {
    /// The points of a volume, the oldest first; none if it is not known here.
    #[cfg_attr(not(test), allow(dead_code))] // Until a door shows it.
    pub fn of(&self, vol: VolumeId) -> Vec<Point> {
        self.0.lock().map(|h| h.of(vol)).unwrap_or_default()
    }

    /// Volumes that were attached and left out in the last round.
    pub fn left_out(&self) -> usize {
        self.0.lock().map_or(0, |h| h.left_out())
    }
}

/// Takes a point of every volume each [`STEP`], until the process ends. `wall_ms` tells the wall clock in milliseconds.
pub async fn keep(history: Arc<Shared>, reactors: Vec<Handle>, wall_ms: fn() -> u64) {
    let mut step = tokio::time::interval(STEP);
    step.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        step.tick().await;
        let mut loads = Vec::new();
        for r in &reactors {
            loads.extend(r.load().await.volumes);
        }
        if let Ok(mut h) = history.0.lock() {
            h.note(now(), wall_ms(), &loads);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hf_reactor::latency::Latency;

    /// A volume that has seen these durations of reads and of writes, in microseconds, and so many bytes of each.
    fn load(vol: u64, session: u128, reads: &[u64], writes: &[u64], bytes: u64) -> VolumeLoad {
        let mut latency = Latency::default();
        reads.iter().for_each(|us| latency.count(Op::Read, *us));
        writes.iter().for_each(|us| latency.count(Op::Write, *us));
        let (vol, session) = (VolumeId(vol), SessionId(session));
        VolumeLoad { vol, session, latency, read_bytes: bytes, written_bytes: 2 * bytes }
    }

    /// Rounds of 5 s: the moment, and the wall clock.
    fn at(round: u64) -> (Tick, u64) {
        (Tick(round * 5_000_000), 1_000_000 + round * 5_000)
    }

    fn note(h: &mut History, round: u64, loads: &[VolumeLoad]) {
        let (t, ms) = at(round);
        h.note(t, ms, loads);
    }

    #[test]
    fn a_point_is_what_changed_since_the_one_before() {
        let mut h = History::default();
        note(&mut h, 0, &[load(1, 1, &[9_000; 3], &[], 50)]);
        assert_eq!(h.of(VolumeId(1)), []);
        note(&mut h, 1, &[load(1, 1, &[&[9_000; 3][..], &[100; 10]].concat(), &[1_000; 5], 1_050)]);
        note(&mut h, 2, &[load(1, 1, &[&[9_000; 3][..], &[100; 10]].concat(), &[1_000; 5], 1_050)]);
        let points = h.of(VolumeId(1));
        let p = points[0];
        assert_eq!((p.at_ms, p.reads_per_s, p.writes_per_s), (1_005_000, 2.0, 1.0));
        assert_eq!((p.read_bytes_per_s, p.written_bytes_per_s), (200, 400));
        // What was there before the first round is in no point.
        assert!(p.read_p50_us.unwrap() <= 100 && p.read_p99_us.unwrap() <= 100, "{p:?}");
        assert!((800..=1_000).contains(&p.write_p50_us.unwrap()), "{p:?}");
        let quiet = points[1];
        assert_eq!((quiet.reads_per_s, quiet.read_p50_us, quiet.write_p99_us), (0.0, None, None));
        assert_eq!((points.len(), h.of(VolumeId(2)).len(), h.left_out()), (2, 0, 0));
    }

    #[test]
    fn another_attachment_and_a_gap_make_no_point() {
        let mut h = History::default();
        note(&mut h, 0, &[load(1, 1, &[100; 50], &[], 0)]);
        note(&mut h, 1, &[load(1, 1, &[100; 60], &[], 0)]);
        note(&mut h, 2, &[load(1, 2, &[100; 5], &[], 0)]);
        note(&mut h, 3, &[load(1, 2, &[100; 15], &[], 0)]);
        note(&mut h, 4, &[]);
        note(&mut h, 5, &[load(1, 2, &[100; 99], &[], 0)]);
        note(&mut h, 6, &[load(1, 2, &[100; 119], &[], 0)]);
        let points: Vec<_> = h.of(VolumeId(1)).iter().map(|p| (p.at_ms, p.reads_per_s)).collect();
        assert_eq!(points, [(1_005_000, 2.0), (1_015_000, 2.0), (1_030_000, 4.0)]);
    }

    #[test]
    fn points_older_than_a_quarter_of_an_hour_are_forgotten() {
        let mut h = History::default();
        for round in 0..400 {
            let volumes = [load(1, 1, &[], &[], 0), load(2, 1, &[], &[], 0)];
            note(&mut h, round, if round < 300 { &volumes } else { &volumes[..1] });
        }
        let (kept, gone) = (h.of(VolumeId(1)), h.of(VolumeId(2)));
        assert_eq!((kept.len(), kept[0].at_ms, kept[POINTS - 1].at_ms), (POINTS, at(220).1, at(399).1));
        assert_eq!((gone.len(), gone[0].at_ms), (80, at(220).1));
        (400..480).for_each(|round| note(&mut h, round, &[]));
        assert_eq!((h.of(VolumeId(1)).len(), h.of(VolumeId(2)).len(), h.rings.len()), (100, 0, 1));
    }

    #[test]
    fn the_volumes_are_bounded_and_the_busiest_are_kept() {
        let mut h = History::default();
        let all: Vec<_> = (0..3_000).map(|v| load(v, 1, &vec![100; v as usize % 1500], &[], 0)).collect();
        note(&mut h, 0, &all);
        note(&mut h, 1, &all);
        assert_eq!((h.rings.len(), h.left_out()), (MOST_VOLUMES, 3_000 - MOST_VOLUMES));
        assert_eq!((h.of(VolumeId(2_999)).len(), h.of(VolumeId(1_499)).len(), h.of(VolumeId(0)).len()), (1, 1, 0));
        // Others take their places.
        note(&mut h, 2, &all[..900]);
        note(&mut h, 3, &all[..900]);
        assert!(h.rings.len() <= MOST_VOLUMES && h.of(VolumeId(0)).len() == 1 && h.left_out() == 0);
    }
}
