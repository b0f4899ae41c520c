//! The task that serves another node's link to a disk of this reactor.

use super::owner::Owner;
use hf_host_config::clock::now;
use hf_policy::{BootId, DiskId};
use hf_repl::{Queue, Traffic};
use hf_repl_core::flow::End;
use hf_repl_core::message::{Envelope, Msg};
use hf_repl_core::wire::{CAPABILITIES, HelloReply, LINK_CREDIT, MAX_VERSION};
use std::rc::Rc;
use tokio::io::AsyncWriteExt;

/// Serves it to its end; its hello was read and checked.
pub(crate) async fn serve<O: Owner>(owner: Rc<O>, stream: std::net::TcpStream, disk: DiskId, capabilities: u64) {
    let Ok(mut stream) = tokio::net::TcpStream::from_std(stream) else { return };
    let boot = owner.boot();
    let reply = HelloReply {
        version: MAX_VERSION,
        capabilities: CAPABILITIES,
        boot: boot.0.to_be_bytes().to_vec(),
        ..Default::default()
    };
    if stream.write_all(&reply.to_frame()).await.is_err() {
        return;
    }
    let (r, w) = stream.into_split();
    let queue = Queue::new(End::Serving, capabilities & LINK_CREDIT != 0, now);
    let link = owner.enter(queue.clone());
    let traffic = Traffic::default();
    // Requests for this process's predecessor are not begun: nobody answers them.
    let ours = |queue: &Queue, (env, msg): (Envelope, Msg)| {
        if env.boot == BootId::NONE || env.boot == boot {
            return Some((env, msg));
        }
        queue.change(|f| f.ignored(&env));
        None
    };
    let here = queue.clone();
    let reader = hf_repl::read_frames(r, queue.clone(), traffic.clone(), |env, msg| {
        owner.requested(disk, link, &mut ours(&here, (env, msg)).into_iter());
    });
    let begin_parked = |queue: &Queue| {
        if queue.flow().parked() > 0 {
            let mut parked = std::iter::from_fn(|| queue.next_parked()).filter_map(|m| ours(queue, m));
            owner.requested(disk, link, &mut parked);
        }
    };
    let why = tokio::select! {
        e = reader => e.to_string(),
        r = hf_repl::write_frames(w, queue, traffic, begin_parked) => r.map_or_else(|e| e.to_string(), |()| "closed".into()),
    };
    tracing::debug!(disk = %disk, "replication link ended: {why}");
    owner.leave(link);
}
