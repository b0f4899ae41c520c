//! Every verb with a state of the cluster in which it can be done: what the tests of `verbs` go over.

use crate::world::*;
use hf_control::access::Verb;
use hf_control::error::Problem;
use hf_control::model::*;
use hf_control::verbs::{Call, cluster, disk, job, node, replica, volume};
use hf_meta_core::command::{COMMAND_VERSION, FIRST_VERSION};
use hf_meta_core::record::*;
use hf_meta_core::{ClusterState, Command, Envelope};
use hf_policy::*;
use serde_json::{Value, json};

/// A verb, and a state in which it can be done.
pub struct Row {
    pub name: &'static str,
    pub verb: Verb,
    pub setup: fn(&mut ClusterState),
    /// Asks for it.
    pub ask: fn(&World, &Call) -> Result<Value, Problem>,
    /// Something else of the same cluster cannot be meant: it is about volume `web`.
    pub web: bool,
    /// A node does it, and not a command of this one.
    pub on_node: bool,
}

impl Row {
    /// The made-up cluster in the state that the verb needs.
    pub fn world(&self) -> World {
        if self.name == "cluster finalize" {
            return World::of(of_version(COMMAND_VERSION - 1));
        }
        World::with(self.setup)
    }
}

/// A cluster with one node whose record has an older version.
fn of_version(version: u32) -> ClusterState {
    let mut s = ClusterState::default();
    let raises = (FIRST_VERSION + 1..=version).map(|to| Command::RaiseVersion { to });
    let init = [Command::Init { cluster: ClusterId(7), name: "test".into() }, put_node(1)];
    for cmd in init.into_iter().chain(raises) {
        s.apply(&Envelope { v: s.version, request: RequestId::NONE, at_ms: WALL_MS, cmd }).unwrap();
    }
    s
}

pub fn json_of<T: serde::Serialize>(r: Result<T, Problem>) -> Result<Value, Problem> {
    r.map(|t| serde_json::to_value(t).unwrap())
}

/// A row: its name, right and state, and how it is asked for.
macro_rules! row {
    ($list:ident, $name:literal, $verb:ident, $setup:expr, |$p:ident, $c:ident| $ask:expr) => {
        $list.push(Row {
            name: $name,
            verb: Verb::$verb,
            setup: $setup,
            ask: |$p, $c| json_of(block_on($ask)),
            web: $name.starts_with("volume") && $name != "volume create",
            on_node: ["volume attach", "volume detach", "disk add"].contains(&$name),
        })
    };
}

pub fn spec(pairs: &[(&str, Value)]) -> VolumeSpec {
    VolumeSpec(pairs.iter().map(|(k, v)| (k.to_string(), v.clone())).collect())
}

pub fn new_volume(name: &str) -> NewVolume {
    NewVolume { name: name.into(), spec: spec(&[("size", json!("1GiB"))]) }
}

pub fn mute_of(code: &str) -> NewMute {
    NewMute { code: code.into(), subject: None, for_seconds: 60, reason: "known".into(), sticky: false }
}

pub fn force_of(replica: u64) -> ForceInsync {
    ForceInsync { replica, operator: "eva".into(), reason: "fire".into(), confirm: "web".into() }
}

/// Replica 3 of `web` is the last in sync, and its disk has failed: only 1 and 2 are left, which missed writes.
pub fn only_lost_copy(s: &mut ClusterState) {
    attach(s, "web", 1);
    drop_replica(s, "web", 1, Some(DropReason::Link));
    drop_replica(s, "web", 2, Some(DropReason::Link));
    fail(s, 3, DiskState::Failed("burnt".into()), Some(DiskFault::Io));
}

pub fn fail(s: &mut ClusterState, disk: u64, state: DiskState, fault: Option<DiskFault>) {
    apply(s, Command::SetDiskState { disk: DiskId(disk), state, fault });
}

fn nothing(_: &mut ClusterState) {}

fn attached(s: &mut ClusterState) {
    attach(s, "web", 2);
}

fn scrubbed(s: &mut ClusterState) {
    touch(s, "web");
}

fn moving(s: &mut ClusterState) {
    let v = s.volume_named("web").unwrap();
    let cmd = Command::Move { vol: v.id, shard: 0, epoch: v.epoch, rid: Rid(2), moving: true };
    apply(s, cmd);
}

fn node_drains(s: &mut ClusterState) {
    apply(s, Command::SetNodeMode { node: NodeId(3), mode: NodeMode::Draining });
}

fn disk_drains(s: &mut ClusterState) {
    apply(s, Command::SetDiskDraining { disk: DiskId(3), draining: true });
}

fn disk_fails(s: &mut ClusterState) {
    fail(s, 3, DiskState::Failing("bad blocks".into()), Some(DiskFault::ErrorBudget));
}

fn rebalances(s: &mut ClusterState) {
    apply(s, Command::Rebalance { on: true });
}

fn paused(s: &mut ClusterState) {
    apply(s, Command::PauseRebuild { paused: true });
}

fn muted(s: &mut ClusterState) {
    let (code, by) = ("NODE_DOWN".to_string(), "eva".to_string());
    let until_ms = WALL_MS + 900_000;
    let (subject, reason) = (String::new(), String::new());
    apply(s, Command::Mute { code, subject, by, reason, until_ms, sticky: false, count: 1 });
}

fn volumes(l: &mut Vec<Row>) {
    row!(l, "volume create", VolumeCreate, nothing, |p, c| volume::create(p, c, &new_volume("db")));
    row!(l, "volume set", VolumeSet, nothing, |p, c| volume::set(
        p,
        c,
        "web",
        &PolicyChange { spec: spec(&[("queue_depth", json!(7))]) }
    ));
    row!(l, "volume resize", VolumeSet, nothing, |p, c| volume::resize(p, c, "web", &Resize { size: json!("2GiB") }));
    row!(l, "volume rename", VolumeRename, nothing, |p, c| volume::rename(p, c, "web", &Rename { name: "www".into() }));
    row!(l, "volume delete", VolumeDelete, nothing, |p, c| volume::delete(p, c, "web"));
    row!(l, "volume scrub", VolumeScrub, nothing, |p, c| volume::scrub(p, c, "web"));
    row!(l, "volume attach", VolumeAttach, nothing, |p, c| volume::attach(
        p,
        c,
        "web",
        &Attach { node: Some("n3".into()), force: false }
    ));
    row!(l, "volume detach", VolumeDetach, attached, |p, c| volume::detach(p, c, "web"));
    row!(l, "volume force-insync", VolumeForceInsync, only_lost_copy, |p, c| replica::force(p, c, "web", &force_of(1)));
}

fn hardware(l: &mut Vec<Row>) {
    row!(l, "replica move", ReplicaMove, nothing, |p, c| replica::relocate(p, c, 2));
    row!(l, "disk add", DiskChange, nothing, |p, c| disk::add(
        p,
        c,
        &NewDisk { node: Some("n2".into()), path: "/disks/new".into(), size_bytes: None, media: None }
    ));
    row!(l, "disk drain", DiskChange, nothing, |p, c| disk::drain(p, c, 3, true));
    row!(l, "disk undrain", DiskChange, disk_drains, |p, c| disk::drain(p, c, 3, false));
    row!(l, "disk trust", DiskChange, disk_fails, |p, c| disk::trust(p, c, 3));
    row!(l, "disk remove", DiskChange, nothing, |p, c| disk::remove(p, c, 5));
    row!(l, "node drain", NodeChange, nothing, |p, c| node::mode(p, c, "n3", Mode::Draining));
    row!(l, "node undrain", NodeChange, node_drains, |p, c| node::mode(p, c, "n3", Mode::Active));
    row!(l, "node maintenance", NodeChange, nothing, |p, c| node::mode(p, c, "n3", Mode::Maintenance));
    row!(l, "node remove", NodeChange, nothing, |p, c| node::remove(p, c, "n4"));
}

fn jobs(l: &mut Vec<Row>) {
    row!(l, "job pause node", JobChange, node_drains, |p, c| job::pause(p, c, "node/n3", true));
    row!(l, "job pause disk", JobChange, disk_drains, |p, c| job::pause(p, c, "disk/3", true));
    row!(l, "job pause scrub", JobChange, scrubbed, |p, c| job::pause(p, c, "scrub/web", true));
    row!(l, "job pause rebalance", JobChange, rebalances, |p, c| job::pause(p, c, "rebalance/cluster", true));
    row!(l, "job pause replica", JobChange, moving, |p, c| job::pause(p, c, "replica/2", true));
    row!(l, "job resume replica", JobChange, moving, |p, c| job::pause(p, c, "replica/2", false));
    row!(l, "job cancel node", JobChange, node_drains, |p, c| job::cancel(p, c, "node/n3"));
    row!(l, "job cancel disk", JobChange, disk_drains, |p, c| job::cancel(p, c, "disk/3"));
    row!(l, "job cancel failing disk", JobChange, disk_fails, |p, c| job::cancel(p, c, "disk/3"));
    row!(l, "job cancel scrub", JobChange, scrubbed, |p, c| job::cancel(p, c, "scrub/web"));
    row!(l, "job cancel rebalance", JobChange, rebalances, |p, c| job::cancel(p, c, "rebalance/cluster"));
    row!(l, "job cancel replica", JobChange, moving, |p, c| job::cancel(p, c, "replica/2"));
    row!(l, "job pause all", JobChange, nothing, |p, c| job::pause_all(p, c, true));
    row!(l, "job resume all", JobChange, paused, |p, c| job::pause_all(p, c, false));
}

fn cluster_wide(l: &mut Vec<Row>) {
    row!(l, "cluster rebalance", ClusterChange, nothing, |p, c| cluster::rebalance(p, c));
    row!(l, "cluster voters", ClusterChange, nothing, |p, c| cluster::voters(p, c, &Voters { count: 5 }));
    row!(l, "cluster finalize", ClusterFinalize, nothing, |p, c| cluster::finalize(p, c));
    row!(l, "health mute", HealthMute, nothing, |p, c| cluster::mute(p, c, &mute_of("NODE_DOWN"), 1));
    row!(l, "health unmute", HealthMute, muted, |p, c| cluster::unmute(p, c, "NODE_DOWN", ""));
}

/// All of them.
pub fn rows() -> Vec<Row> {
    let mut all = Vec::new();
    volumes(&mut all);
    hardware(&mut all);
    jobs(&mut all);
    cluster_wide(&mut all);
    all
}
