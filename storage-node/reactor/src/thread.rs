//! A reactor's thread: its mailbox, its clock, and the tasks that own sockets and descriptors.

use crate::core::{Core, Shared};
use crate::disk::host::DiskHost;
use crate::disk::{DiskFile, DiskOptions};
use crate::event::{Event, Identity};
use crate::export;
use crate::link::{dial, serve};
use crate::mail::Mail;
use crate::memory::Memory;
use crate::net::Stream;
use crate::pause::Pause;
use crate::volume::port::Port;
use hf_frontends::nbd::Agreed;
use hf_host_config::clock::now;
use hf_policy::{DiskId, VolumeId};
use hf_store::Store;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::spawn_local;

/// From one turn of the clock to the next.
const TURN: Duration = Duration::from_millis(20);
/// Turns from one housekeeping to the next: a second.
const HOUSEKEEPING: u32 = 50;

/// What the tasks of a reactor share.
#[derive(Clone)]
struct Reactor {
    shared: Rc<Shared>,
    pause: Rc<Pause>,
}

/// The reactor's life.
pub(crate) async fn run(
    id: Identity,
    mut rx: mpsc::UnboundedReceiver<Mail>,
    events: mpsc::UnboundedSender<Event>,
    memory: Memory,
) {
    let pause = Pause::new(events.clone());
    let shared = Rc::new(Shared(RefCell::new(Core::new(id, events, memory))));
    let reactor = Reactor { shared, pause };
    spawn_local(reactor.clone().clock());
    while let Some(mail) = rx.recv().await {
        reactor.handle(mail);
        let ended = reactor.shared.0.borrow_mut().finish_shutdown();
        if ended {
            return;
        }
    }
}

impl Reactor {
    async fn clock(self) {
        let mut interval = tokio::time::interval(TURN);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut turn = 0u32;
        loop {
            interval.tick().await;
            turn = turn.wrapping_add(1);
            let t = now();
            self.pause.beat(t);
            let mut c = self.shared.0.borrow_mut();
            c.tick(t);
            if turn.is_multiple_of(HOUSEKEEPING) {
                c.housekeep();
            }
            c.drain();
            c.finish_shutdown();
        }
    }

    fn handle(&self, mail: Mail) {
        match mail {
            Mail::AddDisk { disk, store, file, how } => self.add_disk(disk, *store, file, how),
            Mail::Nbd { stream, agreed, vol, rest, seat } => self.nbd(stream, *agreed, vol, rest, seat),
            Mail::Data { stream, disk, capabilities } => {
                spawn_local(serve::serve(self.shared.clone(), stream, disk, capabilities));
            }
            mail @ (Mail::State(_) | Mail::StartVolume { .. }) => {
                let new = {
                    let mut c = self.shared.0.borrow_mut();
                    c.mail(mail);
                    c.new_links()
                };
                for (disk, traffic) in new {
                    spawn_local(dial::keep(self.shared.clone(), disk, traffic));
                }
            }
            mail => self.shared.0.borrow_mut().mail(mail),
        }
    }

    /// Takes a disk over: its replicas wake, its completions are watched.
    fn add_disk(&self, id: DiskId, store: Store, file: Arc<DiskFile>, how: DiskOptions) {
        let c = &mut *self.shared.0.borrow_mut();
        let state = c.state.clone();
        match DiskHost::open(c.identity(), id, (store, file, how), state, &mut c.queue) {
            Ok((host, fd)) => {
                c.disks.insert(id, host);
                c.drain();
                spawn_local(self.clone().watch(id, fd));
            }
            Err(e) => c.queue.tell(Event::DiskFailed { disk: id, why: e.to_string() }),
        }
    }

    /// Reaps a disk's completions: many for one wake-up.
    async fn watch(self, id: DiskId, fd: std::os::fd::OwnedFd) {
        // SAFETY: the descriptor is owned by the AsyncFd and is never closed or replaced behind its back.
        let fd = match unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) } {
            Ok(fd) => fd,
            Err(e) => {
                let why = e.to_string();
                return self.shared.0.borrow().queue.tell(Event::DiskFailed { disk: id, why });
            }
        };
        loop {
            let Ok(mut ready) = fd.readable().await else { return };
            ready.clear_ready();
            self.shared.0.borrow_mut().reap(id);
        }
    }

    /// Serves a negotiated connection in a task of its own, unless the volume's clients have to leave.
    fn nbd(&self, stream: Stream, agreed: Agreed, vol: VolumeId, rest: Vec<u8>, seat: OwnedSemaphorePermit) {
        let Some(intake) = self.shared.0.borrow().volumes.intake(vol) else { return };
        let reactor = self.clone();
        spawn_local(async move {
            let peer = stream.peer().clone();
            let open = |fd| Port::open(reactor.shared.clone(), reactor.pause.clone(), vol, intake, fd);
            let served = export::nbd::serve(stream, &agreed, rest, open).await;
            drop(seat);
            if let Err(e) = served {
                tracing::debug!(volume = %vol, %peer, "NBD connection ended: {e}");
            }
        });
    }
}
