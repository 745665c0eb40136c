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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;
    use crate::store::embedded::options::Options;
    use crate::store::embedded::tests::{open, options, wait};
    use crate::store::{Commit, Observer, Store};

    /// A message whose digest has the first 22 bytes of that of "foo", or but 21 of them, and ends with zeros.
    fn forged(text: &str, alike: usize) -> Message {
        let mut bytes = [0; 32];
        bytes[..alike].copy_from_slice(&Digest::of(b"foo").as_bytes()[..alike]);
        Message::forged(text, Digest::from_bytes(bytes))
    }

    #[test]
    fn a_message_whose_prefix_another_has_is_refused_by_its_caller() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), options());
        let (foo, other, near) = (Message::new("foo"), forged("other", 22), forged("near", 21));
        wait(store.put(foo.clone())).unwrap();
        let end = store.shared.indexed();
        let refused = wait(store.put(other.clone()));
        assert_eq!(refused.unwrap_err(), StoreError::PrefixTaken);
        // It is another one's, and is not found.
        assert_eq!(store.get(&other.digest()), Ok(None));
        assert_eq!(store.holds(&other.digest()), Ok(false));
        assert!(wait(store.delete(&other.digest())).unwrap().is_none());
        assert_eq!(store.shared.indexed(), end, "something was written");
        assert!(wait(store.put(foo.clone())).unwrap().is_known());
        assert!(!wait(store.put(near.clone())).unwrap().is_known());
        assert!(store.holds(&near.digest()).unwrap());
        // Once that is deleted, it is taken.
        wait(store.delete(&foo.digest())).unwrap().unwrap();
        assert!(!wait(store.put(other.clone())).unwrap().is_known());
        assert!(wait(store.put(other)).unwrap().is_known());
        let refused = wait(store.put(foo));
        assert_eq!(refused.unwrap_err(), StoreError::PrefixTaken);
    }

    /// Says that the committer is between the sync and the index of a group, and holds it there.
    #[derive(Debug)]
    struct Gate {
        reached: mpsc::SyncSender<()>,
        opened: Mutex<mpsc::Receiver<()>>,
    }

    impl Observer for Gate {
        fn committed(&self, _: Commit) {
            // A test that is over opens it for good.
            let _ = self.reached.send(());
            let _ = self.opened.lock().unwrap().recv();
        }
    }

    #[test]
    fn a_message_whose_prefix_another_has_by_now_is_refused_by_the_committer() {
        let directory = tempfile::tempdir().unwrap();
        let (reached, arrivals) = mpsc::sync_channel(8);
        let (open_gate, opened) = mpsc::channel();
        let gate = Gate {
            reached,
            opened: Mutex::new(opened),
        };
        let options = Options {
            observer: Some(Arc::new(gate)),
            ..options()
        };
        let store = open(directory.path(), options);
        let pass = || {
            arrivals.recv().unwrap();
            open_gate.send(()).unwrap();
        };
        let taken = Err(StoreError::PrefixTaken);
        let is_known = |put: Put| wait(put).map(|receipt| receipt.is_known());

        // In a later group than the one that it was looked up before.
        let (foo, other, near) = (Message::new("foo"), forged("other", 22), forged("near", 21));
        let first = store.put(foo);
        arrivals.recv().unwrap();
        let puts = [store.put(other), store.put(near)];
        open_gate.send(()).unwrap();
        pass();
        assert_eq!(is_known(first), Ok(false));
        assert_eq!(puts.map(is_known), [taken, Ok(false)]);

        // In the same group.
        let [one, other] = [1, 2].map(|last| {
            let mut bytes = [7; 32];
            bytes[31] = last;
            Message::forged("text", Digest::from_bytes(bytes))
        });
        let first = store.put(Message::new("bar"));
        arrivals.recv().unwrap();
        let puts = [&one, &other, &one].map(|message| store.put(message.clone()));
        let deletions = [&other, &one].map(|message| store.delete(&message.digest()));
        let last = [&other, &one].map(|message| store.put(message.clone()));
        open_gate.send(()).unwrap();
        pass();
        assert_eq!(is_known(first), Ok(false));
        assert_eq!(puts.map(is_known), [Ok(false), taken, Ok(false)]);
        let were_there = deletions.map(|deletion| wait(deletion).unwrap().is_some());
        assert_eq!(were_there, [false, true]);
        assert_eq!(last.map(is_known), [Ok(false), taken]);
        assert_eq!(store.holds(&one.digest()), Ok(false));
        assert_eq!(store.holds(&other.digest()), Ok(true));
        assert_eq!(store.messages(), 4);
        drop(open_gate);
    }
}
