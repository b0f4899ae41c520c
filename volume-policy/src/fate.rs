//! What an error obliges its receiver to do.

/// What the receiver of an error must do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing happened: the same request may be sent again.
    Retry,
    /// The request is wrong or not possible: tell the caller.
    Refuse,
    /// The replica that answered cannot be relied upon; drop it from the set.
    DropMember,
    /// The disk has failed for good (C4).
    FailDisk,
    /// This session is over (fenced, lost); fail what is queued.
    Abort,
}

/// Errors that say what must happen next.
pub trait HasFate {
    /// What the error obliges its receiver to do.
    fn fate(&self) -> Fate;
}
