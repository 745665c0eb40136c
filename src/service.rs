//! Publish a message, fetch a message, delete one: what the service does, free of HTTP.
//!
//! It stands between a protocol and a store, and knows neither. It
//! is there before its store is: opening a large one takes a while, and a service that says so is
//! better than a port that is closed.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio::time::timeout;

use crate::digest::Digest;
use crate::message::Message;
use crate::store::{self, Store};
pub use crate::store::{Deleted, Durability, Health, Page, Receipt, Stats, StoreError};

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
    puts: Arc<Outcomes>,
    deletions: Outcomes,
}

/// A put under way: the receipt, or why there is none. Dropping it does not take the put back.
#[derive(Debug)]
#[must_use = "nothing is stored for certain before the receipt is there"]
pub struct Put {
    put: store::Put,
    puts: Arc<Outcomes>,
}

impl Future for Put {
    type Output = Result<Receipt, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.put).poll(context));
        self.puts.count(result.map(|receipt| !receipt.is_known()));
        Poll::Ready(result)
    }
}

/// How often writes of one kind changed something, changed nothing, and failed in each way.
#[derive(Debug, Default)]
struct Outcomes {
    changed: AtomicU64,
    unchanged: AtomicU64,
    failed: [AtomicU64; StoreError::ALL.len()],
}

impl Outcomes {
    /// Counts one that ended; if it did not fail, whether it changed something.
    fn count(&self, result: Result<bool, StoreError>) {
        let count = match result {
            Ok(true) => &self.changed,
            Ok(false) => &self.unchanged,
            #[expect(clippy::indexing_slicing, reason = "there is one for each error")]
            Err(error) => &self.failed[error as usize],
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted, by `changed`, `unchanged` and the names of errors.
    fn read(&self, changed: &'static str, unchanged: &'static str) -> Vec<(&'static str, u64)> {
        let failed = StoreError::ALL
            .map(StoreError::name)
            .into_iter()
            .zip(&self.failed);
        [(changed, &self.changed), (unchanged, &self.unchanged)]
            .into_iter()
            .chain(failed)
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
            .collect()
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

    /// Whether messages are served.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.store.initialized()
    }

    /// Waits until messages are served, for `patience` at most: a short start is then a slow answer,
    /// not an error.
    pub async fn opened(&self, patience: Duration) {
        // A caller that goes on before it is open is told so.
        let _ = timeout(patience, self.store.wait()).await;
    }

    /// Says from now on that it is not ready, while still serving what comes.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Stores `message`; the receipt is the proof. Dropping the future does not take it back.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn publish(&self, message: Message) -> Result<Receipt, StoreError> {
        self.begin(message)?.await
    }

    /// Begins to store `message`, like [`Service::publish`]; it goes on whether the receipt is waited for
    /// or not.
    ///
    /// # Errors
    /// [`StoreError::Starting`]; all others come with the receipt.
    pub fn begin(&self, message: Message) -> Result<Put, StoreError> {
        let store = self
            .store()
            .inspect_err(|error| self.puts.count(Err(*error)))?;
        Ok(Put {
            put: store.put(message),
            puts: Arc::clone(&self.puts),
        })
    }

    /// Puts so far, by how they ended. One whose caller went away is not counted.
    #[must_use]
    pub fn puts(&self) -> Vec<(&'static str, u64)> {
        self.puts.read("stored", "known")
    }

    /// Deletes the message with this digest; `None` if there is none. Dropping the future does not take
    /// the deletion back.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delete(&self, digest: &Digest) -> Result<Option<Deleted>, StoreError> {
        let result = match self.store() {
            Ok(store) => store.delete(digest).await,
            Err(error) => Err(error),
        };
        self.deletions
            .count(result.map(|deleted| deleted.is_some()));
        result
    }

    /// Deletions so far, by how they ended. One whose caller went away is not counted.
    #[must_use]
    pub fn deletions(&self) -> Vec<(&'static str, u64)> {
        let mut outcomes = self.deletions.read("deleted", "unknown");
        // No deletion ends so.
        let of_puts = [
            StoreError::TooLarge,
            StoreError::PrefixTaken,
            StoreError::Damaged,
        ]
        .map(StoreError::name);
        outcomes.retain(|(name, _)| !of_puts.contains(name));
        outcomes
    }

    /// The message with this digest. Blocks for microseconds, see [`Store::get`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn fetch(&self, digest: &Digest) -> Result<Option<Message>, StoreError> {
        self.store()?.get(digest)
    }

    /// Whether there is a message with this digest.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn holds(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.store()?.holds(digest)
    }

    /// What a message survives once it is published.
    ///
    /// # Errors
    /// [`StoreError::Starting`].
    pub fn durability(&self) -> Result<Durability, StoreError> {
        Ok(self.store()?.durability())
    }

    /// The messages behind `after` in the order of their digests. Blocks, see [`Store::page`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn page(&self, after: Option<&Digest>, messages_max: usize) -> Result<Page, StoreError> {
        self.store()?.page(after, messages_max)
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
        not_ready(format!("{}{colon}{stage}", StoreError::Starting))
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

    fn store(&self) -> Result<&Arc<dyn Store>, StoreError> {
        self.store.get().ok_or(StoreError::Starting)
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

    #[test]
    fn an_error_is_the_index_of_itself() {
        let indices = StoreError::ALL.map(|error| error as usize);
        assert!(indices.into_iter().eq(0..StoreError::ALL.len()));
    }

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
        assert_eq!(service.fetch(&Digest::of(b"")), Err(StoreError::Starting));
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
        for fault in [StoreError::Failed, StoreError::Full] {
            store.set_fault(Some(Fault::Puts(fault)));
            let refused = service.publish(Message::new("foo")).await.unwrap_err();
            assert_eq!(refused, fault);
        }
    }

    #[tokio::test]
    async fn work_on_many_bytes_gives_the_same_result_as_on_few() {
        assert_eq!(offload(INLINE_BYTES_MAX, || 7).await, 7);
        assert_eq!(offload(INLINE_BYTES_MAX + 1, || 7).await, 7);
    }
}
