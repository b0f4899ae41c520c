//! Two small blocking NBD clients: one for verified reads and writes, and one that sends exactly
//! the bytes it is given.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub struct Nbd {
    s: TcpStream,
    cookie: u64,
    pub size: u64,
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

impl Nbd {
    pub fn connect(addr: &str, export: &str) -> io::Result<Nbd> {
        let mut s = TcpStream::connect(addr)?;
        s.set_nodelay(true)?;
        s.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut greeting = [0u8; 18];
        s.read_exact(&mut greeting)?;
        if &greeting[..8] != b"NBDMAGIC" {
            return Err(bad("no NBD server"));
        }
        s.write_all(&3u32.to_be_bytes())?;
        s.write_all(b"IHAVEOPT")?;
        s.write_all(&1u32.to_be_bytes())?;
        s.write_all(&(export.len() as u32).to_be_bytes())?;
        s.write_all(export.as_bytes())?;
        let mut info = [0u8; 10];
        s.read_exact(&mut info)?;
        let size = u64::from_be_bytes(info[..8].try_into().unwrap());
        Ok(Nbd { s, cookie: 0, size })
    }

    pub fn raw(&mut self) -> &mut TcpStream {
        &mut self.s
    }

    pub fn header(cookie: u64, flags: u16, command: u16, off: u64, len: u32) -> Vec<u8> {
        let mut h = 0x2560_9513u32.to_be_bytes().to_vec();
        h.extend(flags.to_be_bytes());
        h.extend(command.to_be_bytes());
        h.extend(cookie.to_be_bytes());
        h.extend(off.to_be_bytes());
        h.extend(len.to_be_bytes());
        h
    }

    fn call(&mut self, flags: u16, command: u16, off: u64, len: u32, data: &[u8]) -> io::Result<()> {
        self.cookie += 1;
        let mut msg = Nbd::header(self.cookie, flags, command, off, len);
        msg.extend_from_slice(data);
        self.s.write_all(&msg)?;
        let mut r = [0u8; 16];
        self.s.read_exact(&mut r)?;
        let (magic, error) =
            (u32::from_be_bytes(r[..4].try_into().unwrap()), u32::from_be_bytes(r[4..8].try_into().unwrap()));
        if magic != 0x6744_6698 || r[8..] != self.cookie.to_be_bytes() {
            return Err(bad("a reply to something else"));
        }
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error as i32));
        }
        Ok(())
    }

    pub fn write(&mut self, off: u64, data: &[u8]) -> io::Result<()> {
        self.call(0, 1, off, data.len() as u32, data)
    }

    pub fn zero(&mut self, off: u64, len: u32) -> io::Result<()> {
        self.call(0, 6, off, len, &[])
    }

    pub fn trim(&mut self, off: u64, len: u32) -> io::Result<()> {
        self.call(0, 4, off, len, &[])
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.call(0, 3, 0, 0, &[])
    }

    pub fn read(&mut self, off: u64, len: u32) -> io::Result<Vec<u8>> {
        self.call(0, 0, off, len, &[])?;
        let mut b = vec![0; len as usize];
        self.s.read_exact(&mut b)?;
        Ok(b)
    }
}

/// A client that sends exactly the bytes it is given.
pub struct Wire {
    pub s: TcpStream,
    structured: bool,
}

/// A reply: a simple one, or a chunk of a structured one.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub cookie: u64,
    /// 0 if there is none.
    pub error: u32,
    /// The chunk's type; 0 for a simple reply.
    pub kind: u16,
    /// The chunk's payload.
    pub data: Vec<u8>,
}

fn be(b: &[u8]) -> u64 {
    b.iter().fold(0, |n, x| n << 8 | u64::from(*x))
}

impl Wire {
    /// Greeted, ready for options.
    pub fn greet(addr: &str) -> io::Result<Wire> {
        let mut s = TcpStream::connect(addr)?;
        s.set_nodelay(true)?;
        s.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut greeting = [0u8; 18];
        s.read_exact(&mut greeting)?;
        s.write_all(&3u32.to_be_bytes())?;
        Ok(Wire { s, structured: false })
    }

    /// Sends an option; all its replies, up to the acknowledgement or the error.
    pub fn option(&mut self, option: u32, data: &[u8]) -> io::Result<Vec<(u32, Vec<u8>)>> {
        let head = [b"IHAVEOPT", &option.to_be_bytes()[..], &(data.len() as u32).to_be_bytes()].concat();
        self.s.write_all(&[&head, data].concat())?;
        let mut replies = Vec::new();
        loop {
            let mut h = [0u8; 20];
            self.s.read_exact(&mut h)?;
            let (kind, mut body) = (be(&h[12..16]) as u32, vec![0; be(&h[16..]) as usize]);
            self.s.read_exact(&mut body)?;
            replies.push((kind, body));
            if kind == 1 || kind >> 31 == 1 {
                return Ok(replies);
            }
        }
    }

    /// A name, as options carry it.
    pub fn name(n: &str) -> Vec<u8> {
        [&(n.len() as u32).to_be_bytes()[..], n.as_bytes()].concat()
    }

    /// In the transmission phase; structured replies and `base:allocation` if wanted.
    pub fn go(addr: &str, export: &str, structured: bool) -> io::Result<Wire> {
        let mut w = Wire::greet(addr)?;
        if structured {
            w.option(8, &[])?;
            w.option(10, &[Wire::name(export), vec![0, 0, 0, 1], Wire::name("base:allocation")].concat())?;
        }
        let said = w.option(7, &[Wire::name(export), vec![0, 0]].concat())?;
        if said.last().is_none_or(|(kind, _)| *kind != 1) {
            return Err(bad(format!("no export {export}")));
        }
        w.structured = structured;
        Ok(w)
    }

    /// Sends a request.
    pub fn send(&mut self, cookie: u64, flags: u16, command: u16, off: u64, len: u32, data: &[u8]) -> io::Result<()> {
        self.s.write_all(&[&Nbd::header(cookie, flags, command, off, len)[..], data].concat())
    }

    /// The next reply, of a request without data in its answer if replies are simple.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut h = [0u8; 16];
        self.s.read_exact(&mut h)?;
        if !self.structured {
            return Ok(Reply { cookie: be(&h[8..]), error: be(&h[4..8]) as u32, kind: 0, data: Vec::new() });
        }
        let mut len = [0u8; 4];
        self.s.read_exact(&mut len)?;
        let mut data = vec![0; be(&len) as usize];
        self.s.read_exact(&mut data)?;
        let kind = be(&h[6..8]) as u16;
        let error = if kind >> 15 == 1 { be(&data[..4]) as u32 } else { 0 };
        Ok(Reply { cookie: be(&h[8..]), error, kind, data })
    }

    /// Sends a request and takes the one reply to it.
    pub fn ask(&mut self, flags: u16, command: u16, off: u64, len: u32) -> io::Result<Reply> {
        self.send(77, flags, command, off, len, &[])?;
        self.reply()
    }

    /// Nothing follows but the end.
    pub fn at_end(&mut self) -> bool {
        matches!(self.s.read(&mut [0; 1]), Ok(0))
    }

    /// Ends it with a reset.
    pub fn reset(self) {
        let l = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: a socket of ours and a local struct of the size that is told.
        let e = unsafe {
            libc::setsockopt(
                std::os::fd::AsRawFd::as_raw_fd(&self.s),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const l).cast(),
                size_of::<libc::linger>() as u32,
            )
        };
        assert_eq!(e, 0, "SO_LINGER: {}", io::Error::last_os_error());
    }
}
