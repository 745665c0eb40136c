//! The thread that erases what is due, beside everything else.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::segments::Erased;
use super::state::Shared;

/// Time between two looks for what is due: a text is gone from the disk about a second after its deletion
/// was answered, and a thousand deletions in a second cost one sync a segment.
const ERASE_INTERVAL: Duration = Duration::from_secs(1);

/// Time that a start erases before it serves, so that what a kill left is gone as a rule. The rest is erased
/// beside the service.
const START_TIME: Duration = Duration::from_secs(1);

/// Time that a store which is closed goes on erasing: less than any supervisor waits for a process. What is
/// due then is due again at the next start.
const CLOSE_TIME: Duration = Duration::from_secs(3);

/// The thread that erases.
pub(super) struct Eraser {
    shared: Arc<Shared>,
    /// The last try met a lack of something.
    is_stuck: bool,
}

impl Eraser {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            is_stuck: false,
        }
    }

    /// Erases what a start found.
    pub(super) fn begin(&mut self) {
        self.erase_for(START_TIME);
    }

    /// Erases everything that is due, once.
    pub(super) fn erase_all(&mut self) {
        self.erase_while(|| true);
    }

    /// Ends, after a last round, when nobody can say anything through `stop` any more.
    pub(super) fn run(mut self, stop: &Receiver<()>) {
        while stop.recv_timeout(ERASE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            self.erase_while(|| stop.try_recv() != Err(TryRecvError::Disconnected));
        }
        self.erase_for(CLOSE_TIME);
    }

    fn erase_for(&mut self, time: Duration) {
        let begun = Instant::now();
        self.erase_while(|| begun.elapsed() < time);
    }

    /// Erases what is due, segment by segment.
    fn erase_while(&mut self, go_on: impl Fn() -> bool) {
        let Shared { erasures, log, .. } = &*self.shared;
        let (mut next, mut all) = (0, Erased::default());
        while !self.shared.has_failed() && go_on() {
            let Some((segment, bodies)) = erasures.begin(next, self.shared.durable()) else {
                break;
            };
            let erased = log.erase(segment, &bodies);
            erasures.end(erased.is_ok());
            match erased {
                Ok(erased) => {
                    all.left_alone += erased.left_alone;
                    all.failure = erased.failure.or(all.failure);
                    if std::mem::take(&mut self.is_stuck) {
                        info!("deleted messages are erased again");
                    }
                    next = segment;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.is_stuck, true) {
                        warn!(%error, "cannot erase deleted messages; trying again");
                    }
                    next = segment + 1;
                }
            }
        }
        let left_alone = all.left_alone;
        if let Some(error) = all.failure {
            warn!(
                left_alone,
                %error,
                "deleted messages stay in the log until it is compacted: the disk did not erase them"
            );
        } else if left_alone > 0 {
            warn!(
                left_alone,
                "deleted messages stay in the log until it is compacted: their records are damaged, or in segments that a backup links to"
            );
        }
    }
}
