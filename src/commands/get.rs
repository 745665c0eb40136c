//! `digestd get`: prints a text by its digest.

use clap::Args;

use super::options::{CredentialArgs, ServerArgs};
use super::output::print;
use super::setup::client_runtime;

/// Options of `get`.
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The digest: 64 hexadecimal digits
    digest: crate::digest::Digest,
    /// The server to ask.
    #[command(flatten)]
    server: ServerArgs,
    /// What it wants to see.
    #[command(flatten)]
    credential: CredentialArgs,
}

/// Prints a text.
pub(super) fn run(arguments: &GetArgs) -> anyhow::Result<()> {
    let client = arguments.credential.client(&arguments.server.url)?;
    let text = client_runtime()?.block_on(client.get(&arguments.digest))?;
    print(&text)
}
