//! Health: each code is raised and cleared, dwell, mutes, doubt, bounds, cost.

use crate::made::{DISK_BYTES, Made};
use hf_control::health::{Flips, HealthCode as Code, Now, TABLE, Tracker};
use hf_control::model::Severity;
use hf_control::view::Alerts;
use hf_control::watch::{Hub, Key};
use hf_meta_core::command::COMMAND_VERSION;
use hf_meta_core::record::{DiskFault, DiskState, ScrubReport};
use hf_meta_core::soft::SyncTold;
use hf_meta_core::{Command, Reply};
use hf_policy::attributes::Media;
use hf_policy::{DiskId, DiskUuid, NodeId, VolumeId};
use std::collections::BTreeSet;

/// A cluster that is watched over.
pub struct Ward {
    pub m: Made,
    pub hub: Hub,
    pub t: Tracker,
    leader: bool,
    insecure: bool,
}

impl Ward {
    pub fn new(m: Made) -> Ward {
        Ward { m, hub: Hub::new(1), t: Tracker::new(), leader: true, insecure: false }
    }

    /// Four nodes; web is on the first three and served by n1, one is on the fourth alone.
    fn well() -> Ward {
        let mut m = Made::new(4);
        let web = m.volume("web", "size=1GiB replicas=3", &[1, 2, 3]);
        m.volume("one", "size=4KiB replicas=1 min_replicas=1", &[4]);
        m.attach(web, 1);
        m.serve(1, web, true);
        let mut w = Ward::new(m);
        w.pass(3_000);
        assert_eq!(w.raised(), vec![], "a cluster that is well");
        let h = w.t.health(7);
        assert_eq!((h.state.as_str(), h.worst, h.total, h.revision), ("ok", Severity::Info, 0, 7));
        assert_eq!(w.t.states().unwrap()["ok"], 2);
        w
    }

    /// So much time passes, and then there is a tick.
    pub fn tick(&mut self, ms: u64) -> Flips {
        self.m.now += ms;
        self.m.soft.wall_ms += ms;
        let soft = self.leader.then_some(&self.m.soft);
        let changed = self.hub.tick(&self.m.s, soft, self.m.now);
        let (state, wall_ms, now_ms) = (&*self.m.s, self.m.soft.wall_ms, self.m.now);
        let now = Now { state, soft, here: NodeId(1), wall_ms, now_ms, insecure: self.insecure };
        let flips = self.t.tick(now, &changed);
        self.hub.note(flips.keys());
        flips
    }

    /// So much time passes, with a tick each second.
    pub fn pass(&mut self, ms: u64) {
        (0..ms / 1000).for_each(|_| drop(self.tick(1000)));
    }

    pub fn raised(&self) -> Vec<(Code, String)> {
        self.t.all().map(|a| (a.code, a.subject.to_string())).collect()
    }

    pub fn has(&self, code: Code, subject: &str) -> bool {
        self.t.raised(subject).iter().any(|a| a.code == code)
    }

    fn vol(&self, name: &str) -> VolumeId {
        self.m.s.volume_named(name).unwrap().id
    }

    fn loses_a_copy(&mut self, name: &str) {
        self.m.drop_replica(self.vol(name), 3);
    }

    fn done(&mut self, cmd: Command) {
        self.m.done(cmd);
    }

    fn scrub(&mut self, name: &str, report: ScrubReport) {
        let vol = self.vol(name);
        self.m.done(Command::Scrub { vol, epoch: self.m.epoch(vol), on: true });
        let (epoch, term) = (self.m.epoch(vol), self.m.s.volumes[&vol].term);
        let id = self.m.s.volumes[&vol].scrub.as_ref().unwrap().id;
        self.m.done(Command::Scrubbed { vol, shard: 0, epoch, term, id, report });
    }

    fn disk(&mut self, disk: u64, state: DiskState, fault: Option<DiskFault>) {
        self.m.done(Command::SetDiskState { disk: DiskId(disk), state, fault });
    }

    fn fill(&mut self, disk: u64, hundredths: u64) {
        self.m.tell_disk(disk, |d| d.used = DISK_BYTES / 100 * hundredths);
    }

    fn sync(&mut self, chunks_done: u64) {
        let vol = self.vol("web");
        let told = SyncTold { vol, stage: "scrub".into(), chunks: 10, chunks_done, ..SyncTold::default() };
        self.m.tell(1, |t| t.syncs = vec![told]);
    }

    fn mute(&mut self, code: Code, subject: &str, seconds: u64, sticky: bool) {
        let until_ms = self.m.soft.wall_ms + seconds * 1000;
        let (by, reason) = ("me".to_string(), "known".to_string());
        let (code, subject, count) = (code.word().to_string(), subject.to_string(), self.t.subjects(code));
        self.m.done(Command::Mute { code, subject, by, reason, until_ms, sticky, count });
    }
}

type Step = fn(&mut Ward);

/// How each code comes about and how it goes.
const CASES: &[(Code, &str, Step, Step)] = &[
    (Code::VolumeUnavailable, "volume/one", |w| w.m.silence(4), |w| w.m.hear(4)),
    (
        Code::VolumeBlocksLost,
        "volume/web",
        |w| w.scrub("web", ScrubReport { lost: 2, ..ScrubReport::default() }),
        |w| w.scrub("web", ScrubReport::default()),
    ),
    (
        Code::VolumeWritesWait,
        "volume/web",
        |w| [2, 3].into_iter().for_each(|n| w.m.silence(n)),
        |w| [2, 3].into_iter().for_each(|n| w.m.hear(n)),
    ),
    (Code::VolumeNotServed, "volume/web", |w| w.m.serve(1, w.vol("web"), false), |w| w.m.serve(1, w.vol("web"), true)),
    (Code::MetadataNoLeader, "cluster", |w| w.leader = false, |w| w.leader = true),
    (Code::NodeDown, "node/n3", |w| w.m.silence(3), |w| w.m.hear(3)),
    (
        Code::DiskFailed,
        "disk/4",
        |w| w.disk(4, DiskState::Failed("I/O error".into()), Some(DiskFault::Io)),
        |w| w.disk(4, DiskState::Ok, None),
    ),
    (
        Code::DiskMissing,
        "disk/4",
        |w| w.m.tell_disk(4, |d| (d.in_service, d.fault) = (false, Some((DiskFault::Gone, "nothing there".into())))),
        |w| w.m.hear(4),
    ),
    (Code::DiskFull, "disk/2", |w| w.fill(2, 97), |w| w.fill(2, 50)),
    (Code::HealthUnknown, "node/n4", |w| w.m.soft.nodes.get_mut(&NodeId(4)).unwrap().heard_ms = 6_000, |w| w.m.hear(4)),
    (Code::VolumeDegraded, "volume/web", |w| w.loses_a_copy("web"), |w| w.m.add_replica(w.vol("web"), 3)),
    (
        Code::VolumeUnplaced,
        "volume/web",
        |w| {
            w.m.silence(3);
            w.m.soft.nodes.get_mut(&NodeId(3)).unwrap().heard_ms = 700_000;
            w.fill(4, 96);
        },
        |w| w.m.hear(3),
    ),
    (
        Code::ScrubOverdue,
        "volume/web",
        |w| w.m.soft.wall_ms += 15 * 86_400_000,
        |w| w.scrub("web", ScrubReport::default()),
    ),
    (
        Code::DiskFailing,
        "disk/3",
        |w| w.disk(3, DiskState::Failing("40 bad blocks".into()), Some(DiskFault::ErrorBudget)),
        |w| w.disk(3, DiskState::Ok, None),
    ),
    (Code::DiskNearFull, "disk/2", |w| w.fill(2, 90), |w| w.fill(2, 50)),
    (Code::DiskSlots, "disk/1", |w| w.m.tell_disk(1, |d| d.entries = 1), |w| w.m.tell_disk(1, |d| d.entries = 100)),
    (Code::PoolNoSpare, "cluster", |w| (1..=4).for_each(|d| w.fill(d, 80)), |w| (1..=4).for_each(|d| w.fill(d, 40))),
    (
        Code::PoolOvercommit,
        "cluster",
        |w| {
            for i in 1..=4 {
                let (node, uuid, path, capacity) = (NodeId(i), DiskUuid(i.into()), format!("/d{i}"), 512 << 20);
                w.m.done(Command::PutDisk { node, uuid, path, media: Media::Ssd, capacity });
                w.m.tell_disk(i, |d| d.used = 400 << 20);
            }
        },
        |w| (1..=4).for_each(|i| w.m.tell_disk(i, |d| d.used = 100 << 20)),
    ),
    (Code::MetadataDegraded, "cluster", |w| w.m.silence(2), |w| w.m.hear(2)),
    (
        Code::MetadataSpace,
        "node/n2",
        |w| w.m.tell(2, |t| t.data_dir_full = true),
        |w| w.m.tell(2, |t| t.data_dir_full = false),
    ),
    (
        Code::ClockSkew,
        "node/n2",
        |w| w.m.tell(2, |t| t.clock_ahead_ms = -8_000),
        |w| w.m.tell(2, |t| t.clock_ahead_ms = -4_000),
    ),
    (Code::Insecure, "cluster", |w| w.insecure = true, |w| w.insecure = false),
    (
        Code::VersionSkew,
        "cluster",
        |w| (1..=4).for_each(|i| w.done(Made::put_node(i, if i == 4 { "1.1" } else { "1.0" }))),
        |w| w.done(Made::put_node(4, "1.0")),
    ),
    (
        Code::UpgradeNotFinal,
        "cluster",
        |w| (1..=4).for_each(|i| w.m.tell(i, |t| t.commands = COMMAND_VERSION + 1)),
        |w| w.m.tell(3, |t| t.commands = COMMAND_VERSION),
    ),
    (
        Code::JobStuck,
        "volume/web",
        |w| {
            let vol = w.vol("web");
            w.m.done(Command::Scrub { vol, epoch: w.m.epoch(vol), on: true });
            w.sync(4);
        },
        |w| w.sync(5),
    ),
    (
        Code::Held,
        "cluster",
        |w| w.done(Command::PauseRebuild { paused: true }),
        |w| w.done(Command::PauseRebuild { paused: false }),
    ),
];

/// A code that its check finds is raised when it has held for its dwell, no earlier, and cleared after twice that.
#[test]
fn every_code_is_raised_and_cleared() {
    for (code, subject, breaks, mends) in CASES {
        let mut w = Ward::well();
        let row = code.row();
        breaks(&mut w);
        // A stuck job is found when it has stood still for ten minutes.
        let found_after = if *code == Code::JobStuck { 600_000 } else { 0 };
        w.tick(1000);
        if row.dwell_ms + found_after > 2000 {
            w.tick((row.dwell_ms + found_after).saturating_sub(2000));
            assert!(!w.has(*code, subject), "{} is raised too early", row.word);
            w.pass(3000);
        }
        // What only time changes is seen when its turn in the round over all volumes comes.
        let mut more = 0;
        while !w.has(*code, subject) {
            assert!(
                more < 62 && *code == Code::ScrubOverdue || more < 1,
                "{} is not raised: {:?}",
                row.word,
                w.raised()
            );
            w.tick(1000);
            more += 1;
        }
        let alert = w.t.raised(subject).into_iter().find(|a| a.code == *code).unwrap();
        println!("{}: {}", row.word, alert.message);
        assert!(!alert.message.is_empty() && !alert.muted && alert.since_ms <= w.m.soft.wall_ms);
        let h = w.t.health(1);
        assert!(h.worst >= row.severity && ["error", "warning", "unknown"].contains(&h.state.as_str()), "{}", h.state);
        assert!(h.items.is_sorted_by(|a, b| a.severity >= b.severity));
        assert!(w.t.about(subject).iter().any(|r| r.code == row.word));
        mends(&mut w);
        w.tick(1000);
        if row.dwell_ms > 0 {
            assert!(w.has(*code, subject), "{} is cleared too early", row.word);
            w.tick((2 * row.dwell_ms).saturating_sub(2000));
            assert!(w.has(*code, subject), "{} is cleared too early", row.word);
        }
        w.pass(4000);
        assert!(!w.has(*code, subject), "{} is not cleared", row.word);
    }
}

/// No code without a check that raises it, no check of a code that is not in the table.
#[test]
fn every_code_has_a_case() {
    let cases: BTreeSet<Code> = CASES.iter().map(|c| c.0).collect();
    let table: BTreeSet<Code> = TABLE.iter().map(|r| r.code).collect();
    assert_eq!(cases, table);
}

#[test]
fn what_flaps_is_raised_once_and_what_passes_not_at_all() {
    let mut w = Ward::well();
    // Away for less than the dwell, again and again.
    for _ in 0..10 {
        w.m.silence(3);
        w.pass(4000);
        w.m.hear(3);
        w.pass(2000);
    }
    assert!(!w.has(Code::NodeDown, "node/n3"));
    w.m.silence(3);
    w.pass(6000);
    assert!(w.has(Code::NodeDown, "node/n3"));
    let since = w.t.raised("node/n3")[0].since_ms;
    let mut flips = 0;
    for _ in 0..10 {
        w.m.hear(3);
        (0..8).for_each(|_| flips += w.tick(1000).codes.iter().filter(|(c, _)| *c == Code::NodeDown).count());
        w.m.silence(3);
        flips += w.tick(1000).codes.iter().filter(|(c, _)| *c == Code::NodeDown).count();
    }
    assert_eq!(flips, 0, "it stays raised");
    assert_eq!(w.t.raised("node/n3")[0].since_ms, since);
}

#[test]
fn flips_name_what_to_tell() {
    let mut w = Ward::well();
    w.m.silence(3);
    w.tick(1000);
    let flips = w.tick(5000);
    assert!(flips.codes.contains(&(Code::NodeDown, Key::Node(NodeId(3)))));
    assert!(flips.keys().contains(&Key::Health) && flips.keys().contains(&Key::Node(NodeId(3))));
    let flips = w.tick(1000);
    assert_eq!((flips.codes.len(), flips.keys().len()), (0, 0), "{flips:?}");
    // A new name is the same alert.
    w.pass(10_000);
    let web = w.vol("web");
    assert!(w.has(Code::VolumeDegraded, "volume/web"));
    w.m.serve(1, web, true);
    w.m.detach(web);
    w.m.rename(web, "shop");
    w.tick(1000);
    assert!(w.has(Code::VolumeDegraded, "volume/shop") && w.t.raised("volume/web").is_empty());
    // What is deleted has no health.
    w.m.delete(web);
    let flips = w.tick(1000);
    assert!(flips.codes.contains(&(Code::VolumeDegraded, Key::Volume(web))));
    assert!(w.t.raised("volume/shop").is_empty());
    assert_eq!(w.t.states().unwrap().values().sum::<u64>(), 1);
}

/// Without evidence nothing is cleared and nothing is well.
#[test]
fn doubt_clears_nothing() {
    let mut w = Ward::well();
    w.m.drop_replica(w.vol("web"), 3);
    w.pass(12_000);
    assert!(w.has(Code::VolumeDegraded, "volume/web"));
    w.leader = false;
    w.tick(1000);
    assert_eq!(w.t.health(1).state, "unknown", "no leader, and that not for long enough to be raised");
    w.m.add_replica(w.vol("web"), 3);
    w.pass(60_000);
    assert!(w.has(Code::VolumeDegraded, "volume/web") && w.has(Code::HealthUnknown, "cluster"));
    assert_eq!(w.t.health(1).state, "error");
    w.leader = true;
    w.pass(25_000);
    assert_eq!(w.raised(), vec![]);
    assert_eq!(w.t.health(1).state, "ok");
    // A leader that has just begun knows nothing, and does not say that all is well.
    let mut new = Ward::new(Made::new(3));
    new.m.soft.nodes.clear();
    new.m.soft.leading_ms = 1000;
    new.tick(1000);
    assert_eq!(new.t.health(1).state, "unknown");
    new.pass(2000);
    assert_eq!(new.raised(), vec![], "the benefit of the doubt");
    // A disk of which its node says nothing.
    let mut w = Ward::well();
    w.m.tell(4, |t| t.disks.clear());
    w.pass(12_000);
    assert!(w.has(Code::HealthUnknown, "disk/4") && w.t.states().unwrap()["unknown"] == 1);
    // A node in maintenance may be away.
    let mut w = Ward::well();
    w.m.done(Command::SetNodeMode { node: NodeId(3), mode: hf_meta_core::record::NodeMode::Maintenance });
    w.m.silence(3);
    w.pass(15_000);
    assert!(!w.has(Code::NodeDown, "node/n3") && w.has(Code::VolumeDegraded, "volume/web"));
}

/// A node that says nothing of a new attachment is believed for five seconds; that they are over is told, too.
#[test]
fn what_only_time_settles_is_told() {
    let mut w = Ward::well();
    let one = w.vol("one");
    w.m.attach(one, 2);
    w.tick(1000);
    assert_eq!(w.t.states().unwrap()["unknown"], 1);
    let told: Vec<Flips> = (0..6).map(|_| w.tick(1000)).collect();
    assert_eq!(told.iter().filter(|f| f.keys().contains(&Key::Volume(one))).count(), 1);
    assert_eq!(w.t.states().unwrap()["not_served"], 1);
    w.pass(11_000);
    assert!(w.has(Code::VolumeNotServed, "volume/one"));
}

#[test]
fn a_mute_silences_and_ends_in_time() {
    let mut w = Ward::well();
    w.m.drop_replica(w.vol("web"), 3);
    w.pass(12_000);
    w.mute(Code::VolumeDegraded, "volume/web", 60, false);
    assert!(w.tick(1000).mutes);
    let h = w.t.health(1);
    assert_eq!((h.state.as_str(), h.worst, h.total, h.items[0].muted), ("ok", Severity::Info, 1, true));
    assert_eq!((h.mutes.len(), h.mutes[0].by.as_str(), h.mutes[0].subject.as_str()), (1, "me", "volume/web"));
    // Another subject, and another code about the same one, are heard.
    w.m.tell(2, |t| t.data_dir_full = true);
    w.pass(12_000);
    assert_eq!(w.t.health(1).state, "warning");
    w.m.tell(2, |t| t.data_dir_full = false);
    w.m.silence(2);
    w.pass(8_000);
    assert!(w.has(Code::VolumeWritesWait, "volume/web") && w.t.health(1).worst == Severity::Error);
    w.m.hear(2);
    w.pass(40_000);
    let h = w.t.health(1);
    assert_eq!((h.worst, h.mutes.len()), (Severity::Warning, 0), "its time is over");
    // And an operator ends one.
    w.mute(Code::VolumeDegraded, "", 600, false);
    w.tick(1000);
    assert_eq!(w.t.health(1).worst, Severity::Info);
    w.m.done(Command::Unmute { code: "VOLUME_DEGRADED".into(), subject: String::new() });
    assert!(w.tick(1000).mutes);
    assert_eq!(w.t.health(1).worst, Severity::Warning);
}

#[test]
fn a_mute_ends_when_more_have_the_code_unless_it_is_sticky() {
    for sticky in [false, true] {
        let mut w = Ward::well();
        let more = w.m.volume("more", "size=1GiB replicas=3", &[1, 2, 3]);
        w.m.attach(more, 1);
        w.m.serve(1, more, true);
        w.m.drop_replica(w.vol("web"), 3);
        w.pass(12_000);
        w.mute(Code::VolumeDegraded, "", 36_000, sticky);
        w.pass(2000);
        assert_eq!(w.t.health(1).state, "ok");
        w.m.drop_replica(more, 3);
        w.pass(12_000);
        assert_eq!(w.t.subjects(Code::VolumeDegraded), 2);
        assert_eq!(w.t.health(1).state, if sticky { "ok" } else { "warning" });
        let ended: Vec<(&str, &str)> = w.t.ended_mutes().collect();
        assert_eq!(ended, if sticky { vec![] } else { vec![("VOLUME_DEGRADED", "")] });
        // It stays ended when there are fewer again.
        w.m.add_replica(more, 3);
        w.pass(25_000);
        assert_eq!(w.t.health(1).state, if sticky { "ok" } else { "warning" });
        // A new mute holds.
        w.mute(Code::VolumeDegraded, "", 36_000, sticky);
        w.pass(2000);
        assert_eq!(w.t.health(1).state, "ok");
        assert_eq!(w.t.ended_mutes().count(), 0);
    }
}

/// Volumes come and go at random, nodes fall silent and come back: what is kept follows what is there.
#[test]
fn what_is_kept_follows_what_is_there() {
    let mut w = Ward::new(Made::new(3));
    let mut x = 7u64;
    let mut rnd = |n: u64| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 33) % n
    };
    for i in 0..2000 {
        match rnd(6) {
            0 => drop(w.m.volume(&format!("v{i}"), "size=1GiB replicas=3", &[1, 2, 3])),
            1 => {
                let ids: Vec<VolumeId> = w.m.s.volumes.keys().copied().collect();
                ids.get(rnd(9) as usize).into_iter().for_each(|v| w.m.delete(*v));
            }
            2 => w.m.silence(2 + rnd(2)),
            3 => w.m.hear(2 + rnd(2)),
            _ => drop(w.tick(rnd(4000))),
        }
    }
    (1..=3).for_each(|n| w.m.hear(n));
    w.pass(120_000);
    assert_eq!(w.raised(), vec![]);
    assert!(w.t.is_empty());
    assert_eq!(w.t.states().unwrap().values().sum::<u64>(), w.m.s.volumes.len() as u64);
    let Reply::Volume(_) = w.m.done(Command::CreateVolume {
        name: "last".into(),
        attrs: hf_policy::policy::parse_pairs(["size=4KiB", "replicas=1", "min_replicas=1"]).unwrap(),
        lineage: hf_policy::Lineage(1),
        shards: vec![vec![DiskId(1)]],
    }) else {
        panic!("no volume")
    };
    w.tick(1000);
    assert_eq!(w.t.states().unwrap()["creating"], 1);
}
