//! Who may have how much of a budget: who waits, who is next, and who gives way.
//!
//! Nothing here waits or ends anything: what is to end is returned. It refuses to know what a unit is.
//!
//! **Invariants:** no more is taken than there is, but for one part that was begun first, and for what was told
//! to end (an eighth at most). No client, and no network of many, has more than its share, but for a part that
//! it began first.

use super::holdings::{Holdings, Plan};
use crate::access::networks::Client;
use crate::config::LEAVING_PART;
use crate::http::ending::Ending;

/// Up to this part of it all, nothing of a client is ended while it may still leave by itself.
const PROTECTED_PART: usize = 8;

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
    /// What it takes to its end, if it grows.
    pub(super) whole: Option<usize>,
    pub(super) number: u64,
    /// For a new part; `None` for one that is there.
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
            holdings: Holdings::new(units_max / PROTECTED_PART),
            queue: Vec::new(),
            numbers: 0,
        }
    }

    /// A wish for a new part, which takes `whole` to its end if it grows.
    pub(super) fn wish(
        &mut self,
        client: Client,
        units: usize,
        whole: Option<usize>,
        ending: Ending,
    ) -> Wish {
        self.numbers += 1;
        Wish {
            client,
            units,
            whole,
            number: self.numbers,
            ending: Some(ending),
        }
    }

    /// Takes `units` that cannot be ended; says whether they were there.
    pub(super) fn reserve(&mut self, client: Client, units: usize) -> bool {
        let fits = self.has(units) && self.is_in_share(client, units);
        let is_there = units == 0 || fits && self.comes_first(client, u64::MAX);
        if is_there {
            self.holdings.add(client, units);
        }
        is_there
    }

    /// Takes what is wished for, or all that it needs to its end; says how much.
    pub(super) fn take(&mut self, wish: &Wish) -> Option<usize> {
        let is_turn = wish.units == 0 || self.comes_first(wish.client, wish.number);
        self.take_if(is_turn, wish)
    }

    /// The same, if it is its turn or it was begun first of all.
    fn take_if(&mut self, is_turn: bool, wish: &Wish) -> Option<usize> {
        if is_turn && self.has(wish.units) && self.is_in_share(wish.client, wish.units) {
            return self.add(wish, wish.units);
        }
        let whole = wish.whole.filter(|_| wish.ending.is_none())?;
        let may_exceed =
            is_turn && self.has(whole) && self.may_exceed_share(wish) || self.may_exceed_all(wish);
        may_exceed.then(|| self.add(wish, whole)).flatten()
    }

    /// Takes what is wished for of what is about to become free, and says what is to end for it: nothing if
    /// that is not enough.
    pub(super) fn take_of_leaving(&mut self, wish: &Wish) -> (Option<usize>, Vec<Ending>) {
        let most = self.units_max + self.units_max / LEAVING_PART;
        let is_within = self.holdings.taken().saturating_add(wish.units) <= most;
        if !is_within || !self.is_in_share(wish.client, wish.units) {
            return (None, Vec::new());
        }
        let lacks = self.lacks(wish.units);
        let weight = self.holdings.weight(wish.client) + wish.units;
        // First from those who have much.
        let much = weight.max(self.holdings.protected());
        let mut plan = self.holdings.plan(wish.client, much, lacks);
        if plan.units < lacks && weight < much {
            plan = self.holdings.plan(wish.client, weight, lacks);
        }
        if plan.units < lacks {
            return (None, Vec::new());
        }
        let ended = self.holdings.tell(plan);
        (self.add(wish, wish.units), ended)
    }

    /// Lets somebody wait.
    pub(super) fn wait(&mut self, wish: Wish, waiting: W) {
        self.queue.push((wish, waiting));
    }

    /// Takes for those who wait what they can have now, in their order, and says what is to end for the next of
    /// them. Costs a look at all who wait for each that is served, and at the few who have much.
    pub(super) fn serve(&mut self, is_gone: impl Fn(&W) -> bool) -> Served<W> {
        self.queue.retain(|(_, waiting)| !is_gone(waiting));
        let (mut granted, mut ended) = (Vec::new(), Vec::new());
        let first = self.holdings.first();
        let mut wishes = self.queue.iter().map(|(wish, _)| wish);
        let first = wishes.find(|wish| Some(wish.number) == first && self.may_exceed_all(wish));
        let mut next = first.cloned();
        while let Some(wish) = next.take().or_else(|| self.first_waiting().cloned()) {
            let Some(units) = self.take_if(true, &wish) else {
                let weight = self.holdings.weight(wish.client) + wish.units;
                let much = weight.max(self.holdings.protected());
                ended = self.end_for(&wish, much);
                break;
            };
            let mut numbers = self.queue.iter().map(|(wish, _)| wish.number);
            if let Some(place) = numbers.position(|number| number == wish.number) {
                let (_, waiting) = self.queue.swap_remove(place);
                granted.push((wish, units, waiting));
            }
        }
        ended.append(&mut self.end_neighbours());
        Served { granted, ended }
    }

    /// Says what is to end of those who have more than the client of `wish`, which waits, so that there is room
    /// for it.
    pub(super) fn end_larger(&mut self, wish: &Wish) -> Vec<Ending> {
        let mut numbers = self.queue.iter().map(|(wish, _)| wish.number);
        if !numbers.any(|number| number == wish.number) {
            return Vec::new();
        }
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

    /// Whether `client` has more than an eighth, and more than all of it divided by those who have some, while
    /// others wait who have less than their share.
    pub(super) fn is_crowded_by(&self, client: Client) -> bool {
        let fair = self.units_max / self.holdings.groups().max(1);
        let network = client.network();
        let mut wishes = self.queue.iter().map(|(wish, _)| wish);
        self.holdings.weight(client) > fair.max(self.holdings.protected())
            && wishes.any(|wish| {
                wish.client.network() != network && self.is_in_share(wish.client, wish.units)
            })
    }

    /// Who has what.
    #[cfg(test)]
    pub(super) fn holdings(&self) -> &Holdings {
        &self.holdings
    }

    fn has(&self, units: usize) -> bool {
        self.holdings.taken().saturating_add(units) <= self.units_max
    }

    /// What is missing to `units` even when all is gone that was told to end.
    fn lacks(&self, units: usize) -> usize {
        let there = self.units_max + self.holdings.leaving();
        (self.holdings.taken() + units).saturating_sub(there)
    }

    fn is_in_share(&self, client: Client, units: usize) -> bool {
        // A network has no less than any of its clients.
        self.holdings.weight(client).saturating_add(units) <= self.share_max
    }

    /// Whether a part that grows is the first of its client, which may have more than its share. It takes what
    /// it needs to its end then, and no other does until that is there again.
    fn may_exceed_share(&self, wish: &Wish) -> bool {
        let is_of_many = wish.client.network().is_shared();
        let whole = wish.whole.unwrap_or(wish.units);
        wish.ending.is_none()
            && self.holdings.first_of(wish.client) == Some(wish.number)
            && self.is_in_share(wish.client, 0)
            && (!is_of_many || self.is_in_share(wish.client, whole))
    }

    /// The same for the first of all, which may have more than there is.
    fn may_exceed_all(&self, wish: &Wish) -> bool {
        let is_first = wish.ending.is_none() && self.holdings.first() == Some(wish.number);
        is_first && self.has(0) && self.is_in_share(wish.client, 0)
    }

    /// The place of a request among those that wait: first who has least, then who began first.
    fn place(&self, client: Client, number: u64) -> (usize, u64) {
        (self.holdings.weight(client), number)
    }

    /// The first of those that wait and are not hindered by their own share.
    fn first_waiting(&self) -> Option<&Wish> {
        let wishes = self.queue.iter().map(|(wish, _)| wish);
        let only_others_hinder = wishes.filter(|wish| {
            let is_there = wish.ending.is_some() || self.holdings.grows(wish.number);
            is_there && (self.is_in_share(wish.client, wish.units) || self.may_exceed_share(wish))
        });
        only_others_hinder.min_by_key(|wish| self.place(wish.client, wish.number))
    }

    /// Whether nobody waits who comes before this.
    fn comes_first(&self, client: Client, number: u64) -> bool {
        self.first_waiting().is_none_or(|first| {
            self.place(client, number) <= self.place(first.client, first.number)
        })
    }

    /// Takes it; nothing for a part that was told to end while it waited.
    fn add(&mut self, wish: &Wish, units: usize) -> Option<usize> {
        let Wish {
            client,
            number,
            whole,
            ..
        } = *wish;
        let is_added = match &wish.ending {
            None => self.holdings.grow(client, number, units),
            Some(ending) => {
                self.holdings
                    .begin(client, number, units, ending, whole.is_some());
                true
            }
        };
        is_added.then_some(units)
    }

    /// Says what is to end of those who have more than `protected`, so that there is room for `wish`, or some
    /// of it. Nothing is ended for who would exceed its share.
    fn end_for(&mut self, wish: &Wish, protected: usize) -> Vec<Ending> {
        let lacks = self.lacks(wish.units);
        if lacks == 0 || !self.is_in_share(wish.client, wish.units) {
            return Vec::new();
        }
        let plan = self.holdings.plan(wish.client, protected, lacks);
        self.holdings.tell(plan)
    }

    /// Says what is to end in a network of many for one of its clients that waits, and that only the others
    /// hinder.
    fn end_neighbours(&mut self) -> Vec<Ending> {
        let wishes = self.queue.iter().map(|(wish, _)| wish);
        let mut plans = wishes.filter_map(|wish| {
            let of_client = self.holdings.of_client(wish.client) + wish.units;
            let stays = self.holdings.weight(wish.client) - self.holdings.leaving_of(wish.client);
            let lacks = (stays + wish.units).saturating_sub(self.share_max);
            let is_hindered = lacks > 0 && of_client <= self.share_max;
            (is_hindered && wish.client.network().is_shared())
                .then(|| self.holdings.plan_within(wish.client, of_client, lacks))
        });
        let plan: Plan = plans.next().unwrap_or_default();
        self.holdings.tell(plan)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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
            let wish = self.wish(client, units, Some(units), Arc::clone(&told) as _);
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
            let wish = self.wish(client, units, None, Arc::<Told>::default());
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
            whole: Some(whole),
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
        let wish = ledger.queue[0].0.clone();
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
    fn what_was_begun_first_is_not_ended_and_what_was_told_does_not_grow() {
        let mut ledger = ledger(80);
        let mut first = ledger.begins(client(1), 30);
        let mut second = ledger.begins(client(1), 10);
        let [mut third, _] = [2, 3].map(|number| ledger.begins(client(number), 20));
        ledger.waits(client(4), 20);
        ledger.serves();
        assert!(second.is_told() && !first.is_told());
        assert_eq!(ledger.grow(&mut second, 1, 1), None);
        assert_eq!(ledger.grow(&mut third, 1, 1), None);
        assert_eq!(ledger.grow(&mut first, 20, 20), Some(20));
    }

    #[test]
    fn what_does_not_grow_is_not_first() {
        let mut ledger = ledger(100);
        let batch = ledger.wish(client(1), 10, None, Arc::<Told>::default());
        ledger.take(&batch).unwrap();
        let mut bodies: Vec<_> = (1..4)
            .map(|number| ledger.begins(client(number), 30))
            .collect();
        assert_eq!(ledger.grow(&mut bodies[1], 20, 20), None);
        assert_eq!(ledger.grow(&mut bodies[0], 20, 20), Some(20));
    }

    #[test]
    fn what_is_about_to_be_free_is_taken_up_to_an_eighth() {
        let mut ledger = ledger(80);
        let parts: Vec<_> = (0..4).map(|_| ledger.begins(client(1), 10)).collect();
        for number in 2..6 {
            ledger.begins(client(number), 10);
        }
        for (units, is_taken) in [(11, false), (10, true), (1, false)] {
            let wish = ledger.wish(client(7), units, None, Arc::<Told>::default());
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
        // Who waits for its own share is not crowded out, and who has no more than an eighth crowds out nobody.
        let mut ledger = self::ledger(100);
        for number in 1..20 {
            ledger.begins(client(number), 1);
        }
        ledger.begins(client(20), 12);
        ledger.begins(client(21), 50);
        ledger.waits(client(21), 1);
        assert!(!ledger.is_crowded_by(client(20)));
        ledger.waits(client(22), 50);
        assert!(!ledger.is_crowded_by(client(20)));
        assert!(ledger.is_crowded_by(client(21)));
    }

    #[test]
    fn nothing_is_always_there() {
        let mut ledger = ledger(10);
        ledger.begins(client(1), 5);
        assert!(ledger.reserve(client(2), 5));
        ledger.waits(client(3), 1);
        ledger.serves();
        assert!(ledger.reserve(client(4), 0));
    }
}
