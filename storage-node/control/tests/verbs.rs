//! What holds of every verb: it is done once for a request, whatever the leader does meanwhile, changes nothing if it
//! is only tried, and asks nobody for what its caller may not do. Refusals of single verbs are in `refusals`.

use crate::rows::{Row, rows};
use crate::world::*;
use hf_control::access::{Role, Verb};
use hf_control::error::Code;
use hf_control::verbs::Call;
use hf_policy::RequestId;
use serde_json::Value;

fn each(see: impl Fn(&Row)) {
    for row in rows() {
        println!("{}", row.name);
        see(&row);
    }
}

fn message(v: &Value) -> &str {
    v["message"].as_str().unwrap()
}

#[test]
fn every_verb_that_changes_something_has_a_row() {
    let all = rows();
    for v in Verb::ALL.iter().filter(|v| v.least() > Role::Viewer) {
        // A cluster is founded and joined by the daemon itself, before there is a record.
        let by_daemon = matches!(v, Verb::ClusterInit | Verb::ClusterJoin);
        assert_eq!(all.iter().any(|r| r.verb == *v), !by_daemon, "{}", v.word());
    }
}

#[test]
fn each_is_done_and_says_what_it_did() {
    each(|row| {
        let p = row.world();
        let before = p.state();
        let said = (row.ask)(&p, &call(1)).unwrap();
        assert!(!message(&said).is_empty(), "{said}");
        assert!(said.get("done").is_none_or(|d| d == true), "{said}");
        assert!(p.state().revision > before.revision);
        let i = p.inner();
        assert_eq!((i.proposed.len(), i.asked.len()), if row.on_node { (0, 1) } else { (1, 0) });
        // What the answer calls its revision has the change.
        let revision = said["revision"].as_u64().unwrap();
        assert!(revision > before.revision && revision <= i.state.revision, "{said}");
    });
}

#[test]
fn each_changes_nothing_when_it_is_only_tried() {
    each(|row| {
        let p = row.world();
        let before = p.state();
        let tried = (row.ask)(&p, &Call { dry_run: true, ..call(1) });
        assert!(p.is_untouched());
        assert_eq!(p.state(), before);
        if row.name == "disk add" {
            assert_eq!(tried.unwrap_err().code, Code::Invalid, "it shows only when it is formatted");
            return;
        }
        let tried = tried.unwrap();
        assert_eq!(tried["dry_run"], true, "{tried}");
        assert!(tried.get("volume").is_none());
        // Nobody takes the answer for one to a change.
        let done = (row.ask)(&p, &call(1)).unwrap();
        assert_ne!(message(&tried), message(&done));
        assert!(!message(&tried).is_empty());
    });
}

#[test]
fn each_is_done_once_for_a_request_that_is_repeated() {
    each(|row| {
        let p = row.world();
        let first = (row.ask)(&p, &call(1)).unwrap();
        let (after, began) = (p.state(), p.inner().now_ms);
        if row.name == "disk add" {
            return; // Lawful: it has no request of its own; its node refuses a disk that it has.
        }
        let again = (row.ask)(&p, &call(1)).unwrap();
        assert_eq!(p.state(), after, "it was done twice");
        assert_eq!(again["done"], first["done"], "{again}");
        assert!(!message(&again).is_empty());
        assert!(p.inner().now_ms - began < 1_000, "it waits for what has been there for long: {again}");
    });
}

#[test]
fn each_is_done_once_though_the_leader_died_before_it_answered() {
    each(|row| {
        if row.on_node {
            return; // Lawful: the node proposes it.
        }
        let (p, q) = (row.world(), row.world());
        let plain = (row.ask)(&q, &call(1)).unwrap();
        p.inner().fates.push_back(Fate::Lost);
        let lost = (row.ask)(&p, &call(1)).unwrap_err();
        assert_eq!(lost.code, Code::NotInTime);
        assert!(lost.next.contains("Idempotency-Key"));
        let began = p.inner().now_ms;
        let again = (row.ask)(&p, &call(1)).unwrap();
        assert_eq!(again["done"], plain["done"], "{again}");
        assert!(!message(&again).is_empty());
        assert!(p.inner().now_ms - began < 1_000);
        assert_eq!(p.state().requests.len(), 1);
        assert_eq!(p.state().revision, q.state().revision, "it was done twice");
    });
}

#[test]
fn each_is_done_when_it_is_repeated_after_a_leader_that_did_not_do_it() {
    each(|row| {
        if row.on_node {
            return; // Lawful: the node proposes it.
        }
        for fate in [Fate::Dropped, Fate::NoLeader] {
            let p = row.world();
            let before = p.state();
            let code = if matches!(fate, Fate::Dropped) { Code::NotInTime } else { Code::NoLeader };
            p.inner().fates.push_back(fate);
            assert_eq!((row.ask)(&p, &call(1)).unwrap_err().code, code);
            assert_eq!(p.state(), before);
            assert!((row.ask)(&p, &call(1)).is_ok());
            assert!(p.state().revision > before.revision);
        }
    });
}

#[test]
fn each_is_not_called_done_while_it_does_not_show_here() {
    each(|row| {
        if row.on_node {
            return; // Lawful: the node proposes it.
        }
        let p = row.world();
        // The leader is gone after its answer, and with it the news.
        p.inner().fates.push_back(Fate::After(Box::new(|i| i.leader = false)));
        let said = (row.ask)(&p, &call(1)).unwrap();
        assert_eq!(said["done"], false, "{said}");
        assert!(said["waiting_for"].as_str().unwrap().contains("does not show"), "{said}");
        assert!((10_000..11_000).contains(&p.inner().now_ms));
        p.inner().leader = true;
        assert_eq!((row.ask)(&p, &call(1)).unwrap()["done"], true);
    });
}

#[test]
fn each_refuses_a_key_that_was_used_for_something_else() {
    each(|row| {
        let p = row.world();
        let used = RequestId(9 << 32 | 1);
        let cmd = hf_meta_core::Command::SetVoters { voters: 3 };
        assert!(block_on(hf_control::ports::Ports::propose(&p, used, cmd)).is_ok());
        let before = p.state();
        let other = Call { request: RequestId(9 << 32 | 2), ..call(9) };
        for dry_run in [false, true] {
            if row.name == "disk add" && dry_run {
                continue;
            }
            let refused = (row.ask)(&p, &Call { dry_run, ..other.clone() }).unwrap_err();
            assert_eq!(refused.code, Code::KeyReused, "{refused}");
        }
        assert_eq!(p.state(), before);
        assert!(p.inner().asked.is_empty());
    });
}

#[test]
fn each_says_within_two_seconds_that_nobody_leads() {
    each(|row| {
        let p = row.world();
        p.inner().leader = false;
        let refused = (row.ask)(&p, &call(1)).unwrap_err();
        assert_eq!(refused.code, Code::NoLeader, "{refused}");
        assert!(!refused.next.is_empty(), "{refused}");
        assert_eq!(refused.retry_after_seconds, Some(1));
        assert!(p.is_untouched());
        let waited = p.inner().now_ms;
        assert!((1_000..=2_100).contains(&waited), "a leader that is elected meanwhile has a chance: {waited}");
    });
}

#[test]
fn each_refuses_a_caller_of_a_lesser_role_before_anything_else() {
    each(|row| {
        for leader in [true, false] {
            let p = row.world();
            p.inner().leader = leader;
            for role in [Role::Viewer, Role::Tenant, Role::Operator].into_iter().filter(|r| *r < row.verb.least()) {
                let refused = (row.ask)(&p, &Call { caller: caller(role), ..call(1) }).unwrap_err();
                assert_eq!(refused.code, Code::Forbidden, "{role:?}: {refused}");
                assert!(refused.what.contains("eva") && refused.what.contains(row.verb.word()), "{refused}");
            }
            assert!(p.is_untouched());
            assert_eq!(p.inner().now_ms, 0);
        }
        let p = row.world();
        assert!((row.ask)(&p, &Call { caller: caller(row.verb.least()), ..call(1) }).is_ok());
    });
}

#[test]
fn each_of_a_volume_refuses_another_epoch_and_another_id() {
    each(|row| {
        let p = row.world();
        let now = p.state().volume_named("web").map(|v| (v.id.0, v.epoch.0));
        let (Some((id, epoch)), true) = (now, row.web) else { return };
        for wrong in [
            Call { if_epoch: Some(epoch - 1), ..call(1) },
            Call { if_epoch: Some(epoch + 1), ..call(1) },
            Call { id: Some(id + 1), ..call(1) },
        ] {
            for dry_run in [true, false] {
                let refused = (row.ask)(&p, &Call { dry_run, ..wrong.clone() }).unwrap_err();
                assert_eq!((refused.code, refused.status), (Code::EpochMismatch, 412), "{refused}");
                assert_eq!(refused.subject.as_deref(), Some("volume/web"));
            }
        }
        assert!(p.is_untouched());
        let right = Call { if_epoch: Some(epoch), id: Some(id), ..call(1) };
        let first = (row.ask)(&p, &right).unwrap();
        // The same request once more: the epoch is another one because of itself.
        let after = p.state();
        let again = (row.ask)(&p, &right);
        if row.name == "volume detach" {
            return; // Lawful: it has no outcome of its own on record.
        }
        assert_eq!(again.unwrap()["done"], first["done"]);
        assert_eq!(p.state(), after);
    });
}

#[test]
fn each_of_a_volume_is_decided_anew_when_somebody_was_quicker() {
    each(|row| {
        if !row.web || row.on_node {
            return;
        }
        let p = row.world();
        for _ in 0..5 {
            p.inner().fates.push_back(Fate::After(Box::new(|i| touch(&mut i.state, "web"))));
        }
        let said = (row.ask)(&p, &call(1)).unwrap();
        assert_eq!(p.inner().proposed.len(), 6, "{said}");
        let requests: std::collections::BTreeSet<_> = p.inner().proposed.iter().map(|(r, _)| *r).collect();
        assert_eq!(requests.len(), 1, "all attempts share the request");
        // With an epoch of the caller's it is not: the caller decides again.
        let p = row.world();
        let epoch = p.state().volume_named("web").unwrap().epoch.0;
        p.inner().fates.push_back(Fate::After(Box::new(|i| touch(&mut i.state, "web"))));
        let refused = (row.ask)(&p, &Call { if_epoch: Some(epoch), ..call(1) }).unwrap_err();
        assert_eq!(refused.code, Code::EpochMismatch);
    });
}

#[test]
fn each_of_a_volume_gives_up_when_it_is_overtaken_for_too_long() {
    each(|row| {
        if !row.web || row.on_node {
            return;
        }
        let p = row.world();
        for _ in 0..2_000 {
            p.inner().fates.push_back(Fate::After(Box::new(|i| {
                i.now_ms += 100;
                touch(&mut i.state, "web");
            })));
        }
        let refused = (row.ask)(&p, &call(1)).unwrap_err();
        assert_eq!((refused.code, refused.retry_after_seconds), (Code::Busy, Some(1)));
        assert!((10_000..12_000).contains(&p.inner().now_ms));
    });
}
