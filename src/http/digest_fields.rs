//! Digest fields (RFC 9530): what a client says the digest of its body is, and what it wants to know
//! of ours.
//!
//! No content coding is taken or used here, so content and representation are the same bytes; only an
//! answer with a part of a message makes a difference. SHA-256 and SHA-512 are known, other algorithms
//! are ignored, as the RFC has it (section 2). A field that cannot be read is refused: a client that
//! wants to be sure must not believe that something was checked.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use sfv::{Dictionary, ListEntry, Parser};

use super::body::Response;
use crate::digest::{Digest, sha512};
use crate::service::offload;
use crate::text::skip_mark;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
const WANT_CONTENT_DIGEST: HeaderName = HeaderName::from_static("want-content-digest");
const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");

/// Longest text for which it is tried what else the client may have hashed, in bytes: five more
/// digests of it take a fraction of a millisecond.
const EXPLAINED_BYTES_MAX: usize = 64 << 10;

/// A field that states a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Content,
    Repr,
}

impl Field {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Content => "Content-Digest",
            Self::Repr => "Repr-Digest",
        }
    }
}

/// An algorithm of the IANA registry that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha512 => "sha-512",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn digest(self, content: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Digest::of(content).as_bytes().to_vec(),
            Self::Sha512 => sha512(content).to_vec(),
        }
    }

    /// A dictionary with this digest alone.
    fn member(self, digest: &[u8]) -> String {
        format!("{}=:{}:", self.name(), STANDARD.encode(digest))
    }
}

/// What a client states of its body.
#[derive(Debug, Default)]
pub(super) struct RequestDigests(Vec<Claim>);

#[derive(Debug)]
struct Claim {
    field: Field,
    algorithm: Algorithm,
    digest: Vec<u8>,
}

impl RequestDigests {
    /// Takes what `fields` state, be they those of the head or trailers.
    pub(super) fn read(&mut self, fields: &HeaderMap) -> Result<(), DigestFieldError> {
        for (field, name) in [(Field::Content, CONTENT_DIGEST), (Field::Repr, REPR_DIGEST)] {
            if !fields.contains_key(&name) {
                continue;
            }
            let unreadable = || DigestFieldError::Unreadable(field);
            let dictionary = dictionary(fields, &name).ok_or_else(unreadable)?;
            for algorithm in Algorithm::ALL {
                let Some(member) = dictionary.get(algorithm.name()) else {
                    continue;
                };
                let digest = byte_sequence(member)
                    .filter(|digest| digest.len() == algorithm.bytes())
                    .ok_or_else(unreadable)?
                    .to_vec();
                self.0.push(Claim {
                    field,
                    algorithm,
                    digest,
                });
            }
        }
        Ok(())
    }

    /// Whether nothing was stated that can be checked.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares what was stated with what `body` is. Costs a digest for each statement.
    pub(super) fn check(self, body: &[u8]) -> Result<(), DigestFieldError> {
        for claim in self.0 {
            let actual = claim.algorithm.digest(body);
            if actual != claim.digest {
                let is_stated = |other: &[u8]| claim.algorithm.digest(other) == claim.digest;
                let hint = explain(body, is_stated);
                return Err(DigestFieldError::Mismatch(Box::new(Disagreement {
                    claim,
                    actual,
                    hint,
                })));
            }
        }
        Ok(())
    }
}

/// What was stated cannot be read, or is not what the body is.
#[derive(Debug, thiserror::Error)]
pub(super) enum DigestFieldError {
    #[error("The {} field is not a dictionary of digests, like sha-256=:…:.", .0.name())]
    Unreadable(Field),
    #[error(transparent)]
    Mismatch(Box<Disagreement>),
}

/// A body that is not what was stated.
#[derive(Debug, thiserror::Error)]
pub(super) struct Disagreement {
    claim: Claim,
    actual: Vec<u8>,
    hint: Option<&'static str>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claim = &self.claim;
        write!(
            formatter,
            "The {} field says {}, but the body has {}; nothing was stored.{}",
            claim.field.name(),
            claim.algorithm.member(&claim.digest),
            claim.algorithm.member(&self.actual),
            self.hint.unwrap_or_default()
        )
    }
}

/// What the client hashed instead of `text`, if it is one of the usual things that happen to a text
/// on its way between two tools: a final newline too many or too few, other line ends.
pub(super) fn explain(text: &[u8], is_stated: impl Fn(&[u8]) -> bool) -> Option<&'static str> {
    if text.len() > EXPLAINED_BYTES_MAX {
        return None;
    }
    if is_stated(&[text, b"\n"].concat()) {
        return Some(" Your digest is that of the message with a newline at the end.");
    }
    if let Some(line) = text.strip_suffix(b"\n") {
        let line_without_return = line.strip_suffix(b"\r").unwrap_or(line);
        if is_stated(line) || is_stated(line_without_return) {
            return Some(" Your digest is that of the message without the newline at its end.");
        }
    }
    let unmarked = skip_mark(text);
    if unmarked.len() < text.len() && is_stated(unmarked) {
        return Some(" Your digest is that of the message without the byte order mark before it.");
    }
    if is_stated(&with_line_ends(text, b"\n")) {
        return Some(" Your digest is that of the message with LF instead of CRLF as line ends.");
    }
    if is_stated(&with_line_ends(text, b"\r\n")) {
        return Some(" Your digest is that of the message with CRLF instead of LF as line ends.");
    }
    None
}

/// `text` with every line end, be it LF or CRLF, replaced by `end`.
fn with_line_ends(text: &[u8], end: &[u8]) -> Vec<u8> {
    let mut lines: Vec<_> = text.split(|&byte| byte == b'\n').collect();
    // What is behind the last line end is not a line.
    if let Some((_, ended)) = lines.split_last_mut() {
        for line in ended {
            *line = line.strip_suffix(b"\r").unwrap_or(line);
        }
    }
    lines.join(end)
}

/// States the digest of a text that is named by it.
pub(super) fn add_address(fields: &mut HeaderMap, digest: &Digest) {
    insert(fields, REPR_DIGEST, Algorithm::Sha256, digest.as_bytes());
}

fn insert(fields: &mut HeaderMap, name: HeaderName, algorithm: Algorithm, digest: &[u8]) {
    if let Ok(value) = HeaderValue::try_from(algorithm.member(digest)) {
        fields.insert(name, value);
    }
}

/// Which digests of the answer a client wants.
#[derive(Debug)]
pub(super) struct WantedDigests {
    content: Option<Algorithm>,
    repr: Option<Algorithm>,
}

impl WantedDigests {
    /// Reads Want-Content-Digest and Want-Repr-Digest; `None` if neither is there, which is all that
    /// is looked for then. A wish that cannot be read is none.
    pub(super) fn of(fields: &HeaderMap) -> Option<Self> {
        // Every request passes here: comparing a few names is cheaper than hashing two.
        let is_wish = |name: &HeaderName| name == WANT_CONTENT_DIGEST || name == WANT_REPR_DIGEST;
        if !fields.keys().any(is_wish) {
            return None;
        }
        Some(Self {
            content: preferred(fields, &WANT_CONTENT_DIGEST),
            repr: preferred(fields, &WANT_REPR_DIGEST),
        })
    }

    /// Adds what is wanted to an answer that is there as a whole.
    pub(super) async fn add_to(self, response: &mut Response) {
        // It would be the digest of the 200 (RFC 9530, 3), whose body is not here, or of nothing.
        if matches!(
            response.status(),
            StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT
        ) {
            return;
        }
        let Some(body) = response.body().bytes().cloned() else {
            return;
        };
        // Of a part, the digest of the whole is there already or not known.
        let repr = self
            .repr
            .filter(|_| response.status() != StatusCode::PARTIAL_CONTENT);
        for (name, algorithm) in [(CONTENT_DIGEST, self.content), (REPR_DIGEST, repr)] {
            if let Some(algorithm) = algorithm {
                let body = body.clone();
                let digest = offload(body.len(), move || algorithm.digest(&body)).await;
                insert(response.headers_mut(), name, algorithm, &digest);
            }
        }
    }
}

/// The known algorithm with the highest weight above 0, SHA-256 among equals (RFC 9530, 4).
fn preferred(fields: &HeaderMap, name: &HeaderName) -> Option<Algorithm> {
    let dictionary = dictionary(fields, name)?;
    let weight = |algorithm: Algorithm| match dictionary.get(algorithm.name()) {
        Some(ListEntry::Item(item)) => item.bare_item.as_integer().map_or(0, i64::from),
        _ => 0,
    };
    let wanted = Algorithm::ALL
        .into_iter()
        .rev()
        .filter(|&algorithm| weight(algorithm) > 0);
    wanted.max_by_key(|&algorithm| weight(algorithm))
}

/// The dictionary (RFC 9651, 3.2) that all lines of a field make together.
fn dictionary(fields: &HeaderMap, name: &HeaderName) -> Option<Dictionary> {
    let lines: Vec<_> = fields
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    Parser::new(&lines.join(&b", "[..])).parse().ok()
}

fn byte_sequence(member: &ListEntry) -> Option<&[u8]> {
    match member {
        ListEntry::Item(item) => item.bare_item.as_byte_sequence(),
        ListEntry::InnerList(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(name: HeaderName, values: &[&str]) -> HeaderMap {
        let values = values
            .iter()
            .map(|value| HeaderValue::from_str(value).unwrap());
        std::iter::repeat(name).zip(values).collect()
    }

    fn check(values: &[&str], body: &[u8]) -> Result<(), DigestFieldError> {
        let mut stated = RequestDigests::default();
        stated.read(&fields(CONTENT_DIGEST, values))?;
        stated.check(body)
    }

    fn sha256(text: &[u8]) -> String {
        Algorithm::Sha256.member(&Algorithm::Sha256.digest(text))
    }

    #[test]
    fn the_published_digests_are_read_and_checked() {
        // RFC 9530, appendix D.
        let body = b"{\"hello\": \"world\"}\n";
        let sha256 = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
        let sha512 = "sha-512=:YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg==:";
        for values in [
            &[sha256][..],
            &[sha512],
            &[sha256, sha512],
            &["unixsum=30637, md5=:AAAA:", sha256],
        ] {
            check(values, body).unwrap();
            let refused = check(values, b"other").unwrap_err();
            assert!(
                matches!(refused, DigestFieldError::Mismatch(_)),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn only_known_algorithms_are_looked_at() {
        check(&["md5=:AAAA:, sha=:AAAA:;x=1"], b"").unwrap();
        check(&[""], b"").unwrap();
    }

    #[test]
    fn a_field_that_cannot_be_read_is_refused() {
        for value in [
            "sha-256",
            "sha-256=1",
            "sha-256=\"x\"",
            "sha-256=(:AAAA:)",
            "sha-256=:AAAA:",
            "sha-512=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
            "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "=",
            "\u{ff}",
        ] {
            let refused = check(&[value], b"").unwrap_err();
            assert!(
                matches!(refused, DigestFieldError::Unreadable(_)),
                "{value}"
            );
        }
    }

    #[test]
    fn both_digests_are_named() {
        let refused = check(&[&sha256(b"foo")], b"bar").unwrap_err().to_string();
        assert!(refused.contains(&sha256(b"foo")), "{refused}");
        assert!(refused.contains(&sha256(b"bar")), "{refused}");
        assert!(refused.ends_with("nothing was stored."), "{refused}");
    }

    #[test]
    fn the_usual_changes_to_a_text_are_recognised() {
        for (stated, body, hint) in [
            ("a\n", "a", "with a newline at the end"),
            ("a", "a\n", "without the newline at its end"),
            ("a", "a\r\n", "without the newline at its end"),
            ("a\nb\n", "a\r\nb\r\n", "LF instead of CRLF"),
            ("a\r\nb\r\n", "a\nb\n", "CRLF instead of LF"),
            ("a\r\n", "a\n", "CRLF instead of LF"),
            ("a", "\u{feff}a", "without the byte order mark"),
        ] {
            let refused = check(&[&sha256(stated.as_bytes())], body.as_bytes()).unwrap_err();
            assert!(refused.to_string().contains(hint), "{stated:?} {body:?}");
        }
    }

    #[test]
    fn changes_are_looked_for_up_to_the_limit_and_not_beyond() {
        for (bytes, is_explained) in [
            (EXPLAINED_BYTES_MAX, true),
            (EXPLAINED_BYTES_MAX + 1, false),
        ] {
            let body = vec![b'x'; bytes];
            let stated = sha256(&[&body[..], b"\n"].concat());
            let refused = check(&[&stated], &body).unwrap_err().to_string();
            assert_eq!(refused.contains("newline"), is_explained, "{bytes}");
        }
    }

    #[test]
    fn the_algorithm_that_is_liked_best_is_used() {
        for (value, algorithm) in [
            ("sha-256=1", Some(Algorithm::Sha256)),
            ("sha-512=3, sha-256=10, unixsum=0", Some(Algorithm::Sha256)),
            ("sha-512=10, sha-256=3", Some(Algorithm::Sha512)),
            ("sha-512=5, sha-256=5", Some(Algorithm::Sha256)),
            ("sha-512=1, sha-256=0", Some(Algorithm::Sha512)),
            ("sha-256=0", None),
            ("md5=10", None),
            ("sha-256=x", None),
            ("", None),
            ("?", None),
        ] {
            let fields = fields(WANT_REPR_DIGEST, &[value]);
            assert_eq!(
                WantedDigests::of(&fields).unwrap().repr,
                algorithm,
                "{value}"
            );
        }
        assert!(WantedDigests::of(&HeaderMap::new()).is_none());
    }
}
