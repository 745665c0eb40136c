//! What a command prints: results on standard output, reports and trouble on standard error.
//!
//! It refuses to know what a command does. **Invariants:** a result that cannot be written is an error, unless
//! its reader is gone; a report that cannot be written is not; nothing that a terminal obeys is in a report.

use std::fmt;
use std::io::{self, Write};

use anyhow::Context;

use crate::access::tokens::without_tokens;
use crate::text::printable;

/// Findings, which were reported one by one.
#[derive(Debug, thiserror::Error)]
#[error("{}", plural(*.0, "finding"))]
pub(super) struct IntegrityError(pub(super) u64);

impl IntegrityError {
    /// An error if there are any findings.
    pub(super) fn if_any(count: u64) -> Result<(), Self> {
        if count == 0 { Ok(()) } else { Err(Self(count)) }
    }
}

/// Standard output has no reader any more, as in `digestd export | head`. That is no failure, and there is
/// nothing to say.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the result is gone")]
pub(super) struct ReaderGone;

/// What it means that a result was written, or not.
///
/// # Errors
/// [`ReaderGone`], or that it cannot be written.
pub(super) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        result => result.context("cannot write the result"),
    }
}

/// Lets a command finish its work also if its results are not read.
///
/// # Errors
/// If a result cannot be written though its reader is there.
pub(super) fn unless_gone(result: io::Result<()>) -> anyhow::Result<()> {
    written(result).or_else(|error| error.downcast::<ReaderGone>().map(drop))
}

/// Prints a result.
pub(super) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    written(output.write_all(bytes).and_then(|()| output.flush()))
}

/// Prints a result that is a line.
pub(super) fn print_line(line: &impl fmt::Display) -> anyhow::Result<()> {
    print(format!("{line}\n").as_bytes())
}

/// Reports something to the operator beside the result, in one line. What a server said may be in it.
pub(super) fn say(text: &str) {
    // Standard error may be closed; the exit code says it too.
    let _ = writeln!(
        io::stderr(),
        "digestd: {}",
        printable(&without_tokens(text))
    );
}

/// `1 finding`, `2 findings`.
pub(super) fn plural(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}
