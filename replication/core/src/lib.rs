//! Replication as two sans-I/O state machines, and their wire format. `docs/protocol.md` is the
//! specification.
//!
//! * [`coordinator::Coordinator`]: one per attached shard; numbers writes, sends them to the
//!   in-sync set, answers clients. Keeps nothing authoritative: a restart is a new attach with a
//!   new term.
//! * [`replica::Replica`]: one per replica; guards terms, keeps the promise durable, grants leases.
//! * [`flow::Flow`]: one end of a link between their nodes; decides what is sent next.
//! * [`message`]: what they say to each other; [`wire`]: its bytes.
//!
//! | message | replica: older term | promised term | newer term |
//! | --- | --- | --- | --- |
//! | Seal | Nack StaleTerm | SealAck | wait for lease and boot, promise durably, SealAck |
//! | every other | Nack StaleTerm | served | Nack FutureTerm |
//!
//! Neither machine knows clocks, sockets, files or randomness: `step(now, input, &mut out)`.

pub mod coordinator;
pub mod flow;
pub mod message;
pub mod range_lock;
pub mod replica;
pub mod timing;
pub mod wire;

pub use coordinator::{Coordinator, IoError};
pub use message::{Envelope, Msg, Nack};
pub use replica::Replica;
