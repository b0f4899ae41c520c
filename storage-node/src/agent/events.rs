//! Writes the record's events to the node's own files as they come ([`crate::event_log`]).

use crate::event_log::EventLog;
use crate::member::Member;
use std::path::PathBuf;
use std::sync::Arc;

/// Writes the record's events to this node's files as they come.
pub async fn run(m: Arc<Member>, data_dir: PathBuf) {
    let mut view = m.view.clone();
    let opened = tokio::task::spawn_blocking(move || EventLog::open(&data_dir)).await;
    let log = match opened {
        Ok(Ok(log)) => log,
        Ok(Err(e)) => return tracing::warn!("events are not kept in data_dir/events: {e}"),
        Err(e) => return tracing::warn!("events are not kept in data_dir/events: {e}"),
    };
    let log = Arc::new(std::sync::Mutex::new(log));
    let _ = m.event_log.set(log.clone());
    let mut failing = false;
    loop {
        let state = view.borrow_and_update().clone();
        let log = log.clone();
        let written = tokio::task::spawn_blocking(move || match log.lock() {
            Ok(mut l) => l.write(state.events.iter()),
            Err(_) => Ok(()),
        });
        let failed = matches!(&written.await, Ok(Err(e)) if {
            if !failing {
                tracing::warn!("events cannot be written to data_dir/events, later ones may be missing there: {e}");
            }
            true
        });
        failing = failed;
        if view.changed().await.is_err() {
            return;
        }
    }
}
