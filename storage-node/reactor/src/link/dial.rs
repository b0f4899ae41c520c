//! The task that keeps a link to a remote disk up for as long as an attached volume has a replica there.

use super::owner::{Owner, Wanted};
use hf_host_config::clock::now;
use hf_host_config::state_log::StateLog;
use hf_policy::DiskId;
use hf_repl::{Queue, Traffic};
use hf_repl_core::flow::End;
use hf_repl_core::wire::LINK_CREDIT;
use std::rc::Rc;
use std::time::Duration;

/// A link that lasted for this long, in microseconds, had no trouble in coming up.
const LASTED: u64 = 1_000 * hf_policy::MS;
/// The shortest pause before a link is dialled again; each one that fails at once doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often an address that is not known yet is asked for.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(500);

pub(crate) async fn keep<O: Owner>(owner: Rc<O>, disk: DiskId, traffic: Traffic) {
    let mut pause = FIRST_PAUSE;
    let states = StateLog::default();
    loop {
        let (addr, hello) = match owner.wanted(disk) {
            Wanted::No => return,
            Wanted::Unknown => {
                tokio::time::sleep(UNKNOWN_PAUSE).await;
                continue;
            }
            Wanted::At(addr, hello) => (addr, hello),
        };
        match hf_repl::dial(&addr, &hello).await {
            Ok((stream, boot, capabilities)) => {
                let began = now();
                let (r, w) = stream.into_split();
                let queue = Queue::new(End::Asking, capabilities & LINK_CREDIT != 0, now);
                owner.up(disk, queue.clone(), boot);
                let reader =
                    hf_repl::read_frames(r, queue.clone(), traffic.clone(), |env, msg| owner.received(env, msg));
                let why = tokio::select! {
                    e = reader => e.to_string(),
                    r = hf_repl::write_frames(w, queue, traffic.clone(), |_| {}) => r.map_or_else(|e| e.to_string(), |()| "closed".into()),
                };
                states.info("link", &format!("disk {disk}"), &format!("replication link to {addr} down: {why}"));
                owner.down(disk);
                if now().since(began) >= LASTED {
                    pause = FIRST_PAUSE;
                    continue;
                }
            }
            Err(e) => tracing::debug!(disk = %disk, addr, "replication link: {e}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
