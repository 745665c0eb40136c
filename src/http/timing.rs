//! Server-Timing (W3C): how long the parts of an answer took, in milliseconds, for whoever asks why it
//! took so long. Off unless it was turned on: it tells strangers whether a message was known.

use std::fmt::Write;
use std::time::{Duration, Instant};

use hyper::header::{HeaderName, HeaderValue};

use super::response::Response;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Durations so far; costs nothing while it is off.
#[derive(Debug)]
pub(super) struct Timing(Option<Durations>);

#[derive(Debug)]
struct Durations {
    last: Instant,
    value: String,
}

impl Timing {
    pub(super) fn begin(is_on: bool) -> Self {
        Self(is_on.then(|| Durations {
            last: Instant::now(),
            value: String::new(),
        }))
    }

    /// Names what was done since the last mark.
    pub(super) fn mark(&mut self, name: &str) {
        if let Some(durations) = &mut self.0 {
            let now = Instant::now();
            let duration = now - std::mem::replace(&mut durations.last, now);
            self.add(name, duration);
        }
    }

    /// Adds a duration that was measured elsewhere.
    pub(super) fn add(&mut self, name: &str, duration: Duration) {
        if let Some(Durations { value, .. }) = &mut self.0 {
            let comma = if value.is_empty() { "" } else { ", " };
            let milliseconds = duration.as_secs_f64() * 1e3;
            // Cannot fail: a string always takes more.
            let _ = write!(value, "{comma}{name};dur={milliseconds:.3}");
        }
    }

    pub(super) fn add_to(self, mut response: Response) -> Response {
        let value = self
            .0
            .map(|durations| HeaderValue::try_from(durations.value));
        if let Some(Ok(value)) = value {
            response.headers_mut().insert(SERVER_TIMING, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_listed_in_milliseconds() {
        let mut timing = Timing::begin(true);
        timing.add("hash", Duration::from_micros(12));
        timing.add("sync", Duration::from_secs(2));
        let response = timing.add_to(Response::default());
        assert_eq!(
            response.headers()[SERVER_TIMING],
            "hash;dur=0.012, sync;dur=2000.000"
        );
    }

    #[test]
    fn nothing_is_said_while_it_is_off() {
        let mut timing = Timing::begin(false);
        timing.mark("hash");
        timing.add("sync", Duration::from_secs(2));
        assert!(timing.add_to(Response::default()).headers().is_empty());
    }
}
