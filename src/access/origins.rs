//! Sites: what a browser that looks at another one may do here.
//!
//! A browser sends requests for whatever page it looks at. Reading the answer is denied to foreign
//! pages by the browser itself, but writing would succeed before it comes to that. So a write that a
//! browser says it makes for another site is refused, unless that site is listed. Programs that are
//! not browsers say nothing of the sort, and are not meant.

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

/// A text is not a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a site is written as browsers write it: scheme://host or scheme://host:port, in lower case, \
     without a path and without a port that goes without saying"
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
}

/// The sites that are listed.
#[derive(Clone, Debug, Default)]
pub struct Sites(Vec<Site>);

impl Sites {
    /// These.
    #[must_use]
    pub fn new(sites: Vec<Site>) -> Self {
        Self(sites)
    }

    /// Whether there is none.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the site with this `Origin` is listed.
    #[must_use]
    pub fn list(&self, origin: &[u8]) -> bool {
        self.0.iter().any(|site| site.0.as_bytes() == origin)
    }

    /// Whether a page may write here, at `host`: pages of this very host, those of the sites that are
    /// listed, and those that are not pages.
    #[must_use]
    pub fn may_write(&self, page: Page<'_>, host: Option<&Authority>) -> bool {
        if page.origin.is_some_and(|origin| self.list(origin)) {
            return true;
        }
        let is_foreign = |site: &[u8]| site.eq_ignore_ascii_case(b"cross-site");
        let is_here = |origin| host.is_some_and(|host| names(origin, host));
        !page.sec_fetch_site.is_some_and(is_foreign) && page.origin.is_none_or(is_here)
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
        sites.may_write(page, Some(&host))
    }

    fn origin(origin: &str) -> Page<'_> {
        Page {
            origin: Some(origin.as_bytes()),
            sec_fetch_site: None,
        }
    }

    fn fetch(site: &str) -> Page<'_> {
        Page {
            origin: None,
            sec_fetch_site: Some(site.as_bytes()),
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
            let host = host.parse().unwrap();
            assert!(sites.may_write(origin(site), Some(&host)), "{host} {site}");
        }
        let host = "a.example:443".parse().unwrap();
        assert!(!sites.may_write(origin("http://a.example"), Some(&host)));
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
