//! The front end of an NBD connection in its transmission phase.
//!
//! Requests are received one after another; up to the volume's bounds they are in flight together. A large
//! write is begun piece by piece as its payload arrives, and a large structured read is answered piece by
//! piece ([`super::pieces`]). So an unfinished request holds the memory of one piece, not of its whole
//! length, and no place among the requests in flight (docs/decisions/0029). A write that is cut off in the
//! middle may have been carried out up to there, like any write over several chunks when its coordinator
//! fails.

use super::pieces::{self, Pieces};
use super::reply;
use super::transmission::{FLAG_FAST_ZERO, FLAG_NO_HOLE, FLAG_REQ_ONE, HEADER_BYTES};
use super::{Agreed, Command, Errno, MAX_REQUEST, Request, parse_request};
use crate::door::{End, Fault, FrontEnd, In, Op, Out, Shape, Task};
use hf_policy::{CHUNK_BYTES, Tick, broken};
use slab::Slab;

const NO_FIT: &str = "the request does not fit this export";

/// The state of one connection's front end.
pub struct Front {
    structured: bool,
    base_allocation: bool,
    /// The export was read-only when the client connected, whatever the volume is now.
    read_only: bool,
    tasks: Slab<Part>,
    /// Large requests whose pieces are under way.
    whole: Slab<Pieces>,
    /// The request that is being received.
    current: Option<Current>,
    closing: bool,
}

/// Which part of its request a task carries out.
#[derive(Clone, Copy)]
enum Part {
    /// All of it.
    All(Request),
    /// A piece of the large request with this key.
    Piece { whole: usize, off: u64, len: u32 },
}

/// A request that is being received, up to its last piece.
#[derive(Clone, Copy)]
struct Current {
    q: Request,
    /// The key in `whole`, once the first piece has been begun.
    whole: Option<usize>,
    /// Bytes of the request before the next piece.
    at: u32,
    /// The next piece, and its length once that is known.
    task: Task,
    len: u32,
    /// Every byte that the client sends for the request has arrived.
    complete: bool,
    /// The request does not fit the export: this is the answer once its payload has been skipped.
    refused: Option<Errno>,
}

impl FrontEnd for Front {
    fn input(&mut self, _now: Tick, input: In, out: &mut Vec<Out>) {
        match input {
            In::Open => out.push(Out::Read(HEADER_BYTES)),
            In::Head(head, shape) => self.head(head, shape, out),
            In::Skipped => self.refuse_current(out),
            In::Room(task, bytes) => self.room(task, bytes, out),
            In::Filled(task) => self.filled(task, out),
            In::Placed(task, shape) => self.placed(task, shape, out),
            In::Ended(task, end) => self.ended(task, end, out),
            In::Closing(asleep) => self.close(asleep, out),
            In::Tick => {}
        }
    }
}

impl Front {
    /// The front end for a connection whose negotiation ended in `agreed`.
    pub fn new(agreed: &Agreed) -> Front {
        Front {
            structured: agreed.structured,
            base_allocation: agreed.base_allocation,
            read_only: agreed.export.read_only,
            tasks: Slab::new(),
            whole: Slab::new(),
            current: None,
            closing: false,
        }
    }

    /// Whether the export, as it is now, serves this request; otherwise the errno to answer.
    fn check(&self, q: &Request, shape: Shape) -> Result<(), Errno> {
        q.check(shape.size, shape.read_only || self.read_only, self.structured, self.base_allocation)
    }

    fn fail(&self, q: &Request, errno: Errno, text: &str, out: &mut Vec<Out>) {
        out.push(Out::Send(reply::error(self.structured, q.cookie, errno, text), Vec::new()));
    }

    fn next(&mut self, out: &mut Vec<Out>) {
        self.current = None;
        out.push(Out::Read(HEADER_BYTES));
    }

    fn head(&mut self, head: &[u8], shape: Shape, out: &mut Vec<Out>) {
        let q = head.try_into().ok().and_then(parse_request);
        let Some(q) = q else { return out.push(Out::Close("not an NBD request".into())) };
        if q.command == Command::Disconnect {
            return out.push(Out::Leave);
        }
        let writes = q.command == Command::Write;
        if writes && q.len > MAX_REQUEST {
            return out.push(Out::Close(format!("a write of {} bytes is beyond the bound", q.len)));
        }
        let fits = self.check(&q, shape);
        match fits {
            Err(e) if writes && q.len > 0 => {
                // The payload follows, and must be skipped before the next request can be read.
                self.current =
                    Some(Current { q, whole: None, at: 0, task: 0, len: 0, complete: false, refused: Some(e) });
                out.push(Out::Skip(q.len as usize));
            }
            Err(e) => {
                self.fail(&q, e, NO_FIT, out);
                self.next(out);
            }
            Ok(()) if writes && q.len == 0 => {
                out.push(Out::Send(reply::done(self.structured, q.cookie), Vec::new()));
                self.next(out);
            }
            Ok(()) if q.command == Command::Flush => {
                // A flush waits for nothing, and takes no place from other requests.
                let task = self.tasks.insert(Part::All(q));
                out.push(Out::Begin(task, Op::Flush));
                self.next(out);
            }
            Ok(()) => {
                let task = self.tasks.insert(Part::All(q));
                self.current =
                    Some(Current { q, whole: None, at: 0, task, len: q.len, complete: !writes, refused: None });
                self.take_in(out);
            }
        }
    }

    /// Answers a write that does not fit, after its payload was skipped.
    fn refuse_current(&mut self, out: &mut Vec<Out>) {
        let Some((q, errno)) = self.current.and_then(|c| Some((c.q, c.refused?))) else {
            return broken!("payload was read away for no request");
        };
        self.fail(&q, errno, NO_FIT, out);
        self.next(out);
    }

    /// Asks for memory for the next piece of the current request, if it needs any; otherwise for a place.
    fn take_in(&mut self, out: &mut Vec<Out>) {
        let Some(c) = self.current else { return broken!("no request is being taken in") };
        let cut = c.q.command == Command::Write || pieces::reads_in_pieces(&c.q, self.structured);
        let bytes = if cut { pieces::most(&c.q, c.at) } else { payload_of(&c.q) };
        out.push(match bytes {
            0 => Out::Place(c.task),
            bytes => Out::Reserve { task: c.task, bytes, cut },
        });
    }

    fn room(&mut self, task: Task, bytes: u64, out: &mut Vec<Out>) {
        let Some(c) = self.current.as_mut().filter(|c| c.task == task) else {
            return broken!("memory for a request that is not being taken in");
        };
        if c.q.command == Command::Write || pieces::reads_in_pieces(&c.q, self.structured) {
            c.len = pieces::length(&c.q, c.at, bytes);
        }
        if c.q.command == Command::Write {
            let len = c.len as usize;
            out.push(Out::Fill { task, size: len, at: 0, len });
        } else {
            out.push(Out::Place(task));
        }
    }

    fn filled(&mut self, task: Task, out: &mut Vec<Out>) {
        if let Some(c) = self.current.as_mut() {
            c.complete = c.at + c.len == c.q.len;
        }
        out.push(Out::Place(task));
    }

    fn placed(&mut self, task: Task, shape: Shape, out: &mut Vec<Out>) {
        let Some(c) = self.current.filter(|c| c.task == task) else {
            return broken!("a place for a request that is not being taken in");
        };
        // The check is repeated, because the export may have become read-only meanwhile.
        let fits = self.check(&c.q, shape);
        if c.len == c.q.len && c.at == 0 {
            let op = fits.map_err(|e| (e, NO_FIT)).and_then(|()| op_of(&c.q));
            match op {
                Ok(Some(op)) => out.push(Out::Begin(task, op)),
                Ok(None) => {
                    out.push(Out::Send(self.answer(&c.q, End::Done), Vec::new()));
                    self.drop_task(task, out);
                }
                Err((e, why)) => {
                    self.fail(&c.q, e, why, out);
                    self.drop_task(task, out);
                }
            }
            return self.next(out);
        }
        self.begin_piece(c, fits, out);
    }

    fn begin_piece(&mut self, mut c: Current, fits: Result<(), Errno>, out: &mut Vec<Out>) {
        let key = *c.whole.get_or_insert_with(|| self.whole.insert(Pieces::new(c.q)));
        let (off, len) = (c.q.offset + u64::from(c.at), c.len);
        c.at += len;
        let last = c.at == c.q.len;
        self.whole[key].begin(last);
        match fits {
            Err(e) if c.q.command == Command::Write => {
                self.drop_task(c.task, out);
                self.whole[key].refused(e, NO_FIT);
                self.piece_over(key, out);
            }
            _ => {
                self.tasks[c.task] = Part::Piece { whole: key, off, len };
                let read = c.q.command == Command::Read;
                out.push(Out::Begin(c.task, if read { Op::Read { off, len } } else { Op::Write { off } }));
            }
        }
        if last {
            return self.next(out);
        }
        let task = self.tasks.insert(Part::All(c.q));
        self.current = Some(Current { task, len: 0, ..c });
        self.take_in(out);
    }

    fn drop_task(&mut self, task: Task, out: &mut Vec<Out>) {
        self.tasks.remove(task);
        out.push(Out::Drop(task));
    }

    fn ended(&mut self, task: Task, end: End, out: &mut Vec<Out>) {
        match self.tasks.try_remove(task) {
            None => broken!("task {task} ended and does not exist"),
            Some(Part::All(q)) => match end {
                End::Data(data) => {
                    out.push(Out::Send(reply::read_head(self.structured, q.cookie, q.offset, q.len), data));
                }
                end => out.push(Out::Send(self.answer(&q, end), Vec::new())),
            },
            Some(Part::Piece { whole, off, len }) => {
                if self.whole[whole].request().command == Command::Read {
                    let (head, data) = self.whole[whole].read_done((off, len), end);
                    out.push(Out::Send(head, data));
                    self.forget_if_over(whole, out);
                } else {
                    self.whole[whole].write_done(end);
                    self.piece_over(whole, out);
                }
            }
        }
    }

    /// Answers a write if this was its last piece.
    fn piece_over(&mut self, key: usize, out: &mut Vec<Out>) {
        if let Some(answer) = self.whole[key].written(self.structured) {
            out.push(Out::Send(answer, Vec::new()));
        }
        self.forget_if_over(key, out);
    }

    /// Forgets a large request when its last piece is over; or, once the connection is closing, when no piece
    /// is in flight. A client that got a part of a read is then told that the rest does not come.
    fn forget_if_over(&mut self, key: usize, out: &mut Vec<Out>) {
        let w = &self.whole[key];
        if w.is_idle() && (w.is_begun() || self.closing) {
            if let Some(chunk) = w.cut_off() {
                out.push(Out::Send(chunk, Vec::new()));
            }
            self.whole.remove(key);
        }
    }

    /// A request that was read whole and waited for this node hears that it is not begun, and so does a large
    /// read. Of a large request, what is begun still ends.
    fn close(&mut self, asleep: Option<Task>, out: &mut Vec<Out>) {
        self.closing = true;
        if let Some(c) = self.current.take()
            && c.whole.is_none()
            && (pieces::reads_in_pieces(&c.q, self.structured) || (c.complete && asleep == Some(c.task)))
        {
            self.fail(&c.q, Errno::Shutdown, &Fault::Fenced.to_string(), out);
        }
        let keys: Vec<usize> = self.whole.iter().map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.forget_if_over(key, out));
    }

    /// The reply to a request whose answer has no data.
    fn answer(&self, q: &Request, end: End) -> Vec<u8> {
        match end {
            End::Extents(e) => reply::block_status(q.cookie, &e, q.flags & FLAG_REQ_ONE != 0),
            End::Failed(f) => reply::error(self.structured, q.cookie, reply::errno(f), &f.to_string()),
            _ if q.command == Command::Read => reply::read_head(self.structured, q.cookie, q.offset, 0),
            _ => reply::done(self.structured, q.cookie),
        }
    }
}

/// What a request that is not cut asks of the volume; `None`: nothing, because it is done at once. An error
/// is the answer.
fn op_of(q: &Request) -> Result<Option<Op>, (Errno, &'static str)> {
    let (off, len) = (q.offset, u64::from(q.len));
    Ok(match q.command {
        Command::Read if q.len == 0 => None,
        Command::Read => Some(Op::Read { off, len: q.len }),
        Command::Write => Some(Op::Write { off }),
        // A client that wants no hole wants the space to be taken, so zeroes are written as data.
        Command::WriteZeroes if q.flags & FLAG_NO_HOLE != 0 && q.flags & FLAG_FAST_ZERO != 0 => {
            return Err((Errno::NotSup, "zeroes without a hole are not fast"));
        }
        Command::WriteZeroes if q.flags & FLAG_NO_HOLE != 0 && len > 0 => Some(Op::Blank { off, len }),
        Command::Trim | Command::WriteZeroes if q.len > 0 => Some(Op::Zero { off, len }),
        Command::Trim | Command::WriteZeroes | Command::Cache => None,
        Command::Flush => Some(Op::Flush),
        Command::BlockStatus => Some(Op::Status { off, len }),
        Command::Disconnect | Command::Unknown(_) => return Err((Errno::Invalid, "unknown command")),
    })
}

/// Bytes of payload memory that a request which is not cut takes.
fn payload_of(q: &Request) -> u64 {
    match q.command {
        Command::Read => u64::from(q.len.min(MAX_REQUEST)),
        // All parts of it write the same chunk of zeroes.
        Command::WriteZeroes if q.flags & FLAG_NO_HOLE != 0 => u64::from(q.len).min(CHUNK_BYTES),
        _ => 0,
    }
}
