//! The protocol's durations (docs/protocol.md §10), in microseconds of the node's monotonic clock.

use hf_meta_core::mutant::{self, Mutant};
use hf_policy::MS;

/// The length of a lease, which the coordinator counts from the moment it sent the request.
pub const LEASE: u64 = 2_000 * MS;
/// The length of a lease at the replica, which counts it from the moment it received the request: 5
/// % longer, for clocks whose rates differ.
pub const LEASE_AT_REPLICA: u64 = LEASE + LEASE / 20;
/// How often leases are renewed while there are reads.
pub const LEASE_EVERY: u64 = LEASE / 5;
/// How often an idle coordinator asks its members for a sign of life.
pub const IDLE_EVERY: u64 = LEASE;
/// An idle member that is silent for this long is dropped.
pub const DEAD: u64 = 5_000 * MS;
/// How long the other members may take after the first one was sealed.
pub const SEAL: u64 = 1_000 * MS;
/// How often a seal is repeated.
pub const SEAL_EVERY: u64 = 200 * MS;
/// How long a lost connection may take to come back while writes wait for it.
pub const RECONNECT: u64 = 100 * MS;
/// How long after a failed sync the next attempt is made; doubled as long as attempts make no progress.
pub const SYNC_RETRY: u64 = 500 * MS;
/// The longest time until the next attempt.
pub const SYNC_RETRY_MAX: u64 = 15_000 * MS;
/// A replica persists its watermark at most this often.
pub const STABLE_EVERY: u64 = 2_000 * MS;

/// The length of a lease that a replica grants now.
pub(crate) fn lease_granted() -> u64 {
    match () {
        () if mutant::is(Mutant::ShortLeaseAtReplica) => LEASE_AT_REPLICA / 16,
        () if mutant::is(Mutant::LeaseMarginIgnored) => LEASE,
        () => LEASE_AT_REPLICA,
    }
}
