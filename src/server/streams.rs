//! The streams of an HTTP/2 connection, of which each can be ended by itself.
//!
//! hyper has no way to end a single request. It hands each one to an executor, and resets the stream when its
//! future is dropped; so the executor here drops it when it is told.
//!
//! **Invariant:** a request has taken its room, or was refused, before the next one of its connection begins. Heads
//! of requests that only wait to run would be counted by nobody, and a connection brings many at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

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
        let mut request = Box::pin(async move {
            tokio::select! {
                biased;
                _ = request => {}
                () = signal.ended() => {}
            }
        });
        // Nobody is woken, since the task begins by polling again.
        let mut context = Context::from_waker(Waker::noop());
        let first = AssertUnwindSafe(|| request.as_mut().poll(&mut context));
        // A panic ends its request, as in a task.
        if matches!(catch_unwind(first), Ok(step) if step.is_pending()) {
            tokio::spawn(request);
        }
    }
}
