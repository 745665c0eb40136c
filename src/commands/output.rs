//! What a command prints: results on standard output, reports and trouble on standard error.
//!
//! It refuses to know what a command does. **Invariant:** a result that cannot be written is an error, a
//! report that cannot be written is not.

use std::fmt;
use std::io::{self, Write};

use anyhow::Context;

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

/// Prints a result.
pub(super) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    output
        .write_all(bytes)
        .and_then(|()| output.flush())
        .context("cannot write the result")
}

/// Prints a result that is a line.
pub(super) fn print_line(line: &impl fmt::Display) -> anyhow::Result<()> {
    print(format!("{line}\n").as_bytes())
}

/// Reports something to the operator beside the result.
pub(super) fn say(text: &str) {
    // Standard error may be closed; the exit code says it too.
    let _ = writeln!(io::stderr(), "digestd: {text}");
}

/// `1 finding`, `2 findings`.
pub(super) fn plural(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}
