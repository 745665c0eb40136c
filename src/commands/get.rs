//! `digestd get`: prints a text by its digest.
//!
//! It refuses to know the protocol, which is the client's. **Invariant:** what is printed has the digest.

use clap::Args;

use super::options::ServerArgs;
use super::output::print;
use super::setup::block_on;
use crate::digest::Digest;

/// Options of `get`.
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The digest: 64 hexadecimal digits
    digest: Digest,
    /// The server to ask.
    #[command(flatten)]
    server: ServerArgs,
}

/// Prints a text.
pub(super) fn run(arguments: &GetArgs) -> anyhow::Result<()> {
    let client = arguments.server.client()?;
    let text = block_on(client.get(&arguments.digest))?;
    print(&text)
}
