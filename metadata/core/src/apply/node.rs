//! Nodes and disks.

use super::misrouted;
use crate::command::{Command, Envelope};
use crate::mutant::{self, Mutant};
use crate::outcome::{Outcome, Refusal, Reply};
use crate::record::*;
use hf_policy::policy::valid_name;
use hf_policy::{ClusterId, DiskId, NodeId, invariant};
use std::sync::Arc;

impl ClusterState {
    pub(super) fn init(&mut self, cluster: ClusterId, name: &str) -> Outcome {
        if self.cluster.is_some() {
            return Err(Refusal::State(format!("this cluster is initialised already, as \"{}\"", self.name)));
        }
        self.cluster = cluster;
        self.name = name.into();
        Ok(Reply::Done)
    }

    pub(super) fn put_node(&mut self, env: &Envelope) -> Outcome {
        let Command::PutNode { name, node, uuid, addr, labels, version, log } = &env.cmd else {
            return misrouted(env);
        };
        valid_name(name).map_err(|why| Refusal::Invalid(format!("node name \"{name}\": {why}")))?;
        let same_name = self.node_named(name);
        if same_name.is_some_and(|n| n.uuid != *uuid) {
            return Err(Refusal::Exists { kind: "node".into(), name: name.clone() });
        }
        let known = self.node_of_uuid(*uuid).cloned();
        if let (Some(number), None) = (node, &known) {
            return Err(Refusal::Invalid(format!(
                "node {name} (#{number}) was removed from the cluster; to take part again it needs an empty data_dir, and joins anew"
            )));
        }
        let id = known.as_ref().map_or(NodeId(self.next.node), |n| n.id);
        let mut own = known.as_ref().map_or(LogRecord::default(), |n| n.log);
        own.told(log);
        let record = NodeRecord {
            id,
            name: name.clone(),
            uuid: *uuid,
            addr: addr.clone(),
            labels: labels.clone(),
            version: version.clone(),
            mode: known.as_ref().map_or(NodeMode::Active, |n| n.mode),
            drain_paused: known.as_ref().is_some_and(|n| n.drain_paused),
            log: own,
            rev: self.revision,
        };
        match known {
            Some(n) if (NodeRecord { rev: n.rev, ..record.clone() }) == *n => return Ok(Reply::Node(id)),
            // The node was started anew at the same place: no event.
            Some(n) if (NodeRecord { rev: n.rev, log: n.log, ..record.clone() }) == *n => {}
            Some(_) => {
                self.event(env.at_ms, EventKind::NodeUpdated, name.clone(), format!("node {name} is at {}", addr.api))
            }
            None => {
                self.next.node += 1;
                self.event(
                    env.at_ms,
                    EventKind::NodeJoined,
                    name.clone(),
                    format!("node {name} joined at {}", addr.api),
                );
            }
        }
        let old = self.nodes.insert(record);
        invariant!(old.is_none_or(|n| n.uuid == *uuid), "node {id} took another one's number");
        Ok(Reply::Node(id))
    }

    /// Records which nodes are voters or learners of the metadata group from now on, and that the seat of each is that
    /// of its present log. It follows from a configuration in Raft's log, so that all members do it at the same entry.
    /// It looks at every node, but at no volume.
    pub fn set_members(&mut self, members: &[NodeId]) {
        let place = |n: &NodeRecord| n.log.member.filter(|_| members.contains(&n.id));
        let now = |n: &NodeRecord| place(n).or((members.contains(&n.id) && n.log.nth > 0).then_some(n.log.nth));
        let gone = |n: &NodeId| !members.contains(n);
        if self.nodes.values().all(|n| n.log.member == now(n)) && !self.removed_members.keys().any(gone) {
            return; // Lawful: most changes of a configuration do not change who is a member.
        }
        self.revision += 1;
        self.removed_members.retain(|n| members.contains(&n.id));
        let rev = self.revision;
        let changed: Vec<_> = self.nodes.values().filter(|n| n.log.member != now(n)).map(|n| (n.id, now(n))).collect();
        for (id, member) in changed {
            self.nodes.update(&id, |n| (n.log.member, n.rev) = (member, rev));
        }
    }

    pub(super) fn put_disk(&mut self, env: &Envelope) -> Outcome {
        let Command::PutDisk { node, uuid, path, media, capacity } = &env.cmd else { return misrouted(env) };
        if !self.nodes.contains_key(node) {
            return Err(Refusal::NotFound { kind: "node".into(), name: format!("#{node}") });
        }
        let known = self.disk_of_uuid(*uuid).cloned();
        if let Some(other) = known.as_ref().filter(|d| d.node != *node) {
            let owner = self.node_name(other.node);
            return Err(Refusal::Invalid(format!("disk {path} belongs to node {owner} of this cluster")));
        }
        let id = known.as_ref().map_or(DiskId(self.next.disk), |d| d.id);
        let state = known.as_ref().map_or(DiskState::Ok, |d| d.state.clone());
        if known.is_none() {
            self.next.disk += 1;
            let name = self.node_name(*node);
            self.event(
                env.at_ms,
                EventKind::DiskAdded,
                format!("{name}:{path}"),
                format!("node {name} added disk {id} at {path}"),
            );
        }
        let record = DiskRecord {
            id,
            node: *node,
            uuid: *uuid,
            path: path.clone(),
            media: *media,
            capacity: *capacity,
            state,
            draining: known.as_ref().is_some_and(|d| d.draining),
            drain_paused: known.as_ref().is_some_and(|d| d.drain_paused),
            fault: known.as_ref().and_then(|d| d.fault),
            since_ms: known.as_ref().map_or(if env.v >= 3 { env.at_ms } else { 0 }, |d| d.since_ms),
            rev: self.revision,
        };
        let old = self.disks.insert(record);
        invariant!(old.is_none_or(|d| d.uuid == *uuid), "disk {id} took another one's number");
        Ok(Reply::Disk(id))
    }

    pub(super) fn set_node_mode(&mut self, at_ms: u64, node: NodeId, mode: NodeMode) -> Outcome {
        let rev = self.revision;
        let set = |n: &mut NodeRecord| {
            (n.mode, n.drain_paused, n.rev) = (mode, false, rev);
            n.name.clone()
        };
        let Some(name) = self.nodes.update(&node, set) else {
            return Err(Refusal::NotFound { kind: "node".into(), name: format!("#{node}") });
        };
        let text = match mode {
            NodeMode::Active => format!("node {name} is active"),
            NodeMode::Draining => format!("node {name} is being drained"),
            NodeMode::Maintenance => format!("node {name} is in maintenance"),
        };
        self.event(at_ms, EventKind::NodeMode, name, text);
        Ok(Reply::Done)
    }

    /// The volumes that still have replicas on some disks of a node, at most five by name; `None` if there are none.
    fn held(&self, node: NodeId, on: impl Fn(DiskId) -> bool) -> Option<String> {
        let has = |v: &&Arc<VolumeRecord>| v.replicas().any(|(_, r)| r.node == node && on(r.disk));
        let names: Vec<&str> = self.volumes_at(node).filter(has).map(|v| v.name.as_str()).take(5).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    pub(super) fn remove_node(&mut self, at_ms: u64, node: NodeId) -> Outcome {
        let Some(n) = self.nodes.get(&node).cloned() else {
            return Err(Refusal::NotFound { kind: "node".into(), name: format!("#{node}") });
        };
        if let Some(volumes) = self.held(node, |_| true) {
            let why =
                format!("node {} still holds replicas of {volumes}: drain it first (holdfast node drain)", n.name);
            return Err(Refusal::State(why));
        }
        if let Some(v) = self.volumes_at(node).find(|v| v.coordinator.as_ref().is_some_and(|a| a.node == node)) {
            let why =
                format!("volume {} is attached on node {}: detach it or attach it elsewhere first", v.name, n.name);
            return Err(Refusal::State(why));
        }
        if self.nodes.len() == 1 {
            return Err(Refusal::State("it is the cluster's only node".into()));
        }
        let disks: Vec<DiskId> = self.disks.values().filter(|d| d.node == node).map(|d| d.id).collect();
        for d in disks {
            self.disks.remove(&d);
            self.removed(Removed::Disk(d));
        }
        // No node is left that could delete their data, and the removed node is told nothing any more.
        let rids: Vec<_> = self.tombstones.values().filter(|t| t.node == node).map(|t| t.rid).collect();
        for rid in rids {
            self.tombstones.remove(&rid);
            self.removed(Removed::Tombstone(rid));
        }
        let gone = self.nodes.remove(&node);
        invariant!(gone.is_some(), "node {node} was there a moment ago");
        // If it is no member, it is forgotten when the configuration is looked at next.
        self.removed_members.insert(n.clone());
        self.removed(Removed::Node(node));
        self.event(at_ms, EventKind::NodeRemoved, n.name.clone(), format!("node {} removed", n.name));
        Ok(Reply::Done)
    }

    pub(super) fn set_disk_draining(&mut self, at_ms: u64, disk: DiskId, draining: bool) -> Outcome {
        let rev = self.revision;
        let set = |d: &mut DiskRecord| {
            (d.draining, d.drain_paused, d.rev) = (draining, false, rev);
            (d.node, d.path.clone())
        };
        let Some((node, path)) = self.disks.update(&disk, set) else {
            return Err(Refusal::NotFound { kind: "disk".into(), name: format!("#{disk}") });
        };
        let name = self.node_name(node);
        let word = if draining { "is being drained" } else { "is in use again" };
        self.event(
            at_ms,
            EventKind::DiskDraining,
            format!("{name}:{path}"),
            format!("disk {disk} of node {name} {word}"),
        );
        Ok(Reply::Done)
    }

    pub(super) fn remove_disk(&mut self, at_ms: u64, disk: DiskId) -> Outcome {
        let Some(d) = self.disks.get(&disk).cloned() else {
            return Err(Refusal::NotFound { kind: "disk".into(), name: format!("#{disk}") });
        };
        if let Some(volumes) = self.held(d.node, |d| d == disk) {
            let why = format!("disk {disk} still holds replicas of {volumes}: drain it first (holdfast disk drain)");
            return Err(Refusal::State(why));
        }
        self.disks.remove(&disk);
        self.removed(Removed::Disk(disk));
        let name = self.node_name(d.node);
        let text = format!("disk {disk} of node {name} ({}) removed", d.path);
        self.event(at_ms, EventKind::DiskRemoved, format!("{name}:{}", d.path), text);
        Ok(Reply::Done)
    }

    pub(super) fn set_disk_state(&mut self, env: &Envelope) -> Outcome {
        let Command::SetDiskState { disk, state, fault } = &env.cmd else { return misrouted(env) };
        let (rev, at_ms) = (self.revision, env.at_ms);
        let Some(d) = self.disks.get(disk) else {
            return Err(Refusal::NotFound { kind: "disk".into(), name: format!("#{disk}") });
        };
        // Reports may overtake each other: a disk that has failed stays failed until it is in service again.
        let late = matches!((&d.state, state), (DiskState::Failed(_), DiskState::Failing(_)));
        if late && env.v >= 2 && !mutant::is(Mutant::FailingForgetsFailed) {
            return Ok(Reply::Done); // Lawful, see above: it has failed already.
        }
        if env.v >= 3 && d.state == *state && d.fault == *fault {
            return Ok(Reply::Done); // Lawful: it is told again, and nothing has happened since.
        }
        let since_ms = match d.state.is_like(state) && d.fault == *fault {
            true => d.since_ms,
            false if env.v >= 3 => at_ms,
            false => 0,
        };
        let (node, path) = (d.node, d.path.clone());
        let set = |d: &mut DiskRecord| {
            (d.state, d.fault, d.since_ms, d.rev) = (state.clone(), *fault, since_ms, rev);
        };
        let done = self.disks.update(disk, set);
        invariant!(done.is_some(), "disk {disk} was there a moment ago");
        let name = self.node_name(node);
        let text = match state {
            DiskState::Ok => format!("disk {disk} of node {name} is in service"),
            DiskState::Failed(why) => format!("disk {disk} of node {name} failed: {why}"),
            DiskState::Failing(why) => {
                format!("disk {disk} of node {name} is failing: {why}; what it holds moves elsewhere")
            }
        };
        let kind = match state {
            DiskState::Ok => EventKind::DiskOk,
            DiskState::Failed(_) => EventKind::DiskFailed,
            DiskState::Failing(_) => EventKind::DiskFailing,
        };
        self.event(at_ms, kind, format!("{name}:{path}"), text);
        Ok(Reply::Done)
    }
}
