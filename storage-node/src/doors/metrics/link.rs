//! Metrics of this node's links to disks of other nodes.

use super::family::{Metric, Page, counter, gauge};
use super::room::choose;
use hf_policy::DiskId;
use hf_reactor::{LinkStatus, ReactorStatus};
use std::collections::BTreeMap;
use std::fmt;

/// Lines of all links at most.
const ROOM: usize = 3_000;

/// What the reactors hold for other nodes.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    bytes: u64,
    parked: u64,
}

pub const LINKS: &[Metric<LinkStatus>] = &[
    counter("link_sent_bytes_total", "Bytes of replication messages sent to a disk of another node.", |l| l.sent),
    counter("link_received_bytes_total", "Bytes of replication messages received from a disk of another node.", |l| {
        l.received
    }),
    gauge("link_in_flight_bytes", "Bytes of payload sent on the link and not confirmed yet.", |l| l.in_flight),
    gauge(
        "link_window_bytes",
        "Bytes of payload that may be in flight on the link, by what it was measured to carry.",
        |l| l.window,
    ),
    gauge("link_queued_bytes", "Bytes of payload that wait for their turn on the link.", |l| l.queued),
    gauge("link_coming_bytes", "Bytes of answers asked for over the link that have not come yet.", |l| l.coming),
];

pub const HELD: &[Metric<Held>] = &[
    gauge(
        "links_held_bytes",
        "Bytes held for other nodes' requests and their answers; at most a half of payload_memory.",
        |h| h.bytes,
    ),
    gauge("links_parked", "Requests of other nodes that wait for room for their answers.", |h| h.parked),
];

/// The links of all reactors, those that lead to the same disk as one.
fn links(status: &[ReactorStatus]) -> Vec<LinkStatus> {
    let mut all: BTreeMap<DiskId, LinkStatus> = BTreeMap::new();
    for l in status.iter().flat_map(|s| &s.links) {
        let Some(sum) = all.get_mut(&l.disk) else {
            all.insert(l.disk, *l);
            continue;
        };
        sum.sent += l.sent;
        sum.received += l.received;
        sum.in_flight += l.in_flight;
        sum.window += l.window;
        sum.queued += l.queued;
        sum.coming += l.coming;
    }
    all.into_values().collect()
}

/// Writes the links of a node; returns how many lines were left out. Those that carried most come first.
pub fn write(page: &mut Page, status: &[ReactorStatus]) -> Result<usize, fmt::Error> {
    let all = links(status);
    let weights: Vec<_> = all.iter().map(|l| (LINKS.len(), l.sent.saturating_add(l.received))).collect();
    let chosen = choose(&weights, ROOM, usize::MAX);
    let own: Vec<_> = chosen.own.iter().map(|i| (vec![("disk", all[*i].disk.to_string())], &all[*i])).collect();
    let rest: Vec<_> = chosen.rest.iter().map(|i| &all[*i]).collect();
    let other = vec![("disk", super::OTHER.to_string())];
    LINKS.iter().try_for_each(|m| page.lines(m, &own, &rest, &other))?;
    let held = Held { bytes: status.iter().map(|s| s.held).sum(), parked: status.iter().map(|s| s.parked).sum() };
    HELD.iter().try_for_each(|m| page.one(m, &held))?;
    Ok(chosen.left_out)
}
