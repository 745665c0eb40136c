//! A request from its head to the last byte of its answer, for the log and the metrics.
//!
//! It rides on the body of the answer and reports when that is dropped: after the last byte was handed
//! to the connection, or when the client is gone. So every request that began is reported once,
//! whatever becomes of it.

use std::sync::Arc;
use std::time::Instant;

use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use super::App;
use super::request::BodyProgress;
use super::route::Route;
use super::trace;
use crate::metrics::{Labels, Request};
use crate::telemetry::Access;

/// Stands for the status of an answer that was never made because the client went away, as in nginx.
const STATUS_ABANDONED: u16 = 499;

/// A request, not yet over.
#[derive(Debug)]
pub(super) struct RequestRecord {
    pub(super) app: Arc<App>,
    pub(super) id: RequestId,
    trace_id: Option<Box<str>>,
    peer: Arc<str>,
    method: &'static str,
    route: Route,
    status: u16,
    bytes_out: u64,
    /// Of the body, if there is one.
    body: Option<Arc<BodyProgress>>,
    started: Instant,
}

impl RequestRecord {
    pub(super) fn begin(
        app: Arc<App>,
        id: RequestId,
        peer: Arc<str>,
        head: &Parts,
        route: Route,
        body: Option<Arc<BodyProgress>>,
    ) -> Self {
        app.metrics.begin();
        Self {
            app,
            id,
            peer,
            trace_id: trace::trace_id(&head.headers).map(Box::from),
            method: name(&head.method),
            route,
            status: STATUS_ABANDONED,
            bytes_out: 0,
            body,
            started: Instant::now(),
        }
    }

    /// Whether the rest of the body may still come.
    pub(super) fn has_abandoned_body(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.is_abandoned())
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
        let bytes_in = self.body.as_ref().map_or(0, |body| body.bytes());
        let labels = Labels {
            status: self.status,
            route: self.route.name(),
            method: self.method,
        };
        let request = Request {
            duration,
            bytes_in,
            bytes_out: self.bytes_out,
        };
        self.app.metrics.end(labels, &request);
        self.app.logs.access(&Access {
            id: self.id.as_str(),
            trace_id: self.trace_id.as_deref(),
            method: self.method,
            route: self.route.name(),
            is_probe: self.route.is_probe(),
            status: self.status,
            bytes_in,
            bytes_out: self.bytes_out,
            duration,
            peer: &self.peer,
        });
    }
}

/// Names a request, so that an answer and a line in the log can be brought together.
#[derive(Clone, Debug)]
pub(super) enum RequestId {
    /// Hexadecimal digits.
    Made([u8; 16]),
    /// The client's, checked.
    Given(HeaderValue),
}

impl RequestId {
    pub(super) fn as_str(&self) -> &str {
        // Both are ASCII.
        match self {
            Self::Made(digits) => str::from_utf8(digits).unwrap_or_default(),
            Self::Given(id) => id.to_str().unwrap_or_default(),
        }
    }

    pub(super) fn to_field(&self) -> HeaderValue {
        match self {
            Self::Made(digits) => {
                HeaderValue::from_bytes(digits).unwrap_or_else(|_| HeaderValue::from_static("0"))
            }
            Self::Given(id) => id.clone(),
        }
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
