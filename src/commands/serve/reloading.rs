//! What is read again while it is served: the certificate with its key, tokens and lists of networks; and where the
//! log goes.
//!
//! It refuses to know what is in the files. **Invariant:** what could not be read is tried again every second until it
//! can, since what was wrong need not show in the file; until then, what was read before holds.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::signal::unix::Signal;
use tracing::{error, info, warn};

use super::noted::Noted;
use crate::access::Access;
use crate::commands::exposure::{Purpose, exposures};
use crate::logging::Logs;
use crate::metrics::{Metrics, Reload};
use crate::server::Tls;

/// Time between looks at the files of the certificate, at the clock, and at what could not be read.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time between two lines in the log about the same failure.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// What is read again.
pub(super) struct Reloading {
    pub(super) logs: Logs,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) access: Arc<Access>,
    pub(super) metrics: Arc<Metrics>,
    /// What others must not write, or not even read.
    pub(super) sensitive: Vec<(PathBuf, Purpose)>,
    pub(super) noted: Noted,
}

/// What could not be read the last time.
#[derive(Default)]
struct Failures {
    certificate: Failure,
    renewal: Failure,
    access: Failure,
}

/// A failure that goes on: what was said of it last, and when.
#[derive(Default)]
struct Failure(Option<(String, Instant)>);

impl Failure {
    fn lasts(&self) -> bool {
        self.0.is_some()
    }

    /// Notes one more try that failed at `now`; returns whether it is to be said.
    fn is_worth_a_line(&mut self, error: &str, now: Instant) -> bool {
        let is_said = |(text, at): &(String, Instant)| {
            text == error && now.saturating_duration_since(*at) < WARNING_INTERVAL
        };
        let is_due = !self.0.as_ref().is_some_and(is_said);
        if is_due {
            self.0 = Some((error.to_owned(), now));
        }
        is_due
    }

    fn is_over(&mut self) {
        self.0 = None;
    }
}

/// Reads the certificate again when it has changed, makes one of our own again when it is not valid any more, and on
/// SIGHUP reads everything again.
pub(super) async fn keep_fresh(mut hangups: Signal, reloading: Reloading) {
    let (reloading, failures) = (Arc::new(reloading), Arc::<Mutex<Failures>>::default());
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        let is_hangup = tokio::select! {
            _ = hangups.recv() => true,
            _ = ticks.tick() => false,
        };
        if !is_hangup
            && !reloading.has_to_look(&failures.lock().unwrap_or_else(PoisonError::into_inner))
        {
            continue;
        }
        let (reloading, failures) = (Arc::clone(&reloading), Arc::clone(&failures));
        let look = move || {
            let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
            reloading.look(is_hangup, &mut failures);
        };
        // A panic is in the log, and what was read before holds.
        let _ = tokio::task::spawn_blocking(look).await;
    }
}

impl Reloading {
    fn has_to_look(&self, failures: &Failures) -> bool {
        self.tls.is_some() || failures.access.lasts()
    }

    fn look(&self, is_hangup: bool, failures: &mut Failures) {
        if is_hangup {
            self.logs.reopen();
            info!("SIGHUP: opened the log file again");
        }
        let mut is_read = is_hangup;
        if is_hangup || failures.access.lasts() {
            is_read |= self.reload_access(&mut failures.access);
        }
        if let Some(tls) = &self.tls {
            if is_hangup || failures.certificate.lasts() || tls.has_changed() {
                is_read |= self.reload_certificate(tls, &mut failures.certificate);
            }
            self.renew(tls, &mut failures.renewal);
        }
        if is_read {
            warn_of_exposure(&self.sensitive);
        }
    }

    /// Reads tokens and lists again; returns whether they hold.
    fn reload_access(&self, failure: &mut Failure) -> bool {
        match self.access.reload() {
            Ok(()) => {
                failure.is_over();
                if self.access.has_files() {
                    info!("tokens and lists were read again, and hold");
                }
                true
            }
            Err(error) => {
                self.metrics.fail_reload(Reload::Access);
                if failure.is_worth_a_line(&error.to_string(), Instant::now()) {
                    error!(%error, "tokens and lists stay as they were; trying again every second");
                }
                false
            }
        }
    }

    /// Reads the certificate again; returns whether it is used.
    fn reload_certificate(&self, tls: &Tls, failure: &mut Failure) -> bool {
        match tls.reload() {
            Ok(()) => {
                failure.is_over();
                self.noted.write();
                true
            }
            Err(error) => {
                self.metrics.fail_reload(Reload::Certificate);
                if failure.is_worth_a_line(&error.to_string(), Instant::now()) {
                    warn!(%error, "the TLS certificate stays the one it was; trying again every second");
                }
                false
            }
        }
    }

    /// Makes a certificate of our own again if it is of no use any more.
    fn renew(&self, tls: &Tls, failure: &mut Failure) {
        match tls.renew(SystemTime::now()) {
            Ok(is_made) => {
                failure.is_over();
                if is_made {
                    self.noted.write();
                }
            }
            Err(error) => {
                self.metrics.fail_reload(Reload::Certificate);
                if failure.is_worth_a_line(&error.to_string(), Instant::now()) {
                    warn!(%error, "the TLS certificate is not valid now, or not for this machine, and cannot be made \
                                   again; trying again every second");
                }
            }
        }
    }
}

pub(super) fn warn_of_exposure(files: &[(PathBuf, Purpose)]) {
    let all = files
        .iter()
        .flat_map(|(path, purpose)| exposures(path, *purpose));
    all.for_each(|exposure| warn!("{exposure}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_goes_on_is_said_now_and_then_and_another_one_at_once() {
        let mut failure = Failure::default();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert!(!failure.lasts());
        for (after, error, is_said) in [
            (Duration::ZERO, "no such file", true),
            (second, "no such file", false),
            (2 * second, "not a key", true),
            (3 * second, "not a key", false),
            (2 * second + WARNING_INTERVAL, "not a key", true),
            (3 * second + WARNING_INTERVAL, "not a key", false),
        ] {
            let found = failure.is_worth_a_line(error, start + after);
            assert_eq!(found, is_said, "{after:?} {error}");
            assert!(failure.lasts());
        }
        failure.is_over();
        assert!(!failure.lasts());
        assert!(failure.is_worth_a_line("not a key", start + WARNING_INTERVAL));
    }
}
