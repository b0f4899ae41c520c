//! Connections: a bounded number, each with a bounded time for the head of a request.

use crate::node::Node;
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at one listener, at most.
const CONNECTIONS: usize = 1024;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);
/// Bytes that the head of a request may have.
const HEAD_BYTES: usize = 64 << 10;
/// What a connection beyond the bound is told.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Serves callers over TCP until the process ends.
pub async fn serve_tcp(node: Arc<Node>, l: TcpListener) {
    let (app, room) = (super::router(node, true), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        match l.accept().await {
            Ok((s, _)) => {
                let _ = s.set_nodelay(true);
                tokio::spawn(connection(app.clone(), s, room.clone().try_acquire_owned().ok()));
            }
            Err(e) => refused("http", e).await,
        }
    }
}

/// Serves callers over the API's Unix socket until the process ends.
pub async fn serve_unix(node: Arc<Node>, l: UnixListener) {
    let (app, room) = (super::router(node, false), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        match l.accept().await {
            Ok((s, _)) => drop(tokio::spawn(connection(app.clone(), s, room.clone().try_acquire_owned().ok()))),
            Err(e) => refused("api_socket", e).await,
        }
    }
}

/// A connection could not be accepted: out of descriptors, perhaps. A moment later there may be some.
async fn refused(what: &str, e: std::io::Error) {
    tracing::debug!("{what}: {e}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn connection<S>(app: Router, mut s: S, seat: Option<OwnedSemaphorePermit>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(_seat) = seat else {
        let _ = tokio::time::timeout(Duration::from_secs(1), s.write_all(FULL)).await;
        return;
    };
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(s), TowerToHyperService::new(app));
    if let Err(e) = served.await {
        tracing::debug!("http: a connection ended: {e}");
    }
}
