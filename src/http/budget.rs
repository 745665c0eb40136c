//! What is scarce and shared by all clients: bytes of memory, or slots for something costly.
//!
//! **Invariants:** no client has more than its share, half of it all, and neither has an IPv6 /48 network; so
//! whatever one of them does, there is something left for the others. What is set aside for bytes is given back
//! when the last of them is dropped, wherever they went: into the queue of the store, into the buffers of
//! HTTP/2 (see [`covered`]). A client is remembered only while something is set aside for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::access::networks::{Client, ClientNetwork};

/// A number of bytes or slots of which parts can be set aside.
#[derive(Debug)]
pub(super) struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    units_max: usize,
    share_max: usize,
    taken: Mutex<Taken>,
}

/// What was set aside, in all and for whom.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    clients: HashMap<Client, usize>,
    /// Those that may be of many clients.
    networks: HashMap<ClientNetwork, usize>,
}

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Inner>,
    client: Client,
    units: usize,
}

/// There is no room at the moment, or not for this client; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Budget {
    /// Of so many bytes or slots; at least one.
    pub(super) fn new(units_max: usize) -> Self {
        // Of a few slots, one is always left to others; of one alone, everybody may have it.
        let share_max = units_max
            .div_ceil(2)
            .min(units_max.saturating_sub(1))
            .max(1);
        Self(Arc::new(Inner {
            units_max,
            share_max,
            taken: Mutex::default(),
        }))
    }

    /// What one client may have of it.
    pub(super) fn share_max(&self) -> usize {
        self.0.share_max
    }

    /// Sets aside `units` for `client`; never waits.
    pub(super) fn reserve(&self, client: Client, units: usize) -> Result<Reservation, NoRoom> {
        let Inner {
            units_max,
            share_max,
            ..
        } = *self.0;
        let mut taken = self.0.taken();
        let network = client.network();
        let of_client = taken.clients.get(&client).copied().unwrap_or(0);
        let of_network = taken.networks.get(&network).copied().unwrap_or(0);
        let fits = |taken: usize, max| taken.checked_add(units).is_some_and(|all| all <= max);
        let is_there = fits(taken.all, units_max);
        if !is_there || !fits(of_client, share_max) || !fits(of_network, share_max) {
            return Err(NoRoom);
        }
        taken.all += units;
        *taken.clients.entry(client).or_default() += units;
        if network.is_shared() {
            *taken.networks.entry(network).or_default() += units;
        }
        Ok(Reservation {
            budget: Arc::clone(&self.0),
            client,
            units,
        })
    }
}

impl Inner {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, client: Client, units: usize) {
        let mut taken = self.taken();
        taken.all -= units;
        give_back(&mut taken.clients, &client, units);
        let network = client.network();
        if network.is_shared() {
            give_back(&mut taken.networks, &network, units);
        }
    }
}

fn give_back<K: Eq + Hash>(taken: &mut HashMap<K, usize>, key: &K, units: usize) {
    let rest = taken.get_mut(key).map(|taken| {
        *taken -= units;
        *taken
    });
    if rest == Some(0) {
        taken.remove(key);
    }
}

impl Reservation {
    /// Its size.
    pub(super) fn units(&self) -> usize {
        self.units
    }

    /// Gives back all but `units` of it, if it is larger.
    pub(super) fn shrink_to(&mut self, units: usize) {
        let rest = self.units.saturating_sub(units);
        if rest > 0 {
            self.units -= rest;
            self.budget.give_back(self.client, rest);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.client, self.units);
    }
}

/// The same bytes, with `cover` kept until the last slice of them is dropped. Costs an allocation.
pub(super) fn covered(bytes: Bytes, cover: impl Send + 'static) -> Bytes {
    struct Covered<C> {
        bytes: Bytes,
        _cover: C,
    }
    impl<C> AsRef<[u8]> for Covered<C> {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Bytes::from_owner(Covered {
        bytes,
        _cover: cover,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(address: &str) -> Client {
        Client::of(address.parse().unwrap())
    }

    fn one() -> Client {
        client("10.0.0.1")
    }

    #[test]
    fn a_client_has_half_and_another_the_other_half() {
        let budget = Budget::new(10);
        let first = budget.reserve(one(), 5).unwrap();
        assert_eq!(budget.reserve(one(), 1).unwrap_err(), NoRoom);
        let _other = budget.reserve(client("10.0.0.2"), 5).unwrap();
        assert_eq!(budget.reserve(client("10.0.0.3"), 1).unwrap_err(), NoRoom);
        drop(first);
        budget.reserve(client("10.0.0.3"), 5).unwrap();
    }

    #[test]
    fn a_network_of_many_clients_has_half_too() {
        let budget = Budget::new(10);
        let _first = budget.reserve(client("2001:db8:1:1::1"), 3).unwrap();
        budget.reserve(client("2001:db8:1:2::1"), 3).unwrap_err();
        budget.reserve(client("2001:db8:1:2::1"), 2).unwrap();
        budget.reserve(client("2001:db8:2:1::1"), 5).unwrap();
    }

    #[test]
    fn of_slots_one_is_left_to_others_if_there_are_two() {
        for (slots, share) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            let budget = Budget::new(slots);
            assert_eq!(budget.share_max(), share, "{slots}");
            let held: Vec<_> = (0..slots)
                .map_while(|_| budget.reserve(one(), 1).ok())
                .collect();
            assert_eq!(held.len(), share, "{slots}");
        }
    }

    #[test]
    fn what_was_set_aside_comes_back_with_the_last_slice_of_what_it_covers() {
        let budget = Budget::new(20);
        let whole = covered(Bytes::from_static(b"0123456789"), budget.reserve(one(), 10));
        let slice = whole.slice(4..5);
        drop(whole);
        budget.reserve(one(), 1).unwrap_err();
        drop(slice);
        budget.reserve(one(), 10).unwrap();
    }

    #[test]
    fn a_part_can_be_given_back_and_never_more_than_there_is() {
        let budget = Budget::new(20);
        let mut reservation = budget.reserve(one(), 10).unwrap();
        reservation.shrink_to(4);
        let other = budget.reserve(one(), 6).unwrap();
        reservation.shrink_to(7);
        assert_eq!(reservation.units(), 4);
        budget.reserve(one(), 1).unwrap_err();
        drop((reservation, other));
        budget.reserve(one(), 10).unwrap();
    }

    proptest! {
        #[test]
        fn nobody_ever_has_more_than_a_share_and_nobody_is_remembered_for_nothing(
            steps in proptest::collection::vec((0..6_u8, 0..8_usize, any::<bool>()), 0..60),
        ) {
            let budget = Budget::new(20);
            let mut held: Vec<Reservation> = Vec::new();
            for (number, units, takes) in steps {
                let of = match number {
                    0..3 => client(&format!("10.0.0.{number}")),
                    _ => client(&format!("2001:db8:1:{number}::1")),
                };
                if takes {
                    held.extend(budget.reserve(of, units));
                } else if units < held.len() {
                    held.swap_remove(units);
                }
                let sum = |held: &[Reservation], is_in: &dyn Fn(Client) -> bool| -> usize {
                    held.iter().filter(|part| is_in(part.client)).map(Reservation::units).sum()
                };
                prop_assert!(sum(&held, &|_| true) <= 20);
                prop_assert!(sum(&held, &|client| client == of) <= 10);
                prop_assert!(sum(&held, &|client| client.network() == of.network()) <= 10);
            }
            held.clear();
            let taken = budget.0.taken();
            prop_assert!(taken.all == 0 && taken.clients.is_empty() && taken.networks.is_empty());
        }
    }
}
