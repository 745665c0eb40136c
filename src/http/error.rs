//! Every failure of a request: its status, what the client is told, and whether the log is told too.
//!
//! Texts name what is wrong and where, and never quote what was sent. What is the client's own doing
//! is not logged; what is ours is, once, here. Failures of the store are logged where they happen.

use hyper::StatusCode;
use hyper::header::{ALLOW, CONTENT_RANGE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use tracing::warn;

use super::authorize::Denied;
use super::digest_fields::{Disagreement, Field};
use super::json::JsonError;
use super::response::{self, Response};
use super::trace;
use crate::digest::Digest;
use crate::service::StoreError;

/// Seconds after which what is busy now may not be any more.
pub(super) const RETRY_SOON: u32 = 1;

/// Seconds after which somebody may have made room on the disk, or restarted what failed.
const RETRY_LATER: u32 = 30;

/// Why a request is not answered as it wished.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("There must be exactly one Host field.")]
    Host,
    #[error("The only Transfer-Encoding known is chunked.")]
    TransferCoding,
    #[error("The request has too many header fields.")]
    TooManyFields,
    #[error("There is nothing at this path.")]
    NoSuchPath,
    #[error("Message not found.")]
    NoSuchMessage,
    #[error("This path does not have that method; it has {0}.")]
    MethodNotAllowed(&'static str),
    #[error("The query is wrong: {0}.")]
    Query(&'static str),
    #[error(
        "The Content-Type must be application/json or text/plain, or application/x-ndjson for a batch; in UTF-8 and given once."
    )]
    ContentType,
    #[error("The range begins behind the end of the message, which has {bytes} bytes.")]
    NoSuchRange { bytes: usize },
    #[error("The Content-Type must be application/x-ndjson, with one digest a line.")]
    LinesOnly,
    #[error("A Content-Encoding is not supported; send the body as it is.")]
    ContentEncoding,
    #[error("The body is larger than {bytes_max} bytes.")]
    BodyTooLarge { bytes_max: u64 },
    #[error("The body came too slowly.")]
    BodyTooSlow,
    #[error("The body ended early.")]
    BodyBroken,
    #[error("The body is not UTF-8: invalid byte at offset {offset}.")]
    NotUtf8 { offset: usize },
    #[error("{}: {error}.{}", if error.is_syntax() { "The body is not valid JSON" } else { "The body is not a message" }, form_hint(*is_form, error))]
    Json { error: JsonError, is_form: bool },
    #[error("The {} field is not a dictionary of digests, like sha-256=:…:.", .0.name())]
    DigestField(Field),
    #[error(transparent)]
    DigestMismatch(Box<Disagreement>),
    #[error("The path names the digest {wanted}, but the message has the digest {actual}; nothing was stored.{}", .hint.unwrap_or_default())]
    OtherDigest {
        wanted: Digest,
        actual: Digest,
        hint: Option<&'static str>,
    },
    #[error(
        "The messages of a batch are stored as they come, so a digest of all of it cannot be checked before."
    )]
    DigestOfBatch,
    #[error("The message is stored already.")]
    Exists,
    #[error(
        "Too many bodies are on their way at the moment; this one was not read. Try again soon."
    )]
    NoRoomForBody,
    #[error("Too many large answers are on their way at the moment. Try again soon.")]
    NoRoomForAnswer,
    #[error("Too much is going on at the moment; nothing was stored. Try again soon.")]
    Busy,
    #[error(
        "Too many batches are on their way at the moment; this one was not read. Try again soon."
    )]
    NoRoomForBatch,
    #[error("Not ready: {0}.")]
    NotReady(String),
    #[error("{}", service_text(*.0))]
    Service(#[from] StoreError),
    #[error("{}", deletion_text(*.0))]
    NotDeleted(StoreError),
}

/// Why a line of a batch fails, and it alone.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("The line is larger than {bytes_max} bytes.")]
    TooLarge { bytes_max: u64 },
    #[error("The line is not UTF-8: invalid byte at offset {offset}.")]
    NotUtf8 { offset: usize },
    #[error("The line is not what it should be: {}.", .0.in_line())]
    Json(#[from] JsonError),
    #[error(transparent)]
    Other(#[from] HttpError),
}

/// A body by curl without `-H` that is not JSON was probably not meant to be.
fn form_hint(is_form: bool, error: &JsonError) -> &'static str {
    if is_form && error.is_syntax() {
        " With curl, send JSON with -H 'Content-Type: application/json', or a text as it is with -H 'Content-Type: text/plain' and --data-binary."
    } else {
        ""
    }
}

fn service_text(error: StoreError) -> &'static str {
    match error {
        StoreError::Starting => "The service is starting.",
        StoreError::Closed => "The service is stopping; the message was not stored.",
        StoreError::Busy => {
            "Too many messages are waiting to be stored; this one was not. Try again soon."
        }
        StoreError::Full => {
            "The disk is full: new messages are not taken at the moment. This one was not stored."
        }
        StoreError::TooLarge => "The message is too large.",
        StoreError::Failed => {
            "The store failed. A message that was to be stored may or may not be; storing it again does no harm."
        }
        StoreError::Damaged => "The message was stored, but is damaged. Storing it again mends it.",
    }
}

/// The same where a message was to be deleted.
fn deletion_text(error: StoreError) -> &'static str {
    match error {
        StoreError::Closed => "The service is stopping; the message was not deleted.",
        StoreError::Busy => {
            "Too much is going on at the moment; the message was not deleted. Try again soon."
        }
        StoreError::Full => {
            "The disk is so full that there is no room to delete anything. The message was not deleted."
        }
        StoreError::Failed => {
            "The store failed. The message may or may not be deleted; deleting it again does no harm."
        }
        StoreError::Starting | StoreError::TooLarge | StoreError::Damaged => service_text(error),
    }
}

impl LineError {
    /// The line is not text.
    pub(super) fn not_utf8(line: &[u8]) -> Self {
        Self::NotUtf8 {
            offset: valid_bytes(line),
        }
    }
}

/// Number of bytes before the first that is not UTF-8.
fn valid_bytes(body: &[u8]) -> usize {
    std::str::from_utf8(body).map_or_else(|error| error.valid_up_to(), str::len)
}

impl HttpError {
    /// The body is not text.
    pub(super) fn not_utf8(body: &[u8]) -> Self {
        Self::NotUtf8 {
            offset: valid_bytes(body),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Denied(refused) => refused.status(),
            Self::Host
            | Self::Query(_)
            | Self::BodyBroken
            | Self::NotUtf8 { .. }
            | Self::Json { .. }
            | Self::DigestField(_)
            | Self::DigestOfBatch
            | Self::DigestMismatch(_) => StatusCode::BAD_REQUEST,
            Self::NoSuchRange { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::OtherDigest { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Exists => StatusCode::PRECONDITION_FAILED,
            Self::NoSuchPath | Self::NoSuchMessage => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentType | Self::LinesOnly | Self::ContentEncoding => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NoRoomForBody
            | Self::NoRoomForAnswer
            | Self::NoRoomForBatch
            | Self::Busy
            | Self::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Service(error) | Self::NotDeleted(error) => match error {
                StoreError::Full => StatusCode::INSUFFICIENT_STORAGE,
                StoreError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                StoreError::Damaged => StatusCode::INTERNAL_SERVER_ERROR,
                StoreError::Starting
                | StoreError::Closed
                | StoreError::Busy
                | StoreError::Failed => StatusCode::SERVICE_UNAVAILABLE,
            },
        }
    }

    fn retry_after_seconds(&self) -> Option<u32> {
        match self {
            Self::Denied(refused) => refused.retry_after_seconds(),
            Self::NoRoomForBody
            | Self::NoRoomForAnswer
            | Self::NoRoomForBatch
            | Self::Busy
            | Self::NotReady(_)
            | Self::Service(StoreError::Starting | StoreError::Closed | StoreError::Busy)
            | Self::NotDeleted(StoreError::Starting | StoreError::Closed | StoreError::Busy) => {
                Some(RETRY_SOON)
            }
            Self::Service(StoreError::Full | StoreError::Failed)
            | Self::NotDeleted(StoreError::Full | StoreError::Failed) => Some(RETRY_LATER),
            _ => None,
        }
    }

    /// Writes down what an operator has to know of and nobody else has written down.
    pub(super) fn log(&self, request_id: &str, fields: &HeaderMap) {
        if let Self::Service(error @ StoreError::Damaged) = self {
            let trace_id = trace::trace_id(fields);
            warn!(request_id, trace_id, %error, "answered 500");
        }
    }

    pub(super) fn into_response(self, as_problem: bool) -> Response {
        let text = match &self {
            Self::Denied(refused) => refused.text(),
            other => other.to_string().into(),
        };
        let mut response = if as_problem {
            response::problem(self.status(), self.problem(), &text)
        } else {
            response::error(self.status(), &text)
        };
        let fields = response.headers_mut();
        if let Self::Denied(refused) = &self
            && let Some(challenge) = refused.challenge()
        {
            fields.insert(WWW_AUTHENTICATE, challenge);
        }
        if let Self::MethodNotAllowed(methods) = self {
            fields.insert(ALLOW, HeaderValue::from_static(methods));
        }
        if let Self::NoSuchRange { bytes } = self
            && let Ok(range) = HeaderValue::try_from(format!("bytes */{bytes}"))
        {
            fields.insert(CONTENT_RANGE, range);
        }
        if let Some(seconds) = self.retry_after_seconds() {
            fields.insert(RETRY_AFTER, seconds.into());
        }
        response
    }

    fn problem(&self) -> Problem {
        let (kind, title) = match self {
            Self::Denied(refused) => refused.problem(),
            Self::Host => ("host", "Not exactly one Host field"),
            Self::TransferCoding => ("transfer-coding", "Unknown transfer coding"),
            Self::TooManyFields => ("too-many-fields", "Too many header fields"),
            Self::NoSuchPath => ("no-such-path", "Nothing at this path"),
            Self::NoSuchMessage => ("no-such-message", "Message not found"),
            Self::NoSuchRange { .. } => ("no-such-range", "Range behind the end"),
            Self::MethodNotAllowed(_) => ("method-not-allowed", "Method not allowed"),
            Self::Query(_) => ("query", "Wrong query"),
            Self::ContentType | Self::LinesOnly => ("content-type", "Unknown content type"),
            Self::ContentEncoding => ("content-encoding", "Encoded body"),
            Self::BodyTooLarge { .. } => ("body-too-large", "Body too large"),
            Self::BodyTooSlow => ("body-too-slow", "Body too slow"),
            Self::BodyBroken => ("body-broken", "Body ended early"),
            Self::NotUtf8 { .. } => ("not-utf-8", "Not UTF-8"),
            Self::Json { error, .. } if error.is_syntax() => ("not-json", "Not JSON"),
            Self::Json { .. } => ("not-a-message", "Not a message"),
            Self::DigestField(_) => ("digest-field", "Unreadable digest field"),
            Self::DigestMismatch(_) => ("digest-mismatch", "Body with another digest"),
            Self::DigestOfBatch => ("digest-of-batch", "Digest of a batch"),
            Self::OtherDigest { .. } => ("other-digest", "Message with another digest"),
            Self::Exists => ("exists", "Message stored already"),
            Self::NoRoomForBody | Self::NoRoomForAnswer | Self::NoRoomForBatch | Self::Busy => {
                ("busy", "Too busy")
            }
            Self::NotReady(_) => ("not-ready", "Not ready"),
            Self::Service(error) | Self::NotDeleted(error) => match error {
                StoreError::Starting | StoreError::Closed => ("not-ready", "Not ready"),
                StoreError::Busy => ("busy", "Too busy"),
                StoreError::Full => ("full", "Disk full"),
                StoreError::TooLarge => ("body-too-large", "Body too large"),
                StoreError::Failed => ("store-failed", "Store failed"),
                StoreError::Damaged => ("damaged", "Message damaged"),
            },
        };
        Problem { kind, title }
    }
}

/// A cause of errors, as programs tell it from others (RFC 9457). Its name never changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    kind: &'static str,
    pub(super) title: &'static str,
}

impl Problem {
    /// A reference to where the description of the interface has it.
    pub(super) fn kind(self) -> String {
        format!("/openapi.yaml#/x-problems/{}", self.kind)
    }
}
