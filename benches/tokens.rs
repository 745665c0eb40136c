//! Whether the time to look a token up tells how near its hash is to one that is known.
//!
//! After dudect (Reparaz, Balasch, Verbauwhede, 2017): tokens of two kinds are looked up in a random
//! order, each look-up is timed, and Welch's t says whether the kinds differ. Below 4.5 nothing was
//! found in a hundred thousand look-ups of each. The slowest tenth is left out: those were interrupted.
//! `floor` compares two that are both far from any, which is what the machine makes of no difference:
//! where it comes near 4.5, the machine is too busy to say. That a token is known need not be hidden:
//! the answer says so.

#![allow(
    missing_docs,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench that fails may panic, and its figures are small"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use digestd::access::tokens::{TOKENS_MAX, Token, Tokens};
use digestd::digest::{DIGEST_BYTES, Digest};

/// Look-ups of each kind.
const LOOK_UPS: usize = 100_000;

fn main() {
    let random = || Token::random().unwrap().reveal().to_owned();
    let (unknown, other) = (random(), random());
    let nearly = [(); 3].map(|()| random());
    let [first, half, last] = &nearly;
    let hashes = (3..TOKENS_MAX).map(|_| Digest::of(random().as_bytes()));
    let hashes = [
        almost(first, DIGEST_BYTES - 1),
        almost(half, DIGEST_BYTES / 2),
    ]
    .into_iter()
    .chain(hashes)
    .chain([almost(last, DIGEST_BYTES - 1)]);
    let mut lines = String::new();
    for (number, hash) in hashes.enumerate() {
        writeln!(lines, "t{number} read {hash}").unwrap();
    }
    let tokens = Tokens::parse(&lines).unwrap();

    println!("{TOKENS_MAX} tokens, {LOOK_UPS} look-ups of each kind; below 4.5 nothing was found");
    for (name, token) in [
        ("floor", &other),
        ("all but the last bit that of the first", first),
        ("all but the last bit that of the last", last),
        ("half of it that of the second", half),
    ] {
        let (t, nanoseconds) = compare(&tokens, [&unknown, token]);
        println!("|t| {:>5.2} at {nanoseconds:>4.0} ns: {name}", t.abs());
    }
}

/// The hash of `token` but for one bit of its byte at `position`.
fn almost(token: &str, position: usize) -> Digest {
    let mut hash = *Digest::of(token.as_bytes()).as_bytes();
    hash[position] ^= 1;
    Digest::from_bytes(hash)
}

/// Bytes of a token.
const TOKEN_BYTES: usize = 72;

#[derive(Clone, Copy)]
#[repr(align(128))]
struct Copied([u8; TOKEN_BYTES]);

/// Welch's t of the times of two kinds of look-ups, and their mean in nanoseconds.
fn compare(tokens: &Tokens, kinds: [&String; 2]) -> (f64, f64) {
    // Each in lines of the cache of its own, and nothing allocated between look-ups.
    let mut copies = [Copied([0; TOKEN_BYTES]); 2];
    for (copy, token) in copies.iter_mut().zip(kinds) {
        copy.0.copy_from_slice(token.as_bytes());
    }
    let mut times = [(); 2].map(|()| Vec::with_capacity(2 * LOOK_UPS));
    let mut state = 1_u64;
    while times.iter().any(|times| times.len() < LOOK_UPS) {
        // Which kind comes next is not to be foreseen, by the processor least of all.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let kind = usize::from(state >> 63 != 0);
        let token = black_box(&copies)[kind].0;
        let started = Instant::now();
        let found = black_box(tokens.find(black_box(&token)));
        let time = started.elapsed();
        black_box(found);
        times[kind].push(time.as_nanos() as f64);
    }
    let mut all = times.concat();
    all.sort_by(f64::total_cmp);
    let longest = all[all.len() / 10 * 9];
    let [one, other] = times.map(|times| Moments::of(times.into_iter().filter(|&t| t <= longest)));
    let error = (one.variance / one.count + other.variance / other.count).sqrt();
    (
        (one.mean - other.mean) / error,
        f64::midpoint(one.mean, other.mean),
    )
}

struct Moments {
    count: f64,
    mean: f64,
    variance: f64,
}

impl Moments {
    fn of(times: impl Iterator<Item = f64>) -> Self {
        let times: Vec<_> = times.collect();
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let squares: f64 = times.iter().map(|time| (time - mean).powi(2)).sum();
        let variance = squares / (count - 1.0);
        Self {
            count,
            mean,
            variance,
        }
    }
}
