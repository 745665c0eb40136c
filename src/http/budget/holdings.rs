//! Who has how much of a budget, and what of it can be ended.
//!
//! It refuses to know how much there is and who may have more.
//!
//! **Invariant:** a client, a network and a part are remembered only while they have something.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::access::networks::{Client, ClientNetwork};
use crate::http::ending::Ending;

#[derive(Debug, Default)]
pub(super) struct Holdings {
    taken: usize,
    /// What of it was told to end.
    leaving: usize,
    clients: HashMap<Client, Holding>,
    /// Those that may be of many clients.
    networks: HashMap<ClientNetwork, usize>,
}

/// What a client has.
#[derive(Debug, Default)]
struct Holding {
    units: usize,
    leaving: usize,
    /// What of it can be ended, by number.
    parts: BTreeMap<u64, Part>,
}

#[derive(Debug)]
struct Part {
    units: usize,
    /// `None` once it was told.
    ending: Option<Ending>,
}

impl Holdings {
    /// What all have.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// What of it was told to end.
    pub(super) fn leaving(&self) -> usize {
        self.leaving
    }

    /// Nobody is remembered.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            taken,
            leaving,
            clients,
            networks,
        } = self;
        *taken == 0 && *leaving == 0 && clients.is_empty() && networks.is_empty()
    }

    /// Clients that have something.
    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn of_client(&self, client: Client) -> usize {
        self.clients.get(&client).map_or(0, |holding| holding.units)
    }

    /// What counts when clients are compared: what their network has, if it may be of many.
    pub(super) fn weight(&self, client: Client) -> usize {
        let network = client.network();
        if network.is_shared() {
            self.networks.get(&network).copied().unwrap_or(0)
        } else {
            self.of_client(client)
        }
    }

    /// What was begun first of all, but for what was told to end.
    pub(super) fn first(&self) -> Option<u64> {
        self.clients.values().filter_map(Holding::first).min()
    }

    /// The same of one client.
    pub(super) fn first_of(&self, client: Client) -> Option<u64> {
        self.clients.get(&client).and_then(Holding::first)
    }

    /// Adds what cannot be ended.
    pub(super) fn add(&mut self, client: Client, units: usize) {
        if units == 0 {
            return;
        }
        self.taken += units;
        self.clients.entry(client).or_default().units += units;
        let network = client.network();
        if network.is_shared() {
            *self.networks.entry(network).or_default() += units;
        }
    }

    /// Adds a part that `ending` ends; nothing of nothing.
    pub(super) fn begin(&mut self, client: Client, number: u64, units: usize, ending: &Ending) {
        if units == 0 {
            return;
        }
        let ending = Some(Arc::clone(ending));
        let holding = self.clients.entry(client).or_default();
        holding.parts.insert(number, Part { units, ending });
        self.add(client, units);
    }

    /// Adds to a part; one that was told to end does not grow.
    pub(super) fn grow(&mut self, client: Client, number: u64, units: usize) -> bool {
        let holding = self.clients.get_mut(&client);
        let part = holding.and_then(|holding| holding.parts.get_mut(&number));
        let Some(part) = part.filter(|part| part.ending.is_some()) else {
            return false;
        };
        part.units += units;
        self.add(client, units);
        true
    }

    /// Removes `units` of a client, of the part with this `number`.
    pub(super) fn remove(&mut self, client: Client, number: Option<u64>, units: usize) {
        self.taken -= units;
        let network = client.network();
        if let Some(taken) = self.networks.get_mut(&network) {
            *taken -= units;
            if *taken == 0 {
                self.networks.remove(&network);
            }
        }
        let Some(holding) = self.clients.get_mut(&client) else {
            return;
        };
        holding.units -= units;
        if let Some(number) = number
            && let Some(part) = holding.parts.get_mut(&number)
        {
            part.units -= units;
            if part.ending.is_none() {
                holding.leaving -= units;
                self.leaving -= units;
            }
            if part.units == 0 {
                holding.parts.remove(&number);
            }
        }
        if holding.units == 0 {
            self.clients.remove(&client);
        }
    }

    /// From now on a part cannot be ended.
    pub(super) fn settle(&mut self, client: Client, number: u64) {
        if let Some(holding) = self.clients.get_mut(&client)
            && let Some(part) = holding.parts.remove(&number)
            && part.ending.is_none()
        {
            holding.leaving -= part.units;
            self.leaving -= part.units;
        }
    }

    /// Counts as leaving what was begun last of the client that has most to end, of another network than that of
    /// `besides`, if it has more than `protected`. Costs a look at all clients.
    pub(super) fn end_one(&mut self, besides: Client, protected: usize) -> Option<Ending> {
        let stays = |client: Client, holding: &Holding| self.weight(client) - holding.leaving;
        let (&client, _) = self
            .clients
            .iter()
            .filter(|&(&client, holding)| {
                client.network() != besides.network()
                    && stays(client, holding) > protected
                    && holding.first().is_some()
            })
            .max_by_key(|&(&client, holding)| (stays(client, holding), holding.units))?;
        let holding = self.clients.get_mut(&client)?;
        let mut parts = holding.parts.values_mut().rev();
        let part = parts.find(|part| part.ending.is_some())?;
        holding.leaving += part.units;
        self.leaving += part.units;
        part.ending.take()
    }
}

impl Holding {
    fn first(&self) -> Option<u64> {
        let mut parts = self.parts.iter();
        parts.find_map(|(number, part)| part.ending.is_some().then_some(*number))
    }
}
