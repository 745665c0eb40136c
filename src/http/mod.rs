//! HTTP: from a request to an answer.
//!
//! This layer knows paths, fields and status codes. It asks the [`service`](crate::service) and never
//! names a store; it does not know sockets, and who is on the other side only in words, for the log.
//! Handlers take what they need of a request and return a `Result`; `error` alone decides what a
//! failure looks like.
//!
//! | request | answered by |
//! |---|---|
//! | `POST /messages`, `/messages/`, `/` | `messages`: 201 |
//! | `GET`, `HEAD /messages/<digest>` | `messages`: 200, 206, 304, 404, 416 |
//! | the same, `sha256:<hex>` or `sha256-<base64>` instead | `messages`: the same with `Content-Location` |
//! | `GET`, `HEAD /.well-known/ni/sha-256/<base64url>` | `messages`: the same with `Content-Location` |
//! | `PUT /messages/<digest>` | `messages`: 201, 412, 422 |
//! | `DELETE` of all these | `messages`: 204, 404 |
//! | `POST /messages` with `application/x-ndjson` | `batch`: 200, a line for each line |
//! | `POST /messages/lookup`, `?missing`, the same | `batch` |
//! | `GET`, `HEAD /messages`, if allowed | `export`: 200, a line for each message |
//! | `GET`, `HEAD /livez`, `/readyz`, `/readyz/write`, `/healthz` | `health` |
//! | `GET`, `HEAD /metrics` | `health` |
//! | `GET`, `HEAD /` | `pages`: a page, figures, or four lines of help |
//! | `GET`, `HEAD /docs`, `/pages/<name>` | `pages`: the interface, to be tried out |
//! | `GET`, `HEAD /openapi.yaml`, `/openapi.json` | `pages`: the same for tools |
//!
//! | field of a request | answered by |
//! |---|---|
//! | `Content-Digest`, `Repr-Digest`, also as trailers | `digest_fields`: 400 if it is not that of the body |
//! | `Want-Content-Digest`, `Want-Repr-Digest` | `digest_fields`: `Content-Digest`, `Repr-Digest` |
//! | `If-None-Match` | `negotiation`: 304, and 412 to PUT |
//! | `Range`, `If-Range`, for text | `range`: 206 with `Content-Range`, or 416 |
//! | `Accept: application/problem+json` | `error`: errors as RFC 9457 has them; their types are a table there |
//! | `traceparent` | `trace`: the trace id stands in the log |
//! | `Expect: 100-continue` | a refusal, or 201 to PUT of a known digest, before the body is sent |
//!
//! `openapi.yaml` describes all of it: every status, field and error.

mod address;
mod authorize;
mod batch;
mod body;
mod cors;
mod digest_fields;
mod error;
mod export;
mod health;
mod json;
mod lines;
mod messages;
mod negotiation;
mod pages;
mod range;
mod record;
mod request;
mod response;
mod route;
mod trace;

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::Semaphore;

use self::body::ByteBudget;
pub use self::body::{DeliveryProgress, ResponseBody};
use self::digest_fields::WantedDigests;
use self::error::HttpError;
use self::negotiation::wants_problem;
use self::pages::Pages;
use self::record::{RequestId, RequestRecord};
use self::request::{Budget, RequestBody, discard};
pub use self::route::ListenerRole;
use self::route::Route;
use crate::access::{Access, Peer};
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::service::Service;
use crate::telemetry::Logs;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id taken over from a client, in bytes: a trace parent has 55, a UUID 36.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What all requests share.
#[derive(Debug)]
pub struct App {
    service: Arc<Service>,
    limits: Limits,
    bodies: Budget,
    writes: Arc<Semaphore>,
    batches: Arc<Semaphore>,
    answers: ByteBudget,
    /// Room for exports; `None` where nobody may have all messages.
    exports: Option<Arc<Semaphore>>,
    pages: Pages,
    request_ids: RequestIds,
    metrics: Arc<Metrics>,
    logs: Logs,
    access: Arc<Access>,
}

/// How a request came.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The address of the other side, in words.
    pub peer: Arc<str>,
    /// The other side.
    pub origin: Peer,
    /// What is served where it came in.
    pub surface: ListenerRole,
}

impl App {
    /// Serves `service` within `limits` to everybody, and logs no requests.
    #[must_use]
    pub fn new(service: Arc<Service>, limits: Limits) -> Self {
        Self {
            service,
            bodies: Budget::new(&limits),
            writes: Arc::new(Semaphore::new(limits.writes_max)),
            batches: Arc::new(Semaphore::new(limits.batches_max)),
            answers: ByteBudget::new(limits.answers_bytes_max),
            exports: None,
            pages: Pages::new(),
            request_ids: RequestIds::new(),
            metrics: Arc::default(),
            logs: Logs::none(),
            access: Arc::default(),
            limits,
        }
    }

    /// Lets everybody who may read a message have all of them.
    #[must_use]
    pub fn allow_export(self) -> Self {
        let exports = Some(Arc::new(Semaphore::new(export::EXPORTS_MAX)));
        Self { exports, ..self }
    }

    /// Counts in `metrics` and logs requests to `logs`.
    #[must_use]
    pub fn reporting_to(self, metrics: Arc<Metrics>, logs: Logs) -> Self {
        Self {
            metrics,
            logs,
            ..self
        }
    }

    /// Serves those whom `access` lets in.
    #[must_use]
    pub fn guarded_by(self, access: Arc<Access>) -> Self {
        Self { access, ..self }
    }

    /// Who may come in.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The service behind.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Answers a request. Never fails: a failure is an answer too.
    ///
    /// # Errors
    /// None.
    pub async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        info: ConnectionInfo,
    ) -> Result<Response<ResponseBody>, Infallible> {
        let id = self.request_ids.of(request.headers());
        let is_head = request.method() == Method::HEAD;
        let has_body = !request.body().is_end_stream();
        let is_http1 = request.version() < Version::HTTP_2;
        let (head, body) = request.into_parts();
        let place = Route::of(head.uri.path());
        let progress = has_body.then(Arc::default);
        let body = RequestBody::new(body, progress.clone());
        let client = authorize::client(&self.access, info.origin, &head.headers);
        let peer = match &client {
            Ok(client) if *client != info.origin.address => client.to_string().into(),
            _ => info.peer,
        };
        let page = cors::listed_origin(&self.access, &head.headers);
        let mut exchange = RequestRecord::begin(self, id, peer, &head, place, progress);

        let verdict =
            client.and_then(|client| authorize::check(&exchange.app.access, client, &head));
        let result = match verdict {
            Err(refused) => {
                // Another connection would cost more than what was refused.
                discard(&exchange.app.limits, &head.headers, body).await;
                Err(refused.into())
            }
            Ok(()) => exchange.app.handle(info.surface, place, &head, body).await,
        };
        let mut response = result.unwrap_or_else(|error| {
            error.log(exchange.id.as_str(), &head.headers);
            error.into_response(wants_problem(&head.headers))
        });
        if let Some(wanted) = WantedDigests::of(&head.headers) {
            wanted.add_to(&mut response).await;
        }
        let fields = response.headers_mut();
        fields.insert(REQUEST_ID, exchange.id.to_field());
        if !exchange.app.access.sites.are_none() {
            cors::vary(fields);
        }
        if let Some(origin) = page {
            cors::permit(fields, origin);
        }
        if is_http1 && exchange.has_abandoned_body() {
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if is_head {
            remove_body(&mut response);
        }
        exchange.set_status(response.status());
        response.body_mut().set_exchange(exchange);
        Ok(response)
    }

    /// Answers a request that may be made; drops its body where nobody reads it.
    async fn handle(
        self: &Arc<Self>,
        surface: ListenerRole,
        place: Route,
        head: &Parts,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, HttpError> {
        if cors::is_preflight(&self.access, &head.method, &head.headers) {
            return Ok(cors::preflight());
        }
        if !surface.has(place) {
            return Err(HttpError::NoSuchPath);
        }
        route::route(self, head, body).await
    }
}

/// An answer to HEAD says how long the body would be and does not bring it (RFC 9110, 9.3.2); one
/// that never has a body says nothing of its length (RFC 9110, 8.6).
fn remove_body(response: &mut Response<ResponseBody>) {
    let length = response.body().size_hint().exact();
    if let Some(length) = length.filter(|_| response.status() != StatusCode::NOT_MODIFIED) {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = ResponseBody::default();
}

/// Names requests, so that an answer and a line in the log can be brought together.
#[derive(Debug)]
struct RequestIds {
    seed: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        // The hasher's keys are random for each process.
        Self {
            seed: RandomState::new().hash_one(()),
            next: AtomicU64::new(0),
        }
    }

    /// The id that the client gave, if it is a single harmless word, or a new one.
    fn of(&self, fields: &HeaderMap) -> RequestId {
        let mut given = fields.get_all(REQUEST_ID).iter();
        match (given.next(), given.next()) {
            (Some(id), None) if is_sane(id.as_bytes()) => RequestId::Given(id.clone()),
            _ => self.make(),
        }
    }

    fn make(&self) -> RequestId {
        // An odd factor visits every value once, so ids differ and do not count requests.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = self.seed.wrapping_add(number.wrapping_mul(STEP));
        let mut digits = [0; 16];
        // Cannot fail: 16 digits hold 8 bytes.
        let _ = hex::encode_to_slice(id.to_be_bytes(), &mut digits);
        RequestId::Made(digits)
    }
}

fn is_sane(id: &[u8]) -> bool {
    let is_harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(is_harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(id: &str) -> HeaderMap {
        HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(id).unwrap())])
    }

    #[test]
    fn a_sane_request_id_is_taken_over() {
        let ids = RequestIds::new();
        let longest = "a".repeat(REQUEST_ID_BYTES_MAX);
        for id in ["a", "0af7651916cd43dd-b7ad.6b71", &longest] {
            let taken = ids.of(&given(id));
            assert_eq!(
                (taken.as_str(), taken.to_field().as_bytes()),
                (id, id.as_bytes())
            );
        }
    }

    #[test]
    fn any_other_request_id_is_replaced() {
        let ids = RequestIds::new();
        let longer = "a".repeat(REQUEST_ID_BYTES_MAX + 1);
        for id in ["", "a b", "a\"b", "{}", &longer] {
            let made = ids.of(&given(id));
            assert_ne!(made.as_str(), id);
            assert_eq!(made.to_field().len(), 16);
        }
        let mut twice = given("a");
        twice.append(REQUEST_ID, HeaderValue::from_static("b"));
        assert_eq!(ids.of(&twice).as_str().len(), 16);
    }

    #[test]
    fn made_request_ids_differ() {
        let ids = RequestIds::new();
        assert_ne!(ids.make().as_str(), ids.make().as_str());
    }
}
