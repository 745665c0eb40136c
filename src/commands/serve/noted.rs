//! What a running server notes beside its lock: where it listens, and the certificate that it has there.
//!
//! It refuses to know who reads it. **Invariant:** it is written after everything is bound.

use std::net::SocketAddr;
use std::sync::Arc;

use tracing::warn;

use crate::commands::listening::{Kind, Listening, Place};
use crate::digest::Digest;
use crate::http::ListenerRole;
use crate::server::{Listener, Tls};
use crate::store::Note;

/// The note of this server.
#[derive(Debug)]
pub(super) struct Noted {
    note: Note,
    places: Vec<(Kind, SocketAddr)>,
    tls: Option<Arc<Tls>>,
}

impl Noted {
    /// Writes down where `listeners` are.
    pub(super) fn of(note: Note, listeners: &[Listener], tls: Option<Arc<Tls>>) -> Self {
        let place = |listener: &Listener| {
            let kind = match (listener.role, &listener.tls) {
                (_, Some(_)) => Kind::Https,
                (ListenerRole::Admin, None) => Kind::Admin,
                (ListenerRole::All | ListenerRole::Public, None) => Kind::Http,
            };
            Some((kind, listener.socket.address()?))
        };
        let places = listeners.iter().filter_map(place).collect();
        let noted = Self { note, places, tls };
        noted.write();
        noted
    }

    /// Writes it again, with the certificate of the moment.
    pub(super) fn write(&self) {
        let certificate = self.tls.as_ref().map(|tls| Digest::of(&tls.certificate()));
        let places = self.places.iter().map(|&(kind, address)| Place {
            kind,
            address,
            certificate: certificate.filter(|_| kind == Kind::Https),
        });
        let listening = Listening::new(places.collect());
        if let Err(error) = self.note.write(&listening.to_string()) {
            warn!(%error, "cannot note where this server listens; digestd healthcheck goes by its environment");
        }
    }
}
