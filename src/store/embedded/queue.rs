//! The line in front of the committer: bounded in entries and in bytes, drained in groups.
//!
//! There is no artificial delay: whatever came while one group was being synced is the next group, and
//! whatever is on its way where processors are so busy that it had to wait for them.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::record::Place;
use crate::digest::Digest;
use crate::message::Message;
use crate::store::{Deleted, Receipt, StoreError};

/// Entries that may wait; also the limit on how many writers one sync can release twice over.
pub const QUEUE_ENTRIES_MAX: usize = 2048;

/// Bytes of text that may wait. One text larger than this is let in when nothing else waits.
pub(super) const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Entries of one group: beyond it the sync's share of a put is below the rest of its cost.
pub(super) const GROUP_ENTRIES_MAX: usize = 512;

/// Bytes of one group, so that small messages do not wait long behind large ones. A larger text
/// makes a group of its own.
pub(super) const GROUP_BYTES_MAX: usize = 4 << 20;

/// How long the consumer offers its processor to others before it takes a group, as long as more comes
/// meanwhile: a few syncs. Where nothing else waits for this processor that takes no time. On a busy
/// machine it is those who would come a moment too late for the group that get it, and a sync is shared
/// by more of them.
const OFFERS_TIME_MAX: Duration = Duration::from_micros(500);

/// What waits for the committer.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) job: Job,
    /// Where the caller runs, if that is an async runtime.
    pub(super) runtime: Option<Handle>,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Job {
    Put {
        message: Message,
        /// A place that the index has for it, but which does not hold it any more.
        damaged: Option<Place>,
        /// `Shared::groups` before it was looked up.
        seen: u64,
        reply: oneshot::Sender<Result<Receipt, StoreError>>,
    },
    Delete {
        digest: Digest,
        reply: oneshot::Sender<Result<Option<Deleted>, StoreError>>,
    },
}

/// A bounded queue with one consumer.
#[derive(Debug)]
pub(super) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    /// Entries with the bytes they stand for.
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
    closed: bool,
}

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The queue is full.
    Full,
    /// The queue was closed.
    Closed,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        let inner = Inner {
            waiting: VecDeque::new(),
            bytes: 0,
            closed: false,
        };
        Self {
            inner: Mutex::new(inner),
            arrived: Condvar::new(),
        }
    }

    /// Adds an entry that stands for `bytes` bytes; never waits.
    pub(super) fn push(&self, entry: T, bytes: usize) -> Result<(), Refused> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(Refused::Closed);
        }
        let crowded = inner.bytes + bytes > QUEUE_BYTES_MAX && !inner.waiting.is_empty();
        if crowded || inner.waiting.len() >= QUEUE_ENTRIES_MAX {
            return Err(Refused::Full);
        }
        let first = inner.waiting.is_empty();
        inner.waiting.push_back((entry, bytes));
        inner.bytes += bytes;
        drop(inner);
        if first {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits for entries and takes the first of them, up to the size of a group. `None` once the
    /// queue is closed and empty.
    pub(super) fn take_group(&self) -> Option<Vec<T>> {
        let mut inner = self.lock();
        loop {
            while inner.waiting.is_empty() {
                if inner.closed {
                    return None;
                }
                inner = self
                    .arrived
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            inner = self.gather(inner);
            // Unless somebody else took them all.
            if !inner.waiting.is_empty() {
                break;
            }
        }
        let mut bytes = 0;
        let fitting = inner
            .waiting
            .iter()
            .take(GROUP_ENTRIES_MAX)
            .take_while(|(_, size)| {
                bytes += size;
                bytes <= GROUP_BYTES_MAX
            });
        let entries = fitting.count().max(1);
        let group: Vec<_> = inner.waiting.drain(..entries).collect();
        inner.bytes -= group.iter().map(|(_, size)| size).sum::<usize>();
        Some(group.into_iter().map(|(entry, _)| entry).collect())
    }

    /// Offers this processor to others while the next group grows, and can.
    fn gather<'a>(&'a self, mut inner: MutexGuard<'a, Inner<T>>) -> MutexGuard<'a, Inner<T>> {
        let begun = Instant::now();
        let mut before = 0;
        while (before + 1..GROUP_ENTRIES_MAX).contains(&inner.waiting.len())
            && inner.bytes < GROUP_BYTES_MAX
            && begun.elapsed() < OFFERS_TIME_MAX
        {
            before = inner.waiting.len();
            drop(inner);
            thread::yield_now();
            inner = self.lock();
        }
        inner
    }

    /// Takes no more entries; those that wait can still be taken out.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_refused_beyond_the_limit_and_taken_again_after_a_group_left() {
        let queue = Queue::new();
        for number in 0..QUEUE_ENTRIES_MAX {
            queue.push(number, 1).unwrap();
        }
        assert_eq!(queue.push(0, 1), Err(Refused::Full));
        let group = queue.take_group().unwrap();
        assert_eq!(group, (0..GROUP_ENTRIES_MAX).collect::<Vec<_>>());
        queue.push(0, 1).unwrap();
    }

    #[test]
    fn bytes_are_limited_too_but_one_large_entry_passes_alone() {
        let queue = Queue::new();
        queue.push('a', QUEUE_BYTES_MAX + 1).unwrap();
        assert_eq!(queue.push('b', 0), Err(Refused::Full));
        assert_eq!(queue.take_group().unwrap(), ['a']);
        queue.push('c', QUEUE_BYTES_MAX).unwrap();
        assert_eq!(queue.push('d', 1), Err(Refused::Full));
        queue.push('e', 0).unwrap();
    }

    #[test]
    fn a_group_ends_before_the_entry_that_would_make_it_too_large() {
        let queue = Queue::new();
        queue.push('a', GROUP_BYTES_MAX - 1).unwrap();
        queue.push('b', 1).unwrap();
        queue.push('c', 1).unwrap();
        queue.push('d', GROUP_BYTES_MAX + 1).unwrap();
        queue.push('e', 1).unwrap();
        assert_eq!(queue.take_group().unwrap(), ['a', 'b']);
        assert_eq!(queue.take_group().unwrap(), ['c']);
        assert_eq!(queue.take_group().unwrap(), ['d']);
        assert_eq!(queue.take_group().unwrap(), ['e']);
    }

    #[test]
    fn entries_are_taken_once_however_many_take() {
        const ENTRIES: usize = 2000;
        let queue = Queue::new();
        let take = || {
            let groups = std::iter::from_fn(|| queue.take_group());
            groups.map(|group| group.len()).sum::<usize>()
        };
        let taken = thread::scope(|scope| {
            let takers = [(); 2].map(|()| scope.spawn(take));
            for number in 0..ENTRIES {
                while queue.push(number, 1).is_err() {
                    thread::yield_now();
                }
            }
            queue.close();
            takers.map(|taker| taker.join().unwrap())
        });
        assert_eq!(taken.iter().sum::<usize>(), ENTRIES);
    }

    #[test]
    fn a_closed_queue_gives_out_what_waits_and_then_nothing() {
        let queue = Queue::new();
        queue.push('a', 1).unwrap();
        queue.close();
        assert_eq!(queue.push('b', 1), Err(Refused::Closed));
        assert_eq!(queue.take_group().unwrap(), ['a']);
        assert_eq!(queue.take_group(), None);
    }
}
