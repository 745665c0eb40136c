//! Answers: one function for each kind, the fields of each in one place.

use std::ops::Range;

use bytes::Bytes;
use http::StatusCode;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LOCATION,
    VARY,
};
use hyper::body::Body;

use super::body::{Response, ResponseBody};
use super::digest_fields;
use super::host::push_escaped;
use super::json;
use super::negotiation::Form;
use crate::digest::{DIGEST_DIGITS, Digest};
use crate::message::Message;
use crate::service::{Deleted, Durability, Receipt};

/// Names what a stored message survives; `disk` or `os`.
const DURABILITY: HeaderName = HeaderName::from_static("durability");

/// Stored text is nobody's page.
const MESSAGE_POLICY: &str = "default-src 'none'; sandbox";

/// Room for the fields of the largest answer and those the connection adds.
const FIELDS: usize = 12;

/// Goes with an answer that says that a message was stored, for the log.
#[derive(Clone, Copy)]
pub(super) struct Stored(pub(super) Digest);

/// 201 for a stored message, new or known.
pub(super) fn created(receipt: &Receipt, form: Form) -> Response {
    let digits = receipt.digest().to_hex();
    let body = match form {
        Form::Json => concat(b"{\n  \"digest\": \"", &digits, b"\"\n}\n"),
        Form::Text => concat(b"", &digits, b"\n"),
    };
    let mut response = new(StatusCode::CREATED, form.kind(), body);
    let fields = response.headers_mut();
    insert(fields, LOCATION, path(&receipt.digest()));
    fields.insert(
        DURABILITY,
        HeaderValue::from_static(receipt.durability().name()),
    );
    fields.insert(VARY, HeaderValue::from_static("accept"));
    response.extensions_mut().insert(Stored(receipt.digest()));
    response
}

/// 200 with a message.
pub(super) fn found(message: &Message, form: Form) -> Response {
    let body = match form {
        Form::Json => json::object("message", message.text()).into(),
        Form::Text => message.as_bytes().clone(),
    };
    let mut response = new(StatusCode::OK, form.kind(), body);
    set_cache_fields(response.headers_mut(), &message.digest(), form);
    response.headers_mut().insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(MESSAGE_POLICY),
    );
    if form == Form::Text {
        // The address says it already; for JSON it would have to be hashed.
        let fields = response.headers_mut();
        digest_fields::add_address(fields, &message.digest());
        fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    response
}

/// 206 with a part of a text.
pub(super) fn part(message: &Message, part: Range<usize>) -> Response {
    let text = message.as_bytes();
    let (first, end, bytes) = (part.start, part.end, text.len());
    let mut response = found(message, Form::Text);
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    // Copied: a slice would keep all of the text in memory until the client has taken it.
    *response.body_mut() = Bytes::copy_from_slice(&text.slice(part)).into();
    let range = format!("bytes {first}-{}/{bytes}", end.saturating_sub(1));
    insert(response.headers_mut(), CONTENT_RANGE, range.into());
    response
}

/// Says where a message is that was asked for by another name.
pub(super) fn add_content_location(response: &mut Response, digest: &Digest) {
    insert(response.headers_mut(), CONTENT_LOCATION, path(digest));
}

fn path(digest: &Digest) -> Bytes {
    concat(b"/messages/", &digest.to_hex(), b"")
}

/// 204 with the methods of a path (RFC 9110, 9.3.7).
pub(super) fn options(methods: &str) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    let methods = [methods, ", OPTIONS"].concat();
    insert(response.headers_mut(), ALLOW, methods.into());
    response
}

/// 308 to the same path with a slash at its end, from which the addresses of a page lead on, and the same query.
pub(super) fn with_slash(query: Option<&str>) -> Response {
    let text = "The page is at this path with a slash at its end.\n";
    let mut response = plain(StatusCode::PERMANENT_REDIRECT, text);
    let mut location = "/".to_owned();
    if let Some(query) = query {
        location.push('?');
        for byte in query.bytes() {
            // As it has to be in an address (RFC 3986, 2.1).
            push_escaped(&mut location, byte, u8::is_ascii_graphic);
        }
    }
    insert(response.headers_mut(), LOCATION, location.into());
    response
}

/// 204 for a message that was deleted.
pub(super) fn deleted(deleted: Deleted) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    let durability = HeaderValue::from_static(deleted.durability().name());
    response.headers_mut().insert(DURABILITY, durability);
    response
}

/// 304 for a message the client has.
pub(super) fn not_modified(digest: &Digest, form: Form) -> Response {
    let mut response = empty(StatusCode::NOT_MODIFIED);
    set_cache_fields(response.headers_mut(), digest, form);
    response
}

/// A digest never changes its meaning.
fn set_cache_fields(fields: &mut HeaderMap, digest: &Digest, form: Form) {
    fields.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("max-age=31536000, immutable"),
    );
    fields.insert(ETAG, etag(digest, form));
    fields.insert(VARY, HeaderValue::from_static("accept"));
}

/// The entity tag of a form of a message: the text is named by its digest, its JSON by a derived name.
pub(super) fn etag(digest: &Digest, form: Form) -> HeaderValue {
    let end: &[u8] = match form {
        Form::Json => b"-json\"",
        Form::Text => b"\"",
    };
    field_value(concat(b"\"", &digest.to_hex(), end))
}

/// A short text from the service itself.
pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response {
    new(status, Form::Text.kind(), text.into())
}

/// 200 with lines, or an array, as they are made: of a batch, with what stored messages survive, or of an export.
pub(super) fn streamed(
    answer: ResponseBody,
    is_array: bool,
    durability: Option<Durability>,
) -> Response {
    let mut response = Response::new(answer);
    let fields = response.headers_mut();
    let kind = if is_array {
        Form::Json.kind()
    } else {
        "application/x-ndjson"
    };
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, MESSAGE_POLICY),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    if let Some(durability) = durability {
        fields.insert(DURABILITY, HeaderValue::from_static(durability.name()));
    }
    response
}

/// An answer with a body, and the fields that say what it is.
pub(super) fn new(status: StatusCode, kind: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(ResponseBody::from(body));
    *response.status_mut() = status;
    let mut fields = HeaderMap::with_capacity(FIELDS);
    if response.body().is_end_stream() {
        // hyper says the length of every body but an empty one.
        fields.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    *response.headers_mut() = fields;
    response
}

/// The same without a body, and without fields.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

fn concat(start: &[u8], digits: &[u8; DIGEST_DIGITS], end: &[u8]) -> Bytes {
    [start, digits, end].concat().into()
}

fn insert(fields: &mut HeaderMap, name: HeaderName, value: Bytes) {
    fields.insert(name, field_value(value));
}

/// A field value of digits and a few marks, which is always one.
fn field_value(value: Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}
