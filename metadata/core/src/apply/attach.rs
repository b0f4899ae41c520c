//! Attach, the only command that gives a volume to a node and raises its term for that (I1); detach; activated.

use super::misrouted;
use crate::command::{Command, Envelope};
use crate::mutant::{self, Mutant};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::record::*;
use hf_policy::{SessionId, Term, VolumeId, invariant};

impl ClusterState {
    pub(super) fn attach(&mut self, env: &Envelope) -> Outcome {
        let Command::Attach { vol, epoch, node, session, steal, maintenance } = &env.cmd else {
            return misrouted(env);
        };
        let mut v = self.volume_at(*vol, *epoch)?.clone();
        if !self.nodes.contains_key(node) {
            return Err(Refusal::NotFound { kind: "node".into(), name: format!("#{node}") });
        }
        let can = if env.v < 2 { v.ready() } else { v.attachable() };
        if !can {
            return Err(Refusal::NotReady(v.name));
        }
        // A node that only looks after replicas gives way to every node that wants the volume.
        if let Some(a) = v.coordinator.as_ref().filter(|a| !*steal && (*maintenance || !a.maintenance)) {
            return Err(Refusal::Attached { volume: v.name.clone(), node: self.node_name(a.node) });
        }
        if v.term == Term(u32::MAX) {
            return Err(Refusal::Invalid("the volume's terms are used up".into()));
        }
        let before = v.term;
        if !mutant::is(Mutant::AttachKeepsTerm) || v.term == Term(0) {
            v.term = v.term.next();
        }
        let raised = v.term > before || mutant::is(Mutant::AttachKeepsTerm);
        invariant!(raised, "volume {vol} is given away in the term of its last coordinator, {}", before.0);
        let home = v.coordinator.as_ref().filter(|_| *maintenance).and_then(|a| match a.maintenance {
            true => a.home,
            false => Some(a.node),
        });
        let taken = v.coordinator.replace(Attachment {
            node: *node,
            session: *session,
            since_ms: env.at_ms,
            maintenance: *maintenance,
            home,
        });
        let (name, term) = (v.name.clone(), v.term);
        self.put_volume(v);
        let at = self.node_name(*node);
        let text = match taken {
            _ if home.is_some() => {
                let away = self.node_name(home.unwrap_or_default());
                format!("volume {name}: node {at} looks after its replicas while node {away} is away, term {}", term.0)
            }
            _ if *maintenance => format!("volume {name}: node {at} looks after its replicas, term {}", term.0),
            Some(old) => {
                format!("volume {name} taken from node {} by node {at}, term {}", self.node_name(old.node), term.0)
            }
            None => format!("volume {name} attached on node {at}, term {}", term.0),
        };
        self.event(env.at_ms, EventKind::VolumeAttached, name, text);
        Ok(Reply::Attached(term))
    }

    pub(super) fn detach(&mut self, at_ms: u64, vol: VolumeId, session: SessionId) -> Outcome {
        let mut v = self.volume(vol)?.clone();
        match v.coordinator.as_ref() {
            // The session is nobody's: the node begins one of its own when it is back (I19).
            Some(a) if a.session == session => {
                v.coordinator = a.home.map(|node| Attachment {
                    node,
                    session: SessionId::NONE,
                    since_ms: at_ms,
                    maintenance: false,
                    home: None,
                });
            }
            _ => return Err(Refusal::NotAttached),
        }
        let name = v.name.clone();
        if let Some(a) = v.coordinator.clone() {
            self.put_volume(v);
            let text = format!("volume {name} waits for node {}, which has it attached", self.node_name(a.node));
            self.event(at_ms, EventKind::VolumeWaits, name, text);
            return Ok(Reply::Done);
        }
        self.put_volume(v);
        self.event(at_ms, EventKind::VolumeDetached, name.clone(), format!("volume {name} detached"));
        Ok(Reply::Done)
    }

    /// Records the term that is served. It does not raise the epoch, so that it cannot collide with a
    /// membership change.
    pub(super) fn activated(&mut self, vol: VolumeId, term: Term) -> Outcome {
        let rev = self.revision;
        let now = self.volume(vol)?.term;
        if now != term {
            return Err(Refusal::StaleTerm { now: now.0 });
        }
        let done = self.volumes.update(&vol, |v| {
            invariant!(v.activated <= term, "volume {vol} was served in term {}, after {}", v.activated.0, term.0);
            (v.activated, v.rev) = (term, rev);
        });
        invariant!(done.is_some(), "volume {vol} was there a moment ago");
        Ok(Reply::Done)
    }
}
