//! Volumes.

use super::decide::{Call, Decided, begin, decide, decided, find, tried, until};
use crate::access::{Verb, may};
use crate::error::{Code, Problem};
use crate::model::{Attach, NewVolume, Outcome, PolicyChange, Rename, Resize, Volume, VolumeOutcome, VolumeSpec};
use crate::ports::{NodeAnswer, NodeVerb, Ports};
use crate::read::Query;
use hf_meta_core::record::VolumeRecord;
use hf_meta_core::{Command, Reply, plan};
use hf_policy::policy::{AttrMap, valid_name};
use hf_policy::{Lineage, NodeId, Policy, SessionId};

/// How long a create waits for the replicas if the caller does not say, in milliseconds.
const READY_MS: u64 = 10_000;

/// How long an attach waits for the leader to hear of it, in milliseconds; a node tells at once.
const HEARD_MS: u64 = 2_000;
/// Seconds between two points of a volume's history.
const INTERVAL: u64 = 5;

/// A volume as it is read after a change.
async fn shown<P: Ports>(p: &P, name: &str) -> Option<Volume> {
    let text = p.read(Query::Volume(name.into())).await.ok()?;
    serde_json::from_str(&text).ok()
}

/// The answer to a change of a volume.
async fn outcome<P: Ports>(p: &P, d: &Decided, name: &str, message: String, waits: Option<String>) -> VolumeOutcome {
    VolumeOutcome {
        message,
        done: waits.is_none(),
        waiting_for: waits,
        revision: d.revision,
        volume: if d.dry_run { None } else { shown(p, name).await },
        would_place: None,
        dry_run: d.dry_run,
    }
}

pub(super) fn named(name: &str) -> Result<(), Problem> {
    valid_name(name)
        .map_err(|why| Problem::new(Code::Invalid, format!("volume name \"{name}\"")).because(why).at("/name"))
}

async fn liveness<P: Ports>(p: &P) -> Result<plan::Liveness, Problem> {
    p.liveness().await.ok_or_else(|| {
        Problem::new(Code::NoLeader, "no metadata leader answers").because("so it is unknown which nodes live")
    })
}

/// Creates a volume, and waits until its replicas are made.
pub async fn create<P: Ports>(p: &P, call: &Call, input: &NewVolume) -> Result<VolumeOutcome, Problem> {
    may(&call.caller, Verb::VolumeCreate)?;
    named(&input.name)?;
    let attrs = input.spec.attrs()?;
    Policy::from_attrs(&attrs).map_err(|e| Problem::from(&e).at("/spec"))?;
    begin(p, call, Verb::VolumeCreate).await?;
    let live = liveness(p).await?;
    let lineage = Lineage(p.random());
    let mut placed = Vec::new();
    let made = decided(p, call, |s| {
        placed = plan::create_volume(s, &live, &input.name, &attrs, call.request.0 as u64)?;
        Ok(Command::CreateVolume { name: input.name.clone(), attrs: attrs.clone(), lineage, shards: placed.clone() })
    });
    let d = made.await?;
    let name = &input.name;
    if d.dry_run {
        let would = placed.iter().map(|shard| shard.iter().map(|disk| disk.0).collect()).collect();
        let out = outcome(p, &d, name, format!("volume {name} can be created"), None).await;
        return Ok(VolumeOutcome { would_place: Some(would), ..out });
    }
    let Reply::Volume(id) = d.reply else {
        return Err(Problem::new(Code::Internal, format!("a create was answered with {:?}", d.reply)));
    };
    // By its number: when a request is repeated, the name may be another volume's.
    let see = |s: &hf_meta_core::ClusterState| match s.volumes.get(&id) {
        Some(v) => v.ready().then_some(true),
        None => Some(false),
    };
    let waits = match d.unseen() {
        Some(why) => Some(why),
        None => match until(p, call.wait_ms.unwrap_or(READY_MS), see).await {
            Some(true) => None,
            Some(false) => {
                let gone = format!("volume {name} was created, and has been deleted since");
                return Ok(VolumeOutcome { volume: None, ..outcome(p, &d, name, gone, None).await });
            }
            None => Some("its replicas are still being created on their nodes".to_string()),
        },
    };
    let message = match &waits {
        None => format!("volume {name} created"),
        Some(_) => format!("volume {name} is recorded, but not ready yet"),
    };
    let now = p.view().volumes.get(&id).map_or_else(|| name.clone(), |v| v.name.clone());
    Ok(outcome(p, &d, &now, message, waits).await)
}

/// Changes a policy, and waits until the change is in force.
pub async fn set<P: Ports>(p: &P, call: &Call, name: &str, input: &PolicyChange) -> Result<VolumeOutcome, Problem> {
    may(&call.caller, Verb::VolumeSet)?;
    let change = input.spec.attrs()?;
    if change.is_empty() {
        return Err(Problem::new(Code::Invalid, "the request changes nothing").so("name an attribute").at("/spec"));
    }
    changed(p, call, name, change).await
}

/// Changes the size of a volume.
pub async fn resize<P: Ports>(p: &P, call: &Call, name: &str, input: &Resize) -> Result<VolumeOutcome, Problem> {
    may(&call.caller, Verb::VolumeSet)?;
    let spec = VolumeSpec([("size".to_string(), input.size.clone())].into());
    changed(p, call, name, spec.attrs().map_err(|e| e.at("/size"))?).await
}

async fn changed<P: Ports>(p: &P, call: &Call, name: &str, change: AttrMap) -> Result<VolumeOutcome, Problem> {
    begin(p, call, Verb::VolumeSet).await?;
    let live = liveness(p).await?;
    let mut known = None;
    let d = decided(p, call, |s| {
        let v = find(s, call, name, &mut known)?;
        hf_policy::policy::change_online(&v.attrs, &change).map_err(|e| Problem::from(&e).at("/spec"))?;
        let new_shards = plan::set_policy(s, &live, &v, &change, call.request.0 as u64)?;
        Ok(Command::SetPolicy { vol: v.id, epoch: v.epoch, change: change.clone(), new_shards })
    })
    .await?;
    if d.dry_run {
        return Ok(outcome(p, &d, name, format!("volume {name} can be changed"), None).await);
    }
    let now = known.and_then(|id| p.view().volumes.get(&id).map(|v| (id, v.epoch)));
    let waits = match now {
        _ if !d.shown => d.unseen(),
        _ if call.wait_ms == Some(0) => Some("nobody waited for it".to_string()),
        Some((vol, epoch)) => p.in_force(vol, epoch).await.err(),
        None => None, // Lawful: the request is repeated, and the volume has been deleted since.
    };
    let message = match &waits {
        None => format!("volume {name} changed"),
        Some(_) => format!("volume {name}: the change is recorded, but not in force yet"),
    };
    Ok(outcome(p, &d, name, message, waits).await)
}

/// Gives a detached volume another name.
pub async fn rename<P: Ports>(p: &P, call: &Call, name: &str, input: &Rename) -> Result<VolumeOutcome, Problem> {
    named(&input.name)?;
    let mut known = None;
    let d = decide(p, call, Verb::VolumeRename, |s| {
        let v = find(s, call, name, &mut known)?;
        Ok(Command::RenameVolume { vol: v.id, epoch: v.epoch, name: input.name.clone() })
    })
    .await?;
    if d.dry_run {
        return Ok(outcome(p, &d, name, format!("volume {name} can be renamed to {}", input.name), None).await);
    }
    Ok(outcome(p, &d, &input.name, format!("volume {name} is {} now", input.name), d.unseen()).await)
}

/// Deletes a detached volume and its data.
pub async fn delete<P: Ports>(p: &P, call: &Call, name: &str) -> Result<Outcome, Problem> {
    let mut known = None;
    let d = decide(p, call, Verb::VolumeDelete, |s| {
        let v = find(s, call, name, &mut known)?;
        Ok(Command::DeleteVolume { vol: v.id, epoch: v.epoch })
    })
    .await?;
    Ok(super::done(&d, format!("volume {name} deleted")))
}

/// Begins a scrub of a volume.
pub async fn scrub<P: Ports>(p: &P, call: &Call, name: &str) -> Result<VolumeOutcome, Problem> {
    let mut known = None;
    let d = decide(p, call, Verb::VolumeScrub, |s| {
        let v = find(s, call, name, &mut known)?;
        Ok(Command::Scrub { vol: v.id, epoch: v.epoch, on: true })
    })
    .await?;
    let said = super::said(&d, format!("volume {name} is being scrubbed; watch it with holdfast job list"));
    Ok(outcome(p, &d, name, said, d.unseen()).await)
}

fn unchanged<P: Ports>(p: &P, call: &Call) -> Decided {
    Decided { reply: hf_meta_core::Reply::Done, revision: p.view().revision, dry_run: call.dry_run, shown: true }
}

/// Refuses an attachment that would be refused, as far as that shows without asking the node.
async fn can_attach<P: Ports>(p: &P, v: &VolumeRecord, node: NodeId, force: bool) -> Result<(), Problem> {
    let up = liveness(p).await?.up;
    if !up.contains(&node) {
        let name = p.view().node_name(node);
        return Err(Problem::new(Code::NodeSilent, format!("node {name} does not answer"))
            .so("start it, or attach on another node"));
    }
    let held = v.coordinator.as_ref().filter(|a| !a.maintenance);
    if held.is_some_and(|a| a.node == node) {
        return Ok(()); // Lawful: it is attached there already.
    }
    let steal = force || held.is_some_and(|a| !up.contains(&a.node));
    let session = SessionId(p.random());
    let (vol, epoch) = (v.id, v.epoch);
    tried(p, Command::Attach { vol, epoch, node, session, steal, maintenance: false }).map(|_| ())
}

/// Attaches a volume to a node, which exports it to clients.
pub async fn attach<P: Ports>(p: &P, call: &Call, name: &str, input: &Attach) -> Result<VolumeOutcome, Problem> {
    begin(p, call, Verb::VolumeAttach).await?;
    let state = p.view();
    // The epoch may be another one because this very request was done before.
    let done = call.if_epoch.is_some() && matches!(p.outcome_of(call.request).await, Some(Ok(_)));
    let v = find(&state, &Call { if_epoch: call.if_epoch.filter(|_| !done), ..call.clone() }, name, &mut None)?;
    let target = match &input.node {
        None => p.here(),
        Some(n) => super::node_of(&state, n)?.id,
    };
    let on = state.node_name(target);
    if call.dry_run {
        can_attach(p, &v, target, input.force).await?;
        return Ok(outcome(
            p,
            &unchanged(p, call),
            name,
            format!("volume {name} would be attached on node {on}"),
            None,
        )
        .await);
    }
    let verb = NodeVerb::Attach { volume: name.into(), force: input.force, request: call.request };
    let answer = p.on_node(target, verb).await.map_err(|e| match e.code {
        Code::NodeSilent => e.so("start it, or attach on another node"),
        _ => e,
    })?;
    p.freshen().await;
    let (message, waits) = match answer {
        NodeAnswer::Attached { already: true, .. } => (format!("volume {name} is already attached on node {on}"), None),
        NodeAnswer::Attached { ms, .. } => (format!("volume {name} attached on node {on} in {ms} ms"), None),
        NodeAnswer::Waits(why) => (format!("volume {name} is attached on node {on}, but not served yet"), Some(why)),
        other => return Err(Problem::new(Code::Internal, format!("node {on} answered {other:?} to an attach"))),
    };
    if waits.is_none() {
        heard(p, name).await;
    }
    let out = outcome(p, &unchanged(p, call), name, message, waits).await;
    let attachment = out.volume.as_ref().and_then(|v| v.attachment.as_ref()).filter(|_| out.done);
    let at = attachment.map(|a| a.uris.first().map_or("not exported (exports=none)", String::as_str));
    let message = match at {
        Some(at) => format!("{}: {at}", out.message),
        None => out.message,
    };
    Ok(VolumeOutcome { message, ..out })
}

/// Waits until the leader has heard that the volume is served, so that what is read next says so.
async fn heard<P: Ports>(p: &P, name: &str) {
    let end = p.now_ms() + HEARD_MS;
    while p.now_ms() < end {
        let serving = shown(p, name).await.and_then(|v| v.attachment).and_then(|a| a.serving);
        if serving == Some(true) {
            return;
        }
        p.changed(p.view().revision, 50).await;
    }
}

/// Detaches a volume: open requests are answered, then its connections are closed.
pub async fn detach<P: Ports>(p: &P, call: &Call, name: &str) -> Result<VolumeOutcome, Problem> {
    begin(p, call, Verb::VolumeDetach).await?;
    let state = p.view();
    let v = find(&state, call, name, &mut None)?;
    // A node that only looks after its replicas has nothing that could be detached.
    let Some(a) = v.coordinator.as_ref().filter(|a| !a.maintenance || a.home.is_some()) else {
        return Ok(outcome(p, &unchanged(p, call), name, format!("volume {name} is not attached"), None).await);
    };
    if call.dry_run {
        return Ok(outcome(p, &unchanged(p, call), name, format!("volume {name} would be detached"), None).await);
    }
    let on = state.node_name(a.node);
    let answer = p.on_node(a.node, NodeVerb::Detach { volume: name.into() }).await.map_err(|e| match e.code {
        Code::NodeSilent => {
            Problem::new(Code::NodeSilent, format!("node {on}, where volume {name} is attached, does not answer"))
                .because(e.why)
                .so("attach it elsewhere with --force, which takes it from that node")
        }
        _ => e,
    })?;
    p.freshen().await;
    let (message, waits) = match answer {
        NodeAnswer::Detached => (format!("volume {name} detached"), None),
        NodeAnswer::Waits(why) => (
            format!("volume {name} is no longer exported, but not detached yet"),
            Some(format!("{why}. The detach goes on; an attach of the volume ends those requests with an error")),
        ),
        other => return Err(Problem::new(Code::Internal, format!("node {on} answered {other:?} to a detach"))),
    };
    Ok(outcome(p, &unchanged(p, call), name, message, waits).await)
}

/// The recent history of a volume, from the node to which it is attached.
pub async fn stats<P: Ports>(p: &P, call: &Call, name: &str) -> Result<crate::model::VolumeStats, Problem> {
    may(&call.caller, Verb::VolumeRead)?;
    p.freshen().await;
    let state = p.view();
    let v = find(&state, call, name, &mut None)?;
    let Some(a) = v.coordinator.as_ref().filter(|a| !a.maintenance) else {
        return Ok(crate::model::VolumeStats {
            volume: name.into(),
            node: None,
            interval_seconds: INTERVAL,
            points: Vec::new(),
        });
    };
    match p.on_node(a.node, NodeVerb::Stats { volume: name.into() }).await? {
        NodeAnswer::Stats(s) => Ok(s),
        other => Err(Problem::new(Code::Internal, format!("a node answered {other:?} to a read of its history"))),
    }
}
