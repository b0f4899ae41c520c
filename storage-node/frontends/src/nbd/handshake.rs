//! The negotiation of options. [`Handshake::feed`] consumes whole options from a buffer; it returns what to
//! send and what comes next.

use super::{MAX_REQUEST, MAX_TEXT, MINIMUM, PREFERRED, cut};

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_NO_ZEROES: u16 = 2;
/// Bytes of an option's data, at most; a longer option ends the connection. No option that is served needs a
/// tenth of it.
const MAX_OPTION: u32 = 16 << 10;
/// Bytes of unsent answers from which on no further option is read. So a client that asks for a long list
/// again and again has to take it.
const MAX_OUT: usize = 256 << 10;
const MAX_NAME: usize = 4096;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_LIST_META_CONTEXT: u32 = 9;
const OPT_SET_META_CONTEXT: u32 = 10;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const ERR_UNSUP: u32 = (1 << 31) | 1;
const ERR_INVALID: u32 = (1 << 31) | 3;
const ERR_UNKNOWN: u32 = (1 << 31) | 6;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;

/// The name of the only metadata context that is served.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// The id of [`BASE_ALLOCATION`] on the wire.
pub const BASE_ALLOCATION_ID: u32 = 1;

/// An export, as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Name by which clients ask for the export.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Writes, trims and zeroes are refused.
    pub read_only: bool,
    /// Text that a client may show to its user.
    pub description: String,
}

impl ExportInfo {
    /// The transmission flags. DF (no fragmented replies) is offered only with structured replies.
    pub fn flags(&self, structured: bool) -> u16 {
        const HAS_FLAGS: u16 = 1;
        const READ_ONLY: u16 = 1 << 1;
        const FLUSH: u16 = 1 << 2;
        const FUA: u16 = 1 << 3;
        const TRIM: u16 = 1 << 5;
        const WRITE_ZEROES: u16 = 1 << 6;
        let df = u16::from(structured) << 7;
        // Several connections are safe: one coordinator serves them all, and every acknowledgement means
        // durable.
        const MULTI_CONN: u16 = 1 << 8;
        const CACHE: u16 = 1 << 10;
        const FAST_ZERO: u16 = 1 << 11;
        let common = HAS_FLAGS | FLUSH | df | MULTI_CONN | CACHE;
        if self.read_only { common | READ_ONLY } else { common | FUA | TRIM | WRITE_ZEROES | FAST_ZERO }
    }
}

/// The exports of this node, as the negotiation asks for them.
pub trait Exports {
    /// Names of all exports, for LIST.
    fn list(&self) -> Vec<String>;
    /// The export of this name, or the reason why it cannot be used, for the client's user.
    fn find(&self, name: &str) -> Result<ExportInfo, String>;
}

/// The result of a negotiation. The transmission phase starts with this and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The export that the client chose.
    pub export: ExportInfo,
    /// The client asked for structured replies.
    pub structured: bool,
    /// `base:allocation` was selected for this export.
    pub base_allocation: bool,
}

/// What has to happen after [`Handshake::feed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the answers, then feed more bytes.
    More,
    /// Send the answers, then close the connection.
    Close,
    /// Send the answers; then the transmission phase begins with the rest of the buffer.
    Transmission(Box<Agreed>),
}

/// The state of one negotiation.
#[derive(Default, Debug)]
pub struct Handshake {
    flags_seen: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was selected.
    context_for: Option<String>,
}

/// The server's first bytes.
pub fn greeting() -> Vec<u8> {
    let mut b = NBDMAGIC.to_be_bytes().to_vec();
    b.extend_from_slice(&IHAVEOPT.to_be_bytes());
    b.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    b
}

fn be32(b: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(b.get(..4)?.try_into().ok()?))
}

fn reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// Appends a refusal. Its text is cut, because a reason may repeat a long name that the client sent.
fn refuse(out: &mut Vec<u8>, option: u32, kind: u32, why: &str) {
    reply(out, option, kind, cut(why, MAX_TEXT).as_bytes());
}

impl Handshake {
    /// Consumes whole messages from the front of `buf` and appends the answers to `out`. Returns how many
    /// bytes were consumed and what comes next. If something was consumed, the rest of the buffer may hold
    /// more whole messages.
    pub fn feed(&mut self, buf: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> (usize, Next) {
        let mut used = 0;
        if !self.flags_seen {
            let Some(flags) = be32(buf) else { return (0, Next::More) };
            if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
                return (4, Next::Close);
            }
            self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
            self.flags_seen = true;
            used = 4;
        }
        loop {
            let rest = &buf[used..];
            let Some(head) = rest.get(..16) else { return (used, Next::More) };
            if head[..8] != IHAVEOPT.to_be_bytes() {
                return (used, Next::Close);
            }
            let (Some(option), Some(len)) = (be32(&head[8..]), be32(&head[12..])) else { return (used, Next::Close) };
            if len > MAX_OPTION {
                return (used, Next::Close);
            }
            let Some(data) = rest.get(16..16 + len as usize) else { return (used, Next::More) };
            used += 16 + len as usize;
            match self.option(option, data, exports, out) {
                Next::More if out.len() < MAX_OUT => {}
                next => return (used, next),
            }
        }
    }

    fn option(&mut self, option: u32, data: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> Next {
        match option {
            OPT_EXPORT_NAME => return self.export_name(data, exports, out),
            OPT_ABORT => {
                reply(out, option, REP_ACK, &[]);
                return Next::Close;
            }
            OPT_LIST if !data.is_empty() => reply(out, option, ERR_INVALID, b"LIST takes no data"),
            OPT_LIST => {
                for name in exports.list() {
                    let mut d = (name.len() as u32).to_be_bytes().to_vec();
                    d.extend_from_slice(name.as_bytes());
                    reply(out, option, REP_SERVER, &d);
                }
                reply(out, option, REP_ACK, &[]);
            }
            OPT_STRUCTURED_REPLY if !data.is_empty() => {
                reply(out, option, ERR_INVALID, b"STRUCTURED_REPLY takes no data")
            }
            OPT_STRUCTURED_REPLY => {
                self.structured = true;
                reply(out, option, REP_ACK, &[]);
            }
            OPT_INFO | OPT_GO => return self.info(option, data, exports, out),
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => self.meta_context(option, data, exports, out),
            _ => reply(out, option, ERR_UNSUP, b"this option is not supported"),
        }
        Next::More
    }

    fn agreed(&self, export: ExportInfo) -> Box<Agreed> {
        let base_allocation = self.structured && self.context_for.as_deref() == Some(export.name.as_str());
        Box::new(Agreed { structured: self.structured, base_allocation, export })
    }

    /// The old way to choose an export. It has no error reply: an unknown name closes the connection.
    fn export_name(&mut self, data: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> Next {
        let found = core::str::from_utf8(data).ok().and_then(|name| exports.find(name).ok());
        let Some(e) = found else { return Next::Close };
        out.extend_from_slice(&e.size.to_be_bytes());
        out.extend_from_slice(&e.flags(self.structured).to_be_bytes());
        if !self.no_zeroes {
            out.resize(out.len() + 124, 0);
        }
        Next::Transmission(self.agreed(e))
    }

    fn info(&mut self, option: u32, data: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> Next {
        let Some((name, wanted)) = parse_info(data) else {
            reply(out, option, ERR_INVALID, b"malformed INFO or GO");
            return Next::More;
        };
        let e = match exports.find(name) {
            Ok(e) => e,
            Err(why) => {
                refuse(out, option, ERR_UNKNOWN, &why);
                return Next::More;
            }
        };
        let mut d = INFO_EXPORT.to_be_bytes().to_vec();
        d.extend_from_slice(&e.size.to_be_bytes());
        d.extend_from_slice(&e.flags(self.structured).to_be_bytes());
        reply(out, option, REP_INFO, &d);
        for w in wanted {
            let mut d = w.to_be_bytes().to_vec();
            match w {
                INFO_NAME => d.extend_from_slice(e.name.as_bytes()),
                INFO_DESCRIPTION => d.extend_from_slice(e.description.as_bytes()),
                INFO_BLOCK_SIZE => {
                    for n in [MINIMUM, PREFERRED, MAX_REQUEST] {
                        d.extend_from_slice(&n.to_be_bytes());
                    }
                }
                _ => continue,
            }
            reply(out, option, REP_INFO, &d);
        }
        reply(out, option, REP_ACK, &[]);
        if option == OPT_GO { Next::Transmission(self.agreed(e)) } else { Next::More }
    }

    fn meta_context(&mut self, option: u32, data: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) {
        let set = option == OPT_SET_META_CONTEXT;
        if set {
            self.context_for = None;
        }
        if !self.structured {
            return reply(out, option, ERR_INVALID, b"negotiate structured replies first");
        }
        let Some((name, queries)) = parse_meta(data) else {
            return reply(out, option, ERR_INVALID, b"malformed metadata context query");
        };
        if let Err(why) = exports.find(name) {
            return refuse(out, option, ERR_UNKNOWN, &why);
        }
        let all = !set && queries.is_empty();
        let hit = all || queries.iter().any(|q| *q == BASE_ALLOCATION || (!set && *q == "base:"));
        if hit {
            let id = if set { BASE_ALLOCATION_ID } else { 0 };
            let mut d = id.to_be_bytes().to_vec();
            d.extend_from_slice(BASE_ALLOCATION.as_bytes());
            reply(out, option, REP_META_CONTEXT, &d);
            if set {
                self.context_for = Some(name.to_string());
            }
        }
        reply(out, option, REP_ACK, &[]);
    }
}

fn parse_name(data: &[u8]) -> Option<(&str, &[u8])> {
    let n = be32(data)? as usize;
    if n > MAX_NAME {
        return None;
    }
    let name = core::str::from_utf8(data.get(4..4 + n)?).ok()?;
    Some((name, &data[4 + n..]))
}

fn parse_info(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let (name, rest) = parse_name(data)?;
    let n = u16::from_be_bytes(rest.get(..2)?.try_into().ok()?) as usize;
    let list = &rest[2..];
    if list.len() != n * 2 {
        return None;
    }
    Some((name, list.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect()))
}

fn parse_meta(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let (name, rest) = parse_name(data)?;
    let n = be32(rest)?;
    let mut rest = &rest[4..];
    let mut queries = Vec::new();
    for _ in 0..n {
        let (q, r) = parse_name(rest)?;
        queries.push(q);
        rest = r;
    }
    rest.is_empty().then_some((name, queries))
}
