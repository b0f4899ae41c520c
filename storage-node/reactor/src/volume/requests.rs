//! The clients' requests of one volume that are in flight: each is cut at shard borders, its parts go to the shards'
//! coordinators, and it ends when the last of them has.

use super::split::{joined, split};
use hf_policy::{broken, invariant};
use hf_repl_core::IoError;
use hf_repl_core::coordinator::{ClientOp, ClientReply};
use std::collections::BTreeMap;

/// How a client's request ended.
pub(crate) type Outcome = Result<ClientReply, IoError>;
/// Called once, when a client's request has ended. It must not enter the reactor.
pub(crate) type Callback = Box<dyn FnOnce(Outcome)>;
/// Names a client's connection on its reactor.
pub(crate) type ConnectionId = u64;

/// A request whose parts are under way.
struct Join {
    /// The connection that it came over.
    from: ConnectionId,
    /// Parts that have not ended.
    left: usize,
    parts: Vec<Option<ClientReply>>,
    worst: Option<IoError>,
    /// It changes the volume.
    writes: bool,
    done: Callback,
}

/// A part of a request, by the id that its coordinator knows.
struct Part {
    join: u64,
    /// Its place among the request's parts.
    at: usize,
    shard: u32,
}

/// See the module.
#[derive(Default)]
pub(super) struct Requests {
    joins: BTreeMap<u64, Join>,
    parts: BTreeMap<u64, Part>,
    next: u64,
}

impl Requests {
    /// A request begins. Returns its parts: (shard, the part's id, what is asked), to be given to the
    /// coordinators in this order.
    pub fn begin(&mut self, from: ConnectionId, op: ClientOp, done: Callback) -> Vec<(u32, u64, ClientOp)> {
        let writes = matches!(op, ClientOp::Write { .. } | ClientOp::Zero { .. });
        let parts = split(op);
        invariant!(!parts.is_empty(), "a request without parts would never end");
        self.next += 1;
        let (join, n) = (self.next, parts.len());
        self.joins.insert(join, Join { from, left: n, parts: vec![None; n], worst: None, writes, done });
        let one = |(at, (shard, op))| {
            self.next += 1;
            self.parts.insert(self.next, Part { join, at, shard });
            (shard, self.next, op)
        };
        parts.into_iter().enumerate().map(one).collect()
    }

    /// A part has ended: with the last one the request does.
    pub fn part_done(&mut self, id: u64, result: Outcome) {
        let Some(part) = self.parts.remove(&id) else { return broken!("nobody asked for part {id}") };
        let Some(j) = self.joins.get_mut(&part.join) else { return broken!("part {id} of no request") };
        match result {
            Ok(r) => j.parts[part.at] = Some(r),
            Err(e) => j.worst = Some(e),
        }
        invariant!(j.left > 0, "part {id} ended after its request");
        j.left = j.left.saturating_sub(1);
        if j.left == 0
            && let Some(j) = self.joins.remove(&part.join)
        {
            (j.done)(joined(j.parts, j.worst));
        }
    }

    /// The parts of a connection's requests: (shard, id).
    pub fn of(&self, from: ConnectionId) -> impl Iterator<Item = (u32, u64)> {
        let here = move |p: &Part| self.joins.get(&p.join).is_some_and(|j| j.from == from);
        self.parts.iter().filter(move |(_, p)| here(p)).map(|(id, p)| (p.shard, *id))
    }

    /// Every request ends: the attachment is over.
    pub fn end_all(&mut self) {
        self.parts.clear();
        for j in std::mem::take(&mut self.joins).into_values() {
            (j.done)(Err(IoError::Fenced));
        }
    }

    /// Requests that change the volume.
    pub fn writes(&self) -> usize {
        self.joins.values().filter(|j| j.writes).count()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hf_policy::SHARD_BYTES;
    use std::cell::RefCell;
    use std::rc::Rc;

    fn callback(seen: &Rc<RefCell<Vec<Outcome>>>) -> Callback {
        let seen = seen.clone();
        Box::new(move |r| seen.borrow_mut().push(r))
    }

    #[test]
    fn a_request_over_two_shards_ends_once_by_its_worst_part() {
        let (mut r, seen) = (Requests::default(), Rc::default());
        let parts = r.begin(7, ClientOp::Read { off: SHARD_BYTES - 4096, len: 8192 }, callback(&seen));
        assert_eq!(parts.iter().map(|p| p.0).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(r.of(7).count(), 2);
        r.part_done(parts[1].1, Err(IoError::NoSpace));
        assert!(seen.borrow().is_empty());
        r.part_done(parts[0].1, Ok(ClientReply::Done));
        assert_eq!(*seen.borrow(), [Err(IoError::NoSpace)]);
        assert_eq!((r.of(7).count(), r.writes()), (0, 0));
    }

    #[test]
    fn a_part_that_ends_twice_is_reported_and_ends_nothing() {
        let (mut r, seen) = (Requests::default(), Rc::default());
        let parts = r.begin(7, ClientOp::Flush, callback(&seen));
        r.part_done(parts[0].1, Ok(ClientReply::Done));
        hf_policy::broken::kept(|| r.part_done(parts[0].1, Ok(ClientReply::Done)));
        assert!(hf_policy::broken::take().unwrap().contains("nobody asked for part"));
        assert_eq!(seen.borrow().len(), 1);
    }

    #[test]
    fn an_attachment_that_ends_answers_everything() {
        let (mut r, seen) = (Requests::default(), Rc::default());
        for from in 0..3 {
            r.begin(from, ClientOp::Zero { off: 0, len: 4096 }, callback(&seen));
        }
        assert_eq!(r.writes(), 3);
        r.end_all();
        assert_eq!(*seen.borrow(), vec![Err(IoError::Fenced); 3]);
    }
}
