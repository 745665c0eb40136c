//! Reading a request body: within its size, the memory set aside for bodies, and its time.
//!
//! **Invariant:** every byte of a body in memory is covered by a [`Reservation`], which lives as long as what
//! is kept of the body does: in the queue of the store too, when the client has gone away. A body whose
//! length is known is covered in full before its first byte is read: what is begun can be finished, and what
//! cannot be is refused while it costs nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use http::header::{EXPECT, HeaderMap};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, timeout};

use super::budget::{Budget, NoRoom, Reservation, covered};
use super::digest_fields::{DigestFieldError, RequestDigests};
use super::record::BodyProgress;
use crate::access::networks::Client;
use crate::config::BodyLimits;

/// Why a body is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("The body is larger than {bytes_max} bytes.")]
    TooLarge { bytes_max: u64 },
    #[error("The body came too slowly.")]
    TooSlow,
    #[error("The body ended early.")]
    Broken,
    #[error(
        "Too many bodies are on their way at the moment; this one was not read. Try again soon."
    )]
    NoRoom,
    #[error(transparent)]
    Trailers(#[from] DigestFieldError),
}

/// A body as it comes, followed by its [`BodyProgress`].
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Incoming,
    /// Whose it is.
    client: Client,
    /// `None` for a request without a body.
    progress: Option<Arc<BodyProgress>>,
    has_ended: bool,
}

impl RequestBody {
    pub(super) fn new(
        incoming: Incoming,
        client: Client,
        progress: Option<Arc<BodyProgress>>,
    ) -> Self {
        Self {
            incoming,
            client,
            progress,
            has_ended: false,
        }
    }

    /// Whose it is.
    pub(super) fn client(&self) -> Client {
        self.client
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(progress) = &self.progress
            && !self.has_ended
            && !self.incoming.is_end_stream()
        {
            progress.abandon();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(context);
        if let (Poll::Ready(Some(Ok(frame))), Some(progress)) = (&polled, &self.progress)
            && let Some(data) = frame.data_ref()
        {
            progress.add(data.len());
        }
        self.has_ended |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Memory for bodies in flight, in two parts, so that however many large bodies are on their way,
/// small ones pass.
#[derive(Debug)]
pub(super) struct BodyBudget {
    small: Budget,
    large: Budget,
    small_body_bytes_max: usize,
}

impl BodyBudget {
    pub(super) fn new(limits: &BodyLimits) -> Self {
        Self {
            small: Budget::new(limits.all_small_bytes_max),
            large: Budget::new(limits.all_large_bytes_max),
            small_body_bytes_max: limits.small_bytes_max,
        }
    }

    /// Sets aside room for a body of `bytes` bytes of `client`; never waits.
    fn reserve(&self, client: Client, bytes: usize) -> Result<Reservation, BodyError> {
        let part = if bytes <= self.small_body_bytes_max {
            &self.small
        } else {
            &self.large
        };
        part.reserve(client, bytes)
            .map_err(|NoRoom| BodyError::NoRoom)
    }

    /// Sets aside room for a batch: a line that is gathered, half of it again while its buffer grows, and as
    /// much as a line on its way to the disk.
    pub(super) fn reserve_batch(
        &self,
        client: Client,
        limits: &BodyLimits,
    ) -> Result<Reservation, BodyError> {
        let line = usize::try_from(limits.bytes_max).unwrap_or(usize::MAX);
        // Where one line may take all of a share, it does.
        let bytes = line.saturating_mul(5) / 2;
        self.reserve(client, bytes.min(self.large.share_max()))
    }
}

/// Refuses a body that says in the head of its request that it is too large.
pub(super) fn check_size(bytes_max: u64, body: &RequestBody) -> Result<(), BodyError> {
    if body.size_hint().lower() > bytes_max {
        return Err(BodyError::TooLarge { bytes_max });
    }
    Ok(())
}

/// Bytes of a body, with what covers them.
#[derive(Debug)]
pub(super) struct CoveredBytes {
    bytes: Bytes,
    /// They have a buffer of their own, of their size. Otherwise they are part of what was read from the
    /// connection.
    is_gathered: bool,
    reservation: Arc<Reservation>,
}

impl CoveredBytes {
    /// Bytes that are part of what was read from the connection.
    pub(super) fn piece(bytes: Bytes, reservation: Arc<Reservation>) -> Self {
        Self {
            bytes,
            is_gathered: false,
            reservation,
        }
    }

    /// Bytes in a buffer of their own.
    pub(super) fn gathered(bytes: Bytes, reservation: Arc<Reservation>) -> Self {
        Self {
            bytes: covered(bytes, Arc::clone(&reservation)),
            is_gathered: true,
            reservation,
        }
    }

    /// The bytes, covered only as long as this is there.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Lets go of everything but `text`, a part of these bytes or made from them. It is copied unless it is at
    /// least half of a buffer of its own, and covered for as long as it is anywhere.
    pub(super) fn into_text(self, text: ByteString) -> ByteString {
        let Self {
            bytes,
            is_gathered,
            reservation,
        } = self;
        let is_part = bytes.as_ptr_range().contains(&text.as_ptr());
        if is_part && is_gathered && text.len() >= bytes.len() / 2 {
            return text;
        }
        let text = if is_part {
            ByteString::from(&*text)
        } else {
            text
        };
        drop(bytes);
        let length = text.len();
        let text = text.into_bytes();
        let text = match Arc::try_unwrap(reservation) {
            Ok(mut reservation) => {
                reservation.shrink_to(length);
                covered(text, reservation)
            }
            // One for all lines of a batch.
            Err(shared) => covered(text, shared),
        };
        ByteString::try_from(text).unwrap_or_else(|_| unreachable!("it was a text before"))
    }
}

/// Reads a whole body, and into `stated` what its trailers say of its digest.
///
/// Dropping the future, which is what happens when the client goes away, frees everything.
pub(super) async fn read_body(
    limits: &BodyLimits,
    budget: &BodyBudget,
    mut body: RequestBody,
    stated: &mut RequestDigests,
) -> Result<CoveredBytes, BodyError> {
    let bytes_max = limits.bytes_max;
    let too_large = || BodyError::TooLarge { bytes_max };
    check_size(bytes_max, &body)?;
    // Exact where the head gave a length; grown as it comes where it did not.
    let declared = usize::try_from(body.size_hint().lower()).map_err(|_| too_large())?;
    let client = body.client;
    let mut reservation = budget.reserve(client, declared)?;
    let deadline = BodyDeadline::new(limits);
    let mut text = BytesMut::new();
    while let Some(frame) = deadline.next_frame(&mut body).await? {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                if let Some(trailers) = frame.trailers_ref() {
                    stated.read(trailers)?;
                }
                continue;
            }
        };
        let bytes = text.len() + data.len();
        if bytes as u64 > bytes_max {
            return Err(too_large());
        }
        if bytes > reservation.units() {
            // Doubling, so that a long body asks a few times and not for every frame.
            let most = usize::try_from(bytes_max).unwrap_or(usize::MAX);
            let larger = budget.reserve(client, (2 * bytes).min(most))?;
            text = copy_into(larger.units(), &text);
            reservation = larger;
        }
        if text.is_empty() && body.is_end_stream() {
            // The usual case: all of it came with the head.
            return Ok(CoveredBytes::piece(data, reservation.into()));
        }
        if text.capacity() == 0 {
            text = copy_into(reservation.units(), &[]);
        }
        text.extend_from_slice(&data);
        deadline.check(text.len() as u64)?;
    }
    Ok(CoveredBytes::gathered(text.freeze(), reservation.into()))
}

/// A buffer for `bytes` bytes that begins with `text`. What it replaces is covered until then.
fn copy_into(bytes: usize, text: &[u8]) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(bytes);
    buffer.extend_from_slice(text);
    buffer
}

/// Reads a small body to its end and forgets it, so that the connection can go on without it. One that
/// the client has not begun to send, because it asked first, is not read.
pub(super) async fn discard(limits: &BodyLimits, fields: &HeaderMap, mut body: RequestBody) {
    let bytes = body.size_hint().exact();
    let is_small = bytes.is_some_and(|bytes| bytes <= limits.small_bytes_max as u64);
    if !is_small || fields.contains_key(EXPECT) {
        return;
    }
    let deadline = BodyDeadline::new(limits);
    let mut received = 0;
    while let Ok(Some(frame)) = deadline.next_frame(&mut body).await {
        received += frame.data_ref().map_or(0, |data| data.len() as u64);
        if deadline.check(received).is_err() {
            return;
        }
    }
}

/// How long a body may take.
#[derive(Debug)]
pub(super) struct BodyDeadline {
    stall_timeout: Duration,
    rate_min: u64,
    started: Instant,
}

impl BodyDeadline {
    pub(super) fn new(limits: &BodyLimits) -> Self {
        Self {
            stall_timeout: limits.stall_timeout,
            rate_min: limits.rate_min,
            started: Instant::now(),
        }
    }

    /// The next piece of the body, or its trailers.
    pub(super) async fn next_frame(
        &self,
        body: &mut RequestBody,
    ) -> Result<Option<Frame<Bytes>>, BodyError> {
        let frame = timeout(self.stall_timeout, body.frame()).await;
        let frame = frame.map_err(|_| BodyError::TooSlow)?;
        frame.transpose().map_err(|_| BodyError::Broken)
    }

    /// Ends a body that trickles: each piece in time, the whole never.
    pub(super) fn check(&self, received: u64) -> Result<(), BodyError> {
        let elapsed = self.started.elapsed();
        let due = self.rate_min.saturating_mul(elapsed.as_secs());
        if elapsed > self.stall_timeout && received < due {
            return Err(BodyError::TooSlow);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> BodyBudget {
        BodyBudget::new(&BodyLimits {
            all_small_bytes_max: 100,
            all_large_bytes_max: 1000,
            small_bytes_max: 10,
            ..BodyLimits::default()
        })
    }

    fn client(last: u8) -> Client {
        Client::of([10, 0, 0, last].into())
    }

    #[test]
    fn bodies_within_the_budget_are_covered_and_one_more_is_not() {
        let budget = budget();
        let first = budget.reserve(client(1), 300).unwrap();
        let second = budget.reserve(client(1), 200).unwrap();
        let refused = budget.reserve(client(1), 11);
        assert!(matches!(refused, Err(BodyError::NoRoom)));
        budget.reserve(client(2), 500).unwrap();
        drop(first);
        budget.reserve(client(1), 300).unwrap();
        drop(second);
    }

    #[test]
    fn large_bodies_never_keep_small_ones_out() {
        let budget = budget();
        let _large = budget.reserve(client(1), 500).unwrap();
        let small: Vec<_> = (0..5)
            .map(|_| budget.reserve(client(1), 10).unwrap())
            .collect();
        let refused = budget.reserve(client(1), 10);
        assert!(matches!(refused, Err(BodyError::NoRoom)));
        drop(small);
        budget.reserve(client(1), 0).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickling_body_is_ended_once_it_is_behind_its_rate() {
        let limits = BodyLimits::default();
        let deadline = BodyDeadline::new(&limits);
        tokio::time::advance(limits.stall_timeout).await;
        deadline.check(0).unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        deadline.check(40 * 1024).unwrap();
        assert!(matches!(
            deadline.check(40 * 1024 - 1),
            Err(BodyError::TooSlow)
        ));
    }
}
