//! Gifts for a gift card: the two or three rows of a sorted price list whose sum comes closest to a
//! balance without exceeding it.
//!
//! A pair is found by two pointers that start at the ends of the list and move towards each other:
//! if the two prices fit the balance, every other partner for the lower one costs less, so the lower
//! pointer moves up; if they do not, no partner is left for the higher one, and it moves down. Every
//! row is visited once, by one of the pointers: O(n) time, and the place to check it. The list stays
//! on the disk; each end holds the prices of one block of it, so memory is O(1). A triple is a first
//! row and a pair behind it, for every first row: O(n²) time, O(1) memory.
//!
//! Of equal sums the first one found wins: the pair that lies furthest apart; of triples the one
//! with the first row nearest to the beginning, then the widest pair behind it.
//!
//! **Invariant:** there is no answer from a list with a row that is not one or not in order,
//! wherever it stands; the error names the first such line. The sweep knows no line numbers: only
//! when it meets a bad row are the lines counted, by reading once more from the beginning.

mod row;

use std::fs::File;
use std::io::{self, Read};
use std::iter;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memchr::{memchr, memrchr};

pub use self::row::Fault;

/// Bytes read at once. With the prices in it, both ends and what they are read into stay in the
/// second-level cache of a processor.
const BLOCK_BYTES: usize = 128 << 10;

/// Longest line, as a part of a block: a block must hold whole lines, and more than a few.
const LINES_PER_BLOCK_MIN: usize = 4;

/// A price list: rows `name, price`, sorted by price.
#[derive(Debug)]
pub struct PriceList {
    input: Input,
    bytes: u64,
    block_bytes: usize,
}

#[derive(Debug)]
enum Input {
    File(File),
    Memory(Vec<u8>),
}

/// A row of the list: what it costs and where its line begins.
#[derive(Clone, Copy, Debug)]
struct Row {
    price: u64,
    offset: u64,
}

/// What can be bought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gift {
    /// Its name as it stands in the list, in whatever encoding.
    pub name: Vec<u8>,
    /// Its price in cents.
    pub price: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The list could not be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// A line is not a row, or not where it belongs.
    #[error("line {line}: {fault}")]
    Row {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        fault: Fault,
    },
}

impl PriceList {
    /// Opens the list at `path`. A regular file stays where it is and must not change meanwhile;
    /// of a pipe or a terminal nothing can be read twice, so they are read into memory.
    ///
    /// # Errors
    /// If it cannot be opened or read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_file() {
            Ok(Self::new(Input::File(file), metadata.len()))
        } else {
            Self::read(file)
        }
    }

    /// Reads a list into memory, to its end.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(mut reader: impl Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        let length = bytes.len() as u64;
        Ok(Self::new(Input::Memory(bytes), length))
    }

    fn new(input: Input, bytes: u64) -> Self {
        Self {
            input,
            bytes,
            block_bytes: BLOCK_BYTES,
        }
    }

    /// Length of the list in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The two gifts with the largest sum that `balance` pays for, the cheaper one first. Reads the
    /// list once; `progress` is told how many bytes are behind it.
    ///
    /// # Errors
    /// If the list cannot be read or any row of it is bad.
    pub fn pair(
        &self,
        balance: u64,
        progress: &dyn Fn(u64),
    ) -> Result<Option<Vec<Gift>>, ListError> {
        let pair = self
            .sweep(0..self.bytes, 0, balance, progress)
            .map_err(|stop| self.explain(stop))?;
        self.gifts(pair.iter().flat_map(|pair| pair.rows))
    }

    /// The three gifts with the largest sum that `balance` pays for, the cheapest one first. Reads
    /// the list once for every row that can be the cheapest; `progress` is told how many bytes of
    /// such rows are behind it.
    ///
    /// # Errors
    /// If the list cannot be read or any row of it is bad.
    pub fn triple(
        &self,
        balance: u64,
        progress: &dyn Fn(u64),
    ) -> Result<Option<Vec<Gift>>, ListError> {
        let triple = self
            .nested_sweeps(balance, progress)
            .map_err(|stop| self.explain(stop))?;
        self.gifts(triple.into_iter().flatten())
    }

    /// A pair behind every first row. The first sweep always happens: it checks the rows.
    fn nested_sweeps(
        &self,
        balance: u64,
        progress: &dyn Fn(u64),
    ) -> Result<Option<[Row; 3]>, Stop> {
        let mut firsts = Ends::new(self, 0..self.bytes, 0);
        let mut rows = Vec::new();
        let mut best = None;
        let mut sum_max = 0;
        loop {
            firsts.fill(End::Front, &mut rows)?;
            if rows.is_empty() {
                return Ok(best);
            }
            let next = rows.iter().skip(1).map(|row| row.offset);
            for (&first, rest) in iter::zip(&rows, next.chain([firsts.unread.start])) {
                let left = balance.saturating_sub(first.price);
                let pair = self.sweep(rest..self.bytes, first.price, left, &|_| ())?;
                let Some(Pair {
                    sum,
                    rows: [second, third],
                }) = pair
                else {
                    // Nor is there one behind a later row, which costs no less.
                    return Ok(best);
                };
                let sum = first.price + sum;
                if sum > sum_max {
                    sum_max = sum;
                    best = Some([first, second, third]);
                }
                if sum == balance {
                    return Ok(best);
                }
                progress(rest);
            }
            rows.clear();
        }
    }

    /// The two-pointer sweep over `range`, where no row may cost less than `price_min`. Visits all
    /// of them, whatever the balance.
    fn sweep(
        &self,
        range: Range<u64>,
        price_min: u64,
        balance: u64,
        progress: &dyn Fn(u64),
    ) -> Result<Option<Pair>, Stop> {
        let mut ends = Ends::new(self, range, price_min);
        let (mut low, mut high) = (Vec::new(), Vec::new());
        let mut best = None;
        loop {
            ends.fill(End::Front, &mut low)?;
            ends.fill(End::Back, &mut high)?;
            progress(self.bytes - (ends.unread.end - ends.unread.start));
            // With nothing left to read, the ends share what one of them still has.
            if low.is_empty() {
                low.extend(high.drain(..high.len() / 2));
            } else if high.is_empty() {
                high = low.split_off(low.len().div_ceil(2));
            }
            if low.is_empty() || high.is_empty() {
                return Ok(best);
            }
            let (low_left, high_left) = converge(&low, &high, balance, &mut best);
            low.drain(..low.len() - low_left);
            high.truncate(high_left);
        }
    }

    /// The rows as they are printed; none are no answer.
    fn gifts(&self, rows: impl Iterator<Item = Row>) -> Result<Option<Vec<Gift>>, ListError> {
        let gifts: Vec<_> = rows.map(|row| self.gift(row)).collect::<io::Result<_>>()?;
        Ok((!gifts.is_empty()).then_some(gifts))
    }

    fn gift(&self, row: Row) -> io::Result<Gift> {
        let mut buffer = Vec::new();
        let line_bytes = (self.bytes - row.offset).min(self.line_bytes_max() as u64);
        self.read_at(row.offset..row.offset + line_bytes, &mut buffer)?;
        match lines(&buffer).next().map(row::parse) {
            Some(Ok(Some((name, price)))) if price == row.price => Ok(Gift {
                name: name.to_vec(),
                price,
            }),
            _ => Err(changed()),
        }
    }

    fn explain(&self, stop: Stop) -> ListError {
        match stop {
            Stop::Read(error) => ListError::Read(error),
            Stop::BadRow => self.first_bad_row().unwrap_or_else(ListError::Read),
        }
    }

    /// Counts lines from the beginning, up to the first bad row.
    fn first_bad_row(&self) -> io::Result<ListError> {
        let mut ends = Ends::new(self, 0..self.bytes, 0);
        let (mut line, mut price_min) = (0, 0);
        while !ends.unread.is_empty() {
            let Some((_, block)) = ends.take(End::Front)? else {
                let (line, fault) = (line + 1, Fault::Long);
                return Ok(ListError::Row { line, fault });
            };
            for text in lines(block) {
                line += 1;
                let fault = match self.parse(text) {
                    Ok(Some((_, price))) if price < price_min => Fault::Order,
                    Ok(row) => {
                        price_min = row.map_or(price_min, |(_, price)| price);
                        continue;
                    }
                    Err(fault) => fault,
                };
                return Ok(ListError::Row { line, fault });
            }
        }
        Err(changed())
    }

    /// Decodes the whole lines of `block`, which begins at `offset`, and checks them.
    fn decode(&self, block: &[u8], mut offset: u64, rows: &mut Vec<Row>) -> Result<(), Stop> {
        let line_bytes_max = self.line_bytes_max();
        let mut price_min = 0;
        for line in lines(block) {
            let quick = row::quick_price(line).filter(|_| line.len() <= line_bytes_max);
            let price = match quick {
                Some(price) => Some(price),
                None => self.parse(line)?.map(|(_, price)| price),
            };
            if let Some(price) = price {
                if price < price_min {
                    return Err(Stop::BadRow);
                }
                price_min = price;
                rows.push(Row { price, offset });
            }
            offset += line.len() as u64 + 1;
        }
        Ok(())
    }

    fn parse<'a>(&self, line: &'a [u8]) -> Result<Option<(&'a [u8], u64)>, Fault> {
        if line.len() > self.line_bytes_max() {
            return Err(Fault::Long);
        }
        row::parse(line)
    }

    fn line_bytes_max(&self) -> usize {
        self.block_bytes / LINES_PER_BLOCK_MIN
    }

    fn read_at(&self, range: Range<u64>, buffer: &mut Vec<u8>) -> io::Result<()> {
        // The length of a block, or what is left of an address space that holds the list.
        let bytes = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        buffer.resize(bytes, 0);
        match &self.input {
            Input::File(file) => file.read_exact_at(buffer, range.start),
            Input::Memory(list) => {
                let start = usize::try_from(range.start).map_err(io::Error::other)?;
                buffer.copy_from_slice(list.get(start..start + bytes).ok_or_else(changed)?);
                Ok(())
            }
        }
    }
}

/// The best pair of a sweep so far.
#[derive(Clone, Copy, Debug)]
struct Pair {
    sum: u64,
    rows: [Row; 2],
}

/// Moves the two pointers, the lower end of `low` and the upper end of `high`, until either has
/// nothing left; returns how much each still has.
fn converge(
    mut low: &[Row],
    mut high: &[Row],
    balance: u64,
    best: &mut Option<Pair>,
) -> (usize, usize) {
    let mut sum_max = best.map_or(0, |pair| pair.sum);
    while let ([first, low_rest @ ..], [high_rest @ .., last]) = (low, high) {
        match first.price.checked_add(last.price) {
            Some(sum) if sum <= balance => {
                if sum > sum_max {
                    sum_max = sum;
                    let rows = [*first, *last];
                    *best = Some(Pair { sum, rows });
                }
                low = low_rest;
            }
            _ => high = high_rest,
        }
    }
    (low.len(), high.len())
}

/// A stretch of a list that is read from both ends.
struct Ends<'a> {
    list: &'a PriceList,
    /// What neither end has read; begins and ends with whole lines.
    unread: Range<u64>,
    /// Between what the rows there must cost: the prices next to it.
    price_min: u64,
    price_max: u64,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

impl<'a> Ends<'a> {
    fn new(list: &'a PriceList, unread: Range<u64>, price_min: u64) -> Self {
        Self {
            list,
            unread,
            price_min,
            price_max: u64::MAX,
            buffer: Vec::new(),
        }
    }

    /// Reads rows from `end` if there are none in `rows`, unless there are no more.
    fn fill(&mut self, end: End, rows: &mut Vec<Row>) -> Result<(), Stop> {
        while rows.is_empty() && !self.unread.is_empty() {
            let list = self.list;
            let (offset, block) = self.take(end)?.ok_or(Stop::BadRow)?;
            list.decode(block, offset, rows)?;
            if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
                if first.price < self.price_min || last.price > self.price_max {
                    return Err(Stop::BadRow);
                }
                match end {
                    End::Front => self.price_min = last.price,
                    End::Back => self.price_max = first.price,
                }
            }
        }
        Ok(())
    }

    /// Reads as many whole lines as fit into a block, and says where they begin; nothing if not one
    /// fits.
    fn take(&mut self, end: End) -> io::Result<Option<(u64, &[u8])>> {
        let Range { start, end: stop } = self.unread;
        let bytes = (stop - start).min(self.list.block_bytes as u64);
        let offset = match end {
            End::Front => start,
            End::Back => stop - bytes,
        };
        self.list
            .read_at(offset..offset + bytes, &mut self.buffer)?;
        let block = self.buffer.as_slice();
        if bytes == stop - start {
            self.unread = stop..stop;
            return Ok(Some((offset, block)));
        }
        // The line that is cut is left to the next block.
        Ok(match end {
            End::Front => memrchr(b'\n', block).map(|newline| {
                let (lines, _) = block.split_at(newline + 1);
                self.unread.start = start + lines.len() as u64;
                (start, lines)
            }),
            End::Back => memchr(b'\n', block).and_then(|newline| {
                let (_, lines) = block.split_at(newline + 1);
                self.unread.end = stop - lines.len() as u64;
                (!lines.is_empty()).then_some((self.unread.end, lines))
            }),
        })
    }
}

/// The lines of a text, without their newlines; after the last newline there is no line.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (line, newline) = rest.split_at(memchr(b'\n', rest).unwrap_or(rest.len()));
        rest = newline.get(1..).unwrap_or_default();
        Some(line)
    })
}

/// Why a sweep stopped. It does not know where it met a bad row.
#[derive(Debug)]
enum Stop {
    Read(io::Error),
    BadRow,
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<Fault> for Stop {
    fn from(_: Fault) -> Self {
        Self::BadRow
    }
}

fn changed() -> io::Error {
    io::Error::other("the list changed while it was read")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &str = include_str!("../data/prices.txt");

    /// Small enough for a short list to have many.
    const SMALL_BLOCK_BYTES: usize = 128;

    fn list(text: &str) -> PriceList {
        PriceList::read(text.as_bytes()).unwrap()
    }

    fn small_blocks(text: &str) -> PriceList {
        PriceList {
            block_bytes: SMALL_BLOCK_BYTES,
            ..list(text)
        }
    }

    fn printed(gifts: Option<Vec<Gift>>) -> Option<String> {
        let gift = |gift: &Gift| format!("{} {}", str::from_utf8(&gift.name).unwrap(), gift.price);
        gifts.map(|gifts| gifts.iter().map(gift).collect::<Vec<_>>().join(", "))
    }

    fn pair(list: &PriceList, balance: u64) -> Option<String> {
        printed(list.pair(balance, &|_| ()).unwrap())
    }

    fn triple(list: &PriceList, balance: u64) -> Option<String> {
        printed(list.triple(balance, &|_| ()).unwrap())
    }

    /// What both searches say about a list that they must refuse alike.
    fn refusal(list: &PriceList) -> (u64, Fault) {
        let [pair, triple] = [list.pair(9, &|_| ()), list.triple(9, &|_| ())].map(|result| {
            match result.unwrap_err() {
                ListError::Row { line, fault } => (line, fault),
                ListError::Read(error) => panic!("{error}"),
            }
        });
        assert_eq!(pair, triple);
        pair
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
        let list = PriceList::read(&b"K\xe4se, fett, 3\nWein , 7"[..]).unwrap();
        let gifts = list.pair(10, &|_| ()).unwrap().unwrap();
        let names: Vec<_> = gifts.into_iter().map(|gift| gift.name).collect();
        assert_eq!(names, [&b"K\xe4se, fett"[..], b"Wein"]);
    }

    #[test]
    fn a_bad_row_is_refused_with_its_line_wherever_it_stands() {
        for (row, fault) in [
            ("bad", Fault::Column),
            (", 500", Fault::Name),
            ("bad, five", Fault::Price),
            ("bad, 0", Fault::Price),
            ("bad, -500", Fault::Price),
            ("bad, 18446744073709551616", Fault::LargePrice),
            ("one name that is longer than a line, 500", Fault::Long),
        ] {
            for number in 1..=50 {
                let list = small_blocks(&rows_with(number, row));
                // A blank line after every row.
                assert_eq!(refusal(&list), (2 * number - 1, fault), "{row} in {number}");
            }
        }
    }

    #[test]
    fn a_lower_price_is_refused_with_its_line_wherever_it_stands() {
        for number in 1..=50 {
            if number > 1 {
                let list = small_blocks(&rows_with(number, "low, 1"));
                assert_eq!(refusal(&list), (2 * number - 1, Fault::Order), "{number}");
            }
            if number < 50 {
                let list = small_blocks(&rows_with(number, "high, 9000"));
                assert_eq!(refusal(&list), (2 * number + 1, Fault::Order), "{number}");
            }
        }
    }

    #[test]
    fn of_several_bad_rows_the_first_is_named() {
        let list = list("a, 1\nb, x\nc, 3\nd\n");
        assert_eq!(refusal(&list), (2, Fault::Price));
    }

    #[test]
    fn a_line_longer_than_a_block_is_refused() {
        let long = "x".repeat(3 * SMALL_BLOCK_BYTES);
        for text in [format!("a, 1\n{long}, 2\nc, 3"), format!("a, 1\n{long}")] {
            assert_eq!(refusal(&small_blocks(&text)), (2, Fault::Long));
        }
    }

    #[test]
    fn a_line_may_be_as_long_as_is_said() {
        let line_bytes_max = list("").line_bytes_max();
        for (line_bytes, fits) in [(line_bytes_max, true), (line_bytes_max + 1, false)] {
            let name = "x".repeat(line_bytes - 3);
            let list = list(&format!("{name}, 1\n").repeat(9));
            assert_eq!(list.pair(2, &|_| ()).is_ok(), fits, "{line_bytes}");
        }
    }

    #[test]
    fn progress_goes_up_to_the_length() {
        let text = rows_with(1, "first, 1");
        for search in [PriceList::pair, PriceList::triple] {
            let behind = Cell::new(0);
            let list = small_blocks(&text);
            search(&list, u64::MAX, &|bytes| {
                assert!((behind.get()..=list.bytes()).contains(&bytes));
                behind.set(bytes);
            })
            .unwrap();
            assert!(behind.get() > list.bytes() / 2);
        }
    }

    /// Fifty rows that cost from 1010 to 1500, each with a blank line behind it, and `row` in place
    /// of number `number`.
    fn rows_with(number: u64, row: &str) -> String {
        (1..=50).fold(String::new(), |mut text, each| {
            if each == number {
                writeln!(text, "{row}\n").unwrap();
            } else {
                writeln!(text, "gift {each}, {}\n", 1000 + 10 * each).unwrap();
            }
            text
        })
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

    /// The first of the best in the order that the module promises.
    fn best<const COUNT: usize>(
        prices: &[u64],
        balance: u64,
        candidates: impl Iterator<Item = [usize; COUNT]>,
    ) -> Option<String> {
        let sum = |rows: &[usize; COUNT]| rows.map(|row| prices[row]).iter().sum::<u64>();
        let sum_max = candidates.filter(|rows| sum(rows) <= balance);
        let rows =
            sum_max.reduce(|best, rows| if sum(&rows) > sum(&best) { rows } else { best })?;
        let gift = |row: usize| format!("a, {row} {}", prices[row]);
        Some(rows.map(gift).join(", "))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn the_answers_are_those_of_brute_force(
            (prices, text) in lists(),
            balance in 0_u64..200,
        ) {
            let rows = prices.len();
            let pairs = (0..rows).flat_map(|a| (a + 1..rows).rev().map(move |b| [a, b]));
            let triples = (0..rows).flat_map(|a| {
                (a + 1..rows).flat_map(move |b| (b + 1..rows).rev().map(move |c| [a, b, c]))
            });
            let best_pair = best(&prices, balance, pairs);
            let best_triple = best(&prices, balance, triples);
            for list in [list(&text), small_blocks(&text)] {
                prop_assert_eq!(pair(&list, balance), best_pair.clone());
                prop_assert_eq!(triple(&list, balance), best_triple.clone());
            }
        }
    }
}
