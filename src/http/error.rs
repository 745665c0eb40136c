//! Every failure of a request: its status, what the client is told, and whether the log is told too.
//!
//! Texts name what is wrong and where, and never quote what was sent. What is the client's own doing
//! is not logged; what is ours is, once, here. Failures of the store are logged where they happen.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;
use http::header::{ALLOW, CONTENT_RANGE, HeaderName, HeaderValue, WWW_AUTHENTICATE};

use super::authorize::{Denied, seconds};
use super::charset::TextError;
use super::digest_fields::DigestFieldError;
use super::json::JsonError;
use super::negotiation::FormatError;
use super::request::BodyError;
use crate::access::Refusal;
use crate::digest::Digest;
use crate::metrics::KeptOut;
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
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    DigestField(#[from] DigestFieldError),
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
    #[error("The range begins behind the end of the message, which has {bytes} bytes.")]
    NoSuchRange { bytes: usize },
    #[error(
        "The Content-Type must be application/json, with an array, or application/x-ndjson, with lines."
    )]
    ManyOnly,
    #[error("{}: {error}.", if error.is_syntax() { "The body is not valid JSON" } else { "The body is not what it should be" })]
    Array { error: JsonError },
    #[error(
        "The array has more than {elements_max} elements: send the rest in another request, or all of it as lines (application/x-ndjson)."
    )]
    ArrayTooLong { elements_max: usize },
    #[error(
        "The body is larger than {bytes_max} bytes, the most that an array may have (--body-max of the server): send the rest in another request, or all of it as lines (application/x-ndjson)."
    )]
    ArrayTooLarge { bytes_max: u64 },
    #[error("The body {0}.")]
    Text(TextError),
    #[error("{}: {error}.{}", if error.is_syntax() { "The body is not valid JSON" } else { "The body is not a message" }, hint)]
    Json {
        error: JsonError,
        hint: &'static str,
    },
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
    #[error("Too many large answers are on their way at the moment. Try again soon.")]
    NoRoomForAnswer,
    #[error("Too much is going on at the moment; nothing was stored. Try again soon.")]
    Busy,
    #[error(
        "Too many batches are on their way at the moment; this one was not read. Try again soon."
    )]
    NoRoomForBatch,
    #[error(
        "Too many look-ups are on their way at the moment; this one was not read. Try again soon."
    )]
    NoRoomForLookUp,
    #[error("Too many exports are on their way at the moment. Try again soon.")]
    NoRoomForExport,
    #[error("Not ready: {0}.")]
    NotReady(String),
    #[error("{}", store_text(*.0))]
    Store(#[from] StoreError),
    #[error("{}", deletion_text(*.0))]
    NotDeleted(StoreError),
}

/// Why a line of a batch fails, and it alone, or why the batch ends with it.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("The line is larger than {bytes_max} bytes.")]
    TooLarge { bytes_max: u64 },
    #[error("The line {0}.")]
    Text(TextError),
    #[error("{errors_max} lines before this one failed; the batch ends here.")]
    TooMany { errors_max: u32 },
    #[error("Too many lines; wait {} seconds and go on with this one.", seconds(*.0))]
    Rate(Duration),
    #[error("The line is not what it should be: {}.", .0.in_line())]
    Json(#[from] JsonError),
    #[error("The line is neither a digest of 64 hexadecimal digits nor JSON: {}.", .0.in_line())]
    NoDigest(JsonError),
    #[error("This is no digest, which has 64 hexadecimal digits and nothing else.")]
    OtherThanDigest,
    #[error(transparent)]
    Other(#[from] HttpError),
}

impl LineError {
    /// How programs tell it from others; see [`Meaning::kind`].
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "body-too-large",
            Self::Text(_) => "not-utf-8",
            Self::TooMany { .. } => "too-many-errors",
            Self::Rate(_) => "rate",
            Self::Json(error) if error.is_syntax() => "not-json",
            Self::Json(_) => "not-a-message",
            Self::NoDigest(_) => "not-json",
            // As of a path that has no digest.
            Self::OtherThanDigest => HttpError::NoSuchMessage.meaning().kind,
            Self::Other(error) => error.meaning().kind,
        }
    }
}

/// What to do about a body that is no message: one by curl without `-H` that is not JSON was probably not meant to be,
/// and an array has a path of its own.
pub(super) fn json_hint(body: &str, is_form: bool, error: &JsonError) -> &'static str {
    if body.trim_ascii_start().starts_with('[') && !error.is_syntax() {
        " Arrays of messages are for /messages/batch."
    } else if is_form && error.is_syntax() {
        " With curl, send JSON with -H 'Content-Type: application/json', or a text as it is with -H 'Content-Type: text/plain' and --data-binary."
    } else {
        ""
    }
}

fn store_text(error: StoreError) -> &'static str {
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
        StoreError::PrefixTaken => {
            "Another stored message has a digest with the same first 22 bytes; this store cannot hold both. The message was not stored."
        }
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
        other => store_text(other),
    }
}

impl HttpError {
    /// The table of failures: status, kind and title of each, why it is refused if the request is not to blame,
    /// and when to try again.
    #[rustfmt::skip]
    pub(super) fn meaning(&self) -> Meaning {
        use KeptOut as K;
        use StatusCode as S;
        let (wrong, kept_out) = (Meaning::wrong, Meaning::kept_out);
        let not_ready = kept_out(S::SERVICE_UNAVAILABLE, "not-ready", "Not ready", K::NotReady).retry(RETRY_SOON);
        let busy = |cause| kept_out(S::SERVICE_UNAVAILABLE, "busy", "Too busy", cause).retry(RETRY_SOON);
        let too_large = wrong(S::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large");
        match self {
            Self::Denied(denied) => match denied {
                Denied::Unclear(_) => kept_out(S::BAD_REQUEST, "unclear-client", "Unclear whose request it is", K::UnclearClient),
                Denied::Network => kept_out(S::FORBIDDEN, "network", "Network not let in", K::Network),
                Denied::Host(_) => wrong(S::BAD_REQUEST, "host", "Not exactly one valid host"),
                Denied::Prefix(_) => wrong(S::BAD_REQUEST, "forwarded-prefix", "Unusable prefix of a proxy"),
                Denied::OtherHost(_) => kept_out(S::MISDIRECTED_REQUEST, "other-host", "Not a host of this service", K::OtherHost),
                Denied::Rate(wait) => kept_out(S::TOO_MANY_REQUESTS, "rate", "Too many requests", K::Rate).retry(seconds(*wait)),
                Denied::Site(_) => kept_out(S::FORBIDDEN, "other-site", "Page of another site", K::OtherSite),
                Denied::Token(Refusal::NoToken) => kept_out(S::UNAUTHORIZED, "no-token", "No token", K::NoToken),
                Denied::Token(Refusal::UnknownToken) => kept_out(S::UNAUTHORIZED, "unknown-token", "Unknown token", K::UnknownToken),
                Denied::Token(Refusal::Scope(_)) => kept_out(S::FORBIDDEN, "scope", "Token for other things", K::Scope),
                Denied::Token(Refusal::Closed(_)) => kept_out(S::FORBIDDEN, "closed", "For nobody", K::Closed),
            },
            Self::TransferCoding => wrong(S::NOT_IMPLEMENTED, "transfer-coding", "Unknown transfer coding"),
            Self::TooManyFields => wrong(S::REQUEST_HEADER_FIELDS_TOO_LARGE, "too-many-fields", "Too many header fields"),
            Self::NoSuchPath => wrong(S::NOT_FOUND, "no-such-path", "Nothing at this path"),
            Self::NoSuchMessage => wrong(S::NOT_FOUND, "no-such-message", "Message not found"),
            Self::NoSuchRange { .. } => wrong(S::RANGE_NOT_SATISFIABLE, "no-such-range", "Range behind the end"),
            Self::MethodNotAllowed(_) => wrong(S::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed"),
            Self::Query(_) => wrong(S::BAD_REQUEST, "query", "Wrong query"),
            Self::ManyOnly | Self::Format(FormatError::Type | FormatError::Charset) => wrong(S::UNSUPPORTED_MEDIA_TYPE, "content-type", "Unknown content type"),
            Self::Format(FormatError::Encoding) => wrong(S::UNSUPPORTED_MEDIA_TYPE, "content-encoding", "Encoded body"),
            Self::Body(BodyError::TooLarge { .. }) | Self::ArrayTooLarge { .. } => too_large,
            Self::Body(BodyError::TooSlow) => wrong(S::REQUEST_TIMEOUT, "body-too-slow", "Body too slow"),
            Self::Body(BodyError::Broken) => wrong(S::BAD_REQUEST, "body-broken", "Body ended early"),
            Self::Body(BodyError::Trailers(error)) | Self::DigestField(error) => match error {
                DigestFieldError::Unreadable(_) => wrong(S::BAD_REQUEST, "digest-field", "Unreadable digest field"),
                DigestFieldError::Mismatch(_) => wrong(S::BAD_REQUEST, "digest-mismatch", "Body with another digest"),
            },
            Self::Text(_) => wrong(S::BAD_REQUEST, "not-utf-8", "Not UTF-8"),
            Self::Array { error } if error.is_syntax() => wrong(S::BAD_REQUEST, "not-json", "Not JSON"),
            Self::Array { .. } => wrong(S::BAD_REQUEST, "not-an-array", "Not an array"),
            Self::ArrayTooLong { .. } => wrong(S::PAYLOAD_TOO_LARGE, "array-too-long", "Array too long"),
            Self::Json { error, .. } if error.is_syntax() => wrong(S::BAD_REQUEST, "not-json", "Not JSON"),
            Self::Json { .. } => wrong(S::BAD_REQUEST, "not-a-message", "Not a message"),
            Self::DigestOfBatch => wrong(S::BAD_REQUEST, "digest-of-batch", "Digest of a batch"),
            Self::OtherDigest { .. } => wrong(S::UNPROCESSABLE_ENTITY, "other-digest", "Message with another digest"),
            Self::Exists => wrong(S::PRECONDITION_FAILED, "exists", "Message stored already"),
            Self::Body(BodyError::NoRoom | BodyError::GaveWay) => busy(K::BodyRoom),
            Self::NoRoomForAnswer => busy(K::AnswerRoom),
            Self::NoRoomForBatch => busy(K::BatchRoom),
            Self::NoRoomForLookUp => busy(K::LookUpRoom),
            Self::NoRoomForExport => busy(K::ExportRoom),
            Self::Busy => busy(K::WriteRoom),
            Self::NotReady(_) => not_ready,
            Self::Store(error) | Self::NotDeleted(error) => match error {
                StoreError::Starting | StoreError::Closed => not_ready,
                StoreError::Busy => busy(K::WriteRoom),
                StoreError::Full => kept_out(S::INSUFFICIENT_STORAGE, "full", "Disk full", K::DiskFull).retry(RETRY_LATER),
                StoreError::TooLarge => too_large,
                StoreError::PrefixTaken => wrong(S::CONFLICT, "prefix-taken", "Digest prefix taken"),
                StoreError::Failed => kept_out(S::SERVICE_UNAVAILABLE, "store-failed", "Store failed", K::StoreFailed).retry(RETRY_LATER),
                StoreError::Damaged => wrong(S::INTERNAL_SERVER_ERROR, "damaged", "Message damaged"),
            },
        }
    }

    /// What the client is told. The texts of those that come in floods are made without the machinery for
    /// all others: to refuse is to be cheaper than to serve.
    pub(super) fn text(&self) -> Cow<'static, str> {
        match self {
            Self::Denied(denied) => denied.text(),
            other => other.to_string().into(),
        }
    }

    /// The field that belongs to this failure alone.
    pub(super) fn field(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Denied(denied) => Some((WWW_AUTHENTICATE, denied.challenge()?)),
            Self::MethodNotAllowed(methods) => Some((ALLOW, HeaderValue::from_static(methods))),
            Self::NoSuchRange { bytes } => {
                let range = HeaderValue::try_from(format!("bytes */{bytes}"));
                Some((CONTENT_RANGE, range.ok()?))
            }
            _ => None,
        }
    }

    /// Whether an operator has to know of it and nobody else has written it down.
    pub(super) fn is_of_operator(&self) -> bool {
        matches!(self, Self::Store(StoreError::Damaged))
    }
}

/// What a failure means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meaning {
    pub(super) status: StatusCode,
    /// How programs tell it from others (RFC 9457): a name in `x-problems` of the description of the
    /// interface, which never changes.
    pub(super) kind: &'static str,
    pub(super) title: &'static str,
    /// Why the request was refused, if nothing is wrong with it. It is counted then.
    pub(super) kept_out: Option<KeptOut>,
    /// When it may be over, in seconds.
    pub(super) retry_seconds: Option<u32>,
}

impl Meaning {
    /// The request cannot be answered as it wished, from any client at any time.
    fn wrong(status: StatusCode, kind: &'static str, title: &'static str) -> Self {
        Self {
            status,
            kind,
            title,
            kept_out: None,
            retry_seconds: None,
        }
    }

    /// Another client would be answered, or the same one at another time.
    fn kept_out(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        cause: KeptOut,
    ) -> Self {
        Self {
            kept_out: Some(cause),
            ..Self::wrong(status, kind, title)
        }
    }

    fn retry(self, seconds: u32) -> Self {
        Self {
            retry_seconds: Some(seconds),
            ..self
        }
    }
}
