//! Every state that may last, met by every other one, and by the end of the attachment: whichever
//! states meet, when the obstacles are gone all clients are answered, and nothing is held any more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::common::world::World;
use crate::common::{config, record};
use hf_policy::*;
use hf_repl_core::coordinator::{self as co, Change, ClientOp, Input, SyncStage};
use hf_repl_core::timing::DEAD;

/// Three members of which two must be in sync, and a fourth replica that is out.
fn world(mute: &[(u64, &'static str)]) -> World {
    let r = World::with_out(record(3), 4, Ver::ZERO);
    let mute = mute.iter().map(|(r, kind)| (Rid(*r), *kind));
    let mut w = World::muted(r, co::Config { min_replicas: 2, ..config() }, mute);
    // (The fourth is filled when a state asks for it.)
    w.change(|r| _ = r.paused.insert(Rid(4)));
    w.live(100 * MS);
    w
}

fn write(w: &mut World) {
    w.write();
    w.ask(ClientOp::Read { off: 0, len: 8192 });
    w.ask(ClientOp::Flush);
}

/// Brings the fourth in, as far as the messages of these kinds do not hold it up.
fn fill(w: &mut World, mute: &[&'static str]) {
    w.mute(4, mute);
    w.change(|r| _ = r.paused.remove(&Rid(4)));
    w.live(50 * MS);
}

fn scrub(w: &mut World, mute: &[&'static str]) {
    w.rotten.insert(Rid(2));
    w.mute(2, mute);
    w.change(|r| r.scrub = Some(1));
}

/// A state by name, and how a world comes into it.
type State = (&'static str, fn(&mut World));

const STATES: &[State] = &[
    ("writes on their way", |w| {
        w.mute(3, &["Write"]);
        write(w);
    }),
    ("suspended", |w| {
        [2, 3].into_iter().for_each(|r| w.link(r, false));
        write(w);
        w.live(300 * MS);
    }),
    ("no space", |w| {
        w.full = true;
        w.mute(2, &["Reserve"]);
        // (Every credit is told anew.)
        w.live(3_000 * MS);
        write(w);
    }),
    ("no commits", |w| {
        w.raft = false;
        w.link(3, false);
        write(w);
    }),
    ("a lease is missing", |w| {
        w.mute(2, &["Lease"]);
        w.live(2_500 * MS);
        w.ask(ClientOp::Read { off: 0, len: 4096 });
    }),
    ("a member began anew", |w| {
        w.mute(2, &["Seal"]);
        w.reborn(2);
        write(w);
    }),
    ("scrub lists", |w| scrub(w, &["ChunkList"])),
    ("scrub looks", |w| scrub(w, &["Verify"])),
    ("scrub mends under its lock", |w| scrub(w, &["Copy"])),
    ("scrub is held", |w| {
        scrub(w, &["Copy"]);
        w.change(|r| r.scrub_paused = true);
    }),
    ("sync is asked for", |w| {
        w.grants = false;
        fill(w, &[]);
    }),
    ("sync is proposed", |w| {
        w.raft = false;
        fill(w, &[]);
    }),
    ("sync seals", |w| fill(w, &["Seal"])),
    ("sync lists", |w| fill(w, &["ChunkList"])),
    ("sync compares", |w| fill(w, &["ChunkVersions"])),
    ("sync notes", |w| {
        fill(w, &["Seal"]);
        w.mute.clear();
        w.live(1);
        w.mute(4, &["Seal"]);
        w.live(300 * MS);
    }),
    ("sync joins, no commits", |w| {
        fill(w, &["ChunkList"]);
        w.mute.clear();
        w.raft = false;
        w.live(600 * MS);
        write(w);
    }),
    ("a target began anew", |w| {
        fill(w, &["ChunkVersions"]);
        w.reborn(4);
    }),
    ("the fourth is held", |w| w.change(|r| _ = r.paused.insert(Rid(4)))),
    ("a member leaves", |w| w.change(|r| _ = r.leaving.insert(Rid(1)))),
    ("everybody is away", |w| (1..=4).for_each(|r| w.link(r, false))),
];

/// How an attachment begins: it takes over, waits for the record, or serves.
const BEGINS: &[(&str, &[(u64, &str)])] = &[("it seals", &[(2, "Seal")]), ("it serves", &[])];

/// How it goes on: it stays, is asked to end before or after the obstacles are gone, or is over.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Stays,
    StopsBefore,
    StopsAfter,
    Fenced,
}

fn meet(begins: &[(u64, &'static str)], first: &State, second: &State, end: End) -> Result<(), String> {
    let mut w = world(begins);
    (first.1)(&mut w);
    w.live(100 * MS);
    (second.1)(&mut w);
    w.live(700 * MS);
    match end {
        End::StopsBefore => w.step(Input::Stop),
        End::Fenced => w.change(|r| r.session = Some(SessionId(77))),
        End::Stays | End::StopsAfter => {}
    }
    w.live(100 * MS);
    w.lift();
    if end == End::StopsAfter {
        w.step(Input::Stop);
    }
    w.live(40_000 * MS);
    if !w.open.is_empty() {
        return Err(format!("not answered: {:?}, {:?}", w.open, w.c.status()));
    }
    if w.record.scrub.is_some() && end == End::Stays {
        return Err(format!("the scrub has no end: {:?}", w.c.status().scrub));
    }
    w.c.check_released()?;
    let stops = matches!(end, End::StopsBefore | End::StopsAfter);
    if w.drained != u32::from(stops) {
        return Err(format!("drained {} times", w.drained));
    }
    if (w.held || w.asked) && w.c.status().sync.is_none_or(|s| s.stage != SyncStage::Joining) {
        return Err(format!("it keeps a sync's place: {:?}", w.c.status().sync));
    }
    Ok(())
}

#[test]
fn whatever_meets_comes_to_an_end_and_gives_back_what_it_holds() {
    let mut wrong = Vec::new();
    for (name, begins) in BEGINS {
        for first in STATES {
            for second in STATES {
                for end in [End::Stays, End::StopsBefore, End::StopsAfter, End::Fenced] {
                    if let Err(e) = meet(begins, first, second, end) {
                        wrong.push(format!("{name}, {} × {}, {end:?}: {e}", first.0, second.0));
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of them:\n{}",
        wrong.len(),
        wrong.iter().take(40).cloned().collect::<Vec<_>>().join("\n")
    );
}

/// A target whose link is up and that never answers keeps one of two places of its reactor no
/// longer than a member is waited for.
#[test]
fn a_silent_target_gives_its_place_back() {
    let mut w = world(&[]);
    fill(&mut w, &["Seal"]);
    assert!(w.held);
    w.grants = false;
    w.live(2 * DEAD);
    assert!(!w.held, "{:?}", w.c.status().sync);
}

/// ... and so does a sync whose sources are all silent.
#[test]
fn a_sync_without_an_answering_source_gives_its_place_back() {
    let mut w = world(&[]);
    (1..=3).for_each(|r| w.mute(r, &["Write", "ChunkList", "Lease", "Read", "ChunkVersions"]));
    w.write();
    fill(&mut w, &[]);
    assert!(w.held);
    w.grants = false;
    w.live(2 * DEAD);
    assert!(!w.held, "{:?}", w.c.status().sync);
}

/// A scrub that begins while nobody can be asked waits for somebody. (It once waited for answers to
/// no question, for ever.)
#[test]
fn a_scrub_that_begins_while_all_are_away_ends_when_they_are_back() {
    let mut w = World::serving(2, 1);
    [1, 2].into_iter().for_each(|r| w.link(r, false));
    w.change(|r| r.scrub = Some(1));
    w.live(1_000 * MS);
    w.lift();
    w.live(5_000 * MS);
    let report =
        w.changes.iter().find_map(|c| if let Change::Scrubbed { report, .. } = c { Some(*report) } else { None });
    assert_eq!(report.map(|r| (r.chunks, r.skipped)), Some((1, 0)));
}

/// A member that answers for its leases and never for a copy of the scrub's: a client's write waits
/// for the chunk, and not for ever.
#[test]
fn a_scrub_lets_a_chunk_go_that_a_member_does_not_mend() {
    let mut w = World::serving(2, 1);
    scrub(&mut w, &["Copy"]);
    w.live(300 * MS);
    let id = w.write();
    w.live(1_000 * MS);
    assert!(w.open.contains(&id));
    w.live(DEAD);
    assert!(!w.open.contains(&id), "{:?}", w.c.status());
}

/// The target's process begins anew after everything was copied: what was copied may be gone with
/// its storage, so it does not become a member by answering well afterwards. (If the drop of the
/// join was lost, it did.)
#[test]
fn a_target_that_began_anew_before_it_noted_that_it_holds_everything_does_not_join() {
    let mut w = world(&[]);
    fill(&mut w, &["Seal"]);
    w.mute.clear();
    // Sealed and compared; what it is asked to note is lost.
    while w.c.status().sync.is_none_or(|s| s.stage != SyncStage::Joining) {
        w.mute.clear();
        if w.c.status().sync.is_some_and(|s| s.stage == SyncStage::Copying) {
            w.mute(4, &["Seal"]);
        }
        w.live(MS);
    }
    w.raft = false;
    w.reborn(4);
    w.mute.clear();
    w.write();
    w.live(10_000 * MS);
    let joined = w.changes.iter().any(|c| matches!(c, Change::Add { .. }));
    assert!(!joined, "{:?}", w.changes);
    w.lift();
    w.live(20_000 * MS);
    assert!(w.record.in_sync.contains_key(&Rid(4)), "by another attempt");
}

/// ... and one that begins anew while its Add is on its way has to show first that it is what it
/// was.
#[test]
fn a_target_that_began_anew_while_its_join_was_decided_has_to_prove_itself() {
    let mut w = world(&[]);
    fill(&mut w, &["ChunkList"]);
    w.mute.clear();
    while !w.changes.iter().any(|c| matches!(c, Change::Add { .. })) {
        w.raft = w.c.status().sync.is_none_or(|s| s.stage != SyncStage::Joining);
        w.live(MS);
    }
    w.reborn(4);
    w.seals.clear();
    // The commit of the Add comes after all.
    w.raft = true;
    w.change(|r| {
        let o = r.out.remove(&Rid(4)).unwrap();
        r.in_sync.insert(Rid(4), co::MemberInfo { node: o.node, store_uuid: o.store_uuid.unwrap() });
    });
    let asked = w.seals.iter().any(|(rid, held, _)| *rid == Rid(4) && held.term == Term(1));
    assert!(asked, "{:?}", w.seals);
}
