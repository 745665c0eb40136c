//! The search for gifts, without a disk: a thousand to a million rows in memory.
//!
//! Prices rise by 0 to 4 cents a row, all even. `hit` is a balance that some sum meets exactly: a
//! triple is found within a few sweeps. `worst` is an odd one, which none does, so that every row is
//! tried as the first of a triple; it is left out where that takes minutes.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a bench that fails may panic"
)]

use std::fmt::Write;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use digestd::gifts::PriceList;

/// Most rows of a `worst` triple: a hundred times as many take ten thousand times as long.
const WORST_ROWS_MAX: u64 = 10_000;

fn pair(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gifts/pair");
    for rows in [1000, 10_000, 100_000, 1_000_000] {
        let list = list(rows);
        group.throughput(Throughput::Elements(rows));
        group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
            bencher.iter(|| list.pair(2 * rows, &|_| ()).unwrap());
        });
    }
}

fn triple(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gifts/triple");
    for rows in [1000, 10_000, 100_000, 1_000_000] {
        let list = list(rows);
        group.throughput(Throughput::Elements(rows));
        group.bench_function(BenchmarkId::new("hit", rows), |bencher| {
            bencher.iter(|| list.triple(2 * rows, &|_| ()).unwrap());
        });
        if rows <= WORST_ROWS_MAX {
            group.bench_function(BenchmarkId::new("worst", rows), |bencher| {
                bencher.iter(|| list.triple(3 * rows + 1, &|_| ()).unwrap());
            });
        }
    }
}

/// The same list in every run.
fn list(rows: u64) -> PriceList {
    let mut text = String::new();
    let (mut price, mut state) = (2, 1_u64);
    for row in 0..rows {
        // A linear congruential generator (Knuth, MMIX).
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        price += 2 * ((state >> 33) % 3);
        writeln!(text, "Gift {row}, {price}").unwrap();
    }
    PriceList::read(text.as_bytes()).unwrap()
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = pair, triple
}
criterion_main!(benches);
