//! A store in memory, for tests of everything above the store: it counts what it does and fails on
//! demand. It keeps no promise of durability.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{Delete, Deleted, Durability, Health, Page, Put, Receipt, Stats, Store, StoreError};
use crate::digest::Digest;
use crate::message::Message;

/// What a [`MemoryStore`] does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Puts of new messages and deletions of known ones fail with this error.
    Puts(StoreError),
    /// Look-ups fail with this error.
    Gets(StoreError),
    /// Puts of new messages are never answered.
    Stall,
}

/// Messages in a map.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    messages: BTreeMap<Digest, Message>,
    fault: Option<Fault>,
    stalled: Vec<oneshot::Sender<Result<Receipt, StoreError>>>,
    writes: usize,
}

impl MemoryStore {
    /// Fails like this from now on, or not any more. Puts that stalled are refused.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut inner = self.lock();
        inner.fault = fault;
        inner.stalled.clear();
    }

    /// Messages written so far; one that was known is not.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.lock().writes
    }

    /// Puts that were begun and not answered.
    #[must_use]
    pub fn stalled(&self) -> usize {
        self.lock().stalled.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn put(&self, message: Message) -> Put {
        let mut inner = self.lock();
        let digest = message.digest();
        if inner.messages.contains_key(&digest) {
            return Put::done(Ok(Receipt::known(digest, self.durability())));
        }
        match inner.fault {
            Some(Fault::Puts(error)) => return Put::done(Err(error)),
            Some(Fault::Stall) => {
                let (reply, answer) = oneshot::channel();
                inner.stalled.push(reply);
                return Put::waiting(answer);
            }
            Some(Fault::Gets(_)) | None => {}
        }
        inner.messages.insert(digest, message.copied());
        inner.writes += 1;
        Put::done(Ok(Receipt::new(digest, self.durability())))
    }

    fn delete(&self, digest: &Digest) -> Delete {
        let mut inner = self.lock();
        let answer = match inner.fault {
            Some(Fault::Gets(error)) => Err(error),
            _ if !inner.messages.contains_key(digest) => Ok(None),
            Some(Fault::Puts(error)) => Err(error),
            Some(Fault::Stall) | None => {
                inner.messages.remove(digest);
                Ok(Some(Deleted::new(self.durability())))
            }
        };
        Delete::done(answer)
    }

    fn get(&self, digest: &Digest) -> Result<Option<Message>, StoreError> {
        let inner = self.lock();
        match inner.fault {
            Some(Fault::Gets(error)) => Err(error),
            _ => Ok(inner.messages.get(digest).cloned()),
        }
    }

    fn holds(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.get(digest).map(|message| message.is_some())
    }

    fn durability(&self) -> Durability {
        Durability::Os
    }

    fn page(&self, after: Option<&Digest>, messages_max: usize) -> Result<Page, StoreError> {
        let inner = self.lock();
        if let Some(Fault::Gets(error)) = inner.fault {
            return Err(error);
        }
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let messages = inner.messages.range((from, Bound::Unbounded));
        Ok(messages
            .take(messages_max)
            .map(|(digest, message)| (*digest, Ok(message.clone())))
            .collect())
    }

    fn health(&self) -> Health {
        let reason = |error: StoreError| Err(error.to_string());
        let (reads, writes) = match self.lock().fault {
            Some(Fault::Puts(error)) => (Ok(()), reason(error)),
            Some(Fault::Gets(error)) => (reason(error), reason(error)),
            Some(Fault::Stall) | None => (Ok(()), Ok(())),
        };
        Health { reads, writes }
    }

    fn findings(&self) -> Vec<String> {
        Vec::new()
    }

    fn stats(&self) -> Stats {
        Stats {
            messages: self.lock().messages.len() as u64,
            ..Stats::default()
        }
    }

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
