//! `holdfast inspect disk|journal|chunk`: shows what a disk holds. Its journal is replayed in memory only,
//! and everything read is verified.

use hf_policy::{BlockRange, CHUNK_BLOCKS, ChunkIx, Rid, Ver, format_size};
use hf_reactor::disk::raw::{Blocking, DiskFile};
use hf_store::engine::BlockInfo;
use hf_store::format::group::{Body, Record};
use hf_store::format::page::BlockState;
use hf_store::format::superblock::{Bad, Superblock};
use hf_store::{Answer, Config, DiskOp, Input, Op, Output, RawDisk, Store, recovery};
use serde_json::{Value, json};
use std::path::Path;

fn open(path: &Path) -> anyhow::Result<DiskFile> {
    DiskFile::look(path)?.ok_or_else(|| anyhow::anyhow!("{} holds no Holdfast disk", path.display()))
}

/// Every journal group that opening the disk would replay, with its records, as JSON.
pub fn journal(path: &Path) -> anyhow::Result<Value> {
    let file = open(path)?;
    let mut raw = Blocking(&file);
    let mut groups = Vec::new();
    let end = recovery::journal(&mut raw, |off, bytes, g| {
        let records: Vec<Value> = g.records.iter().map(record).collect();
        groups.push(json!({
            "at": off, "bytes": bytes, "group": g.seq, "generation": g.journal_gen, "checkpoint": g.checkpoint,
            "acknowledged_through": g.acked_through, "records": records,
        }));
    })
    .map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    Ok(json!({"path": path, "groups": groups, "damage": end.map(|e| e.to_string())}))
}

fn record(r: &Record) -> Value {
    let kind = match &r.body {
        Body::Data { .. } => "data",
        Body::Map { .. } => "map",
        Body::Zero => "zero",
        Body::ZeroKept => "zero kept",
        Body::Bad => "bad",
        Body::Replica(_) => "replica",
        Body::Extend { .. } => "replica table extended",
    };
    json!({"replica": r.rid, "kind": kind, "block": r.range.start.0, "blocks": r.range.len, "version": r.ver.to_string()})
}

/// One chunk of a replica as JSON: each block's state, version and checksum, read and verified.
pub fn chunk(path: &Path, rid: u64, chunk: u32) -> anyhow::Result<Value> {
    let file = open(path)?;
    let mut raw = Blocking(&file);
    let mut store =
        recovery::open(&mut raw, Config::default()).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    let rid = Rid(rid);
    if store.replica(rid).is_none() {
        let here: Vec<String> = store.replicas().map(|r| r.rid.to_string()).collect();
        anyhow::bail!("{} holds no replica {rid}; it holds {}", path.display(), here.join(", "));
    }
    let chunk = ChunkIx(chunk);
    let first = chunk.first_block().0;
    let (mut blocks, mut bad) = (Vec::new(), 0);
    read_chunk(&mut raw, &mut store, rid, chunk, &mut |i, b| {
        if b.ver != Ver::ZERO || b.state != BlockState::Absent {
            let state = format!("{:?}", b.state).to_lowercase();
            bad += u64::from(b.state.is_bad());
            blocks.push(json!({"block": first + i as u64, "state": state, "version": b.ver.to_string(), "crc": format!("{:08x}", b.crc.0)}));
        }
    })?;
    Ok(json!({"path": path, "replica": rid, "chunk": chunk.0, "blocks": blocks, "damage": bad_blocks(bad)}))
}

/// A disk as JSON; with `verify` every block is read and checked. `damage` says what is damaged; everything
/// else that can be read is there all the same.
pub fn disk(path: &Path, verify: bool) -> anyhow::Result<Value> {
    let file = open(path)?;
    let mut raw = Blocking(&file);
    let copies: Vec<String> = recovery::superblocks(&mut raw).iter().map(copy).collect();
    match recovery::open(&mut raw, Config::default()) {
        Ok(store) => whole(path, verify, &mut raw, store, &copies),
        Err(e) => Ok(json!({"path": path, "superblock_copies": copies, "damage": e.to_string(), "replicas": []})),
    }
}

fn copy(c: &Result<Superblock, Bad>) -> String {
    match c {
        Ok(sb) => format!("generation {}", sb.generation),
        Err(Bad::NotOurs) => "none".into(),
        Err(Bad::Damaged) => "damaged".into(),
        Err(Bad::TooNew(v)) => format!("format version {v}"),
    }
}

fn whole(
    path: &Path,
    verify: bool,
    raw: &mut Blocking<'_>,
    mut store: Store,
    copies: &[String],
) -> anyhow::Result<Value> {
    let (sb, stats) = (store.superblock().clone(), store.stats());
    let recs: Vec<_> = store.replicas().cloned().collect();
    let (mut replicas, mut all_bad) = (Vec::new(), 0);
    for r in recs {
        let chunks = chunks(&store, r.rid);
        let checked = if verify { Some(check(raw, &mut store, r.rid, &chunks)?) } else { None };
        all_bad += checked.map_or(0, |(_, bad)| bad);
        replicas.push(json!({
            "replica": r.rid, "shard": r.shard.to_string(), "volume": r.hint_name, "record_epoch": r.hint_epoch,
            "store_uuid": r.store_uuid, "lineage": r.lineage, "promised_term": r.promised_term,
            "stable": r.stable_known.to_string(), "newest": store.max_ver(r.rid).to_string(), "chunks": chunks.len(),
            "verified": checked.map(|c| json!({"data_blocks": c.0, "bad_blocks": c.1})),
        }));
    }
    Ok(json!({
        "path": path, "cluster": sb.cluster, "node": sb.node, "disk": sb.disk, "generation": sb.generation,
        "superblock_copies": copies, "format": if sb.salt.is_none() { 1 } else { 2 }, "log": sb.log_age.log, "log_age": sb.log_age.age,
        "bytes": sb.geometry.disk_bytes, "journal_bytes": sb.geometry.journal_bytes,
        "units": stats.units_total, "units_free": stats.units_free, "slots_free": stats.slots_free,
        "units_unaccounted": stats.units_unaccounted, "replica_entries_used": stats.entries_used,
        "replica_entries_free": stats.entries_free, "replica_table_units": sb.extensions,
        "journal_groups_replayed": stats.replayed_groups, "journal_used": stats.journal_used, "replicas": replicas,
        "damage": bad_blocks(all_bad),
    }))
}

/// The text about `n` bad blocks; none if there are none.
fn bad_blocks(n: u64) -> Option<String> {
    (n > 0)
        .then(|| format!("{n} blocks are bad; while the node runs, reads and scrubs replace them from other replicas"))
}

/// The result of [`disk`] as text for people.
pub fn text(v: &Value) -> String {
    let n = |v: &Value| v.as_u64().unwrap_or(0);
    let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    let copies: Vec<String> = v["superblock_copies"].as_array().into_iter().flatten().map(word).collect();
    let copies = copies.join(", ");
    if v["disk"].is_null() {
        return format!("superblock  copies: {copies}\n");
    }
    let mut lines = vec![
        format!("disk        {} of node #{} of cluster {}", word(&v["disk"]), v["node"], word(&v["cluster"])),
        format!("size        {}, journal {}", format_size(n(&v["bytes"])), format_size(n(&v["journal_bytes"]))),
        format!("superblock  generation {}, format version {}; copies: {copies}", v["generation"], v["format"]),
        format!("table       {} replicas, room for {} more", v["replica_entries_used"], v["replica_entries_free"]),
        format!("units       {} of 64 KiB, {} free", v["units"], v["units_free"]),
        format!(
            "journal     {} groups replayed, {} in use",
            v["journal_groups_replayed"],
            format_size(n(&v["journal_used"]))
        ),
    ];
    for r in v["replicas"].as_array().into_iter().flatten() {
        lines.push(format!(
            "\nreplica     {} of shard {} (volume {})",
            r["replica"],
            word(&r["shard"]),
            word(&r["volume"])
        ));
        lines.push(format!("promised    term {}", r["promised_term"]));
        lines.push(format!(
            "versions    stable {}, newest {}, {} chunks",
            word(&r["stable"]),
            word(&r["newest"]),
            r["chunks"]
        ));
        if let Some(c) = r["verified"].as_object() {
            lines.push(format!("verified    {} data blocks, {} bad", c["data_blocks"], c["bad_blocks"]));
        }
    }
    lines.join("\n") + "\n"
}

/// All chunks of a replica that hold something, in order.
pub fn chunks(store: &Store, rid: Rid) -> Vec<ChunkIx> {
    let mut all = Vec::new();
    let mut from = ChunkIx(0);
    loop {
        let page = store.chunks_since(rid, Ver::ZERO, from, 4096);
        let Some((last, _)) = page.last() else { return all };
        from = ChunkIx(last.0 + 1);
        all.extend(page.into_iter().map(|(c, _)| c));
    }
}

/// Reads every block of these chunks. Returns how many hold data and how many are bad.
fn check(raw: &mut Blocking<'_>, store: &mut Store, rid: Rid, chunks: &[ChunkIx]) -> anyhow::Result<(u64, u64)> {
    let (mut data, mut bad) = (0, 0);
    for chunk in chunks {
        read_chunk(raw, store, rid, *chunk, &mut |_, b| {
            data += u64::from(b.state == BlockState::Data);
            bad += u64::from(b.state.is_bad());
        })?;
    }
    Ok((data, bad))
}

fn read_chunk(
    raw: &mut Blocking<'_>,
    store: &mut Store,
    rid: Rid,
    chunk: ChunkIx,
    each: &mut dyn FnMut(usize, &BlockInfo),
) -> anyhow::Result<()> {
    let range = BlockRange { start: chunk.first_block(), len: CHUNK_BLOCKS as u32 };
    let mut out = Vec::new();
    store.step(Input::Op { id: 1, op: Op::Read { rid, range } }, &mut out);
    while !out.is_empty() {
        for o in std::mem::take(&mut out) {
            match o {
                Output::Disk { tag, op: DiskOp::Read { off, len } } => {
                    let result = raw.read(off, len as usize);
                    store.step(Input::DiskDone { tag, result }, &mut out);
                }
                Output::Done { result: Ok(Answer::Read { blocks, .. }), .. } => {
                    blocks.iter().enumerate().for_each(|(i, b)| each(i, b));
                }
                Output::Done { result: Err(e), .. } => anyhow::bail!("chunk {}: {e}", chunk.0),
                _ => {}
            }
        }
    }
    Ok(())
}
