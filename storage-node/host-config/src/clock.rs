//! The node's monotonic clock and random numbers, which the daemon takes from the kernel and hands to the
//! pure packages.

use hf_policy::{MS, Tick};

/// A thread that has not run for this long was paused (stopped, suspended or starved), in microseconds. It is
/// shorter than the time after which any other node calls this one silent.
pub const PAUSED: u64 = 1_500 * MS;

/// Microseconds of CLOCK_BOOTTIME, which goes on while the machine sleeps, as leases need.
pub fn now() -> Tick {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Tick(t.tv_sec as u64 * 1_000_000 + t.tv_nsec as u64 / 1_000)
}

/// 128 random bits from the kernel. The lowest bit is always set, so the number is never 0.
pub fn random() -> u128 {
    let mut b = [0u8; 16];
    // For 16 bytes getrandom is never partial once the pool is initialised.
    let n = rustix::rand::getrandom(&mut b, rustix::rand::GetRandomFlags::empty());
    assert!(n == Ok(16), "the kernel gave no random bytes: {n:?}");
    u128::from_le_bytes(b) | 1
}
