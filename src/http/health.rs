//! Is it alive, is it ready, how is it doing: paths for machines, which touch no disk; with `?verbose`,
//! why.

use http::header::RETRY_AFTER;
use http::request::Parts;
use http::{Request, StatusCode};

use super::app::{App, ConnectionInfo};
use super::authorize::{Locality, asks_for_health, may_see_figures};
use super::body::Response;
use super::error::{HttpError, RETRY_SOON};
use super::resource::Resource;
use super::response;
use crate::metrics::{CONTENT_TYPE, Figures};
use crate::service::Health;

impl App {
    /// Whether the connection of a request is to end without an answer: it may ask for health alone, and asks for
    /// something else.
    #[must_use]
    pub fn is_deaf_to<B>(&self, request: &Request<B>, info: &ConnectionInfo) -> bool {
        if info.locality != Locality::HereForHealth || self.access.admits(info.origin.address) {
            return false;
        }
        let resource = Resource::parse(self.base_path.strip(request.uri().path()));
        let query = request.uri().query();
        !asks_for_health(resource, request.method(), query, request.headers())
    }
}

/// `GET /livez`: the process turns over.
pub(super) fn live() -> Response {
    response::plain(StatusCode::OK, "ok\n")
}

/// What has to work for a probe to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// `GET /readyz`: messages are served.
    Reads,
    /// `GET /readyz/write`: new ones are taken as well.
    Writes,
}

/// Whether what has to work does; with `verbose` in the query, all checks line by line, and for those who may
/// see figures, what was found damaged.
pub(super) fn ready(app: &App, readiness: Readiness, head: &Parts) -> Result<Response, HttpError> {
    let health = app.service.health();
    let result = match readiness {
        Readiness::Reads => health.reads.clone(),
        Readiness::Writes => health.reads.clone().and(health.writes.clone()),
    };
    if is_verbose(head.uri.query()) {
        let findings = if may_see_figures(&app.access, &head.headers) {
            app.service.findings()
        } else {
            Vec::new()
        };
        let report = report(&health, &findings, result.is_ok());
        let mut response = response::plain(StatusCode::OK, report);
        if result.is_err() {
            // Without the form of an error: it is more than one sentence.
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            let fields = response.headers_mut();
            fields.insert(RETRY_AFTER, RETRY_SOON.into());
        }
        return Ok(response);
    }
    result.map(|()| live()).map_err(HttpError::NotReady)
}

/// `GET /metrics`
pub(super) fn metrics(app: &App) -> Response {
    let text = app.reporters.metrics.render(&Figures {
        store: app.service.stats(),
        health: app.service.health(),
        puts: app.service.puts(),
        deletions: app.service.deletions(),
        log_lines_dropped: app.reporters.logs.lines_dropped(),
        ended: app.ended(),
        limited_clients: app.access.limited_clients(),
    });
    response::new(StatusCode::OK, CONTENT_TYPE, text.into())
}

fn is_verbose(query: Option<&str>) -> bool {
    let mut parts = query.unwrap_or_default().split('&');
    parts.any(|part| part == "verbose" || part.starts_with("verbose="))
}

/// A line for each check, `+` passed and `-` failed, and one with `!` for each thing that was found
/// wrong and is no reason not to be ready.
fn report(health: &Health, findings: &[String], ready: bool) -> String {
    let checks = [("reads", &health.reads), ("writes", &health.writes)];
    let checks = checks.map(|(name, result)| match result {
        Ok(()) => format!("[+] {name}\n"),
        Err(reason) => format!("[-] {name}: {reason}\n"),
    });
    let findings = findings.iter().map(|finding| format!("[!] {finding}\n"));
    let verdict = if ready { "ready\n" } else { "not ready\n" };
    checks
        .into_iter()
        .chain(findings)
        .chain([verdict.to_owned()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_verbose_asks_for_the_checks() {
        for query in ["verbose", "verbose=1", "a&verbose", "verbose="] {
            assert!(is_verbose(Some(query)), "{query}");
        }
        for query in [None, Some(""), Some("verboser"), Some("a=verbose")] {
            assert!(!is_verbose(query), "{query:?}");
        }
    }
}
