//! The headers of requests in the transmission phase: parsing, and the checks that need no I/O.

/// Bytes of a request header.
pub const HEADER_BYTES: usize = 28;
const MAGIC: u32 = 0x2560_9513;
/// FUA: answer when the write is durable. Every answer means that here.
pub const FLAG_FUA: u16 = 1;
/// NO_HOLE: zeroes must take space.
pub const FLAG_NO_HOLE: u16 = 2;
/// DF: the structured reply to a read must not be fragmented.
pub const FLAG_DF: u16 = 4;
/// REQ_ONE: report one extent only.
pub const FLAG_REQ_ONE: u16 = 8;
/// FAST_ZERO: refuse a write of zeroes that is not faster than data.
pub const FLAG_FAST_ZERO: u16 = 16;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read `len` bytes.
    Read,
    /// Write; `len` payload bytes follow the header.
    Write,
    /// The client leaves; there is no reply.
    Disconnect,
    /// Flush: earlier answered writes must be durable.
    Flush,
    /// Trim: the bytes are no longer needed, and read as zero here.
    Trim,
    /// Prefetch into a cache: there is nothing to do here.
    Cache,
    /// Write `len` zero bytes, which are not sent.
    WriteZeroes,
    /// Report which bytes are allocated.
    BlockStatus,
    /// A command that is not served, with its number.
    Unknown(u16),
}

/// A parsed request header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The `FLAG_…` bits of the command.
    pub flags: u16,
    /// What the request asks for.
    pub command: Command,
    /// The client's name for the request; the reply repeats it.
    pub cookie: u64,
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u32,
}

/// Parses a header. `None`: the stream is not NBD, or no longer in step, and the connection must be closed.
pub fn parse_request(b: &[u8; HEADER_BYTES]) -> Option<Request> {
    let be16 = |at: usize| u16::from_be_bytes([b[at], b[at + 1]]);
    let be32 = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let be64 = |at: usize| (u64::from(be32(at)) << 32) | u64::from(be32(at + 4));
    if be32(0) != MAGIC {
        return None;
    }
    let command = match be16(6) {
        0 => Command::Read,
        1 => Command::Write,
        2 => Command::Disconnect,
        3 => Command::Flush,
        4 => Command::Trim,
        5 => Command::Cache,
        6 => Command::WriteZeroes,
        7 => Command::BlockStatus,
        other => Command::Unknown(other),
    };
    Some(Request { flags: be16(4), command, cookie: be64(8), offset: be64(16), len: be32(24) })
}

impl Request {
    /// Checks flags, bounds and rights against an export of `size` bytes and what was negotiated. An error is
    /// the errno to answer with.
    pub fn check(
        &self,
        size: u64,
        read_only: bool,
        structured: bool,
        base_allocation: bool,
    ) -> Result<(), super::Errno> {
        use super::Errno;
        let allowed = match self.command {
            Command::Read => FLAG_FUA | if structured { FLAG_DF } else { 0 },
            Command::Write | Command::Trim | Command::Flush | Command::Cache => FLAG_FUA,
            Command::WriteZeroes => FLAG_FUA | FLAG_NO_HOLE | FLAG_FAST_ZERO,
            Command::BlockStatus => FLAG_FUA | FLAG_REQ_ONE,
            Command::Disconnect => u16::MAX,
            Command::Unknown(_) => return Err(Errno::Invalid),
        };
        if self.flags & !allowed != 0 {
            return Err(Errno::Invalid);
        }
        let writes = matches!(self.command, Command::Write | Command::Trim | Command::WriteZeroes);
        if writes && read_only {
            return Err(Errno::Perm);
        }
        if matches!(self.command, Command::Disconnect | Command::Flush) {
            return Ok(());
        }
        if self.command == Command::BlockStatus && (!base_allocation || self.len == 0) {
            return Err(Errno::Invalid);
        }
        let inside = self.offset.checked_add(u64::from(self.len)).is_some_and(|end| end <= size);
        if !inside {
            // Data or zeroes beyond the end are "no space"; everything else beyond the end is an invalid
            // argument (proto.md, "Error values").
            let fills = matches!(self.command, Command::Write | Command::WriteZeroes);
            return Err(if fills { Errno::NoSpace } else { Errno::Invalid });
        }
        if self.command == Command::Read && self.len > super::MAX_REQUEST {
            return Err(if structured { Errno::Overflow } else { Errno::Invalid });
        }
        Ok(())
    }
}
