//! A request in the words of front ends and in those of the volume, where the driver has nothing to decide.

use crate::latency;
use hf_frontends::door::{End, Fault, Op};
use hf_repl_core::IoError;
use hf_repl_core::coordinator::ClientReply;

/// How a request ended, for its front end.
#[inline]
pub(super) fn end(result: Result<ClientReply, IoError>) -> End {
    match result {
        Ok(ClientReply::Done) => End::Done,
        Ok(ClientReply::Data(data)) => End::Data(data),
        Ok(ClientReply::Extents(e)) => End::Extents(e),
        Err(e) => End::Failed(fault(e)),
    }
}

fn fault(e: IoError) -> Fault {
    match e {
        IoError::Io => Fault::Io,
        IoError::NoSpace => Fault::NoSpace,
        IoError::Fenced => Fault::Fenced,
        IoError::Invalid => Fault::Invalid,
    }
}

/// As what a request is counted among those that take time; none for a question about extents.
#[inline]
pub(super) fn counted_as(op: Op) -> Option<latency::Op> {
    match op {
        Op::Read { .. } => Some(latency::Op::Read),
        Op::Write { .. } | Op::Blank { .. } => Some(latency::Op::Write),
        Op::Zero { .. } => Some(latency::Op::Trim),
        Op::Flush => Some(latency::Op::Flush),
        Op::Status { .. } => None,
    }
}
