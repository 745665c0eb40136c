//! Reading a request body: within its size, the memory set aside for bodies, and its time.
//!
//! **Invariant:** every byte of a body in memory is covered by a [`Reservation`], which lives as long as what
//! is kept of the body does: in the queue of the store too, when the client has gone away. A body whose
//! length is known is covered in full before its first byte is read. Where there is no room, a body is not read
//! until there is, for a limited time, which does not count against its client; one without a length that was
//! begun first always goes on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use http::header::{EXPECT, HeaderMap};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::budget::{Budget, Ending, NoRoom, Reservation, covered};
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
    #[error(
        "Others need the room that this client has; this, which it began last, gives way. Try again soon."
    )]
    GaveWay,
    #[error(transparent)]
    Trailers(#[from] DigestFieldError),
}

/// What a body of a client that crowds out others must bring on average, in bytes a second: what a bad line of
/// a phone does.
const CROWDING_RATE_MIN: u64 = 16 << 10;

impl From<NoRoom> for BodyError {
    fn from(NoRoom: NoRoom) -> Self {
        Self::NoRoom
    }
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

    /// Where a body of `bytes` bytes is counted.
    fn part(&self, bytes: usize) -> &Budget {
        if self.is_small(bytes) {
            &self.small
        } else {
            &self.large
        }
    }

    fn is_small(&self, bytes: usize) -> bool {
        bytes <= self.small_body_bytes_max
    }

    /// Sets aside room for a batch: a line that is gathered, half of it again while its buffer grows, and as
    /// much as a line on its way to the disk.
    pub(super) async fn reserve_batch(
        &self,
        client: Client,
        limits: &BodyLimits,
    ) -> Result<Reservation, BodyError> {
        let line = usize::try_from(limits.bytes_max).unwrap_or(usize::MAX);
        let bytes = line.saturating_mul(5) / 2;
        // Where one line may take all of a share, it does.
        let bytes = bytes.min(self.large.share_max());
        let reserving = self
            .large
            .reserve_within(client, bytes, limits.room_timeout);
        Ok(reserving.await?)
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
    check_size(bytes_max, &body)?;
    // Exact where the head gave a length; grown as it comes where it did not.
    let bytes = usize::try_from(body.size_hint().lower());
    let bytes = bytes.map_err(|_| BodyError::TooLarge { bytes_max })?;
    let reserving = budget
        .part(bytes)
        .reserve_within(body.client, bytes, limits.room_timeout);
    let reservation = reserving.await?;
    let mut deadline = BodyDeadline::new(limits);
    let first = deadline.next_frame(&mut body).await?;
    match first.map(Frame::into_data) {
        // The usual case: all of it came with the head.
        Some(Ok(data)) if body.is_end_stream() && data.len() <= reservation.units() => {
            Ok(CoveredBytes::piece(data, reservation.into()))
        }
        None => Ok(CoveredBytes::piece(Bytes::new(), reservation.into())),
        Some(first) => {
            let told = Arc::new(Notify::new());
            let first = first.map_or_else(|frame| frame, Frame::data);
            let gathering = gather(
                limits,
                budget,
                body,
                first,
                reservation,
                deadline,
                &told,
                stated,
            );
            // Boxed: its state is large, and every request would carry room for it.
            let gathering = Box::pin(gathering);
            tokio::select! {
                biased;
                () = told.notified() => Err(BodyError::GaveWay),
                gathered = gathering => gathered,
            }
        }
    }
}

/// Gathers a body that comes in several pieces, of which this is the first, in a buffer of its own. Whoever is
/// `told` is to end it.
#[expect(clippy::too_many_arguments, reason = "it is the rest of `read_body`")]
async fn gather(
    limits: &BodyLimits,
    budget: &BodyBudget,
    mut body: RequestBody,
    first: Frame<Bytes>,
    mut reservation: Reservation,
    mut deadline: BodyDeadline,
    told: &Arc<Notify>,
    stated: &mut RequestDigests,
) -> Result<CoveredBytes, BodyError> {
    let bytes_max = limits.bytes_max;
    let client = body.client;
    let begin_as = |bytes| {
        let ending = Ending::Told(Arc::clone(told));
        budget.part(bytes).begin(client, ending)
    };
    let mut begun = begin_as(reservation.units());
    let mut text = copy_into(reservation.units(), &[]);
    let mut next = Some(first);
    while let Some(frame) = next {
        match frame.into_data() {
            Ok(data) => {
                let bytes = text.len() + data.len();
                if bytes as u64 > bytes_max {
                    return Err(BodyError::TooLarge { bytes_max });
                }
                if bytes > reservation.units() {
                    // Doubling, so that a long body asks a few times and not for every piece.
                    let most = usize::try_from(bytes_max).unwrap_or(usize::MAX);
                    let wanted = (2 * bytes).min(most);
                    if budget.is_small(reservation.units()) && !budget.is_small(wanted) {
                        begun = begin_as(wanted);
                    }
                    let larger = begun.reserve(wanted, limits.room_timeout).await?;
                    text = copy_into(wanted, &text);
                    // What was there before is covered until now.
                    reservation = larger;
                }
                text.extend_from_slice(&data);
                let is_crowding = || budget.part(text.len()).is_crowded_by(client);
                deadline.check(text.len() as u64, is_crowding)?;
            }
            Err(frame) => read_trailers(&frame, stated)?,
        }
        next = deadline.next_frame(&mut body).await?;
    }
    Ok(CoveredBytes::gathered(text.freeze(), reservation.into()))
}

/// A buffer for `bytes` bytes that begins with `text`.
fn copy_into(bytes: usize, text: &[u8]) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(bytes);
    buffer.extend_from_slice(text);
    buffer
}

fn read_trailers(frame: &Frame<Bytes>, stated: &mut RequestDigests) -> Result<(), BodyError> {
    if let Some(trailers) = frame.trailers_ref() {
        stated.read(trailers)?;
    }
    Ok(())
}

/// Reads a small body to its end and forgets it, so that the connection can go on without it. One that
/// the client has not begun to send, because it asked first, is not read.
pub(super) async fn discard(limits: &BodyLimits, fields: &HeaderMap, mut body: RequestBody) {
    let bytes = body.size_hint().exact();
    let is_small = bytes.is_some_and(|bytes| bytes <= limits.small_bytes_max as u64);
    if !is_small || fields.contains_key(EXPECT) {
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

    /// Ends a body that trickles: each piece in time, the whole never. More is asked of one whose client crowds
    /// out others.
    pub(super) fn check(
        &self,
        received: u64,
        is_crowded: impl FnOnce() -> bool,
    ) -> Result<(), BodyError> {
        let waited = self.waited;
        let is_behind = |rate: u64| received < rate.saturating_mul(waited.as_secs());
        let crowding_rate_min = CROWDING_RATE_MIN.max(self.rate_min);
        if waited > self.stall_timeout
            && (is_behind(self.rate_min) || is_behind(crowding_rate_min) && is_crowded())
        {
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
    fn large_bodies_never_keep_small_ones_out() {
        let budget = budget();
        let _large = budget.part(11).reserve(client(1), 500).unwrap();
        let small: Vec<_> = (0..5)
            .map(|_| budget.part(10).reserve(client(1), 10).unwrap())
            .collect();
        budget.part(10).reserve(client(1), 10).unwrap_err();
        budget.part(11).reserve(client(1), 11).unwrap_err();
        drop(small);
        budget.part(10).reserve(client(1), 50).unwrap();
    }

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
