//! How many connections there may be, in all and of each client.
//!
//! **Invariant:** a connection is counted from its [`Admission`] until that is dropped, and a client is
//! remembered only while it has connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::access::networks::Client;
use crate::config::ConnectionLimits;

/// How many connections there are, in all and of each client.
#[derive(Debug)]
pub(super) struct Admissions {
    connections_max: usize,
    client_connections_max: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    /// Only clients with connections: no larger than the limit on those.
    clients: HashMap<Client, usize>,
}

impl Admissions {
    pub(super) fn new(limits: &ConnectionLimits) -> Self {
        Self {
            connections_max: limits.connections_max,
            client_connections_max: limits.client_connections_max,
            counts: Mutex::default(),
        }
    }

    /// Counts a connection, of `client` if that is known, until the admission is dropped; `None`
    /// beyond a limit.
    pub(super) fn admit(self: &Arc<Self>, client: Option<Client>) -> Option<Admission> {
        let mut counts = self.lock();
        if counts.connections >= self.connections_max {
            return None;
        }
        counts.connections += 1;
        drop(counts);
        let mut admission = Admission {
            admissions: Arc::clone(self),
            client: None,
        };
        admission.assign(client).then_some(admission)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub(super) struct Admission {
    admissions: Arc<Admissions>,
    /// Whose it is, if that is known.
    client: Option<Client>,
}

impl Admission {
    /// Counts this connection as one of `client`, once that is known; returns whether they may have
    /// one more.
    pub(super) fn assign(&mut self, client: Option<Client>) -> bool {
        let Some(new) = client else { return true };
        let mut counts = self.admissions.lock();
        let count = counts.clients.entry(new).or_default();
        if *count >= self.admissions.client_connections_max {
            return false;
        }
        *count += 1;
        self.client = client;
        true
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut counts = self.admissions.lock();
        counts.connections -= 1;
        let Some(client) = self.client else { return };
        if let Entry::Occupied(mut count) = counts.clients.entry(client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admissions() -> Arc<Admissions> {
        let limits = ConnectionLimits {
            connections_max: 3,
            client_connections_max: 2,
            ..ConnectionLimits::default()
        };
        Arc::new(Admissions::new(&limits))
    }

    fn client(address: &str) -> Client {
        Client::of(address.parse().unwrap())
    }

    #[test]
    fn a_client_gets_its_connections_and_not_one_more() {
        let admissions = admissions();
        let first = admissions.admit(Some(client("10.0.0.1"))).unwrap();
        let _second = admissions.admit(Some(client("::ffff:10.0.0.1"))).unwrap();
        assert!(admissions.admit(Some(client("10.0.0.1"))).is_none());
        drop(first);
        assert!(admissions.admit(Some(client("10.0.0.1"))).is_some());
    }

    #[test]
    fn all_clients_together_have_a_limit_too() {
        let admissions = admissions();
        let held: Vec<_> = (1..=3)
            .map(|last| admissions.admit(Some(client(&format!("10.0.0.{last}")))))
            .collect();
        assert!(held.iter().all(Option::is_some));
        assert!(admissions.admit(Some(client("10.0.0.4"))).is_none());
        drop(held);
        assert!(admissions.lock().clients.is_empty());
        assert!(admissions.admit(Some(client("10.0.0.4"))).is_some());
    }

    #[test]
    fn connections_of_a_proxy_are_nobody_s_until_it_says_whose() {
        let admissions = admissions();
        let mut held: Vec<_> = (0..3).map(|_| admissions.admit(None).unwrap()).collect();
        assert!(admissions.admit(None).is_none());
        let may_have: Vec<_> = held
            .iter_mut()
            .map(|admission| admission.assign(Some(client("10.0.0.1"))))
            .collect();
        assert_eq!(may_have, [true, true, false]);
        drop(held);
        let counts = admissions.lock();
        assert!(counts.clients.is_empty() && counts.connections == 0);
    }
}
