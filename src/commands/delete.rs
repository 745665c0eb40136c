//! `digestd delete`: deletes messages of a server, by their digests.
//!
//! It refuses to know the protocol, which is the client's. **Invariant:** a digest is printed once the server has
//! said that its message is deleted.

use anyhow::Context;
use clap::Args;

use super::options::ServerArgs;
use super::output::{ReaderGone, plural, print_line, say};
use super::setup::block_on;
use crate::client::{NotFound, Session};
use crate::digest::Digest;

/// Options of `delete`.
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The digests: 64 hexadecimal digits each
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<Digest>,
    /// The server, which must have been started with --tokens and see one that allows delete.
    #[command(flatten)]
    server: ServerArgs,
}

/// Deletes messages one after the other, and prints their digests.
///
/// # Errors
/// [`NotFound`] if some were not there, all others are deleted then; else why one was not, and those after it.
pub(super) fn run(arguments: &DeleteArgs) -> anyhow::Result<()> {
    let mut session = Session::new(arguments.server.client()?);
    block_on(async move {
        let mut missing = 0;
        for (done, digest) in arguments.digests.iter().enumerate() {
            match session.delete(digest).await {
                // The next ones are deleted even if nobody reads that.
                Ok(()) => {
                    print_line(digest).or_else(|error| error.downcast::<ReaderGone>().map(drop))?;
                }
                Err(error) if error.is::<NotFound>() => {
                    missing += 1;
                    say(&format!("{digest}: {error}"));
                }
                Err(error) if done == 0 => return Err(error),
                Err(error) => {
                    let deleted = plural((done - missing) as u64, "message");
                    let context = format!("stopped at {digest}, {deleted} deleted before it");
                    return Err(error).context(context);
                }
            }
        }
        match missing {
            0 => Ok(()),
            _ => Err(NotFound {
                missing,
                of: arguments.digests.len(),
            }
            .into()),
        }
    })
}
