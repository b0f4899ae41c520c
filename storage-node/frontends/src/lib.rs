//! Export protocols as pure parsers: bytes come in and requests go out, results come in and bytes go out. A
//! parser keeps the protocol's state and nothing else; it has no sockets.

pub mod nbd;
