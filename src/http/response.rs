//! Answers: one function for each kind, the fields of each in one place.

use std::ops::Range;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Body;
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};

use super::body::ResponseBody;
use super::digest_fields;
use super::error::{Problem, RETRY_SOON};
use super::json;
use super::negotiation::Form;
use super::pages::Page;
use crate::digest::{DIGEST_DIGITS, Digest};
use crate::message::Message;
use crate::service::{Deleted, Durability, Health, Receipt, Stats};

pub(super) type Response = hyper::Response<ResponseBody>;

/// Names what a stored message survives; `disk` or `os`.
const DURABILITY: HeaderName = HeaderName::from_static("durability");

/// Stored text is nobody's page.
const MESSAGE_POLICY: &str = "default-src 'none'; sandbox";

/// What a page may do: use what comes from here, in files of its own; nothing else, in no frame, and
/// no text becomes markup.
const PAGE_POLICY: &str = "default-src 'none'; connect-src 'self'; img-src 'self'; \
    script-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Room for the fields of the largest answer and those the connection adds.
const FIELDS: usize = 12;

/// 201 for a stored message, new or known.
pub(super) fn created(receipt: &Receipt, form: Form) -> Response {
    let digits = receipt.digest().to_hex();
    let body = match form {
        Form::Json => concat(b"{\n  \"digest\": \"", &digits, b"\"\n}\n"),
        Form::Text => concat(b"", &digits, b"\n"),
    };
    let mut response = response(StatusCode::CREATED, form, body);
    let fields = response.headers_mut();
    insert(fields, LOCATION, path(&receipt.digest()));
    fields.insert(
        DURABILITY,
        HeaderValue::from_static(receipt.durability().name()),
    );
    fields.insert(VARY, HeaderValue::from_static("accept"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 200 with a message.
pub(super) fn found(message: &Message, form: Form) -> Response {
    let body = match form {
        Form::Json => json::object("message", message.text()).into(),
        Form::Text => message.as_bytes().clone(),
    };
    let mut response = response(StatusCode::OK, form, body);
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
    *response.body_mut() = ResponseBody::from(text.slice(part));
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

/// 204 for a message that was deleted.
pub(super) fn deleted(deleted: &Deleted) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let fields = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (DURABILITY, deleted.durability().name()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// 304 for a message the client has.
pub(super) fn not_modified(digest: &Digest, form: Form) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    let fields = response.headers_mut();
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    set_cache_fields(fields, digest, form);
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

/// The entity tag of a page: the digest of its content.
pub(super) fn page_etag(digest: &Digest) -> HeaderValue {
    etag(digest, Form::Text)
}

/// 200 with a page.
pub(super) fn page(page: &Page) -> Response {
    let mut response = response(StatusCode::OK, Form::Text, page.content.clone());
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, page.kind.clone());
    set_page_fields(fields, page);
    response
}

/// 304 for a page the client has.
pub(super) fn page_not_modified(page: &Page) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    let fields = response.headers_mut();
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    set_page_fields(fields, page);
    response
}

/// Another version of the program has other pages.
fn set_page_fields(fields: &mut HeaderMap, page: &Page) {
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    fields.insert(ETAG, page.etag.clone());
    fields.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(PAGE_POLICY),
    );
}

/// Says that there are other forms.
pub(super) fn vary_by_accept(response: &mut Response) {
    let fields = response.headers_mut();
    fields.insert(VARY, HeaderValue::from_static("accept"));
}

/// 200 with the state and the figures of the service.
pub(super) fn figures(health: &Health, stats: Option<Stats>) -> Response {
    let body = json::figures(health, stats).into();
    let mut response = response(StatusCode::OK, Form::Json, body);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A short text from the service itself.
pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let mut response = response(status, Form::Text, text.into());
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Everything that is counted.
pub(super) fn metrics(text: String) -> Response {
    let mut response = plain(StatusCode::OK, text);
    let kind = HeaderValue::from_static(crate::metrics::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The checks behind a probe's answer; 503 without the form of an error, since it is more than one
/// sentence.
pub(super) fn report(ready: bool, text: String) -> Response {
    if ready {
        return plain(StatusCode::OK, text);
    }
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    response
        .headers_mut()
        .insert(RETRY_AFTER, RETRY_SOON.into());
    response
}

/// 200 with lines as they are made: of a batch, with what stored messages survive, or of an export.
pub(super) fn lines(answer: ResponseBody, durability: Option<Durability>) -> Response {
    let mut response = Response::new(answer);
    let fields = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "application/x-ndjson"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, MESSAGE_POLICY),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    if let Some(durability) = durability {
        fields.insert(DURABILITY, HeaderValue::from_static(durability.name()));
    }
    response
}

/// What went wrong, for the client.
pub(super) fn error(status: StatusCode, text: &str) -> Response {
    let mut response = response(status, Form::Json, json::object("error", text).into());
    // A 404 may turn into a 200 at any moment.
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The same as a document with more to it (RFC 9457).
pub(super) fn problem(status: StatusCode, problem: Problem, text: &str) -> Response {
    let mut response = error(status, text);
    let body = json::problem(&problem.kind(), problem.title, status.as_u16(), text);
    *response.body_mut() = ResponseBody::from(Bytes::from(body));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}

fn response(status: StatusCode, form: Form, body: Bytes) -> Response {
    let mut response = Response::new(ResponseBody::from(body));
    *response.status_mut() = status;
    let kind = match form {
        Form::Json => "application/json",
        Form::Text => "text/plain; charset=utf-8",
    };
    let mut fields = HeaderMap::with_capacity(FIELDS);
    if response.body().is_end_stream() {
        // hyper says the length of every body but an empty one.
        fields.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    *response.headers_mut() = fields;
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
