//! Puts and deletions up to the queue, on the thread of the caller.
//!
//! They know what can be answered at once; what is written, and when, is the business of the committer.
//! **Invariant:** a put is answered at once only if its message was compared with what the log holds, or is refused.

use std::sync::atomic::Ordering;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::queue::{Entry, Job, Refused};
use super::reads::Known;
use super::record::Place;
use super::state::Shared;
use crate::digest::Digest;
use crate::message::Message;
use crate::store::{Delete, Pending, Put, Receipt, StoreError};

/// What must be free on a disk that takes no more messages, in bytes, so that they can still be deleted:
/// the index takes some room before the erased bodies give theirs back. Less than the reserve, which a
/// start on a full disk gives up.
const DELETION_FREE_BYTES_MIN: u64 = 4 << 20;

/// What a deletion counts in the queue, in bytes: its record.
const DELETION_BYTES: usize = 64;

impl Shared {
    pub(super) fn put(&self, message: Message) -> Put {
        if message.as_bytes().len() as u64 > self.options.message_bytes_max {
            return Put::done(Err(StoreError::TooLarge));
        }
        // Before the look: what is entered after it, the committer looks up again.
        let seen = self.groups.load(Ordering::Acquire);
        match self.known(&message) {
            Ok(Known::Stored) => Put::done(Ok(Receipt::known(
                message.digest(),
                self.options.durability,
            ))),
            Ok(Known::Damaged(place)) => self.enqueue_put(message, Some(place), seen),
            Ok(Known::No) => self.enqueue_put(message, None, seen),
            Ok(Known::PrefixTaken) => Put::done(Err(StoreError::PrefixTaken)),
            Err(error) => Put::done(Err(error)),
        }
    }

    /// Whether there is such a message is asked by the committer: puts that wait come first.
    pub(super) fn delete(&self, digest: &Digest) -> Delete {
        let free_bytes = self.free_bytes.load(Ordering::Relaxed);
        if self.full.load(Ordering::Relaxed) && free_bytes < DELETION_FREE_BYTES_MIN {
            return Delete::done(Err(StoreError::Full));
        }
        if !self.erasures.have_room() {
            return Delete::done(Err(StoreError::Busy));
        }
        let (reply, answer) = oneshot::channel();
        let digest = *digest;
        self.enqueue(Job::Delete { digest, reply }, DELETION_BYTES, answer)
    }

    fn enqueue_put(&self, message: Message, damaged: Option<Place>, seen: u64) -> Put {
        // That it failed is worse, and said first.
        if self.full.load(Ordering::Relaxed) && !self.has_failed() {
            return Put::done(Err(StoreError::Full));
        }
        let bytes = message.as_bytes().len();
        let (reply, answer) = oneshot::channel();
        let job = Job::Put {
            message,
            damaged,
            seen,
            reply,
        };
        self.enqueue(job, bytes, answer)
    }

    fn enqueue<T>(
        &self,
        job: Job,
        bytes: usize,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Pending<T> {
        if self.has_failed() {
            return Pending::done(Err(StoreError::Failed));
        }
        let runtime = Handle::try_current().ok();
        match self.queue.push(Entry { job, runtime }, bytes) {
            Ok(()) => Pending::waiting(answer),
            Err(Refused::Full) => Pending::done(Err(StoreError::Busy)),
            Err(Refused::Closed) => Pending::done(Err(StoreError::Closed)),
        }
    }
}
