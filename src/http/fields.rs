//! The one table of fields: those of a request that mean something here, those of an answer that tell something,
//! and which of them pages of other sites may send and see. What `cors` tells browsers is read from here.

use http::header::HeaderName;

pub(super) const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
pub(super) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
pub(super) const X_DIGESTD_PAGE: HeaderName = HeaderName::from_static("x-digestd-page");
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whose pages may send a field of a request, after they have asked (Fetch standard, 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Senders {
    /// Those of any site that may use the service at all.
    AnySite,
    /// Those of listed sites: it says who somebody is.
    ListedSites,
    /// It belongs to the pages of the service, to proxies, or to the browser itself.
    Nobody,
}

/// The fields of requests that mean something here, and the companions of `traceparent`.
#[rustfmt::skip]
pub(super) const REQUEST_FIELDS: [(&str, Senders); 30] = {
    use Senders::{AnySite, ListedSites, Nobody};
    [
        ("accept", AnySite),
        ("access-control-request-headers", Nobody),
        ("access-control-request-method", Nobody),
        ("authorization", ListedSites),
        ("baggage", AnySite),
        ("connection", Nobody),
        ("content-digest", AnySite),
        ("content-encoding", AnySite),
        ("content-length", Nobody),
        ("content-type", AnySite),
        ("expect", Nobody),
        ("forwarded", Nobody),
        ("host", Nobody),
        ("if-none-match", AnySite),
        ("if-range", AnySite),
        ("origin", Nobody),
        ("range", AnySite),
        ("repr-digest", AnySite),
        ("sec-fetch-site", Nobody),
        ("traceparent", AnySite),
        ("tracestate", AnySite),
        ("transfer-encoding", Nobody),
        ("want-content-digest", AnySite),
        ("want-repr-digest", AnySite),
        ("x-digestd-page", Nobody),
        ("x-forwarded-for", Nobody),
        ("x-forwarded-host", Nobody),
        ("x-forwarded-prefix", Nobody),
        ("x-forwarded-proto", Nobody),
        ("x-request-id", AnySite),
    ]
};

/// The fields of answers that tell a page something, and that it does not see unless it is told that it may.
pub(super) const ANSWER_FIELDS: [&str; 12] = [
    "accept-ranges",
    "allow",
    "content-digest",
    "content-location",
    "content-range",
    "durability",
    "etag",
    "location",
    "repr-digest",
    "retry-after",
    "www-authenticate",
    "x-request-id",
];
