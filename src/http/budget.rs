//! What is scarce and shared by all clients: bytes of memory, or slots for something costly.
//!
//! A client has at most a share, half of it all, and so has an IPv6 /48 network. A request that finds no room
//! waits, for a limited time, if its budget has [`Waits`]. What becomes free goes to the client that holds
//! least. While a request waits within the share of its client, clients that hold more than an eighth, and more
//! than it would, lose what they began last: it is told, or its stream or connection is ended. What was begun
//! first, and grows, is not ended and can always grow to its end, so requests never wait for each other.
//!
//! **Invariant:** what is set aside for bytes is given back when the last of them is dropped, wherever they
//! went: into the queue of the store, into the buffers of HTTP/2 (see [`covered`](super::covered)). Who may have what is kept by
//! the [`Ledger`].

#[cfg(test)]
mod histories;
mod holdings;
mod ledger;
mod waits;

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use self::ledger::{Ledger, Wish};
pub(super) use self::waits::Waits;
pub use self::waits::WaitsOfConnection;
use super::ending::Ending;
use crate::access::networks::Client;

/// What is told to end when the wait of another is over has this long to do so.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(1);

/// A number of bytes or slots of which parts can be set aside.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    share_max: usize,
    waits: Option<Arc<Waits>>,
    ledger: Mutex<Ledger<oneshot::Sender<Reservation>>>,
    /// Parts that were told to end.
    ended: AtomicU64,
}

/// A part of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Inner>,
    client: Client,
    units: usize,
    /// Of one that can be ended.
    number: Option<u64>,
}

/// Whose request it is.
#[derive(Clone, Debug)]
pub(super) struct Requester {
    pub(super) client: Client,
    /// Of its connection, if that is HTTP/2, which reads ahead of who takes a body.
    pub(super) h2: Option<Arc<WaitsOfConnection>>,
}

/// There is no room at the moment, or not for this client; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Budget {
    /// Of so many bytes or slots, for which nobody waits.
    pub(super) fn new(units_max: usize) -> Self {
        Self::with(units_max, None)
    }

    /// Of so many bytes or slots.
    pub(super) fn waiting(units_max: usize, waits: &Arc<Waits>) -> Self {
        Self::with(units_max, Some(Arc::clone(waits)))
    }

    fn with(units_max: usize, waits: Option<Arc<Waits>>) -> Self {
        // Of a few slots, one is always left to others; of one alone, everybody may have it.
        let share_max = units_max
            .div_ceil(2)
            .min(units_max.saturating_sub(1))
            .max(1);
        Self(Arc::new(Inner {
            share_max,
            waits,
            ledger: Mutex::new(Ledger::new(units_max, share_max)),
            ended: AtomicU64::new(0),
        }))
    }

    /// What one client may have of it.
    pub(super) fn share_max(&self) -> usize {
        self.0.share_max
    }

    /// How many parts were told to end so far.
    pub(super) fn ended(&self) -> u64 {
        self.0.ended.load(Relaxed)
    }

    /// Sets aside `units` for `client`, which are not taken back; never waits.
    pub(super) fn reserve(&self, client: Client, units: usize) -> Result<Reservation, NoRoom> {
        let is_there = self.0.ledger().reserve(client, units);
        is_there
            .then(|| self.0.reservation(client, units, None))
            .ok_or(NoRoom)
    }

    /// Sets aside `units` for a part of `client` that `ending` ends. Never waits: what ends for
    /// its sake counts as free.
    pub(super) fn begin_at_once(
        &self,
        client: Client,
        units: usize,
        ending: Ending,
    ) -> Result<Reservation, NoRoom> {
        let mut ledger = self.0.ledger();
        let wish = ledger.wish(client, units, None, ending);
        let (taken, ended) = match ledger.take(&wish) {
            None => ledger.take_of_leaving(&wish),
            taken => (taken, Vec::new()),
        };
        drop(ledger);
        self.0.end_all(ended);
        let units = taken.ok_or(NoRoom)?;
        Ok(self.0.reservation(client, units, Some(wish.number)))
    }

    /// Sets aside `units` for a part of a request that `ending` ends, now or after a wait.
    pub(super) async fn begin(
        &self,
        requester: &Requester,
        units: usize,
        ending: Ending,
    ) -> Result<Reservation, NoRoom> {
        let wish = self.wish(requester, units, None, ending);
        self.0
            .obtain(self.0.waits.as_deref(), requester, wish)
            .await
    }

    /// The same for what [grows](Reservation::grow).
    pub(super) async fn begin_growing(
        &self,
        requester: &Requester,
        units: usize,
        ending: Ending,
    ) -> Result<Reservation, NoRoom> {
        let wish = self.wish(requester, units, Some(units), ending);
        self.0
            .obtain(self.0.waits.as_deref(), requester, wish)
            .await
    }

    /// The same for a budget that has no waits of its own.
    pub(super) async fn begin_after_wait(
        &self,
        waits: &Waits,
        requester: &Requester,
        units: usize,
        ending: Ending,
    ) -> Result<Reservation, NoRoom> {
        let wish = self.wish(requester, units, None, ending);
        self.0.obtain(Some(waits), requester, wish).await
    }

    fn wish(&self, who: &Requester, units: usize, whole: Option<usize>, ending: Ending) -> Wish {
        self.0.ledger().wish(who.client, units, whole, ending)
    }
}

impl Inner {
    /// Outside of the lock: what ends may give something back at once.
    fn end_all(&self, ended: Vec<Ending>) {
        self.ended.fetch_add(ended.len() as u64, Relaxed);
        for ending in ended {
            ending.end();
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger<oneshot::Sender<Reservation>>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was taken already.
    fn reservation(
        self: &Arc<Self>,
        client: Client,
        units: usize,
        number: Option<u64>,
    ) -> Reservation {
        Reservation {
            budget: Arc::clone(self),
            client,
            units,
            number,
        }
    }

    async fn obtain(
        self: &Arc<Self>,
        waits: Option<&Waits>,
        requester: &Requester,
        wish: Wish,
    ) -> Result<Reservation, NoRoom> {
        let taken = self.ledger().take(&wish);
        if let Some(units) = taken {
            return Ok(self.reservation(wish.client, units, Some(wish.number)));
        }
        let waits = waits.ok_or(NoRoom)?;
        let wait = waits.enter(requester)?;
        // Dropped after the receiver: others may be next then.
        let _serve = ServeWhenDropped(self);
        let (sender, mut granted) = oneshot::channel();
        self.change(|ledger| ledger.wait(wish.clone(), sender));
        let waiting = timeout(waits.patience, &mut granted);
        if let Ok(granted) = wait.until(waiting).await? {
            return granted.map_err(|_| NoRoom);
        }
        let ended = self.ledger().end_larger(&wish);
        if ended.is_empty() {
            return Err(NoRoom);
        }
        self.end_all(ended);
        let granted = timeout(LEAVING_TIMEOUT, granted).await;
        granted.map_err(|_| NoRoom)?.map_err(|_| NoRoom)
    }

    /// Changes what is taken or who waits, and then serves those who wait.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut Ledger<oneshot::Sender<Reservation>>)) {
        let mut ledger = self.ledger();
        change(&mut ledger);
        let served = ledger.serve(oneshot::Sender::is_closed);
        drop(ledger);
        for (wish, units, granted) in served.granted {
            // What is not waited for any more is given back.
            drop(granted.send(self.reservation(wish.client, units, Some(wish.number))));
        }
        self.end_all(served.ended);
    }
}

struct ServeWhenDropped<'a>(&'a Arc<Inner>);

impl Drop for ServeWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.change(|_| ());
    }
}

impl Reservation {
    /// Its size.
    #[cfg(test)]
    pub(super) fn units(&self) -> usize {
        self.units
    }

    /// Adds `units`, now or after a wait, or all of `whole` where that is allowed to what was begun first;
    /// returns how many.
    pub(super) async fn grow(
        &mut self,
        requester: &Requester,
        units: usize,
        whole: usize,
    ) -> Result<usize, NoRoom> {
        let wish = Wish {
            client: self.client,
            units,
            whole: Some(whole),
            number: self.number.ok_or(NoRoom)?,
            ending: None,
        };
        let waits = self.budget.waits.as_deref();
        let mut more = self.budget.obtain(waits, requester, wish).await?;
        let units = mem::take(&mut more.units);
        self.units += units;
        Ok(units)
    }

    /// Gives back all but `units` of it, if it is larger.
    pub(super) fn shrink_to(&mut self, units: usize) {
        let rest = self.units.saturating_sub(units);
        if rest > 0 {
            self.units -= rest;
            let (client, number) = (self.client, self.number);
            self.budget
                .change(|ledger| ledger.give_back(client, number, rest));
        }
    }

    /// From now on it cannot be ended.
    pub(super) fn settle(&mut self) {
        if let Some(number) = self.number.take() {
            let client = self.client;
            self.budget.change(|ledger| ledger.settle(client, number));
        }
    }

    /// Whether other clients wait while that of this has more than all of it divided by those who have some.
    pub(super) fn is_crowding(&self) -> bool {
        self.budget.ledger().is_crowded_by(self.client)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::waits::{UNREAD_BYTES, WAITING_MAX};
    use super::*;
    use crate::http::ending::EndSignal;

    fn requester(last: u8) -> Requester {
        Requester {
            client: Client::of([10, 0, 0, last].into()),
            h2: None,
        }
    }

    fn client(last: u8) -> Client {
        requester(last).client
    }

    /// Room for two clients with `units` each, and what comes unread meanwhile.
    fn waiting(units: usize) -> (Budget, Budget) {
        let unread = Budget::new(4 * UNREAD_BYTES);
        let waits = Waits::new(&unread, PATIENCE);
        (Budget::waiting(2 * units, &Arc::new(waits)), unread)
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    fn told() -> Arc<EndSignal> {
        Arc::default()
    }

    #[test]
    fn a_network_of_many_clients_has_half_too() {
        let budget = Budget::new(10);
        let of = |address: &str| Client::of(address.parse().unwrap());
        let _first = budget.reserve(of("2001:db8:1:1::1"), 3).unwrap();
        budget.reserve(of("2001:db8:1:2::1"), 3).unwrap_err();
        budget.reserve(of("2001:db8:1:2::1"), 2).unwrap();
        budget.reserve(of("2001:db8:2:1::1"), 5).unwrap();
    }

    #[test]
    fn of_slots_one_is_left_to_others_if_there_are_two() {
        for (slots, share) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            let budget = Budget::new(slots);
            assert_eq!(budget.share_max(), share, "{slots}");
            let held: Vec<_> = (0..slots)
                .map_while(|_| budget.reserve(client(1), 1).ok())
                .collect();
            assert_eq!(held.len(), share, "{slots}");
        }
    }

    #[test]
    fn a_part_can_be_given_back_and_never_more_than_there_is() {
        let budget = Budget::new(20);
        let mut reservation = budget.reserve(client(1), 10).unwrap();
        reservation.shrink_to(4);
        let other = budget.reserve(client(1), 6).unwrap();
        reservation.shrink_to(7);
        budget.reserve(client(1), 1).unwrap_err();
        drop((reservation, other));
        budget.reserve(client(1), 10).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_room_and_is_refused_when_its_patience_is_over() {
        let (budget, _unread) = waiting(10);
        let (one, other) = (requester(1), requester(2));
        let mut held = budget.begin(&one, 10, told()).await.unwrap();
        {
            let mut more = pin!(budget.begin(&one, 4, told()));
            let polled = timeout(Duration::ZERO, &mut more).await;
            assert!(polled.is_err(), "there was no room");
            held.shrink_to(6);
            assert_eq!(more.await.unwrap().units, 4);
        }
        let _others = budget.begin(&other, 10, told()).await.unwrap();
        let _mine = budget.begin(&one, 4, told()).await.unwrap();
        let started = tokio::time::Instant::now();
        budget.begin(&one, 1, told()).await.unwrap_err();
        assert_eq!(started.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_of_the_wait_who_has_most_gives_way() {
        let (budget, _unread) = waiting(40);
        let mut held = Vec::new();
        let signal = told();
        let largest = budget
            .begin(&requester(1), 9, Arc::clone(&signal) as _)
            .await;
        for last in 2..10 {
            held.push(budget.begin(&requester(last), 8, told()).await.unwrap());
        }
        let _rest = budget.begin(&requester(10), 7, told()).await.unwrap();
        let waiter = requester(11);
        let mut waits = pin!(budget.begin(&waiter, 2, told()));
        tokio::select! {
            biased;
            _ = &mut waits => panic!("there was no room"),
            () = signal.ended() => {}
        }
        drop(largest);
        waits.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_lets_the_next_have_its_turn() {
        let (budget, _unread) = waiting(10);
        let (one, other, third) = (requester(1), requester(2), requester(3));
        let _held = budget.begin(&one, 10, told()).await.unwrap();
        let others = budget.begin(&other, 8, told()).await.unwrap();
        let mut first = Box::pin(budget.begin(&third, 9, told()));
        let mut next = pin!(budget.begin(&other, 2, told()));
        for _ in 0..2 {
            tokio::select! {
                biased;
                _ = &mut first => panic!("there was no room"),
                _ = &mut next => panic!("it was not its turn"),
                () = tokio::task::yield_now() => {}
            }
        }
        drop(first);
        assert_eq!(next.await.unwrap().units, 2);
        drop(others);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_wait_and_not_one_more() {
        let (budget, _unread) = waiting(1);
        let one = requester(1);
        let _held = budget.begin(&one, 1, told()).await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..WAITING_MAX / 2 {
            let mut waits = Box::pin(budget.begin(&one, 1, told()));
            let polled = timeout(Duration::ZERO, &mut waits).await;
            assert!(polled.is_err(), "there was no room");
            waiting.push(waits);
        }
        let started = tokio::time::Instant::now();
        budget.begin(&one, 1, told()).await.unwrap_err();
        assert_eq!(started.elapsed(), Duration::ZERO);
        waiting.pop();
        budget.begin(&one, 1, told()).await.unwrap_err();
        assert_eq!(started.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn two_clients_do_not_keep_a_third_from_waiting() {
        let (budget, _unread) = waiting(1);
        let _held: Vec<_> = (1..3)
            .map(|last| budget.reserve(client(last), 1).unwrap())
            .collect();
        let requesters = [1, 2].map(requester);
        let mut waiting = Vec::new();
        for number in 0..WAITING_MAX {
            let requester = &requesters[number % 2];
            let mut waits = Box::pin(budget.begin(requester, 1, told()));
            let polled = timeout(Duration::ZERO, &mut waits).await;
            assert!(polled.is_err(), "there was no room");
            waiting.push(waits);
        }
        let third = requester(3);
        let mut waits = pin!(budget.begin(&third, 1, told()));
        let polled = timeout(Duration::ZERO, &mut waits).await;
        assert!(polled.is_err(), "it was refused: {polled:?}");
        // What began to wait last gave way.
        let last = waiting.last_mut().unwrap();
        assert_eq!(last.await.unwrap_err(), NoRoom);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_requests_of_an_http2_connection_wait_and_not_one_more() {
        let (budget, _unread) = waiting(1);
        let mut one = requester(1);
        let _held = budget.begin(&one, 1, told()).await.unwrap();
        one.h2 = Some(Arc::new(WaitsOfConnection::new(1)));
        let mut waits = Box::pin(budget.begin(&one, 1, told()));
        let polled = timeout(Duration::ZERO, &mut waits).await;
        assert!(polled.is_err(), "there was no room");
        let started = tokio::time::Instant::now();
        budget.begin(&one, 1, told()).await.unwrap_err();
        assert_eq!(started.elapsed(), Duration::ZERO);
        drop(waits);
        budget.begin(&one, 1, told()).await.unwrap_err();
        assert_eq!(started.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_http2_reads_ahead_of_who_waits_is_counted() {
        let (budget, unread) = waiting(1);
        let mut one = requester(1);
        let _held = budget.begin(&one, 1, told()).await.unwrap();
        one.h2 = Some(Arc::new(WaitsOfConnection::new(2)));
        let _others = unread.reserve(one.client, UNREAD_BYTES).unwrap();
        let mut waits = Box::pin(budget.begin(&one, 1, told()));
        let polled = timeout(Duration::ZERO, &mut waits).await;
        assert!(polled.is_err(), "there was no room");
        unread.reserve(one.client, 1).unwrap_err();
        budget.begin(&one, 1, told()).await.unwrap_err();
        drop(waits);
        unread.reserve(one.client, UNREAD_BYTES).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_grows_and_gets_all_it_needs_covers_it_and_what_it_had() {
        let (budget, _unread) = waiting(10);
        let one = requester(1);
        let mut first = budget.begin_growing(&one, 8, told()).await.unwrap();
        assert_eq!(first.grow(&one, 2, 5).await, Ok(2));
        assert_eq!(first.grow(&one, 2, 5).await, Ok(5));
        assert_eq!(first.units, 15);
        first.shrink_to(5);
        first.settle();
        budget.reserve(client(1), 5).unwrap();
        budget.reserve(client(1), 6).unwrap_err();
    }
}
