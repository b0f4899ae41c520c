//! What a test needs, by `weights.txt`: how long it takes (the longest begin first), and how much
//! of the machine.

use crate::binaries::Test;
use std::fmt;

/// What one test needs.
#[derive(Clone, Copy, Debug)]
pub struct Weight {
    /// About how long it takes, in seconds.
    pub seconds: u32,
    /// It starts daemons and mostly waits for them; else it computes.
    pub waits: bool,
    /// Of a test that computes: its threads. Of one that waits: the cores that it and its daemons
    /// use on average.
    pub cores: f64,
    /// The most disk that it has in use at a moment, in MiB.
    pub disk: u64,
    /// Nothing may run beside it.
    pub alone: bool,
    /// `make check` leaves it out.
    pub not_in_check: bool,
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.waits { "waits" } else { "computes" };
        let alone = if self.alone { ", alone" } else { "" };
        write!(f, "{kind}, {} s, {} cores, {} MiB{alone}", self.seconds, self.cores, self.disk)
    }
}

/// The table of `weights.txt`.
pub struct Weights(Vec<(String, Weight)>);

impl Weights {
    /// Reads the table that is compiled in.
    pub fn read() -> Weights {
        let lines = include_str!("weights.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        Weights(lines.map(|l| row(l).unwrap_or_else(|| panic!("weights.txt: cannot read: {l}"))).collect())
    }

    /// The first row whose name a test's name begins with, or what tests of its binary usually
    /// need.
    pub fn of(&self, name: &str) -> Weight {
        let usual = Weight { seconds: 1, waits: false, cores: 1.0, disk: 0, alone: false, not_in_check: false };
        let real = Weight { seconds: 8, waits: true, cores: 0.5, disk: 320, not_in_check: true, ..usual };
        let row = self.0.iter().find(|(prefix, _)| name.starts_with(prefix.as_str())).map(|(_, w)| *w);
        row.unwrap_or(if name.starts_with("hf-tests/real ") { real } else { usual })
    }

    /// A row that no test needs any more.
    pub fn stale(&self, tests: &[Test]) -> Option<&str> {
        let used = |name: &str| tests.iter().any(|t| t.name.starts_with(name));
        self.0.iter().map(|(n, _)| n.as_str()).find(|n| !used(n))
    }
}

/// `seconds cores disk flags name`, where flags are `-` or some of `w` (waits), `a` (alone), `n`
/// (not in `make check`).
fn row(line: &str) -> Option<(String, Weight)> {
    let mut words = line.split_whitespace();
    let seconds = words.next()?.parse().ok()?;
    let cores = words.next()?.parse().ok()?;
    let disk = words.next()?.parse().ok()?;
    let flags = words.next()?;
    let name = words.collect::<Vec<_>>().join(" ");
    let has = |c| flags.contains(c);
    let w = Weight { seconds, cores, disk, waits: has('w'), alone: has('a'), not_in_check: has('w') || has('n') };
    (!name.is_empty() && flags.chars().all(|c| "-wan".contains(c))).then_some((name, w))
}
