//! The byte stream below HTTP: a socket, or TLS on one, that counts what passes, ends when that is more than
//! what is asked for explains, and closes with patience.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::frames::FrameCounter;
use super::timeouts::ConnectionProgress;

/// Bytes a client may send while nothing is being answered: what was under way of bodies that were
/// refused, and a head.
pub(super) const UNASKED_BYTES_MAX: usize = 8 << 20;

/// A closed connection reads on this long, so that a client that is still sending gets to see its
/// answer instead of a reset (RFC 9112, 9.6) …
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// The same over HTTP/2, whose clients go on saying how much they have read: what a socket holds for one with
/// a slow line, some MiB, gets there in this time.
const H2_LINGER_TIMEOUT: Duration = Duration::from_secs(10);
/// … or this much.
const LINGER_BYTES_MAX: usize = 16 << 20;

/// Up to so many bytes, an answer is copied together and sent as one piece: the kernel takes longer to
/// read a list of pieces than it takes to copy the usual head and message. hyper's own copying,
/// `writev(false)`, keeps a buffer as large as the largest piece for as long as the connection lives: 84 KiB
/// instead of 20 after an answer of 300 KB, for all connections more than the memory that is announced.
const JOINED_BYTES_MAX: usize = 1024;

/// A socket, or TLS on one, that counts what passes in `progress`.
#[derive(Debug)]
pub(super) struct CountingStream<S> {
    stream: S,
    progress: Arc<ConnectionProgress>,
    frames: FrameCounter,
    linger: Option<Linger>,
}

#[derive(Debug)]
struct Linger {
    over: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<S> CountingStream<S> {
    pub(super) fn new(stream: S, progress: Arc<ConnectionProgress>) -> Self {
        Self {
            stream,
            progress,
            frames: FrameCounter::new(),
            linger: None,
        }
    }

    /// Whether with these bytes a client has sent more than what it asks for explains.
    fn is_flood(&mut self, bytes: &[u8]) -> bool {
        let progress = &self.progress;
        let unasked = progress.head_bytes.fetch_add(bytes.len(), Relaxed) + bytes.len();
        if unasked > UNASKED_BYTES_MAX && progress.running.load(Relaxed) == 0 {
            if !progress.discards.are_under_way() {
                return true;
            }
            // They have a limit of their own.
            progress.head_bytes.store(0, Relaxed);
        }
        self.frames.read(bytes).is_some_and(|frames| {
            let requests = progress.requests.load(Relaxed);
            frames.are_too_many(requests, progress.written_bytes.load(Relaxed))
        })
    }

    fn note_write(&self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = result {
            self.progress
                .written_bytes
                .fetch_add(*bytes as u64, Relaxed);
        }
        self.progress
            .write_blocked
            .store(result.is_pending(), Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CountingStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        match buffer.filled().get(before..) {
            Some(read) if !read.is_empty() && self.is_flood(read) => {
                self.progress.has_flooded.store(true, Relaxed);
                let error = "the client sent more than what it asks for explains";
                Poll::Ready(Err(io::Error::other(error)))
            }
            _ => result,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for CountingStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut joined = [0; JOINED_BYTES_MAX];
        let result = match join(pieces, &mut joined) {
            Some(bytes) => Pin::new(&mut self.stream).poll_write(context, bytes),
            None => Pin::new(&mut self.stream).poll_write_vectored(context, pieces),
        };
        self.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// TLS takes what it is given and keeps it until the client takes it.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.progress
            .write_blocked
            .store(result.is_pending(), Relaxed);
        result
    }

    /// Closes the sending half; then, if the client was answered in the middle of what it says, or has HTTP/2, reads
    /// what it had under way until it closes too: bytes that come to a closed socket end it with a reset, and what
    /// was not sent yet is lost.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        let timeout = if this.frames.is_http2() {
            H2_LINGER_TIMEOUT
        } else if this.progress.is_interrupted() {
            LINGER_TIMEOUT
        } else {
            return Poll::Ready(Ok(()));
        };
        let linger = this.linger.get_or_insert_with(|| Linger {
            over: Box::pin(sleep(timeout)),
            bytes: 0,
        });
        let mut scratch = [0; 4096];
        while linger.bytes < LINGER_BYTES_MAX && linger.over.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => linger.bytes += buffer.filled().len(),
                // The client closed, or is gone.
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Copies `pieces` one behind the other into `room`, if they fit.
fn join<'a>(pieces: &[io::IoSlice<'_>], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut end = 0;
    for piece in pieces {
        room.get_mut(end..)?
            .get_mut(..piece.len())?
            .copy_from_slice(piece);
        end += piece.len();
    }
    room.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether all of `bytes` is read where so many requests are running.
    async fn is_read(bytes: &[u8], running: usize) -> bool {
        let progress = Arc::new(ConnectionProgress::new(tokio::time::Instant::now()));
        progress.running.store(running, Relaxed);
        let mut stream = CountingStream::new(bytes, Arc::clone(&progress));
        let read = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        assert_eq!(read.is_err(), progress.has_flooded.load(Relaxed));
        read.is_ok()
    }

    #[tokio::test]
    async fn bytes_that_no_request_runs_for_are_read_up_to_their_limit() {
        let mut bytes = vec![b'a'; UNASKED_BYTES_MAX];
        assert!(is_read(&bytes, 0).await);
        bytes.push(b'a');
        assert!(!is_read(&bytes, 0).await);
        assert!(is_read(&bytes, 1).await);
    }

    #[tokio::test]
    async fn control_frames_are_read_up_to_their_limit_whatever_runs() {
        let ping = b"\0\0\x08\x06\0\0\0\0\0abcdefgh";
        let bytes = |pings| [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*ping.repeat(pings)].concat();
        for running in [0, 1] {
            assert!(is_read(&bytes(3855), running).await);
            assert!(!is_read(&bytes(3856), running).await);
        }
    }

    #[test]
    fn pieces_are_joined_in_their_order_if_there_is_room_for_all_of_them() {
        let pieces = [&b"he"[..], b"", b"ad", b"body"].map(io::IoSlice::new);
        assert_eq!(join(&pieces, &mut [0; 8]), Some(&b"headbody"[..]));
        assert_eq!(join(&pieces, &mut [0; 9]), Some(&b"headbody"[..]));
        assert_eq!(join(&pieces, &mut [0; 7]), None);
    }
}
