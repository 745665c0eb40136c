//! Messages that are read often, kept in memory; never one that was deleted.
//!
//! A reader asks the index, reads the log, and keeps what it got. A deletion may come between any two of
//! these, so what is kept says in which *era* the index was asked. A deletion ends an era before it takes
//! the message out of the index, and begins the next one after that; what is of an older one may be gone,
//! and is not given out. In between, nothing is: whoever asks then is told what the index says. There are
//! many eras side by side, told apart by the digest, so that a deletion makes the rest of the cache no slower.
//!
//! **Cost:** a hit loads one more word and compares it.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::digest::Digest;
use crate::message::Message;

/// What a cached message costs beside its text: key, links, reference counts.
const CACHE_ENTRY_BYTES: u64 = 200;

/// Average size of a cached message, for sizing the cache's tables.
const CACHE_MESSAGE_BYTES: u64 = 512;

/// A deletion costs so many of the kept messages one look-up each: one in 256.
const ERAS: usize = 256;

/// The cache.
#[derive(Debug)]
pub(super) struct Hot {
    cache: Cache<Digest, Kept, TextWeight>,
    eras: [AtomicU64; ERAS],
}

/// The time between two deletions; an odd number is a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Era(u64);

impl Era {
    fn is_deletion(self) -> bool {
        !self.0.is_multiple_of(2)
    }
}

#[derive(Clone, Debug)]
struct Kept {
    message: Message,
    era: Era,
}

impl Hot {
    /// A cache for `bytes` bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let messages = usize::try_from(bytes / CACHE_MESSAGE_BYTES).unwrap_or(usize::MAX);
        Self {
            cache: Cache::with_weighter(messages, bytes, TextWeight),
            eras: array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// The message, if it is kept and was not deleted.
    pub(super) fn get(&self, digest: &Digest) -> Option<Message> {
        let kept = self.cache.get(digest)?;
        (kept.era == self.era(digest)).then_some(kept.message)
    }

    /// The era in which the index is asked for this message if it is asked now.
    pub(super) fn era(&self, digest: &Digest) -> Era {
        Era(self.era_of(digest).load(Ordering::Acquire))
    }

    /// Keeps a message that the index was asked for in `era`.
    pub(super) fn keep(&self, message: Message, era: Era) {
        if !era.is_deletion() {
            let digest = message.digest();
            self.cache.insert(digest, Kept { message, era });
        }
    }

    /// Has `delete` take this message out of the index, and never again gives out what the index said of it
    /// before. One at a time.
    pub(super) fn forget<T>(&self, digest: &Digest, delete: impl FnOnce() -> T) -> T {
        let era = self.era_of(digest);
        era.fetch_add(1, Ordering::AcqRel);
        let deleted = delete();
        era.fetch_add(1, Ordering::AcqRel);
        self.cache.remove(digest);
        deleted
    }

    /// Digests are as good as random: their first byte takes all values alike.
    #[expect(
        clippy::indexing_slicing,
        reason = "as many eras as a byte has values; without one, a deleted message would be given out"
    )]
    fn era_of(&self, digest: &Digest) -> &AtomicU64 {
        let [first, ..] = digest.as_bytes();
        &self.eras[usize::from(*first)]
    }
}

/// Weighs cached messages in bytes.
#[derive(Clone, Debug)]
struct TextWeight;

impl Weighter<Digest, Kept> for TextWeight {
    fn weight(&self, _: &Digest, kept: &Kept) -> u64 {
        CACHE_ENTRY_BYTES + kept.message.as_bytes().len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_given_out_until_it_is_forgotten() {
        let hot = Hot::new(1 << 20);
        let foo = Message::new("foo");
        let digest = foo.digest();
        assert!(hot.get(&digest).is_none());
        hot.keep(foo, hot.era(&digest));
        assert_eq!(hot.get(&digest).unwrap().text(), "foo");
        hot.forget(&digest, || ());
        assert!(hot.get(&digest).is_none());
    }

    #[test]
    fn while_a_message_is_deleted_nothing_of_it_is_given_out_or_kept() {
        let hot = Hot::new(1 << 20);
        let foo = Message::new("foo");
        let digest = foo.digest();
        hot.keep(foo.clone(), hot.era(&digest));
        hot.forget(&digest, || {
            assert!(hot.get(&digest).is_none());
            hot.keep(foo, hot.era(&digest));
            assert!(hot.get(&digest).is_none());
        });
        assert!(hot.get(&digest).is_none());
    }

    #[test]
    fn what_was_read_before_a_deletion_and_is_kept_after_it_is_not_given_out() {
        let hot = Hot::new(1 << 20);
        let foo = Message::new("foo");
        let digest = foo.digest();
        let era = hot.era(&digest);
        hot.forget(&digest, || ());
        hot.keep(foo.clone(), era);
        assert!(hot.get(&digest).is_none());
        hot.keep(foo, hot.era(&digest));
        assert!(hot.get(&digest).is_some());
    }

    #[test]
    fn a_deletion_leaves_messages_of_other_eras_alone() {
        let hot = Hot::new(1 << 20);
        let (foo, bar) = (Message::new("foo"), Message::new("bar"));
        assert_ne!(foo.digest().as_bytes()[0], bar.digest().as_bytes()[0]);
        let digest = bar.digest();
        hot.keep(bar, hot.era(&digest));
        hot.forget(&foo.digest(), || ());
        assert!(hot.get(&digest).is_some());
    }
}
