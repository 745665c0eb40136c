//! The sockets of `digestd serve`: those that are configured, and those that a supervisor hands over.
//!
//! It refuses to know what is served. **Invariant:** every socket has a role before anything is
//! accepted from it.

use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::http::ListenerRole;
use crate::server::{self, Listener, Tls};
use crate::supervisor::Inherited;

/// Binds all that is configured. A socket that a supervisor hands over stands for the addresses of
/// its kind, which its name tells.
pub(super) fn listen(
    config: &Config,
    tls: Option<&Arc<Tls>>,
    inherited: Vec<Inherited>,
) -> anyhow::Result<Vec<Listener>> {
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
            sockets.extend(bound.map(|socket| (kind, socket)));
        }
    }
    for handed in inherited {
        let kind = Kind::of(&handed);
        let socket = TcpListener::from_std(handed.socket);
        sockets.push((kind, socket.context("cannot use an inherited socket")?));
    }
    let has_admin = sockets.iter().any(|(kind, _)| *kind == Kind::Admin);
    let listener = |(kind, socket)| {
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
#[derive(Clone, Copy, PartialEq, Eq)]
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
