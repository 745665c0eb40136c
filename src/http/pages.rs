//! Pages for people and the description of the interface for tools: files that are part of the
//! program.
//!
//! Each is named by its digest, kept by whoever has it, and asked about each time: after an update
//! nobody sees the old one. This room knows nothing of messages; a page fetches them like any other
//! client.
//!
//! **Invariant:** a page loads nothing from elsewhere, so it works without any other host, and runs
//! nothing but the scripts named here: there is no script in any HTML, the policy allows none, and
//! the scripts write text, never markup.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderValue};

use super::App;
use super::error::HttpError;
use super::messages::admit;
use super::negotiation::{Home, names_etag};
use super::response::{self, Response};
use crate::digest::Digest;

/// Path, type and content of each file; [`HOME`] has no path of its own.
const FILES: [(&str, &str, &str); 9] = [
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
    ("/pages/common.js", SCRIPT, include_str!("pages/common.js")),
    ("/pages/docs.js", SCRIPT, include_str!("pages/docs.js")),
    ("/pages/home.js", SCRIPT, include_str!("pages/home.js")),
    (
        "/pages/icon.svg",
        "image/svg+xml",
        include_str!("pages/icon.svg"),
    ),
    (
        "/pages/style.css",
        "text/css; charset=utf-8",
        include_str!("pages/style.css"),
    ),
];

const HOME: &str = "/";
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const HELP: &str = "\
digestd keeps messages and finds them by their SHA-256 digest. All of it: /docs, /openapi.yaml

  curl -H 'Content-Type: application/json' -d '{\"message\": \"foo\"}' http://localhost:8080/messages
  curl http://localhost:8080/messages/<digest>
";

/// All files, named by what is in them.
#[derive(Debug)]
pub(super) struct Pages(Vec<Page>);

/// A file.
#[derive(Debug)]
pub(super) struct Page {
    path: &'static str,
    pub(super) kind: HeaderValue,
    pub(super) etag: HeaderValue,
    pub(super) content: Bytes,
}

impl Pages {
    /// Hashes the files, once.
    pub(super) fn new() -> Self {
        let page = |(path, kind, content): (_, _, &'static str)| Page {
            path,
            kind: HeaderValue::from_static(kind),
            etag: response::page_etag(&Digest::of(content.as_bytes())),
            content: Bytes::from_static(content.as_bytes()),
        };
        Self(FILES.map(page).into())
    }
}

/// `GET /`
pub(super) fn home(app: &App, fields: &HeaderMap) -> Result<Response, HttpError> {
    let mut response = match Home::wanted(fields) {
        Home::Page => file(app, HOME, fields)?,
        Home::Figures => response::figures(&app.service.health(), app.service.stats()),
        Home::Help => response::plain(StatusCode::OK, HELP),
    };
    response::vary_by_accept(&mut response);
    Ok(response)
}

/// `GET` of a path that is that of a file.
pub(super) fn file(app: &App, path: &str, fields: &HeaderMap) -> Result<Response, HttpError> {
    let page = app.pages.0.iter().find(|page| page.path == path);
    let page = page.ok_or(HttpError::NoSuchPath)?;
    if names_etag(fields, &page.etag) {
        Ok(response::page_not_modified(page))
    } else {
        admit(app, response::page(page))
    }
}
