//! The sockets of `digestd serve`: those that are configured, and those that a supervisor hands over.
//!
//! It refuses to know what is served. **Invariant:** every socket has a role before anything is
//! accepted from it.

use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::http::ListenerRole;
use crate::server::{self, Listener, Socket, Tls};
use crate::supervisor::Inherited;

/// A socket that is bound, and what it is for.
#[derive(Debug)]
pub(super) struct Bound {
    kind: Kind,
    socket: Socket,
}

/// Binds all that is configured. A socket that a supervisor hands over stands for the addresses of
/// its kind, which its name tells.
pub(super) fn bind(config: &Config, inherited: Vec<Inherited>) -> anyhow::Result<Vec<Bound>> {
    let has = |kind| inherited.iter().any(|socket| Kind::of(socket) == kind);
    let mut sockets = Vec::new();
    let tls_listen = config.tls.iter().flat_map(|tls| tls.listen.clone());
    for (kind, addresses) in [
        (Kind::Plain, config.listen.clone()),
        (Kind::Tls, tls_listen.collect()),
        (Kind::Admin, config.admin_listen.clone()),
    ] {
        if !has(kind) {
            let bound = server::bind(&addresses)?.into_iter();
            let socket = bound.map(Socket::Tcp);
            sockets.extend(socket.map(|socket| Bound { kind, socket }));
        }
    }
    for path in &config.socket_files {
        let socket = Socket::File(server::bind_socket_file(path, config.socket_mode)?);
        sockets.push(Bound {
            kind: Kind::Plain,
            socket,
        });
    }
    for handed in inherited {
        let kind = Kind::of(&handed);
        let socket = TcpListener::from_std(handed.socket);
        let socket = socket.context("cannot use an inherited socket")?;
        let socket = Socket::Tcp(socket);
        sockets.push(Bound { kind, socket });
    }
    Ok(sockets)
}

/// Says what is served on each socket.
pub(super) fn listeners(
    sockets: Vec<Bound>,
    tls: Option<&Arc<Tls>>,
) -> anyhow::Result<Vec<Listener>> {
    let has_admin = sockets.iter().any(|it| it.kind == Kind::Admin);
    let listener = |Bound { kind, socket }| {
        Ok(Listener {
            socket,
            role: match kind {
                Kind::Admin => ListenerRole::Admin,
                _ if has_admin => ListenerRole::Public,
                _ => ListenerRole::All,
            },
            tls: match kind {
                Kind::Tls => Some(tls.cloned().context(
                    "an inherited socket is called \"https\", and there is no --tls-listen",
                )?),
                _ => None,
            },
        })
    };
    sockets.into_iter().map(listener).collect()
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Tls,
    Admin,
}

impl Kind {
    fn of(socket: &Inherited) -> Self {
        match socket.name.as_str() {
            "https" => Self::Tls,
            "admin" => Self::Admin,
            _ => Self::Plain,
        }
    }
}
