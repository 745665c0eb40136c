//! What is scarce and shared by all clients: bytes of memory, or slots for something costly.
//!
//! **Invariants:** no client has more than its share, half of it all, and neither has an IPv6 /48 network, but
//! for the first of its bodies that grows; so whatever one of them does, there is something left for the
//! others. Who waits for room, within its share, while another client has more than an eighth, and more than
//! itself, ends what that client began last.
//! What grows first in all can always grow to its end, so bodies never wait for each other. What is set aside
//! for bytes is given back when the last of them is dropped, wherever they went: into the queue of the store,
//! into the buffers of HTTP/2 (see [`covered`]). A client is remembered only while something is set aside for
//! it, and so many may wait.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::access::networks::{Client, ClientNetwork};

/// Above this part of it all, what a client has is ended once another client waits.
const PROTECTED_PART: usize = 8;

/// Who waits ends something of another client this often, as long as it waits.
const ENDING_INTERVAL: Duration = Duration::from_millis(100);

/// Waits at once, half of them of one client; more are refused. Each holds a body that is not read meanwhile,
/// 64 KiB of which may have come over HTTP/2: 4 MiB.
const WAITING_MAX: usize = 64;

/// A number of bytes or slots of which parts can be set aside.
#[derive(Debug)]
pub(super) struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    units_max: usize,
    share_max: usize,
    state: Mutex<State>,
}

/// What was set aside, in all and for whom, and who waits.
#[derive(Debug, Default)]
struct State {
    taken: usize,
    clients: HashMap<Client, Holding>,
    /// Those that may be of many clients.
    networks: HashMap<ClientNetwork, usize>,
    waiting: VecDeque<Waiting>,
    /// Numbers what can be ended.
    begun: u64,
}

/// What a client has.
#[derive(Debug, Default)]
struct Holding {
    units: usize,
    /// What of it can be ended, in the order in which it was begun; `None` once it was told to end.
    endings: BTreeMap<u64, Option<Ending>>,
}

/// Somebody who waits.
#[derive(Debug)]
struct Waiting {
    claim: Claim,
    granted: oneshot::Sender<Reservation>,
}

/// Who wants how much.
#[derive(Clone, Copy, Debug)]
struct Claim {
    client: Client,
    units: usize,
    /// For what was begun under this number.
    number: Option<u64>,
}

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Inner>,
    client: Client,
    units: usize,
}

/// Something that can be ended while it holds a part of a [`Budget`], until dropped.
#[derive(Debug)]
pub(super) struct Begun {
    budget: Arc<Inner>,
    client: Client,
    number: u64,
}

/// How something is ended.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    /// It is told, and ends by itself.
    Told(Arc<Notify>),
    /// With its connection.
    Connection(Arc<dyn EndConnection>),
}

/// A connection that can be ended.
pub trait EndConnection: Debug + Send + Sync {
    /// Ends it soon, whatever runs on it.
    fn end(&self);
}

impl Ending {
    fn end(&self) {
        match self {
            Self::Told(told) => told.notify_one(),
            Self::Connection(connection) => connection.end(),
        }
    }
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
            state: Mutex::default(),
        }))
    }

    /// What one client may have of it.
    pub(super) fn share_max(&self) -> usize {
        self.0.share_max
    }

    /// Sets aside `units` for `client`; never waits.
    pub(super) fn reserve(&self, client: Client, units: usize) -> Result<Reservation, NoRoom> {
        let claim = Claim {
            client,
            units,
            number: None,
        };
        self.0.state().take(&self.0, claim).ok_or(NoRoom)
    }

    /// The same, and waits up to `patience` for what others have, while what they have too much of is ended.
    pub(super) async fn reserve_within(
        &self,
        client: Client,
        units: usize,
        patience: Duration,
    ) -> Result<Reservation, NoRoom> {
        let claim = Claim {
            client,
            units,
            number: None,
        };
        self.0.reserve_within(claim, patience).await
    }

    /// Begins something of `client` that can be ended.
    pub(super) fn begin(&self, client: Client, ending: Ending) -> Begun {
        let mut state = self.0.state();
        state.begun += 1;
        let number = state.begun;
        let holding = state.clients.entry(client).or_default();
        holding.endings.insert(number, Some(ending));
        Begun {
            budget: Arc::clone(&self.0),
            client,
            number,
        }
    }

    /// The same, and makes room for the next try if there is none.
    pub(super) fn reserve_or_make_room(
        &self,
        client: Client,
        units: usize,
    ) -> Result<Reservation, NoRoom> {
        self.reserve(client, units).inspect_err(|NoRoom| {
            let claim = Claim {
                client,
                units,
                number: None,
            };
            self.0.end_one(claim, false);
        })
    }

    /// Whether others wait while `client` has more than all of it divided by those who have some.
    pub(super) fn is_crowded_by(&self, client: Client) -> bool {
        let state = self.0.state();
        let of_client = state.clients.get(&client);
        let fair = self.0.units_max / state.clients.len().max(1);
        let others_wait = |waiting: &Waiting| waiting.claim.client != client;
        of_client.is_some_and(|holding| holding.units > fair)
            && state.waiting.iter().any(others_wait)
    }
}

impl Begun {
    /// Sets aside `units` more for it, waiting up to `patience`. If it is the first of its client, it may have
    /// more than the share; if it is the first of all, there is always room.
    pub(super) async fn reserve(
        &self,
        units: usize,
        patience: Duration,
    ) -> Result<Reservation, NoRoom> {
        let claim = Claim {
            client: self.client,
            units,
            number: Some(self.number),
        };
        self.budget.reserve_within(claim, patience).await
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        let forget = state.clients.get_mut(&self.client).is_some_and(|holding| {
            holding.endings.remove(&self.number);
            holding.is_nothing()
        });
        if forget {
            state.clients.remove(&self.client);
        }
        let granted = state.grant(&self.budget);
        drop(state);
        hand_over(granted);
    }
}

impl Holding {
    fn is_nothing(&self) -> bool {
        self.units == 0 && self.endings.is_empty()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reserve_within(
        self: &Arc<Self>,
        claim: Claim,
        patience: Duration,
    ) -> Result<Reservation, NoRoom> {
        let mut granted = {
            let mut state = self.state();
            if let Some(reservation) = state.take(self, claim) {
                return Ok(reservation);
            }
            // Beyond its share a client waits for nobody but itself: that would only keep bodies here.
            if !state.is_in_share(self, claim) {
                return Err(NoRoom);
            }
            state.wait(claim)?
        };
        let deadline = Instant::now() + patience;
        // At the end of the wait whoever has most gives way, unless that is who waits.
        let last = deadline + ENDING_INTERVAL;
        loop {
            let now = Instant::now();
            self.end_one(claim, now >= deadline);
            let until = (now + ENDING_INTERVAL).min(last);
            match timeout_at(until, &mut granted).await {
                Ok(granted) => return granted.map_err(|_| NoRoom),
                Err(_) if Instant::now() >= last => return Err(NoRoom),
                Err(_) => {}
            }
        }
    }

    /// Ends what was begun last by the client that has most, if that is more than an eighth and more than
    /// `claim` would bring its own client to, or `at_last` more than that has already. Who waits for its own
    /// share ends nothing.
    fn end_one(&self, claim: Claim, at_last: bool) {
        let mut state = self.state();
        if !state.is_in_share(self, claim) {
            return;
        }
        let of_client = state.of_client(claim.client);
        let protected = if at_last {
            of_client
        } else {
            (of_client + claim.units).max(self.units_max / PROTECTED_PART)
        };
        let can_end = |holding: &Holding| holding.endings.values().any(Option::is_some);
        let others = state.clients.values_mut();
        let others = others.filter(|holding| holding.units > protected && can_end(holding));
        let Some(most) = others.max_by_key(|holding| holding.units) else {
            return;
        };
        let ending = most.endings.values_mut().rev().find_map(Option::take);
        drop(state);
        if let Some(ending) = ending {
            ending.end();
        }
    }

    fn give_back(self: &Arc<Self>, client: Client, units: usize) {
        let mut state = self.state();
        state.taken -= units;
        let forget = state.clients.get_mut(&client).is_some_and(|holding| {
            holding.units -= units;
            holding.is_nothing()
        });
        if forget {
            state.clients.remove(&client);
        }
        let network = client.network();
        if let Some(taken) = state.networks.get_mut(&network) {
            *taken -= units;
            if *taken == 0 {
                state.networks.remove(&network);
            }
        }
        let granted = state.grant(self);
        drop(state);
        hand_over(granted);
    }
}

/// To those who waited; what somebody does not wait for any more is given back.
fn hand_over(granted: Vec<(oneshot::Sender<Reservation>, Reservation)>) {
    for (granted, reservation) in granted {
        drop(granted.send(reservation));
    }
}

fn fits(taken: usize, units: usize, max: usize) -> bool {
    taken.checked_add(units).is_some_and(|all| all <= max)
}

impl State {
    fn take(&mut self, budget: &Arc<Inner>, claim: Claim) -> Option<Reservation> {
        let Claim {
            client,
            units,
            number,
        } = claim;
        let network = client.network();
        let first = |holding: &Holding| holding.endings.keys().next().copied();
        let is_first_of_client =
            number.is_some() && self.clients.get(&client).and_then(first) == number;
        let is_first =
            is_first_of_client && self.clients.values().filter_map(first).min() == number;
        let is_there = fits(self.taken, units, budget.units_max);
        let is_in_share = self.is_in_share(budget, claim)
            || is_first_of_client && self.is_in_network_share(budget, claim);
        if !(is_first || is_there && is_in_share) {
            return None;
        }
        self.taken += units;
        self.clients.entry(client).or_default().units += units;
        if network.is_shared() {
            *self.networks.entry(network).or_default() += units;
        }
        Some(Reservation {
            budget: Arc::clone(budget),
            client,
            units,
        })
    }

    fn of_client(&self, client: Client) -> usize {
        let holding = self.clients.get(&client);
        holding.map_or(0, |holding| holding.units)
    }

    fn is_in_share(&self, budget: &Inner, claim: Claim) -> bool {
        fits(self.of_client(claim.client), claim.units, budget.share_max)
            && self.is_in_network_share(budget, claim)
    }

    fn is_in_network_share(&self, budget: &Inner, claim: Claim) -> bool {
        let network = claim.client.network();
        let of_network = self.networks.get(&network).copied().unwrap_or(0);
        !network.is_shared() || fits(of_network, claim.units, budget.share_max)
    }

    fn wait(&mut self, claim: Claim) -> Result<oneshot::Receiver<Reservation>, NoRoom> {
        self.waiting.retain(|waiting| !waiting.granted.is_closed());
        let of_client = self
            .waiting
            .iter()
            .filter(|waiting| waiting.claim.client == claim.client);
        if self.waiting.len() >= WAITING_MAX || of_client.count() >= WAITING_MAX / 2 {
            return Err(NoRoom);
        }
        let (granted, receiver) = oneshot::channel();
        self.waiting.push_back(Waiting { claim, granted });
        Ok(receiver)
    }

    /// Takes for those who wait what they can have now, in their order.
    fn grant(&mut self, budget: &Arc<Inner>) -> Vec<(oneshot::Sender<Reservation>, Reservation)> {
        let mut granted = Vec::new();
        if self.waiting.is_empty() {
            return granted;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.granted.is_closed() {
                continue;
            }
            match self.take(budget, waiting.claim) {
                Some(reservation) => granted.push((waiting.granted, reservation)),
                None => self.waiting.push_back(waiting),
            }
        }
        granted
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
mod tests;
