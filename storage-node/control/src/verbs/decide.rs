//! How a change is decided: on the newest record, again if that moved meanwhile, and once for each request.

use crate::access::{Caller, Verb, may};
use crate::error::{Code, Problem};
use crate::ports::{Ports, Unanswered};
use hf_meta_core::record::VolumeRecord;
use hf_meta_core::{ClusterState, Command, Envelope, Refusal, Reply};
use hf_policy::{NodeId, RequestId, VolumeId};
use std::sync::Arc;

/// How long a change waits for a leader before it is refused, in milliseconds.
const LEADER_MS: u64 = 2_000;
/// How long a change is decided anew while others change the same record, in milliseconds.
const AGAIN_MS: u64 = 10_000;
/// How long the record may take to show here what was committed, in milliseconds.
pub(super) const VISIBLE_MS: u64 = 10_000;

/// What comes with every change, whatever it changes.
#[derive(Clone, Debug)]
pub struct Call {
    /// The caller who asks for this.
    pub caller: Caller,
    /// The request, the same in all its repeats.
    pub request: RequestId,
    /// Change nothing; say what would happen.
    pub dry_run: bool,
    /// The epoch that the volume must have.
    pub if_epoch: Option<u64>,
    /// The number that the named volume must have.
    pub id: Option<u64>,
    /// How long to wait until the change is in force, in milliseconds; none: as long as the verb thinks right.
    pub wait_ms: Option<u64>,
}

/// A change that was committed, or with `dry_run` would be.
#[derive(Clone, Copy, Debug)]
pub struct Decided {
    /// What the command replied.
    pub reply: Reply,
    /// A revision of the record that has the change.
    pub revision: u64,
    /// Nothing was changed.
    pub dry_run: bool,
    /// This node's view of the record has the change.
    pub shown: bool,
}

impl Decided {
    /// Why the change is not done although it was committed: nobody who reads here finds it.
    pub(super) fn unseen(&self) -> Option<String> {
        (!self.shown).then(|| "the change does not show in this node's record yet".into())
    }
}

/// The request id of an idempotency key: the same key of the same caller is the same request. The lowest 32 bits tell
/// requests apart that use one key for different things; see [`reused`].
pub fn request_id(caller: &str, key: &str, what: &[u8]) -> RequestId {
    let key = fnv(caller.bytes().chain([0]).chain(key.bytes()));
    let what = fnv(what.iter().copied());
    RequestId((key & !u128::from(u32::MAX)) | (what ^ (what >> 64)) & u128::from(u32::MAX))
}

/// FNV-1a of 128 bits (draft-eastlake-fnv).
fn fnv(bytes: impl Iterator<Item = u8>) -> u128 {
    const PRIME: u128 = 0x0000000001000000000000000000013B;
    const BASIS: u128 = 0x6c62272e07bb014262b821756295c58d;
    bytes.fold(BASIS, |h, b| (h ^ u128::from(b)).wrapping_mul(PRIME))
}

/// Was the idempotency key of this request used for another one whose outcome is still known?
fn reused(s: &ClusterState, request: RequestId) -> bool {
    let low = RequestId(request.0 & !u128::from(u32::MAX));
    let mut same = s.requests.range_from(&low).take_while(|(id, _)| id.0 >> 32 == request.0 >> 32);
    same.any(|(id, _)| *id != request)
}

/// Waits until a leader answers, so that the change is decided on the present.
async fn fresh<P: Ports>(p: &P) -> Result<(), Problem> {
    if p.here() == NodeId(0) {
        return Err(Problem::new(Code::NotMember, "this node is not part of a cluster yet")
            .so("found one with holdfast cluster init, or join one with holdfast cluster join"));
    }
    let end = p.now_ms() + LEADER_MS;
    loop {
        if p.freshen().await {
            return Ok(());
        }
        if p.now_ms() >= end {
            return Err(no_leader("nothing was changed"));
        }
        p.changed(p.view().revision, 50).await;
    }
}

fn no_leader(why: &str) -> Problem {
    Problem::new(Code::NoLeader, "no metadata leader answers")
        .because(why)
        .so("start nodes until a majority of the voters runs; attached volumes go on meanwhile")
}

/// What every change begins with: may the caller, does a leader answer, and is the request no other one?
pub(super) async fn begin<P: Ports>(p: &P, call: &Call, verb: Verb) -> Result<(), Problem> {
    may(&call.caller, verb)?;
    fresh(p).await?;
    if reused(&p.view(), call.request) {
        return Err(Problem::new(Code::KeyReused, "the idempotency key was used for another request")
            .so("send each change with a key of its own"));
    }
    Ok(())
}

/// Decides a change that needs nothing but the record; see [`decided`].
pub(super) async fn decide<P: Ports>(
    p: &P,
    call: &Call,
    verb: Verb,
    make: impl FnMut(&ClusterState) -> Result<Command, Problem> + Send,
) -> Result<Decided, Problem> {
    begin(p, call, verb).await?;
    decided(p, call, make).await
}

/// Makes a command from the newest record and has it committed; again as long as others change the record in between (a
/// coordinator drops a replica, the leader repairs). All attempts share one request. Refusals for being overtaken are
/// not kept, so a caller that repeats the whole request gets the outcome of the attempt that was done.
pub(super) async fn decided<P: Ports>(
    p: &P,
    call: &Call,
    mut make: impl FnMut(&ClusterState) -> Result<Command, Problem> + Send,
) -> Result<Decided, Problem> {
    if call.dry_run {
        return tried(p, make(&p.view())?);
    }
    let end = p.now_ms() + AGAIN_MS;
    loop {
        let state = p.view();
        let cmd = match make(&state) {
            Ok(cmd) => cmd,
            // An earlier attempt of this very request may have been done and made it impossible now.
            Err(e) => match p.outcome_of(call.request).await {
                Some(Ok(reply)) => return Ok(committed(p, reply).await),
                Some(Err(refusal)) => return Err(Problem::from(refusal)),
                None => return Err(e),
            },
        };
        match p.propose(call.request, cmd).await {
            Err(Unanswered::NoLeader(why)) => return Err(no_leader(&why)),
            Err(Unanswered::Unknown(why)) => {
                return Err(Problem::new(Code::NotInTime, "no outcome came in time")
                    .because(why)
                    .so("send the same request again with the same Idempotency-Key to learn what came of it"));
            }
            Ok(Ok(reply)) => return Ok(committed(p, reply).await),
            Ok(Err(Refusal::EpochMismatch { .. } | Refusal::NotReady(_))) if p.now_ms() < end => {
                p.changed(state.revision, 50).await;
                p.freshen().await;
            }
            Ok(Err(e)) => return Err(Problem::from(e)),
        }
    }
}

/// What was committed: waits until it shows in this node's view of the record. (Not until some record has changed: of a
/// request that is repeated it has changed long ago.)
async fn committed<P: Ports>(p: &P, reply: Reply) -> Decided {
    let end = p.now_ms() + VISIBLE_MS;
    let mut shown = p.freshen().await;
    while !shown && p.now_ms() < end {
        p.changed(p.view().revision, 50).await;
        shown = p.freshen().await;
    }
    Decided { reply, revision: p.view().revision, dry_run: false, shown }
}

/// What the command would do: it is applied to a copy of the record.
pub(super) fn tried<P: Ports>(p: &P, cmd: Command) -> Result<Decided, Problem> {
    let mut copy = ClusterState::clone(&p.view());
    let env = Envelope { v: copy.version, request: RequestId::NONE, at_ms: p.wall_ms(), cmd };
    let reply = copy.apply(&env).map_err(Problem::from)?;
    Ok(Decided { reply, revision: p.view().revision, dry_run: true, shown: true })
}

/// Waits until `see` finds something in this node's view of the record; `None` after `patience_ms`.
pub(super) async fn until<P: Ports, T>(
    p: &P,
    patience_ms: u64,
    mut see: impl FnMut(&ClusterState) -> Option<T> + Send,
) -> Option<T> {
    let end = p.now_ms() + patience_ms;
    loop {
        let state = p.view();
        if let Some(t) = see(&state) {
            return Some(t);
        }
        let left = end.checked_sub(p.now_ms()).filter(|l| *l > 0)?;
        p.changed(state.revision, left).await;
    }
}

/// The volume of a name, if it is the one that the caller means. Once a volume was found, `known` makes sure that a
/// later one of the same name is not taken for it.
pub(super) fn find(
    s: &ClusterState,
    call: &Call,
    name: &str,
    known: &mut Option<VolumeId>,
) -> Result<Arc<VolumeRecord>, Problem> {
    let v = match known {
        Some(id) => s.volumes.get(id),
        None => s.volume_named(name),
    };
    let v = v.cloned().ok_or_else(|| Problem::no("volume", name))?;
    let subject = format!("volume/{name}");
    if call.id.is_some_and(|id| id != v.id.0) {
        return Err(Problem::new(Code::EpochMismatch, format!("volume {name} is another one now"))
            .because(format!("its id is {}", v.id))
            .so("read it and decide again")
            .at(subject));
    }
    if call.if_epoch.is_some_and(|e| e != v.epoch.0) {
        return Err(Problem::new(Code::EpochMismatch, format!("volume {name} has changed"))
            .because(format!("its epoch is {}", v.epoch.0))
            .so("read it and decide again")
            .at(subject));
    }
    *known = Some(v.id);
    Ok(v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hf_meta_core::Outcome;

    #[test]
    fn a_key_is_one_request_and_its_reuse_shows() {
        let a = request_id("admin", "k1", b"POST /v1/volumes {a}");
        assert_eq!(a, request_id("admin", "k1", b"POST /v1/volumes {a}"));
        let b = request_id("admin", "k1", b"POST /v1/volumes {b}");
        let c = request_id("admin", "k2", b"POST /v1/volumes {a}");
        let d = request_id("other", "k1", b"POST /v1/volumes {a}");
        assert!(a != b && a.0 >> 32 == b.0 >> 32 && c.0 >> 32 != a.0 >> 32 && d.0 >> 32 != a.0 >> 32);
        let mut s = ClusterState::default();
        s.requests.insert(a, Outcome::Ok(Reply::Done));
        assert!(!reused(&s, a) && reused(&s, b) && !reused(&s, c) && !reused(&s, d));
    }
}
