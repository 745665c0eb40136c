//! The store's parts and the whole of it, without HTTP. Rates of durable writes are printed as
//! multiples of F as well (see `common`).

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

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use digestd::message::Message;
use digestd::store::index::Index;
use digestd::store::{Appender, Log, Place, Position};
use digestd::store::{EmbeddedStore, Store};

/// Numbers for messages, never the same twice in a process.
static NEXT: AtomicU64 = AtomicU64::new(0);

fn next(count: u64) -> std::ops::Range<u64> {
    let first = NEXT.fetch_add(count, Ordering::Relaxed);
    first..first + count
}

/// Measures `run`, which does a number of durable writes, and prints its best rate in F.
fn bench_in_f(
    criterion: &mut Criterion,
    id: &str,
    writes_each: u64,
    f: f64,
    mut run: impl FnMut(u64) -> Duration,
) {
    let mut rates = Vec::new();
    let mut group = criterion.benchmark_group("durable");
    group.throughput(Throughput::Elements(writes_each));
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            let time = run(iterations);
            rates.push((iterations * writes_each) as f64 / time.as_secs_f64());
            time
        });
    });
    group.finish();
    rates.sort_by(f64::total_cmp);
    if let Some(median) = rates.get(rates.len() / 2) {
        println!("{id}: {:.2} F (F = {f:.0}/s)", median / f);
    }
}

/// Groups of records, appended and synced: what the disk and the log could do without an index.
fn append(criterion: &mut Criterion) {
    let directory = common::scratch();
    let f = common::sync_rate(&directory);
    let log = Arc::new(Log::open(&directory.path().join("log"), 64 << 20).unwrap());
    let mut appender = Appender::new(log, Position::START);
    for size in [1, 8, 64, 512] {
        let id = format!("append/group of {size}");
        bench_in_f(criterion, &id, size, f, |iterations| {
            let mut time = Duration::ZERO;
            for _ in 0..iterations {
                let messages: Vec<Message> = next(size)
                    .map(|number| common::message("append", number))
                    .collect();
                let start = Instant::now();
                let group = appender.prepare(&messages).unwrap();
                appender.write(group, true).unwrap();
                time += start.elapsed();
            }
            time
        });
    }
}

/// Whole puts by a number of writers, each of which waits for its receipt before the next.
fn put(criterion: &mut Criterion) {
    let directory = common::scratch();
    let f = common::sync_rate(&directory);
    let store = Arc::new(common::open(&directory));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    for writers in [1, 8, 64, 512] {
        let id = format!("put/{writers} writers");
        bench_in_f(criterion, &id, writers, f, |iterations| {
            let start = Instant::now();
            runtime.block_on(write(&store, writers, iterations));
            start.elapsed()
        });
    }
    let mut group = criterion.benchmark_group("put");
    group.throughput(Throughput::Elements(1));
    let known = common::message("known", 0);
    runtime.block_on(store.put(known.clone())).unwrap();
    group.bench_function("known", |bencher| {
        bencher.iter(|| runtime.block_on(store.put(known.clone())).unwrap());
    });
}

async fn write(store: &Arc<EmbeddedStore>, writers: u64, puts: u64) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..writers {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            for number in next(puts) {
                store.put(common::message("put", number)).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// The index alone: no syncs.
fn index(criterion: &mut Criterion) {
    let directory = common::scratch();
    let index = Index::open(&directory.path().join("index"), 256 << 20).unwrap();
    let place = Place {
        at: Position::START,
        length: 90,
    };
    let digest = |number| common::message("index", number).digest();
    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(1));
    let messages = common::messages();
    for number in 0..messages {
        index.put(&digest(number), None, place).unwrap();
    }
    let mut number = messages;
    group.bench_function("put", |bencher| {
        bencher.iter(|| {
            number += 1;
            index.put(&digest(number), None, place).unwrap()
        });
    });
    group.bench_function("get/hit", |bencher| {
        bencher.iter(|| {
            number = (number + 7_368_787) % messages;
            index.get(&digest(number)).unwrap().unwrap()
        });
    });
    group.bench_function("get/miss", |bencher| {
        bencher.iter(|| {
            number += 1;
            index
                .get(&common::message("absent", number).digest())
                .unwrap()
        });
    });
}

/// Opening a store: with its index, and with the index redrawn from the log.
fn open(criterion: &mut Criterion) {
    let directory = common::scratch();
    let messages = common::messages();
    let store = common::open(&directory);
    common::fill(&store, "open", 0..messages);
    drop(store);
    let mut group = criterion.benchmark_group(format!("open/{messages} messages"));
    group
        .sample_size(10)
        .throughput(Throughput::Elements(messages));
    group.bench_function("with its index", |bencher| {
        bencher.iter_custom(|iterations| (0..iterations).map(|_| time_open(&directory)).sum());
    });
    group.bench_function("redrawn from the log", |bencher| {
        bencher.iter_custom(|iterations| {
            let redraw = |_| {
                std::fs::remove_dir_all(directory.path().join("index")).unwrap();
                time_open(&directory)
            };
            (0..iterations).map(redraw).sum()
        });
    });
}

fn time_open(directory: &tempfile::TempDir) -> Duration {
    let start = Instant::now();
    let store = common::open(directory);
    let time = start.elapsed();
    assert_eq!(store.messages(), common::messages());
    time
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = append, put, index, open
}
criterion_main!(benches);
