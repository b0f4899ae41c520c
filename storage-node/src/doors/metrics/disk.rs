//! Metrics of this node's disks: whether each that is on record is in service, and the counters of those that are open.

use super::family::{About, Kind, Labels, Metric, Page, counter, gauge};
use super::room::choose;
use hf_meta_core::ClusterState;
use hf_meta_core::record::{DiskRecord, DiskState};
use hf_policy::{DiskId, NodeId};
use hf_reactor::{DiskStatus, ReactorStatus};
use std::collections::BTreeMap;
use std::fmt;

/// Lines of all disks at most.
const ROOM: usize = 6_000;

/// A disk of this node, on record or open or both.
#[derive(Clone, Copy, Default)]
struct Disk<'a> {
    record: Option<&'a DiskRecord>,
    open: Option<&'a DiskStatus>,
}

/// How a disk fares, open or not.
#[derive(Clone, Copy)]
pub struct Fares {
    in_service: bool,
    failed: bool,
}

impl Disk<'_> {
    fn fares(&self) -> Fares {
        let failed_here = self.open.is_some_and(|d| d.failed.is_some());
        let recorded = self.record.is_some_and(|r| matches!(r.state, DiskState::Failed(_)));
        Fares { in_service: self.open.is_some() && !failed_here, failed: failed_here || recorded }
    }

    fn series(&self) -> usize {
        FARES.len() + usize::from(self.record.is_some()) + self.open.map_or(0, |_| OPEN.len())
    }
}

pub const INFO: About = About {
    name: "disk_info",
    kind: Kind::Gauge,
    help: "1, with what the record says of the disk: where it is, its class, and the uuid in its superblock.",
};

pub const FARES: &[Metric<Fares>] = &[
    gauge("disk_in_service", "1 if the disk is open and serves; 0 if it could not be opened or has failed.", |d| {
        d.in_service.into()
    }),
    gauge("disk_failed", "1 if the disk has failed for good.", |d| d.failed.into()),
];

pub const OPEN: &[Metric<DiskStatus>] = &[
    gauge("disk_capacity_bytes", "Bytes for data.", |d| d.stats.units_total * hf_store::UNIT_BYTES),
    gauge("disk_free_bytes", "Bytes that can still be allocated.", |d| d.stats.units_free * hf_store::UNIT_BYTES),
    gauge(
        "disk_replica_entries",
        "Entries of the replica table in use, including those of replicas that are being deleted.",
        |d| d.stats.entries_used,
    ),
    gauge("disk_replica_entries_free", "Replicas that can still be created.", |d| d.stats.entries_free),
    gauge(
        "disk_unaccounted_bytes",
        "Bytes of units whose place only a lost chunk page knew; a search for them is under way.",
        |d| d.stats.units_unaccounted * hf_store::UNIT_BYTES,
    ),
    gauge("disk_journal_used_bytes", "Journal bytes in use.", |d| d.stats.journal_used),
    gauge("disk_overlay_bytes", "Acknowledged bytes held in memory until destaged.", |d| d.stats.overlay_bytes),
    gauge("disk_waiting", "Operations waiting for room in journal or memory.", |d| d.stats.waiting),
    gauge("disk_cached_pages", "Chunk pages in memory, 6 KiB each; at most page_memory.", |d| d.stats.cached_pages),
    gauge("disk_destaging", "Chunks being destaged.", |d| d.stats.destaging),
    gauge("disk_destage_allowed", "Chunks that may be destaged at once beside the foreground.", |d| {
        d.stats.destage_allowed
    }),
    counter("disk_stalls_total", "Times an operation had to wait for room.", |d| d.stats.stalls),
    counter("disk_journal_groups_total", "Journal writes.", |d| d.stats.groups),
    counter(
        "disk_journal_records_total",
        "Records in journal groups; records / groups is the yield of group commit.",
        |d| d.stats.records,
    ),
    counter("disk_written_bytes_total", "Bytes written to the disk.", |d| d.stats.disk_bytes_written),
    counter("disk_writes_total", "Writes to the disk.", |d| d.stats.disk_writes),
    counter("disk_reads_total", "Reads from the disk.", |d| d.stats.disk_reads),
    counter("disk_syncs_total", "Cache flushes.", |d| d.stats.disk_syncs),
    counter("disk_checkpoints_total", "Checkpoints.", |d| d.stats.checkpoints),
    counter("disk_bad_blocks_total", "Blocks that failed their checksum or could not be read.", |d| d.stats.bad_blocks),
    counter("disk_bad_pages_total", "Chunk pages that failed their checksum or could not be read.", |d| {
        d.stats.bad_pages
    }),
];

/// The disks of a node: those on record, and those that are open and not on record yet.
fn disks<'a>(node: NodeId, state: &'a ClusterState, status: &'a [ReactorStatus]) -> BTreeMap<DiskId, Disk<'a>> {
    let mut all: BTreeMap<DiskId, Disk> = BTreeMap::new();
    for d in status.iter().flat_map(|s| &s.disks) {
        all.entry(d.disk).or_default().open = Some(d);
    }
    for r in state.disks.values().filter(|d| d.node == node) {
        all.entry(r.id).or_default().record = Some(r);
    }
    all
}

fn info(id: DiskId, r: &DiskRecord) -> Labels {
    let (path, media, uuid) = (r.path.clone(), r.media.word().to_string(), r.uuid.to_string());
    vec![("disk", id.to_string()), ("path", path), ("media", media), ("uuid", uuid)]
}

/// Writes the disks of a node; returns how many lines were left out. Disks out of service come first.
pub fn write(
    page: &mut Page,
    node: NodeId,
    state: &ClusterState,
    status: &[ReactorStatus],
) -> Result<usize, fmt::Error> {
    let all: Vec<(DiskId, Disk, Fares)> =
        disks(node, state, status).into_iter().map(|(id, d)| (id, d, d.fares())).collect();
    let weights: Vec<_> = all.iter().map(|(_, d, f)| (d.series(), u64::from(!f.in_service))).collect();
    let chosen = choose(&weights, ROOM, usize::MAX);
    let pick = |places: &[usize]| places.iter().map(|i| &all[*i]).collect::<Vec<_>>();
    let (own, rest) = (pick(&chosen.own), pick(&chosen.rest));
    let labels = |id: DiskId| vec![("disk", id.to_string())];
    let other = vec![("disk", super::OTHER.to_string())];
    let infos = own.iter().filter_map(|(id, d, _)| Some(info(*id, d.record?)));
    page.info(&INFO, &infos.collect::<Vec<_>>())?;
    let lines: Vec<_> = own.iter().map(|(id, _, f)| (labels(*id), f)).collect();
    let others: Vec<_> = rest.iter().map(|(_, _, f)| f).collect();
    FARES.iter().try_for_each(|m| page.lines(m, &lines, &others, &other))?;
    let lines: Vec<_> = own.iter().filter_map(|(id, d, _)| Some((labels(*id), d.open?))).collect();
    let others: Vec<_> = rest.iter().filter_map(|(_, d, _)| d.open).collect();
    OPEN.iter().try_for_each(|m| page.lines(m, &lines, &others, &other))?;
    Ok(chosen.left_out)
}
