//! Who watches: the leader's hub of changes, and the streams that clients of any node get from it.
//!
//! The hub is the leader's, because only the leader knows which nodes and disks answer. A client may watch at any node:
//! that node passes on what the leader streams, and finds the next leader by itself. It decides nothing.

mod items;
mod session;

pub use session::{followed, stream};

use crate::identity::random;
use crate::member::Member;
use hf_control::model::{Health, HealthRef, Severity};
use hf_control::view::Alerts;
use hf_control::watch::{Change, Hub, Position, Reset};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Changes of the record are noticed at once; of what nodes tell, at least this often.
const TICK: Duration = Duration::from_millis(500);
/// Batches of changes that a session may be behind. It reads them as they come, so only a stuck one is.
const BEHIND: usize = 256;
/// Streams of clients that a node serves, at most.
const STREAMS: usize = 512;

/// The leader's hub, and who listens to it.
pub struct Watching {
    hub: Mutex<Option<Led>>,
    changes: broadcast::Sender<Arc<Vec<Change>>>,
    streams: Arc<tokio::sync::Semaphore>,
    began: Instant,
}

/// The hub of one term of this leader.
struct Led {
    term: u64,
    hub: Hub,
}

impl Default for Watching {
    fn default() -> Watching {
        Watching {
            hub: Mutex::default(),
            changes: broadcast::channel(BEHIND).0,
            streams: Arc::new(tokio::sync::Semaphore::new(STREAMS)),
            began: Instant::now(),
        }
    }
}

/// No health code is known.
struct Silent;

impl Alerts for Silent {
    fn about(&self, _: &str) -> Vec<HealthRef> {
        Vec::new()
    }
    fn health(&self, revision: u64) -> Health {
        let (worst, state) = (Severity::Error, "unknown".to_string());
        Health { worst, state, items: Vec::new(), total: 0, mutes: Vec::new(), revision }
    }
}

/// Where a session begins: the changes that its client may lack, and all that come after them.
type Begun = (Vec<Change>, Position, broadcast::Receiver<Arc<Vec<Change>>>);

impl Watching {
    /// Lets `f` look at the health codes that are raised now.
    pub fn with<T>(&self, f: impl FnOnce(&dyn Alerts) -> T) -> T {
        f(&Silent)
    }

    /// Begins a session behind a position, or a revision, or now. None: this node does not lead.
    fn begin(&self, after: Option<Position>, revision: Option<u64>) -> Option<Result<Begun, Reset>> {
        let led = self.hub.lock().ok()?;
        let hub = &led.as_ref()?.hub;
        let first = match (after, revision) {
            (Some(p), _) => hub.since(p),
            (None, Some(rev)) => hub.after_revision(rev),
            (None, None) => Ok(Vec::new()),
        };
        Some(first.map(|f| (f, hub.position(), self.changes.subscribe())))
    }

    /// The position of a change, if this node still leads.
    fn position(&self, at: u64) -> Option<Position> {
        self.hub.lock().ok()?.as_ref().map(|l| l.hub.at(at))
    }

    /// Looks at what changed, if this node leads.
    fn tick(&self, m: &Member) {
        let term = m.meta.status.borrow().term;
        let soft = m.soft_as_leader();
        let state = m.view.borrow().clone();
        let now = self.began.elapsed().as_millis() as u64;
        let Ok(mut led) = self.hub.lock() else { return };
        let Some(soft) = soft else {
            *led = None;
            return;
        };
        if led.as_ref().is_none_or(|l| l.term != term) {
            *led = Some(Led { term, hub: Hub::new(random() as u64) });
        }
        let Some(l) = led.as_mut() else { return };
        let changes = l.hub.tick(&state, Some(&soft), now);
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
