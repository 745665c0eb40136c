//! The handlers for messages.

use bytes::Bytes;
use bytestring::ByteString;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, IF_NONE_MATCH};

use super::App;
use super::error::HttpError;
use super::json;
use super::negotiation::{BodyFormat, Form, names_etag};
use super::request::read_body;
use super::response::{self, Response};
use crate::digest::Digest;
use crate::message::Message;
use crate::service::offload;

/// `POST /messages`
pub(super) async fn publish(app: &App, request: Request<Incoming>) -> Result<Response, HttpError> {
    let format = BodyFormat::of(request.headers())?;
    let form = Form::wanted(request.headers());
    // The reservation lasts until the answer: so long the text is in memory.
    let (body, _reservation) = read_body(&app.limits, &app.bodies, request.into_body()).await?;
    let _write = app.writes.try_acquire().map_err(|_| HttpError::Busy)?;
    let message = offload(body.len(), move || read_message(format, &body)).await?;
    let receipt = app.service.publish(message).await?;
    Ok(response::created(&receipt, form))
}

/// Counts the body of an answer.
fn admit(app: &App, response: Response) -> Result<Response, HttpError> {
    let (head, answer) = response.into_parts();
    let answer = app
        .answers
        .admit(answer)
        .ok_or(HttpError::NoRoomForAnswer)?;
    Ok(Response::from_parts(head, answer))
}

fn read_message(format: BodyFormat, body: &Bytes) -> Result<Message, HttpError> {
    let text = ByteString::try_from(body.clone()).map_err(|_| HttpError::not_utf8(body))?;
    let text = match format {
        BodyFormat::Text => text,
        BodyFormat::Json => json::message_text(&text).map_err(|error| HttpError::Json {
            error,
            is_form: false,
        })?,
        BodyFormat::Form => json::message_text(&text).map_err(|error| HttpError::Json {
            error,
            is_form: true,
        })?,
    };
    Ok(Message::new(text))
}

/// `GET /messages/<digest>`
pub(super) fn fetch(app: &App, digest: &str, fields: &HeaderMap) -> Result<Response, HttpError> {
    let digest: Digest = digest.parse().map_err(|_| HttpError::NoSuchMessage)?;
    let form = Form::wanted(fields);
    let has_it = || names_etag(fields, &response::etag(&digest, form));
    if fields.contains_key(IF_NONE_MATCH) && has_it() && app.service.holds(&digest)? {
        return Ok(response::not_modified(&digest, form));
    }
    match app.service.fetch(&digest)? {
        Some(message) => admit(app, response::found(&message, form)),
        None => Err(HttpError::NoSuchMessage),
    }
}
