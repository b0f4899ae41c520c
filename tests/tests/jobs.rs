//! Jobs on real daemons: each can be held, let go on and given up by its name, from any node, and says where it stands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, until};
use hf_tests::http;
use hf_tests::nbd::Nbd;
use serde_json::Value;

/// The job of this name, as the list shows it.
fn job(c: &Cluster, id: &str) -> Result<Value, String> {
    let all = c.items(&["job", "list"])?;
    all.iter().find(|j| j["id"] == id).cloned().ok_or_else(|| format!("no job {id}: {all:?}"))
}

/// A job is in this state, and says this of what happens.
fn says(c: &Cluster, id: &str, state: &str, message: &str) {
    until(&format!("{id} to be {state} and say {message}"), || {
        let j = job(c, id)?;
        if j["state"] == state && j["message"] == message { Ok(()) } else { Err(j.to_string()) }
    });
}

/// The replica of a volume on a node: its number, and whether it is in sync.
fn replica(c: &Cluster, volume: &str, node: u64) -> (u64, bool) {
    let v = c.volume(volume);
    let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
    let r = all.values().find(|r| r["node"] == node).unwrap();
    (r["rid"].as_u64().unwrap(), r["state"] == "in_sync")
}

fn comes_back(c: &Cluster, volume: &str, node: u64) {
    until(&format!("{volume} to be in sync"), || match replica(c, volume, node) {
        (_, true) => Ok(()),
        (_, false) => Err(c.ok(&["job", "list"])),
    });
}

fn with_data(c: &Cluster, name: &str, mib: u64) -> Nbd {
    c.ok(&["volume", "create", name, "size=64MiB"]);
    c.ok(&["volume", "attach", name, "--node", "n1"]);
    let mut nbd = Nbd::connect(&c.nodes[0].nbd, name).unwrap();
    fill(&mut nbd, mib, 1);
    nbd
}

fn fill(nbd: &mut Nbd, mib: u64, tag: u8) {
    (0..mib).for_each(|i| nbd.write(i << 20, &vec![i as u8 ^ tag; 1 << 20]).unwrap());
}

#[test]
fn jobs_are_held_and_go_on_by_name() {
    let mut c = Cluster::new(3);
    let mut held = with_data(&c, "held", 16);
    let mut free = with_data(&c, "free", 16);
    // A replica that is out: held, it stays out, while another volume's comes back to the same disk.
    c.nodes[2].kill();
    fill(&mut held, 16, 2);
    fill(&mut free, 16, 2);
    let (rid, in_sync) = replica(&c, "held", 3);
    assert!(!in_sync);
    let id = format!("replica/{rid}");
    assert!(c.ok(&["job", "pause", &id]).contains("is held"));
    c.nodes[2].start();
    comes_back(&c, "free", 3);
    assert_eq!(replica(&c, "held", 3), (rid, false));
    says(&c, &id, "held", "is held");
    assert!(c.ok(&["job", "resume", &id]).contains("goes on"));
    comes_back(&c, "held", 3);
    let e = c.cli(&["job", "pause", &id]).unwrap_err();
    assert!(e.starts_with("[4]") && e.contains("nothing of its own goes on"), "{e}");

    scrubs(&c, &mut held);

    // A drain that has nowhere to go goes on until it is given up.
    c.ok(&["node", "drain", "n2"]);
    let drained = "is being drained: 2 replicas left";
    says(&c, "node/n2", "running", drained);
    c.ok(&["job", "pause", "node/n2"]);
    says(&c, "node/n2", "held", drained);
    c.ok(&["job", "resume", "node/n2"]);
    says(&c, "node/n2", "running", drained);
    c.ok(&["job", "cancel", "node/n2"]);
    assert!(job(&c, "node/n2").is_err());

    for (wrong, code, why) in [
        ("nonsense", "[2]", "names no job"),
        ("replica/x", "[2]", "names no job"),
        ("rebalance", "[4]", "no rebalancing goes on"),
        ("scrub/free", "[4]", "is not being scrubbed"),
        ("scrub/none", "[3]", "no volume none"),
        ("node/n1", "[4]", "is not being drained"),
        ("disk/77", "[3]", "no disk 77"),
    ] {
        let e = c.cli(&["job", "pause", wrong]).unwrap_err();
        assert!(e.starts_with(code) && e.contains(why), "{wrong}: {e}");
    }
}

/// Held, a scrub is not through although one that began later is; given up, it has no result.
fn scrubs(c: &Cluster, held: &mut Nbd) {
    until("a scrub that is held before it is over", || {
        c.cli(&["volume", "scrub", "held"])?;
        c.cli(&["job", "pause", "scrub/held"])
    });
    says(c, "scrub/held", "held", "is being scrubbed");
    c.ok(&["volume", "scrub", "free"]);
    until(
        "the other scrub",
        || {
            if c.volume("free")["scrubbed"].is_null() { Err(c.ok(&["job", "list"])) } else { Ok(()) }
        },
    );
    let before = c.volume("held")["scrubbed"].clone();
    assert!(!c.volume("held")["scrub"].is_null(), "a held scrub came to its end");
    c.ok(&["job", "resume", "scrub/held"]);
    until("the scrub that was held", || {
        let v = c.volume("held");
        if v["scrub"].is_null() && v["scrubbed"] != before { Ok(()) } else { Err(c.ok(&["job", "list"])) }
    });

    // One that is given up has no result; the next one is another.
    until("a scrub that is held before it is over", || {
        c.cli(&["volume", "scrub", "held"])?;
        c.cli(&["job", "pause", "scrub/held"])
    });
    let before_it = c.volume("held")["scrubbed"].clone();
    c.ok(&["job", "cancel", "scrub/held"]);
    let v = c.volume("held");
    assert!(v["scrub"].is_null() && v["scrubbed"] == before_it && job(c, "scrub/held").is_err(), "{v}");
    assert!(held.read(5 << 20, 4096).unwrap() == vec![5 ^ 2; 4096]);
    let e = c.cli(&["job", "cancel", "scrub/held"]).unwrap_err();
    assert!(e.starts_with("[3]") && e.contains("no job scrub/held"), "{e}");
    c.ok(&["volume", "scrub", "held"]);
    until("the scrub after it", || {
        let v = c.volume("held");
        if v["scrub"].is_null() && v["scrubbed"] != before_it { Ok(()) } else { Err(c.ok(&["job", "list"])) }
    });
}

/// What holds for the whole cluster is known on nodes that only follow.
#[test]
fn a_node_without_a_vote_knows_what_is_held() {
    let c = Cluster::new(4);
    let follower = until("a node without a vote", || {
        let s = c.status()?;
        let voters: Vec<u64> = s["voters"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
        let found = s["nodes"].as_object().unwrap().values().find(|n| !voters.contains(&n["id"].as_u64().unwrap()));
        let name = found.and_then(|n| n["name"].as_str()).ok_or(format!("voters {voters:?}"))?.to_string();
        if voters.len() == 3 { Ok(name) } else { Err(format!("voters {voters:?}")) }
    });
    let node = c.nodes.iter().find(|n| n.name == follower).unwrap();
    let there = |what: bool| {
        until("the follower to know", || {
            // What it knows itself, whatever the leader would say.
            let s = http::get(&node.http, "/v1/cluster?consistency=local")?.good()?;
            if s["rebuild_paused"] == what { Ok(()) } else { Err(s.to_string()) }
        });
    };
    there(false);
    c.ok(&["job", "pause"]);
    there(true);
    c.ok(&["job", "resume"]);
    there(false);
}
