//! Sites: what a browser that looks at another one may do here.
//!
//! A browser sends requests for whatever page it looks at. Reading the answer is denied to foreign
//! pages by the browser itself, but writing would succeed before it comes to that. So a write that a
//! browser says it makes for another site is refused, unless that site is listed. Programs that are
//! not browsers say nothing of the sort, and are not meant.
//!
//! Where a proxy puts a name of its own into Host, the page's `Origin` is compared with the wrong name. So
//! what cannot be forged by a page comes first: what the browser itself says of the two
//! (`Sec-Fetch-Site`, which browsers send over HTTPS and to loopback), then a field that only pages of the
//! service send.

use std::str::FromStr;

use http::Uri;
use http::uri::Authority;

/// A site, as a browser names it in `Origin`: a scheme, a host, perhaps a port (RFC 6454, 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site(String);

impl Site {
    /// As a browser writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Site {
    type Err = InvalidSite;

    fn from_str(text: &str) -> Result<Self, InvalidSite> {
        let uri: Uri = text.parse().map_err(|_| InvalidSite)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(InvalidSite);
        };
        // Spelled exactly as a browser would: it is compared byte for byte.
        let is_default_port =
            default_port(scheme) == authority.port_u16() && authority.port().is_some();
        let canonical = format!("{scheme}://{authority}").to_ascii_lowercase();
        if canonical != text || authority.as_str().contains('@') || is_default_port {
            return Err(InvalidSite);
        }
        Ok(Self(canonical))
    }
}

/// What `--cors-origin` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SitePattern {
    /// `*`: every site, for reading without a token.
    Any,
    /// One site, for everything.
    Site(Site),
}

impl FromStr for SitePattern {
    type Err = InvalidSite;

    fn from_str(text: &str) -> Result<Self, InvalidSite> {
        match text {
            "*" => Ok(Self::Any),
            site => site.parse().map(Self::Site),
        }
    }
}

/// A text is not a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a site is written as browsers write it: scheme://host or scheme://host:port, in lower case, \
     without a path and without a port that goes without saying; or `*` for any, which may only read"
)]
pub struct InvalidSite;

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// What a request says about the page that it is made for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page<'a> {
    /// The value of `Origin`.
    pub origin: Option<&'a [u8]>,
    /// The value of `Sec-Fetch-Site`.
    pub sec_fetch_site: Option<&'a [u8]>,
    /// Whether it has the field that pages of the service add. A page of another site can add a field of
    /// its choice only after a preflight that allows it, and none allows this one.
    pub is_own: bool,
}

/// The sites whose pages may use the service.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    listed: Vec<Site>,
    any_reads: bool,
}

impl Sites {
    /// These.
    #[must_use]
    pub fn new(patterns: Vec<SitePattern>) -> Self {
        let mut sites = Self::default();
        for pattern in patterns {
            match pattern {
                SitePattern::Any => sites.any_reads = true,
                SitePattern::Site(site) => sites.listed.push(site),
            }
        }
        sites
    }

    /// Whether some are listed by name.
    #[must_use]
    pub fn are_listed(&self) -> bool {
        !self.listed.is_empty()
    }

    /// Whether pages of every site may read what needs no token.
    #[must_use]
    pub fn any_may_read(&self) -> bool {
        self.any_reads
    }

    /// Whether the site with this `Origin` is listed.
    #[must_use]
    pub fn list(&self, origin: &[u8]) -> bool {
        (self.listed.iter()).any(|site| site.0.as_bytes() == origin)
    }

    /// Whether a page may write here: pages of this service, those of the sites that are listed, and what
    /// is no page. `hosts` are the names under which the request was made; they are asked for only where
    /// nothing that is surer decides.
    #[must_use]
    pub fn may_write(&self, page: Page<'_>, hosts: impl IntoIterator<Item = Authority>) -> bool {
        if page.origin.is_some_and(|origin| self.list(origin)) {
            return true;
        }
        let relation = page.sec_fetch_site.map(Relation::of);
        match (relation, page.origin) {
            (Some(Relation::Same), _) => true,
            (Some(Relation::Cross), _) => false,
            _ if page.is_own => true,
            (_, Some(origin)) => hosts.into_iter().any(|host| names(origin, &host)),
            // A neighbour under the same domain, or what a later browser may call it.
            (Some(Relation::Other), None) => false,
            (None, None) => true,
        }
    }
}

/// What a browser says of a page and the service (Fetch Metadata, 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// The page is of this service, or a person made the request without any page.
    Same,
    Cross,
    /// `same-site`, which another host of the same domain is too.
    Other,
}

impl Relation {
    fn of(value: &[u8]) -> Self {
        let is = |name: &[u8]| value.eq_ignore_ascii_case(name);
        if is(b"same-origin") || is(b"none") {
            Self::Same
        } else if is(b"cross-site") {
            Self::Cross
        } else {
            Self::Other
        }
    }
}

/// Whether `origin` names `host`. Of the scheme it only matters which port goes without saying: a
/// proxy in front may have added TLS.
fn names(origin: &[u8], host: &Authority) -> bool {
    let Ok(origin) = Uri::try_from(origin) else {
        return false;
    };
    let (Some(scheme), Some(authority)) = (origin.scheme_str(), origin.authority()) else {
        return false;
    };
    let port = |authority: &Authority| authority.port_u16().or_else(|| default_port(scheme));
    authority.host().eq_ignore_ascii_case(host.host()) && port(authority) == port(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_write(listed: &[&str], page: Page<'_>) -> bool {
        let sites = Sites::new(listed.iter().map(|site| site.parse().unwrap()).collect());
        let host = "digests.example:8080".parse().unwrap();
        sites.may_write(page, Some(host))
    }

    fn origin(origin: &str) -> Page<'_> {
        Page {
            origin: Some(origin.as_bytes()),
            ..Page::default()
        }
    }

    fn fetch(site: &str) -> Page<'_> {
        Page {
            sec_fetch_site: Some(site.as_bytes()),
            ..Page::default()
        }
    }

    #[test]
    fn programs_that_are_no_browsers_may_write() {
        assert!(may_write(&[], Page::default()));
    }

    #[test]
    fn pages_of_this_host_may_write() {
        assert!(may_write(&[], origin("http://digests.example:8080")));
        assert!(may_write(&[], origin("https://DIGESTS.example:8080")));
        for site in ["same-origin", "none"] {
            assert!(may_write(&[], fetch(site)), "{site}");
        }
    }

    #[test]
    fn pages_of_other_hosts_may_not() {
        for other in [
            "http://evil.example",
            "http://evil.example:8080",
            "http://digests.example",
            "http://digests.example:8081",
            "http://www.digests.example:8080",
            "http://digests.example.evil.example:8080",
            "digests.example:8080",
            "null",
            "",
            "http://digests.example:8080, http://evil.example",
            "\u{fc}",
        ] {
            assert!(!may_write(&[], origin(other)), "{other}");
        }
        assert!(!may_write(&[], fetch("cross-site")));
        let both = Page {
            sec_fetch_site: Some(b"cross-site"),
            ..origin("http://digests.example:8080")
        };
        assert!(!may_write(&[], both));
    }

    #[test]
    fn what_the_browser_says_counts_more_than_the_names_of_hosts() {
        // A proxy that puts a name of its own into Host.
        for site in ["same-origin", "none", "Same-Origin"] {
            let page = Page {
                sec_fetch_site: Some(site.as_bytes()),
                ..origin("https://public.example")
            };
            assert!(may_write(&[], page), "{site}");
        }
        for site in ["cross-site", "CROSS-SITE"] {
            for is_own in [false, true] {
                let page = Page {
                    sec_fetch_site: Some(site.as_bytes()),
                    is_own,
                    ..origin("http://digests.example:8080")
                };
                assert!(!may_write(&[], page), "{site}");
            }
        }
    }

    #[test]
    fn a_neighbour_has_to_name_this_host() {
        for site in ["same-site", "", "new-word", "same-origin, cross-site"] {
            assert!(!may_write(&[], fetch(site)), "{site}");
            let of = |name| Page {
                sec_fetch_site: Some(site.as_bytes()),
                ..origin(name)
            };
            assert!(!may_write(&[], of("http://www.digests.example:8080")));
            assert!(!may_write(&[], of("null")));
            assert!(may_write(&[], of("http://digests.example:8080")), "{site}");
        }
    }

    #[test]
    fn the_field_of_the_own_pages_is_enough_where_the_browser_does_not_know_better() {
        for site in [None, Some("same-site")] {
            for origin in [None, Some("http://public.example"), Some("null")] {
                let page = Page {
                    origin: origin.map(str::as_bytes),
                    sec_fetch_site: site.map(str::as_bytes),
                    is_own: true,
                };
                assert!(may_write(&[], page), "{page:?}");
            }
        }
    }

    #[test]
    fn any_of_the_hosts_that_the_request_was_made_to_is_this_host() {
        let sites = Sites::default();
        let hosts = || ["127.0.0.1:8080", "public.example"].map(|host| host.parse().unwrap());
        for (site, expected) in [
            ("https://public.example", true),
            ("http://127.0.0.1:8080", true),
            ("http://127.0.0.1", false),
            ("https://www.public.example", false),
        ] {
            assert_eq!(sites.may_write(origin(site), hosts()), expected, "{site}");
        }
    }

    #[test]
    fn a_star_lets_nobody_write() {
        let listed = ["*", "https://app.example"];
        assert!(may_write(&listed, origin("https://app.example")));
        for page in [
            origin("https://other.example"),
            origin("*"),
            fetch("cross-site"),
        ] {
            assert!(!may_write(&listed, page), "{page:?}");
        }
        let sites = Sites::new(vec![SitePattern::Any]);
        assert!(sites.any_may_read() && !sites.are_listed() && !sites.list(b"*"));
    }

    #[test]
    fn pages_of_listed_sites_may() {
        let listed = ["https://app.example", "http://localhost:3000"];
        for site in listed {
            let page = Page {
                sec_fetch_site: Some(b"cross-site"),
                ..origin(site)
            };
            assert!(may_write(&listed, page), "{site}");
        }
        for other in [
            "https://app.example:444",
            "http://app.example",
            "http://localhost",
        ] {
            assert!(!may_write(&listed, origin(other)), "{other}");
        }
    }

    #[test]
    fn a_port_that_goes_without_saying_may_be_said() {
        let sites = Sites::default();
        for (host, site) in [
            ("a.example", "http://a.example"),
            ("a.example:80", "http://a.example"),
            ("a.example", "https://a.example"),
            ("a.example:443", "https://a.example"),
            ("[::1]:80", "http://[::1]"),
        ] {
            let host: Authority = host.parse().unwrap();
            let may_write = sites.may_write(origin(site), Some(host.clone()));
            assert!(may_write, "{host} {site}");
        }
        let host = "a.example:443".parse().unwrap();
        assert!(!sites.may_write(origin("http://a.example"), Some(host)));
        assert!(!sites.may_write(origin("http://a.example"), None));
    }

    #[test]
    fn a_site_is_written_as_a_browser_writes_it() {
        for text in [
            "http://a.example",
            "https://a.example:8443",
            "http://localhost:3000",
            "http://[::1]:3000",
            "moz-extension://0123",
        ] {
            assert_eq!(text.parse::<Site>().unwrap().as_str(), text);
        }
        for text in [
            "*",
            "null",
            "a.example",
            "http://",
            "http://a.example/",
            "http://a.example/path",
            "HTTP://a.example",
            "http://A.example",
            "http://a.example:80",
            "https://a.example:443",
            "http://user@a.example",
        ] {
            assert_eq!(text.parse::<Site>(), Err(InvalidSite), "{text}");
        }
    }
}
