//! Pages for people and the description of the interface for tools: files that are part of the
//! program.
//!
//! Each is named by its digest, cached by clients, and revalidated each time: after an update no
//! client shows the old one. This room knows nothing of messages; a page fetches them like any other
//! client.
//!
//! **Invariant:** a page loads nothing from elsewhere, so it works without any other host, and runs
//! nothing but the scripts named here: there is no script in any HTML, the policy allows none, and
//! the scripts write text, never markup. All addresses in it are relative to its own, so it works below any path.

use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderMap, HeaderValue, VARY};
use http::request::Parts;

use super::authorize::{may_see_figures, scopes_of_token};
use super::body::Response;
use super::error::HttpError;
use super::json;
use super::negotiation::{Form, Home, names_etag};
use super::public::PublicAddress;
use super::response;
use crate::access::Access;
use crate::access::tokens::Scope;
use crate::digest::Digest;
use crate::service::Service;

/// A part of a page: path, type and content.
macro_rules! part {
    ($name:literal, $kind:expr) => {
        (
            concat!("/pages/", $name),
            $kind,
            include_str!(concat!("pages/", $name)),
        )
    };
}

/// Path, type and content of each file; [`HOME`] has no path of its own.
const FILES: [(&str, &str, &str); 19] = [
    (HOME, HTML, include_str!("pages/home.html")),
    ("/docs", HTML, include_str!("pages/docs.html")),
    (
        "/openapi.json",
        "application/json",
        include_str!(concat!(env!("OUT_DIR"), "/openapi.json")),
    ),
    (
        "/openapi.yaml",
        "application/yaml",
        include_str!("openapi.yaml"),
    ),
    part!("access.js", SCRIPT),
    part!("common.js", SCRIPT),
    part!("docs.css", STYLE),
    part!("docs.js", SCRIPT),
    part!("examples.js", SCRIPT),
    part!("home.js", SCRIPT),
    part!("icon.svg", "image/svg+xml"),
    part!("look_up.js", SCRIPT),
    part!("recent.js", SCRIPT),
    part!("request.js", SCRIPT),
    part!("service.js", SCRIPT),
    part!("spec.js", SCRIPT),
    part!("store.js", SCRIPT),
    part!("style.css", STYLE),
    part!("token.js", SCRIPT),
];

const HOME: &str = "/";
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// What a page may do: use what comes from here, in files of its own; nothing else, in no frame, and
/// no text becomes markup.
const POLICY: &str = "default-src 'none'; connect-src 'self'; img-src 'self'; \
    script-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Where a token is asked for, to be filled in.
const TOKEN: &str = "-H \"Authorization: Bearer $TOKEN\" ";

/// How to use curl, with the places of the address and of tokens left open. The digest is that of `foo`.
const HELP: &str = "\
digestd keeps messages and finds them by their SHA-256 digest. All of it: URL/docs, URL/openapi.yaml

  curl WRITE-H 'Content-Type: application/json' -d '{\"message\": \"foo\"}' 'URL/messages'
  curl WRITE-H 'Content-Type: text/plain' --data-binary @FILE 'URL/messages'
  curl READ'URL/messages/2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae'
";

/// All files, named by what is in them.
#[derive(Debug)]
pub(super) struct Pages(Vec<PageFile>);

/// A file.
#[derive(Debug)]
struct PageFile {
    path: &'static str,
    kind: &'static str,
    etag: HeaderValue,
    content: Bytes,
}

impl Pages {
    /// Hashes the files, once.
    pub(super) fn new() -> Self {
        let page = |(path, kind, content): (_, _, &'static str)| PageFile {
            path,
            kind,
            // The digest of its content.
            etag: response::etag(&Digest::of(content.as_bytes()), Form::Text),
            content: Bytes::from_static(content.as_bytes()),
        };
        Self(FILES.map(page).into())
    }

    /// `GET` of a path that is that of a file.
    pub(super) fn file(&self, path: &str, fields: &HeaderMap) -> Result<Response, HttpError> {
        let page = self.0.iter().find(|page| page.path == path);
        let page = page.ok_or(HttpError::NoSuchPath)?;
        let mut response = if names_etag(fields, &page.etag) {
            response::empty(StatusCode::NOT_MODIFIED)
        } else {
            response::new(StatusCode::OK, page.kind, page.content.clone())
        };
        let fields = response.headers_mut();
        // Another version of the program has other pages.
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        fields.insert(ETAG, page.etag.clone());
        fields.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        Ok(response)
    }
}

/// What needs a token, of what the page and the help are about.
fn scopes_with_token(access: &Access) -> Vec<Scope> {
    let mut scopes = vec![Scope::Read, Scope::Write];
    scopes.retain(|scope| !access.allows(&[*scope], None));
    scopes
}

/// `GET /`; figures for those who may see them, state for everybody.
pub(super) fn home(
    pages: &Pages,
    service: &Service,
    access: &Access,
    public: &PublicAddress<'_>,
    head: &Parts,
) -> Result<Response, HttpError> {
    let fields = &head.headers;
    let mut response = match Home::wanted(fields) {
        // A base path by itself.
        Home::Page if !head.uri.path().ends_with('/') => response::with_slash(head.uri.query()),
        Home::Page => pages.file(HOME, fields)?,
        Home::Figures => {
            let may_see_figures = may_see_figures(access, fields);
            let stats = service.stats().filter(|_| may_see_figures);
            let needs_token = scopes_with_token(access);
            let token_allows = scopes_of_token(access, fields);
            let figures = json::figures(
                &service.health(),
                stats,
                &needs_token,
                token_allows.as_deref(),
            );
            response::new(StatusCode::OK, Form::Json.kind(), figures.into())
        }
        Home::Help => {
            let scopes = scopes_with_token(access);
            let token = |scope| if scopes.contains(&scope) { TOKEN } else { "" };
            let help = HELP
                .replace("curl WRITE", &format!("curl {}", token(Scope::Write)))
                .replace("curl READ", &format!("curl {}", token(Scope::Read)))
                .replace("URL", &public.url(access, head));
            response::plain(StatusCode::OK, help)
        }
    };
    let fields = response.headers_mut();
    fields.insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}
