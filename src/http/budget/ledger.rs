//! Who may have how much of a budget: who waits, who is next, and who gives way.
//!
//! Nothing here waits or ends anything: what is to end is returned. It refuses to know what a unit is.
//!
//! **Invariants:** no more is taken than there is, but for one part that was begun first, and for what was told
//! to end (an eighth at most). No client, and no network of many, has more than its share, but for a part that
//! it began first.

use super::holdings::Holdings;
use crate::access::networks::Client;
use crate::http::ending::Ending;

/// Up to this part of it all, nothing of a client is ended while it may still leave by itself.
const PROTECTED_PART: usize = 8;

/// What was told to end counts as free up to this part of it all, where nothing can wait.
const LEAVING_PART: usize = 8;

/// The books, with `W` for somebody who waits.
#[derive(Debug)]
pub(super) struct Ledger<W> {
    units_max: usize,
    share_max: usize,
    holdings: Holdings,
    queue: Vec<(Wish, W)>,
    /// Numbers parts in the order in which they were first asked for.
    numbers: u64,
}

/// What is asked for: a part that can be ended, or more for it.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) client: Client,
    pub(super) units: usize,
    /// What it takes to its end.
    pub(super) whole: usize,
    pub(super) number: u64,
    /// For a new part; `None` for one that grows.
    pub(super) ending: Option<Ending>,
}

/// What became of those who waited.
#[derive(Debug)]
pub(super) struct Served<W> {
    /// So many units were taken for each.
    pub(super) granted: Vec<(Wish, usize, W)>,
    pub(super) ended: Vec<Ending>,
}

impl<W> Ledger<W> {
    pub(super) fn new(units_max: usize, share_max: usize) -> Self {
        Self {
            units_max,
            share_max,
            holdings: Holdings::default(),
            queue: Vec::new(),
            numbers: 0,
        }
    }

    /// A wish for a new part.
    pub(super) fn wish(&mut self, client: Client, units: usize, ending: Ending) -> Wish {
        self.numbers += 1;
        Wish {
            client,
            units,
            whole: units,
            number: self.numbers,
            ending: Some(ending),
        }
    }

    /// Takes `units` that cannot be ended; says whether they were there.
    pub(super) fn reserve(&mut self, client: Client, units: usize) -> bool {
        let is_there = self.has(units)
            && self.is_in_share(client, units)
            && self.comes_first(client, u64::MAX);
        if is_there {
            self.holdings.add(client, units);
        }
        is_there
    }

    /// Takes what is wished for, or all that it needs to its end; says how much.
    pub(super) fn take(&mut self, wish: &Wish) -> Option<usize> {
        let comes_first = self.comes_first(wish.client, wish.number);
        if comes_first && self.has(wish.units) && self.is_in_share(wish.client, wish.units) {
            return self.add(wish, wish.units);
        }
        let may_exceed = comes_first && self.has(wish.whole) && self.may_exceed_share(wish)
            || self.may_exceed_all(wish);
        may_exceed.then(|| self.add(wish, wish.whole)).flatten()
    }

    /// Takes what is wished for of what is about to become free, and says what is to end.
    pub(super) fn take_of_leaving(&mut self, wish: &Wish) -> (Option<usize>, Vec<Ending>) {
        let most = self.units_max + self.units_max / LEAVING_PART;
        if self.holdings.taken().saturating_add(wish.units) > most {
            return (None, Vec::new());
        }
        let ended = self.end_for(wish, self.protected(wish));
        let is_free = !self.lacks(wish.units) && self.is_in_share(wish.client, wish.units);
        let taken = is_free.then(|| self.add(wish, wish.units));
        (taken.flatten(), ended)
    }

    /// Lets somebody wait.
    pub(super) fn wait(&mut self, wish: Wish, waiting: W) {
        self.queue.push((wish, waiting));
    }

    /// Takes for those who wait what they can have now, in their order, and says what is to end for the next of
    /// them. Costs a look at all who wait, and at all clients.
    pub(super) fn serve(&mut self, is_gone: impl Fn(&W) -> bool) -> Served<W> {
        self.queue.retain(|(_, waiting)| !is_gone(waiting));
        let (mut granted, mut ended) = (Vec::new(), Vec::new());
        let has_queue = !self.queue.is_empty();
        let first = has_queue.then(|| self.holdings.first()).flatten();
        let mut wishes = self.queue.iter();
        let first =
            wishes.find(|(wish, _)| Some(wish.number) == first && self.may_exceed_all(wish));
        let mut next = first.map(|(wish, _)| wish.clone());
        while let Some(wish) = next.take().or_else(|| self.first_waiting().cloned()) {
            let Some(units) = self.take(&wish) else {
                ended = self.end_for(&wish, self.protected(&wish));
                break;
            };
            let mut numbers = self.queue.iter().map(|(wish, _)| wish.number);
            if let Some(place) = numbers.position(|number| number == wish.number) {
                let (_, waiting) = self.queue.swap_remove(place);
                granted.push((wish, units, waiting));
            }
        }
        Served { granted, ended }
    }

    /// Says what is to end of those who have more than the client of `wish`, so that there is room for it.
    pub(super) fn end_larger(&mut self, wish: &Wish) -> Vec<Ending> {
        self.end_for(wish, self.holdings.weight(wish.client))
    }

    /// Gives back `units`, of the part with this `number`.
    pub(super) fn give_back(&mut self, client: Client, number: Option<u64>, units: usize) {
        self.holdings.remove(client, number, units);
    }

    /// Lets a part stay, whatever others need.
    pub(super) fn settle(&mut self, client: Client, number: u64) {
        self.holdings.settle(client, number);
    }

    /// Whether others wait while `client` has more than all of it divided by those who have some.
    pub(super) fn is_crowded_by(&self, client: Client) -> bool {
        let fair = self.units_max / self.holdings.clients().max(1);
        let mut wishes = self.queue.iter();
        self.holdings.of_client(client) > fair && wishes.any(|(wish, _)| wish.client != client)
    }

    fn has(&self, units: usize) -> bool {
        self.holdings.taken().saturating_add(units) <= self.units_max
    }

    /// Whether there are too few `units` even when all is gone that was told to end.
    fn lacks(&self, units: usize) -> bool {
        self.holdings.taken() + units > self.units_max + self.holdings.leaving()
    }

    fn is_in_share(&self, client: Client, units: usize) -> bool {
        // A network has no less than any of its clients.
        self.holdings.weight(client).saturating_add(units) <= self.share_max
    }

    /// Whether a part that grows is the first of its client, which may have more than its share. It takes what
    /// it needs to its end then, and no other does until that is there again.
    fn may_exceed_share(&self, wish: &Wish) -> bool {
        let is_of_many = wish.client.network().is_shared();
        self.holdings.first_of(wish.client) == Some(wish.number)
            && self.is_in_share(wish.client, 0)
            && (!is_of_many || self.is_in_share(wish.client, wish.whole))
    }

    /// The same for the first of all, which may have more than there is.
    fn may_exceed_all(&self, wish: &Wish) -> bool {
        let grows = wish.ending.is_none();
        let is_within = self.has(0) && self.is_in_share(wish.client, 0);
        grows && is_within && self.holdings.first() == Some(wish.number)
    }

    /// The place of a request among those that wait: first who holds least, then who began first.
    fn place(&self, client: Client, number: u64) -> (usize, u64) {
        (self.holdings.of_client(client), number)
    }

    /// The first of those that wait and are not hindered by their own share.
    fn first_waiting(&self) -> Option<&Wish> {
        let wishes = self.queue.iter().map(|(wish, _)| wish);
        let only_others_hinder = wishes.filter(|wish| {
            self.is_in_share(wish.client, wish.units) || self.may_exceed_share(wish)
        });
        only_others_hinder.min_by_key(|wish| self.place(wish.client, wish.number))
    }

    /// Whether nobody waits who comes before this.
    fn comes_first(&self, client: Client, number: u64) -> bool {
        self.first_waiting().is_none_or(|first| {
            self.place(client, number) <= self.place(first.client, first.number)
        })
    }

    fn add(&mut self, wish: &Wish, units: usize) -> Option<usize> {
        let Wish { client, number, .. } = *wish;
        let is_added = match &wish.ending {
            None => self.holdings.grow(client, number, units),
            Some(ending) => {
                self.holdings.begin(client, number, units, ending);
                true
            }
        };
        is_added.then_some(units)
    }

    /// What others may have without losing any of it to `wish`.
    fn protected(&self, wish: &Wish) -> usize {
        let weight = self.holdings.weight(wish.client).saturating_add(wish.units);
        weight.max(self.units_max / PROTECTED_PART)
    }

    /// Says what is to end of those who have more than `protected`, so that there is room for `wish`. Nothing
    /// is ended for who would exceed its share.
    fn end_for(&mut self, wish: &Wish, protected: usize) -> Vec<Ending> {
        let mut ended = Vec::new();
        if self.is_in_share(wish.client, wish.units) {
            while self.lacks(wish.units)
                && let Some(ending) = self.holdings.end_one(wish.client, protected)
            {
                ended.push(ending);
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use proptest::prelude::*;

    use super::*;
    use crate::http::ending::End;

    #[derive(Debug, Default)]
    struct Told(AtomicBool);

    impl End for Told {
        fn end(&self) {
            assert!(!self.0.swap(true, Relaxed), "it is told once");
        }
    }

    /// A part that was begun.
    #[derive(Clone, Debug)]
    struct Begun {
        client: Client,
        number: u64,
        units: usize,
        told: Arc<Told>,
    }

    impl Begun {
        fn is_told(&self) -> bool {
            self.told.0.load(Relaxed)
        }
    }

    fn client(last: u8) -> Client {
        Client::of([10, 0, 0, last].into())
    }

    fn in_network(subnet: u8) -> Client {
        Client::of(format!("2001:db8:1:{subnet:x}::1").parse().unwrap())
    }

    /// Of so many units, half of which are a share.
    fn ledger(units: usize) -> Ledger<u64> {
        Ledger::new(units, units / 2)
    }

    fn end_all(ended: Vec<Ending>) {
        for ending in ended {
            ending.end();
        }
    }

    impl Ledger<u64> {
        fn try_begin(&mut self, client: Client, units: usize) -> Option<Begun> {
            let told = Arc::<Told>::default();
            let wish = self.wish(client, units, Arc::clone(&told) as _);
            self.take(&wish)?;
            Some(Begun {
                client,
                number: wish.number,
                units,
                told,
            })
        }

        fn begins(&mut self, client: Client, units: usize) -> Begun {
            self.try_begin(client, units).unwrap()
        }
        fn grow(&mut self, part: &mut Begun, units: usize, whole: usize) -> Option<usize> {
            let taken = self.take(&growth(part, units, whole))?;
            part.units += taken;
            Some(taken)
        }

        fn drops(&mut self, part: &Begun) -> Vec<u64> {
            self.give_back(part.client, Some(part.number), part.units);
            self.serves()
        }

        /// Somebody who waits, by the number of its wish.
        fn waits(&mut self, client: Client, units: usize) -> u64 {
            let wish = self.wish(client, units, Arc::<Told>::default());
            let number = wish.number;
            self.wait(wish, number);
            number
        }

        /// Who was granted what it wished for.
        fn serves(&mut self) -> Vec<u64> {
            let served = self.serve(|_| false);
            end_all(served.ended);
            served
                .granted
                .into_iter()
                .map(|(_, _, number)| number)
                .collect()
        }
    }

    fn growth(part: &Begun, units: usize, whole: usize) -> Wish {
        Wish {
            client: part.client,
            units,
            whole,
            number: part.number,
            ending: None,
        }
    }

    #[test]
    fn what_was_begun_last_by_who_has_most_ends_for_who_waits() {
        let mut ledger = ledger(80);
        let most: Vec<_> = (0..4).map(|_| ledger.begins(client(1), 10)).collect();
        let less: Vec<_> = (0..3).map(|_| ledger.begins(client(2), 10)).collect();
        let _rest = ledger.begins(client(3), 10);
        let waiting = ledger.waits(client(4), 10);
        assert!(ledger.serves().is_empty());
        let told = |parts: &[Begun]| parts.iter().map(Begun::is_told).collect::<Vec<_>>();
        assert_eq!(told(&most), [false, false, false, true]);
        assert_eq!(told(&less), [false; 3]);
        // It is on its way.
        assert!(ledger.serves().is_empty());
        assert!(!most[2].is_told());
        assert_eq!(ledger.drops(&most[3]), [waiting]);
    }

    #[test]
    fn an_eighth_is_not_taken_from_anybody_before_the_wait_is_over() {
        let mut ledger = ledger(80);
        let parts: Vec<_> = (1..9)
            .map(|number| ledger.begins(client(number), 10))
            .collect();
        ledger.waits(client(9), 1);
        ledger.serves();
        assert!(!parts.iter().any(Begun::is_told));
        let wish = ledger.wish(client(9), 1, Arc::<Told>::default());
        end_all(ledger.end_larger(&wish));
        assert_eq!(parts.iter().filter(|part| part.is_told()).count(), 1);
    }

    #[test]
    fn nothing_ends_for_who_would_have_more_itself() {
        let mut ledger = ledger(80);
        let parts = [ledger.begins(client(1), 40), ledger.begins(client(2), 30)];
        let own = ledger.begins(client(3), 10);
        ledger.waits(client(3), 30);
        ledger.serves();
        assert!(!parts.iter().chain([&own]).any(Begun::is_told));
        // And nothing for who waits for its own share.
        ledger.waits(client(2), 11);
        ledger.waits(client(2), 10);
        ledger.serves();
        assert!(!parts.iter().any(Begun::is_told));
    }

    #[test]
    fn what_cannot_be_ended_any_more_stays() {
        let mut ledger = ledger(80);
        let settled = ledger.begins(client(1), 40);
        ledger.settle(settled.client, settled.number);
        assert!(ledger.reserve(client(2), 40));
        ledger.waits(client(3), 10);
        ledger.serves();
        assert!(!settled.is_told());
    }

    #[test]
    fn who_holds_least_is_served_first() {
        let mut ledger = ledger(100);
        ledger.begins(client(1), 40);
        ledger.begins(client(2), 20);
        let rest = ledger.begins(client(3), 40);
        let of_most = ledger.waits(client(1), 10);
        let of_less = ledger.waits(client(2), 10);
        assert!(ledger.serves().is_empty());
        let latest = ledger.waits(client(4), 20);
        assert_eq!(ledger.drops(&rest), [latest, of_less, of_most]);
    }

    #[test]
    fn nobody_overtakes_who_waits_and_holds_less() {
        let mut ledger = ledger(100);
        ledger.begins(client(1), 45);
        let rest = ledger.begins(client(2), 30);
        ledger.begins(client(3), 5);
        ledger.waits(client(3), 30);
        assert!(ledger.serves().is_empty());
        // 20 are free.
        assert!(ledger.try_begin(client(1), 1).is_none());
        assert!(!ledger.reserve(client(1), 1));
        assert!(ledger.reserve(client(4), 1));
        ledger.drops(&rest);
        assert!(ledger.try_begin(client(1), 1).is_some());
    }

    #[test]
    fn what_was_begun_first_grows_to_its_end_and_one_at_a_time_does() {
        let mut ledger = ledger(100);
        let mut parts: Vec<_> = (1..5)
            .map(|number| ledger.begins(client(number), 25))
            .collect();
        assert_eq!(ledger.grow(&mut parts[1], 10, 60), None);
        assert_eq!(ledger.grow(&mut parts[0], 10, 60), Some(60));
        let first = parts.remove(0);
        // Its end is not the end of what it holds: no other exceeds the room beside it.
        ledger.settle(first.client, first.number);
        assert_eq!(ledger.grow(&mut parts[0], 10, 60), None);
        ledger.drops(&first);
        assert_eq!(ledger.grow(&mut parts[0], 10, 60), Some(10));
        assert_eq!(ledger.grow(&mut parts[0], 20, 60), Some(60));
    }

    #[test]
    fn what_a_client_began_first_may_exceed_its_share() {
        let mut ledger = ledger(100);
        let _first_of_all = ledger.begins(client(9), 1);
        let mut first = ledger.begins(client(1), 25);
        let mut second = ledger.begins(client(1), 25);
        assert_eq!(ledger.grow(&mut second, 10, 40), None);
        assert_eq!(ledger.grow(&mut first, 10, 40), Some(40));
        ledger.settle(first.client, first.number);
        assert_eq!(ledger.grow(&mut second, 1, 1), None);
        // Not that of a network of many.
        let mut ledger = self::ledger(100);
        let _first_of_all = ledger.begins(client(9), 1);
        let mut first = ledger.begins(client(1), 25);
        let mut second = ledger.begins(in_network(1), 25);
        ledger.begins(in_network(2), 25);
        assert_eq!(ledger.grow(&mut second, 10, 25), None);
        assert_eq!(ledger.grow(&mut first, 26, 50), None);
    }

    #[test]
    fn what_was_told_to_end_does_not_grow_and_is_not_first() {
        let mut ledger = ledger(80);
        let mut first = ledger.begins(client(1), 40);
        let mut second = ledger.begins(client(2), 30);
        let _rest = ledger.begins(client(3), 10);
        ledger.waits(client(4), 10);
        ledger.serves();
        assert!(first.is_told());
        assert_eq!(ledger.grow(&mut first, 1, 1), None);
        assert_eq!(ledger.grow(&mut second, 20, 20), Some(20));
    }

    #[test]
    fn what_is_about_to_be_free_is_taken_up_to_an_eighth() {
        let mut ledger = ledger(80);
        let parts: Vec<_> = (0..4).map(|_| ledger.begins(client(1), 10)).collect();
        for number in 2..6 {
            ledger.begins(client(number), 10);
        }
        for (units, is_taken) in [(11, false), (10, true), (1, false)] {
            let wish = ledger.wish(client(7), units, Arc::<Told>::default());
            assert_eq!(ledger.take(&wish), None);
            let (taken, ended) = ledger.take_of_leaving(&wish);
            assert_eq!(taken, is_taken.then_some(units));
            assert_eq!(ended.len(), usize::from(is_taken));
            end_all(ended);
        }
        assert!(parts[3].is_told());
        ledger.drops(&parts[3]);
        assert!(ledger.try_begin(client(7), 1).is_none());
    }

    #[test]
    fn a_network_of_many_counts_as_one() {
        let mut ledger = ledger(80);
        let parts: Vec<_> = (0..8)
            .map(|subnet| ledger.begins(in_network(subnet), 5))
            .collect();
        assert!(ledger.try_begin(in_network(9), 1).is_none());
        for number in 1..5 {
            ledger.begins(client(number), 10);
        }
        // None of it has an eighth, and all of it has half.
        ledger.waits(client(5), 5);
        ledger.serves();
        assert_eq!(parts.iter().filter(|part| part.is_told()).count(), 1);
    }

    #[test]
    fn a_client_crowds_while_others_wait_and_it_has_more_than_its_part() {
        let mut ledger = ledger(100);
        ledger.begins(client(1), 50);
        ledger.begins(client(2), 25);
        ledger.begins(client(3), 25);
        ledger.waits(client(1), 1);
        assert!(!ledger.is_crowded_by(client(1)));
        ledger.waits(client(4), 1);
        assert!(ledger.is_crowded_by(client(1)));
        assert!(!ledger.is_crowded_by(client(2)));
    }

    const WHOLE: usize = 8;

    proptest! {
        #[test]
        fn nobody_has_too_much_and_nobody_is_remembered_for_nothing(
            steps in proptest::collection::vec((0..8_u8, 0..6_u8, 0..8_usize), 0..80),
        ) {
            let mut ledger = ledger(40);
            // Client, number and units.
            let mut held: Vec<(Client, u64, usize)> = Vec::new();
            let of = |number: u8| match number {
                0..3 => client(number),
                _ => in_network(number),
            };
            for (step, number, units) in steps {
                let place = usize::from(number) * units % held.len().max(1);
                let mut wish = ledger.wish(of(number), units, Arc::<Told>::default());
                match (step, held.get(place).copied()) {
                    (0..2, _) => {
                        let taken = ledger.take(&wish);
                        held.extend(taken.map(|units| (wish.client, wish.number, units)));
                    }
                    (2, _) => ledger.wait(wish.clone(), wish.number),
                    (3, _) => {
                        let (taken, ended) = ledger.take_of_leaving(&wish);
                        held.extend(taken.map(|units| (wish.client, wish.number, units)));
                        end_all(ended);
                    }
                    (4..6, Some((client, number, _))) => {
                        wish = Wish { client, units: 2, whole: WHOLE, number, ending: None };
                        held[place].2 += ledger.take(&wish).unwrap_or(0);
                    }
                    (6, Some((client, number, _))) => ledger.settle(client, number),
                    (_, Some((client, number, units))) => {
                        ledger.give_back(client, Some(number), units);
                        held.swap_remove(place);
                    }
                    _ => {}
                }
                let served = ledger.serve(|_| false);
                let granted = served.granted.iter();
                held.extend(granted.map(|(wish, units, _)| (wish.client, wish.number, *units)));
                end_all(served.ended);
                let sum = |is_in: &dyn Fn(Client) -> bool| -> usize {
                    held.iter().filter(|part| is_in(part.0)).map(|part| part.2).sum()
                };
                let holdings = &ledger.holdings;
                prop_assert_eq!(sum(&|_| true), holdings.taken());
                prop_assert!(holdings.taken() <= 40 + 40 / LEAVING_PART + WHOLE);
                prop_assert!(holdings.leaving() <= holdings.taken());
                for client in (0..6).map(of) {
                    let units = sum(&|other| other == client);
                    prop_assert_eq!(units, holdings.of_client(client));
                    prop_assert!(units <= 20 + WHOLE);
                }
            }
            for (client, number, units) in held {
                ledger.give_back(client, Some(number), units);
            }
            prop_assert!(ledger.holdings.is_empty());
        }
    }
}
