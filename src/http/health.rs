//! Is it alive, is it ready: paths for probes, which touch no disk. And a few lines for a person who
//! knocks at `/`.

use hyper::StatusCode;

use super::App;
use super::error::HttpError;
use super::response::{self, Response};

const HELP: &str = "\
digestd keeps messages and finds them by their SHA-256 digest.

  curl -H 'Content-Type: application/json' -d '{\"message\": \"foo\"}' http://localhost:8080/messages
  curl http://localhost:8080/messages/<digest>
";

/// `GET /`
pub(super) fn help() -> Response {
    response::plain(StatusCode::OK, HELP)
}

/// `GET /livez`: the process turns over.
pub(super) fn live() -> Response {
    response::plain(StatusCode::OK, "ok\n")
}

/// `GET /readyz`: messages are served.
pub(super) fn ready(app: &App) -> Result<Response, HttpError> {
    app.service
        .health()
        .reads
        .map_or_else(|reason| Err(HttpError::NotReady(reason)), |()| Ok(live()))
}

/// `GET /readyz/write`: new messages are taken as well.
pub(super) fn ready_to_write(app: &App) -> Result<Response, HttpError> {
    let health = app.service.health();
    health
        .reads
        .and(health.writes)
        .map_or_else(|reason| Err(HttpError::NotReady(reason)), |()| Ok(live()))
}
