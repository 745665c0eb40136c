//! `digestd put`: stores a text, or the messages of a file in one request.
//!
//! It refuses to know the protocol, which is the client's. **Invariant:** a digest is printed once the
//! server has said that its message is stored.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::options::{ServerArgs, TextArgs};
use super::output::{print_line, say, unless_gone};
use super::progress::Bar;
use super::setup::{block_on, open_input, skip_mark, tell_who_types};
use crate::client::{Client, LineAnswer};
use crate::digest::Digest;

/// Options of `put`.
#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// The text to store.
    #[command(flatten)]
    text: TextArgs,
    /// Store the messages of a file instead, one {"message": "…"} a line; `-` is standard input.
    /// Prints their digests in the same order. Compressed ones are decompressed first, as by `zstd -dc`; exports, also
    /// compressed, are for `digestd import`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "file"])]
    batch: Option<PathBuf>,
    /// The server to store it on.
    #[command(flatten)]
    server: ServerArgs,
}

/// Stores a text, or the messages of a file, and prints the digests.
pub(super) fn run(arguments: PutArgs) -> anyhow::Result<()> {
    let client = arguments.server.client()?;
    if let Some(path) = arguments.batch {
        return put_batch(&client, &path);
    }
    let text = arguments.text.read()?;
    print_line(&block_on(client.put(text))?)
}

/// Stores the message of each line of the file at `path`, or of standard input, and prints their
/// digests. Why lines are refused goes to standard error.
///
/// # Errors
/// If lines were refused, or what [`Client::put_batch`] says.
fn put_batch(client: &Client, path: &Path) -> anyhow::Result<()> {
    tell_who_types(path, "messages, {\"message\": \"…\"} a line,");
    let input = open_input(path).with_context(|| format!("cannot read {}", path.display()));
    let (input, bytes) = input?;
    let input = skip_mark(input).with_context(|| format!("cannot read {}", path.display()))?;
    let bar = Bar::of_input(bytes);
    let mut output = BufWriter::new(io::stdout());
    let (mut stored, mut refused, mut bytes_done) = (0_u64, 0_u64, 0);
    let each = |answer: LineAnswer<Digest>| {
        bytes_done += answer.bytes;
        bar.set_done(bytes_done);
        match answer.outcome {
            Ok(digest) => {
                stored += 1;
                // The lines that follow are stored even if their digests are not read.
                unless_gone(writeln!(output, "{digest}"))?;
            }
            Err(reason) => {
                refused += 1;
                bar.aside(|| say(&format!("line {}: {reason}", answer.number)));
            }
        }
        if answer.has_next {
            return Ok(());
        }
        unless_gone(output.flush())
    };
    let result = block_on(client.put_batch(input, each));
    drop(bar);
    result?;
    if refused > 0 {
        bail!("{refused} lines were refused, {stored} messages are stored");
    }
    Ok(())
}
