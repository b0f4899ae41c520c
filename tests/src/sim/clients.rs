//! The users of the simulated volume: what they ask, and what every answer says about the history.

use super::world::Sim;
use bytes::Bytes;
use hf_policy::*;
use hf_repl_core::IoError;
use hf_repl_core::coordinator::{self as co, ClientOp, ClientReply, Phase};

impl Sim {
    pub(super) fn answered(&mut self, node: u64, id: u64, result: Result<ClientReply, IoError>) -> Result<(), String> {
        let now = self.now.0;
        let a = self.hosts.get_mut(&node).unwrap().coordinator.as_mut().unwrap();
        let Some((began, blocks, write)) = a.ops.remove(&id) else {
            return Err(format!("request {id} answered twice"));
        };
        match (result, write) {
            (Ok(ClientReply::Done), Some(w)) => {
                self.outcome.acked_writes += 1;
                self.history.write_ended(w, now);
            }
            // The only storage left was put back from an older copy, within a term and before anybody could see it.
            (Ok(ClientReply::Data(_)), None) if self.lost_all() => {}
            (Ok(ClientReply::Data(parts)), None) => {
                let data = parts.concat();
                for (b, bytes) in blocks.into_iter().zip(data.chunks(BLOCK_SIZE)) {
                    let value = tag_of(bytes)?;
                    self.history.read(b, value, began, now);
                }
            }
            (Ok(_), _) => {}
            // A fenced write has an unknown outcome: it stays open.
            (Err(IoError::Fenced), _) => {}
            // Every replica in sync was wiped: an error is all that can be said.
            (Err(IoError::Io), _) if self.lost_all() => {}
            // The only copy rotted: an error, never wrong bytes.
            (Err(IoError::Io), None) if self.outcome.rots > 0 => {}
            // The disks of all that are in sync have failed: an error too, until one of them serves again.
            (Err(IoError::Io), None) if self.outcome.failed_disks > 0 => {}
            // Of a request over two chunks one may have been applied.
            (Err(IoError::NoSpace), Some(_)) if self.small_disks && blocks.contains(&255) && blocks.contains(&256) => {
                self.outcome.full += 1;
            }
            // Certainly applied nowhere: nobody may ever read it.
            (Err(IoError::NoSpace), Some(w)) if self.small_disks => {
                self.outcome.full += 1;
                self.history.write_failed_cleanly(w);
            }
            (Err(e), _) => return Err(format!("request {id} failed: {e}")),
        }
        Ok(())
    }

    pub(super) fn client_op(&mut self, at: Option<u64>) -> Result<(), String> {
        let serving: Vec<u64> = self
            .hosts
            .iter()
            .filter(|(n, _)| at.is_none_or(|a| a == **n))
            .filter(|(_, h)| {
                h.up && h.coordinator.as_ref().is_some_and(|a| a.ops.len() < 12 && a.c.status().phase != Phase::Fenced)
            })
            .map(|(n, _)| *n)
            .collect();
        if serving.is_empty() && at.is_some() {
            return Ok(());
        }
        if serving.is_empty() {
            return if self.rng.one_in(60) { self.attach(None) } else { Ok(()) };
        }
        let node = serving[self.rng.below(serving.len() as u64) as usize];
        // A few hot blocks around a chunk boundary, so that operations meet.
        let b = 256 - self.span / 2 + self.rng.below(self.span);
        let n = 1 + self.rng.below(4.min(self.span));
        let (id, now) = (self.id(), self.now.0);
        let blocks: Vec<u64> = (b..b + n).collect();
        let write = !self.only_read.contains(&node) && self.rng.one_in(2);
        let op = if write && self.rng.one_in(5) {
            self.history.write_began(id, now, blocks.iter().map(|b| (*b, 0)));
            ClientOp::Zero { off: b * BLOCK_BYTES, len: n * BLOCK_BYTES }
        } else if write {
            let data: Vec<u8> = blocks.iter().flat_map(|b| tagged(id, *b)).collect();
            self.history.write_began(id, now, blocks.iter().map(|b| (*b, id)));
            ClientOp::Write { off: b * BLOCK_BYTES, data: Bytes::from(data) }
        } else {
            ClientOp::Read { off: b * BLOCK_BYTES, len: (n * BLOCK_BYTES) as u32 }
        };
        let a = self.hosts.get_mut(&node).unwrap().coordinator.as_mut().unwrap();
        a.ops.insert(id, (now, blocks, write.then_some(id)));
        self.coordinator_step(node, co::Input::Client { id, op })
    }
}

fn tagged(id: u64, block: u64) -> Vec<u8> {
    let mut one = [0u8; 512];
    one[..8].copy_from_slice(&id.to_le_bytes());
    one[8..16].copy_from_slice(&block.to_le_bytes());
    one.repeat(8)
}

/// The block's tag; every sector must carry the same one.
fn tag_of(bytes: &[u8]) -> Result<u64, String> {
    if bytes.chunks(512).any(|s| s != &bytes[..512]) {
        return Err("a torn block was read".into());
    }
    Ok(u64::from_le_bytes(bytes[..8].try_into().map_err(|_| "short")?))
}
