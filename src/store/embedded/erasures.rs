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
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::record::{Place, Position};
use crate::digest::Digest;

/// Erasures that may be due before deletions are refused: 64 MB. A disk that erases a hundred segments a
/// second needs hours for so many if each is in another.
pub(super) const DUE_MAX: usize = 1 << 20;

/// Bodies that are erased in one go, and synced once: some hundredths of a second on a good disk, so that a
/// stop waits for little.
const BATCH_MAX: usize = 1000;

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
    pub(super) fn begin(
        &self,
        segment: u32,
        durable: Position,
    ) -> Option<(u32, Vec<(Digest, Place)>)> {
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
    pub(super) fn end(&self, done: bool) {
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
