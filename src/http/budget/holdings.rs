//! Who has how much of a budget, and what of it can be ended.
//!
//! Clients are counted by themselves and in *groups*: an IPv6 /48 network, or an IPv4 address. It refuses to know
//! how much there is and who may have more.
//!
//! **Invariant:** a client, a group and a part are remembered only while they have something.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use crate::access::networks::{Client, ClientNetwork};
use crate::http::ending::Ending;

#[derive(Debug)]
pub(super) struct Holdings {
    /// A group with more than this is large.
    protected: usize,
    taken: usize,
    /// What of it was told to end.
    leaving: usize,
    clients: HashMap<Client, OfClient>,
    groups: HashMap<ClientNetwork, Group>,
    /// Few, whatever the number of groups.
    large: HashSet<ClientNetwork>,
    /// What grows and was not told to end.
    growing: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct OfClient {
    units: usize,
    growing: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Group {
    units: usize,
    leaving: usize,
    /// What of it can be ended, by number.
    parts: BTreeMap<u64, Part>,
}

#[derive(Debug)]
struct Part {
    client: Client,
    units: usize,
    /// `None` once it was told.
    ending: Option<Ending>,
}

/// What is to end, and how much that is.
#[derive(Debug, Default)]
pub(super) struct Plan {
    parts: Vec<(ClientNetwork, u64)>,
    pub(super) units: usize,
}

impl Holdings {
    /// Of nobody yet; groups that have up to `protected` are left alone where others are looked for first.
    pub(super) fn new(protected: usize) -> Self {
        Self {
            protected,
            taken: 0,
            leaving: 0,
            clients: HashMap::new(),
            groups: HashMap::new(),
            large: HashSet::new(),
            growing: BTreeSet::new(),
        }
    }

    /// What all have.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// What of it was told to end.
    pub(super) fn leaving(&self) -> usize {
        self.leaving
    }

    /// The same of the group of `client`.
    pub(super) fn leaving_of(&self, client: Client) -> usize {
        let group = self.groups.get(&client.network());
        group.map_or(0, |group| group.leaving)
    }

    /// What a group has that is not large, at most.
    pub(super) fn protected(&self) -> usize {
        self.protected
    }

    /// Groups that have something.
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn of_client(&self, client: Client) -> usize {
        self.clients.get(&client).map_or(0, |client| client.units)
    }

    /// What the group of `client` has: no less than the client.
    pub(super) fn weight(&self, client: Client) -> usize {
        let group = self.groups.get(&client.network());
        group.map_or(0, |group| group.units)
    }

    /// What grows and was begun first of all, but for what was told to end.
    pub(super) fn first(&self) -> Option<u64> {
        self.growing.first().copied()
    }

    /// The same of one client.
    pub(super) fn first_of(&self, client: Client) -> Option<u64> {
        self.clients.get(&client)?.growing.first().copied()
    }

    /// Whether a part may grow: it was not told to end.
    pub(super) fn grows(&self, number: u64) -> bool {
        self.growing.contains(&number)
    }

    /// Adds what cannot be ended.
    pub(super) fn add(&mut self, client: Client, units: usize) {
        if units == 0 {
            return;
        }
        self.taken += units;
        self.clients.entry(client).or_default().units += units;
        let network = client.network();
        let group = self.groups.entry(network).or_default();
        group.units += units;
        if group.units > self.protected {
            self.large.insert(network);
        }
    }

    /// Adds a part that `ending` ends, and that grows or does not; nothing of nothing.
    pub(super) fn begin(
        &mut self,
        client: Client,
        number: u64,
        units: usize,
        ending: &Ending,
        grows: bool,
    ) {
        if units == 0 {
            return;
        }
        self.add(client, units);
        if grows {
            self.growing.insert(number);
            self.clients
                .entry(client)
                .or_default()
                .growing
                .insert(number);
        }
        let group = self.groups.entry(client.network()).or_default();
        let part = Part {
            client,
            units,
            ending: Some(Arc::clone(ending)),
        };
        group.parts.insert(number, part);
    }

    /// Adds to a part that grows.
    pub(super) fn grow(&mut self, client: Client, number: u64, units: usize) -> bool {
        let group = self.groups.get_mut(&client.network());
        let part = group.and_then(|group| group.parts.get_mut(&number));
        let Some(part) = part.filter(|_| self.growing.contains(&number)) else {
            return false;
        };
        part.units += units;
        self.add(client, units);
        true
    }

    /// Removes `units` of a client, of the part with this `number`.
    pub(super) fn remove(&mut self, client: Client, number: Option<u64>, units: usize) {
        self.taken -= units;
        let mut has_ended = None;
        let network = client.network();
        if let Some(group) = self.groups.get_mut(&network) {
            group.units -= units;
            if let Some(number) = number
                && let Some(part) = group.parts.get_mut(&number)
            {
                part.units -= units;
                if part.ending.is_none() {
                    group.leaving -= units;
                    self.leaving -= units;
                }
                if part.units == 0 {
                    group.parts.remove(&number);
                    has_ended = Some(number);
                }
            }
            if group.units <= self.protected {
                self.large.remove(&network);
            }
            if group.units == 0 {
                self.groups.remove(&network);
            }
        }
        if let Some(number) = has_ended {
            self.grows_no_more(client, number);
        }
        if let Some(of_client) = self.clients.get_mut(&client) {
            of_client.units -= units;
            if of_client.units == 0 {
                self.clients.remove(&client);
            }
        }
    }

    /// From now on a part cannot be ended.
    pub(super) fn settle(&mut self, client: Client, number: u64) {
        self.grows_no_more(client, number);
        if let Some(group) = self.groups.get_mut(&client.network())
            && let Some(part) = group.parts.remove(&number)
            && part.ending.is_none()
        {
            group.leaving -= part.units;
            self.leaving -= part.units;
        }
    }

    fn grows_no_more(&mut self, client: Client, number: u64) {
        self.growing.remove(&number);
        if let Some(of_client) = self.clients.get_mut(&client) {
            of_client.growing.remove(&number);
        }
    }

    /// What is to end of groups that have more than `protected`, other than that of `besides`, so that `units`
    /// become free: what was begun last of who has most, again and again. What was begun first of all stays.
    ///
    /// Costs a look at the large groups, or at all if others may lose something too.
    pub(super) fn plan(&self, besides: Client, protected: usize, units: usize) -> Plan {
        let only_large = protected >= self.protected;
        let all = self.groups.keys().filter(|_| !only_large);
        let candidates = all.chain(self.large.iter().filter(|_| only_large));
        let mut heap = BinaryHeap::new();
        for &network in candidates.filter(|&&network| network != besides.network()) {
            if let Some(group) = self.groups.get(&network)
                && let Some(last) = self.last_part(group, u64::MAX)
            {
                heap.push((group.units - group.leaving, last, network));
            }
        }
        let mut plan = Plan::default();
        while plan.units < units
            && let Some((stays, number, network)) = heap.pop()
            && stays > protected
            && let Some(group) = self.groups.get(&network)
            && let Some(part) = group.parts.get(&number)
        {
            plan.parts.push((network, number));
            plan.units += part.units;
            if let Some(last) = self.last_part(group, number) {
                heap.push((stays - part.units, last, network));
            }
        }
        plan
    }

    /// The same in the group of `client` alone, of clients that have more than `protected`.
    pub(super) fn plan_within(&self, client: Client, protected: usize, units: usize) -> Plan {
        let mut plan = Plan::default();
        let network = client.network();
        let Some(group) = self.groups.get(&network) else {
            return plan;
        };
        let mut before = u64::MAX;
        while plan.units < units
            && let Some(number) = self.last_part(group, before)
            && let Some(part) = group.parts.get(&number)
        {
            before = number;
            if part.client != client && self.of_client(part.client) > protected {
                plan.parts.push((network, number));
                plan.units += part.units;
            }
        }
        plan
    }

    /// What was begun last of a group, before `number`, and can be ended.
    fn last_part(&self, group: &Group, number: u64) -> Option<u64> {
        let first = self.first();
        let parts = group.parts.range(..number).rev();
        let mut can_end =
            parts.filter(|(number, part)| part.ending.is_some() && first != Some(**number));
        can_end.next().map(|(number, _)| *number)
    }

    /// Counts as leaving what is planned to end.
    pub(super) fn tell(&mut self, plan: Plan) -> Vec<Ending> {
        let mut endings = Vec::new();
        for (network, number) in plan.parts {
            let Some(group) = self.groups.get_mut(&network) else {
                continue;
            };
            let Some(part) = group.parts.get_mut(&number) else {
                continue;
            };
            group.leaving += part.units;
            self.leaving += part.units;
            endings.extend(part.ending.take());
            let client = part.client;
            self.grows_no_more(client, number);
        }
        endings
    }

    /// Whether nobody is remembered.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.taken == 0
            && self.leaving == 0
            && self.clients.is_empty()
            && self.groups.is_empty()
            && self.large.is_empty()
            && self.growing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ending::EndSignal;

    /// Clients by number: 1 to 3 by themselves, the others in one network.
    fn client(number: u8) -> Client {
        let address = match number {
            1..4 => format!("10.0.0.{number}"),
            _ => format!("2001:db8:1:{number}::1"),
        };
        Client::of(address.parse().unwrap())
    }

    /// What these clients have, in parts of these sizes, numbered from 0, of which none grows.
    fn holdings(parts: &[(u8, usize)]) -> Holdings {
        let mut holdings = Holdings::new(10);
        let ending = Arc::<EndSignal>::default() as Ending;
        for (number, &(of, units)) in (0..).zip(parts) {
            holdings.begin(client(of), number, units, &ending, false);
        }
        holdings
    }

    fn numbers(plan: &Plan) -> Vec<u64> {
        plan.parts.iter().map(|part| part.1).collect()
    }

    #[test]
    fn who_has_most_loses_what_it_began_last_until_there_is_enough() {
        let holdings = holdings(&[(1, 10), (2, 10), (1, 10), (2, 5), (3, 11)]);
        for (units, expected) in [
            (0, &[][..]),
            (1, &[2]),
            (11, &[2, 3]),
            (16, &[2, 3, 4]),
            (99, &[2, 3, 4]),
        ] {
            let plan = holdings.plan(client(4), 10, units);
            assert_eq!(numbers(&plan), expected, "{units}");
        }
        // Not the own, and what is protected only if that is wanted.
        assert_eq!(numbers(&holdings.plan(client(1), 10, 6)), [3, 4]);
        assert_eq!(numbers(&holdings.plan(client(4), 9, 30)), [2, 3, 4, 1]);
    }

    #[test]
    fn of_those_that_have_the_same_it_is_what_was_begun_last_of_all() {
        let holdings = holdings(&[(3, 20), (1, 20), (2, 20)]);
        assert_eq!(numbers(&holdings.plan(client(4), 10, 1)), [2]);
    }

    #[test]
    fn what_was_told_counts_as_gone_and_is_not_told_again() {
        let mut holdings = holdings(&[(1, 10), (1, 10), (2, 15)]);
        let plan = holdings.plan(client(3), 10, 1);
        assert_eq!(holdings.tell(plan).len(), 1);
        assert_eq!(holdings.leaving(), 10);
        assert_eq!(numbers(&holdings.plan(client(3), 10, 30)), [2]);
        holdings.settle(client(1), 1);
        assert_eq!(holdings.leaving(), 0);
    }

    #[test]
    fn what_cannot_be_ended_and_what_grows_and_is_first_stays() {
        let mut holdings = holdings(&[(1, 20), (2, 20)]);
        holdings.settle(client(1), 0);
        let ending = Arc::<EndSignal>::default() as Ending;
        holdings.begin(client(3), 3, 30, &ending, true);
        assert_eq!(numbers(&holdings.plan(client(4), 10, 99)), [1]);
        holdings.begin(client(2), 2, 1, &ending, true);
        assert_eq!(numbers(&holdings.plan(client(4), 10, 99)), [3, 1]);
        assert_eq!(holdings.first_of(client(3)), Some(3));
    }

    #[test]
    fn a_network_of_many_counts_as_one() {
        let holdings = holdings(&[(4, 5), (5, 5), (6, 5), (1, 11)]);
        assert_eq!(holdings.weight(client(7)), 15);
        assert_eq!(numbers(&holdings.plan(client(2), 10, 99)), [2, 3]);
        assert!(numbers(&holdings.plan(client(7), 11, 99)).is_empty());
    }

    #[test]
    fn in_a_network_those_who_have_more_lose_what_they_began_last() {
        let holdings = holdings(&[(4, 5), (5, 2), (4, 5), (5, 2), (4, 1), (1, 30)]);
        assert_eq!(numbers(&holdings.plan_within(client(6), 4, 6)), [4, 2]);
        assert_eq!(numbers(&holdings.plan_within(client(6), 3, 6)), [4, 3, 2]);
        assert!(numbers(&holdings.plan_within(client(4), 4, 6)).is_empty());
    }
}
