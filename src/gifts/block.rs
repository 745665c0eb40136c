//! The prices in a block of whole lines.
//!
//! Rows resemble each other: over long stretches their prices have as many digits, with the same
//! separator in front. So a [`Decoder`] keeps the [`Shape`] of a row that it has read and tries it on
//! the next few KiB at once: what stands before each newline is copied into a table, one row below
//! the other; no byte of a column may be less or more than the shape allows there; then the digits
//! of several rows become numbers in the same instructions. Lines that do not fit are read one by
//! one, and give the next shape.
//!
//! **Invariant:** a price is what [`row::parse`] finds, and there is an error if it has one.

use std::iter;

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, u8x32, u16x16, u32x8, u64x4};
use memchr::{memchr, memrchr};

use super::row::{self, Fault};

/// Bytes before a newline that a shape knows. As many stand before a block, whatever they are.
pub(super) const COLUMNS: usize = 16;

/// Most digits of a price with a shape: with a comma, a space and the end of a name there is room
/// for them.
const DIGITS_MAX: usize = 8;

/// Newlines are looked for in as many bytes as an integer has bits.
const CHUNK_BYTES: usize = 64;

/// They, and what stands before the first of them.
const WINDOW_BYTES: usize = COLUMNS + CHUNK_BYTES;

/// What is tried at once: with its table it stays in the first-level cache.
const BATCH_BYTES: usize = 8 << 10;
const BATCH_ROWS: usize = 1024;

/// Rows whose last digits fit into one vector.
const LANES: usize = 4;

type Columns = [u8; COLUMNS];

/// Turns blocks into prices.
pub(super) struct Decoder {
    level: Level,
    line_bytes_max: usize,
    shape: Option<Shape>,
    table: Vec<Columns>,
}

impl Decoder {
    pub(super) fn new(line_bytes_max: usize) -> Self {
        Self {
            level: Level::new(),
            line_bytes_max,
            shape: None,
            table: vec![[0; COLUMNS]; BATCH_ROWS],
        }
    }

    /// Appends the prices on the lines of `text` after its first [`COLUMNS`] bytes; they have to go on
    /// ascending.
    pub(super) fn decode(&mut self, mut text: &[u8], prices: &mut Vec<u64>) -> Result<(), Fault> {
        while let Some(block @ [_, ..]) = text.get(COLUMNS..) {
            let batch = self.shape.and_then(|shape| {
                let table = &mut self.table;
                dispatch!(self.level, simd => decode_batch(simd, &shape, text, table, prices))
            });
            let bytes = match batch {
                Some(bytes) => bytes,
                None => self.decode_lines(block, prices)?,
            };
            text = text.get(bytes..).unwrap_or_default();
        }
        Ok(())
    }

    /// Decodes lines of about as many bytes as are tried at once; returns how many they are.
    #[cold]
    fn decode_lines(&mut self, block: &[u8], prices: &mut Vec<u64>) -> Result<usize, Fault> {
        let (mut bytes, mut last) = (0, [].as_slice());
        for line in lines(block) {
            if line.len() > self.line_bytes_max {
                return Err(Fault::Long);
            }
            let price = match row::quick_price(line) {
                Some(price) => Some(price),
                None => row::parse(line)?.map(|(_, price)| price),
            };
            if let Some(price) = price {
                if prices.last() > Some(&price) {
                    return Err(Fault::Order);
                }
                prices.push(price);
                last = line;
            }
            bytes += line.len() + 1;
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        // A batch does not ask how long its lines are.
        let short = self.line_bytes_max >= 2 * BATCH_BYTES;
        self.shape = Shape::of(last).filter(|_| short);
        Ok(bytes)
    }
}

/// The lines of a text, without their newlines; after the last newline there is no line.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
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

/// What rows look like at their end: a name, `, ` or `,`, and one to eight digits.
#[derive(Clone, Copy, Debug)]
struct Shape {
    least: Columns,
    most: Columns,
    digits: [u8; DIGITS_MAX],
}

impl Shape {
    fn of(line: &[u8]) -> Option<Self> {
        let digits = line.iter().rev().take_while(|byte| byte.is_ascii_digit());
        let digits = digits.count();
        let head = line.get(..line.len() - digits)?;
        let separator = if head.ends_with(b", ") {
            &b", "[..]
        } else {
            b","
        };
        if digits > DIGITS_MAX || !head.ends_with(separator) {
            return None;
        }
        let mut shape = Self {
            least: [0; COLUMNS],
            most: [u8::MAX; COLUMNS],
            digits: [0; DIGITS_MAX],
        };
        let allowed = [(b'0', b'9')].repeat(digits).into_iter();
        let allowed = allowed.chain(separator.iter().rev().map(|&byte| (byte, byte)));
        // The name has a last character, on the same line.
        let allowed = allowed.chain([(b' ' + 1, u8::MAX)]);
        let columns = iter::zip(&mut shape.least, &mut shape.most).rev();
        for ((least, most), allowed) in iter::zip(columns, allowed) {
            (*least, *most) = allowed;
        }
        shape
            .digits
            .iter_mut()
            .rev()
            .take(digits)
            .for_each(|mask| *mask = u8::MAX);
        Some(shape)
    }
}

/// Appends the prices on the next lines and returns how many bytes those have; nothing if they do
/// not have the shape.
#[allow(
    clippy::inline_always,
    reason = "becomes part of code for one kind of processor"
)]
#[inline(always)]
fn decode_batch<S: Simd>(
    simd: S,
    shape: &Shape,
    text: &[u8],
    table: &mut [Columns],
    prices: &mut Vec<u64>,
) -> Option<usize> {
    let (rows, scanned) = tabulate(simd, text, table);
    let bytes = 1 + memrchr(b'\n', text.get(COLUMNS..COLUMNS + scanned)?)?;
    let last = *table.get(rows.checked_sub(1)?)?;
    let rows_filled = rows.next_multiple_of(LANES);
    table.get_mut(rows..rows_filled)?.fill(last);
    let known = prices.len();
    prices.resize(known + rows_filled, 0);
    let fits = convert(
        simd,
        shape,
        table.get(..rows_filled)?,
        prices.get_mut(known..)?,
    ) && prices.get(known) > Some(&0)
        && ascend(prices.get(known.saturating_sub(1)..)?);
    prices.truncate(known + if fits { rows } else { 0 });
    fits.then_some(bytes)
}

/// Copies what stands before newlines into `table`; returns how many those are, and how many bytes
/// were looked at.
#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn tabulate<S: Simd>(simd: S, text: &[u8], table: &mut [Columns]) -> (usize, usize) {
    let (mut rows, mut scanned) = (0, 0);
    let windows = text.windows(WINDOW_BYTES).step_by(CHUNK_BYTES);
    for window in windows.take(BATCH_BYTES / CHUNK_BYTES) {
        let (Some(window), Some(free)) = (
            window.first_chunk(),
            table
                .get_mut(rows..)
                .and_then(<[Columns]>::first_chunk_mut::<CHUNK_BYTES>),
        ) else {
            break;
        };
        let mut newlines = newlines(simd, window);
        rows += newlines.count_ones() as usize;
        scanned += CHUNK_BYTES;
        let mut copy = |row: usize| {
            let end = newlines.trailing_zeros() as usize;
            let columns = window.get(end..).and_then(<[u8]>::first_chunk);
            if let (Some(row), Some(columns)) = (free.get_mut(row), columns) {
                *row = *columns;
            }
            newlines &= newlines.wrapping_sub(1);
            newlines != 0
        };
        // Some more than there may be: that costs less than branches that nobody can predict.
        copy(0);
        if copy(1) {
            copy(2);
            let mut row = 3;
            while copy(row) {
                row += 1;
            }
        }
    }
    (rows, scanned)
}

/// A bit for each byte of the chunk at the end of `window`.
#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn newlines<S: Simd>(simd: S, window: &[u8; WINDOW_BYTES]) -> u64 {
    let (_, chunk) = window.split_at(COLUMNS);
    let (low, high) = chunk.split_at(CHUNK_BYTES / 2);
    let [low, high] =
        [low, high].map(|half| u8x32::from_slice(simd, half).simd_eq(b'\n').to_bitmask());
    low | high << (CHUNK_BYTES / 2)
}

/// Turns the digits of all rows into prices, and says whether the rows have the shape.
#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn convert<S: Simd>(simd: S, shape: &Shape, table: &[Columns], prices: &mut [u64]) -> bool {
    let both = |columns: &Columns| u8x32::from_slice(simd, [*columns; 2].as_flattened());
    let digits = u8x32::from_slice(simd, [shape.digits; 4].as_flattened());
    let mut least = u8x32::splat(simd, u8::MAX);
    let mut most = u8x32::splat(simd, 0);
    let (rows, _) = table.as_chunks::<LANES>();
    let (prices, _) = prices.as_chunks_mut::<LANES>();
    for (rows, prices) in iter::zip(rows, prices) {
        let (first, second) = rows.as_flattened().split_at(2 * COLUMNS);
        let [first, second] = [first, second].map(|rows| u8x32::from_slice(simd, rows));
        least = least.min(first.min(second));
        most = most.max(first.max(second));
        let [first, second] = [first, second].map(Bytes::bitcast::<u64x4<S>>);
        let tails = first.unzip_high(second);
        // Neighbours are added up, the left one ten times, then a hundred, then ten thousand times.
        let ones: u16x16<S> = ((tails.bitcast::<u8x32<S>>() ^ b'0') & digits).bitcast();
        let tens: u32x8<S> = ((ones * (1 + (10 << 8))) >> 8).bitcast();
        let thousands: u64x4<S> = ((tens * (1 + (100 << 16))) >> 16).bitcast();
        let price = (thousands & u64::from(u32::MAX)) * 10_000 + (thousands >> 32);
        price.store_slice(prices);
    }
    least.simd_ge(both(&shape.least)).all_true() && most.simd_le(both(&shape.most)).all_true()
}

/// Counts rather than stops: several are looked at at once.
#[allow(clippy::inline_always, reason = "as above")]
#[inline(always)]
fn ascend(prices: &[u64]) -> bool {
    let next = prices.get(1..).unwrap_or_default();
    iter::zip(prices, next)
        .filter(|(price, next)| next < price)
        .count()
        == 0
}
