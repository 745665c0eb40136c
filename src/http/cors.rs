//! Pages of other sites: what a browser wants to be told before it lets them (Fetch standard, 3.2).
//!
//! Only for the sites that are listed; to everybody else nothing of this exists.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::{Method, StatusCode};

use super::body::Response;
use super::response;
use crate::access::Access;

/// Methods that any path has.
const METHODS: &str = "GET, HEAD, POST, PUT, DELETE";

/// Fields of a request that mean something here.
const REQUEST_FIELDS: &str = "accept, authorization, content-digest, content-type, if-none-match, \
                              repr-digest, want-content-digest, want-repr-digest, x-request-id";

/// Fields of an answer that a page may want to see.
const RESPONSE_FIELDS: &str = "content-digest, durability, etag, location, repr-digest, \
                               retry-after, www-authenticate, x-request-id";

/// Seconds for which a browser need not ask again; no browser believes more than a day.
const MAX_AGE_SECONDS: &str = "86400";

/// The origin of a request, if it is that of a listed site.
pub(super) fn listed_origin(access: &Access, fields: &HeaderMap) -> Option<HeaderValue> {
    if access.sites.are_none() {
        return None;
    }
    let origin = fields.get(ORIGIN)?;
    access.sites.list(origin.as_bytes()).then(|| origin.clone())
}

/// Whether a request only asks, for a listed site, what it may do. It carries no token (Fetch
/// standard, 4.8).
pub(super) fn is_preflight(access: &Access, method: &Method, fields: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && fields.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        && listed_origin(access, fields).is_some()
}

/// The answer to that.
pub(super) fn preflight() -> Response {
    let mut response = response::empty(StatusCode::NO_CONTENT);
    let fields = response.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_FIELDS),
        (ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Lets a page at `origin` see an answer.
pub(super) fn permit(fields: &mut HeaderMap, origin: HeaderValue) {
    fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let exposed = HeaderValue::from_static(RESPONSE_FIELDS);
    fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
}

/// Says that an answer depends on who asks: so it does for everybody once there are listed sites.
pub(super) fn vary(fields: &mut HeaderMap) {
    let value = match fields.get(VARY) {
        Some(value) if value == "accept" => "accept, origin",
        _ => "origin",
    };
    fields.insert(VARY, HeaderValue::from_static(value));
}
