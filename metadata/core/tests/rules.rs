//! Rules that the record itself keeps. No replica or coordinator could notice that one of them is broken, so the
//! transcripts of `replication/core` cannot show them. Each is asserted here; with the feature `mutants` the rule is
//! broken, and its assertion must fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::world::World;
use hf_meta_core::command::{COMMAND_VERSION, ShardChange, ShardStep};
use hf_meta_core::record::{DiskState, ReplicaRecord, ReplicaState};
use hf_meta_core::{Command, Envelope, plan};
use hf_policy::policy::parse_pairs;
use hf_policy::*;

/// Three replicas, of which #3 was dropped with a base.
fn one_is_out() -> (World, VolumeId, Vec<Rid>) {
    let mut w = World::new(1, 3);
    let vol = w.volume("v", "size=1GiB replicas=3 min_replicas=1");
    attach(&mut w, vol, 11);
    let v = w.s.volumes[&vol].clone();
    let rids: Vec<Rid> = v.shards[0].replicas.keys().copied().collect();
    let base = Ver { term: v.term, seq: Seq(40) };
    let (epoch, term) = (v.epoch, v.term);
    w.run(Command::Drop {
        vol,
        shard: 0,
        epoch,
        term,
        rids: vec![rids[2]],
        base,
        told: Default::default(),
        reasons: Default::default(),
    })
    .unwrap();
    assert_eq!(replica(&w, vol, rids[2]).state, ReplicaState::Out { base });
    (w, vol, rids)
}

fn attach(w: &mut World, vol: VolumeId, session: u128) -> Term {
    let v = w.s.volumes[&vol].clone();
    let node = v.replicas().next().unwrap().1.node;
    let session = SessionId(session);
    w.run(Command::Attach { vol, epoch: v.epoch, node, session, steal: true, maintenance: false }).unwrap();
    w.s.volumes[&vol].term
}

fn replica(w: &World, vol: VolumeId, rid: Rid) -> ReplicaRecord {
    w.s.volumes[&vol].shards[0].replicas[&rid].clone()
}

/// Storage that was made anew holds nothing, whatever its replica's base was (I12).
fn wiped_storage_has_no_base() -> bool {
    let (mut w, vol, rids) = one_is_out();
    w.run(Command::ReplicaMade { vol, rid: rids[2], store_uuid: StoreUuid(99) }).unwrap();
    let r = replica(&w, vol, rids[2]);
    assert_eq!(r.store_uuid, Some(StoreUuid(99)));
    r.state == ReplicaState::Out { base: Ver::ZERO }
}

/// Each attachment is a term of its own (I1).
fn each_attachment_has_its_own_term() -> bool {
    let (mut w, vol, _) = one_is_out();
    let first = w.s.volumes[&vol].term;
    attach(&mut w, vol, 12) > first
}

/// A base belongs to a history: when an operator begins another one, all replicas but the chosen one have base 0.
fn another_history_knows_no_base() -> bool {
    let (mut w, vol, rids) = one_is_out();
    let (epoch, before) = (w.s.volumes[&vol].epoch, w.s.volumes[&vol].lineage);
    let (lineage, operator, reason) = (Lineage(77), "test".to_owned(), "lost".to_owned());
    w.run(Command::ForceInsync { vol, shard: 0, epoch, rid: rids[1], lineage, operator, reason }).unwrap();
    assert!(before != lineage && w.s.volumes[&vol].lineage == lineage);
    assert!(replica(&w, vol, rids[1]).in_sync());
    [rids[0], rids[2]].iter().all(|r| replica(&w, vol, *r).state == ReplicaState::Out { base: Ver::ZERO })
}

/// A volume that is attached and has grown by a second shard, which is still to be made.
fn grown() -> (World, VolumeId) {
    let mut w = World::new(1, 4);
    let vol = w.volume("v", "size=64GiB replicas=3 min_replicas=1");
    attach(&mut w, vol, 11);
    let change = parse_pairs(["size=128GiB"]).unwrap();
    let v = w.s.volumes[&vol].clone();
    let new_shards = plan::set_policy(&w.s, &w.live, &v, &change, 5).unwrap();
    w.run(Command::SetPolicy { vol, epoch: v.epoch, change, new_shards }).unwrap();
    (w, vol)
}

/// A shard that is still to be made is no part of the volume: it has no coordinator, and an attach does not
/// wait for it.
fn what_is_not_made_is_no_part() -> bool {
    let (w, vol) = grown();
    w.s.volumes[&vol].made_size() == SHARD_BYTES
}

/// A shard that began in a term is not known to have been served before, whatever was recorded meanwhile: its
/// replicas promised nothing.
fn a_new_shard_was_served_in_no_earlier_term() -> bool {
    let (mut w, vol) = grown();
    let term = attach(&mut w, vol, 12);
    w.run(Command::Activated { vol, term }).unwrap();
    w.agents();
    w.s.volumes[&vol].served_term(1) == Term(0) && w.s.volumes[&vol].served_term(0) == term
}

/// A replica that its node cannot make is made elsewhere, or the volume would never have its size.
fn what_cannot_be_made_is_made_elsewhere() -> bool {
    let (mut w, vol) = grown();
    w.full.insert(w.s.volumes[&vol].shards[1].replicas.values().next().unwrap().disk);
    w.settle();
    w.s.volumes[&vol].made_size() == 2 * SHARD_BYTES
}

/// A member of a shard that is served holds acknowledged writes: it is never replaced by one that holds nothing (I4).
fn what_is_served_is_not_replaced() -> bool {
    let (mut w, vol, rids) = one_is_out();
    let epoch = w.s.volumes[&vol].epoch;
    w.run(Command::ReplaceUnmade { vol, shard: 0, epoch, rid: rids[0], disk: None });
    replica(&w, vol, rids[0]).in_sync()
}

/// In a command with changes of several shards, each change is decided by itself.
fn a_refused_change_stops_no_other() -> bool {
    let (mut w, vol) = grown();
    w.agents();
    let v = w.s.volumes[&vol].clone();
    let all = |i: usize| v.shards[i].in_sync().into_iter().collect::<Vec<_>>();
    let drop = |shard, rids| ShardChange {
        shard,
        what: ShardStep::Drop { rids, base: Ver::ZERO, told: Default::default(), reasons: Default::default() },
    };
    let changes = vec![drop(0, all(0)), drop(1, all(1)[..1].to_vec())];
    w.run(Command::Together { vol, epoch: v.epoch, term: v.term, changes });
    w.s.volumes[&vol].shards[1].in_sync().len() == 2
}

/// In a command with changes of several shards, none empties an in-sync set (hazard 3).
fn no_change_of_several_empties_a_set() -> bool {
    let (mut w, vol) = grown();
    let v = w.s.volumes[&vol].clone();
    let rids: Vec<Rid> = v.shards[0].in_sync().into_iter().collect();
    let what = ShardStep::Drop { rids, base: Ver::ZERO, told: Default::default(), reasons: Default::default() };
    let cmd = Command::Together { vol, epoch: v.epoch, term: v.term, changes: vec![ShardChange { shard: 0, what }] };
    let env = Envelope { v: COMMAND_VERSION, request: RequestId(99_999), at_ms: 0, cmd };
    w.s.apply(&env).is_err() && w.s.check().is_ok()
}

/// Requests stay exactly-once however many others are refused meanwhile.
fn refusals_push_nothing_out() -> bool {
    let (mut w, vol, _) = one_is_out();
    let stale = Command::Leave { vol, shard: 0, epoch: Epoch(1), rid: Rid(1) };
    let before = w.s.requests.len();
    w.run(stale);
    w.s.requests.len() == before
}

/// A disk that has failed stays failed, whatever older report arrives later.
fn a_failed_disk_does_not_get_better_by_itself() -> bool {
    let (mut w, _, _) = one_is_out();
    let (disk, why) = (DiskId(1), String::from("x"));
    w.run(Command::SetDiskState { disk, state: DiskState::Failed(why.clone()), fault: None }).unwrap();
    w.run(Command::SetDiskState { disk, state: DiskState::Failing(why.clone()), fault: None }).unwrap();
    let stays = w.s.disks[&disk].state == DiskState::Failed(why);
    w.run(Command::SetDiskState { disk, state: DiskState::Ok, fault: None }).unwrap();
    stays && w.s.disks[&disk].state == DiskState::Ok
}

#[test]
fn the_record_keeps_its_rules() {
    assert!(what_is_not_made_is_no_part());
    assert!(a_new_shard_was_served_in_no_earlier_term());
    assert!(what_cannot_be_made_is_made_elsewhere());
    assert!(what_is_served_is_not_replaced());
    assert!(a_refused_change_stops_no_other());
    assert!(no_change_of_several_empties_a_set());
    assert!(refusals_push_nothing_out());
    assert!(a_failed_disk_does_not_get_better_by_itself());
    assert!(wiped_storage_has_no_base());
    assert!(each_attachment_has_its_own_term());
    assert!(another_history_knows_no_base());
}

#[cfg(feature = "mutants")]
#[test]
fn a_broken_rule_of_the_record_shows() {
    use hf_meta_core::mutant::{self, Mutant};
    let broken = |m, rule: fn() -> bool| {
        mutant::set(Some(m));
        let kept = rule();
        mutant::set(None);
        assert!(!kept, "{m:?} is not noticed");
    };
    broken(Mutant::WipedKeepsBase, wiped_storage_has_no_base);
    broken(Mutant::AttachKeepsTerm, each_attachment_has_its_own_term);
    broken(Mutant::ForceKeepsBase, another_history_knows_no_base);
    broken(Mutant::PartBeforeMade, what_is_not_made_is_no_part);
    broken(Mutant::PartSinceAsked, a_new_shard_was_served_in_no_earlier_term);
    broken(Mutant::UnmadeStays, what_cannot_be_made_is_made_elsewhere);
    broken(Mutant::ReplacesServed, what_is_served_is_not_replaced);
    broken(Mutant::TogetherStopsAtRefusal, a_refused_change_stops_no_other);
    broken(Mutant::TogetherDropsLast, no_change_of_several_empties_a_set);
    broken(Mutant::KeepsRefusals, refusals_push_nothing_out);
    broken(Mutant::FailingForgetsFailed, a_failed_disk_does_not_get_better_by_itself);
    the_record_keeps_its_rules();
}
