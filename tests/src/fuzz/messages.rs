//! What nodes and clients say to each other on the control plane. The first byte chooses the message.

use hf_control::model::{NewVolume, VolumeSpec};
use hf_control::ports::NodeAnswer;
use hf_control::read::Query;
use hf_meta_core::view::Delta;
use hf_meta_core::{ClusterState, Outcome};
use hf_meta_proto::pb;
use prost::Message;
use raft::eraftpb;

/// A change of the record, as followers get it.
pub(super) fn watch_delta(data: &[u8]) {
    let Ok(delta) = serde_json::from_slice::<Delta>(data) else { return };
    let again = serde_json::to_vec(&delta).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<Delta>(&again).ok(), Some(delta.clone()));
    let mut s = ClusterState::default();
    if let Delta::Changes { from, .. } = &delta {
        s.revision = *from;
    }
    if s.follow(delta).is_ok() {
        let _ = s.check();
        let from = s.revision.saturating_sub(1);
        let _ = s.delta_since(from);
    }
}

/// Any message that a server or a client of ours decodes.
pub(super) fn grpc_message(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 12 {
        0 => drop(round_trip::<pb::RaftRequest>(body)),
        1 => drop(round_trip::<pb::ProposeRequest>(body).map(|p| hf_meta_core::Envelope::decode(&p.envelope))),
        2 => drop(round_trip::<pb::ProposeReply>(body).map(|r| serde_json::from_slice::<Outcome>(&r.outcome))),
        3 => drop(round_trip::<pb::JoinRequest>(body)),
        4 => drop(round_trip::<pb::JoinReply>(body)),
        5 => drop(round_trip::<pb::WatchRequest>(body)),
        6 => drop(round_trip::<pb::HeartbeatRequest>(body)),
        7 => drop(round_trip::<pb::AskRequest>(body).map(|r| serde_json::from_str::<Query>(&r.what))),
        8 => drop(round_trip::<pb::AskReply>(body).map(|r| serde_json::from_str::<NodeAnswer>(&r.answer))),
        9 => drop(round_trip::<pb::FollowRequest>(body)),
        10 => drop(round_trip::<pb::FollowItem>(body)),
        _ => drop(round_trip::<pb::HeartbeatReply>(body)),
    }
}

fn round_trip<M: Message + Default + PartialEq + Clone>(body: &[u8]) -> Option<M> {
    let m = M::decode(body).ok()?;
    assert!(M::decode(m.encode_to_vec().as_slice()).is_ok_and(|again| again == m));
    Some(m)
}

/// What the API does with the body of a request for a new volume. A policy that is taken is shown, and what is shown
/// is taken again for the same.
pub(super) fn new_volume(text: &str) {
    let Ok(new) = serde_json::from_str::<NewVolume>(text) else { return };
    let Ok(attrs) = new.spec.attrs() else { return };
    if hf_policy::Policy::from_attrs(&attrs).is_ok() {
        let shown = VolumeSpec::shown(&attrs);
        let again = shown.attrs().expect("a policy is shown as it may be given");
        assert_eq!(VolumeSpec::shown(&again), shown);
    }
}

/// Raft's messages, and what its log and its configuration are stored as.
pub(super) fn raft_message(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 6 {
        0 => old_round_trip::<eraftpb::Message>(body),
        1 => old_round_trip::<eraftpb::Entry>(body),
        2 => old_round_trip::<eraftpb::Snapshot>(body),
        3 => old_round_trip::<eraftpb::HardState>(body),
        4 => old_round_trip::<eraftpb::ConfChange>(body),
        _ => old_round_trip::<eraftpb::ConfChangeV2>(body),
    }
}

fn old_round_trip<M: prost_old::Message + Default + PartialEq>(body: &[u8]) {
    if let Ok(m) = M::decode(body) {
        assert!(M::decode(m.encode_to_vec().as_slice()).is_ok_and(|again| again == m));
    }
}
