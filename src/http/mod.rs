//! HTTP: from a request to an answer.
//!
//! This layer knows paths, fields and status codes. It asks the [`service`](crate::service) and never
//! names a store; it does not know sockets, and who is on the other side only in words, for the log.
//! `handle` takes a request from its head to its answer, `resource` says what a path names, `route` finds
//! the handler. Handlers return a `Result`; what a failure means is a row of the table in `error`.
//!
//! **Invariant:** `use` lines between these files form no circle; a test holds it.
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
//! | `OPTIONS` of all these, and `*` | `route`: 204 with `Allow` |
//!
//! What fields mean is below; all of them are in the table of `fields`, with who may send them.
//!
//! | field of a request | answered by |
//! |---|---|
//! | `Host` | `host`: 400 if it is none, 421 if it is not one that is answered to |
//! | `Origin`, `Sec-Fetch-Site`, `X-Digestd-Page` | `authorize`: 403 to a write for a page of another site |
//! | `Origin`, `Access-Control-Request-*` | `cors`: what pages of other sites may do |
//! | `Forwarded`, `X-Forwarded-*` of a trusted proxy | `authorize`: the client; `public`: where it finds the service |
//! | `Content-Type`, `Content-Encoding` | `negotiation`, `charset`: 415 if the body is not UTF-8 text of a known type |
//! | `Content-Digest`, `Repr-Digest`, also as trailers | `digest_fields`: 400 if it is not that of the body |
//! | `Want-Content-Digest`, `Want-Repr-Digest` | `digest_fields`: `Content-Digest`, `Repr-Digest` |
//! | `If-None-Match` | `negotiation`: 304, and 412 to PUT |
//! | `Range`, `If-Range`, for text | `range`: 206 with `Content-Range`, or 416 |
//! | `Accept: application/problem+json` | `error`: errors as RFC 9457 has them; their types are a table there |
//! | `traceparent` | `trace`: the trace id stands in the log |
//! | `Expect: 100-continue` | a refusal, or 201 to PUT of a known digest, before the body is sent |
//!
//! `openapi.yaml` describes all of it: every status, field and error.

// What all requests share, and the way of one.
mod app;
mod arrays;
mod authorize;
mod handle;
mod resource;
mod route;

// The handlers.
mod batch;
mod export;
mod health;
mod messages;
mod pages;

// What goes in and out.
mod body;
mod body_room;
mod budget;
mod covered;
mod discards;
mod ending;
mod error;
mod json;
mod lines;
mod record;
mod request;
mod response;
mod shares;

// What single fields mean.
mod address;
mod charset;
mod cors;
mod digest_fields;
mod fields;
mod host;
mod negotiation;
mod public;
mod range;
mod request_id;
mod trace;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

pub use self::app::{App, ConnectionInfo};
pub use self::authorize::Locality;
pub use self::body::{DeliveryProgress, ResponseBody};
pub use self::budget::{NoRoom, WaitsOfConnection};
pub use self::discards::Discards;
pub use self::ending::{End, EndSignal, Ending};
pub use self::resource::{ListenerRole, is_own_path};
