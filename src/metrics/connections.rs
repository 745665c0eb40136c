//! Connections that were refused or ended early, by cause.
//!
//! **Invariant:** every cause has a series from the start, so that a first increase is seen.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::text::{Exposition, Kind};

/// Why a connection was closed before a byte of it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are as many as there may be.
    All,
    /// Its client has as many as it may have.
    Client,
    /// The same for the network of its client.
    Network,
    /// Its network is not allowed.
    Denied,
}

/// Why a connection was ended that was served before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A new one needed its place.
    Room,
    /// Its client sent control frames, or bytes that belong to no request, without end.
    Flood,
}

/// Counts of both, and of TLS handshakes.
#[derive(Debug, Default)]
pub(super) struct Connections {
    refused: [AtomicU64; Refused::ALL.len()],
    ended: [AtomicU64; Ended::ALL.len()],
    handshakes_failed: AtomicU64,
}

impl Refused {
    const ALL: [(Self, &'static str); 4] = [
        (Self::All, "all"),
        (Self::Client, "client"),
        (Self::Network, "network"),
        (Self::Denied, "denied"),
    ];
}

impl Ended {
    const ALL: [(Self, &'static str); 2] = [(Self::Room, "room"), (Self::Flood, "flood")];
}

impl Connections {
    pub(super) fn refuse(&self, cause: Refused) {
        add(&self.refused, &Refused::ALL, cause);
    }

    pub(super) fn end(&self, cause: Ended) {
        add(&self.ended, &Ended::ALL, cause);
    }

    pub(super) fn fail_handshake(&self) {
        self.handshakes_failed.fetch_add(1, Relaxed);
    }

    pub(super) fn write(&self, page: &mut Exposition) {
        let mut refused = page.family(
            Kind::Counter,
            "digestd_connections_refused_total",
            "Connections closed before a byte was read: at the limit on all, on those of a client or of a network, or denied",
        );
        for (count, (_, cause)) in self.refused.iter().zip(Refused::ALL) {
            refused.sample(&[("cause", cause)], count.load(Relaxed));
        }
        let mut ended = page.family(
            Kind::Counter,
            "digestd_connections_ended_total",
            "Connections ended by the server: to make room for others, or for a flood of control frames",
        );
        for (count, (_, cause)) in self.ended.iter().zip(Ended::ALL) {
            ended.sample(&[("cause", cause)], count.load(Relaxed));
        }
        page.counter(
            "digestd_tls_handshakes_failed_total",
            "TLS handshakes that failed or took too long",
            self.handshakes_failed.load(Relaxed),
        );
    }
}

fn add<C: Copy + PartialEq>(counts: &[AtomicU64], causes: &[(C, &str)], cause: C) {
    let counted = counts
        .iter()
        .zip(causes)
        .find(|(_, known)| known.0 == cause);
    if let Some((count, _)) = counted {
        count.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_counted_under_its_own_name() {
        let connections = Connections::default();
        for (times, (cause, _)) in (1..).zip(Refused::ALL) {
            (0..times).for_each(|_| connections.refuse(cause));
        }
        for (times, (cause, _)) in (11..).zip(Ended::ALL) {
            (0..times).for_each(|_| connections.end(cause));
        }
        connections.fail_handshake();
        let mut page = Exposition::default();
        connections.write(&mut page);
        let text = page.finish();
        for line in [
            "digestd_connections_refused_total{cause=\"all\"} 1",
            "digestd_connections_refused_total{cause=\"client\"} 2",
            "digestd_connections_refused_total{cause=\"network\"} 3",
            "digestd_connections_refused_total{cause=\"denied\"} 4",
            "digestd_connections_ended_total{cause=\"room\"} 11",
            "digestd_connections_ended_total{cause=\"flood\"} 12",
            "digestd_tls_handshakes_failed_total 1",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}\n{text}");
        }
    }
}
