//! An operator's day on five daemons with two disks each, by the command line: draining, moving,
//! removing, rebalancing and replacing, with progress and cancelling, under users and while the
//! metadata leader dies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, binary, until};
use hf_tests::nbd::Nbd;
use hf_tests::status;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const VOLUMES: usize = 4;
const MIB: u64 = 24;
const REBALANCE: &str = "rebalance/cluster";

/// Five nodes of two disks each.
fn five() -> Cluster {
    Cluster::prepared(5, |n| {
        n.second_disk("512MiB");
    })
}

/// Reads and writes one volume until told to stop. It must read what it wrote, and nothing may
/// fail.
struct User {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

fn piece(volume: usize, at: u64, round: u64) -> Vec<u8> {
    let word = (volume as u64) << 48 | at << 24 | round;
    word.to_le_bytes().repeat(512)
}

impl User {
    fn new(mut nbd: Nbd, volume: usize) -> User {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut rounds = 0;
            while !told.load(Ordering::Relaxed) {
                let at = rounds * 37 % (MIB * 256);
                nbd.write(at * 4096, &piece(volume, at, rounds)).unwrap();
                assert!(nbd.read(at * 4096, 4096).unwrap() == piece(volume, at, rounds), "volume {volume}, block {at}");
                rounds += 1;
            }
            rounds
        });
        User { stop, thread: Some(thread) }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn replicas(s: &Value) -> Vec<Value> {
    let volumes = s["volumes"].as_object().unwrap().values();
    volumes
        .flat_map(|v| v["shards"][0]["replicas"].as_object().unwrap().values().cloned().collect::<Vec<_>>())
        .collect()
}

fn node_id(c: &Cluster, name: &str) -> u64 {
    let s = c.status().unwrap();
    let all = s["nodes"].as_object().unwrap();
    all.values().find(|n| n["name"] == name).unwrap()["id"].as_u64().unwrap()
}

/// All replicas are in sync, three of each volume, and none is where `not` says.
fn settled(c: &Cluster, what: &str, not: impl Fn(&Value) -> bool) {
    until(what, || {
        let s = c.status()?;
        let all = replicas(&s);
        let good = all.len() == VOLUMES * 3 && all.iter().all(|r| r["state"] == "in_sync" && r["leaving"] != true);
        let gone = !all.iter().any(&not);
        if good && gone { Ok(()) } else { Err(c.cli(&["job", "list"])?) }
    });
}

/// Replicas of a volume are on different nodes, whatever was moved.
fn apart(c: &Cluster) {
    for v in c.status().unwrap()["volumes"].as_object().unwrap().values() {
        let all = v["shards"][0]["replicas"].as_object().unwrap();
        let nodes: BTreeSet<u64> = all.values().map(|r| r["node"].as_u64().unwrap()).collect();
        assert_eq!(nodes.len(), all.len(), "{v}");
    }
}

fn jobs(c: &Cluster) -> Result<Vec<Value>, String> {
    c.items(&["job", "list"])
}

fn job(c: &Cluster, id: &str) -> Result<Value, String> {
    let all = jobs(c)?;
    all.iter().find(|j| j["id"] == id).cloned().ok_or_else(|| format!("no job {id}: {all:?}"))
}

/// Volumes of this test, attached on n1 and n2, with a user each.
fn with_users(c: &Cluster) -> Vec<User> {
    (0..VOLUMES)
        .map(|i| {
            let (name, at) = (format!("v{i}"), i % 2);
            c.ok(&["volume", "create", &name, "size=32MiB", "replicas=3", "rebuild_impact=0%"]);
            c.ok(&["volume", "attach", &name, "--node", &format!("n{}", at + 1)]);
            let mut nbd = Nbd::connect(&c.nodes[at].nbd, &name).unwrap();
            (0..MIB).for_each(|m| nbd.write(m << 20, &vec![m as u8 + 1; 1 << 20]).unwrap());
            User::new(nbd, i)
        })
        .collect()
}

#[test]
fn an_operators_day() {
    let mut c = five();
    let users = with_users(&c);

    // A disk is emptied under its users, held, let go on, and removed; its place in the list says how far it is.
    let s = c.status().unwrap();
    let used = replicas(&s)[0]["disk"].as_u64().unwrap();
    let disk = used.to_string();
    let e = c.cli(&["disk", "remove", &disk]).unwrap_err();
    assert!(e.starts_with("[4]") && e.contains("replica"), "{e}");
    c.ok(&["job", "pause"]);
    c.ok(&["disk", "drain", &disk]);
    let id = format!("disk/{disk}");
    let j = until("the drain to be a job", || job(&c, &id));
    let left = j["replicas_left"].as_u64().unwrap();
    assert!(left > 0 && j["message"] == format!("is being drained: {left} replicas left"), "{j}");
    assert_eq!(j["state"], "running");
    c.ok(&["job", "pause", &id]);
    assert_eq!(until("it to be held", || job(&c, &id))["state"], "held");
    c.ok(&["job", "resume"]);
    c.ok(&["job", "resume", &id]);
    settled(&c, "the disk to be empty", |r| r["disk"] == used);
    apart(&c);
    c.ok(&["disk", "remove", &disk]);
    assert!(c.status().unwrap()["disks"][&disk].is_null());

    // A node is drained while the metadata leader is killed: the drain continues under the next
    // leader. `--watch` ends when nothing is left to do.
    c.ok(&["job", "pause"]);
    c.ok(&["node", "drain", "n3"]);
    let three = node_id(&c, "n3");
    until("the drain to be a job", || job(&c, "node/n3"));
    let leader = c.leader();
    c.ok(&["job", "resume"]);
    let away = if leader < 2 { None } else { Some(leader) };
    if let Some(i) = away {
        c.nodes[i].kill();
        c.nodes[i].start();
    } else {
        // Users are there: it loses its leadership instead, frozen until another one leads.
        freeze(&c, leader);
    }
    let watch = Command::new(binary())
        .args(["--endpoint", &c.endpoints(), "job", "list", "--watch"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    settled(&c, "the node to be empty", |r| r["node"] == three);
    apart(&c);
    let seen = watch.wait_with_output().unwrap();
    let seen_text = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.status.success() && seen_text.contains("nothing to do"), "{seen_text}");
    // It holds nothing; it can go.
    let e = c.cli(&["node", "remove", "n1"]).unwrap_err();
    assert!(e.starts_with("[4]"), "{e}");
    c.nodes[2].stop();
    until("the node to be forgotten", || c.cli(&["node", "remove", "n3"]));
    let s = c.status().unwrap();
    assert!(!s["nodes"].as_object().unwrap().values().any(|n| n["name"] == "n3"), "{s}");
    assert!(!s["disks"].as_object().unwrap().values().any(|d| d["node"] == three), "{s}");
    until("its vote to be somebody else's", || {
        let s = c.status()?;
        let voters: Vec<u64> = s["voters"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
        if voters.len() == 3 && !voters.contains(&three) { Ok(()) } else { Err(s["voters"].to_string()) }
    });

    let rounds: u64 = users.into_iter().map(User::end).sum();
    println!("an operator's day: {rounds} writes and reads beside it, none failed");
    assert!(rounds > 0);
}

/// Another node leads when this returns.
fn freeze(c: &Cluster, node: usize) {
    let pid = c.nodes[node].pid().unwrap() as i32;
    // SAFETY: a child of ours.
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    let others: Vec<String> =
        c.nodes.iter().enumerate().filter(|(i, _)| *i != node).map(|(_, n)| n.http.clone()).collect();
    until("another leader", || {
        let s = status::whole(&others)?;
        let name = s["nodes"][s["leader"].to_string()]["name"].as_str().unwrap_or("").to_string();
        if !name.is_empty() && name != c.nodes[node].name { Ok(()) } else { Err(s["leader"].to_string()) }
    });
    // SAFETY: as above.
    unsafe { libc::kill(pid, libc::SIGCONT) };
}

fn voters(c: &Cluster) -> Result<BTreeSet<u64>, String> {
    let s = c.status()?;
    if s["voters_changing"] == true {
        return Err(format!("changing: {}", s["voters"]));
    }
    Ok(s["voters"].as_array().unwrap().iter().filter_map(Value::as_u64).collect())
}

fn voters_become(c: &Cluster, n: usize) -> BTreeSet<u64> {
    until(&format!("{n} voters"), || match voters(c)? {
        v if v.len() == n => Ok(v),
        v => Err(format!("{v:?}")),
    })
}

/// Votes of nodes that are away go to others, without anybody asking.
fn votes_are_with_others(c: &Cluster, away: &[u64]) -> BTreeSet<u64> {
    until("three votes with those who are there", || {
        let now = voters(c)?;
        if now.len() == 3 && !away.iter().any(|n| now.contains(n)) { Ok(now) } else { Err(format!("{now:?}")) }
    })
}

/// Any odd number of nodes may vote, and volumes that are created then are in force at once.
fn voters_can_be_any_odd_number(c: &Cluster) {
    let e = c.cli(&["cluster", "voters", "2"]).unwrap_err();
    assert!(e.starts_with("[2]") && e.contains("choose 1, 3 or 5"), "{e}");
    for n in [5, 1, 3] {
        c.ok(&["cluster", "voters", &n.to_string()]);
        voters_become(c, n);
        // In force at once each time: also nodes without a vote hear of them.
        for i in 0..3 {
            c.ok(&["volume", "create", &format!("with-{n}-{i}"), "size=16MiB", "replicas=1"]);
        }
    }
}

/// From one voter to three and five and back, a voter that is lost and replaced without anybody
/// asking, a node that is away for maintenance beside one that is lost.
#[test]
fn votes_maintenance_and_loss() {
    let mut c = Cluster::with(5, &["--replace-voter-after", "5s"]);
    voters_can_be_any_odd_number(&c);
    c.ok(&["volume", "create", "v", "size=32MiB", "replicas=3", "rebuild_after=5s", "rebuild_impact=0%"]);
    let holders = || -> Vec<(u64, u64)> {
        let v = c.volume("v");
        let all = v["shards"][0]["replicas"].as_object().unwrap();
        all.values().map(|r| (r["node"].as_u64().unwrap(), r["rid"].as_u64().unwrap())).collect()
    };
    let before = holders();
    let index = |node: u64| -> usize {
        let s = c.status().unwrap();
        let name = s["nodes"][node.to_string()]["name"].as_str().unwrap().to_string();
        c.nodes.iter().position(|n| n.name == name).unwrap()
    };
    // Two of its three nodes go away: one is in maintenance, the other one is lost, and may have
    // had a vote. The volume is attached on the third.
    let leader = c.status().unwrap()["leader"].as_u64().unwrap();
    let mut others: Vec<(u64, u64)> = before.clone();
    // (The leader stays: it knows how long other nodes have been away.)
    others.sort_by_key(|(n, _)| *n == leader);
    let [(kept, rid), (lost, gone), (home, _)] = others[..] else { panic!("{before:?}") };
    let (i_kept, i_lost, i_home) = (index(kept), index(lost), index(home));
    let old_voters = voters(&c).unwrap();
    c.ok(&["volume", "attach", "v", "--node", &c.nodes[i_home].name]);
    let mut nbd = Nbd::connect(&c.nodes[i_home].nbd, "v").unwrap();
    nbd.write(0, &[7; 1 << 20]).unwrap();
    c.ok(&["node", "maintenance", &c.nodes[i_kept].name]);
    c.nodes[i_kept].kill();
    nbd.write(0, &[8; 1 << 20]).unwrap();
    // (Its vote first, if it had one: without two of three votes the in-sync set cannot change.)
    votes_are_with_others(&c, &[kept]);
    c.nodes[i_lost].kill();
    nbd.write(0, &[9; 1 << 20]).unwrap();
    // The lost one's replica is made anew elsewhere, the other one's is not, though it has been
    // away for longer. (The lost one itself is kept until as many are in sync as there should be.)
    until("the lost replica to be replaced", || {
        let v = c.volume("v");
        let all: Vec<Value> = v["shards"][0]["replicas"].as_object().unwrap().values().cloned().collect();
        let good = all.iter().filter(|r| r["state"] == "in_sync").count() == 2;
        if good && all.len() == 4 { Ok(()) } else { Err(v["shards"].to_string()) }
    });
    let v = c.volume("v");
    let waits = v["shards"][0]["replicas"].as_object().unwrap().values().find(|r| r["rid"] == rid).cloned();
    assert!(waits.is_some_and(|r| r["node"] == kept && r["state"] != "in_sync"), "{v}");
    let list = c.ok(&["job", "list"]);
    assert!(list.contains(&format!("replica/{rid}")) && list.contains("waits for its node"), "{list}");
    let now = votes_are_with_others(&c, &[kept, lost]);
    // It returns from maintenance with its data; the lost node returns too late.
    c.nodes[i_kept].start();
    c.ok(&["node", "activate", &c.nodes[i_kept].name]);
    until("the volume to be whole", || {
        let v = c.volume("v");
        let all: Vec<Value> = v["shards"][0]["replicas"].as_object().unwrap().values().cloned().collect();
        let whole = all.len() == 3 && all.iter().all(|r| r["state"] == "in_sync");
        let has = |rid| all.iter().any(|r| r["rid"] == rid);
        if whole && has(rid) && !has(gone) { Ok(()) } else { Err(v["shards"].to_string()) }
    });
    c.nodes[i_lost].start();
    c.ready();
    assert_eq!(voters_become(&c, 3), now, "who came back took a vote");
    assert_eq!(nbd.read(0, 1 << 20).unwrap(), vec![9; 1 << 20]);
    println!("votes moved from {old_voters:?} to {now:?} by themselves");
}

/// Disks are evened out; that, and a move, can be watched, held and given up.
#[test]
fn evening_out_and_moving() {
    let c = five();
    for n in ["n4", "n5"] {
        c.ok(&["node", "drain", n]);
    }
    let users = with_users(&c);
    let on = |c: &Cluster, names: [&str; 2]| {
        let ids = names.map(|n| node_id(c, n));
        replicas(&c.status().unwrap()).iter().filter(|r| ids.contains(&r["node"].as_u64().unwrap())).count()
    };
    assert_eq!(on(&c, ["n4", "n5"]), 0);
    for n in ["n4", "n5"] {
        c.ok(&["node", "activate", n]);
    }
    // Held before it moves anything, then given up: nothing has moved.
    c.ok(&["job", "pause"]);
    c.ok(&["cluster", "rebalance"]);
    c.ok(&["job", "pause", "rebalance"]);
    until("it to be held", || {
        let j = job(&c, REBALANCE)?;
        if j["state"] == "held" { Ok(()) } else { Err(j.to_string()) }
    });
    c.ok(&["job", "cancel", "rebalance"]);
    c.ok(&["job", "resume"]);
    assert!(job(&c, REBALANCE).is_err());
    assert_eq!(on(&c, ["n4", "n5"]), 0);
    c.ok(&["cluster", "rebalance"]);
    until("the disks to be even", || match job(&c, REBALANCE) {
        Err(_) if on(&c, ["n4", "n5"]) > 0 => Ok(()),
        other => Err(format!("{other:?}, {} there", on(&c, ["n4", "n5"]))),
    });
    settled(&c, "all moves to be over", |r| r["moving"] == true);
    apart(&c);

    // A move that is held is given up, and the replica stays.
    let s = c.status().unwrap();
    let v0 = s["volumes"].as_object().unwrap().values().find(|v| v["name"] == "v0").unwrap().clone();
    let rid = v0["shards"][0]["replicas"].as_object().unwrap().values().next().unwrap()["rid"].to_string();
    c.ok(&["job", "pause"]);
    c.ok(&["volume", "move", "v0", "--replica", &rid]);
    let id = format!("replica/{rid}");
    until("the move to be a job", || job(&c, &id));
    c.ok(&["job", "cancel", &id]);
    c.ok(&["job", "resume"]);
    until("the move to be given up", || match job(&c, &id) {
        Err(_) => Ok(()),
        Ok(j) => Err(j.to_string()),
    });
    // One that goes on says how far the new replica is.
    let progress = until("a replica that is brought in, with progress", || {
        let all = jobs(&c)?;
        let said = |j: &&Value| {
            let some = |key: &str| j[key].as_u64().is_some_and(|n| n > 0);
            j["kind"] == "replica" && ["done_bytes", "total_bytes", "copied_bytes"].iter().all(|k| some(k))
        };
        if let Some(j) = all.iter().find(said) {
            return Ok(j.clone());
        }
        if all.is_empty() {
            let s = c.status()?;
            let names: Vec<(String, String)> = s["volumes"]
                .as_object()
                .unwrap()
                .values()
                .flat_map(|v| {
                    let name = v["name"].as_str().unwrap().to_string();
                    let all = v["shards"][0]["replicas"].as_object().unwrap().clone();
                    all.into_iter().take(1).map(move |(rid, _)| (name.clone(), rid))
                })
                .collect();
            for (name, rid) in names {
                c.cli(&["volume", "move", &name, "--replica", &rid])?;
            }
        }
        Err(format!("{all:?}"))
    });
    println!("a job with progress: {progress}");
    settled(&c, "all moves to be over", |r| r["moving"] == true);
    apart(&c);
    let rounds: u64 = users.into_iter().map(User::end).sum();
    assert!(rounds > 0);
}
