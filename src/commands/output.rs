//! What a command prints: results on standard output, reports and trouble on standard error.
//!
//! It refuses to know what a command does. **Invariant:** a result that cannot be written is an error, a
//! report that cannot be written is not.

use std::io::{self, Write};

use anyhow::Context;

/// Something is not as promised; what, was said one by one.
#[derive(Debug, thiserror::Error)]
#[error("{}", plural(*.0, "finding"))]
pub(super) struct Findings(pub(super) u64);

impl Findings {
    /// An error if there are any.
    pub(super) fn none_of(count: u64) -> Result<(), Self> {
        if count == 0 { Ok(()) } else { Err(Self(count)) }
    }
}

pub(super) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    output
        .write_all(bytes)
        .and_then(|()| output.flush())
        .context("cannot write the result")
}

/// Says something to the operator beside the result.
pub(super) fn say(text: &str) {
    // Nobody may be reading any more; the exit code says it too.
    let _ = writeln!(io::stderr(), "digestd: {text}");
}

/// `1 finding`, `2 findings`.
pub(super) fn plural(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}
