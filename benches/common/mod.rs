//! What the benches share: seeded messages, a scratch directory on the disk that counts, and F.
//!
//! F is the rate of bare `fdatasync` on the same disk in the same run: 1 / the median time to append
//! 512 bytes to a file and sync them. Rates of durable writes are read as multiples of it,
//! since the disk under them differs between machines and minutes.

#![allow(dead_code, reason = "every bench uses a part")]

use std::env;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use digestd::message::Message;
use digestd::store::{DataDirectory, EmbeddedStore, Options, Put, Store};
use tempfile::TempDir;

/// Length of the usual message: a line of text.
pub(crate) const MESSAGE_BYTES: usize = 90;

/// Message number `number` of a set: distinct for distinct numbers and sets, `MESSAGE_BYTES` long.
pub(crate) fn message(set: &str, number: u64) -> Message {
    message_of(MESSAGE_BYTES, set, number)
}

/// The same with another length.
pub(crate) fn message_of(bytes: usize, set: &str, number: u64) -> Message {
    let mut text = format!("{set} {number} ");
    // A linear congruential generator (Knuth, MMIX): same text in every run, no two alike.
    let mut state = number;
    while text.len() < bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        text.push(char::from(b'a' + (state >> 33) as u8 % 26));
    }
    text.truncate(bytes);
    Message::new(text)
}

/// A name that nothing else has, in this process or another.
pub(crate) fn fresh_name() -> String {
    format!("{:x}", RandomState::new().hash_one(()))
}

/// Messages in a store to be measured: 100,000, or `DIGESTD_BENCH_MESSAGES`.
pub(crate) fn messages() -> u64 {
    env::var("DIGESTD_BENCH_MESSAGES").map_or(100_000, |number| number.parse().unwrap())
}

/// A directory on the disk of the build, or of `DIGESTD_BENCH_DIR`; `/tmp` may be memory.
pub(crate) fn scratch() -> TempDir {
    let parent = env::var_os("DIGESTD_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    TempDir::new_in(parent).unwrap()
}

/// An empty or old store in `directory`.
pub(crate) fn open(directory: &TempDir) -> EmbeddedStore {
    let options = Options {
        message_cache_bytes: 64 << 20,
        free_bytes_min: Some(0),
        ..Options::new(256 << 20, 1 << 20)
    };
    let directory = DataDirectory::claim(directory.path(), 64 << 20).unwrap();
    EmbeddedStore::open(directory, options, &|_| {}).unwrap()
}

/// Puts messages `numbers` of `set`, many at a time.
pub(crate) fn fill(store: &EmbeddedStore, set: &str, numbers: std::ops::Range<u64>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut puts = Vec::new();
    for number in numbers {
        puts.push(store.put(message(set, number)));
        if puts.len() == 512 {
            finish(&runtime, &mut puts);
        }
    }
    finish(&runtime, &mut puts);
}

fn finish(runtime: &tokio::runtime::Runtime, puts: &mut Vec<Put>) {
    for put in puts.drain(..) {
        runtime.block_on(put).unwrap();
    }
}

/// F, a second. Takes about a second.
pub(crate) fn sync_rate(directory: &TempDir) -> f64 {
    let path = directory.path().join("sync-rate");
    let file = File::create(&path).unwrap();
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < Duration::from_secs(1) {
        let start = Instant::now();
        file.write_all_at(&[b'x'; 512], 512 * times.len() as u64)
            .unwrap();
        file.sync_data().unwrap();
        times.push(start.elapsed());
    }
    std::fs::remove_file(path).unwrap();
    times.sort();
    1.0 / times[times.len() / 2].as_secs_f64()
}
