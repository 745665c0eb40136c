//! `find-pair`: arguments → price list → answer → exit code; see `find-pair --help`.
//!
//! A program of its own, which uses nothing of digestd.
//!
//! **Invariant:** standard output has the answer and nothing else, or nothing at all.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a test that panics is a test that fails"
    )
)]

mod list;
mod reader;
mod row;
mod search;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::list::List;
use crate::reader::Gift;

/// Longer lists take long enough for a progress bar.
const PROGRESS_BYTES_MIN: usize = 256 << 20;

const NOTES: &str = "\
Rows are `name, price`: split at the last comma, trimmed, the price a positive integer in cents, in
ascending order; blank lines and a byte order mark at the start are skipped. Lines end with LF or
CR LF. A row that is not like that, or holds a control character, is refused with its line number.
Prints the gifts on one line, the cheaper first, or `Not possible`. Of equal sums it prints
the pair that lies furthest apart in FILE.

Exit codes: 0 one of the two was printed, 2 usage, or FILE cannot be read or has a bad row.";

/// Finds the two or three gifts whose prices add up closest to a balance without exceeding it
#[derive(Debug, Parser)]
#[command(name = "find-pair", version, after_help = NOTES)]
struct Arguments {
    /// Price list, sorted by price; `-` reads standard input into memory
    file: PathBuf,
    /// Balance of the gift card in cents
    #[arg(value_parser = read_balance)]
    balance: u64,
    /// Number of gifts
    #[arg(value_enum, default_value = "2")]
    count: Count,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Count {
    #[value(name = "2")]
    Pair,
    #[value(name = "3")]
    Triple,
}

fn read_balance(text: &str) -> Result<u64, &'static str> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err("a balance is a whole number of cents, like 2500");
    }
    text.parse().map_err(|_| "it is too large for 64 bits")
}

fn main() -> ExitCode {
    let result = match Arguments::try_parse() {
        Ok(arguments) => find(&arguments),
        Err(error) if error.use_stderr() => error.exit(),
        Err(help) => written(help.print().and_then(|()| io::stdout().flush())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If nobody reads standard error, the exit code still tells.
            let _ = writeln!(io::stderr(), "find-pair: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        // As in `find-pair … | true`: the answer is not wanted any more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write the answer"),
    }
}

fn find(arguments: &Arguments) -> anyhow::Result<()> {
    let path = &arguments.file;
    let list = if path == Path::new("-") {
        List::read(io::stdin().lock()).context("cannot read standard input")?
    } else {
        List::open(path).with_context(|| format!("cannot read {}", path.display()))?
    };
    let bar = progress_bar(list.bytes);
    let progress = |bytes: usize| bar.set_position(bytes as u64);
    let gifts = match arguments.count {
        Count::Pair => search::pair(&list, arguments.balance, &progress),
        Count::Triple => search::triple(&list, arguments.balance, &progress),
    };
    bar.finish_and_clear();
    let gifts = gifts.with_context(|| path.display().to_string())?;
    written(print(gifts.as_deref()))
}

fn print(gifts: Option<&[Gift]>) -> io::Result<()> {
    let mut answer = Vec::new();
    for Gift { name, price } in gifts.into_iter().flatten() {
        if !answer.is_empty() {
            answer.extend(b", ");
        }
        answer.extend(name);
        write!(answer, " {price}")?;
    }
    if gifts.is_none() {
        answer.extend(b"Not possible");
    }
    answer.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&answer)?;
    output.flush()
}

/// The bar is drawn only if standard error is a terminal that can move its cursor.
fn progress_bar(bytes: usize) -> ProgressBar {
    let is_dumb = env::var_os("TERM").is_some_and(|kind| kind == "dumb");
    if bytes <= PROGRESS_BYTES_MIN || is_dumb {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {percent:>3} %");
    ProgressBar::new(bytes as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
