//! One connection: hyper's HTTP/1.1 or HTTP/2 on a [`CountingStream`], ended by its [`IdlePolicy`] or by the
//! order to stop.

use std::error::Error;
use std::iter::successors;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tracing::debug;

use super::stream::{CountingStream, UNASKED_BYTES_MAX};
use super::streams::StreamExecutor;
use super::timeouts::{Action, ConnectionProgress, IdlePolicy, Running};
use crate::config::ConnectionLimits;
use crate::http::{App, ConnectionInfo, End, EndSignal, Ending, NoRoom, ResponseBody};
use crate::metrics::{Ended, Refused};

/// HTTP/2 streams of one connection at once.
const H2_STREAMS_MAX: u32 = 64;
/// Bytes a client may send ahead on a stream: a small body fits.
const H2_STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// The same for all streams of a connection: one large body.
const H2_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes of answers buffered for a stream.
const H2_SEND_BUFFER_BYTES: usize = 64 << 10;
/// Streams reset by us for errors of the client before the connection ends (RUSTSEC-2024-0003).
const H2_LOCAL_RESETS_MAX: usize = 256;

/// Requests of a connection that wait for room at once. Each may leave unread all that was sent ahead on its
/// stream; half of what may be sent ahead on the connection is left to others.
pub(super) const H2_WAITS_MAX: usize = 8;

const _: () =
    assert!(2 * H2_WAITS_MAX == (H2_CONNECTION_WINDOW_BYTES / H2_STREAM_WINDOW_BYTES) as usize);
// What a client may send unasked covers bodies that were refused on all streams with their windows full.
const _: () = assert!(UNASKED_BYTES_MAX == 2 * (H2_STREAMS_MAX * H2_STREAM_WINDOW_BYTES) as usize);

/// What a connection is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serve,
    /// Finish what was begun, start nothing.
    Drain,
    /// End.
    Abort,
}

/// Serves one connection to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    progress: Arc<ConnectionProgress>,
    info: ConnectionInfo,
    app: Arc<App>,
    limits: Arc<ConnectionLimits>,
    mut phase: watch::Receiver<Phase>,
) {
    let stream = CountingStream::new(stream, Arc::clone(&progress));
    let life = Life {
        requests_max: limits.requests_max,
        age_max: limits.age_max,
    };
    let (info, streams) = (Arc::new(info), StreamExecutor::default());
    let service = {
        let (app, progress) = (Arc::clone(&app), Arc::clone(&progress));
        let streams = streams.clone();
        service_fn(move |request: Request<Incoming>| {
            let is_h2 = request.version() == Version::HTTP_2;
            let stream = is_h2.then(|| streams.begin());
            answer(
                Arc::clone(&app),
                Arc::clone(&info),
                Arc::clone(&progress),
                life,
                request,
                stream,
            )
        })
    };
    let builder = builder(&limits, streams);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut policy = IdlePolicy::new(&limits, progress.started);
    let mut ticks = tokio::time::interval(policy.tick());
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                let mut is_flood = progress.has_flooded.load(Relaxed);
                if let Err(error) = result {
                    debug!(%error, "a connection ended with an error");
                    is_flood |= is_for_flood(&*error);
                }
                if is_flood {
                    app.metrics().end_connection(Ended::Flood);
                }
                return;
            }
            _ = ticks.tick() => match policy.look(&progress) {
                Action::Go => {}
                Action::Retire => connection.as_mut().graceful_shutdown(),
                Action::End => return,
            },
            Ok(()) = phase.changed() => match *phase.borrow_and_update() {
                Phase::Serve => {}
                Phase::Drain => connection.as_mut().graceful_shutdown(),
                Phase::Abort => return,
            },
        }
    }
}

/// Whether h2 ended a connection for its client doing too much of something: resets, heads without an end, streams
/// beyond those that are open.
fn is_for_flood(error: &(dyn Error + 'static)) -> bool {
    let mut causes = successors(Some(error), |&error| error.source());
    causes.any(|cause| {
        let error = cause.downcast_ref::<h2::Error>();
        error.is_some_and(|error| {
            error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
        })
    })
}

/// How long a connection is used: from then on each answer is its last.
#[derive(Clone, Copy)]
struct Life {
    requests_max: u64,
    age_max: Duration,
}

async fn answer(
    app: Arc<App>,
    info: Arc<ConnectionInfo>,
    progress: Arc<ConnectionProgress>,
    life: Life,
    request: Request<Incoming>,
    stream: Option<Arc<EndSignal>>,
) -> Result<Response<ResponseBody>, h2::Error> {
    let is_h2 = request.version() == Version::HTTP_2;
    let has_body = !request.body().is_end_stream();
    let (running, number) = Running::start(progress, is_h2);
    if app.is_deaf_to(&request, &info) {
        app.metrics().refuse_connection(Refused::Denied);
        running.0.end();
        return Err(h2::Reason::REFUSED_STREAM.into());
    }
    // The client may send it again: nothing was done (RFC 9113, 8.7).
    let refused = |NoRoom| h2::Reason::REFUSED_STREAM;
    let ending = match stream {
        Some(stream) => stream as Ending,
        None => Arc::clone(&running.0) as Ending,
    };
    let answering = app.answer(request, &info, &ending);
    let mut response = answering.await.map_err(refused)?;
    let progress = &running.0;
    // A streamed answer may end before the body of its request does.
    if response.headers().contains_key(CONNECTION) || (has_body && response.body().is_streamed()) {
        progress.body_unread.store(true, Relaxed);
    }
    if let Some(delivery) = response.body().delivery() {
        progress.follow(delivery, is_h2.then_some(ending));
    }
    // Told with an answer, so that no request meets the end of a connection that seemed to be free.
    if number >= life.requests_max || progress.started.elapsed() >= life.age_max {
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

fn builder(limits: &ConnectionLimits, streams: StreamExecutor) -> auto::Builder<StreamExecutor> {
    let mut builder = auto::Builder::new(streams);
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
        // No PING to ask whether a client is there: the answer of one that downloads slowly comes behind what lies in
        // the socket. The times of `timeouts` find out.
        .max_local_error_reset_streams(H2_LOCAL_RESETS_MAX);
    builder
}
