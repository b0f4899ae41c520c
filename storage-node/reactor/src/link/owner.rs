//! What the tasks of links ask of the reactor that they belong to.

use hf_policy::{BootId, DiskId};
use hf_repl::Queue;
use hf_repl_core::message::{Envelope, Msg};
use hf_repl_core::replica::Link;
use hf_repl_core::wire::Hello;

/// Whether a link to a remote disk is needed, and where to.
pub(crate) enum Wanted {
    /// No attached volume has a replica there any more.
    No,
    /// Its node's address is not known yet.
    Unknown,
    /// The address, and how to greet.
    At(String, Hello),
}

/// The reactor, as the tasks of its links see it.
pub(crate) trait Owner {
    /// Is a link to this disk needed? If not, its entry is gone when this returns.
    fn wanted(&self, disk: DiskId) -> Wanted;
    /// A link to a remote disk is up: its queue, and the process at the other end.
    fn up(&self, disk: DiskId, queue: Queue, boot: BootId);
    /// A link to a remote disk is down.
    fn down(&self, disk: DiskId);
    /// A reply to one of this reactor's coordinators has come.
    fn received(&self, env: Envelope, msg: Msg);
    /// The id of this process, which replies name.
    fn boot(&self) -> BootId;
    /// Another node's link to a disk here begins; its number on this reactor.
    fn enter(&self, queue: Queue) -> Link;
    /// Requests to a disk here have come.
    fn requested(&self, disk: DiskId, link: Link, requests: &mut dyn Iterator<Item = (Envelope, Msg)>);
    /// Another node's link has ended.
    fn leave(&self, link: Link);
}
