//! Metrics of the volumes that are attached to this node: their clients, and each shard's coordinator.

use super::family::{About, HISTOGRAM_SERIES, Kind, Metric, Page, counter, gauge, seconds};
use super::request;
use super::room::{Chosen, choose};
use hf_meta_core::ClusterState;
use hf_policy::VolumeId;
use hf_reactor::{ReactorLoad, ReactorStatus, VolumeLoad, VolumeStatus};
use hf_repl_core::coordinator::Status;
use std::collections::BTreeMap;
use std::fmt;

/// Lines that are shown of all volumes that get none of their own.
const OTHERS: usize = VOLUMES.len() + SHARDS.len() + 4 * HISTOGRAM_SERIES;

pub const INFO: About = About {
    name: "volume_info",
    kind: Kind::Gauge,
    help: "1, with what the record says of the attached volume: its class of disks (media).",
};

pub const VOLUMES: &[Metric<VolumeStatus>] = &[
    gauge("volume_connections", "NBD connections to the volume.", |v| v.connections as u64),
    gauge(
        "volume_requests_in_flight",
        "Requests in flight, over all connections of the volume; at most queue_depth.",
        |v| v.requests,
    ),
    gauge("volume_payload_bytes", "Bytes of requests and replies held for the volume's clients; bounded.", |v| {
        v.payload
    }),
];

pub const SHARDS: &[Metric<Status>] = &[
    counter("volume_reads_total", "Client reads answered.", |s| s.stats.reads),
    counter("volume_writes_total", "Client writes answered.", |s| s.stats.writes),
    counter("volume_read_bytes_total", "Bytes read by clients.", |s| s.stats.read_bytes),
    counter("volume_written_bytes_total", "Bytes written by clients.", |s| s.stats.write_bytes),
    counter("volume_errors_total", "Client requests that failed.", |s| s.stats.errors),
    gauge("volume_in_sync", "In-sync replicas.", |s| u64::from(s.in_sync)),
    gauge("volume_outstanding", "Client requests not answered yet.", |s| u64::from(s.outstanding)),
    counter("volume_drops_total", "Replicas dropped from the in-sync set.", |s| s.stats.drops),
    counter("volume_resends_total", "Messages to replicas sent again.", |s| s.stats.resends),
    counter("volume_bad_blocks_total", "Blocks a replica could not supply.", |s| s.stats.bad_blocks),
    counter("volume_lease_waits_total", "Reads that waited for a lease.", |s| s.stats.lease_waits),
    gauge("volume_out", "Replicas that are not in sync.", |s| u64::from(s.out)),
    gauge("volume_sync_active", "1 while a replica is brought back in.", |s| u64::from(s.sync.is_some())),
    gauge("volume_sync_chunks_left", "Chunks that the sync still has to compare.", |s| {
        s.sync.map_or(0, |x| x.chunks - x.chunks_done)
    }),
    counter("volume_syncs_total", "Replicas brought back in.", |s| s.stats.syncs),
    counter("volume_syncs_failed_total", "Syncs that ended without bringing the replica in.", |s| s.stats.syncs_failed),
    counter("volume_synced_blocks_total", "Blocks copied to replicas that were out.", |s| {
        s.stats.synced_blocks + s.sync.map_or(0, |x| x.copied_blocks)
    }),
    counter("volume_repaired_blocks_total", "Bad blocks replaced from another replica.", |s| s.stats.repaired_blocks),
    gauge("volume_scrub_active", "1 while a scrub goes on.", |s| u64::from(s.scrub.is_some())),
    gauge("volume_scrub_chunks_left", "Chunks that the scrub still has to read.", |s| s.scrub.map_or(0, |x| x.left)),
    counter("volume_scrubbed_chunks_total", "Chunks read and compared by scrubs.", |s| s.stats.scrubbed_chunks),
    gauge("volume_copy_rate_bytes", "Bytes a second that copying and scrubbing may take now.", |s| s.pace),
    seconds("volume_copy_calm_p99_seconds", "Clients' p99 latency while copying rests.", |s| s.pace_p99.0),
    seconds(
        "volume_copy_beside_p99_seconds",
        "Clients' p99 latency beside copying in the last round with clients.",
        |s| s.pace_p99.1,
    ),
    counter("volume_reconciled_blocks_total", "Blocks made equal by the take-over.", |s| s.reconciled_blocks),
];

/// An attached volume.
struct Volume<'a> {
    name: String,
    media: &'static str,
    status: &'a VolumeStatus,
    load: Option<&'a VolumeLoad>,
}

impl Volume<'_> {
    fn series(&self) -> usize {
        1 + VOLUMES.len() + self.status.shards.len() * SHARDS.len()
    }

    /// How much it is used, by the requests of this attachment.
    fn weight(&self) -> u64 {
        self.load.map_or(0, |l| l.latency.total())
    }
}

fn volumes<'a>(state: &ClusterState, status: &'a [ReactorStatus], loads: &'a [ReactorLoad]) -> Vec<Volume<'a>> {
    let loads: BTreeMap<VolumeId, &VolumeLoad> = loads.iter().flat_map(|l| &l.volumes).map(|l| (l.vol, l)).collect();
    let all = status.iter().flat_map(|s| &s.volumes).filter(|v| !v.over).map(|status| {
        let record = state.volumes.get(&status.vol);
        // A volume that has just been deleted has no name any more.
        let name = record.map_or_else(|| format!("#{}", status.vol), |v| v.name.clone());
        let media = record.and_then(|v| v.policy().ok()).map_or("", |p| p.media.word());
        let load = loads.get(&status.vol).copied().filter(|l| l.session == status.session);
        Volume { name, media, status, load }
    });
    all.collect()
}

/// Writes the attached volumes within `room` lines; returns how many lines were left out. Those that are used most come
/// first.
pub fn write(
    page: &mut Page,
    state: &ClusterState,
    (status, loads): (&[ReactorStatus], &[ReactorLoad]),
    room: usize,
) -> Result<usize, fmt::Error> {
    let all = volumes(state, status, loads);
    let room = room.saturating_sub(OTHERS);
    let times: Vec<_> = all.iter().map(|v| v.load).collect();
    let timed = request::choose_volumes(&times, room);
    let weights: Vec<_> = all.iter().map(|v| (v.series(), v.weight())).collect();
    let chosen = choose(&weights, room.saturating_sub(timed.series), usize::MAX);
    plain(page, &all, &chosen)?;
    let latency = |i: &usize| Some((all[*i].name.as_str(), &all[*i].load?.latency));
    let (own, rest) = (timed.chosen.own.iter().filter_map(latency), timed.chosen.rest.iter().filter_map(latency));
    request::volumes(page, own, rest)?;
    Ok(chosen.left_out + timed.chosen.left_out)
}

fn plain(page: &mut Page, all: &[Volume], chosen: &Chosen) -> fmt::Result {
    let named = |v: &Volume| vec![("volume", v.name.clone())];
    let other = vec![("volume", super::OTHER.to_string())];
    let own: Vec<&Volume> = chosen.own.iter().map(|i| &all[*i]).collect();
    let rest: Vec<&VolumeStatus> = chosen.rest.iter().map(|i| all[*i].status).collect();
    let infos = own.iter().map(|v| [named(v), vec![("class", v.media.to_string())]].concat());
    page.info(&INFO, &infos.collect::<Vec<_>>())?;
    let lines: Vec<_> = own.iter().map(|v| (named(v), v.status)).collect();
    VOLUMES.iter().try_for_each(|m| page.lines(m, &lines, &rest, &other))?;
    let mut shards = Vec::new();
    for v in own {
        for (i, s) in v.status.shards.iter().enumerate() {
            shards.push((vec![("volume", v.name.clone()), ("shard", i.to_string())], s));
        }
    }
    let rest: Vec<&Status> = rest.into_iter().flat_map(|v| &v.shards).collect();
    SHARDS.iter().try_for_each(|m| page.lines(m, &shards, &rest, &other))
}
