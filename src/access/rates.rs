//! Rate limits: how many requests a client may make in a time.
//!
//! The generic cell rate algorithm, by governor, with the state of each client in a table of bounded size.
//! Anybody with many addresses can fill the table, so what happens then matters. New clients are not
//! refused, which would be a denial of service; another entry is evicted, and its client merely has its
//! burst once more. The table is a cache that evicts entries used once before those used repeatedly, so a
//! flood of new addresses does not evict the client that is being limited.
//!
//! The holder of an IPv6 address often has a whole /48, which is 65,536 clients. All of these together have
//! `PREFIX_RATE_FACTOR` times the rate of one. It is checked after the client's own rate, so requests beyond
//! that use up nothing of what the other clients have.

use std::convert::Infallible;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use quick_cache::sync::Cache;

use super::networks::{Client, ClientNetwork};

/// Clients in a table: some 10 MB when it is full.
pub const CLIENTS_MAX: usize = 65_536;

/// /48 networks in a table: a quarter of that memory on top.
const PREFIXES_MAX: usize = CLIENTS_MAX / 4;

/// The rate of a /48 network, as a multiple of that of a client: more than the active clients of a household
/// or of most offices, and far fewer than the 65,536 possible ones.
const PREFIX_RATE_FACTOR: NonZeroU32 = NonZeroU32::new(16).unwrap();

/// The requests of this fraction of the unit of time, a quarter, may come at once. Over ten units, the rate
/// then holds within 2.5 %.
const BURST_SHARE: u32 = 4;

/// A number of requests in a unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    requests: NonZeroU32,
    unit: Duration,
}

impl Rate {
    /// `times` this rate and its burst; `None` if a request would have less than a nanosecond.
    fn quota(self, times: NonZeroU32) -> Option<Quota> {
        let burst = self.requests.get() / BURST_SHARE;
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let requests = self.requests.checked_mul(times)?;
        let quota = Quota::with_period(self.unit / requests.get())?;
        Some(quota.allow_burst(burst.saturating_mul(times)))
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let (requests, unit) = text.split_once('/').ok_or(InvalidRate)?;
        let unit = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(InvalidRate),
        };
        let is_number = requests.bytes().all(|byte| byte.is_ascii_digit());
        let requests = requests.parse().ok().filter(|_| is_number);
        let rate = Self {
            requests: requests.ok_or(InvalidRate)?,
            unit,
        };
        rate.quota(NonZeroU32::MIN).map(|_| rate).ok_or(InvalidRate)
    }
}

/// A text is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rate is a number of requests, `/`, and `s`, `m` or `h`, like 100/s")]
pub struct InvalidRate;

/// Limits every client to one rate, and all clients of a /48 network together to a multiple of it.
#[derive(Debug)]
pub struct Limiter<C: Clock = MonotonicClock> {
    clients: Buckets<Client, C>,
    /// `None` if the multiple is beyond what can be counted in nanoseconds.
    prefixes: Option<Buckets<ClientNetwork, C>>,
}

impl Limiter {
    /// For this rate.
    #[must_use]
    pub fn new(rate: Rate) -> Option<Self> {
        Self::with_clock(rate, CLIENTS_MAX, PREFIXES_MAX, MonotonicClock)
    }
}

impl<C: Clock + Clone> Limiter<C> {
    fn with_clock(rate: Rate, clients_max: usize, prefixes_max: usize, clock: C) -> Option<Self> {
        let prefixes = rate.quota(PREFIX_RATE_FACTOR);
        Some(Self {
            clients: Buckets::new(rate.quota(NonZeroU32::MIN)?, clients_max, clock.clone()),
            prefixes: prefixes.map(|quota| Buckets::new(quota, prefixes_max, clock)),
        })
    }
}

impl<C: Clock> Limiter<C> {
    /// Clients in the table.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.table.0.len()
    }

    /// Counts a request of `client`.
    ///
    /// # Errors
    /// If it exceeds a rate: how long the client has to wait until a request would not. A refused request is
    /// not counted against the rate that refused it, so asking again does not make the wait longer.
    pub fn check(&self, client: Client) -> Result<(), Duration> {
        self.clients.check(&client)?;
        let network = client.network();
        match &self.prefixes {
            Some(prefixes) if network.is_shared() => prefixes.check(&network),
            _ => Ok(()),
        }
    }
}

/// A quota that each key has for itself.
#[derive(Debug)]
struct Buckets<K: Copy + Eq + Hash, C: Clock> {
    table: Table<K>,
    inner: RateLimiter<K, Table<K>, C, NoOpMiddleware<C::Instant>>,
}

impl<K: Copy + Eq + Hash, C: Clock> Buckets<K, C> {
    fn new(quota: Quota, keys_max: usize, clock: C) -> Self {
        let table = Table(Arc::new(Cache::new(keys_max)));
        let inner = RateLimiter::new(quota, table.clone(), clock);
        Self { table, inner }
    }

    fn check(&self, key: &K) -> Result<(), Duration> {
        let check = self.inner.check_key(key);
        check.map_err(|until| until.wait_time_from(self.inner.clock().now()))
    }
}

/// The state of each key.
#[derive(Clone, Debug)]
struct Table<K: Copy + Eq + Hash>(Arc<Cache<K, Arc<InMemoryState>>>);

impl<K: Copy + Eq + Hash> StateStore for Table<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let new = || Ok::<_, Infallible>(Arc::default());
        let Ok(state) = self.0.get_or_insert_with(key, new);
        state.measure_and_replace(&NotKeyed::NonKey, measure)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn client(number: u32) -> Client {
        Client::of(IpAddr::V4(Ipv4Addr::from_bits(number)))
    }

    fn limiter(rate: &str, clients_max: usize) -> (Limiter<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let rate = rate.parse().unwrap();
        let limiter = Limiter::with_clock(rate, clients_max, clients_max, clock.clone());
        (limiter.unwrap(), clock)
    }

    /// A client of a /48 network.
    fn client_in(network: u32, number: u16) -> Client {
        let bits = (0x2001 << 112) | (u128::from(network) << 80) | (u128::from(number) << 64);
        Client::of(IpAddr::V6(Ipv6Addr::from_bits(bits)))
    }

    #[test]
    fn a_rate_has_a_number_and_a_unit() {
        let rate: Rate = "90/m".parse().unwrap();
        assert_eq!((rate.requests.get(), rate.unit.as_secs()), (90, 60));
        for text in ["1/s", "1/h", "1000000000/s"] {
            assert!(text.parse::<Rate>().is_ok(), "{text}");
        }
        for text in [
            "",
            "1",
            "/s",
            "0/s",
            "-1/s",
            "+1/s",
            "1/d",
            "1 /s",
            "1/s ",
            "1.5/s",
            "1000000001/s",
        ] {
            assert_eq!(text.parse::<Rate>(), Err(InvalidRate), "{text}");
        }
    }

    #[test]
    fn ten_times_the_rate_for_ten_units_gets_the_rate_within_five_percent() {
        for rate in ["100/s", "700/s", "1000/s"] {
            let (limiter, clock) = limiter(rate, 10);
            let per_second: u32 = rate.strip_suffix("/s").unwrap().parse().unwrap();
            let step = Duration::from_secs(1) / (10 * per_second);
            let mut passed = 0_u32;
            for _ in 0..100 * per_second {
                passed += u32::from(limiter.check(client(1)).is_ok());
                clock.advance(step);
            }
            let due = 10 * per_second;
            assert!(passed.abs_diff(due) * 20 <= due, "{rate}: {passed}");
        }
    }

    #[test]
    fn the_wait_is_exactly_as_long_as_it_has_to_be() {
        let (limiter, clock) = limiter("8/m", 10);
        for _ in 0..2 {
            limiter.check(client(1)).unwrap();
        }
        clock.advance(Duration::from_millis(500));
        let wait = limiter.check(client(1)).unwrap_err();
        assert_eq!(wait, Duration::from_secs(7));
        clock.advance(wait.checked_sub(Duration::from_millis(1)).unwrap());
        assert_eq!(
            limiter.check(client(1)),
            Err(Duration::from_millis(1)),
            "asking did not make it longer"
        );
        clock.advance(Duration::from_millis(1));
        limiter.check(client(1)).unwrap();
        assert!(limiter.check(client(1)).is_err());
    }

    #[test]
    fn clients_do_not_share() {
        let (limiter, _) = limiter("1/s", 10);
        limiter.check(client(1)).unwrap();
        limiter.check(client(2)).unwrap();
        assert!(limiter.check(client(1)).is_err());
    }

    #[test]
    fn up_to_its_bound_the_table_forgets_nobody() {
        const BOUND: usize = 1000;
        let (limiter, _) = limiter("1/h", BOUND);
        let mut clients = 0..u32::try_from(BOUND / 2).unwrap();
        assert!(
            clients
                .clone()
                .all(|number| limiter.check(client(number)).is_ok())
        );
        assert!(clients.all(|number| limiter.check(client(number)).is_err()));
    }

    #[test]
    fn beyond_its_bound_the_table_does_not_grow_and_everybody_new_is_let_in() {
        let (limiter, _) = limiter("1/h", 1000);
        for number in 0..100_000 {
            assert!(limiter.check(client(number)).is_ok(), "{number}");
        }
        assert!(limiter.clients() <= 1000);
    }

    #[test]
    fn a_flood_of_strangers_does_not_free_the_one_that_is_limited() {
        let (limiter, _) = limiter("1/h", 1000);
        let culprit = client(0);
        limiter.check(culprit).unwrap();
        let mut passed = 0;
        for number in 1..100_000 {
            limiter.check(client(number)).unwrap();
            passed += u32::from(limiter.check(culprit).is_ok());
        }
        assert_eq!(passed, 0);
    }

    #[test]
    fn a_network_of_48_bits_has_sixteen_times_the_rate_and_the_burst_of_a_client() {
        let (limiter, clock) = limiter("8/m", 1000);
        let passed = |network| {
            let asked = (0..400).map(|number| limiter.check(client_in(network, number)));
            asked.flatten().count()
        };
        assert_eq!(passed(1), 16 * 2);
        assert_eq!(passed(2), 16 * 2, "another one has its own");
        clock.advance(Duration::from_secs(3));
        assert_eq!(passed(1), 6, "128 a minute are 6.4 in three seconds");
        assert_eq!(
            limiter.check(client_in(1, 500)),
            Err(Duration::from_micros(281_250)),
            "the seventh of 128 a minute"
        );
    }

    #[test]
    fn one_client_that_asks_too_often_takes_no_more_than_its_rate_from_its_network() {
        let (limiter, _) = limiter("8/m", 1000);
        let noisy = (0..1000).map(|_| limiter.check(client_in(1, 0)));
        assert_eq!(noisy.flatten().count(), 2);
        for number in 1..=15 {
            for _ in 0..2 {
                limiter.check(client_in(1, number)).unwrap();
            }
        }
        limiter.check(client_in(1, 16)).unwrap_err();
    }

    #[test]
    fn networks_beyond_the_bound_are_forgotten_as_clients_are() {
        let (limiter, _) = limiter("1/h", 1000);
        for network in 0..100_000 {
            limiter.check(client_in(network, 0)).unwrap();
        }
        let prefixes = limiter.prefixes.as_ref().unwrap();
        assert!(prefixes.table.0.len() <= 1000);
    }

    #[test]
    fn a_rate_too_high_to_be_multiplied_holds_for_clients_alone() {
        for (rate, is_multiplied) in [("62500000/s", true), ("62500001/s", false)] {
            let (limiter, _) = limiter(rate, 10);
            assert_eq!(limiter.prefixes.is_some(), is_multiplied, "{rate}");
        }
    }
}
