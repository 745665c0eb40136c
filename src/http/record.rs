//! A request from its head to the last byte of its answer, for the log and the metrics.
//!
//! It rides on the body of the answer and reports when that is dropped: after the last byte was handed
//! to the connection, or when the client is gone. So every request that began is reported once,
//! whatever becomes of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::header::USER_AGENT;
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::Incoming;

use super::request_id::RequestId;
use super::resource::Resource;
use super::trace;
use crate::access::tokens::Name;
use crate::digest::Digest;
use crate::logging::{AccessLine, Logs};
use crate::metrics::{Labels, Metrics, Request};

/// Stands for the status of an answer that was never made because the client went away, as in nginx.
const STATUS_ABANDONED: u16 = 499;

/// What a client calls itself is logged up to this, in bytes: browsers have some 120.
const USER_AGENT_BYTES_MAX: usize = 128;

/// Where requests are reported.
#[derive(Debug)]
pub(super) struct Reporters {
    pub(super) metrics: Arc<Metrics>,
    pub(super) logs: Logs,
}

/// What became of the body of a request. Outlives it.
#[derive(Debug, Default)]
pub(super) struct BodyProgress {
    bytes: AtomicU64,
    is_abandoned: AtomicBool,
    unread: Mutex<Option<Incoming>>,
}

impl BodyProgress {
    /// Counts bytes that were read.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Notes that it was dropped before its end: what comes next on an HTTP/1.1 connection is then the
    /// rest of it, not a request.
    pub(super) fn abandon(&self) {
        self.is_abandoned.store(true, Relaxed);
    }

    /// Keeps it, which was not read to its end, until it is taken or the request is over.
    pub(super) fn keep_unread(&self, body: Incoming) {
        *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    }

    fn take_unread(&self) -> Option<Incoming> {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread.take()
    }
}

/// A request, not yet over.
#[derive(Debug)]
pub(super) struct RequestRecord {
    reporters: Arc<Reporters>,
    id: RequestId,
    trace_id: Option<Box<str>>,
    peer: Arc<str>,
    /// The host that it is for, if it was refused for that.
    refused_host: Option<Box<str>>,
    method: &'static str,
    route: &'static str,
    is_quiet: bool,
    status: u16,
    bytes_out: u64,
    /// Of the body, if there is one.
    body: Option<Arc<BodyProgress>>,
    started: Instant,
    token: Option<Name>,
    /// The first digits of the digest that it is about.
    digest: Option<[u8; 8]>,
    /// If it will be logged.
    user_agent: Option<Box<[u8]>>,
}

impl RequestRecord {
    pub(super) fn begin(
        reporters: Arc<Reporters>,
        id: RequestId,
        peer: Arc<str>,
        head: &Parts,
        resource: Resource<'_>,
        body: Option<Arc<BodyProgress>>,
    ) -> Self {
        reporters.metrics.begin();
        let is_quiet = resource.is_quiet();
        let user_agent = head.headers.get(USER_AGENT);
        let user_agent = user_agent.filter(|_| reporters.logs.has_requests(is_quiet));
        let user_agent = user_agent.map(|it| {
            let bytes = it.as_bytes();
            // A part of the field itself would keep all of the head in memory.
            bytes.get(..USER_AGENT_BYTES_MAX).unwrap_or(bytes).into()
        });
        Self {
            reporters,
            id,
            peer,
            refused_host: None,
            trace_id: trace::trace_id(&head.headers).map(Box::from),
            method: name(&head.method),
            route: resource.name(),
            is_quiet,
            status: STATUS_ABANDONED,
            bytes_out: 0,
            body,
            started: Instant::now(),
            token: None,
            digest: resource.digest().map(|digest| digest.first_digits()),
            user_agent,
        }
    }

    pub(super) fn id(&self) -> &RequestId {
        &self.id
    }

    /// Whether the rest of the body may still come.
    pub(super) fn has_abandoned_body(&self) -> bool {
        let body = self.body.as_ref();
        body.is_some_and(|body| body.is_abandoned.load(Relaxed))
    }

    /// A body that was not read to its end, if it was kept.
    pub(super) fn take_unread_body(&self) -> Option<Incoming> {
        self.body.as_ref()?.take_unread()
    }

    /// Notes with which token it came.
    pub(super) fn set_token(&mut self, name: Option<Name>) {
        self.token = name;
    }

    /// Notes what it turned out to be about.
    pub(super) fn set_digest(&mut self, digest: Digest) {
        self.digest = Some(digest.first_digits());
    }

    pub(super) fn set_refused_host(&mut self, host: Box<str>) {
        self.refused_host = Some(host);
    }

    pub(super) fn set_status(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    /// Counts bytes of the answer's body.
    pub(super) fn add_bytes_out(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let body = self.body.as_ref();
        let bytes_in = body.map_or(0, |body| body.bytes.load(Relaxed));
        let labels = Labels {
            status: self.status,
            route: self.route,
            method: self.method,
        };
        let request = Request {
            duration,
            bytes_in,
            bytes_out: self.bytes_out,
        };
        self.reporters.metrics.end(labels, &request);
        self.reporters.logs.log_request(&AccessLine {
            id: self.id.as_str(),
            trace_id: self.trace_id.as_deref(),
            method: self.method,
            route: self.route,
            is_quiet: self.is_quiet,
            status: self.status,
            bytes_in,
            bytes_out: self.bytes_out,
            duration,
            peer: &self.peer,
            token: self.token.as_ref().map(Name::as_str),
            digest: self.digest,
            user_agent: self.user_agent.as_deref(),
            refused_host: self.refused_host.as_deref(),
        });
    }
}

/// The methods that have a meaning here; all others are counted together, under the name that
/// OpenTelemetry has for them.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}
