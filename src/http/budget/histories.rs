//! Made-up histories of a budget: whatever clients do, nobody has too much.

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::ledger::{Ledger, Wish};
    use crate::access::networks::Client;
    use crate::config::LEAVING_PART;
    use crate::http::ending::{EndSignal, Ending};

    /// Clients by number, of which the last three are of one network.
    fn client(number: u8) -> Client {
        let address = match number {
            0..3 => format!("10.0.0.{number}"),
            _ => format!("2001:db8:1:{number}::1"),
        };
        Client::of(address.parse().unwrap())
    }

    fn told() -> Ending {
        Arc::<EndSignal>::default()
    }

    const WHOLE: usize = 8;

    proptest! {
        #[test]
        fn nobody_has_too_much_and_nobody_is_remembered_for_nothing(
            steps in proptest::collection::vec((0..8_u8, 0..6_u8, 0..8_usize), 0..80),
        ) {
            let mut ledger: Ledger<u64> = Ledger::new(40, 20);
            // Client, number and units.
            let mut held: Vec<(Client, u64, usize)> = Vec::new();
            for (step, number, units) in steps {
                let place = usize::from(number) * units % held.len().max(1);
                let mut wish = ledger.wish(client(number), units, Some(units), told());
                match (step, held.get(place).copied()) {
                    (0..2, _) => {
                        let taken = ledger.take(&wish);
                        held.extend(taken.map(|units| (wish.client, wish.number, units)));
                    }
                    (2, _) => ledger.wait(wish.clone(), wish.number),
                    (3, _) => {
                        let (taken, _) = ledger.take_of_leaving(&wish);
                        held.extend(taken.map(|units| (wish.client, wish.number, units)));
                    }
                    (4..6, Some((client, number, _))) => {
                        wish = Wish { client, units: 2, whole: Some(WHOLE), number, ending: None };
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
                let sum = |is_in: &dyn Fn(Client) -> bool| -> usize {
                    held.iter().filter(|part| is_in(part.0)).map(|part| part.2).sum()
                };
                let holdings = ledger.holdings();
                prop_assert_eq!(sum(&|_| true), holdings.taken());
                prop_assert!(holdings.taken() <= 40 + 40 / LEAVING_PART + WHOLE);
                prop_assert!(holdings.leaving() <= holdings.taken());
                for client in (0..6).map(client) {
                    let units = sum(&|other| other == client);
                    prop_assert_eq!(units, holdings.of_client(client));
                    prop_assert!(units <= 20 + WHOLE);
                }
            }
            for (client, number, units) in held {
                ledger.give_back(client, Some(number), units);
            }
            prop_assert!(ledger.holdings().is_empty());
        }
    }
}
