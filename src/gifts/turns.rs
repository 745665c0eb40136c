//! The turns of the two pointers, over prices that are in memory.
//!
//! Eight prices of the lower side and four of the higher one meet at once: all their sums are looked
//! at, and those of one side are done with. They are the lower ones if the largest of them and the
//! smallest of the others fit the balance, as no larger partner is to come; otherwise the higher ones,
//! as no smaller one is. So there is a turn for several rows, and none of it depends on a branch.

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, i64x4, u64x4};

/// Prices of each side that meet at once: two vectors, and as many as are worth it for them.
pub(super) const LOWS: usize = 8;
pub(super) const HIGHS: usize = 4;

/// Prices that meet at once are less than half of this, so that no sum wraps around.
const SUM_LIMIT: u64 = 1 << 62;

/// Two prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) low: u64,
    pub(super) high: u64,
}

impl Pair {
    pub(super) fn sum(self) -> u64 {
        self.low + self.high
    }
}

/// Moves the two pointers, from the lower end of `low` and from the upper end of `high`, until either
/// has nothing left; returns how many prices each still has. Of equal sums `best` keeps the first.
pub(super) fn converge(
    level: Level,
    low: &[u64],
    high: &[u64],
    balance: u64,
    best: &mut Option<Pair>,
) -> (usize, usize) {
    let (low, high) = dispatch!(level, simd => converge_sides(simd, low, high, balance, best));
    converge_singly(low, high, balance, best)
}

/// As long as both have enough.
#[allow(
    clippy::inline_always,
    reason = "becomes part of code for one kind of processor"
)]
#[inline(always)]
fn converge_sides<'a, S: Simd>(
    simd: S,
    low: &'a [u64],
    high: &'a [u64],
    balance: u64,
    best: &mut Option<Pair>,
) -> (&'a [u64], &'a [u64]) {
    let largest = low.last().max(high.last());
    if largest.is_none_or(|&largest| largest >= SUM_LIMIT / 2) {
        return (low, high);
    }
    let balance = balance.min(SUM_LIMIT);
    let gap_max = balance.saturating_sub(best.map_or(0, Pair::sum));
    // What a pair leaves of the balance is counted from the least number there is: if it exceeds the
    // balance, that becomes a large one.
    let mut gap_min = i64x4::splat(simd, i64::MIN + gap_max.cast_signed());
    let start = i64x4::splat(simd, i64::MIN + balance.cast_signed());
    let mut closest = None;
    let (low_sides, _) = low.as_chunks::<LOWS>();
    let (high_rest, high_sides) = high.as_rchunks::<HIGHS>();
    let (mut lows_done, mut highs_left) = (0, high_sides.len());
    while let (Some(lows), Some(highs)) = (
        low_sides.get(lows_done),
        high_sides.get(highs_left.wrapping_sub(1)),
    ) {
        let (some, others) = lows.split_at(LOWS / 2);
        let [some, others] = [some, others].map(|lows| {
            let left = start - u64x4::from_slice(simd, lows).bitcast::<i64x4<S>>();
            let [first, second, third, fourth] = highs.map(|high| left - high.cast_signed());
            first.min(second).min(third.min(fourth))
        });
        let gaps = some.min(others);
        if gaps.simd_lt(gap_min).any_true() {
            let gaps = <[i64; 4]>::from(gaps).into_iter();
            gap_min = i64x4::splat(simd, gaps.min().unwrap_or_default());
            closest = Some((lows, highs));
        }
        let ([.., low_max], [high_min, ..]) = (lows, highs);
        let fits = usize::from(low_max + high_min <= balance);
        lows_done += fits;
        highs_left -= 1 - fits;
    }
    if let Some((lows, highs)) = closest {
        converge_singly(lows, highs, balance, best);
    }
    let highs = high_rest.len() + highs_left * HIGHS;
    (
        low.get(lows_done * LOWS..).unwrap_or_default(),
        high.get(..highs).unwrap_or_default(),
    )
}

fn converge_singly(
    mut low: &[u64],
    mut high: &[u64],
    balance: u64,
    best: &mut Option<Pair>,
) -> (usize, usize) {
    let mut sum_max = best.map_or(0, Pair::sum);
    while let ([first, low_rest @ ..], [high_rest @ .., last]) = (low, high) {
        match first.checked_add(*last) {
            Some(sum) if sum <= balance => {
                if sum > sum_max {
                    sum_max = sum;
                    let (low, high) = (*first, *last);
                    *best = Some(Pair { low, high });
                }
                low = low_rest;
            }
            _ => high = high_rest,
        }
    }
    (low.len(), high.len())
}
