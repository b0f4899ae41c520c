//! What a front end is, and the words in which all front ends and their drivers talk.
//!
//! A connection consists of a pure front end and a driver. The front end knows its protocol: it gets what has
//! happened on the connection ([`In`]) and says what has to be done next ([`Out`]). The driver owns the
//! socket, the buffers, the permits and the clock, and knows no protocol. So a test, a fuzzer or a transcript
//! can feed a front end as well as a socket.
//!
//! A front end names each of its requests by a [`Task`]. A task goes through these steps, and may leave out
//! those that it does not need: memory ([`Out::Reserve`] → [`In::Room`]), payload ([`Out::Fill`] →
//! [`In::Filled`]), a place among the requests in flight ([`Out::Place`] → [`In::Placed`]), the volume
//! ([`Out::Begin`] → [`In::Ended`]). A task is over with [`In::Ended`], or with [`Out::Drop`] before it was
//! begun; then its name may be used again.
//!
//! The driver promises: reads from the socket ([`Out::Read`], [`Out::Fill`], [`Out::Skip`]) happen one after
//! another in the order in which they were asked for; requests reach the volume in the order of their
//! [`Out::Begin`]; each begun task ends exactly once; what is sent leaves in the order of [`Out::Send`].
//! Nothing is read from the socket unless the front end asks.

use bytes::Bytes;
use hf_policy::Tick;

/// Names a request on its connection. Front ends use small numbers: a driver may index by them.
pub type Task = usize;

/// The volume as its clients see it now. It changes with the record: a volume grows, or becomes read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes that are served; 0 when the volume is no longer attached here.
    pub size: u64,
    /// Clients may only read.
    pub read_only: bool,
}

/// What a front end asks of the volume. Offsets and lengths are in bytes and lie inside the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read `len` bytes.
    Read {
        /// Offset of the first byte.
        off: u64,
        /// Number of bytes.
        len: u32,
    },
    /// Write the task's payload.
    Write {
        /// Offset at which the payload's first byte is written.
        off: u64,
    },
    /// Write zeroes and give their space back.
    Zero {
        /// Offset of the first byte.
        off: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Write zeroes that take space, like data.
    Blank {
        /// Offset of the first byte.
        off: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Answer when everything that was answered before is durable.
    Flush,
    /// Report which bytes hold data. The answer may cover less than was asked.
    Status {
        /// Offset of the first byte.
        off: u64,
        /// Number of bytes.
        len: u64,
    },
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was carried out; if it changed the volume, it is durable on the whole in-sync set.
    Done,
    /// The bytes that were read, in order.
    Data(Vec<Bytes>),
    /// Extents in order from the first byte that was asked for: bytes, and whether they are a hole that reads
    /// as zero.
    Extents(Vec<(u64, bool)>),
    /// It failed. Some of its blocks may have been changed, each of them either completely or not at all.
    Failed(Fault),
}

/// Why a task failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No in-sync replica has a block that can be read and verified.
    #[error("no in-sync replica can supply a block")]
    Io,
    /// The replicas' disks are full.
    #[error("the replicas' disks are full")]
    NoSpace,
    /// The attachment is over, because the volume was attached elsewhere.
    #[error("the volume was attached elsewhere; this attachment is over")]
    Fenced,
    /// The request lies beyond the volume's end.
    #[error("the request lies beyond the volume's end")]
    Invalid,
}

/// What has happened on a connection; inputs of a front end.
#[derive(Debug)]
pub enum In<'a> {
    /// The connection begins.
    Open,
    /// The bytes that [`Out::Read`] asked for, and the volume as it is now.
    Head(&'a [u8], Shape),
    /// The bytes that [`Out::Skip`] named have been read away.
    Skipped,
    /// A task has memory for this many bytes of payload.
    Room(Task, u64),
    /// The part of a task's payload that [`Out::Fill`] asked for is there.
    Filled(Task),
    /// A task may be begun, with the volume as it is now. It may have changed since the task came.
    Placed(Task, Shape),
    /// A task has ended and no longer exists.
    Ended(Task, End),
    /// The connection ends: nothing is read any more, and nothing more can be begun. Tasks in flight still
    /// end. Said once. The named task had its place and waited only for this node to learn the newest record:
    /// its client may be told that it is not begun. Of others that wait nothing should be said, so that a
    /// client which comes again sends them again.
    Closing(Option<Task>),
    /// The deadline ([`FrontEnd::next_deadline`]) has passed.
    Tick,
}

/// What the driver has to do; outputs of a front end.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    /// Read this many bytes, at most [`MOST_HEAD`]: [`In::Head`] follows.
    Read(usize),
    /// Read payload of a task into its buffer: [`In::Filled`] follows. The task's first such output makes the
    /// buffer, with `size` bytes.
    Fill {
        /// The task that is meant.
        task: Task,
        /// Bytes of its buffer.
        size: usize,
        /// Offset in the buffer at which the first byte goes.
        at: usize,
        /// Bytes to read.
        len: usize,
    },
    /// Read this many bytes and discard them: [`In::Skipped`] follows.
    Skip(usize),
    /// Reserve memory for a task's payload: [`In::Room`] follows, perhaps after a wait.
    Reserve {
        /// The task that is meant.
        task: Task,
        /// Bytes of memory.
        bytes: u64,
        /// Whether fewer bytes will do, because the request can be cut into pieces.
        cut: bool,
    },
    /// Take a place among the volume's requests in flight: [`In::Placed`] follows, perhaps after a wait.
    Place(Task),
    /// Begin a task: [`In::Ended`] follows. A task without a place gets one at once, beyond the bound; this
    /// is for tasks that wait for nothing, such as a flush.
    Begin(Task, Op),
    /// Send bytes to the client. The memory of the task that has just ended is held until they are sent.
    Send(Vec<u8>, Vec<Bytes>),
    /// A task ends without having been begun: its memory and its place are given back.
    Drop(Task),
    /// The client has said that it leaves: tasks in flight are answered, then the connection is closed.
    Leave,
    /// The connection cannot go on, for this reason: it is closed at once.
    Close(String),
}

/// The most bytes that a reservation with `cut` gets.
pub const PIECE: u64 = 1 << 20;

/// The most bytes that [`Out::Read`] may ask for.
pub const MOST_HEAD: usize = 64;

/// One connection, in the words of its protocol.
pub trait FrontEnd {
    /// Takes what has happened at `now`, and appends to `out` what has to be done, in this order.
    fn input(&mut self, now: Tick, input: In, out: &mut Vec<Out>);

    /// The time at which [`In::Tick`] is wanted, if nothing else happens before.
    fn next_deadline(&self) -> Option<Tick> {
        None
    }
}
