//! The table of resources: what a path names, and all that follows from that alone.
//!
//! A path is taken as it was sent: nothing is decoded, so every resource has one spelling. It is parsed
//! once; the methods, the scope that a token must have, the name for logs and metrics, and what a listener
//! serves are read from here.
//!
//! **Invariant:** a path that is not listed needs a token wherever tokens are asked for.

use http::Method;

use super::address;
use crate::access::tokens::Scope;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource<'a> {
    Messages,
    /// By its digest, or by another of its names; see [`address`].
    Message(&'a str),
    Lookup,
    /// By the name that follows `/.well-known/ni/sha-256/`.
    Name(&'a str),
    Live,
    Ready,
    ReadyToWrite,
    Metrics,
    Home,
    Docs,
    Description,
    File,
    /// Nothing is there.
    None,
}

impl<'a> Resource<'a> {
    pub(super) fn parse(path: &'a str) -> Self {
        match path {
            "/messages" | "/messages/" => Self::Messages,
            "/messages/lookup" => Self::Lookup,
            "/livez" => Self::Live,
            "/readyz" | "/healthz" => Self::Ready,
            "/readyz/write" => Self::ReadyToWrite,
            "/metrics" => Self::Metrics,
            "/" => Self::Home,
            "/docs" => Self::Docs,
            "/openapi.json" | "/openapi.yaml" => Self::Description,
            _ if path.starts_with("/pages/") => Self::File,
            _ => path
                .strip_prefix("/messages/")
                .map(Self::Message)
                .or_else(|| Some(Self::Name(path.strip_prefix("/.well-known/ni/sha-256/")?)))
                .unwrap_or(Self::None),
        }
    }

    /// Its name in logs and metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Messages => "/messages",
            Self::Message(_) => "/messages/{digest}",
            Self::Lookup => "/messages/lookup",
            Self::Name(_) => "/.well-known/ni/sha-256/{digest}",
            Self::Live => "/livez",
            Self::Ready => "/readyz",
            Self::ReadyToWrite => "/readyz/write",
            Self::Metrics => "/metrics",
            Self::Home => "/",
            Self::Docs => "/docs",
            Self::Description => "/openapi.{format}",
            Self::File => "/pages/{name}",
            Self::None => "none",
        }
    }

    /// The methods it has, as `Allow` lists them.
    pub(super) fn methods(self, exports: bool) -> &'static str {
        match self {
            Self::Messages if !exports => "POST",
            Self::Messages | Self::Home => "GET, HEAD, POST",
            Self::Message(name) if !address::is_alias(name) => "GET, HEAD, PUT, DELETE",
            Self::Message(_) | Self::Name(_) => "GET, HEAD, DELETE",
            Self::Lookup => "POST",
            Self::Live
            | Self::Ready
            | Self::ReadyToWrite
            | Self::Metrics
            | Self::Docs
            | Self::Description
            | Self::File => "GET, HEAD",
            Self::None => "",
        }
    }

    /// What a token must allow for a request with this method; `None` if it needs none.
    pub(super) fn scope(self, method: &Method) -> Option<Scope> {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        match self {
            // How the service is, and how to use it.
            Self::Live | Self::Ready | Self::ReadyToWrite => None,
            Self::Home | Self::Docs | Self::Description | Self::File if is_read => None,
            Self::Metrics => Some(Scope::Metrics),
            Self::Messages if is_read => Some(Scope::Export),
            // Its body names digests, which have no room in a path.
            Self::Lookup if *method == Method::POST => Some(Scope::Read),
            Self::Message(_) | Self::Name(_) if *method == Method::DELETE => Some(Scope::Delete),
            _ if is_read => Some(Scope::Read),
            _ => Some(Scope::Write),
        }
    }

    /// Whether no rate applies: those who watch over the service ask seldom, and any other answer than how
    /// it is would be a false alarm.
    pub(super) fn is_unlimited(self) -> bool {
        matches!(self, Self::Live | Self::Ready | Self::ReadyToWrite)
    }

    /// Whether it is asked for by machines, every few seconds: its requests are logged at debug only, and
    /// an admin listener serves it.
    pub(super) fn is_quiet(self) -> bool {
        self.is_unlimited() || self == Self::Metrics
    }

    /// Whether a request waits while the store opens.
    pub(super) fn needs_store(self, method: &Method) -> bool {
        match self {
            Self::Messages | Self::Message(_) | Self::Lookup | Self::Name(_) => true,
            Self::Home => *method == Method::POST,
            _ => false,
        }
    }
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
        ] {
            let scope = Resource::parse(path).scope(&method);
            assert_eq!(scope, expected, "{method} {path}");
        }
    }
}
