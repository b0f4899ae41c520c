//! Histograms of how long clients' requests took: of the node, and of the volumes that are used most.

use super::family::{About, HISTOGRAM_SERIES, Labels, Page, histogram};
use super::room::{Chosen, choose};
use hf_reactor::latency::{Latency, Op};
use hf_reactor::{ReactorLoad, VolumeLoad};
use std::fmt;

/// So many volumes at most have histograms of their own.
const MOST_VOLUMES: usize = 200;

pub const NODE: About = histogram(
    "request_duration_seconds",
    "Time from a client request's arrival to its answer, over all volumes that this node has served.",
);

pub const VOLUME: About = histogram(
    "volume_request_duration_seconds",
    "The same for each of the 200 volumes that are used most; only operations that were asked for.",
);

/// The operations that were asked for.
fn used(l: &Latency) -> impl Iterator<Item = Op> {
    Op::ALL.into_iter().filter(|op| l.of(*op).total() > 0)
}

/// Writes the node's histograms.
pub fn node(page: &mut Page, loads: &[ReactorLoad]) -> fmt::Result {
    let mut all = Latency::default();
    loads.iter().for_each(|l| all.add(&l.latency));
    let lines: Vec<_> = Op::ALL.iter().map(|op| (label(*op), all.of(*op).clone())).collect();
    page.histograms(&NODE, &lines)
}

fn label(op: Op) -> Labels {
    vec![("op", op.name().to_string())]
}

/// Which volumes get histograms, and the lines that these take.
pub struct Timed {
    /// The volumes, by place.
    pub chosen: Chosen,
    /// Lines that their histograms take.
    pub series: usize,
}

/// Chooses the volumes that get histograms, so that they take at most two fifths of the room of all volumes.
pub fn choose_volumes(all: &[Option<&VolumeLoad>], room: usize) -> Timed {
    let lines = |l: &VolumeLoad| used(&l.latency).count() * HISTOGRAM_SERIES;
    let one = |l: &Option<&VolumeLoad>| l.map_or((0, 0), |l| (lines(l), l.latency.total()));
    let weights: Vec<_> = all.iter().map(one).collect();
    let chosen = choose(&weights, room / 5 * 2, MOST_VOLUMES);
    let series = chosen.own.iter().map(|i| weights[*i].0).sum();
    Timed { chosen, series }
}

/// Writes the histograms of volumes, given by name: those with lines of their own, and the others together.
pub fn volumes<'a>(
    page: &mut Page,
    own: impl Iterator<Item = (&'a str, &'a Latency)>,
    rest: impl Iterator<Item = (&'a str, &'a Latency)>,
) -> fmt::Result {
    let mut lines = Vec::new();
    let mut put = |name: &str, l: &Latency| {
        for op in used(l) {
            let labels: Labels = [vec![("volume", name.to_string())], label(op)].concat();
            lines.push((labels, l.of(op).clone()));
        }
    };
    own.for_each(|(name, l)| put(name, l));
    let mut others = Latency::default();
    rest.for_each(|(_, l)| others.add(l));
    put(super::OTHER, &others);
    page.histograms(&VOLUME, &lines)
}
