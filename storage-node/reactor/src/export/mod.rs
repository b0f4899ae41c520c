//! Exports: the drivers of clients' connections. [`driver`] owns the socket, the buffers and the permits of a
//! connection and reaches the volume through a [`crate::volume::port::Port`]; what the protocol says is
//! decided by a front end of `hf_frontends`.

mod driver;
pub(crate) mod nbd;
mod replies;
mod words;
