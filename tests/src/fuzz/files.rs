//! Fuzz targets of the files that a node reads: those of its data directory, and its
//! administrator's configuration.

use hf_host_config::{config, identity::Identity};
use hf_meta_core::{ClusterState, image};

/// Parses `node.json`, the node's identity.
pub(super) fn node_identity(data: &[u8]) {
    match Identity::parse(data) {
        Ok(id) => {
            let again = id.encode().expect("what was read can be written");
            assert_eq!(Identity::parse(&again).ok(), Some(id));
        }
        // Says why.
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

/// The configuration file, and the daemon's checks of its values.
pub(super) fn node_config(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    let _ = config::is_address(text);
    let Ok(f) = config::File::parse(text) else { return };
    for v in [&f.api, &f.data, &f.nbd, &f.http].into_iter().flatten() {
        assert!(!config::is_address(v) || v.contains(':'));
    }
    let _ = f.name.as_deref().map(hf_policy::policy::valid_name);
    let _ = f.replace_voter_after.as_deref().map(hf_policy::parse_duration_us);
    for d in &f.disk {
        let _ = d.size.as_deref().map(hf_policy::parse_size);
    }
}

/// `view.json`: the last state of the cluster that a follower knew. A rescue reads and judges it
/// too.
pub(super) fn cluster_view(data: &[u8]) {
    let Ok(s) = serde_json::from_slice::<ClusterState>(data) else { return };
    let _ = s.check();
    for v in s.volumes.values() {
        let _ = (v.ready(), v.made_size(), v.replicas().count());
        let _ = v.shards.iter().map(|x| x.in_sync().len()).sum::<usize>();
        for i in 0..v.shards.len() as u32 {
            let _ = (v.shard_bytes(i), v.shard_made(i), v.served_term(i));
        }
    }
    let again = image::encode(&s).expect("what was read can be written");
    assert_eq!(image::decode(&again).ok(), Some(s.clone()));
    // A follower that has nothing gets all of it; one that has all of it gets nothing.
    let mut follower = ClusterState::default();
    if let Some(d) = s.delta_since(0) {
        follower.follow(d).expect("a whole state always follows");
    }
    assert_eq!(follower.revision, s.revision);
    assert_eq!(s.delta_since(s.revision), None);
}
