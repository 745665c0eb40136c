//! The body of an answer, and what a client that does not take it may hold.
//!
//! What a client has not taken yet is counted against a budget that all connections share, until the last
//! byte has left this process, and its [`DeliveryProgress`] shows whether the client takes anything at all. On
//! HTTP/2 this holds for every answer: there, one connection can leave many answers unread and be busy with
//! others. On HTTP/1.1 it holds for all but the smallest: a connection has one at a time.
//!
//! An answer without a known end is made as the client takes it, by the holder of its [`BodySender`]: a
//! few pieces ahead, as many bytes as were agreed on. If the sender is dropped before it says that the
//! answer is whole, the client is told that it is not.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{Semaphore, mpsc};

use super::budget::{Budget, NoRoom, Reservation};
use super::covered::covered;
use super::ending::Ending;
use super::record::RequestRecord;
use crate::access::networks::Client;

/// Largest piece of an answer, in bytes: what is buffered for a stream anyway.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// An answer up to this is not counted for itself, in bytes: it is a small part of what its connection, or its
/// stream, is counted with.
const SMALL_BYTES_MAX: usize = 4 << 10;

/// What a piece costs beside its bytes, in bytes: its place in the channel and the head of its memory.
const PIECE_OVERHEAD_BYTES: usize = 64;

/// An answer.
pub(super) type Response = http::Response<ResponseBody>;

/// The body of an answer.
#[derive(Debug, Default)]
pub struct ResponseBody {
    rest: Bytes,
    /// If it is counted and followed.
    delivery: Option<DeliveryProgress>,
    /// What comes after `rest`, for an answer that is made while it is sent; boxed, since all others are
    /// moved with it.
    stream: Option<Box<Stream>>,
    /// Whose answer it is; over when this is dropped.
    record: Option<RequestRecord>,
}

/// The taking end of an answer that is made while it is taken.
#[derive(Debug)]
struct Stream {
    pieces: mpsc::UnboundedReceiver<Piece>,
    room: Arc<Semaphore>,
    /// Given back when the answer is over.
    reserved: [Option<Reservation>; 2],
    /// Dropped when the answer is over.
    guard: Option<Box<dyn Any + Send + Sync>>,
}

/// What a [`BodySender`] hands over.
#[derive(Debug)]
enum Piece {
    /// Covered by their part of the room.
    Bytes(Bytes),
    /// Nothing comes any more.
    End,
}

/// The making end of an answer that is made while it is taken.
#[derive(Debug)]
pub(super) struct BodySender {
    pieces: mpsc::UnboundedSender<Piece>,
    /// Bytes that may wait until they are taken: the limit of the channel.
    room: Arc<Semaphore>,
    bytes_max: usize,
}

/// The client does not take the answer any more.
#[derive(Debug)]
pub(super) struct Gone;

impl BodySender {
    /// Adds to the answer, once there is room for it among what was not taken yet. A piece larger than all
    /// the room passes alone.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        let permits = (bytes.len() + PIECE_OVERHEAD_BYTES).min(self.bytes_max);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await;
        let piece = covered(bytes, room.map_err(|_| Gone)?);
        self.pieces.send(Piece::Bytes(piece)).map_err(|_| Gone)
    }

    /// Waits until nobody takes the answer any more.
    pub(super) async fn gone(&self) {
        self.pieces.closed().await;
    }

    /// Says that the answer is whole.
    pub(super) fn end(self) {
        // A client that is gone does not need to know.
        let _ = self.pieces.send(Piece::End);
    }
}

impl Drop for Stream {
    /// Ends the wait of the sender.
    fn drop(&mut self) {
        self.room.close();
    }
}

/// Follows an answer on its way out.
#[derive(Clone, Debug, Default)]
pub struct DeliveryProgress(Arc<AtomicUsize>);

impl DeliveryProgress {
    /// Pieces that the client took so far, `None` once that is all of them or it went away.
    #[must_use]
    pub fn pieces(&self) -> Option<usize> {
        (Arc::strong_count(&self.0) > 1).then(|| self.0.load(Relaxed))
    }
}

impl Budget {
    /// Sets aside for `client` what `body` keeps in memory, unless it is small; `ending` ends it. An answer counts as half a share
    /// at most, so that the largest passes too.
    pub(super) fn reserve_answer(
        &self,
        client: Client,
        body: &ResponseBody,
        ending: &Ending,
    ) -> Result<Option<Reservation>, NoRoom> {
        if body.rest.len() <= SMALL_BYTES_MAX {
            return Ok(None);
        }
        let bytes = self.counted_bytes(body);
        let reserved = self.begin_at_once(client, bytes, Arc::clone(ending));
        reserved.map(Some)
    }

    /// What `body` counts as.
    pub(super) fn counted_bytes(&self, body: &ResponseBody) -> usize {
        body.rest.len().min(self.share_max() / 2)
    }
}

impl ResponseBody {
    /// All of it, as long as nothing was handed over; `None` if it is still being made.
    pub(super) fn bytes(&self) -> Option<&Bytes> {
        self.stream.is_none().then_some(&self.rest)
    }

    /// An answer that is made while it is sent; `bytes_max` bytes of it may wait until the client takes
    /// them. `reserved` is given back when it is over.
    pub(super) fn stream(bytes_max: usize, reserved: Option<Reservation>) -> (BodySender, Self) {
        let (sender, pieces) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(bytes_max));
        let stream = Stream {
            pieces,
            room: Arc::clone(&room),
            reserved: [reserved, None],
            guard: None,
        };
        let sender = BodySender {
            pieces: sender,
            room,
            bytes_max,
        };
        let answer = Self {
            stream: Some(Box::new(stream)),
            ..Self::default()
        };
        (sender, answer)
    }

    /// Lets this answer be followed.
    pub(super) fn followed(self) -> Self {
        let delivery = Some(DeliveryProgress::default());
        Self { delivery, ..self }
    }

    /// Keeps what was set aside for an answer, `stream` for its HTTP/2 stream, until the last of its bytes has
    /// left this process, and lets it be followed.
    pub(super) fn cover(&mut self, stream: Option<Reservation>, answer: Option<Reservation>) {
        if let Some(body) = &mut self.stream {
            body.reserved[1] = stream;
        } else if (stream.is_some() || answer.is_some()) && !self.rest.is_empty() {
            let progress = DeliveryProgress::default();
            let rest = std::mem::take(&mut self.rest);
            self.rest = covered(rest, (stream, answer, progress.clone()));
            self.delivery = Some(progress);
        }
    }

    /// Whether it is made while it is sent.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        self.stream.is_some()
    }

    /// Keeps `guard` until the answer is over, if it is made while it is sent; drops it otherwise.
    pub fn keep(&mut self, guard: impl Any + Send + Sync) {
        if let Some(stream) = &mut self.stream {
            stream.guard = Some(Box::new(guard));
        }
    }

    /// Follows this answer, if it is counted.
    #[must_use]
    pub fn delivery(&self) -> Option<DeliveryProgress> {
        self.delivery.clone()
    }

    /// Ends `record` with itself.
    pub(super) fn set_record(&mut self, record: RequestRecord) {
        self.record = Some(record);
    }

    /// Counts what leaves.
    fn hand_over(&mut self, piece: Bytes) -> Frame<Bytes> {
        if let Some(record) = &mut self.record {
            record.add_bytes_out(piece.len());
        }
        Frame::data(piece)
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Self {
            rest: bytes,
            ..Self::default()
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        while self.rest.is_empty() {
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(None);
            };
            match ready!(stream.pieces.poll_recv(context)) {
                Some(Piece::Bytes(bytes)) => self.rest = bytes,
                Some(Piece::End) => self.stream = None,
                // It was broken off.
                None => return Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into()))),
            }
        }
        if let Some(delivery) = &self.delivery {
            delivery.0.fetch_add(1, Relaxed);
        }
        let length = self.rest.len().min(PIECE_BYTES_MAX);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(self.hand_over(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.stream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.stream.is_some() {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use http_body_util::BodyExt;

    use super::*;
    use crate::http::ending::EndSignal;

    fn client() -> Client {
        Client::of([10, 0, 0, 1].into())
    }

    fn ending() -> Ending {
        Arc::<EndSignal>::default()
    }

    /// An answer of so many bytes, if there is room for it.
    fn answer(room: &Budget, bytes: usize) -> Result<ResponseBody, NoRoom> {
        let mut body = ResponseBody::from(Bytes::from(vec![b'x'; bytes]));
        let reserved = room.reserve_answer(client(), &body, &ending())?;
        body.cover(None, reserved);
        Ok(body)
    }

    async fn take(body: &mut ResponseBody) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[test]
    fn answers_are_admitted_while_there_is_room() {
        let room = Budget::new(40_000);
        let first = answer(&room, 10_000).unwrap();
        let _second = answer(&room, 10_000).unwrap();
        answer(&room, SMALL_BYTES_MAX + 1).unwrap_err();
        answer(&room, SMALL_BYTES_MAX).unwrap();
        drop(first);
        answer(&room, 10_000).unwrap();
    }

    #[test]
    fn the_largest_answers_count_as_half_a_share() {
        let room = Budget::new(400_000);
        let first = answer(&room, 1_000_000).unwrap();
        let second = answer(&room, 1_000_000).unwrap();
        answer(&room, 1_000_000).unwrap_err();
        drop((first, second));
        answer(&room, 100_000).unwrap();
    }

    #[tokio::test]
    async fn an_answer_is_counted_and_followed_until_its_last_byte_is_gone() {
        const BYTES: usize = PIECE_BYTES_MAX + 1;
        let room = Budget::new(4 * BYTES);
        let _rest = room.reserve(client(), BYTES).unwrap();
        let mut large = answer(&room, BYTES).unwrap();
        let progress = large.delivery().unwrap();
        assert_eq!(progress.pieces(), Some(0));
        assert_eq!(take(&mut large).await.len(), PIECE_BYTES_MAX);
        assert_eq!(progress.pieces(), Some(1));
        assert_eq!(large.size_hint().exact(), Some(1));
        let last = take(&mut large).await;
        assert!(large.frame().await.is_none());
        drop(large);
        assert_eq!((last.len(), progress.pieces()), (1, Some(2)));
        room.reserve(client(), 1).unwrap_err();
        drop(last);
        assert_eq!(progress.pieces(), None);
        room.reserve(client(), BYTES).unwrap();
    }

    #[tokio::test]
    async fn a_stream_holds_its_room_until_its_answer_is_gone_however_small_that_is() {
        let room = Budget::new(200);
        let mut small = ResponseBody::from(Bytes::from_static(b"x"));
        small.cover(room.reserve(client(), 100).ok(), None);
        let progress = small.delivery().unwrap();
        let last = take(&mut small).await;
        drop(small);
        room.reserve(client(), 1).unwrap_err();
        assert!(progress.pieces().is_some());
        drop(last);
        assert!(progress.pieces().is_none());

        let (sender, mut lines) = ResponseBody::stream(1, None);
        lines.cover(room.reserve(client(), 100).ok(), None);
        assert!(lines.delivery().is_none());
        sender.end();
        assert!(lines.frame().await.is_none());
        room.reserve(client(), 100).unwrap();
    }

    #[tokio::test]
    async fn a_stream_is_taken_in_pieces_and_its_end_is_told_from_a_break() {
        let (stream, whole) = ResponseBody::stream(1, None);
        let mut whole = whole.followed();
        let progress = whole.delivery().unwrap();
        assert!(!whole.is_end_stream());
        assert_eq!(whole.size_hint().exact(), None);
        stream
            .send(vec![b'x'; PIECE_BYTES_MAX + 1].into())
            .await
            .unwrap();
        let (first, second) = (whole.frame().await, whole.frame().await);
        assert_eq!(
            first.unwrap().unwrap().into_data().unwrap().len(),
            PIECE_BYTES_MAX
        );
        assert_eq!(second.unwrap().unwrap().into_data().unwrap().len(), 1);
        assert_eq!(progress.pieces(), Some(2));
        stream.end();
        assert!(whole.frame().await.is_none());
        assert!(whole.is_end_stream());

        let (stream, mut broken) = ResponseBody::stream(1, None);
        drop(stream);
        assert!(broken.frame().await.unwrap().is_err());
    }

    /// Whether a sender waits for room.
    async fn is_waiting(sending: &mut (impl Future + Unpin)) -> bool {
        tokio::select! {
            biased;
            _ = sending => false,
            () = std::future::ready(()) => true,
        }
    }

    #[tokio::test]
    async fn a_sender_waits_while_what_was_not_taken_fills_the_room() {
        const BYTES_MAX: usize = 2 * (10 + PIECE_OVERHEAD_BYTES);
        let (sender, mut answer) = ResponseBody::stream(BYTES_MAX, None);
        let piece = Bytes::from_static(b"0123456789");
        for _ in 0..2 {
            sender.send(piece.clone()).await.unwrap();
        }
        let mut third = pin!(sender.send(piece.clone()));
        assert!(is_waiting(&mut third).await);
        answer.frame().await.unwrap().unwrap();
        third.await.unwrap();
    }

    #[tokio::test]
    async fn a_large_piece_fills_the_room_until_all_of_it_was_taken() {
        let (sender, mut answer) = ResponseBody::stream(1, None);
        let large = Bytes::from(vec![b'x'; PIECE_BYTES_MAX + 1]);
        sender.send(large).await.unwrap();
        let mut next = pin!(sender.send(Bytes::from_static(b"x")));
        for waits in [true, false] {
            answer.frame().await.unwrap().unwrap();
            assert_eq!(is_waiting(&mut next).await, waits);
        }
    }

    #[tokio::test]
    async fn a_sender_learns_that_nobody_takes_the_answer() {
        let (sender, answer) = ResponseBody::stream(1, None);
        sender.send(Bytes::from_static(b"x")).await.unwrap();
        let (waiting, ()) = tokio::join!(sender.send(Bytes::from_static(b"x")), async {
            drop(answer);
        });
        assert!(waiting.is_err());
        assert!(sender.send(Bytes::from_static(b"x")).await.is_err());
    }
}
