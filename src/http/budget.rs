//! Memory that all connections share, counted in bytes.
//!
//! **Invariant:** what is set aside for bytes is given back when the last of them is dropped, wherever they
//! went: into the queue of the store, into the buffers of HTTP/2 (see [`covered`]).

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes of which parts can be set aside.
#[derive(Debug)]
pub(super) struct ByteBudget {
    free: Arc<Semaphore>,
    bytes_max: usize,
}

/// A part of a [`ByteBudget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation(OwnedSemaphorePermit);

/// There is no room at the moment; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

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
        permit.ok().map(Reservation)
    }
}

impl Reservation {
    /// Its size.
    pub(super) fn bytes(&self) -> usize {
        self.0.num_permits()
    }

    /// Gives back all but `bytes` bytes of it, if it is larger.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let rest = self.bytes().saturating_sub(bytes);
        drop(self.0.split(rest));
    }
}

/// The same bytes, with `cover` kept until the last slice of them is dropped. Costs an allocation.
pub(super) fn covered(bytes: Bytes, cover: impl Send + 'static) -> Bytes {
    struct Covered<C> {
        bytes: Bytes,
        _cover: C,
    }
    impl<C> AsRef<[u8]> for Covered<C> {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Bytes::from_owner(Covered {
        bytes,
        _cover: cover,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_comes_back_with_the_last_slice_of_what_it_covers() {
        let budget = ByteBudget::new(10);
        let whole = covered(Bytes::from_static(b"0123456789"), budget.reserve(10));
        let slice = whole.slice(4..5);
        drop(whole);
        assert!(budget.reserve(1).is_none());
        drop(slice);
        assert!(budget.reserve(10).is_some());
    }

    #[test]
    fn a_part_can_be_given_back_and_never_more_than_there_is() {
        let budget = ByteBudget::new(10);
        let mut reservation = budget.reserve(10).unwrap();
        reservation.shrink_to(4);
        assert_eq!(reservation.bytes(), 4);
        let other = budget.reserve(6).unwrap();
        reservation.shrink_to(7);
        assert_eq!(reservation.bytes(), 4);
        assert!(budget.reserve(1).is_none());
        drop((reservation, other));
        assert!(budget.reserve(10).is_some());
    }
}
