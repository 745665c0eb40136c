//! All messages of a server, for commands that read a whole store.
//!
//! It refuses to know what becomes of them. **Invariant:** each is handed over once, in the order of the
//! digests, and has the digest that it is handed over with.

use std::ops::ControlFlow;

use anyhow::bail;

use super::setup::block_on;
use crate::client::Client;
use crate::digest::Digest;
use crate::message::Message;
use crate::ndjson::{self, LineError};

/// Hands over the messages after `after`, and of those that are damaged the digest alone.
pub(super) fn read_server(
    client: &Client,
    after: Option<Digest>,
    mut each: impl FnMut(&Digest, Option<&Message>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut last = after;
    let mut take = |line: &[u8]| {
        let (digest, message) = match ndjson::read(line) {
            Ok(message) => (message.digest(), Some(message)),
            Err(LineError::Missing { digest }) => (digest, None),
            Err(error) => bail!("the server sent a wrong line: {error}"),
        };
        if last.is_some_and(|last| digest <= last) {
            bail!("the server sent messages in a wrong order");
        }
        last = Some(digest);
        each(&digest, message.as_ref())
    };
    let pass = client.export(after, |line| match take(line) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    match block_on(pass)? {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}
