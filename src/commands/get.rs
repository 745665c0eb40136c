//! `digestd get`: prints a text by its digest.

use clap::Args;

use super::options::{CredentialArgs, ServerArgs};

/// Options of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The digest: 64 hexadecimal digits
    pub digest: crate::digest::Digest,
    /// The server to ask.
    #[command(flatten)]
    pub server: ServerArgs,
    /// What it wants to see.
    #[command(flatten)]
    pub credential: CredentialArgs,
}
