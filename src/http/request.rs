//! Reading a request body: within its size, the memory set aside for bodies, and its time.
//!
//! Where there is no room for what comes next (`body_room`), a body is not read until there is, for a limited
//! time that does not count against its client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{EXPECT, HeaderMap};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, timeout};

use super::body_room::{BodyBudget, BodyBuffer, CoveredBytes};
use super::budget::{NoRoom, Requester};
use super::digest_fields::{DigestFieldError, RequestDigests};
use super::discards::Discards;
use super::record::BodyProgress;
use crate::access::networks::Client;
use crate::config::BodyLimits;

/// What a body of a client that crowds out others must bring on average, in bytes a second: what a phone does
/// on a bad line.
const CROWDING_RATE_MIN: u64 = 16 << 10;

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
        "Too many bodies are on their way at the moment; there is no room for this one. Try again soon."
    )]
    NoRoom,
    #[error(
        "Other clients need room, and this one has more than they; what it began last was ended. Try again soon."
    )]
    GaveWay,
    #[error(transparent)]
    Trailers(#[from] DigestFieldError),
}

impl From<NoRoom> for BodyError {
    fn from(NoRoom: NoRoom) -> Self {
        Self::NoRoom
    }
}

/// A body as it comes, followed by its [`BodyProgress`].
#[derive(Debug)]
pub(super) struct RequestBody {
    /// Taken when it is dropped.
    incoming: Option<Incoming>,
    requester: Requester,
    /// The client asks before it sends it (RFC 9110, 10.1.1).
    is_announced: bool,
    /// `None` for a request without a body.
    progress: Option<Arc<BodyProgress>>,
    has_ended: bool,
    /// Where what is not read goes, over HTTP/2.
    discards: Option<Discards>,
}

impl RequestBody {
    pub(super) fn new(
        incoming: Incoming,
        requester: Requester,
        is_announced: bool,
        progress: Option<Arc<BodyProgress>>,
        discards: Option<Discards>,
    ) -> Self {
        Self {
            incoming: Some(incoming),
            requester,
            is_announced,
            progress,
            has_ended: false,
            discards,
        }
    }

    /// Whose it is.
    pub(super) fn requester(&self) -> &Requester {
        &self.requester
    }

    /// The client that it comes from.
    pub(super) fn client(&self) -> Client {
        self.requester.client
    }

    /// What was not read of it, for who drops it after the answer has begun, and where that goes. Before, a handler
    /// need not care.
    pub(super) fn into_unread(mut self) -> Option<(Incoming, Discards)> {
        let discards = self.discards.clone()?;
        Some((self.take_unread()?, discards))
    }

    fn take_unread(&mut self) -> Option<Incoming> {
        let incoming = self.incoming.take();
        incoming.filter(|incoming| !self.has_ended && !incoming.is_end_stream())
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(unread) = self.take_unread()
            && let Some(progress) = &self.progress
        {
            if self.discards.is_some() {
                progress.keep_unread(unread);
            } else {
                progress.abandon();
            }
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
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(incoming).poll_frame(context);
        if let (Poll::Ready(Some(Ok(frame))), Some(progress)) = (&polled, &self.progress)
            && let Some(data) = frame.data_ref()
        {
            progress.add(data.len());
        }
        self.has_ended |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map(Body::size_hint)
            .unwrap_or_default()
    }
}

/// Refuses a body that says in the head of its request that it is too large.
pub(super) fn check_size(bytes_max: u64, body: &RequestBody) -> Result<(), BodyError> {
    if body.size_hint().lower() > bytes_max {
        return Err(BodyError::TooLarge { bytes_max });
    }
    Ok(())
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
    check_size(limits.bytes_max, &body)?;
    let length = body.size_hint().exact();
    let mut deadline = BodyDeadline::new(limits);
    // One that is announced is not asked for before there is room.
    let first = if body.is_announced {
        None
    } else {
        deadline.next_frame(&mut body).await?
    };
    let client = body.client();
    let first = match first.map(Frame::into_data) {
        // The usual case: all of it came with the head.
        Some(Ok(data)) if body.is_end_stream() => {
            if let Ok(reservation) = budget.reserve(client, data.len()) {
                return Ok(CoveredBytes::piece(data, reservation.into()));
            }
            Some(Frame::data(data))
        }
        Some(Ok(data)) => Some(Frame::data(data)),
        Some(Err(trailers)) => Some(trailers),
        None if body.is_announced => None,
        None => {
            let reservation = budget.reserve(client, 0)?;
            return Ok(CoveredBytes::piece(Bytes::new(), reservation.into()));
        }
    };
    // Boxed: its state is large, and every request would carry room for it.
    let buffer = BodyBuffer::new(limits, budget, body.requester(), length);
    Box::pin(gather(limits, buffer, body, first, deadline, stated)).await
}

/// Reads the rest of a body into a buffer of its own, after its `first` piece if it was asked for.
async fn gather(
    limits: &BodyLimits,
    mut buffer: BodyBuffer<'_>,
    mut body: RequestBody,
    first: Option<Frame<Bytes>>,
    mut deadline: BodyDeadline,
    stated: &mut RequestDigests,
) -> Result<CoveredBytes, BodyError> {
    let bytes_max = limits.bytes_max;
    let told = buffer.told();
    let gathering = async {
        let mut next = first;
        if body.is_announced {
            buffer.begin().await?;
            next = deadline.next_frame(&mut body).await?;
        }
        while let Some(frame) = next {
            match frame.into_data() {
                Ok(data) => {
                    if (buffer.bytes() + data.len()) as u64 > bytes_max {
                        return Err(BodyError::TooLarge { bytes_max });
                    }
                    buffer.add(&data).await?;
                    deadline.check(buffer.bytes() as u64, || buffer.is_crowding())?;
                }
                Err(frame) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        stated.read(trailers)?;
                    }
                }
            }
            next = deadline.next_frame(&mut body).await?;
        }
        Ok::<_, BodyError>(())
    };
    tokio::select! {
        biased;
        () = told.ended() => return Err(BodyError::GaveWay),
        gathered = gathering => gathered?,
    }
    Ok(buffer.finish()?)
}

/// Reads a small body to its end and forgets it, so that an HTTP/1.1 connection can go on without it. One that
/// the client has not begun to send, because it asked first, is not read.
pub(super) async fn discard(limits: &BodyLimits, fields: &HeaderMap, mut body: RequestBody) {
    let bytes = body.size_hint().exact();
    let is_small = bytes.is_some_and(|bytes| bytes <= limits.small_bytes_max as u64);
    if !is_small || fields.contains_key(EXPECT) || body.discards.is_some() {
        return;
    }
    let mut deadline = BodyDeadline::new(limits);
    let mut received = 0;
    while let Ok(Some(frame)) = deadline.next_frame(&mut body).await {
        received += frame.data_ref().map_or(0, |data| data.len() as u64);
        if deadline.check(received, || false).is_err() {
            return;
        }
    }
}

/// How long a body may take. Only time in which it is waited for counts.
#[derive(Debug)]
pub(super) struct BodyDeadline {
    stall_timeout: Duration,
    rate_min: u64,
    waited: Duration,
}

/// Adds up until it is dropped, which may be in the middle of a wait.
struct Clock<'a> {
    waited: &'a mut Duration,
    started: Instant,
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        *self.waited += self.started.elapsed();
    }
}

impl BodyDeadline {
    pub(super) fn new(limits: &BodyLimits) -> Self {
        Self {
            stall_timeout: limits.stall_timeout,
            rate_min: limits.rate_min,
            waited: Duration::ZERO,
        }
    }

    /// The next piece of the body, or its trailers.
    pub(super) async fn next_frame(
        &mut self,
        body: &mut RequestBody,
    ) -> Result<Option<Frame<Bytes>>, BodyError> {
        let _clock = Clock {
            waited: &mut self.waited,
            started: Instant::now(),
        };
        let frame = timeout(self.stall_timeout, body.frame()).await;
        let frame = frame.map_err(|_| BodyError::TooSlow)?;
        frame.transpose().map_err(|_| BodyError::Broken)
    }

    /// Ends a body that trickles: each piece in time, the whole never. More is asked of one whose client
    /// crowds out others.
    pub(super) fn check(
        &self,
        received: u64,
        is_crowding: impl FnOnce() -> bool,
    ) -> Result<(), BodyError> {
        let is_behind = |rate: u64| received < rate.saturating_mul(self.waited.as_secs());
        let crowding_rate_min = CROWDING_RATE_MIN.max(self.rate_min);
        if self.waited > self.stall_timeout
            && (is_behind(self.rate_min) || is_behind(crowding_rate_min) && is_crowding())
        {
            return Err(BodyError::TooSlow);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(limits: &BodyLimits, waited: Duration) -> BodyDeadline {
        let mut deadline = BodyDeadline::new(limits);
        deadline.waited = waited;
        deadline
    }

    #[test]
    fn a_trickling_body_is_ended_once_it_is_behind_its_rate() {
        let limits = BodyLimits::default();
        let check = |waited, received| after(&limits, waited).check(received, || false);
        check(limits.stall_timeout, 0).unwrap();
        let waited = limits.stall_timeout + Duration::from_secs(10);
        check(waited, 40 * 1024).unwrap();
        let ended = check(waited, 40 * 1024 - 1);
        assert!(matches!(ended, Err(BodyError::TooSlow)));
    }

    #[test]
    fn a_body_whose_client_crowds_out_others_must_be_faster() {
        let limits = BodyLimits::default();
        let deadline = after(&limits, Duration::from_secs(40));
        let due = 40 * CROWDING_RATE_MIN;
        deadline.check(due, || true).unwrap();
        deadline.check(due - 1, || false).unwrap();
        deadline.check(due - 1, || true).unwrap_err();
    }
}
