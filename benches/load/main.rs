//! The service end to end over loopback: `cargo bench --bench load`.
//!
//! The release binary serves on a free port, from a scratch directory; this process drives it with the
//! load generator, `loadgen`, some seconds a row. Four things make rows comparable between machines,
//! measured in the same run and, where it matters, in turns: **F** (see `common`) for durable writes; the
//! **floor**, a responder that does one read, one write and no parsing and answers as many bytes, for
//! reads, and hyper with one answer for everything, the least that a service on top of it costs; and,
//! where Go is installed, a server as people write it for the exercise, which keeps its messages in
//! memory. At the end stand the ratios that the design has targets for.
//!
//! * `cargo bench --bench load` measures every row, and leaves `target/load/report.{json,html}`;
//!   words after `--` select the rows that have them all in their names (`-- POST 90`).
//! * `cargo bench --bench load -- --sweep workers` measures worker threads against connections.
//! * `cargo bench --bench load -- access` compares reads of a service that asks who comes in with those
//!   of one that does not, and with refused ones.
//! * `cargo bench --bench load -- mixed --url http://127.0.0.1:8080` measures no rows, but loads that
//!   server with the generator alone; `-- --help` lists its options.
//! * `DIGESTD_BENCH_SECONDS` is the time of one measurement, `DIGESTD_BENCH_MESSAGES` the size of the
//!   large set, 1,000,000 by default.
//!
//! It knows nothing of the service but its paths, and what the library says of messages and digests.
//! **Invariant:** figures that are compared were measured in the same run.

#![allow(
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench that fails may panic, and its figures are small"
)]

mod access;
#[path = "../common/mod.rs"]
mod common;
mod loadgen;
mod many;
mod measure;
mod report;
mod rows;
mod servers;
mod suite;
mod sweep;

use std::env;
use std::process::ExitCode;

use self::loadgen::args;
use self::servers::{run_floor, run_hyper};

fn main() -> ExitCode {
    // Cargo passes it to every bench.
    let words: Vec<_> = env::args_os()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    if args::is_meant(&words) {
        return args::main(&words);
    }
    let words: Vec<_> = words
        .into_iter()
        .map(|word| word.into_string().unwrap())
        .collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", bytes] => run_floor(bytes.parse().unwrap()),
        ["hyper", bytes] => run_hyper(bytes.parse().unwrap()),
        ["--sweep", "workers"] => sweep::sweep_workers(),
        ["access"] => access::compare_access(),
        _ => suite::measure_rows(&words),
    }
    ExitCode::SUCCESS
}
