//! An NBD connection in its transmission phase: the negotiated front end, driven.

use super::driver;
use crate::net::Stream;
use crate::volume::port::Port;
use hf_frontends::nbd::{Agreed, Front};
use std::io;
use std::os::fd::RawFd;

/// Serves a negotiated connection to its end; `rest` are bytes that were read beyond the negotiation.
pub(crate) async fn serve(
    stream: Stream,
    agreed: &Agreed,
    rest: Vec<u8>,
    open: impl FnOnce(RawFd) -> io::Result<Port>,
) -> io::Result<()> {
    driver::serve(stream, Front::new(agreed), rest, open).await
}
