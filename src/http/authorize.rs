//! Who may make this request: the questions of [`access`](crate::access), asked of HTTP.
//!
//! Cheap questions come first, and whoever is not let in learns nothing of tokens: the network, the
//! rate, the page that a browser makes the request for, and then the token, which must allow what
//! [`scope`] says. What nobody thought of needs one too: a route that is missing there is closed.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode, Uri};

use super::cors;
use crate::access::origins::Page;
use crate::access::tokens::Scope;
use crate::access::{Access, Peer, Refusal, Unclear};

const FORWARDED: &str = "forwarded";
const X_FORWARDED_FOR: &str = "x-forwarded-for";
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What asks for a token …
const CHALLENGE: &str = "Bearer realm=\"digestd\"";
/// … and for another one.
const OTHER_CHALLENGE: &str = "Bearer realm=\"digestd\", error=\"invalid_token\"";

/// Why a request is refused before anybody looks at what it wants.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error("It is not clear whose request this is: {0}.")]
    Unclear(#[from] Unclear),
    #[error("Your network is not let in.")]
    Network,
    #[error("{}", rate_text(*.0))]
    Rate(Duration),
    #[error("A page of another site may not write here.")]
    Site,
    #[error("{}", refusal_text(*.0))]
    Token(Refusal),
}

fn refusal_text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NoToken => "This needs a token: Authorization: Bearer <token>.",
        Refusal::UnknownToken => "The token is not known.",
        Refusal::Scope(_) => "The token does not allow this.",
        Refusal::Closed(_) => {
            "This needs a token of scope delete, and nobody has one: the service was started without --tokens."
        }
    }
}

fn rate_text(wait: Duration) -> String {
    let mut digits = itoa::Buffer::new();
    [
        "Too many requests; wait ",
        digits.format(seconds(wait)),
        " seconds.",
    ]
    .concat()
}

/// As many whole seconds as it takes, at least one.
fn seconds(wait: Duration) -> u32 {
    let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    u32::try_from(whole.max(1)).unwrap_or(u32::MAX)
}

impl Denied {
    /// The text of those that come in floods, without the machinery for all others: to refuse is to
    /// be cheaper than to serve.
    pub(super) fn text(&self) -> Cow<'static, str> {
        match self {
            Self::Rate(wait) => rate_text(*wait).into(),
            Self::Token(refusal) => refusal_text(*refusal).into(),
            other => other.to_string().into(),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unclear(_) => StatusCode::BAD_REQUEST,
            Self::Rate(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Token(Refusal::NoToken | Refusal::UnknownToken) => StatusCode::UNAUTHORIZED,
            Self::Network | Self::Site | Self::Token(Refusal::Scope(_) | Refusal::Closed(_)) => {
                StatusCode::FORBIDDEN
            }
        }
    }

    /// The name and the title of its type (RFC 9457).
    pub(super) fn problem(&self) -> (&'static str, &'static str) {
        match self {
            Self::Unclear(_) => ("unclear-client", "Unclear whose request it is"),
            Self::Network => ("network", "Network not let in"),
            Self::Rate(_) => ("rate", "Too many requests"),
            Self::Site => ("other-site", "Page of another site"),
            Self::Token(Refusal::NoToken) => ("no-token", "No token"),
            Self::Token(Refusal::UnknownToken) => ("unknown-token", "Unknown token"),
            Self::Token(Refusal::Scope(_)) => ("scope", "Token for other things"),
            Self::Token(Refusal::Closed(_)) => ("closed", "For nobody"),
        }
    }

    pub(super) fn retry_after_seconds(&self) -> Option<u32> {
        match self {
            Self::Rate(wait) => Some(seconds(*wait)),
            _ => None,
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750, 3).
    pub(super) fn challenge(&self) -> Option<HeaderValue> {
        let Self::Token(refusal) = self else {
            return None;
        };
        let scope = match refusal {
            Refusal::NoToken => return Some(HeaderValue::from_static(CHALLENGE)),
            Refusal::UnknownToken => return Some(HeaderValue::from_static(OTHER_CHALLENGE)),
            Refusal::Scope(scope) => scope.name(),
            Refusal::Closed(_) => return None,
        };
        let challenge = format!("{CHALLENGE}, error=\"insufficient_scope\", scope=\"{scope}\"");
        HeaderValue::try_from(challenge).ok()
    }
}

/// The client that makes a request which came from `peer`.
pub(super) fn client(access: &Access, peer: Peer, fields: &HeaderMap) -> Result<IpAddr, Denied> {
    let values = |name| fields.get_all(name).iter().map(HeaderValue::as_bytes);
    let client = access.client(peer, || values(FORWARDED), || values(X_FORWARDED_FOR));
    Ok(client?)
}

/// Whether `client` may make a request with this head.
pub(super) fn check(access: &Access, client: IpAddr, head: &Parts) -> Result<(), Denied> {
    let (method, target, fields) = (&head.method, &head.uri, &head.headers);
    let path = target.path();
    if !access.admits(client) {
        return Err(Denied::Network);
    }
    let scope = scope(method, path);
    if !is_probe(path) {
        let is_write = matches!(scope, Some(Scope::Write | Scope::Delete));
        access.check_rate(client, is_write).map_err(Denied::Rate)?;
    }
    if !is_safe(method)
        && !access
            .sites
            .may_write(page(fields), host(target, fields).as_ref())
    {
        return Err(Denied::Site);
    }
    match scope {
        Some(scope) if !cors::is_preflight(access, method, fields) => access
            .authorize(client, scope, token(fields))
            .map_err(Denied::Token),
        _ => Ok(()),
    }
}

/// What a token must allow for a request; `None` if it needs none.
fn scope(method: &Method, path: &str) -> Option<Scope> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    match path {
        // How the service is, and how to use it.
        "/" | "/docs" | "/openapi.json" | "/openapi.yaml" if is_read => None,
        _ if is_read && path.starts_with("/pages/") => None,
        _ if is_probe(path) => None,
        "/metrics" => Some(Scope::Metrics),
        "/messages" | "/messages/" if is_read => Some(Scope::Export),
        // Its body names digests, which have no room in a path.
        "/messages/lookup" if *method == Method::POST => Some(Scope::Read),
        _ if *method == Method::DELETE && names_message(path) => Some(Scope::Delete),
        _ if is_read => Some(Scope::Read),
        _ => Some(Scope::Write),
    }
}

fn names_message(path: &str) -> bool {
    let digest = path.strip_prefix("/messages/");
    digest.is_some_and(|digest| !digest.is_empty() && digest != "lookup")
        || path.starts_with("/.well-known/ni/sha-256/")
}

/// Paths for those who watch over the service: their requests are few, and to be told anything else
/// than how it is would be false alarm.
fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/readyz/write" | "/healthz")
}

/// Whether a method changes nothing (RFC 9110, 9.2.1).
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn page(fields: &HeaderMap) -> Page<'_> {
    let value = |name: &HeaderName| fields.get(name).map(HeaderValue::as_bytes);
    Page {
        origin: value(&ORIGIN),
        sec_fetch_site: value(&SEC_FETCH_SITE),
    }
}

/// The host that a request is for: that of an absolute target, or of its `Host`.
fn host(target: &Uri, fields: &HeaderMap) -> Option<Authority> {
    target.authority().cloned().or_else(|| {
        let host = fields.get(HOST)?;
        Authority::try_from(host.as_bytes()).ok()
    })
}

/// The token of a request (RFC 6750, 2.1). Something else in its place, or two of them, is a token
/// that nobody has.
fn token(fields: &HeaderMap) -> Option<&[u8]> {
    let mut values = fields.get_all(AUTHORIZATION).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return Some(b"");
    }
    let (scheme, token) = value.as_bytes().split_at_checked(7).unwrap_or_default();
    let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer ");
    Some(if is_bearer { token.trim_ascii() } else { b"" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(values: &[&'static str]) -> HeaderMap {
        let value = |value| (AUTHORIZATION, HeaderValue::from_static(value));
        values.iter().copied().map(value).collect()
    }

    #[test]
    fn a_token_is_a_bearer_s() {
        assert_eq!(token(&fields(&[])), None);
        for (value, expected) in [
            ("Bearer abc", "abc"),
            ("bearer abc", "abc"),
            ("BEARER   abc", "abc"),
            ("Bearer ", ""),
            ("Bearer", ""),
            ("Basic YTpi", ""),
            ("abc", ""),
            ("", ""),
        ] {
            assert_eq!(
                token(&fields(&[value])),
                Some(expected.as_bytes()),
                "{value}"
            );
        }
        let both = fields(&["Bearer a", "Bearer a"]);
        assert_eq!(token(&both), Some(&b""[..]));
    }

    #[test]
    fn a_wait_is_given_in_whole_seconds_that_are_enough() {
        for (milliseconds, expected) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_500, 60)] {
            assert_eq!(seconds(Duration::from_millis(milliseconds)), expected);
        }
    }

    #[test]
    fn how_the_service_is_and_how_to_use_it_is_for_everybody() {
        for path in [
            "/livez",
            "/readyz",
            "/readyz/write",
            "/healthz",
            "/",
            "/docs",
            "/openapi.json",
            "/openapi.yaml",
            "/pages/style.css",
        ] {
            for method in [Method::GET, Method::HEAD] {
                assert_eq!(scope(&method, path), None, "{method} {path}");
            }
        }
    }

    #[test]
    fn what_nobody_thought_of_needs_a_token() {
        for (method, path, expected) in [
            (Method::GET, "/new", Some(Scope::Read)),
            (Method::POST, "/new", Some(Scope::Write)),
            (Method::PATCH, "/messages", Some(Scope::Write)),
            (Method::DELETE, "/messages", Some(Scope::Write)),
            (Method::DELETE, "/messages/", Some(Scope::Write)),
            (Method::DELETE, "/messages/lookup", Some(Scope::Write)),
            (Method::DELETE, "/messages/x", Some(Scope::Delete)),
            (
                Method::DELETE,
                "/.well-known/ni/sha-256/x",
                Some(Scope::Delete),
            ),
            (Method::POST, "/", Some(Scope::Write)),
            (Method::POST, "/pages/x", Some(Scope::Write)),
            (Method::GET, "//", Some(Scope::Read)),
            (Method::GET, "/livez/", Some(Scope::Read)),
            (Method::GET, "", Some(Scope::Read)),
        ] {
            assert_eq!(scope(&method, path), expected, "{method} {path}");
        }
    }
}
