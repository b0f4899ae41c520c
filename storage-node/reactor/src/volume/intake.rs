//! What the clients of one attached volume may do together: requests in flight (`queue_depth`), first come,
//! first served, and bytes of payload (the volume's account in the node's budget); which of them have left;
//! and that the attachment takes no more.

use super::departures::Departures;
use crate::latency::Recorder;
use hf_repl::budget::{Account, Claim};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;
use tokio::sync::{Mutex, Notify, watch};

/// A FIFO semaphore whose capacity may change while permits are out.
pub(crate) struct Gate {
    most: Cell<u64>,
    taken: Cell<u64>,
    /// Whoever holds it waits for room; the others wait for it, in the order they came.
    turn: Mutex<()>,
    room: Notify,
    waiting: Cell<usize>,
}

/// A place of a gate; given back when dropped.
struct Slot(Rc<Gate>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.set(self.0.taken.get().saturating_sub(1));
        self.0.room.notify_one();
    }
}

/// One more in a number, while it lives.
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn new(n: &'a Cell<usize>) -> Counted<'a> {
        n.set(n.get() + 1);
        Counted(n)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Gate {
    fn new(most: u64) -> Rc<Gate> {
        let (taken, waiting) = (Cell::new(0), Cell::new(0));
        Rc::new(Gate { most: Cell::new(most), taken, turn: Mutex::default(), room: Notify::new(), waiting })
    }

    /// Sets how many places there are from now on; what is out stays out.
    pub(crate) fn set_most(&self, most: u64) {
        self.most.set(most);
        self.room.notify_one();
    }

    /// How many places there are.
    pub(crate) fn most(&self) -> u64 {
        self.most.get()
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Takes a place, if that needs no waiting.
    fn try_take(self: &Rc<Self>) -> Option<Slot> {
        if self.waiting.get() > 0 || self.taken.get() >= self.most.get() {
            return None;
        }
        self.taken.set(self.taken.get() + 1);
        Some(Slot(self.clone()))
    }

    /// Takes a place. Says whether that took waiting.
    async fn take(self: &Rc<Self>) -> (Slot, bool) {
        if let Some(slot) = self.try_take() {
            return (slot, false);
        }
        let _counted = Counted::new(&self.waiting);
        let _turn = self.turn.lock().await;
        while self.taken.get() >= self.most.get() {
            self.room.notified().await;
        }
        self.taken.set(self.taken.get() + 1);
        (Slot(self.clone()), true)
    }
}

/// One connection's client, as far as others must know of it.
pub(crate) struct Client {
    /// Its key among the intake's clients.
    key: u64,
    /// Its socket: open while `open` is set.
    fd: RawFd,
    /// The bytes of payload that it holds.
    pub payload: Claim,
    /// Its place among those who have left, once it has.
    left: Cell<Option<u64>>,
    open: Cell<bool>,
    /// More requests may come from it.
    reading: Cell<bool>,
    in_flight: Cell<usize>,
    /// Something to send, or nothing more will come.
    pub wake: Notify,
}

impl Client {
    /// Nobody can hear an answer any more: reset, failed, or closed both ways.
    pub(crate) fn is_gone(&self) -> bool {
        if !self.open.get() {
            return true;
        }
        // SAFETY: the socket is open while `open` is set.
        let socket = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let mut p = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let n = poll(&mut p, Some(&at_once)).unwrap_or(0);
        n > 0 && p[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
    }

    /// Nothing of it is in flight, and nothing more will be.
    pub(crate) fn is_finished(&self) -> bool {
        !self.open.get() || (!self.reading.get() && self.in_flight.get() == 0)
    }
}

/// A request's place among those in flight.
pub(crate) struct Ticket {
    intake: Rc<Intake>,
    client: Rc<Client>,
    _slot: Option<Slot>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.client.in_flight.set(self.client.in_flight.get().saturating_sub(1));
        self.intake.look(&self.client);
    }
}

/// See the module.
pub(crate) struct Intake {
    /// Requests in flight.
    pub slots: Rc<Gate>,
    /// Bytes of payload held for clients.
    pub payload: Account,
    /// How long their requests took.
    pub latency: Rc<Recorder>,
    clients: RefCell<BTreeMap<u64, Rc<Client>>>,
    next_client: Cell<u64>,
    /// Tells who has left. It takes a descriptor, so it is made for the first client.
    departures: OnceCell<Departures>,
    /// Those who have left and are not finished, in the order in which that was noticed.
    left: RefCell<BTreeMap<u64, Rc<Client>>>,
    next_left: Cell<u64>,
    /// New clients that wait until everybody before a place in that order is finished: (place, client).
    newcomers: RefCell<BTreeMap<(u64, u64), Rc<Notify>>>,
    closing: watch::Sender<bool>,
    size: Cell<u64>,
    read_only: Cell<bool>,
}

/// A newcomer's entry among those who wait, while it waits.
struct Newcomer<'a>(&'a Intake, (u64, u64));

impl Drop for Newcomer<'_> {
    fn drop(&mut self) {
        self.0.newcomers.borrow_mut().remove(&self.1);
    }
}

impl Intake {
    pub(crate) fn new(queue_depth: u64, payload: Account, latency: Rc<Recorder>) -> Rc<Intake> {
        Rc::new(Intake {
            slots: Gate::new(queue_depth),
            payload,
            latency,
            clients: RefCell::default(),
            next_client: Cell::new(0),
            departures: OnceCell::new(),
            left: RefCell::default(),
            next_left: Cell::new(0),
            newcomers: RefCell::default(),
            closing: watch::channel(false).0,
            size: Cell::new(0),
            read_only: Cell::new(true),
        })
    }

    /// A new one for the same volume, after this one was closed.
    pub(crate) fn again(&self) -> Rc<Intake> {
        let new = Intake::new(self.slots.most(), self.payload.clone(), self.latency.clone());
        new.set_shape(self.size(), self.is_read_only());
        new
    }

    /// Sets what clients may ask for from now on: bytes of the volume that are served, and whether they may only read.
    pub(crate) fn set_shape(&self, size: u64, read_only: bool) {
        self.size.set(size);
        self.read_only.set(read_only);
    }

    /// Bytes of the volume that are served; 0 when the volume has left.
    pub(crate) fn size(&self) -> u64 {
        self.size.get()
    }

    /// May clients only read?
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only.get()
    }

    /// No more requests: connections answer what is in flight, then end.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Returns when [`Intake::close`] is called.
    pub(crate) async fn closed(&self) {
        let mut rx = self.closing.subscribe();
        // The sender lives as long as `self`.
        let _ = rx.wait_for(|c| *c).await;
    }

    pub(crate) fn connections(&self) -> usize {
        self.clients.borrow().len()
    }

    /// Somebody waits for what a client that does not go on may hold.
    pub(crate) fn is_contended(&self) -> bool {
        self.payload.budget().waiting() > 0 || !self.newcomers.borrow().is_empty()
    }

    /// A connection begins; `fd` must stay valid until [`Intake::leave`]. With its client comes a mark: what
    /// those sent who had left before is to be over before anything of the new one is begun
    /// ([`Intake::wait_for`]).
    pub(crate) fn enter(&self, fd: RawFd) -> io::Result<(Rc<Client>, u64)> {
        let departures = match self.departures.get() {
            Some(d) => d,
            None => {
                let new = Departures::new()?;
                self.departures.get_or_init(|| new)
            }
        };
        departures.take(|key| self.note_departure(key));
        let key = self.next_client.get();
        self.next_client.set(key + 1);
        let client = Rc::new(Client {
            key,
            fd,
            payload: self.payload.claim(),
            left: Cell::new(None),
            open: Cell::new(true),
            reading: Cell::new(true),
            in_flight: Cell::new(0),
            wake: Notify::new(),
        });
        departures.watch(fd, key)?;
        self.clients.borrow_mut().insert(key, client.clone());
        Ok((client, self.next_left.get()))
    }

    /// A client sends nothing more: it is gone, or its sending side is shut (which a TCP client that closed
    /// looks like, too).
    fn note_departure(&self, key: u64) {
        let clients = self.clients.borrow();
        let Some(client) = clients.get(&key).filter(|c| c.left.get().is_none() && !c.is_finished()) else { return };
        let place = self.next_left.get();
        self.next_left.set(place + 1);
        client.left.set(Some(place));
        self.left.borrow_mut().insert(place, client.clone());
    }

    /// A connection ends.
    pub(crate) fn leave(&self, client: &Client) {
        if let Some(d) = self.departures.get() {
            d.forget(client.fd);
        }
        client.open.set(false);
        self.clients.borrow_mut().remove(&client.key);
        self.look(client);
    }

    /// Nothing more is begun for this client.
    pub(crate) fn stop_reading(&self, client: &Client) {
        client.reading.set(false);
        self.look(client);
    }

    fn look(&self, client: &Client) {
        if !client.is_finished() {
            return;
        }
        client.wake.notify_one();
        if let Some(place) = client.left.take() {
            self.left.borrow_mut().remove(&place);
            self.wake_newcomers();
        }
    }

    /// Wakes those for whom nobody who had left before them is unfinished, each once.
    fn wake_newcomers(&self) {
        let first = self.left.borrow().keys().next().copied().unwrap_or(u64::MAX);
        let mut newcomers = self.newcomers.borrow_mut();
        while let Some(entry) = newcomers.first_entry().filter(|e| e.key().0 <= first) {
            entry.remove().notify_one();
        }
    }

    /// Waits until nobody who had left before the mark has anything in flight, or more to come.
    pub(crate) async fn wait_for(&self, mark: u64, client: &Client) {
        if self.left.borrow().keys().next().is_none_or(|first| *first >= mark) {
            return;
        }
        let (at, wake) = ((mark, client.key), Rc::new(Notify::new()));
        self.newcomers.borrow_mut().insert(at, wake.clone());
        let _waits = Newcomer(self, at);
        wake.notified().await;
    }

    /// Waits for a place among the requests in flight. Says whether that took waiting.
    pub(crate) async fn admit(self: &Rc<Self>, client: &Rc<Client>) -> (Ticket, bool) {
        let (slot, waited) = self.slots.take().await;
        (self.ticket(client, Some(slot)), waited)
    }

    /// A place among the requests in flight, if that needs no waiting.
    pub(crate) fn try_admit(self: &Rc<Self>, client: &Rc<Client>) -> Option<Ticket> {
        self.slots.try_take().map(|slot| self.ticket(client, Some(slot)))
    }

    /// For a request that waits for nothing.
    pub(crate) fn admit_at_once(self: &Rc<Self>, client: &Rc<Client>) -> Ticket {
        self.ticket(client, None)
    }

    fn ticket(self: &Rc<Self>, client: &Rc<Client>, slot: Option<Slot>) -> Ticket {
        client.in_flight.set(client.in_flight.get() + 1);
        Ticket { intake: self.clone(), client: client.clone(), _slot: slot }
    }
}
