//! Sockets of clients.

mod stream;

pub(crate) use stream::OpenStream;
pub use stream::{Peer, Stream};
