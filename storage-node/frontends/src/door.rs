//! The words that all exports share, and what a front end is.
//!
//! A connection is a pure front end and a driver. The front end knows its protocol: it gets what has happened on the
//! connection ([`In`]) and says what is to be done next ([`Out`]). The driver owns the socket, the buffers, the permits and the
//! clock, and knows no protocol. So a front end can be fed by a test, a fuzzer or a transcript as well as by a socket.
//!
//! A front end names each of its requests by a [`Task`]. A task's life, each step of which may be left out where the protocol
//! needs none: memory ([`Out::Reserve`] → [`In::Room`]), payload ([`Out::Fill`] → [`In::Filled`]), a place among the requests in
//! flight ([`Out::Place`] → [`In::Placed`]), the volume ([`Out::Begin`] → [`In::Ended`]). A task is over with [`In::Ended`], or
//! with [`Out::Drop`] before it was begun; then its name may be used again.
//!
//! The driver promises: reads from the socket ([`Out::Read`], [`Out::Fill`], [`Out::Skip`]) happen one after another in the order
//! in which they were asked for; requests reach the volume in the order of their [`Out::Begin`]; each begun task ends exactly
//! once; what is sent leaves in the order of [`Out::Send`]. Nothing is read from the socket unless the front end asks.

use bytes::Bytes;
use hf_policy::Tick;

/// Names a request on its connection. Front ends use small numbers: a driver may index by them.
pub type Task = usize;

/// What clients may ask of the volume now. It changes with the record: a volume grows, or becomes read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes that are served; 0 when the volume has left.
    pub size: u64,
    /// Clients may only read.
    pub read_only: bool,
}

/// What a front end asks of the volume. Offsets and lengths are bytes of the volume, inside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read `len` bytes.
    Read {
        /// The first byte.
        off: u64,
        /// How many.
        len: u32,
    },
    /// Write the task's payload.
    Write {
        /// Where its first byte goes.
        off: u64,
    },
    /// Zeroes, giving their space back.
    Zero {
        /// The first byte.
        off: u64,
        /// How many.
        len: u64,
    },
    /// Zeroes that take space, as data does.
    Blank {
        /// The first byte.
        off: u64,
        /// How many.
        len: u64,
    },
    /// Everything that was answered before is durable when this is answered.
    Flush,
    /// Which bytes hold data? The answer may cover less than was asked.
    Status {
        /// The first byte.
        off: u64,
        /// How many.
        len: u64,
    },
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It is carried out, and durable on the whole in-sync set if it changed the volume.
    Done,
    /// The bytes that were read, in order.
    Data(Vec<Bytes>),
    /// (bytes, is a hole that reads as zero), in order from the first byte that was asked for.
    Extents(Vec<(u64, bool)>),
    /// It failed. Some of its blocks may have been changed, each of them wholly or not at all.
    Failed(Fault),
}

/// Why a task failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No in-sync replica has a block whole.
    #[error("no in-sync replica can supply a block")]
    Io,
    /// The replicas' disks are full.
    #[error("the replicas' disks are full")]
    NoSpace,
    /// The attachment is over.
    #[error("the volume was attached elsewhere; this attachment is over")]
    Fenced,
    /// It lies beyond the volume's end.
    #[error("the request lies beyond the volume's end")]
    Invalid,
}

/// What has happened on a connection.
#[derive(Debug)]
pub enum In<'a> {
    /// The connection begins.
    Open,
    /// The bytes that [`Out::Read`] asked for, and the volume as it is now.
    Head(&'a [u8], Shape),
    /// The bytes that [`Out::Skip`] named have been read away.
    Skipped,
    /// A task has memory for so many bytes of payload.
    Room(Task, u64),
    /// The part of a task's payload that [`Out::Fill`] asked for is there.
    Filled(Task),
    /// A task may be begun; the volume as it is now, which may not be what it was when the task came.
    Placed(Task, Shape),
    /// A task has ended; it exists no more.
    Ended(Task, End),
    /// The connection ends: nothing is read any more, and nothing more can be begun. Tasks in flight still end. Said once.
    Closing,
    /// The deadline ([`FrontEnd::next_deadline`]) has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    /// Read so many bytes, at most [`MOST_HEAD`]: [`In::Head`] follows.
    Read(usize),
    /// Read a task's payload into its buffer, which has `size` bytes from the first such request on: [`In::Filled`] follows.
    Fill {
        /// The task.
        task: Task,
        /// Bytes of its buffer.
        size: usize,
        /// Where in the buffer the first byte goes.
        at: usize,
        /// Bytes to read.
        len: usize,
    },
    /// Read so many bytes and forget them: [`In::Skipped`] follows.
    Skip(usize),
    /// Reserve memory for a task's payload: [`In::Room`] follows, perhaps after a wait.
    Reserve {
        /// The task.
        task: Task,
        /// Bytes.
        bytes: u64,
        /// Fewer bytes will do, as there are: the request can be cut into pieces.
        cut: bool,
    },
    /// Take a place among the volume's requests in flight: [`In::Placed`] follows, perhaps after a wait.
    Place(Task),
    /// Begin a task: [`In::Ended`] follows. A task without a place gets one at once, beyond the bound: for what waits for
    /// nothing.
    Begin(Task, Op),
    /// Send bytes to the client. The memory of the task that has just ended is held until they are sent.
    Send(Vec<u8>, Vec<Bytes>),
    /// A task ends without having been begun: its memory and its place are given back.
    Drop(Task),
    /// The client said goodbye: what is in flight is answered, then the connection is closed.
    Leave,
    /// The connection cannot go on, and why: it is closed at once.
    Close(String),
}

/// The most memory that a reservation gets which can be cut.
pub const PIECE: u64 = 1 << 20;

/// The most bytes that [`Out::Read`] may ask for.
pub const MOST_HEAD: usize = 64;

/// One connection of some protocol.
pub trait FrontEnd {
    /// Takes what has happened at `now`; adds to `out` what is to be done, in this order.
    fn input(&mut self, now: Tick, input: In, out: &mut Vec<Out>);

    /// When [`In::Tick`] is wanted, if nothing else happens before.
    fn next_deadline(&self) -> Option<Tick> {
        None
    }
}
