//! Accepting connections: within their number, whatever happens.
//!
//! A connection beyond a limit, or of a network that is not allowed, is counted and closed at once: an
//! answer would cost what the limit saves. Only on this machine such a network may still ask for health. An error of `accept` never ends the loop: when descriptors have
//! run out it pauses, since the next try cannot fare better before some connection has ended.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, warn};

use super::admission::{Admission, Admissions};
use super::connection::{H2_WAITS_MAX, Phase, serve};
use super::plain_http;
use super::proxy_protocol;
use super::socket_file::SocketFile;
use super::timeouts::ConnectionProgress;
use super::tls::Tls;
use crate::access::networks::Shown;
use crate::access::{Access, Peer};
use crate::config::ConnectionLimits;
use crate::http::{App, ConnectionInfo, ListenerRole, Locality, WaitsOfConnection};
use crate::metrics::{Ended, Refused};

/// Pause after an error of `accept`, long enough for connections to end, short enough that the
/// backlog holds meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time between two lines in the log about the same trouble.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// A socket that is listened on, and what is served on it.
#[derive(Debug)]
pub struct Listener {
    /// The socket, listening.
    pub socket: Socket,
    /// What is served.
    pub role: ListenerRole,
    /// Encrypts, if it is there.
    pub tls: Option<Arc<Tls>>,
}

/// Of the network, or of this machine.
#[derive(Debug)]
pub enum Socket {
    /// At an address.
    Tcp(TcpListener),
    /// In the file system; without encryption.
    File(SocketFile),
}

/// What it accepts.
enum Stream {
    Tcp(TcpStream),
    File(UnixStream),
}

impl Socket {
    /// The next connection, the other end of it, and its name.
    async fn accept(&self, access: &Access) -> io::Result<(Stream, Peer, String)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                let peer = access.peer(address.ip());
                Ok((Stream::Tcp(stream), peer, address.to_string()))
            }
            Self::File(socket) => {
                let stream = socket.accept().await?;
                let uid = stream.peer_cred()?.uid();
                let peer = access.peer_on_socket_file(uid);
                Ok((Stream::File(stream), peer, format!("unix:{uid}")))
            }
        }
    }

    /// Where it is, if that is an address.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::File(_) => None,
        }
    }
}

impl From<TcpListener> for Listener {
    /// Everything in plain HTTP.
    fn from(socket: TcpListener) -> Self {
        Self {
            socket: Socket::Tcp(socket),
            role: ListenerRole::All,
            tls: None,
        }
    }
}

impl Listener {
    /// Whether only this machine can connect; as to a socket file; also if the socket does not say.
    #[must_use]
    pub fn is_on_loopback(&self) -> bool {
        let address = self.socket.address();
        address.is_none_or(|address| address.ip().to_canonical().is_loopback())
    }
}

/// Accepts connections until it is dropped.
pub(super) async fn accept(
    listener: Listener,
    app: Arc<App>,
    limits: Arc<ConnectionLimits>,
    admissions: Arc<Admissions>,
    phase: watch::Sender<Phase>,
) {
    let mut failures = Warning::default();
    let mut refusals = Warning::default();
    let mut replacements = Warning::default();
    let mut strangers = Warning::default();
    let metrics = app.metrics();
    let on_loopback = listener.is_on_loopback();
    loop {
        let (stream, peer, name) = match listener.socket.accept(app.access()).await {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                if let Some(times) = failures.due() {
                    warn!(%error, times, "cannot accept connections; trying on");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let is_here = peer.address.is_loopback() || peer.is_on_socket_file;
        let is_let_in = is_let_in(app.access(), peer);
        if !is_let_in && !is_here {
            metrics.refuse_connection(Refused::Denied);
            if let Some(times) = strangers.due() {
                warn!(client = %peer.address, times, "closed connections of networks not let in");
            }
            continue;
        }
        let started = Instant::now();
        let (admission, replaced) = match admissions.admit(peer, started) {
            Ok(admitted) => admitted,
            Err(cause) => {
                metrics.refuse_connection(cause);
                if let Some(times) = refusals.due() {
                    let client = Shown(peer.address);
                    warn!(%client, times, "closed connections beyond the limit");
                }
                continue;
            }
        };
        if let Some(owner) = replaced {
            metrics.end_connection(Ended::Room);
            if let Some(times) = replacements.due() {
                warn!(of = %owner, times, "ended connections to make room for new ones");
            }
        }
        // Answers are written in one piece; waiting for more only delays them.
        if let Stream::Tcp(stream) = &stream
            && let Err(error) = stream.set_nodelay(true)
        {
            debug!(%error, "a connection was gone before it began");
            continue;
        }
        let (app, limits) = (Arc::clone(&app), Arc::clone(&limits));
        let phase = phase.subscribe();
        let mut info = ConnectionInfo {
            peer: name.into(),
            origin: peer,
            role: listener.role,
            checks_hosts: app.access().checks_hosts(on_loopback, peer),
            locality: match (is_here, is_let_in) {
                (false, _) => Locality::Elsewhere,
                (true, true) => Locality::Here,
                (true, false) => Locality::HereForHealth,
            },
            is_tls: listener.tls.is_some(),
            waits: Arc::new(WaitsOfConnection::new(H2_WAITS_MAX)),
            discards: admission.progress().discards.clone(),
        };
        let tls = listener.tls.clone();
        let progress = Arc::clone(admission.progress());
        let task = tokio::spawn(async move {
            let mut admission = admission;
            let progress = Arc::clone(admission.progress());
            let mut stream = match stream {
                Stream::Tcp(stream) => stream,
                // Boxed, so that others do not carry room for it.
                Stream::File(stream) => {
                    return Box::pin(serve(stream, progress, info, app, limits, phase)).await;
                }
            };
            if peer.is_trusted {
                let deadline = started + limits.head_timeout;
                let introduced = introduce(&mut stream, &mut info, &app, &mut admission);
                // Boxed, and here only: few connections are of proxies.
                let introduced = timeout_at(deadline, Box::pin(introduced));
                let mut phase = phase.clone();
                tokio::select! {
                    // There is nothing yet that could be finished.
                    _ = phase.changed() => return,
                    introduced = introduced => if introduced != Ok(true) {
                        return;
                    },
                }
            }
            match tls {
                None => serve(stream, progress, info, app, limits, phase).await,
                Some(tls) => serve_tls(&tls, stream, progress, info, app, limits, phase).await,
            }
            drop(admission);
        });
        progress.runs_in(task.abort_handle());
    }
}

/// A trusted proxy may speak for clients that are allowed without being allowed itself.
fn is_let_in(access: &Access, peer: Peer) -> bool {
    peer.is_trusted || access.admits_through(peer, peer.address)
}

/// Lets a trusted proxy say for whom a connection is; returns whether they may have it.
async fn introduce(
    stream: &mut TcpStream,
    info: &mut ConnectionInfo,
    app: &App,
    admission: &mut Admission,
) -> bool {
    let address: SocketAddr = match proxy_protocol::client_of(stream).await {
        Ok(None) => return true,
        Ok(Some(address)) => address,
        Err(error) => {
            debug!(%error, client = %info.peer, "a connection was gone before it began");
            return false;
        }
    };
    info.origin = app.access().peer(address.ip());
    info.locality = Locality::Elsewhere;
    info.peer = address.to_string().into();
    let result = if is_let_in(app.access(), info.origin) {
        admission.assign(info.origin)
    } else {
        Err(Refused::Denied)
    };
    result
        .inspect_err(|&cause| app.metrics().refuse_connection(cause))
        .is_ok()
}

/// How a connection to a port for HTTPS begins.
enum Beginning<S> {
    Tls(S),
    PlainHttp(TcpStream),
}

/// Shakes hands within the time that a first request has, which goes on running.
async fn serve_tls(
    tls: &Tls,
    stream: TcpStream,
    progress: Arc<ConnectionProgress>,
    info: ConnectionInfo,
    app: Arc<App>,
    limits: Arc<ConnectionLimits>,
    mut phase: watch::Receiver<Phase>,
) {
    let deadline = progress.started + limits.head_timeout;
    let handshake = async {
        if plain_http::is_spoken_on(&stream).await? {
            return Ok(Beginning::PlainHttp(stream));
        }
        Ok(Beginning::Tls(tls.accept(stream).await?))
    };
    let handshake = timeout_at(deadline, handshake);
    let stream = tokio::select! {
        // There is nothing yet that could be finished.
        _ = phase.changed() => return,
        accepted = handshake => match accepted {
            Ok(Ok(Beginning::Tls(stream))) => stream,
            Ok(Ok(Beginning::PlainHttp(stream))) => {
                app.metrics().end_connection(Ended::PlainHttp);
                debug!(client = %info.peer, "plain HTTP on a port for HTTPS");
                return plain_http::refuse(stream).await;
            }
            Ok(Err::<_, io::Error>(error)) => {
                app.metrics().fail_handshake();
                debug!(%error, client = %info.peer, "a TLS handshake failed");
                return;
            }
            Err(_) => {
                app.metrics().fail_handshake();
                debug!(client = %info.peer, "a TLS handshake took too long");
                return;
            }
        },
    };
    // Boxed: its state is large, and connections without TLS would carry room for it.
    Box::pin(serve(stream, progress, info, app, limits, phase)).await;
}

/// Whether only the connection that was to be accepted is broken, not the listener (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Something that may happen a thousand times a second and be logged every ten.
#[derive(Default)]
struct Warning {
    last: Option<Instant>,
    times: u64,
}

impl Warning {
    /// Counts one more time. Returns how often it happened since the last line, if one is due.
    fn due(&mut self) -> Option<u64> {
        self.times += 1;
        if self
            .last
            .is_some_and(|last| last.elapsed() < WARNING_INTERVAL)
        {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trouble_is_logged_once_in_a_while_with_its_count() {
        let mut warning = Warning::default();
        assert_eq!(warning.due(), Some(1));
        assert_eq!(warning.due(), None);
        tokio::time::advance(WARNING_INTERVAL).await;
        assert_eq!(warning.due(), Some(2));
    }
}
