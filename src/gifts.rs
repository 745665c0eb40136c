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
//! A long sweep is cut into pieces for several threads. Where the pointers stand once so many bytes are
//! behind them is found without sweeping, by bisection; between two such places a piece has a stretch
//! of the front and one of the back to itself. A sweep yields prices only: the rows are looked for at
//! the end, by bisection as well.
//!
//! Of equal sums the one with the lowest price wins, and the outermost rows that have those prices:
//! the pair that lies furthest apart, which two pointers meet first; of triples the one with the first
//! row nearest to the beginning, then the widest pair behind it.
//!
//! **Invariant:** there is no answer from a list with a row that is not one or not in order,
//! wherever it stands; the error names the first such line. Each row is in one piece, wherever the
//! cuts are, and the pieces have to be in order as well. The sweep knows no line numbers: only when it
//! meets a bad row are the lines counted, by reading once more from the beginning.

mod block;
mod row;
mod turns;

use std::cmp::Reverse;
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fearless_simd::Level;
use memchr::{memchr, memrchr};

use self::block::{COLUMNS, Decoder, lines};
pub use self::row::Fault;
use self::turns::{HIGHS, LOWS, Pair, converge};

/// Bytes read at once. With the prices in it, both ends and what they are read into stay in the
/// second-level cache of a processor.
const BLOCK_BYTES: usize = 128 << 10;

/// Longest line, as a part of a block: a block must hold whole lines, and more than a few.
const LINES_PER_BLOCK_MIN: usize = 4;

/// Most threads of a sweep: more of them wait for memory.
const THREADS_MAX: usize = 8;

/// Pieces of a sweep for each thread, so that none waits long for the others.
const PIECES_PER_THREAD: usize = 4;

/// Least bytes of a piece, so that it is worth a thread and a few looks at where it ends.
const PIECE_BYTES_MIN: u64 = 8 << 20;

/// Around a place where a row is looked for, enough for most.
const LOOK_BYTES: u64 = 512;

/// A price list: rows `name, price`, sorted by price.
#[derive(Debug)]
pub struct PriceList {
    input: Input,
    bytes: u64,
    block_bytes: usize,
    threads: usize,
    piece_bytes_min: u64,
}

#[derive(Debug)]
enum Input {
    File(File),
    Memory(Vec<u8>),
}

/// A row of the list: what it costs and where its line is.
#[derive(Clone, Debug)]
struct Row {
    price: u64,
    line: Range<u64>,
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
            threads: thread::available_parallelism()
                .map_or(1, |count| count.get().min(THREADS_MAX)),
            piece_bytes_min: PIECE_BYTES_MIN,
        }
    }

    /// Length of the list in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The two gifts with the largest sum that `balance` pays for, the cheaper one first. Reads the
    /// list once; `progress` is told how many more bytes are behind it, by any thread.
    ///
    /// # Errors
    /// If the list cannot be read or any row of it is bad.
    pub fn pair(
        &self,
        balance: u64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Vec<Gift>>, ListError> {
        self.sweep(0..self.bytes, 0, balance, progress)
            .and_then(|pair| self.gifts(pair.map(|Pair { low, high }| [low, high])))
            .map_err(|stop| self.explain(stop))
    }

    /// The three gifts with the largest sum that `balance` pays for, the cheapest one first. Reads
    /// the list once for every row that can be the cheapest; `progress` is told how many more bytes of
    /// such rows are behind it.
    ///
    /// # Errors
    /// If the list cannot be read or any row of it is bad.
    pub fn triple(
        &self,
        balance: u64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Vec<Gift>>, ListError> {
        self.nested_sweeps(balance, progress)
            .and_then(|triple| self.gifts(triple))
            .map_err(|stop| self.explain(stop))
    }

    /// A pair behind every first row. The first sweep always happens: it checks the rows.
    fn nested_sweeps(
        &self,
        balance: u64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<[u64; 3]>, Stop> {
        let mut best = None;
        let mut sum_max = 0;
        self.each_row(0..self.bytes, |Row { price, line }| {
            let left = balance.saturating_sub(price);
            let Some(pair) = self.sweep(line.end..self.bytes, price, left, &|_| ())? else {
                // Nor is there one behind a later row, which costs no less.
                return Ok(ControlFlow::Break(()));
            };
            let sum = price + pair.sum();
            if sum > sum_max {
                sum_max = sum;
                best = Some([price, pair.low, pair.high]);
            }
            progress(line.end - line.start);
            Ok(if sum == balance {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(best)
    }

    /// The two-pointer sweep over `range`, where no row may cost less than `price_min`. Visits all
    /// of them, whatever the balance.
    fn sweep(
        &self,
        range: Range<u64>,
        price_min: u64,
        balance: u64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Pair>, Stop> {
        let pieces = self.pieces(range, balance)?;
        let pieces: Vec<_> = pieces
            .into_iter()
            .map(|piece| (piece, OnceLock::new()))
            .collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((piece, swept)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                swept.get_or_init(|| self.sweep_piece(piece, balance, progress));
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.threads.min(pieces.len()) {
                // Without another thread this one does its work.
                let _ = thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let swept = pieces
            .into_iter()
            .filter_map(|(_, swept)| swept.into_inner());
        let swept: Vec<_> = swept.collect::<Result<_, _>>()?;
        let lows = swept.iter().map(|swept| swept.low);
        let highs = swept.iter().map(|swept| swept.high).rev();
        let before = Span {
            first: 0,
            last: price_min,
        };
        lows.chain(highs).flatten().try_fold(before, Span::then)?;
        let pairs = swept.iter().filter_map(|swept| swept.best);
        Ok(pairs.max_by_key(|pair| (pair.sum(), Reverse(pair.low))))
    }

    /// Cuts a sweep into pieces that have about as much to read, in the order in which one after the
    /// other would sweep them.
    fn pieces(&self, range: Range<u64>, balance: u64) -> Result<Vec<Piece>, Stop> {
        let bytes = range.end - range.start;
        let pieces_max = match self.threads {
            1 => 1,
            threads => (threads * PIECES_PER_THREAD) as u64,
        };
        let count = (bytes / self.piece_bytes_min).clamp(1, pieces_max);
        let mut pieces = Vec::new();
        let mut rest = range.clone();
        for number in 1..count {
            let cut = self.cut(&range, bytes / count * number, balance)?;
            // Where rows are not in order, cuts need not be; that the pieces are is enough.
            if let Some((low, high)) = cut
                && (rest.start..=rest.end).contains(&low)
                && (low..=rest.end).contains(&high.line.end)
            {
                pieces.push(Piece {
                    front: rest.start..low,
                    back: high.line.end..rest.end,
                    partner: Some(high.price),
                });
                rest = low..high.line.end;
            }
        }
        pieces.push(Piece {
            back: rest.end..rest.end,
            front: rest,
            partner: None,
        });
        Ok(pieces)
    }

    /// Where a sweep of `range` stands when about `behind` bytes are behind its pointers: where the
    /// lower one begins a line, and the row of the higher one. All rows before the lower one fit with
    /// that row; no row behind it fits with those that the lower one has yet to pass.
    fn cut(
        &self,
        range: &Range<u64>,
        behind: u64,
        balance: u64,
    ) -> Result<Option<(u64, Row)>, Stop> {
        let fits = |low: u64, high: u64| low.checked_add(high).is_some_and(|sum| sum <= balance);
        let (mut least, mut most) = (0_u64, behind);
        loop {
            let front = least.midpoint(most);
            let low = self.row_near(range.start + front, range)?;
            let high = self.row_near(range.end - (behind - front), range)?;
            let (Some(low), Some(high)) = (low, high) else {
                return Ok(None);
            };
            let fit = fits(low.price, high.price);
            if most - least > self.block_bytes as u64 {
                *if fit { &mut least } else { &mut most } = front;
            } else if fit {
                // The higher pointer has come down to the last row that fits with the lower one's.
                let rest = low.line.end..range.end;
                let high = self.last_row(rest, |price| fits(low.price, price))?;
                return Ok(high.map(|high| (low.line.start, high)));
            } else {
                // The lower one has gone up to the first row that does not fit with the higher one's.
                let rest = range.start..high.line.start;
                let fitting = self.last_row(rest, |price| fits(price, high.price))?;
                let low = fitting.map_or(range.start, |row| row.line.end);
                return Ok(Some((low, high)));
            }
        }
    }

    /// The last row in `range` that is `wanted`, where those that are come before those that are not.
    fn last_row(
        &self,
        mut range: Range<u64>,
        wanted: impl Fn(u64) -> bool,
    ) -> Result<Option<Row>, Stop> {
        let mut last = None;
        while range.end - range.start > self.block_bytes as u64 {
            match self.row_near(range.start.midpoint(range.end), &range)? {
                Some(row) if wanted(row.price) => {
                    range.start = row.line.end;
                    last = Some(row);
                }
                Some(row) => range.end = row.line.start,
                None => break,
            }
        }
        self.each_row(range, |row| {
            if !wanted(row.price) {
                return Ok(ControlFlow::Break(()));
            }
            last = Some(row);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(last)
    }

    /// Some row in `range` near `offset`. Nothing if there are only blank lines.
    fn row_near(&self, offset: u64, range: &Range<u64>) -> Result<Option<Row>, Stop> {
        let mut buffer = Vec::new();
        for reach in [LOOK_BYTES, self.line_bytes_max() as u64 + 1] {
            let start = offset.saturating_sub(reach).max(range.start);
            let end = (offset + reach).min(range.end);
            self.read_at(start..end, &mut buffer)?;
            // Whole lines only.
            let text = buffer.as_slice();
            let (mut first, mut last) = (0, text.len());
            if start > range.start {
                first = memchr(b'\n', text).map_or(last, |newline| newline + 1);
            }
            if end < range.end {
                last = memrchr(b'\n', text).map_or(0, |newline| newline + 1);
            }
            let text = text.get(first..last).unwrap_or_default();
            if let Some(row) = self.rows(text, start + first as u64).next() {
                return row.map(Some);
            }
        }
        Ok(None)
    }

    /// Visits the rows in `range`, which begins and ends with whole lines, from its beginning.
    fn each_row(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(Row) -> Result<ControlFlow<()>, Stop>,
    ) -> Result<(), Stop> {
        let (mut unread, mut buffer) = (range, Vec::new());
        while !unread.is_empty() {
            let offset = unread.start;
            let block = self
                .take(&mut unread, End::Front, &mut buffer)?
                .ok_or(Stop::BadRow)?;
            for row in self.rows(block.get(COLUMNS..).unwrap_or_default(), offset) {
                if visit(row?)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The rows on the lines of `text`, which is found at `offset`.
    fn rows(&self, text: &[u8], mut offset: u64) -> impl Iterator<Item = Result<Row, Stop>> {
        lines(text).filter_map(move |text| {
            let line = offset..self.bytes.min(offset + text.len() as u64 + 1);
            offset = line.end;
            match self.parse(text) {
                Ok(row) => row.map(|(_, price)| Ok(Row { price, line })),
                Err(fault) => Some(Err(fault.into())),
            }
        })
    }

    /// What costs as much as a search has found, in its order; nothing is no answer. The first row
    /// with a price counts, of the last price the last one.
    fn gifts<const COUNT: usize>(
        &self,
        prices: Option<[u64; COUNT]>,
    ) -> Result<Option<Vec<Gift>>, Stop> {
        let Some(prices) = prices else {
            return Ok(None);
        };
        let mut gifts = Vec::with_capacity(COUNT);
        let mut rest = 0..self.bytes;
        for (number, price) in (1..).zip(prices) {
            let row = if number == COUNT {
                self.last_row(rest.clone(), |other| other <= price)?
            } else {
                let lower = self.last_row(rest.clone(), |other| other < price)?;
                rest.start = lower.map_or(rest.start, |row| row.line.end);
                let mut first = None;
                self.each_row(rest.clone(), |row| {
                    first = Some(row);
                    Ok(ControlFlow::Break(()))
                })?;
                first
            };
            let row = row.filter(|row| row.price == price).ok_or_else(changed)?;
            rest.start = row.line.end;
            gifts.push(self.gift(row)?);
        }
        Ok(Some(gifts))
    }

    fn gift(&self, row: Row) -> io::Result<Gift> {
        let mut buffer = Vec::new();
        self.read_at(row.line, &mut buffer)?;
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
        let (mut unread, mut buffer) = (0..self.bytes, Vec::new());
        let (mut line, mut price_min) = (0, 0);
        while !unread.is_empty() {
            let Some(block) = self.take(&mut unread, End::Front, &mut buffer)? else {
                let (line, fault) = (line + 1, Fault::Long);
                return Ok(ListError::Row { line, fault });
            };
            for text in lines(block.get(COLUMNS..).unwrap_or_default()) {
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

    fn parse<'a>(&self, line: &'a [u8]) -> Result<Option<(&'a [u8], u64)>, Fault> {
        if line.len() > self.line_bytes_max() {
            return Err(Fault::Long);
        }
        row::parse(line)
    }

    fn line_bytes_max(&self) -> usize {
        self.block_bytes / LINES_PER_BLOCK_MIN
    }

    /// Takes as many whole lines as fit into a block from an end of what is `unread`, and returns
    /// them behind [`COLUMNS`] other bytes; nothing if not one fits.
    fn take<'a>(
        &self,
        unread: &mut Range<u64>,
        end: End,
        buffer: &'a mut Vec<u8>,
    ) -> io::Result<Option<&'a [u8]>> {
        let bytes = (unread.end - unread.start).min(self.block_bytes as u64);
        let range = match end {
            End::Front => unread.start..unread.start + bytes,
            End::Back => unread.end - bytes..unread.end,
        };
        self.read_at_behind(COLUMNS, range.clone(), buffer)?;
        let block = buffer.as_slice();
        if range == *unread {
            unread.start = unread.end;
            return Ok(Some(block));
        }
        // The line that is cut is left to the next block.
        let (_, text) = block.split_at(COLUMNS);
        Ok(match end {
            End::Front => memrchr(b'\n', text).and_then(|newline| {
                unread.start += newline as u64 + 1;
                block.get(..COLUMNS + newline + 1)
            }),
            End::Back => memchr(b'\n', text).and_then(|newline| {
                unread.end = range.start + newline as u64 + 1;
                block
                    .get(newline + 1..)
                    .filter(|lines| lines.len() > COLUMNS)
            }),
        })
    }

    fn read_at(&self, range: Range<u64>, buffer: &mut Vec<u8>) -> io::Result<()> {
        self.read_at_behind(0, range, buffer)
    }

    /// Reads `range` into the buffer, behind `margin` bytes.
    fn read_at_behind(
        &self,
        margin: usize,
        range: Range<u64>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        // The length of a block, or what is left of an address space that holds the list.
        let bytes = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        buffer.resize(margin + bytes, 0);
        let (_, text) = buffer.split_at_mut(margin);
        match &self.input {
            Input::File(file) => file.read_exact_at(text, range.start),
            Input::Memory(list) => {
                let start = usize::try_from(range.start).map_err(io::Error::other)?;
                text.copy_from_slice(list.get(start..start + bytes).ok_or_else(changed)?);
                Ok(())
            }
        }
    }

    /// Sweeps a piece and reads all of it.
    fn sweep_piece(
        &self,
        piece: &Piece,
        balance: u64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Swept, Stop> {
        let level = Level::new();
        let mut ends = Ends::new(self, piece);
        let mut partners = piece.partner.map_or(Vec::new(), |price| vec![price; HIGHS]);
        let (mut low, mut high) = (Vec::new(), Vec::new());
        let mut best = None;
        loop {
            let unread = ends.unread();
            ends.fill(End::Front, &mut low, LOWS)?;
            ends.fill(End::Back, &mut high, HIGHS)?;
            progress(unread - ends.unread());
            if high.len() < HIGHS {
                high.splice(..0, partners.drain(..));
            }
            if ends.meet {
                // With nothing left to read, the ends share what one of them still has.
                if low.is_empty() {
                    low.extend(high.drain(..high.len() / 2));
                } else if high.is_empty() {
                    high = low.split_off(low.len().div_ceil(2));
                }
            }
            if low.is_empty() || high.is_empty() {
                if ends.unread() == 0 {
                    let (low, high) = (ends.front.seen, ends.back.seen);
                    return Ok(Swept { best, low, high });
                }
                // Their partners are in another piece.
                low.clear();
                high.clear();
                continue;
            }
            let (low_left, high_left) = converge(level, &low, &high, balance, &mut best);
            low.drain(..low.len() - low_left);
            high.truncate(high_left);
        }
    }
}

/// A part of a sweep: what the lower pointer passes in it, and what the higher one does.
#[derive(Debug)]
struct Piece {
    front: Range<u64>,
    back: Range<u64>,
    /// What the row before `back` costs, with which the last rows of `front` may fit. None in the last
    /// piece, in which the pointers meet.
    partner: Option<u64>,
}

/// What a piece came to: its best pair, and from which to which price the rows go that each pointer
/// has passed.
struct Swept {
    best: Option<Pair>,
    low: Option<Span>,
    high: Option<Span>,
}

/// From which to which price rows go that are in order.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u64,
    last: u64,
}

impl Span {
    /// Both, one behind the other.
    fn then(self, next: Self) -> Result<Self, Stop> {
        if next.first < self.last {
            return Err(Stop::BadRow);
        }
        let (first, last) = (self.first, next.last);
        Ok(Self { first, last })
    }
}

/// What is left to read of a piece.
struct Ends<'a> {
    list: &'a PriceList,
    front: Side,
    back: Side,
    /// Whether each end goes on with what is left of the other.
    meet: bool,
    buffer: Vec<u8>,
    known: Vec<u64>,
}

struct Side {
    unread: Range<u64>,
    /// Rows of one side resemble each other.
    decoder: Decoder,
    seen: Option<Span>,
}

#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

impl<'a> Ends<'a> {
    fn new(list: &'a PriceList, piece: &Piece) -> Self {
        let side = |unread: &Range<u64>| Side {
            unread: unread.clone(),
            decoder: Decoder::new(list.line_bytes_max()),
            seen: None,
        };
        Self {
            list,
            front: side(&piece.front),
            back: side(&piece.back),
            meet: piece.partner.is_none(),
            buffer: Vec::new(),
            known: Vec::new(),
        }
    }

    fn unread(&self) -> u64 {
        let [front, back] = [&self.front, &self.back].map(|side| &side.unread);
        (front.end - front.start) + (back.end - back.start)
    }

    /// Reads rows from `end` until there are `enough` of them in `prices`, or no more.
    fn fill(&mut self, end: End, prices: &mut Vec<u64>, enough: usize) -> Result<(), Stop> {
        let (own, other) = match end {
            End::Front => (&mut self.front, &mut self.back),
            End::Back => (&mut self.back, &mut self.front),
        };
        while prices.len() < enough {
            let unread = if own.unread.is_empty() && self.meet {
                &mut other.unread
            } else {
                &mut own.unread
            };
            if unread.is_empty() {
                break;
            }
            let block = self.list.take(unread, end, &mut self.buffer)?;
            let block = block.ok_or(Stop::BadRow)?;
            // Rows from the back come before those that are already known.
            self.known.clear();
            if matches!(end, End::Back) {
                mem::swap(prices, &mut self.known);
            }
            let start = prices.len();
            own.decoder.decode(block, prices)?;
            if let Some(&[first, ..]) = prices.get(start..)
                && let Some(&last) = prices.last()
            {
                let new = Span { first, last };
                own.seen = Some(match (end, own.seen) {
                    (_, None) => new,
                    (End::Front, Some(seen)) => seen.then(new)?,
                    (End::Back, Some(seen)) => new.then(seen)?,
                });
            }
            prices.extend(&self.known);
        }
        Ok(())
    }
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
    use std::fmt::Write;
    use std::iter;
    use std::sync::atomic::AtomicU64;

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

    /// A sweep in as many pieces, or as many as there are bytes for.
    fn cut_up(list: PriceList, pieces: usize) -> PriceList {
        PriceList {
            threads: pieces.div_ceil(PIECES_PER_THREAD) + 1,
            piece_bytes_min: list.bytes / pieces as u64 + 1,
            ..list
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
                let list = cut_up(list, 7);
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
                let list = cut_up(list, 7);
                assert_eq!(refusal(&list), (2 * number - 1, Fault::Order), "{number}");
            }
            if number < 50 {
                let list = small_blocks(&rows_with(number, "high, 9000"));
                assert_eq!(refusal(&list), (2 * number + 1, Fault::Order), "{number}");
                let list = cut_up(list, 7);
                assert_eq!(refusal(&list), (2 * number + 1, Fault::Order), "{number}");
            }
        }
    }

    #[test]
    fn a_bad_row_among_many_alike_is_refused_with_its_line() {
        for (row, fault) in [
            ("gift 1500", Fault::Column),
            (", 11500", Fault::Name),
            (" , 11500", Fault::Name),
            ("gift, 1150x", Fault::Price),
            ("gift, x1500", Fault::Price),
            ("gift, 1 500", Fault::Price),
            ("gift, 00000", Fault::Price),
            ("gift, 11500,", Fault::Price),
            ("gift, 10000", Fault::Order),
            ("gift, 99999", Fault::Order),
        ] {
            for number in (2..700).step_by(23) {
                let text = (1..=700).fold(String::new(), |mut text, each| {
                    if each == number {
                        writeln!(text, "{row}").unwrap();
                    } else {
                        writeln!(text, "gift {each}, {}", 10_100 + each).unwrap();
                    }
                    text
                });
                let line = number + u64::from(row.ends_with("99999"));
                for pieces in [1, 7] {
                    let list = cut_up(list(&text), pieces);
                    let error = list.pair(9, &|_| ()).unwrap_err();
                    assert_eq!(error.to_string(), format!("line {line}: {fault}"), "{row}");
                }
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
    fn progress_adds_up_to_the_length() {
        let text = rows_with(1, "first, 1");
        for list in [small_blocks(&text), cut_up(small_blocks(&text), 7)] {
            let behind = AtomicU64::new(0);
            list.pair(1200, &|bytes| {
                behind.fetch_add(bytes, Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(behind.into_inner(), list.bytes());
            let behind = AtomicU64::new(0);
            list.triple(u64::MAX, &|bytes| {
                behind.fetch_add(bytes, Ordering::Relaxed);
            })
            .unwrap();
            assert!((list.bytes() / 2..=list.bytes()).contains(&behind.into_inner()));
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
            pieces in 2_usize..8,
        ) {
            let rows = prices.len();
            let pairs = (0..rows).flat_map(|a| (a + 1..rows).rev().map(move |b| [a, b]));
            let triples = (0..rows).flat_map(|a| {
                (a + 1..rows).flat_map(move |b| (b + 1..rows).rev().map(move |c| [a, b, c]))
            });
            let best_pair = best(&prices, balance, pairs);
            let best_triple = best(&prices, balance, triples);
            for list in [list(&text), small_blocks(&text), cut_up(small_blocks(&text), pieces)] {
                prop_assert_eq!(pair(&list, balance), best_pair.clone());
                prop_assert_eq!(triple(&list, balance), best_triple.clone());
            }
        }

        #[test]
        fn a_long_list_in_any_number_of_pieces_has_the_answer_of_brute_force(
            (prices, text) in long_lists(),
            share in 0_u64..=130,
            pieces in 1_usize..20,
        ) {
            let ends = prices.first().zip(prices.last()).map_or(0, |(first, last)| first + last);
            let balance = ends / 100 * share + ends % 100;
            let rows = prices.len();
            let pairs = (0..rows).flat_map(|a| (a + 1..rows).rev().map(move |b| [a, b]));
            let best_pair = best(&prices, balance, pairs);
            for list in [cut_up(list(&text), pieces), cut_up(small_blocks(&text), pieces)] {
                prop_assert_eq!(pair(&list, balance), best_pair.clone());
            }
        }
    }
}
