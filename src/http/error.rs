//! Every failure of a request: its status, what the client is told, and whether the log is told too.
//!
//! Texts name what is wrong and where, and never quote what was sent. What is the client's own doing
//! is not logged; what is ours is, once, here. Failures of the store are logged where they happen.

use hyper::StatusCode;
use hyper::header::HeaderValue;
use tracing::warn;

use super::json::JsonError;
use super::response::{self, Response};
use crate::service::ServiceError;

/// Seconds after which what is busy now may not be any more.
const RETRY_SOON: u32 = 1;

/// Seconds after which somebody may have made room on the disk, or restarted what failed.
const RETRY_LATER: u32 = 30;

/// Why a request is not answered as it wished.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
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
    #[error("The Content-Type must be application/json or text/plain, in UTF-8 and given once.")]
    ContentType,
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
    #[error(
        "Too many bodies are on their way at the moment; this one was not read. Try again soon."
    )]
    NoRoomForBody,
    #[error("Too many large answers are on their way at the moment. Try again soon.")]
    NoRoomForAnswer,
    #[error("Too much is going on at the moment; nothing was stored. Try again soon.")]
    Busy,
    #[error("Not ready: {0}.")]
    NotReady(String),
    #[error("{}", service_text(*.0))]
    Service(#[from] ServiceError),
}

/// A body by curl without `-H` that is not JSON was probably not meant to be.
fn form_hint(is_form: bool, error: &JsonError) -> &'static str {
    if is_form && error.is_syntax() {
        " With curl, send JSON with -H 'Content-Type: application/json', or a text as it is with -H 'Content-Type: text/plain' and --data-binary."
    } else {
        ""
    }
}

fn service_text(error: ServiceError) -> &'static str {
    match error {
        ServiceError::Starting => "The service is starting.",
        ServiceError::Stopping => "The service is stopping; the message was not stored.",
        ServiceError::Busy => {
            "Too many messages are waiting to be stored; this one was not. Try again soon."
        }
        ServiceError::Full => {
            "The disk is full: new messages are not taken at the moment. This one was not stored."
        }
        ServiceError::TooLarge => "The message is too large.",
        ServiceError::Failed => {
            "The store failed. A message that was to be stored may or may not be; storing it again does no harm."
        }
        ServiceError::Damaged => {
            "The message was stored, but is damaged. Storing it again mends it."
        }
    }
}

impl HttpError {
    /// The body is not text.
    pub(super) fn not_utf8(body: &[u8]) -> Self {
        let offset = std::str::from_utf8(body).map_or_else(|error| error.valid_up_to(), str::len);
        Self::NotUtf8 { offset }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Host
            | Self::Query(_)
            | Self::BodyBroken
            | Self::NotUtf8 { .. }
            | Self::Json { .. } => StatusCode::BAD_REQUEST,
            Self::NoSuchPath | Self::NoSuchMessage => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentType | Self::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NoRoomForBody | Self::NoRoomForAnswer | Self::Busy | Self::NotReady(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Service(error) => match error {
                ServiceError::Full => StatusCode::INSUFFICIENT_STORAGE,
                ServiceError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                ServiceError::Damaged => StatusCode::INTERNAL_SERVER_ERROR,
                ServiceError::Starting
                | ServiceError::Stopping
                | ServiceError::Busy
                | ServiceError::Failed => StatusCode::SERVICE_UNAVAILABLE,
            },
        }
    }

    fn retry_after_seconds(&self) -> Option<u32> {
        match self {
            Self::NoRoomForBody
            | Self::NoRoomForAnswer
            | Self::Busy
            | Self::NotReady(_)
            | Self::Service(ServiceError::Starting | ServiceError::Stopping | ServiceError::Busy) => {
                Some(RETRY_SOON)
            }
            Self::Service(ServiceError::Full | ServiceError::Failed) => Some(RETRY_LATER),
            _ => None,
        }
    }

    /// Whether the answer is given although the body was not read to its end, if there was one.
    pub(super) fn leaves_body_unread(&self) -> bool {
        match self {
            Self::Host
            | Self::TransferCoding
            | Self::TooManyFields
            | Self::NoSuchPath
            | Self::NoSuchMessage
            | Self::MethodNotAllowed(_)
            | Self::Query(_)
            | Self::ContentType
            | Self::ContentEncoding
            | Self::BodyTooLarge { .. }
            | Self::BodyTooSlow
            | Self::BodyBroken
            | Self::NoRoomForBody
            | Self::NoRoomForAnswer
            | Self::NotReady(_) => true,
            Self::NotUtf8 { .. } | Self::Json { .. } | Self::Busy | Self::Service(_) => false,
        }
    }

    /// Writes down what an operator has to know of and nobody else has written down.
    pub(super) fn log(&self, request_id: &HeaderValue) {
        if let Self::Service(error @ ServiceError::Damaged) = self {
            let request_id = request_id.to_str().unwrap_or_default();
            warn!(request_id, %error, "answered 500");
        }
    }

    pub(super) fn into_response(self) -> Response {
        let allow = match self {
            Self::MethodNotAllowed(methods) => Some(methods),
            _ => None,
        };
        response::error(
            self.status(),
            &self.to_string(),
            allow,
            self.retry_after_seconds(),
        )
    }
}
