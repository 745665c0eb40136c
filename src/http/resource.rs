//! The table of resources: what a path names, and all that follows from that alone.
//!
//! A path is taken as it was sent, so every resource has one spelling; only in the name of a message are
//! escapes decoded, since clients have to escape some of them. It is parsed once; the methods, the scope that a
//! token must have, the name for logs and metrics, and what a listener serves are read from here.
//!
//! **Invariant:** a path that is not listed needs a token wherever tokens are asked for.

use http::Method;

use super::address::{self, Name};
use crate::access::base_path::BasePath;
use crate::access::tokens::Scope;
use crate::digest::Digest;

/// How the paths begin that are of the service itself.
const FIRST_SEGMENTS: [&str; 10] = [
    ".well-known",
    "docs",
    "healthz",
    "livez",
    "messages",
    "metrics",
    "openapi.json",
    "openapi.yaml",
    "pages",
    "readyz",
];

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource<'a> {
    /// The service as a whole: `*`, which only OPTIONS may ask for (RFC 9110, 9.3.7).
    Service,
    Messages,
    /// By what follows `/messages/`.
    Message(Name),
    Lookup,
    Batch,
    /// By the name that follows `/.well-known/ni/sha-256/`; `None` if that is none.
    Name(Option<Digest>),
    Live,
    Ready,
    ReadyToWrite,
    Metrics,
    Home,
    Docs,
    /// By its path.
    Description(&'a str),
    /// By its path.
    File(&'a str),
    /// Nothing is there.
    None,
}

impl<'a> Resource<'a> {
    pub(super) fn parse(path: &'a str) -> Self {
        match path {
            "/messages" | "/messages/" => Self::Messages,
            "/messages/lookup" => Self::Lookup,
            "/messages/batch" => Self::Batch,
            "/livez" => Self::Live,
            "/readyz" | "/healthz" => Self::Ready,
            "/readyz/write" => Self::ReadyToWrite,
            "/metrics" => Self::Metrics,
            "/" => Self::Home,
            "*" => Self::Service,
            "/docs" => Self::Docs,
            "/openapi.json" | "/openapi.yaml" => Self::Description(path),
            _ if path.starts_with("/pages/") => Self::File(path),
            _ => {
                let message = path.strip_prefix("/messages/");
                let message = message.map(|name| Self::Message(Name::parse(name)));
                let name = || path.strip_prefix("/.well-known/ni/sha-256/");
                let name = || Some(Self::Name(address::well_known(name()?)));
                message.or_else(name).unwrap_or(Self::None)
            }
        }
    }

    /// Its name in logs and metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Service => "*",
            Self::Messages => "/messages",
            Self::Message(_) => "/messages/{digest}",
            Self::Lookup => "/messages/lookup",
            Self::Batch => "/messages/batch",
            Self::Name(_) => "/.well-known/ni/sha-256/{digest}",
            Self::Live => "/livez",
            Self::Ready => "/readyz",
            Self::ReadyToWrite => "/readyz/write",
            Self::Metrics => "/metrics",
            Self::Home => "/",
            Self::Docs => "/docs",
            Self::Description(_) => "/openapi.{format}",
            Self::File(_) => "/pages/{name}",
            Self::None => "none",
        }
    }

    /// The digest that it names.
    pub(super) fn digest(self) -> Option<Digest> {
        match self {
            Self::Message(name) => name.digest(),
            Self::Name(digest) => digest,
            _ => None,
        }
    }

    /// The methods it has, as `Allow` lists them; OPTIONS, which all have, besides.
    pub(super) fn methods(self, exports: bool) -> &'static str {
        match self {
            Self::Service => "GET, HEAD, POST, PUT, DELETE",
            Self::Messages if !exports => "POST",
            Self::Messages | Self::Home => "GET, HEAD, POST",
            Self::Message(name) if !name.is_alias() => "GET, HEAD, PUT, DELETE",
            Self::Message(_) | Self::Name(_) => "GET, HEAD, DELETE",
            Self::Lookup | Self::Batch => "POST",
            Self::Live
            | Self::Ready
            | Self::ReadyToWrite
            | Self::Metrics
            | Self::Docs
            | Self::Description(_)
            | Self::File(_) => "GET, HEAD",
            Self::None => "",
        }
    }

    /// What a token must allow for a request with this method; `None` if it needs none.
    pub(super) fn scope(self, method: &Method) -> Option<Scope> {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        match self {
            // Which methods a path has says nothing of what is stored.
            _ if *method == Method::OPTIONS && self != Self::None => None,
            // How the service is, and how to use it.
            Self::Live | Self::Ready | Self::ReadyToWrite => None,
            Self::Home | Self::Docs | Self::Description(_) | Self::File(_) if is_read => None,
            Self::Metrics => Some(Scope::Metrics),
            Self::Messages if is_read => Some(Scope::Export),
            // Its body names digests, which have no room in a path.
            Self::Lookup if *method == Method::POST => Some(Scope::Read),
            Self::Message(_) | Self::Name(_) if *method == Method::DELETE => Some(Scope::Delete),
            _ if is_read => Some(Scope::Read),
            _ => Some(Scope::Write),
        }
    }

    /// Whether no rate applies: those who watch over the service ask seldom, and any other answer than how it
    /// is would be a false alarm. Some of them ask for its methods, as balancers do unless told otherwise. Nor to
    /// the parts of a page, of which some dozen come at once and cost no more than a refusal: a page without one of
    /// them is dead.
    pub(super) fn is_unlimited(self, method: &Method) -> bool {
        let is_probe = matches!(self, Self::Home | Self::Service) && *method == Method::OPTIONS;
        self.is_health() || is_probe || matches!(self, Self::File(_))
    }

    /// Whether it says how the service is, in a word.
    pub(super) fn is_health(self) -> bool {
        matches!(self, Self::Live | Self::Ready | Self::ReadyToWrite)
    }

    /// Whether it is asked for by machines, every few seconds: its requests are logged at debug only, and
    /// an admin listener serves it.
    pub(super) fn is_quiet(self) -> bool {
        self.is_health() || matches!(self, Self::Metrics | Self::Service)
    }

    /// Whether a request waits while the store opens.
    pub(super) fn needs_store(self, method: &Method) -> bool {
        match self {
            _ if *method == Method::OPTIONS => false,
            Self::Messages | Self::Message(_) | Self::Lookup | Self::Batch | Self::Name(_) => true,
            Self::Home => *method == Method::POST,
            _ => false,
        }
    }
}

/// Whether the paths below `base_path` could be taken for paths of the service itself.
#[must_use]
pub fn is_own_path(base_path: &BasePath) -> bool {
    let first = base_path.as_str().split('/').nth(1);
    first.is_some_and(|first| FIRST_SEGMENTS.contains(&first))
}

/// What is served on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerRole {
    /// Everything.
    All,
    /// Everything but metrics.
    Public,
    /// Metrics and health.
    Admin,
}

impl ListenerRole {
    pub(super) fn serves(self, resource: Resource<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Public => resource != Resource::Metrics,
            Self::Admin => resource.is_quiet(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                assert_eq!(
                    Resource::parse(path).scope(&method),
                    None,
                    "{method} {path}"
                );
            }
        }
    }

    #[test]
    fn a_path_that_is_not_listed_needs_a_token() {
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
            (Method::GET, "*", Some(Scope::Read)),
            (Method::OPTIONS, "/new", Some(Scope::Write)),
        ] {
            let scope = Resource::parse(path).scope(&method);
            assert_eq!(scope, expected, "{method} {path}");
        }
    }

    #[test]
    fn which_methods_a_path_has_is_for_everybody_and_the_store_is_not_asked() {
        for path in [
            "*",
            "/",
            "/messages",
            "/messages/",
            "/messages/x",
            "/messages/lookup",
            "/.well-known/ni/sha-256/x",
            "/metrics",
            "/livez",
            "/docs",
            "/pages/x",
        ] {
            let resource = Resource::parse(path);
            assert_eq!(resource.scope(&Method::OPTIONS), None, "{path}");
            assert!(!resource.needs_store(&Method::OPTIONS), "{path}");
            let is_unlimited = matches!(path, "*" | "/" | "/livez" | "/pages/x");
            assert_eq!(
                resource.is_unlimited(&Method::OPTIONS),
                is_unlimited,
                "{path}"
            );
        }
        assert!(!Resource::Home.is_unlimited(&Method::GET));
        assert!(!Resource::Home.is_unlimited(&Method::POST));
    }

    #[test]
    fn a_base_path_that_begins_like_a_path_of_the_service_is_told_apart() {
        for segment in FIRST_SEGMENTS {
            for path in [format!("/{segment}"), format!("/{segment}/x")] {
                assert!(is_own_path(&path.parse().unwrap()), "{path}");
            }
            // There is a path that begins so.
            let below = ["", "/", "/x", "/ni/sha-256/x"].map(|rest| format!("/{segment}{rest}"));
            let mut below = below.iter().map(|path| Resource::parse(path));
            assert!(
                below.any(|resource| resource != Resource::None),
                "{segment}"
            );
        }
        for path in [
            "",
            "/digestd",
            "/message",
            "/x/messages",
            "/messages.example",
        ] {
            assert!(!is_own_path(&path.parse().unwrap()), "{path}");
        }
    }
}
