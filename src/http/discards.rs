//! Bodies that nobody reads any more, over HTTP/2.
//!
//! Most clients do not see the answer to a body that they still send if their stream is reset right behind it:
//! curl, Java and httpx report the reset instead. So what still comes of such a body is taken and dropped before
//! its stream is given up, which resets it with `NO_ERROR` (RFC 9113, 8.1). Over HTTP/1.1 the connection is
//! closed with the same patience, by `server/stream`.
//!
//! It refuses to know why a body is not read. **Invariant:** from the first of these bodies of a connection until
//! there is none, no more than one allowance of bytes and time is spent on all of them. Where the bytes are spent,
//! nothing is read until the time is over.

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Buf;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::{Instant, timeout_at};

/// What a connection may still bring of bodies that are not read, in bytes: as much as one that is closed.
const BYTES_MAX: usize = 16 << 20;

/// How long it has for that.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The bodies of one connection that are not read.
#[derive(Clone, Debug, Default)]
pub struct Discards(Arc<Mutex<Spent>>);

/// Of the allowance, while there are such bodies.
#[derive(Debug, Default)]
struct Spent {
    bodies: usize,
    bytes: usize,
    /// When the time is over.
    deadline: Option<Instant>,
}

/// One more body, until dropped.
struct Discard(Discards);

impl Discards {
    /// Whether there are any.
    #[must_use]
    pub fn are_under_way(&self) -> bool {
        self.spent().bodies > 0
    }

    /// Takes what comes of `body` and drops it, and `body` in the end, in a task of its own. `cover` is kept until
    /// then.
    pub(super) fn discard<B>(&self, mut body: B, cover: impl Send + 'static)
    where
        B: Body<Data: Send, Error: Send> + Send + Unpin + 'static,
    {
        let (discard, deadline) = self.begin();
        tokio::spawn(async move {
            let taking = async {
                while let Some(Ok(frame)) = body.frame().await {
                    let bytes = frame.into_data().map_or(0, |data| data.remaining());
                    if !discard.spend(bytes) {
                        // Flow control stops the client: what still came for a stream that is gone would count
                        // against the connection, which may be that of a proxy.
                        pending::<()>().await;
                    }
                }
            };
            // Whichever comes first.
            let _ = timeout_at(deadline, taking).await;
            drop(body);
            drop((discard, cover));
        });
    }

    fn begin(&self) -> (Discard, Instant) {
        let mut spent = self.spent();
        spent.bodies += 1;
        let deadline = *spent
            .deadline
            .get_or_insert_with(|| Instant::now() + TIMEOUT);
        (Discard(self.clone()), deadline)
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Discard {
    /// Spends so many bytes; whether more may come.
    fn spend(&self, bytes: usize) -> bool {
        let mut spent = self.0.spent();
        spent.bytes = spent.bytes.saturating_add(bytes);
        spent.bytes <= BYTES_MAX
    }
}

impl Drop for Discard {
    fn drop(&mut self) {
        let mut spent = self.0.spent();
        spent.bodies -= 1;
        if spent.bodies == 0 {
            *spent = Spent::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bodies_of_a_connection_share_one_allowance_until_there_is_none() {
        let discards = Discards::default();
        let (first, deadline) = discards.begin();
        tokio::time::advance(TIMEOUT / 2).await;
        let (second, same) = discards.begin();
        assert_eq!(deadline, same);
        assert!(first.spend(BYTES_MAX / 2) && second.spend(BYTES_MAX / 2));
        assert!(!first.spend(1));
        drop(first);
        assert!(!second.spend(0));
        assert!(discards.are_under_way());
        drop(second);
        assert!(!discards.are_under_way());
        let (next, deadline) = discards.begin();
        assert_eq!(deadline, Instant::now() + TIMEOUT);
        assert!(next.spend(BYTES_MAX));
    }
}
