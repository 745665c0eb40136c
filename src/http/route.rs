//! The route table: one `match` from method and path to a handler.
//!
//! A path is taken as it was sent: nothing is decoded, so every resource has one spelling. The query
//! means nothing, but for `?missing`, `?verbose` on probes, and the range of an export.

use std::sync::Arc;

use hyper::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Method, Version};

use super::App;
use super::error::HttpError;
use super::health::Readiness;
use super::request::RequestBody;
use super::response::Response;
use super::{address, export, health, messages, pages};

/// What a request is about, for those who count: as many as there are, however many paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Messages,
    Message,
    LookUp,
    Name,
    Live,
    Ready,
    ReadyToWrite,
    Metrics,
    Home,
    Docs,
    Description,
    Page,
    /// Nothing is there.
    None,
}

impl Route {
    pub(super) fn of(path: &str) -> Self {
        match path {
            "/messages" | "/messages/" => Self::Messages,
            "/messages/lookup" => Self::LookUp,
            "/livez" => Self::Live,
            "/readyz" | "/healthz" => Self::Ready,
            "/readyz/write" => Self::ReadyToWrite,
            "/metrics" => Self::Metrics,
            "/" => Self::Home,
            "/docs" => Self::Docs,
            "/openapi.json" | "/openapi.yaml" => Self::Description,
            _ if path.starts_with("/messages/") => Self::Message,
            _ if path.starts_with("/.well-known/ni/sha-256/") => Self::Name,
            _ if path.starts_with("/pages/") => Self::Page,
            _ => Self::None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Messages => "/messages",
            Self::Message => "/messages/{digest}",
            Self::LookUp => "/messages/lookup",
            Self::Name => "/.well-known/ni/sha-256/{digest}",
            Self::Live => "/livez",
            Self::Ready => "/readyz",
            Self::ReadyToWrite => "/readyz/write",
            Self::Metrics => "/metrics",
            Self::Home => "/",
            Self::Docs => "/docs",
            Self::Description => "/openapi.{format}",
            Self::Page => "/pages/{name}",
            Self::None => "none",
        }
    }

    /// Whether it is asked for by machines, every few seconds.
    pub(super) fn is_probe(self) -> bool {
        matches!(
            self,
            Self::Live | Self::Ready | Self::ReadyToWrite | Self::Metrics
        )
    }
}

/// What is served on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerRole {
    /// Everything.
    All,
    /// Everything but metrics.
    Public,
    /// Metrics and health.
    Admin,
}

impl ListenerRole {
    pub(super) fn has(self, route: Route) -> bool {
        match self {
            Self::All => true,
            Self::Public => route != Route::Metrics,
            Self::Admin => route.is_probe(),
        }
    }
}

pub(super) async fn route(
    app: &Arc<App>,
    head: &Parts,
    body: RequestBody,
) -> Result<Response, HttpError> {
    check_head(app, head)?;
    let path = head.uri.path();
    let segments = path.strip_prefix('/').ok_or(HttpError::NoSuchPath)?;
    let (first, rest) = segments
        .split_once('/')
        .map_or((segments, None), |(first, rest)| (first, Some(rest)));
    if matches!(first, "messages" | ".well-known")
        || (first.is_empty() && head.method == Method::POST)
    {
        app.service.opened(app.limits.opening_timeout).await;
    }
    match (&head.method, first, rest) {
        (&Method::POST, "messages", None | Some("")) | (&Method::POST, "", None) => {
            // Boxed: its state is large, and every request would carry room for it.
            Box::pin(messages::publish(app, head, body)).await
        }
        (&Method::POST, "messages", Some("lookup")) => {
            Box::pin(messages::look_up(app, head, body)).await
        }
        (_, "messages", Some("lookup")) => Err(HttpError::MethodNotAllowed("POST")),
        (&Method::GET | &Method::HEAD, "messages", Some(digest)) if !digest.is_empty() => {
            messages::fetch(app, digest, head)
        }
        (&Method::DELETE, "messages", Some(digest)) if !digest.is_empty() => {
            Box::pin(messages::delete(app, digest)).await
        }
        (_, "messages", Some(name)) if address::is_alias(name) => {
            Err(HttpError::MethodNotAllowed("GET, HEAD, DELETE"))
        }
        (&Method::PUT, "messages", Some(digest)) if !digest.is_empty() => {
            Box::pin(messages::put(app, digest, head, body)).await
        }
        (&Method::GET | &Method::HEAD, ".well-known", Some(path)) if is_name(path) => {
            messages::resolve(app, address::well_known(path), head)
        }
        (&Method::DELETE, ".well-known", Some(path)) if is_name(path) => {
            Box::pin(messages::erase(app, address::well_known(path))).await
        }
        (&Method::GET | &Method::HEAD, "messages", None | Some("")) if app.exports.is_some() => {
            export::export(app, head.uri.query().unwrap_or_default())
        }
        (&Method::GET | &Method::HEAD, "livez", None) => Ok(health::live()),
        (&Method::GET | &Method::HEAD, "readyz" | "healthz", None) => {
            health::ready(app, Readiness::Reads, head.uri.query())
        }
        (&Method::GET | &Method::HEAD, "readyz", Some("write")) => {
            health::ready(app, Readiness::Writes, head.uri.query())
        }
        (&Method::GET | &Method::HEAD, "metrics", None) => Ok(health::metrics(app)),
        (&Method::GET | &Method::HEAD, "", None) => pages::home(app, &head.headers),
        (&Method::GET | &Method::HEAD, "docs" | "openapi.json" | "openapi.yaml", None)
        | (&Method::GET | &Method::HEAD, "pages", Some(_)) => pages::file(app, path, &head.headers),
        (_, "", None) => Err(HttpError::MethodNotAllowed("GET, HEAD, POST")),
        (_, "messages", None | Some("")) if app.exports.is_some() => {
            Err(HttpError::MethodNotAllowed("GET, HEAD, POST"))
        }
        (_, "messages", None | Some("")) => Err(HttpError::MethodNotAllowed("POST")),
        (_, "messages", Some(_)) => Err(HttpError::MethodNotAllowed("GET, HEAD, PUT, DELETE")),
        (_, ".well-known", Some(path)) if is_name(path) => {
            Err(HttpError::MethodNotAllowed("GET, HEAD, DELETE"))
        }
        (
            _,
            "docs" | "healthz" | "livez" | "metrics" | "openapi.json" | "openapi.yaml" | "readyz",
            None,
        )
        | (_, "pages", Some(_))
        | (_, "readyz", Some("write")) => Err(HttpError::MethodNotAllowed("GET, HEAD")),
        _ => Err(HttpError::NoSuchPath),
    }
}

/// Whether a path below `/.well-known` is that of a name.
fn is_name(path: &str) -> bool {
    path.starts_with("ni/sha-256/")
}

/// Refuses heads on which two readers might disagree, which is how requests are smuggled through a
/// proxy: with several Host fields or none (RFC 9112, 3.2), or with a transfer coding that only one
/// of the two knows (RFC 9112, 6.1).
fn check_head(app: &App, head: &Parts) -> Result<(), HttpError> {
    let fields = &head.headers;
    let hosts = fields.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
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
