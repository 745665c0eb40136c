//! Memory that all connections share, counted in bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes of which parts can be set aside.
#[derive(Debug)]
pub(super) struct ByteBudget {
    free: Arc<Semaphore>,
    bytes_max: usize,
}

/// A part of a [`ByteBudget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    _permit: OwnedSemaphorePermit,
    bytes: usize,
}

impl ByteBudget {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
        }
    }

    /// All of it, in bytes.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Sets aside `bytes` bytes; never waits. `None` if fewer are free.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let permits = u32::try_from(bytes).ok()?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(permits);
        Some(Reservation {
            _permit: permit.ok()?,
            bytes,
        })
    }
}

impl Reservation {
    /// Its size.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
