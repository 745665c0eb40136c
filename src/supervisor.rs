//! What systemd, or another supervisor with its protocol, hands over and wants to hear: inherited sockets,
//! readiness, a sign of life.
//!
//! Everything here does nothing when there is no supervisor. See `sd_listen_fds(3)` and
//! `sd_notify(3)`.

use std::env;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::time::interval;
use tracing::warn;

/// A start that makes progress is given this much longer each time it says so: it does every second.
const START_EXTENSION: Duration = Duration::from_mins(1);

/// A socket that was handed over, listening.
#[derive(Debug)]
pub struct Inherited {
    /// The socket.
    pub socket: TcpListener,
    /// What the supervisor calls it; empty if nothing.
    pub name: String,
}

/// The sockets that were handed over, in their order. To be called once, before there are threads:
/// it takes the variables out of the environment that say so.
///
/// # Errors
/// If one of them is not a TCP socket.
pub fn inherited_sockets() -> io::Result<Vec<Inherited>> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut handed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..handed.len() {
        let name = names.next().unwrap_or_default().to_owned();
        if let Some(socket) = handed.take_tcp_listener(index)? {
            socket.set_nonblocking(true)?;
            sockets.push(Inherited { socket, name });
        }
    }
    Ok(sockets)
}

/// The start is doing `stage`, and needs more time.
pub fn starting(stage: &str) {
    let extension = u32::try_from(START_EXTENSION.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Status(stage),
        NotifyState::ExtendTimeoutUsec(extension),
    ]);
}

/// Messages are served.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("ready")]);
}

/// The order to stop has come.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Gives a sign of life twice as often as it is asked for, for as long as the runtime turns.
pub async fn give_signs_of_life() {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = interval(patience / 2);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot tell the supervisor");
    }
}
