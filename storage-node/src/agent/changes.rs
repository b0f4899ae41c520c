//! Proposes the changes of the record that coordinators ask for. When a node fails, all shards of a volume
//! ask at once. Their changes wait a moment for each other and go into one command, because of several
//! commands that name the same epoch only one could succeed (docs/decisions/0026).

use crate::member::Member;
use hf_meta_core::command::{Command, ShardChange, ShardStep};
use hf_meta_core::outcome::Refusal;
use hf_policy::{Epoch, SessionId, ShardId, Term, VolumeId};
use hf_reactor::Mail;
use hf_repl_core::coordinator::{Change, Proposed};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the first change of a volume with several shards waits for others; coordinators check their
/// members every 20 ms.
const GATHER: Duration = Duration::from_millis(25);
/// Changes in one command, at most, so that a log entry stays well below the bound of a message.
const AT_ONCE: usize = 1024;

/// One change that a coordinator asks for.
pub(super) struct Asked {
    pub shard: ShardId,
    pub session: SessionId,
    pub epoch: Epoch,
    pub term: Term,
    pub change: Change,
}

/// Changes that wait, by volume. Each volume in the map has a task that proposes them. Each coordinator has
/// at most one open change.
#[derive(Default)]
pub(super) struct Changes(Mutex<BTreeMap<VolumeId, Vec<Asked>>>);

impl Changes {
    pub(super) fn ask(self: &Arc<Self>, m: &Arc<Member>, asked: Asked) {
        let (all, m, vol) = (self.clone(), m.clone(), asked.shard.vol);
        if let Change::Drop { rids, .. } = &asked.change {
            let text = format!("replicas do not answer: asking to drop {rids:?} of shard {}", asked.shard.index);
            m.states.warn("replicas silent", &asked.shard.to_string(), &text);
        }
        // Syncs are proposed one by one, because the leader admits each of them.
        if matches!(asked.change, Change::SyncStart { .. }) {
            tokio::spawn(async move { propose(&m, vec![asked]).await });
            return;
        }
        let first = self.0.lock().is_ok_and(|mut w| {
            let first = !w.contains_key(&vol);
            w.entry(vol).or_default().push(asked);
            first
        });
        if first {
            tokio::spawn(async move { all.run(&m, vol).await });
        }
    }

    async fn run(&self, m: &Member, vol: VolumeId) {
        let several = m.view.borrow().volumes.get(&vol).is_some_and(|v| v.shards.len() > 1);
        loop {
            if several {
                tokio::time::sleep(GATHER).await;
            }
            match self.take(m, vol) {
                Some(batch) => propose(m, batch).await,
                None => return,
            }
        }
    }

    /// Takes the changes that can go into one command. If nothing waits, the result is empty and the volume's
    /// task ends.
    fn take(&self, m: &Member, vol: VolumeId) -> Option<Vec<Asked>> {
        let mut w = self.0.lock().ok()?;
        let waiting = w.get_mut(&vol)?;
        let Some(newest) = waiting.iter().map(|a| (a.term, a.epoch)).max() else {
            w.remove(&vol);
            return None;
        };
        let (mut batch, mut later) = (BTreeMap::new(), Vec::new());
        for a in std::mem::take(waiting) {
            if (a.term, a.epoch) != newest {
                // The change was decided on an older record and would be refused.
                answer(m, &a, Proposed::Retry);
            } else if batch.len() < AT_ONCE || batch.contains_key(&a.shard) {
                batch.insert(a.shard, a);
            } else {
                later.push(a);
            }
        }
        *waiting = later;
        Some(batch.into_values().collect())
    }
}

fn answer(m: &Member, a: &Asked, outcome: Proposed) {
    for r in &m.reactors {
        r.send(Mail::Proposed { shard: a.shard, session: a.session, outcome });
    }
}

/// The command for these changes. A single change is sent as the command of its own name, which older nodes
/// know too.
fn command(batch: &[Asked]) -> Option<Command> {
    let first = batch.first()?;
    let (vol, epoch, term, shard) = (first.shard.vol, first.epoch, first.term, first.shard.index);
    if batch.len() > 1 {
        let change = |a: &Asked| step(&a.change).map(|what| ShardChange { shard: a.shard.index, what });
        return Some(Command::Together { vol, epoch, term, changes: batch.iter().filter_map(change).collect() });
    }
    Some(match first.change.clone() {
        Change::Drop { rids, base, told, reasons } => {
            Command::Drop { vol, shard, epoch, term, rids, base, told, reasons }
        }
        Change::SyncStart { rid, sync_id } => Command::SyncStart { vol, shard, epoch, term, rid, sync_id },
        Change::Add { rid, store_uuid } => Command::Add { vol, shard, epoch, term, rid, store_uuid },
        Change::Scrubbed { id, report } => Command::Scrubbed { vol, shard, epoch, term, id, report },
    })
}

fn step(change: &Change) -> Option<ShardStep> {
    match change.clone() {
        Change::Drop { rids, base, told, reasons } => Some(ShardStep::Drop { rids, base, told, reasons }),
        Change::Add { rid, store_uuid } => Some(ShardStep::Add { rid, store_uuid }),
        Change::Scrubbed { id, report } => Some(ShardStep::Scrubbed { id, report }),
        Change::SyncStart { .. } => None,
    }
}

async fn propose(m: &Member, batch: Vec<Asked>) {
    let Some(cmd) = command(&batch) else { return };
    let vol = batch.first().map(|a| a.shard.vol.to_string()).unwrap_or_default();
    let outcome = match m.propose_new(cmd).await {
        // Some of several changes may have been refused; their coordinators see that in the record.
        Ok(Ok(_)) => {
            m.states.over("change refused", &vol);
            m.states.over("change not proposed", &vol);
            Proposed::Done
        }
        Ok(Err(Refusal::StaleTerm { .. } | Refusal::NotAttached)) => Proposed::Stale,
        Ok(Err(Refusal::Busy(why))) => {
            tracing::debug!("a sync waits: {why}");
            Proposed::Busy
        }
        Ok(Err(e)) => {
            m.states.info("change refused", &vol, &format!("a change of a volume's replicas was refused: {e}"));
            Proposed::Retry
        }
        Err(e) => {
            let text = format!("a change of a volume's replicas could not be proposed: {e}");
            m.states.warn("change not proposed", &vol, &text);
            Proposed::Unknown
        }
    };
    batch.iter().for_each(|a| answer(m, a, outcome));
}
