//! The route table: one `match` from method and path to a handler.
//!
//! A path is taken as it was sent: nothing is decoded, so every resource has one spelling. The query
//! is ignored.

use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, Request, Version};

use super::App;
use super::error::HttpError;
use super::response::Response;
use super::{health, messages};

pub(super) async fn route(app: &App, request: Request<Incoming>) -> Result<Response, HttpError> {
    check_head(app, &request)?;
    let path = request.uri().path().strip_prefix('/');
    let path = path.ok_or(HttpError::NoSuchPath)?;
    let (first, rest) = path
        .split_once('/')
        .map_or((path, None), |(first, rest)| (first, Some(rest)));
    if first == "messages" || (first.is_empty() && request.method() == Method::POST) {
        app.service.opened(app.limits.opening_timeout).await;
    }
    match (request.method(), first, rest) {
        (&Method::POST, "messages", None | Some("")) | (&Method::POST, "", None) => {
            // Boxed: its state is large, and every request would carry room for it.
            Box::pin(messages::publish(app, request)).await
        }
        (&Method::GET | &Method::HEAD, "messages", Some(digest)) if !digest.is_empty() => {
            messages::fetch(app, digest, request.headers())
        }
        (&Method::GET | &Method::HEAD, "livez", None) => Ok(health::live()),
        (&Method::GET | &Method::HEAD, "readyz" | "healthz", None) => health::ready(app),
        (&Method::GET | &Method::HEAD, "readyz", Some("write")) => health::ready_to_write(app),
        (&Method::GET | &Method::HEAD, "", None) => Ok(health::help()),
        (_, "", None) => Err(HttpError::MethodNotAllowed("GET, HEAD, POST")),
        (_, "messages", None | Some("")) => Err(HttpError::MethodNotAllowed("POST")),
        (_, "messages", Some(_)) => Err(HttpError::MethodNotAllowed("GET, HEAD")),
        (_, "livez" | "readyz" | "healthz", None) | (_, "readyz", Some("write")) => {
            Err(HttpError::MethodNotAllowed("GET, HEAD"))
        }
        _ => Err(HttpError::NoSuchPath),
    }
}

/// Refuses heads on which two readers might disagree, which is how requests are smuggled through a
/// proxy: with several Host fields or none (RFC 9112, 3.2), or with a transfer coding that only one
/// of the two knows (RFC 9112, 6.1).
fn check_head(app: &App, request: &Request<Incoming>) -> Result<(), HttpError> {
    let fields = request.headers();
    let hosts = fields.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err(HttpError::Host);
    }
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|coding| !is_chunked(coding)) || codings.next().is_some() {
        return Err(HttpError::TransferCoding);
    }
    // With HTTP/1.1 hyper has counted while reading.
    if fields.len() > app.limits.head_fields_max {
        return Err(HttpError::TooManyFields);
    }
    Ok(())
}
