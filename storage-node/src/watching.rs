//! The leader's hub of changes, the health codes that are raised, and who listens to them. `watch/` feeds it and makes
//! streams from it; it decides nothing itself.

use crate::identity::random;
use hf_control::health::{Now, Tracker};
use hf_control::model::Counts;
use hf_control::view::Alerts;
use hf_control::watch::{Change, Hub, Position, Reset};
use hf_meta_core::ClusterState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, broadcast};

/// Batches of changes that a session may be behind. It reads them as they come, so only a stuck one is.
const BEHIND: usize = 256;
/// Streams of clients that a node serves, at most.
const STREAMS: usize = 512;

/// The leader's hub and what it finds wrong, and who listens to it.
pub struct Watching {
    seen: Mutex<Seen>,
    changes: broadcast::Sender<Arc<Vec<Change>>>,
    streams: Arc<tokio::sync::Semaphore>,
    began: Instant,
}

/// What this node makes of what it hears.
struct Seen {
    /// The hub of one term of this leader; none while this node does not lead.
    led: Option<(u64, Hub)>,
    /// Health codes. Without a leader they say that there is none; beside another leader they say nothing.
    health: Tracker,
}

impl Default for Watching {
    fn default() -> Watching {
        Watching {
            seen: Mutex::new(Seen { led: None, health: Tracker::new() }),
            changes: broadcast::channel(BEHIND).0,
            streams: Arc::new(tokio::sync::Semaphore::new(STREAMS)),
            began: Instant::now(),
        }
    }
}

/// Where a session begins: the changes that its client may lack, and all that come after them.
pub type Begun = (Vec<Change>, Position, broadcast::Receiver<Arc<Vec<Change>>>);

impl Watching {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Nobody panics while it holds the lock; if somebody did, what it left is at worst a tick old.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `f` look at the health codes that are raised now, and at how many volumes are in which state, if that is
    /// counted.
    pub fn with<T>(&self, f: impl FnOnce(&dyn Alerts, Option<&Counts>) -> T) -> T {
        let seen = self.lock();
        f(&seen.health, seen.health.states())
    }

    /// Begins a session behind a position, or a revision, or now. None: this node does not lead.
    pub fn begin(&self, after: Option<Position>, revision: Option<u64>) -> Option<Result<Begun, Reset>> {
        let seen = self.lock();
        let (_, hub) = seen.led.as_ref()?;
        let first = match (after, revision) {
            (Some(p), _) => hub.since(p),
            (None, Some(rev)) => hub.after_revision(rev),
            (None, None) => Ok(Vec::new()),
        };
        Some(first.map(|f| (f, hub.position(), self.changes.subscribe())))
    }

    /// The position of a change, if this node still leads.
    pub fn position(&self, at: u64) -> Option<Position> {
        self.lock().led.as_ref().map(|(_, hub)| hub.at(at))
    }

    /// Looks at what changed; `state` is what `now` looks at, too. `now.soft`: what this node hears, if it leads.
    /// `silent`: no leader was heard for long.
    pub fn tick(&self, state: &Arc<ClusterState>, now: Now, term: u64, silent: bool) {
        let mut seen = self.lock();
        let Seen { led, health } = &mut *seen;
        if now.soft.is_none() {
            if led.take().is_some() || !silent {
                *health = Tracker::new();
            } else {
                health.tick(now, &[]);
            }
            return;
        }
        if led.as_ref().is_none_or(|(t, _)| *t != term) {
            *led = Some((term, Hub::new(random() as u64)));
            *health = Tracker::new();
        }
        let Some((_, hub)) = led.as_mut() else { return };
        let mut changes = hub.tick(state, now.soft, now.now_ms);
        let flips = health.tick(now, &changes);
        changes.extend(hub.note(flips.keys()));
        if !changes.is_empty() {
            // Nobody may listen, and that is no fault.
            let _ = self.changes.send(Arc::new(changes));
        }
    }

    /// The record at the last tick, if this node leads. What is sent to clients is made from this one: of a newer one a
    /// client could learn a name whose end no tick notices.
    pub fn state(&self) -> Option<Arc<ClusterState>> {
        self.lock().led.as_ref()?.1.state().cloned()
    }

    /// Mutes that have ended by themselves and are still on record: code and subject.
    pub fn ended_mutes(&self) -> Vec<(String, String)> {
        let seen = self.lock();
        seen.health.ended_mutes().map(|(c, s)| (c.to_string(), s.to_string())).collect()
    }

    /// Milliseconds since the process began to watch.
    pub fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// A seat for a client's stream; none if all are taken.
    pub fn seat(&self) -> Option<OwnedSemaphorePermit> {
        self.streams.clone().try_acquire_owned().ok()
    }
}
