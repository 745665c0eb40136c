//! `digestd get`: prints texts by their digests.
//!
//! It refuses to know the protocol, which is the client's. **Invariant:** what is printed has the digest.

use std::io::{self, Cursor, Write};

use clap::Args;

use super::lookup::{OutputArgs, look_up};
use super::options::ServerArgs;
use super::output::written;
use super::setup::block_on;
use crate::digest::Digest;

/// Options of `get`.
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The digest: 64 hexadecimal digits. Of several, each message is printed as a line of JSON, as in an export
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<Digest>,
    /// Where the messages go.
    #[command(flatten)]
    output: OutputArgs,
    /// The server to ask.
    #[command(flatten)]
    server: ServerArgs,
}

/// Prints a text, or lines with several, or writes them into files.
pub(super) fn run(arguments: &GetArgs) -> anyhow::Result<()> {
    let client = arguments.server.client()?;
    if let ([digest], None) = (&*arguments.digests, &arguments.output.output_dir) {
        let text = block_on(client.get(digest))?;
        let mut output = io::stdout().lock();
        let mut pieces = text.iter();
        let result = pieces.try_for_each(|piece| output.write_all(piece));
        return written(result.and_then(|()| output.flush()));
    }
    let digests = arguments.digests.iter();
    let lines: Vec<_> = digests.map(|digest| format!("{digest}\n")).collect();
    look_up(&client, Cursor::new(lines.concat()), &arguments.output)
}
