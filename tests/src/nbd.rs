//! A small blocking NBD client: the verifying writer's hands.

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
