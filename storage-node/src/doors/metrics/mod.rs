//! `/metrics`: this node in the text format of Prometheus.
//!
//! Nothing is counted here. The reactors keep plain numbers, and a page is made from a copy of them when somebody asks,
//! so that a metric costs nothing on the way of a request. The tables of [`node`], [`health`], [`disk`], [`link`],
//! [`volume`] and [`request`] name every metric; docs/metrics.md is made from them. A page has at most
//! [`room::MOST_SERIES`] lines: where there are more disks, links or volumes than fit, those that matter least are
//! shown together as `_other`.

mod disk;
mod family;
mod health;
mod link;
mod node;
mod request;
mod room;
#[cfg(test)]
mod tests;
mod volume;

use crate::member::Member;
use crate::node::Node;
use family::{Metric, Page, gauge};
use hf_meta_core::ClusterState;
use hf_policy::NodeId;
use hf_reactor::{ReactorLoad, ReactorStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// The type of the page's content.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// The label of what is shown together. No disk and no volume can have this name.
const OTHER: &str = "_other";

/// How much is on the page.
struct Extent {
    series: u64,
    left_out: u64,
}

const EXTENT: &[Metric<Extent>] = &[
    gauge("metrics_series", "Series on this page; at most 20,000.", |e| e.series),
    gauge(
        "metrics_series_left_out",
        "Series that the bound kept away; what they count is in those with _other.",
        |e| e.left_out,
    ),
];

/// Everything that a page is made from.
#[derive(Debug)]
struct Scrape {
    process: node::Process,
    member: Option<OfMember>,
}

/// What only a member of a cluster can tell.
#[derive(Debug)]
struct OfMember {
    node: NodeId,
    facts: node::Facts,
    wrong: health::Wrong,
    doors: Vec<node::Door>,
    state: Arc<ClusterState>,
    status: Vec<ReactorStatus>,
    loads: Vec<ReactorLoad>,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page::new(encoder);
        node::process(&mut page, &self.process)?;
        let mut left_out = 0;
        if let Some(m) = &self.member {
            node::member(&mut page, &m.facts, &m.doors)?;
            health::write(&mut page, &m.wrong, m.facts.leads)?;
            request::node(&mut page, &m.loads)?;
            left_out += disk::write(&mut page, m.node, &m.state, &m.status)?;
            left_out += link::write(&mut page, &m.status)?;
            let room = room::MOST_SERIES.saturating_sub(page.series() + EXTENT.len());
            left_out += volume::write(&mut page, &m.state, (&m.status, &m.loads), room)?;
        }
        let extent = Extent { series: (page.series() + EXTENT.len()) as u64, left_out: left_out as u64 };
        EXTENT.iter().try_for_each(|m| page.one(m, &extent))
    }
}

/// The page of a scrape.
fn text(scrape: Scrape) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("holdfast");
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

/// What this node can tell now, as a page; [`CONTENT_TYPE`] says what it is.
pub async fn page(node: &Node) -> Result<String, fmt::Error> {
    let process = node::Process { broken_invariants: hf_policy::broken::count() };
    let member = match node.member.get() {
        Some(m) => Some(of_member(node, m).await),
        None => None,
    };
    text(Scrape { process, member })
}

async fn of_member(node: &Node, m: &Member) -> OfMember {
    let (mut status, mut loads) = (Vec::new(), Vec::new());
    for r in &m.reactors {
        status.push(r.status().await);
        loads.push(r.load().await);
    }
    let raft = m.meta.status.borrow().clone();
    let facts = node::Facts {
        leads: raft.is_leader,
        applied: raft.applied,
        log_age: raft.own.age,
        log_waits: raft.waits,
        reserve: node.dir.reserve().held(),
        nbd_refused: m.seats.refused(),
        nbd_connections: status.iter().map(|s| s.connections as u64).sum(),
        payload_memory: m.memory.bytes(),
        payload: m.memory.exports.taken(),
        payload_waiting: m.memory.exports.waiting() as u64,
        history_left_out: m.history.left_out() as u64,
    };
    let doors = node.doors.all().map(|(name, d)| node::Door { name, here: d.here() as u64, cut: d.cut() });
    OfMember {
        node: m.node,
        facts,
        wrong: health::wrong(m),
        doors: doors.to_vec(),
        state: m.view.borrow().clone(),
        status,
        loads,
    }
}
