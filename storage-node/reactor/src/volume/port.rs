//! The way of every export to a volume: intake, split, coordinator.
//!
//! A connection of any protocol holds a [`Port`]. Through it each of its requests goes the same way, with the
//! same bounds: it takes its payload's memory and a place among the requests in flight ([`Intake`]), waits
//! out a pause of this process, is cut at shard borders and enters the coordinators in the order in which it
//! was begun. The port promises that each request ends exactly once, and that nothing waits for answers of a
//! connection that is gone. It knows no protocol.

use super::intake::{Client, Intake, Ticket};
use super::requests::{Callback, ConnectionId};
use crate::pause::Pause;
use hf_frontends::door::Shape;
use hf_policy::VolumeId;
use hf_repl::budget::Permit;
use hf_repl_core::coordinator::ClientOp;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;

/// The reactor, as ports see it.
pub(crate) trait Inside {
    /// One more connection; its name on this reactor.
    fn enter(&self) -> ConnectionId;
    /// Begins a request and handles what follows from it; `done` is called exactly once, from inside the reactor.
    fn begin(&self, vol: VolumeId, from: ConnectionId, op: ClientOp, done: Callback);
    /// A connection has ended: nobody waits for its answers.
    fn leave(&self, vol: VolumeId, from: ConnectionId);
}

/// A connection's way to a volume. It ends when it is dropped.
pub(crate) struct Port {
    inside: Rc<dyn Inside>,
    pause: Rc<Pause>,
    vol: VolumeId,
    id: ConnectionId,
    /// What the volume's clients may do together.
    pub intake: Rc<Intake>,
    /// This connection, as far as others must know of it.
    pub client: Rc<Client>,
    /// Those who had left when it came have places before this one.
    mark: u64,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.intake.leave(&self.client);
        self.inside.leave(self.vol, self.id);
    }
}

impl Port {
    /// A connection begins; its socket `fd` must stay open as long as the port lives.
    pub fn open(
        inside: Rc<dyn Inside>,
        pause: Rc<Pause>,
        vol: VolumeId,
        intake: Rc<Intake>,
        fd: RawFd,
    ) -> io::Result<Port> {
        let (client, mark) = intake.enter(fd)?;
        // Counted from here until it is dropped.
        let id = inside.enter();
        Ok(Port { inside, pause, vol, id, intake, client, mark })
    }

    /// Waits until everything is over that was sent by clients who had left before this one came.
    pub async fn turn(&self) {
        self.intake.wait_for(self.mark, &self.client).await;
    }

    /// Waits for a place among the requests in flight; `waited`: the request has waited before. While it
    /// waited, its client may have vanished, come back, and sent newer requests: then this one is too late,
    /// which is an error.
    pub async fn place(&self, waited: bool) -> io::Result<Ticket> {
        let (ticket, waited_for_slot) = self.intake.admit(&self.client).await;
        if (waited | waited_for_slot) && self.client.is_gone() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(ticket)
    }

    /// Memory for `bytes` of payload, or for fewer if it may be `cut`, if that needs no waiting.
    #[inline]
    pub fn try_reserve(&self, bytes: u64, cut: bool) -> Option<Permit> {
        let payload = &self.client.payload;
        if cut { payload.try_take_piece(bytes) } else { payload.try_take(bytes) }
    }

    /// A place among the requests in flight, if that needs no waiting: neither for others nor for the end of a pause.
    #[inline]
    pub fn try_place(&self) -> Option<Ticket> {
        if self.pause.is_over() { self.intake.try_admit(&self.client) } else { None }
    }

    /// A place for a request that waits for nothing, and takes no place from others.
    pub fn place_at_once(&self) -> Ticket {
        self.intake.admit_at_once(&self.client)
    }

    /// Waits until this node knows the record, if it was paused. What the export is may have changed then.
    pub async fn awake(&self) {
        self.pause.over().await;
    }

    /// What clients may ask for now.
    #[inline]
    pub fn shape(&self) -> Shape {
        Shape { size: self.intake.size(), read_only: self.intake.is_read_only() }
    }

    /// Begins a request. `done` is called exactly once; it may answer the client, and must not begin another request.
    pub fn begin(&self, op: ClientOp, done: Callback) {
        self.inside.begin(self.vol, self.id, op, done);
    }

    /// A second hand on the same connection, for a request that has to begin others by itself.
    pub fn hand(&self) -> Hand {
        let (inside, vol, id) = (self.inside.clone(), self.vol, self.id);
        Hand { inside, vol, id, intake: self.intake.clone(), client: self.client.clone() }
    }
}

/// See [`Port::hand`]. It may outlive its port: what it begins then is carried out, and nobody waits for it.
pub(crate) struct Hand {
    inside: Rc<dyn Inside>,
    vol: VolumeId,
    id: ConnectionId,
    pub intake: Rc<Intake>,
    pub client: Rc<Client>,
}

impl Hand {
    /// Begins a request, as [`Port::begin`] does.
    pub fn begin(&self, op: ClientOp, done: Callback) {
        self.inside.begin(self.vol, self.id, op, done);
    }
}
