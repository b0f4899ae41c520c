//! One HTTP/1.1 request to one endpoint, over TCP or a Unix socket.
//!
//! It promises: an answer is read up to a bound, and whoever gives up waiting closes the connection. It does
//! not repeat, choose an endpoint or judge an answer (client.rs), and it speaks no TLS.

pub mod sse;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{self, HeaderName};
pub use hyper::{HeaderMap, Method};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// The largest body of an answer that is read, in bytes.
const MAX_BODY: usize = 32 << 20;

/// Where a node's API answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host and port.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        const FORMS: &str = "write it as host:port, http://host:port or unix:/path";
        let bad = |why: &str| Err(format!("endpoint \"{text}\": {why}; {FORMS}"));
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(Endpoint::Unix(path.into()))
            } else {
                bad("the path is not absolute")
            };
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains("://") {
            return bad("only http is spoken");
        }
        let host_and_port =
            rest.rsplit_once(':').filter(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok_and(|p| p > 0));
        let ip6 = rest.starts_with('[') && rest.contains("]:");
        match host_and_port {
            None => bad("it has no port"),
            Some((h, _))
                if h.contains(|c: char| "/@?#".contains(c) || c.is_whitespace()) || h.contains(':') && !ip6 =>
            {
                bad("the host is none")
            }
            Some(_) => Ok(Endpoint::Tcp(rest.into())),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(a) => f.write_str(a),
            Endpoint::Unix(p) => write!(f, "unix:{}", p.display()),
        }
    }
}

/// A request, which may be sent several times.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method, such as GET.
    pub method: Method,
    /// The path with its query, as it is to be sent.
    pub path: String,
    /// The headers besides Host and Content-Length.
    pub headers: Vec<(HeaderName, String)>,
    /// The body; empty if the request has none.
    pub body: Bytes,
}

impl Request {
    /// A GET of this path with its query.
    pub fn get(path: &str) -> Request {
        Request { method: Method::GET, path: path.into(), headers: Vec::new(), body: Bytes::new() }
    }
}

/// A whole answer.
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The headers of the answer.
    pub headers: HeaderMap,
    /// The body, as it came.
    pub body: Bytes,
}

/// Why there was no answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Silent {
    /// The reason in words, without the endpoint.
    pub why: String,
    /// Says that the request may have arrived.
    pub sent: bool,
}

/// The task that moves a connection's bytes; it ends with what it serves.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer whose body is still to be read.
pub struct Open {
    status: u16,
    headers: HeaderMap,
    body: Incoming,
    _driver: Driver,
}

fn silent(e: impl fmt::Display, sent: bool) -> Silent {
    Silent { why: e.to_string(), sent }
}

async fn over<S>(stream: S) -> Result<(SendRequest<Full<Bytes>>, Driver), Silent>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| silent(e, false))?;
    let driver = tokio::spawn(async move {
        // An error of the connection is also the error of the request on it.
        let _ = connection.await;
    });
    Ok((sender, Driver(driver)))
}

/// Sends a request and waits for the head of the answer.
pub async fn open(endpoint: &Endpoint, request: &Request) -> Result<Open, Silent> {
    let (mut sender, driver, host) = match endpoint {
        Endpoint::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(|e| silent(e, false))?;
            // (The request is one write; without this its body could wait for an acknowledgement.)
            let _ = stream.set_nodelay(true);
            let (sender, driver) = over(stream).await?;
            (sender, driver, address.as_str())
        }
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(|e| silent(e, false))?;
            let (sender, driver) = over(stream).await?;
            (sender, driver, "localhost")
        }
    };
    let mut http = hyper::Request::builder().method(&request.method).uri(&request.path).header(header::HOST, host);
    for (name, value) in &request.headers {
        http = http.header(name, value);
    }
    let http = http.body(Full::new(request.body.clone())).map_err(|e| silent(e, false))?;
    let answer = sender.send_request(http).await.map_err(|e| silent(words(&e), true))?;
    let (head, body) = answer.into_parts();
    Ok(Open { status: head.status.as_u16(), headers: head.headers, body, _driver: driver })
}

/// An error with the reasons behind it, in one line.
fn words(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text += &format!(": {c}");
        cause = c.source();
    }
    text
}

impl Open {
    /// Reads the rest of the answer.
    pub async fn whole(self) -> Result<Response, Silent> {
        let body = Limited::new(self.body, MAX_BODY).collect().await;
        let body = body.map_err(|e| silent(words(e.as_ref()), true))?.to_bytes();
        Ok(Response { status: self.status, headers: self.headers, body })
    }

    /// Reads the answer as a stream of events, if it is one; else gives it back.
    pub fn events(self) -> Result<sse::Events, Box<Open>> {
        let kind = self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if self.status == 200 && kind.starts_with("text/event-stream") {
            Ok(sse::Events::new(self))
        } else {
            Err(Box::new(self))
        }
    }
}

/// Sends a request and reads the whole answer.
pub async fn ask(endpoint: &Endpoint, request: &Request) -> Result<Response, Silent> {
    open(endpoint, request).await?.whole().await
}

/// One part of a path or query, percent-encoded.
pub fn encoded(part: &str) -> String {
    let one = |b: u8| match b {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        _ => format!("%{b:02X}"),
    };
    part.bytes().map(one).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_three_forms() {
        let tcp = |a: &str| Endpoint::Tcp(a.into());
        for (text, want) in [
            ("127.0.0.1:7423", tcp("127.0.0.1:7423")),
            ("http://n1.example:80/", tcp("n1.example:80")),
            ("[::1]:7423", tcp("[::1]:7423")),
            ("unix:/run/holdfast/api.sock", Endpoint::Unix("/run/holdfast/api.sock".into())),
            ("unix:///run/api.sock", Endpoint::Unix("/run/api.sock".into())),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap(), want);
        }
        for bad in
            ["", "n1", "n1:", "n1:x", "n1:0", ":7423", "https://n1:7423", "unix:api.sock", "n1/x:1", "a:b:1", "u@h:1"]
        {
            let e = bad.parse::<Endpoint>().unwrap_err();
            assert!(e.contains("write it as host:port"), "{bad}: {e}");
        }
    }

    #[test]
    fn parts_of_paths_are_encoded() {
        assert_eq!(encoded("web-1.a_~"), "web-1.a_~");
        assert_eq!(encoded("a/b c%é"), "a%2Fb%20c%25%C3%A9");
    }
}
