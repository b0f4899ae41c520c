//! A reactor that was paused (its process was stopped, or starved) begins nothing for clients before this node is known to obey the newest
//! record: somebody may have been told meanwhile that it does not obey yet.

use super::Event;
use super::core::{Core, CoreRef, now};
use crate::pulse::PAUSED;
use hf_policy::Tick;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// The reactor's own pulse.
pub(super) struct Pause {
    last: Tick,
    paused: bool,
    over: Rc<Notify>,
}

impl Default for Pause {
    fn default() -> Self {
        Pause { last: now(), paused: false, over: Rc::default() }
    }
}

/// A turn of the reactor's clock.
pub(super) fn beat(core: &CoreRef, t: Tick) {
    let mut c = core.borrow_mut();
    let late = t.since(c.pause.last) > PAUSED;
    c.pause.last = t;
    if late {
        begin(core, &mut c);
    }
}

fn begin(core: &CoreRef, c: &mut Core) {
    if std::mem::replace(&mut c.pause.paused, true) {
        return;
    }
    let (tx, rx) = oneshot::channel();
    let _ = c.events.send(Event::Paused { fresh: tx });
    let core = core.clone();
    tokio::task::spawn_local(async move {
        // (Nobody listens any more when the node ends.)
        let _ = rx.await;
        let mut c = core.borrow_mut();
        c.pause.paused = false;
        c.pause.over.notify_waiters();
    });
}

/// Waits until this reactor may begin what clients ask for.
pub(super) async fn over(core: &CoreRef) {
    loop {
        let over = {
            let mut c = core.borrow_mut();
            // Whoever runs first after a pause notices it.
            if now().since(c.pause.last) > PAUSED {
                begin(core, &mut c);
            }
            if !c.pause.paused {
                return;
            }
            c.pause.over.clone()
        };
        let _ = tokio::time::timeout(Duration::from_millis(50), over.notified()).await;
    }
}
