//! A reactor that was paused (its process was stopped, or starved) begins nothing for clients before this
//! node is known to obey the newest record: somebody may have been told meanwhile that it does not obey yet
//! (docs/decisions/0024).

use crate::event::Event;
use hf_host_config::clock::{PAUSED, now};
use hf_policy::Tick;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};

/// How often a request that waits looks again; it is woken when the pause is over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The reactor's own pulse.
pub(crate) struct Pause {
    last: Cell<Tick>,
    paused: Cell<bool>,
    over: Notify,
    events: mpsc::UnboundedSender<Event>,
}

impl Pause {
    pub fn new(events: mpsc::UnboundedSender<Event>) -> Rc<Pause> {
        Rc::new(Pause { last: Cell::new(now()), paused: Cell::new(false), over: Notify::new(), events })
    }

    /// A turn of the reactor's clock.
    pub fn beat(self: &Rc<Self>, t: Tick) {
        if t.since(self.last.replace(t)) > PAUSED {
            self.begin();
        }
    }

    fn begin(self: &Rc<Self>) {
        if self.paused.replace(true) {
            return;
        }
        let (tx, rx) = oneshot::channel();
        let _ = self.events.send(Event::Paused { fresh: tx });
        let pause = self.clone();
        tokio::task::spawn_local(async move {
            // An error means that nobody listens any more: the node ends.
            let _ = rx.await;
            pause.paused.set(false);
            pause.over.notify_waiters();
        });
    }

    /// May this reactor begin what clients ask for? Whoever runs first after a pause notices it.
    #[inline]
    pub fn is_over(self: &Rc<Self>) -> bool {
        if now().since(self.last.get()) > PAUSED {
            self.begin();
        }
        !self.paused.get()
    }

    /// Waits until this reactor may begin what clients ask for.
    pub async fn over(self: &Rc<Self>) {
        while !self.is_over() {
            let _ = tokio::time::timeout(LOOK_AGAIN, self.over.notified()).await;
        }
    }
}
