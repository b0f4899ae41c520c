//! Threads that do blocking work for a reactor, and the only hand-made protocol between threads of the daemon: how what they have
//! done comes back.
//!
//! A worker first puts its result into the queue, then rings the bell. The reactor waits for the bell; then it silences it first and
//! empties the queue after that. So whatever is put while the reactor looks rings again afterwards: no result stays behind
//! unheard (`docs/decisions/0008-threads-and-shuttle.md`). One ring may stand for many results, and a ring may find none.

#[cfg(not(test))]
use std::{sync, thread};
// The same code under a scheduler that tries the schedules.
#[cfg(test)]
use shuttle::{sync, thread};

use sync::mpsc::{Receiver, Sender, channel};
use sync::{Arc, Mutex};

/// How the reactor is woken: an eventfd in the daemon.
pub trait Bell: Send + Sync + 'static {
    /// Wakes the reactor, now or as soon as it waits.
    fn ring(&self);
    /// Takes back all rings so far.
    fn silence(&self);
}

/// A pool of threads that turn jobs into results. They end when it is dropped, after the jobs that were submitted.
pub struct Workers<J, D, B> {
    jobs: Sender<J>,
    done: Receiver<D>,
    bell: Arc<B>,
}

impl<J: Send + 'static, D: Send + 'static, B: Bell> Workers<J, D, B> {
    /// Starts `threads` of them.
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

    /// What is rung when something was done.
    pub fn bell(&self) -> &B {
        &self.bell
    }

    /// Queues a job.
    pub fn submit(&mut self, job: J) {
        let _ = self.jobs.send(job);
    }

    /// Takes what was done.
    pub fn reap(&mut self, out: &mut Vec<D>) {
        self.bell.silence();
        out.extend(std::iter::from_fn(|| self.done.try_recv().ok()));
    }
}

#[cfg(test)]
mod tests;
