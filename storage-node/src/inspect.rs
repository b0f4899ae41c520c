//! `holdfast inspect`: what a disk holds, as text or JSON, from a node that is stopped. It reads, replays in memory and verifies;
//! it writes nothing.

use crate::disk::raw::{Blocking, DiskFile};
use hf_policy::{BlockRange, CHUNK_BLOCKS, ChunkIx, Rid, Ver, format_size};
use hf_store::format::page::BlockState;
use hf_store::{Answer, Config, DiskOp, Input, Op, Output, RawDisk, Store, recovery};
use serde_json::{Value, json};
use std::path::Path;

/// Looks at a disk. `verify`: every block is read and checked.
pub fn disk(path: &Path, verify: bool) -> anyhow::Result<Value> {
    let file = DiskFile::open(path)?.ok_or_else(|| anyhow::anyhow!("{} holds no Holdfast disk", path.display()))?;
    let mut raw = Blocking(&file);
    let mut store =
        recovery::open(&mut raw, Config::default()).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    let (sb, stats) = (store.superblock().clone(), store.stats());
    let recs: Vec<_> = store.replicas().cloned().collect();
    let mut replicas = Vec::new();
    for r in recs {
        let chunks = chunks(&store, r.rid);
        let checked = if verify { Some(check(&mut raw, &mut store, r.rid, &chunks)?) } else { None };
        replicas.push(json!({
            "replica": r.rid, "shard": r.shard.to_string(), "volume": r.hint_name, "record_epoch": r.hint_epoch,
            "store_uuid": r.store_uuid, "lineage": r.lineage, "promised_term": r.promised_term,
            "stable": r.stable_known.to_string(), "newest": store.max_ver(r.rid).to_string(), "chunks": chunks.len(),
            "verified": checked.as_ref().map(|c| json!({"data_blocks": c.0, "bad_blocks": c.1})),
        }));
    }
    Ok(json!({
        "path": path, "cluster": sb.cluster, "disk": sb.disk, "generation": sb.generation,
        "bytes": sb.geometry.disk_bytes, "journal_bytes": sb.geometry.journal_bytes,
        "units": stats.units_total, "units_free": stats.units_free, "slots_free": stats.slots_free,
        "journal_groups_replayed": stats.replayed_groups, "journal_used": stats.journal_used, "replicas": replicas,
    }))
}

/// For people.
pub fn print(v: &Value) {
    let n = |v: &Value| v.as_u64().unwrap_or(0);
    let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    println!("disk        {} of cluster {}", word(&v["disk"]), word(&v["cluster"]));
    println!("size        {}, journal {}", format_size(n(&v["bytes"])), format_size(n(&v["journal_bytes"])));
    println!("superblock  generation {}", v["generation"]);
    println!("units       {} of 64 KiB, {} free", v["units"], v["units_free"]);
    println!(
        "journal     {} groups replayed, {} in use",
        v["journal_groups_replayed"],
        format_size(n(&v["journal_used"]))
    );
    for r in v["replicas"].as_array().into_iter().flatten() {
        println!("\nreplica     {} of shard {} (volume {})", r["replica"], word(&r["shard"]), word(&r["volume"]));
        println!("promised    term {}", r["promised_term"]);
        println!("versions    stable {}, newest {}, {} chunks", word(&r["stable"]), word(&r["newest"]), r["chunks"]);
        if let Some(c) = r["verified"].as_object() {
            println!("verified    {} data blocks, {} bad", c["data_blocks"], c["bad_blocks"]);
        }
    }
}

fn chunks(store: &Store, rid: Rid) -> Vec<ChunkIx> {
    let mut all = Vec::new();
    let mut from = ChunkIx(0);
    loop {
        let page = store.chunks_since(rid, Ver::ZERO, from, 4096);
        let Some((last, _)) = page.last() else { return all };
        from = ChunkIx(last.0 + 1);
        all.extend(page.into_iter().map(|(c, _)| c));
    }
}

/// Reads every block of these chunks: how many hold data, and how many are bad.
fn check(raw: &mut Blocking<'_>, store: &mut Store, rid: Rid, chunks: &[ChunkIx]) -> anyhow::Result<(u64, u64)> {
    let (mut data, mut bad) = (0, 0);
    for chunk in chunks {
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
                        data += blocks.iter().filter(|b| b.state == BlockState::Data).count() as u64;
                        bad += blocks.iter().filter(|b| b.state == BlockState::Bad).count() as u64;
                    }
                    Output::Done { result: Err(e), .. } => anyhow::bail!("chunk {}: {e}", chunk.0),
                    _ => {}
                }
            }
        }
    }
    Ok((data, bad))
}
