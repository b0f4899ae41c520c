//! Metrics of the node itself: its version, its part in the metadata group, its clients, its memory.

use super::family::{About, Kind, Metric, Page, counter, gauge};
use std::fmt;

/// What is told of every node, also of one without a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Invariants that did not hold.
    pub broken_invariants: u64,
}

/// What is told of a member of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// It leads the metadata group.
    pub leads: bool,
    /// Index of the last entry applied.
    pub applied: u64,
    /// Age of the metadata log.
    pub log_age: u64,
    /// The log takes no part.
    pub log_waits: bool,
    /// Space is set aside for the metadata.
    pub reserve: bool,
    /// NBD connections that found no seat.
    pub nbd_refused: u64,
    /// NBD connections that are open.
    pub nbd_connections: u64,
    /// Bytes of payload that the node may hold.
    pub payload_memory: u64,
    /// Bytes of payload held for clients.
    pub payload: u64,
    /// Requests that wait for payload memory.
    pub payload_waiting: u64,
    /// Attached volumes that have no history here.
    pub history_left_out: u64,
}

/// A listener, as far as connections at its door are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// The name that it has.
    pub name: &'static str,
    /// Connections that negotiate.
    pub here: u64,
    /// Connections that gave way to newer ones.
    pub cut: u64,
}

pub const BUILD: About = About { name: "build_info", kind: Kind::Gauge, help: "1, with the daemon's version." };

pub const PROCESS: &[Metric<Process>] = &[counter(
    "broken_invariants_total",
    "Times an invariant of Holdfast's own code did not hold; what met it is taken out of service. Anything but 0 is a bug: please report it with the log.",
    |p| p.broken_invariants,
)];

pub const FACTS: &[Metric<Facts>] = &[
    gauge("raft_leader", "1 if this node leads the metadata group.", |f| f.leads.into()),
    gauge("raft_applied", "Index of the last Raft entry that was applied.", |f| f.applied),
    gauge("raft_log_age", "Age of the metadata log: raised at every start and while it changes.", |f| f.log_age),
    gauge("raft_log_waits", "1 while the metadata log takes no part, because it waits for a place.", |f| {
        f.log_waits.into()
    }),
    gauge("data_dir_reserve", "1 while space is set aside for the metadata; 0 when data_dir is full.", |f| {
        f.reserve.into()
    }),
    counter("nbd_refused_total", "NBD connections closed at once because nbd_connections were open.", |f| {
        f.nbd_refused
    }),
    gauge("nbd_connections", "NBD connections.", |f| f.nbd_connections),
    gauge("payload_memory_bytes", "Bytes of payload that the node may hold: payload_memory.", |f| f.payload_memory),
    gauge(
        "payload_bytes",
        "Bytes of payload held for clients of all volumes; at most a half of payload_memory.",
        |f| f.payload,
    ),
    gauge("payload_waiting", "Requests that wait for payload memory in use.", |f| f.payload_waiting),
    gauge("history_left_out", "Attached volumes that have no history of their own, because there are too many.", |f| {
        f.history_left_out
    }),
];

pub const DOORS: &[Metric<Door>] = &[
    gauge("negotiating", "Connections that still negotiate; bounded.", |d| d.here),
    counter("negotiations_cut_total", "Connections closed while they negotiated, because newer ones came.", |d| d.cut),
];

/// Writes what is told of every node.
pub fn process(page: &mut Page, of: &Process) -> fmt::Result {
    page.info(&BUILD, &[vec![("version", env!("CARGO_PKG_VERSION").to_string())]])?;
    PROCESS.iter().try_for_each(|m| page.one(m, of))
}

/// Writes what is told of a member of a cluster.
pub fn member(page: &mut Page, facts: &Facts, doors: &[Door]) -> fmt::Result {
    FACTS.iter().try_for_each(|m| page.one(m, facts))?;
    let own: Vec<_> = doors.iter().map(|d| (vec![("listener", d.name.to_string())], d)).collect();
    DOORS.iter().try_for_each(|m| page.lines(m, &own, &[], &[]))
}
