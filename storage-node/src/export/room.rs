//! Room for connections: seats for those that are served, and places for those that have not said yet what they want.
//!
//! A peer that connects and says nothing holds no seat, and its place only as long as nobody else needs it:
//! where all places are taken, the oldest connection that has had its time gives way. So silent peers,
//! however many, delay nobody for long.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// Negotiations at once at each listener; more wait in the listen queue until the oldest one is over, or has
/// had [`GRACE`].
pub const NEGOTIATING: usize = 2048;
/// How long a negotiation may take though all places are taken. A client that answers needs a few round trips.
const GRACE: Duration = Duration::from_millis(500);

/// The doors of this node's listeners.
pub struct Doors {
    /// NBD over TCP.
    pub nbd: Arc<Door>,
    /// NBD over the Unix socket.
    pub nbd_unix: Arc<Door>,
    /// Links of other nodes to disks here.
    pub data: Arc<Door>,
}

impl Default for Doors {
    fn default() -> Self {
        let door = || Door::new(NEGOTIATING, GRACE);
        Doors { nbd: door(), nbd_unix: door(), data: door() }
    }
}

impl Doors {
    /// Each with its name.
    pub fn all(&self) -> [(&'static str, &Door); 3] {
        [("nbd", &self.nbd), ("nbd_socket", &self.nbd_unix), ("data", &self.data)]
    }
}

/// Room for NBD connections: each holds a seat from the end of its negotiation to its own end.
pub struct Seats {
    room: Arc<Semaphore>,
    refused: AtomicU64,
}

impl Seats {
    /// So many seats.
    pub fn new(most: usize) -> Seats {
        Seats { room: Arc::new(Semaphore::new(most)), refused: AtomicU64::new(0) }
    }

    /// A seat, if one is free.
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        let seat = self.room.clone().try_acquire_owned().ok();
        if seat.is_none() {
            let n = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
            // Once, twice, four times…: who comes again and again does not fill the log.
            if n.is_power_of_two() {
                tracing::warn!(refused = n, "an NBD connection was closed at once: nbd_connections are open already");
            }
        }
        seat
    }

    /// Connections that found no seat.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// A connection at the door.
struct Guest {
    since: Instant,
    task: AbortHandle,
}

#[derive(Default)]
struct Guests {
    next: u64,
    /// By the order in which they came.
    here: BTreeMap<u64, Guest>,
}

/// Connections of one listener that have not said yet what they want.
pub struct Door {
    most: usize,
    /// How long each may take though others wait.
    time: Duration,
    guests: Mutex<Guests>,
    left: Notify,
    cut: AtomicU64,
}

/// A place at the door, while its connection is there.
struct Place(Arc<Door>, u64);

impl Drop for Place {
    fn drop(&mut self) {
        if let Ok(mut g) = self.0.guests.lock() {
            g.here.remove(&self.1);
        }
        self.0.left.notify_one();
    }
}

impl Door {
    /// A door with so many places, each for at least `time`.
    pub fn new(most: usize, time: Duration) -> Arc<Door> {
        Arc::new(Door { most, time, guests: Mutex::default(), left: Notify::new(), cut: AtomicU64::new(0) })
    }

    /// Connections that gave way to newer ones before they had said what they want.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Connections that are there now.
    pub fn here(&self) -> usize {
        self.guests.lock().map_or(0, |g| g.here.len())
    }

    /// Waits for a place.
    pub async fn room(&self) {
        loop {
            let wait = {
                let Ok(mut g) = self.guests.lock() else { return };
                if g.here.len() < self.most {
                    return;
                }
                let Some(oldest) = g.here.first_entry() else { return };
                let left = self.time.saturating_sub(oldest.get().since.elapsed());
                if left.is_zero() {
                    oldest.remove().task.abort();
                    self.cut.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                left
            };
            let _ = tokio::time::timeout(wait, self.left.notified()).await;
        }
    }

    /// Runs `work` in a place of its own, which it gives up when it ends. Only the listener calls this, after
    /// [`Door::room`].
    pub fn enter(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(mut g) = self.guests.lock() else { return };
        let key = g.next;
        g.next += 1;
        let place = Place(self.clone(), key);
        let task = tokio::spawn(async move {
            let _place = place;
            work.await;
        });
        g.here.insert(key, Guest { since: Instant::now(), task: task.abort_handle() });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way_when_its_time_is_over_and_whoever_is_quick_is_never_cut() {
        let door = Door::new(4, Duration::from_millis(50));
        for _ in 0..4 {
            door.room().await;
            door.enter(std::future::pending());
        }
        let began = Instant::now();
        for _ in 0..4 {
            door.room().await;
            door.enter(async {});
        }
        assert!(began.elapsed() >= Duration::from_millis(40), "a place is had for a while in any case");
        assert!(door.cut() >= 1 && door.cut() <= 4, "{}", door.cut());
        // Quick ones, many more than there are places: all get through.
        let (done, cut) = (Arc::new(AtomicU64::new(0)), door.cut());
        for _ in 0..200 {
            door.room().await;
            let done = done.clone();
            door.enter(async move {
                tokio::task::yield_now().await;
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        let all = async {
            while done.load(Ordering::Relaxed) < 200 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
        assert!(door.cut() - cut <= 3, "only those who say nothing are cut: {}", door.cut());
    }
}
