//! The scrub: everything that is stored, read and checked while it is served, so slowly that nobody
//! notices.
//!
//! Damage is cheap to mend as long as somebody has the message, and nobody asks for most messages for
//! years. What is found is counted and a line in the log each; nothing is changed.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tracing::{error, info};

use super::verify::{self, Extent, Interrupted, Pace, Verified};
use crate::store::embedded::EmbeddedStore;
use crate::store::embedded::finding::Finding;

/// Bytes of the log that are read a second at most: about a hundredth of what a core hashes, and less
/// of what most disks give.
const BYTES_PER_SECOND: u64 = 16 << 20;

/// What is read between two pauses, in bytes: so little that nobody has to wait for it.
const STRIDE_BYTES: u64 = 1 << 20;

/// Scrubs `store` now, and again whenever `interval` has passed since, until `stop` says something or
/// nobody can say anything any more.
pub fn keep_scrubbing(store: &EmbeddedStore, interval: Duration, stop: &Receiver<()>) {
    let is_over = |pause| stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout);
    loop {
        let mut throttle = Throttle::default();
        let mut pace = |done, _| match throttle.pause(done) {
            Some(pause) if is_over(pause) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        match scrub(store, &mut pace) {
            Ok(done) => info!(
                records = done.records,
                findings = done.findings,
                "everything stored was read and checked"
            ),
            Err(Interrupted::Stopped) => return,
            Err(Interrupted::Log(error)) => {
                store.shared().note_integrity_failure();
                error!(%error, "the log cannot be read to its end");
            }
        }
        if is_over(interval) {
            return;
        }
    }
}

/// Reads and checks everything that was stored before, at this pace.
fn scrub(store: &EmbeddedStore, pace: Pace<'_>) -> Result<Verified, Interrupted> {
    let shared = store.shared();
    let extent = Extent {
        acked: shared.indexed().position,
        is_growing: true,
    };
    let mut findings = 0;
    let mut tell = |finding: &Finding| {
        findings += 1;
        shared.note_integrity_failure();
        // Its own text has the whole digest, which is not for logs.
        error!(
            what = finding.kind(),
            at = ?finding.at(),
            digest = ?finding.digest(),
            "the store is not as promised"
        );
    };
    let examined = verify::examine(&shared.log, Some(&shared.index), extent, pace, &mut tell)?;
    Ok(Verified {
        findings,
        ..examined
    })
}

/// Says when to pause, and how long.
#[derive(Debug, Default)]
struct Throttle {
    /// Where the last pause was.
    paused_at: u64,
}

impl Throttle {
    /// The pause that is due when everything up to `done` was read.
    fn pause(&mut self, done: u64) -> Option<Duration> {
        // It may start again from the front.
        let bytes = done.checked_sub(self.paused_at).unwrap_or(done);
        if bytes < STRIDE_BYTES && done >= self.paused_at {
            return None;
        }
        self.paused_at = done;
        Some(Duration::from_millis(bytes * 1000 / BYTES_PER_SECOND))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_megabyte_is_followed_by_a_sixteenth_of_a_second() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.pause(STRIDE_BYTES - 1), None);
        let pause = Duration::from_millis(62);
        assert_eq!(throttle.pause(STRIDE_BYTES), Some(pause));
        assert_eq!(throttle.pause(2 * STRIDE_BYTES - 1), None);
        assert_eq!(throttle.pause(2 * STRIDE_BYTES), Some(pause));
        let front = throttle.pause(0);
        assert_eq!(front, Some(Duration::ZERO));
        assert_eq!(throttle.pause(STRIDE_BYTES - 1), None);
    }
}
