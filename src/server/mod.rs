//! Sockets: bind, accept, serve until told to stop, drain.
//!
//! This layer knows connections and time, and hands every request to [`App`]. It knows nothing of
//! messages. Binding and the order to stop are the caller's, so that a test can bring its own port
//! and its own end.

// Connections: accepted, counted, served, ended.
mod admission;
mod connection;
mod frames;
mod listener;
mod places;
mod plain_http;
mod proxy_protocol;
mod socket_file;
mod stream;
mod streams;
mod timeouts;

// Encryption.
mod certificate;
mod tls;

mod signal;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use self::admission::Admissions;
pub use self::certificate::{CERTIFICATE_NAME, KEY_NAME, TlsError};
use self::connection::Phase;
use self::listener::accept;
pub use self::listener::{Listener, Socket};
pub use self::signal::{StopSignals, hangups};
pub use self::socket_file::SocketFile;
pub use self::tls::Tls;
use crate::config::ConnectionLimits;
use crate::http::{App, ListenerRole};

/// Connections the kernel may complete before they are accepted: a burst of clients, not a queue.
const BACKLOG: u32 = 1024;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place}: {reason}{hint}")]
pub struct BindError {
    place: String,
    reason: io::Error,
    hint: &'static str,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program has this port, choose another one with --port or --listen"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
        _ => "",
    }
}

/// Listens on all of `addresses`, or on none. Where the machine has no IPv6, `[::]` means all addresses of IPv4.
///
/// # Errors
/// On the first address that cannot be bound.
pub fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let bind = |&address: &SocketAddr| {
        let is_for_all = address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let beside = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
        let has_beside = addresses.contains(&beside);
        bind_one(address, has_beside)
            .or_else(|error| match error.raw_os_error() {
                Some(code) if is_for_all && !has_beside && NO_IPV6.contains(&code) => {
                    bind_one(beside, false)
                }
                _ => Err(error),
            })
            .map_err(|reason| BindError {
                place: address.to_string(),
                hint: hint(&reason),
                reason,
            })
    };
    addresses.iter().map(bind).collect()
}

/// Listens on a socket file, which is made with these permissions.
///
/// # Errors
/// If it cannot be made: something else may be there, or another server.
pub fn bind_socket_file(path: &Path, mode: u32) -> Result<SocketFile, BindError> {
    SocketFile::bind(path, mode, BACKLOG).map_err(|reason| BindError {
        place: format!("unix:{}", path.display()),
        hint: match reason.kind() {
            io::ErrorKind::AddrInUse => {
                "; another program listens there, or another user's file is"
            }
            io::ErrorKind::NotFound => "; its directory has to be there",
            _ => "",
        },
        reason,
    })
}

/// What is answered where the kernel has no IPv6, or no address of it.
const NO_IPV6: [i32; 2] = [
    Errno::AFNOSUPPORT.raw_os_error(),
    Errno::ADDRNOTAVAIL.raw_os_error(),
];

fn bind_one(address: SocketAddr, is_beside_ipv4: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // For both families, whatever the system's default is, unless IPv4 has a socket of its own.
    if address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) {
        set_ipv6_v6only(&socket, is_beside_ipv4)?;
    }
    // A restart must not wait for the connections of the last run to fade away.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `app` on `listeners` until `stop` is done. Then it says that it is not ready, goes on for
/// [`ConnectionLimits::drain_delay`], accepts no more, and lets requests in flight finish within
/// [`ConnectionLimits::drain_timeout`]. All connections are closed on return.
pub async fn run<L: Into<Listener>>(
    listeners: Vec<L>,
    app: Arc<App>,
    limits: ConnectionLimits,
    stop: impl Future<Output = ()>,
) {
    let limits = Arc::new(limits);
    let of_clients = Arc::new(Admissions::new(&limits));
    let of_operators = Arc::new(Admissions::of_operators(&limits));
    let (phase, _) = watch::channel(Phase::Serve);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let listener = listener.into();
        let admissions = match listener.role {
            ListenerRole::All | ListenerRole::Public => &of_clients,
            ListenerRole::Admin => &of_operators,
        };
        accepting.spawn(accept(
            listener,
            Arc::clone(&app),
            Arc::clone(&limits),
            Arc::clone(admissions),
            phase.clone(),
        ));
    }
    stop.await;
    app.service().stop();
    sleep(limits.drain_delay).await;
    accepting.shutdown().await;
    // Every connection holds a receiver; when none is left, all are done.
    phase.send_replace(Phase::Drain);
    if timeout(limits.drain_timeout, phase.closed()).await.is_err() {
        warn!(
            connections = phase.receiver_count(),
            "requests were still running when their time to finish was over"
        );
        phase.send_replace(Phase::Abort);
        phase.closed().await;
    }
    info!("all connections are closed");
}
