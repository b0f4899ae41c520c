//! The REST API against its own description, by tools of others: a client that openapi-python-client made, which runs
//! the README's first session, and, if `HOLDFAST_API_SECONDS` says for how long, every check of schemathesis on all
//! of it. `tests/api/` holds what they are told, and which paths they leave alone, with the reasons.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hf_tests::cluster::{Cluster, until};
use std::path::Path;
use std::process::{Command, Output};

/// How long schemathesis looks for faults, in seconds, if it is asked to: it still finds some (wrong methods are
/// answered 415 before 405, numbers such as `7.0` are refused), so `make test` does not ask, and `make soak` does.
fn seconds() -> Option<u64> {
    std::env::var("HOLDFAST_API_SECONDS").ok().map(|s| s.parse().unwrap())
}

fn run(what: &str, dir: &Path, c: &Cluster, seconds: u64) -> Output {
    Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/api/run.sh"))
        .args([what, dir.to_str().unwrap(), &format!("http://{}", c.nodes[0].http), &seconds.to_string()])
        .output()
        .unwrap()
}

fn said(o: &Output) -> String {
    [&o.stdout, &o.stderr].map(|b| String::from_utf8_lossy(b).into_owned()).concat()
}

#[test]
fn a_generated_client_runs_the_first_session() {
    let c = Cluster::new(3);
    let dir = tempfile::tempdir().unwrap();
    let session = run("session", dir.path(), &c, 0);
    assert!(session.status.success(), "{}", said(&session));
    assert!(said(&session).contains("session: ok"), "{}", said(&session));

    let Some(seconds) = seconds() else { return };
    let fuzz = run("fuzz", dir.path(), &c, seconds);
    let text = said(&fuzz);
    assert!(fuzz.status.success(), "{text}");
    let all: Vec<&str> = text.lines().map(str::trim).collect();
    let tested = all.iter().find(|l| l.starts_with("Tested:")).expect("how much was tested");
    let cases = all.iter().find(|l| l.contains("generated")).expect("how many cases there were");
    eprintln!("schemathesis, {} s: operations {tested}, {cases}", seconds);
    // Whatever was asked of them, the nodes live and agree.
    until("every node to answer alike", || {
        let revision = |n: usize| {
            let r = hf_tests::http::get(&c.nodes[n].http, "/v1/cluster")?;
            r.good().map(|v| v["revision"].as_u64())
        };
        let all = [revision(0)?, revision(1)?, revision(2)?];
        if all[0].is_some() && all.iter().all(|r| *r == all[0]) { Ok(()) } else { Err(format!("{all:?}")) }
    });
}
