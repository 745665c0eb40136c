//! Limits the number of connections: of all clients, of each client, and of each network.
//!
//! Near the limit on all, a new connection replaces an idle one of the network with most connections. A
//! network that fills the server thereby loses its own connections, and a health probe from elsewhere is
//! still served. The last tenth is kept free for this: a connection that is told to end counts until it is
//! closed.
//!
//! **Invariants:** a connection counts while its [`Admission`] lives; there are never more than the limit; a
//! client has an entry only while it has connections; a network never loses a connection to one that has
//! more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::places::{Owner, Places, Victim, client_of};
use super::timeouts::ConnectionProgress;
use crate::access::Peer;
use crate::access::networks::Client;
use crate::config::ConnectionLimits;
use crate::http::End;
use crate::metrics::Refused;

/// One in this many connections is kept free: enough for a burst of new ones while those that were told to
/// end are not closed yet.
const RESERVE_SHARE: usize = 10;

/// Counts the connections of all clients and of each.
#[derive(Debug)]
pub(super) struct Admissions {
    connections_max: usize,
    client_connections_max: usize,
    network_connections_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// All connections, including those that were told to end.
    connections: usize,
    /// Connections that were told to end and are not closed yet.
    ending: usize,
    /// Connections admitted since the start; the next one gets this number.
    admitted: u64,
    /// Connections of each client that has any, so no more entries than connections.
    clients: HashMap<Client, usize>,
    /// Connections that were not told to end.
    places: Places,
}

impl Admissions {
    /// For clients: neither one nor a network has more than half, however few connections there are.
    pub(super) fn new(limits: &ConnectionLimits) -> Self {
        let half = (limits.connections_max / 2).max(1);
        let of_client = limits.client_connections_max;
        Self {
            connections_max: limits.connections_max,
            client_connections_max: of_client.min(half),
            network_connections_max: limits.network_connections_max.max(of_client).min(half),
            state: Mutex::default(),
        }
    }

    /// For the addresses for operators, where one client may have all connections.
    pub(super) fn of_operators(limits: &ConnectionLimits) -> Self {
        Self {
            connections_max: limits.admin_connections_max,
            client_connections_max: limits.admin_connections_max,
            network_connections_max: limits.admin_connections_max,
            state: Mutex::default(),
        }
    }

    /// Counts a connection of `peer` that began at `started` until the admission is dropped. Returns also the
    /// owner of the connection that was told to end for it, if one was.
    pub(super) fn admit(
        self: &Arc<Self>,
        peer: Peer,
        started: Instant,
    ) -> Result<(Admission, Option<Owner>), Refused> {
        let owner = Owner::of(peer);
        let client = client_of(peer);
        let mut state = self.lock();
        self.check(&state, client)?;
        let victim = if state.connections - state.ending < self.crowded_from() {
            None
        } else {
            let victim = state.places.victim(owner, started, state.admitted);
            // The reserve is for owners without a connection.
            if victim.is_none() && state.places.count(owner) > 0 {
                return Err(Refused::All);
            }
            victim
        };
        if state.connections >= self.connections_max {
            return Err(Refused::All);
        }
        if let Some(victim) = victim {
            state.end(victim);
        }
        let number = state.admitted;
        state.admitted += 1;
        state.connections += 1;
        if let Some(client) = client {
            *state.clients.entry(client).or_default() += 1;
        }
        let progress = Arc::new(ConnectionProgress::new(started));
        state.places.insert(owner, number, Arc::clone(&progress));
        drop(state);
        let admission = Admission {
            admissions: Arc::clone(self),
            number,
            owner,
            client,
            progress,
        };
        Ok((admission, victim.map(|victim| victim.owner)))
    }

    /// Whether `client` may have one more connection.
    fn check(&self, state: &State, client: Option<Client>) -> Result<(), Refused> {
        let Some(client) = client else { return Ok(()) };
        let count = state.clients.get(&client).copied();
        if count.unwrap_or_default() >= self.client_connections_max {
            return Err(Refused::Client);
        }
        if state.places.count(Owner::Network(client.network())) >= self.network_connections_max {
            return Err(Refused::Network);
        }
        Ok(())
    }

    /// From this many connections on, each new one replaces another.
    fn crowded_from(&self) -> usize {
        let reserve = (self.connections_max / RESERVE_SHARE).max(1);
        self.connections_max.saturating_sub(reserve)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&mut self, victim: Victim) {
        if let Some(progress) = self.places.remove(victim.owner, victim.number) {
            self.ending += 1;
            progress.end();
        }
    }
}

/// Counts one connection until it is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    admissions: Arc<Admissions>,
    number: u64,
    owner: Owner,
    /// `None` while a proxy has not named the client.
    client: Option<Client>,
    progress: Arc<ConnectionProgress>,
}

impl Admission {
    /// Counts this connection for `peer`, whom a proxy named as its client, if that client may have one more.
    pub(super) fn assign(&mut self, peer: Peer) -> Result<(), Refused> {
        let Some(client) = client_of(peer) else {
            return Ok(());
        };
        let mut state = self.admissions.lock();
        self.admissions.check(&state, Some(client))?;
        *state.clients.entry(client).or_default() += 1;
        self.client = Some(client);
        // It has no place any more if it was told to end.
        if let Some(progress) = state.places.remove(self.owner, self.number) {
            self.owner = Owner::of(peer);
            state.places.insert(self.owner, self.number, progress);
        }
        Ok(())
    }

    pub(super) fn progress(&self) -> &Arc<ConnectionProgress> {
        &self.progress
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut state = self.admissions.lock();
        state.connections -= 1;
        if state.places.remove(self.owner, self.number).is_none() {
            state.ending -= 1;
        }
        let Some(client) = self.client else { return };
        if let Entry::Occupied(mut count) = state.clients.entry(client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    use tokio::time::advance;

    use super::super::places::FIRST_REQUEST_GRACE;
    use super::*;
    use crate::access::Access;
    use crate::config::Limits;

    const NONE: [usize; 0] = [];

    fn limits(connections_max: usize) -> ConnectionLimits {
        ConnectionLimits {
            connections_max,
            client_connections_max: 100,
            network_connections_max: 100,
            ..ConnectionLimits::default()
        }
    }

    /// One client may have all connections.
    fn admissions(connections_max: usize) -> Arc<Admissions> {
        Arc::new(Admissions {
            connections_max,
            client_connections_max: connections_max,
            network_connections_max: connections_max,
            state: Mutex::default(),
        })
    }

    fn peer(address: &str) -> Peer {
        Access::default().peer(address.parse().unwrap())
    }

    fn proxy(address: &str) -> Peer {
        Peer {
            is_trusted: true,
            ..peer(address)
        }
    }

    impl Admissions {
        /// A connection of `peer` that had a request.
        fn run(self: &Arc<Self>, peer: Peer) -> Result<Admission, Refused> {
            let (admission, _) = self.admit(peer, Instant::now())?;
            let task = tokio::spawn(pending::<()>());
            admission.progress.runs_in(task.abort_handle());
            admission.set(1, 0);
            Ok(admission)
        }

        fn run_many(self: &Arc<Self>, peer: Peer, number: usize) -> Vec<Admission> {
            (0..number).map(|_| self.run(peer).unwrap()).collect()
        }
    }

    impl Admission {
        fn was_told_to_end(&self) -> bool {
            let state = self.admissions.lock();
            !state.places.has(self.owner, self.number)
        }

        /// Had so many requests, of which so many are running.
        fn set(&self, requests: u64, running: usize) {
            self.progress.requests.store(requests, Relaxed);
            self.progress.running.store(running, Relaxed);
        }
    }

    fn set_all(held: &[Admission], requests: u64, running: usize) {
        for admission in held {
            admission.set(requests, running);
        }
    }

    /// Which of `held` were told to end.
    fn ending(held: &[Admission]) -> Vec<usize> {
        let told = |number: &usize| held[*number].was_told_to_end();
        (0..held.len()).filter(told).collect()
    }

    #[tokio::test]
    async fn a_client_gets_its_connections_and_not_one_more() {
        let admissions = Arc::new(Admissions::new(&ConnectionLimits {
            client_connections_max: 2,
            ..limits(100)
        }));
        let first = admissions.run(peer("10.0.0.1")).unwrap();
        let _second = admissions.run(peer("::ffff:10.0.0.1")).unwrap();
        let refused = admissions.run(peer("10.0.0.1")).unwrap_err();
        assert_eq!(refused, Refused::Client);
        drop(first);
        assert!(admissions.run(peer("10.0.0.1")).is_ok());
    }

    #[tokio::test]
    async fn neither_a_client_nor_a_network_has_more_than_half_of_the_connections() {
        let defaults = ConnectionLimits::default();
        for (connections_max, of_client, of_network) in [
            (2, 1, 1),
            (64, 32, 32),
            (511, 255, 255),
            (2047, 256, 1023),
            (8192, 256, 1024),
        ] {
            let most = |address: &dyn Fn(usize) -> String| {
                let admissions = Arc::new(Admissions::new(&ConnectionLimits {
                    connections_max,
                    ..defaults.clone()
                }));
                let mut held = Vec::new();
                loop {
                    match admissions.run(peer(&address(held.len()))) {
                        Ok(admission) => held.push(admission),
                        Err(refused) => return (held.len(), refused),
                    }
                }
            };
            assert_eq!(most(&|_| "10.0.0.1".into()), (of_client, Refused::Client));
            let in_network = |number| format!("2001:db8:0:{number:x}::1");
            assert_eq!(most(&in_network), (of_network, Refused::Network));
        }
        let mut few = Limits::default();
        few.fit_into(Some(16 << 20), true);
        let admissions = Admissions::new(&few.connection);
        assert_eq!(
            (
                admissions.connections_max,
                admissions.network_connections_max
            ),
            (64, 32)
        );
        // An option that allows a client more than a network may have by default.
        let admissions = Admissions::new(&ConnectionLimits {
            client_connections_max: 2000,
            ..defaults.clone()
        });
        assert_eq!(admissions.network_connections_max, 2000);
    }

    #[tokio::test]
    async fn the_clients_of_a_network_get_its_connections_and_not_one_more() {
        let admissions = Arc::new(Admissions::new(&ConnectionLimits {
            client_connections_max: 2,
            network_connections_max: 3,
            ..limits(100)
        }));
        let mut held = admissions.run_many(peer("2001:db8:0:1::1"), 2);
        held.push(admissions.run(peer("2001:db8:0:2::1")).unwrap());
        let refused = admissions.run(peer("2001:db8:0:3::1")).unwrap_err();
        assert_eq!(refused, Refused::Network);
        assert!(admissions.run(peer("2001:db8:1::1")).is_ok());
        held.pop();
        assert!(admissions.run(peer("2001:db8:0:3::1")).is_ok());
    }

    #[tokio::test]
    async fn there_are_never_more_than_the_limit_however_many_are_told_to_end() {
        let admissions = admissions(20);
        let mut held = admissions.run_many(peer("10.0.0.1"), 18);
        assert_eq!(ending(&held), NONE);
        for last in 2..=3 {
            held.push(admissions.run(peer(&format!("10.0.0.{last}"))).unwrap());
        }
        assert_eq!(ending(&held), [0, 1]);
        // Those two are not gone yet.
        let refused = admissions.run(peer("10.0.0.4")).unwrap_err();
        assert_eq!(refused, Refused::All);
        drop(held.remove(0));
        assert!(admissions.run(peer("10.0.0.4")).is_ok());
        drop(held);
        let state = admissions.lock();
        assert_eq!((state.connections, state.ending), (0, 0));
        assert!(state.clients.is_empty() && state.places.are_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_of_who_has_most_makes_room() {
        let admissions = admissions(10);
        let others = admissions.run_many(peer("10.0.0.2"), 4);
        advance(Duration::from_millis(500)).await;
        let mut most = admissions.run_many(peer("10.0.0.1"), 5);
        for (number, admission) in most.iter().enumerate() {
            admission.set(1, (number == 0).into());
            let since = Instant::now() + Duration::from_millis(10 * (5 - number as u64));
            admission.progress.set_state_since(since);
        }
        // This one began a request since, and was answered.
        most[4].progress.state_since.store(u64::MAX, Relaxed);
        advance(Duration::from_millis(100)).await;
        let mut probe = admissions.run(peer("10.0.0.3")).unwrap();
        assert_eq!((ending(&most), ending(&others)), (vec![3], vec![]));
        // It is ended, not only told.
        tokio::task::yield_now().await;
        assert!(most[3].progress.task.get().unwrap().is_finished());

        drop(most.remove(3));
        drop(probe);
        most.push(admissions.run(peer("10.0.0.1")).unwrap());
        probe = admissions.run(peer("10.0.0.3")).unwrap();
        assert_eq!((ending(&most), ending(&others)), (vec![2], vec![]));
        assert!(!probe.was_told_to_end());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_goes_before_one_that_had_some() {
        let admissions = admissions(10);
        let mut held = admissions.run_many(peer("10.0.0.1"), 2);
        advance(Duration::from_secs(30)).await;
        held.extend(admissions.run_many(peer("10.0.0.1"), 7));
        set_all(&held[2..8], 0, 0);
        advance(FIRST_REQUEST_GRACE.saturating_sub(Duration::from_millis(1))).await;
        // They may bring one in a moment.
        drop(admissions.run(peer("10.0.0.2")).unwrap());
        assert_eq!(ending(&held), [0]);
        held[0] = admissions.run(peer("10.0.0.1")).unwrap();
        advance(Duration::from_millis(1)).await;
        drop(admissions.run(peer("10.0.0.2")).unwrap());
        assert_eq!(ending(&held), [2]);
        held[2] = admissions.run(peer("10.0.0.1")).unwrap();
        advance(Duration::from_secs(29)).await;
        // It has been idle for a minute.
        drop(admissions.run(peer("10.0.0.2")).unwrap());
        assert_eq!(ending(&held), [1]);
    }

    #[tokio::test]
    async fn nobody_takes_from_those_who_have_less() {
        let admissions = admissions(10);
        let less = admissions.run_many(peer("10.0.0.1"), 4);
        let most = admissions.run_many(peer("10.0.0.2"), 5);
        // The sixth takes the place of the first.
        let sixth = admissions.run(peer("10.0.0.2")).unwrap();
        assert_eq!((ending(&less), ending(&most)), (vec![], vec![0]));
        assert!(!sixth.was_told_to_end());
    }

    #[tokio::test]
    async fn among_those_who_have_one_each_a_new_one_does_not_go_first() {
        let admissions = admissions(10);
        let held: Vec<_> = (1..=9)
            .map(|last| admissions.run(peer(&format!("10.0.0.{last}"))).unwrap())
            .collect();
        drop(admissions.run(peer("10.0.1.1")).unwrap());
        assert_eq!(ending(&held), [0]);
    }

    #[tokio::test]
    async fn clients_of_one_ipv6_network_count_together_when_it_is_about_places() {
        let admissions = admissions(10);
        let others = admissions.run_many(peer("10.0.0.1"), 3);
        let site: Vec<_> = (1..=6)
            .map(|client| {
                let address = format!("2001:db8:0:{client}::1");
                admissions.run(peer(&address)).unwrap()
            })
            .collect();
        let _probe = admissions.run(peer("10.0.0.2")).unwrap();
        assert_eq!((ending(&site), ending(&others)), (vec![0], vec![]));
    }

    #[tokio::test]
    async fn idle_connections_of_others_go_before_running_requests() {
        let admissions = admissions(10);
        let busy = admissions.run_many(peer("10.0.0.1"), 7);
        set_all(&busy, 1, 1);
        let idle = admissions.run_many(peer("10.0.0.2"), 2);
        let _probe = admissions.run(peer("10.0.0.3")).unwrap();
        assert_eq!((ending(&busy), ending(&idle)), (vec![], vec![0]));
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_busy_one_of_those_who_have_most_makes_room_for_those_who_have_less() {
        let admissions = admissions(10);
        let mut busy = admissions.run_many(peer("10.0.0.1"), 9);
        set_all(&busy, 1, 1);
        advance(Duration::from_secs(1)).await;
        busy[0].progress.set_state_since(Instant::now());
        // No request of theirs ends so that they can begin another.
        let refused = admissions.run(peer("10.0.0.1")).unwrap_err();
        assert_eq!(refused, Refused::All);
        assert_eq!(ending(&busy), NONE);
        let probe = admissions.run(peer("10.0.0.2")).unwrap();
        assert_eq!(ending(&busy), [1]);
        drop(busy.remove(1));
        // A probe that has not asked yet is not the next to go: others have more.
        probe.set(0, 0);
        let _other = admissions.run(peer("10.0.0.1")).unwrap_err();
        let _more = admissions.run(peer("10.0.0.3")).unwrap();
        assert!(!probe.was_told_to_end());
    }

    #[tokio::test]
    async fn an_idle_connection_is_not_looked_for_without_end() {
        for (idle, ended) in [(56, 56), (57, 0)] {
            let admissions = admissions(100);
            let held: Vec<_> = (0..90)
                .map(|last| admissions.run(peer(&format!("10.0.0.{last}"))).unwrap())
                .collect();
            set_all(&held, 1, 1);
            held[idle].set(1, 0);
            let _probe = admissions.run(peer("10.0.1.1")).unwrap();
            assert_eq!(ending(&held), [ended]);
        }
    }

    #[tokio::test]
    async fn connections_of_a_proxy_go_last_and_a_running_one_never() {
        let admissions = admissions(10);
        let proxied = admissions.run_many(proxy("10.0.0.1"), 7);
        let clients = admissions.run_many(peer("10.0.0.2"), 2);
        drop(admissions.run(peer("10.0.0.3")).unwrap());
        assert_eq!((ending(&proxied), ending(&clients)), (vec![], vec![0]));
        drop(clients);
        let clients = admissions.run_many(peer("10.0.0.2"), 1);
        clients[0].set(1, 1);
        let more = admissions.run(proxy("10.0.0.1")).unwrap();
        // Nobody has two: it takes from itself.
        let _new = admissions.run(proxy("10.0.0.1")).unwrap();
        assert_eq!((ending(&proxied), ending(&clients)), (vec![0], vec![]));
        drop((clients, more));

        let admissions = self::admissions(10);
        let busy = admissions.run_many(proxy("10.0.0.1"), 9);
        set_all(&busy, 1, 1);
        assert_eq!(admissions.run(proxy("10.0.0.1")).unwrap_err(), Refused::All);
        // There is the reserve.
        let _probe = admissions.run(peer("10.0.0.2")).unwrap();
        assert_eq!(ending(&busy), NONE);
    }

    #[tokio::test]
    async fn a_proxy_takes_from_clients_that_have_more_than_one_connection() {
        let admissions = admissions(10);
        let proxied = admissions.run_many(proxy("10.0.0.1"), 7);
        let client = admissions.run_many(peer("10.0.0.2"), 2);
        let mut more = admissions.run_many(proxy("10.0.0.1"), 1);
        assert_eq!((ending(&proxied), ending(&client)), (vec![], vec![0]));
        let mut client = client;
        client.remove(0);
        more.extend(admissions.run_many(proxy("10.0.0.1"), 1));
        assert_eq!((ending(&proxied), ending(&client)), (vec![0], vec![]));
    }

    #[tokio::test]
    async fn idle_connections_of_a_proxy_make_room_for_who_has_none() {
        let admissions = admissions(10);
        let mut proxied = admissions.run_many(proxy("10.0.0.1"), 9);
        let probe = admissions.run(peer("10.0.0.2")).unwrap();
        assert_eq!(ending(&proxied), [0]);
        proxied.remove(0);
        probe.set(1, 1);
        // Not for who has one, and is busy.
        let refused = admissions.run(peer("10.0.0.2")).unwrap_err();
        assert_eq!(refused, Refused::All);
        assert_eq!(ending(&proxied), NONE);
    }

    #[tokio::test]
    async fn connections_of_a_proxy_are_nobody_s_until_it_says_whose() {
        let admissions = Arc::new(Admissions::new(&ConnectionLimits {
            client_connections_max: 2,
            ..limits(100)
        }));
        let mut held = admissions.run_many(proxy("10.0.0.1"), 3);
        let may_have: Vec<_> = held
            .iter_mut()
            .map(|admission| admission.assign(peer("192.0.2.1")))
            .collect();
        assert_eq!(may_have, [Ok(()), Ok(()), Err(Refused::Client)]);
        let owner = Owner::of(peer("192.0.2.1"));
        assert_eq!(admissions.lock().places.count(owner), 2);
        drop(held);
        let state = admissions.lock();
        assert!(state.clients.is_empty() && state.places.are_none() && state.connections == 0);
    }

    #[tokio::test]
    async fn an_operator_may_have_all_connections_that_are_for_operators() {
        let admissions = Arc::new(Admissions::of_operators(&ConnectionLimits {
            admin_connections_max: 10,
            client_connections_max: 1,
            ..ConnectionLimits::default()
        }));
        let mut held = admissions.run_many(peer("10.0.0.1"), 9);
        held.push(admissions.run(peer("10.0.0.1")).unwrap());
        assert_eq!(ending(&held), [0]);
    }
}
