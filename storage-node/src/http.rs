//! `/metrics` (Prometheus text). Every metric's name and help text is in this file.

use crate::node::Node;
use axum::extract::State;
use std::fmt::Write;
use std::sync::Arc;

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP holdfast_{name} {help}\n# TYPE holdfast_{name} {kind}");
    }
    fn line(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.0, "holdfast_{name}{{{labels}}} {value}");
    }
}

type DiskMetric = (&'static str, &'static str, &'static str, fn(&hf_store::Stats) -> u64);
type VolumeMetric = (&'static str, &'static str, &'static str, fn(&hf_repl_core::coordinator::Status) -> u64);

const DISK: &[DiskMetric] = &[
    ("disk_capacity_bytes", "gauge", "Bytes for data.", |s| s.units_total * hf_store::UNIT_BYTES),
    ("disk_free_bytes", "gauge", "Bytes that can still be allocated.", |s| s.units_free * hf_store::UNIT_BYTES),
    (
        "disk_replica_entries",
        "gauge",
        "Entries of the replica table in use, including those of replicas that are being deleted.",
        |s| s.entries_used,
    ),
    ("disk_replica_entries_free", "gauge", "Replicas that can still be created.", |s| s.entries_free),
    (
        "disk_unaccounted_bytes",
        "gauge",
        "Bytes of units whose place only a lost chunk page knew; a search for them is under way.",
        |s| s.units_unaccounted * hf_store::UNIT_BYTES,
    ),
    ("disk_journal_used_bytes", "gauge", "Journal bytes in use.", |s| s.journal_used),
    ("disk_overlay_bytes", "gauge", "Acknowledged bytes held in memory until destaged.", |s| s.overlay_bytes),
    ("disk_waiting", "gauge", "Operations waiting for room in journal or memory.", |s| s.waiting),
    ("disk_cached_pages", "gauge", "Chunk pages in memory, 6 KiB each; at most page_memory.", |s| s.cached_pages),
    ("disk_destaging", "gauge", "Chunks being destaged.", |s| s.destaging),
    ("disk_destage_allowed", "gauge", "Chunks that may be destaged at once beside the foreground.", |s| {
        s.destage_allowed
    }),
    ("disk_stalls_total", "counter", "Times an operation had to wait for room.", |s| s.stalls),
    ("disk_journal_groups_total", "counter", "Journal writes.", |s| s.groups),
    (
        "disk_journal_records_total",
        "counter",
        "Records in journal groups; records / groups is the yield of group commit.",
        |s| s.records,
    ),
    ("disk_written_bytes_total", "counter", "Bytes written to the disk.", |s| s.disk_bytes_written),
    ("disk_writes_total", "counter", "Writes to the disk.", |s| s.disk_writes),
    ("disk_reads_total", "counter", "Reads from the disk.", |s| s.disk_reads),
    ("disk_syncs_total", "counter", "Cache flushes.", |s| s.disk_syncs),
    ("disk_checkpoints_total", "counter", "Checkpoints.", |s| s.checkpoints),
    ("disk_bad_blocks_total", "counter", "Blocks that failed their checksum or could not be read.", |s| s.bad_blocks),
    ("disk_bad_pages_total", "counter", "Chunk pages that failed their checksum or could not be read.", |s| {
        s.bad_pages
    }),
];

const VOLUME: &[VolumeMetric] = &[
    ("volume_reads_total", "counter", "Client reads answered.", |s| s.stats.reads),
    ("volume_writes_total", "counter", "Client writes answered.", |s| s.stats.writes),
    ("volume_read_bytes_total", "counter", "Bytes read by clients.", |s| s.stats.read_bytes),
    ("volume_written_bytes_total", "counter", "Bytes written by clients.", |s| s.stats.write_bytes),
    ("volume_errors_total", "counter", "Client requests that failed.", |s| s.stats.errors),
    ("volume_in_sync", "gauge", "In-sync replicas.", |s| u64::from(s.in_sync)),
    ("volume_outstanding", "gauge", "Client requests not answered yet.", |s| u64::from(s.outstanding)),
    ("volume_drops_total", "counter", "Replicas dropped from the in-sync set.", |s| s.stats.drops),
    ("volume_resends_total", "counter", "Messages to replicas sent again.", |s| s.stats.resends),
    ("volume_bad_blocks_total", "counter", "Blocks a replica could not supply.", |s| s.stats.bad_blocks),
    ("volume_lease_waits_total", "counter", "Reads that waited for a lease.", |s| s.stats.lease_waits),
    ("volume_out", "gauge", "Replicas that are not in sync.", |s| u64::from(s.out)),
    ("volume_sync_active", "gauge", "1 while a replica is brought back in.", |s| u64::from(s.sync.is_some())),
    ("volume_sync_chunks_left", "gauge", "Chunks that the sync still has to compare.", |s| {
        s.sync.map_or(0, |x| x.chunks - x.chunks_done)
    }),
    ("volume_syncs_total", "counter", "Replicas brought back in.", |s| s.stats.syncs),
    ("volume_syncs_failed_total", "counter", "Syncs that ended without bringing the replica in.", |s| {
        s.stats.syncs_failed
    }),
    ("volume_synced_blocks_total", "counter", "Blocks copied to replicas that were out.", |s| {
        s.stats.synced_blocks + s.sync.map_or(0, |x| x.copied_blocks)
    }),
    ("volume_repaired_blocks_total", "counter", "Bad blocks replaced from another replica.", |s| {
        s.stats.repaired_blocks
    }),
    ("volume_scrub_active", "gauge", "1 while a scrub goes on.", |s| u64::from(s.scrub.is_some())),
    ("volume_scrub_chunks_left", "gauge", "Chunks that the scrub still has to read.", |s| {
        s.scrub.map_or(0, |x| x.left)
    }),
    ("volume_scrubbed_chunks_total", "counter", "Chunks read and compared by scrubs.", |s| s.stats.scrubbed_chunks),
    ("volume_copy_rate_bytes", "gauge", "Bytes a second that copying and scrubbing may take now.", |s| s.pace),
    ("volume_copy_calm_p99_us", "gauge", "Clients' p99 latency while copying rests, in microseconds.", |s| {
        s.pace_p99.0
    }),
    (
        "volume_copy_beside_p99_us",
        "gauge",
        "Clients' p99 latency beside copying in the last round with clients, in microseconds.",
        |s| s.pace_p99.1,
    ),
    ("volume_reconciled_blocks_total", "counter", "Blocks made equal by the take-over.", |s| s.reconciled_blocks),
];

type ClientMetric = (&'static str, &'static str, fn(&hf_reactor::VolumeStatus) -> u64);

const CLIENTS: &[ClientMetric] = &[
    ("volume_connections", "NBD connections to the volume.", |v| v.connections as u64),
    (
        "volume_requests_in_flight",
        "Requests in flight, over all connections of the volume; at most queue_depth.",
        |v| v.requests,
    ),
    ("volume_payload_bytes", "Bytes of requests and replies held for the volume's clients; bounded.", |v| v.payload),
];

type LinkMetric = (&'static str, &'static str, &'static str, fn(&hf_reactor::LinkStatus) -> u64);

const LINKS: &[LinkMetric] = &[
    ("link_sent_bytes_total", "counter", "Bytes of replication messages sent to a disk of another node.", |l| l.sent),
    (
        "link_received_bytes_total",
        "counter",
        "Bytes of replication messages received from a disk of another node.",
        |l| l.received,
    ),
    ("link_in_flight_bytes", "gauge", "Bytes of payload sent on the link and not confirmed yet.", |l| l.in_flight),
    (
        "link_window_bytes",
        "gauge",
        "Bytes of payload that may be in flight on the link, by what it was measured to carry.",
        |l| l.window,
    ),
    ("link_queued_bytes", "gauge", "Bytes of payload that wait for their turn on the link.", |l| l.queued),
    ("link_coming_bytes", "gauge", "Bytes of answers asked for over the link that have not come yet.", |l| l.coming),
];

fn links(p: &mut Page, status: &[hf_reactor::ReactorStatus]) {
    for (name, kind, help, get) in LINKS {
        p.head(name, kind, help);
        let links = status.iter().flat_map(|s| &s.links);
        links.for_each(|l| p.line(name, &format!("disk=\"{}\"", l.disk), get(l)));
    }
    p.head(
        "links_held_bytes",
        "gauge",
        "Bytes held for other nodes' requests and their answers; at most a half of payload_memory.",
    );
    p.line("links_held_bytes", "", status.iter().map(|s| s.held).sum());
    p.head("links_parked", "gauge", "Requests of other nodes that wait for room for their answers.");
    p.line("links_parked", "", status.iter().map(|s| s.parked).sum());
}

fn doors(p: &mut Page, doors: &crate::export::Doors) {
    p.head("negotiating", "gauge", "Connections that still negotiate; bounded.");
    doors.all().iter().for_each(|(name, d)| p.line("negotiating", &format!("listener=\"{name}\""), d.here() as u64));
    p.head("negotiations_cut_total", "counter", "Connections closed while they negotiated, because newer ones came.");
    doors.all().iter().for_each(|(name, d)| p.line("negotiations_cut_total", &format!("listener=\"{name}\""), d.cut()));
}

/// The Prometheus page.
pub async fn metrics(State(node): State<Arc<Node>>) -> String {
    let mut p = Page(String::new());
    p.head("up", "gauge", "1 while the daemon runs.");
    p.line("up", &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1);
    p.head(
        "broken_invariants_total",
        "counter",
        "Times an invariant of Holdfast's own code did not hold; what met it is taken out of service. Anything but 0 is a bug: please report it with the log.",
    );
    p.line("broken_invariants_total", "", hf_policy::broken::count());
    let Some(m) = node.member.get() else { return p.0 };
    let mut status = Vec::new();
    for r in &m.reactors {
        status.push(r.status().await);
    }
    let raft = m.meta.status.borrow().clone();
    p.head("raft_leader", "gauge", "1 if this node leads the metadata group.");
    p.line("raft_leader", "", u64::from(raft.is_leader));
    p.head("raft_applied", "counter", "Index of the last Raft entry that was applied.");
    p.line("raft_applied", "", raft.applied);
    p.head("raft_log_age", "counter", "Age of the metadata log: raised at every start and while it changes.");
    p.line("raft_log_age", "", raft.own.age);
    p.head("raft_log_waits", "gauge", "1 while the metadata log takes no part, because it waits for a place.");
    p.line("raft_log_waits", "", u64::from(raft.waits));
    p.head("data_dir_reserve", "gauge", "1 while space is set aside for the metadata; 0 when data_dir is full.");
    p.line("data_dir_reserve", "", u64::from(node.dir.reserve().held()));
    p.head("nbd_refused_total", "counter", "NBD connections closed at once because nbd_connections were open.");
    p.line("nbd_refused_total", "", m.seats.refused());
    p.head("nbd_connections", "gauge", "NBD connections.");
    p.line("nbd_connections", "", status.iter().map(|s| s.connections as u64).sum());
    doors(&mut p, &node.doors);
    for (name, help, value) in [
        ("payload_memory_bytes", "Bytes of payload that the node may hold: payload_memory.", m.memory.bytes()),
        (
            "payload_bytes",
            "Bytes of payload held for clients of all volumes; at most a half of payload_memory.",
            m.memory.exports.taken(),
        ),
        ("payload_waiting", "Requests that wait for payload memory in use.", m.memory.exports.waiting() as u64),
    ] {
        p.head(name, "gauge", help);
        p.line(name, "", value);
    }
    let disks: Vec<_> = status.iter().flat_map(|s| &s.disks).collect();
    for (name, kind, help, get) in DISK {
        p.head(name, kind, help);
        disks.iter().for_each(|d| p.line(name, &format!("disk=\"{}\"", d.disk), get(&d.stats)));
    }
    links(&mut p, &status);
    p.head("disk_failed", "gauge", "1 if the disk has failed for good.");
    disks.iter().for_each(|d| p.line("disk_failed", &format!("disk=\"{}\"", d.disk), u64::from(d.failed.is_some())));
    let state = m.view.borrow().clone();
    for (name, help, get) in CLIENTS {
        p.head(name, "gauge", help);
        for v in status.iter().flat_map(|s| &s.volumes) {
            let volume = state.volumes.get(&v.vol).map_or("?", |x| x.name.as_str());
            p.line(name, &format!("volume=\"{volume}\""), get(v));
        }
    }
    for (name, kind, help, get) in VOLUME {
        p.head(name, kind, help);
        for v in status.iter().flat_map(|s| &s.volumes) {
            let volume = state.volumes.get(&v.vol).map_or("?", |x| x.name.as_str());
            for (i, s) in v.shards.iter().enumerate() {
                p.line(name, &format!("volume=\"{volume}\",shard=\"{i}\""), get(s));
            }
        }
    }
    p.0
}
