//! A small client of the REST API and of `/metrics`: HTTP/1.1, one connection for each request, with a bound on how
//! long each takes. It knows several addresses, and asks one where nothing answers last. It keeps no connection, reads
//! no stream, and says what came without judging it.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// An address that does not answer within this time is asked last.
const ALIVE: Duration = Duration::from_millis(600);
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(70);

/// An answer of a node.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The status line and the headers, as they came.
    pub head: String,
    /// The body, as it came.
    pub body: String,
}

impl Reply {
    /// The value of a header, if it came.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.head.lines().skip(1).filter_map(|l| l.split_once(':'));
        all.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
    }

    /// The body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.head, self.body))
    }

    /// The body of an answer that is no error; else the error's text.
    pub fn good(self) -> Result<Value, String> {
        match self.status {
            200..300 => serde_json::from_str(&self.body).map_err(|e| e.to_string()),
            s => Err(format!("[HTTP {s}] {}", self.body)),
        }
    }
}

/// Sends one request to one address and reads the whole answer, within a time.
pub fn ask_within(time: Duration, addr: &str, head: &str, body: &str) -> Result<Reply, String> {
    let end = Instant::now() + time;
    let left = || end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let talk = || -> std::io::Result<Vec<u8>> {
        let to = addr.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let mut s = TcpStream::connect_timeout(&to, left())?;
        s.set_write_timeout(Some(left()))?;
        s.write_all(format!("{head}\r\n{body}").as_bytes())?;
        let (mut all, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            s.set_read_timeout(Some(left()))?;
            match s.read(&mut piece)? {
                0 => return Ok(all),
                n => all.extend_from_slice(&piece[..n]),
            }
            if Instant::now() > end {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
        }
    };
    let text = talk().map_err(|e| format!("{addr}: {e}"))?;
    let text = String::from_utf8(text).map_err(|e| format!("{addr}: {e}"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("{addr}: no whole answer: {text}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| format!("{addr}: no HTTP status: {head}"))?;
    let reply = Reply { status, head: head.into(), body: body.into() };
    match reply.header("content-length").and_then(|n| n.parse::<usize>().ok()) {
        Some(n) if n != reply.body.len() => Err(format!("{addr}: {} of {n} bytes came", reply.body.len())),
        Some(_) => Ok(reply),
        None => Err(format!("{addr}: the answer does not say how long it is: {}", reply.head)),
    }
}

/// The head of a request, without the empty line at its end.
fn head(addr: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let more: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n{more}")
}

/// Reads what is at a path of one address.
pub fn get(addr: &str, path: &str) -> Result<Reply, String> {
    ask_within(PATIENCE, addr, &head(addr, "GET", path, &[]), "")
}

/// Sends a change to one address, with what every change needs and these headers.
pub fn change(addr: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Result<Reply, String> {
    let body = body.to_string();
    let length = body.len().to_string();
    let needed = [("Holdfast-CSRF", "1"), ("Content-Type", "application/json"), ("Content-Length", length.as_str())];
    ask_within(PATIENCE, addr, &head(addr, method, path, &[&needed, headers].concat()), &body)
}

/// The addresses, those where nothing answers at the end: a frozen machine still accepts connections.
pub fn lively_first(addrs: &[String]) -> Vec<String> {
    let lives = |a: &String| addrs.len() < 2 || ask_within(ALIVE, a, &head(a, "GET", "/livez", &[]), "").is_ok();
    match addrs.iter().position(lives) {
        Some(first) => [&addrs[first..], &addrs[..first]].concat(),
        None => addrs.to_vec(),
    }
}
