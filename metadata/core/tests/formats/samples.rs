//! One of each command, for the golden files.

use super::{AT, own_log};
use hf_meta_core::Command;
use hf_meta_core::command::{Job, ShardChange, ShardStep};
use hf_meta_core::record::*;
use hf_policy::attributes::Media;
use hf_policy::policy::parse_pairs;
use hf_policy::*;
use std::collections::BTreeMap;

/// One of each command, in the order of their declaration; some twice, with and without what may be absent.
pub fn commands() -> Vec<Command> {
    let (vol, epoch, term, shard, rid) = (VolumeId(1), Epoch(3), Term(2), 0, Rid(4));
    let (node, disk, session, store_uuid) = (NodeId(1), DiskId(2), SessionId(11), StoreUuid(42));
    let base = Ver { term, seq: Seq(40) };
    let attrs = parse_pairs(["size=1GiB", "replicas=2", "label.app=db"]).unwrap();
    let addr = Addresses { api: "a:1".into(), data: "a:2".into(), nbd: "a:3".into() };
    let labels = BTreeMap::from([("rack".to_string(), "r1".to_string())]);
    let put = |node, log: OwnLog| Command::PutNode {
        name: "n1".into(),
        node,
        uuid: BootId(21),
        addr: addr.clone(),
        labels: labels.clone(),
        version: "0.1.0".into(),
        log: Box::new(log),
    };
    let report = ScrubReport { chunks: 9, skipped: 1, bad: 2, behind: 3, repaired: 4, lost: 5, diverged: 6 };
    let told = BTreeMap::from([(rid, 77)]);
    let change = |what| ShardChange { shard, what };
    let changes = vec![
        change(ShardStep::Drop { rids: vec![rid], base, told: told.clone(), reasons: Default::default() }),
        change(ShardStep::Add { rid, store_uuid }),
        change(ShardStep::Scrubbed { id: 8, report }),
    ];
    let pause = |of| Command::PauseJob { of, paused: true };
    let mut all = vec![
        Command::Init { cluster: ClusterId(7), name: "c".into() },
        put(None, OwnLog::default()),
        put(Some(node), own_log()),
        Command::PutDisk { node, uuid: DiskUuid(31), path: "/d".into(), media: Media::Nvme, capacity: 1 << 40 },
        Command::SetDiskState { disk, state: DiskState::Ok, fault: None },
        Command::SetDiskState { disk, state: DiskState::Failed("it died".into()), fault: None },
        Command::SetDiskState { disk, state: DiskState::Failing("it is dying".into()), fault: None },
        Command::CreateVolume { name: "v".into(), attrs: attrs.clone(), lineage: Lineage(5), shards: vec![vec![disk]] },
        Command::DeleteVolume { vol, epoch },
        Command::SetPolicy { vol, epoch, change: attrs, new_shards: vec![vec![disk]] },
        Command::ReplicaMade { vol, rid, store_uuid },
        Command::ReplicaGone { rid },
        Command::Attach { vol, epoch, node, session, steal: true, maintenance: false },
        Command::Detach { vol, session },
        Command::Activated { vol, term },
        Command::Drop {
            vol,
            shard,
            epoch,
            term,
            rids: vec![rid],
            base,
            told: BTreeMap::new(),
            reasons: Default::default(),
        },
        Command::Drop { vol, shard, epoch, term, rids: vec![rid], base, told, reasons: Default::default() },
        Command::Together { vol, epoch, term, changes },
        Command::ReplaceUnmade { vol, shard, epoch, rid, disk: None },
        Command::ReplaceUnmade { vol, shard, epoch, rid, disk: Some(disk) },
        Command::SyncStart { vol, shard, epoch, term, rid, sync_id: 9 },
        Command::Add { vol, shard, epoch, term, rid, store_uuid },
        Command::AddReplica { vol, shard, epoch, disk },
        Command::Leave { vol, shard, epoch, rid },
        Command::RemoveNode { node },
        Command::SetDiskDraining { disk, draining: true },
    ];
    let modes = [NodeMode::Active, NodeMode::Draining, NodeMode::Maintenance];
    all.extend(modes.map(|mode| Command::SetNodeMode { node, mode }));
    let jobs = [Job::Node(node), Job::Disk(disk), Job::Rebalance, Job::Scrub(vol), Job::Replica(rid)];
    all.extend(jobs.map(pause));
    all.extend(later_commands(report));
    all.extend(commands_of_version_3());
    all
}

/// The rest of them.
fn later_commands(report: ScrubReport) -> Vec<Command> {
    let (vol, epoch, term, shard, rid, disk) = (VolumeId(1), Epoch(3), Term(2), 0, Rid(4), DiskId(2));
    let base = Ver { term, seq: Seq(40) };
    vec![
        Command::RemoveDisk { disk },
        Command::PauseRebuild { paused: true },
        Command::Move { vol, shard, epoch, rid, moving: true },
        Command::Rebalance { on: true },
        Command::Scrub { vol, epoch, on: true },
        Command::Scrubbed { vol, shard, epoch, term, id: 8, report },
        Command::SetVoters { voters: 5 },
        Command::RemoveReplica { vol, shard, epoch, rid },
        Command::ForceInsync { vol, shard, epoch, rid, lineage: Lineage(6), operator: "o".into(), reason: "r".into() },
        Command::SnapAdd { vol, epoch, term, id: 1, cuts: vec![base] },
        Command::SnapDel { vol, epoch, id: 1 },
        Command::RaiseVersion { to: 2 },
    ]
}

/// What came with version 3.
fn commands_of_version_3() -> Vec<Command> {
    let (vol, epoch, term, shard, rid, disk) = (VolumeId(1), Epoch(3), Term(2), 0, Rid(4), DiskId(2));
    let (base, told) = (Ver { term, seq: Seq(40) }, BTreeMap::from([(rid, 77)]));
    let reasons = BTreeMap::from([(rid, DropReason::Timeout)]);
    let what =
        ShardStep::Drop { rids: vec![rid], base, told: told.clone(), reasons: [(rid, DropReason::NoSpace)].into() };
    let failed = DiskState::Failed("it died".into());
    vec![
        Command::Drop { vol, shard, epoch, term, rids: vec![rid], base, told, reasons },
        Command::Together { vol, epoch, term, changes: vec![ShardChange { shard, what }] },
        Command::SetDiskState { disk, state: failed, fault: Some(DiskFault::Io) },
        Command::RenameVolume { vol, epoch, name: "w".into() },
        mute("DISK_FAILED", "n1:/d"),
        Command::Unmute { code: "DISK_FAILED".into(), subject: "n1:/d".into() },
        Command::RaiseVersion { to: 3 },
    ]
}

pub fn mute(code: &str, subject: &str) -> Command {
    let (code, subject, by, reason) = (code.into(), subject.into(), "o".into(), "r".into());
    Command::Mute { code, subject, by, reason, until_ms: AT + 1_000, sticky: true, count: 1 }
}

/// The match has no wildcard, so that a new command does not compile until it is here, and in [`commands`].
pub fn number(cmd: &Command) -> usize {
    match cmd {
        Command::Init { .. } => 0,
        Command::PutNode { .. } => 1,
        Command::PutDisk { .. } => 2,
        Command::SetDiskState { .. } => 3,
        Command::CreateVolume { .. } => 4,
        Command::DeleteVolume { .. } => 5,
        Command::SetPolicy { .. } => 6,
        Command::ReplicaMade { .. } => 7,
        Command::ReplicaGone { .. } => 8,
        Command::Attach { .. } => 9,
        Command::Detach { .. } => 10,
        Command::Activated { .. } => 11,
        Command::Drop { .. } => 12,
        Command::Together { .. } => 13,
        Command::ReplaceUnmade { .. } => 14,
        Command::SyncStart { .. } => 15,
        Command::Add { .. } => 16,
        Command::AddReplica { .. } => 17,
        Command::Leave { .. } => 18,
        Command::SetNodeMode { .. } => 19,
        Command::RemoveNode { .. } => 20,
        Command::SetDiskDraining { .. } => 21,
        Command::PauseJob { .. } => 22,
        Command::RemoveDisk { .. } => 23,
        Command::PauseRebuild { .. } => 24,
        Command::Move { .. } => 25,
        Command::Rebalance { .. } => 26,
        Command::Scrub { .. } => 27,
        Command::Scrubbed { .. } => 28,
        Command::SetVoters { .. } => 29,
        Command::RemoveReplica { .. } => 30,
        Command::ForceInsync { .. } => 31,
        Command::SnapAdd { .. } => 32,
        Command::SnapDel { .. } => 33,
        Command::RaiseVersion { .. } => 34,
        Command::RenameVolume { .. } => 35,
        Command::Mute { .. } => 36,
        Command::Unmute { .. } => 37,
    }
}
pub const KINDS: usize = 38;
