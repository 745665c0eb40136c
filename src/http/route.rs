//! The route table: one `match` from method and resource to a handler.
//!
//! The query means nothing, but for `?missing`, `?verbose` on probes, and the range of an export.

use std::sync::Arc;

use http::Method;
use http::header::{HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;

use super::app::App;
use super::body::Response;
use super::budget::Requester;
use super::error::HttpError;
use super::health::Readiness;
use super::public::PublicAddress;
use super::request::RequestBody;
use super::resource::Resource;
use super::{export, health, messages, pages, response};

pub(super) async fn route(
    app: &Arc<App>,
    resource: Resource<'_>,
    head: &Parts,
    public: &PublicAddress<'_>,
    body: RequestBody,
) -> Result<Response, HttpError> {
    check_head(app, head)?;
    if resource.needs_store(&head.method) && !app.service.is_open() {
        Box::pin(wait_for_store(app, body.requester())).await;
    }
    // Futures of writes are boxed: their state is large, and every request would carry room for it.
    match (&head.method, resource) {
        (&Method::POST, Resource::Messages | Resource::Home) => {
            Box::pin(messages::publish(app, head, body)).await
        }
        (&Method::POST, Resource::Batch) => Box::pin(messages::publish_all(app, head, body)).await,
        (&Method::POST, Resource::Lookup) => Box::pin(messages::look_up(app, head, body)).await,
        (&Method::GET | &Method::HEAD, Resource::Message(_) | Resource::Name(_)) => {
            fetch(app, resource, head)
        }
        (&Method::PUT, Resource::Message(name)) if !name.is_alias() => {
            Box::pin(messages::put(app, name, head, body)).await
        }
        (&Method::DELETE, Resource::Message(name)) => {
            Box::pin(messages::erase(app, body.requester(), name.digest())).await
        }
        (&Method::DELETE, Resource::Name(digest)) => {
            Box::pin(messages::erase(app, body.requester(), digest)).await
        }
        (&Method::GET | &Method::HEAD, Resource::Messages) if app.exports.is_some() => {
            let query = head.uri.query().unwrap_or_default();
            Box::pin(export::export(app, body.requester(), query)).await
        }
        (&Method::GET | &Method::HEAD, Resource::Live) => Ok(health::live()),
        (&Method::GET | &Method::HEAD, Resource::Ready) => {
            health::ready(app, Readiness::Reads, head)
        }
        (&Method::GET | &Method::HEAD, Resource::ReadyToWrite) => {
            health::ready(app, Readiness::Writes, head)
        }
        (&Method::GET | &Method::HEAD, Resource::Metrics) => Ok(health::metrics(app)),
        (&Method::GET | &Method::HEAD, Resource::Home) => {
            pages::home(&app.pages, &app.service, &app.access, public, head)
        }
        (&Method::GET | &Method::HEAD, Resource::Docs) => app.pages.file("/docs", &head.headers),
        (&Method::GET | &Method::HEAD, Resource::Description(path) | Resource::File(path)) => {
            app.pages.file(path, &head.headers)
        }
        (&Method::OPTIONS, resource) if resource != Resource::None => {
            Ok(response::options(resource.methods(app.exports.is_some())))
        }
        (_, Resource::None | Resource::Service) => Err(HttpError::NoSuchPath),
        _ => {
            let methods = resource.methods(app.exports.is_some());
            Err(HttpError::MethodNotAllowed(methods))
        }
    }
}

/// Answers with a message. What is no message is refused, as an answer for which there was no room.
pub(super) fn fetch(
    app: &App,
    resource: Resource<'_>,
    head: &Parts,
) -> Result<Response, HttpError> {
    match resource {
        Resource::Message(name) => messages::fetch(app, name, head),
        Resource::Name(digest) => messages::resolve(app, digest, head),
        _ => Err(HttpError::NoRoomForAnswer),
    }
}

/// Waits for the store to open, if there is room to wait. If it is not open then, the handler says so.
async fn wait_for_store(app: &App, requester: &Requester) {
    if let Ok(wait) = app.waits.enter(requester) {
        let opening = app.service.opened(app.limits.opening_timeout);
        let _ = wait.until(opening).await;
    }
}

/// Refuses heads on which two readers might disagree, which is how requests are smuggled through a
/// proxy: with a transfer coding that only one of the two knows (RFC 9112, 6.1). Their hosts were looked at
/// before.
fn check_head(app: &App, head: &Parts) -> Result<(), HttpError> {
    let fields = &head.headers;
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|coding| !is_chunked(coding)) || codings.next().is_some() {
        return Err(HttpError::TransferCoding);
    }
    // With HTTP/1.1 hyper has counted while reading.
    if fields.len() > app.limits.connection.head_fields_max {
        return Err(HttpError::TooManyFields);
    }
    Ok(())
}
