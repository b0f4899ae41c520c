//! Nodes and disks.

use crate::command::{Command, Envelope, Outcome, Refusal, Reply};
use crate::record::*;
use hf_policy::policy::valid_name;
use hf_policy::{ClusterId, DiskId, NodeId};

impl ClusterState {
    pub(super) fn init(&mut self, cluster: ClusterId, name: &str) -> Outcome {
        if self.cluster.is_some() {
            return Err(Refusal::Invalid(format!("this cluster is initialised already, as \"{}\"", self.name)));
        }
        self.cluster = cluster;
        self.name = name.into();
        Ok(Reply::Done)
    }

    pub(super) fn put_node(&mut self, env: &Envelope) -> Outcome {
        let Command::PutNode { name, uuid, addr, labels, version } = &env.cmd else { return Ok(Reply::Done) };
        valid_name(name).map_err(|why| Refusal::Invalid(format!("node name \"{name}\": {why}")))?;
        let same_name = self.nodes.values().find(|n| n.name == *name);
        if same_name.is_some_and(|n| n.uuid != *uuid) {
            return Err(Refusal::Exists { kind: "node".into(), name: name.clone() });
        }
        let known = self.nodes.values().find(|n| n.uuid == *uuid).cloned();
        let id = known.as_ref().map_or(NodeId(self.next.node), |n| n.id);
        let record = NodeRecord {
            id,
            name: name.clone(),
            uuid: *uuid,
            addr: addr.clone(),
            labels: labels.clone(),
            version: version.clone(),
            rev: self.revision,
        };
        match known {
            Some(n) if (NodeRecord { rev: n.rev, ..record.clone() }) == n => return Ok(Reply::Node(id)),
            Some(_) => self.event(env.at_ms, "node.updated", name.clone(), format!("node {name} is at {}", addr.api)),
            None => {
                self.next.node += 1;
                self.event(env.at_ms, "node.joined", name.clone(), format!("node {name} joined at {}", addr.api));
            }
        }
        self.nodes.insert(id, record);
        Ok(Reply::Node(id))
    }

    pub(super) fn put_disk(&mut self, env: &Envelope) -> Outcome {
        let Command::PutDisk { node, uuid, path, media, capacity } = &env.cmd else { return Ok(Reply::Done) };
        if !self.nodes.contains_key(node) {
            return Err(Refusal::NotFound { kind: "node".into(), name: format!("#{node}") });
        }
        let known = self.disks.values().find(|d| d.uuid == *uuid).cloned();
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
                "disk.added",
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
            rev: self.revision,
        };
        self.disks.insert(id, record);
        Ok(Reply::Disk(id))
    }

    pub(super) fn set_disk_state(&mut self, at_ms: u64, disk: DiskId, state: &DiskState) -> Outcome {
        let rev = self.revision;
        let Some(d) = self.disks.get_mut(&disk) else {
            return Err(Refusal::NotFound { kind: "disk".into(), name: format!("#{disk}") });
        };
        d.state = state.clone();
        d.rev = rev;
        let (node, path) = (d.node, d.path.clone());
        let name = self.node_name(node);
        let text = match state {
            DiskState::Ok => format!("disk {disk} of node {name} is in service"),
            DiskState::Failed(why) => format!("disk {disk} of node {name} failed: {why}"),
        };
        let kind = if *state == DiskState::Ok { "disk.ok" } else { "disk.failed" };
        self.event(at_ms, kind, format!("{name}:{path}"), text);
        Ok(Reply::Done)
    }
}
