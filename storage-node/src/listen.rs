//! What the process asks of the system before it serves: listening sockets and enough descriptors. An error
//! names the key of the configuration and what to do.

use crate::export::NEGOTIATING;
use rustix::process::{Resource, Rlimit};
use std::path::Path;
use tokio::net::{TcpListener, UnixListener};

/// Listens at the TCP address `addr`; `what` is its key in the configuration.
pub async fn bind(what: &str, addr: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{what} = {addr}: the port is in use by another process; choose another one or stop that process"
        ),
        _ => anyhow::anyhow!("{what} = {addr}: {e}"),
    })
}

/// Listens at a Unix socket; `what` is its key in the configuration. A socket that an earlier process left behind is
/// replaced; anything else at the path is an error.
pub fn bind_socket(what: &str, path: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    let named = |why: String| anyhow::anyhow!("{what} = {}: {why}", path.display());
    match std::fs::symlink_metadata(path) {
        Ok(m) if !m.file_type().is_socket() => {
            return Err(named("it exists and is not a socket; move it away or choose another path".into()));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(named("another process listens there; choose another path or stop that process".into()));
        }
        Ok(_) => std::fs::remove_file(path).map_err(|e| named(e.to_string()))?,
        Err(_) => {}
    }
    UnixListener::bind(path).map_err(|e| named(e.to_string()))
}

/// Descriptors that the metadata, disks and other nodes may need beside NBD clients.
const OTHER_DESCRIPTORS: u64 = 512;
/// Descriptors of connections at the three listeners that are not served yet.
const AT_DOORS: u64 = 3 * NEGOTIATING as u64;

/// Raises the limit of descriptors as far as the system allows: every connection takes one, and the usual
/// soft limit is 1024.
pub fn raise_descriptors(connections: usize) {
    let most = rustix::process::getrlimit(Resource::Nofile).maximum;
    if let Err(e) = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }) {
        tracing::warn!("the number of open descriptors cannot be raised: {e}");
    }
    // `None` means without a limit.
    let most = most.unwrap_or(u64::MAX);
    if most < connections as u64 + AT_DOORS + OTHER_DESCRIPTORS {
        tracing::warn!(
            "the system allows {most} descriptors, too few for nbd_connections = {connections}: raise LimitNOFILE, or lower nbd_connections"
        );
    }
}
