//! The two or three rows of a sorted list whose sum comes closest to a balance without exceeding it.
//!
//! A pair is found by two pointers that start at the ends of the list and move towards each other: if
//! the two prices fit the balance, every other partner of the lower one costs less, so the lower
//! pointer moves up; if they do not, no partner is left for the higher one, and it moves down: O(n)
//! time. A triple is a first row and a pair after it, for every first row: O(n²) time. Each pointer
//! holds one block of the list: O(1) memory.
//!
//! Of equal sums the pair with the lowest price wins, and of the rows with its prices those that lie
//! furthest apart: the two pointers meet that pair first. Of triples it is the one whose first row
//! comes first, then the widest pair after it.
//!
//! **Invariant:** there is no answer from a list with a line that is bad or not in order, wherever it
//! stands. The pointers go on until they meet, whatever they have found, and each row is compared
//! with the one that its pointer stood on before.

use crate::list::{List, ListError, Stop};
use crate::reader::{Gift, Reader, Row, explain};

/// How much is read before `progress` is told.
const PROGRESS_STEP_BYTES: usize = 1 << 20;

/// The two gifts with the largest sum that `balance` pays for, the cheaper one first. `progress` is
/// told now and then how many bytes of the list have been read.
pub(crate) fn pair(
    list: &List,
    balance: u64,
    progress: &dyn Fn(usize),
) -> Result<Option<Vec<Gift>>, ListError> {
    let mut readers = [Reader::new(list), Reader::new(list)];
    gifts(list, pair_rows(&mut readers, None, balance, progress))
}

/// The three gifts with the largest sum that `balance` pays for, the cheapest one first. `progress`
/// is told how many bytes of the list have been tried as the cheapest one.
pub(crate) fn triple(
    list: &List,
    balance: u64,
    progress: &dyn Fn(usize),
) -> Result<Option<Vec<Gift>>, ListError> {
    gifts(list, triple_rows(list, balance, progress))
}

/// What is on the rows that a search has found.
fn gifts<const COUNT: usize>(
    list: &List,
    found: Result<Option<[Row; COUNT]>, Stop>,
) -> Result<Option<Vec<Gift>>, ListError> {
    let mut reader = Reader::new(list);
    let mut read = |rows: [Row; COUNT]| rows.into_iter().map(|row| reader.gift(row)).collect();
    found
        .and_then(|rows| rows.map(&mut read).transpose())
        .map_err(|stop| explain(list, stop))
}

/// A pair after each first row. That after the very first one is always looked for, whatever the
/// balance, and so every row is checked.
fn triple_rows(
    list: &List,
    balance: u64,
    progress: &dyn Fn(usize),
) -> Result<Option<[Row; 3]>, Stop> {
    let mut firsts = Reader::new(list);
    let mut readers = [Reader::new(list), Reader::new(list)];
    let (mut best, mut sum_max) = (None, 0);
    let mut next = firsts.row_after(None)?;
    while let Some(first) = next {
        let left = balance.saturating_sub(first.price);
        let Some([low, high]) = pair_rows(&mut readers, next, left, &|_| ())? else {
            // A later row costs no less, so nothing fits with it either.
            break;
        };
        let sum = first.price + low.price + high.price;
        if sum > sum_max {
            (best, sum_max) = (Some([first, low, high]), sum);
        }
        if sum == balance {
            break;
        }
        progress(first.end);
        next = firsts.row_after(next)?;
    }
    Ok(best)
}

/// The best pair after the row `after`, or of the whole list, with a reader for each pointer.
fn pair_rows(
    [front, back]: &mut [Reader; 2],
    after: Option<Row>,
    balance: u64,
    progress: &dyn Fn(usize),
) -> Result<Option<[Row; 2]>, Stop> {
    let (mut best, mut sum_max) = (None, 0);
    let (mut read, mut reported) = (0, 0);
    let mut low = front.row_after(after)?;
    let mut high = back.row_before(None)?;
    while let (Some(lower), Some(higher)) = (low, high)
        && lower.start < higher.start
    {
        match lower.price.checked_add(higher.price) {
            Some(sum) if sum <= balance => {
                if sum > sum_max {
                    (best, sum_max) = (Some([lower, higher]), sum);
                }
                read += lower.end - lower.start;
                low = front.row_after(low)?;
            }
            _ => {
                read += higher.end - higher.start;
                high = back.row_before(high)?;
            }
        }
        if read - reported >= PROGRESS_STEP_BYTES {
            reported = read;
            progress(read);
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::iter;

    use proptest::prelude::*;

    use super::*;
    use crate::list::tests::{SMALL_BLOCK_BYTES, list, small_blocks};

    const SAMPLE: &str = include_str!("../../../data/prices.txt");

    fn printed(gifts: Option<Vec<Gift>>) -> Option<String> {
        let gift = |gift: &Gift| format!("{} {}", str::from_utf8(&gift.name).unwrap(), gift.price);
        gifts.map(|gifts| gifts.iter().map(gift).collect::<Vec<_>>().join(", "))
    }

    fn pair(list: &List, balance: u64) -> Option<String> {
        printed(super::pair(list, balance, &|_| ()).unwrap())
    }

    fn triple(list: &List, balance: u64) -> Option<String> {
        printed(super::triple(list, balance, &|_| ()).unwrap())
    }

    #[test]
    fn pairs_of_the_sample() {
        let list = list(SAMPLE);
        for (balance, expected) in [
            (2500, Some("Candy Bar 500, Earmuffs 2000")),
            (2300, Some("Paperback Book 700, Headphones 1400")),
            (10_000, Some("Earmuffs 2000, Bluetooth Stereo 6000")),
            (1100, None),
            (1199, None),
            (1200, Some("Candy Bar 500, Paperback Book 700")),
            (1300, Some("Candy Bar 500, Paperback Book 700")),
            (1499, Some("Candy Bar 500, Paperback Book 700")),
            (2800, Some("Paperback Book 700, Earmuffs 2000")),
            // Not Earmuffs twice.
            (4000, Some("Headphones 1400, Earmuffs 2000")),
            (7999, Some("Headphones 1400, Bluetooth Stereo 6000")),
            (8000, Some("Earmuffs 2000, Bluetooth Stereo 6000")),
            (0, None),
            (u64::MAX, Some("Earmuffs 2000, Bluetooth Stereo 6000")),
        ] {
            assert_eq!(pair(&list, balance).as_deref(), expected, "{balance}");
        }
    }

    #[test]
    fn triples_of_the_sample() {
        let list = list(SAMPLE);
        for (balance, expected) in [
            (
                2500,
                Some("Candy Bar 500, Paperback Book 700, Detergent 1000"),
            ),
            (
                3700,
                Some("Paperback Book 700, Detergent 1000, Earmuffs 2000"),
            ),
            (1100, None),
            (2199, None),
            (
                2200,
                Some("Candy Bar 500, Paperback Book 700, Detergent 1000"),
            ),
            (
                u64::MAX,
                Some("Headphones 1400, Earmuffs 2000, Bluetooth Stereo 6000"),
            ),
        ] {
            assert_eq!(triple(&list, balance).as_deref(), expected, "{balance}");
        }
    }

    #[test]
    fn the_best_pair_may_lie_in_the_middle() {
        let list = list("a, 10\nb, 20\nc, 50\nd, 56\ne, 95\n");
        assert_eq!(pair(&list, 106).as_deref(), Some("c 50, d 56"));
    }

    #[test]
    fn too_few_rows_make_no_answer() {
        for text in ["", "\n\n", "a, 1"] {
            assert_eq!(pair(&list(text), 100), None, "{text:?}");
        }
        assert_eq!(triple(&list("a, 1\nb, 2"), 100), None);
    }

    #[test]
    fn sums_beyond_64_bits_exceed_every_balance() {
        let text = format!("a, 1\nb, 2\nc, {0}\nd, {0}", u64::MAX - 1);
        assert_eq!(
            pair(&list(&text), u64::MAX),
            Some(format!("a 1, d {}", u64::MAX - 1))
        );
        let text = format!("a, 1\nb, 2\nc, 3\nd, {}", u64::MAX);
        assert_eq!(
            triple(&list(&text), u64::MAX).as_deref(),
            Some("a 1, b 2, c 3")
        );
    }

    #[test]
    fn of_equal_sums_the_widest_wins() {
        let list = list("a, 1\nb, 1\nc, 2\nd, 3\ne, 4\nf, 4\n");
        assert_eq!(pair(&list, 5).as_deref(), Some("a 1, f 4"));
        assert_eq!(triple(&list, 7).as_deref(), Some("a 1, c 2, f 4"));
    }

    #[test]
    fn rows_with_one_price_are_distinct() {
        let list = list("same, 5\nsame, 5\nsame, 5\n");
        assert_eq!(pair(&list, 10).as_deref(), Some("same 5, same 5"));
        assert_eq!(triple(&list, 15).as_deref(), Some("same 5, same 5, same 5"));
    }

    #[test]
    fn blank_lines_and_other_line_ends_are_fine() {
        let crlf = format!("\r\n \n{}\n\n", SAMPLE.replace('\n', " \r\n\r\n"));
        for text in [&crlf, SAMPLE.trim_end()] {
            let pair = pair(&list(text), 10_000);
            assert_eq!(
                pair.as_deref(),
                Some("Earmuffs 2000, Bluetooth Stereo 6000")
            );
        }
    }

    #[test]
    fn a_byte_order_mark_at_the_start_is_no_part_of_the_first_name() {
        for text in [
            "\u{feff}a, 1\nb, 2\n",
            "\u{feff}\na, 1\nb, 2",
            "\u{feff}a, 1\r\nb, 2\r\n",
        ] {
            for list in [list(text), small_blocks(text)] {
                assert_eq!(pair(&list, 3).as_deref(), Some("a 1, b 2"), "{text:?}");
            }
            let text = format!("{text}\nc, 3");
            assert_eq!(triple(&list(&text), 6).as_deref(), Some("a 1, b 2, c 3"));
        }
        assert_eq!(pair(&list("\u{feff}"), 3), None);
    }

    #[test]
    fn blank_lines_may_fill_blocks() {
        let gap = "\n".repeat(3 * SMALL_BLOCK_BYTES);
        for text in [
            format!("{gap}a, 1\nb, 2"),
            format!("a, 1\n{gap}b, 2"),
            format!("a, 1\nb, 2{gap}"),
        ] {
            let list = small_blocks(&text);
            assert_eq!(pair(&list, 3).as_deref(), Some("a 1, b 2"));
        }
    }

    #[test]
    fn a_name_is_kept_byte_for_byte() {
        let list = List::read(&b"K\xe4se, fett, 3\nWein , 7"[..]).unwrap();
        let gifts = super::pair(&list, 10, &|_| ()).unwrap().unwrap();
        let names: Vec<_> = gifts.into_iter().map(|gift| gift.name).collect();
        assert_eq!(names, [&b"K\xe4se, fett"[..], b"Wein"]);
    }

    #[test]
    fn progress_goes_up_to_the_length() {
        let text: String = (0..200_000).map(|_| "a gift among many, 5\n").collect();
        let list = list(&text);
        let told = RefCell::new(Vec::new());
        for balance in [1, u64::MAX] {
            super::pair(&list, balance, &|bytes| told.borrow_mut().push(bytes)).unwrap();
            let told = told.take();
            assert!(told.is_sorted());
            let unread = list.bytes - told.last().unwrap();
            assert!(unread < PROGRESS_STEP_BYTES, "{unread}");
        }
        let list = self::list(SAMPLE);
        super::triple(&list, 5000, &|bytes| told.borrow_mut().push(bytes)).unwrap();
        assert_eq!(told.take(), [15, 35, 51]);
    }

    /// Prices in order, and the list with them: names say which row it is, lines look as they may.
    fn lists() -> impl Strategy<Value = (Vec<u64>, String)> {
        let forms = ["{}, {}\n", "{},{}\r\n", " {} ,  {} \n", "{}, 00{}\n\n"];
        let row = (1_u64..60, proptest::sample::select(forms.to_vec()));
        (proptest::collection::vec(row, 0..40), any::<bool>()).prop_map(|(mut rows, newline)| {
            rows.sort_by_key(|(price, _)| *price);
            let mut text: String = (0..)
                .zip(&rows)
                .map(|(number, (price, form))| {
                    let form = form.replacen("{}", &format!("a, {number}"), 1);
                    form.replacen("{}", &price.to_string(), 1)
                })
                .collect();
            if !newline {
                text.truncate(text.trim_end().len());
            }
            (rows.into_iter().map(|(price, _)| price).collect(), text)
        })
    }

    /// Rows that look alike for hundreds of lines, as they do in most lists.
    fn long_lists() -> impl Strategy<Value = (Vec<u64>, String)> {
        let forms = [
            "{}, {}\n",
            "{},{}\n",
            "{}, {}\r\n",
            "{}, {}\n\n",
            "{}, 000{}\n",
        ];
        let form = (proptest::sample::select(forms.to_vec()), 0_usize..300);
        let forms = proptest::collection::vec(form, 1..4);
        let price = proptest::sample::select(vec![1, 90, 980, 99_999_900, u64::MAX / 4]);
        (forms, price, proptest::collection::vec(0_u64..4, 300)).prop_map(
            |(forms, mut price, steps)| {
                let forms = forms
                    .into_iter()
                    .flat_map(|(form, count)| iter::repeat_n(form, count));
                let mut prices = Vec::new();
                let mut text = String::new();
                for (number, (form, step)) in (0..).zip(iter::zip(forms, steps)) {
                    price += step;
                    prices.push(price);
                    let form = form.replacen("{}", &format!("a, {number}"), 1);
                    text += &form.replacen("{}", &price.to_string(), 1);
                }
                (prices, text)
            },
        )
    }

    /// The first of the best in the order that the module promises.
    fn best<const COUNT: usize>(
        prices: &[u64],
        balance: u64,
        candidates: impl Iterator<Item = [usize; COUNT]>,
    ) -> Option<String> {
        let mut best = None;
        // Loops, since a debug build takes several times as long for chains of iterators.
        for rows in candidates {
            let mut sum = 0;
            for row in rows {
                sum += prices[row];
            }
            if sum <= balance && best.is_none_or(|(most, _)| sum > most) {
                best = Some((sum, rows));
            }
        }
        let (_, rows) = best?;
        let gift = |row: usize| format!("a, {row} {}", prices[row]);
        Some(rows.map(gift).join(", "))
    }

    fn pairs(rows: usize) -> impl Iterator<Item = [usize; 2]> {
        (0..rows).flat_map(move |a| (a + 1..rows).rev().map(move |b| [a, b]))
    }

    fn triples(rows: usize) -> impl Iterator<Item = [usize; 3]> {
        (0..rows).flat_map(move |a| {
            (a + 1..rows).flat_map(move |b| (b + 1..rows).rev().map(move |c| [a, b, c]))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn the_answers_are_those_of_brute_force(
            (prices, text) in lists(),
            balance in 0_u64..200,
        ) {
            let best_pair = best(&prices, balance, pairs(prices.len()));
            let best_triple = best(&prices, balance, triples(prices.len()));
            for list in [list(&text), small_blocks(&text)] {
                prop_assert_eq!(pair(&list, balance), best_pair.clone());
                prop_assert_eq!(triple(&list, balance), best_triple.clone());
            }
        }

        #[test]
        fn a_list_of_many_blocks_has_the_answer_of_brute_force(
            (prices, text) in long_lists(),
            share in 0_u64..=130,
        ) {
            let ends = prices.first().zip(prices.last()).map_or(0, |(first, last)| first + last);
            let balance = ends / 100 * share + ends % 100;
            let best_pair = best(&prices, balance, pairs(prices.len()));
            prop_assert_eq!(pair(&small_blocks(&text), balance), best_pair);
        }
    }
}
