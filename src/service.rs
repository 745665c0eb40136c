//! Publish a message, fetch a message, delete one: what the service does, free of HTTP.
//!
//! It stands between whoever speaks a protocol and whatever store is behind, and knows neither. It
//! is there before its store is: opening a large one takes a while, and a service that says so is
//! better than a port that is closed.

use std::array;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio::time::timeout;

use crate::digest::Digest;
use crate::message::Message;
use crate::store::{self, Store, StoreError};
pub use crate::store::{Deleted, Durability, Health, Page, Receipt, Stats};

/// Work on more bytes than this leaves the thread that serves requests: hashing so many takes as
/// long as a dozen small requests.
const INLINE_BYTES_MAX: usize = 128 << 10;

/// The service, starting or running.
#[derive(Debug, Default)]
pub struct Service {
    store: SetOnce<Arc<dyn Store>>,
    /// What the start is doing.
    stage: Mutex<String>,
    stopping: AtomicBool,
    puts: Arc<Counts<{ PUT_RESULTS.len() }>>,
    deletions: Counts<{ DELETION_RESULTS.len() }>,
}

/// A put under way: the receipt, or why there is none. Dropping it does not take the put back.
#[derive(Debug)]
#[must_use = "nothing is stored for certain before the receipt is there"]
pub struct Put {
    put: store::Put,
    puts: Arc<Counts<{ PUT_RESULTS.len() }>>,
}

impl Future for Put {
    type Output = Result<Receipt, ServiceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.put).poll(context)).map_err(ServiceError::from);
        self.puts.count(&PUT_RESULTS, put_result(result));
        Poll::Ready(result)
    }
}

/// Counts what ended in one of so many ways, in the order in which these are listed.
#[derive(Debug)]
struct Counts<const WAYS: usize>([AtomicU64; WAYS]);

impl<const WAYS: usize> Default for Counts<WAYS> {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const WAYS: usize> Counts<WAYS> {
    fn count(&self, ways: &[&str; WAYS], word: &str) {
        let mut counts = ways.iter().zip(&self.0);
        if let Some((_, count)) = counts.find(|(known, _)| **known == word) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn all(&self, ways: [&'static str; WAYS]) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        ways.into_iter().zip(counts).collect()
    }
}

/// How a put can end, in one word each.
const PUT_RESULTS: [&str; 9] = [
    "stored",
    "known",
    "starting",
    "stopping",
    "busy",
    "full",
    "too_large",
    "failed",
    "damaged",
];

fn put_result(result: Result<Receipt, ServiceError>) -> &'static str {
    match result {
        Ok(receipt) if receipt.is_known() => "known",
        Ok(_) => "stored",
        Err(error) => error.word(),
    }
}

/// How a deletion can end.
const DELETION_RESULTS: [&str; 7] = [
    "deleted", "unknown", "starting", "stopping", "busy", "full", "failed",
];

fn deletion_result(result: Result<Option<Deleted>, ServiceError>) -> &'static str {
    match result {
        Ok(Some(_)) => "deleted",
        Ok(None) => "unknown",
        Err(error) => error.word(),
    }
}

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The store is not open yet.
    #[error("the service is starting")]
    Starting,
    /// The service is stopping; nothing was stored.
    #[error("the service is stopping")]
    Stopping,
    /// Too many writes wait; nothing was stored.
    #[error("too many writes are waiting")]
    Busy,
    /// There is no room; nothing was stored.
    #[error("the disk is full")]
    Full,
    /// The message is too large for the store.
    #[error("the message is too large")]
    TooLarge,
    /// The store failed; whether the message was stored is not known.
    #[error("the store failed")]
    Failed,
    /// The message was stored and cannot be read any more.
    #[error("the stored message is damaged")]
    Damaged,
}

impl ServiceError {
    /// One word, for those who count.
    fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Busy => "busy",
            Self::Full => "full",
            Self::TooLarge => "too_large",
            Self::Failed => "failed",
            Self::Damaged => "damaged",
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy => Self::Busy,
            StoreError::Full => Self::Full,
            StoreError::Closed => Self::Stopping,
            StoreError::TooLarge => Self::TooLarge,
            StoreError::Failed => Self::Failed,
            StoreError::Damaged => Self::Damaged,
        }
    }
}

impl Service {
    /// Says what the start is doing, until [`Service::start`].
    pub fn set_stage(&self, stage: String) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// Serves from `store` from now on.
    pub fn start(&self, store: Arc<dyn Store>) {
        // A service is started once; a second store would be ignored.
        let _ = self.store.set(store);
    }

    /// Waits until messages are served, for `patience` at most: a short start is then a slow answer,
    /// not an error.
    pub async fn opened(&self, patience: Duration) {
        if !self.store.initialized() {
            // Whoever goes on too early is told so.
            let _ = timeout(patience, self.store.wait()).await;
        }
    }

    /// Says from now on that it is not ready, while still serving what comes.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Stores `message`; the receipt is the proof. Dropping the future does not take it back.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn publish(&self, message: Message) -> Result<Receipt, ServiceError> {
        self.begin(message)?.await
    }

    /// Begins to store `message`, like [`Service::publish`]; it goes on whether the receipt is waited for
    /// or not.
    ///
    /// # Errors
    /// [`ServiceError::Starting`]; all others come with the receipt.
    pub fn begin(&self, message: Message) -> Result<Put, ServiceError> {
        let store = self.store();
        let count = |error: &ServiceError| self.puts.count(&PUT_RESULTS, error.word());
        let store = store.inspect_err(count)?;
        Ok(Put {
            put: store.put(message),
            puts: Arc::clone(&self.puts),
        })
    }

    /// Puts so far, by how they ended. One whose caller went away is not counted.
    #[must_use]
    pub fn puts(&self) -> Vec<(&'static str, u64)> {
        self.puts.all(PUT_RESULTS)
    }

    /// Deletes the message with this digest; `None` if there is none. Dropping the future does not take
    /// the deletion back.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn delete(&self, digest: &Digest) -> Result<Option<Deleted>, ServiceError> {
        let result = match self.store() {
            Ok(store) => store.delete(digest).await.map_err(ServiceError::from),
            Err(error) => Err(error),
        };
        self.deletions
            .count(&DELETION_RESULTS, deletion_result(result));
        result
    }

    /// Deletions so far, by how they ended. One whose caller went away is not counted.
    #[must_use]
    pub fn deletions(&self) -> Vec<(&'static str, u64)> {
        self.deletions.all(DELETION_RESULTS)
    }

    /// The message with this digest. Blocks for microseconds, see [`Store::get`].
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub fn fetch(&self, digest: &Digest) -> Result<Option<Message>, ServiceError> {
        Ok(self.store()?.get(digest)?)
    }

    /// Whether there is a message with this digest.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub fn holds(&self, digest: &Digest) -> Result<bool, ServiceError> {
        Ok(self.store()?.holds(digest)?)
    }

    /// What a message survives once it is published.
    ///
    /// # Errors
    /// [`ServiceError::Starting`].
    pub fn durability(&self) -> Result<Durability, ServiceError> {
        Ok(self.store()?.durability())
    }

    /// The messages behind `after` in the order of their digests. Blocks, see [`Store::page`].
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub fn page(&self, after: Option<&Digest>, messages_max: usize) -> Result<Page, ServiceError> {
        Ok(self.store()?.page(after, messages_max)?)
    }

    /// Whether messages are served and taken, and why not.
    #[must_use]
    pub fn health(&self) -> Health {
        let not_ready = |reason: String| Health {
            reads: Err(reason.clone()),
            writes: Err(reason),
        };
        if self.stopping.load(Ordering::Relaxed) {
            return not_ready("the service is stopping".into());
        }
        if let Some(store) = self.store.get() {
            return store.health();
        }
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let colon = if stage.is_empty() { "" } else { ": " };
        not_ready(format!("{}{colon}{stage}", ServiceError::Starting))
    }

    /// What was found wrong with the store and is no reason not to be ready; see [`Store::findings`].
    #[must_use]
    pub fn findings(&self) -> Vec<String> {
        self.store
            .get()
            .map(|store| store.findings())
            .unwrap_or_default()
    }

    /// Figures of the store, once it is open.
    #[must_use]
    pub fn stats(&self) -> Option<Stats> {
        self.store.get().map(|store| store.stats())
    }

    fn store(&self) -> Result<&Arc<dyn Store>, ServiceError> {
        self.store.get().ok_or(ServiceError::Starting)
    }
}

/// Does `work` on `bytes` bytes: here if they are few, on a thread for blocking work otherwise.
pub async fn offload<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes <= INLINE_BYTES_MAX {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // It panicked, or the runtime is gone: either way this task goes the same way.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::store::{Fault, MemoryStore};

    fn running() -> (Service, Arc<MemoryStore>) {
        let store = Arc::new(MemoryStore::default());
        let service = Service::default();
        service.start(Arc::<MemoryStore>::clone(&store));
        (service, store)
    }

    #[tokio::test]
    async fn a_published_message_is_fetched_by_the_digest_of_its_receipt() {
        let (service, _) = running();
        let receipt = service.publish(Message::new("foo")).await.unwrap();
        let message = service.fetch(&receipt.digest()).unwrap().unwrap();
        assert_eq!(message.text(), "foo");
    }

    #[tokio::test]
    async fn storing_a_known_message_writes_nothing() {
        let (service, store) = running();
        service.publish(Message::new("foo")).await.unwrap();
        service.publish(Message::new("foo")).await.unwrap();
        assert_eq!(store.writes(), 1);
    }

    #[tokio::test]
    async fn puts_are_counted_by_how_they_ended() {
        let (service, store) = running();
        service.publish(Message::new("foo")).await.unwrap();
        service.publish(Message::new("foo")).await.unwrap();
        store.set_fault(Some(Fault::Puts(StoreError::Full)));
        service.publish(Message::new("bar")).await.unwrap_err();
        let counted: Vec<_> = service
            .puts()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(counted, [("stored", 1), ("known", 1), ("full", 1)]);
    }

    #[tokio::test]
    async fn a_deleted_message_is_not_fetched_until_it_is_published_again() {
        let (service, _) = running();
        let digest = Digest::of(b"foo");
        service.publish(Message::new("foo")).await.unwrap();
        assert!(service.delete(&digest).await.unwrap().is_some());
        assert_eq!(service.fetch(&digest), Ok(None));
        assert!(service.delete(&digest).await.unwrap().is_none());
        service.publish(Message::new("foo")).await.unwrap();
        assert!(service.holds(&digest).unwrap());
    }

    #[tokio::test]
    async fn deletions_are_counted_by_how_they_ended() {
        let service = Service::default();
        let digest = Digest::of(b"foo");
        service.delete(&digest).await.unwrap_err();
        let store = Arc::new(MemoryStore::default());
        service.start(Arc::<MemoryStore>::clone(&store));
        service.publish(Message::new("foo")).await.unwrap();
        store.set_fault(Some(Fault::Puts(StoreError::Busy)));
        service.delete(&digest).await.unwrap_err();
        store.set_fault(None);
        service.delete(&digest).await.unwrap();
        service.delete(&digest).await.unwrap();
        service.delete(&digest).await.unwrap();
        let counted: Vec<_> = service.deletions();
        let counted: Vec<_> = counted
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(
            counted,
            [("deleted", 1), ("unknown", 2), ("starting", 1), ("busy", 1)]
        );
    }

    #[tokio::test]
    async fn nothing_is_served_before_the_store_is_open() {
        let service = Service::default();
        service.set_stage("checking the index".into());
        assert_eq!(service.fetch(&Digest::of(b"")), Err(ServiceError::Starting));
        assert_eq!(
            service.health().reads,
            Err("the service is starting: checking the index".into())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_when_the_store_is_open_or_with_itself() {
        const PATIENCE: Duration = Duration::from_secs(1);
        let service = Service::default();
        let started = Instant::now();
        service.opened(PATIENCE).await;
        assert_eq!(started.elapsed(), PATIENCE);

        let start = async { service.start(Arc::new(MemoryStore::default())) };
        tokio::join!(service.opened(PATIENCE), start);
        service.opened(PATIENCE).await;
        assert_eq!(started.elapsed(), PATIENCE);
        assert_eq!(service.fetch(&Digest::of(b"")), Ok(None));
    }

    #[tokio::test]
    async fn a_stopping_service_is_not_ready_and_still_serves() {
        let (service, _) = running();
        service.stop();
        assert!(service.health().reads.is_err());
        service.publish(Message::new("foo")).await.unwrap();
    }

    #[tokio::test]
    async fn a_failing_store_is_told_from_a_full_one() {
        let (service, store) = running();
        for (fault, error) in [
            (StoreError::Failed, ServiceError::Failed),
            (StoreError::Full, ServiceError::Full),
        ] {
            store.set_fault(Some(Fault::Puts(fault)));
            let refused = service.publish(Message::new("foo")).await.unwrap_err();
            assert_eq!(refused, error);
        }
    }

    #[tokio::test]
    async fn work_on_many_bytes_gives_the_same_result_as_on_few() {
        assert_eq!(offload(INLINE_BYTES_MAX, || 7).await, 7);
        assert_eq!(offload(INLINE_BYTES_MAX + 1, || 7).await, 7);
    }
}
