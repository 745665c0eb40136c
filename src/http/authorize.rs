//! Who may make this request: the questions of [`access`](crate::access), asked of HTTP.
//!
//! Cheap questions come first, and a client that is not admitted learns nothing of tokens: the network, the
//! host that the request is for, the rate, the page that a browser makes the request for, and then the token,
//! which must allow what [`Resource::scope`] says. A program of this machine that asks for health, and for nothing
//! else, always passes: its health check is to fail for how the service is, not for whom.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use http::Method;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, ORIGIN, VIA};
use http::request::Parts;

use super::cors;
use super::fields::{
    FORWARDED, SEC_FETCH_SITE, X_DIGESTD_PAGE, X_FORWARDED_FOR, X_FORWARDED_HOST,
    X_FORWARDED_PREFIX, X_FORWARDED_PROTO,
};
use super::host::{HostError, RequestHost};
use super::public::{self, values};
use super::resource::Resource;
use crate::access::base_path::InvalidBasePath;
use crate::access::networks::Client;
use crate::access::origins::Page;
use crate::access::tokens::{Name, Scope};
use crate::access::{Access, Peer, Refusal, Unclear};

/// What asks for a token …
const CHALLENGE: &str = "Bearer realm=\"digestd\"";
/// … and for another one.
const OTHER_CHALLENGE: &str = "Bearer realm=\"digestd\", error=\"invalid_token\"";

/// What proxies add, whether they are trusted or not.
const PASSED_ON: [HeaderName; 7] = [
    FORWARDED,
    VIA,
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PREFIX,
    X_FORWARDED_PROTO,
    HeaderName::from_static("x-real-ip"),
];

/// What helps where the host that a request names may not be the one that the browser asked.
const PROXY_ADVICE: &str = "A proxy in front has to pass on Host with its port, or to be named with \
    --trusted-proxy and send X-Forwarded-Host; ";

/// Figures are part of what `/metrics` says, and follow from what may be read.
const FIGURES_SCOPES: [Scope; 2] = [Scope::Metrics, Scope::Read];

/// Whether a program of this machine made a connection, for itself: it may always ask how the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locality {
    /// Another machine did, or a proxy that began the connection with whom it speaks for.
    Elsewhere,
    /// One of this machine did.
    Here,
    /// The same, of a network that is not allowed: it may ask for nothing else.
    HereForHealth,
}

/// Why a request is refused before anybody looks at what it wants.
#[derive(Debug, thiserror::Error)]
pub(super) enum Denied {
    #[error("It is not clear whose request this is: {0}.")]
    Unclear(#[from] Unclear),
    #[error("Your network is not let in.")]
    Network,
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(
        "The request is for the host {0}, which this service does not answer to; --host NAME makes it answer."
    )]
    OtherHost(Box<str>),
    #[error("{}", rate_text(*.0))]
    Rate(Duration),
    #[error(
        "A page of another site may not write here: the page is of {}, the request is for {}. {}--cors-origin \
         lists other sites.", .0.page, .0.host, if .0.is_certain { "" } else { PROXY_ADVICE }
    )]
    Site(Box<OtherSite>),
    #[error("The X-Forwarded-Prefix of a proxy cannot be used: {0}.")]
    Prefix(#[from] InvalidBasePath),
    #[error("{}", refusal_text(*.0))]
    Token(Refusal),
}

/// A page and the service, by their hosts, as far as they have any that can be shown.
#[derive(Debug)]
pub(super) struct OtherSite {
    page: String,
    host: String,
    /// The browser itself says that it is another site: the address that it asked is the public one.
    is_certain: bool,
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
pub(super) fn seconds(wait: Duration) -> u32 {
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
    let client = access.client(
        peer,
        || values(fields, FORWARDED),
        || values(fields, X_FORWARDED_FOR),
    );
    Ok(client?)
}

/// Whether a request for `resource` asks how the service is, in a word, and nobody says that it is passed on.
pub(super) fn asks_for_health(
    resource: Resource<'_>,
    method: &Method,
    query: Option<&str>,
    fields: &HeaderMap,
) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
        && resource.is_health()
        && query.is_none()
        && !PASSED_ON.iter().any(|name| fields.contains_key(name))
}

/// How a request came, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) peer: Peer,
    /// Where hosts are checked.
    pub(super) checks_hosts: bool,
    pub(super) locality: Locality,
}

/// Whether `client` may make a request with this head, if its token allows it; if it came where that is checked, for
/// this host.
pub(super) fn check(
    access: &Access,
    client: IpAddr,
    arrival: Arrival,
    resource: Resource<'_>,
    head: &Parts,
) -> Result<(), Denied> {
    let Arrival {
        peer,
        checks_hosts,
        locality,
    } = arrival;
    let (method, fields) = (&head.method, &head.headers);
    let is_always_allowed = locality != Locality::Elsewhere
        && asks_for_health(resource, method, head.uri.query(), fields);
    if !is_always_allowed && !access.admits_through(peer, client) {
        return Err(Denied::Network);
    }
    let host = RequestHost::of(head)?;
    let is_other = |host: &RequestHost<'_>| !access.answers_to(host.host);
    if checks_hosts && let Some(host) = host.filter(is_other) {
        return Err(Denied::OtherHost(host.named()));
    }
    let scope = resource.scope(method);
    if !resource.is_unlimited(method) {
        let is_write = matches!(scope, Some(Scope::Write | Scope::Delete));
        access
            .check_rate(Client::of(client), is_write)
            .map_err(Denied::Rate)?;
    }
    let is_for_any_page = access.sites.any_may_read() && cors::is_lookup(resource, method);
    if !is_safe(method) && !is_for_any_page {
        check_page(access, peer, head)?;
    }
    Ok(())
}

/// Whether the token of a request from `client`, if it needs one, allows what it asks for; and the name of that token,
/// if it is known.
pub(super) fn check_token(
    access: &Access,
    client: IpAddr,
    resource: Resource<'_>,
    head: &Parts,
) -> (Option<Name>, Result<(), Denied>) {
    let (method, fields) = (&head.method, &head.headers);
    match resource.scope(method) {
        Some(scope) if !cors::is_preflight(&access.sites, resource, method, fields) => {
            let (name, result) = access.authorize(client, scope, token(fields));
            (name, result.map_err(Denied::Token))
        }
        _ => (None, Ok(())),
    }
}

/// Whether a request that is for everybody is also told figures: how much is stored, and what was found damaged.
pub(super) fn may_see_figures(access: &Access, fields: &HeaderMap) -> bool {
    access.allows(&FIGURES_SCOPES, token(fields))
}

/// What a request with the token of this one may do; nothing where it has none.
pub(super) fn scopes_of_token(access: &Access, fields: &HeaderMap) -> Option<Vec<Scope>> {
    let token = token(fields)?;
    let mut scopes = Vec::from(Scope::ALL);
    scopes.retain(|scope| access.allows(&[*scope], Some(token)));
    Some(scopes)
}

/// Whether a method changes nothing (RFC 9110, 9.2.1).
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether the page that a request is made for, if there is one, may write.
fn check_page(access: &Access, peer: Peer, head: &Parts) -> Result<(), Denied> {
    // Of several, none is believed.
    let value = |name: &HeaderName| {
        let mut values = head.headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let value = values.next()?;
        Some(if values.next().is_none() { value } else { b"" })
    };
    let page = Page {
        origin: value(&ORIGIN),
        sec_fetch_site: value(&SEC_FETCH_SITE),
        is_own: head.headers.contains_key(X_DIGESTD_PAGE),
    };
    let hosts = || public::hosts(access, peer, head);
    if access.sites.may_write(page, hosts()) {
        return Ok(());
    }
    let of_page = page.origin.and_then(|origin| {
        let start = origin.windows(3).position(|bytes| bytes == b"://")?;
        public::shown(origin.get(start + 3..)?)
    });
    let hosts: Vec<_> = hosts()
        .filter_map(|host| public::shown(host.as_str().as_bytes()))
        .collect();
    let unnamed = || "a host without a name".to_owned();
    Err(Denied::Site(Box::new(OtherSite {
        is_certain: page.sec_fetch_site.is_some(),
        page: of_page.unwrap_or_else(unnamed),
        host: Some(hosts.join(" and "))
            .filter(|hosts| !hosts.is_empty())
            .unwrap_or_else(unnamed),
    })))
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
}
