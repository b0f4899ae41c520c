//! The history checker: every block is one register, every written value is unique.
//!
//! Operations are grouped by value. A value's zone runs from its earliest end to its latest start;
//! it is *forward* if that is a span (some operation with the value ended before another one
//! began), else *backward*. A history is linearizable iff no two forward zones overlap and no
//! backward zone lies strictly inside a forward one (Gibbons and Korach, "Testing shared memories",
//! 1997), every value read was written or is the initial one, and no read ended before its write
//! began. Zero is the one value that is written often: see `check_zeroes`. Unanswered writes may
//! take effect at any time after they began, or never. O(n log n) per block.

use std::collections::BTreeMap;

/// A value; 0 is the initial one, and what zeroes and trims write.
pub type Value = u64;

#[derive(Clone, Copy, Debug)]
struct Op {
    value: Value,
    start: u64,
    /// When it was answered, in µs; `u64::MAX` if it was not.
    end: u64,
    write: bool,
}

/// Every read and write that was observed, by block.
#[derive(Default, Clone, Debug)]
pub struct History {
    ops: BTreeMap<u64, Vec<Op>>,
    open: BTreeMap<u64, Vec<(u64, usize)>>,
    pub reads: u64,
    pub writes: u64,
}

impl History {
    /// A write of one value to some blocks began. Values must be unique per block.
    pub fn write_began(&mut self, id: u64, now: u64, blocks: impl Iterator<Item = (u64, Value)>) {
        self.writes += 1;
        for (b, value) in blocks {
            let list = self.ops.entry(b).or_default();
            list.push(Op { value, start: now, end: u64::MAX, write: true });
            self.open.entry(id).or_default().push((b, list.len() - 1));
        }
    }

    /// A value that a block may have had before everything that is asked here: written by that time.
    pub fn was_written(&mut self, block: u64, value: Value, end: u64) {
        self.ops.entry(block).or_default().push(Op { value, start: 0, end, write: true });
    }

    /// Every value but zero that was, or may have been, written, with its block.
    pub fn written(&self) -> impl Iterator<Item = (u64, Value)> + '_ {
        let real = |o: &&Op| o.write && o.value != 0 && o.start != u64::MAX;
        self.ops.iter().flat_map(move |(b, ops)| ops.iter().filter(real).map(|o| (*b, o.value)))
    }

    /// It was acknowledged.
    pub fn write_ended(&mut self, id: u64, now: u64) {
        for (b, i) in self.open.remove(&id).unwrap_or_default() {
            self.ops.get_mut(&b).unwrap()[i].end = now;
        }
    }

    /// It certainly did not happen.
    pub fn write_failed_cleanly(&mut self, id: u64) {
        for (b, i) in self.open.remove(&id).unwrap_or_default() {
            // A write of a value that is never read, and never takes effect, keeps the indices valid.
            let op = &mut self.ops.get_mut(&b).unwrap()[i];
            op.start = u64::MAX;
        }
    }

    /// A block was read.
    pub fn read(&mut self, block: u64, value: Value, start: u64, end: u64) {
        self.reads += 1;
        self.ops.entry(block).or_default().push(Op { value, start, end, write: false });
    }

    /// Judges every block.
    pub fn check(&self) -> Result<(), String> {
        self.ops.iter().try_for_each(|(b, ops)| check_block(ops).map_err(|e| format!("block {b}: {e}")))
    }
}

struct Zone {
    value: Value,
    /// Earliest end among the write and the reads of the value, in µs.
    from: u64,
    /// Latest start among the write and the reads of the value, in µs.
    to: u64,
}

fn check_block(ops: &[Op]) -> Result<(), String> {
    let mut by_value: BTreeMap<Value, Vec<Op>> = BTreeMap::new();
    for op in ops.iter().filter(|o| o.start != u64::MAX && o.value != 0) {
        by_value.entry(op.value).or_default().push(*op);
    }
    let mut zones = Vec::new();
    for (value, ops) in &by_value {
        let Some(w) = ops.iter().find(|o| o.write) else {
            return Err(format!("read {value:#x}, which nobody wrote"));
        };
        if let Some(r) = ops.iter().find(|o| !o.write && o.end < w.start) {
            return Err(format!("read {value:#x} in {}..{}, before its write began at {}", r.start, r.end, w.start));
        }
        // A write that was not answered, and whose value was not read, may never have happened.
        if ops.len() == 1 && w.end == u64::MAX {
            continue;
        }
        let from = ops.iter().map(|o| o.end).min().unwrap_or(0);
        let to = ops.iter().map(|o| o.start).max().unwrap_or(0);
        zones.push(Zone { value: *value, from, to });
    }
    // Every zero that was certainly there stands for itself.
    let sure = ops.iter().filter(|o| o.value == 0 && o.start != u64::MAX && o.end != u64::MAX);
    zones.extend(sure.map(|o| Zone { value: 0, from: o.end, to: o.start }));
    check_zeroes(ops)?;
    let mut forward: Vec<&Zone> = zones.iter().filter(|z| z.from < z.to).collect();
    forward.sort_by_key(|z| z.from);
    for pair in forward.windows(2) {
        if pair[1].from < pair[0].to {
            return Err(format!(
                "values {:#x} and {:#x} were each seen around the other",
                pair[0].value, pair[1].value
            ));
        }
    }
    for back in zones.iter().filter(|z| z.from >= z.to) {
        let i = forward.partition_point(|f| f.from < back.to);
        if i > 0 && forward[i - 1].from < back.to && back.from < forward[i - 1].to {
            return Err(format!("value {:#x} lived inside the life of {:#x}", back.value, forward[i - 1].value));
        }
    }
    Ok(())
}

/// A zero that was read came from somewhere: from the beginning or from a zeroing that began before
/// the read ended, and that no acknowledged write lies wholly behind and before the read. (Zeroes
/// are not unique, so this asks for one possible origin, not for the origin: it never accuses
/// wrongly.)
fn check_zeroes(ops: &[Op]) -> Result<(), String> {
    let initial = Op { value: 0, start: 0, end: 0, write: true };
    let origins: Vec<Op> = ops.iter().copied().filter(|o| o.write && o.value == 0).chain([initial]).collect();
    // Acknowledged writes by start, with the earliest end among those that start at or after each.
    let mut writes: Vec<&Op> = ops.iter().filter(|o| o.write && o.value != 0 && o.end != u64::MAX).collect();
    writes.sort_by_key(|o| o.start);
    let mut earliest_end = vec![u64::MAX; writes.len() + 1];
    for i in (0..writes.len()).rev() {
        earliest_end[i] = earliest_end[i + 1].min(writes[i].end);
    }
    for r in ops.iter().filter(|o| !o.write && o.value == 0) {
        let explains = |z: &Op| {
            let later = writes.partition_point(|w| w.start <= z.end);
            z.start <= r.end && earliest_end[later] >= r.start
        };
        if !origins.iter().any(explains) {
            return Err(format!("read zero in {}..{}, which was overwritten before", r.start, r.end));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h(ops: &[(bool, Value, u64, u64)]) -> Result<(), String> {
        let ops: Vec<Op> = ops
            .iter()
            .map(|(write, value, start, end)| Op { value: *value, start: *start, end: *end, write: *write })
            .collect();
        check_block(&ops)
    }

    #[test]
    fn good_histories_pass() {
        h(&[(true, 1, 1, 2), (false, 1, 3, 4), (true, 2, 5, 6), (false, 2, 7, 8)]).unwrap();
        h(&[(true, 1, 1, 10), (false, 0, 2, 3), (false, 1, 4, 5)]).unwrap();
        h(&[(true, 1, 1, 2), (true, 2, 3, u64::MAX), (false, 1, 4, 5), (false, 2, 6, 7)]).unwrap();
        h(&[(true, 1, 1, 10), (true, 2, 1, 10), (false, 2, 11, 12)]).unwrap();
        h(&[(true, 1, 1, 2), (true, 0, 3, 4), (false, 0, 5, 6), (true, 2, 7, 8), (true, 0, 9, 10), (false, 0, 11, 12)])
            .unwrap();
        h(&[(true, 1, 1, 2), (true, 0, 3, u64::MAX), (false, 0, 5, 6)]).unwrap();
    }

    #[test]
    fn bad_histories_are_caught() {
        assert!(h(&[(true, 1, 1, 2), (false, 0, 3, 4)]).is_err(), "a stale read of the initial value");
        assert!(h(&[(true, 1, 1, 2), (true, 2, 3, 4), (false, 1, 5, 6)]).is_err(), "a stale read");
        assert!(
            h(&[(true, 1, 1, 2), (true, 2, 3, u64::MAX), (false, 2, 4, 5), (false, 1, 6, 7)]).is_err(),
            "it flips back"
        );
        assert!(h(&[(false, 9, 1, 2)]).is_err(), "read what nobody wrote");
        assert!(h(&[(true, 1, 1, 2), (true, 0, 3, 4), (false, 1, 5, 6)]).is_err(), "a trimmed value came back");
        assert!(h(&[(true, 0, 1, 2), (true, 1, 3, 4), (false, 0, 5, 6)]).is_err(), "an old zero");
        assert!(h(&[(false, 1, 1, 2), (true, 1, 3, 4)]).is_err(), "read before written");
    }

    /// Is there any order that explains a history? Tried one after another: only for small ones.
    fn some_order(ops: &[Op], left: u32, now: Value) -> bool {
        let rest = || (0..ops.len()).filter(|i| left & 1 << i != 0);
        if rest().all(|i| ops[i].end == u64::MAX) {
            return true;
        }
        rest().any(|i| {
            let first = rest().all(|j| ops[j].end >= ops[i].start);
            let fits = ops[i].write || ops[i].value == now;
            first && fits && some_order(ops, left & !(1 << i), if ops[i].write { ops[i].value } else { now })
        })
    }

    /// A small history: unique values, beginnings and ends at any times, writes without an answer;
    /// values that were written are read, and, if `zeroes`, so is the initial one, which is written
    /// again too.
    fn any_history(rng: &mut hf_store::sim::Rng, zeroes: bool) -> Vec<Op> {
        let n = 2 + rng.below(6);
        let mut times: Vec<u64> = (1..=2 * n).collect();
        for i in (1..times.len()).rev() {
            times.swap(i, rng.below(i as u64 + 1) as usize);
        }
        let writes = 1 + rng.below(n);
        let op = |i: u64| {
            let (a, b) = (times[2 * i as usize], times[2 * i as usize + 1]);
            let (write, zero) = (i < writes, zeroes && rng.one_in(4));
            let value = if zero {
                0
            } else if write {
                i + 1
            } else {
                1 + rng.below(writes)
            };
            let end = if write && rng.one_in(4) { u64::MAX } else { a.max(b) };
            Op { value, start: a.min(b), end, write }
        };
        (0..n).map(op).collect()
    }

    /// The checker against all orders there are: the same verdict wherever values are unique; with
    /// zeroes, which are not, it never accuses wrongly, and what it lets pass is rare.
    #[test]
    fn the_checker_agrees_with_trying_every_order() {
        let mut rng = hf_store::sim::Rng::new(20_261_127);
        let mut counts = [[0u32; 2]; 2];
        for _ in 0..60_000 {
            let ops = any_history(&mut rng, false);
            let (fast, slow) = (check_block(&ops).is_ok(), some_order(&ops, (1 << ops.len()) - 1, 0));
            assert_eq!(fast, slow, "{ops:?}");
            counts[0][usize::from(slow)] += 1;
        }
        let mut missed = 0;
        for _ in 0..60_000 {
            let ops = any_history(&mut rng, true);
            let (verdict, slow) = (check_block(&ops), some_order(&ops, (1 << ops.len()) - 1, 0));
            assert!(verdict.is_ok() || !slow, "accused wrongly: {verdict:?} {ops:?}");
            missed += u32::from(verdict.is_ok() && !slow);
            counts[1][usize::from(slow)] += 1;
        }
        let [[bad, good], [zbad, zgood]] = counts;
        println!("history checker: {good} good and {bad} bad histories judged like every order");
        println!("history checker with zeroes: {zgood} good, {zbad} bad, {missed} of those let pass");
        assert!(bad > 5_000 && good > 5_000 && zbad > 5_000 && zgood > 5_000, "{counts:?}");
        assert!(missed * 20 < zbad, "{missed} of {zbad} bad histories with zeroes pass");
    }
}
