//! One connection: hyper's HTTP/1.1 or HTTP/2, and a watch over the time it takes.
//!
//! hyper does the protocols. It has no time limit on a client that sends nothing, reads nothing or
//! keeps a connection for days, and its one for request heads costs a timer a request. So a
//! connection counts what it does ([`Progress`], a few relaxed atomics), and looks at the counts now
//! and then ([`Watch`]): limits on time hold within a quarter of the shortest of them, and cost a
//! request nothing.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use super::Phase;
use crate::config::Limits;
use crate::http::{App, ConnectionInfo, DeliveryProgress, ResponseBody};

/// HTTP/2 streams of one connection at once.
const H2_STREAMS_MAX: u32 = 64;
/// Bytes a client may send ahead on a stream: a small body fits.
const H2_STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// The same for all streams of a connection: one large body.
const H2_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes of answers buffered for a stream.
const H2_SEND_BUFFER_BYTES: usize = 64 << 10;
/// Streams reset by the client that may wait for their end (CVE-2023-44487).
const H2_PENDING_RESETS_MAX: usize = 20;
/// Streams reset by us for errors of the client before the connection ends (RUSTSEC-2024-0003).
const H2_LOCAL_RESETS_MAX: usize = 256;
/// A silent HTTP/2 client is asked this often whether it is there …
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
/// … and has this long to say so.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes a client may send while nothing is being answered: what was under way of bodies that were
/// refused, and a head. Beyond it, it is pings and settings, which hyper answers without end.
const UNASKED_BYTES_MAX: usize = 2 * H2_CONNECTION_WINDOW_BYTES as usize;

/// A closed connection reads on this long, so that a client that is still sending gets to see its
/// answer instead of a reset (RFC 9112, 9.6) …
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// … or this much.
const LINGER_BYTES_MAX: usize = 16 << 20;

/// Up to so many bytes, an answer is copied together and sent as one piece: the kernel takes longer to
/// read a list of pieces than it takes to copy the usual head and message.
const JOINED_BYTES_MAX: usize = 1024;

/// Serves one connection, which began at `started`, to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    started: Instant,
    info: ConnectionInfo,
    app: Arc<App>,
    limits: Arc<Limits>,
    mut phase: watch::Receiver<Phase>,
) {
    let progress = Arc::new(Progress::default());
    let stream = Watched {
        stream,
        progress: Arc::clone(&progress),
        linger: None,
    };
    let requests_max = limits.connection_requests_max;
    let service = {
        let progress = Arc::clone(&progress);
        service_fn(move |request| {
            answer(
                Arc::clone(&app),
                info.clone(),
                Arc::clone(&progress),
                requests_max,
                request,
            )
        })
    };
    let builder = builder(&limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut watch = Watch::new(&limits, started);
    let mut ticks = tokio::time::interval(watch.tick);
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(%error, "a connection ended with an error");
                }
                return;
            }
            _ = ticks.tick() => match watch.look(&progress) {
                Verdict::Go => {}
                Verdict::Retire => connection.as_mut().graceful_shutdown(),
                Verdict::End => return,
            },
            Ok(()) = phase.changed() => match *phase.borrow_and_update() {
                Phase::Serve => {}
                Phase::Drain => connection.as_mut().graceful_shutdown(),
                Phase::Abort => return,
            },
        }
    }
}

async fn answer(
    app: Arc<App>,
    info: ConnectionInfo,
    progress: Arc<Progress>,
    requests_max: u64,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let is_h2 = request.version() == Version::HTTP_2;
    let has_body = !request.body().is_end_stream();
    let (running, number) = Running::start(progress, is_h2);
    let mut response = app.answer(request, info).await?;
    let progress = &running.0;
    // A streamed answer may end before the body of its request does.
    if response.headers().contains_key(CONNECTION) || (has_body && response.body().is_streamed()) {
        progress.body_unread.store(true, Relaxed);
    }
    if let Some(taking) = response.body().taking() {
        progress.large_answers().push(taking);
    }
    if number >= requests_max {
        progress.retire.store(true, Relaxed);
        if !is_h2 {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response.body_mut().keep(running);
    Ok(response)
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(limits.head_bytes_max)
        .max_headers(limits.head_fields_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(H2_SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
        .max_local_error_reset_streams(H2_LOCAL_RESETS_MAX)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT);
    builder
}

/// What a connection did so far.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes read since the last request began: a head in the making, if none is running.
    head_bytes: AtomicUsize,
    written_bytes: AtomicU64,
    /// The client takes nothing at the moment.
    write_blocked: AtomicBool,
    running: AtomicUsize,
    requests: AtomicU64,
    is_h2: AtomicBool,
    /// Large answers that the watch does not know yet.
    large_answers: Mutex<Vec<DeliveryProgress>>,
    /// An answer was given before its request had ended.
    body_unread: AtomicBool,
    /// Enough requests for one connection.
    retire: AtomicBool,
}

impl Progress {
    fn large_answers(&self) -> MutexGuard<'_, Vec<DeliveryProgress>> {
        self.large_answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the client may be sending at the moment: a body, or a head that hyper refused.
    fn is_interrupted(&self) -> bool {
        let in_head = !self.is_h2.load(Relaxed) && self.head_bytes.load(Relaxed) > 0;
        in_head || self.body_unread.load(Relaxed)
    }
}

/// A request being answered, until the answer is there, or over if it is made while it is sent.
struct Running(Arc<Progress>);

impl Running {
    /// Counts a request; returns its number on the connection, from 1.
    fn start(progress: Arc<Progress>, is_h2: bool) -> (Self, u64) {
        progress.head_bytes.store(0, Relaxed);
        progress.is_h2.store(is_h2, Relaxed);
        progress.running.fetch_add(1, Relaxed);
        let number = progress.requests.fetch_add(1, Relaxed) + 1;
        (Self(progress), number)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
        self.0.head_bytes.store(0, Relaxed);
    }
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Go,
    /// Finish what was begun, then close.
    Retire,
    /// Close now.
    End,
}

/// Looks at a connection now and then, and knows since when it has been doing what it does.
#[derive(Debug)]
struct Watch {
    tick: Duration,
    head_timeout: Duration,
    idle_timeout: Duration,
    write_stall_timeout: Duration,
    age_max: Duration,
    started: Instant,
    state: State,
    since: Instant,
    retired: bool,
    answers: Vec<Unread>,
}

/// A large answer that was not taken to its end when it was last looked at.
#[derive(Debug)]
struct Unread {
    taking: DeliveryProgress,
    pieces: usize,
    since: Instant,
}

/// What a connection is doing, as far as its time is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing came yet, or not yet a whole request.
    First,
    /// Part of a later head came.
    Head,
    /// Requests are running, or answers are being taken; what was written so far.
    Busy { written_bytes: u64 },
    /// The client takes nothing; what was written before.
    Blocked { written_bytes: u64 },
    /// Nothing to do; requests so far and bytes written.
    Idle { requests: u64, written_bytes: u64 },
}

impl Watch {
    fn new(limits: &Limits, started: Instant) -> Self {
        let shortest = limits
            .head_timeout
            .min(limits.idle_timeout)
            .min(limits.write_stall_timeout);
        Self {
            tick: shortest / 4,
            head_timeout: limits.head_timeout,
            idle_timeout: limits.idle_timeout,
            write_stall_timeout: limits.write_stall_timeout,
            age_max: limits.age_max,
            started,
            state: State::First,
            since: started,
            retired: false,
            answers: Vec::new(),
        }
    }

    fn look(&mut self, progress: &Progress) -> Verdict {
        if self.has_stalled_answer(progress) {
            return Verdict::End;
        }
        let state = State::of(progress);
        if state != self.state {
            self.state = state;
            self.since = Instant::now();
        }
        let lasting = self.since.elapsed();
        let is_over = match state {
            State::First | State::Head => lasting >= self.head_timeout,
            State::Blocked { .. } => lasting >= self.write_stall_timeout,
            // Told to go, and still there: HTTP/2 with answers that the client does not take.
            State::Idle { .. } if self.retired => lasting >= self.write_stall_timeout,
            State::Idle { .. } => lasting >= self.idle_timeout,
            State::Busy { .. } => false,
        };
        let is_old = self.started.elapsed() >= self.age_max || progress.retire.load(Relaxed);
        match state {
            // There is nobody to say goodbye to.
            State::First | State::Head | State::Blocked { .. } if is_over => Verdict::End,
            State::Idle { .. } if is_over && self.retired => Verdict::End,
            _ if (is_over || is_old) && !self.retired => {
                self.retired = true;
                self.since = Instant::now();
                Verdict::Retire
            }
            _ => Verdict::Go,
        }
    }
}

impl Watch {
    /// Whether a large answer lies there untaken, however busy the connection is otherwise.
    fn has_stalled_answer(&mut self, progress: &Progress) -> bool {
        let now = Instant::now();
        let new = |taking| Unread {
            taking,
            pieces: 0,
            since: now,
        };
        self.answers
            .extend(progress.large_answers().drain(..).map(new));
        self.answers.retain_mut(|answer| {
            let Some(pieces) = answer.taking.pieces() else {
                return false;
            };
            if pieces != answer.pieces {
                answer.pieces = pieces;
                answer.since = now;
            }
            true
        });
        let is_stalled = |answer: &Unread| now - answer.since >= self.write_stall_timeout;
        self.answers.iter().any(is_stalled)
    }
}

impl State {
    fn of(progress: &Progress) -> Self {
        let requests = progress.requests.load(Relaxed);
        let is_h2 = progress.is_h2.load(Relaxed);
        let written_bytes = progress.written_bytes.load(Relaxed);
        // HTTP/2 pings are written whatever the client does; they are small.
        let written_bytes = if is_h2 {
            written_bytes >> 12
        } else {
            written_bytes
        };
        if progress.write_blocked.load(Relaxed) {
            Self::Blocked {
                written_bytes: progress.written_bytes.load(Relaxed),
            }
        } else if requests == 0 {
            Self::First
        } else if progress.running.load(Relaxed) > 0 {
            Self::Busy { written_bytes }
        } else if !is_h2 && progress.head_bytes.load(Relaxed) > 0 {
            Self::Head
        } else {
            Self::Idle {
                requests,
                written_bytes,
            }
        }
    }
}

/// A socket, or TLS on one, that counts.
#[derive(Debug)]
struct Watched<S> {
    stream: S,
    progress: Arc<Progress>,
    linger: Option<Linger>,
}

#[derive(Debug)]
struct Linger {
    over: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<S> Watched<S> {
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

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        if read > 0 {
            let unasked = self.progress.head_bytes.fetch_add(read, Relaxed) + read;
            if unasked > UNASKED_BYTES_MAX && self.progress.running.load(Relaxed) == 0 {
                return Poll::Ready(Err(io::Error::other("too much was sent for no answer")));
            }
        }
        result
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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

    /// Closes the sending half; then, if the client was answered in the middle of what it says, reads
    /// what it had under way until it closes too.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        if !this.progress.is_interrupted() {
            return Poll::Ready(Ok(()));
        }
        let linger = this.linger.get_or_insert_with(|| Linger {
            over: Box::pin(sleep(LINGER_TIMEOUT)),
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
    use tokio::time::advance;

    use super::*;

    fn watch() -> (Watch, Arc<Progress>, Limits) {
        let limits = Limits::default();
        (Watch::new(&limits, Instant::now()), Arc::default(), limits)
    }

    #[test]
    fn pieces_are_joined_in_their_order_if_there_is_room_for_all_of_them() {
        let pieces = [&b"he"[..], b"", b"ad", b"body"].map(io::IoSlice::new);
        assert_eq!(join(&pieces, &mut [0; 8]), Some(&b"headbody"[..]));
        assert_eq!(join(&pieces, &mut [0; 9]), Some(&b"headbody"[..]));
        assert_eq!(join(&pieces, &mut [0; 7]), None);
    }

    async fn pass(time: Duration) {
        advance(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_ends_after_the_head_timeout() {
        let (mut watch, progress, limits) = watch();
        pass(
            limits
                .head_timeout
                .checked_sub(Duration::from_millis(1))
                .unwrap(),
        )
        .await;
        progress.head_bytes.store(1, Relaxed);
        assert_eq!(watch.look(&progress), Verdict::Go);
        pass(Duration::from_millis(1)).await;
        assert_eq!(watch.look(&progress), Verdict::End);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_retired_after_the_idle_timeout() {
        let (mut watch, progress, limits) = watch();
        drop(Running::start(Arc::clone(&progress), false));
        assert_eq!(watch.look(&progress), Verdict::Go);
        pass(
            limits
                .idle_timeout
                .checked_sub(Duration::from_millis(1))
                .unwrap(),
        )
        .await;
        assert_eq!(watch.look(&progress), Verdict::Go);
        pass(Duration::from_millis(1)).await;
        assert_eq!(watch.look(&progress), Verdict::Retire);
        assert_eq!(watch.look(&progress), Verdict::Go);
        pass(limits.write_stall_timeout).await;
        assert_eq!(watch.look(&progress), Verdict::End);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_head_that_does_not_end_is_not_idle() {
        let (mut watch, progress, limits) = watch();
        drop(Running::start(Arc::clone(&progress), false));
        watch.look(&progress);
        progress.head_bytes.store(1, Relaxed);
        watch.look(&progress);
        pass(limits.head_timeout).await;
        assert_eq!(watch.look(&progress), Verdict::End);
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_request_may_take_its_time() {
        let (mut watch, progress, limits) = watch();
        let _running = Running::start(Arc::clone(&progress), false);
        watch.look(&progress);
        pass(limits.idle_timeout * 10).await;
        assert_eq!(watch.look(&progress), Verdict::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_dropped_and_a_slow_one_is_not() {
        let (mut watch, progress, limits) = watch();
        drop(Running::start(Arc::clone(&progress), false));
        progress.write_blocked.store(true, Relaxed);
        for _ in 0..10 {
            progress.written_bytes.fetch_add(1, Relaxed);
            assert_eq!(watch.look(&progress), Verdict::Go);
            pass(
                limits
                    .write_stall_timeout
                    .checked_sub(Duration::from_millis(1))
                    .unwrap(),
            )
            .await;
        }
        pass(Duration::from_millis(1)).await;
        assert_eq!(watch.look(&progress), Verdict::End);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_retired_when_it_is_old_or_has_served_enough() {
        let (mut watch, progress, limits) = watch();
        let _running = Running::start(Arc::clone(&progress), true);
        watch.look(&progress);
        pass(limits.age_max).await;
        assert_eq!(watch.look(&progress), Verdict::Retire);
        assert_eq!(watch.look(&progress), Verdict::Go);

        let (mut watch, progress, _) = self::watch();
        progress.retire.store(true, Relaxed);
        let _running = Running::start(Arc::clone(&progress), true);
        assert_eq!(watch.look(&progress), Verdict::Retire);
    }
}
