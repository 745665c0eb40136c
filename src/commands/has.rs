//! `digestd has`: whether a server has messages, by their digests.
//!
//! It refuses to know the protocol, which is the client's. **Invariant:** the exit code is 0 only if the server has
//! said that every message is there.

use clap::Args;

use super::options::ServerArgs;
use super::output::print;
use super::setup::block_on;
use crate::client::NotFound;
use crate::digest::Digest;

/// Options of `has`.
#[derive(Debug, Args)]
pub(super) struct HasArgs {
    /// The digests: 64 hexadecimal digits each
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<Digest>,
    /// The server to ask.
    #[command(flatten)]
    server: ServerArgs,
}

/// Prints those of the digests with which there is no message.
///
/// # Errors
/// [`NotFound`] if there are any.
pub(super) fn run(arguments: &HasArgs) -> anyhow::Result<()> {
    let client = arguments.server.client()?;
    let missing = block_on(client.missing(&arguments.digests))?;
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = missing.iter().map(|digest| format!("{digest}\n")).collect();
    print(lines.concat().as_bytes())?;
    let (missing, of) = (missing.len(), arguments.digests.len());
    Err(NotFound { missing, of }.into())
}
