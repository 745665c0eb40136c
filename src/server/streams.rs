//! The streams of an HTTP/2 connection, of which each can be ended by itself.
//!
//! hyper has no way to end a single request. It hands each one to an executor, and resets the stream when its
//! future is dropped; so the executor here drops it when it is told.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::rt::Executor;

use crate::http::EndSignal;

/// Runs the requests of one connection, each in a task.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamExecutor {
    /// Of the request that was begun and is not running yet: hyper calls the service and the executor in turns.
    next: Arc<Mutex<Option<Arc<EndSignal>>>>,
}

impl StreamExecutor {
    /// Begins a request; what is returned ends what is executed next.
    pub(super) fn begin(&self) -> Arc<EndSignal> {
        let signal = Arc::new(EndSignal::default());
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&signal));
        signal
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, request: F) {
        let signal = self
            .next
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let signal = signal.unwrap_or_default();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = request => {}
                () = signal.ended() => {}
            }
        });
    }
}
