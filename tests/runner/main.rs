//! What `make test` and `make check` run the tests with: every test of every binary in a process
//! and a directory of its own, side by side. Tests that compute share the processor at the lowest
//! priority; tests of real daemons mostly wait, and run beside them as [`weights`] allows. The
//! whole output of a failed test is shown, of a passed one what it printed; at the end stand the
//! slowest tests, the peak use of disk, and one `test result:` line like cargo's.
//!
//! Promises: a test that cargo would run is run once, or the run fails; rules broken on purpose
//! (feature `mutants`) are tested from one more build, of which only the tests run that the first
//! build lacks. Does not: retry, or run doc tests (tidy refuses them).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod binaries;
mod disk;
mod run;
mod weights;

use std::time::{Duration, Instant};
use weights::Weights;

const HELP: &str = "\
usage: hf-run [--check] [--list] [--no-mutants] [FILTER]...

Builds the workspace's tests and runs them side by side. FILTER: only tests whose name (as `package/binary test`) contains it.
  --check       everyday run: no test of real daemons, few seeds of everything that has seeds, no broken rules
  --list        names the tests and their weights, and runs nothing
  --no-mutants  without the tests of rules that are broken on purpose";

/// How many of the slowest tests are named.
const SLOWEST: usize = 20;
/// All tests together take at most so much disk at any moment, beside the target directory.
const DISK_BOUND: u64 = 6 << 30;

/// How many seeds `--check` runs, by the variables that the tests read.
const FEW: &[(&str, &str)] = &[
    ("HOLDFAST_SIM_SEEDS", "1000"),
    ("HOLDFAST_REAL_SEEDS", "60"),
    ("HOLDFAST_GROUP_SEEDS", "100"),
    ("HOLDFAST_GROWTH_SEEDS", "40"),
    ("HOLDFAST_RAFT_SEEDS", "50"),
    ("HOLDFAST_CRASH_SEEDS", "20"),
];

/// What the command line asked for.
struct Wanted {
    check: bool,
    list: bool,
    mutants: bool,
    filters: Vec<String>,
}

fn wanted() -> Wanted {
    let mut w = Wanted { check: false, list: false, mutants: true, filters: Vec::new() };
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--check" => (w.check, w.mutants) = (true, false),
            "--list" => w.list = true,
            "--no-mutants" => w.mutants = false,
            "-h" | "--help" => {
                println!("{HELP}");
                std::process::exit(0);
            }
            other if other.starts_with('-') => {
                eprintln!("{HELP}");
                std::process::exit(2);
            }
            filter => w.filters.push(filter.to_string()),
        }
    }
    w
}

fn main() {
    let wanted = wanted();
    let weights = Weights::read();
    let mut tests = binaries::tests(wanted.check, wanted.mutants, &weights);
    if let Some(stale) = weights.stale(&tests).filter(|_| !wanted.check && wanted.mutants) {
        eprintln!("tests/runner/weights.txt names a test that does not exist: {stale}");
        std::process::exit(1);
    }
    tests.retain(|t| wanted.filters.is_empty() || wanted.filters.iter().any(|f| t.name.contains(f)));
    if wanted.check {
        tests.retain(|t| !t.weight.not_in_check);
    }
    if wanted.list {
        tests.iter().for_each(|t| println!("{}: {}", t.name, t.weight));
        return;
    }
    let began = Instant::now();
    let run = run::all(tests, if wanted.check { FEW } else { &[] });
    summary(&run, began.elapsed());
    std::process::exit(i32::from(run.failed() > 0));
}

/// The end of the run: the slowest tests, the disk, the failed tests, and cargo's line.
fn summary(run: &run::Run, took: Duration) {
    let mut slow: Vec<&run::Done> = run.done.iter().collect();
    slow.sort_by_key(|d| std::cmp::Reverse(d.wall));
    println!(
        "\nthe {} slowest tests (seconds by the clock, of processor; MiB of disk at most):",
        SLOWEST.min(slow.len())
    );
    for d in slow.iter().take(SLOWEST) {
        println!("{:8.1} {:8.1} {:6}  {}", d.wall.as_secs_f64(), d.cpu.as_secs_f64(), d.disk >> 20, d.name);
    }
    let cpu: Duration = run.done.iter().map(|d| d.cpu).sum();
    println!(
        "\n{} tests in {:.0} s; they used {:.0} s of processor, {:.1} of {} cores",
        run.done.len(),
        took.as_secs_f64(),
        cpu.as_secs_f64(),
        cpu.as_secs_f64() / took.as_secs_f64(),
        run::cores()
    );
    println!("peak of disk in use at a moment: {} MiB of at most {} MiB", run.peak >> 20, DISK_BOUND >> 20);
    let failed: Vec<&run::Done> = run.done.iter().filter(|d| !d.passed).collect();
    if !failed.is_empty() {
        println!("\nfailed (each one's output is above):");
        failed.iter().for_each(|d| println!("    {}", d.name));
    }
    if run.disk_exceeded() {
        println!("    the tests together took more disk than {} MiB", DISK_BOUND >> 20);
    }
    let word = if run.failed() > 0 { "FAILED" } else { "ok" };
    let passed = run.done.len() - failed.len();
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; 0 ignored; finished in {:.2}s",
        run.failed(),
        took.as_secs_f64()
    );
}
