//! The end of an attachment: a stop waits for what its clients were promised, gives back what it
//! holds, and says what it waits for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::world::World;
use crate::common::{config, record};
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, Change, Input};

/// A write is held because too few replicas are in sync. What lets it go is a sync, which must go
/// on though the volume stops.
#[test]
fn a_detach_ends_when_the_replica_that_held_writes_wait_for_is_back() {
    let mut w = World::serving(2, 2);
    w.link(2, false);
    let id = w.write();
    w.live(2_000 * MS);
    assert!(w.record.out.contains_key(&Rid(2)) && w.open.contains(&id), "dropped, and the write is held");
    w.step(Input::Stop);
    w.live(5_000 * MS);
    assert_eq!((w.drained, w.open.len()), (0, 1), "nothing was promised to be there yet");
    w.link(2, true);
    w.live(5_000 * MS);
    assert_eq!((w.drained, &w.replies[&id]), (1, &Ok(co::ClientReply::Done)));
    assert!(w.record.in_sync.contains_key(&Rid(2)) && !w.held && !w.asked);
}

/// ... also if the policy asks for fewer instead.
#[test]
fn a_detach_ends_when_fewer_replicas_are_asked_for() {
    let mut w = World::serving(2, 2);
    w.link(2, false);
    w.write();
    w.live(2_000 * MS);
    w.step(Input::Stop);
    let attrs = hf_policy::policy::parse_pairs(["size=1GiB", "replicas=2", "min_replicas=1"]).unwrap();
    w.c.set_policy(&Policy::from_attrs(&attrs).unwrap());
    w.change(|_| ());
    assert_eq!(w.drained, 1);
}

/// A place that was asked for is given back, wherever the question is: not answered yet, answered
/// now, or answered later.
#[test]
fn a_stop_gives_back_the_place_of_a_sync() {
    for granted in [false, true] {
        let r = World::with_out(record(2), 3, Ver::ZERO);
        let mut w = World::muted(r, config(), [(Rid(3), "Seal")]);
        w.grants = granted;
        w.live(500 * MS);
        assert!(if granted { w.held } else { w.asked });
        w.step(Input::Stop);
        assert!(!w.held && !w.asked && w.drained == 1, "granted before: {granted}");
        // The answer was on its way.
        w.held = true;
        w.step(Input::SyncGo);
        assert!(!w.held, "granted before: {granted}");
        w.grants = true;
        w.live(30_000 * MS);
        assert!(!w.held && !w.asked, "a volume that has stopped begins nothing anew");
    }
}

/// A place that comes after the attachment has ended is given back too.
#[test]
fn a_fenced_attachment_gives_back_the_place_of_a_sync() {
    let mut w = World::new(World::with_out(record(2), 3, Ver::ZERO), config());
    w.grants = false;
    w.live(500 * MS);
    w.change(|r| r.session = Some(SessionId(99)));
    assert!(w.fenced && !w.asked);
    w.held = true;
    w.step(Input::SyncGo);
    assert!(!w.held);
    w.step(Input::Stop);
    assert_eq!(w.drained, 1, "nothing is outstanding there either");
}

/// A scrub ends with the attachment, and the lock of the chunk that it was at is free for a
/// client's write at once.
#[test]
fn a_stop_frees_the_chunk_that_a_scrub_holds() {
    let mut w = World::serving(2, 1);
    w.rotten.insert(Rid(2));
    w.mute(2, &["Copy"]);
    w.change(|r| r.scrub = Some(1));
    w.live(300 * MS);
    let id = w.write();
    w.live(100 * MS);
    assert!(w.open.contains(&id), "the scrub mends what the write is to replace");
    w.step(Input::Stop);
    w.live(100 * MS);
    assert_eq!((w.drained, w.open.len()), (1, 0));
}

/// What is waited for is said, for people.
#[test]
fn a_stop_says_what_it_waits_for() {
    let waits = |w: &World| w.c.status().draining.map(|d| (d.requests, d.waits_for));
    let mut w = World::serving(2, 2);
    assert_eq!(waits(&w), None);
    w.link(2, false);
    w.write();
    w.live(2_000 * MS);
    w.step(Input::Stop);
    let short = co::WaitsFor::Replicas { in_sync: 1, needed: 2 };
    assert_eq!(waits(&w), Some((1, short)));
    assert_eq!(short.to_string(), "writes wait for replicas: 1 in sync, 2 needed");
    w.link(2, true);
    w.live(5_000 * MS);
    assert_eq!(waits(&w), None, "drained");

    let mut w = World::muted(record(2), config(), [(Rid(1), "Seal"), (Rid(2), "Seal")]);
    w.write();
    w.step(Input::Stop);
    assert_eq!(waits(&w), Some((1, co::WaitsFor::TakeOver)));

    let mut w = World::serving(1, 1);
    w.mute(1, &["Write"]);
    w.write();
    w.step(Input::Stop);
    assert_eq!(waits(&w), Some((1, co::WaitsFor::Answers)));
}

/// A take-over was cut short when one of two equal members had noted that. No client was ever told
/// anything in that term, so the other member, which was not told in time, lacks nothing: it must
/// not be held against it, neither its storage's identity nor its base.
#[test]
fn a_term_that_was_never_served_is_not_held_against_a_member() {
    let cut_short = co::Record { term: Term(3), activated: Term(1), served: false, ..record(2) };
    let noted = [(Rid(1), Ver::new(2, 0)), (Rid(2), Ver::new(1, 57))];
    let mut w = World::begin(cut_short, config(), [(Rid(2), "Seal")], noted);
    w.live(3_000 * MS);
    let base = w.record.out[&Rid(2)].base;
    assert_eq!(base, Ver::new(1, 0), "everything that was acknowledged is of term 1, and term 1 was begun with it");
    w.seals.clear();
    w.mute.clear();
    w.live(3_000 * MS);
    let held: Vec<Ver> = w.seals.iter().filter(|(rid, ..)| *rid == Rid(2)).map(|(_, held, _)| *held).collect();
    assert!(!held.is_empty() && held.iter().all(|h| h.term <= Term(1)), "{held:?}");
    assert!(w.record.in_sync.contains_key(&Rid(2)));
}

/// The same in the middle of the comparison.
#[test]
fn nor_is_it_when_the_member_goes_while_all_are_compared() {
    let cut_short = co::Record { term: Term(3), activated: Term(1), served: false, ..record(2) };
    let noted = [(Rid(1), Ver::new(2, 0)), (Rid(2), Ver::new(1, 57))];
    let mut w = World::begin(cut_short, config(), [(Rid(2), "ChunkList")], noted);
    w.live(3_000 * MS);
    let drops: Vec<Ver> = w.changes.iter().filter_map(base_of).collect();
    assert!(!drops.is_empty() && drops.iter().all(|b| *b == Ver::new(1, 0)), "{drops:?}");
}

fn base_of(c: &Change) -> Option<Ver> {
    if let Change::Drop { base, .. } = c { Some(*base) } else { None }
}
