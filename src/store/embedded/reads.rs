//! Look-ups: from a digest to a message, or what is known of one that is put; on the thread of the caller.
//!
//! They refuse to know who asks, and change nothing but the cache. **Invariants:** a text is given out only after it
//! was compared with its digest; what the log does not hold where the index has it is damage only if the index,
//! asked again, still has it there.

use std::io;

use bytes::Bytes;
use tracing::error;

use super::index::Found;
use super::record::Place;
use super::state::Shared;
use crate::digest::Digest;
use crate::message::Message;
use crate::store::{PAGE_BYTES_MAX, Page, StoreError};

impl Shared {
    pub(super) fn holds(&self, digest: &Digest) -> Result<bool, StoreError> {
        if self.hot.get(digest).is_some() {
            return Ok(true);
        }
        let _call = self.watchdog.watch();
        Ok(self.place(digest)?.is_some())
    }

    /// Whether the message is in the log, as it is now: what the index says is compared with what
    /// the log holds, so that no 201 covers a damaged record.
    pub(super) fn known(&self, message: &Message) -> Result<Known, StoreError> {
        let _call = self.watchdog.watch();
        let digest = message.digest();
        let mut found = self.look_up(&digest)?;
        loop {
            let place = match found {
                Found::Message(place) => place,
                Found::Nothing => return Ok(Known::No),
                Found::Other(_) => return Ok(Known::PrefixTaken),
            };
            if self.log.holds(place, message).unwrap_or(false) {
                return Ok(Known::Stored);
            }
            found = self.look_up(&digest)?;
            if found == Found::Message(place) {
                self.note_integrity_failure();
                return Ok(Known::Damaged(place));
            }
        }
    }

    fn look_up(&self, digest: &Digest) -> Result<Found, StoreError> {
        self.index
            .look_up(digest)
            .map_err(|error| self.fail(&error.to_string()))
    }

    pub(super) fn get(&self, digest: &Digest) -> Result<Option<Message>, StoreError> {
        if let Some(message) = self.hot.get(digest) {
            return Ok(Some(message));
        }
        let _call = self.watchdog.watch();
        let era = self.hot.era(digest);
        let Some(place) = self.place(digest)? else {
            return Ok(None);
        };
        let message = self.read(digest, place)?;
        if let Some(message) = &message {
            self.hot.keep(message.clone(), era);
        }
        Ok(message)
    }

    /// Reads a message that the index has at `place` from the log, and checks it; `None` if it was
    /// deleted meanwhile.
    pub(super) fn read(
        &self,
        digest: &Digest,
        mut place: Place,
    ) -> Result<Option<Message>, StoreError> {
        loop {
            let failure = match self.log.read(place) {
                Ok(body) => match Message::verified(Bytes::from(body), *digest) {
                    Some(message) => return Ok(Some(message)),
                    None => None,
                },
                Err(error) => Some(error),
            };
            match self.place(digest)? {
                Some(now) if now == place => return Err(self.damaged(digest, place, failure)),
                // Deleted and put again.
                Some(now) => place = now,
                None => return Ok(None),
            }
        }
    }

    /// Says that a stored message cannot be read, or is another one.
    fn damaged(&self, digest: &Digest, place: Place, failure: Option<io::Error>) -> StoreError {
        self.note_integrity_failure();
        if let Some(source) = failure {
            error!(?digest, at = %place.at, %source, "a stored message cannot be read");
        } else {
            error!(
                ?digest,
                at = %place.at,
                "a stored message does not have its digest any more"
            );
        }
        StoreError::Damaged
    }

    pub(super) fn page(
        &self,
        after: Option<&Digest>,
        messages_max: usize,
    ) -> Result<Page, StoreError> {
        let range = |after: Option<&Digest>| {
            let entries = self.index.range(after, messages_max);
            entries.map_err(|error| self.fail(&error.to_string()))
        };
        first_page(after, range, |entries| self.read_page(entries))
    }

    fn read_page(&self, entries: &[(Digest, Place)]) -> Page {
        let mut page = Page::new();
        let mut bytes = 0;
        for (digest, place) in entries {
            let Some(message) = self.read(digest, *place).transpose() else {
                continue;
            };
            bytes += message.as_ref().map_or(0, |text| text.as_bytes().len());
            page.push((*digest, message));
            if bytes > PAGE_BYTES_MAX {
                break;
            }
        }
        page
    }

    pub(super) fn place(&self, digest: &Digest) -> Result<Option<Place>, StoreError> {
        self.index
            .get(digest)
            .map_err(|error| self.fail(&error.to_string()))
    }
}

/// The first page after `after` that has something in it: an empty one says that nothing follows, and not that
/// all of its messages were deleted before they were read.
fn first_page(
    after: Option<&Digest>,
    range: impl Fn(Option<&Digest>) -> Result<Vec<(Digest, Place)>, StoreError>,
    read: impl Fn(&[(Digest, Place)]) -> Page,
) -> Result<Page, StoreError> {
    let mut after = after.copied();
    loop {
        let entries = range(after.as_ref())?;
        let page = read(&entries);
        match entries.last() {
            Some((last, _)) if page.is_empty() => after = Some(*last),
            _ => return Ok(page),
        }
    }
}

/// What the store has of a message that is put.
pub(super) enum Known {
    No,
    Stored,
    Damaged(Place),
    /// Nothing, and cannot have it: another message has its prefix.
    PrefixTaken,
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::store::Store;
    use crate::store::embedded::record::Position;
    use crate::store::embedded::tests::{open, options, wait};

    #[test]
    fn a_page_whose_messages_were_all_deleted_is_not_the_end() {
        let [first, second, third] = [1, 2, 3].map(|byte| Digest::from_bytes([byte; 32]));
        let place = Place {
            at: Position::START,
            length: 0,
        };
        let range = |after: Option<&Digest>| {
            let all = [first, second, third].into_iter();
            let next = all.filter(|digest| Some(digest) > after).take(1);
            Ok(next.map(|digest| (digest, place)).collect())
        };
        let read = |entries: &[(Digest, Place)]| {
            let is_there = entries.iter().filter(|(digest, _)| *digest == third);
            is_there
                .map(|(digest, _)| (*digest, Err(StoreError::Damaged)))
                .collect()
        };
        let page = first_page(None, range, read).unwrap();
        assert_eq!(page, [(third, Err(StoreError::Damaged))]);
        assert_eq!(first_page(Some(&third), range, read).unwrap(), []);
    }

    /// A look-up that was overtaken between the index and the log.
    #[test]
    fn a_body_that_was_erased_before_it_is_read_is_looked_up_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), options());
        let shared = &store.shared;
        let digest = Digest::of(b"foo");
        wait(store.put(Message::new("foo"))).unwrap();
        let place = shared.place(&digest).unwrap().unwrap();
        wait(store.delete(&digest)).unwrap().unwrap();
        let started = Instant::now();
        while *shared.log.read(place).unwrap() != [0; 3] {
            assert!(started.elapsed().as_secs() < 60, "it is not erased");
            thread::yield_now();
        }
        assert_eq!(shared.read(&digest, place), Ok(None));
        wait(store.put(Message::new("foo"))).unwrap();
        let found = shared.read(&digest, place).unwrap();
        assert_eq!(found.unwrap().text(), "foo");
        assert_eq!(store.stats().integrity_failures, 0);
    }
}
