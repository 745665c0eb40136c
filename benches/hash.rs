//! Digests: computing them by size of the text, reading and printing them.
//!
//! To be compared with `openssl speed -evp sha256` on the same machine, which prints thousands of
//! bytes a second for the same sizes: large texts should reach 95 % of it.

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

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use digestd::digest::Digest;

fn compute(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("digest/compute");
    for bytes in [0, 16, 64, 256, 1024, 8192, 16_384, 1 << 20] {
        let message = common::message_of(bytes, "hash", 1);
        let text = message.text();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{bytes}B"), |bencher| {
            bencher.iter(|| Digest::of(black_box(text.as_bytes())));
        });
    }
}

fn read_and_print(criterion: &mut Criterion) {
    let digest = Digest::of(b"foo");
    let digits = digest.to_string();
    let wrong = digits.replace('e', "g");
    let mut group = criterion.benchmark_group("digest");
    group.bench_function("parse", |bencher| {
        bencher.iter(|| black_box(&digits).parse::<Digest>());
    });
    group.bench_function("parse/refused", |bencher| {
        bencher.iter(|| black_box(&wrong).parse::<Digest>());
    });
    group.bench_function("to_hex", |bencher| {
        bencher.iter(|| black_box(&digest).to_hex());
    });
}

criterion_group!(benches, compute, read_and_print);
criterion_main!(benches);
