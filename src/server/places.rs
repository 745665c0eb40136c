//! The connections of each owner, and the choice of the one that ends to make room for a new one.
//!
//! An owner is a network or a proxy; owners are ordered by their number of connections. The limits are not
//! known here. **Invariant:** a choice examines a bounded number of connections, however many there are, so
//! that a client which keeps the server full does not make each new connection expensive.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::timeouts::ConnectionProgress;
use crate::access::Peer;
use crate::access::networks::{Client, ClientNetwork, Shown};

/// Connections examined to find one that can end: twice as many as a client may have.
const LOOKS_MAX: usize = 512;

/// Finding the connections of an owner takes about as long as examining this many, and counts as such.
const OWNER_LOOKS: usize = 8;

/// Clients send their first request right after they connect: a connection that has brought none for this
/// long ends before those that have.
pub(super) const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// For this long after a request, the next click or the next probe may still come.
const IDLE_GRACE: Duration = Duration::from_mins(1);

/// The connections that can be told to end, by owner.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Connections by their numbers, the oldest first; only owners that have any.
    owners: HashMap<Owner, BTreeMap<u64, Arc<ConnectionProgress>>>,
    /// The last one is the first to lose a connection.
    ranks: BTreeMap<Rank, Owner>,
}

/// Whom a connection is attributed to when one has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// A proxy, as long as it has not named the client.
    Proxy(IpAddr),
    Network(ClientNetwork),
}

/// The order of owners: proxies below networks, then by number of connections. Of equals, the one whose
/// newest connection is older is higher, so that a newcomer is not the first to lose one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_network: bool,
    connections: usize,
    newest: Reverse<u64>,
}

/// A connection that can end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    pub(super) owner: Owner,
    pub(super) number: u64,
}

impl Places {
    /// How many connections `owner` has.
    pub(super) fn count(&self, owner: Owner) -> usize {
        self.owners.get(&owner).map_or(0, BTreeMap::len)
    }

    pub(super) fn insert(&mut self, owner: Owner, number: u64, progress: Arc<ConnectionProgress>) {
        let connections = self.owners.entry(owner).or_default();
        self.ranks.remove(&Rank::of(owner, connections));
        connections.insert(number, progress);
        self.ranks.insert(Rank::of(owner, connections), owner);
    }

    #[cfg(test)]
    pub(super) fn has(&self, owner: Owner, number: u64) -> bool {
        let connections = self.owners.get(&owner);
        connections.is_some_and(|connections| connections.contains_key(&number))
    }

    #[cfg(test)]
    pub(super) fn are_none(&self) -> bool {
        self.owners.is_empty() && self.ranks.is_empty()
    }

    /// Removes a connection; `None` if it is not there any more.
    pub(super) fn remove(&mut self, owner: Owner, number: u64) -> Option<Arc<ConnectionProgress>> {
        let Entry::Occupied(mut entry) = self.owners.entry(owner) else {
            return None;
        };
        let connections = entry.get_mut();
        let rank = Rank::of(owner, connections);
        let progress = connections.remove(&number)?;
        self.ranks.remove(&rank);
        if connections.is_empty() {
            entry.remove();
        } else {
            self.ranks.insert(Rank::of(owner, connections), owner);
        }
        Some(progress)
    }

    /// The connection that ends so that `newcomer` can have one more: an idle one of the first owner that has
    /// any. If all that were examined have a running request, or may be about to send their first, it is one
    /// of the owner with most connections, but only if that owner has more than `newcomer`. Where an owner
    /// has more connections than are examined, another `turn` examines others.
    pub(super) fn victim(&self, newcomer: Owner, now: Instant, turn: u64) -> Option<Victim> {
        let own = self.count(newcomer);
        let mut looks = LOOKS_MAX;
        let mut busy = None;
        for owner in self.candidates(newcomer, own) {
            let Some(connections) = self.owners.get(&owner) else {
                continue;
            };
            let seen = in_turn(connections, looks, turn);
            looks = looks.saturating_sub(connections.len() + OWNER_LOOKS);
            let first = seen
                .filter_map(|(&number, progress)| Some((Worth::of(progress, now)?, number)))
                .min();
            if let Some((worth, number)) = first {
                let victim = Victim { owner, number };
                let may_end_busy = matches!(owner, Owner::Network(_)) && connections.len() > own;
                match worth {
                    Worth::Idle { .. } => return Some(victim),
                    Worth::Busy { .. } | Worth::New { .. } if may_end_busy => {
                        busy = busy.or(Some(victim));
                    }
                    Worth::Busy { .. } | Worth::New { .. } => {}
                }
            }
            if looks == 0 {
                break;
            }
        }
        busy
    }

    /// The owners that may lose a connection to `newcomer`, which has `own`, in this order: networks with
    /// more, `newcomer` itself, and, if it has none, proxies. A proxy speaks for many clients, so to a proxy
    /// a network may lose all but one.
    fn candidates(&self, newcomer: Owner, own: usize) -> impl Iterator<Item = Owner> {
        let kept = match newcomer {
            Owner::Proxy(_) => own.min(1),
            Owner::Network(_) => own,
        };
        let networks = self.ranks.range(Rank::above(true, kept)..);
        let proxies = Rank::above(false, 0)..Rank::above(true, 0);
        let proxies = self.ranks.range(proxies).filter(move |_| own == 0);
        let networks = networks.rev().map(|(_, &owner)| owner);
        let proxies = proxies.rev().map(|(_, &owner)| owner);
        networks.chain([newcomer]).chain(proxies)
    }
}

/// At most `looks` of `connections`; if there are more, another `turn` gives others.
fn in_turn<T>(
    connections: &BTreeMap<u64, T>,
    looks: usize,
    turn: u64,
) -> impl Iterator<Item = (&u64, &T)> {
    let first = connections.keys().next().copied().unwrap_or_default();
    let last = connections.keys().next_back().copied().unwrap_or_default();
    let start = if connections.len() > looks {
        first + turn.wrapping_mul(LOOKS_MAX as u64) % (last - first + 1)
    } else {
        first
    };
    let turned = connections.range(start..).chain(connections.range(..start));
    turned.take(looks)
}

impl Owner {
    pub(super) fn of(peer: Peer) -> Self {
        match client_of(peer) {
            None => Self::Proxy(peer.address),
            Some(client) => Self::Network(client.network()),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy(address) => Shown(*address).fmt(formatter),
            Self::Network(network) => network.fmt(formatter),
        }
    }
}

/// The client whose connections are counted; `None` for a proxy, which has many clients.
pub(super) fn client_of(peer: Peer) -> Option<Client> {
    (!peer.is_trusted).then(|| Client::of(peer.address))
}

impl Rank {
    fn of<T>(owner: Owner, connections: &BTreeMap<u64, T>) -> Self {
        let newest = connections.keys().next_back().copied();
        Self {
            is_network: matches!(owner, Owner::Network(_)),
            connections: connections.len(),
            newest: Reverse(newest.unwrap_or_default()),
        }
    }

    /// The lowest rank of an owner with more than `connections`.
    fn above(is_network: bool, connections: usize) -> Self {
        Self {
            is_network,
            connections: connections.saturating_add(1),
            newest: Reverse(u64::MAX),
        }
    }
}

/// What a connection is worth when one has to end; the one worth least ends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Idle {
        /// Another request may soon come.
        is_wanted: bool,
        idle_for: Reverse<Duration>,
    },
    Busy {
        without_progress_for: Reverse<Duration>,
    },
    /// Its first request may be about to come.
    New { open_for: Reverse<Duration> },
}

impl Worth {
    /// `None` if it cannot be told to end because it was only just accepted.
    fn of(progress: &ConnectionProgress, now: Instant) -> Option<Self> {
        if !progress.can_end() {
            return None;
        }
        let lasting = progress.state_lasts_for(now);
        let is_unused = !progress.has_had_requests();
        Some(if progress.is_busy() {
            Self::Busy {
                without_progress_for: Reverse(lasting),
            }
        } else if is_unused && lasting < FIRST_REQUEST_GRACE {
            Self::New {
                open_for: Reverse(lasting),
            }
        } else {
            Self::Idle {
                is_wanted: !is_unused && lasting < IDLE_GRACE,
                idle_for: Reverse(lasting),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_more_are_looked_at_than_the_limit_and_others_each_time() {
        let connections: BTreeMap<_, _> = (7..2007).map(|number| (number, 'x')).collect();
        let mut seen = BTreeSet::new();
        for turn in 0..20 {
            let looked_at = in_turn(&connections, LOOKS_MAX, turn);
            let numbers: Vec<_> = looked_at.map(|(&number, _)| number).collect();
            assert_eq!(numbers.len(), LOOKS_MAX);
            seen.extend(numbers);
        }
        assert_eq!(seen.len(), connections.len());
        let all = in_turn(&connections, connections.len(), 7);
        assert_eq!(all.count(), connections.len());
    }
}
