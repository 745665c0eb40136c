//! Look-ups in the store, without HTTP: hits and misses, by one thread and by two.
//!
//! `uniform` reads any of the messages, so most reads go through the index, the page cache and the
//! digest check; `hot` reads a thousand of them again and again, from the cache of messages; `near`
//! asks for 64 KiB of digests that differ from stored ones in their last bit only.
//! `DIGESTD_BENCH_MESSAGES=1000000` measures a store of a million.

#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench that fails may panic, and its figures are small"
)]

mod common;

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use digestd::digest::{DIGEST_BYTES, Digest};
use digestd::store::{EmbeddedStore, Store};

const HOT: u64 = 1000;

/// As many digests as 64 KiB have room for.
const NEAR: u64 = (64 << 10) / DIGEST_BYTES as u64;

fn lookup(criterion: &mut Criterion) {
    let directory = common::scratch();
    let store = common::open(&directory);
    let messages = common::messages();
    common::fill(&store, "stored", 0..messages);
    let digests = |set: &str, number: u64| -> Vec<Digest> {
        (0..number)
            .map(|number| common::message(set, number).digest())
            .collect()
    };
    let near = |digest: &Digest| {
        let mut bytes = *digest.as_bytes();
        bytes[DIGEST_BYTES - 1] ^= 1;
        Digest::from_bytes(bytes)
    };
    let mut group = criterion.benchmark_group(format!("get/{messages} messages"));
    group.throughput(Throughput::Elements(1));
    for (name, digests) in [
        ("hit/uniform", digests("stored", messages)),
        ("hit/hot", digests("stored", HOT)),
        ("miss", digests("absent", messages)),
        (
            "miss/near",
            digests("stored", NEAR).iter().map(near).collect(),
        ),
    ] {
        for threads in [1, 2] {
            group.bench_function(format!("{name}/{threads} threads"), |bencher| {
                bencher.iter_custom(|gets| time(&store, &digests, threads, gets));
            });
        }
    }
}

/// Time for `gets` look-ups, shared by `threads` threads.
fn time(store: &EmbeddedStore, digests: &[Digest], threads: u64, gets: u64) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                // A stride without a common factor visits all of them, in no order of the index.
                let mut next = thread as usize;
                for _ in 0..gets.div_ceil(threads) {
                    next = (next + 7_368_787) % digests.len();
                    let _ = black_box(store.get(&digests[next]));
                }
            });
        }
    });
    start.elapsed()
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = lookup
}
criterion_main!(benches);
