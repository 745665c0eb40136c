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
///
/// The server is asked again for what comes after the last one, until that is nothing: where its answer passes
/// through a proxy that speaks HTTP/1.0 to it, as nginx does unless it is told otherwise, one that broke off looks
/// like one that ended.
pub(super) fn read_server(
    client: &Client,
    after: Option<Digest>,
    mut each: impl FnMut(&Digest, Option<&Message>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut last = after;
    loop {
        let begun_after = last;
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
        let pass = client.export(begun_after, |line| match take(line) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        });
        if let ControlFlow::Break(error) = block_on(pass)? {
            return Err(error);
        }
        if last == begun_after {
            return Ok(());
        }
    }
}
