//! Export protocols as pure parsers: bytes in, requests out; results in, bytes out. No sockets, no state but the protocol's.

pub mod nbd;
