//! What a running server notes beside its lock: where it listens, and the certificate that it has there.
//!
//! It refuses to know who reads it. **Invariant:** it is written after everything is bound.

use std::path;
use std::sync::Arc;

use tracing::warn;

use crate::commands::addresses::Endpoint;
use crate::commands::listening::{Kind, Listening, Place};
use crate::digest::Digest;
use crate::http::ListenerRole;
use crate::server::{Listener, Socket, Tls};
use crate::store::Note;

/// The note of this server.
#[derive(Debug)]
pub(super) struct Noted {
    note: Note,
    places: Vec<(Kind, Endpoint)>,
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
            let endpoint = match &listener.socket {
                // Who reads it is elsewhere.
                Socket::File(file) => Endpoint::SocketFile(path::absolute(file.path()).ok()?),
                socket @ Socket::Tcp(_) => Endpoint::Address(socket.address()?),
            };
            // A line break in a path would make it two.
            let is_line = !endpoint.to_string().contains('\n');
            is_line.then_some((kind, endpoint))
        };
        let places = listeners.iter().filter_map(place).collect();
        let noted = Self { note, places, tls };
        noted.write();
        noted
    }

    /// Writes it again, with the certificate of the moment.
    pub(super) fn write(&self) {
        let certificate = self.tls.as_ref().map(|tls| Digest::of(&tls.certificate()));
        let places = self.places.iter().map(|(kind, endpoint)| Place {
            kind: *kind,
            endpoint: endpoint.clone(),
            certificate: certificate.filter(|_| *kind == Kind::Https),
        });
        let listening = Listening::new(places.collect());
        if let Err(error) = self.note.write(&listening.to_string()) {
            warn!(%error, "cannot note where this server listens; digestd healthcheck goes by its environment");
        }
    }
}
