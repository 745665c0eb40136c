//! Rows of a list, one after the other towards either end, from wherever a line begins or ends.
//!
//! **Invariant:** a reader passes no line without having checked it, and holds no more than a block,
//! however long the list is. The error names the first bad line of the list, whichever one a search met.

use std::io;
use std::ops::{Range, RangeInclusive};

use memchr::{memchr, memrchr};

use crate::list::{List, ListError, Stop, changed};
use crate::row::{self, Fault};

/// Reads a list in blocks.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    list: &'a List,
    block: Vec<u8>,
    /// Where the block begins in the list.
    block_start: usize,
}

/// A row of the list: its price, and where its line begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) price: u64,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// What can be bought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gift {
    /// Its name as it stands in the list, in whatever encoding.
    pub(crate) name: Vec<u8>,
    /// Its price in cents.
    pub(crate) price: u64,
}

/// A line, and the name and the price on it unless it is blank.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    start: usize,
    /// Where the next line begins.
    pub(crate) end: usize,
    pub(crate) row: Option<(&'a [u8], u64)>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(list: &'a List) -> Self {
        Self {
            list,
            block: Vec::new(),
            block_start: 0,
        }
    }

    /// The first row after `row`, or of the list. It must not cost less.
    pub(crate) fn row_after(&mut self, row: Option<Row>) -> Result<Option<Row>, Stop> {
        let (mut start, price_min) = row.map_or((0, 0), |row| (row.end, row.price));
        while start < self.list.bytes {
            let line = self.line_from(start)?;
            if let Some(row) = line.row_in_order(price_min..=u64::MAX)? {
                return Ok(Some(row));
            }
            start = line.end;
        }
        Ok(None)
    }

    /// The last row before `row`, or of the list. It must not cost more.
    pub(crate) fn row_before(&mut self, row: Option<Row>) -> Result<Option<Row>, Stop> {
        let (mut end, price_max) =
            row.map_or((self.list.bytes, u64::MAX), |row| (row.start, row.price));
        while end > 0 {
            let line = self.line_before(end)?;
            if let Some(row) = line.row_in_order(0..=price_max)? {
                return Ok(Some(row));
            }
            end = line.start;
        }
        Ok(None)
    }

    /// What is on the line of `row`.
    pub(crate) fn gift(&mut self, row: Row) -> Result<Gift, Stop> {
        match self.line_from(row.start)?.row {
            Some((name, price)) if price == row.price => Ok(Gift {
                name: name.to_vec(),
                price,
            }),
            _ => Err(changed().into()),
        }
    }

    /// The line that begins at `start`.
    pub(crate) fn line_from(&mut self, start: usize) -> Result<Line<'_>, Stop> {
        let line_bytes_max = self.list.line_bytes_max();
        // The longest line and its newline.
        let end = self.list.bytes.min(start + line_bytes_max + 1);
        let text = self.text(start..end, start)?;
        let text = memchr(b'\n', text).map_or(text, |newline| text.split_at(newline + 1).0);
        Line::check(start, text, line_bytes_max)
    }

    /// The line that ends at `end`.
    fn line_before(&mut self, end: usize) -> Result<Line<'_>, Stop> {
        let line_bytes_max = self.list.line_bytes_max();
        // The newline of the line before, the longest line and its newline.
        let start = end.saturating_sub(line_bytes_max + 2);
        let text = self.text(start..end, end.saturating_sub(self.list.block_bytes))?;
        // The last byte is the newline of this line, unless the list ends without one.
        let before = text.split_last().map_or(text, |(_, before)| before);
        let text = memrchr(b'\n', before).map_or(text, |newline| text.split_at(newline + 1).1);
        Line::check(end - text.len(), text, line_bytes_max)
    }

    /// The bytes in `range`. If the block does not hold all of them, another one is loaded, from
    /// `block_start` on.
    fn text(&mut self, range: Range<usize>, block_start: usize) -> io::Result<&[u8]> {
        if range.start < self.block_start || range.end > self.block_start + self.block.len() {
            let block_end = self.list.bytes.min(block_start + self.list.block_bytes);
            self.block.resize(block_end - block_start, 0);
            self.block_start = block_start;
            self.list.read_at(block_start, &mut self.block)?;
        }
        let range = range.start - self.block_start..range.end - self.block_start;
        self.block.get(range).ok_or_else(changed)
    }
}

impl<'a> Line<'a> {
    fn check(start: usize, text: &'a [u8], bytes_max: usize) -> Result<Self, Stop> {
        let end = start + text.len();
        let text = match text {
            // The start of the list: see RFC 3629, section 6, for the mark.
            [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] if start == 0 => {
                return Err(Fault::Encoding("UTF-32").into());
            }
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] if start == 0 => {
                return Err(Fault::Encoding("UTF-16").into());
            }
            [0xef, 0xbb, 0xbf, text @ ..] if start == 0 => text,
            _ => text,
        };
        let (text, length) = match text {
            [text @ .., b'\r', b'\n'] => (text, text.len() + 1),
            [text @ .., b'\n'] | text => (text, text.len()),
        };
        if length > bytes_max {
            return Err(Fault::Long.into());
        }
        let row = row::parse(text)?;
        Ok(Self { start, end, row })
    }

    /// The row on the line; it is not in order if its price is not one of `prices`.
    fn row_in_order(&self, prices: RangeInclusive<u64>) -> Result<Option<Row>, Fault> {
        let &Self { start, end, row } = self;
        match row {
            Some((_, price)) if !prices.contains(&price) => Err(Fault::Order),
            Some((_, price)) => Ok(Some(Row { price, start, end })),
            None => Ok(None),
        }
    }
}

/// The error to print for what stopped a search.
pub(crate) fn explain(list: &List, stop: Stop) -> ListError {
    match stop {
        Stop::Read(error) => ListError::Read(error),
        Stop::BadLine(_) => first_bad_line(list),
    }
}

/// Counts lines from the beginning, up to the first bad one.
fn first_bad_line(list: &List) -> ListError {
    let mut reader = Reader::new(list);
    let (mut line, mut start, mut price_min) = (1, 0, 0);
    while start < list.bytes {
        let Line { end, row, .. } = match reader.line_from(start) {
            Ok(line) => line,
            Err(Stop::BadLine(fault)) => return ListError::BadLine { line, fault },
            Err(Stop::Read(error)) => return ListError::Read(error),
        };
        if let Some((_, price)) = row {
            if price < price_min {
                let fault = Fault::Order;
                return ListError::BadLine { line, fault };
            }
            price_min = price;
        }
        (line, start) = (line + 1, end);
    }
    ListError::Read(changed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::list::tests::small_blocks;

    /// All rows, in the order in which `next` comes to them.
    fn rows(
        mut next: impl FnMut(Option<Row>) -> Result<Option<Row>, Stop>,
    ) -> Result<Vec<Row>, Stop> {
        let mut rows = Vec::new();
        while let Some(row) = next(rows.last().copied())? {
            rows.push(row);
        }
        Ok(rows)
    }

    proptest! {
        #[test]
        fn both_directions_pass_the_same_rows(
            mut lines in proptest::collection::vec("a{1,29}, 1|[ \\r]{0,3}|a, 1\r", 0..60),
            bad in proptest::option::of("a{30,40}, 1|a{999}, 1|a, 2|a"),
            place in any::<proptest::sample::Index>(),
            newline in any::<bool>(),
        ) {
            let place = place.index(lines.len() + 1);
            lines.splice(place..place, bad);
            let text = lines.join("\n") + if newline { "\n" } else { "" };
            let list = small_blocks(&text);
            let [mut front, mut back] = [Reader::new(&list), Reader::new(&list)];
            let forward = rows(|row| front.row_after(row)).ok();
            let backward = rows(|row| back.row_before(row)).ok();
            let backward = backward.map(|rows| rows.into_iter().rev().collect());
            prop_assert_eq!(forward, backward);
        }
    }
}
