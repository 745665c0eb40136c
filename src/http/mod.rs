//! HTTP: from a request to an answer.
//!
//! This layer knows paths, fields and status codes. It asks the [`service`](crate::service) and never
//! names a store; it does not know sockets, and so not who is on the other side. Handlers take what
//! they need of a request and return a `Result`; `error` alone decides what a failure looks like.
//!
//! | request | answered by |
//! |---|---|
//! | `POST /messages`, `/messages/`, `/` | `messages` |
//! | `GET`, `HEAD /messages/<digest>` | `messages` |
//! | `GET`, `HEAD /messages`, if allowed | `export` |
//! | `GET`, `HEAD /livez`, `/readyz`, `/readyz/write`, `/healthz` | `health` |
//! | `GET`, `HEAD /` | `health`: four lines of help |

mod answer;
mod error;
mod export;
mod health;
mod json;
mod messages;
mod negotiation;
mod request;
mod response;
mod route;

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::Semaphore;

use self::answer::Room;
pub use self::answer::{Answer, Taking};
use self::error::HttpError;
use self::request::Budget;
use crate::config::Limits;
use crate::service::Service;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id taken over from a client, in bytes: a trace parent has 55, a UUID 36.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What all requests share.
#[derive(Debug)]
pub struct App {
    service: Arc<Service>,
    limits: Limits,
    bodies: Budget,
    writes: Semaphore,
    answers: Room,
    /// Room for exports; `None` where nobody may have all messages.
    exports: Option<Arc<Semaphore>>,
    request_ids: RequestIds,
}

impl App {
    /// Serves `service` within `limits`.
    #[must_use]
    pub fn new(service: Arc<Service>, limits: Limits) -> Self {
        Self {
            service,
            bodies: Budget::new(&limits),
            writes: Semaphore::new(limits.writes_max),
            answers: Room::new(limits.answers_bytes_max),
            exports: None,
            request_ids: RequestIds::new(),
            limits,
        }
    }

    /// Lets everybody who may read a message have all of them.
    #[must_use]
    pub fn allow_export(self) -> Self {
        let exports = Some(Arc::new(Semaphore::new(export::EXPORTS_MAX)));
        Self { exports, ..self }
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
    pub async fn answer(&self, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let id = self.request_ids.of(request.headers());
        let is_head = request.method() == Method::HEAD;
        let is_post = request.method() == Method::POST;
        let has_body = !request.body().is_end_stream();
        let is_http1 = request.version() < Version::HTTP_2;
        let result = route::route(self, request).await;
        let body_is_over = is_post && !result.as_ref().is_err_and(HttpError::leaves_body_unread);
        let mut response = result.unwrap_or_else(|error| {
            error.log(&id);
            error.into_response()
        });
        let fields = response.headers_mut();
        fields.insert(REQUEST_ID, id);
        if has_body && !body_is_over && is_http1 {
            // What comes next on this connection is the rest of the body, not a request.
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if is_head {
            remove_body(&mut response);
        }
        Ok(response)
    }
}

/// An answer to HEAD says how long the body would be and does not bring it (RFC 9110, 9.3.2); one
/// that never has a body says nothing of its length (RFC 9110, 8.6).
fn remove_body(response: &mut Response<Answer>) {
    let length = response.body().size_hint().exact();
    if let Some(length) = length.filter(|_| response.status() != StatusCode::NOT_MODIFIED) {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    *response.body_mut() = Answer::default();
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
    fn of(&self, fields: &HeaderMap) -> HeaderValue {
        let mut given = fields.get_all(REQUEST_ID).iter();
        match (given.next(), given.next()) {
            (Some(id), None) if is_sane(id.as_bytes()) => id.clone(),
            _ => self.make(),
        }
    }

    fn make(&self) -> HeaderValue {
        // An odd factor visits every value once, so ids differ and do not count requests.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = self.seed.wrapping_add(number.wrapping_mul(STEP));
        let mut digits = [0; 16];
        // Cannot fail: 16 digits hold 8 bytes.
        let _ = hex::encode_to_slice(id.to_be_bytes(), &mut digits);
        HeaderValue::from_bytes(&digits).unwrap_or_else(|_| HeaderValue::from_static("0"))
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
            assert_eq!(ids.of(&given(id)), id);
        }
    }

    #[test]
    fn any_other_request_id_is_replaced() {
        let ids = RequestIds::new();
        let longer = "a".repeat(REQUEST_ID_BYTES_MAX + 1);
        for id in ["", "a b", "a\"b", "{}", &longer] {
            let made = ids.of(&given(id));
            assert_ne!(made, id);
            assert_eq!(made.len(), 16);
        }
        let mut twice = given("a");
        twice.append(REQUEST_ID, HeaderValue::from_static("b"));
        assert_eq!(ids.of(&twice).len(), 16);
    }

    #[test]
    fn made_request_ids_differ() {
        let ids = RequestIds::new();
        assert_ne!(ids.make(), ids.make());
    }
}
