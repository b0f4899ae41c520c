//! What the API calls a resource, by the record.

use super::jobs;
use super::key::Key;
use hf_meta_core::ClusterState;

impl Key {
    /// The name by which the API calls it in this state; none if it is not there.
    pub fn name(self, state: &ClusterState) -> Option<String> {
        match self {
            Key::Volume(id) => state.volumes.get(&id).map(|v| v.name.clone()),
            Key::Node(id) => state.nodes.get(&id).map(|n| n.name.clone()),
            Key::Disk(id) => state.disks.contains_key(&id).then(|| id.to_string()),
            Key::Job(job) => jobs::name(state, job),
            Key::Event(rev) => Some(rev.to_string()),
            Key::Health | Key::Cluster => Some(self.kind().word().into()),
        }
    }
}
