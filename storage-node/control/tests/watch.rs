//! The watch hub: what is noticed, what is kept, and what one client has not read.

use crate::made::Made;
use hf_control::error::Code;
use hf_control::watch::{CHANGES_KEPT, Change, Hub, JobKey, Key, Kinds, MOST_UNREAD, Position, Reset, Subscriber};
use hf_meta_core::Command;
use hf_meta_core::command::Job;
use hf_meta_core::record::{DiskState, NodeMode};
use hf_policy::{DiskId, NodeId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// A cluster whose changes are noticed.
pub struct Watched {
    pub m: Made,
    pub hub: Hub,
}

impl Watched {
    pub fn new(m: Made) -> Watched {
        let mut w = Watched { m, hub: Hub::new(0xb007) };
        assert_eq!(w.tick(), vec![], "the first tick notices nothing");
        w
    }

    pub fn tick(&mut self) -> Vec<Change> {
        self.m.now += 100;
        self.hub.tick(&self.m.s, Some(&self.m.soft), self.m.now)
    }

    fn keys(&mut self) -> BTreeSet<Key> {
        self.tick().into_iter().filter(|c| c.gone.is_none()).map(|c| c.key).collect()
    }
}

fn gone(changes: &[Change]) -> Vec<(Key, &str)> {
    changes.iter().filter_map(|c| Some((c.key, c.gone.as_deref()?))).collect()
}

const VOL: &str = "size=1GiB replicas=3";

#[test]
fn a_new_volume_touches_what_shows_it_and_nothing_else() {
    let mut w = Watched::new(Made::new(4));
    let other = w.m.volume("other", VOL, &[2, 3, 4]);
    w.tick();
    let vol = w.m.volume("web", VOL, &[1, 2, 3]);
    w.m.now += 1000;
    let keys = w.keys();
    assert!(keys.contains(&Key::Volume(vol)) && keys.contains(&Key::Cluster));
    for i in 1..=3 {
        assert!(keys.contains(&Key::Disk(DiskId(i))) && keys.contains(&Key::Node(NodeId(i))), "{keys:?}");
    }
    assert!(!keys.contains(&Key::Volume(other)) && !keys.contains(&Key::Disk(DiskId(4))), "{keys:?}");
    assert!(keys.iter().any(|k| matches!(k, Key::Event(_))));
    assert_eq!(w.tick(), vec![], "nothing changed since");
}

#[test]
fn a_node_that_falls_silent_touches_its_disks_and_volumes_only() {
    let mut m = Made::new(4);
    let (web, far) = (m.volume("web", VOL, &[1, 2, 3]), m.volume("far", "size=1GiB replicas=2", &[1, 2]));
    let mut w = Watched::new(m);
    w.m.silence(3);
    let keys = w.keys();
    let want = BTreeSet::from([Key::Volume(web), Key::Node(NodeId(3)), Key::Disk(DiskId(3)), Key::Cluster]);
    assert_eq!(keys, want);
    w.m.hear(3);
    w.m.now += 1000;
    assert_eq!(w.keys(), want, "and so it does when it answers again");
    // Without a leader nothing is known of any node.
    let all = w.hub.tick(&w.m.s, None, w.m.now + 2000);
    let volumes: Vec<Key> = all.iter().map(|c| c.key).filter(|k| matches!(k, Key::Volume(_))).collect();
    assert_eq!(volumes, [Key::Volume(web), Key::Volume(far)]);
}

#[test]
fn what_a_node_tells_touches_what_it_is_about() {
    let mut m = Made::new(3);
    let (web, other) = (m.volume("web", VOL, &[1, 2, 3]), m.volume("other", "size=1GiB replicas=2", &[1, 2]));
    m.attach(web, 1);
    let mut w = Watched::new(m);
    w.keys();
    w.m.serve(1, web, true);
    assert!(w.keys().contains(&Key::Volume(web)));
    w.m.serve(1, web, true);
    assert_eq!(w.tick(), vec![], "it told the same again");
    w.m.serve(1, web, false);
    let keys = w.keys();
    assert!(keys.contains(&Key::Volume(web)) && !keys.contains(&Key::Volume(other)));
    // A disk that does not serve.
    w.m.tell_disk(3, |d| d.in_service = false);
    let keys = w.keys();
    assert!(keys.contains(&Key::Disk(DiskId(3))) && keys.contains(&Key::Volume(web)));
    assert!(!keys.contains(&Key::Volume(other)), "{keys:?}");
    // Bytes in use matter by the hundredth.
    w.m.tell_disk(2, |d| d.used = 4096);
    assert_eq!(w.tick(), vec![]);
    w.m.tell_disk(2, |d| d.used = 1 << 35);
    assert!(w.keys().contains(&Key::Disk(DiskId(2))));
    // A replica that cannot be made.
    let new = w.m.unmade("new", VOL, &[1, 2, 3]);
    w.tick();
    let rid = w.m.rid(new, 2);
    w.m.tell(2, |t| t.refused.push(rid));
    assert!(w.keys().contains(&Key::Volume(new)));
    // The group.
    w.m.soft.group.leader = Some(NodeId(2));
    w.m.now += 1000;
    let keys = w.keys();
    assert!(
        keys.contains(&Key::Cluster) && keys.contains(&Key::Node(NodeId(1))) && keys.contains(&Key::Node(NodeId(2)))
    );
}

#[test]
fn a_name_that_is_gone_comes_before_whoever_takes_it() {
    let mut w = Watched::new(Made::new(3));
    let a = w.m.volume("a", VOL, &[1, 2, 3]);
    w.tick();
    w.m.rename(a, "b");
    let b = w.m.volume("a", VOL, &[1, 2, 3]);
    let changes = w.tick();
    assert_eq!(gone(&changes), [(Key::Volume(a), "a")]);
    assert_eq!(changes[0].gone.as_deref(), Some("a"), "first of all");
    assert!(changes.iter().any(|c| c.key == Key::Volume(a) && c.gone.is_none()), "the new name is told, too");
    assert!(changes.iter().any(|c| c.key == Key::Volume(b)));
    assert!(changes.windows(2).all(|w| w[0].at < w[1].at));
    // What came and went between two ticks was never told of.
    w.m.delete(b);
    let short = w.m.volume("short", VOL, &[1, 2, 3]);
    w.m.delete(short);
    let changes = w.tick();
    assert_eq!(gone(&changes), [(Key::Volume(b), "a")]);
    assert!(changes.iter().all(|c| c.gone.is_some() || !matches!(c.key, Key::Volume(_))), "{changes:?}");
}

#[test]
fn removals_that_the_record_has_forgotten_are_found_all_the_same() {
    let mut w = Watched::new(Made::new(3));
    let one = "size=4KiB replicas=1 min_replicas=1";
    let first = w.m.volume("first", one, &[1]);
    w.tick();
    w.m.delete(first);
    for _ in 0..hf_meta_core::record::REMOVALS_KEPT {
        let v = w.m.volume("v", one, &[1]);
        w.m.delete(v);
    }
    assert!(w.m.s.removals_floor > 0);
    assert_eq!(gone(&w.tick()), [(Key::Volume(first), "first")]);
}

#[test]
fn jobs_come_and_go_with_the_record() {
    let mut m = Made::new(4);
    let vol = m.volume("web", VOL, &[1, 2, 3]);
    m.attach(vol, 1);
    let mut w = Watched::new(m);
    let rid = w.m.drop_replica(vol, 3);
    assert!(w.keys().contains(&Key::Job(JobKey::Replica(rid))));
    w.m.add_replica(vol, 3);
    assert_eq!(gone(&w.tick()), [(Key::Job(JobKey::Replica(rid)), format!("replica/{rid}").as_str())]);
    w.m.done(Command::Scrub { vol, epoch: w.m.epoch(vol), on: true });
    assert!(w.keys().contains(&Key::Job(JobKey::Scrub(vol))));
    w.m.done(Command::PauseJob { of: Job::Scrub(vol), paused: true });
    assert!(w.keys().contains(&Key::Job(JobKey::Scrub(vol))));
    w.m.done(Command::Scrub { vol, epoch: w.m.epoch(vol), on: false });
    assert_eq!(gone(&w.tick()), [(Key::Job(JobKey::Scrub(vol)), "scrub/web")]);
    // A drain is a job, and makes one of each replica there.
    w.m.done(Command::SetNodeMode { node: NodeId(3), mode: NodeMode::Draining });
    let keys = w.keys();
    assert!(keys.contains(&Key::Job(JobKey::Node(NodeId(3)))) && keys.contains(&Key::Job(JobKey::Replica(rid))));
    w.m.done(Command::SetNodeMode { node: NodeId(3), mode: NodeMode::Active });
    let names: BTreeSet<String> = gone(&w.tick()).into_iter().map(|(_, n)| n.to_string()).collect();
    assert_eq!(names, BTreeSet::from(["node/n3".to_string(), format!("replica/{rid}")]));
    // A disk that fails is emptied.
    w.m.done(Command::SetDiskState { disk: DiskId(2), state: DiskState::Failing("bad".into()), fault: None });
    assert!(w.keys().contains(&Key::Job(JobKey::Disk(DiskId(2)))));
    w.m.done(Command::Rebalance { on: true });
    assert!(w.keys().contains(&Key::Job(JobKey::Rebalance)));
    w.m.done(Command::Rebalance { on: false });
    assert_eq!(gone(&w.tick()), [(Key::Job(JobKey::Rebalance), "rebalance/cluster")]);
    // The drain of a node with nothing on it is no job, and its removal is told.
    w.m.done(Command::SetNodeMode { node: NodeId(4), mode: NodeMode::Draining });
    assert!(!w.keys().contains(&Key::Job(JobKey::Node(NodeId(4)))));
    w.m.done(Command::RemoveDisk { disk: DiskId(4) });
    w.m.done(Command::RemoveNode { node: NodeId(4) });
    assert_eq!(gone(&w.tick()), [(Key::Node(NodeId(4)), "n4"), (Key::Disk(DiskId(4)), "4")]);
}

#[test]
fn the_cluster_is_told_of_once_a_second_and_never_forgotten() {
    let mut w = Watched::new(Made::new(3));
    w.m.volume("a", VOL, &[1, 2, 3]);
    assert!(w.keys().contains(&Key::Cluster));
    w.m.volume("b", VOL, &[1, 2, 3]);
    assert!(!w.keys().contains(&Key::Cluster), "too soon");
    w.m.now += 1000;
    assert_eq!(w.keys(), BTreeSet::from([Key::Cluster]), "though nothing else has changed since");
    w.m.now += 1000;
    assert_eq!(w.tick(), vec![]);
}

#[test]
fn who_comes_back_gets_what_it_lacks_or_must_list_anew() {
    let mut w = Watched::new(Made::new(3));
    let (begun, begun_rev) = (w.hub.position(), w.m.s.revision);
    let vol = w.m.volume("web", VOL, &[1, 2, 3]);
    let first = w.tick();
    let (there, rev) = (w.hub.position(), w.m.s.revision);
    w.m.rename(vol, "shop");
    let second = w.tick();
    assert_eq!(w.hub.since(begun).unwrap(), [first.clone(), second.clone()].concat());
    assert_eq!(w.hub.since(there).unwrap(), second);
    assert_eq!(w.hub.since(w.hub.position()).unwrap(), vec![]);
    let after = w.hub.after_revision(rev).unwrap();
    assert!(second.iter().all(|c| after.contains(c)), "at least what came after the list");
    assert_eq!(w.hub.after_revision(begun_rev).unwrap().len(), first.len() + second.len());
    assert_eq!(w.hub.after_revision(begun_rev - 1), Err(Reset::TooOld), "that was before this hub");
    assert_eq!(w.hub.after_revision(u64::MAX), Ok(vec![]), "a list of a node that is ahead");
    // Positions that this hub did not give.
    assert_eq!(w.hub.since(Position { boot: 1, ..there }), Err(Reset::OtherLeader));
    assert_eq!(w.hub.since(Position { at: there.at + 1000, ..there }), Err(Reset::NotYet));
    assert_eq!(w.hub.since(Position { at: u64::MAX, ..there }), Err(Reset::NotYet));
    let p = hf_control::error::Problem::from(w.hub.since(Position { boot: 1, ..there }).unwrap_err());
    assert_eq!((p.code, p.status), (Code::Gone, 410));
    // Only so many changes are kept.
    let mut told = 0;
    for i in 0..CHANGES_KEPT {
        w.hub.note([Key::Health]);
        told = i + 1;
    }
    assert_eq!(told, CHANGES_KEPT);
    assert_eq!(w.hub.since(there), Err(Reset::TooOld));
    assert_eq!(w.hub.after_revision(rev), Err(Reset::TooOld));
    let next = w.m.s.revision + 1;
    assert_eq!(w.hub.after_revision(next), Ok(vec![]));
    let now = w.hub.position();
    assert_eq!(w.hub.since(Position { at: now.at - CHANGES_KEPT as u64, ..now }).unwrap().len(), CHANGES_KEPT);
}

#[test]
fn a_new_leader_is_a_new_hub_and_a_record_of_before_makes_everything_new() {
    let mut w = Watched::new(Made::new(3));
    let old = w.m.s.clone();
    let vol = w.m.volume("web", VOL, &[1, 2, 3]);
    w.tick();
    let position = w.hub.position();
    let mut next = Hub::new(0xb008);
    next.tick(&w.m.s, Some(&w.m.soft), w.m.now);
    assert_eq!(next.since(position), Err(Reset::OtherLeader));
    assert_eq!(next.after_revision(w.m.s.revision), Ok(vec![]));
    // The record goes back, as it does when a node is founded or joins anew.
    let changes = w.hub.tick(&old, Some(&w.m.soft), w.m.now);
    assert!(gone(&changes).contains(&(Key::Volume(vol), "web")));
    assert_eq!(w.hub.since(position), Err(Reset::TooOld));
    assert_eq!(w.hub.since(w.hub.position()), Ok(vec![]));
}

/// What a client holds that applies all it reads.
#[derive(Default)]
struct Client {
    holds: BTreeMap<VolumeId, String>,
    names: BTreeSet<String>,
    at: u64,
}

impl Client {
    fn read(&mut self, hub: &Hub, s: &mut Subscriber, most: usize) {
        for _ in 0..most {
            let Some(c) = s.take().unwrap() else { return };
            assert!(c.at > self.at, "positions go up");
            self.at = c.at;
            match (c.key, c.gone) {
                (Key::Volume(_), Some(name)) => {
                    self.names.remove(&name);
                    self.holds.retain(|_, n| *n != name);
                }
                (key @ Key::Volume(id), None) => {
                    let Some(name) = key.name(hub.state().unwrap()) else { continue };
                    self.names.insert(name.clone());
                    self.holds.insert(id, name);
                }
                _ => {}
            }
        }
    }
}

/// A client that reads a little now and then, and whose connection breaks again and again, ends up with what is there.
#[test]
fn a_client_ends_up_with_what_is_there() {
    for seed in 0..40u64 {
        let mut w = Watched::new(Made::new(3));
        let (mut client, mut x) = (Client::default(), seed * 2 + 1);
        let mut rnd = |n: u64| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) % n
        };
        let mut sub = Subscriber::new(Kinds::parse("volume").unwrap(), &[]);
        for _ in 0..300 {
            let ids: Vec<VolumeId> = w.m.s.volumes.keys().copied().collect();
            let name = format!("v{}", rnd(5));
            let some = ids.get(rnd(5) as usize).copied();
            let taken = w.m.s.volume_named(&name).is_some();
            match (rnd(4), some) {
                (0, _) if !taken => drop(w.m.volume(&name, "size=4KiB replicas=1 min_replicas=1", &[1])),
                (1, Some(id)) => w.m.delete(id),
                (2, Some(id)) if !taken => w.m.rename(id, &name),
                _ => {}
            }
            if rnd(3) == 0 {
                let changes = w.tick();
                sub.add(&changes);
            }
            client.read(&w.hub, &mut sub, rnd(4) as usize);
            if rnd(10) == 0 {
                let back = Position::parse(&w.hub.at(client.at).to_string()).unwrap();
                sub = Subscriber::new(Kinds::parse("volume").unwrap(), &w.hub.since(back).unwrap());
            }
        }
        sub.add(&w.tick());
        client.read(&w.hub, &mut sub, usize::MAX);
        assert!(sub.is_empty());
        let there: BTreeMap<VolumeId, String> = w.m.s.volumes.values().map(|v| (v.id, v.name.clone())).collect();
        assert_eq!(client.names, there.values().cloned().collect::<BTreeSet<_>>(), "seed {seed}");
        assert_eq!(client.holds, there, "seed {seed}");
    }
}

#[test]
fn a_client_that_does_not_read_must_list_anew_and_a_fast_one_gets_every_key() {
    let mut w = Watched::new(Made::new(3));
    let vols: Vec<VolumeId> = (0..300).map(|i| w.m.volume(&format!("v{i}"), VOL, &[1, 2, 3])).collect();
    w.tick();
    let mut slow = Subscriber::new(Kinds::ALL, &[]);
    let mut fast = Subscriber::new(Kinds::parse("volume, job").unwrap(), &[]);
    let mut read = BTreeSet::new();
    for v in &vols {
        w.m.done(Command::Scrub { vol: *v, epoch: w.m.epoch(*v), on: true });
        let changes = w.tick();
        slow.add(&changes);
        fast.add(&changes);
        while let Some(c) = fast.take().unwrap() {
            read.insert(c.key);
        }
    }
    assert!(vols.iter().all(|v| read.contains(&Key::Volume(*v)) && read.contains(&Key::Job(JobKey::Scrub(*v)))));
    assert!(read.iter().all(|k| matches!(k, Key::Volume(_) | Key::Job(_))), "only what it asked for");
    assert_eq!(slow.take(), Err(Reset::TooSlow));
    slow.add(&w.tick());
    assert_eq!(slow.take(), Err(Reset::TooSlow), "it stays so");
    // One key that changes a thousand times is one change, the newest.
    let mut one = Subscriber::new(Kinds::parse("health").unwrap(), &[]);
    (0..1000).for_each(|_| one.add(&w.hub.note([Key::Health])));
    assert_eq!(one.len(), 1);
    assert_eq!(one.take().unwrap().unwrap().at, w.hub.position().at);
    assert_eq!(one.take(), Ok(None));
    // What it begins with is not what it left unread.
    let first: Vec<Change> = vols.iter().map(|v| w.hub.note([Key::Volume(*v)]).remove(0)).collect();
    let mut back = Subscriber::new(Kinds::ALL, &first);
    assert!(first.len() > MOST_UNREAD && back.len() == first.len());
    assert!(back.take().unwrap().is_some());
    assert_eq!(Kinds::parse("volume,ghosts").unwrap_err().code, Code::Invalid);
}
