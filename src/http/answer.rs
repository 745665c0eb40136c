//! The body of an answer, and what a client that does not take it may hold.
//!
//! A small answer is handed over in one piece. A large one is handed over in pieces, as the client
//! takes them: what it has not taken yet is counted against a budget that all connections share, and
//! its [`Taking`] shows whether the client takes anything at all. HTTP/2 makes both necessary: there,
//! one connection can leave many answers unread and be busy with others.
//!
//! An answer without a known end is made as the client takes it: that to a batch out of a pipe, which
//! cannot break, an export as a [`Stream`], which can, one piece ahead.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, DuplexStream, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::exchange::Exchange;

/// Largest piece of an answer, in bytes: what is buffered for a stream anyway. An answer up to this
/// is small.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Piece of an answer that is made while it is sent, in bytes: a group of lines.
const STREAM_PIECE_BYTES: usize = 16 << 10;

/// The body of an answer.
#[derive(Debug, Default)]
pub struct Answer {
    rest: Bytes,
    /// For a large answer.
    held: Option<Held>,
    /// What comes after `rest`, for an answer that is made while it is sent.
    more: Option<More>,
    /// Whose answer it is; over when this is dropped.
    exchange: Option<Exchange>,
}

#[derive(Debug)]
enum More {
    /// What a batch writes; boxed, since all other answers are moved with it.
    Lines(Box<Lines>),
    /// What a [`Stream`] hands over.
    Parts(mpsc::Receiver<Part>),
}

#[derive(Debug)]
struct Lines {
    pipe: DuplexStream,
    /// Zeros to read into; what was read is split off.
    buffer: BytesMut,
    _permit: OwnedSemaphorePermit,
    /// Dropped when the answer is over.
    guard: Option<Box<dyn Any + Send + Sync>>,
}

#[derive(Debug)]
struct Held {
    taking: Taking,
    /// A stream holds no more than a part and counts for nothing.
    _permit: Option<OwnedSemaphorePermit>,
}

/// What a [`Stream`] hands over.
#[derive(Debug)]
enum Part {
    Bytes(Bytes),
    /// Nothing comes any more. A stream that ends without it was broken off, and the client is told.
    End,
}

/// The making end of an answer that is made while it is taken.
#[derive(Debug)]
pub(super) struct Stream(mpsc::Sender<Part>);

/// Nobody takes the answer any more.
#[derive(Debug)]
pub(super) struct Gone;

impl Stream {
    /// A stream, and the answer that it goes into.
    pub(super) fn new() -> (Self, Answer) {
        let (sender, receiver) = mpsc::channel(1);
        let answer = Answer {
            rest: Bytes::new(),
            held: Some(Held {
                taking: Taking::default(),
                _permit: None,
            }),
            more: Some(More::Parts(receiver)),
            exchange: None,
        };
        (Self(sender), answer)
    }

    /// Adds to the answer, once what was added before is being taken.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.0.send(Part::Bytes(bytes)).await.map_err(|_| Gone)
    }

    /// Says that the answer is whole.
    pub(super) async fn end(self) {
        // Who does not listen does not mind.
        let _ = self.0.send(Part::End).await;
    }
}

/// Follows a large answer on its way out.
#[derive(Clone, Debug, Default)]
pub struct Taking(Arc<AtomicUsize>);

impl Taking {
    /// Pieces that the client took so far, `None` once that is all of them or it went away.
    #[must_use]
    pub fn pieces(&self) -> Option<usize> {
        (Arc::strong_count(&self.0) > 1).then(|| self.0.load(Relaxed))
    }
}

/// Room for what large answers hold, all connections together.
#[derive(Debug)]
pub(super) struct Room {
    bytes: Arc<Semaphore>,
    bytes_max: usize,
}

impl Room {
    pub(super) fn new(bytes_max: usize) -> Self {
        let bytes = Arc::new(Semaphore::new(bytes_max));
        Self { bytes, bytes_max }
    }

    /// Sets aside room for an answer that is made while it is sent.
    pub(super) fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX);
        Arc::clone(&self.bytes).try_acquire_many_owned(permits).ok()
    }

    /// Counts `answer`, if it is large; `None` if there is no room for it. One that is larger than
    /// all the room passes alone.
    pub(super) fn admit(&self, mut answer: Answer) -> Option<Answer> {
        let length = answer.rest.len();
        if length > PIECE_BYTES_MAX {
            answer.held = Some(Held {
                taking: Taking::default(),
                _permit: Some(self.reserve(length)?),
            });
        }
        Some(answer)
    }
}

impl Answer {
    /// All of it, as long as nothing was handed over; `None` if it is still being made.
    pub(super) fn bytes(&self) -> Option<&Bytes> {
        self.more.is_none().then_some(&self.rest)
    }

    /// An answer that is read from `lines` while it is sent.
    pub(super) fn streamed(lines: DuplexStream, room: OwnedSemaphorePermit) -> Self {
        Self {
            more: Some(More::Lines(Box::new(Lines {
                pipe: lines,
                buffer: BytesMut::new(),
                _permit: room,
                guard: None,
            }))),
            ..Self::default()
        }
    }

    /// Whether a batch is being answered with it.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        matches!(self.more, Some(More::Lines(_)))
    }

    /// Keeps `guard` until the answer is over, if a batch is being answered with it; drops it otherwise.
    pub fn keep(&mut self, guard: impl Any + Send + Sync) {
        if let Some(More::Lines(lines)) = &mut self.more {
            lines.guard = Some(Box::new(guard));
        }
    }

    /// Follows this answer, if it is large.
    #[must_use]
    pub fn taking(&self) -> Option<Taking> {
        self.held.as_ref().map(|held| held.taking.clone())
    }

    /// Ends `exchange` with itself.
    pub(super) fn set_exchange(&mut self, exchange: Exchange) {
        self.exchange = Some(exchange);
    }

    /// Counts what leaves.
    fn hand_over(&mut self, piece: Bytes) -> Frame<Bytes> {
        if let Some(exchange) = &mut self.exchange {
            exchange.add_bytes_out(piece.len());
        }
        Frame::data(piece)
    }
}

impl Lines {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::zeroed(STREAM_PIECE_BYTES);
        }
        let mut buffer = ReadBuf::new(&mut self.buffer);
        // It never fails: the end is all that can come of the other side.
        let _ = ready!(Pin::new(&mut self.pipe).poll_read(context, &mut buffer));
        let length = buffer.filled().len();
        Poll::Ready((length > 0).then(|| self.buffer.split_to(length).freeze()))
    }
}

impl From<Bytes> for Answer {
    fn from(bytes: Bytes) -> Self {
        Self {
            rest: bytes,
            ..Self::default()
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        while self.rest.is_empty() {
            match &mut self.more {
                None => return Poll::Ready(None),
                Some(More::Lines(lines)) => {
                    let piece = ready!(lines.poll_piece(context));
                    return Poll::Ready(piece.map(|piece| Ok(self.hand_over(piece))));
                }
                Some(More::Parts(parts)) => match ready!(parts.poll_recv(context)) {
                    Some(Part::Bytes(bytes)) => self.rest = bytes,
                    Some(Part::End) => self.more = None,
                    None => return Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into()))),
                },
            }
        }
        if let Some(held) = &self.held {
            held.taking.0.fetch_add(1, Relaxed);
        }
        let length = self.rest.len().min(PIECE_BYTES_MAX);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(self.hand_over(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.more.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.more.is_some() {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn answer(bytes: usize) -> Answer {
        Bytes::from(vec![b'x'; bytes]).into()
    }

    #[test]
    fn large_answers_are_admitted_while_there_is_room() {
        let room = Room::new(200_000);
        let first = room.admit(answer(100_000)).unwrap();
        let _second = room.admit(answer(100_000)).unwrap();
        assert!(room.admit(answer(PIECE_BYTES_MAX + 1)).is_none());
        assert!(room.admit(answer(PIECE_BYTES_MAX)).is_some());
        drop(first);
        assert!(room.admit(answer(100_000)).is_some());
    }

    #[test]
    fn an_answer_larger_than_all_the_room_passes_alone() {
        let room = Room::new(100_000);
        let large = room.admit(answer(1_000_000)).unwrap();
        assert!(room.admit(answer(1_000_000)).is_none());
        drop(large);
        assert!(room.admit(answer(1_000_000)).is_some());
    }

    #[tokio::test]
    async fn a_large_answer_comes_in_pieces_and_can_be_followed() {
        let room = Room::new(1_000_000);
        let mut large = room.admit(answer(PIECE_BYTES_MAX + 1)).unwrap();
        let taking = large.taking().unwrap();
        assert_eq!(taking.pieces(), Some(0));
        let piece = large.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece.len(), PIECE_BYTES_MAX);
        assert_eq!(taking.pieces(), Some(1));
        assert_eq!(large.size_hint().exact(), Some(1));
        assert_eq!(
            large
                .frame()
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap()
                .len(),
            1
        );
        assert!(large.frame().await.is_none());
        drop(large);
        assert_eq!(taking.pieces(), None);
        assert!(room.admit(answer(10)).unwrap().taking().is_none());
    }

    #[tokio::test]
    async fn a_stream_is_taken_in_pieces_and_its_end_is_told_from_a_break() {
        let (stream, mut whole) = Stream::new();
        let taking = whole.taking().unwrap();
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
        assert_eq!(taking.pieces(), Some(2));
        stream.end().await;
        assert!(whole.frame().await.is_none());
        assert!(whole.is_end_stream());

        let (stream, mut broken) = Stream::new();
        drop(stream);
        assert!(broken.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_stream_learns_that_nobody_takes_it() {
        let (stream, answer) = Stream::new();
        drop(answer);
        assert!(stream.send(Bytes::from_static(b"x")).await.is_err());
    }
}
