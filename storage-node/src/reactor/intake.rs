//! What the clients of one attached volume may do together: requests in flight (`queue_depth`) and bytes of payload, counted
//! over all its connections, first come, first served; which of them have left; and that the attachment takes no more.

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;
use tokio::sync::{Mutex, Notify, watch};

/// Bytes of payload that the clients of one volume hold together: of a write from before its data is read until it is
/// answered, of a read until its answer is in the socket. Many times the largest request, so that a few large ones overlap.
pub(super) const MAX_PAYLOAD: u64 = 256 << 20;

/// So much of something, and a queue of those who want some.
pub(super) struct Gate {
    most: Cell<u64>,
    taken: Cell<u64>,
    /// Whoever holds it waits for room; the others wait for it, in the order they came.
    turn: Mutex<()>,
    room: Notify,
    waiting: Cell<usize>,
}

/// A part of a gate's amount; given back when dropped.
pub(super) struct Held {
    gate: Rc<Gate>,
    n: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gate.taken.set(self.gate.taken.get().saturating_sub(self.n));
        self.gate.room.notify_one();
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

    /// How much may be taken from now on; what is out stays out.
    pub(super) fn set_most(&self, most: u64) {
        self.most.set(most);
        self.room.notify_one();
    }

    /// How much may be taken.
    pub(super) fn most(&self) -> u64 {
        self.most.get()
    }

    /// How much is out.
    pub(super) fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Takes `n`; one who asks for more than there is gets it when nobody else has any. Says whether that took waiting.
    pub(super) async fn take(self: &Rc<Self>, n: u64) -> (Held, bool) {
        let fits = || self.taken.get() == 0 || self.taken.get().saturating_add(n) <= self.most.get();
        let waited = self.waiting.get() > 0 || !fits();
        if waited {
            let _counted = Counted::new(&self.waiting);
            let _turn = self.turn.lock().await;
            while !fits() {
                self.room.notified().await;
            }
        }
        self.taken.set(self.taken.get().saturating_add(n));
        (Held { gate: self.clone(), n }, waited)
    }
}

/// One connection's client, as far as others must know of it.
pub(super) struct Client {
    /// Its socket: valid while `open`.
    fd: RawFd,
    open: Cell<bool>,
    /// More requests may come from it.
    reading: Cell<bool>,
    in_flight: Cell<usize>,
    /// Something to send, or nothing more will come.
    pub wake: Notify,
}

impl Client {
    fn events(&self) -> libc::c_short {
        if !self.open.get() {
            return libc::POLLHUP;
        }
        let mut p = libc::pollfd { fd: self.fd, events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one local struct; with a timeout of zero the call returns at once.
        let n = unsafe { libc::poll(&mut p, 1, 0) };
        if n > 0 { p.revents } else { 0 }
    }

    /// Nobody can hear an answer any more: reset, failed, or closed both ways.
    pub(super) fn is_gone(&self) -> bool {
        self.events() & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// It sends nothing more: gone, or its sending side is shut (which a TCP client that closed looks like, too).
    fn has_left(&self) -> bool {
        self.events() & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0
    }

    /// Nothing of it is in flight, and nothing more will be.
    pub(super) fn is_finished(&self) -> bool {
        !self.open.get() || (!self.reading.get() && self.in_flight.get() == 0)
    }
}

/// A request's place among those in flight.
pub(super) struct Ticket {
    intake: Rc<Intake>,
    client: Rc<Client>,
    _slot: Held,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.client.in_flight.set(self.client.in_flight.get().saturating_sub(1));
        self.intake.look(&self.client);
    }
}

/// See the module.
pub(super) struct Intake {
    /// Requests in flight.
    pub slots: Rc<Gate>,
    /// Bytes of payload held for clients.
    pub payload: Rc<Gate>,
    clients: RefCell<Vec<Rc<Client>>>,
    /// Somebody finished.
    finished: Notify,
    /// New clients that wait for old ones.
    newcomers: Cell<usize>,
    closing: watch::Sender<bool>,
}

impl Intake {
    pub(super) fn new(queue_depth: u64) -> Rc<Intake> {
        Rc::new(Intake {
            slots: Gate::new(queue_depth),
            payload: Gate::new(MAX_PAYLOAD),
            clients: RefCell::default(),
            finished: Notify::new(),
            newcomers: Cell::new(0),
            closing: watch::channel(false).0,
        })
    }

    /// No more requests: connections answer what is in flight, then end.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(super) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Returns when [`Intake::close`] is called.
    pub(super) async fn closed(&self) {
        let mut rx = self.closing.subscribe();
        // The sender lives as long as `self`.
        let _ = rx.wait_for(|c| *c).await;
    }

    pub(super) fn connections(&self) -> usize {
        self.clients.borrow().len()
    }

    /// Somebody waits for what a client that does not go on may hold.
    pub(super) fn is_contended(&self) -> bool {
        self.payload.waiting.get() > 0 || self.newcomers.get() > 0
    }

    /// A connection begins; `fd` must stay valid until [`Intake::leave`]. With it come those who left before: what they sent
    /// is to be over before anything of the new one is begun.
    pub(super) fn enter(&self, fd: RawFd) -> (Rc<Client>, Vec<Rc<Client>>) {
        let client = Rc::new(Client {
            fd,
            open: Cell::new(true),
            reading: Cell::new(true),
            in_flight: Cell::new(0),
            wake: Notify::new(),
        });
        let mut clients = self.clients.borrow_mut();
        let left = clients.iter().filter(|c| c.has_left()).cloned().collect();
        clients.push(client.clone());
        (client, left)
    }

    /// A connection ends.
    pub(super) fn leave(&self, client: &Rc<Client>) {
        client.open.set(false);
        self.clients.borrow_mut().retain(|c| !Rc::ptr_eq(c, client));
        self.finished.notify_waiters();
    }

    /// Nothing more is begun for this client.
    pub(super) fn stop_reading(&self, client: &Client) {
        client.reading.set(false);
        self.look(client);
    }

    fn look(&self, client: &Client) {
        if client.is_finished() {
            client.wake.notify_one();
            self.finished.notify_waiters();
        }
    }

    /// Waits until each of them has nothing in flight, and nothing more to come.
    pub(super) async fn wait_for(&self, left: &[Rc<Client>]) {
        let _counted = (!left.is_empty()).then(|| Counted::new(&self.newcomers));
        loop {
            let finished = self.finished.notified();
            if left.iter().all(|c| c.is_finished()) {
                return;
            }
            finished.await;
        }
    }

    /// Waits for a place among the requests in flight. Says whether that took waiting.
    pub(super) async fn admit(self: &Rc<Self>, client: &Rc<Client>) -> (Ticket, bool) {
        let (slot, waited) = self.slots.take(1).await;
        client.in_flight.set(client.in_flight.get() + 1);
        (Ticket { intake: self.clone(), client: client.clone(), _slot: slot }, waited)
    }
}
