//! The erasures: bodies of deleted messages that are still in the log, and the thread that turns them into
//! zeros beside everything else.
//!
//! It does not know why a body is to go, only which record is the reason: a deletion, or a later record of
//! the same message. The reason must be durable first, or a power cut could take both.
//!
//! **Invariants:** an erasure is due until its body is erased or was given up, and given up is only what
//! the disk or a backup keeps from being erased; a checkpoint passes no reason whose erasure is due.
//! Neither has to wait for a disk that is slow: groups, checkpoints and syncs go on meanwhile.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::embedded::Shared;
use super::log::{Erased, Place, Position};
use crate::digest::Digest;

/// Time between two looks for what is due: a text is gone from the disk about a second after its deletion
/// was answered, and a thousand deletions in a second cost one sync a segment.
const ERASE_INTERVAL: Duration = Duration::from_secs(1);

/// Erasures that may be due before deletions are refused: 64 MB. A disk that erases a hundred segments a
/// second needs hours for so many if each is in another.
pub(super) const DUE_MAX: usize = 1 << 20;

/// Bodies that are erased in one go, and synced once: some hundredths of a second on a good disk, so that a
/// stop waits for little.
const BATCH_MAX: usize = 1000;

/// Time that a start erases before it serves, so that what a kill left is gone as a rule. The rest is erased
/// beside the service.
const START_TIME: Duration = Duration::from_secs(1);

/// Time that a store which is closed goes on erasing: less than any supervisor waits for a process. What is
/// due then is due again at the next start.
const CLOSE_TIME: Duration = Duration::from_secs(3);

/// The body of a record that is due to be erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Erasure {
    pub(super) digest: Digest,
    /// The record.
    pub(super) place: Place,
    /// The record that makes it dispensable, which must be durable before.
    pub(super) reason: Position,
}

/// What is due.
#[derive(Debug)]
pub(super) struct Erasures(Mutex<Due>);

#[derive(Debug, Default)]
struct Due {
    /// By the segment of the body.
    segments: BTreeMap<u32, Vec<Erasure>>,
    count: usize,
    /// Those that are being erased: due all the same.
    under_way: Vec<Erasure>,
}

impl Due {
    fn add(&mut self, erasures: Vec<Erasure>) {
        self.count += erasures.len();
        for erasure in erasures {
            let segment = erasure.place.at.segment;
            self.segments.entry(segment).or_default().push(erasure);
        }
    }
}

impl Erasures {
    pub(super) fn new(due: Vec<Erasure>) -> Self {
        let erasures = Self(Mutex::default());
        erasures.add(due);
        erasures
    }

    pub(super) fn add(&self, erasures: Vec<Erasure>) {
        if !erasures.is_empty() {
            self.lock().add(erasures);
        }
    }

    /// Whether more may be added.
    pub(super) fn have_room(&self) -> bool {
        self.lock().count < DUE_MAX
    }

    /// Whether everything is erased whose reason is before `end`.
    pub(super) fn are_done_before(&self, end: Position) -> bool {
        let due = self.lock();
        let mut all = due.segments.values().flatten().chain(&due.under_way);
        all.all(|erasure| erasure.reason >= end)
    }

    /// Begins with some of one segment, the first from `segment` on, whose reasons are before `durable`.
    fn begin(&self, segment: u32, durable: Position) -> Option<(u32, Vec<(Digest, Place)>)> {
        let mut due = self.lock();
        let is_due = |erasure: &Erasure| erasure.reason < durable;
        let mut segments = due.segments.range_mut(segment..);
        let (&segment, erasures) = segments.find(|(_, erasures)| erasures.iter().any(is_due))?;
        let taken = erasures.extract_if(.., |erasure| is_due(erasure));
        let taken: Vec<_> = taken.take(BATCH_MAX).collect();
        if erasures.is_empty() {
            due.segments.remove(&segment);
        }
        let bodies = taken.iter().map(|erasure| (erasure.digest, erasure.place));
        let bodies = bodies.collect();
        due.under_way = taken;
        Some((segment, bodies))
    }

    /// Ends what was begun; what was not `done` is due again.
    fn end(&self, done: bool) {
        let mut due = self.lock();
        let begun = std::mem::take(&mut due.under_way);
        due.count -= begun.len();
        if !done {
            due.add(begun);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
                Ok(Erased {
                    left_alone,
                    failure,
                }) => {
                    all.left_alone += left_alone;
                    all.failure = failure.or(all.failure);
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
        let Erased {
            left_alone,
            failure,
        } = all;
        if let Some(error) = failure {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: u32, offset: u32) -> Position {
        Position { segment, offset }
    }

    fn erasure(segment: u32, reason: Position) -> Erasure {
        Erasure {
            digest: Digest::of(b"foo"),
            place: Place {
                at: at(segment, 0),
                length: 3,
            },
            reason,
        }
    }

    #[test]
    fn an_erasure_is_due_until_it_is_done_and_begun_only_once_its_reason_is_durable() {
        let erasures = Erasures::new(vec![erasure(1, at(3, 0)), erasure(2, at(3, 64))]);
        assert!(erasures.are_done_before(at(3, 0)));
        assert!(!erasures.are_done_before(at(3, 8)));
        assert_eq!(erasures.begin(0, at(3, 0)), None);
        for done in [false, true] {
            let (segment, bodies) = erasures.begin(0, at(3, 64)).unwrap();
            assert_eq!((segment, bodies.len()), (1, 1));
            assert!(!erasures.are_done_before(at(3, 64)), "it is under way");
            erasures.end(done);
            assert_eq!(erasures.are_done_before(at(3, 64)), done);
        }
        assert_eq!(erasures.begin(0, at(3, 64)), None);
        assert_eq!(erasures.begin(3, at(4, 0)), None);
        assert_eq!(erasures.begin(2, at(4, 0)).unwrap().0, 2);
    }

    #[test]
    fn no_more_are_due_than_the_limit() {
        let erasures = Erasures::new(vec![erasure(1, at(3, 0)); DUE_MAX - 1]);
        assert!(erasures.have_room());
        erasures.add(vec![erasure(2, at(3, 0))]);
        assert!(!erasures.have_room());
        erasures.begin(2, at(4, 0)).unwrap();
        assert!(!erasures.have_room());
        erasures.end(true);
        assert!(erasures.have_room());
    }
}
