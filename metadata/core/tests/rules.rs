//! Rules that the record itself keeps: no replica or coordinator could notice that one is broken, so the transcripts of
//! `replication/core` cannot show them. Each is asserted here, and with the feature `mutants` each assertion fails where its rule is broken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod world;

use hf_meta_core::Command;
use hf_meta_core::record::{ReplicaRecord, ReplicaState};
use hf_policy::*;
use world::World;

/// Three replicas, of which #3 was dropped with a base.
fn one_is_out() -> (World, VolumeId, Vec<Rid>) {
    let mut w = World::new(1, 3);
    let vol = w.volume("v", "size=1GiB replicas=3 min_replicas=1");
    attach(&mut w, vol, 11);
    let v = w.s.volumes[&vol].clone();
    let rids: Vec<Rid> = v.shards[0].replicas.keys().copied().collect();
    let base = Ver { term: v.term, seq: Seq(40) };
    let (epoch, term) = (v.epoch, v.term);
    w.run(Command::Drop { vol, shard: 0, epoch, term, rids: vec![rids[2]], base, told: Default::default() }).unwrap();
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

/// Bases are of a history: where an operator begins another one, nobody but who was declared the truth has any.
fn another_history_knows_no_base() -> bool {
    let (mut w, vol, rids) = one_is_out();
    let (epoch, before) = (w.s.volumes[&vol].epoch, w.s.volumes[&vol].lineage);
    let (lineage, operator, reason) = (Lineage(77), "test".to_owned(), "lost".to_owned());
    w.run(Command::ForceInsync { vol, shard: 0, epoch, rid: rids[1], lineage, operator, reason }).unwrap();
    assert!(before != lineage && w.s.volumes[&vol].lineage == lineage);
    assert!(replica(&w, vol, rids[1]).in_sync());
    [rids[0], rids[2]].iter().all(|r| replica(&w, vol, *r).state == ReplicaState::Out { base: Ver::ZERO })
}

#[test]
fn the_record_keeps_its_rules() {
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
    the_record_keeps_its_rules();
}
