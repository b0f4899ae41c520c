//! What is told of the attached volumes: where they stand, and what their clients have done.

use super::host::{VolumeHost, Volumes};
use crate::status::{ReactorLoad, VolumeLoad, VolumeStatus};
use hf_repl_core::Coordinator;

impl Volumes {
    /// Where each volume stands.
    pub fn status(&self) -> Vec<VolumeStatus> {
        self.all.values().map(status).collect()
    }

    /// What clients have done on each volume, and on all that there were.
    pub fn load(&self) -> ReactorLoad {
        let mut latency = self.ended.borrow().clone();
        self.all.values().for_each(|h| latency.add(&h.intake.latency.counted()));
        let volumes = self.all.values().filter(|h| !h.over).map(load).collect();
        ReactorLoad { volumes, latency }
    }
}

fn status(h: &VolumeHost) -> VolumeStatus {
    VolumeStatus {
        vol: h.vol,
        session: h.session,
        over: h.over,
        shards: h.shards.iter().map(Coordinator::status).collect(),
        connections: h.intake.connections(),
        requests: h.intake.slots.taken(),
        payload: h.intake.payload.taken(),
        writes: h.requests.writes(),
    }
}

fn load(h: &VolumeHost) -> VolumeLoad {
    let bytes = h.shards.iter().map(Coordinator::bytes);
    let (read_bytes, written_bytes) = bytes.fold((0, 0), |(r, w), (dr, dw)| (r + dr, w + dw));
    VolumeLoad { vol: h.vol, session: h.session, latency: h.intake.latency.counted(), read_bytes, written_bytes }
}
