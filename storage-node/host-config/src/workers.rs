//! Threads that do blocking work for a reactor, and how their results come back: the daemon's only hand-made
//! protocol between threads.
//!
//! A worker first puts its result into the queue, then rings the bell. The reactor waits for the bell; then
//! it first silences the bell, and then empties the queue. So a result that is put while the reactor empties
//! the queue rings again afterwards, and none stays behind (`docs/decisions/0008-threads-and-shuttle.md`).
//! One ring may stand for many results, and a ring may find none.

#[cfg(not(test))]
use std::{sync, thread};
// In tests the same code runs on channels and threads whose scheduler tries many schedules.
#[cfg(test)]
use shuttle::{sync, thread};

use sync::mpsc::{Receiver, Sender, channel};
use sync::{Arc, Mutex};

/// What wakes the reactor: in the daemon, an eventfd.
pub trait Bell: Send + Sync + 'static {
    /// Wakes the reactor, now or as soon as it waits.
    fn ring(&self);
    /// Forgets all rings so far.
    fn silence(&self);
}

/// A pool of threads that turn jobs into results. After a drop of the pool they finish the submitted jobs and
/// end.
pub struct Workers<J, D, B> {
    jobs: Sender<J>,
    done: Receiver<D>,
    bell: Arc<B>,
}

impl<J: Send + 'static, D: Send + 'static, B: Bell> Workers<J, D, B> {
    /// Starts `threads` threads; each of them runs `run` on one job at a time.
    pub fn new(threads: usize, bell: B, run: impl Fn(J) -> D + Send + Sync + 'static) -> Workers<J, D, B> {
        let (jobs, rx) = channel::<J>();
        let (done_tx, done) = channel();
        let (rx, bell, run) = (Arc::new(Mutex::new(rx)), Arc::new(bell), Arc::new(run));
        for _ in 0..threads {
            let (rx, done_tx, bell, run) = (rx.clone(), done_tx.clone(), bell.clone(), run.clone());
            thread::spawn(move || {
                loop {
                    let next = match rx.lock() {
                        Ok(rx) => rx.recv(),
                        Err(_) => return,
                    };
                    let Ok(job) = next else { return };
                    if done_tx.send(run(job)).is_err() {
                        return;
                    }
                    bell.ring();
                }
            });
        }
        Workers { jobs, done, bell }
    }

    /// The bell that is rung after each result.
    pub fn bell(&self) -> &B {
        &self.bell
    }

    /// Queues a job; the next free thread takes it.
    pub fn submit(&mut self, job: J) {
        let _ = self.jobs.send(job);
    }

    /// Silences the bell, then appends all results that are there to `out`.
    pub fn reap(&mut self, out: &mut Vec<D>) {
        self.bell.silence();
        out.extend(std::iter::from_fn(|| self.done.try_recv().ok()));
    }
}

#[cfg(test)]
mod tests;
