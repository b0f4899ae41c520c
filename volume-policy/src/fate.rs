//! What an error obliges its receiver to do.

/// The obligation an error carries; every typed error of ours has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing happened; the same request may be sent again.
    Retry,
    /// The request is wrong or not possible; tell whoever asked.
    Refuse,
    /// The replica that answered cannot be relied upon; drop it from the set.
    DropMember,
    /// The disk has failed for good (C4).
    FailDisk,
    /// This session is over (fenced, lost); fail what is queued.
    Abort,
}

/// Errors say what must happen next.
pub trait HasFate {
    /// The obligation.
    fn fate(&self) -> Fate;
}
