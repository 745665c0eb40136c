//! `digestd put`: stores a text, or the messages of a file in one request.
//!
//! It refuses to know the protocol, which is the client's. **Invariant:** a digest is printed once the
//! server has said that its message is stored.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::options::{CredentialArgs, ServerArgs, TextArgs};
use super::output::{print, say};
use super::progress::Bar;
use super::setup::client_runtime;
use crate::client::{Client, LineAnswer};

/// Options of `put`.
#[derive(Debug, Args)]
pub(super) struct PutArgs {
    /// The text to store.
    #[command(flatten)]
    text: TextArgs,
    /// Store the messages of a file instead, one {"message": "…"} a line; `-` is standard input.
    /// Prints their digests in the same order
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "file"])]
    batch: Option<PathBuf>,
    /// The server to store it on.
    #[command(flatten)]
    server: ServerArgs,
    /// What it wants to see.
    #[command(flatten)]
    credential: CredentialArgs,
}

/// Stores a text, or the messages of a file, and prints the digests.
pub(super) fn run(arguments: PutArgs) -> anyhow::Result<()> {
    let client = arguments.credential.client(&arguments.server.url)?;
    if let Some(path) = arguments.batch {
        return put_batch(&client, &path);
    }
    let text = arguments.text.read()?;
    let digest = client_runtime()?.block_on(client.put(text))?;
    print(format!("{digest}\n").as_bytes())
}

/// Stores the message of each line of the file at `path`, or of standard input, and prints their
/// digests. Why lines are refused goes to standard error.
///
/// # Errors
/// If lines were refused, or what [`Client::put_batch`] says.
fn put_batch(client: &Client, path: &Path) -> anyhow::Result<()> {
    let (input, bytes): (Box<dyn Read + Send>, _) = if path == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let bytes = file.metadata().ok().map(|metadata| metadata.len());
        (Box::new(file), bytes)
    };
    let bar = bytes.map_or_else(Bar::hidden, Bar::of_bytes);
    let mut output = BufWriter::new(io::stdout());
    let (mut stored, mut refused) = (0_u64, 0_u64);
    let each = |answer: LineAnswer| {
        bar.advance(answer.bytes);
        match answer.outcome {
            Ok(digest) => {
                stored += 1;
                writeln!(output, "{digest}").context("cannot write the result")?;
            }
            Err(reason) => {
                refused += 1;
                bar.aside(|| say(&format!("line {}: {reason}", answer.number)));
            }
        }
        if answer.has_next {
            return Ok(());
        }
        output.flush().context("cannot write the result")
    };
    let result = client_runtime()?.block_on(client.put_batch(input, each));
    drop(bar);
    result?;
    if refused > 0 {
        bail!("{refused} lines were refused, {stored} messages are stored");
    }
    Ok(())
}
