//! The protocol's durations (docs/protocol.md §10), in microseconds of the node's monotonic clock.

use hf_meta_core::mutant::{self, Mutant};
use hf_policy::MS;

/// A lease, as the coordinator counts it: from the moment it sent the request.
pub const LEASE: u64 = 2_000 * MS;
/// A lease, as the replica counts it: from the moment it received the request, with 5 % for clock rates that differ.
pub const LEASE_AT_REPLICA: u64 = LEASE + LEASE / 20;
/// How often leases are renewed while there are reads.
pub const LEASE_EVERY: u64 = LEASE / 5;
/// How often an idle coordinator asks its members for a sign of life.
pub const IDLE_EVERY: u64 = LEASE;
/// Silence of an idle member after which it is dropped.
pub const DEAD: u64 = 5_000 * MS;
/// After the first seal, how long the other members may take.
pub const SEAL: u64 = 1_000 * MS;
/// How often a seal is repeated.
pub const SEAL_EVERY: u64 = 200 * MS;
/// A lost connection with writes waiting: how long it may take to come back.
pub const RECONNECT: u64 = 100 * MS;
/// After a failed sync, how long until the next attempt; doubled as long as it gets nowhere.
pub const SYNC_RETRY: u64 = 500 * MS;
/// At most this long.
pub const SYNC_RETRY_MAX: u64 = 15_000 * MS;
/// A replica persists its watermark at most this often.
pub const STABLE_EVERY: u64 = 2_000 * MS;

/// How long a lease is that is granted now.
pub(crate) fn lease_granted() -> u64 {
    match () {
        () if mutant::is(Mutant::ShortLeaseAtReplica) => LEASE_AT_REPLICA / 16,
        () if mutant::is(Mutant::LeaseMarginIgnored) => LEASE,
        () => LEASE_AT_REPLICA,
    }
}
