//! Tests of the hand-over under shuttle, in thousands of schedules, random ones and ones with few preemptions
//! (PCT). A lost wake-up leaves the reactor waiting with no thread left to ring; shuttle reports that as a
//! deadlock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::{Bell, Workers};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

const SCHEDULES: usize = 3000;

/// An eventfd as `poll` sees it: readable while its count is not zero.
#[derive(Clone, Default)]
struct Level(Arc<(Mutex<u64>, Condvar)>);

/// An eventfd as edge-triggered epoll sees it (tokio's AsyncFd): each ring is reported once.
#[derive(Clone, Default)]
struct Edge(Arc<(Mutex<bool>, Condvar)>);

trait Wait: Bell + Clone + Default {
    /// Blocks until the bell was rung, as the reactor's `watch` does.
    fn wait(&self);
}

impl Bell for Level {
    fn ring(&self) {
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_all();
    }
    fn silence(&self) {
        *self.0.0.lock().unwrap() = 0;
    }
}

impl Wait for Level {
    fn wait(&self) {
        let mut n = self.0.0.lock().unwrap();
        while *n == 0 {
            n = self.0.1.wait(n).unwrap();
        }
    }
}

impl Bell for Edge {
    fn ring(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
    /// Reading the eventfd does not take an edge back.
    fn silence(&self) {}
}

impl Wait for Edge {
    /// `readable().await`, then `clear_ready()`.
    fn wait(&self) {
        let mut rung = self.0.0.lock().unwrap();
        while !*rung {
            rung = self.0.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Runs the test under random schedules, and under schedules with few preemptions.
fn everywhere(f: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(f.clone(), SCHEDULES);
    shuttle::check_pct(f, SCHEDULES, 3);
}

/// Acts as the reactor: submits jobs in two turns, and reaps until all results have come back.
fn all_come_back<B: Wait>(threads: usize, jobs: u32) {
    let bell = B::default();
    let mut w = Workers::new(threads, bell.clone(), |j: u32| j * 10);
    (0..jobs / 2).for_each(|j| w.submit(j));
    let (mut got, mut turns) = (Vec::new(), 0);
    while got.len() < jobs as usize {
        if turns == 1 || jobs < 2 {
            (jobs / 2..jobs).for_each(|j| w.submit(j));
        }
        if got.len() < if turns == 0 { jobs / 2 } else { jobs } as usize {
            bell.wait();
        }
        w.reap(&mut got);
        turns += 1;
    }
    got.sort_unstable();
    assert_eq!(got, (0..jobs).map(|j| j * 10).collect::<Vec<_>>());
}

#[test]
fn no_wake_up_is_lost_where_the_bell_stays_rung() {
    everywhere(|| all_come_back::<Level>(2, 4));
    everywhere(|| all_come_back::<Level>(3, 3));
}

#[test]
fn no_wake_up_is_lost_where_each_ring_is_told_once() {
    everywhere(|| all_come_back::<Edge>(2, 4));
    everywhere(|| all_come_back::<Edge>(3, 3));
}

/// The pool is dropped while its threads work: they end, whatever they wait for.
#[test]
fn threads_end_with_their_pool() {
    everywhere(|| {
        let ended = Arc::new(Mutex::new(0));
        struct Ends(Arc<Mutex<u32>>);
        impl Drop for Ends {
            fn drop(&mut self) {
                *self.0.lock().unwrap() += 1;
            }
        }
        let ends = Ends(ended.clone());
        let mut w = Workers::new(2, Level::default(), move |j: u32| {
            let _ = &ends;
            j
        });
        w.submit(1);
        w.submit(2);
        drop(w);
        // The last thread to end drops `run`, and `ends` with it.
        while *ended.lock().unwrap() == 0 {
            thread::yield_now();
        }
    });
}

/// The same protocol, with one step in the wrong place if asked. It shows that the tests above would notice
/// that.
struct Wrong<B> {
    queue: Arc<Mutex<Vec<u32>>>,
    bell: B,
}

impl<B: Wait> Wrong<B> {
    fn start(ring_first: bool) -> Wrong<B> {
        let w = Wrong { queue: Arc::default(), bell: B::default() };
        for j in 0..2 {
            let (queue, bell) = (w.queue.clone(), w.bell.clone());
            thread::spawn(move || {
                if ring_first {
                    bell.ring();
                    queue.lock().unwrap().push(j);
                } else {
                    queue.lock().unwrap().push(j);
                    bell.ring();
                }
            });
        }
        w
    }
    fn reap_all(&self, silence_last: bool) {
        let mut got = 0;
        while got < 2 {
            self.bell.wait();
            if !silence_last {
                self.bell.silence();
            }
            got += std::mem::take(&mut *self.queue.lock().unwrap()).len();
            if silence_last {
                self.bell.silence();
            }
        }
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn silencing_after_the_queue_was_emptied_would_be_noticed() {
    everywhere(|| Wrong::<Level>::start(false).reap_all(true));
}

#[test]
#[should_panic(expected = "deadlock")]
fn ringing_before_the_result_is_there_would_be_noticed() {
    everywhere(|| Wrong::<Edge>::start(true).reap_all(false));
}

#[test]
fn the_right_order_of_the_same_steps_holds() {
    everywhere(|| Wrong::<Level>::start(false).reap_all(false));
    everywhere(|| Wrong::<Edge>::start(false).reap_all(false));
}
