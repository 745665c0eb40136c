//! The index: digest → place in the log, kept in sled.
//!
//! It answers every look-up and is never the truth: whatever happens to it, it is thrown away and
//! redrawn from the log. It does not know what a place holds. Nothing here relies on sled's
//! durability except [`Index::checkpoint`], which adds the `fdatasync` that sled 0.34 leaves out
//! (its `flush` calls `sync_file_range`, sled 0.34.7 `src/pagecache/iobuf.rs:736`).
//!
//! sled panics on some damage and some errors, and after its first error nothing it says can be
//! relied on. So every call is fenced, and the first failure is final: the index takes nothing more
//! until the next start. It is still asked: a place that it names is proved by what the log holds
//! there. Only that it does *not* know a message means nothing any more.
//!
//! An entry has the first 22 bytes of a digest for its key, the *prefix*, and for its value the other ten
//! bytes and the place, which are 22 as well. Up to so many sled keeps inside its pages (sled 0.34.7
//! `src/ivec.rs:11`); for each one that is longer it allocates, counts references, and follows a pointer
//! whenever it compares or copies. Of two digests with the same prefix, which takes some 2^88 hashes to
//! find, the index has one: a put of the other is refused before anything is written.
//!
//! sled opens with one thread, whatever the machine has. So the digests are dealt out to four sleds by
//! their first byte, each in a directory of its own, and a start opens and reads them side by side.
//!
//! **Invariant:** entries are 22 + 22 bytes, so a page of at most 17 is far below the 128 KiB at which sled
//! would put it into a file of its own that it never syncs; `blobs/` stays empty. That is why sled's own
//! segment size can stay: a larger one would only cost memory.

// What the index is made of: entries in parts, the files of those, what they hold, and how they fail.
mod entry;
mod error;
mod files;
mod held;
mod part;

use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use sled::IVec;

pub(super) use self::entry::{Key, key};
use self::entry::{decode, encode};
pub use self::error::IndexError;
use self::error::fence;
pub(super) use self::error::require;
pub(super) use self::files::{NAME, OLD_NAME, give_to_owner, old, remove};
pub use self::held::{Checkpoint, Held};
use self::part::{
    CHECKPOINT_KEY, DATA_NAME, PROGRESS_KEY, Part, each, part_directories, wait_until_unlocked,
};
pub(super) use self::part::{PARTS, part_of};
use super::record::{Place, Position};
use super::watchdog::Watchdog;
use crate::digest::Digest;

/// What an index has under the prefix of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// The message with this digest.
    Message(Place),
    /// Another message.
    Other(Place),
}

/// The open index.
#[derive(Debug)]
pub struct Index {
    /// In the order of the digests they hold.
    parts: Vec<Part>,
    failure: OnceLock<IndexError>,
    /// A look-up has failed, not only a change.
    unreadable: AtomicBool,
}

impl Index {
    /// Opens the index in `directory`, or makes an empty one. sled keeps up to `cache_bytes` of
    /// pages in memory; what the process then really uses is 1.4 to 2.3 times that.
    ///
    /// # Errors
    /// The first failure of the engine, then and ever after.
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, IndexError> {
        let cache_bytes = cache_bytes / PARTS as u64;
        let mut index = Self {
            parts: Vec::with_capacity(PARTS),
            failure: OnceLock::new(),
            unreadable: AtomicBool::new(false),
        };
        let mut failure = None;
        let directories: Vec<_> = part_directories(directory).enumerate().collect();
        let opened = each(&directories, |(number, directory)| {
            Part::open(*number, directory, cache_bytes)
        });
        for part in opened {
            match part {
                Ok(part) => index.parts.push(part),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(index), Err)
    }

    /// Whether there is an index in `directory`, or something of one.
    pub(super) fn exists(directory: &Path) -> bool {
        part_directories(directory).any(|part| part.join(DATA_NAME).exists())
    }

    /// Reads every entry, so that damage shows now and not in a year, and lists those whose records are not
    /// before `from`. Linear in their number; leaves the cache warm.
    ///
    /// # Errors
    /// The first failure of the engine, then and ever after.
    pub fn check(&self, from: Position) -> Result<Held, IndexError> {
        self.guard(|| {
            let held: Vec<_> = each(&self.parts, |part| part.check(from))
                .into_iter()
                .collect::<Result<_, _>>()?;
            let held = held.into_iter().reduce(Held::and);
            held.ok_or_else(|| IndexError::new("it is closed"))
        })
    }

    /// The part that has this digest.
    fn part(&self, digest: &Digest) -> Result<&Part, IndexError> {
        let part = self.parts.get(part_of(digest));
        part.ok_or_else(|| IndexError::new("it is closed"))
    }

    /// The place of the message with this digest. Costs 1 to 7 µs, more when pages must be read.
    ///
    /// # Errors
    /// The first failure of the engine; from then on also for every message it does not find.
    pub fn get(&self, digest: &Digest) -> Result<Option<Place>, IndexError> {
        Ok(match self.look_up(digest)? {
            Found::Message(place) => Some(place),
            Found::Nothing | Found::Other(_) => None,
        })
    }

    /// The same, and whether another message has the prefix.
    pub(super) fn look_up(&self, digest: &Digest) -> Result<Found, IndexError> {
        let found = fence(|| {
            let key = key(digest);
            let Some(value) = self.part(digest)?.tree.get(key)? else {
                return Ok(Found::Nothing);
            };
            let (found, place) = decode(&key, &value)?;
            Ok(if found == *digest {
                Found::Message(place)
            } else {
                Found::Other(place)
            })
        });
        match (found, self.failure.get()) {
            (Ok(Found::Nothing | Found::Other(_)), Some(failure)) => Err(failure.clone()),
            (Err(error), _) => {
                self.unreadable.store(true, Ordering::Relaxed);
                Err(self.fail(error))
            }
            (found, _) => found,
        }
    }

    /// Up to `max` messages behind `after`, or from the first on, in the order of their digests.
    /// Messages that come in meanwhile may be among them or not.
    ///
    /// # Errors
    /// The first failure of the engine, then and ever after.
    pub fn range(
        &self,
        after: Option<&Digest>,
        max: usize,
    ) -> Result<Vec<(Digest, Place)>, IndexError> {
        self.guard(|| {
            let from = after.map(key).map_or(Bound::Unbounded, Bound::Included);
            let mut found = Vec::new();
            let parts = self.parts.iter().skip(after.map_or(0, part_of));
            let ranges = parts.map(|part| part.tree.range((from, Bound::Unbounded)));
            for entry in ranges.flatten() {
                let (key, value) = entry?;
                if key == CHECKPOINT_KEY || key == PROGRESS_KEY {
                    continue;
                }
                if found.len() == max {
                    break;
                }
                let (digest, place) = decode(&key, &value)?;
                // The first may have the prefix of `after`.
                if after.is_none_or(|after| digest > *after) {
                    found.push((digest, place));
                }
            }
            Ok(found)
        })
    }

    /// Notes the place of a message, if the index still holds `known` for it (`None`: nothing, nor another
    /// message with its prefix). Returns whether it did.
    ///
    /// # Errors
    /// The first failure of the engine, then and ever after.
    pub fn put(
        &self,
        digest: &Digest,
        known: Option<Place>,
        place: Place,
    ) -> Result<bool, IndexError> {
        self.change(digest, known, Some(place))
    }

    /// Forgets a message, if the index still holds `known` for it. Returns whether it did.
    ///
    /// # Errors
    /// The first failure of the engine, then and ever after.
    pub fn remove(&self, digest: &Digest, known: Place) -> Result<bool, IndexError> {
        self.change(digest, Some(known), None)
    }

    /// Puts `place` where the index has `known` for a message. Returns whether it had.
    fn change(
        &self,
        digest: &Digest,
        known: Option<Place>,
        place: Option<Place>,
    ) -> Result<bool, IndexError> {
        self.guard(|| {
            let tree = &self.part(digest)?.tree;
            let [old, new] = [known, place].map(|place| place.map(|place| encode(digest, place)));
            let new = new.as_ref().map(IVec::from);
            Ok(tree.compare_and_swap(key(digest), old, new)?.is_ok())
        })
    }

    /// Makes durable that the index is complete up to `checkpoint`. Takes milliseconds; look-ups and
    /// puts go on meanwhile.
    ///
    /// # Errors
    /// The first failure of the engine, then and ever after.
    pub fn checkpoint(&self, checkpoint: Checkpoint) -> Result<(), IndexError> {
        self.checkpoint_watched(checkpoint, &Watchdog::new())
    }

    /// The same, each call that waits for the disk watched by `watchdog`.
    pub(super) fn checkpoint_watched(
        &self,
        checkpoint: Checkpoint,
        watchdog: &Watchdog,
    ) -> Result<(), IndexError> {
        self.guard(|| {
            let position = checkpoint.position.to_u64().to_le_bytes();
            for Part { tree, data, .. } in &self.parts {
                let call = watchdog.watch();
                tree.insert(CHECKPOINT_KEY, &position)?;
                // It is complete: whatever becomes of it, it is not one to be completed.
                tree.remove(PROGRESS_KEY)?;
                tree.flush()?;
                drop(call);
                let _call = watchdog.watch();
                data.sync_data()?;
            }
            Ok(())
        })
    }

    /// Makes durable that an index which is being drawn has everything before the position of `progress`.
    ///
    /// # Errors
    /// The first failure of the engine, then and ever after.
    pub(super) fn note_progress(&self, progress: Checkpoint) -> Result<(), IndexError> {
        self.guard(|| {
            let position = progress.position.to_u64();
            let messages = std::iter::once(progress.messages).chain(std::iter::repeat(0));
            for (Part { tree, data, .. }, messages) in self.parts.iter().zip(messages) {
                let value = [position, messages].map(u64::to_le_bytes);
                tree.insert(PROGRESS_KEY, value.as_flattened())?;
                tree.flush()?;
                data.sync_data()?;
            }
            Ok(())
        })
    }

    /// Closes the index.
    ///
    /// # Errors
    /// The first failure of the engine, then and ever after.
    pub fn close(mut self) -> Result<(), IndexError> {
        self.close_parts()
    }

    /// Caught like every other call, each by itself: sled syncs when dropped and panics if it cannot.
    fn close_parts(&mut self) -> Result<(), IndexError> {
        let mut closed = Ok(());
        for Part { tree, data, .. } in self.parts.drain(..) {
            let dropped = fence(|| {
                drop(tree);
                Ok(())
            });
            closed = closed.and(dropped);
            wait_until_unlocked(&data);
        }
        closed
    }

    /// Room that the engine takes on the disk, in bytes. A system call for each part.
    pub(super) fn disk_bytes(&self) -> io::Result<u64> {
        // In blocks of 512 bytes on every platform: see stat(2).
        let blocks = self
            .parts
            .iter()
            .map(|part| Ok(part.data.metadata()?.blocks()));
        Ok(blocks.sum::<io::Result<u64>>()? * 512)
    }

    /// The first failure, if there was one.
    pub(super) fn failure(&self) -> Option<&IndexError> {
        self.failure.get()
    }

    /// Why look-ups fail, if they do.
    pub(super) fn unreadable(&self) -> Option<&IndexError> {
        let unreadable = self.unreadable.load(Ordering::Relaxed);
        self.failure.get().filter(|_| unreadable)
    }

    fn guard<T>(&self, call: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        fence(call).map_err(|error| self.fail(error))
    }

    /// Ends it. Returns the first failure, which may be another one.
    pub(super) fn fail(&self, error: IndexError) -> IndexError {
        self.failure.get_or_init(|| error).clone()
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = self.close_parts();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, TryLockError};
    use std::thread;

    use super::entry::KEY_BYTES;
    use super::*;

    const CACHE: u64 = 1 << 20;
    const PLACE: Place = Place {
        at: Position {
            segment: 3,
            offset: 64,
        },
        length: 5,
    };
    const LATER: Place = Place {
        at: Position {
            segment: 4,
            offset: 8,
        },
        length: 5,
    };

    #[test]
    fn a_place_is_kept_only_over_the_one_that_was_known() {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(directory.path(), CACHE).unwrap();
        let digest = Digest::of(b"foo");
        assert!(index.put(&digest, None, PLACE).unwrap());
        assert!(!index.put(&digest, None, LATER).unwrap());
        assert_eq!(index.get(&digest).unwrap(), Some(PLACE));
        assert!(index.put(&digest, Some(PLACE), LATER).unwrap());
        assert_eq!(index.get(&digest).unwrap(), Some(LATER));
        assert_eq!(index.get(&Digest::of(b"bar")).unwrap(), None);
    }

    #[test]
    fn a_closed_index_is_waited_for_until_it_can_be_opened_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let [engine, own, next] = [(); 3].map(|()| File::open(file.path()).unwrap());
        engine.lock().unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_until_unlocked(&own));
            engine.unlock().unwrap();
            waiting.join().unwrap();
        });
        // It has the lock until it is dropped.
        assert!(matches!(next.try_lock(), Err(TryLockError::WouldBlock)));
        drop(own);
        next.try_lock().unwrap();

        let directory = tempfile::tempdir().unwrap();
        for number in 0..20_u64 {
            let index = Index::open(directory.path(), CACHE).unwrap();
            let digest = Digest::of(&number.to_le_bytes());
            index.put(&digest, None, PLACE).unwrap();
            index.close().unwrap();
        }
    }

    #[test]
    fn a_message_is_forgotten_only_at_the_place_that_was_known() {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(directory.path(), CACHE).unwrap();
        let digest = Digest::of(b"foo");
        index.put(&digest, None, LATER).unwrap();
        assert!(!index.remove(&digest, PLACE).unwrap());
        assert_eq!(index.get(&digest).unwrap(), Some(LATER));
        assert!(index.remove(&digest, LATER).unwrap());
        assert!(!index.remove(&digest, LATER).unwrap());
        assert_eq!(index.get(&digest).unwrap(), None);
    }

    #[test]
    fn of_two_digests_with_the_same_prefix_the_index_has_one() {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(directory.path(), CACHE).unwrap();
        let with_byte = |at: usize, byte| {
            let mut bytes = *Digest::of(b"foo").as_bytes();
            bytes[at] = byte;
            Digest::from_bytes(bytes)
        };
        let [first, second] = [1, 2].map(|byte| with_byte(KEY_BYTES, byte));
        assert!(index.put(&second, None, PLACE).unwrap());
        assert!(!index.put(&first, None, LATER).unwrap());
        assert!(!index.put(&first, Some(PLACE), LATER).unwrap());
        assert!(!index.remove(&first, PLACE).unwrap());
        assert_eq!(index.get(&first).unwrap(), None);
        assert_eq!(index.look_up(&first).unwrap(), Found::Other(PLACE));
        assert_eq!(index.look_up(&second).unwrap(), Found::Message(PLACE));
        // A range may begin at one that the index does not have.
        assert_eq!(index.range(Some(&first), 3).unwrap(), [(second, PLACE)]);
        assert_eq!(index.range(Some(&second), 3).unwrap(), []);
        assert!(index.remove(&second, PLACE).unwrap());
        assert_eq!(index.look_up(&first).unwrap(), Found::Nothing);
        assert!(index.put(&first, None, LATER).unwrap());
        // The last byte of the prefix.
        let [one, other] = [1, 2].map(|byte| with_byte(KEY_BYTES - 1, byte));
        assert!(index.put(&one, None, PLACE).unwrap());
        assert!(index.put(&other, None, LATER).unwrap());
        assert_eq!(index.get(&one).unwrap(), Some(PLACE));
        assert_eq!(index.get(&other).unwrap(), Some(LATER));
    }

    #[test]
    fn a_check_counts_messages_and_finds_the_checkpoint_and_the_last_record() {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(directory.path(), CACHE).unwrap();
        for number in 0..1000_u32 {
            index
                .put(&Digest::of(&number.to_le_bytes()), None, PLACE)
                .unwrap();
        }
        let none = Checkpoint {
            position: Position::START,
            messages: 1000,
        };
        assert_eq!(index.check(LATER.at).unwrap().checkpoint, none);
        let last = Digest::of(b"last");
        index.put(&last, None, LATER).unwrap();
        let checkpoint = Checkpoint {
            position: LATER.at,
            messages: 1001,
        };
        index.checkpoint(checkpoint).unwrap();
        index.close().unwrap();
        let index = Index::open(directory.path(), CACHE).unwrap();
        let held = index.check(LATER.at).unwrap();
        assert_eq!(held.checkpoint, checkpoint);
        assert_eq!(held.last, Some((last, LATER)));
        assert_eq!(held.ahead, [(last, LATER)]);
    }

    #[test]
    fn an_index_is_as_complete_as_its_part_that_is_behind() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint {
            position: LATER.at,
            messages: 0,
        };
        let index = Index::open(directory.path(), CACHE).unwrap();
        index.checkpoint(checkpoint).unwrap();
        assert_eq!(index.check(LATER.at).unwrap().checkpoint, checkpoint);
        index.close().unwrap();
        remove(&directory.path().join("2")).unwrap();
        let index = Index::open(directory.path(), CACHE).unwrap();
        assert_eq!(index.check(LATER.at).unwrap(), Held::NOTHING);
    }

    #[test]
    fn a_range_goes_through_all_messages_once_in_the_order_of_their_digests() {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(directory.path(), CACHE).unwrap();
        let mut digests: Vec<_> = (0..1000_u32)
            .map(|number| Digest::of(&number.to_le_bytes()))
            .collect();
        for digest in &digests {
            index.put(digest, None, PLACE).unwrap();
        }
        // Its key is among the digests and is none.
        index
            .checkpoint(Checkpoint {
                position: LATER.at,
                messages: 1000,
            })
            .unwrap();
        digests.sort_unstable();
        let mut found = Vec::new();
        loop {
            let page = index.range(found.last(), 7).unwrap();
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= 7);
            found.extend(page.into_iter().map(|(digest, _)| digest));
        }
        assert_eq!(found, digests);
    }

    #[test]
    fn after_a_failure_only_what_is_found_counts() {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(directory.path(), CACHE).unwrap();
        let known = Digest::of(b"known");
        index.put(&known, None, PLACE).unwrap();
        let failed: Result<(), _> = index.guard(|| panic!("engine"));
        let text = "the index failed: panic: engine";
        assert_eq!(failed.unwrap_err().to_string(), text);
        assert_eq!(index.get(&known).unwrap(), Some(PLACE));
        let unknown = Digest::of(b"unknown");
        assert_eq!(index.get(&unknown).unwrap_err().to_string(), text);
        assert!(index.put(&unknown, None, PLACE).is_err());
        assert!(index.unreadable().is_none());
    }
}
