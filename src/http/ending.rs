//! How a request is ended to make room for others.

use std::fmt::Debug;
use std::sync::Arc;

use tokio::sync::Notify;

/// What can be ended.
pub trait End: Debug + Send + Sync {
    /// Ends it soon; may be called more than once.
    fn end(&self);
}

/// The same, shared with what is ended.
pub type Ending = Arc<dyn End>;

/// Tells what runs that it is to end.
#[derive(Debug, Default)]
pub struct EndSignal(Notify);

impl EndSignal {
    /// Waits until it is to end. Only one task may wait.
    pub async fn ended(&self) {
        self.0.notified().await;
    }
}

impl End for EndSignal {
    fn end(&self) {
        self.0.notify_one();
    }
}
