//! Waiting for a server that says when to come again (429 and `Retry-After`), or whose connections break.
//!
//! **Invariant:** there are [`IN_A_ROW_MAX`] waits, and [`BREAKS_MAX`] breaks, at most between two steps forward.

use std::time::Duration;

use tokio::time::sleep;

/// Waits after which still nothing passes: others at this address take what there is.
const IN_A_ROW_MAX: u32 = 10;

/// Longest wait that is waited for: that of a rate of one an hour.
const WAIT_MAX: Duration = Duration::from_hours(1);

/// Connections that break in a row without an answer to any line: more are more than a restart.
const BREAKS_MAX: u32 = 20;

/// A server that is being restarted is back after a few of these.
const BREAK_PAUSE: Duration = Duration::from_secs(1);

/// Waits since the last step forward.
#[derive(Debug, Default)]
pub(super) struct Waits {
    in_a_row: u32,
}

impl Waits {
    /// Something passed.
    pub(super) fn begin_anew(&mut self) {
        self.in_a_row = 0;
    }

    /// Waits as long as the server said, in seconds. If that makes no sense or was done too often: `false`, at once.
    pub(super) async fn wait(&mut self, seconds: Option<u64>) -> bool {
        let wait = seconds.map(Duration::from_secs);
        let wait = wait.filter(|wait| *wait <= WAIT_MAX && self.in_a_row < IN_A_ROW_MAX);
        let Some(wait) = wait else {
            return false;
        };
        self.in_a_row += 1;
        sleep(wait).await;
        true
    }
}

/// Connections that broke since the last step forward.
#[derive(Debug, Default)]
pub(super) struct Breaks {
    in_a_row: u32,
}

impl Breaks {
    /// Something passed.
    pub(super) fn reset(&mut self) {
        self.in_a_row = 0;
    }

    /// Whether there are any.
    pub(super) fn is_any(&self) -> bool {
        self.in_a_row > 0
    }

    /// Counts one more, and waits before another connection is tried, unless it is the first. If there were too
    /// many: `false`, at once.
    pub(super) async fn wait(&mut self) -> bool {
        if self.in_a_row >= BREAKS_MAX {
            return false;
        }
        if self.is_any() {
            sleep(BREAK_PAUSE).await;
        }
        self.in_a_row += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_connections_may_break_in_a_row_and_no_more() {
        let started = tokio::time::Instant::now();
        let mut breaks = Breaks::default();
        assert!(!breaks.is_any() && breaks.wait().await && breaks.is_any());
        assert_eq!(started.elapsed(), Duration::ZERO);
        for _ in 1..BREAKS_MAX {
            assert!(breaks.wait().await);
        }
        assert_eq!(started.elapsed(), (BREAKS_MAX - 1) * BREAK_PAUSE);
        assert!(!breaks.wait().await);
        breaks.reset();
        assert!(breaks.wait().await);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_waits_in_a_row_are_waited_and_no_more() {
        let mut waits = Waits::default();
        for _ in 0..2 {
            for _ in 0..IN_A_ROW_MAX {
                assert!(waits.wait(Some(1)).await);
            }
            assert!(!waits.wait(Some(1)).await);
            waits.begin_anew();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_has_a_length_of_an_hour_at_most() {
        let mut waits = Waits::default();
        for (seconds, expected) in [
            (Some(3600), true),
            (Some(3601), false),
            (Some(u64::MAX), false),
            (None, false),
        ] {
            assert_eq!(waits.wait(seconds).await, expected, "{seconds:?}");
        }
    }
}
