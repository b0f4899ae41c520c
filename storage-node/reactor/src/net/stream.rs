//! A client's connection, whatever carries it, and who is at its other end.
//!
//! Front ends and ports do not see which kind it is. The peer's identity is what the kernel vouches for: the
//! address of a TCP peer, the user and process of one that came over a Unix socket. It says nothing about
//! what that peer may do.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The address of a TCP peer.
    Tcp(SocketAddr),
    /// The credentials of a process of this machine when it connected.
    Unix {
        /// Its user id.
        uid: u32,
        /// Its process id, if the kernel tells.
        pid: Option<i32>,
    },
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Peer::Tcp(addr) => write!(f, "{addr}"),
            Peer::Unix { uid, pid: Some(pid) } => write!(f, "user {uid}, process {pid}"),
            Peer::Unix { uid, pid: None } => write!(f, "user {uid}"),
        }
    }
}

/// A socket that waits to be taken over by a reactor's thread.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    peer: Peer,
}

#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Stream {
    /// Takes a TCP connection out of the runtime that accepted it.
    pub fn tcp(s: tokio::net::TcpStream) -> io::Result<Stream> {
        let peer = Peer::Tcp(s.peer_addr()?);
        Ok(Stream { socket: Socket::Tcp(s.into_std()?), peer })
    }

    /// Takes a Unix connection out of the runtime that accepted it.
    pub fn unix(s: tokio::net::UnixStream) -> io::Result<Stream> {
        let cred = s.peer_cred()?;
        let peer = Peer::Unix { uid: cred.uid(), pid: cred.pid() };
        Ok(Stream { socket: Socket::Unix(s.into_std()?), peer })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Gives it to the runtime of the current thread. A TCP peer that cannot be reached for `timeout` counts
    /// as gone; of a Unix peer the kernel tells at once.
    pub(crate) fn open(self, timeout: std::time::Duration) -> io::Result<OpenStream> {
        match self.socket {
            Socket::Tcp(s) => {
                let s = tokio::net::TcpStream::from_std(s)?;
                hf_repl::link::watch_over(&s, timeout)?;
                Ok(OpenStream::Tcp(s))
            }
            Socket::Unix(s) => Ok(OpenStream::Unix(tokio::net::UnixStream::from_std(s)?)),
        }
    }
}

/// A connection on its reactor's thread.
pub(crate) enum OpenStream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// A connection's receiving side.
pub(crate) enum Receiver<'a> {
    Tcp(tokio::net::tcp::ReadHalf<'a>),
    Unix(tokio::net::unix::ReadHalf<'a>),
}

/// A connection's sending side.
pub(crate) enum Sender<'a> {
    Tcp(tokio::net::tcp::WriteHalf<'a>),
    Unix(tokio::net::unix::WriteHalf<'a>),
}

impl OpenStream {
    /// The socket's descriptor.
    pub fn fd(&self) -> RawFd {
        match self {
            OpenStream::Tcp(s) => s.as_raw_fd(),
            OpenStream::Unix(s) => s.as_raw_fd(),
        }
    }

    /// Its two directions.
    pub fn split(&mut self) -> (Receiver<'_>, Sender<'_>) {
        match self {
            OpenStream::Tcp(s) => {
                let (r, w) = s.split();
                (Receiver::Tcp(r), Sender::Tcp(w))
            }
            OpenStream::Unix(s) => {
                let (r, w) = s.split();
                (Receiver::Unix(r), Sender::Unix(w))
            }
        }
    }
}

impl AsyncRead for Receiver<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Receiver::Tcp(r) => Pin::new(r).poll_read(cx, buf),
            Receiver::Unix(r) => Pin::new(r).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Sender<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Sender::Tcp(w) => Pin::new(w).poll_write(cx, buf),
            Sender::Unix(w) => Pin::new(w).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context, bufs: &[io::IoSlice]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Sender::Tcp(w) => Pin::new(w).poll_write_vectored(cx, bufs),
            Sender::Unix(w) => Pin::new(w).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Sender::Tcp(w) => Pin::new(w).poll_flush(cx),
            Sender::Unix(w) => Pin::new(w).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Sender::Tcp(w) => Pin::new(w).poll_shutdown(cx),
            Sender::Unix(w) => Pin::new(w).poll_shutdown(cx),
        }
    }
}
