//! Who watches: the leader's hub of changes, and the streams that clients of any node get from it.
//!
//! The hub is the leader's, because only the leader knows which nodes and disks answer. A client may watch at any node:
//! that node passes on what the leader streams, and finds the next leader by itself. It decides nothing.

mod items;
mod session;

pub use session::{followed, stream};

use crate::identity::random;
use crate::member::{Member, wall_ms};
use hf_control::health::{Now, Tracker};
use hf_control::model::Counts;
use hf_control::view::Alerts;
use hf_control::watch::{Change, Hub, Position, Reset};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Changes of the record are noticed at once; of what nodes tell, at least this often.
const TICK: Duration = Duration::from_millis(500);
/// A leader that was not heard for this long is none.
const SILENT: Duration = Duration::from_secs(5);
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
type Begun = (Vec<Change>, Position, broadcast::Receiver<Arc<Vec<Change>>>);

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
    fn begin(&self, after: Option<Position>, revision: Option<u64>) -> Option<Result<Begun, Reset>> {
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
    fn position(&self, at: u64) -> Option<Position> {
        self.lock().led.as_ref().map(|(_, hub)| hub.at(at))
    }

    /// Looks at what changed.
    fn tick(&self, m: &Member) {
        let term = m.meta.status.borrow().term;
        let soft = m.soft_as_leader();
        let state = m.view.borrow().clone();
        let now_ms = self.began.elapsed().as_millis() as u64;
        let insecure = soft.as_ref().is_some_and(|s| s.nodes.values().any(|n| n.told.insecure));
        let now = Now { state: &state, soft: soft.as_ref(), here: m.node, wall_ms: wall_ms(), now_ms, insecure };
        let mut seen = self.lock();
        let Seen { led, health } = &mut *seen;
        let Some(soft) = soft.as_ref() else {
            if led.take().is_some() || m.told.age() < SILENT {
                *health = Tracker::new();
            } else {
                health.tick(now, &[]);
            }
            return;
        };
        if led.as_ref().is_none_or(|(t, _)| *t != term) {
            *led = Some((term, Hub::new(random() as u64)));
            *health = Tracker::new();
        }
        let Some((_, hub)) = led.as_mut() else { return };
        let mut changes = hub.tick(&state, Some(soft), now_ms);
        let flips = health.tick(now, &changes);
        changes.extend(hub.note(flips.keys()));
        if !changes.is_empty() {
            // Nobody may listen, and that is no fault.
            let _ = self.changes.send(Arc::new(changes));
        }
    }
}

/// Feeds the hub while this node leads.
pub async fn run(m: Arc<Member>) {
    let mut view = m.view.clone();
    loop {
        m.watching.tick(&m);
        let _ = tokio::time::timeout(TICK, view.changed()).await;
        // A burst of changes is looked at together.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
