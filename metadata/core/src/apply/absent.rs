//! Refusals of commands about what is not there.

use crate::outcome::Refusal;
use hf_policy::Rid;

pub(super) fn no_replica(rid: Rid) -> Refusal {
    Refusal::NotFound { kind: "replica".into(), name: format!("#{rid}") }
}

pub(super) fn no_shard(shard: u32) -> Refusal {
    Refusal::NotFound { kind: "shard".into(), name: format!("#{shard}") }
}
