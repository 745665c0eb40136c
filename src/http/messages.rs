//! The handlers for messages.

use std::sync::Arc;

use http::Method;
use http::header::{EXPECT, HeaderMap, IF_NONE_MATCH, RANGE};
use http::request::Parts;

use super::address::Name;
use super::app::App;
use super::batch;
use super::body::Response;
use super::body_room::{CoveredBytes, Spare};
use super::budget::{NoRoom, Requester};
use super::charset;
use super::digest_fields::{self, RequestDigests};
use super::error::{HttpError, json_hint};
use super::json;
use super::negotiation::{BodyFormat, BodyType, Form, FormatError, names_etag};
use super::range::{self, Selection};
use super::request::{RequestBody, check_size, read_body};
use super::response;
use super::shares::BatchOperation;
use crate::access::networks::Client;
use crate::digest::Digest;
use crate::message::Message;
use crate::service::{Receipt, StoreError, offload};

/// `POST /messages`
pub(super) async fn publish(
    app: &Arc<App>,
    head: &Parts,
    body: RequestBody,
) -> Result<Response, HttpError> {
    let kind = BodyType::of(&head.headers)?;
    if kind.format == BodyFormat::Lines {
        return batch::answer(app, BatchOperation::Publish, kind, head, body).await;
    }
    let form = Form::wanted(&head.headers);
    let receipt = store(app, head, body, kind, |_| Ok(())).await?;
    Ok(response::created(&receipt, form))
}

/// `PUT /messages/<digest>`
pub(super) async fn put(
    app: &App,
    name: Name,
    head: &Parts,
    body: RequestBody,
) -> Result<Response, HttpError> {
    let digest = name.digest().ok_or(HttpError::NoSuchPath)?;
    let fields = &head.headers;
    let form = Form::wanted(fields);
    let has_it = || names_etag(fields, &response::etag(&digest, form));
    if fields.contains_key(IF_NONE_MATCH) && has_it() && app.service.holds(&digest)? {
        return Err(HttpError::Exists);
    }
    let kind = BodyType::of(fields)?;
    if kind.format == BodyFormat::Lines {
        return Err(FormatError::Type.into());
    }
    check_size(app.limits.body.bytes_max, &body)?;
    if is_waiting(fields)
        && let Some(receipt) = known(app, body.client(), &digest).await?
    {
        return Ok(response::created(&receipt, form));
    }
    let has_digest = move |message: &Message| {
        if message.digest() == digest {
            return Ok(());
        }
        let of = |text: &[u8]| Digest::of(text) == digest;
        Err(HttpError::OtherDigest {
            wanted: digest,
            actual: message.digest(),
            hint: digest_fields::explain(message.as_bytes(), of),
        })
    };
    let receipt = store(app, head, body, kind, has_digest).await?;
    Ok(response::created(&receipt, form))
}

/// `POST /messages/batch`
pub(super) async fn publish_all(
    app: &Arc<App>,
    head: &Parts,
    body: RequestBody,
) -> Result<Response, HttpError> {
    let kind = type_of_many(head)?;
    batch::answer(app, BatchOperation::Publish, kind, head, body).await
}

/// The type of a body that brings many messages or digests.
fn type_of_many(head: &Parts) -> Result<BodyType, HttpError> {
    let kind = BodyType::of(&head.headers)?;
    if kind.format == BodyFormat::Text {
        return Err(HttpError::ManyOnly);
    }
    Ok(kind)
}

/// `POST /messages/lookup`
pub(super) async fn look_up(
    app: &Arc<App>,
    head: &Parts,
    body: RequestBody,
) -> Result<Response, HttpError> {
    let kind = type_of_many(head)?;
    let mut options = head.uri.query().unwrap_or_default().split('&');
    let operation = if options.any(|option| option == "missing") {
        BatchOperation::FindMissing
    } else {
        BatchOperation::LookUp
    };
    batch::answer(app, operation, kind, head, body).await
}

/// Whether the client sends its body only when asked to (RFC 9110, 10.1.1).
fn is_waiting(fields: &HeaderMap) -> bool {
    let expectation = fields.get(EXPECT);
    expectation.is_some_and(|field| field.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// A receipt for the message with this digest, if it is stored and whole: it is read and stored again,
/// which writes nothing.
async fn known(app: &App, client: Client, digest: &Digest) -> Result<Option<Receipt>, HttpError> {
    // Where it is busy, the client learns so after its body, like any other.
    let Ok(_write) = app.writes.reserve(client, 1) else {
        return Ok(None);
    };
    match app.service.fetch(digest) {
        Ok(Some(message)) => Ok(Some(app.service.publish(message).await?)),
        // The body that the client has mends it.
        Ok(None) | Err(StoreError::Damaged) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads a message from the body of a request and stores it if it passes `check`.
async fn store(
    app: &App,
    head: &Parts,
    body: RequestBody,
    kind: BodyType,
    check: impl FnOnce(&Message) -> Result<(), HttpError> + Send + 'static,
) -> Result<Receipt, HttpError> {
    let mut stated = RequestDigests::default();
    stated.read(&head.headers)?;
    // Nothing more comes of it once it was read.
    let requester = Requester {
        client: body.client(),
        h2: None,
    };
    let body = read_body(&app.limits.body, &app.bodies, body, &mut stated).await?;
    let write = app.begin_write(&requester).await;
    let _write = write.map_err(|NoRoom| HttpError::Busy)?;
    let bytes = body.bytes().len();
    let spare = match kind.format {
        BodyFormat::Json | BodyFormat::Form => app.bodies.spare(&body).await,
        BodyFormat::Text | BodyFormat::Lines => Spare::default(),
    };
    let read = move || {
        stated.check(body.bytes())?;
        let message = read_message(kind, body, spare)?;
        check(&message)?;
        Ok::<_, HttpError>(message)
    };
    let message = offload(bytes, read).await?;
    Ok(app.service.publish(message).await?)
}

fn read_message(kind: BodyType, body: CoveredBytes, spare: Spare) -> Result<Message, HttpError> {
    let whole = kind.charset.text(body.bytes());
    let whole = whole.map_err(HttpError::Text)?;
    let text = match kind.format {
        BodyFormat::Text | BodyFormat::Lines => whole,
        BodyFormat::Json | BodyFormat::Form => {
            let is_form = kind.format == BodyFormat::Form;
            let whole = charset::without_mark(whole);
            let text = json::message_text(&whole);
            let text = text.map_err(|error| HttpError::Json {
                hint: json_hint(&whole, is_form, &error),
                error,
            });
            // Or its room would be kept with the text.
            drop(whole);
            text?
        }
    };
    Ok(Message::new(body.into_text(text, spare)))
}

/// `GET /messages/<digest>`, and the other names of a digest in its place.
pub(super) fn fetch(app: &App, name: Name, head: &Parts) -> Result<Response, HttpError> {
    if name.is_other() {
        return resolve(app, name.digest(), head);
    }
    let digest = name.digest().ok_or(HttpError::NoSuchMessage)?;
    message(app, digest, head)
}

/// `DELETE` of a message, however it was named. It is carried out even if the client goes away.
pub(super) async fn erase(
    app: &App,
    requester: &Requester,
    digest: Option<Digest>,
) -> Result<Response, HttpError> {
    let digest = digest.ok_or(HttpError::NoSuchMessage)?;
    let busy = HttpError::NotDeleted(StoreError::Busy);
    let write = app.begin_write(requester).await;
    let _write = write.map_err(|NoRoom| busy)?;
    let deleted = app.service.delete(&digest).await;
    let deleted = deleted.map_err(HttpError::NotDeleted)?;
    let deleted = deleted.ok_or(HttpError::NoSuchMessage)?;
    Ok(response::deleted(deleted))
}

/// `GET` of a message by another name than its path.
pub(super) fn resolve(
    app: &App,
    digest: Option<Digest>,
    head: &Parts,
) -> Result<Response, HttpError> {
    let digest = digest.ok_or(HttpError::NoSuchMessage)?;
    let mut response = message(app, digest, head)?;
    response::add_content_location(&mut response, &digest);
    Ok(response)
}

fn message(app: &App, digest: Digest, head: &Parts) -> Result<Response, HttpError> {
    let fields = &head.headers;
    let form = Form::wanted(fields);
    let has_it = || names_etag(fields, &response::etag(&digest, form));
    if fields.contains_key(IF_NONE_MATCH) && has_it() && app.service.holds(&digest)? {
        return Ok(response::not_modified(&digest, form));
    }
    let message = app.service.fetch(&digest)?;
    let message = message.ok_or(HttpError::NoSuchMessage)?;
    // No other method has ranges (RFC 9110, 14.2).
    if form == Form::Text && head.method == Method::GET && fields.contains_key(RANGE) {
        let bytes = message.as_bytes().len();
        match range::wanted(fields, &response::etag(&digest, form), bytes) {
            Selection::All => {}
            Selection::Bytes(part) => {
                return Ok(response::part(&message, part));
            }
            Selection::None => return Err(HttpError::NoSuchRange { bytes }),
        }
    }
    Ok(response::found(&message, form))
}
