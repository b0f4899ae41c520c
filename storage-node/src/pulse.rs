//! Notices when this process did not run for a while, because it was stopped, suspended or starved. Meanwhile
//! the record may have changed, and the caller of the change was told that this node does not obey yet. So
//! the node serves nobody again before it has seen the newest record (docs/decisions/0024).

use hf_host_config::clock::{PAUSED, now};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Interval between two beats.
const BEAT: Duration = Duration::from_millis(100);

/// The pulse of this process outside its reactors, each of which has its own.
pub struct Pulse {
    last: AtomicU64,
    paused: watch::Sender<bool>,
}

impl Default for Pulse {
    fn default() -> Self {
        Pulse { last: AtomicU64::new(now().0), paused: watch::Sender::new(false) }
    }
}

impl Pulse {
    fn is_late(&self) -> bool {
        now().0.saturating_sub(self.last.load(Ordering::Relaxed)) > PAUSED
    }

    /// Records a beat. True if this process was paused since the last one.
    fn beat(&self) -> bool {
        let late = self.is_late();
        self.last.store(now().0, Ordering::Relaxed);
        late
    }

    /// Beats for ever. After a pause, calls `refresh` until it says that this node is up to date and there
    /// was no other pause meanwhile.
    pub async fn run<F: Future<Output = bool>>(&self, refresh: impl Fn() -> F) {
        loop {
            if self.beat() {
                self.paused.send_replace(true);
            }
            if *self.paused.borrow() {
                let (mut again, mut asked) = (false, std::pin::pin!(refresh()));
                let done = loop {
                    tokio::select! {
                        done = &mut asked => break done,
                        () = tokio::time::sleep(BEAT) => again |= self.beat(),
                    }
                };
                if done && !again && !self.beat() {
                    self.paused.send_replace(false);
                }
            }
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Waits until this node is known to be up to date since its last pause.
    pub async fn fresh(&self) {
        let mut rx = self.paused.subscribe();
        while *rx.borrow_and_update() || self.is_late() {
            let _ = tokio::time::timeout(BEAT, rx.changed()).await;
        }
    }
}
