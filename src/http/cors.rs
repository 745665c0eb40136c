//! Pages of other sites: what a browser wants to be told before it lets them (Fetch standard, 3.2).
//!
//! To sites that are listed by name everything is open, by their `Origin`. Where `*` is listed, pages of all
//! sites may read what needs no token: they are answered with a `*`, to which no browser adds what it knows of
//! its user, and to requests that read alone. To everybody else nothing of this exists.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::{Method, StatusCode};

use super::body::Response;
use super::fields::{ANSWER_FIELDS, REQUEST_FIELDS, Senders};
use super::resource::Resource;
use super::response;
use crate::access::origins::Sites;

/// Methods that any path has.
const METHODS: &str = "GET, HEAD, POST, PUT, DELETE";

/// Those of them that read …
const READING_METHODS: &str = "GET, HEAD";

/// … and the one that reads too, at a path of its own.
const LOOKUP_METHOD: &str = "POST";

/// Seconds for which a browser need not ask again; no browser believes more than a day.
const MAX_AGE_SECONDS: &str = "86400";

/// The lists of fields, as they stand in answers.
#[derive(Debug)]
pub(super) struct FieldLists {
    of_listed_sites: HeaderValue,
    of_any_site: HeaderValue,
    exposed: HeaderValue,
}

/// Who asks, if a browser is to be told something.
#[derive(Clone, Debug)]
enum Asker {
    /// A listed site, by its `Origin`.
    Listed(HeaderValue),
    /// Any other page, which may read.
    Reader,
}

impl FieldLists {
    pub(super) fn new() -> Self {
        let sent_by = |senders: &[Senders]| {
            let fields = REQUEST_FIELDS.iter();
            let fields = fields.filter(|(_, it)| senders.contains(it));
            list(fields.map(|(name, _)| *name))
        };
        Self {
            of_listed_sites: sent_by(&[Senders::AnySite, Senders::ListedSites]),
            of_any_site: sent_by(&[Senders::AnySite]),
            exposed: list(ANSWER_FIELDS),
        }
    }

    /// The answer to a request that only asks what a page may do; `None` if it is another one, or the page may
    /// do nothing.
    pub(super) fn preflight(
        &self,
        sites: &Sites,
        resource: Resource<'_>,
        method: &Method,
        fields: &HeaderMap,
    ) -> Option<Response> {
        let wanted = wanted_method(method, fields)?;
        let (methods, allowed) = match Asker::of(sites, resource, &wanted, fields)? {
            Asker::Listed(_) => (METHODS, &self.of_listed_sites),
            Asker::Reader if wanted == Method::POST => (LOOKUP_METHOD, &self.of_any_site),
            Asker::Reader => (READING_METHODS, &self.of_any_site),
        };
        let mut response = response::empty(StatusCode::NO_CONTENT);
        let fields = response.headers_mut();
        let fixed = HeaderValue::from_static;
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, fixed(methods)),
            (ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone()),
            (ACCESS_CONTROL_MAX_AGE, fixed(MAX_AGE_SECONDS)),
        ] {
            fields.insert(name, value);
        }
        Some(response)
    }

    /// Lets the page that a request is made for see the answer, if it may.
    pub(super) fn permit(
        &self,
        sites: &Sites,
        resource: Resource<'_>,
        method: &Method,
        request: &HeaderMap,
        answer: &mut HeaderMap,
    ) {
        if sites.are_listed() {
            vary(answer);
        }
        // A preflight is about another method than its own.
        let wanted = wanted_method(method, request);
        let method = wanted.as_ref().unwrap_or(method);
        let origin = match Asker::of(sites, resource, method, request) {
            Some(Asker::Listed(origin)) => origin,
            Some(Asker::Reader) => HeaderValue::from_static("*"),
            None => return,
        };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, self.exposed.clone());
    }
}

impl Asker {
    /// Who makes a request, or asks whether it may.
    fn of(
        sites: &Sites,
        resource: Resource<'_>,
        method: &Method,
        fields: &HeaderMap,
    ) -> Option<Self> {
        let origin = fields.get(ORIGIN).filter(|_| sites.are_listed());
        if let Some(origin) = origin.filter(|origin| sites.list(origin.as_bytes())) {
            return Some(Self::Listed(origin.clone()));
        }
        let reads = matches!(*method, Method::GET | Method::HEAD) || is_lookup(resource, method);
        // The same to everybody, so that caches need not tell them apart.
        (reads && sites.any_may_read()).then_some(Self::Reader)
    }
}

/// Whether a request only asks what a page may do, and the page may do something. It carries no token (Fetch
/// standard, 4.8).
pub(super) fn is_preflight(
    sites: &Sites,
    resource: Resource<'_>,
    method: &Method,
    fields: &HeaderMap,
) -> bool {
    let wanted = wanted_method(method, fields);
    wanted.is_some_and(|wanted| Asker::of(sites, resource, &wanted, fields).is_some())
}

/// The method of the request that a preflight is sent for; `None` if this is none.
fn wanted_method(method: &Method, fields: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS {
        return None;
    }
    let wanted = fields.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(wanted.as_bytes()).ok()
}

/// Whether a request only reads, though its method does not say so.
pub(super) fn is_lookup(resource: Resource<'_>, method: &Method) -> bool {
    resource == Resource::Lookup && *method == Method::POST
}

/// Says that an answer depends on who asks: so it does for everybody once there are listed sites.
fn vary(fields: &mut HeaderMap) {
    let value = match fields.get(VARY) {
        Some(value) if value == "accept" => "accept, origin",
        _ => "origin",
    };
    fields.insert(VARY, HeaderValue::from_static(value));
}

/// Names of fields, as a field lists them.
fn list(names: impl IntoIterator<Item = &'static str>) -> HeaderValue {
    let names: Vec<_> = names.into_iter().collect();
    // Names of fields are always a value, too.
    HeaderValue::try_from(names.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;

    use super::*;

    fn names(list: &HeaderValue) -> Vec<&str> {
        list.to_str().unwrap().split(", ").collect()
    }

    #[test]
    fn what_pages_may_send_and_see_is_read_from_the_table_of_fields() {
        let lists = FieldLists::new();
        assert_eq!(names(&lists.exposed), ANSWER_FIELDS);
        let listed = names(&lists.of_listed_sites);
        let any = names(&lists.of_any_site);
        for (name, senders) in REQUEST_FIELDS {
            assert_eq!(listed.contains(&name), senders != Senders::Nobody, "{name}");
            assert_eq!(any.contains(&name), senders == Senders::AnySite, "{name}");
            assert!(
                HeaderName::from_lowercase(name.as_bytes()).is_ok(),
                "{name}"
            );
        }
        assert!(REQUEST_FIELDS.is_sorted_by_key(|(name, _)| *name));
        assert!(ANSWER_FIELDS.is_sorted());
    }

    #[test]
    fn no_page_may_send_the_field_of_the_own_pages_or_of_a_proxy_and_only_listed_ones_a_token() {
        let lists = FieldLists::new();
        let all = [names(&lists.of_listed_sites), names(&lists.of_any_site)];
        for name in all.concat() {
            assert!(
                !name.contains("forwarded") && name != "x-digestd-page",
                "{name}"
            );
        }
        assert!(!names(&lists.of_any_site).contains(&"authorization"));
        assert!(names(&lists.of_listed_sites).contains(&"authorization"));
    }
}
