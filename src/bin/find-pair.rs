//! Arguments → price list → answer → exit code; see `find-pair --help`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use digestd::cli::{Count, FindPair};
use digestd::gifts::{Gift, PriceList};
use indicatif::{ProgressBar, ProgressStyle};

/// Lists above this show how far we are; smaller ones are read in the blink of an eye.
const PROGRESS_BYTES_MIN: u64 = 256 << 20;

fn main() -> ExitCode {
    match find(&FindPair::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be reading any more; the exit code says it too.
            let _ = writeln!(io::stderr(), "find-pair: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn find(arguments: &FindPair) -> anyhow::Result<()> {
    let list = if arguments.file == Path::new("-") {
        PriceList::read(io::stdin().lock()).context("cannot read standard input")?
    } else {
        PriceList::open(&arguments.file)
            .with_context(|| format!("cannot read {}", arguments.file.display()))?
    };
    let bar = progress_bar(list.bytes());
    let gifts = match arguments.count {
        Count::Pair => list.pair(arguments.balance, &|bytes| bar.inc(bytes)),
        Count::Triple => list.triple(arguments.balance, &|bytes| bar.inc(bytes)),
    };
    bar.finish_and_clear();
    let gifts = gifts.with_context(|| arguments.file.display().to_string())?;
    print(gifts.as_deref()).context("cannot write the answer")
}

fn print(gifts: Option<&[Gift]>) -> io::Result<()> {
    let mut line = Vec::new();
    for Gift { name, price } in gifts.unwrap_or_default() {
        if !line.is_empty() {
            line.extend(b", ");
        }
        line.extend(name);
        write!(line, " {price}")?;
    }
    if line.is_empty() {
        line.extend(b"Not possible");
    }
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

/// Shown on a terminal only, on standard error: the answer stays alone.
fn progress_bar(bytes: u64) -> ProgressBar {
    if bytes <= PROGRESS_BYTES_MIN {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {percent:>3} %");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
