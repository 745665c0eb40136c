//! Where requests wait for room: so many at once, of which one client and one connection have a part.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Budget, NoRoom, Requester, Reservation};
use crate::http::ending::EndSignal;

/// Requests that wait at once, for whatever room; half of them of one client, as many as it may have
/// connections by default.
pub(super) const WAITING_MAX: usize = 512;

/// What may come over HTTP/2 for a request that is not read: the window of its stream, and a frame that was
/// taken from it.
pub(super) const UNREAD_BYTES: usize = (64 << 10) + (16 << 10);

/// Where requests wait.
#[derive(Debug)]
pub(in crate::http) struct Waits {
    slots: Budget,
    /// What comes meanwhile is counted here.
    unread: Budget,
    pub(super) patience: Duration,
}

/// Slots for the requests of an HTTP/2 connection that wait. What they do not read must leave others some of
/// what the client may send ahead.
#[derive(Debug)]
pub struct WaitsOfConnection(Arc<Semaphore>);

impl WaitsOfConnection {
    /// So many.
    #[must_use]
    pub fn new(number: usize) -> Self {
        Self(Arc::new(Semaphore::new(number)))
    }
}

/// A request that waits.
#[derive(Debug)]
pub(in crate::http) struct Wait {
    _slot: Reservation,
    _unread: Option<(OwnedSemaphorePermit, Reservation)>,
    told: Arc<EndSignal>,
}

impl Waits {
    /// For up to `patience` each; what HTTP/2 reads ahead meanwhile is counted in `unread`.
    pub(in crate::http) fn new(unread: &Budget, patience: Duration) -> Self {
        Self {
            slots: Budget::new(WAITING_MAX),
            unread: unread.clone(),
            patience,
        }
    }

    /// Lets one more request wait until what is returned is dropped.
    pub(in crate::http) fn enter(&self, requester: &Requester) -> Result<Wait, NoRoom> {
        let told = Arc::<EndSignal>::default();
        let of_connection = requester.h2.as_ref().map(|connection| {
            let slot = Arc::clone(&connection.0).try_acquire_owned();
            let unread = self.unread.reserve(requester.client, UNREAD_BYTES)?;
            Ok((slot.map_err(|_| NoRoom)?, unread))
        });
        let unread = of_connection.transpose()?;
        let ending = Arc::clone(&told) as _;
        Ok(Wait {
            _slot: self.slots.begin_at_once(requester.client, 1, ending)?,
            _unread: unread,
            told,
        })
    }
}

impl Wait {
    /// Waits for `ready`, unless others need the place.
    pub(in crate::http) async fn until<T>(
        &self,
        ready: impl Future<Output = T>,
    ) -> Result<T, NoRoom> {
        tokio::select! {
            biased;
            ready = ready => Ok(ready),
            () = self.told.ended() => Err(NoRoom),
        }
    }
}
